"""Verdicts: what they say, the record of them that comes with the benchmark, and how they are shown."""

import contextlib
import dataclasses
import datetime
import json
import math
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shaping_bench.claims.files import Claim, load_claims
from shaping_bench.errors import BadInput, StoreError
from shaping_bench.run import devices
from shaping_bench.spec import registry
from shaping_bench.spec.configs import configs_folder
from shaping_bench.spec.identity import content_hash


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One published number beside ours.

    Attributes:
      claim, source, quantity: which number.
      provenance: ``published`` (the paper or the official code's record), ``recomputed`` (somebody
        else's independent computation at the published protocol), ``derived`` (closed form) or ``control`` (a
        run of ours of what has to be surpassed).
      published, ours, difference: the numbers, and ours minus published.
      std: standard deviation over seeds (aggregate ``std``: over blocks of seeds).
      standard_error: of our number; 0 where the starts are a grid, which is no sample.
      units: how many independent draws it counts: seeds, or preparations that seeds share; 0 in verdicts of
        earlier versions, which counted seeds.
      remark: said of a number that is reproduced only because preparations differ.
      seeds, diverged: how many seeds, and how many of them have no finite end.
      tolerance, why: largest difference that counts as reproduced, and its argument.
      verdict: ``reproduced`` or ``missed``.
      note: what is known about a miss.
      seconds: wall time of the claim's encounter and metrics, shared by its quantities.
      budget: seeds, updates, learners and game of the encounter that was run.
      full: the same at the published budget, where that is another; else empty.
      environment_steps: joint actions played, all seeds; those of a preparation are not among them.
      preparation: what the learners' preparations cost; empty if they need none.
    """

    claim: str
    source: str
    quantity: str
    provenance: str
    published: float
    ours: float
    difference: float
    std: float
    standard_error: float
    seeds: int
    diverged: int
    tolerance: float
    why: str
    verdict: str
    note: str
    seconds: float
    budget: str = ""
    full: str = ""
    environment_steps: int = 0
    preparation: str = ""
    units: int = 0
    remark: str = ""


# --- the record ---------------------------------------------------------------------------


def record_file() -> Path:
    """The verdicts that come with the benchmark."""
    return configs_folder() / "claims" / "recorded.json"


def players(claim: Claim, full: bool) -> str:
    """A hash of who plays what in a claim, with every setting that the claim leaves to defaults."""
    protocol = claim.protocol.at_full_budget() if full else claim.protocol
    game = registry.make_game(protocol.game)
    learners = [registry.make_learner(text, game=game.name) for text in protocol.learners]
    opponents = [registry.make_learner(q.against) for q in claim.quantities if q.against is not None]
    return content_hash({"game": game.identity(), "players": [x.identity() for x in (*learners, *opponents)]})


def recorded(path: Path | None = None, claims: Mapping[str, Claim] | None = None) -> list[dict[str, Any]]:
    """Verdicts of earlier runs, for those who want to read them without an hour of computing.

    Args:
      path: a file written by ``verify(record=...)``; by default the one that comes with the benchmark.
      claims: what they are verdicts of; those of ``configs/claims`` by default.

    Returns:
      One dict per quantity, in the order of the claims: the fields of :class:`Verdict`, the
      claim's ``statement``, and of the run ``at_full_budget``, ``date``, ``commit``, ``machine``.
      Claims whose protocol, numbers or players' defaults have changed since are left out. Empty if there is no file.

    Raises:
      BadInput: the file is no record.
    """
    entries = read_record(path or record_file())
    rows: list[dict[str, Any]] = []
    for claim in (load_claims() if claims is None else claims).values():
        entry = entries.get(claim.id)
        if entry is None or entry["hash"] != claim.hash:
            continue
        if entry.get("players") != players(claim, entry["at_full_budget"]):
            continue
        run = {key: entry[key] for key in ("at_full_budget", "date", "commit", "machine")}
        for q, verdict in zip(claim.quantities, entry["verdicts"], strict=True):
            # The words are today's: a note on a miss is often written after the run.
            note = f"{verdict.get('remark', '')} {q.note}".strip()
            rows.append({**verdict, **run, "statement": claim.statement, "note": note, "why": q.why})
    return rows


def record_about(path: Path | None = None) -> dict[str, str]:
    """Where and when a record was made: ``machine``, ``commit``, ``date``, several joined by commas."""
    entries = read_record(path or record_file()).values()
    dates = sorted(str(x["date"])[:10] for x in entries)
    return {
        "machine": ", ".join(dict.fromkeys(x["machine"] for x in entries)),
        "commit": ", ".join(dict.fromkeys(str(x["commit"])[:10] for x in entries)),
        "date": " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "",
    }


def read_record(path: Path) -> dict[str, dict[str, Any]]:
    try:
        entries = json.loads(path.read_text())
        return {str(name): {**entry, "verdicts": list(entry["verdicts"])} for name, entry in entries.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise BadInput(f"record is {str(path)!r}, which is none; allowed: a file written by verify --record") from None


def write_record(path: Path, claim: Claim, verdicts: Sequence[Verdict], full: bool) -> None:
    device = devices.describe()
    entry = {
        "hash": claim.hash,
        "players": players(claim, full),
        "at_full_budget": full,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": devices.git_commit(),
        "machine": f"{device['count']} x {device['kind']}",
        "verdicts": to_json(verdicts)["verdicts"],
    }
    entries = {**read_record(path), claim.id: entry}
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(entries, indent=1, sort_keys=True, allow_nan=False) + "\n")
        os.replace(draft, path)
    except OSError as error:
        raise BadInput(f"record is {str(path)!r}, which cannot be written ({error.strerror})") from None
    finally:
        draft.unlink(missing_ok=True)


class Decided:
    """Verdicts of a run that is not at its end, so that the same one goes on after it was stopped.

    Args:
      folder: where they are kept; created when there is something to keep.
      identity: what they are verdicts of.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.path = folder / f"verdicts-{content_hash(identity)}.json"

    def read(self) -> dict[str, list[Verdict]]:
        """By the claim's name; empty if nothing is decided yet."""
        try:
            stored = json.loads(self.path.read_text())
            return {name: [Verdict(**row) for row in rows] for name, rows in stored.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def write(self, verdicts: Mapping[str, Sequence[Verdict]]) -> None:
        """Replaces what is kept.

        Raises:
          StoreError: it cannot be written.
        """
        # Not as people read them: what is not finite has to come back as it was.
        text = json.dumps({name: [dataclasses.asdict(v) for v in found] for name, found in verdicts.items()})
        draft = self.path.with_name(f".{self.path.name}-{uuid.uuid4().hex[:8]}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(text)
            os.replace(draft, self.path)
        except OSError as error:
            raise StoreError(f"cannot write to {str(self.path.parent)!r}: {error.strerror or error}") from None
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)

    def drop(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


# --- output -------------------------------------------------------------------------------


def _totals(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    reproduced = sum(v.verdict == "reproduced" for v in verdicts)
    return {
        "reproduced": reproduced,
        "missed": len(verdicts) - reproduced,
        "seconds": sum({v.claim: v.seconds for v in verdicts}.values()),
    }


def to_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """``{"verdicts": [...], "reproduced": n, "missed": m, "seconds": s}``; what is not finite is null."""

    def plain(x: Any) -> Any:
        return None if isinstance(x, float) and not math.isfinite(x) else x

    rows = [{name: plain(x) for name, x in dataclasses.asdict(v).items()} for v in verdicts]
    return {"verdicts": rows, **_totals(verdicts)}


def to_text(verdicts: Sequence[Verdict]) -> str:
    """A table for people: published, ours with its standard error, spread, tolerance, verdict."""
    console = Console(width=None if Console().is_terminal else 160)
    table = Table(box=None, pad_edge=False)
    table.add_column("claim", no_wrap=True)
    table.add_column("quantity", overflow="fold")
    for name in ("published", "ours", "std. error", "spread", "difference", "tolerance"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("from")
    table.add_column("verdict", no_wrap=True)
    previous = None
    for v in verdicts:
        style = "bold red" if v.verdict == "missed" else ""
        numbers = (v.published, v.ours, v.standard_error, v.std, v.difference, v.tolerance)
        shown = (f"{x:.4g}" if i < 2 else f"{x:.2g}" for i, x in enumerate(numbers))
        table.add_row(v.claim if v.claim != previous else "", v.quantity, *shown, v.provenance, v.verdict, style=style)
        previous = v.claim
    with console.capture() as capture:
        console.print(table)
        for v in verdicts:
            if v.remark:
                console.print(f"\n{v.claim}, {v.quantity}: {v.remark}", markup=False, highlight=False)
            if v.verdict == "missed":
                text = f"\nmissed: {v.claim}, {v.quantity} ({v.source}). Tolerance: {v.why}. {v.note}"
                if v.full:
                    text += f" Budget: {v.budget}; published budget, by --full: {v.full}."
                if v.preparation:
                    text += f" Preparation: {v.preparation}."
                console.print(text.rstrip(), markup=False, highlight=False)
    totals = _totals(verdicts)
    summary = f"{totals['reproduced']} reproduced, {totals['missed']} missed, {totals['seconds']:.1f} s"
    return f"{capture.get().rstrip()}\n\n{summary}"
