"""Curves within an episode: what final policies earn in each of its steps.

Who remembers what it has seen may do better late in an episode than early, without learning anything: its curve
*in context*. Tables and finite automata are followed exactly; others play. Policies that keep what they remember from
episode to episode begin without it: these are curves among those who have not met before.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from shaping_bench.algorithms.core import Learner
from shaping_bench.algorithms.core.rollouts import rollout
from shaping_bench.games.base import Game
from shaping_bench.games.matrix import automata
from shaping_bench.run.encounter import Outcome, valued_exactly
from shaping_bench.run.measure import tidy


def within(
    game: Game, learners: Sequence[Learner], outcome: Outcome, *, seed: int, episodes: int
) -> pd.DataFrame | None:
    """The curves of an encounter's final policies: ``return``, and what the game counts.

    Args:
      game, learners, outcome: of the encounter, settings of a sweep one by one.
      seed: of the encounter.
      episodes: of each seed, where policies play.

    Returns:
      A frame with columns seed, step, player, metric and value, NaN for diverged seeds; None for games
      that are not played.
    """
    if "sampled" not in game.views:
        return None
    if game.memory_one and game.n_players == 2 and valued_exactly(game, learners):
        values = _followed(game, outcome.final)
    else:
        seeds = np.arange(len(outcome.diverged), dtype=np.uint32)
        values = _played(game, learners, outcome.final, seeds=seeds, seed=seed, episodes=episodes)
    values = {name: np.where(outcome.diverged[None, :, None], np.nan, x) for name, x in values.items()}
    frame = tidy(values, ("step", "seed", "player"))
    frame["step"] += 1
    return frame[["seed", "step", "player", "metric", "value"]]


def _followed(game: Any, final: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Expectations, ``(T, S, 2)`` by name."""
    first, second = (automata.decoded(np.nan_to_num(x)) for x in final)
    joint = automata.by_step(first, second, game.horizon)
    cooperation = np.stack([joint[..., [0, 1]].sum(axis=-1), joint[..., [0, 2]].sum(axis=-1)], axis=-1)
    return {"return": joint @ np.asarray(game.payoffs, np.float64).T, "cooperation": cooperation}


def _played(
    game: Game, learners: Sequence[Learner], final: Sequence[Any], *, seeds: np.ndarray, seed: int, episodes: int
) -> dict[str, np.ndarray]:
    """Means over episodes, ``(T, S, n_players)`` by name."""
    policies = [rule.policy(game, i) for i, rule in enumerate(learners)]
    final = tuple(final)

    def one(seed_and_params: Any) -> dict[str, Any]:
        number, params = seed_and_params
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), 3)
        play = rollout(key, game, policies, params, episodes)
        return {name: jnp.mean(x, axis=1) for name, x in {"return": play.rewards, **play.info}.items()}

    values = jax.device_get(jax.jit(lambda x: jax.lax.map(one, x))((seeds, final)))
    return {name: np.moveaxis(x, 0, 1).astype(np.float64) for name, x in values.items()}
