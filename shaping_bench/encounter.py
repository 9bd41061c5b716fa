"""Encounters: learners, freshly initialised, learn against one another in one game.

Seeds (and, in a sweep, hyperparameter settings) are *lanes* of one vmapped program; time
is one scan over recorded points with a loop over updates inside. Lanes are cut into tiles
small enough to stay in cache and spread over all local devices. Hyperparameters and
payoffs enter as data, so encounters that differ only in numbers share one compiled
program.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from algorithms.base import Learner, Memory, View, counting_evaluations
from games.base import Game

TILE = 2048
"""Most lanes per tile on a CPU: the working set of one update then stays in a core's cache."""

WIDE_TILE = 2**20
"""The same on accelerators, which want all lanes at once."""

VECTOR = 16
"""Lanes per vector register, at most: float32 in 512 bits."""

RECORDS_PER_CALL = 64
"""Recorded points per call of the compiled program; progress is reported in between."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an encounter yields. K sweep points (axis absent without a sweep), S seeds.

    Attributes:
      updates: number of updates done at each recorded point, ``(R,)``; starts with 0.
      params: per player the policy parameters at the recorded points, ``(R, [K,] S, d_i)``.
      infos: per player the learner's info of the update before each point, ``(R, [K,] S)``.
      diverged: whether the final parameters are not all finite, ``([K,] S)``.
      compile_seconds, run_seconds: wall time, separately.
    """

    updates: np.ndarray
    params: tuple[np.ndarray, ...]
    infos: tuple[dict[str, np.ndarray], ...]
    diverged: np.ndarray
    compile_seconds: float
    run_seconds: float


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
    init: Sequence[np.ndarray] | None = None,
    precision: str = "float32",
    on_progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Runs one encounter, or a sweep of them.

    A game or learner whose traced fields are 1-d arrays of one common length K is a sweep:
    all K settings run as lanes of the same program, each with the same seeds.

    Args:
      game: an exact game.
      learners: one per player.
      num_seeds: number of seeds S; seed s does not depend on S.
      num_updates: simultaneous updates.
      seed: base of the random keys.
      record_every: updates between recorded points; None records start and end only.
      init: initial policy parameters instead of the learners' own, one array per player,
        ``(d_i,)`` for all seeds or ``(S, d_i)``.
      precision: ``"float32"`` or ``"float64"``.
      on_progress: called with the number of updates done.
    """
    with jax.enable_x64(precision == "float64"):
        return _run(
            game, tuple(learners), num_seeds, num_updates, seed, record_every, init, jnp.dtype(precision), on_progress
        )


def _run(
    game: Game,
    learners: tuple[Learner, ...],
    num_seeds: int,
    num_updates: int,
    seed: int,
    record_every: int | None,
    init: Sequence[np.ndarray] | None,
    dtype: Any,
    on_progress: Callable[[int], None] | None,
) -> Outcome:
    # Host arrays: nothing here may trigger a small compilation of its own.
    leaves, treedef = jax.tree.flatten((game, learners))
    leaves = [np.asarray(x, dtype) for x in leaves]
    num_points = max((x.shape[0] for x in leaves if x.ndim), default=1)
    if any(x.ndim > 1 or (x.ndim and x.shape[0] != num_points) for x in leaves):
        raise ValueError("swept fields must be 1-d arrays of one common length")
    swept = any(x.ndim for x in leaves)
    lanes = _Lanes(num_points * num_seeds)
    is_laned = tuple(bool(x.ndim) for x in leaves)
    shared = [x for x in leaves if not x.ndim]
    laned = [lanes.split(np.repeat(x, num_seeds)) for x in leaves if x.ndim]
    seeds = lanes.split(np.tile(np.arange(num_seeds, dtype=np.uint32), num_points))
    program = _Program(treedef, is_laned, lanes.mesh)
    base = np.uint32(seed)

    begin, compile_seconds = program.compiled("begin", (shared, laned, base, seeds))
    started = time.perf_counter()
    params, states = begin(shared, laned, base, seeds)
    if init is not None:
        params = tuple(
            tuple(
                lanes.split(np.tile(column, num_points))
                for column in np.broadcast_to(x, (num_seeds, d)).T.astype(dtype)
            )
            for x, d in zip(init, game.sizes, strict=True)
        )
    carry = lanes.place((params, states))
    run_seconds = time.perf_counter() - started

    updates = recorded_updates(num_updates, record_every)
    intervals = np.diff(updates).astype(np.int32)
    per_call = min(RECORDS_PER_CALL, max(1, len(intervals)))
    snapshots, infos = [jax.device_get(carry[0])], []
    done = 0
    for first in range(0, len(intervals), per_call):
        chunk = intervals[first : first + per_call]
        padded = np.pad(chunk, (0, per_call - len(chunk)))
        arguments = (shared, laned, base, seeds, np.int32(done), padded, carry)
        advance, seconds = program.compiled("advance", arguments)
        compile_seconds += seconds
        started = time.perf_counter()
        carry, (points, info) = advance(*arguments)
        points, info = jax.device_get((points, info))
        run_seconds += time.perf_counter() - started
        for r in range(len(chunk)):
            snapshots.append(jax.tree.map(lambda x, r=r: x[:, r], points))
            infos.append(jax.tree.map(lambda x, r=r: x[:, r], info))
        done += int(chunk.sum())
        if on_progress is not None:
            on_progress(done)

    shape = (num_points, num_seeds) if swept else (num_seeds,)

    def joined(column: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([lanes.join(x).reshape(shape) for x in column])

    params_out = tuple(
        np.stack([joined([snap[i][k] for snap in snapshots]) for k in range(len(snapshots[0][i]))], axis=-1)
        for i in range(game.n_players)
    )
    nothing = np.full(shape, np.nan, dtype)
    infos_out = tuple(
        {
            name: np.concatenate([nothing[None], joined([x[i][name] for x in infos])])
            for name in (infos[0][i] if infos else {})
        }
        for i in range(game.n_players)
    )
    finite = np.all([np.isfinite(x[-1]).all(axis=-1) for x in params_out], axis=0)
    return Outcome(updates, params_out, infos_out, ~finite, compile_seconds, run_seconds)


def gradient_evaluations(game: Game, learners: Sequence[Learner]) -> tuple[int, ...]:
    """Values and gradients of the game that each learner asks for in one update."""
    params = tuple(tuple(np.float32(0.0) for _ in range(d)) for d in game.sizes)

    def one_update(i: int, rule: Learner) -> Any:
        key = jax.random.key(0)
        _, state = rule.init(key, game, i)
        return rule.update(key, state, View(game, params, i, rule.access, learners))

    counts = []
    for i, rule in enumerate(learners):
        with counting_evaluations() as count:
            jax.eval_shape(lambda i=i, rule=rule: one_update(i, rule)[0])
        counts.append(count[0])
    return tuple(counts)


class _Lanes:
    """Lays N lanes out as ``(tiles, tile)``, tiles spread over the local devices."""

    def __init__(self, count: int) -> None:
        devices = jax.local_devices()
        per_device = -(-count // len(devices))
        self.count = count
        most = TILE if devices[0].platform == "cpu" else WIDE_TILE
        tiles = max(1, -(-per_device // most))
        # Equal tiles, for the last one's padding is work too; whole vector registers, so that
        # no lane falls to the scalar code of a remainder, whatever the number of lanes.
        self.tile = VECTOR * -(-per_device // (tiles * VECTOR))
        self.tiles = len(devices) * tiles
        self.mesh = Mesh(np.array(devices), ("lanes",), axis_types=(AxisType.Auto,))

    def split(self, x: np.ndarray) -> np.ndarray:
        """``(N,)`` to ``(tiles, tile)``; the padding repeats the last lane."""
        return np.pad(x, (0, self.tiles * self.tile - self.count), mode="edge").reshape(self.tiles, self.tile)

    def join(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(-1)[: self.count]

    def place(self, tree: Any) -> Any:
        return jax.device_put(tree, NamedSharding(self.mesh, P("lanes")))


_COMPILED: dict[Any, Any] = {}


class _Program:
    """The two compiled functions of an encounter shape, kept for the life of the process."""

    def __init__(self, treedef: Any, is_laned: tuple[bool, ...], mesh: Mesh) -> None:
        self.treedef, self.is_laned, self.mesh = treedef, is_laned, mesh

    def compiled(self, name: str, arguments: tuple[Any, ...]) -> tuple[Callable[..., Any], float]:
        """The compiled function for these shapes, and the seconds spent compiling it."""
        avals = jax.tree.map(lambda x: (x.shape, str(x.dtype)), arguments)
        flat, structure = jax.tree.flatten(
            avals, is_leaf=lambda x: isinstance(x, tuple) and len(x) == 2 and isinstance(x[1], str)
        )
        key = (name, self.treedef, self.is_laned, self.mesh, structure, tuple(flat))
        if key in _COMPILED:
            return _COMPILED[key], 0.0
        started = time.perf_counter()
        lanes, everywhere = P("lanes"), P()
        if name == "begin":
            function: Callable[..., Any] = self._begin
            specs: tuple[Any, ...] = (everywhere, lanes, everywhere, lanes)
            donate: tuple[int, ...] = ()
        else:
            specs = (everywhere, lanes, everywhere, lanes, everywhere, everywhere, lanes)
            function, donate = self._advance, (6,)
        sharded = jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=lanes, check_vma=False)
        _COMPILED[key] = jax.jit(sharded, donate_argnums=donate).lower(*arguments).compile()
        return _COMPILED[key], time.perf_counter() - started

    def _rebuild(self, shared: list[Array], laned: list[Array]) -> tuple[Game, tuple[Learner, ...]]:
        shared_, laned_ = iter(shared), iter(laned)
        return jax.tree.unflatten(self.treedef, [next(laned_ if mine else shared_) for mine in self.is_laned])

    def _begin(self, shared: list[Array], laned: list[Array], base: Array, seeds: Array) -> Any:
        def one_lane(laned: list[Array], seed: Array) -> Any:
            game, learners = self._rebuild(shared, laned)
            key = jax.random.fold_in(_lane_key(base, seed), 0)
            pairs = [rule.init(jax.random.fold_in(key, i), game, i) for i, rule in enumerate(learners)]
            dtype = jnp.result_type(float)
            params = tuple(tuple(jnp.asarray(x, dtype) for x in theta) for theta, _ in pairs)
            return params, tuple(state for _, state in pairs)

        return jax.vmap(jax.vmap(one_lane))(laned, seeds)

    def _advance(
        self,
        shared: list[Array],
        laned: list[Array],
        base: Array,
        seeds: Array,
        done: Array,
        intervals: Array,
        carry: Any,
    ) -> Any:
        def one_update(laned: list[Array], seed: Array, t: Array, params: Any, states: Any) -> Any:
            game, learners = self._rebuild(shared, laned)
            key = jax.random.fold_in(jax.random.fold_in(_lane_key(base, seed), 1), t)
            memory: Memory = {}
            new = [
                rule.update(jax.random.fold_in(key, i), states[i], View(game, params, i, rule.access, learners, memory))
                for i, rule in enumerate(learners)
            ]
            moved = tuple(theta for theta, _, _ in new)
            moved = jax.tree.map(lambda x, old: x.astype(old.dtype), moved, params)
            return moved, tuple(state for _, state, _ in new), tuple(dict(info) for _, _, info in new)

        def one_tile(tile: Any) -> Any:
            laned, seeds, (params, states) = tile
            # Under jit, so that finding the info's shapes and the loop share one trace.
            update = jax.jit(jax.vmap(one_update, in_axes=(0, 0, None, 0, 0)))
            shapes = jax.eval_shape(update, laned, seeds, done, params, states)[2]
            unknown = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)

            def until_next_record(carry: Any, interval: Array) -> Any:
                t, params, states = carry

                def body(k: Array, loop: Any) -> Any:
                    params, states, _ = loop
                    return update(laned, seeds, t + k, params, states)

                params, states, info = jax.lax.fori_loop(0, interval, body, (params, states, unknown))
                return (t + interval, params, states), (params, info)

            (_, params, states), records = jax.lax.scan(until_next_record, (done, params, states), intervals)
            return (params, states), records

        return jax.lax.map(one_tile, (laned, seeds, carry))


def _lane_key(base: Array, seed: Array) -> Array:
    return jax.random.fold_in(jax.random.key(base), seed)
