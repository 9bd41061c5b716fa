"""How much later a suite ends on other engines than on the local one.

    PYTHONPATH=. python .ci/engines.py [SUITE] [ENGINE ...]

Engines: ``local``, ``dask`` (worker processes on this machine) and ``slurm`` (a Slurm of one node, where it can be
had). Each run is a process of its own that finds nothing cached. Prints seconds and whether every number is bit for
bit the first one's; exit code 1 if one is not. The machine should be idle.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.shaping_bench import cluster_faults as faults
from tests.shaping_bench.test_interruption import finished, numbers


def main(suite: str = "quick", *engines: str) -> int:
    alike = True
    first = 0.0
    expected: dict[tuple[str, str], list[tuple[object, ...]]] = {}
    with tempfile.TemporaryDirectory(prefix="shaping-bench-engines-") as base:
        for k, engine in enumerate(engines or ("local", "dask", "slurm")):
            folder = Path(base) / f"{k}-{engine}"
            folder.mkdir()
            seconds = _seconds(suite, engine, folder)
            if seconds is None:
                print(f"{engine}: left out, Slurm is not installed here", flush=True)
                continue
            found = numbers(folder / "results")
            first, expected = first or seconds, expected or found
            same = found == expected
            alike &= same
            print(
                f"{engine}: {len(finished(folder / 'results'))} cells in {seconds:.1f} s, "
                f"{100.0 * (seconds / first - 1.0):+.1f} %, {'the same bits' if same else 'OTHER BITS'}",
                flush=True,
            )
    return 0 if alike else 1


def _seconds(suite: str, engine: str, folder: Path) -> float | None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    options: tuple[str, ...] = ()
    with contextlib.ExitStack() as stack:
        if engine == "dask":
            options = ("--engine", "dask", "--cluster", "local")
        elif engine == "slurm":
            if not faults.slurm_can_be_had():
                return None
            environment |= stack.enter_context(faults.slurm(folder / "node"))
            environment["XDG_CACHE_HOME"] = str(folder / "cache")
            # Slurm does not enforce it here, but dask ends processes that take more than their share of it.
            memory = psutil.virtual_memory().total // 2
            text = f"queue: main, cores: {os.cpu_count()}, memory: {memory}B, maximum: 1, walltime: 2h"
            file = faults.settings(folder / "slurm.yaml", f"{{host: 127.0.0.1, {text}}}")
            options = ("--engine", "dask", "--cluster", "slurm", "--cluster-file", str(file))
        start = time.monotonic()
        words = faults.command(suite, folder / "results", *options)
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        seconds = time.monotonic() - start
    if done.returncode:
        raise SystemExit(f"{engine} ended with exit code {done.returncode}:\n{done.stderr[-3000:]}")
    return seconds


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
