"""The speed of play and of preparations: environments, rollouts, learners that sample, learners that prepare.

What is counted is the unit of the peers' figures: environment steps (joint actions), or updates. A row also says which
part of the machine's matrix rate it reaches, by the operations of the program that was timed. :func:`memory` reports
what learning through rollouts takes, from compiled programs, and the largest setting that fits.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from shaping_bench.speed import peers
from shaping_bench.speed.clock import clocked, kept, rates
from shaping_bench.speed.operations import Compiled, Operations
from shaping_bench.speed.peers import Peer


class Call(NamedTuple):
    """What is timed.

    Attributes:
      run: does the work and blocks until it is done.
      text: of the compiled program in which the work is done, once it has run.
      turns: of its loops whose number of turns is an argument, on average; see ``Compiled.operations``.
    """

    run: Callable[[], Any]
    text: Callable[[], str]
    turns: float = 1.0

    def operations(self) -> Operations:
        """What one run does."""
        return Compiled.read(self.text()).operations(self.turns)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlayWork:
    """One thing to time.

    Attributes:
      name: what it is.
      unit: what is counted.
      count: how many of it one call does.
      make: builds the call that is timed.
      target: units per CPU-second to reach.
      peer: whose figure stands beside ours.
      runs: at most so many timed calls.
      warm: whether a call that does not count comes before; not where it takes a minute and ``make`` compiles.
    """

    name: str
    unit: str
    count: int
    make: Callable[[], Call]
    target: float | None = None
    peer: Peer | None = None
    runs: int = 3
    warm: bool = True


def _environment(game_text: str, batch_size: int, calls: int, observed: bool = False) -> Call:
    """Random actions in a batch of environments. Every observation is written where they are ``observed``; the
    compiler leaves out what nobody reads."""
    from shaping_bench.spec.registry import make_game

    game = make_game(game_text).value
    n = game.n_players

    def shard(key: Any) -> Any:
        reset_key, key = jax.random.split(key)
        share = batch_size // len(jax.local_devices())
        seen, states = jax.vmap(game.reset)(jax.random.split(reset_key, share))

        def step(loop: Any, key: Any) -> Any:
            states, total, last = loop
            action_key, step_key = jax.random.split(key)
            # A random word is two actions.
            words = jax.random.bits(action_key, (-(-n // 2), share), jnp.uint32)
            halves = [words[i // 2] >> (16 * (i % 2)) for i in range(n)]
            actions = jnp.stack([x % game.n_actions for x in halves], axis=-1).astype(jnp.int32)
            seen, states, rewards, _, _ = jax.vmap(game.step)(jax.random.split(step_key, share), states, actions)
            return (states, total + rewards, seen if observed else last), None

        keys = jax.random.split(key, game.num_steps * calls)
        start = states, jnp.zeros((share, n)), seen if observed else ()
        (_, total, last), _ = jax.lax.scan(step, start, keys)
        return total, last

    return _sharded(shard)


def _sharded(shard: Callable[[Any], Any]) -> Call:
    """The same on every device, each with a key of its own."""
    program = jax.pmap(shard) if len(jax.local_devices()) > 1 else jax.jit(jax.vmap(shard))
    keys = jax.random.split(jax.random.key(0), len(jax.local_devices()))
    compiled = program.lower(keys).compile()
    return Call(run=lambda: jax.block_until_ready(compiled(keys)), text=lambda: compiled.as_text() or "")


def _encounter(game: str, learners: Sequence[str], seeds: int, updates: int) -> Call:
    from shaping_bench.run import programs
    from shaping_bench.run.encounter import recorded_updates, run_encounter
    from shaping_bench.spec.registry import make_game, make_learner

    named = make_game(game)
    rules = [make_learner(x, game=named.name).value for x in learners]
    rules = rules * named.value.n_players if len(rules) == 1 else rules
    return Call(
        run=lambda: run_encounter(named.value, rules, num_seeds=seeds, num_updates=updates, episodes=1),
        text=lambda: programs.kept()[-1].function.as_text(),
        turns=updates / len(recorded_updates(updates, None)),
    )


def _rollouts(game_text: str, learner: str, batch_size: int, seeds: int) -> Call:
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

    return _sharded(shard)


def _preparation(game: str, learner: str, steps: int, seeds: int = 1) -> Call:
    from shaping_bench.run.preparation import first_steps, needed
    from shaping_bench.spec.registry import make_game, make_learner

    named = make_game(game)
    rule = make_learner(learner, game=named.name)
    (wanted, *_) = needed(named, [rule], seeds=seeds, seed=0, precision="float32")
    assert wanted is not None
    run, program = first_steps(wanted)
    return Call(run=lambda: run(steps), text=lambda: program.as_text() or "", turns=steps)


def works() -> tuple[PlayWork, ...]:
    """Everything that is timed. The learners' counts are updates of both players."""
    devices = len(jax.local_devices())
    dice = [
        PlayWork(
            name=f"LOLA-DiCE, IPD, batch 128 x 150, look-ahead {k}",
            unit="updates",
            count=8 * 50,
            make=functools.partial(_encounter, "ipd", [f"lola-dice(batch_size=128,lookahead_steps={k})"], 8, 50),
            target=100 * peer.per_cpu_second,
            peer=peer,
        )
        for k, peer in peers.DICE.items()
    ]
    coin_ppo = "coin-game(preset=jaxmarl,episodes=1)"
    loqa_in_coins = [
        PlayWork(
            name=f"LOQA, Coin Game 3x3, batch 512 x 50, {what}",
            unit="iterations",
            count=2 * 2,  # two agents are trained side by side
            make=functools.partial(_encounter, "coin-game", [f"loqa({settings})"], 1, 2),
            target=1 / seconds,
            peer=peer,
        )
        for what, settings, seconds, peer in (
            ("buffer of past agents", "", 0.50, peers.LOQA_COIN_FEWER),
            ("512 past agents per batch", "opponents_per_batch=0", 0.75, peers.LOQA_COIN),
            ("no buffer", "buffer_size=0", 0.45, peers.LOQA_COIN_PRESENT),
        )
    ]
    return (
        PlayWork(
            name="Coin Game, random actions, 8192 environments",
            unit="env steps",
            count=8192 * 50 * 20,
            make=lambda: _environment("coin-game", 8192, 20),
            target=kept(69.7e6),
            peer=peers.JAXMARL,
        ),
        PlayWork(
            name="In the matrix, random actions and what is seen, 512 environments",
            unit="env steps",
            count=512 * 152 * 20,
            make=lambda: _environment("in-the-matrix", 512, 20, observed=True),
            target=8e6,
            peer=peers.STORM,
        ),
        PlayWork(
            name="In the matrix as Melting Pot repeats it, random actions and what is seen, 512 environments",
            unit="env steps",
            count=512 * 1000,
            make=lambda: _environment("in-the-matrix-repeated", 512, 1, observed=True),
            target=1e6,
            peer=peers.PD_ARENA,
        ),
        PlayWork(
            name="Harvest, 7 players, random actions and what is seen, 512 environments",
            unit="env steps",
            count=512 * 1000,
            make=lambda: _environment("harvest", 512, 1, observed=True),
            target=0.8e6,
            peer=peers.HARVEST,
        ),
        PlayWork(
            name="Clean-up, 7 players, random actions and what is seen, 512 environments",
            unit="env steps",
            count=512 * 1000,
            make=lambda: _environment("cleanup", 512, 1, observed=True),
            target=0.5e6,
            peer=peers.CLEANUP,
        ),
        PlayWork(
            name="Coin Game, conv + GRU against the same, rollouts alone, 1000 x 16",
            unit="env steps",
            count=1000 * 16 * devices,
            make=lambda: _rollouts(coin_ppo, "naive-pg(network='conv-gru')", 1000, 1),
        ),
        PlayWork(
            # The peer's network: a dense layer and a GRU of 16 units.
            name="PPO + GRU against the same, Coin Game, 1000 x 16",
            unit="env steps",
            count=2 * 5 * 1000 * 16,
            make=lambda: _encounter(coin_ppo, ["ppo(batch_size=1000,network='gru',hidden=16)"], 2, 5),
            target=0.7e6,
            peer=peers.PAX,
        ),
        PlayWork(
            name="PPO without memory against the same, Coin Game, 1000 x 16",
            unit="env steps",
            count=2 * 5 * 1000 * 16,
            make=lambda: _encounter(coin_ppo, ["ppo(batch_size=1000,network='mlp',hidden=16)"], 2, 5),
            target=1e6,
            peer=peers.PAX_WITHOUT_MEMORY,
        ),
        *dice,
        PlayWork(
            name="LOLA-PG, IPD, batch 128 x 150",
            unit="updates",
            count=8 * 50,
            make=lambda: _encounter("ipd", ["lola-pg(batch_size=128)"], 8, 50),
            target=kept(682),
            peer=peers.OPEN_SPIEL,
        ),
        PlayWork(
            name="LOQA, IPD, batch 2048 x 50",
            unit="iterations",
            count=2 * 2 * 10,
            make=lambda: _encounter("ipd(horizon=50)", ["loqa"], 2, 10),
            target=1 / 0.013,
            peer=peers.LOQA_IPD,
        ),
        *loqa_in_coins,
        PlayWork(
            name="M-FOS, Coin Game, one trial of 512 x 16 x 16",
            unit="trials",
            count=1,
            make=lambda: _preparation("coin-game(preset=mfos,episodes=1)", "mfos-recurrent", 1),
            target=1 / 45,
            runs=1,
            warm=False,
        ),
        PlayWork(
            name="M-FOS by PPO, IPD against naive, batch 4096 x 100",
            unit="meta-episodes",
            count=2,
            make=lambda: _preparation("ipd", "mfos", 2),
            target=1 / 2,
            peer=peers.MFOS_PPO,
        ),
        PlayWork(
            # The official notebooks took 29 steps per second on an accelerator.
            name="MeVa, IPD self-play, batch 128",
            unit="training steps",
            count=10,
            make=lambda: _preparation("ipd", "meva", 10),
        ),
        PlayWork(
            name="COLA, tandem, batch 8",
            unit="training steps",
            count=20_000,
            make=lambda: _preparation("tandem", "cola", 20_000),
        ),
        PlayWork(
            name="COLA, IPD, batch 64",
            unit="training steps",
            count=2000,
            make=lambda: _preparation("ipd", "cola", 2000),
        ),
    )


def timed(work: PlayWork, runs: int, *, matrix_rate: float, alike: bool) -> dict[str, Any]:
    """Times one work.

    Args:
      work: what.
      runs: timed calls, unless the work takes fewer.
      matrix_rate: this machine's, which ``of_peak`` is a part of.
      alike: whether the machine is of the peers' kind.
    """
    call = work.make()
    seconds = clocked(call.run, min(runs, work.runs), warm=work.warm)
    row = rates(work.count, *seconds, work.target)
    rate, operations = row["per_cpu_second"], call.operations()
    return {
        "name": work.name,
        "unit": work.unit,
        "count": work.count,
        **row,
        "flop": operations.total / work.count,
        "flop_of_products": operations.products / work.count,
        "of_peak": operations.total / work.count * rate / matrix_rate,
        **peers.beside(work.peer, rate, alike),
    }


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
