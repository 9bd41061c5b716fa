"""Repeated games of two actions in which a reward depends on the own action and on how many others defect.

With N players such a game is two rows of N numbers: what a cooperator and what a defector gets where none,
one, ... of the others defect. (Published tables count all defectors, with entries that cannot occur: pax's
row k is ``cooperate[k]`` and ``defect[k - 1]`` here.) Read from its end, it is the game's own Schelling diagram.

Sources: pax's ``IteratedTensorGameNPlayer`` and its settings (Souly et al. 2023, arXiv 2312.12564); Diekmann
1985 for the volunteer's dilemma; Pacheco et al. 2009 for stag hunts of N players with a threshold.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.matrix.repeated import MemoryOneGame, RepeatedGame

MOST_PLAYERS = 5

Rows = tuple[tuple[Any, ...], tuple[Any, ...]]
"""Rewards of a cooperator and of a defector, ``(N,)`` each, by the number of others that defect."""


class TensorGame(MemoryOneGame):
    """Base: a memory-one game whose table follows from two rows, which subclasses define."""

    @property
    def rows(self) -> Rows:
        raise NotImplementedError

    @property
    def payoffs(self) -> tuple[tuple[Any, ...], ...]:  # type: ignore[override]
        rows = self.rows
        n = len(rows[0])
        joint = list(itertools.product((0, 1), repeat=n))
        return tuple(tuple(rows[actions[i]][sum(actions) - actions[i]] for actions in joint) for i in range(n))


# --- presets ----------------------------------------------------------------------------------


def linear_rows(n: int, multiplier: Any) -> Rows:
    """Public goods: a contribution costs 1, the pool is multiplied and shared by all."""
    return (
        tuple(multiplier * (n - k) / n - 1.0 for k in range(n)),
        tuple(multiplier * (n - 1 - k) / n - 0.0 for k in range(n)),
    )


def threshold_rows(n: int, threshold: int, benefit: float) -> Rows:
    """The benefit is everybody's if as many contribute, which costs 1."""
    return (
        tuple(benefit * (n - k >= threshold) - 1.0 for k in range(n)),
        tuple(benefit * (n - 1 - k >= threshold) for k in range(n)),
    )


def stag_hunt_rows(n: int, threshold: int, stag: float, hare: float) -> Rows:
    """Hunters get a stag each if they are as many, else nothing; who does not hunt has a hare."""
    return tuple(stag * (n - k >= threshold) for k in range(n)), (hare,) * n


TABLES: dict[str, Rows] = {
    "pax_3pl": ((4.0, 2.0, 0.0), (5.0, 3.0, 1.0)),
    "pax_test_3pl": ((4.0, 2.66, 1.33), (5.66, 4.33, 3.0)),
    "pax_2pl": ((4.0, 2.0), (5.0, 3.0)),
    "pax_lola": ((-1.0, -3.0), (0.0, -2.0)),
}
"""Rewards from pax's settings and tests, for as many players as they have."""

FORMULAS = ("public_goods", "threshold", "volunteer", "stag_hunt")
"""Presets for any number of players."""

PRESETS = (*FORMULAS, *TABLES)

MULTIPLIER, THRESHOLD_BENEFIT, VOLUNTEER_BENEFIT, STAG, HARE = 1.6, 3.0, 2.0, 4.0, 2.0
"""Of the formulas."""

PLAYERS = 3
"""Of a formula, unless said otherwise."""


def preset_rows(preset: str, n: int, threshold: int | None) -> Rows:
    """The rows of a preset for n players."""
    if preset in TABLES:
        return TABLES[preset]
    if preset == "public_goods":
        return linear_rows(n, MULTIPLIER)
    if preset == "volunteer":
        return threshold_rows(n, 1, VOLUNTEER_BENEFIT)
    if preset == "stag_hunt":
        return stag_hunt_rows(n, threshold or n, STAG, HARE)
    return threshold_rows(n, threshold or n // 2 + 1, THRESHOLD_BENEFIT)


# --- the game -----------------------------------------------------------------------------------


@pytree_dataclass
class Tensor(TensorGame):
    """Repeated game of N players: ``r_i`` is ``cooperate[k]`` or ``defect[k]`` by the own action, where k of
    the others defect. Action 0 is to cooperate."""

    family: ClassVar[str | None] = "tensor"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: dict(zip(("cooperate", "defect"), preset_rows(name, PLAYERS, None), strict=True)) for name in PRESETS
    }

    preset: str = field("public_goods", "which dilemma, unless both rows are given", choices=PRESETS, static=True)
    num_players: int | None = field(
        None, "number of players; none: as many as the rows have, 3 of a formula", low=2, high=MOST_PLAYERS, static=True
    )
    threshold: int | None = field(
        None,
        "cooperators that it takes (threshold: none is a majority; stag_hunt: none is everybody)",
        low=1,
        high=MOST_PLAYERS,
        static=True,
    )
    cooperate: tuple[float, ...] | None = field(
        None, "reward of a cooperator where 0, 1, ... of the others defect; none: as the preset"
    )
    defect: tuple[float, ...] | None = field(None, "reward of a defector, likewise; none: as the preset")
    gamma: float = field(0.96, "discount", low=0.0, high=1.0, exclusive=True)
    init_mean: float = field(0.0, "mean of the initial logits")
    init_std: float = field(1.0, "standard deviation of the initial logits", low=0.0)
    horizon: int = field(150, "length of an episode of the sampled view", low=1, static=True)

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """With rows as tuples of real numbers, where they are given."""
        chosen = super().checked(values)
        preset, threshold = chosen["preset"], chosen["threshold"]
        if chosen["cooperate"] is not None or chosen["defect"] is not None:
            chosen |= {name: _checked_row(name, chosen[name]) for name in ("cooperate", "defect")}
            if len(chosen["defect"]) != len(chosen["cooperate"]):
                raise ValueError(f"defect is {chosen['defect']!r}; allowed: as many numbers as cooperate has")
            size, whose = len(chosen["cooperate"]), "the rows"
        elif preset in TABLES:
            size, whose = len(TABLES[preset][0]), f"the preset {preset}"
        else:
            if threshold is not None and threshold > (chosen["num_players"] or PLAYERS):
                raise ValueError(f"threshold is {threshold}; allowed: no more than there are players")
            if threshold is not None and preset in ("public_goods", "volunteer"):
                raise ValueError(f"threshold is {threshold}; allowed: none with preset={preset}")
            return chosen
        if threshold is not None:
            raise ValueError(f"threshold is {threshold}; allowed: none with {whose}")
        if chosen["num_players"] not in (None, size):
            raise ValueError(f"num_players is {chosen['num_players']}; allowed: {size}, as in {whose}")
        return chosen

    @property
    def rows(self) -> Rows:
        if self.cooperate is not None and self.defect is not None:
            return self.cooperate, self.defect
        return preset_rows(self.preset, self.num_players or PLAYERS, self.threshold)

    def unpinned(self) -> RepeatedGame:
        """The table that it is: programs are shared with all repeated games of as many players."""
        return self.as_table()


def _checked_row(name: str, row: Any) -> tuple[float, ...]:
    try:
        numbers = tuple(float(x) for x in row)
    except (TypeError, ValueError):
        numbers = ()
    if not 2 <= len(numbers) <= MOST_PLAYERS or not all(math.isfinite(x) for x in numbers):
        raise ValueError(
            f"{name} is {row!r}; allowed: one finite number per player, 2 to {MOST_PLAYERS} of them, and both rows or "
            "neither, e.g. cooperate=(4,2,0), defect=(5,3,1)"
        )
    return numbers
