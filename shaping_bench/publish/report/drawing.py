"""Small figures as inline SVG, drawn with the page's own colours and fonts.

matplotlib's SVG of hundreds of panels takes half a minute and twice the bytes, and cannot
follow the reader's light or dark: these are a few paths each, coloured by the style sheet.
No figure tells lines or marks apart by colour alone.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
from numpy.typing import NDArray

from shaping_bench.games.matrix.repeated import state_names
from shaping_bench.publish.digits import significant
from shaping_bench.publish.model import Table
from shaping_bench.publish.report.markup import breakable, escape, region

Array = NDArray[np.float64]

NUM_LINES = 4
"""Line styles of the style sheet; further lines begin anew."""

STATES = state_names(2)
"""Of a memory-one policy, own last action first."""

_WIDTH, _HEIGHT = 240, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 6, 7, 19


@dataclasses.dataclass(frozen=True)
class Line:
    """A named line.

    Attributes:
      x, mean: ``(R,)``.
      spread, interval: widths of a lighter and of a darker band around it: ``(R,)``, or ``(2, R)``
        of what lies below and above.
    """

    name: str
    x: Array
    mean: Array
    spread: Array | None = None
    interval: Array | None = None


def limits(values: Iterable[float], margin: float = 0.04) -> tuple[float, float]:
    """Range of the values, widened by a share of itself; of their bulk, where a few have run away."""
    finite = np.array([x for x in values if math.isfinite(x)])
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    inner = np.quantile(finite, [0.05, 0.95])
    if high - low > 100.0 * max(float(inner[1] - inner[0]), 1e-12) and high - low > 1000.0:
        low, high = float(inner[0]), float(inner[1])
    around = margin * (high - low) if high > low else 0.5
    return low - around, high + around


class _Axes:
    """A panel: maps data to its pixels, and draws ticks."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self._x, self._y = x, y

    def at(self, x: NDArray[Any], y: NDArray[Any]) -> Array:
        """Pixels ``(R, 2)``; what lies outside is drawn at the nearest edge, a margin outside."""
        across = (x - self._x[0]) / ((self._x[1] - self._x[0]) or 1.0)
        up = (y - self._y[0]) / ((self._y[1] - self._y[0]) or 1.0)
        px = _LEFT + across * (_WIDTH - _LEFT - _RIGHT)
        py = _HEIGHT - _BOTTOM - np.clip(up, -0.02, 1.02) * (_HEIGHT - _TOP - _BOTTOM)
        return np.stack([px, py], axis=-1)

    def rulers(self, y_ticks: Sequence[float] | None = None) -> str:
        """Horizontal rules with their numbers."""
        ticks = y_ticks if y_ticks is not None else _ticks(*self._y)
        rows = [float(self.at(np.array(0.0), np.array(y))[1]) for y in ticks]
        rules = "".join(f"M{_LEFT} {_px(row)}H{_WIDTH - _RIGHT}" for row in rows)
        numbers = "".join(
            f'<text class="y" x="{_LEFT - 5}" y="{_px(row + 3)}">{_tick(y)}</text>'
            for y, row in zip(ticks, rows, strict=True)
        )
        return f'<path class="grid" d="{rules}"/>{numbers}'

    def below(self, x: float, text: str, anchor: str = "middle") -> str:
        """A label under the panel."""
        column = float(self.at(np.array(x), np.array(0.0))[0])
        return f'<text x="{_px(column)}" y="{_HEIGHT - 5}" text-anchor="{anchor}">{escape(text)}</text>'


@functools.lru_cache(maxsize=64)
def _ticks(low: float, high: float) -> tuple[float, ...]:
    values = matplotlib.ticker.MaxNLocator(4).tick_values(low, high)
    return tuple(float(x) for x in values if low <= x <= high)


def _tick(x: float) -> str:
    return significant(x, 3)


def _px(x: float) -> str:
    return f"{x:.1f}".removesuffix(".0")


def _path(points: Array) -> str:
    return "M" + "L".join(f"{_px(x)} {_px(y)}" for x, y in points)


def _svg(inside: str, title: str, width: int = _WIDTH, height: int = _HEIGHT) -> str:
    return f'<svg class="plot" role="img" aria-label="{escape(title)}" viewBox="0 0 {width} {height}">{inside}</svg>'


def sample(k: int) -> str:
    """A short piece of line ``k``, for a key."""
    return (
        f'<svg class="sample" aria-hidden="true" viewBox="0 0 24 8"><path class="line l{k % NUM_LINES}" '
        'd="M0 4h24"/></svg>'
    )


def line_panel(
    lines: Sequence[Line],
    title: str,
    y_limits: tuple[float, float],
    caption: str,
    *,
    log: bool = False,
    marked: tuple[float, str] | None = None,
) -> str:
    """Lines with their bands; more than one have a key that shows how each is drawn.

    Args:
      log: whether x, then positive, is drawn on a logarithmic axis.
      marked: a value of x with its name, drawn as a vertical line.
    """
    scaled = np.log10 if log else np.asarray
    xs = np.concatenate([line.x for line in lines])
    low, high = float(xs.min()), float(xs.max())
    axes = _Axes((float(scaled(low)), float(scaled(high))), y_limits)
    elements = []
    for k, line in enumerate(lines):
        for kind, width in (("", line.spread), (" mean", line.interval)):
            if width is not None:
                below, above = np.broadcast_to(width, (2, len(line.x)))
                edges = [axes.at(scaled(line.x), line.mean + above), axes.at(scaled(line.x), line.mean - below)[::-1]]
                elements.append(f'<path class="band{kind} f{k % NUM_LINES}" d="{_path(np.concatenate(edges))}z"/>')
    for k, line in enumerate(lines):
        elements.append(f'<path class="line l{k % NUM_LINES}" d="{_path(axes.at(scaled(line.x), line.mean))}"/>')
    ends = axes.below(float(scaled(low)), _tick(low), "start") + axes.below(float(scaled(high)), _tick(high), "end")
    if marked is not None and low <= marked[0] <= high:
        column = _px(float(axes.at(scaled(np.array(marked[0])), np.array(0.0))[0]))
        elements.append(f'<path class="assumed" d="M{column} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        if low < marked[0] < high:
            ends += axes.below(float(scaled(marked[0])), marked[1])
    names = "".join(f"<span>{sample(k)}{escape(line.name)}</span>" for k, line in enumerate(lines))
    key = f'<span class="key">{names}</span>' if len(lines) > 1 else ""
    picture = _svg(axes.rulers() + ends + "".join(elements), title)
    return f"<figure>{picture}<figcaption>{escape(caption)}{key}</figcaption></figure>"


def strip_panel(columns: Sequence[tuple[str, Array]], title: str, caption: str) -> str:
    """Values in [0, 1], one dot each, by column; a bar at each column's mean.

    Args:
      columns: name and finite values ``(N,)``.
    """
    axes = _Axes((-0.5, len(columns) - 0.5), (0.0, 1.0))
    # Dots beside one another by a fixed low-discrepancy sequence: the same page every time.
    dots, bars, names = [], [], []
    for k, (name, values) in enumerate(columns):
        names.append(axes.below(k, name))
        if not len(values):
            continue
        aside = ((np.arange(len(values)) * 0.6180339887) % 1.0 - 0.5) * 0.6
        dots += [f"M{_px(x)} {_px(y)}h0" for x, y in axes.at(k + aside, values)]
        bars.append(_path(axes.at(np.array([k - 0.36, k + 0.36]), np.full(2, values.mean()))))
    inside = (
        f'{axes.rulers((0.0, 0.5, 1.0))}{"".join(names)}<path class="dots" d="{"".join(dots)}"/>'
        f'<path class="bar" d="{"".join(bars)}"/>'
    )
    return f"<figure>{_svg(inside, title)}<figcaption>{escape(caption)}</figcaption></figure>"


def profile_panel(
    scores: Sequence[tuple[str, float | None, float | None, float | None]],
    beside: Sequence[float | None],
    title: str,
    caption: str,
    address: str = "",
    y_limits: tuple[float, float] = (-1.0, 1.0),
) -> str:
    """Scores side by side, a dot each with its interval.

    Args:
      scores: name, value and ends of its interval; None where there is none.
      beside: values of another rule, a short bar each.
      address: where the picture leads; nowhere if empty.
      y_limits: of the scores.
    """
    axes = _Axes((-0.5, len(scores) - 0.5), y_limits)
    row = _px(float(axes.at(np.array(0.0), np.array(0.0))[1]))
    zero = f'<path class="zero" d="M{_LEFT} {row}H{_WIDTH - _RIGHT}"/>' if y_limits[0] <= 0.0 <= y_limits[1] else ""
    whiskers, dots, bars, names = [], [], [], []
    for k, ((name, value, low, high), other) in enumerate(zip(scores, beside, strict=True)):
        names.append(axes.below(k, name))
        if other is not None:
            bars.append(_path(axes.at(np.array([k - 0.3, k + 0.3]), np.full(2, other))))
        if value is None:
            continue
        x, y = axes.at(np.array(float(k)), np.array(value))
        dots.append(f"M{_px(x)} {_px(y)}h0")
        if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
            whiskers.append(_path(axes.at(np.full(2, float(k)), np.array([low, high]))))
    inside = (
        f"{axes.rulers((-1.0, 0.0, 1.0) if y_limits == (-1.0, 1.0) else None)}{''.join(names)}{zero}"
        f'<path class="beside" d="{"".join(bars)}"/><path class="whisker" d="{"".join(whiskers)}"/>'
        f'<path class="point" d="{"".join(dots)}"/>'
    )
    picture = _svg(inside, title)
    if address:
        picture = f'<a href="{escape(address)}" aria-label="{escape(title)}">{picture}</a>'
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


_MARKS = {
    "start": "m-3 0h6m-3-3v6",
    "CC": "m-2.5-2.5h5v5h-5z",
    "CD": "m0-3.2l3 5.4h-6z",
    "DC": "m0 3.2l3-5.4h-6z",
    "DD": "m-2.5-2.5l5 5m0-5l-5 5",
}
"""Shape of each state: plus, square, triangle up and down, cross."""


def mark(state: str, x: float, y: float) -> str:
    """Path of a state's mark."""
    return f"M{_px(x)} {_px(y)}{_MARKS[state]}"


def plane_panel(states: Sequence[tuple[str, Array, Array]], title: str, caption: str) -> str:
    """Two players' probabilities against one another in the unit square, as in LOLA's figures of policies.

    Args:
      states: name, and per seed player 1's ``(S,)`` and player 2's ``(S,)``.
    """
    side, margin = 200, 26
    inner = side - 2 * margin
    elements = [
        f'<path class="grid" d="M{margin} {margin}h{inner}v{inner}h-{inner}z'
        f'M{margin + inner / 2:g} {margin}v{inner}M{margin} {margin + inner / 2:g}h{inner}"/>',
        f'<text x="{margin}" y="{side - 12}">0</text><text x="{side - margin}" y="{side - 12}" '
        f'text-anchor="end">1</text><text x="{side / 2:g}" y="{side - 12}" text-anchor="middle">player 1</text>'
        f'<text class="y" x="{margin - 4}" y="{side - margin}">0</text>'
        f'<text class="y" x="{margin - 4}" y="{margin + 8}">1</text>'
        f'<text text-anchor="middle" transform="translate({margin - 8} {side / 2:g}) rotate(-90)">player 2</text>',
    ]
    for name, first, second in states:
        marks = "".join(
            mark(name, margin + a * inner, margin + (1 - b) * inner)
            for a, b in zip(first, second, strict=True)
            if math.isfinite(a) and math.isfinite(b)
        )
        elements.append(f'<path class="mark s{STATES.index(name)}" d="{marks}"/>')
    return f"<figure>{_svg(''.join(elements), title, side, side)}<figcaption>{escape(caption)}</figcaption></figure>"


def marks_key() -> str:
    """What each mark of a :func:`plane_panel` means."""
    entries = "".join(
        f'<span><svg class="sample mark-sample" aria-hidden="true" viewBox="0 0 12 12"><path class="mark s{k}" '
        f'd="{mark(state, 6, 6)}"/></svg>{state}</span>'
        for k, state in enumerate(STATES)
    )
    return f'<p class="key">{entries}</p>'


# --- heat maps ----------------------------------------------------------------------------


def _luminance(color: Array) -> float:
    """Relative luminance of WCAG 2, of sRGB in [0, 1]."""
    linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def shade(share: float) -> str:
    """Style of an entry: viridis, dark for 0 to light for 1, and whichever of black and white reads better."""
    color = np.asarray(matplotlib.colormaps["viridis"](float(np.clip(share, 0.0, 1.0)))[:3])
    # Black and white tie at a luminance of 0.179, where both have a contrast of 4.6.
    ink = "#000" if _luminance(color) > 0.179 else "#fff"
    return f"background:{matplotlib.colors.to_hex(tuple(color))};color:{ink}"


def heat_map(
    table: Table,
    low_high: tuple[float, float] | None = None,
    link: Callable[[tuple[str, ...]], str | None] | None = None,
    row_identity: Callable[[str], str] | None = None,
    note: str = "",
) -> str:
    """A table's means without their spreads, darkest to lightest; numbers are links to their cells.

    Args:
      low_high: values of the darkest and of the lightest; by default the table's range.
      link: see :func:`shaping_bench.publish.writers.html.html_table`.
      row_identity: from a row's label to its identifier.
    """
    means = [cell.mean for row in table.cells for cell in row if cell.mean is not None]
    low, high = low_high or limits(means, margin=0.0)
    head = "".join(f'<th scope="col"><span>{breakable(x)}</span></th>' for x in table.col_labels)
    lines = []
    for label, row in zip(table.row_labels, table.cells, strict=True):
        entries = []
        for cell in row:
            text = escape(cell.text.split(" ")[0]) + ("*" if cell.n < cell.runs else "")
            text = f"<strong>{text}</strong>" if cell.best else text
            address = link(cell.hashes) if link and cell.hashes else None
            shown = text if address is None else f'<a href="{escape(address)}">{text}</a>'
            style = "" if cell.mean is None else f' style="{shade((cell.mean - low) / (high - low))}"'
            entries.append(f"<td{style}>{shown}</td>")
        identity = f' id="{row_identity(label)}"' if row_identity else ""
        lines.append(f'<tr{identity}><th scope="row">{breakable(label)}</th>{"".join(entries)}</tr>')
    stops = ",".join(shade(k / 8).split(";")[0].removeprefix("background:") for k in range(9))
    scale = (
        f'<span class="scale"><span>{_tick(low)}</span><span class="ramp" style="background:linear-gradient('
        f'90deg,{stops})"></span><span>{_tick(high)}</span></span>'
    )
    said = f" <small>{escape(note)}</small>" if note else ""
    return region(
        table.title,
        f'<table class="heat"><caption><span>{escape(table.title)}</span>{said}{scale}</caption>\n'
        f'<thead><tr><th scope="col">{escape(table.corner)}</th>{head}</tr></thead>\n'
        f"<tbody>{''.join(lines)}</tbody></table>",
    )
