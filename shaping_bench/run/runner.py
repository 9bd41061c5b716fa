"""Runs a suite: what is not yet stored is computed, measured, stored and tracked.

Encounters of one shape (same classes, different numbers) run as one vmapped sweep. A
group is always computed whole, also when some of its cells are stored already: the
numbers of a cell then cannot depend on where an earlier run was interrupted.
"""

import concurrent.futures
import dataclasses
import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd

from shaping_bench.algorithms.core import Learner
from shaping_bench.algorithms.fixed import Frozen
from shaping_bench.errors import StoreError
from shaping_bench.games.base import Game
from shaping_bench.metrics import definitions as metrics
from shaping_bench.run import devices
from shaping_bench.run.encounter import (
    Outcome,
    costs_per_update,
    imagined_artifact,
    plays,
    run_encounter,
    shareable,
    shown_episode,
    started,
    steps_per_update,
    valued_exactly,
)
from shaping_bench.run.preparation import Artifacts, OnPoint
from shaping_bench.spec.identity import source_hash
from shaping_bench.spec.suite import Cell, Labelled, Suite, resolve
from shaping_bench.store.store import SCHEMA, Store

MAX_LANES = 2**17
"""Most lanes (settings times seeds) of one vmapped group."""

MAX_MET = 128
"""Most policies of an opponent that one policy meets in a league."""

LEAGUE_METRICS = ("return", "welfare", "exploitation_gap", "cooperation")
"""Measured in league match-ups, where the game has them."""

MAX_MET_BY_PLAY = 16
"""The same where policies are valued by play."""


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
) -> list[Failure]:
    """Computes and stores every cell of the suite that the store lacks.

    Learners that prepare do so before the first encounter that needs it; artifacts stand in the
    store's directory and are reused.

    Args:
      suite: what to run.
      store: where results go.
      on_cell: called for every cell.
      on_preparation: told how running preparations get on.

    Returns:
      The cells that failed; all others are stored.

    Raises:
      StoreError: results cannot be written.
    """
    store.adopt(suite.resolved(), resolve)
    failures: list[Failure] = []
    artifacts = Artifacts(store.directory / "artifacts", on_preparation, shared=devices.artifacts_folder())
    missing = [cell for cell in suite.encounters if cell.hash not in store]
    broken = _prepare(artifacts, missing)
    groups = list(_groups(suite.encounters))
    todo = [[cell for cell in group if cell.hash not in store] for group in groups]
    with concurrent.futures.ThreadPoolExecutor(devices.usable_cores()) as pool:
        # Compilation is most of the work and runs on one core, so several groups go at once.
        running = [
            pool.submit(_run_group, group, artifacts, broken) if missing else None
            for group, missing in zip(groups, todo, strict=True)
        ]
        try:
            for group, missing, future in zip(groups, todo, running, strict=True):
                _finish(group, missing, future, suite, store, artifacts, on_cell, failures)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for cell in suite.matches:
        if cell.hash in store:
            on_cell(cell, False)
            continue
        _attempt(failures, _store_match, cell, suite, store, artifacts)
        on_cell(cell, True)
    return failures


def _finish(
    group: Sequence[Cell],
    missing: Sequence[Cell],
    future: "concurrent.futures.Future[list[Outcome]] | None",
    suite: Suite,
    store: Store,
    artifacts: Artifacts,
    on_cell: Progress,
    failures: list[Failure],
) -> None:
    """Waits for a group, measures and stores what was missing of it."""
    for cell in group:
        if cell not in missing:
            on_cell(cell, False)
    if future is None:
        return
    try:
        outcomes = future.result()
    except Exception as error:  # one rule's failure must not lose the others' results
        failures += [Failure(cell, f"{type(error).__name__}: {error}") for cell in missing]
        return
    for cell, outcome in zip(group, outcomes, strict=True):
        if cell in missing:
            _attempt(failures, _store_encounter, cell, outcome, suite, store, artifacts)
            on_cell(cell, True)


def _attempt(failures: list[Failure], action: Callable[..., None], cell: Cell, *arguments: Any) -> None:
    try:
        action(cell, *arguments)
    except StoreError:
        raise
    except Exception as error:  # as above
        failures.append(Failure(cell, f"{type(error).__name__}: {error}"))


# --- preparations -------------------------------------------------------------------------


def _prepare(artifacts: Artifacts, cells: Sequence[Cell]) -> dict[str, Exception]:
    """Runs what preparations these cells need, side by side; returns those that failed, by hash."""
    wanted = {p.hash: p for cell in cells for p in cell.needs if p is not None}
    broken: dict[str, Exception] = {}
    with concurrent.futures.ThreadPoolExecutor(devices.usable_cores()) as pool:
        running = {key: pool.submit(artifacts.prepared, p) for key, p in wanted.items()}
        for key, future in running.items():
            try:
                future.result()
            except StoreError:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            except Exception as error:  # costs the cells that need it, and no others
                broken[key] = error
    return broken


# --- encounters ---------------------------------------------------------------------------


def _groups(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Cells that differ only in numbers, in the suite's order, at most MAX_LANES lanes each."""
    by_program: dict[Any, list[Cell]] = {}
    for cell in cells:
        structure = jax.tree.structure(shareable(cell.game.named.value, _made(cell.learners)))
        # What was prepared belongs to its numbers: no sweep over them.
        prepared = tuple(p and p.hash for p in cell.needs)
        key = (structure, prepared, cell.seeds, cell.seed, cell.steps, cell.record_every, cell.precision, cell.episodes)
        by_program.setdefault(key, []).append(cell)
    for group in by_program.values():
        learners = _made(group[0].learners)
        width = max(rule.width for rule in learners) if plays(learners) else 1
        size = max(1, MAX_LANES // (group[0].seeds * width))
        yield from (group[k : k + size] for k in range(0, len(group), size))


def _made(learners: Sequence[Labelled]) -> tuple[Learner, ...]:
    return tuple(x.named.value for x in learners)


def _run_group(group: Sequence[Cell], artifacts: Artifacts, broken: Mapping[str, Exception]) -> list[Outcome]:
    first = group[0]
    for preparation in first.needs:
        if preparation is not None and preparation.hash in broken:
            raise broken[preparation.hash]
    game, learners = jax.tree.map(
        lambda *x: np.array(x, np.float64), *(shareable(cell.game.named.value, _made(cell.learners)) for cell in group)
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
        outcome.updates,
        tuple(x[:, k] for x in outcome.params),
        tuple({name: x[:, k] for name, x in info.items()} for info in outcome.infos),
        outcome.diverged[k],
        outcome.compile_seconds / num_points,
        outcome.run_seconds / num_points,
        jax.tree.map(lambda x: x[k], outcome.final),
        {name: x[:, k] for name, x in outcome.played.items()},
    )


def measure(game: Game, learners: Sequence[Learner], outcome: Outcome) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Final metrics and curves of an encounter as tidy frames (see the store's contract)."""
    if outcome.params:
        finals = metrics.evaluate(game, outcome.final)
        over_time = metrics.evaluate(game, outcome.params, names=metrics.CURVE_METRICS)
    else:
        over_time = metrics.from_play(game, outcome.played)
        finals = {name: x[-1] for name, x in over_time.items()}
    if "return" in over_time:
        finals |= metrics.convergence(outcome.updates, over_time["return"], metrics.reward_range(game) or 1.0)
    for name in sorted({name for info in outcome.infos for name in info}):
        missing = np.full(outcome.diverged.shape, np.nan)
        over_time[name] = np.stack(
            [
                np.stack([info[name][r] if name in info else missing for info in outcome.infos], -1)
                for r in range(len(outcome.updates))
            ]
        )
        if name in metrics.METRICS:
            finals[name] = over_time[name][-1]
    diverged = outcome.diverged
    finals = {name: np.where(diverged[:, None], np.nan, x) for name, x in finals.items()}
    finals["diverged"] = np.broadcast_to(diverged[:, None], (len(diverged), game.n_players)).astype(float)
    return tidy_finals(finals), tidy_curves(outcome.updates, over_time)


def tidy_finals(values: dict[str, np.ndarray]) -> pd.DataFrame:
    """``name -> (S, n_players)`` to columns seed, player (from 1), metric, value."""
    frames = []
    for name, x in values.items():
        seeds, players = np.indices(x.shape)
        frames.append(
            pd.DataFrame({"seed": seeds.ravel(), "player": players.ravel() + 1, "metric": name, "value": x.ravel()})
        )
    return pd.concat(frames, ignore_index=True)


def tidy_curves(updates: np.ndarray, values: dict[str, np.ndarray]) -> pd.DataFrame:
    """``name -> (R, S, n_players)`` to columns seed, update, player, metric, value."""
    frames = []
    for name, x in values.items():
        points, seeds, players = np.indices(x.shape)
        frames.append(
            pd.DataFrame(
                {
                    "seed": seeds.ravel(),
                    "update": np.asarray(updates)[points.ravel()],
                    "player": players.ravel() + 1,
                    "metric": name,
                    "value": x.ravel().astype(np.float64),
                }
            )
        )
    columns = ["seed", "update", "player", "metric", "value"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _store_encounter(cell: Cell, outcome: Outcome, suite: Suite, store: Store, artifacts: Artifacts) -> None:
    clock = time.perf_counter()
    game, learners = cell.game.named.value, _made(cell.learners)
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
    record = _record(cell, suite, seconds, costs, int(outcome.diverged.sum()), artifacts)
    policies = _flattened(outcome.final) if suite.matches else None
    store.write(cell.hash, record, finals, curves, policies, _episode(cell, outcome))


def _episode(cell: Cell, outcome: Outcome) -> dict[str, Any] | None:
    """An episode of the final policies of the first seed that has not diverged, where the game shows one."""
    finite = np.flatnonzero(~outcome.diverged)
    game = cell.game.named.value
    if not len(finite):
        return None
    params = [jax.tree.map(lambda x: x[finite[0]], theta) for theta in outcome.final]
    frames = shown_episode(game, _made(cell.learners), params, cell.seed)
    if not frames:
        return None
    return {
        "preset": cell.game.named.hyperparameters.get("preset"),
        "seed": int(finite[0]),
        "grid": frames[0]["grid"],
        "players": game.n_players,
        "frames": [{key: x for key, x in frame.items() if key != "grid"} for frame in frames],
    }


def _record(
    cell: Cell, suite: Suite, timings: dict[str, float], costs: dict[str, Any], diverged: int, artifacts: Artifacts
) -> dict[str, Any]:
    def described(x: Labelled) -> dict[str, Any]:
        return {"name": x.named.name, "label": x.label, "hyperparameters": x.named.hyperparameters}

    return {
        "schema": SCHEMA,
        "hash": cell.hash,
        "kind": cell.kind,
        "suite": suite.file.name,
        "game": described(cell.game),
        "learners": [
            {
                **described(x),
                "access": str(x.named.value.access),
                "needs_preparation": x.named.value.needs_preparation,
                "code": source_hash(x.named.value, cell.game.named.value),
                "preparation": prepared,
            }
            for x, prepared in zip(cell.learners, artifacts.records(cell.needs), strict=True)
        ],
        "seeds": cell.seeds,
        "seed": cell.seed,
        "steps": 0 if cell.kind == "league" else cell.steps,
        "record_every": cell.record_every,
        "precision": cell.precision,
        "versions": devices.versions(),
        "git_commit": devices.git_commit(),
        "device": devices.describe(),
        "timings": timings,
        "costs": costs,
        "status": "done",
        "diverged": diverged,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": cell.command if cell.kind == "encounter" else f"shaping-bench run {suite.file.name}",
    }


# --- league -------------------------------------------------------------------------------


def _store_match(cell: Cell, suite: Suite, store: Store, artifacts: Artifacts) -> None:
    """Final policies of the first learner's self-play meet the second's, without learning.

    Every policy meets the other population's policies of all seeds (of all other seeds, if
    it is the same population); a value per seed is the mean over those it met.
    """
    clock = time.perf_counter()
    game = cell.game.named.value
    first, second = cell.learners[0], cell.learners[1]
    own = _population(first, cell, suite, store)
    costs: dict[str, Any] = {"updates": 0, "gradient_evaluations": [0] * game.n_players, "environment_steps": 0}
    if second.label == "best-response":
        exactly = valued_exactly(game, [first.named.value])
        values, costs["environment_steps"] = _against_response(cell, own, exactly)
    else:
        other = _population(second, cell, suite, store)
        values = _all_against_all(cell, own, other, same=first.label == second.label)
    finite = np.isfinite(values["return"]).all(axis=-1)
    values["diverged"] = np.broadcast_to(~finite[:, None], values["return"].shape).astype(float)
    curves = tidy_curves(np.zeros(0, int), {})
    seconds = {"compile": 0.0, "run": 0.0, "metrics": time.perf_counter() - clock}
    record = _record(cell, suite, seconds, costs, int((~finite).sum()), artifacts)
    if cell.responder is not None:
        record["responder"] = {"learner": cell.responder.named.text, "steps": cell.steps}
    store.write(cell.hash, record, tidy_finals(values), curves)


def _frozen(x: Labelled) -> Learner:
    return Frozen(rule=x.named.value)  # type: ignore[call-arg]


def _flattened(final: Sequence[Any]) -> dict[str, np.ndarray]:
    """Final policies as named arrays: ``player_1`` if it is one, ``player_1.0``, ... if they are several."""
    out: dict[str, np.ndarray] = {}
    for i, theta in enumerate(final):
        leaves = jax.tree.leaves(theta)
        alone = isinstance(theta, np.ndarray)
        out |= {f"player_{i + 1}" if alone else f"player_{i + 1}.{k}": np.asarray(x) for k, x in enumerate(leaves)}
    return out


def _population(learner: Labelled, cell: Cell, suite: Suite, store: Store) -> list[Any]:
    """Final policies of a learner's self-play, per seat a tree with leaves ``(S, ...)``; a fixed
    strategy is alike in all seeds."""
    game, rule = cell.game.named.value, learner.named.value
    key = jax.random.key(0)
    if not rule.learns:
        rows = [rule.init(key, game, i)[0] for i in range(game.n_players)]
        return [jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], cell.seeds, axis=0), x) for x in rows]
    steps = next(x.steps for x in suite.encounters if x.game == cell.game)
    source = dataclasses.replace(
        cell, kind="encounter", learners=(learner,) * game.n_players, responder=None, steps=steps
    )
    stored = store.policies(source.hash)
    found = []
    for i in range(game.n_players):
        if f"player_{i + 1}" in stored:
            found.append(stored[f"player_{i + 1}"])
            continue
        template = jax.eval_shape(lambda i=i: started(rule, key, game, i, imagined_artifact(rule, game, i))[0])
        leaves = [stored[f"player_{i + 1}.{k}"] for k in range(len(jax.tree.leaves(template)))]
        found.append(jax.tree.unflatten(jax.tree.structure(template), leaves))
    return found


def _against_response(cell: Cell, own: Sequence[Any], exactly: bool) -> tuple[dict[str, np.ndarray], int]:
    """The policies of seat 1, and of the last seat a best response to all others: values, and
    environment steps spent on it."""
    game = cell.game.named.value
    seat = game.n_players - 1
    if cell.responder is None:
        with jax.enable_x64(True):
            joint = [np.asarray(x, np.float64) for x in own]
            answer = jax.jit(jax.vmap(lambda *theta: game.best_response(theta, seat)))(*joint)
        joint = [*joint[:-1], np.stack([np.asarray(x) for x in answer], axis=-1)]
        return metrics.evaluate(game, joint, names=LEAGUE_METRICS), 0
    responder = cell.responder.named.value
    frozen = [_frozen(cell.learners[0])] * seat
    learners = [*frozen, responder]
    trained = run_encounter(
        game,
        learners,
        num_seeds=cell.seeds,
        num_updates=cell.steps,
        seed=cell.seed,
        init=[*own[:-1], None],
        precision=cell.precision,
        episodes=cell.episodes,
    )
    if exactly:
        return metrics.evaluate(game, trained.final, names=LEAGUE_METRICS), 0
    values = metrics.from_play(game, {name: x[-1] for name, x in trained.played.items()})
    return values, steps_per_update(game, learners) * cell.seeds * cell.steps


def _all_against_all(cell: Cell, own: Sequence[Any], other: Sequence[Any], same: bool) -> dict[str, np.ndarray]:
    game, seeds = cell.game.named.value, cell.seeds
    rules = [x.named.value for x in cell.learners]
    exactly = valued_exactly(game, rules)
    shifts = range(1, seeds) if same and seeds > 1 else range(seeds)
    chosen = np.array(list(shifts))[: min(MAX_MET if exactly else MAX_MET_BY_PLAY, len(shifts))]
    met = (np.arange(seeds)[:, None] + chosen[None, :]) % seeds  # (S, M): each shift is a permutation
    if not all(rule.learns for rule in rules):
        # Who does not learn is alike in all seeds: its number against a policy is that policy's seed's.
        met = np.repeat(np.arange(seeds)[:, None], 1 if exactly else len(chosen), axis=1)
    count = met.shape[1]
    if exactly:
        joint = [np.repeat(own[0][:, None], count, axis=1), *(x[met] for x in other[1:])]
        values = metrics.evaluate(game, joint, names=LEAGUE_METRICS)
    else:
        played = run_encounter(
            game,
            [_frozen(x) for x in cell.learners],
            num_seeds=seeds * count,
            num_updates=0,
            seed=cell.seed,
            init=[
                jax.tree.map(lambda x: np.repeat(x, count, axis=0), own[0]),
                *(jax.tree.map(lambda x: x[met.ravel()], theta) for theta in other[1:]),
            ],
            precision=cell.precision,
            episodes=cell.episodes,
        ).played
        values = metrics.from_play(game, {name: x[0].reshape(seeds, count, -1) for name, x in played.items()})
    out = {}
    for name, x in values.items():
        per_seed = np.empty((seeds, game.n_players))
        per_seed[:, 0] = x[..., 0].mean(axis=1)
        for i in range(1, game.n_players):  # seed s of the others: mean over the policies that met it
            sums = np.zeros(seeds)
            np.add.at(sums, met, x[..., i])
            per_seed[:, i] = sums / count
        out[name] = per_seed
    return out
