"""What claims would take at their published budgets: a few of their updates, timed.

    python .ci/hours.py 'loqa-*' aa-coin-game      # Markdown on stdout, of the page "Claims"

Each claim's preparations and encounter are begun as ``verify --full`` begins them, all seeds of it, and run for a
while after they are compiled; preparations that an encounter needs are stood in for by unprepared ones. What is
counted are CPU-seconds, so that hours are those of a core, whatever else the machine does.
"""

import sys
import time

import jax
import numpy as np

from shaping_bench.claims.files import load_claims, select
from shaping_bench.claims.verify import _resolve, _starts
from shaping_bench.errors import OutOfTime
from shaping_bench.run import checkpoints, devices
from shaping_bench.run.deadline import Deadline
from shaping_bench.run.encounter import run_encounter
from shaping_bench.run.preparation import imagined_artifact, prepare

ENOUGH = 8.0
"""CPU-seconds that are timed, at least one call."""


class Watch(Deadline):
    """Stops a run once enough of it is timed; calls before the second are compilation."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, float]] = []

    def note(self, done: int) -> None:
        self.seen.append((done, time.process_time()))
        timed = self.seen[1:]
        if len(timed) > 1 and timed[-1][1] - timed[0][1] > ENOUGH:
            self.stop("enough")

    @property
    def per_update(self) -> float:
        (first, begun), (last, ended) = self.seen[1], self.seen[-1]
        return (ended - begun) / (last - first)


def timed(run, updates: int) -> float:
    """CPU-seconds of all its updates."""
    watch = Watch()
    plain = checkpoints.Pauses.pause

    def pause(self, done, seconds, moment):
        watch.note(done)
        plain(self, done, seconds, moment)

    checkpoints.Pauses.pause = pause
    begun = time.process_time()
    try:
        run(watch)
    except OutOfTime:
        return watch.per_update * updates
    finally:
        checkpoints.Pauses.pause = plain
    # Over before there was enough of it.
    return watch.per_update * updates if len(watch.seen) > 2 else time.process_time() - begun


def hours(claim) -> float:
    entry = _resolve(claim, full=True)
    protocol, game = entry.protocol, entry.game.value
    rules = [x.value for x in entry.learners]
    seconds = 0.0
    for need in {x.hash: x for x in entry.needs if x is not None}.values():
        seconds += timed(lambda watch, need=need: prepare(need, deadline=watch), need.steps)
    imagined = [
        None if need is None else jax.tree.map(lambda x: np.asarray(x)[None], imagined_artifact(rule, game, i))
        for i, (rule, need) in enumerate(zip(rules, entry.needs, strict=True))
    ]
    seconds += timed(
        lambda watch: run_encounter(
            game,
            rules,
            num_seeds=protocol.num_seeds,
            num_updates=protocol.steps,
            seed=protocol.seed,
            init=_starts(protocol, game),
            precision=protocol.precision,
            episodes=1,
            artifacts=imagined,
            deadline=watch,
        ),
        protocol.steps,
    )
    return seconds / 3600


if __name__ == "__main__":
    devices.configure()
    known = load_claims()
    print("| claim | published budget | core-hours |\n| --- | --- | --- |")
    for name in select(sys.argv[1:]):
        entry = known[name]
        print(f"| `{name}` | {entry.protocol.at_full_budget().text} | {hours(entry):.2g} |", flush=True)
