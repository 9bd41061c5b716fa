"""MeVa against closed forms: naive learning, LOLA's surrogate, a quadratic game, symmetry."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array

from shaping_bench.algorithms.core import Access, View, costs
from shaping_bench.algorithms.lola import LOLA, LOLAExact
from shaping_bench.algorithms.meva import MeVa, lambda_returns, own_slopes, quantile_huber
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.parts.networks import orthogonal
from shaping_bench.games.differentiable import ScalarGame
from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.run.encounter import run_encounter
from shaping_bench.run.preparation import Preparation
from shaping_bench.spec.registry import Named, check_encounter, make_game, make_learner

IPD, IMP = (make_game(name).value for name in ("ipd", "imp"))
SMALL = {"hidden": 8, "quantiles": 4, "batch_size": 6, "inner_steps": 6, "stride": 3, "outer_steps": 2}
BATCH = 5


def weights(rule, game, seed=0, spread=0.3):
    """Weights of the meta-values' network, all of them at random."""
    shapes = jax.eval_shape(lambda: rule.prepare_init(jax.random.key(0), game, 0))["weights"]
    draws = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(spread * draws.normal(size=a.shape), float), shapes)


def setting(game, seed=1, batch=BATCH):
    draws = np.random.default_rng(seed)
    x = jnp.asarray(draws.normal(size=(2, batch, game.sizes[0])), float)
    return x, jnp.asarray(draws.uniform(size=(2, batch)), float)


def directions(game, rules, x):
    """What learners without preparation do at each of the joint policies, by seat ``(2, B, d)``."""

    def one(pair):
        params = tuple(tuple(row) for row in pair)
        views = [View(game, params, i, Access.GRADIENTS) for i in range(2)]
        return jnp.stack([jnp.stack(list(rule.direction(view))) for rule, view in zip(rules, views, strict=True)])

    return jax.jit(jax.vmap(one, in_axes=1, out_axes=1))(x)


# --- the rule -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "player"), [("ipd", 0), ("imp", 1), ("logistic", 1)])
def test_without_a_future_it_is_naive_learning_whatever_the_network(name, player):
    game = make_game(name).value
    rule = MeVa(gamma_eval=0.0, **SMALL)
    (x, _), artifact = setting(game), weights(rule, game)

    @jax.jit
    def both(params, artifact):
        view = View(game, params, player, Access.GRADIENTS, artifact=artifact)
        return rule.direction(view), Naive(lr=1.0).direction(view)

    np.testing.assert_array_equal(*both(tuple(tuple(row[0]) for row in x), artifact))


@pytest.mark.parametrize("form", ["u", "v"])
@pytest.mark.parametrize(("name", "player"), [("ipd", 1), ("imp", 1)])
def test_what_is_played_is_the_update_that_was_imagined(name, player, form):
    """At its own seat, a player moves as the first row does in the preparation; in a symmetric game
    it was prepared for the first seat."""
    game = make_game(name).value
    rule = MeVa(against="lola", form=form, gamma_eval=0.6, lr=0.3, **SMALL)
    (x, _), artifact = setting(game), weights(rule, game)

    @jax.jit
    def both(x, artifact):
        imagined = rule.moved(game, rule.prepared_seat(game, player), artifact, x, jnp.full((2, BATCH), 0.6))
        params = tuple(tuple(row[2]) for row in (x if player == 0 else x[::-1]))
        view = View(game, params, player, Access.GRADIENTS, artifact=artifact)
        return jnp.stack(rule.update(jax.random.key(0), (), view)[0]), imagined[0, 2]

    np.testing.assert_allclose(*both(x, artifact), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("against", "opponent"), [("naive", Naive(lr=0.3)), ("lola", LOLA(lr=0.3, lookahead_lr=0.3))])
@pytest.mark.parametrize("raw", [False, True])
def test_an_opponent_that_is_no_meta_learner_moves_by_its_own_rule(against, opponent, raw):
    rule = MeVa(against=against, lr=0.3, **SMALL)
    x, gamma = setting(IMP)
    seated = x[::-1]  # the learner sits second, so its opponent first
    expected = seated[0] + 0.3 * directions(IMP, [opponent, opponent], seated)[0]
    move = jax.jit(lambda w: rule.moved(IMP, 1, w, x, gamma, raw=raw))
    for seed in range(2):
        moved = move(weights(rule, IMP, seed))
        np.testing.assert_allclose(moved[1], expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("led", [1, 2])
def test_own_slopes_are_the_diagonal_blocks_of_two_backward_passes(led):
    rule = MeVa(against="self" if led == 2 else "naive", **SMALL)
    network, w = rule.network(IPD), weights(rule, IPD)
    x, gamma = setting(IPD)
    slopes = jax.jit(lambda *signs: own_slopes(network, w, x, gamma, led, *signs))

    def one(own, i):
        return jnp.sum(jnp.mean(network.apply(w, x.at[i].set(own), gamma), axis=-1)[i])

    found = slopes()
    for i in range(led):
        np.testing.assert_allclose(found[i], jax.jit(jax.grad(one), static_argnums=1)(x[i], i), rtol=1e-4, atol=1e-6)
    signs = jnp.ones((led, BATCH, 8))
    flipped = slopes(signs.at[0, 0].set(-1.0))
    np.testing.assert_allclose(slopes(signs), found, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(flipped[0, 0], -found[0, 0], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(flipped[0, 1:], found[0, 1:], rtol=1e-5, atol=1e-7)


# --- the network --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "equivariant"), [("ipd", True), ("logistic", True), ("imp", False)])
def test_exchanging_the_players_exchanges_the_outputs_unless_the_game_is_lopsided(name, equivariant):
    game = make_game(name).value
    rule = MeVa(against="self", residual_blocks=1, **SMALL)
    network, w = jax.jit(rule.network(game).apply), weights(rule, game)
    x, gamma = setting(game)
    out, exchanged = network(w, x, gamma), network(w, x[::-1], gamma[::-1])
    assert np.allclose(exchanged, out[::-1], rtol=1e-5, atol=1e-6) == equivariant
    assert not np.allclose(out[0], out[1], atol=1e-3)


@pytest.mark.parametrize(
    ("text", "game", "parameters"),
    [
        ("meva", "ipd", 108_608),
        ("meva(against=naive)", "ipd", 109_632),
        ("meva", "imp", 109_632),
        ("meva", "logistic", 34_576),
    ],
)
def test_networks_have_as_many_weights_as_the_official_ones(text, game, parameters):
    rule, made = make_learner(text, game=game).value, make_game(game).value
    shapes = jax.eval_shape(lambda: rule.prepare_init(jax.random.key(0), made, 0))["weights"]
    assert sum(x.size for x in jax.tree.leaves(shapes)) == parameters


@pytest.mark.parametrize("shape", [(24, 24), (48, 24), (24, 48)])
def test_kernels_start_orthogonal(shape):
    kernel = jax.jit(functools.partial(orthogonal, shape=shape))(jax.random.key(3))
    n = min(shape)
    gram = kernel @ kernel.T if shape[0] < shape[1] else kernel.T @ kernel
    np.testing.assert_allclose(gram, np.eye(n), atol=1e-5)


# --- targets and loss ---------------------------------------------------------------------


def test_lambda_returns_are_between_one_step_and_the_whole_path():
    draws = np.random.default_rng(0)
    n, q = 4, 3
    r, later = draws.normal(size=(n, 2, BATCH)), draws.normal(size=(n, 2, BATCH, q))
    gamma = draws.uniform(size=(2, BATCH))
    g = gamma[..., None]
    whole, one = (np.asarray(lambda_returns(r, later, gamma, lam)) for lam in (1.0, 0.0))
    np.testing.assert_allclose(one, (1 - g) * r[..., None] + g * later, rtol=1e-5, atol=1e-6)
    bootstrapped = sum((1 - g) * g**k * r[k, ..., None] for k in range(n)) + g**n * later[-1]
    np.testing.assert_allclose(whole[0], bootstrapped, rtol=1e-5, atol=1e-6)
    # Weights of the k-step returns: (1 - lambda) lambda^(k-1), the rest on the longest.
    lam = 0.7
    partial = [sum((1 - g) * g**k * r[k, ..., None] for k in range(m)) + g**m * later[m - 1] for m in range(1, n + 1)]
    share = [(1 - lam) * lam**k for k in range(n - 1)] + [lam ** (n - 1)]
    expected = sum(s * x for s, x in zip(share, partial, strict=True))
    np.testing.assert_allclose(lambda_returns(r, later, gamma, lam)[0], expected, rtol=1e-5, atol=1e-6)
    constant = lambda_returns(jnp.full((n, 2, BATCH), 1.5), jnp.full((n, 2, BATCH, q), 1.5), gamma, lam)
    np.testing.assert_allclose(constant, 1.5, rtol=1e-6)


def test_the_quantile_loss_and_its_derivative_are_the_sums_over_pairs():
    draws = np.random.default_rng(1)
    predicted, target = draws.normal(size=(3, 4)), 2.0 * draws.normal(size=(3, 11))

    def by_hand(predicted):
        tau = (jnp.arange(4) + 0.5)[:, None] / 4
        u = target[:, None, :] - predicted[:, :, None]
        pairs = jnp.abs(tau - (u < 0)) * optax.huber_loss(u)
        return pairs.mean(axis=-1).sum(axis=-1)

    np.testing.assert_allclose(quantile_huber(predicted, target), by_hand(predicted), rtol=1e-5)
    slopes = [jax.grad(lambda p, f=f: jnp.sum(f(p)))(predicted) for f in (lambda p: quantile_huber(p, target), by_hand)]
    np.testing.assert_allclose(*slopes, rtol=1e-5, atol=1e-6)


def test_quantiles_of_a_sample_minimise_the_loss():
    sample = jnp.asarray(np.random.default_rng(2).normal(size=(1, 400)) * 50.0)
    predicted = jnp.zeros((1, 4))
    descend = jax.jit(
        lambda p: jax.lax.fori_loop(
            0, 3000, lambda _, p: p - 5.0 * jax.grad(lambda p: jnp.sum(quantile_huber(p, sample)))(p), p
        )
    )
    np.testing.assert_allclose(
        descend(predicted)[0], np.quantile(np.asarray(sample), [0.125, 0.375, 0.625, 0.875]), atol=1.5
    )


@pytest.mark.parametrize("form", ["u", "v"])
def test_neither_targets_nor_paths_are_differentiated(form):
    rule = MeVa(form=form, against="naive", **SMALL)
    online, target = weights(rule, IPD, 0), weights(rule, IPD, 1)
    x, gamma = setting(IPD)
    path = x + jnp.asarray(np.random.default_rng(3).normal(size=(4, *x.shape)), float)
    returns = path.sum(axis=-1)
    slopes = jax.jit(jax.grad(lambda *a: rule.loss(IPD, *a, gamma)[0], argnums=(0, 1, 2, 3)))(
        online, target, path, returns
    )
    assert max(np.abs(s).max() for s in jax.tree.leaves(slopes[0])) > 0.0
    assert all(np.all(np.asarray(s) == 0.0) for s in jax.tree.leaves(slopes[1:]))


def test_returns_are_per_step_and_own_first():
    x, _ = setting(IMP)
    x = jnp.stack([x, 2.0 * x])
    got = jax.jit(lambda x: MeVa(**SMALL).returns(IMP, 1, x))(x)
    assert got.shape == (2, 2, BATCH)
    for t, b in ((0, 0), (1, 3)):
        expected = [IMP.per_step * IMP.value((x[t, 1, b], x[t, 0, b]), i) for i in (1, 0)]
        np.testing.assert_allclose(got[t, :, b], expected, rtol=1e-5, atol=1e-6)


# --- what it is beside other rules ----------------------------------------------------------


@pytest.mark.parametrize("name", ["ipd", "logistic"])
def test_the_first_target_is_the_surrogate_of_lola_once_the_own_step_is_negligible(name):
    """From U = 0 the target is (1 - gamma) f(x') with an own step that carries 1 - gamma too: divided by
    1 - gamma it tends to f_i(x_i, x_-i + alpha grad_-i f_-i), which exact LOLA ascends, as gamma tends to 1."""
    game = make_game(name).value
    with jax.enable_x64(True):
        rule = MeVa(against="naive", lr=0.8, td_lambda=0.0, **{**SMALL, "stride": 1})
        zero = jax.tree.map(lambda a: 0.0 * a, weights(rule, game))
        x, _ = setting(game)
        gamma = jnp.full((2, BATCH), 1.0 - 1e-7)

        @jax.jit
        def surrogate(own):
            path = rule.path(game, 0, zero, jnp.stack([own, x[1]]), gamma)
            goal = rule.targets(game, zero, path, rule.returns(game, 0, path), gamma)
            return jnp.mean(goal[0, 0], axis=-1) / (1.0 - gamma[0])

        lola = game.per_step * directions(game, [LOLAExact(lr=1.0, lookahead_lr=0.8)] * 2, x)[0]
        h = 1e-5
        for k in range(game.sizes[0]):
            ahead, behind = (surrogate(x[0].at[:, k].add(s * h)) for s in (1, -1))
            np.testing.assert_allclose((ahead - behind) / (2 * h), lola[:, k], rtol=2e-4, atol=2e-6)


# --- temporal differences against a closed form ----------------------------------------------


@pytree_dataclass
class Quadratic(ScalarGame):
    """``f_i = -x' Q_i x / 2`` with ``Q_1 = [[1, .8], [.8, .5]]`` and ``Q_2 = [[.5, -.3], [-.3, 1]]``."""

    init_mean: float = field(0.0, "mean")
    init_std: float = field(1.0, "standard deviation")

    def payoff(self, x: Array, y: Array) -> tuple[Array, Array]:
        first = -0.5 * (x * x + 1.6 * x * y + 0.5 * y * y)
        return first, -0.5 * (0.5 * x * x - 0.6 * x * y + y * y)


class QuadraticValue(nn.Module):
    """``V_i = -(a own^2 + 2 b own other + c other^2) / 2`` with weights per player."""

    def setup(self) -> None:
        self.p = self.param("p", nn.initializers.zeros, (2, 3), jnp.result_type(float))

    def features(self, x, gamma, rows):
        return x

    def heads(self, own, other, signs=None):
        a, b, c = (self.p[: len(own), k, None, None] for k in range(3))
        return -0.5 * (a * own * own + 2.0 * b * own * other + c * other * other)

    def __call__(self, x, gamma):
        return self.heads(x, x[::-1])


@pytree_dataclass
class QuadraticMeVa(MeVa):
    """MeVa whose meta-values are quadratic."""

    def network(self, game):
        return QuadraticValue()


@pytest.mark.parametrize("form", ["u", "v"])
@pytest.mark.parametrize(
    ("gamma", "first", "second"),
    [
        (0.5, (0.6777356545, 0.4507145001, 0.2557289178), (0.3084819881, -0.1909661557, 0.6841778222)),
        (0.9, (0.3097260019, 0.1724138797, 0.0823157198), (0.1275801494, -0.0801093448, 0.3109504753)),
    ],
)
def test_temporal_differences_find_the_meta_value_of_a_quadratic_game(form, gamma, first, second):
    """``P_i = (1 - gamma) Q_i + gamma M' P_i M`` with the map M of one joint update."""
    game = Quadratic()
    with jax.enable_x64(True):
        rule = QuadraticMeVa(
            lr=0.5, form=form, gamma_eval=gamma, vary_gamma=False, explore="none", hidden=1, quantiles=1,
            batch_size=16, inner_steps=5, stride=5, outer_steps=10000, target_rate=0.5, learning_rate=0.002,
            weight_decay=0.0, start_range=1.5,
        )  # fmt: skip
        key = jax.random.key(0)

        def step(k, carry):
            return rule.prepare_step(jax.random.fold_in(key, k), k, carry, game, 0)[0]

        carry = jax.jit(lambda: jax.lax.fori_loop(0, 10_000, step, rule.prepare_init(key, game, 0)))()
        found = np.asarray(rule.artifact(carry)["params"]["p"])
        if form == "u":  # V = (1 - gamma) f + gamma U
            found = (1 - gamma) * np.array([[1.0, 0.8, 0.5], [1.0, -0.3, 0.5]]) + gamma * found
        np.testing.assert_allclose(found, [first, second[::-1]], atol=1e-3)


# --- the preparation ------------------------------------------------------------------------


@functools.cache
def walked(game_name, text, steps, player=0):
    game, rule = make_game(game_name).value, dataclasses.replace(make_learner(text).value, **SMALL)
    key = jax.random.key(4)
    step = jax.jit(lambda k, carry: rule.prepare_step(jax.random.fold_in(key, k), k, carry, game, player))
    carry, states = jax.jit(lambda: rule.prepare_init(key, game, player))(), []
    for k in range(steps):
        carry, info = step(jnp.int32(k), carry)
        states.append((carry, info))
    return rule, states


WALK = "meva(lr=0.5,against=naive)"


def test_paths_start_anew_after_the_inner_steps_and_otherwise_go_on():
    rule, states = walked("tandem", WALK, 3)
    assert rule.preparation_steps == 4  # 2 sets of policies, 2 strides each
    (first, _), (second, _), (third, _) = states
    for name in ("signs", "gamma"):
        np.testing.assert_array_equal(first[name], second[name])
        assert not np.array_equal(second[name], third[name])
    assert set(np.unique(second["signs"])) <= {-1.0, 1.0}


def test_exploring_follows_the_raw_network_with_its_signs():
    rule, states = walked("tandem", WALK, 2)
    (first, _), (second, _) = states
    game, x, w = make_game("tandem").value, first["x"], first["weights"]

    @jax.jit
    def explore(x):
        slopes = own_slopes(rule.network(game), w, x, second["gamma"], 1, second["signs"][:1])
        return x + 0.5 * jnp.concatenate([slopes, 2.0 - 2.0 * jnp.sum(x, axis=0, keepdims=True)])

    for _ in range(rule.stride):
        x = explore(x)
    np.testing.assert_allclose(second["x"], x, rtol=1e-4, atol=1e-5)


def test_the_target_network_follows_the_online_one():
    _, states = walked("tandem", WALK, 2)
    (first, _), (second, _) = states
    expected = jax.tree.map(lambda a, b: 0.99 * a + 0.01 * b, first["target"], second["weights"])
    for got, want in zip(jax.tree.leaves(second["target"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def test_discounts_follow_the_arcsine_law():
    rule = MeVa(batch_size=20_000)
    gamma = np.asarray(rule._discounts(jax.random.key(0)))
    assert abs(gamma.mean() - 0.5) < 0.01
    assert abs(gamma.var() - 0.125) < 0.003
    fixed = dataclasses.replace(rule, vary_gamma=False)
    np.testing.assert_array_equal(fixed._discounts(jax.random.key(0)), np.float32(0.95))


@pytest.mark.parametrize(("text", "game"), [("meva", "imp"), ("meva(against=lola,form=v,explore=raw)", "tandem")])
def test_steps_of_the_preparation_are_finite(text, game):
    _, states = walked(game, text, 2, player=1)
    carry, info = states[-1]
    assert set(info) == {"loss", "td_error", "own_return", "other_return"}
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((carry, info)))


def test_a_step_is_charged_for_every_exact_quantity_of_its_imagined_paths():
    rule = MeVa(against="naive", **SMALL)
    with costs.counting() as count:
        jax.eval_shape(
            lambda: rule.prepare_step(jax.random.key(0), 0, rule.prepare_init(jax.random.key(0), IPD, 0), IPD, 0)
        )
    batch, stride = 6, 3
    explored, followed, valued = batch * stride, 2 * batch * stride, 2 * batch * (stride + 1)
    assert count.evaluations == explored + followed + valued
    assert count.steps == 0


def test_it_says_what_it_cannot_play():
    with pytest.raises(ValueError, match="defined for 2 players"):
        check_encounter(make_game("public-goods"), [make_learner("meva")] * 3)
    with pytest.raises(ValueError, match="no multiple of its stride"):
        check_encounter(make_game("ipd"), [make_learner("meva(inner_steps=25)")] * 2)


def test_published_settings_of_the_games():
    assert make_learner("meva", game="chicken").value.lr == pytest.approx(1.0 * (1 - 0.96))
    assert make_learner("meva", game="ipd").value.lr == pytest.approx(25 * (1 - 0.96))
    logistic = make_learner("meva", game="logistic").value
    assert (logistic.form, logistic.preparation_steps) == ("v", 5001)
    assert make_learner("meva", game="ipd").value.preparation_steps == 10010


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_encounters_share_preparations_among_seats_and_seeds(precision):
    rule = MeVa(**SMALL)
    preparation = Preparation(Named(name="meva", hyperparameters={}, value=rule), make_game("ipd"), 0, 2, 0, precision)
    assert preparation.steps == 4
    with jax.enable_x64(precision == "float64"):
        artifacts = jax.tree.map(lambda *x: np.stack(x), weights(rule, IPD, 0), weights(rule, IPD, 1))
    outcome = run_encounter(
        IPD, [rule, rule], num_seeds=4, num_updates=2, precision=precision, artifacts=[artifacts, artifacts]
    )
    assert outcome.params[0].dtype == precision
    assert not outcome.diverged.any()
