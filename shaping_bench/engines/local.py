"""The local engine: this machine."""

import dataclasses
import queue
import threading
from collections.abc import Iterator, Mapping

from shaping_bench.engines.base import Event, Workplace
from shaping_bench.engines.calls import Reply, about_worker, perform, read_suite, worker_name
from shaping_bench.engines.schedule import Schedule
from shaping_bench.run import devices
from shaping_bench.run.jobs import Job, Plan
from shaping_bench.store.store import Store

LONGEST_WAIT = 60.0
"""Seconds after which to look around although nothing was told."""


class Local:
    """Does jobs in threads of this process, one per core that it may use."""

    def run(self, plan: Plan, workplace: Workplace) -> Iterator[Event]:
        """See :class:`shaping_bench.engines.Engine`."""
        yield from in_threads(plan, workplace, devices.usable_cores())


def in_threads(plan: Plan, workplace: Workplace, threads: int) -> Iterator[Event]:
    """Does a plan in threads of this process: compilation is most of the work of short encounters, and
    uses one core each. What fails is not done again: there is no elsewhere."""
    schedule = Schedule(plan, attempts=1)
    suite, store = read_suite(workplace.suite), Store(workplace.directory)
    told: queue.SimpleQueue[Event | tuple[str, Reply]] = queue.SimpleQueue()
    jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()

    def work() -> None:
        while (job := jobs.get()) is not None:
            telling = _Telling(job.key, told)
            reply = perform(
                job.key,
                suite,
                store,
                deadline=workplace.deadline,
                on_start=telling.start,
                on_progress=telling.progress,
            )
            told.put((job.key, reply))

    workers = [threading.Thread(target=work) for _ in range(min(threads, len(plan.jobs)))]
    for worker in workers:
        worker.start()
    yield Event(what="joined", worker=worker_name(), about=about_worker())
    try:
        while not schedule.ended:
            while len(schedule.running) < len(workers) and not workplace.deadline.expired and (job := schedule.take()):
                jobs.put(job)
            if not schedule.running and workplace.deadline.expired:
                return
            idle = len(schedule.running) < len(workers)
            try:
                said = told.get(timeout=min(schedule.seconds_until_next() if idle else LONGEST_WAIT, LONGEST_WAIT))
            except queue.Empty:
                continue
            if isinstance(said, Event):
                yield said
            else:
                yield from schedule.settle(*said)
    finally:
        if not schedule.ended:  # what runs is no longer waited for: it may end at its next checkpoint
            workplace.deadline.stop("nobody listens")
        for _ in workers:
            jobs.put(None)


@dataclasses.dataclass(frozen=True)
class _Telling:
    """Tells of one job."""

    key: str
    told: "queue.SimpleQueue[Event | tuple[str, Reply]]"

    def start(self) -> None:
        self.told.put(Event(what="started", key=self.key, worker=worker_name()))

    def progress(self, done: int, total: int, values: Mapping[str, float]) -> None:
        self.told.put(Event(what="progress", key=self.key, done=done, total=total, values=values))
