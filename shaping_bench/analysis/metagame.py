"""The tournament of learning rules read as a game between learning rules.

Whoever chooses a learning rule plays a game: the rules are its actions, and what a rule
returns against another, after both have learnt, is its payoff. ``payoffs[i, j]`` is the mean
return of rule i when it learns against rule j. Games whose seats differ are made symmetric
the usual way: the rule is chosen before the seat is known, and both seats are equally likely.

The analyses themselves, which know nothing of results, are in :mod:`shaping_bench.analysis.solvers`.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shaping_bench.analysis.entries import entries, metric_names, num_prepared
from shaping_bench.analysis.solvers import (
    MAX_ENTRIES,
    TOLERANCE,
    Array,
    Basin,
    Trajectory,
    alpha_rank,
    dynamics,
    effects,
    exploitability,
    gains,
    pure_profiles,
    span,
    symmetric_equilibria,
)
from shaping_bench.errors import unknown
from shaping_bench.store import facts
from shaping_bench.store import results as results_
from shaping_bench.store.results import Results

Hashes = tuple[tuple[tuple[str, ...], ...], ...]

RESAMPLES = 2000
"""Of the training seeds, for intervals of payoffs and gains."""
RESAMPLES_OF_RANKS = 300
"""The same for alpha-rank, each of which is a Markov chain to solve."""
ALPHAS = np.logspace(-2.0, 4.0, 37)
"""Strengths of selection, in units of 1 / (range of payoffs)."""


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
class MetaGame:
    """One game's learning rules as a symmetric game of n actions; arrays follow ``rules``.

    Intervals are 95 % percentile intervals of the bootstrap over training seeds, low and high
    in the last axis; a seed is resampled with all its encounters, which share initial policies
    (where seeds share several preparations, a preparation is resampled with all its seeds).

    Attributes:
      game: its label.
      rules: labels of the n rules that have all met each other and themselves, in table order.
      left_out: label to why, of those who met somebody but are not among the rules.
      returns: ``(n, n, S)``, per training seed; NaN where it diverged or did not run.
      payoffs: ``(n, n)``, mean of the finite ones.
      payoff_ci: ``(n, n, 2)``.
      hashes: ``n x n``, the stored cells a payoff comes from.
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
        this one, ``max_i gain[i, j]``; negative for a strict equilibrium. The largest of noisy
        gains lies above the true one where seeds are few.
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
    hashes: Hashes
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


@results_.kept
def analyse(results: Results, game: str) -> MetaGame | None:
    """The meta-game of a two-player game's stored encounters; kept with the results.

    Returns:
      None where fewer than two rules have met each other and themselves, or more than two play.

    Raises:
      BadInput: no such game in the results.
    """
    if game not in results.games:
        raise unknown("game", game, results.games)
    stored = _stored(results, game)
    if stored is None:
        return None
    valued = np.asarray(np.isfinite(stored.returns).any(axis=-1))
    rules, left_out = _all_met(valued, stored.runs > 0, stored.labels)
    if len(rules) < 2:
        return None
    kept = np.ix_(rules, rules)
    names = tuple(stored.labels[i] for i in rules)
    return meta_game(
        game,
        names,
        stored.returns[kept],
        runs=stored.runs[kept],
        units=stored.units[kept],
        pools=stored.pools[kept],
        hashes=tuple(tuple(stored.hashes[i, j] for j in rules) for i in rules),
        left_out=left_out,
        note=_note(results, game, names, stored.runs[kept]),
    )


def meta_game(
    game: str,
    rules: Sequence[str],
    returns: ArrayLike,
    runs: ArrayLike | None = None,
    units: NDArray[np.int64] | None = None,
    pools: NDArray[np.object_] | None = None,
    hashes: Hashes = (),
    left_out: Mapping[str, str] | None = None,
    note: str = "",
) -> MetaGame:
    """The meta-game of given returns ``(n, n, S)``: of rule i against rule j in training seed s.

    Args:
      returns: every pair needs a finite one.
      runs: how many seeds were run, ``(n, n)``; all S by default.
      units: what each seed is resampled with, ``(n, n, S)``; itself by default.
      pools: of what, and of how many, units are drawn, ``(n, n)`` pairs such as ``("seeds", S)``.
    """
    values = np.asarray(returns, np.float64)
    n, num_seeds = len(values), values.shape[-1]
    finite = np.isfinite(values)
    ran = np.full((n, n), num_seeds) if runs is None else np.asarray(runs, int)
    payoffs = np.where(finite, values, 0.0).sum(axis=-1) / finite.sum(axis=-1)
    if units is None or pools is None:
        units, pools = np.broadcast_to(np.arange(num_seeds), values.shape), np.empty((n, n), object)
        pools[:] = [[("seeds", num_seeds)] * n] * n
    resampled = _resampled(values, payoffs, units, pools, RESAMPLES)
    gain, drawn_gain = gains(payoffs), gains(resampled)
    effect, drawn_effect = effects(payoffs), effects(resampled)
    chance = np.where(np.eye(n, dtype=bool), np.nan, (drawn_gain > 0.0).mean(axis=0))
    # A pure strategy that nobody leaves with a gain; ties are no gain.
    stays = (exploitability(resampled) <= TOLERANCE * span(payoffs)).mean(axis=0)
    found, complete = symmetric_equilibria(payoffs)
    scale = span(payoffs)
    trajectories, basins = dynamics(payoffs, rules)
    states = n * (n + 1) // 2
    chunks = np.array_split(resampled[:RESAMPLES_OF_RANKS], -(-RESAMPLES_OF_RANKS * states**2 // MAX_ENTRIES))
    return MetaGame(
        game=game,
        rules=tuple(rules),
        left_out=dict(left_out or {}),
        returns=values,
        payoffs=payoffs,
        payoff_ci=_interval(resampled),
        hashes=hashes or (((),) * n,) * n,
        runs=ran,
        diverged=ran - finite.sum(axis=-1),
        gain=gain,
        gain_ci=_interval(drawn_gain),
        gain_chance=chance,
        effect=effect,
        effect_ci=_interval(drawn_effect),
        exploitability=exploitability(payoffs),
        exploitability_ci=_interval(exploitability(resampled)),
        exploiter=np.where(np.eye(n, dtype=bool), -np.inf, gain).argmax(axis=0),
        equilibria=tuple(
            Equilibrium(x, v, float(stays[x.argmax()]) if x.max() > 1.0 - TOLERANCE else None) for x, v in found
        ),
        complete=complete,
        pure_profiles=pure_profiles(payoffs),
        alpha_rank=alpha_rank(payoffs),
        alpha_rank_ci=_interval(np.concatenate([alpha_rank(x) for x in chunks])),
        alphas=ALPHAS,
        alpha_sweep=np.stack([alpha_rank(payoffs, alpha / scale) for alpha in ALPHAS]),
        trajectories=trajectories,
        basins=basins,
        note=note or f"{num_seeds} seeds",
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Stored:
    """What everybody who played a game returned.

    Attributes:
      labels: of the n who played.
      returns, units: ``(n, n, S)``, per seed: the return, and what the seed is resampled with.
      runs, pools, hashes: ``(n, n)``: how many seeds ran, of what units are drawn, stored cells.
    """

    labels: tuple[str, ...]
    returns: Array
    units: NDArray[np.int64]
    runs: NDArray[np.int64]
    pools: NDArray[np.object_]
    hashes: NDArray[np.object_]


def _stored(results: Results, game: str) -> _Stored | None:
    frame = entries(results, "return") if "return" in metric_names(results, "encounter") else None
    records = [r for r in results.records if r["game"]["label"] == game and r["kind"] == "encounter"]
    if frame is None or not records or any(len(r["learners"]) != 2 for r in records):
        return None
    frame = frame[frame["game"] == game]
    if not facts.game(records[0]).get("exchangeable", True):  # one order of seats does not say all
        met = {tuple(x["label"] for x in r["learners"]) for r in records}
        both = [(a, b) in met and (b, a) in met for a, b in zip(frame["learner"], frame["opponent"], strict=True)]
        frame = frame[both]
    present = set(frame["learner"])
    labels = tuple(x for x in results.labels if x in present)
    index = {label: k for k, label in enumerate(labels)}
    n, seeds = len(labels), {seed: k for k, seed in enumerate(sorted(frame["seed"].unique()))}
    rows, cols = (frame[x].map(index).to_numpy(int) for x in ("learner", "opponent"))
    place = frame["seed"].map(seeds).to_numpy(int)
    returns, units, runs = np.full((n, n, len(seeds)), np.nan), np.zeros((n, n, len(seeds)), int), np.zeros((n, n), int)
    pools, hashes = np.empty((n, n), object), np.empty((n, n), object)
    returns[rows, cols, place] = frame["value"].to_numpy(float)
    units[rows, cols, place] = frame["unit"].to_numpy(int)
    np.add.at(runs, (rows, cols), 1)
    pools[rows, cols], hashes[rows, cols] = frame["pool"].to_numpy(object), frame["hashes"].to_numpy(object)
    return _Stored(labels, returns, units, runs, pools, hashes)


def _all_met(
    valued: NDArray[np.bool_], ran: NDArray[np.bool_], labels: Sequence[str]
) -> tuple[list[int], dict[str, str]]:
    """The largest set of rules that all met each other and themselves; of several, those named first."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # slow to import: only this pays for it

    n = len(labels)
    met = valued & valued.T
    apart = np.argwhere(np.triu(~met, 1))
    weights = 1.0 + np.arange(n, 0, -1) / (n * (n + 1.0))  # ties: together less than one rule more
    rows = np.zeros((len(apart), n))
    rows[np.arange(len(apart))[:, None], apart] = 1.0
    solved = milp(
        -weights,
        integrality=np.ones(n),
        bounds=Bounds(0.0, np.diagonal(met).astype(float)),
        constraints=[LinearConstraint(rows, ub=1.0)] if len(apart) else [],
    )
    rules = [i for i in range(n) if solved.x[i] > 0.5]
    left_out = {}
    for i in sorted(set(range(n)) - set(rules)):
        missed = [j for j in [i, *rules] if not met[i, j]]
        names = ["itself" if j == i else labels[j] for j in missed]
        never = all(ran[i, j] and ran[j, i] for j in missed)
        left_out[labels[i]] = f"{'no finite return against' if never else 'did not meet'} {', '.join(names)}"
    return rules, left_out


def _note(results: Results, game: str, rules: Sequence[str], runs: NDArray[np.int64]) -> str:
    least, most = int(runs.min()), int(runs.max())
    note = f"{least} to {most} seeds" if least < most else f"{most} seed{'s' * (most != 1)}"
    once = dict.fromkeys(
        x["label"]
        for r in results.records
        if r["game"]["label"] == game
        for x in r["learners"]
        if x["label"] in rules and num_prepared(x) == 1 < most
    )
    if once:
        note += f"; prepared once, so that intervals leave out what another preparation changes: {', '.join(once)}"
    return note


# --- uncertainty --------------------------------------------------------------------------


def _resampled(
    values: Array,
    payoffs: Array,
    units: NDArray[np.int64],
    pools: NDArray[np.object_],
    reps: int,
    seed: int = 0,
) -> Array:
    """Payoffs of resampled training seeds, ``(R, n, n)``.

    A seed is drawn with all its encounters, which share initial policies; where seeds share several
    preparations, a preparation is drawn with all its seeds. A pair of which a resample holds no
    finite seed keeps its payoff there.
    """
    rng = np.random.default_rng(seed)
    drawn = np.empty((reps, *payoffs.shape))
    for pool in dict.fromkeys(pools.ravel()):
        size = pool[1]
        pairs = np.nonzero([[x == pool for x in row] for row in pools])
        own, finite = values[pairs], np.isfinite(values[pairs])
        at = np.arange(len(own))[:, None], units[pairs]
        total, count = np.zeros((len(own), size)), np.zeros((len(own), size))
        np.add.at(total, at, np.where(finite, own, 0.0))
        np.add.at(count, at, finite)
        weights = rng.multinomial(size, np.full(size, 1.0 / size), reps)
        counts = weights @ count.T
        drawn[:, pairs[0], pairs[1]] = np.where(counts > 0, weights @ total.T / np.maximum(counts, 1), payoffs[pairs])
    return drawn


def _interval(drawn: Array) -> Array:
    """95 % percentile interval over the first axis, put last."""
    return np.moveaxis(np.quantile(drawn, [0.025, 0.975], axis=0), 0, -1)
