"""The tournament of learning rules read as a game between learning rules.

Whoever chooses a learning rule plays a game: the rules are its actions, and what a rule
returns against another, after both have learnt, is its payoff. ``payoffs[i, j]`` is the mean
return of rule i when it learns against rule j. Games whose seats differ are made symmetric
the usual way: the rule is chosen before the seat is known, and both seats are equally likely.

Every analysis takes a plain ``(n, n)`` array of payoffs, and ascends it.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shaping_bench.errors import BadInput, unknown
from shaping_bench.publish import tables
from shaping_bench.publish.tables import ABSENT, Cell, Table
from shaping_bench.store import results as results_
from shaping_bench.store.results import Results

Array = NDArray[np.float64]
Hashes = tuple[tuple[tuple[str, ...], ...], ...]

RESAMPLES = 2000
"""Of the training seeds, for intervals of payoffs and gains."""
RESAMPLES_OF_RANKS = 300
"""The same for alpha-rank, each of which is a Markov chain to solve."""
BLOCK = 16
"""States of such a chain that are eliminated together."""
MAX_ENTRIES = 2**23
"""Most entries of Markov chains in memory at once; 64 MiB."""

TOLERANCE = 1e-9
"""Of equilibrium conditions, relative to the range of payoffs."""
RESOLUTION = 1e-6
"""Smaller differences, relative to the range of payoffs, are below what float32 learning resolves."""
MAX_SUPPORTS = 2**16
SUPPORTS_AT_ONCE = 2**13

POPULATION = 50
"""Size of alpha-rank's populations, as in its paper."""
LEAST_CHANCE = 1e-100
"""Of a mutant that loses: small against all else, and its square is still a number."""
ALPHAS = np.logspace(-2.0, 4.0, 37)

REPLICATOR_STEP = 0.25
"""In units of the fastest change that a path's mixture allows."""
REPLICATOR_STEPS = 2000
RECORDED_POINTS = 201
NEAR_CORNER = 0.99
"""Share of the rule that nearly everybody plays."""
MIXTURES = 256
"""Starting points that measure the basins."""
AT_REST = 1e-3
"""Largest change of a share over the second half of the steps of a path that has settled."""
EXTINCT = 0.01
"""Rules with smaller shares do not count as left."""


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
      times: ``(T,)``, in 1 / payoff: a rule that returns 1 more than the mean grows by e in one unit.
        They lie denser at first, and reach far: draw them on a logarithmic axis.
      shares: ``(T, n)``.
      settled: whether it came to rest; else it moves on, and ``end`` is an average.
      end: ``(n,)``, where it rests; of a path that does not, the mean over the second half of its steps.
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
    effect, drawn_effect = _effects(payoffs), _effects(resampled)
    chance = np.where(np.eye(n, dtype=bool), np.nan, (drawn_gain > 0.0).mean(axis=0))
    # A pure strategy that nobody leaves with a gain; ties are no gain.
    stays = (exploitability(resampled) <= TOLERANCE * _range(payoffs)).mean(axis=0)
    found, complete = symmetric_equilibria(payoffs)
    scale = _range(payoffs)
    trajectories, basins = _dynamics(payoffs, rules)
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
    frame = tables.entries(results, "return") if "return" in tables.metric_names(results, "encounter") else None
    records = [r for r in results.records if r["game"]["label"] == game and r["kind"] == "encounter"]
    if frame is None or not records or any(len(r["learners"]) != 2 for r in records):
        return None
    frame = frame[frame["game"] == game]
    if not _one_order_says_all(records[0]):
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


def _one_order_says_all(record: Mapping[str, Any]) -> bool:
    """Whether the seats of a cell's game are alike for learning rules."""
    from shaping_bench.spec import registry  # imports JAX, which reading results does not need

    try:
        made = registry.make_game({record["game"]["name"]: record["game"]["hyperparameters"]}).value
    except BadInput:  # of a package that is not installed here: what is stored has to do
        return True
    return bool(made.exchangeable)


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
        if x["label"] in rules and (x.get("preparation") or {}).get("seeds") == 1 < most
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


def _effects(payoffs: Array) -> Array:
    """What an adopter of i does to one who plays j, ``A[j, i] - A[j, j]``, ``(..., n, n)``."""
    return np.swapaxes(payoffs, -1, -2) - np.diagonal(payoffs, axis1=-2, axis2=-1)[..., None, :]


def _range(payoffs: Array) -> float:
    """Largest minus smallest payoff; 1 where all are the same."""
    return float(np.ptp(payoffs)) or 1.0


# --- dynamics -----------------------------------------------------------------------------


def _dynamics(payoffs: Array, rules: Sequence[str]) -> tuple[tuple[Trajectory, ...], tuple[Basin, ...]]:
    n = len(payoffs)
    uniform = np.full((1, n), 1.0 / n)
    corners = NEAR_CORNER * np.eye(n) + (1.0 - NEAR_CORNER) * uniform
    mixtures = np.random.default_rng(0).dirichlet(np.ones(n), MIXTURES)
    # A share drawn as zero has no logarithm.
    mixtures = np.maximum(mixtures, 1e-12)
    starts = np.concatenate([uniform, corners, mixtures / mixtures.sum(axis=1, keepdims=True)])
    times, shares = replicator(payoffs, starts)
    late = slice(int(np.sqrt(0.5) * (len(times) - 1)), None)  # points lie denser at first
    settled = np.ptp(shares[late], axis=0).max(axis=1) < AT_REST
    # Each point counts for the time around it.
    average = (shares[late] * np.gradient(times[late], axis=0)[..., None]).sum(axis=0) / np.ptp(times[late], axis=0)[
        :, None
    ]
    ends = np.where(settled[:, None], shares[-1], average / average.sum(axis=1, keepdims=True))
    names = ("uniform", *rules)
    paths = tuple(
        Trajectory(name, times[:, k], shares[:, k], bool(settled[k]), ends[k]) for k, name in enumerate(names)
    )
    groups: dict[tuple[int, ...], list[Array]] = {}
    for end in ends[len(names) :]:
        groups.setdefault(tuple(int(i) for i in np.flatnonzero(end > EXTINCT)), []).append(end)
    basins = [Basin(left, np.mean(x, axis=0), len(x) / MIXTURES) for left, x in groups.items()]
    return paths, tuple(sorted(basins, key=lambda x: (-x.fraction, x.rules)))


# --- the analyses of a symmetric game -----------------------------------------------------


def symmetric_equilibria(
    payoffs: ArrayLike, max_supports: int = MAX_SUPPORTS
) -> tuple[list[tuple[Array, float]], bool]:
    """Symmetric Nash equilibria, by enumeration of supports from the smallest.

    Shares x are an equilibrium if every rule in use returns the same, ``(A x)_i = v``, and no
    other more. Of a continuum (rules that return the same against one another) at least one
    point is found.

    Args:
      payoffs: A, ``(n, n)``.
      max_supports: larger supports are not tried beyond this number of supports.

    Returns:
      ``(n,)`` shares and v of each, and whether all supports were tried.
    """
    table = np.asarray(payoffs, np.float64)
    n = len(table)
    scaled = (table - table.min()) / _range(table)
    found: list[tuple[Array, float]] = []
    tried = 0
    for size in range(1, n + 1):
        tried += math.comb(n, size)
        if tried > max_supports:
            return found, False
        supports = itertools.combinations(range(n), size)
        while len(chunk := np.array(list(itertools.islice(supports, SUPPORTS_AT_ONCE)), int)):
            for shares in _equilibria_on(scaled, chunk, [x for x, _ in found]):
                found.append((shares, float(shares @ table @ shares)))
    return found, True


def _equilibria_on(table: Array, supports: NDArray[np.int64], known: list[Array]) -> list[Array]:
    """Equilibria that use exactly the rules of one of the supports ``(K, k)``, payoffs in [0, 1]."""
    num, size = supports.shape
    # Unknowns are the k shares and their payoff: A_SS x - v = 0, sum x = 1.
    system = np.zeros((num, size + 1, size + 1))
    system[:, :size, :size] = table[supports[:, :, None], supports[:, None, :]]
    system[:, :size, size] = -1.0
    system[:, size, :size] = 1.0
    right = np.zeros((num, size + 1, 1))
    right[:, size] = 1.0
    spread = np.linalg.svd(system, compute_uv=False)
    singular = spread[:, -1] < TOLERANCE * spread[:, 0]
    # Singular and inconsistent (even supports of zero-sum games), or open: a continuum.
    loose = np.linalg.pinv(system[singular], rcond=TOLERANCE)
    residual = np.abs(system[singular] @ (loose @ right[singular]) - right[singular]).max(axis=(1, 2), initial=0.0)
    undecided = supports[singular][residual < 10 * TOLERANCE]
    system[singular] = np.eye(size + 1)
    solved = np.linalg.solve(system, right)[..., 0]
    shares = np.zeros((num, len(table)))
    np.put_along_axis(shares, supports, solved[:, :size], axis=1)
    used = (solved[:, :size] > TOLERANCE).all(axis=1)
    best = (shares @ table.T <= solved[:, size:] + TOLERANCE).all(axis=1)
    found = list(shares[~singular & used & best])
    for support in undecided:
        # A part of this support that is one already stands for the continuum they belong to.
        if not any(set(np.flatnonzero(x)) <= set(support) for x in [*known, *found]):
            point = _any_equilibrium_on(table, support)
            found += [] if point is None else [point]
    return found


def _any_equilibrium_on(table: Array, support: NDArray[np.int64]) -> Array | None:
    """A feasible point of the equilibrium conditions within a support, where they leave it open."""
    from scipy.optimize import linprog  # slow to import, and rarely needed

    n = len(table)
    inside = np.isin(np.arange(n), support)
    rows = np.hstack([table, -np.ones((n, 1))])
    solved = linprog(
        np.zeros(n + 1),
        A_ub=rows[~inside] if (~inside).any() else None,
        b_ub=np.zeros(n - len(support)) if (~inside).any() else None,
        A_eq=np.vstack([rows[inside], [*np.ones(n), 0.0]]),
        b_eq=[*np.zeros(len(support)), 1.0],
        bounds=[(0.0, None if x else 0.0) for x in inside] + [(None, None)],
    )
    return np.where(solved.x[:n] > TOLERANCE, solved.x[:n], 0.0) if solved.success else None


def pure_profiles(payoffs: ArrayLike) -> tuple[tuple[int, int], ...]:
    """Pairs (i, j), i < j, of different rules that are best replies to each other."""
    table = np.asarray(payoffs, np.float64)
    best = table >= table.max(axis=0) - TOLERANCE * _range(table)
    return tuple((int(i), int(j)) for i, j in np.argwhere(np.triu(best & best.T, 1)))


def gains(payoffs: ArrayLike) -> Array:
    """What an adopter of rule i gains where everybody plays j, ``A[i, j] - A[j, j]``, ``(..., n, n)``."""
    table = np.asarray(payoffs, np.float64)
    return table - np.diagonal(table, axis1=-2, axis2=-1)[..., None, :]


def exploitability(payoffs: ArrayLike) -> Array:
    """Largest gain of an adopter of another rule where everybody plays this one, ``(..., n)``."""
    gain = gains(payoffs)
    return np.where(np.eye(gain.shape[-1], dtype=bool), -np.inf, gain).max(axis=-2)


def alpha_rank(payoffs: ArrayLike, alpha: float = math.inf, population: int = POPULATION) -> Array:
    """Alpha-rank: how often evolution with rare mutations visits each rule.

    Both seats have a population, nearly always of one rule. A mutant with another rule takes
    its population over with the probability of fixation in a finite population,
    ``(1 - exp(-alpha u)) / (1 - exp(-m alpha u))`` for a gain u against the other population's
    rule. The masses are those of the Markov chain's stationary distribution, averaged over the
    seats. With one population instead, mutants would compare their return with their
    opponent's (who beats whom), and how rules fare in self-play would not count.

    Args:
      payoffs: ``(..., n, n)``.
      alpha: strength of selection, in 1 / payoff. Infinite: every mutant that gains takes over,
        one that loses nearly never, and one that ties (to :data:`RESOLUTION`) by drift, 1 / m.
      population: m.

    Returns:
      ``(..., n)``, summing to one.

    References:
      Omidshafiei et al. 2019, Scientific Reports 9:9937, eq. 8 to 11; the infinite limit as
      Rowland et al., NeurIPS 2019.
    """
    table = np.asarray(payoffs, np.float64)
    batch, n = table.shape[:-2], table.shape[-1]
    if n == 1:
        return np.ones((*batch, 1))
    # The chain is the same with the seats exchanged: states are pairs {a, b} regardless of order.
    first, second = np.triu_indices(n)
    state = np.empty((n, n), int)
    state[first, second] = state[second, first] = np.arange(len(first))
    chain = np.zeros((*batch, len(first), len(first)))
    for old, other in ((first, second), (second, first)):
        new = np.array([[x for x in range(n) if x != y] for y in old])
        gain = table[..., new, other[:, None]] - table[..., old, other][..., None]
        tie = RESOLUTION * np.ptp(table, axis=(-2, -1))[..., None, None]
        chance = _fixation(gain, alpha, population, tie)
        chain[..., np.arange(len(first))[:, None], state[new, other[:, None]]] += chance / (2 * (n - 1))
    visits = _stationary(chain) / 2
    seat = np.eye(n)[first] + np.eye(n)[second]
    return visits @ seat


def _fixation(gain: Array, alpha: float, population: int, tie: Array) -> Array:
    """Probability that a mutant with this gain takes over a population."""
    if math.isinf(alpha):
        return np.where(gain > tie, 1.0, np.where(gain < -tie, LEAST_CHANCE, 1.0 / population))
    x = np.abs(alpha * gain)
    safe = np.where(x > 0.0, x, 1.0)
    up = np.where(x > 0.0, np.expm1(-safe) / np.expm1(-population * safe), 1.0 / population)
    chance = np.where(gain < 0.0, np.exp(-(population - 1) * x), 1.0) * up
    return np.maximum(chance, LEAST_CHANCE)


def _stationary(chain: Array) -> Array:
    """Stationary distribution of chains ``(..., m, m)``, whose diagonals do not matter.

    Grassmann, Taksar and Heyman's elimination: nothing is subtracted, so that chances of any
    smallness keep their digits.
    """
    p = chain.copy()
    m = p.shape[-1]
    for end in range(m, 1, -BLOCK):
        start = max(1, end - BLOCK)
        for k in range(end - 1, start - 1, -1):
            p[..., :k, k] /= p[..., k, :k].sum(axis=-1)[..., None]
            p[..., start:k, :k] += p[..., start:k, k, None] * p[..., k, None, :k]
            p[..., :start, start:k] += p[..., :start, k, None] * p[..., k, None, start:k]
        # What the block's states pass on among all earlier ones, at once.
        p[..., :start, :start] += p[..., :start, start:end] @ p[..., start:end, :start]
    visits = np.zeros(p.shape[:-1])
    visits[..., 0] = 1.0
    for k in range(1, m):
        visits[..., k] = (visits[..., :k] * p[..., :k, k]).sum(axis=-1)
        visits /= visits.sum(axis=-1, keepdims=True)
    return visits


def replicator(payoffs: ArrayLike, starts: ArrayLike, steps: int = REPLICATOR_STEPS) -> tuple[Array, Array]:
    """Replicator dynamics ``dx_i/dt = x_i ((A x)_i - x A x)`` of mixtures of rules.

    Integrated in the logarithms of the shares (classical Runge-Kutta), so that rare rules stay
    positive and may come back. Each path takes steps as long as its own payoffs allow: where
    all rules that are left return nearly the same, long ones.

    Args:
      payoffs: A, ``(n, n)``.
      starts: ``(K, n)``, positive, rows summing to one.
      steps: of the integration, at most; it ends where all paths have come to equilibria.

    Returns:
      Times ``(T, K)`` in 1 / payoff, of every path its own, and shares ``(T, K, n)``.
    """
    table = np.asarray(payoffs, np.float64)
    logs = np.log(np.asarray(starts, np.float64))
    now = np.zeros(len(logs))
    times, path = [now], [_mixtures(logs)]
    recorded = set((steps * np.linspace(0.0, 1.0, RECORDED_POINTS) ** 2).round().astype(int).tolist())
    shift = table - table.mean(axis=0)  # a constant per column moves nobody
    for step in range(1, steps + 1):
        shares = _mixtures(logs)
        fitness = shares @ shift.T
        # The Jacobian in logarithms is similar to sqrt(x_i) A_ij sqrt(x_j), columns centred; its norm bounds the rates.
        mean = shares @ shift
        norm = np.sqrt(np.maximum((shares * (shares @ shift**2 - mean**2)).sum(axis=1), 0.0))
        # Whoever is rare but grows must not overshoot either.
        lead = fitness.max(axis=1) - (shares * fitness).sum(axis=1)
        dt = (REPLICATOR_STEP / np.maximum(np.maximum(norm, lead), RESOLUTION * _range(table)))[:, None]
        b = _mixtures(logs + dt / 2 * fitness) @ shift.T
        c = _mixtures(logs + dt / 2 * b) @ shift.T
        d = _mixtures(logs + dt * c) @ shift.T
        # The mean return is left out throughout: it moves all logarithms of a path alike.
        logs = logs + dt / 6 * (fitness + 2 * b + 2 * c + d)
        logs -= logs.max(axis=1, keepdims=True)
        now = now + dt[:, 0]
        if step in recorded:
            times.append(now)
            path.append(_mixtures(logs))
            # All are at equilibria: nobody moves, and nobody rare grows.
            if max(lead.max(), np.abs(path[-1] - path[-2]).max()) < TOLERANCE * min(1.0, _range(table)):
                break
    return np.array(times), np.array(path)


def _mixtures(logs: Array) -> Array:
    weights = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


# --- tables and the command ---------------------------------------------------------------


def meta_tables(meta: MetaGame) -> list[Table]:
    """The rules as strategies, who gains by adopting which, what that does to the others, equilibria."""
    notes = [meta.note, "intervals: 95 % bootstrap over training seeds, or over preparations where seeds share several"]
    if meta.left_out:
        notes.append(f"left out: {', '.join(f'{label} ({why})' for label, why in meta.left_out.items())}")
    if meta.diverged.any():
        notes.append("(n=a/b): a of b seeds have a return, the others enter no number")
    note = "; ".join(notes)
    adopter = "row: rule of a single adopter; column: rule of everybody else"
    n = len(meta.rules)
    chance = [
        [Cell(ABSENT) if i == j else _entry(meta.gain_chance[i, j], 2, hashes=_behind(meta, i, j)) for j in range(n)]
        for i in range(n)
    ]
    return [
        _strategies(meta, note),
        _pairs(meta, "gain of adopting", f"{adopter}; the adopter's return minus the others'; {note}", meta.gain,
               meta.gain_ci),
        _pairs(meta, "effect of adopting on the others", f"{adopter}; return of one of the others against the adopter "
               f"minus that among themselves; {note}", meta.effect, meta.effect_ci),
        Table(
            f"{meta.game}: probability that adopting gains",
            f"{adopter}; fraction of resamples of the training seeds; {note}",
            "adopter", "everybody else", meta.rules, meta.rules, tuple(map(tuple, chance)),
        ),
        _equilibria_table(meta, note),
    ]  # fmt: skip


def _strategies(meta: MetaGame, note: str) -> Table:
    n, decimals = len(meta.rules), _decimals(meta)
    used = np.array([x.shares for x in meta.equilibria]).reshape(-1, n) > 0.0
    taken = sum((basin.fraction * basin.shares for basin in meta.basins), np.zeros(n))
    rows = []
    for i in range(n):
        k = int(meta.exploiter[i])
        rows.append(
            (
                _entry(meta.payoffs[i, i], decimals, meta.payoff_ci[i, i], *_counts(meta, (i, i)), meta.hashes[i][i]),
                _entry(meta.exploitability[i], decimals, meta.exploitability_ci[i], *_counts(meta, (k, i), (i, i)),
                       _behind(meta, k, i)),
                Cell(meta.rules[k]),
                _entry(meta.alpha_rank[i], 2, meta.alpha_rank_ci[i]),
                _entry(taken[i], 2),
                Cell(str(int(used[:, i].sum())), mean=float(used[:, i].sum())),
            )
        )  # fmt: skip
    columns = ("self-play", "exploitability", "exploited most by", "alpha-rank", "replicator", "equilibria")
    explained = (
        "self-play: return where everybody plays the rule; exploitability: largest gain of a single adopter of another "
        "rule there; alpha-rank: mass in the limit of strong selection, two populations of "
        f"{POPULATION}; replicator: share that the dynamics end with, mean over uniformly drawn mixtures; equilibria: "
        f"number of symmetric Nash equilibria that use it, of {len(meta.equilibria)}"
    )
    return Table(f"{meta.game}: rules as strategies", f"{explained}; {note}", "rule", "", meta.rules, columns,
                 tuple(rows), decimals)  # fmt: skip


def _pairs(meta: MetaGame, title: str, note: str, values: Array, intervals: Array) -> Table:
    n, decimals = len(meta.rules), _decimals(meta)
    cells = tuple(
        tuple(
            Cell(ABSENT)
            if i == j
            else _entry(values[i, j], decimals, intervals[i, j], *_counts(meta, (i, j), (j, j)), _behind(meta, i, j))
            for j in range(n)
        )
        for i in range(n)
    )
    return Table(f"{meta.game}: {title}", note, "adopter", "everybody else", meta.rules, meta.rules, cells, decimals)


def _equilibria_table(meta: MetaGame, note: str) -> Table:
    decimals = _decimals(meta)
    used = [i for i in range(len(meta.rules)) if any(x.shares[i] > 0.0 for x in meta.equilibria)]
    rows = [
        (
            *(_entry(x.shares[i], 2) if x.shares[i] > 0.0 else Cell(ABSENT) for i in used),
            _entry(x.payoff, decimals),
            Cell(ABSENT) if x.chance is None else _entry(x.chance, 2),
        )
        for x in meta.equilibria
    ]
    pairs = ", ".join(f"{meta.rules[i]} and {meta.rules[j]}" for i, j in meta.pure_profiles)
    explained = (
        "shares of the rules in each symmetric Nash equilibrium; stays: fraction of resamples of the training seeds in "
        "which nobody gains by leaving it (pure ones); "
        f"unlike rules that are best replies to each other: {pairs or 'none'}"
        f"{'' if meta.complete else '; not all supports were tried'}"
    )
    labels = tuple(f"{k + 1} ({'pure' if x.chance is not None else 'mixed'})" for k, x in enumerate(meta.equilibria))
    columns = (*(meta.rules[i] for i in used), "return", "stays")
    return Table(f"{meta.game}: symmetric equilibria", f"{explained}; {note}", "equilibrium", "", labels, columns,
                 tuple(rows), decimals)  # fmt: skip


def _entry(
    x: float,
    decimals: int,
    interval: Array | None = None,
    n: int = 0,
    runs: int = 0,
    hashes: tuple[str, ...] = (),
) -> Cell:
    text = _number(x, decimals)
    ci = None
    if interval is not None:
        ci = (float(interval[0]), float(interval[1]))
        text += f" [{_number(ci[0], decimals)}, {_number(ci[1], decimals)}]"
    if n < runs:
        text += f" (n={n}/{runs})"
    return Cell(text, mean=float(x), ci=ci, n=n, runs=runs, diverged=runs - n, hashes=hashes)


def _number(x: float, decimals: int) -> str:
    text = f"{x:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text


def _decimals(meta: MetaGame) -> int:
    """Two, or as many as show a hundredth of the range of the payoffs."""
    return int(np.clip(2 - math.floor(math.log10(_range(meta.payoffs))), 2, 6))


def _counts(meta: MetaGame, *pairs: tuple[int, int]) -> tuple[int, int]:
    """Seeds with a return, and all, of the pairs that a number is made of."""
    runs = sum(int(meta.runs[p]) for p in pairs)
    return runs - sum(int(meta.diverged[p]) for p in pairs), runs


def _behind(meta: MetaGame, i: int, j: int) -> tuple[str, ...]:
    """Cells behind what an adopter of i gains or does where everybody plays j."""
    return tuple(dict.fromkeys((*meta.hashes[i][j], *meta.hashes[j][j])))


def meta_game_command(directory: Path | str, game: str | None = None, fmt: str = "md") -> str:
    """What ``shaping-bench metagame`` prints: the tables of one game, or of all that have one.

    Raises:
      BadInput: an unknown name, a directory without results, or no rules that all met each other.
    """
    if fmt not in tables.WRITERS:
        raise unknown("format", fmt, tables.WRITERS)
    results = results_.load(directory)
    analysed = {name: analyse(results, name) for name in ([game] if game else results.games)}
    found = [meta for meta in analysed.values() if meta is not None]
    if not found:
        raise BadInput(
            f"results directory {str(directory)!r} has no meta-game of {', '.join(analysed)}; allowed: two-player "
            "games in which at least two rules met each other and themselves (pairs: all)"
        )
    return tables.render([table for meta in found for table in meta_tables(meta)], fmt)
