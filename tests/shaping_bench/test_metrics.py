"""Evaluation of joint policies, convergence and consistency."""

import itertools

import jax
import numpy as np
import pytest

from shaping_bench import metrics
from shaping_bench.algorithms import ALGORITHMS
from shaping_bench.errors import BadInput
from shaping_bench.games import GAMES, make
from shaping_bench.games.base import Count, Game
from shaping_bench.games.matrix.memory_one import STRATEGIES, TEMPLATES
from shaping_bench.metrics import (
    CURVE_METRICS,
    METRICS,
    OBSERVABLES,
    consistency,
    convergence,
    definition,
    evaluate,
    evaluation,
    observable_names,
    reward_range,
)

P, Q = (0.7, 0.9, 0.2, 0.6, 0.1), (0.3, 0.8, 0.5, 0.4, 0.25)


def logits(p):
    with np.errstate(divide="ignore"):
        return np.clip(np.log(p) - np.log1p(-np.asarray(p, float)), -40.0, 40.0)


def draw(game, *lead, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(*lead, d)) for d in game.sizes]


# --- definitions


def test_every_metric_is_fully_defined():
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.formula
        assert metric.unit
        assert metric.source
        assert metric.direction in ("higher", "lower", "none")
        assert metric.low is None or metric.high is None or metric.low < metric.high
        assert metric.level in ("policy", "play", "curve", "rule", "report", "suite", "cost")


def test_metrics_apply_to_games_without_error():
    for name, entry in GAMES.items():
        if "payoffs" in entry.defaults or name not in ("matrix", "matrix-one-shot", "ordinal"):
            for metric in METRICS.values():
                assert metric.applies(make(name)) in (True, False)


def test_curve_metrics_exist():
    assert set(CURVE_METRICS) - {OBSERVABLES} <= set(METRICS)


def test_definitions_cover_observables_of_larger_games():
    game = make("public-goods")
    for name in observable_names(game):
        assert definition(name).name == name
        assert definition(name).applies(game)
    assert not definition("cooperation_CCC").applies(make("ipd"))
    assert definition("return") is METRICS["return"]


def test_what_games_count_by_one_name_is_told_of_each():
    """The two games with a hidden strategy each have a regret of their own, whose bounds are those of both."""
    for game in ("point-mass", "lanes"):
        own = {x.name: x for x in make(game).counts}["regret"]
        assert f"{own.doc} ({game})" in definition("regret").formula
        assert definition("regret").unit == own.unit
    assert definition("regret").low is None
    assert definition("collision").formula == "interactions in which the ego runs into the other"
    assert definition("inside").direction == "none"


# --- evaluation


def test_asymmetric_pair():
    out = evaluate(make("ipd"), [logits(P), logits(Q)])
    expected = {
        "return": (-1.508155701084, -1.579322107132),
        "welfare": (-3.087477808216,) * 2,
        "fairness": (1 - 0.071166406048 / 3,) * 2,
        "exploitation_gap": (0.071166406048, -0.071166406048),
        "cooperation": (0.444400028217, 0.468122163567),
        "mutual_cooperation": (0.2762447239,) * 2,
        "cooperation_CD": (0.2, 0.5),
        "cooperation_start": (0.7, 0.3),
        "br_value": (-1.303370786517, -1.336842105263),
        "held_value": (-0.848314606742, -2.331578947368),
        "exploitability": (-1.303370786517 + 1.579322107132, -1.336842105263 + 1.508155701084),
        "nash_conv": (0.447264916435,) * 2,
        "is_tft": (1.0, 0.0),
        "nearest_other": (1.0, 1.0),
        "diverged": (0.0, 0.0),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(out[name], value, atol=1e-10, err_msg=name)
        assert out[name].dtype == np.float64


def test_named_strategies_are_recognised():
    names = list(TEMPLATES)
    theta = np.array([logits(TEMPLATES[name]) for name in names])
    out = evaluate(make("ipd"), [theta, theta[::-1]])
    for k, name in enumerate(names):
        np.testing.assert_array_equal(out[f"nearest_{name}"][:, 0], np.eye(len(names))[k])
    np.testing.assert_allclose(sum(out[f"nearest_{name}"] for name in STRATEGIES), 1.0)
    np.testing.assert_allclose(out["match_tft_0.05"][names.index("all_d"), 0], 0.4)
    np.testing.assert_allclose(out["match_tft_0.02"][names.index("tft"), 0], 1.0)


def test_zero_determinant_metrics():
    extort = (0.0, 5 / 6, 0.3125, 25 / 48, 0.0)
    out = evaluate(make("ipd"), [logits(extort), logits(TEMPLATES["tft"])])
    np.testing.assert_allclose(out["zd_slope"], (1 / 3, 23 / 26), atol=1e-12)
    np.testing.assert_allclose(out["zd_baseline"], (-2.0, -1.0), atol=1e-12)
    np.testing.assert_array_equal(out["extortionate"], (1.0, 0.0))
    np.testing.assert_array_equal(out["nearest_zd_extort"], (1.0, 0.0))
    assert out["zd_sse"].max() < 1e-28


@pytest.mark.parametrize("name", ["imp", "matching-pennies"])
def test_uniform_equilibrium(name):
    game = make(name)
    (d, _) = game.sizes
    theta = np.zeros((2, d))
    theta[1, 0] = logits(0.9)
    out = evaluate(game, [theta, np.zeros((2, d))])
    np.testing.assert_allclose(out["nash_distance"], [[0.0, 0.0], [0.4, 0.0]], atol=1e-12)
    np.testing.assert_allclose(out["nash_conv"][0], 0.0, atol=1e-12)
    assert out["exploitability"][1, 0] > 0.01
    np.testing.assert_allclose(out["held_value"], -out["br_value"], atol=1e-12)
    if name == "imp":
        np.testing.assert_allclose(out["match_nash_0.05"], [[1.0, 1.0], [0.8, 1.0]])


def test_metrics_are_left_out_where_they_mean_nothing():
    assert "nash_distance" not in evaluate(make("ipd"), draw(make("ipd")))
    assert "zd_slope" not in evaluate(make("imp"), draw(make("imp")))
    assert not {"br_value", "fairness", "nearest_tft"} & set(evaluate(make("logistic"), draw(make("logistic"))))


def test_tandem_best_response_in_closed_form():
    out = evaluate(make("tandem"), [np.array([0.3]), np.array([-0.2])])
    np.testing.assert_allclose(out["return"], (0.59, -0.41), atol=1e-12)
    # The best response to a is 1 - a, worth 2 (1 - a) - 1, and leaves the other 2 a - 1.
    np.testing.assert_allclose(out["br_value"], (0.4, 1.4), atol=1e-12)
    np.testing.assert_allclose(out["held_value"], (-0.4, -1.4), atol=1e-12)
    np.testing.assert_allclose(out["nash_conv"], 1.4 + 0.4 - 0.59 + 0.41, atol=1e-12)
    np.testing.assert_allclose(out["parameter_sum"], 0.1, atol=1e-12)


def test_three_players():
    game = make("public-goods", multiplier=1.5)
    params = [np.full(9, 40.0), np.full(9, 40.0), np.full(9, -40.0)]
    out = evaluate(game, params)
    np.testing.assert_allclose(out["return"], (0.0, 0.0, 1.0), atol=1e-12)
    np.testing.assert_allclose(out["welfare"], 1.0, atol=1e-12)
    np.testing.assert_allclose(out["exploitation_gap"], (-0.5, -0.5, 1.0), atol=1e-12)
    spread = max(map(max, game.payoffs)) - min(map(min, game.payoffs))
    np.testing.assert_allclose(out["fairness"], 1 - (2 / 3) / spread, atol=1e-12)
    # Each cooperator gains 1/2 by defecting, the defector has nothing better.
    np.testing.assert_allclose(out["nash_conv"], 1.0, atol=1e-12)
    np.testing.assert_allclose(out["exploitability"], (0.25, 0.25, 0.5), atol=1e-12)
    np.testing.assert_allclose(out["cooperation"], (1.0, 1.0, 0.0), atol=1e-12)
    assert "held_value" not in out


def test_any_leading_axes_give_the_same_numbers():
    game = make("chicken", gamma=0.9)
    params = draw(game, 2, 3, 13)
    block = evaluate(game, params)
    single = evaluate(game, [theta[1, 2, 5] for theta in params])
    for name in block:
        assert block[name].shape == (2, 3, 13, 2)
        np.testing.assert_allclose(block[name][1, 2, 5], single[name], rtol=1e-12, atol=1e-12, err_msg=name)
    empty = evaluate(game, [theta[:0] for theta in params])
    assert empty["return"].shape == (0, 3, 13, 2)


def test_batches_are_seamless():
    game = make("ipd")
    params = draw(game, 4100)
    out = evaluate(game, params, names=["return", "cooperation"])
    expected = evaluate(game, [theta[4090:] for theta in params], names=["return", "cooperation"])
    for name, value in expected.items():
        np.testing.assert_allclose(out[name][4090:], value, rtol=1e-12)


def test_one_program_for_all_two_player_repeated_games():
    evaluate(make("ipd"), draw(make("ipd")))
    programs = evaluation._program.cache_info().currsize
    for name in ("imp", "chicken", "stag-hunt", "bos"):
        evaluate(make(name), draw(make(name)))
    assert evaluation._program.cache_info().currsize == programs


def test_asked_metrics_only():
    game = make("ipd")
    assert set(evaluate(game, draw(game), names=["welfare", "nash_distance"])) == {"welfare"}
    curve = evaluate(game, draw(game), names=CURVE_METRICS)
    assert {"return", "cooperation", "cooperation_DD", "match_tft_0.05", "diverged"} <= set(curve)
    assert "br_value" not in curve


def test_non_finite_policies_are_nan_and_diverged():
    game = make("ipd")
    first, second = draw(game, 4)
    first[1, 2], second[3, 0] = np.nan, np.inf
    out = evaluate(game, [first, second])
    np.testing.assert_array_equal(out["diverged"][:, 0], (0, 1, 0, 1))
    for name, value in out.items():
        if name != "diverged":
            assert np.isnan(value[[1, 3]]).all(), name
            assert np.isfinite(value[[0, 2]]).all(), name


def test_huge_logits_stay_finite():
    game = make("ipd")
    out = evaluate(game, [np.full(5, 1e30), np.full(5, -1e30)])
    np.testing.assert_allclose(out["return"], (-3.0, 0.0), atol=1e-12)
    np.testing.assert_allclose(out["br_value"], (0.0, -2.0), atol=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda g: evaluate(g, draw(g), names=["retrun"]), ("retrun", "return")),
        (lambda g: evaluate(g, draw(g), names=["influence"]), ("influence",)),
        (lambda g: evaluate(g, [np.zeros(5), np.zeros(4)]), ("params", "(4,)")),
        (lambda g: evaluate(g, [np.zeros((2, 5)), np.zeros((3, 5))]), ("params", "(3, 5)")),
        (lambda g: evaluate(g, [np.zeros(5)]), ("params",)),
        (lambda g: evaluate(make("ipd", gamma=np.array([0.5, 0.9])), draw(g)), ("array-valued",)),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(BadInput) as error:
        call(make("ipd"))
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


def test_reward_range():
    assert reward_range(make("ultimatum")) == 8.0
    assert reward_range(make("ipd")) == 3.0
    assert reward_range(make("tandem")) is None


# --- convergence


def test_convergence_of_a_geometric_approach():
    updates = np.arange(0, 101, 10)
    values = np.stack([1.0 - 0.5**updates, np.where(updates == 100, 0.5, 0.0)], axis=-1)
    out = convergence(updates, values, scale=3.0)
    np.testing.assert_array_equal(out["settled"], (1.0, 0.0))
    np.testing.assert_array_equal(out["updates_to_settle"], (10.0, np.nan))


def test_convergence_keeps_axes_and_marks_divergence():
    values = np.zeros((4, 5, 2))
    values[2, 3, 1] = np.nan
    out = convergence(np.array([0, 1, 2, 3]), values)
    assert out["settled"].shape == (5, 2)
    assert np.isnan(out["settled"][3, 1])
    assert np.isnan(out["settled"]).sum() == 1
    np.testing.assert_array_equal(np.delete(out["updates_to_settle"].ravel(), 7), 0.0)


def test_convergence_needs_two_records():
    assert np.isnan(convergence(np.array([0]), np.zeros((1, 3, 2)))["settled"]).all()
    moved = convergence(np.array([0, 200]), np.array([[0.0, 0.0], [1.0, 0.0]]))
    np.testing.assert_array_equal(moved["settled"], (0.0, 1.0))
    with pytest.raises(BadInput):
        convergence(np.arange(3), np.zeros((2, 2)))


# --- consistency


def tandem_recursion(beta, order):
    """Coefficients (a, b) of HOLA's direction a (x + y) + b in the tandem game."""
    a, b = -2.0, 2.0
    for _ in range(order):
        a, b = -2.0 * (1.0 + beta * a) ** 2, 2.0 - 2.0 * beta * b * (1.0 + beta * a)
    return a, b


def gauss_square():
    """Nodes and weights of a rule on [-1, 1]^2, exact for polynomials of degree 7; mean 1."""
    x, w = np.polynomial.legendre.leggauss(4)
    nodes = np.array(list(itertools.product(x, x)))
    return [nodes[:, :1], nodes[:, 1:]], np.outer(w, w).ravel() / 4.0


@pytest.mark.parametrize(
    ("beta", "order", "published"),
    [(1.0, 1, 128.0), (1.0, 2, 512.0), (0.5, 1, 40 / 3), (0.3, 1, 2.541), (0.1, 1, 0.07875), (0.1, 2, 0.00917)],
)
def test_consistency_of_hola_in_tandem(beta, order, published):
    points, weights = gauss_square()
    rule = ALGORITHMS["hola"](order=order, lookahead_lr=beta)
    violation = consistency(make("tandem"), [rule, rule], points)
    (a, b), (c, d) = tandem_recursion(beta, order), tandem_recursion(beta, order + 1)
    s = (points[0] + points[1])[:, 0]
    np.testing.assert_allclose(violation, np.repeat(((a - c) * s + b - d)[:, None] ** 2, 2, axis=1), atol=1e-12)
    assert weights @ violation.sum(axis=1) == pytest.approx(published, rel=1e-3)


def test_exact_lola_is_hola_of_order_one():
    game, (points, _) = make("tandem"), gauss_square()
    lola = ALGORITHMS["lola-exact"](lookahead_lr=0.3)
    hola = ALGORITHMS["hola"](order=1, lookahead_lr=0.3)
    np.testing.assert_allclose(consistency(game, [lola] * 2, points), consistency(game, [hola] * 2, points), rtol=1e-12)


def test_exact_lola_is_consistent_with_naive_opponents():
    game = make("matching-pennies")
    lola, naive = ALGORITHMS["lola-exact"](lookahead_lr=2.0), ALGORITHMS["naive"](lr=2.0)
    violation = consistency(game, [lola, naive], draw(game, 7))
    np.testing.assert_allclose(violation[:, 0], 0.0, atol=1e-24)
    assert (violation[:, 1] > 0).all()


def test_naive_is_consistent_with_opponents_that_do_not_learn():
    game = make("ipd")
    violation = consistency(game, [ALGORITHMS["naive"](), ALGORITHMS["tft"]()], draw(game, 3))
    np.testing.assert_allclose(violation[:, 0], 0.0, atol=1e-20)
    assert np.isnan(violation[:, 1]).all()


def test_consistency_needs_directions_and_finite_parameters():
    game = make("tandem")
    naive, best = ALGORITHMS["naive"](), ALGORITHMS["best-response"]()
    assert np.isnan(consistency(game, [naive, best], draw(game, 2))).all()
    first, second = draw(game, 2)
    first[0] = np.inf
    violation = consistency(game, [naive, naive], [first, second])
    assert np.isnan(violation[0]).all()
    assert np.isfinite(violation[1]).all()


@jax.tree_util.register_static
class Alone(Game):
    """One player, who is best off at 0."""

    gamma = 0.5

    @property
    def n_players(self):
        return 1

    @property
    def sizes(self):
        return (1,)

    def value(self, params, player):
        return -params[0][0] * params[0][0]


def test_one_player_has_no_others_and_divides_by_none():
    with np.errstate(all="raise"):
        got = metrics.evaluate(Alone(), [np.array([[0.0], [2.0]])])
        played = metrics.from_play(Alone(), {"return": np.array([[1.0], [3.0]])})
    np.testing.assert_array_equal(got["return"], [[0.0], [-4.0]])
    np.testing.assert_array_equal(played["welfare"], [[1.0], [3.0]])
    assert np.isnan(got["exploitation_gap"]).all()
    assert np.isnan(played["exploitation_gap"]).all()


def test_what_a_game_of_ones_own_counts_is_a_metric():
    class Orchard(Alone):
        counts = (
            Count("apples", "apples eaten"),
            Count("pears", "pears eaten"),
            Count("taste", "apples / (apples + pears)", share_of=("apples", "pears")),
        )

    played = {"return": np.zeros((2, 1)), "apples": np.array([[1.0], [0.0]]), "pears": np.array([[3.0], [0.0]])}
    np.testing.assert_array_equal(metrics.from_play(Orchard(), played)["taste"], [[0.25], [np.nan]])
    assert metrics.METRICS["own_coins"].direction == "higher"
    assert not metrics.METRICS["own_coins"].applies(Orchard())


def test_how_incomes_are_divided():
    """Gini of (1, 2, 3) is 2/9; nothing is said where somebody lost, or nobody got anything."""
    game = make("tensor")
    returns = np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [0.0, 0.0, 3.0], [-1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    got = metrics.from_play(game, {"return": returns})
    equality = np.array([7 / 9, 1.0, 1 / 3, np.nan, np.nan])
    np.testing.assert_allclose(got["equality"], np.repeat(equality[:, None], 3, axis=1))
    np.testing.assert_allclose(got["income_share"][:3], returns[:3] / [[6.0], [6.0], [3.0]])
    assert np.isnan(got["income_share"][3:]).all()
    assert "equality" not in metrics.from_play(make("ipd"), {"return": -returns[:, :2]})
    assert "equality" in metrics.from_play(make("negotiation"), {"return": returns[:, :2]})


def test_a_symmetric_game_of_three_has_its_metrics():
    joint = list(itertools.product((0, 1), repeat=3))
    crowd = make("matrix", payoffs=tuple(tuple(float(sum(a) - 2 * a[i]) for a in joint) for i in range(3)))
    rng = np.random.default_rng(0)
    got = metrics.evaluate(crowd, [rng.normal(size=(2, 9)) for _ in range(3)], names=["return", "welfare", "fairness"])
    assert crowd.symmetric
    np.testing.assert_allclose(got["return"].sum(axis=1), got["welfare"][:, 0])
