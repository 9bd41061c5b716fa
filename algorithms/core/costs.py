"""What an update costs: values and gradients asked for, and environment steps played.

Counted while an update is traced, so that a price costs nothing at run time. A body that a
compiled loop repeats is traced once: wrap the tracing in :func:`repeated`. Of branches all are
traced and one is taken: wrap each in :func:`either`. And a function that an update jits for itself
is traced once in a process and only looked up afterwards, without charging anything: leave ``jit``
to the harness, which compiles updates whole, or charge outside of the jitted function.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator


@dataclasses.dataclass
class Costs:
    """Of one update of one seed; where chance decides what is done, its expectation.

    Attributes:
      evaluations: values and gradients of the exact game.
      steps: joint actions played in the environment, imagined ones included.
    """

    evaluations: float = 0
    steps: float = 0


_costs: contextvars.ContextVar[Costs | None] = contextvars.ContextVar("costs", default=None)
_times: contextvars.ContextVar[float] = contextvars.ContextVar("times", default=1)


def charge(*, evaluations: int = 0, steps: int = 0) -> None:
    """Adds to the count of the block that is counting, if any."""
    costs = _costs.get()
    if costs is not None:
        costs.evaluations += _times.get() * evaluations
        costs.steps += _times.get() * steps


@contextlib.contextmanager
def counting() -> Iterator[Costs]:
    """Counts what is charged inside the block, in this thread; trace an update in it. At its end the
    counts are whole numbers.

    >>> with counting() as costs:
    ...     with repeated(100):
    ...         charge(steps=8)
    >>> costs
    Costs(evaluations=0, steps=800)
    """
    costs = Costs()
    token = _costs.set(costs)
    try:
        yield costs
    finally:
        _costs.reset(token)
        costs.evaluations, costs.steps = round(costs.evaluations), round(costs.steps)


@contextlib.contextmanager
def either(probability: float) -> Iterator[None]:
    """What is charged inside the block counts with that probability: a branch that is traced, as
    ``lax.cond`` traces all of them, and taken only so often. Enter it inside the branch."""
    with repeated(probability):
        yield


@contextlib.contextmanager
def repeated(times: float) -> Iterator[None]:
    """What is charged inside the block counts ``times`` times: the body of a loop."""
    token = _times.set(_times.get() * times)
    try:
        yield
    finally:
        _times.reset(token)
