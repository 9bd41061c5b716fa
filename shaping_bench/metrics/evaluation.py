"""Metrics of joint policies, valued exactly (:func:`evaluate`) or by play (:func:`from_play`).

:func:`evaluate` computes the metrics of joint policies of an exact game, always in float64:
one compiled program per game structure yields a few quantities per seat (return, response
values, fits), and cheap combinations of them follow on the host. Payoffs and discounts enter
as data, so all repeated two-action games share one program.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.errors import BadInput, unknown
from shaping_bench.games.base import Game
from shaping_bench.games.matrix import automata
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
from shaping_bench.games.matrix.repeated import MemoryOneGame, RepeatedGame
from shaping_bench.metrics.definitions import (
    METRICS,
    OBSERVABLES,
    PLAYED,
    divides_income,
    observable_names,
    payoff_dominant,
    reward_range,
    two_memory_one,
)
from shaping_bench.metrics.programs import (
    MOST_PROGRAMS,
    Quantities,
    batched,
    compiled,
    flattened,
    numbers,
    on_host,
    stack,
)

# --- quantities of one seat -------------------------------------------------------------------

_FROM_RETURNS = frozenset({"return", "welfare", "fairness", "exploitation_gap", "equality", "income_share", "diverged"})
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
    programs = {group for group, members in groups.items() if asked & members}
    observed = asked - _FROM_RETURNS - frozenset().union(*groups.values())
    return frozenset(programs | ({OBSERVABLES} if observed else set()))


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
    if two_memory_one(game):
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


@functools.lru_cache(maxsize=MOST_PROGRAMS)
def _program(treedef: Any, groups: frozenset[str]) -> Callable[[Any, Any], Quantities]:
    """Compiled: the game's numbers and ``(N,)`` coordinates to quantities ``(n_players, N)``."""

    def lanes_by_seat(leaves: Sequence[Array], params: Any) -> Quantities:
        # The seat is one more batch axis: half the program, half the compile time.
        game = jax.tree.unflatten(treedef, leaves)
        seats = range(game.n_players)
        payoffs = jax.tree.map(stack, *(seat_payoffs(game.payoffs, i) for i in seats))
        turned = jax.tree.map(stack, *(from_seat(game, params, i)[1] for i in seats))

        def first_seat(payoffs: Any, params: Any) -> Quantities:
            seated = RepeatedGame(payoffs=payoffs, gamma=game.gamma)  # type: ignore[call-arg]
            return _seat_quantities(seated, params, 0, groups)

        return jax.vmap(jax.vmap(first_seat, in_axes=(None, 0)))(payoffs, turned)

    def lanes(leaves: Sequence[Array], params: Any) -> Quantities:
        game = jax.tree.unflatten(treedef, leaves)
        seats = [
            jax.vmap(lambda theta, i=i: _seat_quantities(game, theta, i, groups))(params) for i in range(game.n_players)
        ]
        return jax.tree.map(stack, *seats)

    template = jax.tree.unflatten(treedef, [0.5] * treedef.num_leaves)
    return compiled(("metrics", treedef, groups), lanes_by_seat if _seats_alike(template) else lanes)


# --- evaluation -----------------------------------------------------------------------------------


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
    if "exact" not in game.views:
        raise BadInput(f"game is {type(game).__name__}, which offers the views {sorted(game.views)}; needed: 'exact'")
    wanted = _wanted(game, names)
    sizes = [np.shape(x)[-1] if np.ndim(x) else 0 for x in params]
    if game.memory_one and game.n_players == len(sizes) == 2 and automata.remember_more(sizes):
        return _of_automata(cast(MemoryOneGame, game), params, wanted)
    shape, points = flattened(game, params)
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


def _of_automata(game: MemoryOneGame, params: Sequence[np.ndarray], wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """The same where somebody remembers more than one round: what follows from returns, and from best responses
    by whoever remembers as much as there is to."""
    shape, points = np.shape(params[0])[:-1], [automata.flat(x) for x in params]
    finite = np.all([np.isfinite(x).all(axis=-1) for x in points], axis=0)
    first, second = (automata.decoded(np.where(finite[:, None], x, 0.0)) for x in points)
    payoffs, gamma = np.asarray(game.payoffs, np.float64), float(game.gamma)
    occupancy = automata.occupancy(first, second, gamma)
    quantities = {
        "return": occupancy @ payoffs.T,
        "observed cooperation": np.stack([occupancy[:, [0, 1]].sum(axis=1), occupancy[:, [0, 2]].sum(axis=1)], axis=1),
        "observed mutual_cooperation": np.repeat(occupancy[:, :1], 2, axis=1),
        # Of each as the responder to the other.
        "gain": np.stack(
            [
                automata.best_response_value(other, seat_payoffs(payoffs.tolist(), i)[0], gamma)
                for i, other in enumerate((second, first))
            ],
            axis=1,
        ),
    }
    values = _combine(game, quantities)
    values["diverged"] = np.repeat(~finite[:, None], 2, axis=1)
    out = {}
    for name in wanted:
        if name in values:
            value = np.array(values[name], np.float64)
            value[~finite if name != "diverged" else []] = np.nan
            out[name] = value.reshape(*shape, 2)
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


def _quantities(game: Game, points: Sequence[np.ndarray], groups: frozenset[str]) -> dict[str, np.ndarray]:
    leaves, treedef = numbers(game.unpinned())
    with jax.enable_x64(True), on_host():
        return batched(_program(treedef, groups), leaves, points)


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
    if divides_income(game):
        out |= _incomes(returns)
    if (dominant := payoff_dominant(game)) is not None and "cooperation" in out:
        out["basin"] = everybody(_occupancies(out)[dominant] >= PLAYED)
    if "gain" in quantities:
        gain = quantities["gain"]
        out["br_value"] = _mean_of_others(gain)
        out["exploitability"] = out["br_value"] - others
        out["nash_conv"] = everybody((gain - returns).sum(axis=1))
        if "left" in quantities:
            out["held_value"] = quantities["left"][:, ::-1]
    if "nearest" in quantities:
        out |= {f"nearest_{name}": quantities["nearest"] == k for k, name in enumerate(STRATEGIES)}
    return out


def _incomes(returns: np.ndarray) -> dict[str, np.ndarray]:
    """How returns ``(N, n_players)`` are divided; undefined where one is negative or all are zero."""
    n, total = returns.shape[1], returns.sum(axis=1, keepdims=True)
    defined = (returns >= 0.0).all(axis=1, keepdims=True) & (total > 0.0)
    base = np.where(defined, total, np.nan)
    gaps = np.abs(returns[:, :, None] - returns[:, None, :]).sum(axis=(1, 2))[:, None]
    equality = 1.0 - gaps / (2.0 * n * base)
    return {"equality": np.repeat(equality, n, axis=1), "income_share": returns / base}


def _occupancies(observed: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Of CC, CD, DC and DD, each ``(N,)``, of two players; those of a one-shot game choose independently."""
    first, second = observed["cooperation"].T
    both = observed["mutual_cooperation"][:, 0] if "mutual_cooperation" in observed else first * second
    return both, first - both, second - both, 1.0 - first - second + both


def from_play(game: Game, played: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Metrics of joint policies that were valued by play.

    Args:
      game: any game.
      played: ``Outcome.played``, each ``(..., n_players)``; ``return`` is among them.

    Returns:
      The same and what follows from them, each ``(..., n_players)``, in float64.
    """
    values = {name: np.asarray(x, np.float64) for name, x in played.items()}
    shape = values["return"].shape
    out = dict(values)
    combined = _combine(game, {"return": values["return"].reshape(-1, shape[-1])})
    out |= {name: x.reshape(shape) for name, x in combined.items()}
    for count in game.counts:
        if count.per and {count.name, count.per} <= set(values):
            times, sums = values[count.per], values[count.name]
            out[count.name] = np.divide(sums, times, out=np.full(shape, np.nan), where=times > 0)
        if count.share_of and set(count.share_of) <= set(values):
            part, total = values[count.share_of[0]], sum(values[name] for name in count.share_of)
            out[count.name] = np.divide(part, total, out=np.full(shape, np.nan), where=total > 0)
    return out
