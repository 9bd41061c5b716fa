"""Worker processes of this machine: the same cells bit for bit, and a death or a hang costs one job."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shaping_bench.engines import Local, Workplace
from shaping_bench.engines.calls import fingerprint, suite_text
from shaping_bench.engines.local import LONG_SECONDS, places
from shaping_bench.engines.processes import Place
from shaping_bench.run import devices
from shaping_bench.run.deadline import Deadline
from shaping_bench.run.jobs import Job, Plan, plan
from shaping_bench.run.runner import run_suite
from shaping_bench.spec.suite import expand, validate
from shaping_bench.store.store import Store

SUITE = {
    "name": "local",
    "games": ["tandem"],
    "learners": ["naive", "lola", "cola(num_steps=12,batch_size=4,hidden=3,layers=1,lookahead_lr=0.1)"],
    "seeds": 3,
    "steps": 4,
    "record_every": 2,
    "league": {"opponents": [], "best_response": False},
}


@pytest.fixture
def suite():
    return expand(validate(SUITE))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A folder for artifacts of one's own; compiled programs stay where every process has them."""
    monkeypatch.setattr(devices, "artifacts_folder", lambda: tmp_path / "artifacts")


def workplace(suite, directory, **more):
    store = Store(directory)
    store.adopt(suite.resolved())
    return plan(suite, store), Workplace(
        directory=directory, suite=suite_text(suite), fingerprint=fingerprint(suite), **more
    )


IN_THREADS = """
import json, sys
from shaping_bench.engines import Local
from shaping_bench.run import devices
devices.configure()
from shaping_bench.run.runner import run_suite
from shaping_bench.spec.suite import expand, validate
from shaping_bench.store.store import Store
assert run_suite(expand(validate(json.loads(sys.argv[1]))), Store(sys.argv[2]), engine=Local(0)) == []
"""


def numbers(directory):
    """Every file of every cell that holds numbers."""
    paths = sorted(directory.glob("cells/[!.]*/*"))
    return {(path.parent.name, path.name): path.read_bytes() for path in paths if path.suffix in (".parquet", ".npz")}


def test_workers_that_are_killed_cost_their_jobs_only_and_all_cells_are_those_of_a_run_in_threads(suite, tmp_path):
    whole = subprocess.run([sys.executable, "-c", IN_THREADS, json.dumps(SUITE), str(tmp_path / "whole")])
    assert whole.returncode == 0
    directory, kills = tmp_path / "killed", []

    def on_event(event, tally):
        # A worker of the first preparation, and one of the first encounter after it.
        kind = tally.jobs[event.key].kind if event.key else ""
        if event.what == "started" and kind not in kills and kind != "match":
            kills.append(kind)
            os.kill(int(event.worker.rpartition("-")[2]), signal.SIGKILL)

    tallies = []
    failures = run_suite(
        suite,
        Store(directory),
        engine=Local(2),
        on_event=lambda event, tally: (on_event(event, tally), tallies.append(tally)),
    )
    assert failures == []
    assert sorted(kills) == ["encounters", "prepare"]
    assert 1 <= tallies[-1].counts["lost"] <= 2  # a job may end before the signal comes
    assert len(tallies[-1].workers) > 2  # who died was replaced
    assert numbers(directory) == numbers(tmp_path / "whole")
    assert not list(directory.glob("leases/*"))


HANGING = """
import pathlib, time
from shaping_bench.algorithms.core import GradientLearner, pytree_dataclass

@pytree_dataclass
class Hanging(GradientLearner):
    def direction(self, view):
        marker = pathlib.Path({marker!r})
        if not marker.exists():
            marker.touch()
            time.sleep(600)
        return view.gradient()

@pytree_dataclass
class Broken(GradientLearner):
    def direction(self, view):
        raise RuntimeError("this rule is broken")
"""


def plugged(tmp_path, monkeypatch):
    """Two learners of a project in the current folder."""
    (tmp_path / "hanging_rule.py").write_text(HANGING.format(marker=str(tmp_path / "hung")))
    (tmp_path / "pyproject.toml").write_text(
        "[project.entry-points.'shaping_bench.algorithms']\n"
        "hanging = 'hanging_rule:Hanging'\nbroken = 'hanging_rule:Broken'\n"
    )
    monkeypatch.chdir(tmp_path)


RUN = """
import json, sys
from pathlib import Path
from shaping_bench.engines import Local
from shaping_bench.run.runner import run_suite
from shaping_bench.spec.suite import expand, validate
from shaping_bench.store.store import Store
if __name__ == "__main__":
    events = []
    content = {"name": "h", "games": ["tandem"], "learners": ["naive", "hanging", "broken"], "pairs": "self"}
    suite = expand(validate({**content, "seeds": 2, "steps": 2}))

    def on_event(event, tally):
        events.append((event.what, tally.jobs[event.key].title if event.key else ""))

    failures = run_suite(suite, Store("out"), engine=Local(2, silence=float(sys.argv[1])), on_event=on_event)
    from jax._src import xla_bridge
    print(json.dumps([[f.cell.title, f.error] for f in failures]))
    print(json.dumps(events))
    print(sorted(xla_bridge.backends()))
"""


def test_a_worker_that_hangs_ends_itself_and_what_fails_is_tried_by_another(tmp_path, monkeypatch):
    plugged(tmp_path, monkeypatch)
    (tmp_path / "script.py").write_text(RUN)
    done = subprocess.run([sys.executable, "script.py", "15"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    failures, events, backends = done.stdout.splitlines()
    assert json.loads(failures) == [["tandem: broken", "RuntimeError: this rule is broken"]]
    events = json.loads(events)
    assert events.count(["lost", "tandem: hanging"]) == 1
    assert events.count(["retried", "tandem: broken"]) == 1
    assert events.count(["failed", "tandem: broken"]) == 1
    assert "in direction" in done.stderr  # where it hung
    assert backends == "['cpu']"  # nothing else was started by the launcher


def test_a_deadline_reaches_the_workers_and_nothing_of_them_is_left(suite, tmp_path, cache):
    deadline = Deadline()
    jobs, place = workplace(suite, tmp_path / "out", deadline=deadline)
    events = []
    for event in Local(2).run(jobs, place):
        events.append(event)
        if event.what == "started":
            deadline.stop("SIGTERM")
    assert not {"failed", "lost", "retried"} & {event.what for event in events}
    assert sum(event.what == "done" for event in events) < len(jobs.jobs)
    for event in events:
        if event.what == "joined":
            with pytest.raises(ProcessLookupError):
                os.kill(event.about["pid"], 0)


def test_workers_end_with_a_launcher_that_is_killed(tmp_path, monkeypatch):
    plugged(tmp_path, monkeypatch)
    (tmp_path / "script.py").write_text(RUN)
    process = subprocess.Popen([sys.executable, "script.py", "600"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 120.0
    while not (tmp_path / "hung").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert (tmp_path / "hung").exists()
    (events,) = (tmp_path / "out" / "events").iterdir()
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    workers = [line["about"]["pid"] for line in lines if line["what"] == "joined"]
    process.kill()
    process.wait()
    while any(runs(pid) for pid in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert len(workers) == 2
    assert not any(runs(pid) for pid in workers)


def runs(pid):
    """Whether there is such a process, and not only its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def of_seconds(count, seconds):
    jobs = tuple(Job(key=f"{k}", kind="encounters", title="", seconds={"cpu": seconds}) for k in range(count))
    return Plan(jobs=jobs, cells=count, stored=frozenset())


def test_little_work_is_done_in_this_process_and_much_by_one_worker_per_core_or_gpu(monkeypatch):
    monkeypatch.setattr(devices, "usable_cores", lambda: 4)
    assert places(of_seconds(100, 0.1), None) == []
    assert places(of_seconds(1, 1e6), None) == []
    assert places(of_seconds(100, LONG_SECONDS), None) == [Place()] * 4
    assert places(of_seconds(3, LONG_SECONDS), None) == [Place()] * 3
    assert places(of_seconds(1, 0.0), 1) == [Place()]
    assert places(of_seconds(9, 1e6), 0) == []
    assert places(of_seconds(100, 6.0), None) == []
    monkeypatch.setattr(devices, "usable_cores", lambda: 32)
    assert len(places(of_seconds(100, 6.0), None)) == 32  # one interpreter's lock would hold up so many threads
    assert places(of_seconds(100, 0.1), None) == []
    unknown = tuple(Job(key=f"{k}", kind="encounters", title="") for k in range(1000))
    assert len(places(Plan(jobs=unknown, cells=1000, stored=frozenset()), None)) == 32
    gpus = [devices.Gpu(device=name, kind="a GPU", memory=2**30) for name in ("0", "GPU-7")]
    monkeypatch.setattr(devices, "uses_gpus", lambda: True)
    monkeypatch.setattr(devices, "gpus_here", lambda: gpus)
    found = places(of_seconds(100, LONG_SECONDS), None)
    assert [x.environment["CUDA_VISIBLE_DEVICES"] for x in found] == ["0", "GPU-7"]
    monkeypatch.setattr(devices, "gpus_here", lambda: gpus[:1])
    assert places(of_seconds(100, LONG_SECONDS), None) == []  # its threads compile side by side
