"""The dask engine: worker processes on this machine, on hosts, on a Slurm cluster, wherever.

Dask's scheduler knows the workers, gives each job to one that has what it needs, and says when one has
died; which job comes next is :class:`~shaping_bench.engines.schedule.Schedule`'s to say. Only as many jobs
as there are processes are with dask at a time: it is told of a hundred thousand one after another, the
longest first, and what a lost worker was doing is one job.
"""

import collections
import contextlib
import dataclasses
import functools
import math
import queue
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

from distributed import CancelledError, Client, Future, KilledWorker
from distributed.client import FutureCancelledError

from shaping_bench.engines import clusters, workers
from shaping_bench.engines.base import Event, Workplace
from shaping_bench.engines.calls import Reply, place
from shaping_bench.engines.schedule import Schedule
from shaping_bench.errors import BadInput, StoreError
from shaping_bench.run import devices
from shaping_bench.run.deadline import seconds_of
from shaping_bench.run.jobs import Job, Plan
from shaping_bench.store.pack import packed

SHORT = 0.2
"""Seconds of a typical job below which a process gets its next one before it has ended with this; of longer ones, one
that waits behind another could be done elsewhere meanwhile."""

AHEAD = 1000
"""Jobs that are looked at beyond those that are with dask, for one that fits a free process."""

SECONDS_TO_STOP = 60.0
"""For running jobs to leave their checkpoints, once the deadline has passed."""

SECONDS_BETWEEN_LOOKS = 2.0
"""At the workers that there are."""

FAULTS_IN_A_ROW, SECONDS_ON_THE_BENCH = 3, 60.0
"""After so many times that a worker could not write, others get the jobs for so long."""


class Dask:
    """Does jobs on the workers of a dask scheduler.

    Args:
      settings: of a cluster to start, or of the launcher alone where the scheduler is there already.
      scheduler: its address.
    """

    def __init__(self, settings: clusters.Settings, scheduler: str | None = None) -> None:
        self.settings, self.scheduler = settings, scheduler

    def run(self, plan: Plan, workplace: Workplace) -> Iterator[Event]:
        """See :class:`shaping_bench.engines.Engine`."""
        devices.stay_on_cpu()  # accelerators are the workers'
        run = _Run(plan, workplace, self.settings)
        with contextlib.ExitStack() as stack:
            address = str(self.scheduler)
            if isinstance(self.settings, clusters.Started):
                logs = run.directory / "logs" if run.shared else None
                address = stack.enter_context(clusters.started(self.settings, run.demand, logs)).scheduler_address
            devices.stay_on_cpu()  # the accelerators of this machine are the workers'
            yield from run.events(address)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Worker:
    """A worker process as the scheduler knows it."""

    address: str
    name: str
    resources: Mapping[str, float]
    memory: int = 0
    """Bytes that it may take; 0 if there is no limit."""

    @property
    def mine(self) -> bool:
        """Whether it is of this version."""
        return workers.version() in self.resources

    @property
    def gpu(self) -> bool:
        return workers.GPU in self.resources

    def has_room(self, job: Job) -> bool:
        """Whether it may take as much memory as the job is expected to; of a GPU's, its resources say that."""
        return self.gpu or self.memory == 0 or (job.memory or 0) <= self.memory


class _Run:
    """One plan on the workers of one scheduler."""

    def __init__(self, plan: Plan, workplace: Workplace, settings: clusters.Settings) -> None:
        self.schedule, self.workplace = Schedule(plan, one_memory=False), workplace
        self.shared, self.patience = settings.shared, seconds_of(settings.patience)
        self.directory = workplace.directory.resolve()
        self.topic = f"shaping-bench-{uuid.uuid4().hex[:12]}"
        self.inbox: queue.SimpleQueue[Callable[[], Iterator[Event]]] = queue.SimpleQueue()
        self.futures: dict[str, Future] = {}
        """By job, those that are with dask."""
        self.on_gpu: dict[str, bool] = {}
        """Of those, whether on a GPU."""
        self.meant_for: dict[str, frozenset[str]] = {}
        """Of some of those, addresses of the only workers that may do them."""
        self.waiting: collections.deque[Job] = collections.deque()
        """Jobs that have been taken from the schedule and found no free process yet."""
        self.workers: dict[str, _Worker] = {}
        """Those that are there and take jobs, by address."""
        self.refused: set[str] = set()
        """Addresses of those that turned out to be of another version."""
        self.known: set[str] = set()
        self.looked = -SECONDS_BETWEEN_LOOKS
        self.attempts: collections.Counter[str] = collections.Counter()
        self.typical = SHORT
        self.unwritable: dict[str, float] = {}
        """When a job could first not be stored, by job."""
        self.unfit: dict[str, str] = {}
        """Where a job could not be stored the last time, by job."""
        self.faults: collections.Counter[str] = collections.Counter()
        """How often in a row a worker could not write."""
        self.bench: dict[str, float] = {}

    def demand(self) -> int:
        """Jobs that could run side by side now."""
        return len(self.futures) + len(self.waiting) + self.schedule.ready

    def events(self, address: str) -> Iterator[Event]:
        """Does the plan; see :class:`shaping_bench.engines.Engine`.

        Raises:
          BadInput: there is no scheduler at the address.
          StoreError: the scheduler, or the results directory, is gone for good.
        """
        client = self._client(address, 20.0)
        stop_at: float | None = None
        try:
            while not self.schedule.ended:
                if client.status not in ("running", "connecting"):
                    client = self._client(address, self.patience)
                if self.workplace.deadline.expired and stop_at is None:
                    stop_at = time.monotonic() + SECONDS_TO_STOP
                    self._stop(client)
                if stop_at is not None and (not self.futures or time.monotonic() > stop_at):
                    return
                if client.status == "running":
                    yield from self._look(client)
                    if stop_at is None:
                        self._submit(client)
                yield from self._received()
        finally:
            if self.futures:
                with contextlib.suppress(Exception):  # the scheduler may be gone
                    client.cancel(list(self.futures.values()), force=True)
                    self._stop(client)
            client.close(timeout=5)

    # --- dask's side ---

    def _client(self, address: str, seconds: float) -> Client:
        end = time.monotonic() + seconds
        while True:
            try:
                client = Client(address, timeout=min(seconds, 20.0), set_as_default=False)
                break
            except (OSError, TimeoutError, ValueError) as error:
                if isinstance(error, ValueError) or (time.monotonic() > end and not self.known):
                    raise BadInput(
                        f"--scheduler is {address!r}, where there is none; allowed: HOST:PORT of one"
                    ) from None
                if time.monotonic() > end:
                    raise StoreError(f"the scheduler {address} is lost; what is finished is stored") from None
        put = self.inbox.put
        client.subscribe_topic(self.topic, lambda event: put(functools.partial(self._said, event[1])))
        self.looked = -SECONDS_BETWEEN_LOOKS
        return client

    def _stop(self, client: Client) -> None:
        client.run(workers.stop, list(self.futures), self.workplace.deadline.reason or "the launcher ends", wait=False)

    def _look(self, client: Client) -> Iterator[Event]:
        """At the workers that there are."""
        if time.monotonic() - self.looked < SECONDS_BETWEEN_LOOKS:
            return
        self.looked = time.monotonic()
        try:
            found = client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, TimeoutError):
            return
        self.workers = {
            address: _Worker(
                address=address, name=str(x["name"]), resources=x["resources"], memory=x["memory_limit"] or 0
            )
            for address, x in found.items()
            if x["status"] == "running"  # and not about to leave
        }
        gpus = {address for address, x in found.items() if workers.GPU in x["resources"]}
        yield from self._recalled(client, {True: gpus, False: found.keys() - gpus})
        for worker in self.workers.values():
            if worker.address in self.known:
                continue
            self.known.add(worker.address)
            if worker.mine:
                yield Event(what="joined", worker=worker.name, about=_about(worker, found[worker.address]))
            else:
                theirs = [x for x in worker.resources if x.startswith(workers.PREFIX)]
                other = f"is {theirs[0]}" if theirs else "was not started by `shaping-bench worker`"
                text = f"worker {worker.name} gets no jobs: it {other}, and this is {workers.version()}"
                yield Event(what="refused", worker=worker.name, error=text)

    def _recalled(self, client: Client, there: Mapping[bool, Set[str]]) -> Iterator[Event]:
        """Jobs that nobody may do any more who is there: dask would wait for such a worker for ever.

        Args:
          there: addresses of the workers without and with a GPU.
        """
        for key, gpu in [*self.on_gpu.items()]:
            if not self.meant_for.get(key, there[gpu]) & there[gpu]:
                with contextlib.suppress(OSError, TimeoutError):
                    client.cancel([self.futures[key]], force=True)
                self._forget(key)
                yield from self.schedule.settle(key, {"status": "held"})

    # --- submitting ---

    def _submit(self, client: Client) -> None:
        """As many jobs as there are processes for."""
        mine = [x for x in self.workers.values() if x.mine and x.address not in self.refused]
        each = 2 if self.typical < SHORT else 1
        free = collections.Counter({gpu: each * sum(x.gpu is gpu for x in mine) for gpu in (True, False)})
        free.subtract(collections.Counter(self.on_gpu.values()))
        passed: list[Job] = []
        while max(free.values()) > 0 and len(passed) < AHEAD:
            job = self.waiting.popleft() if self.waiting else self.schedule.take()
            if job is None:
                break
            gpu = _goes_to_gpu(job, mine)
            if free[gpu] > 0:
                free[gpu] -= 1
                self._begin(client, job, gpu, mine)
            else:
                passed.append(job)
        self.waiting.extendleft(reversed(passed))

    def _begin(self, client: Client, job: Job, gpu: bool, mine: Sequence[_Worker]) -> None:
        resources: dict[str, float] = {workers.version(): 1, workers.GPU if gpu else workers.CORE: 1}
        if gpu and job.memory and job.memory <= _gpu_memory(mine):
            resources[workers.GPU_MEMORY] = job.memory
        now = time.monotonic()
        avoided = {
            self.schedule.failed_at(job.key),
            self.unfit.get(job.key),
            *(name for name, until in self.bench.items() if until > now),
        }
        able = {x.address for x in self.workers.values() if x.mine and x.gpu is gpu}
        own = [x for x in mine if x.gpu is gpu]
        own = [x for x in own if x.has_room(job)] or own
        chosen = {x.address for x in own if x.name not in avoided} or {x.address for x in own}
        left = self.workplace.deadline.left
        self.attempts[job.key] += 1
        future = client.submit(
            workers.call,
            job.key,
            self.workplace.suite,
            self.workplace.fingerprint,
            str(self.directory) if self.shared else None,
            None if self.shared else self._inputs(job),
            None if left == math.inf else left,
            self.patience,
            self.topic,
            # Dask measures how long jobs of a kind take, by what stands before the hash.
            key=f"{job.kind}-{job.key}-{self.topic}-{self.attempts[job.key]}",
            pure=False,
            priority=job.expected,
            resources=resources,
            workers=sorted(chosen) if chosen < able else None,
        )
        self.futures[job.key], self.on_gpu[job.key] = future, gpu
        if chosen < able:
            self.meant_for[job.key] = frozenset(chosen)
        future.add_done_callback(lambda future: self.inbox.put(functools.partial(self._ended, job, future)))

    def _inputs(self, job: Job) -> dict[str, bytes]:
        """What a job reads of the results, for workers that do not see them."""
        return {name: packed(self.directory / name) for name in job.reads if (self.directory / name).is_dir()}

    # --- what comes back ---

    def _received(self) -> Iterator[Event]:
        """What has happened since; waits a moment if nothing has."""
        wait = min(self.schedule.seconds_until_next(), SECONDS_BETWEEN_LOOKS / 4)
        with contextlib.suppress(queue.Empty):
            yield from self.inbox.get(timeout=wait)()
            while True:
                yield from self.inbox.get_nowait()()

    def _said(self, message: Mapping[str, Any]) -> Iterator[Event]:
        """A worker has begun a job, or tells how it gets on."""
        key = message["key"]
        if key not in self.futures:
            return
        about = {"key": key, "worker": message["name"]}
        if "done" in message:
            self.schedule.progressed(key)
            yield Event(what="progress", **about, **{x: message[x] for x in ("done", "total", "values")})
        else:
            yield Event(what="started", **about)

    def _ended(self, job: Job, future: Future) -> Iterator[Event]:
        if self.futures.get(job.key) is not future:
            return
        try:
            reply = future.result(timeout=60)
        except KilledWorker as error:
            self._forget(job.key)
            why = f"its worker died or was given up{_limited(job, error.last_worker.memory_limit)}"
            yield from self.schedule.lost(job.key, str(error.last_worker.name), why)
            return
        except (FutureCancelledError, CancelledError, TimeoutError, OSError):  # the scheduler is lost
            self._forget(job.key)
            yield from self.schedule.settle(job.key, {"status": "held"})
            return
        except Exception as error:  # what is not ours: a worker that cannot even be asked
            reply = {"status": "failed", "error": f"{type(error).__name__}: {error}", "fault": type(error).__name__}
        self._forget(job.key)
        yield from self._settle(job, reply)

    def _forget(self, key: str) -> None:
        del self.futures[key], self.on_gpu[key]
        self.meant_for.pop(key, None)

    def _settle(self, job: Job, reply: Reply) -> Iterator[Event]:
        status, worker = reply["status"], reply.get("worker", "")
        if status == "refused":  # its source has changed since it joined, or it lacks a plug-in
            self.refused |= {x.address for x in self.workers.values() if x.name == worker}
            yield Event(what="refused", worker=worker, error=reply.get("error", ""))
            yield from self.schedule.settle(job.key, {"status": "held"})
            return
        if status == "failed" and reply.get("fault") == StoreError.__name__:
            yield from self._unwritable(job, reply)
            return
        if status == "stopped" and "further" not in reply:  # it was not even begun
            yield from self.schedule.settle(job.key, {"status": "held"})
            return
        if status == "stopped" and not self.workplace.deadline.expired:  # the worker's own end
            if reply["further"]:
                self.schedule.progressed(job.key)
            yield from self.schedule.lost(job.key, worker, f"its worker ended ({reply.get('error', '')})")
            return
        if status == "done":
            try:
                place(reply, self.directory)
                self._wait_for_directory()
            except StoreError as error:
                yield from self._unwritable(job, {**reply, "fault": StoreError.__name__, "error": str(error)})
                return
            self.faults.pop(worker, None)
            self.unwritable.pop(job.key, None)
            self.typical = 0.8 * self.typical + 0.2 * reply.get("seconds", 0.0)
        yield from self.schedule.settle(job.key, reply)

    def _wait_for_directory(self) -> None:
        """The caller reads what workers stored; the directory may be away for a while."""
        end = time.monotonic() + self.patience
        while not (self.directory / workers.SUITE).is_file():
            if time.monotonic() > end:
                raise StoreError(f"the results directory {str(self.directory)!r} is gone")
            time.sleep(0.5)

    def _unwritable(self, job: Job, reply: Reply) -> Iterator[Event]:
        """A full disk, or a directory that is away: the job is done elsewhere or later, while patience lasts."""
        now, worker = time.monotonic(), reply.get("worker", "")
        self.faults[worker] += 1
        if self.faults[worker] >= FAULTS_IN_A_ROW:
            self.bench[worker] = now + SECONDS_ON_THE_BENCH
        if now - self.unwritable.setdefault(job.key, now) > self.patience:
            raise StoreError(reply.get("error", ""))
        self.unfit[job.key] = worker
        yield Event(what="retried", key=job.key, worker=worker, error=reply.get("error", ""), fault=StoreError.__name__)
        yield from self.schedule.settle(job.key, {"status": "held"})


def _limited(job: Job, memory: int) -> str:
    """What to know of a limit of memory, if a process had one that died: it may have died of it."""
    if not memory:
        return ""
    expected = f", and jobs like this one have taken {job.memory / 1e9:.1f} GB" if job.memory else ""
    return f"; it had {memory / 1e9:.1f} GB{expected}: if it needs more, raise memory in the settings"


def _gpu_memory(mine: Sequence[_Worker]) -> float:
    """Bytes of the largest GPU's share; negative if there is no GPU."""
    return max((x.resources[workers.GPU_MEMORY] for x in mine if x.gpu), default=-1.0)


def _goes_to_gpu(job: Job, mine: Sequence[_Worker]) -> bool:
    """Whether a job is one for the GPUs that there are: it wants one and fits, or there is nothing else."""
    fits = (job.memory or 0) <= _gpu_memory(mine)
    return (job.accelerator and fits) or all(x.gpu for x in mine)


def _about(worker: _Worker, found: Mapping[str, Any]) -> dict[str, Any]:
    """What an event says of a worker that joins."""
    special = {workers.CORE, workers.GPU, workers.GPU_MEMORY, workers.version()}
    kind = next((x for x in worker.resources if x not in special), "")
    device = {"platform": "gpu" if worker.gpu else "cpu", "kind": kind, "count": 1}
    memory = worker.resources.get(workers.GPU_MEMORY, found.get("memory_limit") or 0)
    return {"host": found.get("host", ""), "device": device, "memory_bytes": int(memory)}
