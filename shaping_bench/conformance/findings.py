"""What a check says, and how numbers are compared."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from shaping_bench.algorithms.core import AccessError


@dataclasses.dataclass(frozen=True)
class Finding:
    """One check: what it is about, whether it holds, and what was seen."""

    name: str
    passed: bool
    detail: str = ""

    @property
    def check(self) -> str:
        """The name without the game it was checked on."""
        return self.name.rpartition(": ")[2]

    def __str__(self) -> str:
        return f"{'ok     ' if self.passed else 'MISSING'}  {self.name}" + (f": {self.detail}" if self.detail else "")


class Note(str):
    """What a check that holds has to add."""


def attempt(name: str, check: Callable[[], str | None]) -> Finding:
    """A check returns what is wrong, None, or a :class:`Note`; an exception is a finding too."""
    try:
        wrong = check()
    except AccessError as error:
        return Finding(name, False, f"{error}; declare that access, or do without")
    except Exception as error:
        return Finding(name, False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    return Finding(name, wrong is None or isinstance(wrong, Note), str(wrong or ""))


def attempts(where: str, checks: Mapping[str, Callable[[], str | None]]) -> list[Finding]:
    return [attempt(f"{where}: {what}" if where else what, check) for what, check in checks.items()]


def plain(facts: Callable[[], Any]) -> str:
    """Facts as JSON.

    Raises:
      ValueError: they cannot be stored as such.
    """
    try:
        return json.dumps(facts(), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"facts() is not plain JSON: {error}") from None


def near(x: Any, y: Any, tolerance: float = 0.0) -> bool:
    """Whether two trees of one structure hold the same numbers; tolerance relative to the largest."""
    pairs = list(zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))
    if not tolerance:
        return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
    scale = max([1.0, *(float(np.abs(b).max()) for _, b in pairs if np.size(b) and np.isfinite(b).all())])
    return all(np.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True) for a, b in pairs)


def all_finite(tree: Any) -> bool:
    return all(np.isfinite(x).all() for x in jax.tree.leaves(tree))
