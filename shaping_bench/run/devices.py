"""Where computations run: JAX's settings, and what a record says of machine and versions.

Importing this module touches no device; :func:`configure` comes before the first
computation of a process.
"""

import contextlib
import contextvars
import dataclasses
import functools
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from shaping_bench.errors import NoRoom

RECORDED = ("shaping-bench", "jax", "jaxlib", "numpy", "scipy", "wandb")
"""Packages whose versions go into every record."""


CPU_DEVICES = 2
"""JAX devices of a process on CPUs, on every machine: as many as the smallest laptop has cores."""

THREADS = 2
"""Threads of one CPU program, on every machine, for the same reason."""

_CONFIGURED = threading.Event()

FOR_NETWORKS = {"cpu": {"xla_cpu_experimental_ynn_fusion_type": ""}}
"""What the compiler is told, by platform, of programs in which networks learn from play. On CPUs: to leave out a
library of kernels that takes milliseconds for a softmax of two actions, where plain loops take none, and wins
nothing by products of 16 to 128 columns. (Kept to products, it crashes LOQA in the Coin Game, jaxlib 0.10.2.)"""


def configure(precision: str = "float32", cpu_devices: int = CPU_DEVICES) -> None:
    """Sets JAX up for a process of ours; to be called before any computation.

    A persistent compilation cache, so that the second process does not pay the first
    one's compilation. On CPUs last bits must not depend on how many cores there are: there are
    :data:`CPU_DEVICES` devices, over which the tiles of seeds are spread, and :data:`THREADS` threads for
    their programs, since the compiler splits sums by their number. More cores are used by jobs side by
    side. A setting that the user made through its environment variable stays as it is.

    Args:
      precision: ``"float32"`` or ``"float64"``, the default for computations outside encounters.
      cpu_devices: others where somebody asks for several on one seed.
    """
    jax.config.update("jax_enable_x64", precision == "float64")
    settings: dict[str, Any] = {
        "jax_compilation_cache_dir": _writable(cache_folder()),
        # Small programs count: a suite has many of them.
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    if "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        settings["jax_num_cpu_devices"] = cpu_devices
    os.environ.setdefault("PJRT_NPROC", str(THREADS))
    for name, value in settings.items():
        if name.upper() not in os.environ:
            # The number of devices is settled once a backend exists, and then stays.
            with contextlib.suppress(RuntimeError):
                jax.config.update(name, value)
    _CONFIGURED.set()


def compiler_options(*, networks: bool) -> dict[str, str | bool]:
    """What ``jax.jit`` tells the compiler of a program for the local devices: of :data:`FOR_NETWORKS` what it knows
    and the user has not set in ``XLA_FLAGS``.

    Args:
      networks: whether networks learn from play in it; others are compiled as ever, to the last bit.
    """
    options = FOR_NETWORKS.get(jax.local_devices()[0].platform, {}) if networks else {}
    told = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in options.items() if name not in told and _is_option(name, value)}


@functools.cache
def _is_option(name: str, value: str) -> bool:
    """Whether this version of the compiler takes it: such options come and go."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def uses_gpus() -> bool:
    """Whether JAX would use a GPU if it were asked now, as far as one can tell without asking: it is
    installed with what that takes, and not told otherwise."""
    told = jax.config.jax_platforms or ""  # type: ignore[attr-defined]
    plugins = [name for name in ("jax_cuda12_plugin", "jax_cuda13_plugin") if importlib.util.find_spec(name)]
    return bool(plugins) and (not told or "cuda" in told or "gpu" in told)


def stay_on_cpu() -> None:
    """Keeps this process off the accelerators, which are others'; to be called before any computation."""
    jax.config.update("jax_platforms", "cpu")


def usable_cores() -> int:
    """Cores this process may run on, which a container or a scheduler may have restricted."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU of this machine: what CUDA calls it, its kind, and its memory in bytes."""

    device: str
    kind: str
    memory: int


def gpus_here() -> list[Gpu]:
    """The GPUs that this process may use, as the driver tells them: JAX would start them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    rows = [[x.strip() for x in line.split(",")] for line in done.stdout.splitlines()] if done.returncode == 0 else []
    found = {index: Gpu(device=index, kind=name, memory=int(size) * 2**20) for index, _, name, size in rows}
    found |= {uuid: dataclasses.replace(found[index], device=uuid) for index, uuid, *_ in rows}
    granted = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [row[0] for row in rows] if granted is None else [x.strip() for x in granted.split(",")]
    return [found[name] for name in names if name in found]


def cache_folder() -> Path | None:
    """Where compiled programs are kept between processes; None without a home."""
    base = user_cache()
    return base and base / "jax"


def programs_folder() -> Path | None:
    """Where whole programs are kept, within JAX's own cache; None where that is off, and in a process that is not
    one of ours: in a notebook anybody may have put another function in the place of one of ours."""
    told = jax.config.values
    folder = told["jax_compilation_cache_dir"] if told["jax_enable_compilation_cache"] else None
    return Path(folder) / "programs" if _CONFIGURED.is_set() and folder and "://" not in folder else None


def artifacts_folder() -> Path:
    """Where preparations that belong to no results directory are kept between processes."""
    return (user_cache() or Path(tempfile.gettempdir()) / "shaping-bench") / "artifacts"


def checkpoints_folder() -> Path:
    """Where runs that belong to no results directory keep what they go on from."""
    return artifacts_folder().with_name("checkpoints")


def user_cache() -> Path | None:
    """Our folder in the user's cache; None without a home."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "shaping-bench"
    except RuntimeError:  # no home directory can be determined
        return None


def _writable(folder: Path | None) -> str | None:
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except OSError:
        return None


def describe() -> dict[str, Any]:
    """The local devices: ``platform`` (cpu, gpu, tpu), ``kind`` and ``count``."""
    devices = jax.local_devices()
    kind = cpu_model() if devices[0].platform == "cpu" else devices[0].device_kind
    return {"platform": devices[0].platform, "kind": kind, "count": len(devices)}


@functools.cache
def cpu_model() -> str:
    """What this machine's processor is called."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def versions() -> dict[str, str]:
    """Python and the packages that results may depend on, ``{name: version}``."""
    found = {"python": platform.python_version()}
    for name in RECORDED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def git_commit() -> str | None:
    """Commit of the checkout this code runs from, ``-dirty`` appended if it was changed; None outside one."""
    root = Path(__file__).resolve().parent.parent.parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
        )
        return done.stdout.strip()

    try:
        # Installed into an environment inside somebody's repository, their commit says nothing about this code.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None
        return git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return None


def peak_memory_bytes() -> int:
    """Most memory used so far, bytes: on the accelerator where it says, of this process elsewhere."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    with contextlib.suppress(OSError, StopIteration):
        # Not getrusage: its peak includes that of the parent before this program was started.
        status = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])
    import resource  # absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def free_memory_bytes() -> int | None:
    """Memory that a program may still take: of the first accelerator, or of this machine; None if unknown."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    found = []
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    with contextlib.suppress(OSError, ValueError):  # a container's own limit; "max" where there is none
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(found) if found else None


def needed_memory_bytes(compiled: Any) -> int:
    """What a compiled program will take when it runs: arguments, results and scratch; of all its
    devices where those share the machine's memory."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return 0
    size = (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )
    sharings = jax.tree.leaves(compiled.input_shardings)
    count = max((len(x.device_set) for x in sharings), default=1)
    return int(size) * (count if jax.local_devices()[0].platform == "cpu" else 1)


class _Admission:
    """Lets programs run side by side as far as memory reaches: who comes when there is no room for
    one more waits until others have ended."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.running: list[int] = []
        self.free: int | None = None

    @contextlib.contextmanager
    def admitted(self, needed: int) -> Iterator[None]:
        with self.changed:
            # What is free is asked while nothing runs; later it would show what they have taken so far.
            while self.running and self.free is not None and sum(self.running) + needed > self.free:
                self.changed.wait()
            if not self.running:
                self.free = free_memory_bytes()
                refuse(needed, self.free)
            self.running.append(needed)
        try:
            yield
        finally:
            with self.changed:
                self.running.remove(needed)
                self.changed.notify_all()


_ADMISSION = _Admission()


class Compiled:
    """A compiled program that runs when it fits beside those that run already, in whatever thread.

    Args:
      function: what ``jax.stages.Lowered.compile`` yields.
    """

    def __init__(self, function: Any) -> None:
        self.function, self.memory = function, needed_memory_bytes(function)

    @functools.cached_property
    def operations(self) -> float:
        """Floating-point operations on one device, of every loop those of one round; 0 where unknown."""
        analysis = self.function.cost_analysis()
        analysis = analysis[0] if isinstance(analysis, list) and analysis else analysis
        return float((analysis or {}).get("flops", 0.0))

    def __call__(self, *arguments: Any) -> Any:
        """Runs it to the end.

        Raises:
          NoRoom: it needs more memory than there is.
        """
        sizes = _WEIGHED.get()
        if sizes is not None:
            sizes.append(self.memory)
        with _ADMISSION.admitted(self.memory):
            return jax.block_until_ready(self.function(*arguments))


def refuse(needed: int, free: int | None) -> None:
    """Refuses what cannot fit, before it runs.

    Raises:
      NoRoom: more bytes are needed than are free.
    """
    if free is not None and needed > free:
        raise NoRoom(
            f"the encounter needs about {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free; "
            "allowed: what fits, with fewer seeds, a smaller batch_size or a shorter horizon"
        )


_WEIGHED: contextvars.ContextVar[list[int] | None] = contextvars.ContextVar("weighed", default=None)


@contextlib.contextmanager
def weighing() -> Iterator[list[int]]:
    """Collects what the programs that this thread runs inside the block need, in bytes."""
    sizes: list[int] = []
    token = _WEIGHED.set(sizes)
    try:
        yield sizes
    finally:
        _WEIGHED.reset(token)


MANY = 2**22
"""Seeds whose mere numbers are worth a thought: below, what is laid out before a program is compiled,
and so weighed, is small."""


def check_size(count: int, shapes: Callable[[], Any], copies: int = 1) -> None:
    """Refuses more seeds than there is memory for, before anything of their number is laid out.

    Args:
      count: seeds times settings.
      shapes: traced, the arrays of one of them.
      copies: how many are held of each at least.

    Raises:
      NoRoom: they need more memory than there is.
    """
    if count > MANY:
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(shapes)) if hasattr(x, "dtype"))
        refuse(count * size * copies, free_memory_bytes())
