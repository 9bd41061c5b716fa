"""Spaces: what an action or an observation may be.

A space belongs to the program, not to the data: it is hashable and holds no arrays. What is
drawn on one is in :mod:`shaping_bench.algorithms.core.distributions`.
"""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Discrete:
    """One of ``n`` choices, the integers below ``n``.

    >>> Discrete(4)
    Discrete(n=4)
    """

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n is {self.n!r}; allowed: a whole number of choices, at least 1")


@dataclasses.dataclass(frozen=True)
class Box:
    """Real numbers between ``low`` and ``high``, in an array of that shape.

    >>> Box(0.0, 1.0, (3,)).size
    3
    """

    low: float
    high: float
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if not self.low < self.high:
            raise ValueError(f"low, high are {self.low!r}, {self.high!r}; allowed: the smaller number first")

    @property
    def size(self) -> int:
        """How many numbers."""
        count = 1
        for length in self.shape:
            count *= length
        return count


@dataclasses.dataclass(frozen=True)
class Product:
    """An element of each part, as a tuple in their order.

    >>> Product([Discrete(2), Box(0.0, 1.0)]).parts[0].n
    2
    """

    parts: tuple["Space", ...]

    def __init__(self, parts: Sequence["Space"]) -> None:
        object.__setattr__(self, "parts", tuple(parts))


Space = Discrete | Box | Product
"""Any of them."""
