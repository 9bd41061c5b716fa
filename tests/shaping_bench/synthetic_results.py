"""Writes small results directories by the stored results' contract, without running anything."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import yaml

ACCESS = {"naive": "gradients", "lola": "gradients", "all-d": "actions", "mfos": "simulator"}


def write_suite(directory: Path, games: Sequence[Any], learners: Sequence[Any], **more: Any) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    suite = {"name": "synthetic", "description": "", "games": list(games), "learners": list(learners), **more}
    (directory / "suite.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))


def write_cell(
    directory: Path,
    game: str,
    labels: Sequence[str],
    finals: Mapping[str, Any],
    kind: str = "encounter",
    curves: Mapping[str, Any] | None = None,
    updates: Sequence[int] = (),
    **more: Any,
) -> str:
    """One cell; a label ``x (note)`` or ``x(...)`` is of the learner ``x``.

    Args:
      finals: metric to ``(S, n_players)``; NaN in ``return`` marks a diverged seed.
      curves: metric to ``(R, S, n_players)`` at the given updates.
      more: replaces fields of ``cell.json``.

    Returns:
      The cell's hash.
    """
    values = {name: np.asarray(x, float) for name, x in finals.items()}
    seeds, num_players = next(iter(values.values())).shape
    lost = np.isnan(values.get("return", np.zeros((seeds, num_players)))).any(axis=1)
    values["diverged"] = np.repeat(lost[:, None].astype(float), num_players, axis=1)
    key = hashlib.sha256(repr((kind, game, tuple(labels))).encode()).hexdigest()[:24]
    folder = directory / "cells" / key
    folder.mkdir(parents=True)
    cell = {
        "schema": 1,
        "hash": key,
        "kind": kind,
        "suite": "synthetic",
        "game": {"name": game.split("(")[0], "label": game, "hyperparameters": {}},
        "learners": [_learner(label) for label in labels],
        "seeds": seeds,
        "seed": 0,
        "steps": 0 if kind == "league" else 100,
        "record_every": 10,
        "precision": "float32",
        "versions": {"jax": "0.7.0"},
        "git_commit": "0123abc",
        "device": {"platform": "cpu", "kind": "cpu", "count": 1},
        "timings": {"compile": 1.5, "run": 0.5, "metrics": 0.1},
        "costs": {"updates": seeds * 100, "gradient_evaluations": [seeds * 300, seeds * 100], "environment_steps": 0},
        "status": "done",
        "diverged": int(lost.sum()),
        "started": "2026-01-02T03:04:05+00:00",
        "command": f"shaping-bench encounter '{game}' " + " ".join(f"'{x}'" for x in labels),
        **more,
    }
    (folder / "cell.json").write_text(json.dumps(cell))
    rows = [(s, p + 1, name, x[s, p]) for name, x in values.items() for s in range(seeds) for p in range(num_players)]
    _write(pd.DataFrame(rows, columns=["seed", "player", "metric", "value"]), folder / "finals.parquet")
    points = [
        (s, int(u), p + 1, name, np.asarray(x, float)[r, s, p])
        for name, x in (curves or {}).items()
        for r, u in enumerate(updates)
        for s in range(seeds)
        for p in range(num_players)
    ]
    frame = pd.DataFrame(points, columns=["seed", "update", "player", "metric", "value"])
    types = {"seed": "int64", "update": "int64", "player": "int64", "metric": "str", "value": "float64"}
    _write(frame.astype(types), folder / "curves.parquet")
    return key


def _learner(label: str) -> dict[str, Any]:
    name = label.split("(")[0].split(" ")[0]
    access = ACCESS.get(name, "gradients")
    return {
        "name": name,
        "label": label,
        "hyperparameters": {"lr": 1.0},
        "access": access,
        "needs_preparation": name == "mfos",
    }


def _write(frame: pd.DataFrame, path: Path) -> None:
    with duckdb.connect() as connection:
        connection.register("frame", frame)
        connection.execute(f"COPY frame TO '{path}' (FORMAT parquet)")
