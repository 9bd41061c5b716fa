"""Bands of learning curves: Student's t over what was drawn, seeds or preparations."""

import numpy as np
import pytest
import scipy.stats

from shaping_bench.analysis import curves
from shaping_bench.store import results
from tests.shaping_bench.synthetic_results import write_cell, write_suite
from tests.shaping_bench.test_results_tables import NAIVE, prepared_learner

UPDATES = (0, 10)


def write(directory, learners, values):
    """One encounter with ``(S, n)`` values that stay as they are."""
    curve = np.repeat(np.asarray(values, float)[None], len(UPDATES), axis=0)
    labels = [x["label"] for x in learners]
    write_suite(directory, ["ipd"], list(dict.fromkeys(labels)))
    finals, updates = {"return": curve[-1]}, UPDATES
    write_cell(directory, "ipd", labels, finals, curves={"return": curve}, updates=updates, learners=learners)
    return results.load(directory)


def half(values):
    """By hand, of independent values."""
    return scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))


def test_seeds_are_the_units(tmp_path):
    values = np.array([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0]])
    got = curves.bands(write(tmp_path, [NAIVE, NAIVE], values), "return")
    first, second = (got[got["player"] == player] for player in (1, 2))
    assert first["half"].to_list() == pytest.approx([half(values[:, 0])] * 2)
    assert second["half"].to_list() == [0.0, 0.0]


def test_one_seed_has_no_interval(tmp_path):
    got = curves.bands(write(tmp_path, [NAIVE, NAIVE], [[1.0, 2.0]]), "return")
    assert got["half"].to_list() == [0.0] * 4


def test_preparations_that_seeds_share_are_the_units(tmp_path):
    """Eight seeds of four preparations: four numbers, not eight. Seats that are prepared apart take turns."""
    own = np.array([0.0, 1.0, 2.0, 3.0] * 2) + np.array([0.0] * 4 + [0.1] * 4)
    learners = [prepared_learner(4), NAIVE]
    got = curves.bands(write(tmp_path / "apart", learners, np.stack([own, 2 * own], axis=1)), "return")
    expected = half([0.05, 1.05, 2.05, 3.05])
    for player, scale in ((1, 1.0), (2, 2.0)):
        assert got.loc[got["player"] == player, "half"].to_list() == pytest.approx([scale * expected] * 2)
    opened = write(tmp_path / "alone", [prepared_learner(4)] * 2, np.stack([own, own], axis=1))
    alone = curves.self_play_bands(opened, "return")
    assert alone["n"].to_list() == [8, 8]
    assert alone["half"].to_list() == pytest.approx([expected] * 2)
