"""Theory of memory-one policies, against values known in closed form."""

import functools
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shaping_bench.games import make
from shaping_bench.games.matrix import memory_one as m1
from shaping_bench.games.matrix.repeated import RepeatedGame, seat_states

ALL_C, ALL_D, TFT, STFT, GRIM, WSLS, RANDOM = m1.TEMPLATES.values()
P, Q = (0.7, 0.9, 0.2, 0.6, 0.1), (0.3, 0.8, 0.5, 0.4, 0.25)
EXTORT = (0.0, 5 / 6, 0.3125, 25 / 48, 0.0)
"""Discounted extortion with chi = 3, phi = 0.1 in the prisoner's dilemma, gamma = 0.96."""


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def logits(p):
    with np.errstate(divide="ignore"):
        return tuple(np.clip(np.log(p) - np.log1p(-np.asarray(p, float)), -40.0, 40.0))


def joint(*policies):
    return tuple(logits(p) for p in policies)


@functools.partial(jax.jit, static_argnames="player")
def exploited(game, params, player):
    return m1.br_value(game, params, player), m1.held_value(game, params, player)


nash_conv = jax.jit(m1.nash_conv)
scores = jax.jit(lambda game, params: game.per_step * game.values(params))
fit = jax.jit(m1.zd_fit, static_argnames="player")
nearest = jax.jit(m1.nearest, static_argnames="player")


def name_of(policy, game=None):
    return m1.STRATEGIES[int(nearest(game or make("ipd"), joint(policy, RANDOM), 0))]


# --- values of known pairs


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (P, Q, (-1.508155701084, -1.579322107132)),
        (Q, P, (-1.579322107132, -1.508155701084)),
        (TFT, TFT, (-1.0, -1.0)),
        (TFT, ALL_D, (-2.04, -1.92)),
        (WSLS, ALL_D, (-2.510204081633, -0.979591836735)),
        ((1.0, 1.0, 0.5, 1.0, 0.5), ALL_D, (-2.52, -0.96)),
        (TFT, STFT, (-1.530612244898, -1.469387755102)),
        (WSLS, STFT, (-1.680732926152, -1.639089394781)),
        (GRIM, STFT, (-1.9632, -1.9584)),
        (RANDOM, RANDOM, (-1.5, -1.5)),
        (RANDOM, ALL_D, (-2.5, -1.0)),
        (EXTORT, ALL_C, (-0.714285714286, -1.571428571429)),
        (EXTORT, ALL_D, (-2.0, -2.0)),
        (EXTORT, TFT, (-1.836363636364, -1.945454545455)),
        (EXTORT, Q, (-1.451702212214, -1.817234070738)),
        ((1.0, 1.0, 0.375, 0.739583333333, 0.114583333333), ALL_D, (-2.2, -1.6)),
    ],
)
def test_scores_of_known_pairs(first, second, expected):
    np.testing.assert_allclose(scores(make("ipd"), joint(first, second)), expected, atol=2e-10)


def test_occupancy_of_the_asymmetric_pair():
    expected = (0.2762447239, 0.1681553043, 0.1918774396, 0.3637225322)
    np.testing.assert_allclose(make("ipd").occupancy(joint(P, Q)), expected, atol=1e-10)


def test_press_dyson_example_in_the_limit_of_no_discount():
    game = make("matrix", payoffs=((3.0, 0.0, 5.0, 1.0), (3.0, 5.0, 0.0, 1.0)), gamma=1 - 1e-9)
    policy = (0.0, 11 / 13, 1 / 2, 7 / 26, 0.0)
    params = joint(policy, ALL_C)
    np.testing.assert_allclose(scores(game, params), (41 / 11, 21 / 11), atol=1e-6)
    slope, baseline, sse, extortionate = fit(game, params, 0)
    np.testing.assert_allclose((slope, baseline), (1 / 3, 1.0), atol=1e-6)
    assert sse < 1e-15
    assert extortionate


# --- best responses


@pytest.mark.parametrize(
    ("policy", "response", "br", "held"),
    [
        (P, ALL_C, -1.303370786517, -0.848314606742),
        (Q, ALL_D, -1.336842105263, -2.331578947368),
        (TFT, ALL_C, -1.0, -1.0),
        (GRIM, GRIM, -1.0, -1.0),
        (WSLS, ALL_D, -0.979591836735, -2.510204081633),
        (STFT, ALL_C, -1.08, -0.96),
        (ALL_C, ALL_D, 0.0, -3.0),
        (ALL_D, ALL_D, -2.0, -2.0),
        (EXTORT, ALL_C, -1.571428571429, -0.714285714286),
        ((1.0, 1.0, 0.5, 1.0, 0.5), ALL_D, -0.96, -2.52),
    ],
)
@pytest.mark.parametrize("seat", [0, 1])
def test_exact_best_responses(policy, response, br, held, seat):
    game = make("ipd")
    params = joint(policy, RANDOM) if seat == 0 else joint(RANDOM, policy)
    np.testing.assert_allclose(exploited(game, params, seat), (br, held), atol=1e-10)
    codes = [int(p > 0.5) for p in response]
    answer = np.asarray(jax.jit(game.best_response, static_argnums=1)(params, 1 - seat))
    np.testing.assert_array_equal(answer > 0, codes)


def test_nash_conv_of_the_asymmetric_pair():
    assert nash_conv(make("ipd"), joint(P, Q)) == pytest.approx(0.447264916435, abs=1e-11)


@pytest.mark.parametrize("policy", [TFT, GRIM, ALL_D])
def test_equilibria_have_no_nash_conv(policy):
    assert abs(nash_conv(make("ipd"), joint(policy, policy))) < 1e-12


def test_ties_are_held_against_the_owner():
    # Against a policy whose payoffs do not depend on the opponent, every response is best.
    game = make("matrix", payoffs=((0.0, -5.0, 0.0, -5.0), (2.0, 2.0, 2.0, 2.0)))
    br, held = exploited(game, joint(P, Q), 0)
    np.testing.assert_allclose((br, held), (2.0, -5.0), atol=1e-10)


def test_best_response_beats_every_deterministic_policy():
    game, params = make("chicken"), joint(P, Q)
    tables = np.array(list(itertools.product((-40.0, 40.0), repeat=5)))
    values = jax.vmap(lambda theta: game.per_step * game.value((params[0], theta), 1))(tables)
    assert exploited(game, params, 0)[0] == pytest.approx(float(values.max()), abs=1e-9)


def test_single_deviators_of_three_players():
    game = make("public-goods", multiplier=1.6)
    free_rider = 1.6 * 2 / 3
    everybody_cooperates = (np.full(9, 40.0),) * 3
    assert jax.jit(m1.br_value, static_argnums=2)(game, everybody_cooperates, 0) == pytest.approx(free_rider)
    assert nash_conv(game, everybody_cooperates) == pytest.approx(3 * (free_rider - 0.6))
    assert nash_conv(game, (np.full(9, -40.0),) * 3) == pytest.approx(0.0, abs=1e-12)


# --- seats


def test_turning_the_table_turns_the_values():
    game = make("matrix", payoffs=((1.0, -2.0, 3.0, 0.5), (0.3, 4.0, -1.0, 2.0)), gamma=0.8)
    seated, turned = m1.from_seat(game, joint(P, Q), 1)
    np.testing.assert_allclose(scores(seated, turned), scores(game, joint(P, Q))[::-1], rtol=1e-12)


def test_turning_the_table_of_three_players():
    rng = np.random.default_rng(0)
    game = RepeatedGame(payoffs=tuple(map(tuple, rng.normal(size=(3, 8)))), gamma=0.7)
    params = tuple(rng.normal(size=(3, 9)))
    expected = scores(game, params)
    for player in range(3):
        np.testing.assert_allclose(scores(*m1.from_seat(game, params, player)), np.roll(expected, -player), rtol=1e-10)
    assert seat_states(3, 1)[0b100] == 0b001  # the first player sits last to the second one's right


# --- named strategies


@pytest.mark.parametrize(("name", "table"), m1.TEMPLATES.items())
def test_templates_name_themselves(name, table):
    assert name_of(table) == name
    assert name_of(np.clip(table, 0.2, 0.8)) == name


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        ((1.0, 1.0, 0.3, 1.0, 0.3), "gtft"),
        ((1.0, 1.0, 0.02, 1.0, 0.02), "tft"),
        (EXTORT, "zd_extort"),
        (P, "other"),
        ((1.0, 0.0, 1.0, 0.0, 1.0), "other"),
    ],
)
def test_other_names(policy, name):
    assert name_of(policy) == name


def test_argmax_code_reads_as_binary():
    assert int(m1.argmax_code(logits(TFT))) == 0b11010
    assert int(m1.argmax_code(logits(P))) == 0b11010
    assert int(m1.argmax_code(logits(ALL_D))) == 0


def test_matches_count_entries():
    theta = logits((0.97, 0.985, 0.5, 0.96, 0.03))
    assert float(m1.match(theta, TFT, 0.05)) == pytest.approx(4 / 5)
    assert float(m1.match(theta, TFT, 0.02)) == pytest.approx(1 / 5)
    assert float(m1.match(logits(ALL_D), TFT, 0.05)) == pytest.approx(2 / 5)


def test_distance_is_the_largest_gap():
    assert float(m1.distance(logits(P), TFT)) == pytest.approx(0.4)


# --- zero determinants


def test_fit_of_the_extortion_strategy():
    for seat in (0, 1):
        params = joint(EXTORT, Q) if seat == 0 else joint(Q, EXTORT)
        slope, baseline, sse, extortionate = fit(make("ipd"), params, seat)
        np.testing.assert_allclose((slope, baseline), (1 / 3, -2.0), atol=1e-12)
        assert sse < 1e-30
        assert extortionate


def test_tit_for_tat_enforces_its_discounted_slope():
    slope, baseline, sse, extortionate = fit(make("ipd"), joint(TFT, Q), 0)
    np.testing.assert_allclose((slope, baseline), (23 / 26, -1.0), atol=1e-12)
    assert sse < 1e-28
    assert not extortionate


@pytest.mark.parametrize(("policy", "delta"), [(GRIM, 1.0), (WSLS, 2.0), (ALL_D, 0.0)])
def test_residual_of_a_donation_game(policy, delta):
    assert float(fit(make("ipd"), joint(policy, Q), 0).sse) == pytest.approx(0.96**2 * delta**2 / 4, abs=1e-12)


def test_unconditional_policies_are_not_extortionate():
    for policy in (ALL_C, ALL_D):
        slope, _, _, extortionate = fit(make("ipd"), joint(policy, Q), 0)
        assert float(slope) == pytest.approx(-1 / 2)
        assert not extortionate


# --- properties of random games and policies

policies = st.tuples(*[st.floats(-8.0, 8.0)] * 5)
discounts = st.floats(0.05, 0.98)
rewards = st.tuples(*[st.floats(-5.0, 5.0).map(lambda x: round(x, 3))] * 4)
common = settings(max_examples=60, deadline=None)


@common
@given(policies, policies, discounts)
def test_occupancy_is_a_distribution(p, q, gamma):
    occupancy = np.asarray(occupied(make("ipd", gamma=gamma), (p, q)))
    assert occupancy.sum() == pytest.approx(1.0, abs=1e-12)
    assert (occupancy > -1e-12).all()


occupied = jax.jit(lambda game, params: game.occupancy(params))


@common
@given(policies, policies, discounts)
def test_donation_game_identity(p, q, gamma):
    game = make("ipd", gamma=gamma)
    a, b, c, _ = np.asarray(occupied(game, (p, q)))
    x, y = a + b, a + c
    np.testing.assert_allclose(scores(game, (p, q)), (-2 - x + 2 * y, -2 - y + 2 * x), atol=1e-10)


@common
@given(rewards, rewards, policies, policies, discounts)
def test_a_best_response_is_no_worse_than_anything_played(r1, r2, p, q, gamma):
    game, params = make("matrix", payoffs=(r1, r2), gamma=gamma), (p, q)
    played = np.asarray(scores(game, params))
    for player in (0, 1):
        br, held = exploited(game, params, player)
        assert float(br) >= played[1 - player] - 1e-9
        assert min(game.payoffs[player]) - 1e-9 <= float(held) <= max(game.payoffs[player]) + 1e-9
    assert float(nash_conv(game, params)) >= -1e-9


@common
@given(rewards, policies, policies, discounts)
def test_zero_sum_games_hold_minus_the_best_response(r, p, q, gamma):
    game = make("matrix", payoffs=(r, tuple(-x for x in r)), gamma=gamma)
    for player in (0, 1):
        br, held = exploited(game, (p, q), player)
        assert float(held) == pytest.approx(-float(br), abs=1e-6)


@common
@given(policies, policies)
def test_the_fitted_line_holds_for_zero_determinant_policies(p, q):
    # Unconditional on the own last action: pCC - pCD = pDC - pDD, so delta is zero.
    start, after_c, after_d = p[0], p[1], p[2]
    policy = (start, after_c, after_d, after_c, after_d)
    game, params = make("ipd"), (policy, q)
    slope, baseline, sse, _ = fit(game, params, 0)
    own, other = scores(game, params)
    assert float(sse) < 1e-24
    assert float(slope * (own - baseline) - (other - baseline)) == pytest.approx(0.0, abs=1e-7)
