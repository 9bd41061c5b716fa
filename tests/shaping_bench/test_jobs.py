"""The jobs of a suite: planned without a device, done one by one by their keys, here or elsewhere."""

import collections
import concurrent.futures
import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from shaping_bench.cli import main
from shaping_bench.engines.calls import difference, execute_there, fingerprint, place, read_suite, suite_text
from shaping_bench.publish.watching import plan_summary, plan_text
from shaping_bench.run import artifacts, devices, jobs
from shaping_bench.run.jobs import Job, Plan, contents, execute, plan
from shaping_bench.run.runner import run_suite
from shaping_bench.spec.suite import expand, validate
from shaping_bench.store.pack import packed
from shaping_bench.store.store import Store

COLA = "cola(num_steps=12,batch_size=4,hidden=3,layers=1,lookahead_lr=0.1)"
SUITE = {
    "name": "jobs",
    "games": ["tandem", {"game": "ipd", "learners": ["naive(lr=[0.1,0.2])", "lola"]}],
    "learners": ["naive", COLA],
    "seeds": 3,
    "steps": 4,
    "record_every": 2,
    "league": {"opponents": ["tft"], "best_response": True},
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the user's own, so that nothing is there before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def suite():
    return expand(validate(SUITE))


def numbers(store):
    """Every file of every cell that holds numbers."""
    paths = sorted(store.cells.glob("[!.]*/*"))
    return {(path.parent.name, path.name): path.read_bytes() for path in paths if path.suffix in (".parquet", ".npz")}


def test_a_plan_says_who_waits_for_whom(suite, tmp_path):
    jobs = {job.key: job for job in plan(suite, Store(tmp_path)).jobs}
    order = list(jobs)
    kinds = [job.kind for job in jobs.values()]
    assert kinds == sorted(kinds, key=["prepare", "encounters", "match"].index)
    for key, job in jobs.items():
        assert all(order.index(other) < order.index(key) for other in job.after)
    (prepare,) = (job for job in jobs.values() if job.kind == "prepare")
    encounters = [job for job in jobs.values() if job.kind == "encounters"]
    assert sorted(x for job in encounters for x in job.cells) == sorted(cell.hash for cell in suite.encounters)
    # Naive at two step sizes against itself, and so on, are one program; tandem has three, one of them unprepared.
    assert len(encounters) == 3 + 3
    assert [job.after for job in encounters].count((prepare.key,)) == 2
    group_of = {cell: job.key for job in encounters for cell in job.cells}
    for cell in suite.matches:
        plays = [x for x in cell.learners[: 1 if cell.best_response else 2] if x.named.value.learns]
        alone = {
            c.hash
            for c in suite.encounters
            for x in plays
            if c.game == cell.game and {y.label for y in c.learners} == {x.label}
        }
        waits = {group_of[x] for x in alone}
        prepared = {prepare.key} if any(x.named.name == "cola" for x in cell.learners) else set()
        assert set(jobs[cell.hash].after) == waits | prepared
        assert set(jobs[cell.hash].reads) == {f"cells/{x}" for x in alone} | {f"artifacts/{x}" for x in prepared}


def test_jobs_one_by_one_are_a_run_bit_for_bit_and_what_is_stored_is_no_job(suite, tmp_path, cache):
    one, whole = Store(tmp_path / "one"), Store(tmp_path / "whole")
    assert run_suite(suite, whole) == []
    for job in plan(suite, one).jobs:
        execute(job.key, suite, one)
        assert all(cell in one for cell in job.cells)
    assert numbers(one) == numbers(whole)
    assert len(numbers(one)) > 2 * len(suite.encounters)
    rest = plan(suite, one)
    assert (rest.jobs, rest.cells) == ((), len(suite.encounters) + len(suite.matches))
    assert rest.stored == {cell.hash for cell in (*suite.encounters, *suite.matches)}


def test_a_job_done_where_no_directory_is_shared_comes_back_as_bytes(suite, tmp_path, cache):
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    text, print_ = suite_text(suite), fingerprint(suite)
    for job in plan(suite, here).jobs:
        execute(job.key, suite, here)
        inputs = {name: packed(there.directory / name) for name in job.reads}
        reply = execute_there(job.key, text, print_, None, inputs)
        assert reply["status"] == "done", reply
        place(reply, there.directory)
    assert numbers(here) == numbers(there)
    # What was sent is not kept, but for artifacts, which other jobs read.
    (own,) = (cache / "shaping-bench" / "workers").iterdir()
    assert len(list((own / "artifacts").glob("[!.]*"))) == 1


def test_a_job_that_fails_where_no_directory_is_shared_fails_at_once(tmp_path, cache):
    """Only a results directory is waited for, which may be away."""
    suite = expand(validate({"name": "fails", "games": ["tandem"], "learners": ["naive"], "seeds": 2, "steps": 2}))
    text, print_ = suite_text(suite), fingerprint(suite)
    (job,) = plan(suite, Store(tmp_path / "out")).jobs
    workers = cache / "shaping-bench" / "workers"
    workers.parent.mkdir(parents=True)
    workers.write_text("a file, in which nobody can make folders")
    reply = execute_there(job.key, text, print_, None, worker="w", patience=20.0)
    assert (reply["status"], reply["worker"], reply["fault"]) == ("failed", "w", "StoreError")
    workers.unlink()
    assert execute_there(job.key, text, print_, None, patience=20.0)["status"] == "done"
    (own,) = workers.iterdir()
    (own / "cells" / job.cells[0]).write_text("a file, in whose place no folder can be put")
    reply = execute_there(job.key, text, print_, None, worker="w", patience=20.0)
    assert (reply["status"], reply["worker"], reply["fault"]) == ("failed", "w", "StoreError")
    assert reply["error"].startswith("cannot write to")


def test_two_launchers_on_one_directory_prepare_once_and_compute_every_encounter_once(
    suite, tmp_path, cache, monkeypatch
):
    calls = collections.Counter()

    def counted(name, function):
        def call(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(artifacts, "prepare", counted("prepare", artifacts.prepare))
    monkeypatch.setattr(jobs, "run_encounter", counted("encounter", jobs.run_encounter))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for failures in pool.map(lambda _: run_suite(suite, Store(tmp_path / "out")), range(2)):
            assert failures == []
    assert calls == {"prepare": 1, "encounter": len(contents(suite).groups)}
    assert plan(suite, Store(tmp_path / "out")).jobs == ()
    assert not list((tmp_path / "out" / "leases").iterdir())


def test_a_suite_is_the_same_after_it_was_text(suite):
    text = json.dumps(suite.resolved())
    ours, theirs = contents(suite), contents(expand(validate(json.loads(text))))
    assert list(ours.groups) == list(theirs.groups)
    assert list(ours.matches) == list(theirs.matches)
    assert list(ours.preparations) == list(theirs.preparations)
    assert read_suite(suite_text(suite)) is suite  # here it need not be made again


def test_a_worker_of_another_version_or_source_is_refused_in_one_line(suite, tmp_path):
    ours = json.loads(fingerprint(suite))
    assert ours["python"] == devices.versions()["python"]
    other = json.dumps({**ours, "jax": "0.0.1", "source": "changed"})
    reply = execute_there("any", suite_text(suite), other, str(tmp_path / "none"))
    assert reply["status"] == "refused"
    assert f"jax is {ours['jax']!r} here and '0.0.1' there; source is" in reply["error"]
    assert "\n" not in reply["error"]
    assert not (tmp_path / "none").exists()
    assert difference(json.dumps(ours), json.dumps(ours)) == ""


def test_what_is_expected_of_jobs_is_what_jobs_like_them_took(suite, tmp_path, cache):
    store = Store(tmp_path / "out")
    assert all(not job.seconds and job.memory is None for job in plan(suite, store).jobs)
    assert run_suite(suite, store) == []
    kind = devices.describe()["kind"]
    # The same jobs elsewhere, in half the lanes and twice the updates, and prepared already.
    other = expand(validate({**SUITE, "seeds": 6, "steps": 8}))
    jobs, twice = plan(suite, Store(tmp_path / "a")).jobs, plan(other, Store(tmp_path / "b")).jobs
    for job, more in zip(jobs, twice, strict=True):
        assert list(job.seconds) == list(more.seconds) == [kind] or job.kind == "match"
        if job.kind == "encounters":
            assert more.expected > job.expected > 0.0
            assert more.memory == pytest.approx(2 * job.memory, rel=0.01)
        if job.kind == "prepare":
            assert job.expected == 0.0  # it stands in the user's cache
    shutil.rmtree(cache / "shaping-bench" / "artifacts")
    assert plan(suite, Store(tmp_path / "a")).jobs[0].expected > 0.0
    # Without a cache of timings, what stands in the same directory says it.
    shutil.rmtree(cache / "shaping-bench" / "timings")
    key, group = next((key, x) for key, x in contents(suite).groups.items() if len(x) > 1)
    kept, *others = group
    for cell in (*others, *suite.matches):
        shutil.rmtree(store.cells / cell.hash)
    known = {job.key: job for job in plan(suite, store).jobs if job.seconds}
    assert list(known) == [key]
    took = store.cell(kept.hash)["timings"]
    whole = (took["compile"] + took["run"] + took["metrics"]) * len(group)
    assert known[key].seconds == {kind: pytest.approx(whole)}


def test_the_plan_is_printed_and_makes_no_directory(tmp_path, cache, capsys):
    (tmp_path / "jobs.yaml").write_text(yaml.safe_dump(SUITE))
    arguments = ["plan", str(tmp_path / "jobs.yaml"), "-o", str(tmp_path / "out")]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert text.startswith("jobs: 26 cells, 0 stored, 24 jobs to do")
    assert "how long they take is unknown" in text
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    suite = expand(validate(SUITE))
    assert [job["key"] for job in found["jobs"]] == [job.key for job in plan(suite, Store(tmp_path / "other")).jobs]
    assert (found["cells"], found["stored"], found["devices"]) == (26, 0, {})
    assert not (tmp_path / "out").exists()
    Store(tmp_path / "out").adopt({**suite.resolved(), "seeds": 9})
    assert main(arguments) == 2
    assert "was made by another suite: suite.seeds is 9 there and 3 here" in capsys.readouterr().err


def test_hours_are_told_by_kind_of_device():
    jobs = (
        Job(key="p", kind="prepare", title="p", seconds={"chip": 3600.0}),
        Job(key="a", kind="encounters", title="a", cells=("a",), after=("p",), seconds={"chip": 1800.0, "gpu": 360.0}),
        Job(key="b", kind="encounters", title="b", cells=("b", "c"), memory=5),
    )
    found = plan_summary(Plan(jobs=jobs, cells=4, stored=frozenset({"d"})), "s")
    assert found["devices"] == {
        "chip": {"hours": 1.5, "longest": 1.5, "unknown": 1},
        "gpu": {"hours": 0.1, "longest": 0.1, "unknown": 2},
    }
    assert found["memory_bytes"] == 5
    text = plan_text(found)
    assert "s: 4 cells, 1 stored, 3 jobs to do" in text
    assert " 1.5 h" in text


PLANNED = """
import json, sys
from shaping_bench.cli import main
from shaping_bench.engines.calls import fingerprint, suite_text
from shaping_bench.run.jobs import plan
from shaping_bench.spec.suite import expand, validate
from shaping_bench.store.store import Store
suite = expand(validate(json.loads(sys.argv[1])))
print(len(plan(suite, Store(sys.argv[2])).jobs), len(fingerprint(suite)) > 0, len(suite_text(suite)) > 0)
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""


def test_planning_touches_no_device(suite, tmp_path):
    command = [sys.executable, "-c", PLANNED, json.dumps(SUITE), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "nowhere"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(len(plan(suite, Store(tmp_path)).jobs)), "True", "True"]
