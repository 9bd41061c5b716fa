"""Normalised scores: reference returns of each game, and the scale they span.

Returns of different games have nothing in common, so what is averaged over games is::

    normalised_return = (return - random) / (one - random)

* **0 is what random play gets**: everybody acts uniformly at random. In games without actions,
  whose players choose real numbers, it is the expected return of the initial parameters.
* **1 is the social optimum**: the largest mean over players of the return per step.
* In a **constant-sum** game every outcome is a social optimum; there 1 is the largest reward
  of a step, and a score of 0.2 means 0.2 of it won from the others.
* Scores are **not bounded by 0 and 1**. Mutual defection in the prisoner's dilemma is worse
  than random (-1), exploiting somebody may be better than the optimum for all (up to 3); the
  smallest and largest score of a game follow from its rewards (:attr:`Scale.range`).
* A game that is constant-sum and unbounded (the Hamiltonian game) has no scale and is left out.

The scale is the same for all seats: a seat's advantage is a fact of the encounter and no
matter of units. It contains the two conventions that the field uses: "random is 0" of
reinforcement learning, and the Coin Game's "mutual greed is 0, mutual cooperation is 1".

A game says its reference returns in ``anchors()`` (:mod:`shaping_bench.games.anchors`). It may also
have an attribute ``anchors``: a mapping with ``random``, ``social_optimum`` and, if there is one,
``best_response``, per step and averaged over players.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from shaping_bench.errors import BadInput
from shaping_bench.store import facts
from shaping_bench.store.results import Results, kept

if TYPE_CHECKING:  # JAX comes with games; who only reads tables need not wait for it
    from shaping_bench.games.base import Game

METRIC = "normalised_return"
"""Name of the metric that this module defines."""

SAME = 1e-9
"""Anchors closer than this share of the larger one are the same number."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """The scale that a game's reference returns span; per step, mean over the seats.

    Attributes:
      random: everybody plays uniformly at random.
      social_optimum: the largest mean over players.
      best_response: of one player to random others; None if unknown.
      smallest, largest: reward of a step; None where unbounded or unknown.
      source: where the numbers come from.
    """

    random: float
    social_optimum: float
    best_response: float | None = None
    smallest: float | None = None
    largest: float | None = None
    source: str = ""

    @property
    def constant_sum(self) -> bool:
        """Whether random play is a social optimum, as every outcome of a constant-sum game is."""
        return _same(self.random, self.social_optimum)

    @property
    def one(self) -> float | None:
        """The return that scores 1; None if the game has no scale."""
        if not self.constant_sum:
            return self.social_optimum
        return None if self.largest is None or _same(self.largest, self.random) else self.largest

    @property
    def range(self) -> tuple[float, float] | None:
        """Smallest and largest possible score; None where rewards are unbounded or unknown."""
        if self.smallest is None or self.largest is None or self.one is None:
            return None
        low, high = (float(self.normalised(x)) for x in (self.smallest, self.largest))
        return low, high

    def normalised(self, returns: Any) -> Any:
        """Scores of returns per step, of any shape; NaN in a game without a scale."""
        if self.one is None:
            return np.full(np.shape(returns), np.nan)
        return (np.asarray(returns, np.float64) - self.random) / (self.one - self.random)


def _same(x: float, y: float) -> bool:
    return math.isclose(x, y, rel_tol=SAME, abs_tol=SAME)


# --- the scale of a game ------------------------------------------------------------------


def anchors_of(game: "Game") -> Scale | None:
    """The scale of a game; None if it declares no anchors.

    Raises:
      BadInput: the game declares anchors that are no numbers.
    """
    declared: Any = getattr(game, "anchors", None)
    if callable(declared):
        scale = declared()
        if scale is None or dataclasses.is_dataclass(scale):
            return None if scale is None else Scale(**dataclasses.asdict(scale))  # type: ignore[arg-type]
        declared = scale
    return None if declared is None else _declared(type(game).__name__, declared)


def _declared(who: str, declared: Any) -> Scale:
    """The scale that somebody's anchors make, as the game declares or a cell has stored them."""
    allowed = ("random", "social_optimum", "best_response", "smallest", "largest")
    try:
        entries = dict(declared)
        source = str(entries.pop("source", f"declared by {who}"))
        numbers = {key: None if value is None else float(value) for key, value in entries.items()}
        return Scale(**numbers, source=source)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise BadInput(
            f"{who}.anchors is {declared!r}; allowed: a mapping from random, social_optimum and possibly "
            f"{', '.join(allowed[2:])} to numbers"
        ) from None


# --- the anchors of results ---------------------------------------------------------------


@kept
def anchors_in(results: Results) -> dict[str, Scale | None]:
    """Anchors by label of the games of a results directory; None where there are none, as for
    games of packages that are not installed."""
    scales: dict[str, Scale | None] = {}
    for record in results.records:
        label = record["game"]["label"]
        if label not in scales:
            declared = facts.game(record).get("anchors")
            scales[label] = None if declared is None else _declared(record["game"]["name"], declared)
    return scales
