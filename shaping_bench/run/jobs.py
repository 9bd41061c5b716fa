"""The jobs of a suite: what there is to do, who waits for whom, and doing one of them.

A job is a key. Whoever executes it reads again what it needs from the suite and the store, and writes
into the store; nothing else is passed on, so that it may be done by any process that has both.

==============  ==========================================  =============================================
kind            its key                                     waits for
==============  ==========================================  =============================================
``prepare``     the preparation's hash
``encounters``  a hash of its cells' hashes                 the preparations of its learners
``match``       the cell's hash                             the self-plays whose final policies meet
==============  ==========================================  =============================================

Encounters of one shape (same classes, different numbers) run as one vmapped sweep. A group is always
computed whole, also when some of its cells are stored already: the numbers of a cell then cannot depend
on where an earlier run was interrupted. What was prepared belongs to a group's numbers.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from shaping_bench.algorithms.core import Learner
from shaping_bench.errors import StoreError
from shaping_bench.games.base import Game
from shaping_bench.run import checkpoints, devices, starts, within
from shaping_bench.run.artifacts import Artifacts
from shaping_bench.run.checkpoints import Checkpoint, Moment, encounter_identity
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
from shaping_bench.run.league import flattened, play_match, self_play
from shaping_bench.run.measure import measure, tidy_curves, tidy_finals
from shaping_bench.run.preparation import Preparation
from shaping_bench.run.records import record_of
from shaping_bench.run.timings import Load, Timing, Timings, of_user
from shaping_bench.spec.identity import content_hash
from shaping_bench.spec.lineups import Labelled
from shaping_bench.spec.suite import Cell, Suite
from shaping_bench.store.store import WITHIN, Store, write_parquet

MAX_LANES = 2**17
"""Most lanes (settings times seeds) of one vmapped group."""

STATE = "state.npz"
"""File of a cell that says where its encounter ended, where the suite asks for it."""

MANY_LANES = 2**14
"""Lanes from which an accelerator is worth it even for exact learners."""

WRITERS = 16
"""Cells of a group that are written side by side: a disk makes many durable in the time of one."""

Kind = Literal["prepare", "encounters", "match"]

OnProgress = Callable[[int, int, Mapping[str, float]], None]
"""Called with the steps taken, of how many, and what is known of them there."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Something to do.

    Attributes:
      key: what :func:`execute` is told.
      kind: which of the three.
      title: what it is called where people read it.
      cells: hashes of the cells that it stores and that are not stored yet; none of a preparation.
      after: keys of the plan's jobs that must have ended before.
      reads: folders below the store's directory that it needs, ``artifacts/HASH`` and ``cells/HASH``.
      seconds: expected, by kind of device; empty if nothing like it has been timed.
      memory: bytes that it is expected to take; None if unknown.
      accelerator: whether it wants one.
    """

    key: str
    kind: Kind
    title: str
    cells: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    memory: int | None = None
    accelerator: bool = False

    @property
    def expected(self) -> float:
        """Seconds on the slowest kind of device that is known; 0 if none is."""
        return max(self.seconds.values(), default=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is left to do of a suite.

    Attributes:
      jobs: whoever waits comes after those it waits for.
      cells: of the suite, stored or not.
      stored: hashes of the cells that are stored already.
    """

    jobs: tuple[Job, ...]
    cells: int
    stored: frozenset[str]


class Failed(Exception):
    """Some cells of a job could not be computed; the others are stored.

    Attributes:
      errors: by the cell's hash.
    """

    def __init__(self, errors: Mapping[str, Exception]) -> None:
        super().__init__("; ".join(dict.fromkeys(told(x) for x in errors.values())))
        self.errors = dict(errors)


def told(error: BaseException) -> str:
    """An error in one line; that of a store is a line by itself."""
    return str(error) if isinstance(error, Failed | StoreError) else f"{type(error).__name__}: {error}"


# --- what a suite's keys stand for --------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Contents:
    """What a suite's keys stand for, whether it is done or not.

    Attributes:
      preparations, groups, matches: by key, in the suite's order.
      encounters: by the cell's hash.
      group_of: key of the group that a cell is in, by the cell's hash.
      steps: updates of a game's encounters, by its label.
    """

    preparations: dict[str, Preparation]
    groups: dict[str, tuple[Cell, ...]]
    matches: dict[str, Cell]
    encounters: dict[str, Cell]
    group_of: dict[str, str]
    steps: dict[str, int]


@functools.lru_cache(maxsize=4)
def contents(suite: Suite) -> Contents:
    """What the suite's keys stand for; kept, as an engine's process executes many of them."""
    groups = {content_hash({"encounters": [cell.hash for cell in group]}): group for group in _groups(suite.encounters)}
    cells = (*suite.encounters, *suite.matches)
    return Contents(
        preparations={p.hash: p for cell in cells for p in cell.needs if p is not None},
        groups=groups,
        matches={cell.hash: cell for cell in suite.matches},
        encounters={cell.hash: cell for cell in suite.encounters},
        group_of={cell.hash: key for key, group in groups.items() for cell in group},
        steps={cell.game.label: cell.steps for cell in suite.encounters},
    )


def _groups(cells: Sequence[Cell]) -> Iterator[tuple[Cell, ...]]:
    """Cells that differ only in numbers, in the suite's order, at most MAX_LANES lanes each."""
    by_program: dict[Any, list[Cell]] = {}
    for cell in cells:
        structure = jax.tree.structure(shareable(cell.game.named.value, _rules(cell.learners)))
        # What was prepared belongs to its numbers: no sweep over them.
        prepared = tuple(p and p.hash for p in cell.needs)
        key = (
            structure,
            prepared,
            *(cell.seeds, cell.seed, cell.steps, cell.record_every, cell.precision, cell.episodes, cell.starts),
        )
        by_program.setdefault(key, []).append(cell)
    for group in by_program.values():
        size = max(1, MAX_LANES // (group[0].seeds * _width(group[0])))
        yield from (tuple(group[k : k + size]) for k in range(0, len(group), size))


def _rules(learners: Sequence[Labelled]) -> tuple[Learner, ...]:
    return tuple(x.named.value for x in learners)


def _width(cell: Cell) -> int:
    learners = _rules(cell.learners)
    return max(rule.width for rule in learners) if plays(learners) else 1


def _sources(cell: Cell, of: Contents) -> tuple[Cell, ...]:
    """The self-plays whose final policies meet in a league cell."""
    seated = cell.learners[:-1] if cell.best_response else cell.learners
    steps = _source_steps(cell, of)
    keys = dict.fromkeys(self_play(cell, x, steps).hash for x in seated if x.named.value.learns)
    return tuple(of.encounters[key] for key in keys if key in of.encounters)


def _source_steps(cell: Cell, of: Contents) -> int:
    """Updates of the self-plays whose final policies meet in a league cell."""
    return of.steps[cell.game.label] if cell.after is None else cell.after


# --- the plan -----------------------------------------------------------------------------


def plan(suite: Suite, store: Store, timings: Timings | None = None) -> Plan:
    """What is left to do. Nothing is compiled, and no device is touched.

    Args:
      suite: of what.
      store: what of it is stored already.
      timings: of earlier jobs, by which seconds and memory are expected; those in the user's cache by
        default. What stands in the store is looked up too.
    """
    of = contents(suite)
    finished = store.finished()
    cells = (*suite.encounters, *suite.matches)
    stored = frozenset(cell.hash for cell in cells if cell.hash in finished)
    artifacts = Artifacts(store.directory / "artifacts")
    missing = [cell for cell in cells if cell.hash not in stored]
    wanted = {p.hash: p for cell in missing for p in cell.needs if p is not None and p not in artifacts}
    expect = _Expectations(suite, store, finished, timings or of_user())
    jobs = [
        Job(key=key, kind="prepare", title=preparation.title, accelerator=True, **expect.preparation(preparation))
        for key, preparation in wanted.items()
    ]
    begun = set()
    for key, group in of.groups.items():
        left = tuple(cell.hash for cell in group if cell.hash not in stored)
        if left:
            begun.add(key)
            earlier = next(_shorter(group, suite, store), ())
            jobs.append(_encounters(key, group, left, wanted, earlier=earlier, expect=expect))
    for key, cell in of.matches.items():
        if key not in stored:
            jobs.append(_match(cell, of, begun, wanted, expect))
    return Plan(jobs=tuple(jobs), cells=len(cells), stored=stored)


def _encounters(
    key: str,
    group: Sequence[Cell],
    left: tuple[str, ...],
    wanted: Mapping[str, Preparation],
    *,
    earlier: Sequence[str],
    expect: "_Expectations",
) -> Job:
    first, needs = group[0], _needed(group[0])
    others = f" and {len(group) - 1} of its shape" if len(group) > 1 else ""
    lanes = len(group) * first.seeds * _width(first)
    return Job(
        key=key,
        kind="encounters",
        title=first.title + others,
        cells=left,
        after=tuple(x for x in needs if x in wanted),
        reads=(*(f"artifacts/{x}" for x in needs), *(f"cells/{x}" for x in earlier)),
        accelerator=plays(_rules(first.learners)) or lanes >= MANY_LANES,
        **expect.group(group),
    )


def _match(
    cell: Cell, of: Contents, begun: set[str], wanted: Mapping[str, Preparation], expect: "_Expectations"
) -> Job:
    sources, needs = _sources(cell, of), _needed(cell)
    waits = dict.fromkeys(of.group_of[x.hash] for x in sources)
    return Job(
        key=cell.hash,
        kind="match",
        title=cell.title,
        cells=(cell.hash,),
        after=(*(x for x in needs if x in wanted), *(x for x in waits if x in begun)),
        reads=(*(f"artifacts/{x}" for x in needs), *(f"cells/{x.hash}" for x in sources)),
        accelerator=plays(_rules(cell.learners)),
        **expect.match(cell),
    )


def _needed(cell: Cell) -> tuple[str, ...]:
    return tuple(dict.fromkeys(p.hash for p in cell.needs if p is not None))


def written(key: str, suite: Suite) -> tuple[str, ...]:
    """Folders below the store's directory that a job makes, whatever of it is stored already."""
    of = contents(suite)
    if key in of.preparations:
        return (f"artifacts/{key}",)
    return tuple(f"cells/{cell.hash}" for cell in of.groups.get(key) or (of.matches[key],))


# --- what is expected of jobs -------------------------------------------------------------


def _load(of: Preparation | Cell | Sequence[Cell]) -> Load:
    """What a preparation, a league cell or a group amounts to."""
    if isinstance(of, Preparation):
        program = _program("prepare", of.game.value, (of.learner.value,), of.seat, of.precision)
        return Load(program=program, lanes=of.seeds, steps=of.steps, cells=1)
    if isinstance(of, Cell):
        game, learners = of.game.named.value, _rules(of.learners)
        trained = [of.responder.named.identity()] if of.responder else []
        program = _program("match", game, learners, of.best_response, of.seeds, of.steps, *trained)
        return Load(program=program, lanes=of.seeds, steps=1, cells=1)
    first = of[0]
    game, learners = shareable(first.game.named.value, _rules(first.learners))
    program = _program("encounters", game, learners, first.precision)
    return Load(program=program, lanes=len(of) * first.seeds, steps=first.steps, cells=len(of))


def _program(kind: str, game: Game, learners: tuple[Learner, ...], *more: Any) -> str:
    # What is static stands in the structure; where functions do, their addresses change.
    structure = re.sub(r"0x[0-9a-f]+", "", str(jax.tree.structure((game, learners))))
    return content_hash({"kind": kind, "structure": structure, "more": list(more)})


class _Expectations:
    """What jobs are expected to take, by the timings of jobs like them: from a folder of timings, or else
    of a cell in the store."""

    def __init__(self, suite: Suite, store: Store, finished: frozenset[str], timings: Timings | None) -> None:
        self.store, self.finished, self.timings = store, finished, timings
        self.known: dict[str, Mapping[str, Timing]] = {}
        self.like: dict[str, tuple[Cell, ...]] = {}
        """Groups of which something is stored, by program."""
        for group in contents(suite).groups.values():
            if any(cell.hash in finished for cell in group):
                self.like.setdefault(_load(group).program, group)

    def preparation(self, preparation: Preparation) -> dict[str, Any]:
        known = self._expected(_load(preparation))
        if (devices.artifacts_folder() / preparation.hash).is_dir():  # it is taken over from there
            known["seconds"] = dict.fromkeys(known["seconds"] or [devices.cpu_model()], 0.0)
        return known

    def match(self, cell: Cell) -> dict[str, Any]:
        return self._expected(_load(cell))

    def group(self, group: Sequence[Cell]) -> dict[str, Any]:
        return self._expected(_load(group))

    def _expected(self, load: Load) -> dict[str, Any]:
        """``seconds`` and ``memory`` of a job."""
        if load.program not in self.known:
            noted = self.timings.of(load.program) if self.timings is not None else {}
            self.known[load.program] = noted or self._stored(load.program)
        timings = self.known[load.program]
        lane = max((x.lane for x in timings.values()), default=0.0)
        seconds = {kind: x.seconds(load) for kind, x in timings.items()}
        return {"seconds": seconds, "memory": round(lane * load.lanes) or None}

    def _stored(self, program: str) -> Mapping[str, Timing]:
        """What a stored cell of the program says."""
        group = self.like.get(program, ())
        key = next((cell.hash for cell in group if cell.hash in self.finished), None)
        if key is None:
            return {}
        with contextlib.suppress(OSError, ValueError, KeyError):
            record = self.store.cell(key)
            took, load = record["timings"], _load(group)
            run = took["run"] * load.cells / (load.lanes * load.steps)
            timing = Timing(fixed=took["compile"] * load.cells, run=run, cell=took["metrics"])
            return {record["device"]["kind"]: timing}
        return {}


def _note(load: Load, compiling: float, running: float, total: float, sizes: Sequence[int]) -> None:
    """Keeps what a job took."""
    timings = of_user()
    if timings is not None:
        run = running / max(1, load.lanes * load.steps)
        rest = max(0.0, total - compiling - running) / load.cells
        lane = max(sizes, default=0) / load.lanes
        timing = Timing(fixed=compiling, run=run, cell=rest, lane=lane)
        timings.note(load, devices.describe()["kind"], timing)


# --- doing one of them --------------------------------------------------------------------


def execute(
    key: str,
    suite: Suite,
    store: Store,
    *,
    deadline: Deadline | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Does one job of a suite: what it yields stands in the store then.

    Args:
      key: which.
      suite: of it.
      store: what it needs is read from here, what it yields is written.
      deadline: when to stop at a checkpoint.
      on_progress: told how it gets on.

    Raises:
      Failed: some of its cells could not be computed; the others are stored.
      KeyError: the suite has no such job.
      OutOfTime: the deadline has passed; the same call goes on.
      StoreError: something cannot be written.
    """
    of = contents(suite)

    def on_point(preparation: Preparation, done: int, values: Mapping[str, float]) -> None:
        if on_progress is not None:
            on_progress(done, preparation.steps, values)

    artifacts = Artifacts(store.directory / "artifacts", on_point, shared=devices.artifacts_folder(), deadline=deadline)
    clock = time.perf_counter()
    with devices.weighing() as sizes:
        if key in of.preparations:
            preparation = of.preparations[key]
            if preparation not in artifacts:
                took = artifacts.prepared(preparation).record["timings"]
                # All of it, however often it was interrupted.
                _note(_load(preparation), took["compile"], took["run"], 0.0, sizes)
        elif key in of.groups:
            group = of.groups[key]
            if all(cell.hash in store for cell in group):  # another process was faster
                return
            compiling, running = _run_group(key, suite, store, artifacts, on_progress)
            _note(_load(group), compiling, running, time.perf_counter() - clock, sizes)
        elif key not in store:
            _store_match(of.matches[key], suite, store, artifacts, on_progress)
            _note(_load(of.matches[key]), 0.0, 0.0, time.perf_counter() - clock, sizes)


def _run_group(
    key: str, suite: Suite, store: Store, artifacts: Artifacts, on_progress: OnProgress | None
) -> tuple[float, float]:
    """Runs, measures and stores a group; the seconds of compiling and of running."""
    group = contents(suite).groups[key]
    failures: dict[str, Exception] = {}
    checkpoint = _checkpoint(key, group, store)

    @contextlib.contextmanager
    def attempt(cell: Cell) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # one cell's failure must not lose the others' results
            failures[cell.hash] = error

    # While some wait for the disk the next is measured.
    with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
        written: collections.deque[tuple[Cell, concurrent.futures.Future[object]]] = collections.deque()

        def settle(most: int) -> None:
            while len(written) > most:
                cell, future = written.popleft()
                with attempt(cell):
                    future.result()

        outcomes = _outcomes(group, suite, store, artifacts, checkpoint=checkpoint, on_progress=on_progress)
        seconds = sum(x.compile_seconds for x in outcomes), sum(x.run_seconds for x in outcomes)
        for cell, outcome in zip(group, outcomes, strict=True):
            if cell.hash not in store:
                with attempt(cell):
                    write = _measured_encounter(cell, outcome, suite, store, artifacts)
                    written.append((cell, pool.submit(write)))
            settle(2 * WRITERS)
        settle(0)
    if failures:
        raise Failed(failures) from next(iter(failures.values()))
    checkpoint.drop()
    return seconds


def _checkpoint(key: str, group: Sequence[Cell], store: Store) -> Checkpoint:
    identity = {"side by side": [_identity(cell) for cell in group]}
    return Checkpoint(store.directory / "checkpoints" / f"{key}.npz", identity)


def _identity(cell: Cell) -> dict[str, Any]:
    """Of an encounter, whatever the number of its updates."""
    learners = [x.named for x in cell.learners]
    init = starts.initial(cell.starts, cell.game.named.value, _rules(cell.learners), cell.seeds)
    return encounter_identity(cell.game.named, learners, cell, seeds=cell.seeds, needs=cell.needs, init=init)


def _shorter(group: Sequence[Cell], suite: Suite, store: Store) -> Iterator[tuple[str, ...]]:
    """The stored cells of the same encounters with fewer updates that have kept where they ended, the
    longest first."""
    if not suite.file.keep_state:
        return
    own = contents(suite).group_of
    lengths = {_kept_length(store.cells / name) for name in store.finished() if name not in own}
    for steps in sorted(lengths, reverse=True):
        if 0 < steps < group[0].steps:
            hashes = tuple(dataclasses.replace(cell, steps=steps).hash for cell in group)
            if all((store.cells / key / STATE).exists() for key in hashes):
                yield hashes


@functools.lru_cache(maxsize=2**16)
def _kept_length(folder: Path) -> int:
    """Updates of a stored cell that has kept where it ended; 0 where it has not."""
    if not (folder / STATE).exists():
        return 0
    return int(json.loads((folder / "cell.json").read_text())["steps"])


def _earlier(group: Sequence[Cell], suite: Suite, store: Store) -> Moment | None:
    """Where the same encounters with fewer updates ended; None where they have not been run, or no longer
    are the same."""
    for hashes in _shorter(group, suite, store):
        moments = [
            checkpoints.read(store.cells / key / STATE, checkpoints.fingerprint(_identity(cell)))
            for key, cell in zip(hashes, group, strict=True)
        ]
        usable = [x for x in moments if x is not None]
        if len(usable) == len(group) and (moment := checkpoints.side_by_side(usable)) is not None:
            return moment
    return None


def _outcomes(
    group: Sequence[Cell],
    suite: Suite,
    store: Store,
    artifacts: Artifacts,
    *,
    checkpoint: Checkpoint,
    on_progress: OnProgress | None,
) -> list[Outcome]:
    first = group[0]
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
        init=starts.initial(first.starts, first.game.named.value, _rules(first.learners), first.seeds),
        precision=first.precision,
        episodes=first.episodes,
        artifacts=artifacts.of(first.needs),
        checkpoint=checkpoint,
        deadline=artifacts.deadline,
        earlier=_earlier(group, suite, store),
        policies_every=suite.file.policies_every,
        keep_end=suite.file.keep_state,
        on_progress=None if on_progress is None else lambda done: on_progress(done, first.steps, {}),
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
        policy_updates=outcome.policy_updates,
        policies=jax.tree.map(lambda x: x[:, k], outcome.policies),
        end=outcome.end and outcome.end.of_lanes(k * len(outcome.diverged[k]), (k + 1) * len(outcome.diverged[k])),
    )


def _measured_encounter(
    cell: Cell, outcome: Outcome, suite: Suite, store: Store, artifacts: Artifacts
) -> Callable[[], object]:
    """Measures an outcome; what is returned stores it."""
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
    policies = flattened(outcome.final) if suite.matches or suite.file.policies_every else None
    more: dict[str, Callable[[Path], object]] = {}
    if outcome.policies is not None:
        along = {"updates": outcome.policy_updates, **flattened(outcome.policies)}
        more["policies_along.npz"] = functools.partial(checkpoints.save_arrays, arrays=along)
    if suite.file.within:
        by_step = within.within(game, learners, outcome, seed=cell.seed, episodes=cell.episodes)
        more |= {} if by_step is None else {WITHIN: functools.partial(write_parquet, by_step)}
    if outcome.end is not None:
        fingerprint = checkpoints.fingerprint(_identity(cell))
        more[STATE] = functools.partial(checkpoints.write, moment=outcome.end, of=fingerprint)
    return functools.partial(
        store.write, cell.hash, record, finals, curves, policies, _episode(cell, outcome), more=more
    )


def _episode(cell: Cell, outcome: Outcome) -> dict[str, Any] | None:
    """An episode of the final policies of the first seed that has not diverged, where the game shows one."""
    finite = np.flatnonzero(~outcome.diverged)
    if not len(finite):
        return None
    params = [jax.tree.map(lambda x: x[finite[0]], theta) for theta in outcome.final]
    episode = shown_episode(cell.game.named.value, _rules(cell.learners), params, cell.seed)
    return episode and {"seed": int(finite[0]), **episode}


# --- leagues ------------------------------------------------------------------------------


def _store_match(cell: Cell, suite: Suite, store: Store, artifacts: Artifacts, on_progress: OnProgress | None) -> None:
    clock = time.perf_counter()
    of = contents(suite)
    for source in _sources(cell, of):
        if source.hash not in store:
            raise RuntimeError(f"it needs the final policies of {source.title}, which failed")
    on_done = None if on_progress is None else lambda done: on_progress(done, cell.steps, {})
    match = play_match(cell, _source_steps(cell, of), store, artifacts.deadline, on_done)
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
        record["responder"] = {"learner": cell.responder.label, "steps": cell.steps, **match.trained}
    store.write(cell.hash, record, tidy_finals(match.values), tidy_curves(np.zeros(0, int), {}))
