"""What a plan, a run and its status look like to those who watch it on a terminal."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:  # who shows nothing of a suite need not import what runs one
    from shaping_bench.engines.base import Event
    from shaping_bench.run.jobs import Plan
    from shaping_bench.run.tally import Tally
    from shaping_bench.store.events import Status

SECONDS_BETWEEN_LINES = 10
"""Of progress, where stderr is a file or a pipe and a bar cannot be redrawn."""

MOST_LISTED = 10
"""Jobs that a plan lists as the longest."""

SECONDS_BETWEEN_SUMS = 0.5
"""Of what is left, which looks at every job."""

MOST_BARS = 16
"""Jobs that are shown side by side; more run unseen."""


class Display:
    """One display of all that a run's workers do: a bar for the suite, and one for every job that has
    steps; where nothing can be redrawn, a line every few seconds.

    Args:
      console: where.
      name: of the suite.
      cells: of it.
    """

    def __init__(self, console: Console, name: str, cells: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.console, self.name, self.cells = console, name, cells
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self.suite = self.progress.add_task(name, total=cells)
        self.bars: dict[str, TaskID] = {}
        self.said = self.drawn = time.perf_counter()

    def __enter__(self) -> "Display":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, event: "Event", tally: "Tally") -> None:
        """Something has happened."""
        if time.perf_counter() - self.drawn > SECONDS_BETWEEN_SUMS:
            self.drawn = time.perf_counter()
            summary = f"{self.name}  {summed(tally)}"
            self.progress.update(self.suite, completed=tally.cells, description=summary)
        if event.what == "refused":
            self._line(event.error)
        job = tally.jobs.get(event.key)
        if job is None:
            return
        text = job.title
        if event.what == "progress":
            text = f"{job.title}  {listed(event.values)}"
            if job.key not in self.bars and len(self.bars) < MOST_BARS:
                self.bars[job.key] = self.progress.add_task(job.title, total=event.total)
            if job.key in self.bars:
                self.progress.update(self.bars[job.key], completed=event.done, description=text)
        elif event.what != "started" and job.key in self.bars:
            self.progress.remove_task(self.bars.pop(job.key))
        if event.what in ("lost", "retried"):
            self._line(f"{event.what}: {job.title}: {event.error}")
        elif not self.console.is_terminal and time.perf_counter() - self.said > SECONDS_BETWEEN_LINES:
            steps = f"step {event.done}/{event.total}  " if event.what == "progress" else ""
            self._line(f"{tally.cells}/{self.cells}  {summed(tally)}  {steps}{text}")

    def _line(self, text: str) -> None:
        self.said = time.perf_counter()
        self.console.print(text, highlight=False, markup=False)


def listed(values: Mapping[str, float]) -> str:
    """Numbers in a line."""
    return ", ".join(f"{name} {x:.4g}" for name, x in values.items())


def summed(tally: "Tally") -> str:
    """How a run gets on, in few words."""
    parts = [f"{len(tally.running)} running"]
    if tally.failed_cells:
        parts.append(f"{tally.failed_cells} failed")
    if tally.counts["lost"]:
        parts.append(f"{tally.counts['lost']} lost and done elsewhere")
    if tally.hours_left is not None:
        parts.append(f"{duration(3600.0 * tally.hours_left)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(3.2), duration(200), duration(7500)
    ('3 s', '3.3 min', '2.1 h')
    """
    if seconds < 100.0:
        return f"{seconds:.0f} s"
    return f"{seconds / 60.0:.1f} min" if seconds < 5400.0 else f"{seconds / 3600.0:.1f} h"


def status_text(status: "Status") -> str:
    """A status for people."""
    from tabulate import tabulate

    lines = [f"{status.stored} of {status.cells} cells stored"]
    if status.launchers:
        left = "" if status.hours_left is None else f", about {duration(3600.0 * status.hours_left)} left"
        lines.append(f"{len(status.running)} jobs running{left}")
    elif status.stored < status.cells:
        lines.append("nothing runs now: the same command goes on")
    lines.append(f"{status.retried} retried, {status.lost} lost with their workers, {len(status.failures)} failed")
    text = "\n".join(lines)
    if status.running:
        rows = [[x["title"], x["worker"], _share(x)] for x in status.running]
        text += "\n\n" + tabulate(rows, ["running", "worker", "steps"], disable_numparse=True)
    if status.workers:
        names = ["worker", "device", "jobs", "cells", "cells per hour", "failed", "lost", "work", "last heard of"]
        text += "\n\n" + tabulate([_worker(x) for x in status.workers], names, disable_numparse=True)
    if status.slowest:
        slowest = [[x["title"], duration(x["seconds"] or 0.0), x["worker"]] for x in status.slowest]
        text += "\n\n" + tabulate(slowest, ["slowest", "took", "worker"], disable_numparse=True)
    if status.failures:
        failures = [[x["title"], x["error"], f"failures/{x['key']}.json"] for x in status.failures]
        text += "\n\n" + tabulate(failures, ["failed", "why", "traceback"], disable_numparse=True)
    return text


def _share(running: Mapping[str, Any]) -> str:
    return f"{running['done']}/{running['total']}" if "total" in running else ""


def _worker(worker: Mapping[str, Any]) -> Sequence[str]:
    device, rate = worker.get("device", {}), worker.get("cells_per_hour")
    return [
        str(worker["worker"]),
        str(device.get("kind", "")),
        *(str(worker[name]) for name in ("jobs", "cells")),
        "" if rate is None else f"{rate:.4g}",
        *(str(worker[name]) for name in ("failed", "lost")),
        duration(worker["seconds"]),
        str(worker["last"])[:19],
    ]


# --- plans --------------------------------------------------------------------------------


def plan_summary(plan: "Plan", suite: str) -> dict[str, Any]:
    """A plan in numbers and words that are plain enough for JSON.

    Returns:
      ``suite``, ``cells`` and ``stored``; ``jobs``, each with what :class:`shaping_bench.run.jobs.Job`
      says; and ``devices``: by kind of device the ``hours`` of all jobs that are known there, how many those
      are not (``unknown``), and the hours of the longest way through jobs that wait for one another
      (``longest``), which no number of devices shortens.
    """
    jobs = [dataclasses.asdict(job) for job in plan.jobs]
    kinds = sorted({kind for job in plan.jobs for kind in job.seconds})
    return {
        "suite": suite,
        "cells": plan.cells,
        "stored": len(plan.stored),
        "devices": {kind: _on(plan, kind) for kind in kinds},
        "memory_bytes": max((job.memory for job in plan.jobs if job.memory), default=None),
        "jobs": jobs,
    }


def _on(plan: "Plan", kind: str) -> dict[str, float]:
    ways: dict[str, float] = {}
    for job in plan.jobs:  # whoever waits comes later
        ways[job.key] = job.seconds.get(kind, 0.0) + max((ways[x] for x in job.after), default=0.0)
    return {
        "hours": sum(job.seconds.get(kind, 0.0) for job in plan.jobs) / 3600.0,
        "longest": max(ways.values(), default=0.0) / 3600.0,
        "unknown": sum(kind not in job.seconds for job in plan.jobs),
    }


def plan_text(summary: Mapping[str, Any]) -> str:
    """The same for people."""
    from tabulate import tabulate

    jobs: Sequence[Mapping[str, Any]] = summary["jobs"]
    text = f"{summary['suite']}: {summary['cells']} cells, {summary['stored']} stored, {len(jobs)} jobs to do"
    if not jobs:
        return text
    rows = []
    for kind in dict.fromkeys(job["kind"] for job in jobs):
        mine = [job for job in jobs if job["kind"] == kind]
        counts = (len(mine), sum(len(job["cells"]) for job in mine), sum(bool(job["after"]) for job in mine))
        rows.append([kind, *counts, sum(job["accelerator"] for job in mine)])
    text += "\n\n" + tabulate(rows, ["jobs", "number", "cells", "wait for others", "want an accelerator"])
    if summary["devices"]:
        rows = [
            [kind, *(duration(3600.0 * x[name]) for name in ("hours", "longest")), x["unknown"]]
            for kind, x in summary["devices"].items()
        ]
        names = ["device", "all jobs, one after another", "longest way", "jobs of unknown length"]
        text += "\n\n" + tabulate(rows, names, disable_numparse=True)
    else:
        text += "\n\nnothing like these jobs has been timed yet: how long they take is unknown"
    longest = sorted(jobs, key=lambda job: -max(job["seconds"].values(), default=0.0))[:MOST_LISTED]
    rows = [[job["title"], job["kind"], _expected(job), _size(job["memory"])] for job in longest]
    return text + "\n\n" + tabulate(rows, ["longest", "kind", "takes", "memory"], disable_numparse=True)


def _expected(job: Mapping[str, Any]) -> str:
    return duration(max(job["seconds"].values())) if job["seconds"] else "unknown"


def _size(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 2**20:.1f} MiB"
