"""A suite of many tiny cells: ``python -m shaping_bench.speed.scale [--cells N] [-o DIR]``, or ``make scale``.

What is measured is what the harness itself takes, besides compiling and running: expanding and planning
the suite, measuring and storing a cell, tables and page. Every stage is a process of its own, whose peak of
memory is its own too. On stdout one JSON object, on stderr the same as lines::

    schema      1
    cells       encounters of the suite
    versions, git_commit, device, cores
    plan        {seconds, jobs, peak_bytes}: expanding, hashes, jobs
    run         {wall_seconds, cpu_seconds, encounters_cpu_seconds, own_ms_per_cell, growth_bytes, peak_bytes};
                own: CPU-time besides compiling and running encounters; growth: of the resident memory from
                the first job's end to the last one's
    store       {bytes_per_cell, disk_bytes_per_cell, inodes_per_cell}
    publish     {open_seconds, tables_seconds, page_seconds, peak_bytes, page_bytes}
    again       the same once more, when what was read is compacted
    limits      what they are compared with; ``met``: by name
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

GAMES = ("ipd", "stag-hunt", "chicken", "imp")

LIMITS = {
    "plan.seconds": 30.0,
    "run.own_ms_per_cell": 15.0,
    "publish.seconds": 30.0,
    "publish.peak_bytes": 2.0 * 2**30,
    "again.seconds": 30.0,
    "again.peak_bytes": 2.0 * 2**30,
}
"""What is to be reached, on one idle core."""

AT = 20_000
"""Cells for which the limits are."""


def suite_of(cells: int) -> dict[str, Any]:
    """A suite of at least so many encounters: few rules with many step sizes each, all pairs, in four games.

    >>> from shaping_bench.spec.suite import expand, validate
    >>> len(expand(validate(suite_of(300))).encounters)
    312
    """
    # Of n learners there are n (n + 1) / 2 pairs in each game, whose seats are alike for rules that learn.
    count = math.ceil((math.sqrt(8 * cells / len(GAMES) + 1) - 1) / 2)
    sizes = [round(0.1 + 0.02 * k, 4) for k in range(count)]
    rules = ("naive", "lookahead", "lola", "sos")
    learners = [{rule: {"lr": steps}} for k, rule in enumerate(rules) if (steps := sizes[k :: len(rules)])]
    return {
        "name": "scale",
        "games": list(GAMES),
        "learners": learners,
        "seeds": 2,
        "steps": 4,
        "record_every": 2,
        "metrics": ["return", "cooperation"],
    }


# --- stages, each in a process of its own -----------------------------------------------------------------------


def _plan(directory: Path) -> dict[str, Any]:
    from shaping_bench.run.jobs import plan
    from shaping_bench.spec.suite import load
    from shaping_bench.store.store import Store

    started = time.perf_counter()
    suite = load(directory / "scale.yaml")
    jobs = plan(suite, Store(directory / "out")).jobs
    return {"seconds": time.perf_counter() - started, "jobs": len(jobs), "cells": len(suite.encounters)}


def _run(directory: Path) -> dict[str, Any]:
    from shaping_bench.run import devices, jobs
    from shaping_bench.spec.suite import load
    from shaping_bench.store.store import Store

    devices.configure()
    suite, store = load(directory / "scale.yaml"), Store(directory / "out")
    store.adopt(suite.resolved())
    encounters, resident = 0.0, []
    run_encounter = jobs.run_encounter

    def clocked(*arguments: Any, **options: Any) -> Any:
        nonlocal encounters
        begun = time.process_time()
        try:
            return run_encounter(*arguments, **options)
        finally:
            encounters += time.process_time() - begun

    jobs.run_encounter = clocked
    try:
        wall, cpu = time.perf_counter(), time.process_time()
        # One by one, so that what an encounter takes and what the rest does can be told apart.
        for job in jobs.plan(suite, store).jobs:
            jobs.execute(job.key, suite, store)
            resident.append(_resident_bytes())
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    finally:
        jobs.run_encounter = run_encounter
    return {
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "encounters_cpu_seconds": encounters,
        "own_ms_per_cell": 1000.0 * (cpu - encounters) / len(suite.encounters),
        "growth_bytes": resident[-1] - resident[0],
    }


def _publish(directory: Path) -> dict[str, Any]:
    from shaping_bench.publish.report import write_report
    from shaping_bench.publish.tables import table_command
    from shaping_bench.store.results import load

    clock = [time.perf_counter()]
    results = load(directory / "out")
    clock.append(time.perf_counter())
    table = table_command(results)
    clock.append(time.perf_counter())
    page = write_report(results, directory / "report.html")
    clock.append(time.perf_counter())
    opened, tabled, paged = (b - a for a, b in itertools.pairwise(clock))
    return {
        "seconds": clock[-1] - clock[0],
        "open_seconds": opened,
        "tables_seconds": tabled,
        "page_seconds": paged,
        "table_bytes": len(table.encode()),
        "page_bytes": page.stat().st_size,
    }


STAGES: dict[str, Callable[[Path], dict[str, Any]]] = {"plan": _plan, "run": _run, "publish": _publish}


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def stored(cells: Path, count: int) -> dict[str, Any]:
    """What so many cells take on the disk, each."""
    files = [path.stat() for path in (cells, *cells.rglob("*"))]
    return {
        "bytes_per_cell": sum(x.st_size for x in files) / count,
        "disk_bytes_per_cell": sum(512 * x.st_blocks for x in files) / count,
        "inodes_per_cell": len(files) / count,
    }


# --- all of it ----------------------------------------------------------------------------------------------------


def measure(cells: int, directory: Path) -> dict[str, Any]:
    """All stages of a suite of at least ``cells`` encounters, as the object described above."""
    from shaping_bench.run import devices

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "scale.yaml").write_text(yaml.safe_dump(suite_of(cells), sort_keys=False))
    plan = _in_process("plan", directory)
    result: dict[str, Any] = {
        "schema": 1,
        "cells": plan.pop("cells"),
        "versions": devices.versions(),
        "git_commit": devices.git_commit(),
        "device": devices.describe(),
        "cores": devices.usable_cores(),
        "plan": plan,
        "run": _in_process("run", directory),
    }
    result["store"] = stored(directory / "out" / "cells", result["cells"])
    result["publish"] = _in_process("publish", directory)
    result["again"] = _in_process("publish", directory)
    result["limits"] = LIMITS
    result["met"] = judged(result)
    return result


def judged(result: Mapping[str, Any]) -> dict[str, bool]:
    """Which limits are kept; those of more cells are as much higher, but for a cell's own."""
    larger = max(1.0, result["cells"] / AT)
    return {
        name: _at(result, name) <= limit * (1.0 if name.endswith("per_cell") else larger)
        for name, limit in result["limits"].items()
    }


def _in_process(stage: str, directory: Path) -> dict[str, Any]:
    print(f"{stage} ...", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "shaping_bench.speed.scale", "--stage", stage, "-o", str(directory)],
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def _at(result: Mapping[str, Any], name: str) -> float:
    stage, _, key = name.partition(".")
    return float(result[stage][key])


def to_text(result: dict[str, Any]) -> str:
    """The result as lines for people."""
    lines = [f"{result['cells']} cells, {result['cores']} cores ({result['device']['kind']})"]
    for stage in ("plan", "run", "store", "publish", "again"):
        for key, value in result[stage].items():
            name = f"{stage}.{key}"
            shown = f"{value / 2**20:,.1f} MiB" if key.endswith("bytes") else f"{value:,.2f}"
            limit = result["limits"].get(name)
            verdict = "" if limit is None else "  met" if result["met"][name] else f"  MISSED (limit {limit:,.0f})"
            lines.append(f"{name:32}{shown:>16}{verdict}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark: JSON on stdout, progress and lines on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m shaping_bench.speed.scale",
        description="What the harness itself takes for a suite of many tiny cells.",
    )
    parser.add_argument("--cells", type=int, default=20_000, help="encounters, at least (default: 20000)")
    parser.add_argument("-o", type=Path, dest="directory", metavar="DIR", help="kept; a temporary folder by default")
    parser.add_argument("--stage", choices=tuple(STAGES), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.cells < 1:
        parser.error(f"--cells is {options.cells}; allowed: a whole number of at least 1")
    if options.stage:
        from shaping_bench.run import devices

        found = STAGES[options.stage](options.directory)
        print(json.dumps({**found, "peak_bytes": devices.peak_memory_bytes()}))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options.cells, options.directory or Path(folder))
    print(json.dumps(result, indent=1))
    print(f"\n{to_text(result)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
