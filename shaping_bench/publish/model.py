"""What a comparison table is, whoever fills it and whoever writes it.

A number is formatted once, in :class:`Entry`; every writer prints those digits.
"""

import dataclasses
import math
from typing import Literal

from shaping_bench.analysis import stats
from shaping_bench.analysis.entries import Sample
from shaping_bench.errors import unknown
from shaping_bench.publish import digits

SPREADS = ("std", "se", "ci", "none")

Statistic = Literal["mean", "median", "iqm"]
Spread = Literal["std", "se", "ci", "none"]

ABSENT = "\N{EN DASH}"
"""What stands where there is nothing."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry of a table.

    Attributes:
      text: what every format prints.
      mean, std, median, iqm: statistics of the finite runs; None where there is none.
      se: standard error of the mean.
      ci: 95 % bootstrap interval of the table's statistic, where it was asked for.
      n: finite runs that entered.
      runs: all runs (seeds, times the tasks an average runs over).
      diverged: runs whose learning diverged; the others that miss have no value.
      hashes: the stored cells it comes from.
      best: whether it is the best of those it is compared with, or not distinguishable from it.
    """

    text: str
    _: dataclasses.KW_ONLY
    mean: float | None = None
    std: float | None = None
    median: float | None = None
    iqm: float | None = None
    se: float | None = None
    ci: tuple[float, float] | None = None
    n: int = 0
    runs: int = 0
    diverged: int = 0
    hashes: tuple[str, ...] = ()
    best: bool = False


def count(x: int, text: str | None = None) -> Entry:
    """A whole number that was counted, no statistic of runs."""
    return Entry(text or str(x), mean=float(x), n=1, runs=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A grid of entries with labels.

    Attributes:
      title, note: what it shows, and what a reader of the numbers must know.
      rows, cols: what its rows and columns are, e.g. learner and opponent; ``cols`` is empty where
        each column is something else.
      row_labels, col_labels: their names.
      cells: ``(R, C)``.
      decimals: of the texts.
    """

    title: str
    note: str
    rows: str
    cols: str
    row_labels: tuple[str, ...]
    col_labels: tuple[str, ...]
    cells: tuple[tuple[Entry, ...], ...]
    decimals: int = 2

    @property
    def corner(self) -> str:
        return f"{self.rows} / {self.cols}" if self.cols else self.rows

    def column(self, label: str) -> tuple[Entry, ...]:
        """The entries below a heading."""
        k = self.col_labels.index(label)
        return tuple(row[k] for row in self.cells)


# --- from runs to an entry ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
    """How tables show their numbers.

    Attributes:
      statistic: of the runs.
      spread: ``"std"`` over seeds, ``"se"`` (standard error of the mean), ``"ci"`` (95 %,
        stratified bootstrap of the statistic) or ``"none"``.
      show_n: whether entries say how many runs they are from; they do where some were lost.
      bold: whether the best learner against each opponent is marked, with all that the runs do
        not tell apart from it (see :func:`shaping_bench.analysis.compare.best`).
    """

    statistic: Statistic = "mean"
    spread: Spread = "std"
    show_n: bool = False
    bold: bool = True

    def check(self) -> None:
        """
        Raises:
          BadInput: an unknown statistic or spread.
        """
        for name, value, allowed in (
            ("statistic", self.statistic, stats.STATISTICS),
            ("spread", self.spread, SPREADS),
        ):
            if value not in allowed:
                raise unknown(name, value, allowed)


def entry(behind: Sample | None, style: Style, decimals: int) -> Entry:
    """What a table shows of the runs of an entry."""
    if behind is None:
        return Entry(ABSENT)
    aggregate = behind.aggregate
    center = getattr(aggregate, style.statistic)
    ends = behind.interval(stats.STATISTICS[style.statistic]) if style.spread == "ci" and aggregate.n else None
    text = digits.number(center, decimals) if aggregate.n else ABSENT
    if ends is not None:
        text = digits.with_interval(center, ends, decimals)
    elif style.spread == "std" and math.isfinite(aggregate.std):
        text += f" ± {digits.number(aggregate.std, decimals)}"
    elif style.spread == "se" and math.isfinite(behind.standard_error):
        text += f" ± {digits.number(behind.standard_error, decimals)}"
    if aggregate.n < aggregate.runs:
        text += f" (n={aggregate.n}/{aggregate.runs})"
    elif style.show_n:
        text += f" (n={aggregate.n})"
    return Entry(
        text,
        mean=_finite(aggregate.mean),
        std=_finite(aggregate.std),
        median=_finite(aggregate.median),
        iqm=_finite(aggregate.iqm),
        se=_finite(behind.standard_error),
        ci=ends,
        n=aggregate.n,
        runs=aggregate.runs,
        diverged=behind.diverged,
        hashes=behind.hashes,
    )


def _finite(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None


def plain(x: float | None, decimals: int) -> Entry:
    """A number without runs behind it; absent if there is none."""
    return Entry(ABSENT) if x is None else Entry(digits.number(x, decimals), mean=float(x), n=1, runs=1)
