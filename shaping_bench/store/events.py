"""What has happened in a results directory, from which anybody can tell how a run gets on.

``events/LAUNCHER.jsonl``   what every launcher was told by its engine, one event per line
``failures/KEY.json``       jobs that failed for good, with their tracebacks

Only one process writes a file of events, so that nothing is ever mixed up. They are a convenience: what
cannot be written of them is lost, and costs nothing else.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shaping_bench.errors import BadInput

ALIVE_SECONDS = 60.0
"""Between two signs of life of a launcher."""

GONE_SECONDS = 200.0
"""Without any, after which it counts as gone, and what it ran as not running any more."""

SLOWEST = 5
"""Jobs that a status lists as the slowest."""


class Log:
    """The events that one launcher has heard of.

    Args:
      directory: the results.
      launcher: who writes.
    """

    def __init__(self, directory: Path, launcher: str) -> None:
        self.path = directory / "events" / f"{launcher}.jsonl"

    def write(self, what: str, **more: Any) -> None:
        """Adds one event; what is empty of it is left out."""
        event = {"time": _now().isoformat(timespec="milliseconds"), "what": what, **more}
        line = json.dumps({name: x for name, x in event.items() if x not in ("", {}, None)}) + "\n"
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(exist_ok=True)
            with open(self.path, "a") as file:
                file.write(line)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


# --- failures -----------------------------------------------------------------------------


def write_failure(directory: Path, key: str, failure: Mapping[str, Any]) -> None:
    """Lists a job that failed for good."""
    draft = directory / "failures" / f".{uuid.uuid4().hex[:12]}"
    with contextlib.suppress(OSError):
        draft.parent.mkdir(exist_ok=True)
        draft.write_text(json.dumps({"time": _now().isoformat(timespec="seconds"), "key": key, **failure}, indent=1))
        os.replace(draft, draft.with_name(f"{key}.json"))


def drop_failure(directory: Path, key: str) -> None:
    """The job has been done after all."""
    with contextlib.suppress(OSError):
        (directory / "failures" / f"{key}.json").unlink(missing_ok=True)


def failures(directory: Path) -> list[dict[str, Any]]:
    """The jobs that failed for good, in the order of time."""
    found = [x for path in directory.glob("failures/[!.]*.json") for x in _parsed([_text(path)])]
    return sorted(found, key=lambda x: x.get("time", ""))


# --- how the runs have got on -------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Status:
    """How the runs of a results directory have got on.

    Attributes:
      cells, stored: of the suite, and those of them that are done.
      launchers: how many run now.
      running: what they are at: ``title``, ``worker``, ``since``, and ``done`` of ``total`` steps where known.
      hours_left: as the launchers expect; None if none does.
      workers: each with ``worker``, what it is, ``jobs`` and ``cells`` done, ``failed``, ``lost``,
        ``seconds`` of work, ``cells_per_hour`` and when it was ``last`` heard of.
      retried, lost: how often a job was begun again since it had failed, or since its worker had died.
      slowest: the jobs that took longest, with ``title``, ``worker`` and ``seconds``.
      failures: see :func:`failures`.
    """

    cells: int
    stored: int
    launchers: int
    running: Sequence[Mapping[str, Any]]
    hours_left: float | None
    workers: Sequence[Mapping[str, Any]]
    retried: int
    lost: int
    slowest: Sequence[Mapping[str, Any]]
    failures: Sequence[Mapping[str, Any]]


def status(directory: Path, count: Callable[[], int]) -> Status:
    """How the runs of a results directory have got on, from what is stored; also while one goes on.

    Args:
      directory: the results.
      count: of the suite's cells, asked if no launcher has said so.

    Raises:
      BadInput: it is no results directory.
    """
    if not (directory / "suite.yaml").is_file():
        raise BadInput(
            f"results directory is {str(directory)!r}, which has no suite.yaml; "
            "allowed: a directory made by shaping-bench run"
        )
    runs = [_Run(path) for path in sorted(directory.glob("events/*.jsonl"))]
    current = [run for run in runs if run.goes_on]
    cells = [run.cells for run in sorted(runs, key=lambda run: run.last) if run.cells is not None]
    hours = [run.hours_left for run in current if run.hours_left is not None]
    ends = sorted((x for run in runs for x in run.ends), key=lambda x: -x.get("seconds", 0.0))
    return Status(
        cells=cells[-1] if cells else count(),
        stored=len(list(directory.glob("cells/[!.]*"))),
        launchers=len(current),
        running=[x for run in current for x in run.running.values()],
        hours_left=max(hours, default=None),
        workers=[x for run in runs for x in run.workers.values()],
        retried=sum(run.counts["retried"] for run in runs),
        lost=sum(run.counts["lost"] for run in runs),
        slowest=[{name: x.get(name) for name in ("title", "worker", "seconds")} for x in ends[:SLOWEST]],
        failures=failures(directory),
    )


class _Run:
    """What a launcher's events add up to."""

    def __init__(self, path: Path) -> None:
        self.cells: int | None = None
        self.hours_left: float | None = None
        self.running: dict[str, dict[str, Any]] = {}
        self.workers: dict[str, dict[str, Any]] = {}
        self.ends: list[dict[str, Any]] = []
        self.counts = {"retried": 0, "lost": 0}
        self.last, self.ended = "", True
        for event in _parsed(_text(path).splitlines()):
            self.last = event["time"]
            self._add(event["what"], event)

    @property
    def goes_on(self) -> bool:
        return not self.ended and (_now() - datetime.datetime.fromisoformat(self.last)).total_seconds() < GONE_SECONDS

    def _add(self, what: str, event: dict[str, Any]) -> None:
        if what == "planned":  # by whoever had the same name before, nothing runs any more
            self.cells, self.ended = event["cells"], False
            self.running.clear()
        elif what == "alive":
            self.hours_left = event.get("hours_left")
            for key, (done, total) in event.get("progress", {}).items():
                if key in self.running:
                    self.running[key] |= {"done": done, "total": total}
        elif what == "ended":
            self.ended = True
            self.running.clear()
        else:
            self._add_job(what, event)

    def _add_job(self, what: str, event: dict[str, Any]) -> None:
        name, key = event.get("worker", ""), event.get("key", "")
        empty = {"worker": name, "jobs": 0, "cells": 0, "failed": 0, "lost": 0, "seconds": 0.0}
        worker = self.workers.setdefault(name, empty)
        worker["last"] = event["time"]
        if what == "joined":
            worker.update(event.get("about", {}))
            return
        if what == "started":
            self.running[key] = {"title": event.get("title"), "worker": name, "since": event["time"]}
            return
        self.running.pop(key, None)
        worker["seconds"] += event.get("seconds", 0.0)
        if what in self.counts:
            self.counts[what] += 1
        if what == "done":
            worker["jobs"] += 1
            worker["cells"] += event.get("cells", 0)
            self.ends.append(event)
        elif what in ("failed", "retried"):
            worker["failed"] += 1
        elif what == "lost":
            worker["lost"] += 1
        worker["cells_per_hour"] = 3600.0 * worker["cells"] / worker["seconds"] if worker["seconds"] else None


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""


def _parsed(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """What is whole of it: a process that is killed leaves half a line."""
    for line in lines:
        with contextlib.suppress(ValueError):
            yield json.loads(line)
