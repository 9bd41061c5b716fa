"""Learning curves: their mean over seeds, how far seeds scatter around it, and how well it is known."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from shaping_bench.analysis import stats
from shaping_bench.analysis.entries import units_of
from shaping_bench.store.results import Results, kept

Rows = Callable[[Sequence[str]], pd.DataFrame]
"""Hashes of cells to their curves, a row per seed and point."""

_POINT = ["hash", "player", "update", "step"]


@kept
def bands(results: Results, metric: str) -> pd.DataFrame:
    """Bands of one metric's curves, per cell and seat.

    Returns:
      hash, game, learner, opponent, player, update, mean, std (over seeds, ddof 1; NaN for one
      seed), n (seeds that are finite there) and half: half the width of the 95 % interval of the mean.
    """
    return _with_interval(results, results.curve_bands(metric), lambda hashes: results.curve(metric, hashes))


@kept
def within_bands(results: Results, metric: str) -> pd.DataFrame:
    """Bands of what final policies get in each step of an episode: as :func:`bands`, with ``step`` for
    ``update``; empty where no cell has stored it."""
    rows = results.within(metric, [record["hash"] for record in results.records])
    rows = rows[np.isfinite(rows["value"].to_numpy(float))]
    points = rows.groupby(["hash", "player", "step"])["value"].agg(["mean", "std", "count"]).reset_index()
    points = points.rename(columns={"count": "n"}).merge(results.seats, on=["hash", "player"], how="left")
    return _with_interval(results, points, lambda hashes: rows[rows["hash"].isin(hashes)])


@kept
def self_play_bands(results: Results, metric: str) -> pd.DataFrame:
    """Bands of the mean over the seats, of cells in self-play: as :func:`bands`, without opponent and
    player; a seed counts where every seat is finite."""
    points = results.self_play_bands(metric)
    return _with_interval(results, points, lambda hashes: results.curve(metric, hashes))


def _with_interval(results: Results, points: pd.DataFrame, rows_of: Rows) -> pd.DataFrame:
    """Adds ``half``, by Student's t: over seeds, or over preparations where seeds share several."""
    own = points.assign(spread=points["std"], count=points["n"])
    by_unit = _by_preparation(results, rows_of, seats="player" in points)
    if by_unit is not None:
        point = [x for x in _POINT if x in points]
        both = points.assign(hash=points["hash"].astype(str)).merge(by_unit, on=point, how="left", suffixes=("", "_"))
        grouped = both["units"].notna().to_numpy()
        own["spread"] = np.where(grouped, both["unit_std"], own["spread"])
        own["count"] = np.where(grouped, both["units"], own["count"])
    half = stats.half_width(own["spread"].to_numpy(float), own["count"].to_numpy(float))
    return points.assign(half=half)


def _by_preparation(results: Results, rows_of: Rows, seats: bool) -> pd.DataFrame | None:
    """Spread over preparations of their seeds' means, and their number, at each point of the curves of
    cells whose seeds share several; None where there is no such cell."""
    units = [
        pd.DataFrame({"hash": record["hash"], "player": player + 1, "seed": np.arange(len(of)), "unit": of})
        for record in results.records
        if record["kind"] == "encounter" and (seats or len({x["label"] for x in record["learners"]}) == 1)
        for player in range(len(record["learners"]))
        for (what, _), of in [units_of(record, player)]
        if what == "preparations"
    ]
    if not units:
        return None
    placed = pd.concat(units, ignore_index=True)
    rows = rows_of(sorted(placed["hash"].unique())).merge(placed, on=["hash", "player", "seed"])
    if not seats:  # a seed is its mean over the seats, and belongs to the first seat's preparation
        first = rows[rows["player"] == 1].set_index(["hash", "update", "seed"])["unit"]
        values = rows.groupby(["hash", "update", "seed"])["value"].agg(lambda x: x.mean(skipna=False))
        rows = pd.concat([values, first], axis=1).reset_index()
    point = [x for x in _POINT if x in rows]
    means = rows[np.isfinite(rows["value"])].groupby([*point, "unit"])["value"].mean()
    return means.groupby(level=point).agg(unit_std="std", units="count").reset_index()
