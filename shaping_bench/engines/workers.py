"""Worker processes of the dask engine: who they are, the jobs they do, and how they end.

A machine serves with one process of one thread per core and per GPU, each under a nanny of dask's, which
starts it anew when it dies. What a process has (a core, or a GPU and its memory) and which version it is
are dask resources: a job asks for what it needs, and other versions never get one.

A process ends by the clock or by a signal: its job stops at a checkpoint and is done elsewhere. So it
does when its scheduler is gone; the machine then waits for another scheduler at the same address.
"""

import asyncio
import contextlib
import dataclasses
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dask.config
import distributed
from distributed.core import Status, rpc

from shaping_bench import __version__
from shaping_bench.engines.calls import Reply, execute_there, identity
from shaping_bench.errors import BadInput, StoreError
from shaping_bench.run import devices
from shaping_bench.run.deadline import Deadline

CORE, GPU, GPU_MEMORY = "core", "gpu", "gpu-memory"
"""Resources: a CPU core, a GPU, and bytes of its memory."""

SECONDS_BETWEEN_EVENTS = 1.0
"""Of one job's progress."""

RESERVED = 0.9
"""Share of a GPU's memory that processes on it take together."""

ENVIRONMENT = "SHAPING_BENCH_WORKER_"
"""Start of the variables by which a nanny's process learns of its end and its patience."""


PREFIX = "shaping-bench "
"""Start of the resource that says which version a process is."""

SUITE = "suite.yaml"
"""Where this is missing from a results directory, it is away: a mount, say, that will come back."""


def version() -> str:
    """The resource that only processes of this version have."""
    return f"{PREFIX}{__version__} ({identity()})"


# --- what a machine has -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Process:
    """One worker process: its name, its resources, and its environment."""

    name: str
    resources: Mapping[str, float]
    environment: Mapping[str, str]


def processes(name: str, *, cores: int | None = None, gpus: int | None = None, jobs_per_gpu: int = 1) -> list[Process]:
    """The processes of a machine: some per GPU, and one per core that these leave.

    Args:
      name: of the machine; its first process bears it.
      cores: as many as this process may use by default.
      gpus: how many of its GPUs; all by default.
      jobs_per_gpu: processes that share one.
    """
    found = devices.gpus_here()[:gpus] if devices.uses_gpus() else []
    parts: list[tuple[dict[str, float], dict[str, str]]] = []
    for gpu in found:
        memory = RESERVED / jobs_per_gpu
        environment = {"CUDA_VISIBLE_DEVICES": gpu.device, "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{memory:.3f}"}
        parts += [({GPU: 1, GPU_MEMORY: memory * gpu.memory, gpu.kind: 1}, environment)] * jobs_per_gpu
    count = max(0, (devices.usable_cores() if cores is None else cores) - len(parts))
    # On a machine of GPUs, a process without one must not take its share of their memory.
    parts += [({CORE: 1}, {"JAX_PLATFORMS": "cpu"} if found else {})] * (count or (0 if parts else 1))
    return [
        Process(name=name if k == 0 else f"{name}+{k}", resources={**has, version(): 1}, environment=environment)
        for k, (has, environment) in enumerate(parts)
    ]


def machine_of(worker: str) -> str:
    """The machine of a worker process, by name."""
    return worker.rpartition("+")[0] or worker


def nanny_options(process: Process, *, quiet: float, memory: int, seconds: float | None = None) -> dict[str, Any]:
    """What dask's ``Nanny`` is to be told about a process.

    Args:
      process: which.
      quiet: seconds without any progress of its job, after which it is taken for dead.
      memory: bytes above which the nanny ends it; 0 for no limit.
      seconds: from now, after which it ends; None for never.
    """
    # Of its memory nothing is dask's, to be spilled or to be waited for: who is paused for want of it would stay so.
    told = {"QUIET": str(quiet)} | ({} if seconds is None else {"UNTIL": str(time.time() + seconds)})
    return {
        "name": process.name,
        "nthreads": 1,
        "resources": dict(process.resources),
        "env": {**process.environment, **{f"{ENVIRONMENT}{name}": value for name, value in told.items()}},
        "memory_limit": memory,
        "config": {f"distributed.worker.memory.{name}": False for name in ("target", "spill", "pause")},
        "preload": [__name__],
        "dashboard": False,
        "silence_logs": logging.ERROR,
    }


# --- in a worker process ------------------------------------------------------------------


class _Ending:
    """How this process ends: its running jobs stop at checkpoints, then it says goodbye."""

    def __init__(self) -> None:
        self.lock, self.deadline = threading.Lock(), Deadline()
        self.running: dict[str, Deadline] = {}

    def stop(self, reason: str) -> None:
        with self.lock:
            self.deadline.stop(reason)
            for deadline in self.running.values():
                deadline.stop(reason)

    def stop_jobs(self, keys: Iterable[str], reason: str) -> None:
        with self.lock:
            for key in {*keys} & {*self.running}:
                self.running[key].stop(reason)

    @contextlib.contextmanager
    def running_job(self, key: str, deadline: Deadline) -> Iterator[None]:
        with self.lock:
            self.running[key] = deadline
            if self.deadline.expired:
                deadline.stop(self.deadline.reason or "")
        try:
            yield
        finally:
            with self.lock:
                del self.running[key]


_ENDING = _Ending()


async def dask_setup(worker: distributed.Worker) -> None:
    """Dask calls this in a worker process before it registers."""
    devices.configure()
    _ENDING.deadline = Deadline()
    loop = asyncio.get_running_loop()
    leaving: set[asyncio.Task[None]] = set()

    def end(reason: str) -> None:
        _ENDING.stop(reason)
        if not leaving:
            leaving.add(asyncio.ensure_future(_leave(worker, reason)))

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGUSR1"):
            loop.add_signal_handler(getattr(signal, name), end, name)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for who started us, who will say
    until = os.environ.get(f"{ENVIRONMENT}UNTIL")
    if until is not None:
        loop.call_later(max(0.0, float(until) - time.time()), end, "time limit")


async def dask_teardown(worker: distributed.Worker) -> None:
    """Dask calls this when the worker begins to close, its scheduler gone perhaps."""
    del worker
    _ENDING.stop("the worker closes")


async def _leave(worker: distributed.Worker, reason: str) -> None:
    """Takes no more jobs, waits until the last has stopped, and goes."""
    worker.status = Status.paused
    while _ENDING.running:
        await asyncio.sleep(0.05)
    await worker.close_gracefully(reason=reason)


def call(
    key: str,
    suite: str,
    fingerprint: str,
    directory: str | None,
    inputs: Mapping[str, bytes] | None,
    seconds: float | None,
    patience: float,
    topic: str,
) -> Reply:
    """Does a job in this worker process, see :func:`shaping_bench.engines.calls.execute_there`.

    Args:
      seconds: after which it stops at a checkpoint; None for never.
      topic: under which dask passes on how it gets on.
    """
    worker = distributed.get_worker()
    name, quiet = worker.name, float(os.environ.get(f"{ENVIRONMENT}QUIET", "inf"))
    deadline = Deadline(seconds)
    said = -SECONDS_BETWEEN_EVENTS

    def alive() -> None:
        if quiet < threading.TIMEOUT_MAX:
            # Says where it hangs, and ends the process, whatever holds it up; the nanny starts another.
            faulthandler.dump_traceback_later(quiet, exit=True)

    def on_progress(done: int, total: int, values: Mapping[str, float]) -> None:
        nonlocal said
        alive()
        if time.monotonic() - said >= SECONDS_BETWEEN_EVENTS:
            said = time.monotonic()
            numbers = {x: float(value) for x, value in values.items()}
            told = {"key": key, "name": name, "done": int(done), "total": int(total), "values": numbers}
            worker.log_event(topic, told)

    with _ENDING.running_job(key, deadline), _watched():
        alive()
        if directory is not None and not (Path(directory) / SUITE).is_file():
            text = (
                f"worker {name} sees no results in {directory!r}; allowed: a directory that it sees, or shared: false"
            )
            return {"status": "failed", "worker": name, "error": text, "fault": StoreError.__name__}
        return execute_there(
            key,
            suite,
            fingerprint,
            directory,
            inputs,
            worker=name,
            deadline=deadline,
            on_start=lambda: worker.log_event(topic, {"key": key, "name": name}),
            on_progress=on_progress,
            patience=patience,
        )


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


async def stop(keys: Sequence[str], reason: str) -> None:
    """Stops these of this process' jobs at checkpoints; it stays, and takes others. Of a coroutine
    dask does not await the end."""
    _ENDING.stop_jobs(keys, reason)


# --- a machine that serves ----------------------------------------------------------------


def default_name() -> str:
    """Of this machine, unlike any other of a scheduler."""
    return f"{socket.gethostname()}-{os.getpid()}"


async def serve(
    address: str,
    parts: Sequence[Process],
    *,
    seconds: float | None = None,
    patience: float = 60.0,
    quiet: float = 3600.0,
    memory: int = 0,
    leash: bool = False,
) -> str:
    """Serves a scheduler with worker processes, until told to end.

    Args:
      address: of the scheduler.
      parts: the processes.
      seconds: after which to end.
      patience: seconds to wait for a scheduler, at first and when it is lost.
      quiet: see :func:`nanny_options`.
      memory: the same, for each.
      leash: whether to end with this process' standard input, too.

    Returns:
      Why it has ended.

    Raises:
      TimeoutError: there is no scheduler.
    """
    end = None if seconds is None else time.monotonic() + seconds
    reasons: list[str] = []
    nannies: list[distributed.Nanny] = []
    loop = asyncio.get_running_loop()

    def on_signal(name: str) -> None:
        reasons.append(name)
        for nanny in nannies:
            if nanny.pid:
                os.kill(nanny.pid, signal.SIGUSR1)

    for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
        loop.add_signal_handler(getattr(signal, name), on_signal, name)
    if leash:
        loop.add_reader(sys.stdin.fileno(), _read, loop, on_signal)
    # The environment that any other process of ours has: dask would allow its numerical libraries one thread.
    with dask.config.set({"distributed.nanny.pre-spawn-environ": {}}):
        while not reasons:
            scheduler = await _scheduler_at(address, patience, reasons)
            if scheduler is None:
                break
            left = None if end is None else max(0.0, end - time.monotonic())
            options = [nanny_options(x, quiet=quiet, memory=memory, seconds=left) for x in parts]
            nannies = [distributed.Nanny(address, **x) for x in options]
            started = await asyncio.gather(*nannies, return_exceptions=True)
            failed = [x for x in started if isinstance(x, BaseException)]
            if not failed:
                await asyncio.gather(*(nanny.finished() for nanny in nannies))
            else:
                await asyncio.gather(*(nanny.close() for nanny in nannies), return_exceptions=True)
            if end is not None and time.monotonic() >= end:
                reasons.append("time limit")
            elif await _identity(address) == scheduler:
                if failed:
                    raise failed[0]
                reasons.append("the scheduler needs it no more")
    return reasons[0]


def _read(loop: asyncio.AbstractEventLoop, on_end: Callable[[str], None]) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        loop.remove_reader(sys.stdin.fileno())
        on_end("end of input")


async def _scheduler_at(address: str, patience: float, reasons: Sequence[str]) -> str | None:
    """Identity of the scheduler at an address, once there is one; None if told to end meanwhile."""
    end = time.monotonic() + patience
    while not reasons:
        found = await _identity(address)
        if found is not None:
            return found
        if time.monotonic() > end:
            raise TimeoutError(f"no scheduler at {address} within {patience:g} s")
        await asyncio.sleep(0.5)
    return None


async def _identity(address: str) -> str | None:
    try:
        async with rpc(address, timeout=5) as scheduler:
            return str((await asyncio.wait_for(scheduler.identity(), 5))["id"])
    except (TimeoutError, OSError):
        return None


def work(
    address: str,
    *,
    name: str | None,
    cores: int | None,
    gpus: int | None,
    jobs_per_gpu: int,
    memory: int | None,
    **options: Any,
) -> int:
    """The command ``shaping-bench worker``: serves until told to end, and says on stderr what happens.

    Raises:
      BadInput: there is no scheduler at the address.
    """
    parts = processes(name or default_name(), cores=cores, gpus=gpus, jobs_per_gpu=jobs_per_gpu)
    gpu_processes = sum(GPU in x.resources for x in parts)
    count = (
        f"{len(parts)} processes, {gpu_processes} of them with a GPU" if gpu_processes else f"{len(parts)} processes"
    )
    print(f"shaping-bench: worker {parts[0].name} serves {address} with {count}", file=sys.stderr)
    logging.getLogger("distributed").setLevel(logging.ERROR)
    try:
        reason = asyncio.run(serve(address, parts, memory=(memory or 0) // len(parts), **options))
    except (OSError, ValueError) as error:  # a timeout is an OSError
        raise BadInput(f"the scheduler's address is {address!r}: {error}; allowed: HOST:PORT of a scheduler") from None
    print(f"shaping-bench: worker {parts[0].name} has ended: {reason}", file=sys.stderr)
    return 0
