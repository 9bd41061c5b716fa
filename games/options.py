"""Hyperparameters that every game has besides its own; at their defaults it is the game itself."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from shaping_bench.games import incentives, mixing

OPTIONS: Mapping[str, dataclasses.Field] = {**mixing.OPTIONS, **incentives.OPTIONS}


def applied(game: Any, chosen: Mapping[str, Any]) -> Any:
    """The game with those options that are not at their defaults.

    Raises:
      ValueError: the game cannot have them, or not together.
    """
    if "own_share" in chosen and len(chosen) > 1:
        raise ValueError("has own_share and payments; allowed: one of them")
    if "own_share" in chosen:
        return mixing.mixed(game, **chosen)
    if "payments" not in chosen:
        raise ValueError("has most without payments; allowed: with payments=minted or payments=transferred")
    return incentives.with_payments(game, **chosen)
