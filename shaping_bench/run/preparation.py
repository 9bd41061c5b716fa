"""The preparation phase: what a learner learns before it meets anyone.

A preparation is defined by its learner, game, seat and seeds, and by the code of learner and
game; their hash is its identity. What it yields, the artifact, is stored under it once,
whole or not at all, with its curves and what it cost, and reused wherever the same
preparation is asked for. While it runs it leaves checkpoints, so that a killed one goes on
where it was and ends as if nothing had happened.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec as P

from shaping_bench.algorithms.core import Learner, PreparedLearner, costs
from shaping_bench.algorithms.core.stage import plays
from shaping_bench.games.base import Game
from shaping_bench.run import checkpoints, devices, executables
from shaping_bench.run.checkpoints import Checkpoint, Moment, Pauses
from shaping_bench.run.deadline import Deadline
from shaping_bench.run.lanes import Lanes, hold_weights
from shaping_bench.run.pace import Pace
from shaping_bench.spec.identity import content_hash
from shaping_bench.spec.registry import Named
from shaping_bench.spec.sources import source_hash

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1

POINTS = 200
"""Points of a preparation's curves, at most; each is the mean over the steps since the last."""

_STREAM = 2**31
"""Separates the random numbers of preparations from those of encounters with the same seed."""

OnPoint = Callable[["Preparation", int, dict[str, float]], None]
"""Called at every point with the steps taken and the curves' values there, seeds averaged."""


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What a learner has to learn before it meets anyone in a seat of a game.

    Attributes:
      learner, game, seat: who prepares, for what.
      seeds: independent repetitions P, prepared side by side.
      seed: base of their random numbers.
      precision: ``"float32"`` or ``"float64"``.
    """

    learner: Named
    game: Named
    seat: int
    seeds: int
    seed: int
    precision: str

    def identity(self) -> dict[str, Any]:
        """Everything that decides the artifact. The code of learner, co-players and game is part of
        it, lest a changed rule be met with what its earlier version learned."""
        rule, learner = self.learner.value, self.learner.identity()
        return {
            "schema": SCHEMA,
            "learner": {
                "name": learner["name"],
                "hyperparameters": {k: v for k, v in learner["hyperparameters"].items() if k not in rule.played_only},
            },
            "source": source_hash(self.learner.value, self.game.value),
            "game": self.game.identity(),
            "seat": self.seat,
            "seeds": [self.seeds, self.seed],
            "precision": self.precision,
        }

    @property
    def hash(self) -> str:
        return content_hash(self.identity())

    @property
    def title(self) -> str:
        seat = "" if self.game.value.symmetric else f", seat {self.seat + 1}"
        return f"{self.game.text}: preparation of {self.learner.text}{seat}"

    @property
    def steps(self) -> int:
        return self.learner.value.preparation_steps


def needed(
    game: Named, learners: Sequence[Named], *, seeds: int, seed: int, precision: str
) -> tuple[Preparation | None, ...]:
    """The preparation each seat of an encounter needs; None where it needs none."""
    found: list[Preparation | None] = []
    for player, learner in enumerate(learners):
        rule = learner.value
        if not isinstance(rule, PreparedLearner):
            found.append(None)
            continue
        seat = rule.prepared_seat(game.value, player)
        found.append(Preparation(learner=learner, game=game, seat=seat, seeds=seeds, seed=seed, precision=precision))
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a preparation yielded.

    Attributes:
      artifact: a tree with leaves ``(P, ...)``.
      record: what stands in ``artifact.json``: identity, costs, seconds, versions, and which
        seeds have diverged.
      curves: columns seed, update, player, metric, value.
    """

    artifact: Any
    record: dict[str, Any]
    curves: "pd.DataFrame"


def prepare(
    preparation: Preparation,
    checkpoint: Checkpoint | None = None,
    on_point: OnPoint | None = None,
    deadline: Deadline | None = None,
) -> Prepared:
    """Runs a preparation, from its checkpoint if there is one.

    Raises:
      BadInput: it would not fit into memory; says how much it needs.
      OutOfTime: the deadline allows no further call; the checkpoint says how far it is.
      StoreError: that checkpoint cannot be written.
    """
    with jax.enable_x64(preparation.precision == "float64"):
        return _prepare(preparation, checkpoint, on_point, deadline)


def checkpoint_identity(preparation: Preparation) -> dict[str, Any]:
    """Whose checkpoint it is: what decides the artifact, and the code of the loop."""
    return {"kind": "preparation", **preparation.identity(), "loop": source_hash(_Program)}


def _prepare(
    preparation: Preparation, checkpoint: Checkpoint | None, on_point: OnPoint | None, deadline: Deadline | None
) -> Prepared:
    rule, game = preparation.learner.value, preparation.game.value
    steps, seat = preparation.steps, preparation.seat
    devices.check_size(preparation.seeds, lambda: rule.prepare_init(jax.random.key(0), game, seat))
    lanes = Lanes(preparation.seeds, rule.preparation_width)
    program = _Program(rule, game, seat, preparation.seed, lanes)
    seeds = lanes.split(np.arange(preparation.seeds, dtype=np.uint32))
    compile_seconds = run_seconds = 0.0

    def compiled(name: str, *arguments: Any) -> Any:
        nonlocal compile_seconds
        clock = time.perf_counter()
        out = devices.Compiled(program.compiled(name, *arguments))
        compile_seconds += time.perf_counter() - clock
        return out

    one_step, info = _first_step(preparation)
    nothing = program.nothing(info)
    carry = (compiled("begin", seeds)(seeds), *nothing)
    updates = _points(steps)
    points: dict[str, list[np.ndarray]] = {}
    done = 0
    moment = checkpoint.load() if checkpoint else None
    if moment is not None and checkpoints.fits(moment, carry, preparation.seeds):
        done, run_seconds = moment.done, moment.seconds
        points = {name: list(rows) for name, rows in moment.records.items()}
        carry = checkpoints.spread(moment.leaves, carry, lanes)

    def moment_now() -> Moment:
        return Moment(
            done=done,
            seconds=run_seconds,
            leaves=checkpoints.gathered(carry, lanes),
            updates=updates[updates <= done],
            records={name: np.stack(rows) for name, rows in points.items()},
        )

    pauses, pace = Pauses("a preparation stopped at step", steps, checkpoint, deadline), Pace()
    advance, seconds = None, 0.0
    while done < steps:
        pauses.pause(done, seconds, moment_now)
        point = int(updates[updates > done][0])
        count = min(pace.updates, point - done)
        arguments = (seeds, np.int32(done), np.int32(count), carry)
        if advance is None:
            advance = compiled("advance", *arguments)
            pauses.compiled(done, moment_now)
        clock = time.perf_counter()
        carry, means = advance(*arguments)
        done += count
        if done == point:
            values = {name: lanes.join(np.asarray(x)) for name, x in jax.device_get(means).items()}
            for name, x in values.items():
                points.setdefault(name, []).append(x)
            carry = (carry[0], *nothing)
        seconds = time.perf_counter() - clock
        run_seconds += seconds
        pace.took(count, seconds)
        if done == point and on_point is not None:
            on_point(preparation, done, {name: float(np.mean(x)) for name, x in values.items()})
    artifact = jax.tree.map(lambda x: lanes.join(np.asarray(x)), jax.device_get(program.artifact(carry[0])))
    finite = np.ones(preparation.seeds, bool)
    for leaf in jax.tree.leaves(artifact):
        finite &= np.isfinite(leaf).reshape(preparation.seeds, -1).all(axis=1)
    record = {
        **preparation.identity(),
        "hash": preparation.hash,
        "steps": steps,
        "diverged": np.flatnonzero(~finite).tolist(),
        "costs": {
            "gradient_evaluations": one_step.evaluations * steps * preparation.seeds,
            "environment_steps": one_step.steps * steps * preparation.seeds,
        },
        "timings": {"compile": compile_seconds, "run": run_seconds},
        "versions": devices.versions(),
        "git_commit": devices.git_commit(),
        "device": devices.describe(),
    }
    return Prepared(artifact, record, _curves(updates, points, seat))


def imagined_artifact(rule: Learner, game: Game, player: int) -> Any:
    """What the learner's preparation yields before its first step: right in shape; None without one."""
    if not isinstance(rule, PreparedLearner):
        return None
    return rule.artifact(rule.prepare_init(jax.random.key(0), game, rule.prepared_seat(game, player)))


def first_steps(preparation: Preparation) -> tuple[Callable[[int], Any], jax.stages.Compiled]:
    """The first so many steps of a preparation as a call that stores nothing, and the one program that
    does any number of them: what the speed benchmark times. Float32."""
    rule, game = preparation.learner.value, preparation.game.value
    lanes = Lanes(preparation.seeds, rule.preparation_width)
    program = _Program(rule, game, preparation.seat, preparation.seed, lanes)
    seeds = lanes.split(np.arange(preparation.seeds, dtype=np.uint32))
    none, nothing = np.int32(0), program.nothing(_first_step(preparation)[1])
    begin = program.compiled("begin", seeds)
    advance = program.compiled("advance", seeds, none, none, (begin(seeds), *nothing))

    def call(steps: int) -> Any:
        return jax.block_until_ready(advance(seeds, none, np.int32(steps), (begin(seeds), *nothing)))

    return call, advance


def _points(steps: int) -> np.ndarray:
    """Steps after which the curves have a point: equally far apart, and the last."""
    return np.unique(np.append(np.arange(0, steps, -(-steps // POINTS))[1:], steps))


def _curves(updates: np.ndarray, points: dict[str, list[np.ndarray]], seat: int) -> "pd.DataFrame":
    import pandas as pd  # slow to import, and only who prepares pays for it

    frames = []
    for name, rows in points.items():
        x = np.stack(rows).astype(np.float64)
        index, seeds = np.indices(x.shape)
        columns = {"seed": seeds.ravel(), "update": updates[index.ravel()], "player": seat + 1}
        frames.append(pd.DataFrame({**columns, "metric": name, "value": x.ravel()}))
    names = ["seed", "update", "player", "metric", "value"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=names)


def curve_names(preparation: Preparation) -> tuple[str, ...]:
    """The curves that a preparation has."""
    return tuple(jax.eval_shape(lambda: _one_step(preparation)[1]))


def _first_step(preparation: Preparation) -> tuple[costs.Costs, dict[str, jax.ShapeDtypeStruct]]:
    """What one step for one seed costs, and what it reports: right in shape."""
    with costs.counting() as count:
        _, info = jax.eval_shape(lambda: _one_step(preparation))
    return count, info


def _one_step(preparation: Preparation) -> tuple[Any, dict[str, Array]]:
    rule, game, seat = preparation.learner.value, preparation.game.value, preparation.seat
    key = jax.random.key(0)
    carry, info = rule.prepare_step(key, jnp.int32(0), rule.prepare_init(key, game, seat), game, seat)
    return carry, dict(info)


class _Program:
    """The compiled functions of a preparation; arguments lie in ``lanes``, spread over the devices."""

    def __init__(self, rule: PreparedLearner, game: Any, seat: int, seed: int, lanes: Lanes) -> None:
        self.rule, self.game, self.seat, self.seed, self.lanes = rule, game, seat, seed, lanes
        laned, everywhere = P("lanes"), P()

        def spread(function: Any, specs: tuple[Any, ...], donated: tuple[int, ...] = ()) -> Any:
            sharded = jax.shard_map(function, mesh=lanes.mesh, in_specs=specs, out_specs=laned, check_vma=False)
            return jax.jit(sharded, donate_argnums=donated)

        self.begin = spread(self._begin, (laned,))
        self.advance = spread(self._advance, (laned, everywhere, everywhere, laned), (3,))
        self.artifact = spread(self._artifact, (laned,))

    def compiled(self, name: str, *arguments: Any) -> jax.stages.Compiled:
        """``begin`` or ``advance`` for arguments of these shapes."""
        described = (self.rule, self.game, self.seat, self.seed, self.lanes.mesh, executables.shapes(arguments))
        lower = functools.partial(getattr(self, name).lower, *arguments)
        networks = name == "advance" and plays([self.rule]) and hold_weights(arguments[-1])
        return executables.compiled(("preparation", name, *described), self.lanes.mesh.devices.flat, lower, networks)

    def nothing(self, info: Mapping[str, jax.ShapeDtypeStruct]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Sums of infos since the last point and how many they are of, where there was none since."""

        def zeros(x: jax.ShapeDtypeStruct) -> np.ndarray:
            return self.lanes.split(np.zeros((self.lanes.count, *x.shape), jnp.result_type(x.dtype, float)))

        return {name: zeros(x) for name, x in info.items()}, {name: zeros(x) for name, x in info.items()}

    def _key(self, seed: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), _STREAM), seed)

    def _begin(self, seeds: Array) -> Any:
        def one(seed: Array) -> Any:
            return self.rule.prepare_init(jax.random.fold_in(self._key(seed), 0), self.game, self.seat)

        return jax.vmap(jax.vmap(one))(seeds)

    def _advance(self, seeds: Array, done: Array, count: Array, carry: Any) -> Any:
        """``count`` steps, and the mean of the infos since the last point, which goes on from the sums in
        the carry; NaN marks a step that has nothing to say."""

        def one_step(seed: Array, step: Array, carry: Any) -> Any:
            key = jax.random.fold_in(jax.random.fold_in(self._key(seed), 1), step)
            new, info = self.rule.prepare_step(key, step, carry, self.game, self.seat)
            return jax.tree.map(lambda x, old: jnp.asarray(x, jnp.asarray(old).dtype), new, carry), dict(info)

        def one_tile(tile: Any) -> Any:
            seeds, carry = tile
            step = jax.vmap(one_step, in_axes=(0, None, 0))

            def body(k: Array, loop: Any) -> Any:
                carry, sums, counts = loop
                carry, info = step(seeds, done + k, carry)
                sums = jax.tree.map(lambda total, x: total + jnp.where(jnp.isnan(x), 0, x), sums, info)
                counts = jax.tree.map(lambda n, x: n + ~jnp.isnan(x), counts, info)
                return carry, sums, counts

            carry, sums, counts = jax.lax.fori_loop(0, count, body, carry)
            return (carry, sums, counts), jax.tree.map(jnp.divide, sums, counts)

        return jax.lax.map(one_tile, (seeds, carry))

    def _artifact(self, carry: Any) -> Any:
        return jax.vmap(jax.vmap(self.rule.artifact))(carry)
