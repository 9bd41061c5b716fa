"""How a run gets on, for those who watch it: what an engine's events add up to."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping

from shaping_bench.engines.base import Event
from shaping_bench.run.jobs import Job, Plan


@dataclasses.dataclass
class Running:
    """A job that is being done: since when, by whom, and how far it is."""

    job: Job
    worker: str
    since: float
    done: int = 0
    total: int = 0


class Tally:
    """What has become of a plan.

    Args:
      plan: which.
      clock: seconds of a clock.

    Attributes:
      cells, failed_cells: that are stored by now, and that failed.
      left, running: jobs that have not ended, and those of them that have begun, by key.
      workers: what each is, by name.
      counts: of the events ``done``, ``failed``, ``retried`` and ``lost``.
    """

    def __init__(self, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        self.plan, self.clock = plan, clock
        self.jobs = {job.key: job for job in plan.jobs}
        self.left = dict(self.jobs)
        self.running: dict[str, Running] = {}
        self.workers: dict[str, Mapping[str, object]] = {}
        self.cells, self.failed_cells = len(plan.stored), 0
        self.counts = {"done": 0, "failed": 0, "retried": 0, "lost": 0}
        self.seconds: dict[str, list[float]] = {}
        self.factors: list[float] = []
        self.most_at_once = 1

    def add(self, event: Event) -> None:
        """Counts an event."""
        if event.what == "joined":
            self.workers[event.worker] = event.about
        if not event.key:
            return
        job = self.jobs[event.key]
        if event.what in self.counts:
            self.counts[event.what] += 1
        if event.what == "started":
            self.running[job.key] = Running(job, event.worker, self.clock())
            self.most_at_once = max(self.most_at_once, len(self.running))
        elif event.what == "progress":
            if job.key in self.running:
                self.running[job.key].done, self.running[job.key].total = event.done, event.total
        else:
            self.running.pop(job.key, None)
            if event.what in ("done", "failed"):
                self.left.pop(job.key, None)
            if event.what == "failed":
                self.failed_cells += len(job.cells)
            if event.what == "done":
                self.cells += len(job.cells)
                self.seconds.setdefault(job.kind, []).append(event.seconds)
                if job.expected and event.seconds:
                    self.factors.append(event.seconds / job.expected)

    def summary(self) -> dict[str, float]:
        """In numbers: ``cells`` stored and failed, jobs ``running``, ``retried`` and ``lost``, ``workers``,
        and ``hours_left`` where they are known."""
        hours = self.hours_left
        return {
            "cells": self.cells,
            "failed": self.failed_cells,
            "running": len(self.running),
            "retried": self.counts["retried"],
            "lost": self.counts["lost"],
            "workers": len({x.worker for x in self.running.values()} | set(self.workers)),
            **({} if hours is None else {"hours_left": hours}),
        }

    @property
    def hours_left(self) -> float | None:
        """Expected from what is known of the jobs that are left and of those that are done; None while
        nothing is."""
        factor = statistics.median(self.factors) if self.factors else 1.0
        typical = {kind: statistics.fmean(x) for kind, x in self.seconds.items()}
        seconds = 0.0
        for job in self.left.values():
            expected = factor * job.expected or typical.get(job.kind)
            if expected is None:
                return None
            current = self.running.get(job.key)
            seconds += expected if current is None else self._rest(current, expected)
        return seconds / max(1, min(self.most_at_once, len(self.left) or 1)) / 3600.0

    def _rest(self, running: Running, expected: float) -> float:
        elapsed = self.clock() - running.since
        if running.done:
            return elapsed * (running.total / running.done - 1.0)
        return max(0.0, expected - elapsed)
