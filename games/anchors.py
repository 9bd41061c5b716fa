"""Reference returns of a game: what random play, the social optimum and a best response get.

A game says its own in ``anchors()``; what is here computes them for the kinds of games that can.
The scale of scores that they span is :mod:`shaping_bench.metrics.anchors`' affair.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from shaping_bench.games.base import Game
    from shaping_bench.games.differentiable import ScalarGame

SATURATED_LOGIT = 40.0
"""Logit of a deterministic choice: its sigmoid is exactly 1 in float64 and float32."""

NODES = 40
"""Quadrature nodes per initial parameter; exact for the polynomial games."""

STARTS = 32
"""Initial parameters from which the social optimum of a game without actions is sought."""


@dataclasses.dataclass(frozen=True)
class Anchors:
    """Reference returns of a game, per step, mean over the seats.

    Attributes:
      random: everybody plays uniformly at random; in games without actions, whose players choose
        real numbers, the expected return of the initial parameters.
      social_optimum: the largest mean over players.
      best_response: of one player to random others; None if unknown.
      smallest, largest: reward of a step; None where unbounded or unknown.
      source: where the numbers come from.
    """

    random: float
    social_optimum: float
    best_response: float | None = None
    smallest: float | None = None
    largest: float | None = None
    source: str = "computed from the game"


def of_table(payoffs: Sequence[Sequence[float]]) -> Anchors:
    """Anchors of a game of two actions per player, one-shot or repeated.

    Play that does not depend on the past attains all of them: random is the mean of the table,
    the optimum its best joint action for ever, and against random others nothing is better than
    the action that pays best on average.

    Args:
      payoffs: ``n_players x 2^n_players``, as :class:`shaping_bench.games.matrix.tables.TableGame` has them.
    """
    table = np.asarray(payoffs, np.float64)
    n = len(table)
    by_action = table.reshape(n, *(2,) * n)  # axis 1 + i is player i's action
    responses = [by_action[i].mean(axis=tuple(j for j in range(n) if j != i)).max() for i in range(n)]
    return Anchors(
        random=float(table.mean()),
        social_optimum=float(table.mean(axis=0).max()),
        best_response=float(np.mean(responses)),
        smallest=float(table.min()),
        largest=float(table.max()),
    )


def corners(game: "Game") -> list[list[float]]:
    """Payoff table of a game with one logit per player, from its deterministic policies."""
    joint = itertools.product((SATURATED_LOGIT, -SATURATED_LOGIT), repeat=game.n_players)
    with jax.enable_x64(True):
        rewards = [[float(x) for x in game.values([(np.float64(a),) for a in actions])] for actions in joint]
    return [[float(x) for x in row] for row in np.array(rewards).T]


@functools.lru_cache(maxsize=64)
def of_numbers(game: "ScalarGame") -> Anchors | None:
    """Anchors of a two-player game of real numbers; None where welfare has no maximum.

    Random: the mean return of the normal initial parameters, by Gauss-Hermite quadrature. Best
    response: to an opponent at the mean initial parameter, where the game has it in closed form.
    """
    from scipy.optimize import minimize

    with jax.enable_x64(True):
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        points = float(game.init_mean) + float(game.init_std) * nodes
        x, y = np.meshgrid(points, points)
        density = np.outer(weights, weights) / weights.sum() ** 2

        def welfare(theta: Any) -> Any:
            return game.per_step * jnp.mean(game.values([(theta[0],), (theta[1],)]))

        descent = jax.jit(jax.value_and_grad(lambda theta: -welfare(theta)))
        random = float((density * np.asarray(jax.vmap(jax.vmap(lambda a, b: welfare((a, b))))(x, y))).sum())
        starts = np.random.default_rng(0).normal(float(game.init_mean), 1.0 + float(game.init_std), (STARTS, 2))

        def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = descent(theta)
            return float(value), np.asarray(slope)

        minima = [minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-10}) for start in starts]
        best = min(minima, key=lambda x: x.fun)
        if not np.isfinite(best.fun) or np.abs(best.x).max() > 1e6:
            return None
        response = None
        if game.has_best_response:
            mean = (np.float64(game.init_mean),)
            answers = [game.best_response([mean, mean], i) for i in (0, 1)]
            gains = [game.value([answers[0], mean], 0), game.value([mean, answers[1]], 1)]
            response = float(game.per_step * np.mean([float(g) for g in gains]))
    # The ascent ends within 1e-12 of the optimum; what is beyond those digits is noise.
    return Anchors(random=round(random, 12), social_optimum=round(-best.fun, 12) + 0.0, best_response=response)


def of_scripts(
    measured: tuple[float, float, float],
    smallest: float,
    largest: float,
    source: str = "scripted policies, measured once",
) -> Anchors:
    """Anchors of what scripts were once measured to return: random play, the optimum, and a response to random play."""
    random, optimum, response = measured
    return Anchors(
        random=random,
        social_optimum=optimum,
        best_response=response,
        smallest=smallest,
        largest=largest,
        source=source,
    )
