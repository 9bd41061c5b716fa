"""Writes ``schelling.json``, which the page of Schelling diagrams shows.

By ``python -m shaping_bench.docs.diagrams``.
"""

import json
import sys
from pathlib import Path

from shaping_bench.analysis.schelling import diagram
from shaping_bench.run import devices
from shaping_bench.spec import registry

FILE = Path(__file__).with_name("schelling.json")
DIGITS = 6
"""After the point."""

SHOWN: tuple[tuple[str, str, str], ...] = (
    ("public-goods", "all-c", "all-d"),
    ("public-goods(num_players=5)", "all-c", "all-d"),
    ("tensor(preset=pax_3pl)", "all-c", "all-d"),
    ("tensor(preset=threshold)", "all-c", "all-d"),
    ("tensor(preset=threshold,num_players=5)", "all-c", "all-d"),
    ("tensor(preset=volunteer)", "all-c", "all-d"),
    ("tensor(preset=volunteer,num_players=5)", "all-c", "all-d"),
    ("tensor(preset=stag_hunt)", "all-c", "all-d"),
    ("tensor(preset=stag_hunt,num_players=5)", "all-c", "all-d"),
    ("negotiation", "all-c", "all-d"),
    ("cournot", "all-c", "all-d"),
    ("cournot(num_players=5)", "all-c", "all-d"),
    ("fishery", "all-c", "all-d"),
    ("fishery(num_players=5)", "all-c", "all-d"),
    ("coin-game(preset=loqa_three)", "all-c", "all-d"),
    ("coin-game(preset=reciprocator)", "all-c", "all-d"),
    ("harvest(layout=small,num_players=3)", "all-c", "all-d"),
    ("harvest", "all-c", "all-d"),
    ("cleanup(layout=small,num_players=3)", "all-c", "all-d"),
    ("cleanup", "all-c", "all-d"),
)
"""Games, cooperators and defectors."""


def main() -> None:
    devices.configure()
    found = []
    for game, *rules in SHOWN:
        print(game, file=sys.stderr)
        named = registry.make_game(game)
        found.append(diagram(named, *(registry.make_learner(x, game=named.name) for x in rules)).plain())
    rounded = json.loads(json.dumps(found), parse_float=lambda x: round(float(x), DIGITS) + 0.0)
    FILE.write_text("[\n" + ",\n".join(json.dumps(x) for x in rounded) + "\n]\n")


if __name__ == "__main__":
    main()
