"""Writes ``players.json``, which the page of public goods shows: gains of shaping by the number of players.

By ``shaping-bench run n-players -o DIR`` and ``python -m shaping_bench.docs.players DIR``, which prints the trends.
"""

import json
import sys
from pathlib import Path
from typing import Any

from shaping_bench.analysis import players
from shaping_bench.errors import BadInput
from shaping_bench.store.results import Results, load

FILE = Path(__file__).with_name("players.json")
DIGITS = 4
"""After the point."""

NUMBERS = ("share", "own", "share_of_largest", "others")
"""Of a gain, those that are shown, and of which trends are asked for; the first is the study's."""


MEANT = 4
"""Tests that the study is written for, of two rules in two games, however many of them have results."""


def summary(results: Results) -> dict[str, Any]:
    """All that the page shows of gains by the number of players, as JSON.

    Raises:
      BadInput: no learner sits among naive ones in a series of games.
    """
    found = players.gains(results)
    if not found:
        raise BadInput(f"DIR is {str(results.directory)!r}, without gains over N; allowed: results of n-players")
    used = [x for x in results.records if x["kind"] == "encounter"]
    return {
        "suite": str(results.suite["name"]),
        "seeds": max(x["seeds"] for x in used),
        "cells": len(used),
        "gains": [_gain(x) for x in found],
        "trends": {name: [x._asdict() for x in players.trends(found, name, MEANT)] for name in NUMBERS},
        "together": [x._asdict() for x in players.together(results)],
    }


def _gain(x: players.Gain) -> dict[str, Any]:
    return {
        "series": x.series,
        "players": x.players,
        "learner": x.learner,
        "units": len(x.own),
        "naive": x.naive,
        "optimum": x.optimum,
        "largest": x.largest,
        **{name: players.with_half(getattr(x, name)) for name in NUMBERS},
        "shares": x.share.tolist(),
    }


def main() -> None:
    found = summary(load(Path(sys.argv[1])))
    rounded = json.loads(json.dumps(found), parse_float=lambda x: round(float(x), DIGITS) + 0.0)
    FILE.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(x)}" for k, x in rounded.items()) + "\n}\n")
    for name, trends in found["trends"].items():
        for x in trends:
            print(
                f"{name}, {x['series']}, {x['learner']}: slope {x['slope']:+.3f} ± {x['half']:.3f} per player, "
                f"{x['units']} units, p {x['p']:.3f}, corrected {x['adjusted']:.3f}"
            )


if __name__ == "__main__":
    main()
