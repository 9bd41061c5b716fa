"""COLA: consistent pairs known in closed form, responses by finite differences, training, metrics.

Closed forms, in the scaling of directions (a step is beta times a direction): derived by
putting affine directions into the consistency equations.
"""

import functools
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.cola import COLA, responses, violation
from shaping_bench.algorithms.core import Access, View
from shaping_bench.games import make
from shaping_bench.metrics import consistency, consistency_cosine, update_cosine
from shaping_bench.run.artifacts import Artifacts
from shaping_bench.run.encounter import run_encounter
from shaping_bench.run.preparation import Preparation
from shaping_bench.spec.registry import make_game, make_learner

BETAS = (0.05, 0.1, 0.5, 1.0, 3.0)


def tandem_sum(beta, sign=1.0):
    """Both move by ``a (x + y) + b``; the sign of the root that goes to naive learning as beta does is +."""
    root = sign * np.sqrt(1.0 + 8.0 * beta)
    a, b = -8.0 / (root + 1.0) ** 2, 4.0 / (root + 1.0)
    return np.array([[a, a, b], [a, a, b]])


def tandem_apart(beta, split=0.3):
    """The branch that weighs the own parameter otherwise than the other's; free in one number."""
    a, c = -1.0 / (2.0 * beta**2), (1.0 - 2.0 * beta) / (2.0 * beta**2)
    return np.array([[a, c, 1.0 + split], [c, a, 1.0 - split]])


def hamiltonian(beta):
    scale = 1.0 / (1.0 + 2.0 * beta**2)
    return scale * np.array([[-2.0 * beta, -1.0, 0.0], [1.0, -2.0 * beta, 0.0]])


def balduzzi(beta):
    c = 10.0 * (1.0 - beta) / (1.0 + 200.0 * beta**2)
    a = -(1.0 + 20.0 * beta * c)
    return np.array([[a, -c, 0.0], [c, a, 0.0]])


CONSISTENT = [
    ("tandem", tandem_sum),
    ("tandem", functools.partial(tandem_sum, sign=-1.0)),
    ("tandem", tandem_apart),
    ("hamiltonian", hamiltonian),
    ("balduzzi", balduzzi),
]


def affine(coefficients):
    """Update functions ``row . (x, y, 1)``."""
    return [lambda params, row=row: (row[0] * params[0][0] + row[1] * params[1][0] + row[2],) for row in coefficients]


def grid(n=5):
    return [((jnp.asarray(x),), (jnp.asarray(y),)) for x, y in itertools.product(np.linspace(-1.0, 1.0, n), repeat=2)]


def stacked(points):
    return jax.tree.map(lambda *xs: jnp.stack(xs), *points)


def mean_violation(game, coefficients, beta):
    return jnp.mean(jax.vmap(lambda theta: violation(game, affine(coefficients), theta, beta))(stacked(grid())))


# --- what is consistent


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("name", "pair"), CONSISTENT)
def test_consistent_pairs_have_no_violation_and_no_gradient_of_it(float64, name, pair, beta):
    game, coefficients = make(name), jnp.asarray(pair(beta))
    size = 1.0 + float(jnp.sum(coefficients**2))
    value, gradient = jax.value_and_grad(lambda c: mean_violation(game, c, beta))(coefficients)
    assert value < 1e-20 * size**2
    np.testing.assert_allclose(gradient, 0.0, atol=1e-9 * size**2)
    assert mean_violation(game, coefficients + 0.1, beta) > 1e-4


def test_held_steps_of_the_others_are_not_consistent(float64):
    """Without the derivative through the others' directions the fixed point is that of
    competitive gradient descent, which keeps the stable fixed points: not COLA's."""
    beta, game = 0.1, make("tandem")
    # -(I + beta H_o)^-1 xi with xi = 2 s - 2 for both and H_o = [[0, 2], [2, 0]]
    cgd = jnp.asarray(np.array([[-2.0, -2.0, 2.0]] * 2) / (1.0 + 2.0 * beta))

    def held(params):
        functions = affine(jax.lax.stop_gradient(cgd))
        fixed = [lambda theta, f=f: jax.lax.stop_gradient(f(theta)) for f in functions]
        return violation(game, fixed, params, beta)

    assert max(float(held(theta)) for theta in grid()) < 1e-24
    assert mean_violation(game, cgd, beta) > 0.1
    s = 0.5 * (1.0 + np.sqrt(1.0 + 8.0 * beta))  # where COLA rests
    row = tandem_sum(beta)[0]
    assert row[0] * s + row[2] == pytest.approx(0.0, abs=1e-14)
    assert s == pytest.approx(1.1708, abs=1e-4)


THREE = {"payoffs": tuple(tuple(np.random.default_rng(i).normal(size=8)) for i in range(3))}


@pytest.mark.parametrize(("name", "settings"), [("ultimatum", {}), ("ipd", {}), ("matrix-one-shot", THREE)])
def test_responses_are_total_derivatives(float64, name, settings):
    """Against finite differences of what a player gets when the others' directions move with it."""
    game, beta = make(name, **settings), 0.7
    rule = COLA(weight_std=0.5)
    networks = rule.artifact(rule.prepare_init(jax.random.key(3), game, 0))
    functions = [lambda theta, i=i: own(rule, game, networks, theta, i) for i in range(game.n_players)]
    draws = np.random.default_rng(1)
    params = [draws.normal(size=d) for d in game.sizes]

    @functools.partial(jax.jit, static_argnums=0)
    def anticipated(player, theta):
        theta = tuple(map(tuple, theta))
        there = [
            x if j == player else tuple(a + beta * b for a, b in zip(x, functions[j](theta), strict=True))
            for j, x in enumerate(theta)
        ]
        return game.value(there, player)

    answers = jax.jit(lambda theta: responses(game, functions, tuple(map(tuple, theta)), beta)[1])(params)
    step = 1e-5
    for i, d in enumerate(game.sizes):
        for k in range(d):
            ahead, behind = ([x.copy() for x in params] for _ in range(2))
            ahead[i][k] += step
            behind[i][k] -= step
            slope = (anticipated(i, ahead) - anticipated(i, behind)) / (2.0 * step)
            assert answers[i][k] == pytest.approx(float(slope), abs=1e-7)


def own(rule, game, networks, theta, player):
    return rule.direction(View(game, theta, player, rule.access, artifact=networks))


def test_without_lookahead_the_response_is_naive(float64):
    game, naive = make("tandem"), affine(np.array([[-2.0, -2.0, 2.0]] * 2))
    for theta in grid(3):
        directions, answers = responses(game, naive, theta, 0.0)
        np.testing.assert_allclose(answers, directions, atol=1e-14)
    np.testing.assert_allclose(tandem_sum(1e-7), [[-2.0, -2.0, 2.0]] * 2, atol=1e-5)


def test_responding_to_naive_learners_again_and_again_leads_to_the_consistent_pair(float64):
    """HOLA's orders at the published point of the tandem game, and their limit."""
    beta, game = 0.1, make("tandem")
    theta = ((jnp.asarray(0.05),), (jnp.asarray(-0.1),))

    def answering(functions):
        return [lambda params, i=i: responses(game, functions, params, beta)[1][i] for i in range(2)]

    functions = affine(np.array([[-2.0, -2.0, 2.0]] * 2))
    for expected in (1.744, 1.7830464):
        functions = answering(functions)
        np.testing.assert_allclose([f(theta)[0] for f in functions], expected, atol=1e-7)
    np.testing.assert_allclose([f(theta)[0] for f in affine(tandem_sum(beta))], 1.7811529, atol=5e-8)


# --- the learner


def prepared(game, learner, seeds=1, folder=None):
    named_game = make_game(game)
    rule = make_learner(learner, game=named_game.name)
    done = Artifacts(folder).prepared(Preparation(rule, named_game, 0, seeds, 0, "float32"))
    return named_game.value, rule.value, done


def test_preparation_lowers_the_violation(tmp_path: Path):
    _, rule, done = prepared("matching-pennies", "cola(num_steps=600,network_lr=0.003,batch_size=16)", folder=tmp_path)
    curve = done.curves.sort_values("update")["value"].to_numpy()
    assert np.isfinite(curve).all()
    assert np.mean(curve[-20:]) < 0.5 * curve[0]
    # One value per player and point, each differentiated.
    assert done.record["costs"]["gradient_evaluations"] == 600 * 2 * rule.batch_size


@pytest.fixture(scope="module")
def oscillator(tmp_path_factory):
    """The Hamiltonian game has one linear consistent pair; a wide enough batch finds it in seconds."""
    return prepared("hamiltonian", "cola(num_steps=12000,lookahead_lr=1.2)", 3, tmp_path_factory.mktemp("artifacts"))


def test_preparation_approaches_the_closed_form(oscillator):
    game, rule, done = oscillator
    expected = hamiltonian(1.2)
    errors = []
    for seed in range(3):
        networks = jax.tree.map(lambda x, seed=seed: jnp.asarray(x[seed]), done.artifact)
        errors.append(
            [
                abs(own(rule, game, networks, theta, i)[0] - affine(expected)[i](theta)[0])
                for theta in grid(7)
                for i in range(2)
            ]
        )
    assert np.median(errors) < 1e-2
    assert np.min(np.max(errors, axis=1)) < 1e-2


def test_play_converges_where_lola_does_not(oscillator):
    game, rule, done = oscillator
    draws = np.random.default_rng(0)
    starts = [draws.uniform(-0.5, 0.5, (30, 1)) for _ in range(2)]
    settings = {"num_seeds": 30, "num_updates": 60, "init": starts}
    mine = run_encounter(game, [rule] * 2, artifacts=[done.artifact] * 2, **settings)
    lola = run_encounter(game, [make_learner("lola-exact(lr=1.2,lookahead_lr=1.2)").value] * 2, **settings)
    assert np.median(np.abs(mine.final[0])) < 0.05
    assert np.median(np.abs(lola.final[0])) > 1e3


def test_steps_are_the_assumed_ones_unless_given(float64):
    game = make("tandem")
    rule = make_learner("cola", game="tandem").value
    networks = rule.artifact(rule.prepare_init(jax.random.key(0), game, 0))
    view = View(game, ((jnp.asarray(0.3),), (jnp.asarray(-0.2),)), 1, Access.GRADIENTS, artifact=networks)
    (d,) = rule.direction(view)
    assert d != 0.0
    assert rule.update(None, (), view)[0][0] == pytest.approx(float(-0.2 + 0.1 * d))
    other = make_learner("cola(lr=0.7)", game="tandem").value
    assert other.update(None, (), view)[0][0] == pytest.approx(float(-0.2 + 0.7 * d))


def test_networks_are_the_published_ones():
    def shapes(name):
        game, rule = make(name), make_learner("cola", game=name).value
        networks = rule.prepare_init(jax.random.key(0), game, 0)["networks"]
        return [[weights.shape for weights, _ in network] for network in networks]

    assert shapes("tandem") == [[(8, 2), (8, 8), (1, 8)]] * 2
    assert shapes("ipd") == [[(16, 10), (16, 16), (16, 16), (5, 16)]] * 2
    rule = COLA(hidden=400, layers=1)
    weights, bias = rule.prepare_init(jax.random.key(0), make("ipd"), 0)["networks"][0][0]
    assert float(jnp.std(weights)) == pytest.approx(0.1, rel=0.1)
    assert not bias.any()


def test_the_polynomial_networks_have_one_kinked_layer(float64):
    """ReLU after the first layer only: inside one pattern of units the output is affine."""
    game, rule = make("tandem"), make_learner("cola", game="tandem").value
    networks = rule.artifact(rule.prepare_init(jax.random.key(1), game, 0))
    (w1, b1), (w2, b2), (w3, b3) = networks[0]
    x = jnp.asarray([0.4, -0.7])
    expected = w3 @ (w2 @ jnp.maximum(w1 @ x + b1, 0.0) + b2) + b3
    got = own(rule, game, networks, ((x[0],), (x[1],)), 0)
    np.testing.assert_allclose(got, expected, atol=1e-14)


def test_clamped_input_stays_in_the_region(float64):
    game = make("ipd")
    rule = make_learner("cola", game="ipd").value
    assert rule.clamped
    networks = rule.artifact(rule.prepare_init(jax.random.key(0), game, 0))

    def at(scale, rule):
        return own(rule, game, networks, tuple(tuple(scale * jnp.ones(5)) for _ in range(2)), 0)

    np.testing.assert_array_equal(at(7.0, rule), at(70.0, rule))
    assert not np.allclose(at(7.0, COLA()), at(70.0, COLA()))


# --- metrics


def test_consistency_of_a_prepared_pair_is_what_its_training_measured(oscillator):
    game, rule, done = oscillator
    points = [np.array([[float(theta[i][0])] for theta in grid()]) for i in range(2)]
    for seed in range(3):
        chosen = jax.tree.map(lambda x, seed=seed: x[seed : seed + 1], done.artifact)
        measured = consistency(game, [rule] * 2, points, [chosen] * 2)
        networks = jax.tree.map(lambda x: jnp.asarray(x[0]), chosen)
        functions = [lambda theta, i=i, n=networks: own(rule, game, n, theta, i) for i in range(2)]
        expected = [float(violation(game, functions, theta, rule.lookahead_lr)) for theta in grid()]
        np.testing.assert_allclose(measured.sum(axis=1), expected, atol=1e-5)
        cosines = consistency_cosine(game, [rule] * 2, points, [chosen] * 2)
        assert np.nanmedian(cosines) > 0.999


def test_consistency_cosine_of_lola():
    """In the tandem game LOLA's direction and the response to it are a s + b of successive orders."""
    beta, game = 0.3, make("tandem")
    points = [np.array([[0.2], [-0.7]]), np.array([[0.5], [0.1]])]
    s = (points[0] + points[1])[:, 0]
    a, b = -2.0 * (1.0 - 2.0 * beta) ** 2, 2.0 - 4.0 * beta * (1.0 - 2.0 * beta)
    c, d = -2.0 * (1.0 + beta * a) ** 2, 2.0 - 2.0 * beta * b * (1.0 + beta * a)
    lola = make_learner(f"lola-exact(lookahead_lr={beta})").value
    cosines = consistency_cosine(game, [lola, lola], points)
    # Both players have the same direction, so the cosine is the sign of its product.
    np.testing.assert_allclose(cosines, np.repeat(np.sign((a * s + b) * (c * s + d))[:, None], 2, axis=1), atol=1e-12)
    naive = make_learner("naive(lr=0.3)").value
    assert np.isnan(consistency_cosine(game, [naive, make_learner("best-response").value], points)).all()


def test_update_cosine_against_directions_by_hand():
    game = make("ipd")
    draws = np.random.default_rng(0)
    points = [draws.normal(size=(6, 5)) for _ in range(2)]
    lola, naive = make_learner("lola(lookahead_lr=2)").value, make_learner("naive").value
    got = update_cosine(game, [lola, naive], points)
    for k in range(3):
        joint = []
        with jax.enable_x64(True):
            theta = tuple(tuple(jnp.asarray(x) for x in p[k]) for p in points)
            for rule in (lola, naive):
                joint.append(np.ravel([rule.direction(View(game, theta, i, rule.access)) for i in range(2)]))
        cosine = joint[0] @ joint[1] / np.linalg.norm(joint[0]) / np.linalg.norm(joint[1])
        np.testing.assert_allclose(got[k], cosine, atol=1e-10)
    np.testing.assert_allclose(update_cosine(game, [naive, lola], points), got, atol=1e-12)
    np.testing.assert_allclose(update_cosine(game, [lola, lola], points), 1.0, atol=1e-12)
    assert np.isnan(update_cosine(game, [lola, make_learner("tft").value], points)).all()


def test_first_order_hola_points_along_the_consistent_pair_of_the_hamiltonian_game(oscillator):
    """HOLA of order 1 is the closed form without its prefactor, so the cosine is 1."""
    game, rule, done = oscillator
    points = [np.random.default_rng(i).uniform(-1.0, 1.0, (60, 1)) for i in range(2)]
    lola = make_learner("hola(order=1,lookahead_lr=1.2)").value
    likeness = update_cosine(game, [rule, lola], points, [done.artifact, None])
    assert np.median(likeness) > 0.999
