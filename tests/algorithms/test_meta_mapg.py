"""Meta-PG and Meta-MAPG: paths of the derivative, personas, and rock, paper, scissors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import Stage
from shaping_bench.algorithms.meta_mapg import MetaMAPG, MetaPG
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.populations import PersonaLearner
from shaping_bench.games import make
from shaping_bench.games.matrix.rps import SWAPPED, probabilities
from shaping_bench.spec.registry import check_encounter, make_game, make_learner

pytestmark = pytest.mark.usefixtures("float64")

TANDEM = make("tandem", init_std=0.0)
OTHER, ETA = Naive(lr=0.2), 0.2
STEPS = np.array([0.1, 0.3, 0.2])


@functools.partial(jax.jit, static_argnames=("own_term", "peer_term"))
def slope(phi, own_term=True, peer_term=True):
    rule = MetaMAPG(meta_steps=3, against=OTHER, own_term=own_term, peer_term=peer_term)

    def value(phi):
        learned = {"phi": (phi,), "step": jnp.asarray(STEPS)}
        return rule.mean_return(jax.random.key(0), learned, OTHER, TANDEM, 0)

    return value(phi), jax.grad(value)(phi)


def chain(phi, own=1.0, peer=1.0):
    """The same in closed form: g_i = 2 - 2s, V_1 = 2x - s^2, all derivatives by hand. Own steps change with
    phi by ``own`` times what they do, the other's by ``peer`` times."""
    x, y, dx, dy = phi, 0.0, 1.0, 0.0
    value, slope = [], []
    for a in STEPS:
        g, dg = 2 - 2 * (x + y), -2 * (dx + dy)
        x, y, dx, dy = x + a * g, y + ETA * g, dx + own * a * dg, dy + peer * ETA * dg
        value.append(2 * x - (x + y) ** 2)
        slope.append(2 * dx - 2 * (x + y) * (dx + dy))
    return np.mean(value), np.mean(slope)


@pytest.mark.parametrize(("own", "peer"), [(True, True), (True, False), (False, True), (False, False)])
def test_every_term_is_a_path_of_the_derivative(own, peer):
    got = slope(0.3, own_term=own, peer_term=peer)
    np.testing.assert_allclose(got, chain(0.3, float(own), float(peer)), atol=1e-12)


def test_the_whole_derivative_is_that_of_the_return():
    ahead, behind = slope(0.3 + 1e-5)[0], slope(0.3 - 1e-5)[0]
    np.testing.assert_allclose(slope(0.3)[1], (ahead - behind) / 2e-5, rtol=1e-8)


def test_meta_pg_is_meta_mapg_without_the_others_term():
    assert MetaPG() == MetaPG(peer_term=False)
    assert MetaMAPG().peer_term
    assert MetaMAPG().own_term


def test_in_play_the_learned_steps_are_taken_one_after_the_other():
    rule = MetaMAPG(meta_steps=3)
    artifact = {"phi": (jnp.asarray(0.3),), "step": jnp.asarray(STEPS)}
    stage = Stage(TANDEM, (rule, Naive(lr=0.0)), artifacts=(artifact, None))
    joint, x = stage.begin(jax.random.key(0)), 0.3
    for k in range(5):
        joint, _, _ = stage.episode(jax.random.key(k), joint)
        x += STEPS[min(k, 2)] * (2 - 2 * x)
        np.testing.assert_allclose(joint.params[0][0], x, atol=1e-12)


# --- personas ------------------------------------------------------------------------------


def test_personas_prefer_one_action_and_parts_are_disjoint():
    game = make("ipd")
    parts = {s: PersonaLearner(split=s).everybody(game, 0) for s in ("train", "validation", "test", "all")}
    assert [len(x) for x in parts.values()] == [400, 40, 40, 480]
    assert len({tuple(x) for s in ("train", "validation", "test") for x in parts[s]}) == 480
    cooperative, defective = (PersonaLearner(prefers=a).everybody(game, 0) for a in (0, 1))
    assert (cooperative > 0).all()
    assert (defective < 0).all()
    rng = PersonaLearner(prefers=0).everybody(game, 0)
    np.testing.assert_allclose(np.mean(1 / (1 + np.exp(-rng))), 0.75, atol=0.02)


def test_personas_of_three_actions_share_the_rest_alike():
    shares = np.asarray([probabilities(x) for x in PersonaLearner(prefers=2).everybody(make("rps"), 0)])
    assert (shares[..., 2] > 1 / 3).all()
    np.testing.assert_allclose(shares[..., 0], shares[..., 1], atol=1e-12)
    np.testing.assert_allclose(shares[..., 2].mean(), 2 / 3, atol=0.02)


@pytest.mark.parametrize(
    ("game", "learner", "complaint"),
    [
        ("tandem", "persona-learner", "two-action games, and rps"),
        ("ipd", "persona-learner(prefers=2)", "prefers=2; allowed: none, or 0 to 1"),
        ("coin-game", "meta-mapg", "exact"),
        ("tandem", "meta-mapg", "PersonaLearner, which starts as a persona"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_line(game, learner, complaint):
    with pytest.raises(ValueError, match=complaint):
        check_encounter(make_game(game), [make_learner(learner), make_learner(learner)])


# --- rock, paper, scissors -------------------------------------------------------------------


def test_values_are_those_of_the_chain_of_joint_actions():
    game, rng = make("rps"), np.random.default_rng(4)
    params = tuple(rng.normal(size=30) for _ in range(2))
    first, second = (np.asarray(probabilities(jnp.asarray(theta))) for theta in params)
    dist, value = np.eye(10)[0], 0.0
    for t in range(400):
        then = np.zeros(10)
        for state in range(10):
            for a in range(3):
                for b in range(3):
                    weight = dist[state] * first[state, a] * second[SWAPPED[state], b]
                    value += game.gamma**t * weight * (0, 1, -1)[(a - b) % 3]
                    then[1 + 3 * a + b] += weight
        dist = then
    np.testing.assert_allclose([game.value(params, 0), game.value(params, 1)], [value, -value], atol=1e-12)


def test_the_best_response_is_that_of_value_iteration():
    game = make("rps")
    rock = np.asarray(PersonaLearner(prefers=0).everybody(game, 1)[0])
    seen = np.asarray(probabilities(jnp.asarray(rock)))[list(SWAPPED)]  # as the responder reads the state
    best = np.zeros(10)
    for _ in range(400):
        worth = [[(0, 1, -1)[(a - b) % 3] + game.gamma * best[1 + 3 * a + b] for b in range(3)] for a in range(3)]
        best = (seen @ np.array(worth).T).max(axis=1)
    for seat in (0, 1):
        params = [rock, rock]
        params[seat] = jnp.stack(game.best_response(params, seat))
        np.testing.assert_allclose(game.value(params, seat), best[0], atol=1e-9)
