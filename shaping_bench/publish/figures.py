"""Figures for papers from stored results: vector files at the width of a column.

Text is embedded as Type 42 fonts, as conferences ask. Nothing is told by colour alone: lines
have dashes and markers, heat maps print their numbers. A learner looks the same in every
figure. The same results give the same bytes.
"""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from shaping_bench.analysis import curves, metagame, players, stats
from shaping_bench.analysis.entries import alike, entries, metric_names
from shaping_bench.analysis.scores import COLUMNS
from shaping_bench.errors import BadInput, unknown
from shaping_bench.publish import tables
from shaping_bench.publish.cards import Card, cards_in
from shaping_bench.publish.metagame_tables import meta_tables
from shaping_bench.publish.model import Entry
from shaping_bench.publish.standings import name_of
from shaping_bench.store import results as results_
from shaping_bench.store.results import Results

Array = NDArray[np.float64]

COLUMN, PAGE = 3.25, 6.75
"""Widths of a column and of a page of two, in inches."""
FORMATS = ("pdf", "svg", "png")
DPI = 300
"""Of PNG, and of nothing else: the other formats are drawn."""

STYLE: dict[Any, Any] = {
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "legend.fontsize": 6,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "axes.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2.0,
    "ytick.major.size": 2.0,
    "axes.grid": False,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.0,
}

# Okabe and Ito's colours without the yellow, which white paper swallows.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1.2, 1, 1.2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
# 7, 4 and 11 share no factor: 28 lines differ in colour or dashes, and 308 in all three.
TIMES = "\N{MULTIPLICATION SIGN}"
_PANELS_PER_ROW = 5
_MARKED_POINTS = 4

_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Creator": "shaping-bench", "Producer": None},
    "svg": {"Date": None, "Creator": "shaping-bench"},
    "png": {"Software": "shaping-bench"},
}


def write_figures(
    source: Results | Path | str, folder: Path | str, fmt: str = "pdf", game: str | None = None
) -> Iterator[Path]:
    """Draws all figures of a results directory and yields their files as they are written.

    Args:
      source: a results directory, opened or by its path.
      folder: made if it does not exist.
      fmt: ``"pdf"``, ``"svg"`` or ``"png"``.
      game: only this one; by default all, and the cards.

    Raises:
      BadInput: no results there, an unknown format or game, or a folder that cannot be written.
    """
    if fmt not in FORMATS:
        raise unknown("format", fmt, FORMATS)
    results, folder = results_.opened(source), Path(folder)
    if game is not None and game not in results.games:
        raise unknown("game", game, results.games)
    for name, draw in figures(results, game).items():
        path = folder / f"{name}.{fmt}"
        if write_figure(draw, path, fmt):
            yield path


def write_figure(draw: Callable[[], Figure | None], path: Path, fmt: str) -> bool:
    """Draws a figure into a file; False if there is nothing to draw.

    Raises:
      BadInput: the folder cannot be written.
    """
    # One identifier per file name makes SVGs reproducible.
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": path.stem}):
        figure = draw()
        if figure is None:
            return False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, format=fmt, dpi=DPI, metadata=_METADATA[fmt])
        except OSError as error:
            raise BadInput(f"output is {str(path.parent)!r}, which cannot be written ({error.strerror})") from None
    return True


def figures(results: Results, game: str | None = None) -> dict[str, Callable[[], Figure | None]]:
    """File name (without ending) to what draws it; None where the results do not hold what it shows.

    Drawing functions are called within :data:`STYLE`.
    """
    figures: dict[str, Callable[[], Figure | None]] = {}
    kinds = {
        "curves": learning_curves,
        "within": within_curves,
        "cross-play": cross_play,
        "profiles": performance_profiles,
        "meta-game": meta_game,
        "adoption": adoption,
    }
    for label in [game] if game else results.games:
        figures |= {
            f"{_file_name(label)}-{kind}": functools.partial(draw, results, label) for kind, draw in kinds.items()
        }
    if game is None:
        figures |= {
            f"card-{card.track.name}-{card.tier}": functools.partial(profiles_of_card, results, card)
            for card in cards_in(results)
        }
        for series in dict.fromkeys(gain.series for gain in players.gains(results)):
            figures[f"{_file_name(series)}-by-players"] = functools.partial(gains_by_players, results, series)
    return figures


def _file_name(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-")


# --- lines --------------------------------------------------------------------------------


def _look(results: Results, label: str) -> dict[str, Any]:
    """How a learner's line is drawn, in every figure."""
    k = results.rank("learner", label)
    return {
        "color": _COLORS[k % len(_COLORS)],
        "linestyle": _DASHES[k % len(_DASHES)],
        "marker": _MARKERS[k % len(_MARKERS)],
        "markeredgewidth": 0.0,
    }


def learning_curves(results: Results, game: str) -> Figure | None:
    """Returns while learning, a panel per learner: in self-play, and both players' against a naive learner.

    Bands are 95 % intervals of the mean over seeds (:mod:`shaping_bench.analysis.curves`).
    """
    if "return" not in results.curve_metrics:
        return None
    alone, bands = curves.self_play_bands(results, "return"), curves.bands(results, "return")
    return _panels_of_curves(results, alone[alone["game"] == game], bands[bands["game"] == game], "update")


def within_curves(results: Results, game: str) -> Figure | None:
    """What final policies get in each step of an episode, as :func:`learning_curves` shows learning."""
    bands = curves.within_bands(results, "return")
    bands = bands[bands["game"] == game]
    # Opponents' names are other categories: a company of two is one, but no learner.
    alone = bands["learner"].astype(str) == bands["opponent"].astype(str)
    return _panels_of_curves(results, bands[alone], bands, "step")


def _panels_of_curves(results: Results, alone: pd.DataFrame, bands: pd.DataFrame, along: str) -> Figure | None:
    learners = [x for x in results.learners if (alone["learner"] == x).any()]
    if not learners:
        return None
    naive = next(
        (x for x in results.labels if results.played[x]["name"] in players.NAIVE and (bands["opponent"] == x).any()),
        None,
    )
    columns = min(_PANELS_PER_ROW, len(learners))
    rows = -(-len(learners) // columns)
    figure = Figure(figsize=(PAGE if columns > 2 else COLUMN, 0.35 + 1.15 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for k, (panel, learner) in enumerate(zip(grid.flat, learners, strict=False)):
        _curve(panel, alone[alone["learner"] == learner], "self-play", 0, along)
        if naive not in (None, learner):
            meetings = bands[(bands["learner"] == learner) & (bands["opponent"] == naive)]
            # Of several naive ones each meets the learner and the other naive ones.
            theirs = bands[(bands["learner"] == naive) & bands["hash"].isin(meetings["hash"])]
            _curve(panel, meetings, f"against {naive}", 1, along)
            _curve(panel, theirs, f"{naive} against it", 2, along)
        panel.set_title(learner)
        panel.tick_params(labelbottom=k + columns >= len(learners))
        panel.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(3, integer=True))
        panel.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    for panel in list(grid.flat)[len(learners) :]:
        panel.set_visible(False)
    figure.supxlabel(along, fontsize=7)
    figure.supylabel("return per step", fontsize=7)
    shown = {
        name: handle for panel in grid.flat for handle, name in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(shown.values()), list(shown), loc="outside upper center", ncols=len(shown))
    return figure


def _curve(panel: Axes, band: pd.DataFrame, name: str, k: int, along: str) -> None:
    """One line with its band; where a pairing has a cell for each order of seats, their mean."""
    if band.empty:
        return
    points = band.groupby(along, sort=True)[["mean", "half"]].mean()
    x, mean, error = points.index.to_numpy(float), points["mean"].to_numpy(float), points["half"].to_numpy(float)
    panel.fill_between(x, mean - error, mean + error, color=_COLORS[k], alpha=0.2, linewidth=0.0)
    every = max(1, len(x) // _MARKED_POINTS)
    panel.plot(x, mean, color=_COLORS[k], linestyle=_DASHES[k], marker=_MARKERS[k], markevery=every, label=name)


def performance_profiles(results: Results, game: str) -> Figure | None:
    """Fraction of runs, over seeds and opponents, that return more than a threshold, with 95 % intervals; of rules
    that all met the same."""
    if "return" not in metric_names(results, "encounter") or not alike(results, "encounter", [game], results.learners):
        return None
    returns = entries(results, "return")
    returns = returns[(returns["game"] == game) & np.isfinite(returns["value"])]
    learners = [x for x in results.learners if (returns["learner"] == x).any()]
    if len(learners) < 2 or not np.ptp(returns["value"]) > 0.0:
        return None
    low, high = np.quantile(returns["value"], [0.005, 0.995])
    levels = np.linspace(low, high, 101)
    figure, panel = _with_legend(len(learners), 2.2)
    for k, learner in enumerate(learners):
        runs, units = _runs(returns[returns["learner"] == learner])
        look = _look(results, learner)
        ends = stats.profile_interval(runs, levels, units, reps=500)
        panel.fill_between(levels, *ends, color=look["color"], alpha=0.12, linewidth=0.0)
        # Markers of different lines stand apart.
        panel.plot(levels, stats.performance_profile(runs, levels), label=learner, markevery=(k % 20, 20), **look)
    panel.set(xlabel=f"return per step in {game}", ylabel="fraction of runs that return more", ylim=(-0.02, 1.02))
    figure.legend(loc="outside right center", ncols=1)
    return figure


def _runs(returns: pd.DataFrame) -> tuple[list[Array], stats.Units]:
    """Runs per task, and what is resampled of them."""
    tasks = [group for _, group in returns.groupby(["game", "task"], sort=False)]
    pools = [task["pool"].iloc[0] for task in tasks]
    units = stats.Units(
        tuple(task["unit"].to_numpy(int) for task in tasks), tuple(pools), tuple(int(pool[1]) for pool in pools)
    )
    return [task["value"].to_numpy(float) for task in tasks], units


def _with_legend(num_lines: int, height: float) -> tuple[Figure, Axes]:
    """A panel with room for a legend of so many lines on its right."""
    figure = Figure(
        figsize=(PAGE if num_lines > 8 else COLUMN, max(height, 0.4 + 0.125 * num_lines)), layout="constrained"
    )
    return figure, figure.subplots()


# --- grids --------------------------------------------------------------------------------


def cross_play(results: Results, game: str) -> Figure | None:
    """What each learner (row) returns against each opponent (column): means over seeds."""
    if "return" not in metric_names(results, "encounter"):
        return None
    built = tables.build(results, "return", game=game, spread="none", bold=False)
    if not built:
        return None
    (table,) = built
    return _heat_map(table.cells, table.row_labels, table.col_labels, ("learner", "opponent"), "return per step")


def adoption(results: Results, game: str) -> Figure | None:
    """What a single adopter (row) gains where everybody else plays another rule (column)."""
    meta = metagame.analyse(results, game)
    if meta is None:
        return None
    gain = meta_tables(meta)[1]
    axes = ("adopter", "everybody else")
    return _heat_map(gain.cells, gain.row_labels, gain.col_labels, axes, "gain in return per step", around_zero=True)


def _heat_map(
    cells: Sequence[Sequence[Entry]],
    rows: Sequence[str],
    cols: Sequence[str],
    axes: tuple[str, str],
    label: str,
    around_zero: bool = False,
) -> Figure:
    values = np.array([[np.nan if cell.mean is None else cell.mean for cell in row] for row in cells], float)
    width = COLUMN if len(cols) <= 6 else PAGE
    labels = 0.06 * max(map(len, rows)) + 0.35
    side = min(0.42, (width - labels - 0.8) / len(cols))
    below = 0.05 * max(map(len, cols)) + 0.35
    figure = Figure(figsize=(width, max(side * 0.8 * len(rows) + below, 1.1)), layout="constrained")
    panel = figure.subplots()
    low, high = _limits(values)
    if around_zero:
        high = max(-low, high)
        low = -high
    palette = matplotlib.colormaps["PuOr" if around_zero else "cividis"]
    picture = panel.pcolormesh(values, cmap=palette, vmin=low, vmax=high, linewidth=0.3, edgecolor="white")
    for (r, c), value in np.ndenumerate(values):
        if np.isfinite(value):
            shade = np.array(palette((np.clip(value, low, high) - low) / (high - low))[:3])
            dark = float(shade**2.2 @ [0.2126, 0.7152, 0.0722]) < 0.19  # where white print has more contrast
            size = min(6.0, side * 13.5)
            text = cells[r][c].text.split(" ")[0] + ("*" if cells[r][c].n < cells[r][c].runs else "")
            text = text.replace("-", "\N{MINUS SIGN}")
            panel.text(c + 0.5, r + 0.5, text, ha="center", va="center", fontsize=size, color="w" if dark else "k")
    fits = 0.06 * max(map(len, cols)) < (width - labels - 0.8) / len(cols)
    turned: dict[str, Any] = {} if fits else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    panel.set_xticks(np.arange(len(cols)) + 0.5, cols, **turned)
    panel.set_yticks(np.arange(len(rows)) + 0.5, rows)
    panel.invert_yaxis()
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    panel.set(ylabel=axes[0], xlabel=axes[1])
    bar = figure.colorbar(picture, ax=panel, fraction=0.03, pad=0.01, label=label, extend=_extend(values, low, high))
    # As a drawing too; edges close the seams between its steps.
    if bar.solids is not None:
        bar.solids.set(rasterized=False, edgecolor="face")
    bar.outline.set_visible(False)
    bar.ax.tick_params(width=0.5)
    return figure


def _limits(values: Array) -> tuple[float, float]:
    """Range of the finite values; of their bulk, where a few have run away."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    inner = np.quantile(finite, [0.1, 0.9])
    if high - low > 20.0 * max(float(inner[1] - inner[0]), 1e-12):
        low, high = float(inner[0]), float(inner[1])
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _extend(values: Array, low: float, high: float) -> str:
    below, above = bool((values < low).any()), bool((values > high).any())
    return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[below, above]


# --- cards --------------------------------------------------------------------------------


def profiles_of_card(results: Results, card: Card) -> Figure:
    """The scores of a card with 95 % intervals, a panel per score, a row per rule, best first."""
    rows = card.rows
    figure = Figure(figsize=(PAGE, 0.55 + 0.14 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(COLUMNS), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, COLUMNS, strict=True):
        panel.axvline(0.0, color="#C8CDD2", linewidth=0.5)
        for y, row in enumerate(rows):
            score, look = row[name], _look(results, row["learner"])
            if score["value"] is not None:
                ends = [score["low"], score["high"]]
                panel.plot(ends, [y, y], color=look["color"], linewidth=3.0, alpha=0.35, solid_capstyle="butt")
                panel.plot(score["value"], y, color=look["color"], marker=look["marker"], linestyle="none")
        panel.set_title(name)
        panel.grid(axis="x", linewidth=0.3, alpha=0.5)
        panel.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(3))
        panel.spines["left"].set_visible(False)
        panel.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(rows)), [name_of(row) for row in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel(f"share ({card.title})", fontsize=7)
    return figure


# --- numbers of players -------------------------------------------------------------------


def gains_by_players(results: Results, series: str) -> Figure:
    """What a learner gains where it takes the seat of one of N naive learners, what the others gain by it, and its gain
    as a share of what naive learners leave of the social optimum, where the games have one, by N; bars are 95 %
    intervals over what was drawn anew, of learners that prepare their preparations."""
    found = [gain for gain in players.gains(results) if gain.series == series]
    shown = {"own": "own gain", "others": "gain of the others"}
    if all(np.isfinite(gain.optimum) for gain in found):
        shown["share"] = "own gain as a share"
    figure = Figure(figsize=(COLUMN if len(shown) < 3 else PAGE, 2.0), layout="constrained")
    panels = figure.subplots(1, len(shown), sharex=True)
    for panel, (name, title) in zip(panels, shown.items(), strict=True):
        panel.axhline(0.0, color="#C8CDD2", linewidth=0.5)
        for learner in dict.fromkeys(gain.learner for gain in found):
            rows = [gain for gain in found if gain.learner == learner]
            x = [gain.players for gain in rows]
            y, half = zip(*(players.with_half(getattr(gain, name)) for gain in rows), strict=True)
            panel.errorbar(x, y, yerr=half, label=learner, elinewidth=0.8, **_look(results, learner))
        panel.set_title(title)
        panel.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        panel.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    figure.supxlabel(f"players ({series})", fontsize=7)
    figure.supylabel("return per step over N naive learners", fontsize=7)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


# --- the meta-game ------------------------------------------------------------------------


def meta_game(results: Results, game: str) -> Figure | None:
    """Alpha-rank with 95 % intervals, its sweep over the strength of selection, and replicator dynamics."""
    meta = metagame.analyse(results, game)
    if meta is None:
        return None
    num = len(meta.rules)
    figure = Figure(figsize=(PAGE, max(1.9, 0.5 + 0.13 * num)), layout="constrained")
    bars, sweep, path = figure.subplots(1, 3)
    y = np.arange(num)
    error = np.abs(meta.alpha_rank_ci.T - meta.alpha_rank)
    bars.barh(y, meta.alpha_rank, height=0.7, color="#9AA4AF", xerr=error, error_kw={"linewidth": 0.8, "capsize": 1.5})
    bars.set_yticks(y, meta.rules)
    bars.set(ylim=(num - 0.5, -0.5), xlim=(0.0, 1.02), xlabel="alpha-rank (mass)")
    uniform = meta.trajectories[0]
    later = uniform.times > 0.0
    curves = (
        (sweep, meta.alphas, meta.alpha_sweep, f"selection {TIMES} range of payoffs", "alpha-rank (mass)"),
        (path, uniform.times[later], uniform.shares[later], f"time {TIMES} return", "share (replicator dynamics)"),
    )
    for panel, x, shares, xlabel, ylabel in curves:
        for i, rule in enumerate(meta.rules):
            # Of many rules, those that never matter share one grey.
            seen = num <= len(_COLORS) or max(meta.alpha_sweep[:, i].max(), uniform.shares[:, i].max()) > 2.0 / num
            look: dict[str, Any] = _look(results, rule) if seen else {"color": "#C8CDD2", "linewidth": 0.5}
            every = (i % 10, max(1, len(x) // _MARKED_POINTS)) if seen else None
            panel.plot(x, shares[:, i], label=rule if seen else None, markevery=every, zorder=2 + seen, **look)
        panel.set_xscale("log")
        panel.set(ylim=(-0.02, 1.02), xlabel=xlabel, ylabel=ylabel)
    handles, labels = sweep.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right center")
    return figure
