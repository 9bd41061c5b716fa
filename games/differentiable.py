"""Small differentiable games: each player chooses one number.

Published as losses unless said otherwise; negated here, once. Sources: SOS (Letcher et
al. 2019) for tandem and matching pennies, COLA (Willi et al. 2022) for ultimatum, the
Balduzzi and Hamiltonian games and one-shot chicken, MeVa (Cooijmans et al. 2023) for the
logistic game.
"""

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from shaping_bench.games import anchors
from shaping_bench.games.anchors import SATURATED_LOGIT, Anchors
from shaping_bench.games.base import Game, Params
from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.matrix.tables import TableGame


class ScalarGame(Game):
    """Two players, one real parameter each; subclasses define ``payoff(x, y)``."""

    @property
    def n_players(self) -> int:
        return 2

    @property
    def sizes(self) -> tuple[int, ...]:
        return (1, 1)

    @property
    def coordinates(self) -> tuple[tuple[str, ...], ...]:
        return (("x",), ("y",))

    def payoff(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Values of both players at the two parameters."""
        raise NotImplementedError

    def value(self, params: Sequence[Params], player: int) -> Array:
        (x,), (y,) = params
        return self.payoff(x, y)[player]

    def anchors(self) -> Anchors | None:
        return anchors.of_numbers(self)


@pytree_dataclass
class Tandem(ScalarGame):
    """``L1 = (x+y)^2 - 2x``, ``L2 = (x+y)^2 - 2y``; stable fixed points x + y = 1, where
    the losses sum to zero. LOLA moves away from them (SOS paper, Example 2)."""

    init_mean: float = field(0.0, "mean of the initial parameters")
    init_std: float = field(0.1, "standard deviation of the initial parameters", low=0.0)

    @property
    def symmetric(self) -> bool:
        return True

    def payoff(self, x: Array, y: Array) -> tuple[Array, Array]:
        effort = (x + y) * (x + y)
        return 2.0 * x - effort, 2.0 * y - effort

    def observables(self, params: Sequence[Params]) -> dict[str, Array]:
        (x,), (y,) = params
        return {"parameter_sum": jnp.stack([x + y, x + y])}

    def best_response(self, params: Sequence[Params], player: int) -> tuple[Array, ...]:
        (other,) = params[1 - player]
        return (1.0 - other,)


@pytree_dataclass
class Balduzzi(ScalarGame):
    """``L1 = x^2/2 + 10xy``, ``L2 = y^2/2 - 10xy``: a weakly damped cycle."""

    init_mean: float = field(0.0, "mean of the initial parameters")
    init_std: float = field(1.0, "standard deviation of the initial parameters", low=0.0)

    def payoff(self, x: Array, y: Array) -> tuple[Array, Array]:
        return -0.5 * x * x - 10.0 * x * y, -0.5 * y * y + 10.0 * x * y

    def best_response(self, params: Sequence[Params], player: int) -> tuple[Array, ...]:
        (other,) = params[1 - player]
        return ((-10.0 if player == 0 else 10.0) * other,)


@pytree_dataclass
class Hamiltonian(ScalarGame):
    """``L1 = xy``, ``L2 = -xy``: a pure cycle; the naive step leaves the origin."""

    init_mean: float = field(0.0, "mean of the initial parameters")
    init_std: float = field(1.0, "standard deviation of the initial parameters", low=0.0)

    @property
    def zero_sum(self) -> bool:
        return True

    def payoff(self, x: Array, y: Array) -> tuple[Array, Array]:
        return -x * y, x * y


@pytree_dataclass
class Logistic(ScalarGame):
    """``f1 = -4 s(x)(1 - 2 s(y)) - R``, ``f2 = -4 s(y)(1 - 2 s(x)) - R`` with the logistic
    function s and ``R = [(xy)^2 + (x^2 - y^2)^2] / 10^4``. Two stable fixed points of
    naive learning, at about (5, 5), preferred by both, and (-5, -5). Published as values."""

    init_mean: float = field(0.0, "mean of the initial parameters")
    init_std: float = field(1.0, "standard deviation of the initial parameters", low=0.0)

    @property
    def symmetric(self) -> bool:
        return True

    def payoff(self, x: Array, y: Array) -> tuple[Array, Array]:
        sx, sy = jax.nn.sigmoid(x), jax.nn.sigmoid(y)
        product, gap = x * y, x * x - y * y
        penalty = (product * product + gap * gap) * 1e-4
        return -4.0 * sx * (1.0 - 2.0 * sy) - penalty, -4.0 * sy * (1.0 - 2.0 * sx) - penalty

    def observables(self, params: Sequence[Params]) -> dict[str, Array]:
        (x,), (y,) = params
        preferred = ((x > 0) & (y > 0)).astype(jnp.result_type(x))
        return {"preferred_basin": jnp.stack([preferred, preferred])}


@pytree_dataclass
class OneShotGame(TableGame):
    """A one-shot n-player two-action game; the parameter is the logit of action 0."""

    family: ClassVar[str | None] = "matrix-one-shot"

    payoffs: tuple[tuple[float, ...], ...] = field(
        doc="reward of each player for the joint actions (first player's action first)"
    )
    init_mean: float = field(0.0, "mean of the initial logits")
    init_std: float = field(1.0, "standard deviation of the initial logits", low=0.0)

    @property
    def sizes(self) -> tuple[int, ...]:
        return (1,) * self.n_players

    @property
    def coordinates(self) -> tuple[tuple[str, ...], ...]:
        return (("action0",),) * self.n_players

    def value(self, params: Sequence[Params], player: int) -> Array:
        return self._expected([jax.nn.sigmoid(theta[0]) for theta in params], player)

    def _expected(self, cooperate: Sequence[Any], player: int) -> Array:
        total: Any = 0.0
        joint = itertools.product((0, 1), repeat=self.n_players)
        for reward, actions in zip(self.payoffs[player], joint, strict=True):
            probability: Any = reward
            for p, a in zip(cooperate, actions, strict=True):
                probability = probability * (p if a == 0 else 1.0 - p)
            total = total + probability
        return total

    def observables(self, params: Sequence[Params]) -> dict[str, Array]:
        return {"cooperation": jnp.stack([jax.nn.sigmoid(theta[0]) for theta in params])}

    def best_response(self, params: Sequence[Params], player: int) -> tuple[Array, ...]:
        others = [jax.nn.sigmoid(theta[0]) for theta in params]
        first, second = ([p if i != player else a for i, p in enumerate(others)] for a in (1.0, 0.0))
        gain = self._expected(first, player) - self._expected(second, player)
        return (jnp.where(gain >= 0, SATURATED_LOGIT, -SATURATED_LOGIT).astype(jnp.result_type(gain)),)


@pytree_dataclass
class Ultimatum(ScalarGame):
    """A's logit of offering the fair split (5/5), B's of accepting the unfair one (8/2);
    the fair offer is always accepted: ``V1 = 5p + 8(1-p)q``, ``V2 = 5p + 2(1-p)q``."""

    init_mean: float = field(0.0, "mean of the initial logits")
    init_std: float = field(1.0, "standard deviation of the initial logits", low=0.0)

    @property
    def reward_bounds(self) -> tuple[float, float] | None:
        return 0.0, 8.0  # from nothing to the larger share of the unfair split

    def anchors(self) -> Anchors | None:
        return anchors.of_table(anchors.corners(self))

    def payoff(self, x: Array, y: Array) -> tuple[Array, Array]:
        p, q = jax.nn.sigmoid(x), jax.nn.sigmoid(y)
        return 5.0 * p + 8.0 * (1.0 - p) * q, 5.0 * p + 2.0 * (1.0 - p) * q

    def observables(self, params: Sequence[Params]) -> dict[str, Array]:
        (x,), (y,) = params
        return {"fair_offer": jnp.stack([jax.nn.sigmoid(x)] * 2), "accepts_unfair": jnp.stack([jax.nn.sigmoid(y)] * 2)}

    def best_response(self, params: Sequence[Params], player: int) -> tuple[Array, ...]:
        (x,), (y,) = params
        # B never loses by accepting; A offers the fair split iff 5 >= 8q.
        gain = 5.0 - 8.0 * jax.nn.sigmoid(y) if player == 0 else jnp.ones_like(x)
        return (jnp.where(gain >= 0, SATURATED_LOGIT, -SATURATED_LOGIT).astype(jnp.result_type(x, y)),)
