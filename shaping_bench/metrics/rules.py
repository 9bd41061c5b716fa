"""Metrics of learning rules at joint parameters: consistency, and likeness of two rules."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.algorithms.core import Learner, View, trees, with_info
from shaping_bench.games.base import Game
from shaping_bench.games.views import replaced
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
from shaping_bench.run.encounter import shareable
from shaping_bench.run.lanes import shared_preparations


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
    sums = _of_rules(_consistency_program, game, learners, params, artifacts)
    return _cosine(sums["product"], sums["direction"], sums["response"])


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
    sums = _of_rules(_likeness_program, game, learners, params, artifacts)
    return _cosine(sums["product"], sums["first"], sums["second"])


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
    shape, points = flattened(game, params)
    learners = tuple(learners)
    leaves, treedef = numbers(shareable(game, learners))
    prepared = tuple(artifacts) if artifacts is not None else (None,) * len(learners)
    served = _served(learners, prepared, shape)
    finite = np.all([np.isfinite(theta).all(axis=-1) for theta in points], axis=0)
    out: dict[str, np.ndarray] = {}
    with jax.enable_x64(True), on_host():
        for which in np.unique(served, axis=0):
            here = (served == which).all(axis=1)
            own = tuple(jax.tree.map(lambda x, k=k: np.asarray(x)[k], a) for a, k in zip(prepared, which, strict=True))
            here_points = [theta[here] for theta in points]
            for name, x in batched(program(treedef), (leaves, own), here_points).items():
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


def _program_over_lanes(
    name: str, treedef: Any, one_point: Callable[..., Quantities]
) -> Callable[[Any, Any], Quantities]:
    """``one_point(game, learners, artifacts, params)`` yields quantities ``(n_players,)``; what it is, the
    name tells."""

    def lanes(data: Any, params: Any) -> Quantities:
        leaves, artifacts = data
        game, learners = jax.tree.unflatten(treedef, leaves)
        return jax.vmap(lambda theta: one_point(game, learners, artifacts, theta), out_axes=1)(params)

    return compiled((name, treedef), lanes)


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
                here = replaced(params, player, own)
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

        return jax.tree.map(stack, *(seat(i) for i in range(game.n_players)))

    return _program_over_lanes("consistency", treedef, one_point)


@functools.lru_cache(maxsize=MOST_PROGRAMS)
def _likeness_program(treedef: Any) -> Callable[[Any, Any], Quantities]:
    def one_point(game: Game, learners: Any, artifacts: Any, params: tuple[Any, ...]) -> Quantities:
        n = game.n_players
        pair = list(zip(learners[:2], artifacts[:2], strict=True))
        if not all(hasattr(rule, "direction") for rule, _ in pair):
            return dict.fromkeys(("product", "first", "second"), jnp.full((n,), jnp.nan))
        a, b = ([_direction(game, rule, i, params, (rule,) * n, own) for i in range(n)] for rule, own in pair)

        def products(x: list[Any], y: list[Any]) -> Array:
            return stack(*(trees.dot(*blocks) for blocks in zip(x, y, strict=True)))

        return {"product": products(a, b), "first": products(a, a), "second": products(b, b)}

    return _program_over_lanes("likeness", treedef, one_point)
