"""Seconds of calls, and rates from them."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def clocked(call: Callable[[], Any], runs: int, warm: bool = True) -> tuple[list[float], list[float]]:
    """Wall and CPU-seconds of each of ``runs`` calls, if ``warm`` after one that compiles and does not count."""
    walls, cpus = [], []
    if warm:
        call()
    for _ in range(runs):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return walls, cpus


def rates(count: int, walls: Sequence[float], cpus: Sequence[float], target: float | None) -> dict[str, Any]:
    """Rates from the seconds of several calls, each of which does ``count`` units.

    Args:
      count: units per call.
      walls, cpus: seconds of each call.
      target: units per CPU-second to reach; None: nothing is judged.

    >>> row = rates(100, walls=[2.0, 1.0, 9.0], cpus=[4.0, 4.0, 4.0], target=20)
    >>> row["per_wall_second"], row["per_cpu_second"], row["cores_used"], row["met"]
    (50.0, 25.0, 2.0, True)
    """
    wall, cpu = statistics.median(walls), statistics.median(cpus)
    return {
        "runs": len(walls),
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "cores_used": cpu / wall,
        "per_wall_second": count / wall,
        "per_cpu_second": count / cpu,
        "target": target,
        "met": None if target is None else count / cpu >= target,
    }


def kept(rate: float) -> float:
    """The target of what is fast enough: no more than 5 % slower than it was."""
    return 0.95 * rate
