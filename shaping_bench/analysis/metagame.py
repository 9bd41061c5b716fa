"""The tournament of learning rules read as a game between learning rules.

Whoever chooses a learning rule plays a game: the rules are its actions, and what a rule
returns against another, after both have learnt, is its payoff. ``payoffs[i, j]`` is the mean
return of rule i when it learns against rule j; of more than two players ``payoffs[i, c]`` is that in
the company c of the others' rules. Games whose seats differ are made symmetric
the usual way: the rule is chosen before the seat is known, and both seats are equally likely.

The analyses themselves, which know nothing of results, are in :mod:`shaping_bench.analysis.solvers`.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shaping_bench.analysis import solvers
from shaping_bench.analysis.entries import entries, metric_names, num_prepared
from shaping_bench.analysis.solvers import Array, Basin, Trajectory
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


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class MetaGame:
    """One game's learning rules as a symmetric game of n actions; arrays follow ``rules``.

    Intervals are 95 % percentile intervals of the bootstrap over training seeds, low and high
    in the last axis; a seed is resampled with all its encounters, which share initial policies
    (where seeds share several preparations, a preparation is resampled with all its seeds).

    Attributes:
      game: its label.
      players: how many play it.
      companies: who the others may be, ``C`` multisets of indices of rules; of two players ``(j,)`` for each
        rule, so that C is n, and c below is the opponent's rule.
      rules: labels of the n rules that have all met each other and themselves (of several players, in all
        mixtures), in table order.
      left_out: label to why, of those who met somebody but are not among the rules.
      returns: ``(n, n, S)``, per training seed; NaN where it diverged or did not run.
      payoffs: ``(n, n)``, mean of the finite ones.
      payoff_ci: ``(n, n, 2)``.
      hashes: ``n x n``, the stored cells a payoff comes from.
      runs: ``(n, n)``, how many seeds were run.
      diverged: ``(n, n)``, how many of them have no return; they enter no payoff, so a rule
        that often diverges looks better than it is.
      gain: ``(n, n)``, what a single adopter of rule i gains where everybody plays j: what it returns among
        them, minus what one of them does.
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
    players: int
    companies: tuple[tuple[int, ...], ...]
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
    pure_profiles: tuple[tuple[int, ...], ...]
    alpha_rank: Array
    alpha_rank_ci: Array
    alphas: Array
    alpha_sweep: Array
    trajectories: tuple[Trajectory, ...]
    basins: tuple[Basin, ...]
    note: str


@results_.kept
def analyse(results: Results, game: str) -> MetaGame | None:
    """The meta-game of a game's stored encounters; kept with the results.

    Returns:
      None where fewer than two rules have met each other and themselves; of more than two players, in all
      mixtures (``lineups: mixtures`` in a suite).

    Raises:
      BadInput: no such game in the results.
    """
    if game not in results.games:
        raise unknown("game", game, results.games)
    stored = _stored(results, game)
    if stored is None:
        return None
    valued = np.asarray(np.isfinite(stored.returns).any(axis=-1))
    rules, left_out = _all_met(valued, stored.runs > 0, stored.labels, stored.players)
    if len(rules) < 2:
        return None
    at = solvers.place(len(stored.labels), stored.players - 1)
    among = [at[tuple(rules[j] for j in c)] for c in solvers.compositions(len(rules), stored.players - 1)]
    chosen = np.ix_(rules, among)
    names = tuple(stored.labels[i] for i in rules)
    return meta_game(
        game,
        names,
        stored.returns[chosen],
        runs=stored.runs[chosen],
        units=stored.units[chosen],
        pools=stored.pools[chosen],
        hashes=tuple(tuple(stored.hashes[i, c] for c in among) for i in rules),
        left_out=left_out,
        players=stored.players,
        note=_note(results, game, names, stored.runs[chosen]),
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
    players: int = 2,
) -> MetaGame:
    """The meta-game of given returns ``(n, C, S)``: of rule i in company c in training seed s.

    Args:
      returns: every pair needs a finite one.
      runs: how many seeds were run, ``(n, C)``; all S by default.
      units: what each seed is resampled with, ``(n, C, S)``; itself by default.
      pools: of what, and of how many, units are drawn, ``(n, C)`` pairs such as ``("seeds", S)``.
      players: of the game. Of two, C is n, and c is the opponent's rule; else see
        :func:`shaping_bench.analysis.solvers.compositions`.
    """
    values = np.asarray(returns, np.float64)
    n, num_companies, num_seeds = values.shape
    finite = np.isfinite(values)
    ran = np.full((n, num_companies), num_seeds) if runs is None else np.asarray(runs, int)
    payoffs = np.where(finite, values, 0.0).sum(axis=-1) / finite.sum(axis=-1)
    if units is None or pools is None:
        units, pools = np.broadcast_to(np.arange(num_seeds), values.shape), np.empty(ran.shape, object)
        pools[:] = [[("seeds", num_seeds)] * num_companies] * n
    resampled = _resampled(values, payoffs, units, pools, RESAMPLES)
    gain, drawn_gain = (solvers.gains(x, players) for x in (payoffs, resampled))
    effect, drawn_effect = (solvers.effects(x, players) for x in (payoffs, resampled))
    exploitable, drawn_exploitable = (solvers.exploitability(x, players) for x in (payoffs, resampled))
    chance = np.where(np.eye(n, dtype=bool), np.nan, (drawn_gain > 0.0).mean(axis=0))
    # A pure strategy that nobody leaves with a gain; ties are no gain.
    scale = solvers.span(payoffs)
    stays = (drawn_exploitable <= solvers.TOLERANCE * scale).mean(axis=0)
    equilibria, complete = solvers.symmetric_equilibria(payoffs, players=players)
    trajectories, basins = solvers.dynamics(payoffs, rules, players)
    rank = functools.partial(solvers.alpha_rank, players=players)
    states = math.comb(n + players - 1, players)
    chunks = np.array_split(resampled[:RESAMPLES_OF_RANKS], -(-RESAMPLES_OF_RANKS * states**2 // solvers.MAX_ENTRIES))
    return MetaGame(
        game=game,
        players=players,
        companies=solvers.compositions(n, players - 1),
        rules=tuple(rules),
        left_out=dict(left_out or {}),
        returns=values,
        payoffs=payoffs,
        payoff_ci=_interval(resampled),
        hashes=hashes or (((),) * num_companies,) * n,
        runs=ran,
        diverged=ran - finite.sum(axis=-1),
        gain=gain,
        gain_ci=_interval(drawn_gain),
        gain_chance=chance,
        effect=effect,
        effect_ci=_interval(drawn_effect),
        exploitability=exploitable,
        exploitability_ci=_interval(drawn_exploitable),
        exploiter=np.where(np.eye(n, dtype=bool), -np.inf, gain).argmax(axis=0),
        equilibria=tuple(
            Equilibrium(x, v, float(stays[x.argmax()]) if x.max() > 1.0 - solvers.TOLERANCE else None)
            for x, v in equilibria
        ),
        complete=complete,
        pure_profiles=solvers.pure_profiles(payoffs, players),
        alpha_rank=rank(payoffs),
        alpha_rank_ci=_interval(np.concatenate([rank(x) for x in chunks])),
        alphas=ALPHAS,
        alpha_sweep=np.stack([rank(payoffs, alpha / scale) for alpha in ALPHAS]),
        trajectories=trajectories,
        basins=basins,
        note=note or f"{num_seeds} seeds",
    )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class _Stored:
    """What everybody who played a game returned.

    Attributes:
      labels: of the n who played.
      players: how many play at once.
      returns, units: ``(n, C, S)``, per seed: the return, and what the seed is resampled with.
      runs, pools, hashes: ``(n, C)``: how many seeds ran, of what units are drawn, stored cells.
    """

    labels: tuple[str, ...]
    players: int
    returns: Array
    units: NDArray[np.int64]
    runs: NDArray[np.int64]
    pools: NDArray[np.object_]
    hashes: NDArray[np.object_]


def _stored(results: Results, game: str) -> _Stored | None:
    frame = entries(results, "return") if "return" in metric_names(results, "encounter") else None
    records = [r for r in results.records if r["game"]["label"] == game and r["kind"] == "encounter"]
    if frame is None or not records or len(records[0]["learners"]) < 2:
        return None
    players = len(records[0]["learners"])
    lineups = {tuple(x["label"] for x in r["learners"]) for r in records}
    companies_of = {(x[i], facts.opponent(x, i)): facts.company(x, i) for x in lineups for i in range(players)}
    if not facts.game(records[0]).get("exchangeable", True):  # one order of seats does not say all
        companies_of = {
            (a, b): c for (a, b), c in companies_of.items() if set(itertools.permutations((a, *c))) <= lineups
        }
    frame = frame[frame["game"] == game]
    frame = frame[[pair in companies_of for pair in zip(frame["learner"], frame["opponent"], strict=True)]]
    present = set(frame["learner"])
    labels = tuple(x for x in results.labels if x in present)
    index = {label: k for k, label in enumerate(labels)}
    at = solvers.place(len(labels), players - 1)
    where = {pair: at[tuple(sorted(index[x] for x in c))] for pair, c in companies_of.items() if present.issuperset(c)}
    frame = frame[[pair in where for pair in zip(frame["learner"], frame["opponent"], strict=True)]]
    seeds = {seed: k for k, seed in enumerate(sorted(frame["seed"].unique()))}
    rows = frame["learner"].map(index).to_numpy(int)
    cols = np.array([where[pair] for pair in zip(frame["learner"], frame["opponent"], strict=True)], int)
    place = frame["seed"].map(seeds).to_numpy(int)
    shape = len(labels), len(at)
    returns, units, runs = (
        np.full((*shape, len(seeds)), np.nan),
        np.zeros((*shape, len(seeds)), int),
        np.zeros(shape, int),
    )
    pools, hashes = np.empty(shape, object), np.empty(shape, object)
    returns[rows, cols, place] = frame["value"].to_numpy(float)
    units[rows, cols, place] = frame["unit"].to_numpy(int)
    np.add.at(runs, (rows, cols), 1)
    pools[rows, cols], hashes[rows, cols] = frame["pool"].to_numpy(object), frame["hashes"].to_numpy(object)
    return _Stored(labels=labels, players=players, returns=returns, units=units, runs=runs, pools=pools, hashes=hashes)


def _all_met(
    valued: NDArray[np.bool_], ran: NDArray[np.bool_], labels: Sequence[str], players: int = 2
) -> tuple[list[int], dict[str, str]]:
    """The largest set of rules that all met each other and themselves, in every mixture; of several sets,
    that of the rules named first."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # slow to import: only this pays for it

    n = len(labels)
    at = solvers.place(n, players - 1)

    def everywhere(table: NDArray[np.bool_], profile: tuple[int, ...]) -> bool:
        return all(table[i, at[profile[:k] + profile[k + 1 :]]] for k, i in enumerate(profile))

    profiles = solvers.compositions(n, players)
    known = {profile: everywhere(valued, profile) for profile in profiles}
    apart = [sorted(set(profile)) for profile in profiles if len(set(profile)) > 1 and not known[profile]]
    weights = 1.0 + np.arange(n, 0, -1) / (n * (n + 1.0))  # ties: together less than one rule more
    rows = np.zeros((len(apart), n))
    for row, together in zip(rows, apart, strict=True):
        row[together] = 1.0
    solved = milp(
        -weights,
        integrality=np.ones(n),
        bounds=Bounds(0.0, [float(known[(i,) * players]) for i in range(n)]),
        constraints=[LinearConstraint(rows, ub=rows.sum(axis=1) - 1.0)] if apart else [],
    )
    rules = [i for i in range(n) if solved.x[i] > 0.5]
    left_out = {}
    for i in sorted(set(range(n)) - set(rules)):
        companies = itertools.combinations_with_replacement([i, *rules], players - 1)
        missed = [c for c in companies if not known[tuple(sorted((i, *c)))]]
        names = ["itself" if set(c) == {i} else facts.opponent([labels[j] for j in (i, *c)], 0) for c in missed]
        never = all(everywhere(ran, tuple(sorted((i, *c)))) for c in missed)
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
    resamples = np.empty((reps, *payoffs.shape))
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
        resamples[:, pairs[0], pairs[1]] = np.where(
            counts > 0, weights @ total.T / np.maximum(counts, 1), payoffs[pairs]
        )
    return resamples


def _interval(resamples: Array) -> Array:
    """95 % percentile interval over the first axis, put last."""
    return np.moveaxis(np.quantile(resamples, [0.025, 0.975], axis=0), 0, -1)
