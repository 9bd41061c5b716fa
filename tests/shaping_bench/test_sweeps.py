"""Sweeps come together from stored cells, and only from cells that differ in one number."""

import numpy as np
import pytest

from shaping_bench import results
from shaping_bench.errors import BadInput
from shaping_bench.sweeps import series
from tests.shaping_bench.synthetic_results import write_cell, write_suite


def learner(label, name, **hyperparameters):
    return {
        "name": name, "label": label, "hyperparameters": hyperparameters, "access": "gradients",
        "needs_preparation": False, "preparation": None,
    }  # fmt: skip


LOLA = learner("lola", "lola", lr=1.0, lookahead_lr=0.5)


def naive(lr, optimiser="sgd"):
    given = [f"lr={lr}"] * (lr != 1.0) + [f"optimiser='{optimiser}'"] * (optimiser != "sgd")
    return learner(f"naive({','.join(given)})" if given else "naive", "naive", lr=lr, optimiser=optimiser)


def cell(directory, *players, game="ipd", value=0.0, **more):
    """Four seeds whose returns are value - 1, value, value, value + 1 in seat 1, and ten more in seat 2."""
    own = value + np.array([-1.0, 0.0, 0.0, 1.0])
    finals = {"return": np.stack([own, own + 10.0], axis=1)}
    return write_cell(directory, game, [x["label"] for x in players], finals, learners=list(players), **more)


@pytest.fixture
def directory(tmp_path):
    write_suite(tmp_path, ["ipd", "imp"], ["lola"], opponents=["naive(lr=[0.1, 1, 10])"])
    return tmp_path


def test_a_sweep_of_the_opponent_is_one_series(directory):
    hashes = [cell(directory, LOLA, naive(lr), value=lr) for lr in (10.0, 0.1, 1.0)]
    (found,) = series(results.load(directory))
    assert (found.game, found.learner, found.opponent) == ("ipd", "lola", "naive")
    assert (found.swept, found.hyperparameter, found.assumed) == ("opponent", "lr", 0.5)
    assert found.x == (0.1, 1.0, 10.0)
    np.testing.assert_allclose(found.mean, found.x)
    assert found.n == (4, 4, 4)
    assert found.hashes == ((hashes[1],), (hashes[2],), (hashes[0],))
    for mean, low, high in zip(found.mean, found.low, found.high, strict=True):
        # Means of four draws from -1, 0, 0, 1: their 95 % range is +-0.75 or a quarter less.
        assert mean - low in (pytest.approx(0.75), pytest.approx(0.5))
        assert high - mean in (pytest.approx(0.75), pytest.approx(0.5))


def test_both_orders_of_seats_are_averaged(directory):
    for lr in (0.1, 1.0, 10.0):
        cell(directory, LOLA, naive(lr), game="imp", value=lr)
        cell(directory, naive(lr), LOLA, game="imp", value=lr)  # in seat 2 LOLA has 10 more
    (found,) = series(results.load(directory))
    np.testing.assert_allclose(found.mean, [x + 5.0 for x in found.x])
    assert found.n == (8, 8, 8)


def test_other_numbers_make_another_series(directory):
    for lr in (0.1, 1.0, 10.0):
        cell(directory, LOLA, naive(lr))
        cell(directory, LOLA, naive(lr, "adam"))
    cell(directory, LOLA, naive(0.3), steps=7)
    found = series(results.load(directory))
    assert [x.opponent for x in found] == ["naive", "naive(optimiser='adam')"]
    assert [x.x for x in found] == [(0.1, 1.0, 10.0)] * 2


def test_diverged_seeds_are_counted_and_not_averaged(directory):
    for lr in (0.1, 1.0):
        cell(directory, LOLA, naive(lr), value=lr)
    lost = {"return": np.array([[3.0, 3.0], [5.0, 5.0], [np.nan, np.nan], [np.nan, np.nan]])}
    write_cell(directory, "ipd", ["lola", "naive(lr=10.0)"], lost, learners=[LOLA, naive(10.0)])
    write_cell(directory, "imp", ["lola", "naive"], lost, learners=[LOLA, naive(1.0)])
    (found,) = series(results.load(directory))
    assert (found.mean[-1], found.n[-1], found.diverged) == (4.0, 2, (0, 0, 2))
    nothing = {"return": np.full((4, 2), np.nan)}
    write_cell(directory, "ipd", ["lola", "naive(lr=99.0)"], nothing, learners=[LOLA, naive(99.0)])
    (found,) = series(results.load(directory))
    assert np.isnan([found.mean[-1], found.low[-1], found.high[-1]]).all()
    assert found.n[-1] == 0


def test_a_learner_swept_in_self_play_sweeps_both(tmp_path):
    write_suite(tmp_path, ["ipd"], ["naive(lr=[0.1, 1, 10])"])
    for lr in (0.1, 1.0, 10.0):
        cell(tmp_path, naive(lr), naive(lr), value=lr)
    (found,) = series(results.load(tmp_path))
    assert (found.learner, found.opponent, found.swept, found.assumed) == ("naive", "naive", "both", None)
    np.testing.assert_allclose(found.mean, [x + 5.0 for x in found.x])  # the mean of both seats
    assert found.n == (4, 4, 4)


def test_a_learner_swept_against_one_opponent(tmp_path):
    write_suite(tmp_path, ["ipd"], ["lola(lookahead_lr=[0.1, 0.2, 0.4])"], opponents=["naive"])
    for x in (0.1, 0.2, 0.4):
        own = learner(f"lola(lookahead_lr={x})", "lola", lr=1.0, lookahead_lr=x)
        cell(tmp_path, own, naive(1.0), value=x)
    (found,) = series(results.load(tmp_path))
    assert (found.learner, found.opponent, found.swept) == ("lola", "naive", "learner")
    assert (found.hyperparameter, found.x, found.assumed) == ("lookahead_lr", (0.1, 0.2, 0.4), None)


def test_two_values_are_no_sweep_and_an_unknown_metric_is_bad_input(directory):
    for lr in (0.1, 1.0):
        cell(directory, LOLA, naive(lr))
    assert series(results.load(directory)) == []
    with pytest.raises(BadInput, match=r"metric is 'retrun'.*allowed: diverged, return"):
        series(results.load(directory), "retrun")


def test_the_robustness_suite_sweeps_what_rules_assume():
    from shaping_bench.suite import load

    suite = load("robustness")
    against = {
        (cell.game.label, cell.learners[0].label, cell.learners[1].named.hyperparameters["lr"])
        for cell in suite.encounters
        if cell.learners[1].named.name == "naive" and cell.learners[1].named.hyperparameters["optimiser"] == "sgd"
    }
    for game, label in (("ipd", "lola"), ("imp", "sos"), ("chicken", "lola-exact"), ("ipd", "control")):
        steps = sorted(lr for g, name, lr in against if (g, name) == (game, label))
        assumed = 0.04 if game == "chicken" else 1.0
        assert assumed in steps
        assert steps[0] <= assumed / 100
        assert steps[-1] == pytest.approx(10 * assumed)
