"""Errors that are the user's to mend, said in one line before anything runs."""

import difflib
from collections.abc import Iterable


class BadInput(ValueError):
    """Bad input: names the field, the value and what is allowed. Exit code 2."""


class StoreError(Exception):
    """Results cannot be written (a full disk, say); what was finished is stored. Exit code 1."""


def unknown(field: str, value: object, allowed: Iterable[str]) -> BadInput:
    """``field`` has an unknown ``value``: names the nearest known one and all allowed."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return BadInput(f"{field} is {value!r}, which is unknown{hint} (allowed: {', '.join(names)})")
