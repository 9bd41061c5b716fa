"""SOS against the authors' notebook, its closed forms and its guarantees.

The notebook (aletcher/stable-opponent-shaping) does not swap the second player's CD and DC;
its second parameter vector is permuted on the way in and out.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shaping_bench.algorithms.core import Access, View, with_info
from shaping_bench.algorithms.parts.joint import simultaneous_gradient
from shaping_bench.games.matrix.repeated import RepeatedGame
from shaping_bench.run.encounter import run_encounter
from shaping_bench.spec.registry import make_game, make_learner

pytestmark = pytest.mark.usefixtures("float64")

UNSWAPPED = [0, 1, 3, 2, 4]


def play(game, learner, init, steps, record_every=None):
    rule = make_learner(learner).value
    return run_encounter(
        make_game(game).value,
        [rule, rule],
        num_seeds=1,
        num_updates=steps,
        record_every=record_every,
        init=[np.array(theta) for theta in init],
        precision="float64",
    )


def test_tandem_vector():
    o = play("tandem", "sos(lr=0.1,lookahead_lr=0.1,a=0.5,b=0.1)", [[1.0], [0.25]], 10, record_every=1)
    x, y = (theta[:, 0, 0] for theta in o.params)
    np.testing.assert_allclose((x[1], y[1]), (0.98, 0.23), atol=1e-14)
    np.testing.assert_allclose((x[10], y[10]), (0.8968626535957475, 0.1468626535957477), atol=1e-13)
    assert o.infos[0]["sos_p"][1] == pytest.approx(0.4, abs=1e-14)


def test_ipd_vector_of_lola_full():
    theta1, theta2 = [0.1, -0.2, 0.3, -0.4, 0.5], np.array([-0.5, 0.4, -0.3, 0.2, -0.1])[UNSWAPPED]
    game = make_game("ipd").value
    before = game.values((jnp.array(theta1), jnp.array(theta2)))
    np.testing.assert_allclose(before, (-37.40828507755243, -37.13428303266091), rtol=1e-13)
    o = play("ipd", "lola-full(lr=0.1,lookahead_lr=0.1)", [theta1, theta2], 10, record_every=1)
    first, second = (theta[1, 0] for theta in o.params)
    np.testing.assert_allclose(
        first, (0.0745509474, -0.2848671880, 0.0585665090, -0.4606864203, 0.3068084344), atol=1e-10
    )
    np.testing.assert_allclose(
        second[UNSWAPPED], (-0.5355627594, 0.2429989680, -0.4632314387, -0.0935853592, -0.3768279601), atol=1e-10
    )
    after = game.values(tuple(jnp.array(theta[10, 0]) for theta in o.params))
    np.testing.assert_allclose(np.asarray(after) * 0.04, (-1.90586927, -1.72804343), atol=1e-8)


# --- identities ----------------------------------------------------------------------------

payoff = st.floats(-3, 3, allow_nan=False).map(lambda x: round(x, 3))
logit = st.floats(-2.5, 2.5, allow_nan=False).map(lambda x: round(x, 3))
games = st.tuples(*[st.tuples(*[payoff] * 4)] * 2)
points = st.tuples(*[st.tuples(*[logit] * 5)] * 2)


@jax.jit
def _everything(game, params, a, b, eta):
    sos = dataclasses.replace(make_learner("sos").value, a=a, b=b, lookahead_lr=eta)
    look, full = (dataclasses.replace(make_learner(n).value, lookahead_lr=eta) for n in ("lookahead", "lola-full"))
    views = [View(game, params, i, Access.GRADIENTS) for i in (0, 1)]
    d, info = zip(*[with_info(sos.direction(v)) for v in views], strict=True)

    def joined(rule):
        return jnp.concatenate([with_info(rule.direction(v))[0] for v in views])

    xi = jnp.concatenate(simultaneous_gradient(views[0]))
    return jnp.concatenate(d), info[0]["sos_p"], info[1]["sos_p"], joined(look), joined(full), xi


@given(games, points, st.sampled_from([0.1, 1.0]))
def test_p_is_shared_and_interpolates(payoffs, point, eta):
    game, params = RepeatedGame(payoffs=payoffs, gamma=0.9), tuple(map(jnp.array, point))
    a, b = 0.5, 0.1
    d, p, same, look, full, xi = map(np.asarray, _everything(game, params, a, b, eta))
    assert p == same
    assert 0 <= p <= 1
    np.testing.assert_allclose(d, look + p * (full - look), atol=1e-9 * max(1.0, np.abs(full).max()))
    dot, size = np.dot(full - look, look), np.dot(look, look)
    if dot < 0 and p > 0:  # first criterion: at least 1 - a of LookAhead's progress is kept
        assert np.dot(d, look) >= (1 - a) * size - 1e-9 * max(1.0, size)
    first = min(1.0, -a * size / dot) if dot < 0 else 1.0
    second = np.dot(xi, xi) if np.linalg.norm(xi) < b else 1.0
    assert p == pytest.approx(min(first, second), rel=1e-9, abs=1e-12)


@given(games, points)
def test_p_at_its_extremes_is_lookahead_or_lola(payoffs, point):
    game, params = RepeatedGame(payoffs=payoffs, gamma=0.9), tuple(map(jnp.array, point))
    d, p, _, look, full, _ = map(np.asarray, _everything(game, params, 0.0, 0.0, 1.0))
    target = full if np.dot(full - look, look) >= 0 else look  # a = 0 forbids any loss of progress
    assert p == (1.0 if np.dot(full - look, look) >= 0 else 0.0)
    np.testing.assert_allclose(d, target, atol=1e-10 * max(1.0, np.abs(full).max()))


@pytest.mark.parametrize("x", [-1.0, 0.3, 2.0])
def test_fixed_points_of_tandem_are_kept_by_sos_and_left_by_lola(x):
    game, params = make_game("tandem").value, (jnp.array([x]), jnp.array([1.0 - x]))
    d, p, _, look, full, _ = map(np.asarray, _everything(game, params, 0.5, 0.1, 0.1))
    np.testing.assert_allclose(d, 0.0, atol=1e-15)
    assert p < 1e-30
    np.testing.assert_allclose(look, 0.0, atol=1e-15)
    np.testing.assert_allclose(full, (0.4, 0.4), atol=1e-14)  # alpha chi with chi = (4, 4) at every x
