"""Every rule in a game of each family of social dilemmas: two updates of a tiny encounter, or why not, in a line.

    python .ci/tiny.py                      # well over half a CPU-hour; prints a table, and fails if anything breaks
    python .ci/tiny.py harvest --rules ppo loqa
    python .ci/tiny.py --refuse             # who is refused, and why; computes nothing
    python .ci/tiny.py --kept tiny.jsonl    # stopped and started again, it goes on with what that file lacks

A rule sits in all seats, with the small sizes of conformance and a preparation of two steps. Of its numbers nothing is
looked at but that they are finite.
"""

import argparse
import collections
import contextlib
import dataclasses
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tabulate import tabulate

from shaping_bench.algorithms.core import PreparedLearner
from shaping_bench.commands import encounter_result
from shaping_bench.errors import BadInput
from shaping_bench.spec import registry
from shaping_bench.spec.protocol import Protocol

GAMES = (
    "in-the-matrix(horizon=4)",
    "harvest(layout=patch,num_players=3,horizon=4)",
    "cleanup(layout=small,num_players=3,horizon=4)",
    "cleanup-lite(horizon=4)",
    "cleanup-lite(horizon=4,observation=planes)",
    "negotiation(horizon=4)",
    "public-goods(horizon=4)",
    "coin-game(num_players=3,horizon=4)",
    "cournot(num_players=3)",
    "fishery(num_players=3,horizon=4)",
)

SHORT = {
    "generations": 2,
    "iterations": 2,
    "trials": 1,
    "num_steps": 2,
    "outer_steps": 2,
    "phases": 1,
    "pretraining": 2,
}
"""Of preparations, whose length is none of conformance's sizes."""

UPDATES = 2


def small(name: str, game: registry.Named) -> registry.Named:
    """The rule with small sizes; as it is where these do not go together with the rest of it."""
    plain = registry.make_learner(name, game=game.name)
    sizes: dict[str, Any] = {}
    for x in dataclasses.fields(plain.value):
        size = x.metadata.get("small")
        if size is not None:
            sizes[x.name] = size(game.value) if callable(size) else size
        if isinstance(plain.value, PreparedLearner) and x.name in SHORT:
            sizes[x.name] = SHORT[x.name]
    with contextlib.suppress(BadInput):
        tiny = registry.make_learner({name: sizes}, game=game.name)
        registry.check_encounter(game, [tiny] * game.value.n_players)
        return tiny
    return plain


def outcome(name: str, game: registry.Named, folder: Path, refuse: bool) -> tuple[str, str]:
    """Whether it ran, was refused or failed, and the line that says why."""
    seats = game.value.n_players
    try:
        registry.check_encounter(game, [registry.make_learner(name, game=game.name)] * seats)
        if refuse:
            return "plays", ""
        protocol = Protocol(seeds=1, steps=UPDATES, episodes=2)
        with contextlib.redirect_stderr(io.StringIO()):
            said = encounter_result(game, [small(name, game)] * seats, protocol, artifacts=folder)
    except BadInput as error:
        return ("refused" if "\n" not in str(error) else "failed"), str(error)
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"
    returns = [x["mean"] for x in said["metrics"]["return"]]
    if said["diverged"] or not np.isfinite(np.array(returns, np.float64)).all():
        return "failed", f"returns {returns}, {said['diverged']} diverged"
    return "ran", ""


class Outcomes:
    """What was found before, by game and rule, and is not asked again: a file with a line of JSON each, or none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path is not None and path.is_file() else []
        self._found = {(x["game"], x["rule"]): (x["what"], x["why"], x["seconds"]) for x in map(json.loads, lines)}

    def of(self, game: registry.Named, call: str, name: str, folder: Path, refuse: bool) -> tuple[str, str, float]:
        """Of :func:`outcome`, and its CPU-seconds. What failed is tried again."""
        known = self._found.get((call, name))
        if known is not None and known[0] != "failed":
            return known
        start = time.process_time()
        what, why = outcome(name, game, folder, refuse)
        seconds = round(time.process_time() - start, 1)
        if self._path is not None:
            line = {"game": call, "rule": name, "what": what, "why": why, "seconds": seconds}
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        return what, why, seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("games", nargs="*", help="words in names of games; all by default")
    parser.add_argument("--rules", nargs="*", help="names of rules; all by default")
    parser.add_argument("--refuse", action="store_true", help="say who is refused, and compute nothing")
    parser.add_argument("--kept", type=Path, help="file of what was found, where it goes on")
    asked = parser.parse_args()
    if asked.refuse and asked.kept:
        parser.error("--kept is of what runs, and nothing does with --refuse")
    outcomes = Outcomes(asked.kept)
    games = [x for x in GAMES if not asked.games or any(word in x for word in asked.games)]
    rules = asked.rules or list({**registry.algorithms(), **registry.ADAPTED})
    rows, broken, reasons = [], [], collections.Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        for call in games:
            game, spent = registry.make_game(call), 0.0
            found: dict[str, list[str]] = {}
            for name in rules:
                what, why, seconds = outcomes.of(game, call, name, Path(folder), asked.refuse)
                spent += seconds
                found.setdefault(what, []).append(name)
                if what != "refused":
                    print(f"{call} | {name} | {what} | {seconds} CPU-s | {why}", file=sys.stderr, flush=True)
                if what == "failed":
                    broken.append(f"{name} in {call}: {why}")
                elif what == "refused":
                    reasons[why.partition(f" in seat 1 of game {game.name!r} ")[2] or why] += 1
                jax.clear_caches()
            done = found.get("plays" if asked.refuse else "ran", [])
            counts = [len(found.get(x, [])) for x in ("refused", "failed")]
            rows.append([call, len(done), *counts, round(spent), ", ".join(done)])
    print(
        tabulate(
            rows, ["game", "play", "refused", "failed", "CPU-seconds", "who plays"], maxcolwidths=[None] * 5 + [60]
        )
    )
    print(*(f"{n:4} refused: {why}" for why, n in reasons.most_common()), *broken, sep="\n")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
