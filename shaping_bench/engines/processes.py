"""Worker processes of this machine, one per core, or each with a GPU of its own.

A launcher and a worker talk through a pipe: keys of jobs one way, what happens the other. A worker ends
with its launcher. One that dies costs the job it was at, which is done elsewhere; one that hangs says
where, and dies of it.
"""

import contextlib
import dataclasses
import faulthandler
import math
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from shaping_bench.engines.base import Event, Workplace
from shaping_bench.engines.calls import PATIENCE_SECONDS, about_worker, execute_there, worker_name
from shaping_bench.engines.schedule import Schedule
from shaping_bench.run import devices
from shaping_bench.run.deadline import Deadline, signals
from shaping_bench.run.jobs import Plan

LONGEST_WAIT = 5.0
"""Seconds after which to look around although nothing was told."""

SECONDS_TO_LEAVE = 5.0
"""For a worker to end once it is told to."""

MOST_DEATHS = 10
"""In a row, of workers before they have begun: more are no accident."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """What a worker has to itself: what its environment says, a GPU for one.

    Cores it shares: a process that is pinned to a single one compiles other sums than one that is not.
    """

    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


class _Worker:
    """A worker as the launcher sees it."""

    def __init__(self, place: Place, workplace: Workplace, silence: float) -> None:
        self.place = place
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        left = workplace.deadline.left
        call = _Call(
            environment=dict(place.environment),
            suite=workplace.suite,
            fingerprint=workplace.fingerprint,
            directory=str(workplace.directory),
            seconds=None if left == math.inf else left,
            silence=silence,
        )
        self.process = context.Process(target=_work, args=(theirs, call), daemon=True)
        self.process.start()
        theirs.close()
        self.name = ""
        self.key: str | None = None

    def tell(self, what: str, text: str) -> None:
        with contextlib.suppress(OSError):  # it is no more, which its end will say
            self.pipe.send((what, text))

    def end(self) -> None:
        self.pipe.close()  # upon which it ends by itself
        self.process.join(SECONDS_TO_LEAVE)
        self.process.kill()
        self.process.join()


class _Launch:
    """One plan, in one process per place."""

    def __init__(self, plan: Plan, workplace: Workplace, places: Sequence[Place], silence: float) -> None:
        self.workplace, self.silence = workplace, silence
        # What a GPU has room for, its worker says; on CPUs all share one memory.
        memory = None if any(place.environment for place in places) else devices.free_memory_bytes()
        self.schedule = Schedule(plan, memory=memory)
        self.workers = [_Worker(place, workplace, silence) for place in places]
        self.deaths = 0
        """In a row, of workers that had not begun."""

    def events(self) -> Iterator[Event]:
        """See :class:`shaping_bench.engines.Engine`."""
        stopped = False
        deadline = self.workplace.deadline
        try:
            while not self.schedule.ended:
                if not deadline.expired:
                    self._hand_out()
                elif not stopped:
                    stopped = True
                    for worker in self.workers:
                        worker.tell("stop", deadline.reason)
                if deadline.expired and not self.schedule.running:
                    return
                yield from self._listen()
        finally:
            for worker in self.workers:
                worker.end()

    def _hand_out(self) -> None:
        for worker in self.workers:
            if worker.name and worker.key is None:
                job = self.schedule.take(worker.name, others=len(self.workers) > 1)
                if job is not None:
                    worker.key = job.key
                    worker.tell("do", job.key)

    def _listen(self) -> Iterator[Event]:
        """To all workers, until one has said something or has ended, or a moment."""
        idle = any(worker.key is None for worker in self.workers)
        until = min(LONGEST_WAIT, self.schedule.seconds_until_next() if idle else LONGEST_WAIT)
        multiprocessing.connection.wait(
            [x for worker in self.workers for x in (worker.pipe, worker.process.sentinel)], until
        )
        for k, worker in enumerate(self.workers):
            alive = worker.process.is_alive()  # before what it may have said last
            try:
                while worker.pipe.poll():
                    yield from self._heard(worker, *worker.pipe.recv())
            except (EOFError, OSError):
                worker.process.join()
                alive = False
            if not alive:
                yield from self._ended(worker)
                self.workers[k] = _Worker(worker.place, self.workplace, self.silence)

    def _heard(self, worker: _Worker, what: str, content: Any) -> Iterator[Event]:
        if what == "joined":
            worker.name, self.deaths = content["name"], 0
            yield Event(what="joined", worker=worker.name, about=content["about"])
        elif what == "started":
            yield Event(what="started", key=content, worker=worker.name)
        elif what == "progress":
            self.schedule.progressed(content["key"], content["done"])
            yield Event(what="progress", worker=worker.name, **content)
        else:
            key, worker.key = str(worker.key), None
            yield from self.schedule.settle(key, content)

    def _ended(self, worker: _Worker) -> Iterator[Event]:
        """A worker is no more."""
        worker.end()
        code = worker.process.exitcode
        if worker.key is not None:
            yield from self.schedule.lost(worker.key, worker.name, f"its worker ended with exit code {code}")
        elif not worker.name:
            self.deaths += 1
            if self.deaths >= MOST_DEATHS:
                raise RuntimeError(f"worker processes end as they begin, with exit code {code}")


def in_processes(plan: Plan, workplace: Workplace, places: Sequence[Place], silence: float) -> Iterator[Event]:
    """Does a plan in worker processes.

    Args:
      plan: what to do.
      workplace: where.
      places: one worker each; one that dies is replaced.
      silence: seconds without progress of its job after which a worker counts as hung, and ends itself.
    """
    devices.stay_on_cpu()  # accelerators are the workers'
    return _Launch(plan, workplace, places, silence).events()


# --- in the worker ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Call:
    """What a worker is told as it begins, in words that any process understands."""

    environment: dict[str, str]
    suite: str
    fingerprint: str
    directory: str
    seconds: float | None
    silence: float


def _work(pipe: Connection, call: _Call) -> None:
    """A worker's life."""
    os.environ.update(call.environment)
    devices.configure()
    deadline = Deadline(call.seconds)
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_obey, args=(pipe, deadline, jobs), daemon=True).start()
    voice = _Voice(pipe, call.silence)
    with signals(deadline):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # from the keyboard it is the launcher's, which will tell
        voice.say("joined", {"name": worker_name(), "about": about_worker()})
        while not deadline.expired:
            key = jobs.get()
            with voice.watched(key):
                reply = execute_there(
                    key,
                    call.suite,
                    call.fingerprint,
                    call.directory,
                    deadline=deadline,
                    on_start=voice.start,
                    on_progress=voice.progress,
                    patience=PATIENCE_SECONDS,
                )
            voice.say("ended", reply)


def _obey(pipe: Connection, deadline: Deadline, jobs: "queue.SimpleQueue[str]") -> None:
    """Hears what the launcher says, and ends with it."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            what, text = pipe.recv()
            if what == "do":
                jobs.put(text)
            else:
                deadline.stop(text)
    os._exit(1)


class _Voice:
    """What a worker says to its launcher."""

    def __init__(self, pipe: Connection, silence: float) -> None:
        self.pipe, self.silence, self.key = pipe, silence, ""

    def say(self, what: str, content: Any) -> None:
        with contextlib.suppress(OSError):  # the launcher is gone, which ends this process
            self.pipe.send((what, content))

    @contextlib.contextmanager
    def watched(self, key: str) -> Iterator[None]:
        """A job during which something must be heard now and then."""
        self.key = key
        self._alive()
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()

    def start(self) -> None:
        self.say("started", self.key)

    def progress(self, done: int, total: int, values: Mapping[str, float]) -> None:
        self._alive()
        numbers = {name: float(x) for name, x in values.items()}
        self.say("progress", {"key": self.key, "done": int(done), "total": int(total), "values": numbers})

    def _alive(self) -> None:
        # Says where it hangs, and ends the process, whatever holds it up.
        faulthandler.dump_traceback_later(self.silence, exit=True)
