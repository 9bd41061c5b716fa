"""Where policies begin: drawn by their learners, or at the points of a grid.

From a grid one reads which starts lead where. Its points are pairs of probabilities of action 0, ``(k + 1/2) / n``
for k = 0, ..., n - 1 and either player, the same in every state; seed s begins at point ``(s // n, s % n)``. So of
any event the share of seeds estimates the area of the starts that lead to it, and there are as many seeds as points.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shaping_bench.algorithms.core import Learner
from shaping_bench.errors import BadInput
from shaping_bench.games.base import Game

SIDE = 21
"""Points along a side of the grid that is usual (Shcherbinin et al. 2026)."""


def initial(starts: str, game: Game, learners: Sequence[Learner], seeds: int) -> list[Any] | None:
    """Initial policy parameters as ``run_encounter`` takes them; None where all draw their own.

    Who does not learn plays what it plays.

    Raises:
      BadInput: as :func:`check`.
    """
    check(starts, game, learners, seeds)
    if starts == "drawn":
        return None
    side = math.isqrt(seeds)
    probabilities = (np.arange(side) + 0.5) / side
    logits = np.log(probabilities) - np.log1p(-probabilities)
    points = np.stack(np.meshgrid(logits, logits, indexing="ij"), axis=-1).reshape(seeds, 2)
    return [
        np.repeat(points[:, i : i + 1], game.sizes[i], axis=1) if rule.learns else None
        for i, rule in enumerate(learners)
    ]


def check(starts: str, game: Game, learners: Sequence[Learner], seeds: int) -> None:
    """Whether these can begin there.

    Raises:
      BadInput: names the field, the value and what is allowed.
    """
    if starts == "drawn":
        return
    # A game that is a table has one logit of action 0 per state.
    if "exact" not in game.views or game.table is None or game.n_players != 2:
        raise BadInput(
            f"starts is {starts!r} in a {type(game).__name__}; allowed: games of two players and two actions"
        )
    if math.isqrt(seeds) ** 2 != seeds:
        raise BadInput(
            f"seeds is {seeds} with starts {starts!r}; allowed: square numbers, e.g. {SIDE**2} ({SIDE} x {SIDE})"
        )
    for i, rule in enumerate(learners):
        if rule.learns and "exact" not in rule.views and not rule.policy(game, i).exact:
            raise BadInput(
                f"starts is {starts!r}, and the policy in seat {i + 1} is a network; allowed: policies that are tables"
            )
