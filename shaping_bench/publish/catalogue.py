"""What exists: algorithms, games, metrics, suites, claims and scenarios, for ``shaping-bench list``."""

import dataclasses
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from shaping_bench.games.fields import written_name
from shaping_bench.games.options import OPTIONS
from shaping_bench.spec import registry, suite

KINDS = ("algorithms", "games", "metrics", "suites", "claims", "scenarios")


def catalogue(kinds: Sequence[str] | None = None) -> dict[str, list[dict[str, Any]]]:
    """Per kind a list of records, plain enough for JSON."""
    makers = {
        "algorithms": _algorithms,
        "games": _games,
        "metrics": _metrics,
        "suites": _suites,
        "claims": _claims,
        "scenarios": _scenarios,
    }
    return {kind: makers[kind]() for kind in kinds or KINDS}


def _summary(cls: type) -> str:
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")


def _hyperparameters(cls: type, defaults: dict[str, Any]) -> dict[str, Any]:
    return _described(dataclasses.fields(cls), defaults)  # type: ignore[arg-type]


def _described(fields: Iterable[dataclasses.Field], defaults: dict[str, Any]) -> dict[str, Any]:
    out = {}
    for f in fields:
        name, meta = written_name(f), f.metadata
        default = defaults.get(name, None if f.default is dataclasses.MISSING else f.default)
        out[name] = {"default": default, "doc": meta.get("doc", ""), "low": meta.get("low"), "high": meta.get("high")}
        if meta.get("choices"):
            out[name]["choices"] = list(meta["choices"])
        out[name]["swept"] = not meta.get("static", False)
    return out


def _algorithms() -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "summary": _summary(cls),
            "access": str(cls.access),
            "needs_preparation": cls.needs_preparation,
            "views": sorted(cls.views),
            "learns": cls.learns,
            "source": cls.source,
            "hyperparameters": _hyperparameters(cls, {}),
        }
        for name, cls in {**registry.algorithms(), **registry.ADAPTED}.items()
    ]


def _games() -> list[dict[str, Any]]:
    out = []
    for name, entry in registry.games().items():
        complete = all(
            f.default is not dataclasses.MISSING or f.name in entry.defaults
            for f in dataclasses.fields(entry.cls)  # type: ignore[arg-type]
        )
        game = entry.cls(**entry.defaults) if complete else None
        out.append(
            {
                "name": name,
                "summary": entry.summary,
                "views": sorted(entry.cls.views),
                "players": game.n_players if game else None,
                "parameters": list(game.sizes) if game else None,
                "source": entry.source,
                "hyperparameters": _hyperparameters(entry.cls, entry.defaults) | _described(OPTIONS.values(), {}),
            }
        )
    return out


def _metrics() -> list[dict[str, Any]]:
    from shaping_bench.metrics import METRICS

    return [
        {
            "name": m.name,
            "formula": m.formula,
            "unit": m.unit,
            "direction": m.direction,
            "range": [m.low, m.high],
            "source": m.source,
        }
        for m in METRICS.values()
    ]


def _suites() -> list[dict[str, Any]]:
    out = []
    for name in suite.suite_names():
        loaded = suite.load(name)
        out.append(
            {
                "name": name,
                "summary": " ".join(loaded.file.description.split()),
                "encounters": len(loaded.encounters),
                "matches": len(loaded.matches),
                "seeds": loaded.file.seeds,
            }
        )
    return out


def _claims() -> list[dict[str, Any]]:
    from shaping_bench.claims.files import load_claims

    return [{"name": name, "summary": c.statement, "source": c.source} for name, c in load_claims().items()]


def _scenarios() -> list[dict[str, Any]]:
    from shaping_bench.spec.scenarios import load_track, track_names

    return [
        {
            "name": x.name,
            "track": x.track,
            "game": x.game,
            "games": len(x.members),
            "family": x.family,
            "split": x.split,
            "background": x.about,
            "learner": x.background,
            "learns": x.learns,
            "updates": x.steps,
            "average": x.block,
            "tiers": list(x.tiers),
            "tags": list(x.tags),
        }
        for track in track_names()
        for x in load_track(track).scenarios
    ]


COLUMNS = {
    "algorithms": ("name", "access", "needs_preparation", "views", "summary"),
    "games": ("name", "players", "views", "summary"),
    "metrics": ("name", "direction", "unit", "formula"),
    "suites": ("name", "encounters", "matches", "seeds", "summary"),
    "claims": ("name", "summary"),
    "scenarios": ("name", "track", "game", "family", "split", "background"),
}


def to_text(kinds: dict[str, list[dict[str, Any]]]) -> str:
    """Tables for people."""
    console = Console(width=None if Console().is_terminal else 140)
    with console.capture() as capture:
        for kind, records in kinds.items():
            table = Table(title=kind, title_justify="left", title_style="bold", box=None, pad_edge=False)
            for column in COLUMNS[kind]:
                table.add_column(column.replace("_", " "), overflow="fold", no_wrap=column == "name")
            for record in records:
                cells = (record[c] for c in COLUMNS[kind])
                table.add_row(*(", ".join(c) if isinstance(c, list) else "" if c is None else str(c) for c in cells))
            console.print(table)
            console.print()
    return capture.get().rstrip()
