"""Schelling diagrams for people: as text and as a figure."""

import functools
from pathlib import Path
from typing import Any

import matplotlib.ticker
import numpy as np
from matplotlib.figure import Figure
from tabulate import tabulate

from shaping_bench.analysis.schelling import CONDITIONS, Curve, Diagram
from shaping_bench.errors import BadInput
from shaping_bench.publish import digits
from shaping_bench.publish.figures import COLUMN, FORMATS, write_figure

SAID = {True: "yes", False: "no", None: "undecided"}
"""What is said of a condition."""

COLUMNS = ("others who cooperate", "a cooperator gets", "a defector gets", "gain of defecting")


def rows(diagram: Diagram) -> list[tuple[str, ...]]:
    """A row of :data:`COLUMNS` for every number of others who cooperate."""
    curves = (diagram.cooperate, diagram.defect, diagram.gain)
    decimals = digits.decimals([x for curve in curves for x in curve.mean])

    def shown(curve: Curve, k: int) -> str:
        margin = f" ± {digits.number(curve.half[k], decimals)}" if curve.half[k] else ""
        return digits.number(curve.mean[k], decimals) + margin

    return [(str(k), *(shown(curve, k) for curve in curves)) for k in range(len(diagram.defect.mean))]


def origin(diagram: Diagram) -> str:
    """Where its numbers come from."""
    trained = f", trained for {diagram.steps} updates of {diagram.seeds} seeds" if diagram.steps else ""
    how = "exact" if diagram.exact else f"{diagram.episodes} episodes per row, with 95 % intervals"
    return f"cooperator {diagram.cooperator}, defector {diagram.defector}{trained}; returns per step, {how}"


def text(diagram: Diagram) -> str:
    """The table, the means of groups, and which conditions of a dilemma hold."""
    decimals = digits.decimals(diagram.group.mean)
    group = ", ".join(f"{k}: {digits.number(x, decimals)}" for k, x in enumerate(diagram.group.mean))
    parts = [
        f"{diagram.game}: {origin(diagram)}",
        tabulate(rows(diagram), COLUMNS, disable_numparse=True, colalign=("left", *["right"] * 3)),
        f"mean of all, by cooperators: {group}",
        "\n".join(f"{CONDITIONS[name]}: {SAID[found]}" for name, found in diagram.conditions.items()),
    ]
    return "\n\n".join(parts)


def figure(diagram: Diagram) -> Figure:
    """Both curves over the number of others who cooperate, and the mean of the group at the same share of
    cooperators; bars are 95 % intervals."""
    drawn = Figure(figsize=(COLUMN, 2.2), layout="constrained")
    panel = drawn.subplots()
    n = len(diagram.defect.mean)
    for curve, name, colour, marker, dashes, x in (
        (diagram.cooperate, "a cooperator", "#0072B2", "o", "-", np.arange(n)),
        (diagram.defect, "a defector", "#D55E00", "s", (0, (5, 1.5)), np.arange(n)),
        (diagram.group, "mean of all", "#000000", "", (0, (1, 1)), np.linspace(0, n - 1, n + 1)),
    ):
        look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": dashes, "elinewidth": 0.8}
        panel.errorbar(x, curve.mean, yerr=curve.half if curve.half.any() else None, label=name, **look)
    panel.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    panel.set(xlabel="others who cooperate", ylabel="return per step", title=diagram.game)
    drawn.legend(loc="outside lower center", ncols=3)
    return drawn


def format_of(path: Path) -> str:
    """The format that a file's ending says.

    Raises:
      BadInput: it says another.
    """
    fmt = path.suffix.removeprefix(".")
    if fmt not in FORMATS:
        raise BadInput(f"--output is {str(path)!r}; allowed: a file that ends in {', '.join(f'.{x}' for x in FORMATS)}")
    return fmt


def write(diagram: Diagram, path: Path) -> None:
    """Draws the diagram into a file.

    Raises:
      BadInput: an ending of no format, or a folder that cannot be written.
    """
    write_figure(functools.partial(figure, diagram), path, format_of(path))
