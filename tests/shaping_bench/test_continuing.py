"""What has ended goes on to more updates, with the bits of what did them at once; policies on the way are kept."""

import json
import shutil

import jax
import numpy as np
import pytest
import yaml

from shaping_bench.cli import main
from shaping_bench.errors import BadInput
from shaping_bench.run import devices, encounter
from shaping_bench.run.deadline import Deadline
from shaping_bench.run.jobs import plan
from shaping_bench.run.runner import run_suite
from shaping_bench.spec.registry import make_game, make_learner
from shaping_bench.spec.suite import expand, resolve, validate
from shaping_bench.store.results import load
from shaping_bench.store.store import Store, read_parquet
from tests.shaping_bench.test_preparation import SMALL

SUITE = {
    "name": "longer",
    "games": ["ipd", {"game": "tandem", "learners": ["naive", SMALL], "steps": 20}],
    "learners": ["naive", {"lola": {"lr": [0.5, 1.0]}}],
    "seeds": 3,
    "steps": 20,
    "record_every": 6,
    "keep_state": True,
    "policies_every": 8,
    "league": {"opponents": ["tft"], "best_response": True},
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A user's cache of its own, for artifacts and checkpoints; compiled programs are shared."""
    monkeypatch.setattr(devices, "artifacts_folder", lambda: tmp_path / "cache" / "artifacts")
    return tmp_path / "cache"


def suite(**changes):
    return expand(validate({**SUITE, **changes}))


def longer(**changes):
    """The same with more updates: of the first game twice as many, of the other a few more."""
    return suite(steps=40, games=["ipd", {**SUITE["games"][1], "steps": 25}], **changes)


def numbers(directory, cells):
    """Of these cells, whatever else is stored."""
    found = {}
    for cell in cells:
        folder = directory / "cells" / cell.hash
        for name in ("finals.parquet", "curves.parquet"):
            found[cell.title, name] = read_parquet(folder / name).to_csv()
        for name in ("policies.npz", "policies_along.npz"):
            if (folder / name).exists():
                with np.load(folder / name) as file:
                    found[cell.title, name] = {key: file[key].tobytes() for key in file.files}
    return found


def updates_done(monkeypatch):
    """Updates that encounters do from now on."""
    done = []
    call = encounter._SoFar.next_call

    def noted(self, most, per_call):
        before, parts, real = call(self, most, per_call)
        done.append(int(parts.sum()))
        return before, parts, real

    monkeypatch.setattr(encounter._SoFar, "next_call", noted)
    return done


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A directory of the short suite."""
    directory = tmp_path_factory.mktemp("stored") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "artifacts_folder", lambda: directory.parent / "cache" / "artifacts")
        assert run_suite(suite(), Store(directory)) == []
    return directory


@pytest.fixture
def directory(stored, tmp_path):
    return shutil.copytree(stored, tmp_path / "results")


def test_a_suite_goes_on_to_more_steps_with_the_bits_of_one_that_did_them_at_once(directory, tmp_path, monkeypatch):
    short, long = suite(), longer()
    half_way = suite(steps=30)
    before = numbers(directory, short.encounters)
    reads = [name for job in plan(long, Store(directory)).jobs if job.kind == "encounters" for name in job.reads]
    assert {name for name in reads if name.startswith("cells/")} == {f"cells/{cell.hash}" for cell in short.encounters}
    done = updates_done(monkeypatch)
    assert run_suite(half_way, Store(directory)) == []
    # Groups: naive and lola, each and together; then naive and what is prepared, as well.
    assert sum(done) == 3 * 10
    assert run_suite(long, Store(directory)) == []
    assert sum(done) == 3 * 20 + 3 * 5
    monkeypatch.undo()
    monkeypatch.setattr(devices, "artifacts_folder", lambda: tmp_path / "cache" / "artifacts")
    assert run_suite(long, Store(tmp_path / "at once")) == []
    cells = [*long.encounters, *long.matches]
    assert numbers(directory, cells) == numbers(tmp_path / "at once", cells)
    assert numbers(directory, short.encounters) == before
    results = load(directory)
    assert {record["hash"] for record in results.records} == {cell.hash for cell in cells}
    superseded = {record["hash"] for record in results.superseded}
    shorter = (*short.encounters, *short.matches, *half_way.encounters, *half_way.matches)
    assert superseded == {cell.hash for cell in shorter} - {cell.hash for cell in cells}
    assert yaml.safe_load((directory / "suite.yaml").read_text())["steps"] == 40
    assert list((directory / "checkpoints").glob("*")) == []


def test_only_more_steps_of_what_keeps_its_ends_is_the_same_suite(tmp_path):
    def refused(stored, asked, what):
        directory = tmp_path / str(len(list(tmp_path.iterdir())))
        Store(directory).adopt(stored.resolved(), resolve)
        before = (directory / "suite.yaml").read_bytes()
        with pytest.raises(BadInput, match=f"was made by another suite: suite.{what}"):
            Store(directory).adopt(asked.resolved(), resolve)
        assert (directory / "suite.yaml").read_bytes() == before

    refused(longer(), suite(), r"games\.1\.steps is 25 there and 20 here")
    refused(suite(), longer(seeds=4), "games.1.steps")
    refused(suite(keep_state=False), longer(keep_state=False), "games.1.steps")
    refused(suite(keep_state=False), suite(), "keep_state is None there and True here")
    refused(suite(), suite(steps=40, games=["ipd", {**SUITE["games"][1], "steps": 19}]), "games.1.steps is 20")
    Store(tmp_path / "longer").adopt(suite().resolved(), resolve)
    Store(tmp_path / "longer").adopt(longer().resolved(), resolve)
    assert yaml.safe_load((tmp_path / "longer" / "suite.yaml").read_text()) == longer().resolved()


def test_ends_of_other_code_are_told_and_not_gone_on_from(directory, tmp_path, monkeypatch):
    real = encounter.checkpoints.source_hash
    monkeypatch.setattr(encounter.checkpoints, "source_hash", lambda *x: f"another {real(*x)}")
    long = suite(steps=40, games=["ipd"], league=False)
    Store(tmp_path / "other").adopt(suite(games=["ipd"], league=False).resolved(), resolve)
    shutil.copytree(directory / "cells", tmp_path / "other" / "cells", dirs_exist_ok=True)
    with pytest.warns(UserWarning, match=r"state\.npz' is not used, it was left by other code"):
        assert run_suite(long, Store(tmp_path / "other")) == []
    monkeypatch.undo()
    assert run_suite(long, Store(tmp_path / "at once")) == []
    assert numbers(tmp_path / "other", long.encounters) == numbers(tmp_path / "at once", long.encounters)


def test_a_suite_that_says_nothing_of_it_is_what_it_was(directory):
    plain = {key: x for key, x in SUITE.items() if key not in ("keep_state", "policies_every")}
    quiet = expand(validate(plain))
    assert {"keep_state", "policies_every"}.isdisjoint(quiet.resolved())
    assert [cell.hash for cell in quiet.encounters] == [cell.hash for cell in suite().encounters]
    assert [cell.hash for cell in quiet.matches] == [cell.hash for cell in suite().matches]


def test_policies_on_the_way_are_kept_with_their_updates(directory, tmp_path):
    store, cells = Store(directory), suite().encounters
    for cell in cells:
        with np.load(store.cells / cell.hash / "policies_along.npz") as file:
            assert file["updates"].tolist() == [8, 16]
        shorter = expand(validate({**SUITE, "games": [SUITE["games"][0]], "steps": 8}))
        (same,) = [x for x in shorter.encounters if x.title == cell.title] or [None]
        if same is not None:
            if same.hash not in Store(tmp_path / "short"):
                assert run_suite(shorter, Store(tmp_path / "short")) == []
            final = Store(tmp_path / "short").policies(same.hash)
            along = store.policies(cell.hash, update=8)
            assert final.keys() == along.keys()
            for name, x in final.items():
                np.testing.assert_array_equal(along[name], x)
    with pytest.raises(BadInput, match=r"update is 7, at which cell .* kept no policies; allowed: 8, 16"):
        store.policies(cells[0].hash, update=7)


def test_a_killed_suite_goes_on_within_an_encounter(tmp_path, monkeypatch):
    """A group that is stopped leaves its checkpoint in the directory, and nothing once it is stored."""
    small = suite(games=["ipd"], league=False)
    monkeypatch.setattr(encounter, "_first_updates", lambda *_: 5)

    class Passing(Deadline):
        calls = 0

        def allows(self, seconds):
            type(self).calls += 1
            return self.calls < 3

        @property
        def expired(self):
            return self.calls >= 3

    stops = []
    assert run_suite(small, Store(tmp_path / "broken"), deadline=Passing(), on_stop=stops.append) == []
    assert stops
    assert len(list((tmp_path / "broken" / "checkpoints").glob("*.npz"))) >= 1
    assert run_suite(small, Store(tmp_path / "broken")) == []
    assert list((tmp_path / "broken" / "checkpoints").iterdir()) == []
    assert run_suite(small, Store(tmp_path / "whole")) == []
    assert numbers(tmp_path / "broken", small.encounters) == numbers(tmp_path / "whole", small.encounters)


def test_an_encounter_from_the_shell_goes_on_to_more_steps(cache, monkeypatch, capsys):
    command = ["encounter", "ipd", "lola", "naive", "--seeds", "3", "--json"]

    def run(*more):
        assert main([*command, *more]) == 0
        return {key: x for key, x in json.loads(capsys.readouterr().out).items() if key != "seconds"}

    whole = run("--steps", "40")
    assert not (cache / "checkpoints").exists()
    short = run("--steps", "25", "--keep-state")
    (end,) = (cache / "checkpoints").iterdir()
    done = updates_done(monkeypatch)
    assert run("--steps", "40") == whole
    assert sum(done) == 15
    assert run("--steps", "25") == short
    assert sum(done) == 15  # it is there
    run("--steps", "25", "--seed", "1")
    assert sum(done) == 40
    run("--steps", "20")
    assert sum(done) == 60
    assert list((cache / "checkpoints").iterdir()) == [end]


def test_an_encounter_from_the_shell_that_is_out_of_time_goes_on(cache, monkeypatch, capsys):
    command = ["encounter", "ipd", "lola", "naive", "--seeds", "3", "--steps", "40", "--json"]
    assert main(command) == 0
    whole = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(encounter, "_first_updates", lambda *_: 30)
    asked = iter([True, False])
    monkeypatch.setattr(Deadline, "allows", lambda self, seconds: next(asked, True))
    assert main([*command, "--time-limit", "1h"]) == 75
    assert "an encounter stopped at update 30 of 40" in " ".join(capsys.readouterr().err.split())
    assert len(list((cache / "checkpoints").iterdir())) == 1
    assert main([*command, "--time-limit", "1h"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {**again, "seconds": None} == {**whole, "seconds": None}
    assert list((cache / "checkpoints").iterdir()) == []


def test_policies_on_the_way_are_kept_beside_somebody_who_has_no_parameters():
    game = make_game("coin-game(horizon=3)")
    rules = [make_learner(x, game=game.name).value for x in ("naive-pg(batch_size=2,network=mlp,hidden=2)", "all-c")]
    outcome = encounter.run_encounter(game.value, rules, num_seeds=2, num_updates=3, policies_every=1, episodes=2)
    assert outcome.policy_updates.tolist() == [1, 2]
    mine, others = outcome.policies
    assert others == ()
    shapes = [x.shape for x in jax.tree.leaves(outcome.final[0])]
    assert [x.shape for x in jax.tree.leaves(mine)] == [(2, *shape) for shape in shapes]
