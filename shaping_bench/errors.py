"""Errors that are the user's to mend, said in one line before anything runs."""

import difflib
from collections.abc import Iterable

MAX_LISTED = 16
"""Names that a complaint lists in full; of more it names the nearest only."""

NEAREST = 4


class BadInput(ValueError):
    """Bad input: names the field, the value and what is allowed. Exit code 2."""


class NoRoom(BadInput):
    """It needs more memory than is free; what others take meanwhile counts."""


class StoreError(Exception):
    """Results cannot be written (a full disk, say); what was finished is stored. Exit code 1."""


class OutOfTime(Exception):
    """Stopped at a checkpoint, from which the same call goes on. Exit code 75.

    Args:
      what: what was stopped and where, e.g. ``"an encounter stopped at update 3400 of 6000"``.
      further: whether it got further than where it was begun.
    """

    def __init__(self, what: str, further: bool = True) -> None:
        super().__init__(what, further)
        self.what, self.further = what, further

    def __str__(self) -> str:
        return self.what


def unknown(field: str, value: object, allowed: Iterable[str], listed: str = "") -> BadInput:
    """``field`` has an unknown ``value``: names the nearest known ones, and all allowed if they are few.

    Args:
      field: what has the value.
      value: the unknown name.
      allowed: the known names.
      listed: where all of them can be read, e.g. a command.

    >>> print(unknown("seat", "fist", ["first", "second"]))
    seat is 'fist', which is unknown; did you mean 'first'? (allowed: first, second)
    """
    names = sorted(set(allowed))
    close = nearest(str(value), names)
    alike = bool(close) and difflib.SequenceMatcher(None, str(value), close[0]).ratio() >= 0.5
    hint = f"; did you mean {close[0]!r}?" if alike else ""
    if len(names) <= MAX_LISTED:
        return BadInput(f"{field} is {value!r}, which is unknown{hint} (allowed: {', '.join(names)})")
    where = f": {listed}" if listed else ""
    others = ", ".join(close[alike:])
    return BadInput(
        f"{field} is {value!r}, which is unknown{hint} (allowed: {len(names)} names, nearest: {others}{where})"
    )


def nearest(value: str, names: Iterable[str]) -> list[str]:
    """The few names most like ``value``, the most alike first; those that hold it as a part come before
    others.

    >>> nearest("lol", ["naive", "lola", "sos", "lola-pg", "cola", "ppo"])
    ['lola', 'lola-pg', 'cola', 'ppo']
    """

    def distance(name: str) -> tuple[float, str]:
        holds = len(value) > 2 and value.lower() in name.lower()
        return -(difflib.SequenceMatcher(None, value, name).ratio() + (0.5 if holds else 0.0)), name

    return sorted(names, key=distance)[:NEAREST]
