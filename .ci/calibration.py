"""Coverage of the intervals of cards, and the level of their marks, by simulation.

    python .ci/calibration.py            # a few minutes of one core; prints the table of the page "Scores"
    python .ci/calibration.py 100        # as many simulations

Rules are alike: every rule's shares have the same distribution in every scenario, part of which is the seed's
own (seeds begin alike in all scenarios). Intervals shall then cover the true score in 95 % of simulations, and
in at most 5 % any rule shall be left without a mark.
"""

import sys
from collections.abc import Callable, Iterator

import numpy as np

from shaping_bench.analysis.scores import Task, interval, marked

SCENARIOS = 10
"""Of a score: those of generality in the exact track are 25, of which scenarios of a game are alike."""

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
"""Shares of seeds in scenarios, ``(S, C)``, whose mean is 0.3."""


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """As where learning ends near one policy."""
    return 0.3 + 0.1 * rng.normal(size=(shape[0], 1)) + 0.2 * rng.normal(size=shape)


def either(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """As where it cooperates from some beginnings and defects from others, half of that decided by the seed."""
    own = rng.random((shape[0], 1)) < 0.65
    return np.where(np.where(rng.random(shape) < 0.5, own, rng.random(shape) < 0.65), 1.0, -1.0)


def skewed(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """As where most seeds end well and a few are lost."""
    lost = rng.random((shape[0], 1)) < 0.1
    return np.where(lost, -1.0, (0.3 + 0.1) / 0.9 + 0.05 * rng.normal(size=shape))


DRAWS: dict[str, Draw] = {"normal": normal, "either end": either, "one in ten lost": skewed}


def coverage(draw: Draw, seeds: int, simulations: int, rng: np.random.Generator) -> float:
    """Share of simulations in which the interval of a score covers it."""
    covered = 0
    for _ in range(simulations):
        shares = draw(rng, (seeds, SCENARIOS))
        found = interval([Task(x, 1.0 / SCENARIOS) for x in shares.T], np.arange(seeds))
        covered += found["low"] <= 0.3 <= found["high"]
    return covered / simulations


def errors(draw: Draw, rules: int, seeds: int, simulations: int, rng: np.random.Generator) -> float:
    """Share of simulations in which any of the rules, which are alike, is left without a mark."""
    wrong = 0
    for _ in range(simulations):
        scores = {str(k): draw(rng, (seeds, SCENARIOS)).mean(axis=1) for k in range(rules)}
        wrong += len(marked(scores, {k: float(x.mean()) for k, x in scores.items()})) < rules
    return wrong / simulations


def rows(simulations: int) -> Iterator[str]:
    rng = np.random.default_rng(0)
    yield "| shares | seeds | coverage | level, 4 rules | level, 20 rules |"
    yield "| --- | --- | --- | --- | --- |"
    for name, draw in DRAWS.items():
        for seeds in (8, 16, 32):
            levels = (errors(draw, rules, seeds, simulations, rng) for rules in (4, 20))
            shown = " | ".join(f"{x:.3f}" for x in (coverage(draw, seeds, simulations, rng), *levels))
            yield f"| {name} | {seeds} | {shown} |"


if __name__ == "__main__":
    for row in rows(int(sys.argv[1]) if len(sys.argv) > 1 else 400):
        print(row, flush=True)
