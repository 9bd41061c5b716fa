"""Aggregates against hand-computed numbers, brute force, rliable and their invariances."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shaping_bench.analysis import stats

NAN = float("nan")
SCORES = arrays(np.float64, st.tuples(st.integers(2, 12), st.integers(1, 3)), elements=st.floats(-100, 100, width=32))


def test_aggregate_of_one_task_by_hand():
    # Quartiles cut off of eight runs: 2 + 3 + 4 + 5 over four.
    got = stats.aggregate([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 107.0])
    assert got.mean == 16.0
    assert got.iqm == 3.5
    assert got.median == 3.5
    assert got.std == pytest.approx(np.sqrt(sum((x - 16.0) ** 2 for x in (0, 1, 2, 3, 4, 5, 6, 107)) / 7))
    assert (got.n, got.runs) == (8, 8)


def test_diverged_runs_are_excluded_and_counted():
    got = stats.aggregate([1.0, NAN, 3.0, np.inf])
    assert (got.mean, got.n, got.runs) == (2.0, 2, 4)
    assert got.std == pytest.approx(np.sqrt(2.0))


def test_nothing_finite_gives_nan_and_no_warning():
    got = stats.aggregate([NAN, NAN])
    assert np.isnan([got.mean, got.std, got.median, got.iqm]).all()
    assert (got.n, got.runs) == (0, 2)
    assert np.isnan(stats.bootstrap_interval(stats.mean, stats.strata([NAN]))).all()


def test_one_run_has_no_spread():
    assert np.isnan(stats.aggregate([1.5]).std)


def test_tasks_weigh_the_same_whatever_they_lost():
    scores = np.array([[0.0, 10.0], [0.0, NAN], [0.0, NAN], [4.0, NAN]])
    got = stats.aggregate(scores)
    assert got.mean == pytest.approx((1.0 + 10.0) / 2)
    # Over seeds: the means of what each seed has, 5, 0, 0 and 4.
    assert got.std == pytest.approx(np.std([5.0, 0.0, 0.0, 4.0], ddof=1))
    assert (got.n, got.runs) == (5, 8)


def test_probability_of_improvement_by_hand():
    # Pairs (1,0) (1,2) (3,0) (3,2): three of four won; then one tie, which counts half.
    x, y = [np.array([1.0, 3.0])], [np.array([0.0, 2.0])]
    assert stats.probability_of_improvement(x, y) == 0.75
    assert stats.probability_of_improvement([np.array([1.0])], [np.array([1.0])]) == 0.5
    both = stats.probability_of_improvement([*x, np.array([0.0])], [*y, np.array([5.0])])
    assert both == pytest.approx((0.75 + 0.0) / 2)


def test_probability_of_improvement_wants_the_same_tasks():
    with pytest.raises(ValueError, match="same tasks"):
        stats.probability_of_improvement([np.array([1.0])], [])


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 130])
def test_many_tasks_at_once_are_the_same_bits_as_one_by_one(size):
    table = np.random.default_rng(size).normal(size=(50, size))
    for row, found in zip(table, stats.aggregates(table), strict=True):
        alone = row.mean(), row.std(ddof=1) if size > 1 else np.nan, np.median(row), stats.iqm([row])
        np.testing.assert_array_equal([found.mean, found.std, found.median, found.iqm], alone)
        assert (found.n, found.runs) == (size, size)
    assert float(stats.mean(list(table))) == np.array([row.mean() for row in table]).mean()
    assert float(stats.mean([np.zeros(size)])) == 0.0


def test_looking_at_all_pairs_of_few_runs_is_the_same_bits(monkeypatch):
    draw = np.random.default_rng(1)
    first, second = (list(draw.integers(4, size=(7, size)).astype(float)) for size in (5, 6))
    units = [
        stats.Units((np.arange(len(x[0])),) * 7, (("seeds", len(x[0])),) * 7, (len(x[0]),) * 7) for x in (first, second)
    ]

    def found():
        return (
            float(stats.probability_of_improvement(first, second)),
            stats.bootstrap(stats.probability_of_improvement, first, second, units=units, reps=50).tobytes(),
        )

    at_once = found()
    monkeypatch.setattr(stats, "FEW_PAIRS", 0)
    assert found() == at_once


def test_performance_profile_by_hand():
    runs = [np.array([0.0, 1.0, 1.0, 2.0]), np.array([5.0])]
    got = stats.performance_profile(runs, [-1.0, 0.0, 1.0, 4.9, 5.0])
    np.testing.assert_allclose(got, [1.0, (0.75 + 1) / 2, (0.25 + 1) / 2, 0.5, 0.0])


def test_bootstrap_of_the_mean_agrees_with_normal_theory():
    x = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = stats.bootstrap_interval(stats.mean, stats.strata(x), reps=4000)
    half = 1.96 * x.std(ddof=1) / 20
    assert (low, high) == (pytest.approx(x.mean() - half, abs=0.015), pytest.approx(x.mean() + half, abs=0.015))


def test_bootstrap_stays_within_its_task():
    # Two constant tasks: resampling across them would spread the mean, within them it cannot.
    scores = np.tile([0.0, 10.0], (30, 1))
    assert stats.bootstrap_interval(stats.mean, stats.strata(scores)) == (5.0, 5.0)


def test_bootstrap_is_determined_by_its_seed():
    x = stats.strata(np.random.default_rng(1).normal(size=(20, 2)))
    first = stats.bootstrap_interval(stats.iqm, x, seed=3)
    assert first == stats.bootstrap_interval(stats.iqm, x, seed=3)
    assert first != stats.bootstrap_interval(stats.iqm, x, seed=4)


def test_bootstrap_in_chunks_covers_all_resamples(monkeypatch):
    x = stats.strata(np.random.default_rng(1).normal(size=50))
    monkeypatch.setattr(stats, "MAX_DRAWS", 500)
    low, high = stats.bootstrap_interval(stats.mean, x, reps=1003)
    assert low < float(stats.mean(x)) < high


def test_bootstrap_of_a_comparison():
    rng = np.random.default_rng(2)
    x, y = stats.strata(rng.normal(1, 1, 60)), stats.strata(rng.normal(0, 1, 60))
    low, high = stats.bootstrap_interval(stats.probability_of_improvement, x, y, reps=500)
    assert 0.5 < low < float(stats.probability_of_improvement(x, y)) < high < 1.0


@settings(max_examples=60, deadline=None)
@given(SCORES, st.floats(-50, 50, width=32), st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_statistics_move_and_scale_with_the_scores(scores, shift, scale):
    for statistic in stats.STATISTICS.values():
        moved = statistic(stats.strata(scores * scale + shift))
        np.testing.assert_allclose(moved, statistic(stats.strata(scores)) * scale + shift, atol=1e-6)
    np.testing.assert_allclose(stats.std(scores * scale + shift), stats.std(scores) * scale, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(SCORES, st.randoms(use_true_random=False))
def test_statistics_do_not_depend_on_the_order_of_seeds(scores, random):
    order = list(range(len(scores)))
    random.shuffle(order)
    for statistic in stats.STATISTICS.values():
        np.testing.assert_allclose(statistic(stats.strata(scores[order])), statistic(stats.strata(scores)), atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(SCORES)
def test_statistics_and_interval_lie_within_the_scores(scores):
    runs = stats.strata(scores)
    for statistic in stats.STATISTICS.values():
        low, high = stats.bootstrap_interval(statistic, runs, reps=50)
        slack = 1e-9 + 1e-9 * np.abs(scores).max()
        assert scores.min() - slack <= low <= high <= scores.max() + slack
        assert scores.min() - slack <= statistic(runs) <= scores.max() + slack


@settings(max_examples=60, deadline=None)
@given(SCORES, SCORES)
def test_improvement_is_antisymmetric_and_counts_pairs(first, second):
    x, y = stats.strata(first[:, 0]), stats.strata(second[:, 0])
    got = float(stats.probability_of_improvement(x, y))
    wins = np.mean([(a > b) + 0.5 * (a == b) for a in x[0] for b in y[0]])
    assert got == pytest.approx(wins)
    assert got + float(stats.probability_of_improvement(y, x)) == pytest.approx(1.0)


@settings(max_examples=60, deadline=None)
@given(SCORES)
def test_profile_falls_and_integrates_to_the_mean(scores):
    runs = stats.strata(scores)
    low, high = scores.min() - 1.0, scores.max() + 1.0
    levels = np.linspace(low, high, 4001)
    profile = stats.performance_profile(runs, levels)
    assert profile[0] == 1.0
    assert profile[-1] == 0.0
    assert (np.diff(profile) <= 0).all()
    area = profile.mean() * (high - low)
    assert low + area == pytest.approx(float(stats.mean(runs)), abs=2 * (high - low) / 4000)


# --- resampling ---------------------------------------------------------------------------

WEIGHTED = [stats.mean, stats.median, stats.iqm]


@pytest.mark.parametrize("statistic", WEIGHTED)
def test_a_weight_is_how_often_a_run_counts(statistic):
    rng = np.random.default_rng(0)
    runs = [rng.integers(0, 5, 7).astype(float), rng.normal(size=10)]
    drawn = [rng.integers(len(x), size=(50, len(x))) for x in runs]
    weights = [np.stack([np.bincount(row, minlength=len(x)) for row in d]) for x, d in zip(runs, drawn, strict=True)]
    got = statistic(runs, [w.astype(float) for w in weights])
    expected = [float(statistic([x[d[r]] for x, d in zip(runs, drawn, strict=True)])) for r in range(50)]
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_comparisons_and_profiles_of_weighted_runs():
    rng = np.random.default_rng(1)
    x, y = [rng.integers(0, 4, 6).astype(float)], [rng.integers(0, 4, 9).astype(float)]
    picks = rng.integers(6, size=(20, 6)), rng.integers(9, size=(20, 9))
    v, w = ([np.stack([np.bincount(row, minlength=p.shape[1]) for row in p]).astype(float)] for p in picks)
    levels = [0.5, 2.0]
    got = stats.probability_of_improvement(x, y, v, w), stats.performance_profile(x, levels, v)
    for r in range(20):
        first, second = [x[0][picks[0][r]]], [y[0][picks[1][r]]]
        assert got[0][r] == pytest.approx(float(stats.probability_of_improvement(first, second)), abs=1e-12)
        np.testing.assert_allclose(got[1][r], stats.performance_profile(first, levels), atol=1e-12)


def blocks(num_tasks):
    """Twelve runs of four units, three each."""
    of = np.repeat(np.arange(4), 3)
    return stats.Units((of,) * num_tasks, (("preparations", 4),) * num_tasks, (4,) * num_tasks)


def test_runs_of_a_unit_are_resampled_together():
    # Runs of a unit are equal: the interval is that of four numbers, not of twelve.
    four = np.array([0.0, 1.0, 5.0, 9.0])
    twelve = [np.repeat(four, 3)]
    assert stats.bootstrap_interval(stats.mean, twelve, units=[blocks(1)]) == stats.bootstrap_interval(
        stats.mean, [four], units=[stats.Units((np.arange(4),), (("preparations", 4),), (4,))]
    )
    low, high = stats.bootstrap_interval(stats.mean, twelve, units=[blocks(1)])
    naive_low, naive_high = stats.bootstrap_interval(stats.mean, twelve)
    assert high - low > 1.4 * (naive_high - naive_low)
    assert stats.standard_error(twelve, blocks(1)) == pytest.approx(np.std(four, ddof=1) / 2)
    assert stats.standard_error(twelve, stats.apart(twelve)) == pytest.approx(np.std(twelve[0], ddof=1) / np.sqrt(12))


def test_tasks_of_one_pool_share_their_seeds():
    # What a seed gains in one task it loses in the other: their mean does not vary.
    x = np.random.default_rng(2).normal(size=20)
    runs = [x, -x]
    shared = stats.Units((np.arange(20),) * 2, ("seeds",) * 2, (20, 20))
    assert stats.bootstrap_interval(stats.mean, runs, units=[shared]) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert stats.standard_error(runs, shared) == pytest.approx(0.0, abs=1e-12)
    low, high = stats.bootstrap_interval(stats.mean, runs)
    assert high - low > 0.3
    assert stats.standard_error(runs, stats.apart(runs)) == pytest.approx(np.std(x, ddof=1) / np.sqrt(20) / np.sqrt(2))


def test_samples_of_one_pool_share_their_seeds():
    rng = np.random.default_rng(3)
    common = rng.normal(size=30)
    x, y = [common + 0.01 * rng.normal(size=30)], [common]
    units = stats.Units((np.arange(30),), ("seeds",), (30,))

    def difference(x, y, v, w):
        return stats.mean(x, v) - stats.mean(y, w)

    paired, unpaired = (
        np.subtract(*stats.bootstrap_interval(difference, x, y, units=u)) for u in ([units, units], None)
    )
    assert abs(paired) < 0.1 * abs(unpaired)


def test_resamples_that_lost_a_task_go_without_it():
    runs = [np.array([1.0]), np.array([0.0, 2.0])]
    # One of three seeds has a run in the first task; resamples without it have the second task only.
    units = stats.Units((np.array([0]), np.array([1, 2])), ("seeds",) * 2, (3, 3))
    values = stats.bootstrap(stats.mean, runs, units=[units])
    assert np.isfinite(values).mean() > 0.99
    assert set(np.round(values[np.isfinite(values)], 6)) <= {
        0.0,
        0.5,
        0.666667,
        0.833333,
        1.0,
        1.166667,
        1.333333,
        1.5,
        2.0,
    }


def test_the_profile_has_intervals():
    x = [np.random.default_rng(4).normal(size=40)]
    levels = np.linspace(-1, 1, 5)
    low, high = stats.profile_interval(x, levels)
    point = stats.performance_profile(x, levels)
    assert ((low < point) & (point < high)).all()
    # Each is the interval of a share.
    expected = 1.96 * np.sqrt(point * (1 - point) / 40)
    np.testing.assert_allclose((high - low) / 2, expected, atol=0.03)
    np.testing.assert_array_equal(stats.profile_interval(x, levels), [low, high])


# --- against rliable ----------------------------------------------------------------------

RLIABLE = json.loads((Path(__file__).parent / "fixtures" / "rliable.json").read_text())
SAME_AS = {
    "mean": stats.mean,
    "iqm": stats.iqm,
}
"""rliable's median is over tasks of means; ``stats.median``, of all runs, is another statistic."""


@pytest.fixture(params=sorted(RLIABLE["sets"]))
def theirs(request):
    return RLIABLE["sets"][request.param]


def of_set(theirs):
    """Statistic by name with its samples, as functions of strata and weights."""
    first, second = (stats.strata(np.array(theirs[key])) for key in ("first", "second"))
    levels = theirs["thresholds"]
    return {
        **{name: (statistic, (first,)) for name, statistic in SAME_AS.items()},
        "profile": (lambda x, w=None: stats.performance_profile(x, levels, w), (first,)),
        "probability_of_improvement": (stats.probability_of_improvement, (first, second)),
    }


def test_points_are_rliables_to_the_digit(theirs):
    for name, (statistic, samples) in of_set(theirs).items():
        np.testing.assert_allclose(statistic(*samples), theirs[name]["point"], rtol=0, atol=1e-12, err_msg=name)


def test_intervals_are_rliables_within_resampling_error(theirs):
    """Their ends are the 2.5 and 97.5 % points of our resamples, as ours are.

    The share of resamples below an end that R resamples have found scatters by sqrt(p (1 - p) / R); the
    mean over their K intervals by as much over sqrt(K). Five of these are 0.9 %. Where scores are
    few, many resamples are equal to an end, and the point lies among them.
    """
    p, ours = 0.025, 10 * RLIABLE["resamples"]
    tolerance = 5 * np.sqrt(p * (1 - p) * (1 / RLIABLE["resamples"] / RLIABLE["repeats"] + 1 / ours))
    for name, (statistic, samples) in of_set(theirs).items():
        values = stats.bootstrap(statistic, *samples, reps=ours).reshape(ours, -1)
        ends = np.array(theirs[name]["intervals"]).reshape(RLIABLE["repeats"], 2, -1)
        own = stats.interval(values)
        for end, point in ((0, p), (1, 1 - p)):
            assert ((values < own[end]).mean(axis=0) <= point + 1e-9).all(), name
            assert ((values <= own[end]).mean(axis=0) >= point - 1e-9).all(), name
            below = (values[:, None] < ends[:, end] - 1e-9).mean(axis=(0, 1))
            upto = (values[:, None] <= ends[:, end] + 1e-9).mean(axis=(0, 1))
            assert (below <= point + tolerance).all(), name
            assert (upto >= point - tolerance).all(), name


# --- comparisons --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 9])
def test_the_exchange_test_is_fishers(size):
    rng = np.random.default_rng(5)
    x, y = rng.normal(0.7, 1.0, size), rng.normal(0.0, 1.0, size)
    for statistic, plain in ((stats.mean, np.mean), (stats.median, np.median)):
        oracle = scipy.stats.permutation_test(
            (x, y),
            lambda a, b, axis, plain=plain: plain(a, axis=axis) - plain(b, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=np.inf,
        )
        got = stats.exchange_test([x], [y], [np.arange(size)], statistic)
        assert got == pytest.approx(oracle.pvalue, abs=1e-12)


def test_the_exchange_test_samples_what_it_cannot_enumerate():
    rng = np.random.default_rng(6)
    x, y = rng.normal(0.4, 1.0, 40), rng.normal(0.0, 1.0, 40)
    units = [np.arange(40)]
    got = stats.exchange_test([x], [y], units)
    assert got == pytest.approx(scipy.stats.ttest_rel(x, y).pvalue, abs=0.02)
    assert got == stats.exchange_test([x], [y], units)
    assert stats.exchange_test([x], [y], units, lambda *a: stats.mean(*a)) == pytest.approx(got, abs=1e-9)
    assert stats.exchange_test([x + 9], [y], units) == pytest.approx(1 / stats.EXCHANGES)


def test_few_units_tell_nothing_apart():
    x = np.repeat([5.0, 6.0], 50)
    assert stats.exchange_test([x], [x - 5], [np.repeat([0, 1], 50)]) == 0.5
    assert stats.exchange_test([x], [x - 5], [np.arange(100)]) < 0.001
    assert stats.exchange_test([x], [x], [np.arange(100)]) == 1.0
    assert np.isnan(stats.exchange_test([], [], []))


def test_the_exchange_test_keeps_its_level():
    rng = np.random.default_rng(7)
    p = [stats.exchange_test([rng.lognormal(size=8)], [rng.lognormal(size=8)], [np.arange(8)]) for _ in range(400)]
    # At most its level; 400 trials scatter by 0.011.
    assert np.mean(np.array(p) <= 0.05) < 0.05 + 3 * 0.011


def test_holm_by_hand():
    # 0.01 * 4, 0.02 * 3, then 0.03 * 2 and 0.04 * 1, which may not fall below what precedes them.
    np.testing.assert_allclose(stats.holm([0.04, 0.01, NAN, 0.03, 0.02]), [0.06, 0.04, NAN, 0.06, 0.06])
    np.testing.assert_allclose(stats.holm([0.9, 0.8]), [1.0, 1.0])
    assert stats.holm([]).size == 0


# --- ranks and fields ---------------------------------------------------------------------


def field_of_three():
    """Three learners, two tasks; the third did not play the second."""
    a = [np.array([3.0, 3.0]), np.array([1.0, 1.0])]
    b = [np.array([2.0, 2.0]), np.array([1.0, 1.0])]
    c = [np.array([5.0, 5.0]), np.array([])]
    return [a, b, c], np.array([[True, True], [True, True], [True, False]])


def test_ranks_by_hand():
    samples, played = field_of_three()
    got = stats.ranks(samples, played, reps=50)
    # Second, third and first; then a tie for the first two places.
    np.testing.assert_allclose(got.mean, [(2 + 1.5) / 2, (3 + 1.5) / 2, 1.0])
    np.testing.assert_allclose(got.interval, [got.mean, got.mean])
    np.testing.assert_allclose(got.distribution, [[0.25, 0.75, 0.0], [0.25, 0.25, 0.5], [1.0, 0.0, 0.0]])


def test_who_lost_every_run_is_last():
    got = stats.ranks([[np.array([])], [np.array([1.0, 2.0])]], reps=20)
    np.testing.assert_allclose(got.mean, [2.0, 1.0])


def test_ranks_vary_with_the_seeds():
    rng = np.random.default_rng(8)
    samples = [[rng.normal(shift, 1.0, 30)] for shift in (0.0, 0.1, 3.0)]
    got = stats.ranks(samples, reps=400)
    np.testing.assert_allclose(got.distribution.sum(axis=0), 1.0)
    np.testing.assert_allclose(got.distribution.sum(axis=1), 1.0)
    assert got.distribution[2, 0] == 1.0
    assert 0.02 < got.distribution[0, 1] < 0.98
    np.testing.assert_allclose(got.interval[:, 2], 1.0)


def test_average_improvement_is_that_over_each_of_the_others():
    rng = np.random.default_rng(9)
    samples = [[rng.integers(0, 4, n).astype(float), rng.normal(size=n)] for n in (5, 8, 6)]
    samples[2][1] = np.array([])
    got = stats.average_improvement(samples)

    def over(a, b, t):
        return float(stats.probability_of_improvement([samples[a][t]], [samples[b][t]]))

    first = (over(0, 1, 0) + over(0, 2, 0)) / 2, over(0, 1, 1)
    assert got[0] == pytest.approx(np.mean(first))
    assert got[2] == pytest.approx((over(2, 0, 0) + over(2, 1, 0)) / 2)
    weights = [[np.ones((3, len(x))) for x in runs] for runs in samples]
    np.testing.assert_allclose(stats.average_improvement(samples, weights), [got] * 3)
