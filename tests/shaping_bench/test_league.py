"""Leagues: what a diverged policy does is nobody's, and means are over those whom one met."""

import itertools
import json
import shutil

import jax
import numpy as np
import pytest

from shaping_bench.games import make
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


def test_the_last_of_three_responds_to_two_who_differ(tmp_path):
    content = {
        "name": "three",
        "games": ["public-goods"],
        "learners": ["lola"],
        "seeds": 2,
        "steps": 2,
        "league": {"best_response": True},
    }
    suite, store = expand(validate(content)), Store(tmp_path)
    assert run_suite(suite, store) == []
    results = load(tmp_path)
    cells = {(r["kind"], *(x["label"] for x in r["learners"])): r for r in results.records}
    record = cells["league", "lola", "lola", "best-response"]
    assert record["best_response"]
    game = make("public-goods")
    # In seat i the policies of seat i of the self-play: two who differ.
    final = store.policies(cells["encounter", "lola", "lola", "lola"]["hash"])
    met = [final[f"player_{i + 1}"].astype(np.float64) for i in range(2)]
    assert not np.isclose(*met).any()
    values = results.final("return", "league")
    values = values[values["hash"] == record["hash"]].pivot(index="seed", columns="player", values="value").to_numpy()
    pure = np.array(list(itertools.product((-40.0, 40.0), repeat=game.sizes[2])))
    with jax.enable_x64(True):
        for seed in range(2):
            seated = [x[seed] for x in met]
            every = game.per_step * jax.jit(jax.vmap(lambda x, seated=seated: game.values((*seated, x))))(pure)
            best = np.argmax(every[:, 2])
            np.testing.assert_allclose(values[seed, 2], every[best, 2], rtol=1e-9)
            np.testing.assert_allclose(values[seed, :2], every[best, :2], rtol=1e-6)  # if the best is one alone
