"""Leagues: what a diverged policy does is nobody's, and means are over those whom one met."""

import json
import shutil

import numpy as np
import pytest

from shaping_bench.run.runner import run_suite
from shaping_bench.spec.suite import expand, validate
from shaping_bench.store.results import load
from shaping_bench.store.store import Store

LOST = 1
"""The seed whose policy has diverged."""

NET = "naive-pg(batch_size=4,network=gru,hidden=4)"
EXACT = {
    "name": "exact",
    "games": ["ipd"],
    "learners": ["naive", "lola"],
    "seeds": 4,
    "steps": 3,
    "league": {"opponents": ["tft"], "best_response": True},
}
BY_PLAY = {
    "name": "by-play",
    "games": ["coin-game(horizon=4)"],
    "learners": [{"learner": NET, "label": "net"}, {"learner": NET.replace("=4)", "=5)"), "label": "other"}],
    "seeds": 4,
    "steps": 1,
    "episodes": 8,
    "league": {"opponents": ["all-d"], "responder": NET, "responder_steps": 1},
}


@pytest.fixture(scope="module")
def leagues(tmp_path_factory):
    return {
        x["name"]: league_of(tmp_path_factory.mktemp("league"), x, y) for x, y in ((EXACT, "naive"), (BY_PLAY, "net"))
    }


def league_of(directory, content, label):
    """The league's records and values, sound and after seed ``LOST`` of a learner has diverged."""
    suite, store = expand(validate(content)), Store(directory)
    assert run_suite(suite, store) == []
    before = load(directory)
    values = {r["hash"]: before.final("return", "league") for r in before.records if r["kind"] == "league"}
    for record in before.records:
        labels = {x["label"] for x in record["learners"]}
        if record["kind"] == "league":
            shutil.rmtree(store.cells / record["hash"])
        elif labels == {label}:
            stored = store.policies(record["hash"])
            for name in stored:
                stored[name][LOST] = np.nan
            np.savez(store.cells / record["hash"] / "policies.npz", **stored)
    assert run_suite(suite, store) == []
    after = load(directory)
    table = {}
    for record in after.records:
        if record["kind"] != "league":
            continue
        frames = values[record["hash"]], after.final("return", "league"), after.final("diverged", "league")
        own = [x[x["hash"] == record["hash"]].pivot(index="seed", columns="player", values="value") for x in frames]
        table[tuple(x["label"] for x in record["learners"])] = record, *(x.to_numpy() for x in own)
    return table


@pytest.mark.parametrize(("name", "label", "other"), [("exact", "naive", "lola"), ("by-play", "net", "other")])
def test_a_diverged_seed_costs_its_own_number_and_nobody_elses(leagues, name, label, other):
    record, old, new, lost = leagues[name][label, other]
    assert np.isfinite(old).all()
    assert np.isnan(new[LOST, 0])
    assert np.isfinite(np.delete(new[:, 0], LOST)).all()
    assert np.isfinite(new[:, 1]).all()  # each met three sound policies
    np.testing.assert_array_equal(lost, [[float(s == LOST), 0.0] for s in range(4)])
    np.testing.assert_array_equal(np.delete(new[:, 0], LOST), np.delete(old[:, 0], LOST))
    assert record["diverged"] == 1
    assert record["met"] == {"each": 4, "lost": [0, 4]}


def test_a_mean_is_over_the_sound_policies_that_were_met(leagues):
    _, old, new, lost = leagues["exact"]["naive", "naive"]
    assert np.isnan(new[LOST]).all()
    assert (lost[LOST] == 1.0).all()
    sound = np.delete(new, LOST, axis=0)
    assert np.isfinite(sound).all()
    assert (np.delete(lost, LOST, axis=0) == 0.0).all()
    assert not np.isclose(sound, np.delete(old, LOST, axis=0)).any()  # one meeting fewer


@pytest.mark.parametrize(("name", "label", "fixed"), [("exact", "naive", "tft"), ("by-play", "net", "all-d")])
def test_fixed_strategies_and_best_responses_have_no_number_against_a_diverged_policy(leagues, name, label, fixed):
    for opponent in fixed, "best-response":
        record, old, new, lost = leagues[name][label, opponent]
        assert np.isnan(new[LOST]).all()
        np.testing.assert_array_equal(np.delete(new, LOST, axis=0), np.delete(old, LOST, axis=0))
        np.testing.assert_array_equal(lost[:, 0], [0.0, 1.0, 0.0, 0.0])
        np.testing.assert_array_equal(lost[:, 1], 0.0)  # its own policy is whole
        assert record["diverged"] == 1
        json.dumps(record["met"])
