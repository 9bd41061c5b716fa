"""What stands in ``cell.json``: the one writer of records, for encounters and for leagues of every kind."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from shaping_bench.games.base import Game
from shaping_bench.run import devices
from shaping_bench.spec.lineups import Labelled
from shaping_bench.spec.sources import source_hash
from shaping_bench.spec.suite import Cell
from shaping_bench.store.store import SCHEMA


def described_game(game: Labelled) -> dict[str, Any]:
    """A game as a record holds it, with the facts that readers need of it."""
    return {**_described(game), "facts": game.named.value.facts()}


def described_learner(learner: Labelled, game: Game, preparation: Mapping[str, Any] | None) -> dict[str, Any]:
    """A learner as a record holds it.

    Args:
      learner: who.
      game: what it plays.
      preparation: what it was prepared with, None without one; see ``artifacts.summary``.
    """
    rule = learner.named.value
    return {
        **_described(learner),
        "access": str(rule.access),
        "needs_preparation": rule.needs_preparation,
        "code": source_hash(rule, game),
        "facts": rule.facts(game),
        "preparation": preparation,
    }


def _described(x: Labelled) -> dict[str, Any]:
    return {
        "name": x.named.name,
        "label": x.label,
        "hyperparameters": x.named.hyperparameters,
        # Where in the suite it comes from, so that nobody has to read it out of the label.
        "entry": x.entry,
        "swept": dict(x.swept),
    }


def cell_record(
    *,
    key: str,
    kind: str,
    suite: str,
    game: Mapping[str, Any],
    learners: Sequence[Mapping[str, Any]],
    protocol: Mapping[str, Any],
    timings: Mapping[str, float],
    costs: Mapping[str, Any],
    diverged: int,
    command: str,
    versions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The record of a cell that is done.

    Args:
      key: its hash.
      kind: ``"encounter"`` or ``"league"``.
      suite: the suite's name.
      game, learners: as :func:`described_game` and :func:`described_learner` say.
      protocol: ``seeds``, ``seed``, ``steps``, ``record_every`` and ``precision``.
      timings: seconds of ``compile``, ``run`` and ``metrics``.
      costs: ``updates``, ``gradient_evaluations`` per seat, ``environment_steps``.
      diverged: seeds in which somebody's policy is not finite.
      command: the shell command that yields this cell.
      versions: of packages besides those that every record holds.
    """
    return {
        "schema": SCHEMA,
        "hash": key,
        "kind": kind,
        "suite": suite,
        "game": dict(game),
        "learners": [dict(x) for x in learners],
        **protocol,
        "versions": {**devices.versions(), **(versions or {})},
        "git_commit": devices.git_commit(),
        "device": devices.describe(),
        "timings": dict(timings),
        "costs": dict(costs),
        "status": "done",
        "diverged": diverged,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
    }


def record_of(
    cell: Cell,
    suite: str,
    *,
    preparations: Sequence[Mapping[str, Any] | None],
    timings: Mapping[str, float],
    costs: Mapping[str, Any],
    diverged: int,
) -> dict[str, Any]:
    """The record of a suite's cell; ``preparations`` per seat, the rest as :func:`cell_record`."""
    game = cell.game.named.value
    learners = [described_learner(x, game, p) for x, p in zip(cell.learners, preparations, strict=True)]
    protocol = {
        "seeds": cell.seeds,
        "seed": cell.seed,
        "steps": 0 if cell.kind == "league" else cell.steps,
        "record_every": cell.record_every,
        "precision": cell.precision,
        **({} if cell.starts == "drawn" else {"starts": cell.starts}),
    }
    record = cell_record(
        key=cell.hash,
        kind=cell.kind,
        suite=suite,
        game=described_game(cell.game),
        learners=learners,
        protocol=protocol,
        timings=timings,
        costs=costs,
        diverged=diverged,
        command=cell.command if cell.kind == "encounter" else f"shaping-bench run {suite}",
    )
    return record | {"best_response": cell.best_response}
