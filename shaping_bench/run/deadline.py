"""When a run has to stop: at a time limit, or when a scheduler or a person says so.

Nothing is interrupted: whoever computes asks a :class:`Deadline` between two calls of a compiled
program, leaves a checkpoint once it has passed, and raises
:class:`~shaping_bench.errors.OutOfTime`.
"""

import contextlib
import math
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from shaping_bench.errors import BadInput

ROOM = 1.25
"""Times the length of the last piece of work that the next one may take, its checkpoint included."""

ALLOWED = "allowed: a time such as 55m, 1h30m, 90s, 3600 (seconds), or as Slurm writes it, HH:MM:SS or D-HH:MM:SS"

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}

_NUMBER = r"\d+(?:\.\d+)?"

_WITH_UNITS = re.compile("".join(rf"(?:({_NUMBER}){unit})?" for unit in _UNITS))

_SLURM = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d\d))?(?::(\d\d))?")


class Deadline:
    """A moment after which nothing more is begun. Any thread may ask it and stop it.

    Args:
      seconds: from now; None for never, unless :meth:`stop` is called.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._end = math.inf if seconds is None else time.monotonic() + seconds
        self._reason = "" if seconds is None else "time limit"
        self._stopped = threading.Event()

    def stop(self, reason: str) -> None:
        """Ends it now; of several reasons the first counts."""
        if not self.expired:
            self._reason = reason
        self._stopped.set()

    @property
    def left(self) -> float:
        """Seconds until it; 0 once it has passed, infinite where there is none."""
        return 0.0 if self._stopped.is_set() else max(0.0, self._end - time.monotonic())

    @property
    def expired(self) -> bool:
        return self.left <= 0.0

    @property
    def reason(self) -> str:
        """Why it passes or has passed: ``time limit``, or what :meth:`stop` was told; empty if it does not."""
        return self._reason

    def allows(self, seconds: float) -> bool:
        """Whether work like the last, which took so many seconds with its checkpoint, ends before it.

        The first who is not allowed ends it for all: what others begin then would not come far.
        """
        allowed = self.left > ROOM * seconds
        if not allowed:
            self.stop("time limit")
        return allowed

    def wait(self, seconds: float) -> bool:
        """Sleeps so long, or until it; whether it has passed."""
        self._stopped.wait(min(seconds, self.left))
        return self.expired


@contextlib.contextmanager
def signals(deadline: Deadline, on_stop: Callable[[str], None] = lambda reason: None) -> Iterator[Deadline]:
    """Lets the signals that schedulers send before the end, SIGTERM and SIGUSR1, and the first Ctrl-C
    stop a deadline. The next Ctrl-C is a ``KeyboardInterrupt`` as ever.

    Args:
      deadline: what they stop.
      on_stop: told the signal's name.

    Outside the main thread, where Python allows no handlers, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield deadline
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and deadline.expired:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        deadline.stop(name)
        on_stop(name)

    # Not all of them exist everywhere.
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield deadline
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def seconds_of(text: str, name: str = "--time-limit") -> float:
    """A time as people and schedulers write it, in seconds.

    Args:
      text: ``55m``, ``1h30m``, ``90s``, ``3600`` (seconds), or as Slurm writes it: ``HH:MM:SS``,
        ``D-HH:MM:SS``, and what its ``squeue -o %L`` prints below an hour, ``MM:SS``.
      name: of what has this value.

    Raises:
      BadInput: it is none, or not positive.

    >>> seconds_of("1h30m"), seconds_of("90"), seconds_of("1-00:30:00"), seconds_of("05:00")
    (5400.0, 90.0, 88200.0, 300.0)
    """
    seconds = _seconds(text.strip().lower())
    if seconds is None:
        raise BadInput(f"{name} is {text!r}; {ALLOWED}")
    if not 0.0 < seconds < math.inf:
        raise BadInput(f"{name} is {text!r}, which is no time at all; {ALLOWED}")
    return seconds


def _seconds(text: str) -> float | None:
    if re.fullmatch(_NUMBER, text):
        return float(text)
    found = _WITH_UNITS.fullmatch(text)
    if text and found:
        return sum(float(x) * unit for x, unit in zip(found.groups(), _UNITS.values(), strict=True) if x)
    found = _SLURM.fullmatch(text)
    if not found:
        return None
    days, *rest = found.groups()
    parts = [float(x) for x in rest if x]
    # With days the first part is hours; without, the last is seconds.
    hours, minutes, seconds = [*parts, 0.0, 0.0][:3] if days else [0.0, 0.0, *parts][-3:]
    if (minutes >= 60.0 and (days or len(parts) == 3)) or seconds >= 60.0:
        return None
    return 86400.0 * float(days or 0) + 3600.0 * hours + 60.0 * minutes + seconds
