"""Settings of every test run."""

import contextlib
import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path

# Most of a run is compilation: the same programs, with less effort to make their machine code fast. Fusions are
# emitted by the older of XLA's two ways, which takes a third less of everything.
os.environ["XLA_FLAGS"] = " ".join(
    ["--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false", os.environ.get("XLA_FLAGS", "")]
).strip()

# What was prepared so is not what a user's run would prepare, to the last bit: it stays among the tests.
os.environ["XDG_CACHE_HOME"] = os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "shaping-bench", "tests"
)

# Processes that tests start find our modules as the first of them has compiled them, whatever is set.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import jax
import pytest
from hypothesis import settings

from shaping_bench.run import devices, executables, programs

# Before anything starts a backend. Compiled programs are kept, as in every process of ours: most of
# a run's time is compilation, and its processes compile the same.
devices.configure()
# Not whole programs: tests put other code in the place of ours, which no name of a program tells.
executables.MOST_BYTES = 0
# Two devices exercise the sharded path on any machine.
jax.config.update("jax_num_cpu_devices", 2)

# Tracing makes millions of objects that live on. To look through them all again and again for what could go takes
# long, the longer a process has run: what a module leaves is not looked at again (``_room_for_programs``).
gc.set_threshold(100_000, 20, 50)

# Examples are compiled programs: few of them, each as slow as it needs, the same every time.
settings.register_profile("few", max_examples=10, deadline=None, derandomize=True, database=None)
settings.load_profile("few")


START = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--for", type=float, dest="seconds", help="seconds after which no further test begins")


def pytest_runtest_setup(item: pytest.Item) -> None:
    seconds = item.config.getoption("seconds")
    if seconds and time.monotonic() - START > seconds:
        pytest.skip(f"after {seconds:g} seconds no further test begins")


@pytest.fixture
def float64() -> Iterator[None]:
    """Runs a test in double precision."""
    with jax.enable_x64(True):
        yield


MOST_MAPPINGS = 25_000
"""Of memory, after which a process forgets what it has compiled: Linux allows 65 530, a program takes up to
hundreds, and the compiler crashes where it gets no more."""


@pytest.fixture(autouse=True, scope="module")
def _room_for_programs() -> Iterator[None]:
    yield
    mappings = 0
    with contextlib.suppress(OSError):  # another system
        mappings = Path("/proc/self/maps").read_bytes().count(b"\n")
    if mappings > MOST_MAPPINGS:
        gc.unfreeze()
        programs.forget()
        jax.clear_caches()
        gc.collect()
    else:
        gc.collect(0)
    gc.freeze()


def pytest_sessionfinish() -> None:
    # Extensions complain of what is still there when Python ends.
    gc.unfreeze()
