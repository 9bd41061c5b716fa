"""The preparation phase: determinism, storage, interruption, cost, and use in encounters."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from shaping_bench.algorithms.cola import COLA
from shaping_bench.claims.verify import Claim, verify
from shaping_bench.cli import main
from shaping_bench.errors import BadInput
from shaping_bench.games.matrix.repeated import RepeatedGame
from shaping_bench.publish.tables import table_command
from shaping_bench.run import devices
from shaping_bench.run import preparation as phase
from shaping_bench.run.artifacts import Artifacts
from shaping_bench.run.encounter import run_encounter
from shaping_bench.run.lanes import shared_preparations
from shaping_bench.run.preparation import needed
from shaping_bench.run.runner import run_suite
from shaping_bench.spec.registry import make_game, make_learner
from shaping_bench.spec.suite import expand, validate
from shaping_bench.store.results import load as load_results
from shaping_bench.store.store import Store, read_parquet
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


def test_folders_share_what_was_prepared(tmp_path):
    asked = preparation(num_steps=10)
    first = Artifacts(tmp_path / "one", shared=tmp_path / "shared").prepared(asked)

    def never(*_):
        raise AssertionError("prepared again")

    second = Artifacts(tmp_path / "two", on_point=never, shared=tmp_path / "shared").prepared(asked)
    np.testing.assert_array_equal(first.artifact, second.artifact)
    assert (tmp_path / "two" / asked.hash / "artifact.json").is_file()


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
    game = make_game("ipd").value
    learners = (Walker(), make_learner("naive").value)
    artifact = np.arange(5.0 * count).reshape(count, 5)
    outcome = run_encounter(game, learners, num_seeds=4, num_updates=1, artifacts=[artifact, None])
    chosen = artifact[np.arange(4) % count]
    np.testing.assert_allclose(outcome.params[0][0], chosen)
    np.testing.assert_allclose(outcome.params[0][1], chosen + 1)
    with pytest.raises(ValueError, match="player 1's learner needs the artifact"):
        run_encounter(game, learners, num_seeds=4, num_updates=1)


def test_one_preparation_serves_all_values_of_what_only_play_needs():
    game = make_game("tandem")
    asked = {
        text: needed(game, [make_learner(f"cola({text})")], seeds=1, seed=0, precision="float32")[0].hash
        for text in ("lr=0.1", "lr=0.5", "lookahead_lr=0.5")
    }
    assert asked["lr=0.1"] == asked["lr=0.5"] != asked["lookahead_lr=0.5"]


def test_only_asymmetric_seats_need_preparations_of_their_own():
    walker = preparation().learner
    for game, distinct in (("ipd", 1), ("imp", 2)):
        named = make_game(game)
        assert isinstance(named.value, RepeatedGame)
        needs = needed(named, [walker, walker], seeds=1, seed=0, precision="float32")
        assert len({x.hash for x in needs}) == distinct


def test_a_diverged_preparation_is_reported(tmp_path):
    prepared = Artifacts(tmp_path).prepared(preparation(num_steps=4, scale=float("inf")))
    assert prepared.record["diverged"] == [0, 1]
    stored = json.loads((tmp_path / prepared.record["hash"] / "artifact.json").read_text())
    assert stored["diverged"] == [0, 1]


SMALL = "cola(num_steps=20,batch_size=4,hidden=3,layers=1,lookahead_lr=0.1)"


def prepared_suite(**changes):
    content = {"name": "prepared", "games": ["tandem"], "learners": ["naive", SMALL], "seeds": 4, "steps": 3}
    return expand(validate({**content, "preparations": 2, **changes}))


def test_a_suite_prepares_once_and_charges_everybody_who_was_prepared(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "artifacts_folder", lambda: tmp_path / "shared")
    suite, store = prepared_suite(), Store(tmp_path / "results")
    seen = []
    assert run_suite(suite, store, on_preparation=lambda p, done, values: seen.append((p.hash, done))) == []
    assert len({key for key, _ in seen}) == 1  # one artifact serves all seats of all cells
    records = [store.cell(cell.hash) for cell in suite.encounters]
    assert len(records) == 3
    for record in records:
        for learner in record["learners"]:
            if learner["name"] == "naive":
                assert learner["preparation"] is None
            else:
                assert learner["preparation"]["artifact"] == seen[0][0]
                assert (learner["preparation"]["seeds"], learner["preparation"]["steps"]) == (2, 20)
    results = load_results(tmp_path / "results")
    cost = records[1]["learners"][1]["preparation"]["gradient_evaluations"]
    assert cost > 0
    of_cells = results.cells.set_index("hash")["gradient_evaluations"]
    for record in records:
        own = sum(record["costs"]["gradient_evaluations"])
        prepared = any(x["preparation"] for x in record["learners"])
        assert of_cells[record["hash"]] == own + prepared * cost  # in self-play one artifact is paid once
    text = table_command(tmp_path / "results", ["return"])
    assert "prepared before:" in text
    assert f"{cost:.1e} gradient evaluations" in text

    def never(*_):
        raise AssertionError("prepared again")

    assert run_suite(suite, store, on_preparation=never) == []


def test_a_failing_preparation_costs_only_the_cells_that_need_it(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "artifacts_folder", lambda: tmp_path / "shared")

    def broken(self, key, step, carry, game, player):
        raise RuntimeError("no such step")

    monkeypatch.setattr(COLA, "prepare_step", broken)
    suite, store = prepared_suite(), Store(tmp_path / "results")
    failures = run_suite(suite, store)
    assert {f.error for f in failures} == {"RuntimeError: no such step"}
    stored = [cell for cell in suite.encounters if cell.hash in store]
    assert [cell.title for cell in stored] == ["tandem: naive"]
    assert len(failures) == 2


def test_the_number_of_preparations_is_part_of_a_cell_that_needs_them():
    ours, other = prepared_suite(), prepared_suite(preparations=3)
    same = {cell.title: cell.hash == twin.hash for cell, twin in zip(ours.encounters, other.encounters, strict=True)}
    assert [title for title, equal in same.items() if equal] == ["tandem: naive"]
    assert "--preparations 2" in ours.encounters[1].command


def test_an_encounter_from_the_shell_prepares_and_says_what_it_cost(tmp_path, capsys):
    arguments = ["encounter", "tandem", SMALL, "naive", "--seeds", "3", "--steps", "2", "--preparations", "2"]
    assert main([*arguments, "--artifacts", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    first, second = result["preparations"]
    assert second is None
    assert (first["seeds"], first["steps"]) == (2, 20)
    assert (tmp_path / first["artifact"] / "artifact.npz").is_file()
    assert main([*arguments[:-1], "0"]) == 2
    assert "--preparations is 0; allowed" in capsys.readouterr().err


def test_a_claim_may_be_about_a_preparation(tmp_path):
    claim = Claim.model_validate(
        {
            "id": "walk",
            "statement": "training falls",
            "source": "a test",
            "protocol": {"game": "tandem", "learners": [SMALL], "steps": 1, "seeds": 3, "preparations": 2},
            "quantities": [
                {"metric": "violation", "phase": "preparation", "at": t, "published": 0, "tolerance": 1e9, "why": "any"}
                for t in (20, [15, 20], 1)
            ],
        }
    )
    artifacts = Artifacts(tmp_path)
    end, late, start = verify(["walk"], claims={"walk": claim}, artifacts=artifacts)
    (folder,) = tmp_path.iterdir()
    curve = read_parquet(folder / "curves.parquet").groupby("update")["value"].mean()
    assert (end.ours, start.ours) == pytest.approx((curve[20], curve[1]))
    assert late.ours == pytest.approx(curve.loc[15:20].mean())
    assert end.seeds == 2
    assert end.preparation.startswith("cola: 2 x 20 steps, ")
    wrong = claim.model_copy(update={"protocol": claim.protocol.model_copy(update={"learners": ["naive"]})})
    with pytest.raises(BadInput, match="learner 'naive' needs none"):
        verify(["walk"], claims={"walk": wrong})


def test_a_rule_that_returns_coordinates_meets_rules_that_play():
    game = make_game("ipd(horizon=5)").value
    learners = (Walker(), make_learner("naive-pg(batch_size=4)").value)
    artifact = np.arange(5.0)[None]
    outcome = run_encounter(game, learners, num_seeds=2, num_updates=1, artifacts=[artifact, None])
    np.testing.assert_allclose(outcome.params[0][1], np.arange(5.0) + 1 + np.zeros((2, 1)))
