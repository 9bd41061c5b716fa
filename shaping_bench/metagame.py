"""The tournament of learning rules read as a game between learning rules.

Whoever chooses a learning rule plays a game: the rules are its actions, and what a rule
returns against another, after both have learnt, is its payoff. ``payoffs[i, j]`` is the mean
return of rule i when it learns against rule j. Games whose seats differ are made symmetric
the usual way: the rule is chosen before the seat is known, and both seats are equally likely.

Every analysis takes a plain ``(n, n)`` array of payoffs, and ascends it.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from shaping_bench.results import Results

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Equilibrium:
    """A symmetric Nash equilibrium of the meta-game.

    Attributes:
      shares: ``(n,)``, how much of the population plays each rule.
      payoff: what everybody then returns.
      chance: fraction of the resamples of training seeds in which these rules carry a symmetric
        equilibrium; None where that is not computed (mixed equilibria).
    """

    shares: Array
    payoff: float
    chance: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectory:
    """A path of the replicator dynamics.

    Attributes:
      start: ``"uniform"``, or the rule that nearly everybody plays at first.
      times: ``(T,)``, in units of 1 / (range of payoffs).
      shares: ``(T, n)``.
      settled: whether it came to rest; else it moves on, and ``end`` is an average.
      end: ``(n,)``, where it rests; of a path that does not, the mean of its second half.
    """

    start: str
    times: Array
    shares: Array
    settled: bool
    end: Array


@dataclasses.dataclass(frozen=True, eq=False)
class Basin:
    """Where the replicator dynamics take a part of all mixtures.

    Attributes:
      rules: indices of the rules that are left.
      shares: ``(n,)``, mean over the paths that end with these rules.
      fraction: of starting mixtures, drawn uniformly from the simplex.
    """

    rules: tuple[int, ...]
    shares: Array
    fraction: float


@dataclasses.dataclass(frozen=True, eq=False)
class MetaGame:
    """One game's learning rules as a symmetric game of n actions; arrays follow ``rules``.

    Intervals are 95 % percentile intervals of the bootstrap over training seeds, low and high
    in the last axis; a seed is resampled with all its encounters, which share initial policies.

    Attributes:
      game: its label.
      rules: labels of the n rules that have all met each other and themselves, in table order.
      left_out: label to why, of those who met somebody but are not among the rules.
      returns: ``(n, n, S)``, per training seed; NaN where it diverged or did not run.
      payoffs: ``(n, n)``, mean of the finite ones.
      payoff_ci: ``(n, n, 2)``.
      runs: ``(n, n)``, how many seeds were run.
      diverged: ``(n, n)``, how many of them have no return; they enter no payoff, so a rule
        that often diverges looks better than it is.
      gain: ``(n, n)``, ``payoffs[i, j] - payoffs[j, j]``: what a single adopter of rule i gains
        where everybody plays j.
      gain_ci: ``(n, n, 2)``.
      gain_chance: ``(n, n)``, fraction of resamples in which the gain is positive; NaN for i = j.
      effect: ``(n, n)``, ``payoffs[j, i] - payoffs[j, j]``: what the adoption of i does to the
        one who still plays j and meets the adopter.
      effect_ci: ``(n, n, 2)``.
      exploitability: ``(n,)``, largest gain of an adopter of another rule where everybody plays
        this one, ``max_i gain[i, j]``; negative for a strict equilibrium.
      exploitability_ci: ``(n, 2)``.
      exploiter: ``(n,)``, index of that adopter's rule.
      equilibria: symmetric equilibria, pure ones first; see :func:`symmetric_equilibria`.
      complete: whether all supports were tried; with very many rules only small ones are.
      pure_profiles: pairs (i, j), i < j, of different rules that are best replies to each other.
      alpha_rank: ``(n,)``, mass of each rule in the limit of strong selection.
      alpha_rank_ci: ``(n, 2)``.
      alphas, alpha_sweep: ``(A,)``, selection strengths in units of 1 / (range of payoffs), and
        ``(A, n)``, the masses there.
      trajectories: replicator dynamics from the uniform mixture, then from near each corner.
      basins: where they take mixtures from all over the simplex, largest fraction first.
      note: how many seeds, and what else a reader of the numbers must know, in one sentence.
    """

    game: str
    rules: tuple[str, ...]
    left_out: dict[str, str]
    returns: Array
    payoffs: Array
    payoff_ci: Array
    runs: NDArray[np.int64]
    diverged: NDArray[np.int64]
    gain: Array
    gain_ci: Array
    gain_chance: Array
    effect: Array
    effect_ci: Array
    exploitability: Array
    exploitability_ci: Array
    exploiter: NDArray[np.int64]
    equilibria: tuple[Equilibrium, ...]
    complete: bool
    pure_profiles: tuple[tuple[int, int], ...]
    alpha_rank: Array
    alpha_rank_ci: Array
    alphas: Array
    alpha_sweep: Array
    trajectories: tuple[Trajectory, ...]
    basins: tuple[Basin, ...]
    note: str


def analyse(results: Results, game: str) -> MetaGame | None:
    """The meta-game of a two-player game's stored encounters; kept with the results.

    Returns:
      None where fewer than two rules have met each other and themselves, or more than two play.

    Raises:
      BadInput: no such game in the results.
    """
    raise NotImplementedError
