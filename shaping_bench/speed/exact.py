"""The speed of exact encounters: the iterated prisoner's dilemma, 200 simultaneous updates of both players.

*Throughput* is seed-updates (updates of both players in one seed) per second of a whole call after
warm-up, medians of several: per wall second, and per CPU-second (process time over all threads),
which survives a busy machine. *Start-up* is the command line in fresh processes, first with an
empty compilation cache (cold), then with the one it left (warm).
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from shaping_bench.speed import peers
from shaping_bench.speed.clock import clocked, kept, rates
from shaping_bench.speed.peers import Peer

UPDATES = 200
SEEDS = 10_000
BATCH = 4096
"""Of the official M-FOS environment's exact games."""


@dataclasses.dataclass(frozen=True)
class Work:
    """One encounter, and what is asked of it.

    Attributes:
      learner: of the first seat.
      precision, seeds: of the encounter.
      opponent: of the second seat; None: self-play.
      target: seed-updates per CPU-second to reach.
      peer: whose figure stands beside ours.
    """

    learner: str
    precision: str
    seeds: int = SEEDS
    opponent: str | None = None
    target: float | None = None
    peer: Peer | None = None

    @property
    def label(self) -> str:
        return f"{self.learner}{f', {self.opponent}' if self.opponent else ''} {self.precision} x {self.seeds}"


# The notebook's LOLA has both second-order terms, as our `lola-full`; it is in single precision.
WORKS = (
    Work("naive", "float32", target=kept(42.8e6), peer=peers.SOS_NAIVE),
    Work("naive", "float64"),
    Work("lola", "float32"),
    Work("lola", "float64"),
    Work("lola-full", "float32", target=24e6, peer=peers.SOS_LOLA),
    Work("lola-full", "float64"),
    Work("sos", "float32", target=15e6, peer=peers.SOS),
    Work("sos", "float64"),
    Work("cgd", "float32", target=4e6, peer=peers.SOS_CGD),
    Work("cgd", "float64"),
    Work("naive", "float32", BATCH, target=kept(40.7e6), peer=peers.MFOS_NAIVE),
    Work("naive", "float64", BATCH),
    Work("lola", "float32", BATCH, target=kept(19.1e6)),
    Work("lola", "float32", BATCH, opponent="naive", peer=peers.MFOS_LOLA),
    Work("lola", "float64", BATCH),
)


def throughput(work: Work, runs: int, alike: bool, updates: int = UPDATES) -> dict[str, Any]:
    """Times one work: whole calls of the encounter, results on the host."""
    from shaping_bench.run.encounter import run_encounter
    from shaping_bench.spec.registry import make_game, make_learner

    game = make_game("ipd").value
    rules = [make_learner(name).value for name in (work.learner, work.opponent or work.learner)]

    def call() -> None:
        run_encounter(game, rules, num_seeds=work.seeds, num_updates=updates, precision=work.precision)

    return row_of(work, updates, *clocked(call, runs), alike=alike)


def row_of(
    work: Work, updates: int, walls: Sequence[float], cpus: Sequence[float], *, alike: bool = True
) -> dict[str, Any]:
    """What is reported of one work, by the seconds of several calls."""
    row = rates(work.seeds * updates, walls, cpus, work.target)
    return {
        "learner": work.learner,
        "opponent": work.opponent or work.learner,
        "precision": work.precision,
        "seeds": work.seeds,
        "updates": updates,
        "seed_updates": work.seeds * updates,
        **row,
        **peers.beside(work.peer, row["per_cpu_second"], alike),
    }


STARTUP_LEARNERS = ("naive", "lola", "lola-full", "sos", "cgd")
STARTUP_LIMITS = {
    "cold": {"compile_seconds": 3.0},
    "warm": {"compile_seconds": 0.5, "first_result_seconds": 2.3},
}
"""Of one LOLA encounter; the other rules are held against the same."""


def startup(learner: str) -> dict[str, Any]:
    """The command line in two fresh processes that share an initially empty compilation cache."""
    phases: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as cache:
        for phase in STARTUP_LIMITS:
            command = [sys.executable, "-m", "shaping_bench", "encounter", "ipd", learner, "--json"]
            start = time.perf_counter()
            process = subprocess.run(
                [*command, "--seeds", "100", "--steps", str(UPDATES)],
                env={**os.environ, "JAX_COMPILATION_CACHE_DIR": cache},
                stdout=subprocess.PIPE,
                check=True,
            )
            seconds = json.loads(process.stdout)["seconds"]
            phases[phase] = {
                "compile_seconds": seconds["compile"],
                "run_seconds": seconds["run"],
                "first_result_seconds": time.perf_counter() - start,
            }
    within = [
        phases[phase][name] <= limit for phase, limits in STARTUP_LIMITS.items() for name, limit in limits.items()
    ]
    return {"learner": learner, **phases, "met": all(within)}
