"""What an update costs: values and gradients asked for, and environment steps played.

Counted while an update is traced, so that a price costs nothing at run time. A body that a
compiled loop repeats is traced once: wrap the tracing in :func:`repeated`.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator


@dataclasses.dataclass
class Costs:
    """Of one update of one seed.

    Attributes:
      evaluations: values and gradients of the exact game.
      steps: joint actions played in the environment, imagined ones included.
    """

    evaluations: int = 0
    steps: int = 0


_costs: contextvars.ContextVar[Costs | None] = contextvars.ContextVar("costs", default=None)
_times: contextvars.ContextVar[int] = contextvars.ContextVar("times", default=1)


def charge(*, evaluations: int = 0, steps: int = 0) -> None:
    """Adds to the count of the block that is counting, if any."""
    costs = _costs.get()
    if costs is not None:
        costs.evaluations += _times.get() * evaluations
        costs.steps += _times.get() * steps


@contextlib.contextmanager
def counting() -> Iterator[Costs]:
    """Counts what is charged inside the block, in this thread; trace an update in it."""
    costs = Costs()
    token = _costs.set(costs)
    try:
        yield costs
    finally:
        _costs.reset(token)


@contextlib.contextmanager
def repeated(times: int) -> Iterator[None]:
    """What is charged inside the block counts ``times`` times: the body of a loop."""
    token = _times.set(_times.get() * times)
    try:
        yield
    finally:
        _times.reset(token)
