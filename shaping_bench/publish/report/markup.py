"""Pieces of HTML that every part of the page is made of, and the addresses within it."""

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from shaping_bench.store.results import Results


def escape(text: object) -> str:
    """Text from outside, made safe for elements and for attributes in double quotes."""
    return html.escape(str(text))


def breakable(text: object) -> str:
    """A name that may break within: a label before its hyperparameters and between them, a metric at underscores."""
    name = escape(text)
    marks = {"(": "<wbr>(", ",": ",<wbr>"} if "(" in name else {"_": "_<wbr>"}
    for mark, broken in marks.items():
        name = name.replace(mark, broken)
    return name


def details(title: str, inside: str, *, kind: str = "") -> str:
    """A disclosure; ``kind`` is its class."""
    name = f' class="{kind}"' if kind else ""
    return f"<details{name}><summary>{escape(title)}</summary>\n{inside}\n</details>"


def region(label: str, inside: str) -> str:
    """What is wider than a phone scrolls by itself, by keyboard too; the page never does."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{inside}</div>'


def facts(entries: Mapping[str, str], kind: str = "facts") -> str:
    """A list of terms and their HTML descriptions; empty ones are left out."""
    rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{v}</dd></div>" for k, v in entries.items() if v)
    return f'<dl class="{kind}">{rows}</dl>'


def plural(count: int, noun: str, several: str | None = None) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{count} {noun if count == 1 else several or noun + 's'}"


def meeting(labels: Sequence[str]) -> str:
    """Who met, in words."""
    if len(set(labels)) == 1:
        return f"{labels[0]} in self-play"
    counts = Counter(labels[1:])
    others = [label if count == 1 else f"{count}x {label}" for label, count in counts.items()]
    return f"{labels[0]} against {' and '.join(others)}"


class Addresses:
    """Where on the page numbers are explained.

    Cells in which the same learners met in the same game, in another order of seats, are
    described together: an entry of a table pools them. What is not described on the page has no address.

    Args:
      results: of the cells that the page describes.
    """

    def __init__(self, results: Results) -> None:
        self._games, self._labels = results.games, results.labels
        self._meeting: dict[str, tuple[str, str, tuple[str, ...]]] = {}
        self._described: dict[tuple[str, str, tuple[str, ...]], str] = {}
        for record in results.records:
            labels = tuple(sorted(x["label"] for x in record["learners"]))
            key = (record["kind"], record["game"]["label"], labels)
            self._meeting[record["hash"]] = key
            self._described.setdefault(key, record["hash"])

    def identity(self, hash_: str) -> str:
        """Identifier of the description of a cell."""
        return f"cell-{self._described[self._meeting[hash_]]}"

    def entry(self, hashes: Iterable[str]) -> str | None:
        """Of an entry that comes from one meeting: its cell's description. What it is compared with comes later."""
        first = next(iter(hashes), None)
        return f"#{self.identity(first)}" if first in self._meeting else None

    def average(self, hashes: Iterable[str]) -> str | None:
        """Of a number averaged over opponents: its learner's row of the game's cross-play."""
        meetings = {self._meeting[x] for x in hashes if x in self._meeting}
        if len(meetings) == 1:
            return f"#cell-{self._described[next(iter(meetings))]}"
        shared = set.intersection(*(set(labels) for _, _, labels in meetings)) if meetings else set()
        games = {game for _, game, _ in meetings}
        return self.row(next(iter(games)), next(iter(shared))) if len(shared) == len(games) == 1 else None

    def row(self, game: str, label: str) -> str | None:
        """A learner's row of a game's cross-play."""
        return f"#{self.row_identity(game, label)}" if label in self._labels and game in self._games else None

    def row_identity(self, game: str, label: str) -> str:
        return f"row-{self._games.index(game)}-{self._labels.index(label)}"

    def learner(self, label: str) -> str | None:
        """All cells of a learner."""
        return f"#{self.learner_identity(label)}" if label in self._labels else None

    def learner_identity(self, label: str) -> str:
        return f"of-{self._labels.index(label)}"
