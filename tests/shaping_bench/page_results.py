"""A small results directory with everything that the page shows."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from shaping_bench.games.grids.board import seated
from shaping_bench.games.grids.coin import CoinGame
from shaping_bench.publish.report.drawing import STATES
from tests.shaping_bench.synthetic_results import write_cell, write_suite

NAN = float("nan")
LEARNERS = ("naive", "lola", "a <b> & c", "mfos")
GAMES = ("ipd", "tandem", "coin-game")
UPDATES = list(range(0, 1010, 10))

OLD_FRAMES = [
    {"agents": [[0, 0], [2, 2]], "coins": [{"at": [0, 1], "owner": 0}, {"at": [2, 0], "owner": 1}], "rewards": [0, 0]},
    {"agents": [[0, 1], [2, 1]], "coins": [{"at": [1, 1], "owner": 0}, {"at": [2, 0], "owner": 1}], "rewards": [1, 0]},
    {"agents": [[0, 2], [1, 1]], "coins": [{"at": [2, 2], "owner": 0}, {"at": [2, 0], "owner": 1}], "rewards": [-2, 1]},
    {"agents": [[2, 2], [1, 0]], "coins": [{"at": [0, 0], "owner": 0}, {"at": [2, 0], "owner": 1}], "rewards": [1, 0]},
]
"""An episode as the first version stored it, of three steps on a 3 x 3 torus; the last step of player 1
leaves over the edge."""

LEGEND = {name: glyph.plain() for name, glyph in seated(CoinGame.legend, n_players=2).items()}

FRAMES = [
    {"pieces": [["red coin", 0, 1], ["blue coin", 2, 0], ["red", 0, 0], ["blue", 2, 2]], "rewards": [0, 0]},
    {"pieces": [["red coin", 1, 1], ["blue coin", 2, 0], ["red", 0, 1], ["blue", 2, 1]], "rewards": [1, 0]},
    {"pieces": [["red coin", 2, 2], ["blue coin", 2, 0], ["red", 0, 2], ["blue", 1, 1]], "rewards": [-2, 1]},
    {"pieces": [["red coin", 0, 0], ["blue coin", 2, 0], ["red", 2, 2], ["blue", 1, 0]], "rewards": [1, 0]},
]
"""The same as it is stored now."""


def described(label: str) -> dict[str, Any]:
    """A learner's entry of a cell: M-FOS sees most, and has prepared for 300 s."""
    entry = {"name": label.split(" ")[0], "label": label, "hyperparameters": {"lr": 1.0, "hidden": None}}
    if label != "mfos":
        access = "actions" if label == "all-d" else "gradients"
        return {**entry, "access": access, "needs_preparation": False, "preparation": None}
    spent = {
        "artifact": "0" * 24,
        "seeds": 1,
        "steps": 10,
        "seconds": 300.0,
        "gradient_evaluations": 1000,
        "environment_steps": 0,
    }
    return {**entry, "access": "simulator", "needs_preparation": True, "preparation": spent}


def write_page_results(directory: Path) -> None:
    """Three games, four learners, everybody against everybody; two seeds of one cell are lost."""
    write_suite(directory, GAMES, LEARNERS, opponents=["all-d"], description="Three games & <more>.")
    rng = np.random.default_rng(0)
    for game in GAMES:
        pairs = [(a, b) for k, a in enumerate(LEARNERS) for b in LEARNERS[k:]]
        if game == "ipd":
            pairs += [(a, "all-d") for a in LEARNERS]
        if game == "coin-game":
            pairs = pairs[:3]
        for a, b in pairs:
            finals = {"return": rng.normal(size=(4, 2)) - LEARNERS.index(a)}
            if game == "ipd":
                finals |= {f"cooperation_{s}": rng.random((4, 2)) for s in STATES}
            if (game, a, b) == ("tandem", "lola", "lola"):
                finals["return"][[1, 3]] = NAN
            curves = {"return": rng.normal(size=(len(UPDATES), 4, 2))}
            learners = [described(a), described(b)]
            key = write_cell(directory, game, [a, b], finals, curves=curves, updates=UPDATES, learners=learners)
            if game == "coin-game":
                episode = {"version": 2, "rows": 3, "columns": 3, "legend": LEGEND, "frames": FRAMES}
                if (a, b) == pairs[0]:
                    episode = {"preset": "mfos", "seed": 0, "grid": 3, "players": 2, "frames": OLD_FRAMES}
                (directory / "cells" / key / "episode.json").write_text(json.dumps(episode))
    write_cell(directory, "ipd", ["naive", "best-response"], {"return": [[-3.0, -0.125]] * 4}, kind="league")


def verdict(claim: str, verdict: str, **more: Any) -> dict[str, Any]:
    """A recorded verdict."""
    return {
        "claim": claim,
        "statement": f"Statement of {claim}",
        "source": "Table 1",
        "quantity": "return",
        "provenance": "published",
        "published": -1.06,
        "ours": -1.125,
        "std": 0.25,
        "difference": -0.065,
        "tolerance": 0.1,
        "why": "three standard errors",
        "verdict": verdict,
        "note": "",
        "seeds": 100,
        "diverged": 0,
        "budget": "100 seeds x 200 updates",
        "preparation": "",
        "seconds": 1.0,
        **more,
    }


VERDICTS = [verdict("a-one", "reproduced"), verdict("a-two", "missed", note="The paper's <figure>."),
            verdict("b-one", "reproduced", ours=None, std=None)]  # fmt: skip
PAPERS = {"a-one": "Paper A", "a-two": "Paper A", "b-one": "Paper B"}
