"""Game theory on arrays: equilibria, alpha-rank and replicator dynamics of symmetric games.

``payoffs[i, c]`` is what rule i returns in company c. Of two players the company is the other's rule,
so that payoffs are the matrix ``payoffs[i, j]``; of more it is the multiset of the others' rules, in the
order of :func:`compositions`. Every analysis takes a plain array of payoffs, and ascends it.

>>> dilemma = [[-1.0, -3.0], [0.0, -2.0]]
>>> gains(dilemma).tolist()
[[0.0, -1.0], [1.0, 0.0]]
>>> [shares.tolist() for shares, _ in symmetric_equilibria(dilemma)[0]]
[[0.0, 1.0]]
>>> public_good = [[3.0, 1.0, -1.0], [4.0, 2.0, 0.0]]  # of three players, none, one or both of the others defect
>>> exploitability(public_good, players=3).tolist()
[1.0, -1.0]
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

MAX_STATES = 500
"""Most profiles (multisets of as many rules as players) of which alpha-rank is computed."""
ROOTS = 24
"""Starting points from which equilibria of three rules and more are sought in games of several players."""

# --- companies ----------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def compositions(rules: int, size: int) -> tuple[tuple[int, ...], ...]:
    """All multisets of so many of n rules, each sorted, in order.

    >>> compositions(2, 1), compositions(2, 2)
    (((0,), (1,)), ((0, 0), (0, 1), (1, 1)))
    """
    return tuple(itertools.combinations_with_replacement(range(rules), size))


@functools.lru_cache(maxsize=64)
def place(rules: int, size: int) -> Mapping[tuple[int, ...], int]:
    """Where each multiset stands among the :func:`compositions`."""
    return {company: k for k, company in enumerate(compositions(rules, size))}


def alike(rules: int, players: int) -> NDArray[np.int64]:
    """Per rule, which company consists of it alone, ``(n,)``."""
    at = place(rules, players - 1)
    return np.array([at[(j,) * (players - 1)] for j in range(rules)], int)


def joined(rules: int, players: int) -> NDArray[np.int64]:
    """Which company of one of those who play j a single adopter of i makes, ``(n, n)``."""
    at = place(rules, players - 1)
    return np.array([[at[tuple(sorted((i, *[j] * (players - 2))))] for j in range(rules)] for i in range(rules)], int)


def chances(shares: Array, rules: int, size: int) -> Array:
    """How likely each company of so many is, drawn from mixtures ``(..., n)``: ``(..., C)``."""
    if size == 1:
        return shares
    companies = np.array(compositions(rules, size)).reshape(-1, size)
    counts = (companies[:, :, None] == np.arange(rules)).sum(axis=1)
    ways = math.factorial(size) / np.array([math.prod(map(math.factorial, row)) for row in counts.tolist()])
    return ways * np.asarray(shares)[..., companies].prod(axis=-1)


def fitness(payoffs: ArrayLike, shares: ArrayLike, players: int = 2) -> Array:
    """What each rule returns among others drawn from mixtures ``(..., n)``: ``(..., n)``."""
    table, mixture = np.asarray(payoffs, np.float64), np.asarray(shares, np.float64)
    return chances(mixture, len(table), players - 1) @ table.T


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


# --- equilibria ---------------------------------------------------------------------------


def symmetric_equilibria(
    payoffs: ArrayLike, max_supports: int = MAX_SUPPORTS, players: int = 2
) -> tuple[list[tuple[Array, float]], bool]:
    """Symmetric Nash equilibria, by enumeration of supports from the smallest.

    Shares x are an equilibrium if every rule in use returns the same, ``(A x)_i = v``, and no
    other more. Of a continuum (rules that return the same against one another) at least one
    point is found.

    Args:
      payoffs: A, ``(n, C)``.
      max_supports: larger supports are not tried beyond this number of supports.
      players: of the game. Of more than two, equations are polynomials: mixtures of two rules are all
        found, those of more are sought from :data:`ROOTS` points, and there may be others.

    Returns:
      ``(n,)`` shares and v of each, and whether all supports were tried.
    """
    table = np.asarray(payoffs, np.float64)
    n = len(table)
    if players > 2:
        return _equilibria_of_several(table, max_supports, players)
    scaled = (table - table.min()) / span(table)
    equilibria: list[tuple[Array, float]] = []
    tried = 0
    for size in range(1, n + 1):
        tried += math.comb(n, size)
        if tried > max_supports:
            return equilibria, False
        supports = itertools.combinations(range(n), size)
        while len(chunk := np.array(list(itertools.islice(supports, SUPPORTS_AT_ONCE)), int)):
            for shares in _equilibria_on(scaled, chunk, [x for x, _ in equilibria]):
                equilibria.append((shares, float(shares @ table @ shares)))
    return equilibria, True


def _equilibria_of_several(table: Array, max_supports: int, players: int) -> tuple[list[tuple[Array, float]], bool]:
    """Symmetric equilibria of more than two players."""
    from scipy.optimize import root  # slow to import, and rarely needed

    n = len(table)
    scaled = (table - table.min()) / span(table)
    rng = np.random.default_rng(0)
    equilibria: list[Array] = []
    tried = 0

    def placed(support: Sequence[int], shares: ArrayLike) -> Array:
        mixture = np.zeros(n)
        mixture[list(support)] = shares
        return mixture

    def enter(mixture: Array) -> None:
        returns = fitness(scaled, mixture, players)
        used = mixture > 0.0
        if returns.max() - returns[used].min() < 1e-7 and all(np.abs(mixture - x).max() > 1e-6 for x in equilibria):
            equilibria.append(mixture)

    for size in range(1, n + 1):
        tried += math.comb(n, size) * (1 if size < 3 else ROOTS)
        if tried > max_supports:
            break
        for support in itertools.combinations(range(n), size):
            if size == 1:
                enter(placed(support, [1.0]))
            elif size == 2:
                # The difference of two returns is a polynomial of the share: its values at as many points say which.
                points = (1.0 + np.cos(np.pi * (np.arange(players) + 0.5) / players)) / 2.0
                mixtures = np.array([placed(support, [x, 1.0 - x]) for x in points])
                returns = fitness(scaled, mixtures, players)[:, list(support)]
                difference = np.polynomial.Polynomial.fit(points, returns[:, 0] - returns[:, 1], players - 1)
                for x in map(complex, difference.trim(TOLERANCE).roots()):
                    if abs(x.imag) < TOLERANCE and 1e-6 < x.real < 1.0 - 1e-6:
                        enter(placed(support, [x.real, 1.0 - x.real]))
            else:

                def gap(free: Array, support: tuple[int, ...] = support) -> Array:
                    returns = fitness(scaled, placed(support, np.append(free, 1.0 - free.sum())), players)[
                        list(support)
                    ]
                    return returns[:-1] - returns[-1]

                for start in rng.dirichlet(np.ones(size), ROOTS):
                    solved = root(gap, start[:-1], tol=1e-12)
                    shares = np.append(solved.x, 1.0 - solved.x.sum())
                    if solved.success and (shares > 1e-6).all():
                        enter(placed(support, shares))
    return [(x, float(x @ fitness(table, x, players))) for x in equilibria], n < 3


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
    mixtures = list(shares[~singular & used & best])
    for support in undecided:
        # A part of this support that is one already stands for the continuum they belong to.
        if not any(set(np.flatnonzero(x)) <= set(support) for x in [*known, *mixtures]):
            point = _any_equilibrium_on(table, support)
            mixtures += [] if point is None else [point]
    return mixtures


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


def pure_profiles(payoffs: ArrayLike, players: int = 2) -> tuple[tuple[int, ...], ...]:
    """Profiles of rules that are not all the same and are best replies to one another: of two players
    pairs (i, j), i < j.

    >>> pure_profiles([[-1.0, 4.0], [0.0, 2.0]])
    ((0, 1),)
    """
    table = np.asarray(payoffs, np.float64)
    n = len(table)
    best = table >= table.max(axis=0) - TOLERANCE * span(table)
    at = place(n, players - 1)
    return tuple(
        profile
        for profile in compositions(n, players)
        if len(set(profile)) > 1 and all(best[i, at[_without(profile, k)]] for k, i in enumerate(profile))
    )


def _without(profile: tuple[int, ...], seat: int) -> tuple[int, ...]:
    return profile[:seat] + profile[seat + 1 :]


def gains(payoffs: ArrayLike, players: int = 2) -> Array:
    """What an adopter of rule i gains where everybody plays j, ``A[i, j] - A[j, j]``, ``(..., n, n)``."""
    table = np.asarray(payoffs, np.float64)
    among = table[..., alike(table.shape[-2], players)]  # (..., n, n): of i among those who all play j
    return among - np.diagonal(among, axis1=-2, axis2=-1)[..., None, :]


def exploitability(payoffs: ArrayLike, players: int = 2) -> Array:
    """Largest gain of an adopter of another rule where everybody plays this one, ``(..., n)``."""
    gain = gains(payoffs, players)
    return np.where(np.eye(gain.shape[-1], dtype=bool), -np.inf, gain).max(axis=-2)


def alpha_rank(payoffs: ArrayLike, alpha: float = math.inf, population: int = POPULATION, players: int = 2) -> Array:
    """Alpha-rank: how often evolution with rare mutations visits each rule.

    Each seat has a population, nearly always of one rule. A mutant with another rule takes
    its population over with the probability of fixation in a finite population,
    ``(1 - exp(-alpha u)) / (1 - exp(-m alpha u))`` for a gain u against the other populations'
    rules. The masses are those of the Markov chain's stationary distribution, averaged over the
    seats. With one population instead, mutants would compare their return with their
    opponent's (who beats whom), and how rules fare in self-play would not count.

    Args:
      payoffs: ``(..., n, C)``.
      alpha: strength of selection, in 1 / payoff. Infinite: every mutant that gains takes over,
        one that loses nearly never, and one that ties (to :data:`RESOLUTION`) by drift, 1 / m.
      population: m.
      players: of the game.

    Returns:
      ``(..., n)``, summing to one; NaN of a game with more than :data:`MAX_STATES` profiles.

    >>> alpha_rank([[-1.0, -3.0], [0.0, -2.0]]).round(3).tolist()
    [0.0, 1.0]

    References:
      Omidshafiei et al. 2019, Scientific Reports 9:9937, eq. 8 to 11; the infinite limit as
      Rowland et al., NeurIPS 2019.
    """
    table = np.asarray(payoffs, np.float64)
    batch, n = table.shape[:-2], table.shape[-2]
    if n == 1:
        return np.ones((*batch, 1))
    # The chain is the same with the seats exchanged: states are profiles regardless of order.
    profiles, state, company = compositions(n, players), place(n, players), place(n, players - 1)
    if len(profiles) > MAX_STATES:
        return np.full((*batch, n), np.nan)
    chain = np.zeros((*batch, len(profiles), len(profiles)))
    for seat in range(players):
        old = np.array([profile[seat] for profile in profiles])
        others = [_without(profile, seat) for profile in profiles]
        other = np.array([company[x] for x in others])
        new = np.array([[x for x in range(n) if x != y] for y in old])
        reached = np.array(
            [[state[tuple(sorted((x, *rest)))] for x in row] for row, rest in zip(new.tolist(), others, strict=True)]
        )
        gain = table[..., new, other[:, None]] - table[..., old, other][..., None]
        tie = RESOLUTION * np.ptp(table, axis=(-2, -1))[..., None, None]
        chance = _fixation(gain, alpha, population, tie)
        chain[..., np.arange(len(profiles))[:, None], reached] += chance / (players * (n - 1))
    visits = _stationary(chain) / players
    return visits @ np.eye(n)[np.array(profiles)].sum(axis=1)


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


def replicator(
    payoffs: ArrayLike, starts: ArrayLike, steps: int = REPLICATOR_STEPS, players: int = 2
) -> tuple[Array, Array]:
    """Replicator dynamics ``dx_i/dt = x_i ((A x)_i - x A x)`` of mixtures of rules.

    Integrated in the logarithms of the shares (classical Runge-Kutta), so that rare rules stay
    positive and may come back. Each path takes steps as long as its own payoffs allow: where
    all rules that are left return nearly the same, long ones.

    Args:
      payoffs: A, ``(n, C)``; of more than two players ``A x`` is :func:`fitness`.
      starts: ``(K, n)``, positive, rows summing to one.
      steps: of the integration, at most; it ends where all paths have come to equilibria.
      players: of the game.

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
        a = fitness(shift, shares, players)
        norm = _fastest(shift, shares, players)
        # Whoever is rare but grows must not overshoot either.
        lead = a.max(axis=1) - (shares * a).sum(axis=1)
        dt = (REPLICATOR_STEP / np.maximum(np.maximum(norm, lead), RESOLUTION * span(table)))[:, None]
        b = fitness(shift, _mixtures(logs + dt / 2 * a), players)
        c = fitness(shift, _mixtures(logs + dt / 2 * b), players)
        d = fitness(shift, _mixtures(logs + dt * c), players)
        # The mean return is left out throughout: it moves all logarithms of a path alike.
        logs = logs + dt / 6 * (a + 2 * b + 2 * c + d)
        logs -= logs.max(axis=1, keepdims=True)
        now = now + dt[:, 0]
        if step in recorded:
            times.append(now)
            path.append(_mixtures(logs))
            # All are at equilibria: nobody moves, and nobody rare grows.
            if max(lead.max(), np.abs(path[-1] - path[-2]).max()) < TOLERANCE * min(1.0, span(table)):
                break
    return np.array(times), np.array(path)


def _fastest(payoffs: Array, shares: Array, players: int) -> Array:
    """Bound of the rates of mixtures ``(K, n)``, ``(K,)``: the norm of the Jacobian in logarithms, which is
    similar to sqrt(x_i) A_ij sqrt(x_j), columns centred."""
    if players == 2:
        mean = shares @ payoffs
        return np.sqrt(np.maximum((shares * (shares @ payoffs**2 - mean**2)).sum(axis=1), 0.0))
    # A_ij(x) is what i returns if one of the others plays j and the rest are drawn from the mixture.
    n = len(payoffs)
    at = place(n, players - 1)
    with_one = [[at[tuple(sorted((*rest, j)))] for j in range(n)] for rest in compositions(n, players - 2)]
    tables = np.tensordot(chances(shares, n, players - 2), payoffs[:, np.array(with_one)], axes=(1, 1))  # (K, n, n)
    means = np.einsum("ki,kij->kj", shares, tables)
    squares = np.einsum("ki,kij->kj", shares, tables**2)
    return (players - 1) * np.sqrt(np.maximum((shares * (squares - means**2)).sum(axis=1), 0.0))


def _mixtures(logs: Array) -> Array:
    weights = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


# --- dynamics -----------------------------------------------------------------------------


def dynamics(
    payoffs: Array, rules: Sequence[str], players: int = 2
) -> tuple[tuple[Trajectory, ...], tuple[Basin, ...]]:
    n = len(payoffs)
    uniform = np.full((1, n), 1.0 / n)
    corners = NEAR_CORNER * np.eye(n) + (1.0 - NEAR_CORNER) * uniform
    mixtures = np.random.default_rng(0).dirichlet(np.ones(n), MIXTURES)
    # A share drawn as zero has no logarithm.
    mixtures = np.maximum(mixtures, 1e-12)
    starts = np.concatenate([uniform, corners, mixtures / mixtures.sum(axis=1, keepdims=True)])
    times, shares = replicator(payoffs, starts, players=players)
    late = slice(int(np.sqrt(0.5) * (len(times) - 1)), None)  # points lie denser at first
    settled = np.ptp(shares[late], axis=0).max(axis=1) < AT_REST
    # Each point counts for the time around it.
    average = (shares[late] * np.gradient(times[late], axis=0)[..., None]).sum(axis=0) / np.ptp(times[late], axis=0)[
        :, None
    ]
    ends = np.where(settled[:, None], shares[-1], average / average.sum(axis=1, keepdims=True))
    names = ("uniform", *rules)
    paths = tuple(
        Trajectory(start=name, times=times[:, k], shares=shares[:, k], settled=bool(settled[k]), end=ends[k])
        for k, name in enumerate(names)
    )
    groups: dict[tuple[int, ...], list[Array]] = {}
    for end in ends[len(names) :]:
        groups.setdefault(tuple(int(i) for i in np.flatnonzero(end > EXTINCT)), []).append(end)
    basins = [Basin(left, np.mean(x, axis=0), len(x) / MIXTURES) for left, x in groups.items()]
    return paths, tuple(sorted(basins, key=lambda x: (-x.fraction, x.rules)))


def effects(payoffs: Array, players: int = 2) -> Array:
    """What an adopter of i does to one who plays j, ``A[j, i] - A[j, j]``, ``(..., n, n)``."""
    n = payoffs.shape[-2]
    own = np.diagonal(payoffs[..., alike(n, players)], axis1=-2, axis2=-1)
    return payoffs[..., np.arange(n)[None, :], joined(n, players)] - own[..., None, :]


def span(payoffs: Array) -> float:
    """Largest minus smallest payoff; 1 where all are the same."""
    return float(np.ptp(payoffs)) or 1.0
