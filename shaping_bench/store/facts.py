"""What readers of results need to know of games, learners and labels, without their code.

It is written into ``cell.json`` when a cell is stored (``facts``, ``entry``, ``swept``,
``best_response``), so that a table depends neither on today's code nor on the packages that are
installed. Cells of earlier versions hold none of it: here, and nowhere else, it is then asked of the
registry, or read out of labels. What is of a package that is not installed has no facts.
"""

import functools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from shaping_bench.errors import BadInput

Described = Mapping[str, Any]
"""A game or a learner of a record: name, label, hyperparameters and, of newer cells, the above."""


def game(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Facts of a cell's game, see :meth:`shaping_bench.games.base.Game.facts`; empty if unknown."""
    described = record["game"]
    return described["facts"] if "facts" in described else _game_now(*_call(described))


def learner(record: Mapping[str, Any], seat: int) -> Mapping[str, Any]:
    """Facts of the learner in a seat (counted from 0) of a cell; empty if unknown."""
    described = record["learners"][seat]
    return described["facts"] if "facts" in described else _learner_now(*_call(described))


def _call(described: Described) -> tuple[str, str]:
    return described["name"], json.dumps(described["hyperparameters"], sort_keys=True)


@functools.lru_cache(maxsize=256)
def _game_now(name: str, hyperparameters: str) -> Mapping[str, Any]:
    from shaping_bench.spec import registry  # imports JAX, which reading newer results does not need

    try:
        return registry.make_game({name: json.loads(hyperparameters)}).value.facts()
    except BadInput:
        return {}


@functools.lru_cache(maxsize=256)
def _learner_now(name: str, hyperparameters: str) -> Mapping[str, Any]:
    from shaping_bench.spec import registry

    try:
        rule = registry.make_learner({name: json.loads(hyperparameters)}).value
    except BadInput:
        return {}
    return {"prepared_jointly": bool(getattr(rule, "prepared_jointly", True))}


def shared_preparations(jointly: bool, seat: int, num_seeds: int, num_prepared: int) -> np.ndarray:
    """Which preparation serves each seed of an encounter, ``(S,)``: they take turns. Seats whose
    learner is not prepared jointly go through one another's, so that all pairs meet.

    >>> shared_preparations(True, 1, 6, 3).tolist(), shared_preparations(False, 1, 6, 3).tolist()
    ([0, 1, 2, 0, 1, 2], [1, 2, 0, 2, 0, 1])
    """
    seeds = np.arange(num_seeds)
    apart = 0 if jointly else seat
    return (seeds + apart * (1 + seeds // num_prepared)) % num_prepared


# --- who plays a best response ------------------------------------------------------------


def best_response(record: Mapping[str, Any]) -> str | None:
    """Label of who plays a best response to the others' final policies in a league cell; None elsewhere.

    It sits in the last seat.
    """
    last = record["learners"][-1]
    earlier = "entry" not in last and record["kind"] == "league" and last["name"] == "best-response"
    return last["label"] if last.get("best_response", earlier) else None


# --- what it is for ----------------------------------------------------------------------


def of_card(record: Mapping[str, Any]) -> bool:
    """Whether a cell is of a card alone: no entry of the suite's games names its game."""
    return record["game"].get("entry", 0) is None


# --- who is met ---------------------------------------------------------------------------


def opponent(labels: Sequence[str], seat: int) -> str:
    """Everybody else at the table, whatever their order; by one name where all are alike.

    >>> opponent(["lola", "naive"], 1), opponent(["lola", "naive", "naive"], 0)
    ('lola', 'naive')
    >>> opponent(["sos", "naive", "lola"], 0), opponent(["sos", "naive", "lola", "naive"], 0)
    ('lola + naive', 'lola + 2x naive')
    """
    others = Counter(label for i, label in enumerate(labels) if i != seat)
    if len(others) < 2:
        return next(iter(others), labels[seat])
    return " + ".join(label if count == 1 else f"{count}x {label}" for label, count in sorted(others.items()))


def company(labels: Sequence[str], seat: int) -> tuple[str, ...]:
    """The labels of everybody else at the table, in order."""
    return tuple(sorted(label for i, label in enumerate(labels) if i != seat))


# --- where a label comes from -------------------------------------------------------------


def position(described: Described, entries: Iterable[Any]) -> int:
    """Where in a list of the suite's entries a game or learner comes from; the list's length if nowhere."""
    listed = list(entries)
    if "entry" in described:
        index = described["entry"]
        return len(listed) if index is None else min(int(index), len(listed))
    return _position_by_label(described, listed)


def without(described: Described, hyperparameter: str) -> str:
    """A learner's label without one of its numbers: ``naive(lr=0.1,optimiser='adam')`` without ``lr``."""
    label = str(described["label"])
    if "swept" not in described:  # of an earlier version: any number of that name will be it
        written = rf"{re.escape(hyperparameter)}=[^,()]*"
    elif hyperparameter in described["swept"]:
        written = re.escape(f"{hyperparameter}={described['swept'][hyperparameter]!r}")
    else:
        return label
    return re.sub(rf"(?<=[(,]){written}(,|(?=\)))", "", label).replace(",)", ")").replace("()", "")


def _position_by_label(described: Described, entries: Sequence[Any]) -> int:
    """Of an earlier version's cell. A swept entry yields several labels, so a label that equals none of
    the entries belongs to the first entry that it begins with, or that has its registered name."""
    label, name = described["label"], described["name"]
    known = [_entry(entry) for entry in entries]
    tests = (
        lambda registered, text, given: label == (given or text),
        lambda registered, text, given: given is not None and label.startswith(f"{given} "),
        lambda registered, text, given: given is None and registered == name,
    )
    for test in tests:
        for k, entry in enumerate(known):
            if test(*entry):
                return k
    return len(known)


def _entry(entry: Any) -> tuple[str, str, str | None]:
    """Registered name, text and label of a suite's entry, in any of the ways to write one."""
    label = None
    if isinstance(entry, dict) and ("learner" in entry or "game" in entry):
        label, entry = entry.get("label"), entry.get("learner", entry.get("game"))
    text = entry if isinstance(entry, str) else next(iter(entry), "") if isinstance(entry, dict) else ""
    return re.split(r"[(\s]", text.strip(), maxsplit=1)[0], text, label
