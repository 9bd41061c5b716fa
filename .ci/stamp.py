"""Rows of shipped results whose code has changed and whose numbers have not: which they are, and their stamp anew.

    git worktree add ../before COMMIT && cd ../before && python .ci/stamp.py --write /tmp/before.json
    python .ci/stamp.py --against /tmp/before.json                # says who is the same
    python .ci/stamp.py --against /tmp/before.json --stamp        # and writes today's hash of the code into those rows

A change of a part that all rules share marks every shipped row as changed, whatever it does. To compute all of them
again takes days; whether a change moves a bit is seen in minutes: each row's rule, in all seats, plays the first game
of its track for a few updates by the code of both commits, on one machine, and everything that is recorded has to agree
to the last bit. The file of the commit before is written by this script, copied there if it has none.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from shaping_bench.analysis import reference
from shaping_bench.errors import BadInput
from shaping_bench.run import devices
from shaping_bench.run.encounter import run_encounter
from shaping_bench.spec import registry
from shaping_bench.spec.scenarios import Track, load_track, track_names

UPDATES = 3


def rows(words: list[str]) -> list[tuple[Track, str, str]]:
    """Track, tier and rule of the shipped rows, of tracks whose names hold one of the words; all without any."""
    found = []
    for name in track_names():
        track = load_track(name)
        for tier in reference.shipped_tiers(track):
            known = reference.load(track, tier=tier)
            if known is not None and (not words or any(x in f"{name}-{tier}" for x in words)):
                found += [(track, tier, rule) for rule in known.learners]
    return found


def digest(track: Track, tier: str, rule: str) -> str:
    """Of all that is recorded of a few updates in the first game of the tier that the rule plays in all seats."""
    for scenario in track.at(tier).scenarios:
        game = registry.make_game(next(iter(scenario.members.values())))
        learner = registry.make_learner(rule, game=game.name)
        seats = [learner] * game.value.n_players
        try:
            registry.check_encounter(game, seats)
        except BadInput:
            continue
        out = run_encounter(game.value, [x.value for x in seats], num_seeds=2, num_updates=UPDATES, episodes=4)
        told = hashlib.sha256(f"{scenario.game}".encode())
        for x in jax.tree.leaves((out.params, out.infos, out.final, out.played)):
            told.update(np.ascontiguousarray(np.asarray(x)).tobytes())
        return told.hexdigest()[:24]
    return "plays nothing in all seats"


def stamp(track: str, tier: str, rules: list[str]) -> None:
    """Writes the present hash of their code into rows; the rest of the file stays byte by byte."""
    path = reference.folder() / f"{track}-{tier}.json"
    text = path.read_text()
    for rule in rules:
        old, new = json.loads(text)["learners"][rule]["code"], reference.code_of(rule)
        head = text.index(json.dumps(rule) + ":{", text.index('"learners":'))
        at = text.index(old, head)
        text = text[:at] + new + text[at + len(old) :]
    path.write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tracks", nargs="*", help="parts of TRACK-TIER; all by default")
    parser.add_argument("--write", type=Path, help="where digests are written; goes on with what the file lacks")
    parser.add_argument("--against", type=Path, help="digests by the code of another commit")
    parser.add_argument("--stamp", action="store_true", help="rows that are the same have today's code")
    asked = parser.parse_args()
    if (asked.write is None) == (asked.against is None) or (asked.stamp and asked.against is None):
        parser.error("either --write FILE or --against FILE, and --stamp only with the latter")
    devices.configure()
    before: dict[str, str] = {}
    path = asked.write or asked.against
    if path.is_file():
        before = json.loads(path.read_text())
    same: dict[tuple[str, str], list[str]] = {}
    differ = 0
    digests: dict[tuple[str, str], Any] = {}
    for track, tier, rule in rows(asked.tracks):
        key = f"{track.name} {rule}"
        if asked.write is not None and key in before:
            continue
        if (track.name, rule) not in digests:  # tiers differ in seeds and length alone
            digests[track.name, rule] = digest(track, tier, rule)
            jax.clear_caches()
        found = digests[track.name, rule]
        if asked.write is not None:
            before[key] = found
            asked.write.write_text(json.dumps(before, indent=1) + "\n")
            said = found
        elif before.get(key) == found:
            same.setdefault((track.name, tier), []).append(rule)
            said = "the same"
        else:
            differ += 1
            said = "differs" if key in before else "not in the file"
        print(f"{track.name} {tier}: {rule}: {said}", file=sys.stderr, flush=True)
    for (name, tier), rules in same.items():
        if asked.stamp:
            stamp(name, tier, rules)
        print(f"{name}-{tier}: {len(rules)} the same{', stamped' if asked.stamp else ''}")
    return bool(differ)


if __name__ == "__main__":
    sys.exit(main())
