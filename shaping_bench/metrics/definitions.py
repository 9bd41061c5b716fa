"""Metrics: numbers with formula, unit, direction, range and source.

:func:`evaluate` computes the metrics of joint policies of an exact game, always in float64:
one compiled program per game structure yields a few quantities per seat (return, response
values, fits), and cheap combinations of them follow on the host. Payoffs and discounts enter
as data, so all repeated two-action games share one program.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.algorithms.core import Learner, View, trees, with_info
from shaping_bench.errors import BadInput, unknown
from shaping_bench.games import GAMES
from shaping_bench.games.base import Count, Game
from shaping_bench.games.matrix.memory_one import (
    STRATEGIES,
    TEMPLATES,
    argmax_code,
    best_response_value,
    distance,
    exploit,
    from_seat,
    match,
    nearest,
    seat_payoffs,
    zd_fit,
)
from shaping_bench.games.matrix.repeated import MemoryOneGame, RepeatedGame, state_names
from shaping_bench.run.encounter import shareable
from shaping_bench.run.lanes import shared_preparations

Quantities = dict[str, Array]

MOST_PROGRAMS = 48
"""Compiled programs of each kind that a process keeps; each takes hundreds of memory mappings."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """A named number.

    Attributes:
      name: as stored and printed.
      formula: what it is, in one line.
      unit: of the number; ``per step`` is the discount-normalised reward scale.
      direction: ``"higher"`` or ``"lower"`` is better for the player, or ``"none"``.
      low, high: range; None where it depends on the game.
      source: where the definition comes from.
      applies: whether a game has it.
      level: what it is computed from: ``"policy"`` (a joint policy, :func:`evaluate`),
        ``"play"`` (episodes, :func:`from_play`),
        ``"curve"`` (:func:`convergence`), ``"rule"`` (:data:`RULE_METRICS`), ``"suite"`` (several
        cells) or ``"cost"`` (bookkeeping of a cell).
    """

    name: str
    formula: str
    unit: str
    direction: str
    low: float | None
    high: float | None
    source: str
    applies: Callable[[Game], bool]
    level: str = "policy"


# --- which game has what ------------------------------------------------------------------


def _always(game: Game) -> bool:
    return True


def _exact(game: Game) -> bool:
    return "exact" in game.views


def _sampled(game: Game) -> bool:
    return "sampled" in game.views


def _two_memory_one(game: Game) -> bool:
    return _exact(game) and game.memory_one and game.table is not None and game.n_players == 2


def _scored(game: Game) -> bool:
    return _two_memory_one(game) and not game.zero_sum


def _symmetric_scored(game: Game) -> bool:
    return _scored(game) and game.symmetric


def _responds(game: Game) -> bool:
    return _exact(game) and game.has_best_response


def _two_respond(game: Game) -> bool:
    return _responds(game) and game.n_players == 2


def _ranged(game: Game) -> bool:
    return _exact(game) and reward_range(game) is not None


def _uniform_equilibrium(game: Game) -> bool:
    """Two-player zero-sum two-action games in which each player is indifferent if the other
    plays both actions equally often."""
    payoffs = game.table
    if payoffs is None or game.n_players != 2 or not game.zero_sum:
        return False
    (a, b, c, d), (e, f, g, h) = payoffs
    return a + b == c + d and e + g == f + h and bool(reward_range(game))


def _uniform_memory_one(game: Game) -> bool:
    return _two_memory_one(game) and _uniform_equilibrium(game)


def _observes(name: str) -> Callable[[Game], bool]:
    return lambda game: name in observable_names(game)


def reward_range(game: Game) -> float | None:
    """Largest minus smallest reward of a step to any player; None if unbounded or unknown."""
    bounds = game.reward_bounds
    return None if bounds is None else bounds[1] - bounds[0]


def observable_names(game: Game) -> tuple[str, ...]:
    """Names of the game's own observables."""
    if not _exact(game):
        return ()
    return _observable_names(jax.tree.structure(game.unpinned()))


@functools.lru_cache(maxsize=MOST_PROGRAMS)
def _observable_names(treedef: Any) -> tuple[str, ...]:
    game = jax.tree.unflatten(treedef, [0.5] * treedef.num_leaves)
    theta = tuple(tuple(jax.ShapeDtypeStruct((), jnp.float32) for _ in range(d)) for d in game.sizes)
    return tuple(jax.eval_shape(game.observables, theta))


# --- definitions ----------------------------------------------------------------------------

_REWARD = "reward per step"
_SHARE = "share"
_FLAG = "0 or 1"
_OURS = "this benchmark"
_LOLA = "Foerster et al., AAMAS 2018, Table 3; threshold unpublished, tolerance ours"
_ZD = "Press & Dyson, PNAS 2012; Hilbe, Traulsen & Sigmund, GEB 92, 2015"
_BR = "exact dynamic programming; pessimistic ties"


def _metric(
    name: str,
    formula: str,
    unit: str,
    direction: str = "none",
    low: float | None = None,
    high: float | None = None,
    *,
    source: str = _OURS,
    applies: Callable[[Game], bool] = _always,
    level: str = "policy",
) -> Metric:
    return Metric(name, formula, unit, direction, low, high, source, applies, level)


def _cooperation(state: str) -> Metric:
    what = "at the start" if state == "start" else f"after {state} (own last action first)"
    name = f"cooperation_{state}"
    return _metric(name, f"probability of action 0 {what}", _SHARE, "none", 0.0, 1.0, applies=_observes(name))


def _count(count: Count) -> Metric:
    """The metric that a game declares by saying what it counts."""
    return Metric(
        name=count.name,
        formula=count.doc,
        unit=count.unit,
        direction=count.direction,
        low=count.low,
        high=count.high,
        source=count.source,
        applies=lambda game: count.name in {x.name for x in game.counts},
        level="play",
    )


def _counted() -> list[Metric]:
    """What games that are only played count; what exact games count as well they can also value."""
    played = [entry.cls for entry in GAMES.values() if "exact" not in entry.cls.views]
    return [_count(x) for x in {x.name: x for cls in played for x in cls.counts}.values()]


_DEFINITIONS: tuple[Metric, ...] = (
    _metric(
        "return",
        "(1 - gamma) V_i; where policies are valued by play, the mean reward per step, undiscounted",
        _REWARD,
        "higher",
    ),
    _metric(
        "discounted_return",
        "(1 - gamma) sum_t gamma^t r_t over an episode, by play",
        _REWARD,
        "higher",
        applies=_sampled,
        level="play",
    ),
    _metric("welfare", "sum_j return_j, the same for each player", _REWARD, "higher"),
    _metric(
        "fairness",
        "1 - mean over pairs of |return_i - return_j| / (largest - smallest reward of the game)",
        "1",
        "higher",
        0.0,
        1.0,
        applies=_ranged,
    ),
    _metric("exploitation_gap", "return_i - mean over j != i of return_j", _REWARD),
    _metric(
        "episode_return",
        "(1 - gamma) sum_t gamma^t r_t that was earned while learning, in the last update's play",
        _REWARD,
        "higher",
        source="Foerster et al., AAMAS 2018, section 6.3 (tournament)",
        applies=_sampled,
        level="play",
    ),
    *_counted(),
    _metric("diverged", "1 if any policy parameter of any player is not finite", _FLAG, "lower", 0.0, 1.0),
    _metric(
        "cooperation",
        "discounted occupancy of the joint actions in which the player plays action 0",
        _SHARE,
        "none",
        0.0,
        1.0,
        applies=_observes("cooperation"),
    ),
    _metric(
        "mutual_cooperation",
        "discounted occupancy of the joint action in which all play action 0",
        _SHARE,
        "none",
        0.0,
        1.0,
        applies=_observes("mutual_cooperation"),
    ),
    *(_cooperation(state) for state in state_names(2)),
    _metric("parameter_sum", "x + y", "1", source="SOS paper, Example 2", applies=_observes("parameter_sum")),
    _metric(
        "preferred_basin",
        "1 if both parameters are positive",
        _FLAG,
        "higher",
        0.0,
        1.0,
        source="MeVa paper, logistic game",
        applies=_observes("preferred_basin"),
    ),
    _metric("fair_offer", "probability of the fair offer", _SHARE, "none", 0.0, 1.0, applies=_observes("fair_offer")),
    _metric(
        "accepts_unfair",
        "probability of accepting the unfair offer",
        _SHARE,
        "none",
        0.0,
        1.0,
        applies=_observes("accepts_unfair"),
    ),
    *(
        _metric(
            f"match_tft_{tolerance}",
            f"share of the five probabilities within {tolerance} of tit for tat (1, 1, 0, 1, 0)",
            _SHARE,
            "none",
            0.0,
            1.0,
            source=_LOLA,
            applies=_scored,
        )
        for tolerance in (0.05, 0.02)
    ),
    _metric(
        "is_tft",
        "1 if the likelier action of every state is that of tit for tat",
        _FLAG,
        "none",
        0.0,
        1.0,
        applies=_scored,
    ),
    *(
        _metric(
            f"nearest_{name}",
            f"1 if the nearest named strategy (L_inf, at most 0.25) is {name}",
            _FLAG,
            "none",
            0.0,
            1.0,
            applies=_two_memory_one,
        )
        for name in STRATEGIES
    ),
    _metric(
        "nash_distance",
        "max_s |p_s - 1/2|: distance of the policy to the uniform equilibrium",
        "probability",
        "lower",
        0.0,
        0.5,
        applies=_uniform_equilibrium,
    ),
    *(
        _metric(
            f"match_nash_{tolerance}",
            f"share of the five probabilities within {tolerance} of 1/2",
            _SHARE,
            "higher",
            0.0,
            1.0,
            source=_LOLA,
            applies=_uniform_memory_one,
        )
        for tolerance in (0.05, 0.02)
    ),
    _metric(
        "br_value",
        "what a best responder to the player's frozen policy gets (n > 2: mean over single deviators)",
        _REWARD,
        source=_BR,
        applies=_responds,
    ),
    _metric(
        "exploitability",
        "br_value - what the opponents get now: the gain of best-responding to the player",
        _REWARD,
        "lower",
        0.0,
        source=_BR,
        applies=_responds,
    ),
    _metric(
        "held_value",
        "what the frozen policy gets when the opponent best-responds (the least over best responses)",
        _REWARD,
        "higher",
        source=_BR,
        applies=_two_respond,
    ),
    _metric(
        "nash_conv",
        "sum_j (best-response value of j - return_j), zero iff a Nash equilibrium; the same for each player",
        _REWARD,
        "lower",
        0.0,
        source="Lanctot et al., NeurIPS 2017 (NashConv)",
        applies=_responds,
    ),
    _metric(
        "zd_slope",
        "1 / chi = -a / b of the fit gamma p + (1 - gamma) p0 - g = a S_own + b S_opp + k",
        "1",
        source=_ZD,
        applies=_scored,
    ),
    _metric("zd_baseline", "l = -k / (a + b) of the same fit", _REWARD, source=_ZD, applies=_scored),
    _metric(
        "zd_sse",
        "squared residual of the same fit; 0 for an exact zero-determinant strategy",
        "1",
        "none",
        0.0,
        source="Knight et al., PLoS ONE 19(7), 2024",
        applies=_scored,
    ),
    _metric(
        "extortionate",
        "1 if zd_sse < 0.01, chi > 1, a > 0 and |l - P| < (payoff range) / 30",
        _FLAG,
        "none",
        0.0,
        1.0,
        source=_ZD,
        applies=_symmetric_scored,
    ),
    _metric(
        "settled",
        "1 if the return moves by at most 1e-3 of the payoff range over the last 10 % of the updates",
        _FLAG,
        "higher",
        0.0,
        1.0,
        applies=_exact,
        level="curve",
    ),
    _metric(
        "updates_to_settle",
        "first recorded update after which the return stays within 1e-3 of the payoff range of its end",
        "updates",
        "lower",
        0.0,
        applies=_exact,
        level="curve",
    ),
    _metric(
        "consistency",
        "|d_i - grad_i V_i(theta_i, theta_-i + beta d_-i(theta))|^2, beta the assumed step of the opponents",
        "squared gradient",
        "lower",
        0.0,
        source="Willi et al., ICML 2022 (COLA), section 4",
        applies=_exact,
        level="rule",
    ),
    _metric(
        "consistency_cosine",
        "cosine between the directions and the responses of consistency, all players concatenated",
        "1",
        "higher",
        -1.0,
        1.0,
        source="official COLA notebook, cell 23",
        applies=_exact,
        level="rule",
    ),
    _metric(
        "update_cosine",
        "cosine between the joint directions where all use player 1's rule and where all use player 2's",
        "1",
        "none",
        -1.0,
        1.0,
        source="Willi et al., ICML 2022 (COLA), tables of similarity",
        applies=_exact,
        level="rule",
    ),
    _metric(
        "normalised_return",
        "(return - random) / (one - random); one: the social optimum, in constant-sum games the largest reward",
        "1",
        "higher",
        source="this benchmark; games/anchors.py",
        level="suite",
    ),
    _metric("robustness_worst", "least mean return over all opponents met", _REWARD, "higher", level="suite"),
    _metric("robustness_mean", "mean return over all opponents met", _REWARD, "higher", level="suite"),
    _metric(
        "influence",
        "opponent's final return minus its final return against a naive learner",
        _REWARD,
        level="suite",
    ),
    _metric("wall_seconds", "wall time of the cell's compiled program, without compilation", "s", "lower", 0.0),
    _metric("compile_seconds", "wall time of compilation", "s", "lower", 0.0),
    _metric(
        "gradient_evaluations",
        "exact gradients and values asked for, all players and seeds, preparation included",
        "1",
        "lower",
        0.0,
    ),
    _metric("environment_steps", "joint actions simulated, all seeds, preparation included", "1", "lower", 0.0),
    _metric("preparation_seconds", "wall time of the preparations that the cell's learners needed", "s", "lower", 0.0),
)

_COSTS = ("wall_seconds", "compile_seconds", "gradient_evaluations", "environment_steps", "preparation_seconds")

METRICS: dict[str, Metric] = {
    m.name: dataclasses.replace(m, level="cost") if m.name in _COSTS else m for m in _DEFINITIONS
}
"""Every metric by name."""

OBSERVABLES = "observables"
"""In a list of names: everything the game itself observes."""

CURVE_METRICS: tuple[str, ...] = (
    "return",
    "welfare",
    "fairness",
    "exploitation_gap",
    OBSERVABLES,
    "match_tft_0.05",
    "nash_distance",
    "match_nash_0.05",
    "diverged",
)
"""Metrics cheap enough for every recorded update."""


def definition(name: str) -> Metric:
    """The definition of a stored metric, including observables of games from elsewhere."""
    if name in METRICS:
        return METRICS[name]
    prefix, _, state = name.partition("_")
    if prefix == "cooperation" and set(state) <= set("CD") and state:
        return _cooperation(state)
    from shaping_bench.spec import registry  # games of other packages, which may not be there

    for entry in registry.games().values():
        for count in entry.cls.counts:
            if count.name == name:
                return _count(count)
    return _metric(name, f"observable {name!r} of the game", "1", source="the game", applies=_observes(name))


# --- quantities of one seat -------------------------------------------------------------------

_FROM_RETURNS = frozenset({"return", "welfare", "fairness", "exploitation_gap", "diverged"})
_RESPONSES = frozenset({"br_value", "exploitability", "held_value", "nash_conv"})
_CLASSIFIED = frozenset(f"nearest_{name}" for name in STRATEGIES)
_FITTED = frozenset({"zd_slope", "zd_baseline", "zd_sse", "extortionate"})
_MATCHED = frozenset({"is_tft", *(name for name in METRICS if name.startswith("match_"))})


def _groups(names: Iterable[str]) -> frozenset[str]:
    """What the compiled program must compute for these metrics."""
    asked = set(names)
    groups = {
        "responses": _RESPONSES,
        "nearest": _CLASSIFIED,
        "fits": _FITTED,
        "matches": _MATCHED | {"nash_distance"},
    }
    found = {group for group, members in groups.items() if asked & members}
    observed = asked - _FROM_RETURNS - frozenset().union(*groups.values())
    return frozenset(found | ({OBSERVABLES} if observed else set()))


def _return(game: Game, params: Sequence[Any], player: int) -> Array:
    if type(game) is RepeatedGame:
        # The occupancy is needed for the observables anyway: one linear system less to compile.
        return jnp.sum(game.occupancy(params) * jnp.stack([jnp.asarray(r) for r in game.payoffs[player]]))
    return game.per_step * game.value(params, player)


def _seat_quantities(game: Game, params: Sequence[Any], player: int, groups: frozenset[str]) -> Quantities:
    """Quantities of one player at one joint policy, each a scalar."""
    own = params[player]
    out: Quantities = {"return": _return(game, params, player)}
    if OBSERVABLES in groups:
        out |= {f"observed {name}": x[player] for name, x in game.observables(params).items()}
    if "responses" in groups and game.has_best_response and game.n_players == 2:
        # Seen from the exploiter; paired with the owner of the frozen policy on the host.
        out["gain"], out["left"] = exploit(game, params, player)
    elif "responses" in groups and game.has_best_response:
        out["gain"] = best_response_value(game, params, player)
    if "matches" in groups and game.table is not None:
        out["nash_distance"] = distance(own, (0.5,) * len(own))
    if _two_memory_one(game):
        if "matches" in groups:
            out["is_tft"] = argmax_code(own) == int("".join(f"{p:.0f}" for p in TEMPLATES["tft"]), 2)
            for tolerance in (0.05, 0.02):
                out[f"match_tft_{tolerance}"] = match(own, TEMPLATES["tft"], tolerance)
                out[f"match_nash_{tolerance}"] = match(own, TEMPLATES["random"], tolerance)
        if "nearest" in groups:
            out["nearest"] = nearest(cast(MemoryOneGame, game), params, player)
        if "fits" in groups:
            fit = zd_fit(cast(MemoryOneGame, game), params, player)
            out |= {"zd_slope": fit.slope, "zd_baseline": fit.baseline, "zd_sse": fit.sse}
            out["extortionate"] = fit.extortionate
    return out


def _seats_alike(game: Game) -> bool:
    """Whether moving a player to the first seat is exact: the game is all payoff table."""
    return isinstance(game, MemoryOneGame) and all(
        getattr(type(game), name) is getattr(MemoryOneGame, name)
        for name in ("value", "observables", "best_response", "optimal_policy", "action_advantages", "chain")
    )


def _stack(*entries: Any) -> Array:
    return jnp.stack([jnp.asarray(x) for x in entries])


@functools.lru_cache(maxsize=MOST_PROGRAMS)
def _program(treedef: Any, groups: frozenset[str]) -> Callable[[Any, Any], Quantities]:
    """Compiled: the game's numbers and ``(N,)`` coordinates to quantities ``(n_players, N)``."""

    def lanes_by_seat(leaves: Sequence[Array], params: Any) -> Quantities:
        # The seat is one more batch axis: half the program, half the compile time.
        game = jax.tree.unflatten(treedef, leaves)
        seats = range(game.n_players)
        payoffs = jax.tree.map(_stack, *(seat_payoffs(game.payoffs, i) for i in seats))
        turned = jax.tree.map(_stack, *(from_seat(game, params, i)[1] for i in seats))

        def first_seat(payoffs: Any, params: Any) -> Quantities:
            seated = RepeatedGame(payoffs=payoffs, gamma=game.gamma)  # type: ignore[call-arg]
            return _seat_quantities(seated, params, 0, groups)

        return jax.vmap(jax.vmap(first_seat, in_axes=(None, 0)))(payoffs, turned)

    def lanes(leaves: Sequence[Array], params: Any) -> Quantities:
        game = jax.tree.unflatten(treedef, leaves)
        seats = [
            jax.vmap(lambda theta, i=i: _seat_quantities(game, theta, i, groups))(params) for i in range(game.n_players)
        ]
        return jax.tree.map(_stack, *seats)

    template = jax.tree.unflatten(treedef, [0.5] * treedef.num_leaves)
    return jax.jit(lanes_by_seat if _seats_alike(template) else lanes)


# --- evaluation -----------------------------------------------------------------------------------

_BATCHES = (64, 4096)
"""Lanes per call. Two sizes, so that two shapes at most are compiled per program; the larger
one keeps the working set in cache."""


def evaluate(game: Game, params: Sequence[np.ndarray], names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Metrics of joint policies, in float64.

    Args:
      game: an exact game.
      params: per player the policy parameters, ``(..., d_i)`` with common leading axes.
      names: metrics wanted, those that the game has are computed; ``"observables"`` stands for
        all that the game observes. None means all.

    Returns:
      Per metric ``(..., n_players)``. NaN where a parameter of any player is not finite (but for
      ``diverged``, which is then 1) and where the metric is undefined.

    Raises:
      BadInput: unknown metric, no exact view, or parameters of the wrong shape.
    """
    if not _exact(game):
        raise BadInput(f"game is {type(game).__name__}, which offers the views {sorted(game.views)}; needed: 'exact'")
    wanted = _wanted(game, names)
    shape, points = _points(game, params)
    finite = np.isfinite(points[0]).all(axis=-1)
    for theta in points[1:]:
        finite &= np.isfinite(theta).all(axis=-1)
    safe = [np.where(finite[:, None], theta, 0.0) for theta in points]
    # Grouped by what is asked, not by what this game has, so that games share a program.
    groups = _groups(METRICS if names is None else names)
    metrics = _combine(game, _quantities(game, safe, groups))
    out = {}
    for name in wanted:
        if name == "diverged":
            value = np.repeat(~finite[:, None], game.n_players, axis=1).astype(np.float64)
        else:
            value = np.array(metrics[name], np.float64)
            value[~np.isfinite(value)] = np.nan
            value[~finite] = np.nan
        out[name] = value.reshape(*shape, game.n_players)
    return out


def _wanted(game: Game, names: Sequence[str] | None) -> list[str]:
    observables = observable_names(game)
    if names is None:
        names = [*(m.name for m in METRICS.values() if m.level == "policy"), *observables]
    expanded: list[str] = []
    for name in names:
        expanded += observables if name == OBSERVABLES else [name]
    wanted = []
    for name in dict.fromkeys(expanded):
        if name in METRICS:
            if METRICS[name].level != "policy":
                raise BadInput(f"metric is {name!r}, which is not a property of a joint policy")
            if METRICS[name].applies(game):
                wanted.append(name)
        elif name in observables:
            wanted.append(name)
        else:
            raise unknown("metric", name, [*METRICS, *observables])
    return wanted


def _points(game: Game, params: Sequence[np.ndarray]) -> tuple[tuple[int, ...], list[np.ndarray]]:
    """Common leading shape, and per player the parameters as ``(N, d_i)``."""
    arrays = [np.asarray(theta, np.float64) for theta in params]
    given, needed = [a.shape for a in arrays], game.sizes
    shapes = {a.shape[:-1] for a in arrays}
    if len(shapes) != 1 or tuple(a.shape[-1:] for a in arrays) != tuple((d,) for d in needed):
        raise BadInput(f"params have the shapes {given}; allowed: common leading axes, then {list(needed)} parameters")
    (shape,) = shapes
    return shape, [a.reshape(math.prod(shape), d) for a, d in zip(arrays, needed, strict=True)]


def _on_host() -> contextlib.AbstractContextManager[Any]:
    """Computes on the processor: arguments and results live there, the programs are large and
    short, and not every accelerator has float64."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # this process was told to use the accelerator only
        return contextlib.nullcontext()


def _numbers(owner: Any) -> tuple[list[np.ndarray], Any]:
    leaves, treedef = jax.tree.flatten(owner)
    numbers = [np.asarray(x, np.float64) for x in leaves]
    if any(x.ndim for x in numbers):
        raise BadInput(f"{type(owner).__name__} has array-valued fields; allowed: one setting at a time")
    return numbers, treedef


def _batched(program: Callable[[Any, Any], Any], leaves: Any, points: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Runs a compiled program over ``(N, d_i)`` points in batches of few fixed sizes; the
    quantities ``(n_players, lanes)`` come back as ``(N, n_players)``."""
    total = len(points[0])
    size = next((b for b in _BATCHES if total <= b), _BATCHES[-1])
    pieces = []
    for first in range(0, max(total, 1), size):
        chunk = [theta[first : first + size] for theta in points]
        padded = [np.pad(theta, ((0, size - len(theta)), (0, 0))) for theta in chunk]
        columns = tuple(tuple(np.ascontiguousarray(theta[:, k]) for k in range(theta.shape[1])) for theta in padded)
        done = jax.device_get(program(leaves, columns))
        pieces.append({name: np.asarray(x, np.float64).T[: len(chunk[0])] for name, x in done.items()})
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _quantities(game: Game, points: Sequence[np.ndarray], groups: frozenset[str]) -> dict[str, np.ndarray]:
    leaves, treedef = _numbers(game.unpinned())
    with jax.enable_x64(True), _on_host():
        return _batched(_program(treedef, groups), leaves, points)


def _mean_of_others(x: np.ndarray) -> np.ndarray:
    if x.shape[1] == 1:  # who is alone has no others
        return np.full_like(x, np.nan)
    return (x.sum(axis=1, keepdims=True) - x) / (x.shape[1] - 1)


def _combine(game: Game, quantities: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Metrics ``(N, n_players)`` from the quantities of each seat ``(N, n_players)``."""
    out = {name.removeprefix("observed "): x for name, x in quantities.items()}
    returns = quantities["return"]
    n = returns.shape[1]

    def everybody(x: np.ndarray) -> np.ndarray:
        return np.repeat(x[:, None], n, axis=1)

    others = _mean_of_others(returns)
    out["welfare"] = everybody(returns.sum(axis=1))
    out["exploitation_gap"] = returns - others
    spread = reward_range(game)
    if n == 1:
        out["fairness"] = np.full_like(returns, np.nan)
    elif spread is not None:
        pairs = np.abs(returns[:, :, None] - returns[:, None, :]).sum(axis=(1, 2)) / (n * (n - 1))
        out["fairness"] = everybody(1.0 - pairs / spread) if spread else np.ones_like(returns)
    if "gain" in quantities:
        gain = quantities["gain"]
        out["br_value"] = _mean_of_others(gain)
        out["exploitability"] = out["br_value"] - others
        out["nash_conv"] = everybody((gain - returns).sum(axis=1))
        if n == 2:
            out["held_value"] = quantities["left"][:, ::-1]
    if "nearest" in quantities:
        out |= {f"nearest_{name}": quantities["nearest"] == k for k, name in enumerate(STRATEGIES)}
    return out


def from_play(game: Game, played: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Metrics of joint policies that were valued by play.

    Args:
      game: any game.
      played: ``Outcome.played``, each ``(..., n_players)``; ``return`` is among them.

    Returns:
      The same and what follows from them, each ``(..., n_players)``, in float64.
    """
    given = {name: np.asarray(x, np.float64) for name, x in played.items()}
    shape = given["return"].shape
    out = dict(given)
    combined = _combine(game, {"return": given["return"].reshape(-1, shape[-1])})
    out |= {name: x.reshape(shape) for name, x in combined.items()}
    for count in game.counts:
        if count.share_of and set(count.share_of) <= set(given):
            part, total = given[count.share_of[0]], sum(given[name] for name in count.share_of)
            out[count.name] = np.divide(part, total, out=np.full(shape, np.nan), where=total > 0)
    return out


# --- convergence ------------------------------------------------------------------------------------

SETTLED = 1e-3
"""Share of the payoff range by which a settled return may still move."""

TAIL = 0.1
"""Last share of the updates in which a settled return must not move."""


def convergence(updates: np.ndarray, values: np.ndarray, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Whether and when recorded returns settled.

    ``settled`` is 1 if, from the last record at or before 90 % of the updates to the end, the
    return moves (maximum minus minimum) by at most :data:`SETTLED` of ``scale``.
    ``updates_to_settle`` is the first recorded update from which on every record stays within
    that distance of the last one.

    Args:
      updates: ``(R,)`` numbers of updates done, increasing.
      values: recorded returns, ``(R, ..., n_players)``.
      scale: payoff range (``reward_range(game)``), or a unit where the game has none.

    Returns:
      ``settled`` and ``updates_to_settle``, each ``(..., n_players)``. Both NaN where a record
      of that player is not finite or with fewer than two records; ``updates_to_settle`` NaN where
      not settled.
    """
    updates, values = np.asarray(updates), np.asarray(values, np.float64)
    if len(updates) != len(values):
        raise BadInput(f"values have {len(values)} records; allowed: one per recorded update, {len(updates)}")
    nothing = np.full(values.shape[1:], np.nan)
    if len(updates) < 2:
        return {"settled": nothing, "updates_to_settle": nothing.copy()}
    tolerance = SETTLED * scale
    finite = np.isfinite(values).all(axis=0)
    safe = np.where(finite, values, 0.0)
    begin = np.searchsorted(updates, (1.0 - TAIL) * updates[-1], side="right") - 1
    tail = safe[min(begin, len(updates) - 2) :]
    settled = tail.max(axis=0) - tail.min(axis=0) <= tolerance
    away = np.abs(safe - safe[-1]) > tolerance
    # First record after the last one that is away from the end.
    first = np.where(away.any(axis=0), len(updates) - np.argmax(away[::-1], axis=0), 0)
    first_update = updates[np.minimum(first, len(updates) - 1)].astype(np.float64)
    return {
        "settled": np.where(finite, settled.astype(np.float64), nothing),
        "updates_to_settle": np.where(finite & settled, first_update, nothing),
    }


# --- consistency ------------------------------------------------------------------------------------


def consistency(
    game: Game, learners: Sequence[Learner], params: Sequence[np.ndarray], artifacts: Sequence[Any] | None = None
) -> np.ndarray:
    """Squared violation of COLA's consistency by each player's learning rule, in float64.

    ``|d_i - BR_i|^2`` with ``BR_i = grad_i [V_i(theta_i, theta_-i + beta_i d_-i(theta))]``, the
    total derivative: the opponents' directions d move with theta_i (Willi et al., ICML 2022; in
    the scaling of directions, not of steps). ``beta_i`` is the step that player i assumes of the
    others, ``lookahead_lr``; for a rule that assumes none, its own ``lr``. Opponents that do not
    learn have direction zero.

    Args:
      game: an exact game.
      learners: one per player.
      params: per player ``(..., S, d_i)``.
      artifacts: per player what its preparation yielded, leaves ``(P, ...)``, shared by the S
        seeds as in an encounter; None for learners without one.

    Returns:
      ``(..., S, n_players)``; NaN for players whose rule has no direction, for everybody if an
      opponent learns without one, and where parameters are not finite.
    """
    return _of_rules(_consistency_program, game, learners, params, artifacts)["violation"]


def consistency_cosine(
    game: Game, learners: Sequence[Learner], params: Sequence[np.ndarray], artifacts: Sequence[Any] | None = None
) -> np.ndarray:
    """Cosine between what the rules do and what is consistent: ``<d, BR> / |d| |BR|`` with the
    directions and responses of all players concatenated; the same for each player.

    Arguments and NaN as in :func:`consistency`, for everybody if for any player.
    """
    found = _of_rules(_consistency_program, game, learners, params, artifacts)
    return _cosine(found["product"], found["direction"], found["response"])


def update_cosine(
    game: Game, learners: Sequence[Learner], params: Sequence[np.ndarray], artifacts: Sequence[Any] | None = None
) -> np.ndarray:
    """Likeness of the rules of players 1 and 2: the cosine between the joint direction where
    everybody uses the one and where everybody uses the other (COLA's tables of similarity, Willi et
    al., ICML 2022); the same for each player, in float64.

    Arguments as in :func:`consistency`; a rule that prepares has been prepared for all seats at once.

    Returns:
      ``(..., S, n_players)``; NaN if a rule has no direction or is zero, and where parameters
      are not finite.
    """
    found = _of_rules(_likeness_program, game, learners, params, artifacts)
    return _cosine(found["product"], found["first"], found["second"])


RULE_METRICS: dict[str, Callable[..., np.ndarray]] = {
    "consistency": consistency,
    "consistency_cosine": consistency_cosine,
    "update_cosine": update_cosine,
}
"""Metrics of learning rules at joint parameters, all with the arguments of :func:`consistency`."""


def _cosine(products: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """From inner products and squared norms per player, all ``(..., n_players)``."""
    product, norms = products.sum(axis=-1), np.sqrt(first.sum(axis=-1) * second.sum(axis=-1))
    cosine = np.divide(product, norms, out=np.full(product.shape, np.nan), where=norms > 0)
    return np.repeat(cosine[..., None], products.shape[-1], axis=-1)


def _of_rules(
    program: Callable[[Any], Callable[[Any, Any], Quantities]],
    game: Game,
    learners: Sequence[Learner],
    params: Sequence[np.ndarray],
    artifacts: Sequence[Any] | None,
) -> dict[str, np.ndarray]:
    """Quantities of each seat's rule ``(..., S, n_players)``; see :func:`consistency`."""
    shape, points = _points(game, params)
    learners = tuple(learners)
    leaves, treedef = _numbers(shareable(game, learners))
    prepared = tuple(artifacts) if artifacts is not None else (None,) * len(learners)
    served = _served(learners, prepared, shape)
    finite = np.all([np.isfinite(theta).all(axis=-1) for theta in points], axis=0)
    out: dict[str, np.ndarray] = {}
    with jax.enable_x64(True), _on_host():
        for which in np.unique(served, axis=0):
            here = (served == which).all(axis=1)
            own = tuple(jax.tree.map(lambda x, k=k: np.asarray(x)[k], a) for a, k in zip(prepared, which, strict=True))
            met = [theta[here] for theta in points]
            for name, x in _batched(program(treedef), (leaves, own), met).items():
                out.setdefault(name, np.full((len(points[0]), game.n_players), np.nan))[here] = x
    for x in out.values():
        x[~finite] = np.nan
    return {name: x.reshape(*shape, game.n_players) for name, x in out.items()}


def _served(learners: Sequence[Learner], artifacts: Sequence[Any], shape: tuple[int, ...]) -> np.ndarray:
    """The preparation of each player at each point, ``(N, n_players)``; 0 for those without one."""
    seeds = shape[-1] if shape else 1
    columns = []
    for player, (rule, artifact) in enumerate(zip(learners, artifacts, strict=True)):
        sizes = [len(x) for x in jax.tree.leaves(artifact)]
        column = shared_preparations(rule, player, seeds, sizes[0]) if sizes else np.zeros(seeds, int)
        columns.append(np.tile(column, math.prod(shape) // seeds))
    return np.stack(columns, axis=1)


def _direction(game: Game, rule: Any, player: int, params: tuple[Any, ...], rules: tuple[Any, ...], own: Any) -> Any:
    """Where a rule with a direction goes; ``own`` is its artifact."""
    return with_info(rule.direction(View(game, params, player, rule.access, learners=rules, artifact=own)))[0]


def _program_over_lanes(treedef: Any, one_point: Callable[..., Quantities]) -> Callable[[Any, Any], Quantities]:
    """``one_point(game, learners, artifacts, params)`` yields quantities ``(n_players,)``."""

    def lanes(data: Any, params: Any) -> Quantities:
        leaves, artifacts = data
        game, learners = jax.tree.unflatten(treedef, leaves)
        return jax.vmap(lambda theta: one_point(game, learners, artifacts, theta), out_axes=1)(params)

    return jax.jit(lanes)


@functools.lru_cache(maxsize=MOST_PROGRAMS)
def _consistency_program(treedef: Any) -> Callable[[Any, Any], Quantities]:
    def one_point(game: Game, learners: Any, artifacts: Any, params: tuple[Any, ...]) -> Quantities:
        def direction(player: int, theta: tuple[Any, ...]) -> Any:
            return _direction(game, learners[player], player, theta, learners, artifacts[player])

        def moved(player: int, theta: tuple[Any, ...], beta: Any) -> Any:
            """Where ``player`` is after a step of size beta along its direction at ``theta``."""
            if not learners[player].learns:
                return theta[player]
            return trees.add(theta[player], direction(player, theta), beta)

        def seat(player: int) -> Quantities:
            others = [j for j in range(game.n_players) if j != player]
            directed = hasattr(learners[player], "direction")
            if not directed or any(learners[j].learns and not hasattr(learners[j], "direction") for j in others):
                return dict.fromkeys(("violation", "product", "direction", "response"), jnp.full((), jnp.nan))
            beta = getattr(learners[player], "lookahead_lr", learners[player].lr)

            def anticipated_value(own: Any) -> Array:
                here = tuple(own if j == player else theta for j, theta in enumerate(params))
                there = tuple(own if j == player else moved(j, here, beta) for j in range(game.n_players))
                return game.value(there, player)

            chosen, response = direction(player, params), jax.grad(anticipated_value)(params[player])
            gap = trees.add(chosen, response, -1.0)
            return {
                "violation": trees.dot(gap, gap),
                "product": trees.dot(chosen, response),
                "direction": trees.dot(chosen, chosen),
                "response": trees.dot(response, response),
            }

        return jax.tree.map(_stack, *(seat(i) for i in range(game.n_players)))

    return _program_over_lanes(treedef, one_point)


@functools.lru_cache(maxsize=MOST_PROGRAMS)
def _likeness_program(treedef: Any) -> Callable[[Any, Any], Quantities]:
    def one_point(game: Game, learners: Any, artifacts: Any, params: tuple[Any, ...]) -> Quantities:
        n = game.n_players
        pair = list(zip(learners[:2], artifacts[:2], strict=True))
        if not all(hasattr(rule, "direction") for rule, _ in pair):
            return dict.fromkeys(("product", "first", "second"), jnp.full((n,), jnp.nan))
        a, b = ([_direction(game, rule, i, params, (rule,) * n, own) for i in range(n)] for rule, own in pair)

        def products(x: list[Any], y: list[Any]) -> Array:
            return _stack(*(trees.dot(*blocks) for blocks in zip(x, y, strict=True)))

        return {"product": products(a, b), "first": products(a, a), "second": products(b, b)}

    return _program_over_lanes(treedef, one_point)
