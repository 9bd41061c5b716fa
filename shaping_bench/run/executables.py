"""Compiled programs kept between processes, each asked for by what decides it.

JAX keeps machine code by what a function was lowered to, so every process traces and lowers it first, which takes
longer than loading it: half a second of a small exact encounter, seconds where networks learn. Here a program has the
hash of what decides it: our code, structures and shapes, settings, versions, the machine. What cannot be described so,
other people's rules and games among it, is not kept, and what cannot be loaded is compiled.

The files hold machine code, as JAX's own do: they stand in a folder of the same cache, and are trusted as that is.
"""

import contextlib
import dataclasses
import enum
import functools
import hashlib
import importlib.metadata
import os
import pickle
import platform
import re
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import serialize_executable
from jax.sharding import Mesh

from shaping_bench.run import devices
from shaping_bench.spec.identity import content_hash
from shaping_bench.spec.sources import package_hash, package_time
from shaping_bench.store import disk

MOST_BYTES = 2**29
"""Of all files together, those used last; 0: none are kept."""

SETTLED = 10.0
"""Seconds before this process began, since when our code must not have changed: else it may run another than what
stands in the files."""

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")
"""Whose classes can be described, by their versions."""

_PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")

_STRANGE = ("shaping_bench.games.adapters", "shaping_bench.algorithms.axelrod_strategies")
"""Modules of ours in which other people's code decides."""

_SETTINGS = re.compile("(XLA_(?!PYTHON)|PJRT_|LIBTPU_|TF_|NVIDIA_)")
"""The variables by which compilers are told something; not those of how much memory there is."""

_BEGAN = time.time()


def compiled(
    what: Any, where: Iterable[jax.Device], lower: Callable[[], jax.stages.Lowered], networks: bool = False
) -> jax.stages.Compiled:
    """A compiled function: as an earlier process kept it, or compiled now and kept.

    Args:
      what: everything that decides which function it is, but for code and settings.
      where: the devices it runs on.
      lower: traces and lowers it.
      networks: whether networks learn from play in it.
    """
    where = tuple(where)
    path = _path(what, where)
    found = None if path is None else _load(path, where)
    if found is None:
        lowered, options = lower(), devices.compiler_options(networks=networks)
        _NOTED.compiled = False
        found = lowered.compile(options)
        if path is not None and _NOTED.compiled:
            _store(path, found)
    return found


_NOTED = threading.local()
"""``compiled``: whether this thread has compiled something since it was set to false. What JAX found in its own
cache must not be kept: on CPUs such an executable is serialised without its machine code (jax 0.10.2)."""


def _note(event: str, **_: Any) -> None:
    # Recorded when machine code was made, and written to JAX's cache.
    if event == "/jax/compilation_cache/cache_misses":
        _NOTED.compiled = True


jax.monitoring.register_event_listener(_note)


def shapes(arguments: Any) -> tuple[Any, ...]:
    """Of a function's arguments the structure, and of each array shape and type."""
    leaves, structure = jax.tree.flatten(arguments)
    return structure, tuple((x.shape, str(x.dtype)) for x in leaves)


# --- what decides a program ---------------------------------------------------------------------------


class Strange(Exception):
    """Of this one cannot say what it does: code of others, or an object with a mind of its own."""


def described(x: Any) -> Any:
    """A value in words that are equal for equal values only, plain enough for JSON.

    Raises:
      Strange: it is, or holds, what has no such description.
    """
    if isinstance(x, enum.Enum):
        return [described(type(x)), x.name]
    if x is None or type(x) in (bool, str):
        return x
    if type(x) in (int, float):
        return [type(x).__name__, repr(x)]
    if isinstance(x, np.ndarray | np.generic) and not x.dtype.hasobject:
        return ["array", str(x.dtype), list(x.shape), hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()]
    if isinstance(x, np.dtype):
        return ["dtype", str(x)]
    if isinstance(x, type):
        return ["class", *(_class(base) for base in x.__mro__)]
    if isinstance(x, tuple | list):
        return [described(type(x)), *(described(y) for y in x)]
    if isinstance(x, frozenset):
        return [described(type(x)), *sorted((described(y) for y in x), key=repr)]
    if isinstance(x, Mapping):
        return [described(type(x)), *([described(k), described(v)] for k, v in x.items())]
    if isinstance(x, jax.tree_util.PyTreeDef):
        return ["tree", described(x.node_data()), *(described(child) for child in x.children())]
    if isinstance(x, Mesh):
        return ["mesh", list(x.axis_names), list(x.devices.shape), *(d.id for d in x.devices.flat)]
    if dataclasses.is_dataclass(x):
        return [described(type(x)), *(described(getattr(x, f.name)) for f in dataclasses.fields(x))]
    raise Strange(type(x).__name__)


def _class(cls: type) -> str:
    top = cls.__module__.partition(".")[0]
    ours = top == "shaping_bench" and not cls.__module__.startswith(_STRANGE)
    if not ours and top not in LIBRARIES and top not in sys.stdlib_module_names:
        raise Strange(cls.__name__)
    return f"{cls.__module__}.{cls.__qualname__}"


def _path(what: Any, where: Sequence[jax.Device]) -> Path | None:
    """Where the program is kept; None where it cannot be, or may not be."""
    folder = devices.programs_folder() if MOST_BYTES else None
    if folder is None or not 0.0 < package_time() < _BEGAN - SETTLED:
        return None
    try:
        words = described(what)
    except Strange:
        return None
    identity = {
        "what": words,
        "where": [[x.id, x.platform, x.device_kind] for x in where],
        "machine": [where[0].client.platform_version, _processor()],
        "source": package_hash(),
        "versions": _versions(),
        "settings": {k: v for k, v in sorted(os.environ.items()) if _SETTINGS.match(k)},
        "jax": {k: repr(v) for k, v in sorted(jax.config.values.items()) if "cache" not in k},
    }
    return folder / content_hash(identity)


@functools.cache
def _versions() -> list[str]:
    found = [sys.version]
    for name in (*LIBRARIES, *_PLUGINS):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return found


@functools.cache
def _processor() -> str:
    """This machine's processor and what it can do: machine code may stand in a home that several have in common."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return f"{devices.cpu_model()} {line.partition(':')[2]}"
    return f"{platform.machine()} {devices.cpu_model()}"


# --- files ----------------------------------------------------------------------------------------------


def _load(path: Path, where: Sequence[jax.Device]) -> jax.stages.Compiled | None:
    # Whatever is wrong with a file, or with an executable of another machine's, the program can be compiled.
    with contextlib.suppress(Exception):
        content = path.read_bytes()
        digest, packed = content[:32], content[32:]
        if hashlib.sha256(packed).digest() == digest:
            program, arguments, results = pickle.loads(zlib.decompress(packed))
            loaded = serialize_executable.deserialize_and_load(
                program, arguments, results, backend=where[0].client, execution_devices=where
            )
            os.utime(path)  # used last
            return loaded
    return None


def _store(path: Path, program: jax.stages.Compiled) -> None:
    # Not every program can be kept (one that calls back into Python cannot), and not every folder written to.
    with contextlib.suppress(Exception):
        packed = zlib.compress(pickle.dumps(serialize_executable.serialize(program)), 1)
        if len(packed) <= MOST_BYTES:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{uuid.uuid4().hex}")
            draft.write_bytes(hashlib.sha256(packed).digest() + packed)
            draft.replace(path)
            disk.prune(path.parent, most=MOST_BYTES)
