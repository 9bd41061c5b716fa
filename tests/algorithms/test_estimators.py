"""Estimators against the exact game: by enumerating every trajectory, and by Monte Carlo.

An exact batch holds every trajectory of a short game once, weighted by its probability
under the policies (a constant to the derivatives): what an estimator gives on it is its
expectation. The reference is the truncated value by dynamic programming on the exact
view's Markov chain, which shares nothing with the estimators.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shaping_bench.algorithms.core import Access, Play, View, rollouts
from shaping_bench.algorithms.core.policy import Tabular
from shaping_bench.algorithms.core.rollouts import Trajectory
from shaping_bench.algorithms.parts import estimators
from shaping_bench.games import make

B = ((0.5, -0.3, 0.8, -1.2, 0.1), (-0.7, 0.4, -0.2, 1.1, -0.9))
"""Test point: logits [start, CC, CD, DC, DD] of both players, own action first."""


def policies(values):
    return tuple(jnp.asarray(theta, jnp.result_type(float)) for theta in values)


def truncated_value(game, params, player, steps):
    """``sum_{t<steps} gamma^t s0' P^t r``: the finite-horizon value by dynamic programming."""
    chain = jnp.stack([jnp.stack([*row, 1.0 - sum(row)]) for row in game.chain(params)])
    rewards = jnp.asarray(game.payoffs[player])
    onward = jnp.zeros_like(rewards)
    for _ in range(steps - 1):
        onward = game.gamma * chain[1:] @ (rewards + onward)
    return chain[0] @ (rewards + onward)


def log_probs_of(game, params, trajectory):
    """Log-probabilities of everybody's actions, ``[T, B, n_players]``."""
    tables = [Tabular(size) for size in game.sizes]
    each = [Play(game, trajectory, i).log_probs(tables[i], theta) for i, theta in enumerate(params)]
    return jnp.stack(each, axis=-1)


def seen_by(game, trajectory, player):
    """States before each step as a player reads them, ``[T, B]``."""
    return rollouts.observations(game, trajectory, player)[:-1]


def replay(game, actions):
    """Plays given actions ``[T, B, n]`` through the sampled view."""

    def episode(actions):
        def step(state, actions):
            _, after, rewards, _, info = game.step(jax.random.key(0), state, actions)
            return after, (state, actions, rewards, info)

        last, (before, *rest) = jax.lax.scan(step, game.reset(jax.random.key(0))[1], actions)
        return Trajectory(jax.tree.map(lambda x, end: jnp.concatenate([x, end[None]]), before, last), *rest)

    return jax.jit(jax.vmap(episode, in_axes=1, out_axes=1))(jnp.asarray(actions, jnp.int32))


def every_trajectory(game, steps):
    """All ``(2**n)**T`` sequences of joint actions."""
    joint = list(itertools.product((0, 1), repeat=game.n_players))
    return replay(game, np.array(list(itertools.product(joint, repeat=steps))).swapaxes(0, 1))


def probabilities(game, params, trajectory):
    """Probability of each trajectory, ``[B]``, constant to the derivatives."""
    return jax.lax.stop_gradient(jnp.exp(log_probs_of(game, params, trajectory).sum((0, -1))))


def state_means(game, trajectory, weights, x):
    """Mean of ``x`` ``[T, B]`` given the time and the joint state: the perfect state baseline."""
    states = jax.nn.one_hot(seen_by(game, trajectory, 0), game.sizes[0], dtype=x.dtype)
    mass = jnp.einsum("b,tbs->ts", weights, states)
    total = jnp.einsum("b,tb,tbs->ts", weights, x, states)
    return jnp.einsum("ts,tbs->tb", total / jnp.where(mass > 0, mass, 1.0), states)


def score(log_probs, rewards, gamma, player, baselines=None):
    returns = estimators.discounted_returns(rewards, gamma)
    return estimators.score_function(log_probs[..., player], returns, gamma, baselines)


def loaded(log_probs, rewards, gamma, values=None, lam=1.0):
    values = jnp.zeros_like(rewards) if values is None else values
    advantages = estimators.gae(rewards, values, jnp.zeros_like(rewards[0]), gamma, lam)
    return estimators.loaded_dice(log_probs, advantages, gamma)


def exactly(got, expected, atol=1e-12):
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=0, atol=atol)


# --- by enumeration -----------------------------------------------------------------------


def derivatives(function):
    """Value, gradient and hessian of a function of the joint params, in one compiled program."""
    gradient = jax.jacrev(function)
    return jax.jit(lambda params: (function(params), gradient(params), jax.jacfwd(gradient)(params)))


class Enumerated:
    """The exact batch of a short game, and the truncated value that it must reproduce."""

    def __init__(self, game, params, steps, player):
        self.game, self.params, self.steps, self.player = game, params, steps, player
        self.trajectory = every_trajectory(game, steps)
        self.rewards = self.trajectory.rewards[..., player]
        self.weights = probabilities(game, params, self.trajectory)
        self.returns = estimators.discounted_returns(self.rewards, game.gamma)
        self.state_values = state_means(game, self.trajectory, self.weights, self.returns)
        self.exact = derivatives(lambda params: truncated_value(game, params, player, steps))(params)

    def expected(self, objectives):
        """Value, gradient, hessian of the expectation of each objective of the log-probs."""

        def expectations(params):
            log_probs = log_probs_of(self.game, params, self.trajectory)
            return {name: self.weights @ objective(log_probs) for name, objective in objectives.items()}

        value, gradient, hessian = derivatives(expectations)(self.params)
        return {name: (value[name], gradient[name], hessian[name]) for name in objectives}

    def dice(self, baselines=None):
        return lambda log_probs: estimators.dice_objective(log_probs, self.rewards, self.game.gamma, baselines)

    def loaded(self, values=None):
        return lambda log_probs: loaded(log_probs, self.rewards, self.game.gamma, values)

    def score(self, player, baselines=None):
        return lambda log_probs: score(log_probs, self.rewards, self.game.gamma, player, baselines)

    def lola_pg(self, i, j, baselines=None):
        gamma = self.game.gamma
        return lambda p: estimators.lola_pg_surrogate(p[..., i], p[..., j], self.rewards, gamma, baselines)


@functools.cache
def ipd_at_b(player):
    """Three steps of the IPD at test point B (called under float64 only)."""
    return Enumerated(make("ipd"), policies(B), 3, player)


@functools.cache
def dice_at_b(player):
    """Derivatives of every form of DiCE, exactly, at test point B."""
    batch = ipd_at_b(player)
    critic = jnp.sin(3.0 * seen_by(batch.game, batch.trajectory, 0)) * 5.0  # far from the values
    return batch.expected(
        {
            "dice": batch.dice(),
            "dice with values": batch.dice(batch.state_values),
            "loaded": batch.loaded(),
            "loaded with values": batch.loaded(batch.state_values),
            "loaded with any critic": batch.loaded(critic),
        }
    )


def same_derivatives(got, expected):
    """Gradients, own and cross second derivatives agree to 1e-12, none of them being zero."""
    for i in range(len(expected[1])):
        exactly(got[1][i], expected[1][i])
        for j in range(len(expected[1])):
            assert np.linalg.norm(expected[2][i][j]) > 0.01
            exactly(got[2][i][j], expected[2][i][j])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("player", [0, 1])
@pytest.mark.parametrize("kind", ["dice", "dice with values", "loaded", "loaded with values", "loaded with any critic"])
def test_dice_has_the_derivatives_of_the_value(kind, player):
    batch, got = ipd_at_b(player), dice_at_b(player)[kind]
    assert batch.trajectory.actions.shape == (3, 64, 2)
    exactly(batch.weights.sum(), 1.0)
    exactly(got[0], 0.0 if kind.startswith("loaded") else batch.exact[0])
    same_derivatives(got, batch.exact)


@pytest.mark.usefixtures("float64")
def test_the_sheets_numbers():
    """Truncated value and cross derivative at test point B, computed by independent code."""
    for value, _, hessian in (ipd_at_b(1).exact, dice_at_b(1)["dice"]):
        assert float(value) == pytest.approx(-4.00685011, abs=5e-9)
        assert np.linalg.norm(hessian[0][1]) == pytest.approx(0.14304296, abs=5e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("player", [0, 1])
def test_first_and_cross_derivatives_of_the_policy_gradient_surrogates(player):
    """And a plain surrogate has no cross derivative: it silently turns LOLA into a naive learner."""
    batch = ipd_at_b(player)
    _, gradient, hessian = batch.exact
    constant = jnp.full_like(batch.rewards, -7.0)
    timed = jnp.array([1.0, -2.0, 3.0])[:, None] + 0.0 * batch.rewards
    got = batch.expected(
        {f"score {i}": batch.score(i) for i in range(2)}
        | {f"score {i} constant": batch.score(i, constant) for i in range(2)}
        | {f"score {i} values": batch.score(i, batch.state_values) for i in range(2)}
        | {"lola": batch.lola_pg(0, 1), "lola timed": batch.lola_pg(0, 1, timed)}
        | {"lola biased": batch.lola_pg(0, 1, batch.state_values)}
        | {"plain": lambda p: batch.score(0)(p) + batch.score(1)(p), "dice alone": lambda p: batch.dice()(p[..., 1:])}
    )
    for i in range(2):
        for kind in (f"score {i}", f"score {i} constant", f"score {i} values", "plain"):
            exactly(got[kind][1][i], gradient[i])
    exactly(got["lola"][2][0][1], hessian[0][1])
    exactly(got["lola timed"][2][0][1], hessian[0][1])
    # A baseline that depends on the state is a bias here, unlike everywhere else.
    assert np.abs(got["lola biased"][2][0][1] - hessian[0][1]).max() > 1e-3
    for nothing in ("plain", "dice alone"):
        assert not np.any(got[nothing][2][0][1])
        assert not np.any(got[nothing][2][1][0])


@pytest.mark.usefixtures("float64")
def test_three_players():
    """Gradients, own and cross derivatives for each pair, in a public-goods game of two steps."""
    game = make("public-goods", gamma=0.8)
    params = policies(np.random.default_rng(0).normal(size=(3, 9)))
    batch = Enumerated(game, params, 2, player=2)
    pairs = {f"{i}{j}": (i, j) for i, j in itertools.combinations(range(3), 2)}
    got = batch.expected(
        {"dice": batch.dice(), "loaded": batch.loaded(batch.state_values)}
        | {name: batch.lola_pg(*pair) for name, pair in pairs.items()}
    )
    exactly(got["dice"][0], batch.exact[0])
    same_derivatives(got["dice"], batch.exact)
    same_derivatives(got["loaded"], batch.exact)
    for name, (i, j) in pairs.items():
        exactly(got[name][2][i][j], batch.exact[2][i][j])


@pytest.mark.usefixtures("float64")
def test_cross_product_is_the_matrix_times_the_vector():
    batch = ipd_at_b(1)
    own, other = batch.params
    vector = jnp.array([0.3, -1.0, 2.0, 0.5, -0.7])

    def surrogate(own, other):
        return batch.weights @ batch.lola_pg(0, 1)(log_probs_of(batch.game, (own, other), batch.trajectory))

    exactly(estimators.cross_product(surrogate, own, other, vector), batch.exact[2][0][1] @ vector)
    # The vector is a constant, even where it is a function of the own parameters.
    held = jax.grad(lambda x: estimators.cross_product(lambda a, b: a @ b, own, other, x * vector).sum())(own)
    assert not np.any(held)


# --- what baselines do --------------------------------------------------------------------


def per_episode(batch, objectives):
    """Gradient by player 2 and cross derivative of each episode's objective, ``[B, ...]``, by name."""

    def function(params):
        log_probs = log_probs_of(batch.game, params, batch.trajectory)
        return {name: objective(log_probs) for name, objective in objectives.items()}

    gradient = jax.jacfwd(function)
    first, second = jax.jit(lambda params: (gradient(params), jax.jacfwd(gradient)(params)))(batch.params)
    return {name: x[1] for name, x in first.items()}, {name: x[0][1] for name, x in second.items()}


def total_variance(weights, samples):
    """Trace of the covariance of weighted ``samples`` ``[B, ...]``."""
    weights, samples = np.asarray(weights), np.asarray(samples).reshape(len(samples), -1)
    mean = weights @ samples
    return float(weights @ np.sum((samples - mean) ** 2, axis=1))


@pytest.mark.usefixtures("float64")
def test_state_values_as_baselines_lower_the_variance():
    batch = ipd_at_b(1)
    values = batch.state_values
    mean_reward = jnp.einsum("b,tb->t", batch.weights, batch.rewards)[:, None] + 0.0 * batch.rewards
    samples = per_episode(
        batch,
        {
            "score": batch.score(1),
            "score with values": batch.score(1, values),
            "dice": batch.dice(),
            "dice with values": batch.dice(values),
            "loaded with values": batch.loaded(values),
            "lola-pg": batch.lola_pg(0, 1),
            "lola-pg with the mean reward": batch.lola_pg(0, 1, mean_reward),
        },
    )
    gradient, cross = ({kind: total_variance(batch.weights, x) for kind, x in order.items()} for order in samples)

    assert gradient["dice"] == pytest.approx(gradient["score"], rel=1e-9)
    for kind in ("score with values", "dice with values", "loaded with values"):
        assert gradient[kind] < 0.3 * gradient["score"]
    # Second order: DiCE's own baseline helps less than Loaded DiCE's critic; for eq. 4.6,
    # which is DiCE's cross derivative, the mean reward is as good.
    assert cross["lola-pg"] == pytest.approx(cross["dice"], rel=1e-9)
    assert cross["dice with values"] < 0.6 * cross["dice"]
    assert cross["loaded with values"] < 0.3 * cross["dice"]
    assert cross["lola-pg with the mean reward"] < 0.3 * cross["dice"]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["score", "lola-pg"])
def test_leave_one_out_is_unbiased_and_lowers_the_variance(kind):
    """Exactly: all 64 x 64 batches of two episodes, each with its probability."""
    batch = ipd_at_b(1)
    first, second = (x.reshape(-1) for x in np.meshgrid(np.arange(64), np.arange(64), indexing="ij"))
    weights = np.asarray(batch.weights[first] * batch.weights[second])
    pairs = np.stack([first, second], axis=1)

    # With a derivative per episode and unit of coefficient, a batch's estimate is bilinear.
    def scores(params):
        log_probs = log_probs_of(batch.game, params, batch.trajectory)
        if kind == "score":
            return log_probs[..., 1]
        return jnp.cumsum(log_probs[..., 0], 0) * jnp.cumsum(log_probs[..., 1], 0)

    if kind == "score":
        slopes = np.asarray(jax.jit(jax.jacfwd(scores))(batch.params)[1])  # [T, 64, 5]
        coefficients = np.asarray(batch.returns)
        exact = np.asarray(batch.exact[1][1])
    else:
        cross = jax.jit(jax.jacfwd(jax.jacfwd(scores)))(batch.params)[0][1]
        slopes = np.asarray(cross).reshape(3, 64, 25)
        coefficients = np.asarray(batch.rewards)
        exact = np.asarray(batch.exact[2][0][1]).reshape(25)
    discounts = 0.96 ** np.arange(3)

    def estimates(coefficients_of_pairs):  # [T, pairs, 2] -> [pairs, d]
        return np.einsum("t,tpk,tpkd->pd", discounts, coefficients_of_pairs, slopes[:, pairs]) / 2

    paired = coefficients[:, pairs]
    baselines = jax.vmap(estimators.leave_one_out, in_axes=1, out_axes=1)(jnp.asarray(paired))
    exactly(baselines, paired[..., ::-1])
    plain, centred = estimates(paired), estimates(paired - np.asarray(baselines))
    exactly(weights @ plain, exact)
    exactly(weights @ centred, exact)
    assert total_variance(weights, centred) < 0.6 * total_variance(weights, plain)
    # The plain batch mean, own sample included, halves it at B = 2: (B - 1) / B.
    shrunk = estimates(paired - paired.mean(axis=2, keepdims=True))
    exactly(weights @ shrunk, exact / 2)


def test_leave_one_out_by_hand():
    got = estimators.leave_one_out(jnp.array([[1.0, 2.0, 6.0]]))
    assert got.tolist() == [[4.0, 3.5, 1.5]]
    with pytest.raises(ValueError, match="at least 2 episodes, the batch has 1"):
        estimators.leave_one_out(jnp.ones((4, 1)))


# --- Monte Carlo --------------------------------------------------------------------------

GAMMA, STEPS = 0.8, 50
"""What is cut off, 0.8**50 = 1.4e-5 of the value, is far below the noise of any batch here."""
SIZES = (64, 512, 4096)
REPETITIONS = 24
GAME = make("ipd", gamma=GAMMA)
SLOPE_BAND = 0.1
"""Over twelve other keys the slope had a mean within 0.006 of -1/2 and a standard deviation of
0.02 to 0.035, by kind: the band is three of them either way."""


@functools.cache
def sampler(batch_size):
    """Rolls out the IPD at test point B, one batch per key: compiled once for all estimators."""
    tables = (Tabular(5), Tabular(5))

    def batch(key):
        return rollouts.rollout(key, GAME, tables, policies(B), batch_size, num_steps=STEPS)

    return jax.jit(lambda keys: jax.lax.map(batch, keys))


def state_values_of_player_2():
    """Value of each state in the first seat's frame, the start first, of the infinite game."""
    p, q = (1.0 / (1.0 + np.exp(-np.array(theta))) for theta in B)
    q = q[[0, 1, 3, 2, 4]]  # to the first seat's frame
    chain = np.stack([p * q, p * (1 - q), (1 - p) * q, (1 - p) * (1 - q)], axis=1)
    worth = np.linalg.solve(np.eye(4) - GAMMA * chain[1:], np.array([-1.0, 0.0, -3.0, -2.0]))
    return jnp.asarray(chain @ worth, jnp.float32)


def objective_of(kind, params, trajectory):
    """Mean of an objective for player 2's value."""
    log_probs, rewards = log_probs_of(GAME, params, trajectory), trajectory.rewards[..., 1]
    returns = estimators.discounted_returns(rewards, GAMMA)
    own, other = log_probs[..., 0], log_probs[..., 1]
    match kind:
        case "score":
            objective = estimators.score_function(other, returns, GAMMA)
        case "score, leave-one-out":
            objective = estimators.score_function(other, returns, GAMMA, estimators.leave_one_out(returns))
        case "lola-pg":
            objective = estimators.lola_pg_surrogate(own, other, rewards, GAMMA)
        case "lola-pg, leave-one-out":
            objective = estimators.lola_pg_surrogate(own, other, rewards, GAMMA, estimators.leave_one_out(rewards))
        case "loaded, critic":
            critic = state_values_of_player_2()
            objective = loaded(log_probs, rewards, GAMMA, critic[seen_by(GAME, trajectory, 0)])
        case "dice":
            objective = estimators.dice_objective(log_probs, rewards, GAMMA)
        case _:
            raise AssertionError(kind)
    return objective.mean()


def sampled_gradient(kind, trajectory, _):
    """``grad_2 V_2`` from one batch."""
    return jax.grad(lambda params: objective_of(kind, params, trajectory))(policies(B))[1]


def sampled_lola_term(kind, trajectory, independent):
    """``(grad_1 grad_2 V_2) grad_2 V_1`` from two independent batches (eq. 4.7)."""
    own, other = policies(B)
    returns = estimators.discounted_returns(independent.rewards[..., 0], GAMMA)

    def first_players_value(other):
        log_probs = log_probs_of(GAME, (own, other), independent)[..., 1]
        return estimators.score_function(log_probs, returns, GAMMA, estimators.leave_one_out(returns)).mean()

    worth = jax.grad(first_players_value)(other)
    return estimators.cross_product(lambda *params: objective_of(kind, params, trajectory), own, other, worth)


def measure(estimator, exact):
    """Root-mean-square error for each batch size, relative; the log-log slope; the bias at the
    largest size, of each coordinate, in standard errors."""
    errors = []
    for size, key in zip(SIZES, jax.random.split(jax.random.key(1), len(SIZES)), strict=True):
        keys = jax.random.split(key, (2, REPETITIONS))
        batches = tuple(sampler(size)(k) for k in keys)
        run = jax.jit(lambda batches: jax.lax.map(lambda pair: estimator(*pair), batches))
        samples = np.asarray(run(batches), np.float64)
        errors.append(np.sqrt(np.mean(np.sum((samples - exact) ** 2, axis=1))) / np.linalg.norm(exact))
    slope = float(np.polyfit(np.log(SIZES), np.log(errors), 1)[0])
    bias = (samples.mean(0) - exact) / (samples.std(0, ddof=1) / np.sqrt(REPETITIONS))
    print(f"\nslope {slope:.3f}, relative errors {np.round(errors, 3)}, bias {np.round(bias, 1)} standard errors")
    return errors, slope, bias


def exact_view(player):
    return View(GAME, policies(B), player, Access.GRADIENTS)


# DiCE's gradient and cross derivative are, batch by batch, those of the plain kinds (below).
@pytest.mark.parametrize("kind", ["score", "score, leave-one-out", "loaded, critic"])
def test_sampled_gradients_converge_at_the_rate_of_monte_carlo(kind, record_property):
    exact = np.asarray(exact_view(1).gradient(), np.float64)
    errors, slope, bias = measure(functools.partial(sampled_gradient, kind), exact)
    record_property("slope", slope)
    assert abs(slope + 0.5) < SLOPE_BAND
    assert np.all(np.abs(bias) < 4.0)
    assert errors[-1] < 0.2


@pytest.mark.parametrize("kind", ["lola-pg", "lola-pg, leave-one-out", "loaded, critic"])
def test_sampled_lola_terms_converge_at_the_rate_of_monte_carlo(kind, record_property):
    exact = np.asarray(exact_view(0).shaping_term(), np.float64)
    errors, slope, bias = measure(functools.partial(sampled_lola_term, kind), exact)
    record_property("slope", slope)
    assert abs(slope + 0.5) < SLOPE_BAND
    assert np.all(np.abs(bias) < 4.0)
    assert errors[-1] < 0.4


def test_dice_is_the_plain_estimators_batch_by_batch():
    """Its gradient is the score function's, its cross derivative that of eq. 4.6."""
    trajectory, other = (
        jax.tree.map(lambda x: x[0], sampler(64)(jax.random.split(jax.random.key(k), REPETITIONS))) for k in range(2)
    )
    for estimator, plain in ((sampled_gradient, "score"), (sampled_lola_term, "lola-pg")):
        both = jax.jit(lambda *batches, f=estimator, plain=plain: (f("dice", *batches), f(plain, *batches)))
        np.testing.assert_allclose(*both(trajectory, other), rtol=1e-4)


# --- rollouts -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ipd", "public-goods"])
def test_a_rollout_is_play_of_the_sampled_view(name):
    game = make(name, horizon=6)
    n = game.n_players
    params = policies(np.random.default_rng(1).normal(size=(n, game.sizes[0])))
    tables = [Tabular(size) for size in game.sizes]
    trajectory = rollouts.rollout(jax.random.key(0), game, tables, params, 5)
    assert trajectory.actions.shape == trajectory.rewards.shape == (6, 5, n)
    jax.tree.map(np.testing.assert_array_equal, trajectory, replay(game, trajectory.actions))
    # The log-probabilities are those of a Bernoulli choice in the player's own state.
    log_probs = log_probs_of(game, params, trajectory)
    for i, theta in enumerate(params):
        p = 1.0 / (1.0 + np.exp(-np.asarray(theta)[np.asarray(seen_by(game, trajectory, i))]))
        expected = np.log(np.where(np.asarray(trajectory.actions[..., i]) == 0, p, 1.0 - p))
        np.testing.assert_allclose(log_probs[..., i], expected, rtol=1e-5)
    # Coordinates may come one by one, as encounters hold them.
    assert np.array_equal(log_probs_of(game, [tuple(theta) for theta in params], trajectory), log_probs)


def test_episodes_and_keys_differ():
    def play(key):
        return sampler(64)(jax.random.split(jax.random.key(key), REPETITIONS))

    one = play(3)
    assert np.array_equal(one.actions, play(3).actions)
    assert not np.array_equal(one.actions[0, :, 0], one.actions[0, :, 1])
    assert not np.array_equal(one.actions, play(4).actions)


def test_deterministic_policies_play_their_sequence():
    """Tit for tat, which starts with D here, against a player that alternates from C."""
    big = 40.0
    tft, alternate = (-big, big, -big, big, -big), (big, -big, -big, big, big)
    tables = (Tabular(5), Tabular(5))
    trajectory = rollouts.rollout(jax.random.key(0), GAME, tables, policies((tft, alternate)), 2000, num_steps=4)
    assert np.all(np.asarray(trajectory.actions[..., 0]) == np.array([1, 0, 1, 0])[:, None])
    assert np.all(np.asarray(trajectory.actions[..., 1]) == np.array([0, 1, 0, 1])[:, None])
    assert np.all(np.asarray(trajectory.rewards[..., 0]) == np.array([0.0, -3.0, 0.0, -3.0])[:, None])


# --- returns and advantages ---------------------------------------------------------------


def by_definition(rewards, values, bootstrap, gamma, lam, dones):
    """Lambda-returns as the mixture of n-step returns that they stand for, one column."""
    steps = len(rewards)
    values = np.append(values, bootstrap)
    out = np.zeros(steps)
    for t in range(steps):
        ends = [k for k in range(t, steps) if dones[k]]
        last = ends[0] if ends else steps - 1  # the last reward that counts

        def n_step(n, t=t, last=last):
            k = t + n
            tail = 0.0 if dones[k - 1] else gamma**n * values[k]
            return sum(gamma**m * rewards[t + m] for m in range(n)) + tail

        longest = last - t + 1
        out[t] = lam ** (longest - 1) * n_step(longest)
        out[t] += sum((1.0 - lam) * lam ** (n - 1) * n_step(n) for n in range(1, longest))
    return out


fractions = st.floats(0.0, 1.0)
# Compiled once for all examples: discount and lambda are arguments, not constants.
lambda_returns, gae, discounted_returns = map(
    jax.jit, (estimators.lambda_returns, estimators.gae, estimators.discounted_returns)
)


@pytest.mark.usefixtures("float64")
@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), gamma=fractions, lam=fractions, end_rate=st.sampled_from([0.0, 0.3]))
def test_lambda_returns_are_the_mixture_of_n_step_returns(seed, gamma, lam, end_rate):
    rng = np.random.default_rng(seed)
    rewards, values, bootstrap = rng.normal(size=(7, 3)), rng.normal(size=(7, 3)), rng.normal(size=3)
    alive = np.cumprod(rng.random((8, 3)) >= end_rate, axis=0).astype(bool)
    rewards = np.where(alive[:-1], rewards, 0.0)
    arguments = (jnp.asarray(rewards), jnp.asarray(values), jnp.asarray(bootstrap), gamma, lam, jnp.asarray(alive))
    expected = np.stack(
        [by_definition(rewards[:, b], values[:, b], bootstrap[b], gamma, lam, ~alive[1:, b]) for b in range(3)], axis=1
    )
    exactly(lambda_returns(*arguments), expected)
    exactly(gae(*arguments), np.where(alive[:-1], expected - values, 0.0))


@pytest.mark.usefixtures("float64")
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), gamma=fractions)
def test_the_ends_of_lambda(seed, gamma):
    """1 gives discounted returns, 0 one-step targets; an end cuts the future off."""
    rng = np.random.default_rng(seed)
    rewards, values, bootstrap = (jnp.asarray(rng.normal(size=shape)) for shape in ((6, 2), (6, 2), (2,)))
    always = jnp.ones((7, 2), bool)

    def targets(lam, rewards=rewards, alive=always):
        return lambda_returns(rewards, values, bootstrap, gamma, lam, alive)

    returns = discounted_returns(rewards, gamma, bootstrap)
    exactly(targets(1.0), returns)
    exactly(targets(0.0), rewards + gamma * jnp.concatenate([values[1:], bootstrap[None]]))
    exactly(returns[0], sum(gamma**t * rewards[t] for t in range(6)) + gamma**6 * bootstrap)
    exactly(targets(0.7), lambda_returns(rewards, values, bootstrap, gamma, 0.7))
    # An episode that ends is a shorter one, whose end is worth nothing.
    cut = targets(0.7, rewards.at[4:].set(0.0), always.at[4:].set(False))
    exactly(cut[:4], lambda_returns(rewards[:4], values[:4], jnp.zeros(2), gamma, 0.7))
    exactly(cut[4:], jnp.zeros((2, 2)))


@pytest.mark.usefixtures("float64")
@settings(max_examples=20)
@given(reward=st.floats(-3.0, 3.0), gamma=st.floats(0.0, 0.99), lam=fractions, steps=st.sampled_from([1, 2, 7]))
def test_constant_rewards(reward, gamma, lam, steps):
    """Geometric sums; and no advantage, whatever lambda, over the value of the infinite game."""
    rewards, left = jnp.full((steps, 1), reward), (steps - np.arange(steps))[:, None]
    exactly(discounted_returns(rewards, gamma), reward * (1 - gamma**left) / (1 - gamma), 1e-11)
    nothing = gae(rewards, 0.0 * rewards, jnp.zeros(1), gamma, lam)
    exactly(nothing, reward * (1 - (gamma * lam) ** left) / (1 - gamma * lam), 1e-11)
    worth = reward / (1 - gamma)
    exactly(gae(rewards, jnp.full((steps, 1), worth), jnp.full(1, worth), gamma, lam), 0.0 * left, 1e-10)


def test_advantages_are_constants_and_targets_are_not():
    rewards, values, bootstrap = jnp.ones((4, 2)), jnp.full((4, 2), 0.5), jnp.full(2, 0.5)

    def total(function):
        return lambda values, bootstrap: function(rewards, values, bootstrap, 0.9, 0.5).sum()

    for gradient in jax.grad(total(estimators.gae), (0, 1))(values, bootstrap):
        assert not np.any(gradient)
    for gradient in jax.grad(total(estimators.lambda_returns), (0, 1))(values, bootstrap):
        assert np.any(gradient)


def test_the_magic_box():
    """Value 1; the n-th derivative of box(a x) is a^n; finite however large the argument."""
    box = estimators.magic_box
    assert float(box(jnp.float32(-300.0))) == 1.0
    function = lambda x: box(3.0 * x)  # noqa: E731
    for order in range(4):
        assert float(function(jnp.float32(0.7))) == pytest.approx(3.0**order)
        function = jax.grad(function)


def test_discount_and_lambda_may_be_traced_and_swept():
    rewards, values, bootstrap = jnp.ones((5, 2)), jnp.zeros((5, 2)), jnp.zeros(2)
    gammas, lams = jnp.array([0.0, 0.5, 1.0]), jnp.array([1.0, 0.5, 0.0])
    swept = jax.vmap(lambda gamma, lam: estimators.gae(rewards, values, bootstrap, gamma, lam))(gammas, lams)
    assert swept[0, 0, 0] == 1.0
    assert swept[1, 0, 0] == pytest.approx((1 - 0.25**5) / 0.75)
    assert swept[2, 0, 0] == 1.0
    log_probs = jnp.full((5, 2, 2), -0.7)
    totals = jax.vmap(lambda gamma: estimators.dice_objective(log_probs, rewards, gamma))(gammas)
    assert totals[:, 0].tolist() == pytest.approx([1.0, 1.9375, 5.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: estimators.score_function(x, x[:, :1], 0.9), r"log_probs is \(4, 2\), returns is \(4, 1\)"),
        (lambda x: estimators.dice_objective(x, x, 0.9), r"one_player_of_log_probs is \(4,\), rewards is \(4, 2\)"),
        (lambda x: estimators.loaded_dice(x[..., None], x[:1], 0.9), r"advantages is \(1, 2\)"),
        (lambda x: estimators.lola_pg_surrogate(x, x[:, :1], x, 0.9), r"other_log_probs is \(4, 1\)"),
        (lambda x: estimators.lambda_returns(x, x, x, 0.9, 0.9), r"bootstrap is \(4, 2\)"),
        (lambda x: estimators.gae(x, x, x[0], 0.9, 0.9, x[:, 0]), r"alive_after is \(3,\)"),
    ],
)
def test_shapes_that_would_broadcast_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((4, 2)))
