"""How numbers are written: the one place that decides their digits.

Tables of every format, figures and the page print what these functions return.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

MINUS = "\N{MINUS SIGN}"


def decimals(values: Iterable[float]) -> int:
    """Decimals for numbers that stand together: two, or as many as leave the largest two digits.

    At most six; none for large counts.

    >>> decimals([0.5, -2.0]), decimals([0.0123]), decimals([4096.0, 12.0])
    (2, 3, 0)
    """
    finite = [x for x in values if math.isfinite(x)]
    largest = max(map(abs, finite), default=1.0)
    if largest >= 1000 and all(x == round(x) for x in finite):
        return 0
    return 2 if largest == 0 else int(np.clip(1 - math.floor(math.log10(largest)), 2, 6))


def decimals_of_range(span: float) -> int:
    """Two, or as many as show a hundredth of a range.

    >>> decimals_of_range(3.0), decimals_of_range(0.01)
    (2, 4)
    """
    return int(np.clip(2 - math.floor(math.log10(span)), 2, 6))


def number(x: float, decimals: int) -> str:
    """One number; beyond a million in scientific notation, and zero without a sign.

    >>> number(-1.036, 2), number(-0.001, 2), number(1.5e8, 2)
    ('-1.04', '0.00', '1.50e+08')
    """
    text = f"{x:.2e}" if abs(x) >= 1e6 else f"{x:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text


def with_interval(x: float, ends: tuple[float, float], decimals: int) -> str:
    """A number and the ends of its interval.

    >>> with_interval(1.0, (0.5, 1.25), 2)
    '1.00 [0.50, 1.25]'
    """
    low, high = (number(end, decimals) for end in ends)
    return f"{number(x, decimals)} [{low}, {high}]"


def signed(x: float) -> str:
    """A change of two decimals, for sentences: with its sign, a typographic minus.

    >>> signed(0.25)
    '+0.25'
    """
    return f"{x:+.2f}".replace("-", MINUS)


def significant(x: float, digits: int) -> str:
    """A number of so many significant digits, for axes and lists of unlike numbers.

    >>> significant(0.12345, 3)
    '0.123'
    """
    text = f"{x:.{digits}g}"
    return (text if text != "-0" else "0").replace("-", MINUS, 1) if x < 0 else text


def brief(x: float) -> str:
    """A count in two digits, for narrow columns.

    >>> brief(0.0), brief(740.0), brief(26_400.0), brief(5.76e7)
    ('0', '740', '26k', '58M')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= 0.995 * size:
            return f"{float(f'{x / size:.2g}'):g}{unit}"
    return f"{float(f'{x:.2g}'):g}"


def preparation_cost(preparations: Sequence[Mapping[str, Any]]) -> str:
    """What preparations cost together, in words."""
    parts = []
    for key, unit in (("gradient_evaluations", "gradient evaluations"), ("environment_steps", "environment steps")):
        total = sum(x[key] for x in preparations)
        parts += [f"{total:.1e} {unit}"] if total else []
    return ", ".join([*parts, f"{sum(x['seconds'] for x in preparations):.0f} s"])
