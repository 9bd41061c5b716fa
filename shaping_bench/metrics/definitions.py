"""Definitions of metrics: numbers with formula, unit, direction, range and source.

:attr:`Metric.level` says what a metric is computed from; the files beside this one compute it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from shaping_bench.games import GAMES
from shaping_bench.games.base import Count, Game
from shaping_bench.games.matrix.memory_one import STRATEGIES
from shaping_bench.games.matrix.repeated import state_names
from shaping_bench.metrics.programs import MOST_PROGRAMS


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
      level: what it is computed from: ``"policy"`` (a joint policy, :func:`shaping_bench.metrics.evaluate`),
        ``"play"`` (episodes, :func:`shaping_bench.metrics.from_play`), ``"curve"``
        (:func:`shaping_bench.metrics.convergence`), ``"rule"`` (``shaping_bench.metrics.RULE_METRICS``),
        ``"report"`` (what learners report of their own updates, under this name),
        ``"suite"`` (several cells) or ``"cost"`` (bookkeeping of a cell).
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


def two_memory_one(game: Game) -> bool:
    return _exact(game) and game.memory_one and game.table is not None and game.n_players == 2


def _scored(game: Game) -> bool:
    return two_memory_one(game) and not game.zero_sum


def _symmetric_scored(game: Game) -> bool:
    return _scored(game) and game.symmetric


def _responds(game: Game) -> bool:
    return _exact(game) and game.has_best_response


def _two_respond(game: Game) -> bool:
    return _responds(game) and game.n_players == 2


def _ranged(game: Game) -> bool:
    return _exact(game) and reward_range(game) is not None


def divides_income(game: Game) -> bool:
    """Whether it is asked how incomes are divided: among three and more, and among two who cannot lose anything
    and are no table."""
    bounds = game.reward_bounds
    return game.n_players > 2 or (
        game.n_players == 2 and game.table is None and bounds is not None and bounds[0] >= 0.0
    )


def _uniform_equilibrium(game: Game) -> bool:
    """Two-player zero-sum two-action games in which each player is indifferent if the other
    plays both actions equally often."""
    payoffs = game.table
    if payoffs is None or game.n_players != 2 or not game.zero_sum:
        return False
    (a, b, c, d), (e, f, g, h) = payoffs
    return a + b == c + d and e + g == f + h and bool(reward_range(game))


def _uniform_memory_one(game: Game) -> bool:
    return two_memory_one(game) and _uniform_equilibrium(game)


def payoff_dominant(game: Game) -> int | None:
    """The joint action that is best for both players of two, among those on which they may settle: pure
    equilibria of a one-shot game; of a repeated one what gives either at least its (pure) security level.

    >>> from shaping_bench.games import make
    >>> [payoff_dominant(make(name)) for name in ("ipd", "stag-hunt", "bos", "hawk-dove", "imp")]
    [0, 0, None, None, None]

    Returns:
      Its index among CC, CD, DC, DD; None where there is no choice, or no agreement about the best.
    """
    if game.table is None or game.n_players != 2 or not _exact(game):
        return None
    tables = np.asarray(game.table, np.float64).reshape(2, 2, 2)
    best = np.stack(
        [tables[0].max(axis=0)[None, :].repeat(2, axis=0), tables[1].max(axis=1)[:, None].repeat(2, axis=1)]
    )
    least = (
        np.array([tables[0].max(axis=0).min(), tables[1].max(axis=1).min()])[:, None, None] if game.memory_one else best
    )
    rewards = tables.reshape(2, 4)
    candidates = np.flatnonzero((tables >= least).all(axis=0))
    first = [k for k in candidates if (rewards[:, [k]] >= rewards[:, candidates]).all()]
    return int(first[0]) if len(candidates) > 1 and len(first) == 1 else None


def _has_payoff_dominant(game: Game) -> bool:
    return _observes("cooperation")(game) and payoff_dominant(game) is not None


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

PLAYED = 0.82**2
"""Least occupancy of the joint action that counts as played."""

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
    return Metric(
        name=name,
        formula=formula,
        unit=unit,
        direction=direction,
        low=low,
        high=high,
        source=source,
        applies=applies,
        level=level,
    )


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
    meanings: dict[str, dict[Count, list[str]]] = {}
    for name, entry in GAMES.items():
        for count in () if "exact" in entry.cls.views else entry.cls.counts:
            meanings.setdefault(count.name, {}).setdefault(count, []).append(name)
    return [_count(_of_several(x)) for x in meanings.values()]


def _of_several(meanings: Mapping[Count, Sequence[str]]) -> Count:
    """A count by which several games mean something each: what it is in which of them, and bounds that hold in all."""
    first = next(iter(meanings))

    def said(name: str) -> str:
        texts = {count: getattr(count, name) for count in meanings}
        if len(set(texts.values())) == 1:
            return texts[first]
        return "; ".join(f"{text} ({', '.join(meanings[count])})" for count, text in texts.items())

    lows = [x.low for x in meanings if x.low is not None]
    highs = [x.high for x in meanings if x.high is not None]
    return dataclasses.replace(
        first,
        doc=said("doc"),
        unit=said("unit"),
        source=said("source"),
        direction=first.direction if len({x.direction for x in meanings}) == 1 else "none",
        low=min(lows) if len(lows) == len(meanings) else None,
        high=max(highs) if len(highs) == len(meanings) else None,
    )


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
        "equality",
        "1 - Gini coefficient of the returns, 1 - sum_jk |return_j - return_k| / (2 n sum_j return_j); the same for "
        "each player, undefined where somebody's return is negative or all are zero",
        "1",
        "higher",
        0.0,
        1.0,
        source="Perolat et al., NeurIPS 2017",
        applies=divides_income,
    ),
    _metric(
        "income_share",
        "return_i / sum_j return_j, undefined as equality is",
        _SHARE,
        "none",
        0.0,
        1.0,
        applies=divides_income,
    ),
    _metric(
        "episode_return",
        "(1 - gamma) sum_t gamma^t r_t that was earned while learning, in the last update's play",
        _REWARD,
        "higher",
        source="Foerster et al., AAMAS 2018, section 6.3 (tournament)",
        applies=_sampled,
        level="report",
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
    _metric(
        "basin",
        f"1 if the payoff-dominant joint action has a discounted occupancy of {PLAYED:g} or more",
        _FLAG,
        "higher",
        0.0,
        1.0,
        source="Shcherbinin et al. 2026: both play it with probability 0.82; its mean over a grid of starts is the "
        "basin share",
        applies=_has_payoff_dominant,
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
    _metric("quantity", "how much the firm makes", "units", "none", 0.0, applies=_observes("quantity")),
    _metric("effort", "of the boat, per step", "units per step", "none", 0.0, applies=_observes("effort")),
    _metric(
        "stock",
        "mean stock over an episode, as a share of the largest; the same for each player",
        _SHARE,
        "higher",
        0.0,
        1.0,
        applies=_observes("stock"),
    ),
    _metric(
        "sustainability",
        "mean time of the player's positive rewards, as a share of the episode; undefined without any",
        _SHARE,
        "higher",
        0.0,
        1.0,
        source="Perolat et al., NeurIPS 2017; times as shares of the episode",
        applies=_observes("sustainability"),
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
            applies=two_memory_one,
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
