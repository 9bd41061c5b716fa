"""Normalised scores: reference returns of each game, and the scale they span.

Returns of different games have nothing in common, so what is averaged over games is::

    normalised_return = (return - random) / (one - random)

* **0 is what random play gets**: everybody acts uniformly at random. In games without actions,
  whose players choose real numbers, it is the expected return of the initial parameters.
* **1 is the social optimum**: the largest mean over players of the return per step.
* In a **constant-sum** game every outcome is a social optimum; there 1 is the largest reward
  of a step, and a score of 0.2 means 0.2 of it won from the others.
* Scores are **not bounded by 0 and 1**. Mutual defection in the prisoner's dilemma is worse
  than random (-1), exploiting somebody may be better than the optimum for all (up to 3); the
  smallest and largest score of a game follow from its rewards (:attr:`Anchors.range`).
* A game that is constant-sum and unbounded (the Hamiltonian game) has no scale and is left out.

The scale is the same for all seats: a seat's advantage is a fact of the encounter and no
matter of units. It contains the two conventions that the field uses: "random is 0" of
reinforcement learning, and the Coin Game's "mutual greed is 0, mutual cooperation is 1".

Anchors of exact games are computed from the game in float64. Those of the Coin Game are
constants measured once, :data:`COIN_GAME`. A game from elsewhere may declare its own, as an
attribute ``anchors``: a mapping with ``random``, ``social_optimum`` and, if there is one,
``best_response``, per step and averaged over players.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from shaping_bench.errors import BadInput
from shaping_bench.store.results import Results, kept

if TYPE_CHECKING:  # JAX comes with games; who only reads tables need not wait for it
    from shaping_bench.games.base import Game
    from shaping_bench.games.differentiable import ScalarGame
    from shaping_bench.games.grids.coin import CoinGame

METRIC = "normalised_return"
"""Name of the metric that this module defines."""

SAME = 1e-9
"""Anchors closer than this share of the larger one are the same number."""

NODES = 40
"""Quadrature nodes per initial parameter; exact for the polynomial games."""

STARTS = 32
"""Initial parameters from which the social optimum of a game without actions is sought."""


@dataclasses.dataclass(frozen=True)
class Anchors:
    """Reference returns of a game, per step, mean over the seats.

    Attributes:
      random: everybody plays uniformly at random.
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

    @property
    def constant_sum(self) -> bool:
        """Whether random play is a social optimum, as every outcome of a constant-sum game is."""
        return _same(self.random, self.social_optimum)

    @property
    def one(self) -> float | None:
        """The return that scores 1; None if the game has no scale."""
        if not self.constant_sum:
            return self.social_optimum
        return None if self.largest is None or _same(self.largest, self.random) else self.largest

    @property
    def range(self) -> tuple[float, float] | None:
        """Smallest and largest possible score; None where rewards are unbounded or unknown."""
        if self.smallest is None or self.largest is None or self.one is None:
            return None
        low, high = (float(self.normalised(x)) for x in (self.smallest, self.largest))
        return low, high

    def normalised(self, returns: Any) -> Any:
        """Scores of returns per step, of any shape; NaN in a game without a scale."""
        if self.one is None:
            return np.full(np.shape(returns), np.nan)
        return (np.asarray(returns, np.float64) - self.random) / (self.one - self.random)


def _same(x: float, y: float) -> bool:
    return math.isclose(x, y, rel_tol=SAME, abs_tol=SAME)


# --- the anchors of a game ----------------------------------------------------------------


def anchors_of(game: "Game") -> Anchors | None:
    """The anchors of a game; None if it is none of the kinds known here and declares none.

    Raises:
      BadInput: the game declares anchors that are no numbers.
    """
    from shaping_bench.games.base import TableGame
    from shaping_bench.games.differentiable import ScalarGame, Ultimatum
    from shaping_bench.games.grids.coin import CoinGame

    declared = getattr(game, "anchors", None)
    if declared is not None:
        return _declared(game, declared)
    if isinstance(game, TableGame):
        return of_table(game.payoffs)
    if isinstance(game, Ultimatum):
        return of_table(_corners(game))
    if isinstance(game, ScalarGame):
        return _of_numbers(game)
    return _of_coins(game) if isinstance(game, CoinGame) else None


def _declared(game: "Game", declared: Any) -> Anchors:
    allowed = ("random", "social_optimum", "best_response", "smallest", "largest")
    try:
        numbers = {key: float(value) for key, value in dict(declared).items()}
        return Anchors(**numbers, source=f"declared by {type(game).__name__}")
    except (TypeError, ValueError):
        raise BadInput(
            f"{type(game).__name__}.anchors is {declared!r}; allowed: a mapping from random, social_optimum and "
            f"possibly {', '.join(allowed[2:])} to numbers"
        ) from None


def of_table(payoffs: Sequence[Sequence[float]]) -> Anchors:
    """Anchors of a game of two actions per player, one-shot or repeated.

    Play that does not depend on the past attains all of them: random is the mean of the table,
    the optimum its best joint action for ever, and against random others nothing is better than
    the action that pays best on average.

    Args:
      payoffs: ``n_players x 2^n_players``, as :class:`shaping_bench.games.base.TableGame` has them.
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


def _corners(game: "Game") -> list[list[float]]:
    """Payoff table of a game with one logit per player, from its deterministic policies."""
    import jax

    from shaping_bench.games.matrix.repeated import SATURATED_LOGIT

    joint = itertools.product((SATURATED_LOGIT, -SATURATED_LOGIT), repeat=game.n_players)
    with jax.enable_x64(True):
        rewards = [[float(x) for x in game.values([(np.float64(a),) for a in actions])] for actions in joint]
    return [[float(x) for x in row] for row in np.array(rewards).T]


def _of_numbers(game: "ScalarGame") -> Anchors | None:
    """Anchors of a two-player game of real numbers; None where welfare has no maximum.

    Random: the mean return of the normal initial parameters, by Gauss-Hermite quadrature. Best
    response: to an opponent at the mean initial parameter, where the game has it in closed form.
    """
    import jax
    import jax.numpy as jnp
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

        found = [minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-10}) for start in starts]
        best = min(found, key=lambda x: x.fun)
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


COIN_GAME: dict[str, dict[int, tuple[float, float]]] = {
    "one coin": {3: (0.349, 0.531), 4: (0.244, 0.395), 5: (0.203, 0.350), 6: (0.163, 0.289), 7: (0.142, 0.258)},
    "one coin, red first": {3: (0.349, 0.608)},
    "two coins": {3: (0.307, 0.624)},
    "two coins, five actions": {3: (0.306, 0.649)},
}
"""Coin Game by variant and size: return per step of scripted policies, mean of 16 384 episodes,
standard error 0.001. First: each takes only its own coins, by the shortest way (the social
optimum). Second: one who takes every coin it can, against random play (as near to a best
response as scripts come). Random play gets 0: half the coins it takes are the other's, and cost
the other twice what they pay. Where red alone takes a coin that both reach, greed is red's."""


def _of_coins(game: "CoinGame") -> Anchors | None:
    """The constants of the variant; None for rules, payoffs or sizes they were not measured for.

    First cells, moves, observations, and lengths from 15 steps on matter less than their digits.
    """
    rules = game.rules
    paid = (game.reward_own, game.reward_other, game.penalty) == (1.0, 1.0, -2.0)
    colours = rules.num_coins == 2 or rules.colours == "alternate"
    placed = (rules.initial_coins, rules.respawn) == (("free", "free") if rules.num_coins == 1 else ("any", "any"))
    variant = {
        (1, 4, "both", "none"): "one coin",
        (1, 4, "red_first", "none"): "one coin, red first",
        (2, 4, "both", "reset_step"): "two coins",
        (2, 5, "both", "zero_last_reward"): "two coins, five actions",
    }.get((rules.num_coins, rules.num_actions, rules.tie_rule, rules.boundary))
    found = COIN_GAME.get(variant or "", {}).get(game.size)
    if found is None or not (paid and colours and placed and rules.horizon >= 15):
        return None
    optimum, greedy = found
    return Anchors(
        random=0.0,
        social_optimum=optimum,
        best_response=greedy,
        # Two coins may lie on one cell, and then pay together.
        smallest=-2.0,
        largest=float(rules.num_coins),
        source="scripted policies, measured once",
    )


# --- the anchors of results ---------------------------------------------------------------


@kept
def anchors_in(results: Results) -> dict[str, Anchors | None]:
    """Anchors by label of the games of a results directory; None where there are none, as for
    games of packages that are not installed."""
    from shaping_bench.spec import registry

    found: dict[str, Anchors | None] = {}
    for record in results.records:
        game = record["game"]
        if game["label"] in found:
            continue
        try:
            made = registry.make_game({game["name"]: game["hyperparameters"]}).value
        except BadInput:
            found[game["label"]] = None
        else:
            found[game["label"]] = anchors_of(cast("Game", made))
    return found
