"""Final policies meet strategies of the Axelrod library, in matches of Axelrod's own engine.

Every seed's final policy of every learner plays every strategy, and the match-up is stored as a
league cell beside the others, so that tables and pages show it. Strategies are told Axelrod's
usual things, the payoffs and that the length of the match is unknown; policies are memory-one
and play as frozen.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shaping_bench import metrics
from shaping_bench.algorithms import axelrod_strategies
from shaping_bench.errors import BadInput
from shaping_bench.games.base import Game
from shaping_bench.run.measure import tidy_curves, tidy_finals
from shaping_bench.run.records import cell_record
from shaping_bench.spec import registry
from shaping_bench.spec.identity import content_hash
from shaping_bench.store.results import Results, load
from shaping_bench.store.store import SCHEMA, Store

TURNS = 200
"""Rounds of a match, Axelrod's default; what a discount of 0.96 leaves beyond is 0.0003 of the whole."""


def match_values(
    game: Game, policies: np.ndarray, strategy: str, *, turns: int = TURNS, matches: int = 1, seed: int = 0
) -> dict[str, np.ndarray]:
    """Plays memory-one policies in seat 1 against a strategy in seat 2.

    A return is per step: ``sum_t gamma^t r_t / sum_t gamma^t`` over the rounds of a match, which
    differs from that of the infinite game by at most ``gamma^turns`` of the payoffs' range.

    Args:
      game: a repeated two-action game of two players.
      policies: logits ``(S, 5)`` in the order [start, CC, CD, DC, DD], own action first.
      strategy: its name in Axelrod.
      turns: rounds of a match.
      matches: per policy; their mean is the policy's value.
      seed: match m of policy s is seeded by ``[seed, s, m]``.

    Returns:
      ``return`` and ``cooperation``, each ``(S, 2)``; NaN for a policy that is not finite.

    Raises:
      ValueError: no such strategy, or another kind of game.
    """
    axelrod = axelrod_strategies.package()
    payoffs = axelrod_strategies.payoffs_of(game)
    cooperate = axelrod.Action.C
    weights = float(game.gamma) ** np.arange(turns)
    weights /= weights.sum()
    rewards = np.array([[float(x) for x in row] for row in game.payoffs])  # type: ignore[attr-defined]
    # Axelrod's infinite length means unknown: nobody may know when the last round is.
    told = {"length": float("inf"), "game": payoffs, "noise": 0}
    opponent = axelrod_strategies.player(strategy)
    learned = _learned_class()
    values = np.full((2, len(policies), matches, 2), np.nan)
    for s, logits in enumerate(np.asarray(policies, np.float64)):
        if not np.isfinite(logits).all():
            continue
        own = learned(1.0 / (1.0 + np.exp(-np.clip(logits, -500.0, 500.0))))
        for m in range(matches):
            chance = int(np.random.SeedSequence([seed, s, m]).generate_state(1)[0])
            match = axelrod.Match((own, opponent), turns=turns, game=payoffs, match_attributes=told, seed=chance)
            actions = np.array([[a != cooperate for a in pair] for pair in match.play()], int)
            values[0, s, m] = rewards[:, 2 * actions[:, 0] + actions[:, 1]] @ weights
            values[1, s, m] = weights @ (1 - actions)
    return {"return": values[0].mean(axis=1), "cooperation": values[1].mean(axis=1)}


def _learned_class() -> Any:
    axelrod = axelrod_strategies.package()

    class Learned(axelrod.MemoryOnePlayer):  # type: ignore[misc, name-defined]
        """A memory-one policy that may also begin with either action."""

        name = "Learned policy"

        def __init__(self, probabilities: Sequence[float]) -> None:
            self.start = float(probabilities[0])
            super().__init__(four_vector=tuple(float(p) for p in probabilities[1:]))
            # Always: only players that are stochastic are given the match's seed.
            self.classifier["stochastic"] = True

        def strategy(self, opponent: Any) -> Any:
            if not self.history:
                return self._random.random_choice(self.start)
            return super().strategy(opponent)

    return Learned


def play_league(
    directory: Path | str,
    strategies: Sequence[str] = (),
    *,
    turns: int = TURNS,
    matches: int = 1,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """Stores a league cell per learner and strategy, for those not stored yet.

    Args:
      directory: results of a suite with a league, which keep final policies.
      strategies: names in Axelrod; by default those of Axelrod's first tournament.
      turns, matches, seed: as :func:`match_values`.
      say: told what is being played.

    Returns:
      The names of the strategies, as Axelrod spells them.

    Raises:
      BadInput: the package is missing, an unknown strategy, or no final policies to play with.
    """
    results = load(directory)
    try:
        first = [cls.name for cls in axelrod_strategies.package().axelrod_first_strategies]
        names = list(dict.fromkeys(axelrod_strategies.player(x).name for x in strategies or first))
    except (ImportError, ValueError) as error:
        raise BadInput(str(error)) from None
    store = Store(directory)
    populations = list(_populations(results, store))
    if not populations:
        raise BadInput(
            f"results directory {str(directory)!r} holds no final memory-one policies; allowed: those of a suite with "
            "a league and a repeated two-action game of two players"
        )
    for record, game, policies in populations:
        for name in names:
            say(f"{record['game']['label']}: {record['learners'][0]['label']} vs {name}")
            key = _hash(record, name, turns, matches, seed)
            if key in store:
                continue
            clock = time.perf_counter()
            values = metrics.from_play(
                game, match_values(game, policies, name, turns=turns, matches=matches, seed=seed)
            )
            lost = ~np.isfinite(policies).all(axis=1)
            # A strategy has no policy that could diverge.
            values["diverged"] = np.stack([lost, np.zeros_like(lost)], axis=1).astype(float)
            cell = _cell(record, name, turns, matches, seed, key, int(lost.sum()), time.perf_counter() - clock)
            store.write(key, cell, tidy_finals(values), tidy_curves(np.zeros(0, int), {}))
    return names


def _populations(results: Results, store: Store) -> Any:
    """Per learner and game the cell of its self-play, the game, and its final policies in seat 1."""
    for record in results.records:
        labels = {x["label"] for x in record["learners"]}
        if record["kind"] != "encounter" or len(labels) != 1 or len(record["learners"]) != 2:
            continue
        if not (store.cells / record["hash"] / "policies.npz").exists():
            continue
        described = record["game"]
        try:
            game = registry.make_game({described["name"]: described["hyperparameters"]}).value
        except BadInput:  # of a package that is not there now
            continue
        policies = store.policies(record["hash"]).get("player_1")
        if game.memory_one and policies is not None and policies.shape[1:] == (game.sizes[0],):
            yield record, game, policies


def _played(strategy: str, turns: int, matches: int, seed: int) -> dict[str, Any]:
    return {"strategy": strategy, "turns": turns, "matches": matches, "seed": seed}


def _hash(source: Mapping[str, Any], strategy: str, turns: int, matches: int, seed: int) -> str:
    """Hash of a match-up of the final policies of a stored cell."""
    version = axelrod_strategies.package().__version__
    identity = {"schema": SCHEMA, "kind": "league", "axelrod": version, "of": source["hash"]}
    return content_hash(identity | _played(strategy, turns, matches, seed))


def _cell(
    source: Mapping[str, Any], strategy: str, turns: int, matches: int, seed: int, key: str, diverged: int, run: float
) -> dict[str, Any]:
    """The record of a match-up of the final policies of the cell whose record is ``source``."""
    opponent = {
        "name": "axelrod",
        "label": f"Axelrod: {strategy}",
        "hyperparameters": _played(strategy, turns, matches, seed),
        "entry": None,
        "swept": {},
        "access": "actions",
        "needs_preparation": False,
        "preparation": None,
    }
    return cell_record(
        key=key,
        kind="league",
        suite=source.get("suite", ""),
        game=source["game"],
        learners=[source["learners"][0], opponent],
        protocol={name: source.get(name) for name in ("seeds", "seed", "record_every", "precision")} | {"steps": 0},
        timings={"compile": 0.0, "run": run, "metrics": 0.0},
        costs={
            "updates": 0,
            "gradient_evaluations": [0, 0],
            "environment_steps": source["seeds"] * matches * turns,
        },
        diverged=diverged,
        command=f"shaping-bench axelrod DIR '{strategy}' --turns {turns} --matches {matches} --seed {seed}",
        versions={"axelrod": axelrod_strategies.package().__version__},
    )
