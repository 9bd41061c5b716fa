"""Runs a suite: what is not yet stored is planned, done by an engine, and told as it happens."""

import collections
import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

from shaping_bench.engines import Engine, Event, Local, Workplace
from shaping_bench.engines.calls import fingerprint, suite_text, worker_name
from shaping_bench.errors import OutOfTime, StoreError
from shaping_bench.run.deadline import Deadline
from shaping_bench.run.jobs import contents, plan
from shaping_bench.run.preparation import OnPoint
from shaping_bench.run.tally import Tally
from shaping_bench.spec.suite import Cell, Suite, resolve
from shaping_bench.store.events import ALIVE_SECONDS, Log, drop_failure, write_failure
from shaping_bench.store.events import failures as stored_failures
from shaping_bench.store.store import Store


@dataclasses.dataclass(frozen=True)
class Failure:
    """A cell that could not be computed, and why."""

    cell: Cell
    error: str


Progress = Callable[[Cell, bool], None]
"""Called for every cell with whether it was computed now (False: stored before)."""


def run_suite(
    suite: Suite,
    store: Store,
    on_cell: Progress = lambda cell, computed: None,
    on_preparation: OnPoint | None = None,
    engine: Engine | None = None,
    deadline: Deadline | None = None,
    on_stop: Callable[[OutOfTime], None] = lambda stop: None,
    on_event: Callable[[Event, Tally], None] = lambda event, tally: None,
) -> list[Failure]:
    """Computes and stores every cell of the suite that the store lacks.

    Learners that prepare do so before the first encounter that needs it; artifacts stand in the
    store's directory and are reused.

    Args:
      suite: what to run.
      store: where results go.
      on_cell: called for every cell.
      on_preparation: told how running preparations get on.
      engine: where jobs are done; in this process by default.
      deadline: when to stop: what runs then ends at a checkpoint, nothing more is begun, and the same
        call goes on.
      on_stop: called for everything that was stopped at a checkpoint.
      on_event: told everything that happens, and what it adds up to.

    Returns:
      The cells that failed; all others are stored, unless the deadline has passed.

    Raises:
      StoreError: results cannot be written.
    """
    store.adopt(suite.resolved(), resolve)
    engine = engine or Local()
    wanted = plan(suite, store)
    of, cells = contents(suite), {cell.hash: cell for cell in (*suite.encounters, *suite.matches)}
    failures: list[Failure] = []
    for key, cell in cells.items():
        if key in wanted.stored:
            on_cell(cell, False)
    if not wanted.jobs:
        return failures
    workplace = Workplace(
        directory=store.directory,
        suite=suite_text(suite),
        fingerprint=fingerprint(suite),
        deadline=deadline or Deadline(),
    )
    tally = Tally(wanted)
    with _Chronicle(store.directory, tally) as chronicle:
        for event in engine.run(wanted, workplace):
            begun = event.key in tally.running
            tally.add(event)
            if begun if event.what == "held" else event.what != "progress":
                chronicle.write(event)
            on_event(event, tally)
            if event.what == "progress" and event.key in of.preparations and on_preparation is not None:
                on_preparation(of.preparations[event.key], event.done, dict(event.values))
            if event.what == "stopped" and event.error:
                on_stop(OutOfTime(event.error, event.further))
            if event.what == "failed" and event.fault == StoreError.__name__:
                raise StoreError(event.error)
            if event.what in ("done", "failed"):
                for key in tally.jobs[event.key].cells:
                    if event.what == "failed" and key not in store:
                        failures.append(Failure(cells[key], event.errors.get(key, event.error)))
                    on_cell(cells[key], True)
    return failures


class _Chronicle:
    """Writes into the directory what happens, and every minute that somebody is still there."""

    def __init__(self, directory: Path, tally: Tally) -> None:
        self.directory, self.tally = directory, tally
        self.log = Log(directory, worker_name())
        self.failed = {x["key"] for x in stored_failures(directory)}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._say_alive, daemon=True)

    def __enter__(self) -> "_Chronicle":
        plan = self.tally.plan
        kinds = collections.Counter(job.kind for job in plan.jobs)
        self.log.write("planned", cells=plan.cells, stored=len(plan.stored), jobs=dict(kinds))
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()
        self.log.write("ended", cells=self.tally.cells)

    def write(self, event: Event) -> None:
        """Adds an event; of a job that failed for good its traceback too."""
        told = {name: getattr(event, name) for name in ("key", "worker", "seconds", "error", "about")}
        job = self.tally.jobs.get(event.key)
        if job is None:
            self.log.write(event.what, **told)
            return
        self.log.write(event.what, **told, title=job.title, kind=job.kind, cells=len(job.cells))
        if event.what == "failed":
            why = {name: getattr(event, name) for name in ("worker", "error", "fault", "errors", "traceback")}
            about = {"kind": job.kind, "title": job.title, "cells": job.cells, **why}
            write_failure(self.directory, job.key, about)
            self.failed.add(job.key)
        elif event.what == "done" and job.key in self.failed:
            drop_failure(self.directory, job.key)

    def _say_alive(self) -> None:
        while not self.ended.wait(ALIVE_SECONDS):
            steps = {key: (x.done, x.total) for key, x in list(self.tally.running.items()) if x.total}
            self.log.write("alive", cells=self.tally.cells, progress=steps, hours_left=self.tally.hours_left)
