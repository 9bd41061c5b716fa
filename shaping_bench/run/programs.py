"""The compiled programs of encounters: one per shape, kept while they are among the last used.

Hyperparameters and payoffs enter as data, so encounters that differ only in numbers share one.
"""

import collections
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from shaping_bench.algorithms.core import Learner
from shaping_bench.algorithms.core.rollouts import rollout_on
from shaping_bench.algorithms.core.stage import Joint, Stage
from shaping_bench.games.base import Game
from shaping_bench.run import devices, executables
from shaping_bench.run.lanes import SEATS, LanedArtifacts, hold_weights

MOST_COMPILED = 48
"""Compiled programs that a process keeps. Each takes hundreds of memory mappings, of which a
process may have 65 530: a suite of hundreds of shapes would come to an end of them."""

_COMPILED: collections.OrderedDict[Any, Any] = collections.OrderedDict()
_KEPT = threading.Lock()


def kept() -> tuple[devices.Compiled, ...]:
    """The compiled programs of this process that are kept, what was used last at the end."""
    with _KEPT:
        return tuple(_COMPILED.values())


def forget() -> None:
    """Compiles anew what is asked for from now on."""
    with _KEPT:
        _COMPILED.clear()


class Program:
    """The compiled functions of an encounter shape, kept while they are among the last used.

    ``begin`` and ``advance`` are what an encounter of many recorded points alternates between the
    device and its host; ``whole`` is one after the other, for exact ones that need a single
    call: one program is traced, lowered and looked up sooner than two.
    """

    def __init__(self, treedef: Any, is_laned: tuple[bool, ...], mesh: Mesh, playing: bool, episodes: int) -> None:
        self.treedef, self.is_laned, self.mesh = treedef, is_laned, mesh
        self.playing, self.episodes = playing, episodes

    def compiled(self, name: str, arguments: tuple[Any, ...]) -> tuple[devices.Compiled, float]:
        """The compiled function for these shapes, and the seconds spent compiling it."""
        # The precision is part of it: a program without any real argument would show none.
        precision = jax.config.read("jax_enable_x64")
        key = (name, precision, *vars(self).values(), executables.shapes(arguments))
        with _KEPT:
            if key in _COMPILED:
                _COMPILED.move_to_end(key)
                return _COMPILED[key], 0.0
        started = time.perf_counter()
        networks = name == "advance" and self.networks_learn(arguments[-1])
        compiled = devices.Compiled(
            executables.compiled(key, self.mesh.devices.flat, lambda: self.function(name).lower(*arguments), networks)
        )
        with _KEPT:
            _COMPILED[key] = compiled
            while len(_COMPILED) > MOST_COMPILED:
                _COMPILED.popitem(last=False)
        return compiled, time.perf_counter() - started

    def networks_learn(self, joint: Joint) -> bool:
        """Whether networks learn from play, by what lives on from update to update."""
        return self.playing and hold_weights((joint.params, joint.states))

    def function(self, name: str) -> Any:
        """``begin``, ``advance`` or ``whole``, spread over the devices, not yet compiled."""
        lanes, everywhere = P("lanes"), P()
        prepared = LanedArtifacts(common=everywhere, laned=lanes)  # type: ignore[arg-type]
        start: tuple[Any, ...] = (everywhere, lanes, prepared, everywhere, lanes)
        records = (everywhere, everywhere, everywhere)
        functions: dict[str, tuple[Callable[..., Any], tuple[Any, ...], tuple[int, ...]]] = {
            "begin": (self._begin, start, ()),
            "advance": (self._advance, (*start, *records, lanes), (8,)),
            "whole": (self._whole, (*start, *records), ()),
        }
        function, specs, donate = functions[name]
        sharded = jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=lanes, check_vma=False)
        return jax.jit(sharded, donate_argnums=donate)

    def _rebuild(self, shared: list[Array], laned: list[Array]) -> tuple[Game, tuple[Learner, ...]]:
        shared_, laned_ = iter(shared), iter(laned)
        return jax.tree.unflatten(self.treedef, [next(laned_ if mine else shared_) for mine in self.is_laned])

    def _stage(self, shared: list[Array], laned: list[Array], artifacts: tuple[Any, ...]) -> Stage:
        game, learners = self._rebuild(shared, laned)
        apart = SEATS if SEATS in self.mesh.axis_names else None
        return Stage(game=game, learners=learners, artifacts=artifacts, playing=self.playing, apart=apart)

    def _begin(
        self, shared: list[Array], laned: list[Array], prepared: LanedArtifacts, base: Array, seeds: Array
    ) -> Joint:
        def one_lane(laned: list[Array], own: tuple[Any, ...], seed: Array) -> Joint:
            return self._stage(shared, laned, prepared.of(own)).begin(jax.random.fold_in(_lane_key(base, seed), 0))

        return jax.vmap(jax.vmap(one_lane))(laned, prepared.laned, seeds)

    def _advance(
        self,
        shared: list[Array],
        laned: list[Array],
        prepared: LanedArtifacts,
        base: Array,
        seeds: Array,
        done: Array,
        intervals: Array,
        real: Array,
        carry: Any,
    ) -> Any:
        def one_update(laned: list[Array], own: tuple[Any, ...], seed: Array, t: Array, joint: Joint) -> Any:
            key = jax.random.fold_in(jax.random.fold_in(_lane_key(base, seed), 1), t)
            joint, _, infos = self._stage(shared, laned, prepared.of(own)).episode(key, joint)
            return joint, infos

        def one_point(laned: list[Array], seed: Array, t: Array, joint: Joint) -> Any:
            """What is recorded of a joint policy: itself, or its values by play."""
            if not self.episodes:
                return joint.params, {}
            game, learners = self._rebuild(shared, laned)
            key = jax.random.fold_in(jax.random.fold_in(_lane_key(base, seed), 2), t)
            return (), played_values(key, game, learners, joint.params, self.episodes, joint.carries, joint.world)

        def one_tile(tile: Any) -> Any:
            laned, own, seeds, joint = tile
            # Under jit, so that finding the info's shapes and the loop share one trace.
            update = jax.jit(jax.vmap(one_update, in_axes=(0, 0, 0, None, 0)))
            shapes = jax.eval_shape(update, laned, own, seeds, done, joint)[1]
            unknown = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)

            valued = jax.vmap(one_point, in_axes=(0, 0, None, 0))
            skipped = jax.eval_shape(valued, laned, seeds, done, joint)

            def until_next_record(carry: Any, record: Any) -> Any:
                (t, joint), (interval, wanted) = carry, record

                def body(k: Array, loop: Any) -> Any:
                    return update(laned, own, seeds, t + k, loop[0])

                joint, info = jax.lax.fori_loop(0, interval, body, (joint, unknown))
                t = t + interval
                if not self.episodes:
                    return (t, joint), ((joint.params, {}), info)
                point = jax.lax.cond(
                    wanted,
                    lambda: valued(laned, seeds, t, joint),
                    lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), skipped),
                )
                return (t, joint), (point, info)

            (_, joint), records = jax.lax.scan(until_next_record, (done, joint), (intervals, real))
            return joint, records

        return jax.lax.map(one_tile, (laned, prepared.laned, seeds, carry))

    def _whole(self, *arguments: Any) -> Any:
        """``begin``, and ``advance`` from there: what :meth:`_advance` takes, but for the carry."""
        return self._advance(*[*arguments, self._begin(*arguments[:5])])


def _lane_key(base: Array, seed: Array) -> Array:
    return jax.random.fold_in(jax.random.key(base), seed)


def played_values(
    key: Array,
    game: Game,
    learners: Sequence[Learner],
    params: Sequence[Any],
    episodes: int,
    carries: Sequence[Any] | None = None,
    world: Any = None,
) -> dict[str, Array]:
    """Values of a joint policy by play, each ``(n_players,)``.

    ``return`` is the mean reward per step, undiscounted; ``discounted_return`` is ``(1 - gamma) sum_t gamma^t r_t``;
    what the game counts is per step too. Policies that keep their carries, and games that keep their world, go on
    from those given, one after the other until every episode has one: the values are those of what comes next.
    """
    policies = [rule.valued_policy(game, i) for i, rule in enumerate(learners)]

    def carried(carry: Any) -> Any:
        return jax.tree.map(lambda x: jnp.take(x, jnp.arange(episodes) % len(x), axis=0), carry)

    starts = [
        carried(carries[i]) if policy.keeps_carry and carries is not None else None for i, policy in enumerate(policies)
    ]
    states = None
    if game.keeps_world and world is not None:
        keys = jax.random.split(jax.random.fold_in(key, episodes), episodes)
        states = jax.vmap(game.resume)(keys, carried(world))
    play, _ = rollout_on(key, game, policies, params, episodes, carries=starts, states=states)

    def per_step(x: Array) -> Array:
        return jnp.sum(jnp.mean(x, axis=1), axis=0) / game.num_moves

    weights = (1.0 - game.gamma) * jnp.asarray(game.gamma) ** jnp.arange(play.rewards.shape[0])
    discounted = jnp.tensordot(weights, jnp.mean(play.rewards, axis=1), axes=1)
    counts = {name: per_step(x) for name, x in play.info.items()}
    return {"return": per_step(play.rewards), "discounted_return": discounted, **counts}
