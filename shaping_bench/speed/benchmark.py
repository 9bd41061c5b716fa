"""The speed benchmark: ``python -m shaping_bench.speed [--json FILE]``, or ``make speed``.

On stdout one JSON object, on stderr the same as tables::

    schema           2
    versions, git_commit, device, cores
    matrix_rate      floating-point operations per CPU-second in a matrix product (peers.matrix_rate)
    alike            whether the machine is of the kind on which the peers were timed
    throughput       list of {learner, opponent, precision, seeds, updates, seed_updates, RATES}
    startup          list of {learner, cold, warm, met}; cold and warm are
                     {compile_seconds, run_seconds, first_result_seconds},
                     met compares with startup_limits
    startup_limits   {cold, warm: {...}} seconds
    play             list of {name, unit, count, flop, flop_of_products, of_peak, RATES}; flop are the floating-point
                     operations of a unit, counted from the compiled program (operations.Compiled)
    play_memory      what look-ahead through rollouts takes (play.memory)
    peak_memory_bytes   of the throughput process, all its programs together

where RATES are ``runs, wall_seconds, cpu_seconds, cores_used`` (their ratio: on a busy machine less than there are),
``per_wall_second, per_cpu_second, target`` (per CPU-second; null: none), ``met, peer`` (null: nobody; with versions,
machine and date), ``terms`` (like, or what differs), ``times_peer`` (null unless both sides were taken on like terms).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shaping_bench.speed import exact, peers, play
from shaping_bench.speed.exact import STARTUP_LEARNERS, STARTUP_LIMITS, UPDATES, WORKS, Work


def measure(
    works: Sequence[Work] = WORKS,
    learners: Sequence[str] = STARTUP_LEARNERS,
    runs: int = 9,
    plays: bool = True,
) -> dict[str, Any]:
    """The whole benchmark as the object described above; without ``plays`` its exact part."""
    from shaping_bench.run import devices

    # Before this process starts threads and buffers of its own.
    startups = [_said(f"start-up of {learner}", exact.startup, learner) for learner in learners]
    devices.configure()
    device, rate = devices.describe(), peers.matrix_rate()
    alike = peers.like_terms(rate, device["platform"])
    rows = [_said(work.label, exact.throughput, work, runs, alike) for work in works]
    play_rows = []
    for work in play.works() if plays else ():
        play_rows.append(_said(work.name, play.timed, work, runs, matrix_rate=rate, alike=alike))
    return {
        "schema": 2,
        "versions": devices.versions(),
        "git_commit": devices.git_commit(),
        "device": device,
        "cores": devices.usable_cores(),
        "matrix_rate": rate,
        "alike": alike,
        "throughput": rows,
        "startup": startups,
        "startup_limits": STARTUP_LIMITS,
        "play": play_rows,
        "play_memory": _said("memory of look-ahead through rollouts", play.memory) if plays else None,
        "peak_memory_bytes": devices.peak_memory_bytes(),
    }


def _said(what: str, function: Any, *arguments: Any, **options: Any) -> Any:
    print(f"{what} ...", file=sys.stderr, flush=True)
    return function(*arguments, **options)


# --- tables for people --------------------------------------------------------------------

_VERDICT = {True: "met", False: "MISSED", None: ""}


def to_text(result: dict[str, Any]) -> str:
    """The result as tables for people."""
    return "\n\n".join(
        part
        for part in (
            f"Exact IPD, {UPDATES} updates of both players; {result['cores']} cores ({result['device']['kind']})\n"
            "Seed-updates; targets are per CPU-second (column cores: how many the work got)",
            _exact_table(result["throughput"]),
            _startup_table(result["startup"]),
            _play_table(result["play"]),
            _memory_lines(result["play_memory"]),
            _about_peers(result["matrix_rate"], result["alike"]),
            f"Peak memory: {result['peak_memory_bytes'] / 2**20:.0f} MiB",
        )
        if part
    )


def _rate(x: float | None) -> str:
    return "" if x is None else f"{x:,.2f}" if x < 1e4 else f"{x / 1e6:.3g} M"


_BESIDE = ("target", "", "peer", "its / CPU-s", "terms", "x peer")


def _beside(row: dict[str, Any]) -> list[str]:
    """What stands in the columns :data:`_BESIDE` of a row."""
    peer, ratio = row["peer"], row["times_peer"]
    return [
        _rate(row["target"]),
        _VERDICT[row["met"]],
        "" if peer is None else f"{peer['name']} ({peer['version']}, {peer['taken']})",
        "" if peer is None else _rate(peer["per_cpu_second"]),
        row["terms"] or "",
        f"{ratio:,.0f}" if ratio and ratio >= 10 else f"{ratio:.1f}" if ratio else "",
    ]


def _table(rows: Sequence[Sequence[str]], header: Sequence[str], left: int) -> str:
    """A table whose first ``left`` columns hold words."""
    from tabulate import tabulate

    words = {"peer", "terms", "", *header[:left]}
    align = tuple("left" if name in words else "right" for name in header)
    return tabulate(rows, header, disable_numparse=True, colalign=align) if rows else ""


def _exact_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        [
            (row["learner"] if row["opponent"] == row["learner"] else f"{row['learner']}, {row['opponent']}")
            + f" {row['precision']}",
            str(row["seeds"]),
            _rate(row["per_wall_second"]),
            f"{row['cores_used']:.1f}",
            _rate(row["per_cpu_second"]),
            *_beside(row),
        ]
        for row in rows
    ]
    return _table(lines, ["rule", "seeds", "/ s", "cores", "/ CPU-s", *_BESIDE], left=1)


def _startup_table(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    lines = [
        [
            row["learner"],
            *(f"{row[phase][k]:.2f}" for k in ("compile_seconds", "first_result_seconds") for phase in STARTUP_LIMITS),
            _VERDICT[row["met"]],
        ]
        for row in rows
    ]
    return (
        "Seconds of `shaping-bench encounter ipd RULE` in a fresh process (limits: compile "
        f"{STARTUP_LIMITS['cold']['compile_seconds']:g} cold, {STARTUP_LIMITS['warm']['compile_seconds']:g} warm; "
        f"first result {STARTUP_LIMITS['warm']['first_result_seconds']:g} warm)\n\n"
        + _table(
            lines, ["rule", "compile, cold", "compile, warm", "first result, cold", "first result, warm", ""], left=1
        )
    )


def _play_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        [
            row["name"],
            row["unit"],
            _rate(row["per_wall_second"]),
            _rate(row["per_cpu_second"]),
            f"{row['flop']:.3g}",
            f"{100 * row['of_peak']:.0f} %",
            *_beside(row),
        ]
        for row in rows
    ]
    return _table(lines, ["work", "unit", "/ s", "/ CPU-s", "flop / unit", "of peak", *_BESIDE], left=2)


def _memory_lines(plan: dict[str, Any] | None) -> str:
    if plan is None:
        return ""
    lines = [
        f"horizon {x['horizon']}, batch {x['batch_size']}: {x['bytes'] / 2**30:.2f} GiB"
        + ("" if x["fits"] else " (does not fit)")
        for x in plan["settings"]
    ]
    fits = ", ".join(f"{batch} at horizon {horizon}" for horizon, batch in plan["largest"].items())
    about = f"Memory of one seed of {plan['learner']}, Coin Game, {plan['free'] / 2**30:.1f} GiB free"
    return "\n".join([about, *lines, f"largest fitting batch: {fits}"])


def _about_peers(rate: float, alike: bool) -> str:
    """On which machine the peers' figures were taken, and how this one compares."""
    here = f"this machine does {rate / 1e9:.0f} GFLOP per CPU-second"
    verdict = "" if alike else " and is not like that one, or busy: no ratios"
    return f"Peers, {peers.TAKEN}: {peers.MACHINE}; {here}{verdict}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark: JSON on stdout, progress and tables on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m shaping_bench.speed",
        description=f"{(__doc__ or '').splitlines()[0]} It takes about eight minutes on two idle cores, one and a half "
        "of them for a single trial of M-FOS, which is timed once.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON object here too")
    parser.add_argument("--runs", type=int, default=9, help="timed calls per rule, whose median counts (default: 9)")
    parser.add_argument("--exact", action="store_true", help="time exact encounters only")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error(f"--runs is {options.runs}; allowed: a whole number of at least 1")
    result = measure(runs=options.runs, plays=not options.exact)
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    print(f"\n{to_text(result)}", file=sys.stderr)
    return 0
