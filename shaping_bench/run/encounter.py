"""Encounters: learners, freshly initialised, learn against one another in one game.

Seeds (and, in a sweep, hyperparameter settings) are *lanes* of one vmapped program; time
is one scan over recorded points with a loop over updates inside. Lanes are cut into tiles
small enough to stay in cache and spread over all local devices. Hyperparameters and
payoffs enter as data, so encounters that differ only in numbers share one compiled
program.

Where every learner is exact, a policy is a tuple of scalars (see ``shaping_bench.games.base``). Where one
plays, a policy is whatever its learner initialises: a vector of logits, a network's
parameters. Policies that the exact game can value are recorded as they are; others are
valued by play, in the compiled program, at every recorded point.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.algorithms.core import Learner, costs
from shaping_bench.algorithms.core.stage import Joint, Stage, plays, started
from shaping_bench.games.base import Game
from shaping_bench.run import devices
from shaping_bench.run.lanes import LanedArtifacts, Lanes
from shaping_bench.run.preparation import imagined_artifact
from shaping_bench.run.programs import Program, played_values
from shaping_bench.spec.protocol import EPISODES

RECORDS_PER_CALL = 64
"""Recorded points per call of the compiled program; progress is reported in between."""

RECORDS_PER_CALL_OF_PLAY = 4
"""The same where a learner plays: its updates take long enough for people to wonder."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an encounter yields. K sweep points (axis absent without a sweep), S seeds.

    Attributes:
      updates: number of updates done at each recorded point, ``(R,)``; starts with 0.
      params: per player the policy parameters at the recorded points, ``(R, [K,] S, d_i)``;
        empty where the exact game cannot value them.
      infos: per player the learner's info of the update before each point, ``(R, [K,] S)``.
      diverged: whether the final parameters are not all finite, ``([K,] S)``.
      compile_seconds, run_seconds: wall time, separately.
      final: per player the final policy parameters, a tree with leaves ``([K,] S, ...)``.
      played: values of the policies by play where ``params`` is empty, by name,
        ``(R, [K,] S, n_players)``; see :func:`played_values`.
    """

    updates: np.ndarray
    params: tuple[np.ndarray, ...]
    infos: tuple[dict[str, np.ndarray], ...]
    diverged: np.ndarray
    compile_seconds: float
    run_seconds: float
    final: tuple[Any, ...]
    played: dict[str, np.ndarray]


def recorded_updates(num_updates: int, record_every: int | None) -> np.ndarray:
    """0, then every ``record_every``-th update, and always the last."""
    if record_every is None:
        return np.unique([0, num_updates])
    return np.unique(np.append(np.arange(0, num_updates, record_every), num_updates))


def run_encounter(
    game: Game,
    learners: Sequence[Learner],
    *,
    num_seeds: int,
    num_updates: int,
    seed: int = 0,
    record_every: int | None = None,
    init: Sequence[Any] | None = None,
    precision: str = "float32",
    episodes: int = EPISODES,
    artifacts: Sequence[Any] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Runs one encounter, or a sweep of them.

    A game or learner whose traced fields are 1-d arrays of one common length K is a sweep:
    all K settings run as lanes of the same program, each with the same seeds.

    Args:
      game: the game.
      learners: one per player.
      num_seeds: number of seeds S; seed s does not depend on S.
      num_updates: simultaneous updates.
      seed: base of the random keys.
      record_every: updates between recorded points; None records start and end only.
      init: initial policy parameters instead of the learners' own, one entry per player: an
        array ``(d_i,)`` for all seeds or ``(S, d_i)``, a network's parameters with leaves
        ``(S, ...)``, or None for the learner's own after all.
      precision: ``"float32"`` or ``"float64"``.
      episodes: episodes per recorded point where policies are valued by play.
      artifacts: per player what its learner's preparation yielded, from P seeds with leaves
        ``(P, ...)`` that the S seeds share (see
        :func:`~shaping_bench.run.lanes.shared_preparations`); None for learners without one.
      on_progress: called with the number of updates done.

    Raises:
      BadInput: it would not fit into memory; says how much it needs, and of what.
    """
    with jax.enable_x64(precision == "float64"):
        return _run(
            game,
            tuple(learners),
            num_seeds,
            num_updates,
            seed,
            record_every,
            init,
            jnp.dtype(precision),
            episodes,
            tuple(artifacts) if artifacts is not None else (None,) * len(learners),
            on_progress,
        )


def shareable(game: Game, learners: tuple[Learner, ...]) -> tuple[Game, tuple[Learner, ...]]:
    """What a program is made for: cells that differ only in numbers share it, unless a learner asks
    what follows from those of the game."""
    return (game if any(rule.reads_facts for rule in learners) else game.unpinned()), learners


def check_size(game: Game, learners: Sequence[Learner], count: int, num_records: int = 2) -> None:
    """Refuses more seeds than there is memory for, before anything of their number is laid out.

    Args:
      game, learners: who plays what.
      count: seeds times settings.
      num_records: recorded points.

    Raises:
      BadInput: they need more memory than there is.
    """

    def held() -> Any:
        artifacts = [imagined_artifact(rule, game, i) for i, rule in enumerate(learners)]
        joint = Stage(game, tuple(learners), artifacts).begin(jax.random.key(0))
        return joint.params, joint.states

    devices.check_size(count, held, num_records if valued_exactly(game, learners) else 1)


def valued_exactly(game: Game, learners: Sequence[Learner]) -> bool:
    """Whether the exact game can value all policies."""
    if "exact" not in game.views:
        return False
    return not plays(learners) or all(rule.policy(game, i).exact for i, rule in enumerate(learners))


def _run(
    game: Game,
    learners: tuple[Learner, ...],
    num_seeds: int,
    num_updates: int,
    seed: int,
    record_every: int | None,
    init: Sequence[Any] | None,
    dtype: Any,
    episodes: int,
    artifacts: tuple[Any, ...],
    on_progress: Callable[[int], None] | None,
) -> Outcome:
    # Host arrays: nothing here may trigger a small compilation of its own.
    leaves, treedef = jax.tree.flatten(shareable(game, learners))
    leaves = [np.asarray(x, dtype) for x in leaves]
    num_points = max((x.shape[0] for x in leaves if x.ndim), default=1)
    if any(x.ndim > 1 or (x.ndim and x.shape[0] != num_points) for x in leaves):
        raise ValueError("swept fields must be 1-d arrays of one common length")
    swept = any(x.ndim for x in leaves)
    check_size(game, learners, num_points * num_seeds, len(recorded_updates(num_updates, record_every)))
    playing = plays(learners)
    exactly = valued_exactly(game, learners)
    lanes = Lanes(num_points * num_seeds, max(rule.width for rule in learners) if playing else 1)
    is_laned = tuple(bool(x.ndim) for x in leaves)
    shared = [x for x in leaves if not x.ndim]
    laned = [lanes.split(np.repeat(x, num_seeds)) for x in leaves if x.ndim]
    seeds = lanes.split(np.tile(np.arange(num_seeds, dtype=np.uint32), num_points))
    program = Program(treedef, is_laned, lanes.mesh, playing, 0 if exactly else episodes)
    base = np.uint32(seed)
    prepared = LanedArtifacts.laid(learners, artifacts, num_points, num_seeds, lanes, dtype)

    updates = recorded_updates(num_updates, record_every)
    # The first point is recorded after no update at all.
    intervals = np.diff(updates, prepend=0).astype(np.int32)
    per_call = min(RECORDS_PER_CALL_OF_PLAY if playing else RECORDS_PER_CALL, len(intervals))
    compile_seconds = run_seconds = 0.0
    start = (shared, laned, prepared, base, seeds)
    carry: Joint | None = None  # how the one program begins that does everything
    # Where somebody plays, the compiler makes other sums of an update that stands beside its beginning.
    if playing or init is not None or len(intervals) > per_call:
        begin, compile_seconds = program.compiled("begin", start)
        clock = time.perf_counter()
        carry = begin(*start)
        if init is not None:
            carry = carry._replace(params=_laid(init, carry.params, num_points, num_seeds, lanes, dtype, playing))
        carry = lanes.place(carry)
        run_seconds = time.perf_counter() - clock
    points: list[Any] = []
    infos: list[Any] = []
    done = 0
    for first in range(0, len(intervals), per_call):
        chunk = intervals[first : first + per_call]
        padded = np.pad(chunk, (0, per_call - len(chunk)))
        real = np.arange(per_call) < len(chunk)
        arguments: tuple[Any, ...] = (*start, np.int32(done), padded, real)
        if carry is None:
            advance, seconds = program.compiled("whole", arguments)
        else:
            arguments = (*arguments, carry)
            advance, seconds = program.compiled("advance", arguments)
        compile_seconds += seconds
        clock = time.perf_counter()
        carry, (point, info) = advance(*arguments)
        point, info = jax.device_get((point, info))
        run_seconds += time.perf_counter() - clock
        for r in range(len(chunk)):
            points.append(jax.tree.map(lambda x, r=r: x[:, r], point))
            infos.append(jax.tree.map(lambda x, r=r: x[:, r], info))
        done += int(chunk.sum())
        if on_progress is not None:
            on_progress(done)

    assert carry is not None  # whatever is run has a first call
    shape = (num_points, num_seeds) if swept else (num_seeds,)

    def joined(x: np.ndarray) -> np.ndarray:
        x = lanes.join(np.asarray(x))
        return x.reshape(*shape, *x.shape[1:])

    def vector(theta: Any) -> np.ndarray:
        return np.stack([joined(x) for x in theta], axis=-1) if isinstance(theta, tuple) else joined(theta)

    players = range(game.n_players)
    params_out: tuple[np.ndarray, ...] = ()
    if exactly:
        params_out = tuple(np.stack([vector(point[0][i]) for point in points]) for i in players)
    played = {name: np.stack([joined(point[1][name]) for point in points]) for name in points[0][1]}
    infos_out = tuple(
        {name: np.stack([joined(info[i][name]) for info in infos]) for name in infos[0][i]} for i in players
    )
    final = tuple(x[-1] for x in params_out) if exactly else jax.tree.map(joined, jax.device_get(carry.params))
    finite = np.ones(shape, bool)
    for leaf in jax.tree.leaves(final):
        finite &= np.isfinite(leaf).reshape(*shape, -1).all(axis=-1)
    return Outcome(
        updates=updates,
        params=params_out,
        infos=infos_out,
        diverged=~finite,
        compile_seconds=compile_seconds,
        run_seconds=run_seconds,
        final=final,
        played=played,
    )


def _laid(
    init: Sequence[Any],
    own: Sequence[Any],
    num_points: int,
    num_seeds: int,
    lanes: Lanes,
    dtype: Any,
    playing: bool,
) -> tuple[Any, ...]:
    """Initial policy parameters as they were given, laid out in lanes; the learners' own where none were."""

    def laid(x: Any) -> np.ndarray:
        return lanes.split(np.tile(x, (num_points, *[1] * (np.ndim(x) - 1))).astype(dtype))

    starts: list[Any] = []
    for theta, start in zip(own, init, strict=True):
        if start is None:
            starts.append(theta)
        elif isinstance(start, np.ndarray | list):
            rows = np.broadcast_to(np.asarray(start), (num_seeds, np.shape(start)[-1]))
            starts.append(laid(rows) if playing else tuple(laid(column) for column in rows.T))
        else:
            starts.append(jax.tree.map(laid, start))
    return tuple(starts)


@dataclasses.dataclass(frozen=True)
class _Alike:
    """Who plays what, equal to everybody of the same structure: what differs in numbers only, and so is
    updated by the same program, costs the same."""

    structure: Any
    game: Game = dataclasses.field(compare=False)
    learners: tuple[Learner, ...] = dataclasses.field(compare=False)

    @classmethod
    def of(cls, game: Game, learners: Sequence[Learner]) -> "_Alike":
        both = game, tuple(learners)
        return cls(jax.tree.structure(both), *both)


def costs_per_update(game: Game, learners: Sequence[Learner]) -> tuple[costs.Costs, ...]:
    """What each learner's update of one seed costs alone."""
    return _costs(_Alike.of(game, learners))


def steps_per_update(game: Game, learners: Sequence[Learner]) -> int:
    """Environment steps of one update of everybody, play that several share counted once."""
    return _steps(_Alike.of(game, learners))


@functools.lru_cache(maxsize=1024)
def _costs(alike: _Alike) -> tuple[costs.Costs, ...]:
    counts = []
    for i in range(len(alike.learners)):
        with costs.counting() as count:
            jax.eval_shape(lambda i=i: _one_update(alike.game, alike.learners, [i])[0])
        counts.append(count)
    return tuple(counts)


@functools.lru_cache(maxsize=1024)
def _steps(alike: _Alike) -> int:
    with costs.counting() as count:
        jax.eval_shape(lambda: _one_update(alike.game, alike.learners, range(len(alike.learners)))[0])
    return int(count.steps)


def planned_memory_bytes(game: Game, learners: Sequence[Learner], num_seeds: int = 1) -> int:
    """Memory that an encounter will take while it runs, from its compiled program; nothing is run."""
    leaves, treedef = jax.tree.flatten(shareable(game, tuple(learners)))
    playing = plays(learners)
    lanes = Lanes(num_seeds, max(rule.width for rule in learners) if playing else 1)
    episodes = 0 if valued_exactly(game, learners) else EPISODES
    program = Program(treedef, (False,) * len(leaves), lanes.mesh, playing, episodes)
    shared, base = [np.asarray(x, np.float32) for x in leaves], np.uint32(0)
    seeds = lanes.split(np.arange(num_seeds, dtype=np.uint32))
    shapes = jax.eval_shape(lambda: [imagined_artifact(rule, game, i) for i, rule in enumerate(learners)])
    blank = jax.tree.map(lambda x: np.zeros((1, *x.shape), x.dtype), shapes)
    prepared = LanedArtifacts.laid(learners, blank, 1, num_seeds, lanes, np.dtype(np.float32))
    carry = jax.eval_shape(program.function("begin"), shared, [], prepared, base, seeds)
    records = (np.zeros(1, np.int32), np.ones(1, bool))
    arguments: tuple[Any, ...] = (shared, [], prepared, base, seeds, np.int32(0), *records, carry)
    return devices.needed_memory_bytes(program.function("advance").lower(*arguments).compile())


def info_names(game: Game, learners: Sequence[Learner]) -> tuple[str, ...]:
    """What the learners report of an update."""
    infos = jax.eval_shape(lambda: _one_update(game, learners, range(len(learners)))[1])
    return tuple(dict.fromkeys(name for info in infos for name in info))


def played_names(game: Game, learners: Sequence[Learner]) -> tuple[str, ...]:
    """What :func:`played_values` yields."""

    def values() -> dict[str, Array]:
        key = jax.random.key(0)
        params = [started(rule, key, game, i, imagined_artifact(rule, game, i))[0] for i, rule in enumerate(learners)]
        return played_values(key, game, learners, params, 2)

    return tuple(jax.eval_shape(values))


def _one_update(game: Game, learners: Sequence[Learner], players: Sequence[int]) -> Any:
    """The first update of some of the players."""
    artifacts = [imagined_artifact(rule, game, j) for j, rule in enumerate(learners)]
    stage = Stage(game, tuple(learners), artifacts)
    joint = stage.begin(jax.random.key(0))
    still = {j: (joint.params[j], joint.states[j]) for j in range(len(learners)) if j not in players}
    joint, _, infos = stage.episode(jax.random.key(0), joint, given=still)
    return joint.params, infos
