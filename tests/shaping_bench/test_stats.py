"""Aggregates against hand-computed numbers, brute force and their invariances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shaping_bench import stats

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


def test_performance_profile_by_hand():
    runs = [np.array([0.0, 1.0, 1.0, 2.0]), np.array([5.0])]
    got = stats.performance_profile(runs, [-1.0, 0.0, 1.0, 4.9, 5.0])
    np.testing.assert_allclose(got, [1.0, (0.75 + 1) / 2, (0.25 + 1) / 2, 0.5, 0.0])


def test_bootstrap_of_the_mean_agrees_with_normal_theory():
    x = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = stats.bootstrap_interval(stats.mean, stats.strata(x), reps=4000)
    half = 1.96 * x.std(ddof=1) / 20
    assert (low, high) == (pytest.approx(x.mean() - half, abs=0.04), pytest.approx(x.mean() + half, abs=0.04))


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
