"""Metrics of curves: whether and when recorded returns settled, and whether training was long enough."""

import math
from typing import Any

import numpy as np

from shaping_bench.errors import BadInput

SETTLED = 1e-3
"""Share of the payoff range by which a settled return may still move."""

TAIL = 0.1
"""Last share of the updates in which a settled return must not move."""


def convergence(updates: np.ndarray, values: np.ndarray, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Whether and when recorded returns settled.

    ``settled`` is 1 if, from the last record at or before 90 % of the updates to the end, the
    return moves (maximum minus minimum) by at most :data:`SETTLED` of ``scale``.
    ``updates_to_settle`` is the first recorded update from which on every record stays within
    that distance of the last one.

    Args:
      updates: ``(R,)`` numbers of updates done, increasing.
      values: recorded returns, ``(R, ..., n_players)``.
      scale: payoff range (``reward_range(game)``), or a unit where the game has none.

    Returns:
      ``settled`` and ``updates_to_settle``, each ``(..., n_players)``. Both NaN where a record
      of that player is not finite or with fewer than two records; ``updates_to_settle`` NaN where
      not settled.
    """
    updates, values = np.asarray(updates), np.asarray(values, np.float64)
    if len(updates) != len(values):
        raise BadInput(f"values have {len(values)} records; allowed: one per recorded update, {len(updates)}")
    nothing = np.full(values.shape[1:], np.nan)
    if len(updates) < 2:
        return {"settled": nothing, "updates_to_settle": nothing.copy()}
    tolerance = SETTLED * scale
    finite = np.isfinite(values).all(axis=0)
    safe = np.where(finite, values, 0.0)
    begin = np.searchsorted(updates, (1.0 - TAIL) * updates[-1], side="right") - 1
    tail = safe[min(begin, len(updates) - 2) :]
    settled = tail.max(axis=0) - tail.min(axis=0) <= tolerance
    away = np.abs(safe - safe[-1]) > tolerance
    # First record after the last one that is away from the end.
    first = np.where(away.any(axis=0), len(updates) - np.argmax(away[::-1], axis=0), 0)
    first_update = updates[np.minimum(first, len(updates) - 1)].astype(np.float64)
    return {
        "settled": np.where(finite, settled.astype(np.float64), nothing),
        "updates_to_settle": np.where(finite & settled, first_update, nothing),
    }


def long_enough(halfway: np.ndarray, final: np.ndarray, confidence: float = 0.95) -> dict[str, Any]:
    """Whether a training was long enough: its second half has changed what is gained by less than its interval.

    Args:
      halfway: what was gained after half of the updates, of each seed, ``(S,)``.
      final: after all of them.

    Returns:
      ``gain`` and ``change`` since halfway, means of the seeds that are finite, ``interval``, half the width of
      Student's for the gain, and ``enough``. With fewer than two such seeds there is no interval, and the last two
      are None; with none, all are.

    >>> long_enough(np.array([1.0, 2.0]), np.array([1.5, 2.5]))
    {'gain': 2.0, 'change': 0.5, 'interval': 6.35..., 'enough': True}
    """
    import scipy.stats  # slow to import, and few need it

    sound = np.isfinite(halfway) & np.isfinite(final)
    count, gained = int(sound.sum()), np.asarray(final, np.float64)[sound]
    if not count:
        return {"gain": None, "change": None, "interval": None, "enough": None}
    means = {"gain": float(gained.mean()), "change": float((gained - np.asarray(halfway)[sound]).mean())}
    if count < 2:
        return {**means, "interval": None, "enough": None}
    half = float(scipy.stats.t.ppf(0.5 + confidence / 2, count - 1) * gained.std(ddof=1) / math.sqrt(count))
    return {**means, "interval": half, "enough": abs(means["change"]) < half}
