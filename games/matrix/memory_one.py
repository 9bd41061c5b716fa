"""Theory of memory-one policies: best responses, named strategies, zero determinants.

Every function is pure and traceable: it takes a game, the joint parameters and a seat, and
returns scalars, so callers batch it with ``vmap``. Values are per step, i.e. multiplied by
1 - gamma. Policies are logits in the order [start, CC, CD, DC, DD], own last action first.

Sources: Press & Dyson, PNAS 2012 (zero determinants); Hilbe, Traulsen & Sigmund, Games and
Economic Behavior 92, 2015 (discounted); Knight et al., PLoS ONE 19(7), 2024 (least-squares
test of extortion).
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array

from shaping_bench.games.base import Game, Params
from shaping_bench.games.matrix.repeated import MemoryOneGame, RepeatedGame, seat_states
from shaping_bench.games.views import replaced

TEMPLATES: dict[str, tuple[float, ...]] = {
    "all_c": (1.0, 1.0, 1.0, 1.0, 1.0),
    "all_d": (0.0, 0.0, 0.0, 0.0, 0.0),
    "tft": (1.0, 1.0, 0.0, 1.0, 0.0),
    "suspicious_tft": (0.0, 1.0, 0.0, 1.0, 0.0),
    "grim": (1.0, 1.0, 0.0, 0.0, 0.0),
    "wsls": (1.0, 1.0, 0.0, 0.0, 1.0),
    "random": (0.5, 0.5, 0.5, 0.5, 0.5),
}
"""Named strategies: probabilities of action 0 in [start, CC, CD, DC, DD]."""

STRATEGIES: tuple[str, ...] = (*TEMPLATES, "gtft", "zd_extort", "other")
"""What :func:`nearest` tells apart, in the order of its indices."""

GENEROSITY = (0.05, 0.47)
"""Range in which forgiving makes a generous tit for tat. Below, it is tit for tat; above
1 - c / (b gamma) = 0.479 (prisoner's dilemma of the LOLA paper) defection exploits it."""

LOOSE = 0.25
"""Largest L_inf distance at which a policy still bears a strategy's name."""

TIE = 1e-9
"""Two actions are equally good if their values differ by at most this share of the payoff
range (unnormalised values)."""

EXTORTION_SSE = 1e-2
"""Largest squared residual of the zero-determinant fit of an extortionate policy."""

EXTORTION_BASELINE = 1.0 / 30.0
"""Largest distance of the fitted baseline to mutual defection, as a share of the payoff
range: 0.1 in the prisoner's dilemma of the LOLA paper."""


def payoff_range(payoffs: Sequence[Sequence[Any]]) -> Any:
    """Largest minus smallest reward of a payoff table. Works on traced values."""
    rewards = list(itertools.chain.from_iterable(payoffs))
    return functools.reduce(jnp.maximum, rewards) - functools.reduce(jnp.minimum, rewards)


def seat_payoffs(payoffs: Sequence[Sequence[Any]], player: int) -> tuple[tuple[Any, ...], ...]:
    """The payoff table as ``player`` sees it: itself first, then the others from its right.

    Returns:
      One row of ``2**n`` rewards per player, joint actions in the same order of players.
    """
    n = len(payoffs)
    frame = seat_states(n, player)
    return tuple(tuple(payoffs[(player + m) % n][frame.index(k)] for k in range(2**n)) for m in range(n))


def from_seat(game: MemoryOneGame, params: Sequence[Params], player: int) -> tuple[RepeatedGame, tuple[Params, ...]]:
    """The same game and joint policy with ``player`` in the first seat.

    Policies are written in their owner's frame, so they move seats unchanged.
    """
    n = game.n_players
    seated = RepeatedGame(payoffs=seat_payoffs(game.payoffs, player), gamma=game.gamma)  # type: ignore[call-arg]
    return seated, tuple(params[(player + m) % n] for m in range(n))


# --- best responses -------------------------------------------------------------------------


def best_response_value(game: Game, params: Sequence[Params], player: int) -> Array:
    """What ``player`` gets by best-responding to the others' frozen policies, per step.

    For any game with an exact best response and any number of players.
    """
    return game.per_step * game.value(replaced(params, player, game.best_response(params, player)), player)


class Exploit(NamedTuple):
    """A frozen policy against its exact best response, per step.

    Attributes:
      gain: what the best responder gets.
      left: what remains for the owner of the frozen policy.
    """

    gain: Array
    left: Array


def exploit(game: Game, params: Sequence[Params], exploiter: int) -> Exploit:
    """``exploiter`` best-responds to the other player's frozen policy (two players).

    In a repeated game several responses may be best; ``left`` is then the least the owner can
    get against any of them, ties judged by :data:`TIE`: actions that are optimal for the
    exploiter in a state form a smaller decision problem, solved for the owner's loss. In
    other games the tie is broken by the game's own best response.
    """
    owner = 1 - exploiter
    best = game.best_response(params, exploiter)
    joint = replaced(params, exploiter, best)
    gain = game.per_step * game.value(joint, exploiter)
    if game.memory_one and game.table is not None:
        game = cast(MemoryOneGame, game)
        advantages = game.action_advantages(joint, exploiter, game.payoffs[exploiter])
        tie = TIE * payoff_range(game.payoffs)
        allowed: list[Any] = [(a >= -tie, a <= tie) for a in advantages]
        loss = [-r for r in game.payoffs[owner]]
        joint = replaced(params, exploiter, game.optimal_policy(joint, exploiter, loss, allowed))
    return Exploit(gain, game.per_step * game.value(joint, owner))


def br_value(game: Game, params: Sequence[Params], player: int) -> Array:
    """What a best responder to ``player``'s frozen policy gets, per step.

    With more than two players: the mean over the others, each best-responding alone while
    everybody else stays frozen.
    """
    others = [best_response_value(game, params, j) for j in range(game.n_players) if j != player]
    return sum(others[1:], others[0]) / len(others)


def held_value(game: Game, params: Sequence[Params], player: int) -> Array:
    """What ``player``'s frozen policy gets when the opponent best-responds, per step (two
    players; the worst case over the opponent's best responses)."""
    return exploit(game, params, 1 - player).left


def nash_conv(game: Game, params: Sequence[Params]) -> Array:
    """Sum over players of what a best response gains, per step; zero iff a Nash equilibrium."""
    gains = [
        best_response_value(game, params, i) - game.per_step * game.value(params, i) for i in range(game.n_players)
    ]
    return sum(gains[1:], gains[0])


# --- named strategies -------------------------------------------------------------------------


def probabilities(theta: Params) -> tuple[Array, ...]:
    """Probabilities of action 0, one per logit."""
    return tuple(jax.nn.sigmoid(x) for x in theta)


def _mean(x: Sequence[Any]) -> Any:
    return sum(x[1:], x[0]) / len(x)


def distance(theta: Params, target: Sequence[Any]) -> Array:
    """Largest absolute difference between the policy's probabilities and ``target``."""
    gaps = [jnp.abs(p - t) for p, t in zip(probabilities(theta), target, strict=True)]
    return functools.reduce(jnp.maximum, gaps)


def match(theta: Params, target: Sequence[Any], tolerance: float) -> Array:
    """Share of the policy's probabilities within ``tolerance`` of ``target``."""
    close = [jnp.abs(p - t) <= tolerance for p, t in zip(probabilities(theta), target, strict=True)]
    return _mean([x.astype(jnp.result_type(float)) for x in close])


def argmax_code(theta: Params) -> Array:
    """The likelier action of each state as a binary number, the start as its highest bit and
    1 for action 0: tit for tat is 0b11010."""
    code: Any = 0
    for x in theta:
        code = 2 * code + (jnp.asarray(x) > 0).astype(jnp.int32)
    return code


def generous_distance(theta: Params) -> Array:
    """Distance to the nearest generous tit for tat, over generosities in :data:`GENEROSITY`."""
    p = probabilities(theta)
    generosity = jnp.clip(0.5 * (p[2] + p[4]), *GENEROSITY)
    return distance(theta, (1.0, 1.0, generosity, 1.0, generosity))


def nearest(game: MemoryOneGame, params: Sequence[Params], player: int, tolerance: float = LOOSE) -> Array:
    """Index in :data:`STRATEGIES` of the named strategy nearest to ``player``'s policy.

    The nearest of the templates and generous tit for tat if within ``tolerance`` (L_inf), else
    ``zd_extort`` if :func:`zd_fit` says so, else ``other``. Two players.
    """
    theta = params[player]
    # The margin lets a fixed template win a tie with the generous family that contains its neighbours.
    families = [distance(theta, target) for target in TEMPLATES.values()] + [generous_distance(theta) + TIE]
    distances = jnp.stack(families)
    extortion, other = STRATEGIES.index("zd_extort"), STRATEGIES.index("other")
    unnamed = jnp.where(zd_fit(game, params, player).extortionate, extortion, other)
    return jnp.where(jnp.min(distances) <= tolerance, jnp.argmin(distances), unnamed)


# --- zero determinants --------------------------------------------------------------------------


class ZDFit(NamedTuple):
    """Least-squares fit of a policy by a zero-determinant strategy.

    Attributes:
      slope: the opponent's score per unit of the own score, 1 / chi.
      baseline: score l at which both fare alike.
      sse: squared residual; zero for an exact zero-determinant strategy.
      extortionate: whether the fit is good, favours the owner (chi > 1, positive weight on
        the own score) and starts from mutual defection.
    """

    slope: Array
    baseline: Array
    sse: Array
    extortionate: Array


def zd_fit(game: MemoryOneGame, params: Sequence[Params], player: int) -> ZDFit:
    """Fits ``p_hat = a S_own + b S_opp + k`` (two players).

    With ``p_hat = gamma (pCC, pCD, pDC, pDD) + (1 - gamma) p0 - (1, 1, 0, 0)`` the discounted
    occupancy rho of any match obeys ``rho . p_hat = 0``, so an exact fit enforces
    ``a s_own + b s_opp + k = 0``: ``s_own - l = chi (s_opp - l)``, ``chi = -b / a`` and
    ``l = -k / (a + b)``. Undefined (NaN or infinite) where the payoffs are collinear, as in
    zero-sum games.
    """
    seated, (theta, _) = from_seat(game, params, player)
    own, other = seated.payoffs
    start, *after = probabilities(theta)
    gamma = seated.gamma
    p_hat = [gamma * p + (1.0 - gamma) * start - g for p, g in zip(after, (1.0, 1.0, 0.0, 0.0), strict=True)]

    # Centred columns leave a 2x2 system for (a, b).
    def centred(x: Sequence[Any]) -> tuple[list[Any], Any]:
        mean = _mean(x)
        return [entry - mean for entry in x], mean

    def dot(x: Sequence[Any], y: Sequence[Any]) -> Any:
        return sum(u * v for u, v in zip(x, y, strict=True))

    (x, x_mean), (y, y_mean), (z, z_mean) = centred(own), centred(other), centred(p_hat)
    xx, xy, yy, xz, yz = dot(x, x), dot(x, y), dot(y, y), dot(x, z), dot(y, z)
    determinant = jnp.asarray(xx * yy - xy * xy)
    a = (yy * xz - xy * yz) / determinant
    b = (xx * yz - xy * xz) / determinant
    k = z_mean - a * x_mean - b * y_mean
    residual = [w - a * u - b * v for u, v, w in zip(x, y, z, strict=True)]
    sse, baseline = dot(residual, residual), -k / (a + b)
    near_defection = jnp.abs(baseline - own[3]) < EXTORTION_BASELINE * payoff_range(seated.payoffs)
    extortionate = (sse < EXTORTION_SSE) & (a > 0) & (-b > a) & near_defection
    return ZDFit(slope=-a / b, baseline=baseline, sse=sse, extortionate=extortionate)
