"""Writes ``anchors.json``, which the page of games shows: what scripts return when all players play the same one.

By ``python -m shaping_bench.docs.anchors``, or ``... anchors 'GAME'`` for the rows of one game alone.
"""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array, lax

from shaping_bench.algorithms.core.rollouts import rollout
from shaping_bench.games.base import Game
from shaping_bench.metrics import evaluate
from shaping_bench.metrics.anchors import anchors_of
from shaping_bench.run import devices
from shaping_bench.run.encounter import valued_exactly
from shaping_bench.spec import registry

FILE = Path(__file__).with_name("anchors.json")
DIGITS = 6
"""After the point."""

SCRIPTS = ("random", "all-c", "all-d")

AT_ONCE = 64
"""Episodes that are played side by side."""

SHOWN: tuple[tuple[str, int], ...] = (
    ("coin-game(preset=loqa_three)", 4096),
    ("coin-game(preset=reciprocator)", 4096),
    ("in-the-matrix(matrix=ipd)", 1024),
    ("in-the-matrix(matrix=chicken)", 1024),
    ("in-the-matrix(matrix=stag-hunt)", 1024),
    ("in-the-matrix-repeated(matrix=ipd)", 128),
    ("in-the-matrix-repeated(matrix=chicken)", 128),
    ("harvest", 64),
    ("harvest(layout=small,num_players=2)", 128),
    ("harvest(layout=small,num_players=3)", 128),
    ("harvest(layout=patch,num_players=2)", 128),
    ("cleanup", 64),
    ("cleanup(layout=small,num_players=2)", 128),
    ("cleanup(layout=small,num_players=3)", 128),
    ("cleanup-lite", 4096),
    ("negotiation", 256),
    ("cournot", 16384),
    ("cournot(num_players=5)", 16384),
    ("fishery", 256),
    ("fishery(num_players=5)", 256),
    ("tensor(preset=public_goods,num_players=3)", 256),
    ("tensor(preset=threshold,num_players=3)", 256),
    ("tensor(preset=threshold,num_players=5)", 256),
    ("tensor(preset=volunteer,num_players=3)", 256),
    ("tensor(preset=stag_hunt,num_players=3)", 256),
    ("tensor(preset=pax_3pl)", 256),
)
"""Games, and how many episodes of each script."""


def measured(game: str, script: str, episodes: int, seed: int = 0) -> dict[str, Any]:
    """What a script returns per step of an episode when it sits in all seats.

    Args:
      game, script: as one writes them.
      episodes: how many, a multiple of :data:`AT_ONCE`.
      seed: of all random numbers.

    Returns:
      ``mean`` over players and episodes; ``error``, its standard error over episodes; and ``exact``, the value of the
      same where the game has it, else None.

    Raises:
      BadInput: the script cannot play the game.
    """
    named = registry.make_game(game)
    of_game, n = named.value, named.value.n_players
    rules = [registry.make_learner(script, game=named.name)] * n
    registry.check_encounter(named, rules)
    policies = [rule.value.policy(of_game, i) for i, rule in enumerate(rules)]
    params = [rule.value.init(jax.random.key(seed), of_game, i)[0] for i, rule in enumerate(rules)]
    exact = _exact(of_game, params) if valued_exactly(of_game, [rule.value for rule in rules]) else None

    @jax.jit
    def returns(keys: Array) -> Array:
        def some(key: Array) -> Array:
            return rollout(key, of_game, policies, params, AT_ONCE).rewards.sum(axis=(0, 2)) / (n * of_game.num_moves)

        return lax.map(some, keys)

    each = np.asarray(returns(jax.random.split(jax.random.key(seed), episodes // AT_ONCE)), np.float64).ravel()
    return {"mean": float(each.mean()), "error": float(each.std(ddof=1)) / math.sqrt(len(each)), "exact": exact}


def _exact(game: Game, params: Sequence[Any]) -> float:
    """Mean value per step of joint parameters."""
    joint = [np.asarray(x, np.float64)[None] for x in params]
    return float(evaluate(game, joint, names=["return"])["return"].mean())


def row(game: str, episodes: int) -> dict[str, Any]:
    """What all scripts return in a game, and the optimum that it knows; for JSON."""
    named = registry.make_game(game)
    scripts = {script: measured(game, script, episodes) for script in SCRIPTS}
    known = anchors_of(named.value)
    if known is not None and known.source == "closed form":
        scripts["random"]["exact"] = known.random
    optimum = None if known is None else {"value": known.social_optimum, "source": known.source}
    return {
        "game": game,
        "players": named.value.n_players,
        "steps": named.value.num_moves,
        "episodes": episodes,
        **scripts,
        "optimum": optimum,
    }


def main(games: Sequence[str]) -> None:
    devices.configure()
    known = {x["game"]: x for x in json.loads(FILE.read_text())} if FILE.exists() else {}
    for game, episodes in SHOWN:
        if not games or game in games:
            print(game, file=sys.stderr)
            known[game] = row(game, episodes)
    found = [known[game] for game, _ in SHOWN if game in known]
    rounded = json.loads(json.dumps(found), parse_float=lambda x: round(float(x), DIGITS) + 0.0)
    FILE.write_text("[\n" + ",\n".join(json.dumps(x) for x in rounded) + "\n]\n")


if __name__ == "__main__":
    main(sys.argv[1:])
