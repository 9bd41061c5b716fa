"""One job as a call between processes: plain words go in, plain words come out.

Nothing of ours is pickled: a worker reads the suite from its text, finds the job by its key, and
answers with a dictionary of strings, numbers and bytes. A worker of another version or of other
source is refused, as its numbers would be other numbers.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import shutil
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from shaping_bench.errors import BadInput, OutOfTime, StoreError
from shaping_bench.run import devices
from shaping_bench.run.deadline import Deadline
from shaping_bench.run.jobs import Failed, OnProgress, execute, told, written
from shaping_bench.spec.sources import foreign_hash, package_hash
from shaping_bench.spec.suite import Suite, expand, validate
from shaping_bench.store.leases import Leases
from shaping_bench.store.pack import packed, unpacked
from shaping_bench.store.store import Store

PATIENCE_SECONDS = 120.0
"""That a results directory may be away, where nobody says otherwise."""

COMPARED = ("shaping-bench", "jax", "jaxlib", "numpy", "python")
"""Versions that workers must have in common."""


class Reply(TypedDict, total=False):
    """What came of a call.

    ``refused``: the worker is another version; ``held``: another process is at it; ``stopped``: at a
    checkpoint, with ``error`` saying where and ``further`` whether it got further, or not even begun.
    """

    status: Literal["done", "failed", "held", "stopped", "refused"]
    seconds: float
    worker: str
    about: dict[str, Any]
    error: str
    traceback: str
    fault: str
    errors: dict[str, str]
    further: bool
    content: dict[str, bytes]


# --- suites and versions as text ----------------------------------------------------------


_SUITES: dict[str, Suite] = {}
"""What this process has read or written; an engine's process has few."""


def suite_text(suite: Suite) -> str:
    """The resolved suite as text, from which :func:`read_suite` makes the same cells."""
    text = json.dumps(suite.resolved())
    _SUITES[text] = suite
    return text


def read_suite(text: str) -> Suite:
    """The suite of a text, made once per process."""
    if text not in _SUITES:
        _SUITES[text] = expand(validate(json.loads(text)))
    return _SUITES[text]


@functools.lru_cache(maxsize=4)
def fingerprint(suite: Suite) -> str:
    """What must be alike wherever the suite's jobs run, as text: versions, our source, and the code of
    learners and games that come from elsewhere."""
    values = {id(x.named.value): x.named.value for cell in suite.encounters for x in (cell.game, *cell.learners)}
    return json.dumps({**_versions(), "plug-ins": foreign_hash(*values.values())}, sort_keys=True)


def _versions() -> dict[str, str]:
    return {name: x for name, x in devices.versions().items() if name in COMPARED} | {"source": package_hash()}


@functools.cache
def identity() -> str:
    """What must be alike whatever the suite, in a word."""
    return hashlib.sha256(json.dumps(_versions(), sort_keys=True).encode()).hexdigest()[:12]


def difference(ours: str, theirs: str) -> str:
    """In what two fingerprints differ, in words; empty if in nothing."""
    a, b = json.loads(ours), json.loads(theirs)
    return "; ".join(
        f"{name} is {a.get(name)!r} here and {b.get(name)!r} there"
        for name in sorted({*a, *b})
        if a.get(name) != b.get(name)
    )


def worker_name() -> str:
    """Of this process: its host and its number."""
    return f"{socket.gethostname()}-{os.getpid()}"


def about_worker() -> dict[str, Any]:
    """What this process is and has: ``host``, ``pid``, ``device``, ``memory_bytes``. Starts JAX's backend."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "device": devices.describe(),
        "memory_bytes": devices.free_memory_bytes(),
    }


# --- one call -----------------------------------------------------------------------------


def perform(
    key: str,
    suite: Suite,
    store: Store,
    *,
    worker: str = "",
    deadline: Deadline | None = None,
    on_start: Callable[[], None] = lambda: None,
    on_progress: OnProgress | None = None,
    patience: float = 0.0,
) -> Reply:
    """Does a job, and says what came of it whatever it was.

    Args:
      key, suite, store, deadline, on_progress: see :func:`shaping_bench.run.jobs.execute`.
      worker: who does it.
      on_start: called once it is begun.
      patience: seconds that a results directory may be away which a run has made.
    """
    clock = time.perf_counter()
    reply: Reply = {"status": "done", "worker": worker or worker_name()}
    if deadline is not None and deadline.expired:  # it is not even begun
        return {**reply, "status": "stopped"}
    leases = _leases(store.directory)
    if not leases.take(key):
        return {**reply, "status": "held"}
    on_start()
    try:
        while True:
            try:
                execute(key, suite, store, deadline=deadline, on_progress=on_progress)
                break
            except OutOfTime:
                raise
            except Exception:  # of whatever kind, where a file system fails
                if not _away(store.directory, patience):
                    raise
                _wait_for(store.directory, patience, deadline)
    except OutOfTime as error:
        reply |= {"status": "stopped", "error": str(error), "further": error.further}
    except Exception as error:  # one job's failure must not lose the others' results
        reply |= _failure(error)
    finally:
        leases.give_back(key)
    return {**reply, "seconds": time.perf_counter() - clock}


def _failure(error: Exception) -> Reply:
    return {
        "status": "failed",
        "error": told(error),
        "traceback": "".join(traceback.format_exception(error)),
        "fault": type(error).__name__,
        "errors": {cell: told(x) for cell, x in error.errors.items()} if isinstance(error, Failed) else {},
    }


def _away(directory: Path, patience: float) -> bool:
    return patience > 0.0 and not (directory / "suite.yaml").is_file()


def _wait_for(directory: Path, patience: float, deadline: Deadline | None) -> None:
    """Waits until a directory that has vanished is there again, as on networks it may be.

    Raises:
      OutOfTime: the deadline has passed.
      StoreError: it has not come back.
    """
    end = time.monotonic() + patience
    while _away(directory, patience):
        if deadline is not None and deadline.expired:
            raise OutOfTime(f"waited for {str(directory)!r}, which is away", further=False)
        if time.monotonic() > end:
            raise StoreError(
                f"the results directory {str(directory)!r} has been away for {patience:.0f} s; what is finished is "
                "stored in it, the same command goes on once it is there"
            )
        time.sleep(0.2)


@functools.cache
def _leases(directory: Path) -> Leases:
    return Leases(directory / "leases")


_CONFIGURED = threading.Lock()


def execute_there(
    key: str,
    suite: str,
    print_: str,
    directory: str | None,
    inputs: Mapping[str, bytes] | None = None,
    *,
    worker: str = "",
    deadline: Deadline | None = None,
    on_start: Callable[[], None] = lambda: None,
    on_progress: OnProgress | None = None,
    patience: float = 0.0,
) -> Reply:
    """Does a job in whatever process an engine calls this in.

    Args:
      key: which job.
      suite: the resolved suite, see :func:`suite_text`.
      print_: the caller's :func:`fingerprint`.
      directory: the results, if this process sees them under that name; else what the job yields
        comes back as ``content``, by folder (``cells/HASH``, ``artifacts/HASH``), packed.
      inputs: without a directory, packed folders that the job reads (:attr:`Job.reads`) and that
        this process may lack.
      worker: this process, as the engine calls it.
      deadline: when to stop at a checkpoint.
      on_start, on_progress: see :func:`perform`.
      patience: seconds that the directory may be away.
    """
    worker = worker or worker_name()
    with _CONFIGURED:
        devices.configure()
        try:
            ours = read_suite(suite)
        except BadInput as error:
            return {"status": "refused", "worker": worker, "error": str(error)}
    other = difference(fingerprint(ours), print_)
    if other:
        text = f"worker {worker} is another version than the launcher: {other}; allowed: the same"
        return {"status": "refused", "worker": worker, "error": text}
    here = functools.partial(
        perform,
        key,
        ours,
        worker=worker,
        deadline=deadline,
        on_start=on_start,
        on_progress=on_progress,
    )
    if directory is not None:
        return here(Store(directory, writable=False), patience=patience)  # the launcher has made it
    try:
        return _in_own_folder(here, suite, written(key, ours), inputs or {})
    except OSError as error:
        failure = StoreError(f"worker {worker} cannot use its own folder: {error}")
        return {"worker": worker, **_failure(failure)}
    except (StoreError, BadInput) as error:
        return {"worker": worker, **_failure(error)}


def _in_own_folder(
    here: Callable[[Store], Reply], suite: str, names: Sequence[str], inputs: Mapping[str, bytes]
) -> Reply:
    """Does a job in this process' own folder, which nobody has promised to bring back: there is no patience
    with it, other workers have folders too.

    Args:
      here: does it in a store.
      suite: of which suite.
      names: folders that the job makes.
      inputs: folders that it reads, packed.

    Raises:
      BadInput: inputs are damaged.
      OSError, StoreError: the folder cannot be written or read.
    """
    folder = _own_folder(suite)
    for name, data in inputs.items():
        unpacked(data, folder / name)
    store = Store(folder, writable=False)
    store.cells.mkdir(exist_ok=True)
    reply = here(store)
    found = [name for name in names if (folder / name).is_dir()]
    reply["content"] = {name: packed(folder / name) for name in found}
    for name in found:
        if name.startswith("cells/"):  # as many as a suite has, which nobody reads here again
            shutil.rmtree(folder / name)
    return reply


def place(reply: Reply, directory: Path) -> None:
    """Stores what came back as bytes; what stands already stays as it is.

    Raises:
      BadInput: the bytes are damaged.
      StoreError: it cannot be written.
    """
    for name, data in reply.get("content", {}).items():
        unpacked(data, directory / name)


@functools.cache
def _own_folder(suite: str) -> Path:
    """Where a process keeps a suite's artifacts and checkpoints that sees no results directory. One that
    follows it on this machine takes it over, and goes on from the checkpoints."""
    import fcntl  # absent on Windows

    base = devices.user_cache() or Path(tempfile.gettempdir()) / "shaping-bench"
    name = hashlib.sha256(suite.encode()).hexdigest()[:24]
    for k in itertools.count():
        folder = base / "workers" / f"{name}-{k}"
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)  # held until the process ends
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return folder
        os.close(handle)
    raise AssertionError("counting has no end")
