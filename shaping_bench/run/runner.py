"""Runs a suite: what is not yet stored is planned, done by an engine, and told as it happens."""

import dataclasses
from collections.abc import Callable

from shaping_bench.engines import Engine, Event, Local, Workplace
from shaping_bench.engines.calls import fingerprint, suite_text
from shaping_bench.errors import OutOfTime, StoreError
from shaping_bench.run.deadline import Deadline
from shaping_bench.run.jobs import Plan, contents, plan
from shaping_bench.run.preparation import OnPoint
from shaping_bench.spec.suite import Cell, Suite, resolve
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
    on_event: Callable[[Event, Plan], None] = lambda event, plan: None,
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
      on_event: told everything that happens, with the plan.

    Returns:
      The cells that failed; all others are stored, unless the deadline has passed.

    Raises:
      StoreError: results cannot be written.
    """
    store.adopt(suite.resolved(), resolve)
    engine = engine or Local()
    wanted = plan(suite, store)
    of, cells = contents(suite), {cell.hash: cell for cell in (*suite.encounters, *suite.matches)}
    jobs = {job.key: job for job in wanted.jobs}
    failures: list[Failure] = []
    for key, cell in cells.items():
        if key in wanted.stored:
            on_cell(cell, False)
    workplace = Workplace(
        directory=store.directory,
        suite=suite_text(suite),
        fingerprint=fingerprint(suite),
        deadline=deadline or Deadline(),
    )
    for event in engine.run(wanted, workplace) if jobs else ():
        on_event(event, wanted)
        if event.what == "progress" and event.key in of.preparations and on_preparation is not None:
            on_preparation(of.preparations[event.key], event.done, dict(event.values))
        if event.what == "stopped" and event.error:
            on_stop(OutOfTime(event.error, event.further))
        if event.what == "failed" and event.fault == StoreError.__name__:
            raise StoreError(event.error)
        if event.what in ("done", "failed"):
            for key in jobs[event.key].cells:
                if event.what == "failed" and key not in store:
                    failures.append(Failure(cells[key], event.errors.get(key, event.error)))
                on_cell(cells[key], True)
    return failures
