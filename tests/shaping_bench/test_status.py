"""What a run leaves behind says how it got on: to whoever asks meanwhile, and afterwards."""

import datetime
import json

import pytest

from shaping_bench.algorithms.naive import Naive
from shaping_bench.cli import main
from shaping_bench.engines import Event
from shaping_bench.run.jobs import Job, Plan, plan
from shaping_bench.run.runner import run_suite
from shaping_bench.run.tally import Tally
from shaping_bench.spec.suite import expand, validate
from shaping_bench.store.events import GONE_SECONDS, Log
from shaping_bench.store.store import Store

SUITE = {"name": "told", "games": ["tandem"], "learners": ["naive", "lola"], "seeds": 2, "steps": 2}


class Engine:
    """Tells what it is told to tell, and does nothing."""

    def __init__(self, *script):
        self.script = script

    def run(self, plan, workplace):
        keys = [job.key for job in plan.jobs]
        for what, k, more in self.script:
            yield Event(what=what, key=keys[k] if k is not None else "", **more)


def told(capsys, directory):
    assert main(["status", str(directory), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


ABOUT = {"host": "h", "pid": 1, "device": {"platform": "cpu", "kind": "a chip", "count": 1}, "memory_bytes": 2**30}
SCRIPT = (
    ("joined", None, {"worker": "w1", "about": ABOUT}),
    ("started", 0, {"worker": "w1"}),
    ("started", 1, {"worker": "w2"}),
    ("lost", 0, {"worker": "w1", "error": "exit code -9"}),
    ("retried", 1, {"worker": "w2", "seconds": 4.0, "error": "ValueError: three"}),
    ("started", 1, {"worker": "w2"}),
    ("done", 1, {"worker": "w2", "seconds": 8.0}),
    ("started", 2, {"worker": "w2"}),
    ("progress", 2, {"done": 1, "total": 4}),
)


def test_a_directory_that_a_run_is_writing_to_says_how_it_gets_on(tmp_path, capsys):
    suite, asked = expand(validate(SUITE)), []

    def on_event(event, tally):
        if event.what == "progress":
            asked.append(told(capsys, tmp_path))

    run_suite(suite, Store(tmp_path), engine=Engine(*SCRIPT), on_event=on_event)
    (status,) = asked
    assert (status["cells"], status["stored"], status["launchers"]) == (3, 0, 1)
    assert (status["retried"], status["lost"]) == (1, 1)
    jobs = plan(suite, Store(tmp_path)).jobs
    assert [(x["title"], x["worker"]) for x in status["running"]] == [(jobs[2].title, "w2")]
    first, second = status["workers"]
    assert (first["worker"], first["device"]["kind"], first["lost"], first["jobs"]) == ("w1", "a chip", 1, 0)
    assert (second["jobs"], second["cells"], second["failed"], second["seconds"]) == (1, 1, 1, 12.0)
    assert second["cells_per_hour"] == pytest.approx(3600.0 / 12.0)
    assert status["slowest"] == [{"title": jobs[1].title, "worker": "w2", "seconds": 8.0}]
    # Afterwards nothing runs any more.
    status = told(capsys, tmp_path)
    assert (status["launchers"], status["running"]) == (0, [])
    assert main(["status", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("0 of 3 cells stored\nnothing runs now")
    assert "a chip" in text


def test_a_launcher_that_says_nothing_any_more_runs_nothing(tmp_path, capsys):
    Store(tmp_path).adopt(SUITE)
    log = Log(tmp_path, "launcher")
    log.write("planned", cells=9)
    log.write("started", key="k", worker="w", title="an encounter")
    log.write("alive", progress={"k": [3, 4]}, hours_left=1.5)
    status = told(capsys, tmp_path)
    assert (status["launchers"], status["hours_left"], status["cells"]) == (1, 1.5, 9)
    assert [(x["done"], x["total"]) for x in status["running"]] == [(3, 4)]
    # It was killed while it wrote a line, long ago.
    earlier = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=GONE_SECONDS + 1)
    lines = [{**json.loads(x), "time": earlier.isoformat()} for x in log.path.read_text().splitlines()]
    log.path.write_text("\n".join(map(json.dumps, lines)) + '\n{"time": "20')
    status = told(capsys, tmp_path)
    assert (status["launchers"], status["running"], status["hours_left"]) == (0, [], None)


def test_a_directory_of_an_earlier_version_is_counted_and_another_refused(tmp_path, capsys):
    Store(tmp_path / "old").adopt(expand(validate(SUITE)).resolved())
    (tmp_path / "old" / "cells" / "a").mkdir()
    status = told(capsys, tmp_path / "old")
    assert (status["cells"], status["stored"], status["workers"]) == (3, 1, [])
    assert main(["status", str(tmp_path)]) == 2
    assert "has no suite.yaml; allowed: a directory made by" in capsys.readouterr().err


def test_a_failure_is_listed_with_its_traceback_until_the_job_is_done(tmp_path, monkeypatch, capsys):
    suite, store = expand(validate({**SUITE, "seeds": 3})), Store(tmp_path)

    def broken(self, view):
        raise RuntimeError("no such direction")

    with monkeypatch.context() as patch:
        patch.setattr(Naive, "direction", broken)
        failures = run_suite(suite, store)
    assert {x.error for x in failures} == {"RuntimeError: no such direction"}
    listed = told(capsys, tmp_path)["failures"]
    assert sorted(x for job in listed for x in job["cells"]) == sorted(x.cell.hash for x in failures)
    assert all("in broken" in job["traceback"] and job["kind"] == "encounters" for job in listed)
    assert sorted(f"{job['key']}.json" for job in listed) == sorted(x.name for x in tmp_path.glob("failures/*"))
    assert main(["status", str(tmp_path)]) == 0
    assert "RuntimeError: no such direction  failures/" in capsys.readouterr().out
    assert run_suite(suite, store) == []
    status = told(capsys, tmp_path)
    assert (status["failures"], status["stored"], status["cells"]) == ([], 3, 3)
    assert list(tmp_path.glob("leases/*")) == []


def job(key, **more):
    return Job(**{"key": key, "kind": "encounters", "title": key, "cells": (key,), **more})


def test_hours_left_are_expected_from_what_is_known_and_corrected_by_what_was_seen():
    now = [0.0]
    jobs = (job("a", seconds={"cpu": 100.0}), job("b", seconds={"cpu": 300.0}), job("c"), job("m", kind="match"))
    tally = Tally(Plan(jobs=jobs, cells=4, stored=frozenset()), clock=lambda: now[0])
    assert tally.hours_left is None  # nobody knows of c
    tally.add(Event(what="started", key="a", worker="w"))
    now[0] = 200.0
    tally.add(Event(what="done", key="a", worker="w", seconds=200.0))  # twice as slow as expected
    assert tally.hours_left is None  # nor of matches
    tally.add(Event(what="done", key="m", worker="w", seconds=10.0))
    assert tally.hours_left == pytest.approx((600.0 + 200.0) / 3600.0)
    tally.add(Event(what="started", key="b", worker="w"))
    tally.add(Event(what="progress", key="b", done=1, total=5))
    now[0] = 260.0
    assert tally.hours_left == pytest.approx((4 * 60.0 + 200.0) / 3600.0)
    assert tally.summary() == {
        **{"cells": 2, "failed": 0, "running": 1, "retried": 0, "lost": 0, "workers": 1},
        "hours_left": tally.hours_left,
    }
