"""Faults at length: ``make faults``. Prints what was inflicted and what came of it; exit code 1 if anything was lost.

The short ones are tests (``tests/shaping_bench/test_cluster.py``, ``test_checkpoints.py``); these take half an hour
on two cores. ``PYTHONPATH=. python .ci/faults.py NAME ...`` chooses some of them.
"""

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.shaping_bench import cluster_faults as faults
from tests.shaping_bench.test_interruption import finished, numbers

MANY = """
name: many
games: [ipd, imp]
learners:
  - {naive: {lr: [0.1, 0.2, 0.3]}}
  - {lola: {lr: [0.1, 0.2, 0.3, 0.4, 0.5]}}
  - {learner: cola(num_steps=200), label: cola}
  - {learner: "mfos(batch_size=8,episodes=4)", label: mfos}
seeds: 3
steps: 20
record_every: 10
league: {opponents: [], best_response: false}
"""
"""220 cells after five preparations: seventeen programs, as it is jobs that are disturbed, not compilers."""

HANGING = "name: hanging\ngames: [ipd]\nlearners: [naive, hanging]\nseeds: 3\nsteps: 5\n"

FAULTS: dict[str, Callable[..., dict[str, int]]] = {
    "workers-killed": faults.workers_killed,
    "scheduler-killed": functools.partial(faults.scheduler_killed, times=3),
    "worker-stopped": faults.worker_stopped,
    "disk-full": functools.partial(faults.disk_full, shared=True),
    "disk-full-bytes": functools.partial(faults.disk_full, shared=False),
    "directory-away": functools.partial(faults.directory_away, seconds=30.0),
    "launcher-told-to-end": faults.launcher_told_to_end,
    "two-launchers": faults.two_launchers,
    "slurm-short": faults.slurm_short,
}


def main(names: list[str]) -> int:
    unknown = set(names) - {*FAULTS, "job-hangs", "kills"}
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; allowed: {', '.join([*FAULTS, 'job-hangs', 'kills'])}")
        return 2
    failed = 0
    with tempfile.TemporaryDirectory(prefix="shaping-bench-faults-") as base:
        os.environ["XDG_CACHE_HOME"] = f"{base}/cache"  # or preparations would be taken over from earlier runs
        suite, alone = Path(base) / "many.yaml", Path(base) / "alone"
        suite.write_text(MANY)
        chosen = [name for name in FAULTS if not names or name in names]
        expected = _undisturbed(suite, alone) if chosen else {}
        for name in chosen:
            failed += not _inflict(name, FAULTS[name], suite, Path(base) / name, expected)
        if not names or "job-hangs" in names:
            suite.write_text(HANGING)
            failed += not _inflict("job-hangs", faults.job_hangs, suite, Path(base) / "job-hangs", None)
        if not names or "kills" in names:
            failed += not _kills()
    return int(failed > 0)


def _undisturbed(suite: Path, directory: Path) -> dict[tuple[str, str], list[tuple[object, ...]]]:
    start = time.monotonic()
    subprocess.run(faults.command(suite, directory), check=True, capture_output=True)
    print(f"undisturbed: {len(finished(directory))} cells in {time.monotonic() - start:.0f} s", flush=True)
    return numbers(directory)


def _inflict(name, fault, suite, folder, expected) -> bool:
    """Inflicts a fault on a run without anything kept from others, and says what came of it."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    directory = folder / "share" / "results"
    directory.parent.mkdir(parents=True)
    start = time.monotonic()
    try:
        counts = fault(suite, directory, folder)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        print(f"{name}: FAILED: {error}", flush=True)
        return False
    if counts is None:
        print(f"{name}: left out, what it needs is not installed here", flush=True)
        return True
    cells = finished(directory)
    found = numbers(directory)
    wrong = 0 if expected is None else sum(found.get(key) != value for key, value in expected.items())
    lost = 0 if expected is None else len({key for key, _ in expected} - cells)
    halves = sum(path.name[0] != "." and path.name not in cells for path in (directory / "cells").iterdir())
    told = ", ".join(f"{what}: {count}" for what, count in counts.items())
    outcome = f"{len(cells)} cells, {lost} lost, {halves} half, {wrong} tables with other bits"
    print(f"{name}: {told}; {outcome}; {time.monotonic() - start:.0f} s", flush=True)
    return not (lost or halves or wrong)


def _kills() -> bool:
    """A hundred kill points in one long encounter, and a hundred in one preparation."""
    from tests.shaping_bench.kills import kill_points

    done = True
    for seed, kind in enumerate(("encounter", "preparation")):
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            try:
                count = kill_points(Path(folder), kind=kind, count=100, seed=seed)
            except AssertionError as error:
                done = False
                print(f"kills: {kind}: FAILED: {error}", flush=True)
            else:
                seconds = time.monotonic() - start
                print(f"kills: {kind}: {count} processes killed, all ended bit for bit; {seconds:.0f} s", flush=True)
    return done


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
