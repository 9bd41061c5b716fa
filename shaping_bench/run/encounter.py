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
from shaping_bench.run import checkpoints, devices
from shaping_bench.run.checkpoints import Checkpoint, Moment, Pauses
from shaping_bench.run.deadline import Deadline
from shaping_bench.run.lanes import LanedArtifacts, Lanes
from shaping_bench.run.pace import Pace
from shaping_bench.run.preparation import imagined_artifact
from shaping_bench.run.programs import Program, played_values
from shaping_bench.spec.protocol import EPISODES

RECORDS_PER_CALL = 64
"""Most recorded points per call of the compiled program."""

RECORDS_PER_CALL_OF_PLAY = 4
"""The same where a learner plays."""

FIRST_OPERATIONS = {"cpu": 2e10}
"""Floating-point operations of an exact encounter's first call, at most: a second or a few of one
core. What is shorter needs no second call, and no second program."""

FIRST_OPERATIONS_ELSEWHERE = 2e12
"""The same on accelerators."""

DRAW_OPERATIONS = 300
"""About so many it takes to draw a normal number, a policy's first parameter."""


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
      policy_updates: updates on the way at which the policies were kept, ``(A,)``.
      policies: per player those policies, as ``final`` with leaves ``(A, [K,] S, ...)``; None where
        none were to be kept.
      end: from where it can go on to more updates, lanes setting by setting; None unless asked for.
    """

    updates: np.ndarray
    params: tuple[np.ndarray, ...]
    infos: tuple[dict[str, np.ndarray], ...]
    diverged: np.ndarray
    compile_seconds: float
    run_seconds: float
    final: tuple[Any, ...]
    played: dict[str, np.ndarray]
    policy_updates: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    policies: tuple[Any, ...] | None = None
    end: Moment | None = None


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
    seats_apart: bool = False,
    on_progress: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
    deadline: Deadline | None = None,
    earlier: Moment | None = None,
    policies_every: int | None = None,
    keep_end: bool = False,
) -> Outcome:
    """Runs one encounter, or a sweep of them.

    A game or learner whose traced fields are 1-d arrays of one common length K is a sweep:
    all K settings run as lanes of the same program, each with the same seeds.

    Where it was interrupted or ended makes no difference to its numbers: neither which updates one
    call does, nor a process that goes on from another's checkpoint.

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
      on_progress: called after every call of the compiled program with the updates done.
      checkpoint: gone on from where it is there, and left every few seconds; whoever stores the
        outcome drops it.
      deadline: looked at between calls.
      earlier: where the same encounter of fewer updates ended.
      policies_every: updates between policies that are kept on the way.
      keep_end: yield from where it can go on to more updates.

    Raises:
      BadInput: it would not fit into memory; says how much it needs, and of what. Or there are fewer
        devices than seats that should learn apart.
      OutOfTime: the deadline allows no further call; the checkpoint says how far it is.
      StoreError: that checkpoint cannot be written.
    """
    with jax.enable_x64(precision == "float64"):
        return _run(
            game,
            tuple(learners),
            num_seeds=num_seeds,
            num_updates=num_updates,
            seed=seed,
            record_every=record_every,
            init=init,
            dtype=jnp.dtype(precision),
            episodes=episodes,
            artifacts=tuple(artifacts) if artifacts is not None else (None,) * len(learners),
            on_progress=on_progress or (lambda done: None),
            checkpoint=checkpoint,
            deadline=deadline,
            earlier=earlier,
            policies_every=policies_every,
            keep_end=keep_end,
            seats_apart=seats_apart,
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
    """Whether all policies can be valued exactly: by the game, or as finite automata."""
    if "exact" not in game.views:
        return False
    if not plays(learners):
        return True
    policies = [rule.policy(game, i) for i, rule in enumerate(learners)]
    return all(policy.exact or policy.finite_memory for policy in policies)


def _run(
    game: Game,
    learners: tuple[Learner, ...],
    *,
    num_seeds: int,
    num_updates: int,
    seed: int,
    record_every: int | None,
    init: Sequence[Any] | None,
    dtype: Any,
    episodes: int,
    artifacts: tuple[Any, ...],
    on_progress: Callable[[int], None],
    checkpoint: Checkpoint | None,
    deadline: Deadline | None,
    earlier: Moment | None,
    policies_every: int | None,
    keep_end: bool,
    seats_apart: bool,
) -> Outcome:
    # Host arrays: nothing here may trigger a small compilation of its own.
    leaves, treedef = jax.tree.flatten(shareable(game, learners))
    leaves = [np.asarray(x, dtype) for x in leaves]
    num_points = max((x.shape[0] for x in leaves if x.ndim), default=1)
    if any(x.ndim > 1 or (x.ndim and x.shape[0] != num_points) for x in leaves):
        raise ValueError("swept fields must be 1-d arrays of one common length")
    swept = any(x.ndim for x in leaves)
    updates = recorded_updates(num_updates, record_every)
    check_size(game, learners, num_points * num_seeds, len(updates))
    playing = game.keeps_world or plays(learners)
    exactly = valued_exactly(game, learners)
    width = max(rule.width for rule in learners) if playing else 1
    lanes = Lanes(num_points * num_seeds, width, game.n_players if seats_apart else 1)
    is_laned = tuple(bool(x.ndim) for x in leaves)
    shared = [x for x in leaves if not x.ndim]
    laned = [lanes.split(np.repeat(x, num_seeds)) for x in leaves if x.ndim]
    seeds = lanes.split(np.tile(np.arange(num_seeds, dtype=np.uint32), num_points))
    program = Program(treedef, is_laned, lanes.mesh, playing, 0 if exactly else episodes)
    base = np.uint32(seed)
    prepared = LanedArtifacts.laid(learners, artifacts, num_points, num_seeds, lanes, dtype)
    start = (shared, laned, prepared, base, seeds)

    per_call = min(RECORDS_PER_CALL_OF_PLAY if playing else RECORDS_PER_CALL, len(updates))
    so_far = _SoFar(updates, _on_the_way(num_updates, policies_every), lanes)
    compile_seconds = run_seconds = 0.0
    carry: Joint | None = None  # how the one program begins that does everything
    moments = [x for x in (checkpoint.load() if checkpoint else None, earlier) if x is not None]
    if moments:
        like = jax.eval_shape(program.function("begin"), *start)
        moment = so_far.resume([x for x in moments if checkpoints.fits(x, like, lanes.count)])
        if moment is not None:
            carry, run_seconds = checkpoints.spread(moment.leaves, like, lanes), moment.seconds
    # Where somebody plays, the compiler makes other sums of an update that stands beside its beginning.
    if carry is None and (playing or init is not None or len(updates) > per_call):
        begin, compile_seconds = program.compiled("begin", start)
        clock = time.perf_counter()
        carry = begin(*start)
        if init is not None:
            carry = carry._replace(params=_laid(init, carry.params, num_points, num_seeds, lanes, dtype, playing))
        carry = lanes.place(carry)
        run_seconds = time.perf_counter() - clock

    pauses = Pauses("an encounter stopped at update", num_updates, checkpoint, deadline)
    pace: Pace | None = None
    seconds = 0.0
    while so_far.structure is None or so_far.done < num_updates:
        moment_now = functools.partial(so_far.moment, carry, run_seconds)
        pauses.pause(so_far.done, seconds, moment_now)
        blank = (*start, *so_far.next_call(0, per_call))
        if carry is None:
            advance, seconds = program.compiled("whole", blank)
            pace = Pace(_first_updates(advance, game, lanes, num_updates))
        else:
            advance, seconds = program.compiled("advance", (*blank, carry))
            pace = pace or Pace()
        if seconds:
            pauses.compiled(so_far.done, moment_now)
        compile_seconds += seconds
        before = so_far.done
        arguments = (*start, *so_far.next_call(pace.updates, per_call))
        clock = time.perf_counter()
        carry, recorded = advance(*arguments, *([] if carry is None else [carry]))
        so_far.add(arguments[-2:], jax.device_get(recorded), carry)
        seconds = time.perf_counter() - clock
        run_seconds += seconds
        pace.took(so_far.done - before, seconds)
        on_progress(so_far.done)

    assert carry is not None  # whatever is run has a first call
    shape = (num_points, num_seeds) if swept else (num_seeds,)

    def along(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), *shape, *x.shape[2:])

    def vector(theta: Any) -> Any:
        """A policy's coordinates as one array, whatever they were in the program; a network's tree as it is, and
        nothing of who has no parameters."""
        return np.stack(theta, axis=-1) if isinstance(theta, tuple) and theta else theta

    (params, played), infos = jax.tree.map(along, so_far.records())
    params = tuple(vector(theta) for theta in params)
    if exactly:
        final = tuple(x[-1] for x in params)
    else:
        final = jax.tree.map(lambda x: along(lanes.join(x)[None])[0], jax.device_get(carry.params))
    policies = None
    if len(so_far.kept_at):
        kept = jax.tree.map(along, so_far.policies(jax.tree.structure(carry.params)))
        policies = tuple(vector(theta) for theta in kept)
    finite = np.ones(shape, bool)
    for leaf in jax.tree.leaves(final):
        finite &= np.isfinite(leaf).reshape(*shape, -1).all(axis=-1)
    return Outcome(
        updates=updates,
        params=params,
        infos=infos,
        diverged=~finite,
        compile_seconds=compile_seconds,
        run_seconds=run_seconds,
        final=final,
        played=played,
        policy_updates=so_far.kept_at,
        policies=policies,
        end=so_far.moment(carry, run_seconds) if keep_end else None,
    )


def _on_the_way(num_updates: int, every: int | None) -> np.ndarray:
    """Updates at which policies are kept: neither the first ones nor the last, which are kept anyway."""
    return np.arange(every or num_updates, num_updates, every or 1)


class _SoFar:
    """How far an encounter is, and what was recorded on the way, on the host.

    Args:
      updates: of the points to record, ``(R,)``.
      kept_at: updates at which policies are kept, ``(A,)``.
      lanes: in which what the device yields lies.
    """

    def __init__(self, updates: np.ndarray, kept_at: np.ndarray, lanes: Lanes) -> None:
        self.updates, self.kept_at, self.lanes = updates, kept_at, lanes
        self.done = self.count = 0
        self.structure: Any = None
        self._records: dict[str, list[np.ndarray]] = {}
        self._policies: dict[str, list[np.ndarray]] = {}

    def resume(self, moments: Sequence[Moment]) -> Moment | None:
        """Goes on from the latest of these that has recorded what this encounter would have."""

        def serves(moment: Moment) -> bool:
            lists = ((self.updates, moment.updates), (self.kept_at, moment.policy_updates))
            return moment.done <= self.updates[-1] and all(
                np.isin(wanted[wanted <= moment.done], stored).all() for wanted, stored in lists
            )

        moment = max((x for x in moments if serves(x)), key=lambda x: x.done, default=None)
        if moment is not None:
            self.done = moment.done
            self.count = int(np.sum(self.updates <= self.done))
            # Of fewer updates, its last point may be none of ours.
            wanted = np.isin(moment.updates, self.updates)
            self._records = {name: list(x[wanted]) for name, x in moment.records.items()}
            wanted = np.isin(moment.policy_updates, self.kept_at)
            self._policies = {name: list(x[wanted]) for name, x in moment.policies.items()}
        return moment

    def moment(self, carry: Any, seconds: float) -> Moment:
        return Moment(
            done=self.done,
            seconds=seconds,
            leaves=checkpoints.gathered(carry, self.lanes),
            updates=self.updates[: self.count],
            records={name: np.stack(rows) for name, rows in self._records.items()},
            policy_updates=self.kept_at[self.kept_at <= self.done],
            policies={name: np.stack(rows) for name, rows in self._policies.items()},
        )

    def next_call(self, most: int, per_call: int) -> tuple[np.int32, np.ndarray, np.ndarray]:
        """What the next call does: updates done before it, updates of each of its parts, and which of the
        parts end at a point to be recorded. What a point tells of the update before it needs one in its
        own part, so a part that ends on the way leaves at least one to the next.

        Args:
          most: updates, at most.
          per_call: parts of a call.
        """
        coming = self.kept_at[self.kept_at > self.done]
        last = min(self.done + most, *coming[:1], self.updates[-1])
        parts, real = np.zeros(per_call, np.int32), np.zeros(per_call, bool)
        done = self.done
        for k, point in enumerate(self.updates[self.count : self.count + per_call] if most else ()):
            parts[k], real[k] = min(point, last) - done, point <= last
            done = min(point, last)
            if not real[k]:
                break
        return np.int32(self.done), parts, real

    def add(self, call: Any, recorded: Any, carry: Joint) -> None:
        """What a call yielded, whose arguments ended with the parts and which of them were real."""
        parts, real = call
        self.done += int(parts.sum())
        self.count += int(real.sum())
        named, self.structure = jax.tree_util.tree_flatten_with_path(recorded)
        for path, x in named:
            rows = self._records.setdefault(jax.tree_util.keystr(path), [])
            rows += [self.lanes.join(x[:, k]) for k in np.flatnonzero(real)]
        if self.done in self.kept_at:
            for path, x in jax.tree_util.tree_flatten_with_path(jax.device_get(carry.params))[0]:
                self._policies.setdefault(jax.tree_util.keystr(path), []).append(self.lanes.join(x))

    def records(self) -> Any:
        """What was recorded, a tree with leaves ``(R, N, ...)``."""
        return _unnamed(self.structure, self._records)

    def policies(self, structure: Any) -> Any:
        """The joint policies that were kept, a tree with leaves ``(A, N, ...)``."""
        return _unnamed(structure, self._policies)


def _unnamed(structure: Any, rows: dict[str, list[np.ndarray]]) -> Any:
    """The tree of this structure whose leaves these are, by the names of their places."""
    places = jax.tree_util.tree_flatten_with_path(jax.tree.unflatten(structure, range(structure.num_leaves)))[0]
    return jax.tree.unflatten(structure, [np.stack(rows[jax.tree_util.keystr(path)]) for path, _ in places])


def _first_updates(whole: devices.Compiled, game: Game, lanes: Lanes, num_updates: int) -> int:
    """How many updates an exact encounter's first call does: all of them where that is short."""
    platform = lanes.mesh.devices.flat[0].platform
    most = FIRST_OPERATIONS.get(platform, FIRST_OPERATIONS_ELSEWHERE)
    # Of every loop one round is counted: an update of one tile; but the beginning of all of them.
    tiles = lanes.tiles // lanes.mesh.size
    beginning = tiles * lanes.tile * sum(game.sizes) * DRAW_OPERATIONS
    one = tiles * max(whole.operations - beginning, whole.operations / (10 * tiles), 1.0)
    return max(1, min(num_updates, int(most / one)))


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
    playing = game.keeps_world or plays(learners)
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
    options = devices.compiler_options(networks=program.networks_learn(carry))
    return devices.needed_memory_bytes(program.function("advance").lower(*arguments).compile(options))


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
