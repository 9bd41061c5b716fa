"""What an encounter's outcome says, as tidy frames of metrics; see the store's contract."""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from shaping_bench import metrics
from shaping_bench.algorithms.core import Learner
from shaping_bench.games.base import Game
from shaping_bench.run.encounter import Outcome


def measure(game: Game, learners: Sequence[Learner], outcome: Outcome) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Final metrics and curves of an encounter as tidy frames (see the store's contract)."""
    if outcome.params:
        finals = metrics.evaluate(game, outcome.final)
        over_time = metrics.evaluate(game, outcome.params, names=metrics.CURVE_METRICS)
    else:
        over_time = metrics.from_play(game, outcome.played)
        finals = {name: x[-1] for name, x in over_time.items()}
    if "return" in over_time:
        finals |= metrics.convergence(outcome.updates, over_time["return"], metrics.reward_range(game) or 1.0)
    measured = frozenset({*over_time, *finals})
    for name in sorted({name for info in outcome.infos for name in info}):
        missing = np.full(outcome.diverged.shape, np.nan)
        series = np.stack(
            [
                np.stack([info[name][r] if name in info else missing for info in outcome.infos], -1)
                for r in range(len(outcome.updates))
            ]
        )
        over_time[_reported(name, measured)] = series
        if name in metrics.METRICS and metrics.METRICS[name].level == "report":
            finals[name] = series[-1]
    diverged = outcome.diverged
    finals = {name: np.where(diverged[:, None], np.nan, x) for name, x in finals.items()}
    finals["diverged"] = np.broadcast_to(diverged[:, None], (len(diverged), game.n_players)).astype(float)
    return tidy_finals(finals), tidy_curves(outcome.updates, over_time)


def tidy_finals(values: dict[str, np.ndarray]) -> pd.DataFrame:
    """``name -> (S, n_players)`` to columns seed, player (from 1), metric, value."""
    return tidy(values, ("seed", "player"))


def tidy_curves(updates: np.ndarray, values: dict[str, np.ndarray]) -> pd.DataFrame:
    """``name -> (R, S, n_players)`` to columns seed, update, player, metric, value."""
    if not values:
        return pd.DataFrame(columns=["seed", "update", "player", "metric", "value"])
    frame = tidy({name: x.astype(np.float64) for name, x in values.items()}, ("point", "seed", "player"))
    frame.insert(1, "update", np.asarray(updates)[frame.pop("point")])
    return frame


def tidy(values: dict[str, np.ndarray], axes: Sequence[str]) -> pd.DataFrame:
    """One row per number, metric by metric; the last of the axes is the player, counted from 1.

    All metrics become one frame at once: of dozens of tiny ones, each costs as much as a large one.
    """
    indices = [np.indices(x.shape).reshape(len(axes), -1) for x in values.values()]
    columns = dict(zip(axes, np.concatenate(indices, axis=1), strict=True))
    columns[axes[-1]] = columns[axes[-1]] + 1
    names = np.repeat(np.array(list(values), object), [x.size for x in values.values()])
    numbers = np.concatenate([x.ravel() for x in values.values()])
    return pd.DataFrame({**columns, "metric": pd.array(names, dtype="str"), "value": numbers})


def _reported(name: str, measured: Collection[str]) -> str:
    """What a learner's report of its updates is called in curves: a number of its own making must not
    take the place of a metric, but those that are defined as such a report."""
    defined = name in metrics.METRICS and metrics.METRICS[name].level != "report"
    return f"reported_{name}" if defined or name in measured else name
