"""The speed of play and of preparations: environments, rollouts, learners that sample, learners
that prepare; part of ``make speed``.

Rates are medians of several calls after warm-up, per wall second and per CPU-second (process
time over all threads). What is counted is the unit of the peers' figures: environment steps
(joint actions), turns, or updates. A row is::

    {name, unit, count, runs, wall_seconds, cpu_seconds, per_wall_second, per_cpu_second,
     target: {per_wall_second, per_cpu_second}, met, peer: {name, per_cpu_second} or null, times_peer}

:func:`memory` reports what learning through rollouts takes, from compiled programs, and the
largest setting that fits.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from shaping_bench.speed.benchmark import Peer, clocked, judged, rates


@dataclasses.dataclass(frozen=True)
class PlayWork:
    """One thing to time.

    Attributes:
      name: what it is.
      unit: what is counted.
      count: how many of it one call does.
      make: builds the call; what it returns is timed, and blocks until done.
      wall_target, cpu_target: units per wall second (two idle cores) or per CPU-second to reach.
      peer: whose figure stands beside ours.
    """

    name: str
    unit: str
    count: int
    make: Callable[[], Callable[[], Any]]
    wall_target: float | None = None
    cpu_target: float | None = None
    peer: Peer | None = None


def _environment(game_text: str, batch_size: int, calls: int) -> Callable[[], Any]:
    """Random actions in a batch of environments; every observation is written."""
    from shaping_bench.spec.registry import make_game

    game = make_game(game_text).value

    def shard(key: Any) -> Any:
        reset_key, key = jax.random.split(key)
        share = batch_size // len(jax.local_devices())
        _, states = jax.vmap(game.reset)(jax.random.split(reset_key, share))

        def step(loop: Any, key: Any) -> Any:
            states, total = loop
            action_key, step_key = jax.random.split(key)
            words = jax.random.bits(action_key, (share,), jnp.uint32)
            actions = jnp.stack([words % game.n_actions, (words >> 16) % game.n_actions], axis=-1).astype(jnp.int32)
            _, states, rewards, _, _ = jax.vmap(game.step)(jax.random.split(step_key, share), states, actions)
            return (states, total + rewards), None

        keys = jax.random.split(key, game.num_steps * calls)
        (_, total), _ = jax.lax.scan(step, (states, jnp.zeros((share, 2))), keys)
        return total

    program = jax.pmap(shard) if len(jax.local_devices()) > 1 else jax.jit(jax.vmap(shard))
    keys = jax.random.split(jax.random.key(0), len(jax.local_devices()))
    return lambda: jax.block_until_ready(program(keys))


def _encounter(game: str, learners: Sequence[str], seeds: int, updates: int) -> Callable[[], Any]:
    from shaping_bench.run.encounter import run_encounter
    from shaping_bench.spec.registry import make_game, make_learner

    named = make_game(game)
    rules = [make_learner(x, game=named.name).value for x in learners]
    rules = rules * named.value.n_players if len(rules) == 1 else rules
    return lambda: run_encounter(named.value, rules, num_seeds=seeds, num_updates=updates, episodes=1)


def _rollouts(game_text: str, learner: str, batch_size: int, seeds: int) -> Callable[[], Any]:
    """Frozen policies against themselves: nothing is learnt."""
    from shaping_bench.algorithms.core.rollouts import rollout
    from shaping_bench.spec.registry import make_game, make_learner

    named = make_game(game_text)
    game, rule = named.value, make_learner(learner, game=named.name).value
    policy = rule.policy(game, 0)

    def shard(key: Any) -> Any:
        params = rule.init(key, game, 0)[0]
        play = rollout(jax.random.fold_in(key, 1), game, [policy] * 2, [params] * 2, batch_size // seeds)
        return jnp.sum(play.rewards)

    program = jax.pmap(shard) if len(jax.local_devices()) > 1 else jax.jit(jax.vmap(shard))
    keys = jax.random.split(jax.random.key(0), len(jax.local_devices()))
    return lambda: jax.block_until_ready(program(keys))


def _preparation(game: str, learner: str, steps: int, seeds: int = 1) -> Callable[[], Any]:
    from shaping_bench.run.preparation import first_steps, needed
    from shaping_bench.spec.registry import make_game, make_learner

    named = make_game(game)
    rule = make_learner(learner, game=named.name)
    (wanted, *_) = needed(named, [rule], seeds=seeds, seed=0, precision="float32")
    assert wanted is not None
    return first_steps(wanted, steps)


PAX = Peer("pax (JAX)", 0.09e6)
JAXMARL = Peer("JaxMARL (JAX)", 0.85e6)
TORCH_DICE = {k: Peer("LOLA_DiCE (PyTorch)", rate) for k, rate in ((1, 1.16), (2, 0.74), (3, 0.53))}
OPEN_SPIEL = Peer("OpenSpiel (JAX)", 0.26)
LOQA_IPD, LOQA_COIN = Peer("LOQA official (JAX)", 1 / 0.285), Peer("LOQA official (JAX)", 1 / 4.75)
AXELROD = Peer("Axelrod", 0.1e6)
MFOS = Peer("M-FOS official (PyTorch)", 1 / 30)
COLA_TANDEM, COLA_IPD = (Peer("another's jitted JAX", steps / seconds) for steps, seconds in ((120e3, 15), (80e3, 100)))


def works() -> tuple[PlayWork, ...]:
    """Everything that is timed. The learners' counts are updates of both players."""
    devices = len(jax.local_devices())
    dice = [
        PlayWork(
            f"LOLA-DiCE, IPD, batch 128 x 150, look-ahead {k}",
            "updates",
            8 * 50,
            functools.partial(_encounter, "ipd", [f"lola-dice(batch_size=128,lookahead_steps={k})"], 8, 50),
            cpu_target=100 * TORCH_DICE[k].per_cpu_second,
            peer=TORCH_DICE[k],
        )
        for k in (1, 2, 3)
    ]
    return (
        PlayWork(
            "Coin Game, random actions, 8192 environments",
            "env steps",
            8192 * 50 * 20,
            lambda: _environment("coin-game", 8192, 20),
            wall_target=20e6,
            peer=JAXMARL,
        ),
        PlayWork(
            "memory-one strategies, 200-turn matches",
            "turns",
            20_000 * 200 * devices,
            lambda: _rollouts("ipd(horizon=200)", "gtft", 20_000, 1),
            wall_target=100e6,
            peer=AXELROD,
        ),
        PlayWork(
            "Coin Game, conv + GRU against the same, rollouts alone, 1000 x 16",
            "env steps",
            1000 * 16 * devices,
            lambda: _rollouts("coin-game(preset=jaxmarl,episodes=1)", "naive-pg(network='conv-gru')", 1000, 1),
        ),
        PlayWork(
            # The peer's network: a dense layer and a GRU of 16 units.
            "PPO + GRU against the same, Coin Game, 1000 x 16",
            "env steps",
            2 * 5 * 1000 * 16,
            lambda: _encounter(
                "coin-game(preset=jaxmarl,episodes=1)", ["ppo(batch_size=1000,network='gru',hidden=16)"], 2, 5
            ),
            cpu_target=3 * PAX.per_cpu_second,
            peer=PAX,
        ),
        *dice,
        PlayWork(
            "LOLA-PG, IPD, batch 128 x 150",
            "updates",
            8 * 50,
            lambda: _encounter("ipd", ["lola-pg(batch_size=128)"], 8, 50),
            cpu_target=100 * OPEN_SPIEL.per_cpu_second,
            peer=OPEN_SPIEL,
        ),
        PlayWork(
            "LOQA, IPD, batch 2048 x 50",
            "iterations",
            2 * 2 * 10,  # two agents are trained side by side
            lambda: _encounter("ipd(horizon=50)", ["loqa"], 2, 10),
            cpu_target=1 / 0.1,
            peer=LOQA_IPD,
        ),
        PlayWork(
            "LOQA, Coin Game 3x3, batch 512 x 50, buffer of past agents",
            "iterations",
            2 * 2,
            lambda: _encounter("coin-game", ["loqa"], 1, 2),
            cpu_target=1 / 1.0,
            peer=LOQA_COIN,
        ),
        PlayWork(
            "M-FOS by PPO, IPD against naive, batch 4096 x 100",
            "meta-episodes",
            2,
            lambda: _preparation("ipd", "mfos", 2),
            cpu_target=1 / 3,
            peer=MFOS,
        ),
        PlayWork(
            # The official notebooks took 29 steps per second on an accelerator.
            "MeVa, IPD self-play, batch 128",
            "training steps",
            10,
            lambda: _preparation("ipd", "meva", 10),
        ),
        PlayWork(
            "COLA, tandem, batch 8",
            "training steps",
            20_000,
            lambda: _preparation("tandem", "cola", 20_000),
            peer=COLA_TANDEM,
        ),
        PlayWork(
            "COLA, IPD, batch 64",
            "training steps",
            2000,
            lambda: _preparation("ipd", "cola", 2000),
            peer=COLA_IPD,
        ),
    )


def timed(work: PlayWork, runs: int) -> dict[str, Any]:
    """Times one work; the row described above."""
    found = rates(work.count, *clocked(work.make(), runs), work.peer)
    row = {"name": work.name, "unit": work.unit, "count": work.count, **found}
    return judged(row, per_wall_second=work.wall_target, per_cpu_second=work.cpu_target)


MEMORY_LEARNER = "lola-dice(network='gru')"


def memory(
    learner: str = MEMORY_LEARNER,
    horizons: Sequence[int] = (32, 150),
    batch_sizes: Sequence[int] = (128, 4096),
) -> dict[str, Any]:
    """Memory of one seed of look-ahead through rollouts in the Coin Game, bytes.

    Returns:
      ``{learner, free, settings: [{horizon, batch_size, bytes, fits}], largest}``, where ``largest``
      is the largest batch (a power of two times 128) that fits at each horizon, extrapolated from
      two compiled programs, memory being linear in the batch.
    """
    from shaping_bench.run import devices
    from shaping_bench.run.encounter import planned_memory_bytes
    from shaping_bench.spec.registry import make_game, make_learner

    free = devices.free_memory_bytes() or 0
    settings, largest = [], {}
    for horizon in horizons:
        game = make_game(f"coin-game(horizon={horizon})").value

        def bytes_of(batch_size: int, game: Any = game) -> int:
            name, _, inside = learner.partition("(")
            text = f"{name}(batch_size={batch_size},{inside}" if inside else f"{name}(batch_size={batch_size})"
            rule = make_learner(text, game="coin-game").value
            return planned_memory_bytes(game, [rule] * 2)

        sizes = {b: bytes_of(b) for b in batch_sizes}
        for b, size in sizes.items():
            settings.append({"horizon": horizon, "batch_size": b, "bytes": size, "fits": size <= free})
        (low, a), (high, z) = sorted(sizes.items())[0], sorted(sizes.items())[-1]
        slope = (z - a) / (high - low)
        fitting = 128
        while a + slope * (2 * fitting - low) <= free:
            fitting *= 2
        largest[str(horizon)] = fitting if a + slope * (fitting - low) <= free else 0
    return {"learner": learner, "free": free, "settings": settings, "largest": largest}


def to_text(rows: Sequence[dict[str, Any]], plan: dict[str, Any] | None) -> str:
    """The same as tables for people."""
    from tabulate import tabulate

    verdict = {True: "met", False: "MISSED", None: ""}

    def rate(x: float | None) -> str:
        return "" if x is None else f"{x:,.2f}" if x < 1e4 else f"{x / 1e6:.3g} M"

    table = [
        [
            r["name"],
            r["unit"],
            rate(r["per_wall_second"]),
            rate(r["target"]["per_wall_second"]),
            rate(r["per_cpu_second"]),
            rate(r["target"]["per_cpu_second"]),
            r["peer"]["name"] if r["peer"] else "",
            f"{r['times_peer']:,.1f}" if r["peer"] else "",
            verdict[r["met"]],
        ]
        for r in rows
    ]
    header = ["work", "unit", "/ s", "target", "/ CPU-s", "target", "peer", "x peer", ""]
    align = ("left", "left", *("right",) * 4, "left", "right", "left")
    text = tabulate(table, header, disable_numparse=True, colalign=align)
    if plan is None:
        return text
    lines = [
        f"horizon {x['horizon']}, batch {x['batch_size']}: {x['bytes'] / 2**30:.2f} GiB"
        + ("" if x["fits"] else " (does not fit)")
        for x in plan["settings"]
    ]
    fits = ", ".join(f"{batch} at horizon {horizon}" for horizon, batch in plan["largest"].items())
    return (
        f"{text}\n\nMemory of one seed of {plan['learner']}, Coin Game, {plan['free'] / 2**30:.1f} GiB free\n"
        + "\n".join(lines)
        + f"\nlargest fitting batch: {fits}"
    )
