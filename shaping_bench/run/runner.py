"""Runs a suite: what is not yet stored is computed, measured, stored and tracked.

Encounters of one shape (same classes, different numbers) run as one vmapped sweep. A
group is always computed whole, also when some of its cells are stored already: the
numbers of a cell then cannot depend on where an earlier run was interrupted.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from shaping_bench.algorithms.core import Learner
from shaping_bench.engines import Engine, Local
from shaping_bench.errors import OutOfTime, StoreError
from shaping_bench.run import devices
from shaping_bench.run.artifacts import Artifacts
from shaping_bench.run.deadline import Deadline
from shaping_bench.run.encounter import (
    Outcome,
    costs_per_update,
    plays,
    run_encounter,
    shareable,
    steps_per_update,
)
from shaping_bench.run.episodes import shown_episode
from shaping_bench.run.league import flattened, play_match
from shaping_bench.run.measure import measure, tidy_curves, tidy_finals
from shaping_bench.run.preparation import OnPoint
from shaping_bench.run.records import record_of
from shaping_bench.spec.lineups import Labelled
from shaping_bench.spec.suite import Cell, Suite, resolve
from shaping_bench.store.store import Store

MAX_LANES = 2**17
"""Most lanes (settings times seeds) of one vmapped group."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """A cell that could not be computed, and why."""

    cell: Cell
    error: str


Job = TypeVar("Job")
Result = TypeVar("Result")

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
) -> list[Failure]:
    """Computes and stores every cell of the suite that the store lacks.

    Learners that prepare do so before the first encounter that needs it; artifacts stand in the
    store's directory and are reused.

    Args:
      suite: what to run.
      store: where results go.
      on_cell: called for every cell.
      on_preparation: told how running preparations get on.
      engine: where preparations and encounters run; threads of this process by default.
      deadline: when to stop: what runs then ends at a checkpoint, nothing more is begun, and the same
        call goes on.
      on_stop: called for everything that was stopped at a checkpoint.

    Returns:
      The cells that failed; all others are stored, unless the deadline has passed.

    Raises:
      StoreError: results cannot be written.
    """
    store.adopt(suite.resolved(), resolve)
    engine, deadline = engine or Local(), deadline or Deadline()
    failures: list[Failure] = []
    artifacts = Artifacts(
        store.directory / "artifacts", on_preparation, shared=devices.artifacts_folder(), deadline=deadline
    )
    missing = {cell.hash for cell in suite.encounters if cell.hash not in store}
    for cell in suite.encounters:
        if cell.hash not in missing:
            on_cell(cell, False)
    broken = _prepare(engine, artifacts, [cell for cell in suite.encounters if cell.hash in missing], deadline)
    for stop in broken.values():
        if isinstance(stop, OutOfTime):
            on_stop(stop)
    groups = [group for group in _groups(suite.encounters) if any(cell.hash in missing for cell in group)]
    groups = [group for group in groups if not _waits(group, broken)]
    run_group = _before(deadline, functools.partial(_run_group, artifacts=artifacts, broken=broken))
    for group, outcomes in engine.each(run_group, groups):
        if isinstance(outcomes, OutOfTime):
            on_stop(outcomes)
        if outcomes is None or isinstance(outcomes, OutOfTime):
            continue
        for k, cell in enumerate(group):
            if cell.hash not in missing:
                continue
            if isinstance(outcomes, Exception):  # one rule's failure must not lose the others' results
                failures.append(Failure(cell, _told(outcomes)))
                continue
            _attempt(failures, _store_encounter, cell, outcomes[k], suite, store, artifacts)
            on_cell(cell, True)
        del outcomes  # as large as the group: not to be kept while the next one is waited for
    for cell in suite.matches:
        if cell.hash in store:
            on_cell(cell, False)
            continue
        if deadline.expired:
            continue
        _attempt(failures, _store_match, cell, suite, store, artifacts)
        on_cell(cell, True)
    return failures


def _attempt(failures: list[Failure], action: Callable[..., None], cell: Cell, *arguments: Any) -> None:
    try:
        action(cell, *arguments)
    except StoreError:
        raise
    except Exception as error:  # as above
        failures.append(Failure(cell, _told(error)))


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


# --- preparations -------------------------------------------------------------------------


def _prepare(
    engine: Engine, artifacts: Artifacts, cells: Sequence[Cell], deadline: Deadline
) -> dict[str, Exception | None]:
    """Runs what preparations these cells need, side by side; returns those that there are not, by hash:
    they failed, were stopped, or were not begun (None)."""
    wanted = {p.hash: p for cell in cells for p in cell.needs if p is not None}
    broken: dict[str, Exception | None] = {}
    for preparation, result in engine.each(_before(deadline, artifacts.prepared), list(wanted.values())):
        if isinstance(result, StoreError):
            raise result
        if result is None or isinstance(result, Exception):  # costs the cells that need it, and no others
            broken[preparation.hash] = result
    return broken


def _before(deadline: Deadline, function: Callable[[Job], Result]) -> Callable[[Job], Result | None]:
    """The same function, but what it would begin after the deadline it does not: then it returns None."""
    return lambda job: None if deadline.expired else function(job)


def _waits(group: Sequence[Cell], broken: Mapping[str, Exception | None]) -> bool:
    """Whether the encounters need a preparation that has not ended, but may yet."""
    lacking = [broken[p.hash] for p in group[0].needs if p is not None and p.hash in broken]
    return any(x is None or isinstance(x, OutOfTime) for x in lacking)


# --- encounters ---------------------------------------------------------------------------


def _groups(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Cells that differ only in numbers, in the suite's order, at most MAX_LANES lanes each."""
    by_program: dict[Any, list[Cell]] = {}
    for cell in cells:
        structure = jax.tree.structure(shareable(cell.game.named.value, _rules(cell.learners)))
        # What was prepared belongs to its numbers: no sweep over them.
        prepared = tuple(p and p.hash for p in cell.needs)
        key = (structure, prepared, cell.seeds, cell.seed, cell.steps, cell.record_every, cell.precision, cell.episodes)
        by_program.setdefault(key, []).append(cell)
    for group in by_program.values():
        learners = _rules(group[0].learners)
        width = max(rule.width for rule in learners) if plays(learners) else 1
        size = max(1, MAX_LANES // (group[0].seeds * width))
        yield from (group[k : k + size] for k in range(0, len(group), size))


def _rules(learners: Sequence[Labelled]) -> tuple[Learner, ...]:
    return tuple(x.named.value for x in learners)


def _run_group(group: Sequence[Cell], artifacts: Artifacts, broken: Mapping[str, Exception | None]) -> list[Outcome]:
    first = group[0]
    for preparation in first.needs:
        failure = broken.get(preparation.hash) if preparation is not None else None
        if failure is not None:
            raise failure
    game, learners = jax.tree.map(
        lambda *x: np.array(x, np.float64), *(shareable(cell.game.named.value, _rules(cell.learners)) for cell in group)
    )
    outcome = run_encounter(
        game,
        learners,
        num_seeds=first.seeds,
        num_updates=first.steps,
        seed=first.seed,
        record_every=first.record_every,
        precision=first.precision,
        episodes=first.episodes,
        artifacts=artifacts.of(first.needs),
    )
    if not jax.tree.leaves((game, learners)):  # no numbers, so no sweep: the group is one cell
        return [outcome]
    return [_point(outcome, k, len(group)) for k in range(len(group))]


def _point(outcome: Outcome, k: int, num_points: int) -> Outcome:
    """One setting of a sweep; the group's seconds are shared equally."""
    return Outcome(
        updates=outcome.updates,
        params=tuple(x[:, k] for x in outcome.params),
        infos=tuple({name: x[:, k] for name, x in info.items()} for info in outcome.infos),
        diverged=outcome.diverged[k],
        compile_seconds=outcome.compile_seconds / num_points,
        run_seconds=outcome.run_seconds / num_points,
        final=jax.tree.map(lambda x: x[k], outcome.final),
        played={name: x[:, k] for name, x in outcome.played.items()},
    )


def _store_encounter(cell: Cell, outcome: Outcome, suite: Suite, store: Store, artifacts: Artifacts) -> None:
    clock = time.perf_counter()
    game, learners = cell.game.named.value, _rules(cell.learners)
    finals, curves = measure(game, learners, outcome)
    seconds = {
        "compile": outcome.compile_seconds,
        "run": outcome.run_seconds,
        "metrics": time.perf_counter() - clock,
    }
    per_update = costs_per_update(game, learners)
    costs = {
        "updates": cell.seeds * cell.steps,
        "gradient_evaluations": [x.evaluations * cell.seeds * cell.steps for x in per_update],
        "environment_steps": steps_per_update(game, learners) * cell.seeds * cell.steps,
        # What each asked for; play that several share counts for all of them.
        "environment_steps_asked": [x.steps * cell.seeds * cell.steps for x in per_update],
    }
    record = record_of(
        cell,
        suite.file.name,
        preparations=artifacts.records(cell.needs),
        timings=seconds,
        costs=costs,
        diverged=int(outcome.diverged.sum()),
    )
    policies = flattened(outcome.final) if suite.matches else None
    store.write(cell.hash, record, finals, curves, policies, _episode(cell, outcome))


def _episode(cell: Cell, outcome: Outcome) -> dict[str, Any] | None:
    """An episode of the final policies of the first seed that has not diverged, where the game shows one."""
    finite = np.flatnonzero(~outcome.diverged)
    if not len(finite):
        return None
    params = [jax.tree.map(lambda x: x[finite[0]], theta) for theta in outcome.final]
    episode = shown_episode(cell.game.named.value, _rules(cell.learners), params, cell.seed)
    return episode and {"seed": int(finite[0]), **episode}


# --- leagues ------------------------------------------------------------------------------


def _store_match(cell: Cell, suite: Suite, store: Store, artifacts: Artifacts) -> None:
    clock = time.perf_counter()
    steps = next(x.steps for x in suite.encounters if x.game == cell.game)
    match = play_match(cell, steps, store)
    record = record_of(
        cell,
        suite.file.name,
        preparations=artifacts.records(cell.needs),
        timings={"compile": 0.0, "run": 0.0, "metrics": time.perf_counter() - clock},
        costs={
            "updates": 0,
            "gradient_evaluations": [0] * cell.game.named.value.n_players,
            "environment_steps": match.environment_steps,
        },
        diverged=int(match.values["diverged"].any(axis=1).sum()),
    )
    # How many policies each was to meet, and per seat the meetings left out as somebody else had diverged.
    record["met"] = {"each": match.met, "lost": list(match.lost)}
    if cell.responder is not None:
        record["responder"] = {"learner": cell.responder.named.text, "steps": cell.steps}
    store.write(cell.hash, record, tidy_finals(match.values), tidy_curves(np.zeros(0, int), {}))
