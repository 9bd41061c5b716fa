"""Exact values of repeated games: rollouts of the chain, finite differences, published values."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shaping_bench.games import GAMES, make
from shaping_bench.games.matrix.public_goods import PublicGoods
from shaping_bench.games.matrix.repeated import RepeatedGame, seat_states, state_names

pytestmark = pytest.mark.usefixtures("float64")

payoff = st.floats(-3, 3, allow_nan=False).map(lambda x: round(x, 3))
logit = st.floats(-4, 4, allow_nan=False).map(lambda x: round(x, 3))


def tables(n):
    return st.tuples(*[st.tuples(*[payoff] * 2**n)] * n)


def points(n):
    return st.tuples(*[st.tuples(*[logit] * (1 + 2**n))] * n)


_values = jax.jit(lambda game, params: game.values(params))
_occupancy = jax.jit(lambda game, params: game.occupancy(params))


def rolled_out_values(payoffs, gamma, params, steps):
    """Values by propagating the distribution over joint actions, written from the definition:
    each player reads the last joint action from its own seat, own action first."""
    n = len(params)
    joint = list(itertools.product((0, 1), repeat=n))
    cooperate = [1 / (1 + np.exp(-np.asarray(theta))) for theta in params]

    def next_actions(last):
        chances = []
        for player, p in enumerate(cooperate):
            if last is None:
                chances.append(p[0])
            else:
                own = last[player:] + last[:player]
                chances.append(p[1 + sum(a << (n - 1 - k) for k, a in enumerate(own))])
        return np.array(
            [np.prod([c if a == 0 else 1 - c for c, a in zip(chances, actions, strict=True)]) for actions in joint]
        )

    transition = np.array([next_actions(last) for last in joint])
    distribution, discount, total = next_actions(None), 1.0, np.zeros(n)
    for _ in range(steps):
        total += discount * np.asarray(payoffs) @ distribution
        distribution, discount = distribution @ transition, discount * gamma
    return total


@given(tables(2), points(2), st.sampled_from([0.3, 0.9]))
def test_value_equals_a_long_rollout_two_players(payoffs, point, gamma):
    params = tuple(map(jnp.array, point))
    got = _values(RepeatedGame(payoffs=payoffs, gamma=gamma), params)
    np.testing.assert_allclose(got, rolled_out_values(payoffs, gamma, point, 400), atol=1e-9)


@given(tables(3), points(3))
def test_value_equals_a_long_rollout_three_players(payoffs, point):
    params = tuple(map(jnp.array, point))
    got = _values(RepeatedGame(payoffs=payoffs, gamma=0.8), params)
    np.testing.assert_allclose(got, rolled_out_values(payoffs, 0.8, point, 200), atol=1e-9)


@given(tables(2), points(2))
def test_arrays_and_tuples_of_scalars_agree(payoffs, point):
    game = RepeatedGame(payoffs=payoffs, gamma=0.9)
    as_arrays = _values(game, tuple(map(jnp.array, point)))
    as_scalars = _values(game, tuple(tuple(jnp.array(x) for x in theta) for theta in point))
    np.testing.assert_allclose(as_arrays, as_scalars, rtol=1e-13, atol=1e-13)


@given(points(2))
def test_exchanging_the_players_exchanges_the_values(point):
    a, b = map(jnp.array, point)
    for name in ("ipd", "chicken", "stag-hunt"):
        game = make(name)
        assert game.symmetric
        np.testing.assert_allclose(_values(game, (a, b)), _values(game, (b, a))[::-1], rtol=1e-11)
    assert not make("imp").symmetric
    np.testing.assert_allclose(_values(make("imp"), (a, b)).sum(), 0.0, atol=1e-12)


@given(points(2), st.floats(0.2, 0.95))
def test_derivatives_by_discount_and_payoffs(point, gamma):
    params = tuple(map(jnp.array, point))
    game = make("ipd", gamma=gamma)
    derivative = _by_game(game, params)
    step = 1e-6
    up, down = (_values(make("ipd", gamma=gamma + s), params)[0] for s in (step, -step))
    np.testing.assert_allclose(derivative.gamma, (up - down) / (2 * step), rtol=1e-5, atol=1e-6)
    # The value is linear in the payoffs, with the discounted occupancy as slope.
    occupancy = np.asarray(_occupancy(game, params))
    np.testing.assert_allclose(np.array(derivative.payoffs[0]) * (1 - gamma), occupancy, atol=1e-12)
    np.testing.assert_allclose(np.array(derivative.payoffs[1]), 0.0)
    assert occupancy.sum() == pytest.approx(1.0, abs=1e-12)


_by_game = jax.jit(jax.grad(lambda game, params: game.value(params, 0)))


def test_memory_one_theory_vector():
    p, q = np.array([0.7, 0.9, 0.2, 0.6, 0.1]), np.array([0.3, 0.8, 0.5, 0.4, 0.25])
    params = tuple(jnp.array(np.log(x) - np.log1p(-x)) for x in (p, q))
    game = make("ipd")
    np.testing.assert_allclose(_values(game, params), (-37.703892527100, -39.483052678298), rtol=1e-12)
    np.testing.assert_allclose(
        _occupancy(game, params), (0.2762447239, 0.1681553043, 0.1918774396, 0.3637225322), atol=1e-10
    )
    seen = game.observables(params)
    np.testing.assert_allclose(seen["cooperation"], (0.444400028217, 0.468122163567), atol=1e-12)
    np.testing.assert_allclose(seen["mutual_cooperation"], 0.2762447239, atol=1e-10)
    np.testing.assert_allclose(seen["cooperation_CD"], (0.2, 0.5), atol=1e-12)
    # the second player's seat swaps CD and DC; without the swap the values differ
    assert not np.allclose(_values(game, (params[0], params[1][jnp.array([0, 1, 3, 2, 4])])), _values(game, params))


def test_seats():
    assert seat_states(2, 0) == (0, 1, 2, 3)
    assert seat_states(2, 1) == (0, 2, 1, 3)
    # joint CDD of three players: the second sees own D, then D on its right, then C
    assert seat_states(3, 1)[0b011] == 0b110
    assert state_names(2) == ("start", "CC", "CD", "DC", "DD")
    assert len(state_names(3)) == 9


@pytest.mark.parametrize("multiplier", [1.6, 2.5])
def test_public_goods_payoffs(multiplier):
    game = PublicGoods(num_players=3, multiplier=multiplier, gamma=0.9)
    everybody, nobody = (tuple(jnp.full(9, x) for _ in range(3)) for x in (40.0, -40.0))
    np.testing.assert_allclose(_values(game, everybody) * 0.1, multiplier - 1, atol=1e-9)
    np.testing.assert_allclose(_values(game, nobody), 0.0, atol=1e-9)
    lone = (everybody[0], nobody[1], nobody[2])
    np.testing.assert_allclose(
        _values(game, lone) * 0.1, (multiplier / 3 - 1, multiplier / 3, multiplier / 3), atol=1e-9
    )


def test_all_defect_and_all_cooperate_in_every_repeated_game():
    for name, entry in GAMES.items():
        if entry.cls is not RepeatedGame or "payoffs" not in entry.defaults:
            continue
        game = make(name)
        for logits, column in ((40.0, 0), (-40.0, 3)):
            values = _values(game, (jnp.full(5, logits), jnp.full(5, logits)))
            np.testing.assert_allclose(values * game.per_step, [row[column] for row in game.payoffs], atol=1e-9)


def test_single_precision_is_close_to_double():
    rng = np.random.default_rng(0)
    point = rng.normal(size=(2, 5)) * 2
    double = np.asarray(make("ipd").values(tuple(jnp.array(x) for x in point)))
    with jax.enable_x64(False):
        single = make("ipd").values(tuple(jnp.array(x, jnp.float32) for x in point))
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single, double, rtol=1e-5)
