"""The local engine: this machine."""

import dataclasses
import queue
import threading
from collections.abc import Iterator, Mapping

from shaping_bench.engines.base import Event, Workplace
from shaping_bench.engines.calls import PATIENCE_SECONDS, Reply, about_worker, perform, read_suite, worker_name
from shaping_bench.engines.processes import Place, in_processes
from shaping_bench.engines.schedule import Schedule
from shaping_bench.run import devices
from shaping_bench.run.jobs import Job, Plan
from shaping_bench.store.store import Store

LONGEST_WAIT = 60.0
"""Seconds after which to look around although nothing was told."""


SILENCE_SECONDS = 1800.0
"""Without progress of its job, after which a worker counts as hung: more than any program takes to compile."""

SERIAL = 0.16
"""Of a job's work, what threads of one process cannot do side by side: tracing, where compiling is the rest."""

TWICE = 1.1
"""Of the work of threads, that of processes: each compiles for itself what they would share."""

START_SECONDS = 10.0
"""Until a worker process begins."""

LONG_SECONDS = 600.0
"""Of work per worker, from which processes are worth it in any case: who is killed costs one job."""

LONG_ON_GPU_SECONDS = 60.0
"""The same where each has a GPU, which threads of one process would share."""

UNKNOWN_SECONDS = {"prepare": 30.0, "encounters": 3.0, "match": 0.3}
"""Of a job that nothing is known of: that of an encounter is compiling."""


class Local:
    """Does jobs on this machine: in worker processes, one per core or per GPU, or, where there is little to
    do, in threads of this process.

    Args:
      workers: processes; 0 is in this process, None as many as are worth it.
      silence: seconds without progress of its job after which a worker counts as hung, ends, and its
        job is done elsewhere.
    """

    def __init__(self, workers: int | None = None, silence: float = SILENCE_SECONDS) -> None:
        self.workers, self.silence = workers, silence

    def run(self, plan: Plan, workplace: Workplace) -> Iterator[Event]:
        """See :class:`shaping_bench.engines.Engine`."""
        found = places(plan, self.workers)
        if not found:
            return in_threads(plan, workplace, devices.usable_cores())
        return in_processes(plan, workplace, found, self.silence)


def places(plan: Plan, workers: int | None) -> list[Place]:
    """Where on this machine worker processes stand: one per core, or each with a GPU to itself; none if they
    are not worth it."""
    gpus = devices.gpus_here() if devices.uses_gpus() else []
    if workers is None:
        most = min(len(gpus) or devices.usable_cores(), len(plan.jobs))
        seconds = sum(job.expected if job.seconds else UNKNOWN_SECONDS[job.kind] for job in plan.jobs)
        # A single GPU needs no process of its own: threads compile side by side for it.
        workers = most if most > 1 and _worth(seconds, most, bool(gpus)) else 0
    environments = [{"CUDA_VISIBLE_DEVICES": gpu.device} for gpu in gpus] or [{}]
    return [Place(environment=environments[k % len(environments)]) for k in range(workers)]


def _worth(seconds: float, count: int, on_gpus: bool) -> bool:
    """Whether so many processes are better than as many threads for so much work."""
    threads = seconds * max(1.0 / count, SERIAL)
    processes = seconds * TWICE / count + START_SECONDS
    long = LONG_ON_GPU_SECONDS if on_gpus else LONG_SECONDS
    return processes < threads or seconds >= long * count


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
                patience=PATIENCE_SECONDS,
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
