"""The preparation phase: determinism, storage, interruption, cost, and use in encounters."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from games.repeated import RepeatedGame
from shaping_bench import preparation as phase
from shaping_bench.encounter import run_encounter, shared_preparations
from shaping_bench.preparation import Artifacts, needed
from shaping_bench.registry import make_game, make_learner
from tests.shaping_bench.walker import Walker, preparation

HERE = Path(__file__).parent


def test_an_artifact_is_the_end_of_the_walk_and_costs_what_its_steps_cost(tmp_path):
    asked = preparation(num_steps=30)
    prepared = Artifacts(tmp_path).prepared(asked)
    assert prepared.artifact.shape == (2, 5)

    def walk(seed):
        base = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), phase._STREAM), seed)
        at = np.zeros(5)
        for step in range(30):
            key = jax.random.fold_in(jax.random.fold_in(base, 1), step)
            at = at + np.asarray(jax.random.normal(key, (5,)))
        return at

    np.testing.assert_allclose(prepared.artifact, [walk(0), walk(1)], rtol=1e-5, atol=1e-5)
    assert prepared.record["costs"] == {"gradient_evaluations": 2 * 30 * 6, "environment_steps": 2 * 30 * 10}
    assert prepared.record["diverged"] == []
    end = prepared.curves[(prepared.curves["metric"] == "height") & (prepared.curves["update"] == 30)]
    np.testing.assert_allclose(end.sort_values("seed")["value"], prepared.artifact[:, 0], rtol=1e-6)


def test_a_stored_artifact_is_reused(tmp_path):
    asked = preparation(num_steps=10)
    first = Artifacts(tmp_path).prepared(asked)

    def never(*_):
        raise AssertionError("prepared again")

    again = Artifacts(tmp_path, on_point=never).prepared(asked)
    np.testing.assert_array_equal(first.artifact, again.artifact)
    assert [path.name for path in tmp_path.iterdir()] == [asked.hash]


def test_what_decides_an_artifact_is_in_its_hash():
    asked = [preparation(), preparation(seeds=3), preparation(scale=2.0), preparation(num_steps=41)]
    assert len({x.hash for x in asked}) == 4
    assert preparation().hash == preparation().hash


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_preparation_goes_on_and_yields_the_same(tmp_path, death):
    command = [sys.executable, "-m", "tests.shaping_bench.walker", str(tmp_path / "killed")]
    with subprocess.Popen(command, cwd=HERE.parent.parent, stdout=subprocess.PIPE, text=True) as running:
        for line in running.stdout:
            if int(line) >= 20:
                running.send_signal(death)
                break
        running.wait()
    assert running.returncode == -death
    asked = preparation(num_steps=60)
    (checkpoint,) = (tmp_path / "killed").iterdir()
    assert checkpoint.name == f".checkpoint-{asked.hash}.npz"
    points = []
    resumed = Artifacts(tmp_path / "killed", lambda _, done, __: points.append(done)).prepared(asked)
    whole = Artifacts(tmp_path / "whole").prepared(asked)
    assert points[0] > 19  # not from the start
    np.testing.assert_array_equal(resumed.artifact, whole.artifact)
    assert resumed.curves.equals(whole.curves)
    assert resumed.record["costs"] == whole.record["costs"]
    assert [path.name for path in (tmp_path / "killed").iterdir()] == [asked.hash]


def test_seeds_of_an_encounter_share_the_preparations_and_all_pairs_meet():
    rule = Walker()
    mine, other = (shared_preparations(rule, player, 9, 3) for player in (0, 1))
    assert set(zip(mine.tolist(), other.tolist(), strict=True)) == {(a, b) for a in range(3) for b in range(3)}
    assert (mine[:3] != other[:3]).all()

    class Jointly(Walker):
        prepared_jointly = True

    np.testing.assert_array_equal(shared_preparations(Jointly(), 1, 9, 3), mine)


@pytest.mark.parametrize("count", [1, 3])
def test_an_encounter_plays_what_was_prepared(tmp_path, count):
    game = make_game("ipd").made
    learners = (Walker(), make_learner("naive").made)
    artifact = np.arange(5.0 * count).reshape(count, 5)
    outcome = run_encounter(game, learners, num_seeds=4, num_updates=1, artifacts=[artifact, None])
    chosen = artifact[np.arange(4) % count]
    np.testing.assert_allclose(outcome.params[0][0], chosen)
    np.testing.assert_allclose(outcome.params[0][1], chosen + 1)
    with pytest.raises(ValueError, match="player 1's learner needs the artifact"):
        run_encounter(game, learners, num_seeds=4, num_updates=1)


def test_only_asymmetric_seats_need_preparations_of_their_own():
    walker = preparation().learner
    for game, distinct in (("ipd", 1), ("imp", 2)):
        named = make_game(game)
        assert isinstance(named.made, RepeatedGame)
        needs = needed(named, [walker, walker], seeds=1, seed=0, precision="float32")
        assert len({x.hash for x in needs}) == distinct


def test_a_diverged_preparation_is_reported(tmp_path):
    prepared = Artifacts(tmp_path).prepared(preparation(num_steps=4, scale=float("inf")))
    assert prepared.record["diverged"] == [0, 1]
    stored = json.loads((tmp_path / prepared.record["hash"] / "artifact.json").read_text())
    assert stored["diverged"] == [0, 1]
