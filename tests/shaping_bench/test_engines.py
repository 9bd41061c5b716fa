"""Engines do the jobs of a plan in an order that respects who waits for whom, and tell what happens."""

import shutil
import threading

from shaping_bench.engines import ENGINES, Event
from shaping_bench.engines.calls import perform
from shaping_bench.engines.schedule import LOSSES, Schedule
from shaping_bench.run.deadline import Deadline
from shaping_bench.run.jobs import Job, Plan, plan
from shaping_bench.spec.suite import expand, validate
from shaping_bench.store.store import Store


def job(key, kind="encounters", after=(), seconds=0.0, memory=None):
    return Job(key=key, kind=kind, title=key, cells=(key,), after=after, seconds={"cpu": seconds}, memory=memory)


def schedule(*jobs, **settings):
    return Schedule(Plan(jobs=jobs, cells=len(jobs), stored=frozenset()), **settings)


def drained(scheduled):
    """The order in which one worker takes everything."""
    order = []
    while (taken := scheduled.take("only")) is not None:
        order.append(taken.key)
        list(scheduled.settle(taken.key, {"status": "done", "worker": "only"}))
    return order


def test_the_longest_way_to_the_end_comes_first_and_nobody_before_what_it_waits_for():
    jobs = (
        job("prepare", "prepare", seconds=1.0),
        job("short", seconds=2.0),
        job("long", seconds=5.0),
        job("prepared", after=("prepare",), seconds=9.0),
        job("match", "match", after=("short", "prepared"), seconds=0.1),
        job("stored before", after=("not in the plan",), seconds=0.5),
    )
    scheduled = schedule(*jobs)
    assert drained(scheduled) == ["prepare", "prepared", "long", "short", "stored before", "match"]
    assert scheduled.ended


FAILED = {"status": "failed", "error": "ValueError: three", "fault": "ValueError", "traceback": "Traceback"}


def test_what_fails_is_done_once_more_elsewhere_and_then_listed():
    scheduled = schedule(job("a"))
    assert scheduled.take("one").key == "a"
    (event,) = scheduled.settle("a", {**FAILED, "worker": "one"})
    assert (event.what, event.error, event.worker) == ("retried", "ValueError: three", "one")
    assert scheduled.take("one", others=True) is None  # there is an elsewhere
    assert scheduled.take("two", others=True).key == "a"
    (event,) = scheduled.settle("a", {**FAILED, "worker": "two"})
    assert (event.what, event.traceback) == ("failed", "Traceback")
    assert scheduled.ended


def test_a_failed_preparation_fails_what_needs_it_with_its_reason_and_nothing_else():
    scheduled = schedule(
        job("prepare", "prepare"),
        job("prepared", after=("prepare",)),
        job("other"),
        job("match", "match", after=("prepared", "other")),
        attempts=1,
    )
    assert scheduled.take().key == "prepare"
    events = list(scheduled.settle("prepare", FAILED))
    assert [(x.what, x.key, x.error) for x in events] == [
        ("failed", "prepare", "ValueError: three"),
        ("failed", "prepared", "ValueError: three"),
    ]
    assert drained(scheduled) == ["other", "match"]  # the match itself says what it lacks


def test_a_job_whose_worker_dies_is_done_elsewhere_until_it_has_taken_too_many_with_it():
    scheduled = schedule(job("deadly"), job("other", seconds=1.0))
    assert scheduled.take("w").key == "other"
    for _ in range(2):
        assert scheduled.take("w").key == "deadly"
        assert [x.what for x in scheduled.lost("deadly", "w", "killed")] == ["lost"]
    assert scheduled.take("w") is None  # from now on it must be alone
    list(scheduled.settle("other", {"status": "done"}))
    for k in range(3, LOSSES + 1):
        assert scheduled.take("w").key == "deadly"
        assert [x.what for x in scheduled.lost("deadly", "w", "killed")] == ["lost" if k < LOSSES else "failed"]
    assert scheduled.ended


def test_what_got_further_may_lose_more_workers():
    scheduled = schedule(job("long"))
    for _ in range(3 * LOSSES):
        assert scheduled.take().key == "long"
        scheduled.progressed("long")
        assert [x.what for x in scheduled.lost("long", "w", "its time was over")] == ["lost"]


def test_jobs_run_beside_one_another_as_far_as_memory_reaches_and_what_did_not_fit_alone():
    scheduled = schedule(job("a", memory=6), job("b", memory=5), job("c", memory=4), memory=10)
    assert [scheduled.take().key, scheduled.take().key] == ["a", "c"]
    assert scheduled.take() is None
    (event,) = scheduled.settle("c", {"status": "failed", "fault": "NoRoom"})
    assert event.what == "retried"
    list(scheduled.settle("a", {"status": "done"}))
    assert scheduled.take().key == "b"
    assert scheduled.take() is None  # it would not be alone
    list(scheduled.settle("b", {"status": "done"}))
    assert scheduled.take().key == "c"


def test_what_another_process_is_at_is_looked_at_again_later():
    now = [0.0]
    scheduled = schedule(job("theirs", seconds=9.0), job("ours"), clock=lambda: now[0])
    assert scheduled.take().key == "theirs"
    assert [x.what for x in scheduled.settle("theirs", {"status": "held"})] == ["held"]
    assert scheduled.take().key == "ours"
    assert scheduled.take() is None
    assert 0.0 < scheduled.seconds_until_next() < 10.0
    now[0] += scheduled.seconds_until_next()
    assert scheduled.take().key == "theirs"


def test_a_plan_of_many_jobs_is_scheduled_in_no_time():
    preparations = [job(f"p{k}", "prepare") for k in range(100)]
    jobs = [job(f"e{k}", after=(f"p{k % 100}",), seconds=k % 7) for k in range(20_000)]
    assert len(drained(schedule(*preparations, *jobs))) == 20_100


def test_what_was_stopped_goes_on_should_there_be_time():
    scheduled = schedule(job("a"))
    scheduled.take("w")
    reply = {"status": "stopped", "worker": "w", "seconds": 2.5, "error": "at update 3", "further": False}
    expected = Event(what="stopped", key="a", worker="w", seconds=2.5, error="at update 3", further=False)
    assert list(scheduled.settle("a", reply)) == [expected]
    assert scheduled.take("w").key == "a"


def test_a_directory_that_is_away_for_a_while_costs_nothing_and_one_that_stays_away_is_one_line(tmp_path, monkeypatch):
    suite = expand(validate({"name": "away", "games": ["tandem"], "learners": ["naive"], "seeds": 2, "steps": 2}))
    share, gone = tmp_path / "share", tmp_path / "gone"
    store = Store(share / "out")
    store.adopt(suite.resolved())
    (job,) = plan(suite, store).jobs

    def vanish():
        share.rename(gone)
        share.write_text("a file, in which nobody can make folders")

    def come_back():
        share.unlink()
        gone.rename(share)

    timer = threading.Timer(1.0, come_back)
    reply = perform(job.key, suite, store, on_start=lambda: (vanish(), timer.start()), patience=120.0)
    assert (reply["status"], job.cells[0] in store) == ("done", True)
    shutil.rmtree(store.cells / job.cells[0])
    reply = perform(job.key, suite, store, on_start=vanish, patience=0.3)
    assert (reply["status"], reply["fault"]) == ("failed", "StoreError")
    assert reply["error"].startswith(
        f"the results directory '{store.directory}' has been away for 0 s; what is finished"
    )
    # Somebody is told to stop while it is waited for.
    deadline = Deadline()
    reply = perform(job.key, suite, store, on_start=lambda: deadline.stop("SIGTERM"), deadline=deadline, patience=99.0)
    assert (reply["status"], reply["further"]) == ("stopped", False)


def test_engines_can_be_made_by_name():
    assert all(callable(make().run) for make in ENGINES.values())
