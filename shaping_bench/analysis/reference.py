"""Reference results: the runs of a track's registered rules and the anchors, as they are shipped.

``configs/reference/TRACK-TIER.parquet`` holds a row per rule, scenario, member and seed of that tier,
``TRACK-TIER.json`` the anchors and where all of it comes from. They are what makes a card of a new rule a
matter of minutes: only its own row is computed.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shaping_bench.analysis.scores import KEYS, NUMBERS, Anchor, Subject
from shaping_bench.errors import BadInput
from shaping_bench.spec import registry
from shaping_bench.spec.configs import configs_folder
from shaping_bench.spec.scenarios import Tier, Track
from shaping_bench.spec.sources import source_hash
from shaping_bench.store.store import read_parquet, write_parquet

DIGITS = 6
"""Significant digits of a return that is shipped."""

NOISE = 1e-9
"""What is smaller is shipped as zero. Where rewards cancel, in zero-sum games say, a sum of numbers near one leaves a
last bit of theirs, 1e-16 or less, and which one depends on the compiled program that valued it: of 64 lanes or of
4096, for these metrics or those."""


class Reference:
    """Shipped results of a track.

    Attributes:
      manifest: as it stands in the file.
      anchors: by scenario and member.
    """

    def __init__(self, manifest: Mapping[str, Any], runs: pd.DataFrame) -> None:
        self.manifest = manifest
        self.anchors = {
            (scenario, member): Anchor(**x)
            for scenario, members in manifest["anchors"].items()
            for member, x in members.items()
        }
        self._runs = {str(name): part for name, part in runs.groupby("learner", observed=True)}

    @property
    def learners(self) -> tuple[str, ...]:
        return tuple(self.manifest["learners"])

    def serves(self, track: Track, tier: str) -> bool:
        """Whether a tier is part of it: seeds do not depend on how many there are."""
        own, budget = self.manifest["tier"], track.tier(tier)
        return (
            budget.seeds <= own["seeds"]
            and budget.preparations == own["preparations"]
            and protocol_of(track.at(tier)) == self.manifest["protocol"]
        )

    def subject(self, learner: str, tier: Tier) -> Subject:
        """A rule of it, with the seeds of a tier."""
        said, runs = self.manifest["learners"][learner], self._runs[learner]
        return Subject(
            learner=learner,
            runs=runs[(runs["seed"] < tier.seeds) | runs["basin"].notna()].drop(columns="learner"),
            access=said["access"],
            costs=said["costs"],
            absent=said["absent"],
            origin="reference",
            trained=said.get("trained", {}),
            told=said.get("told", {}),
        )

    def changed(self, learner: str) -> bool:
        """Whether the rule's source is another now."""
        return self.manifest["learners"][learner]["code"] != code_of(learner)


def code_of(learner: str) -> str:
    """Hash of the source of a rule, as it plays the prisoner's dilemma."""
    game = registry.make_game("ipd")
    return source_hash(registry.make_learner(learner, game="ipd").value, game.value)


def folder() -> Path:
    return configs_folder() / "reference"


def _files(track: str, tier: str, where: Path | None) -> tuple[Path, Path]:
    folder_ = where or folder()
    return folder_ / f"{track}-{tier}.json", folder_ / f"{track}-{tier}.parquet"


def shipped_tiers(track: Track, where: Path | None = None) -> tuple[str, ...]:
    """Tiers of which results are shipped, in the order of the track's file."""
    return tuple(tier for tier in track.tiers if all(x.is_file() for x in _files(track.name, tier, where)))


def load(track: Track, where: Path | None = None, tier: str | None = None) -> Reference | None:
    """Shipped results of a track.

    Args:
      track: of which; of some of its games, if it is about those alone.
      where: another folder than the package's.
      tier: of which; the last of :func:`shipped_tiers` by default.

    Returns:
      None if there are none, or they are about other scenarios.
    """
    there = [x for x in shipped_tiers(track, where) if tier in (None, x)]
    if not there:
        return None
    path, table = _files(track.name, there[-1], where)
    manifest = json.loads(path.read_text())
    told, wanted = manifest["protocol"], protocol_of(track.at(there[-1]))
    scenarios = told["scenarios"]
    if track.games:
        scenarios = {name: scenarios.get(name) for name in wanted["scenarios"]}
    return Reference(manifest, read_parquet(table)) if {**told, "scenarios": scenarios} == wanted else None


def serving(track: Track, tier: str, split: str = "test") -> Reference | None:
    """Shipped results beside which cards of a tier and split can stand, of that tier or of one that holds it."""
    shipped = (load(track, tier=x) for x in shipped_tiers(track)) if split == "test" else ()
    return next((known for known in shipped if known is not None and known.serves(track, tier)), None)


def protocol_of(track: Track) -> dict[str, Any]:
    """What runs of a track, as a tier has it, depend on besides rule and seed."""
    trained = {"responders": [*track.responders, track.response_steps]} if track.responders else {}
    return {
        **trained,
        "record_every": track.record_every,
        "scenarios": {
            x.name: [
                *[x.background, x.steps, list(x.members.values())],
                *([x.starts] if x.gridded else []),
                *([x.spread] if x.spread is not None else []),
            ]
            for x in track.of("test")
            if not x.projected
        },
    }


def write(
    subjects: Sequence[Subject],
    *,
    anchors: Mapping[tuple[str, str], Anchor],
    track: Track,
    tier: Tier,
    about: Mapping[str, Any],
    where: Path | None = None,
) -> tuple[Path, Path]:
    """Writes reference results.

    Args:
      subjects: rules with their runs.
      anchors: from those.
      track, tier: what they are of.
      about: name of the tier, command, commit, versions, device, seconds.
      where: another folder than the package's.

    Raises:
      BadInput: the folder cannot be written.
    """
    where = where or folder()
    frames = []
    for x in subjects:
        frame = x.runs[[*KEYS, *NUMBERS, "lost", "unit", "cell"]].copy()
        for name in NUMBERS:
            frame[name] = rounded(frame[name].to_numpy(np.float64))
        frame["seed"], frame["unit"] = frame["seed"].astype(np.int16), frame["unit"].astype(np.int16)
        frames.append(frame.assign(learner=x.learner))
    nested: dict[str, dict[str, Any]] = {}
    for (scenario, member), anchor in anchors.items():
        nested.setdefault(scenario, {})[member] = {
            "low": _short(anchor.low),
            "high": _short(anchor.high),
            "spread": anchor.spread,
            "by": anchor.by,
        }
    manifest = {
        "track": track.name,
        "tier": tier.model_dump(),
        **about,
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "learners": {
            x.learner: {
                **{"access": x.access, "costs": x.costs, "absent": dict(x.absent), "code": code_of(x.learner)},
                **({"trained": dict(x.trained)} if x.trained else {}),
                **({"told": _short(x.told)} if x.told else {}),
            }
            for x in subjects
        },
        "protocol": protocol_of(track),
        "anchors": nested,
    }
    paths = _files(track.name, about["tier_name"], where)
    try:
        where.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(json.dumps(manifest, separators=(",", ":")).replace('},"', '},\n"') + "\n")
        write_parquet(pd.concat(frames, ignore_index=True), paths[1])
    except OSError as error:
        raise BadInput(f"reference results cannot be written to {str(where)!r} ({error})") from None
    return paths


def _short(x: Any) -> Any:
    """A number to :data:`DIGITS` significant digits, or those of nested mappings."""
    return {key: _short(y) for key, y in x.items()} if isinstance(x, Mapping) else float(f"{x:.{DIGITS}g}")


def rounded(x: np.ndarray) -> np.ndarray:
    """To :data:`DIGITS` significant digits, in half the room; noise to zero.

    >>> rounded(np.array([-1.2345678, 2.8e-17, np.nan])).tolist()
    [-1.234570026397705, 0.0, nan]
    """
    x = np.where(np.abs(x) < NOISE, 0.0, x)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 10.0 ** (DIGITS - 1 - np.floor(np.log10(np.abs(x))))
        return np.where(np.isfinite(scale), np.round(x * scale) / scale, x).astype(np.float32)
