"""Stable opponent shaping (Letcher, Foerster, Balduzzi, Rocktaschel, Whiteson, ICLR 2019).

LookAhead plus a fraction p of LOLA's shaping term, ``d = (g + eta A) + p eta S``, with p
chosen at every step so that the rule keeps LookAhead's convergence to stable fixed points
and LOLA's shaping elsewhere (Algorithm 1). p is one number for the joint vector of all
players; against another rule it is computed as if everybody played SOS.
"""

import jax
import jax.numpy as jnp

from shaping_bench.algorithms.core import Direction, View, field, pytree_dataclass, trees
from shaping_bench.algorithms.lola import ShapingLearner
from shaping_bench.algorithms.parts.joint import simultaneous_gradient


@pytree_dataclass
class SOS(ShapingLearner):
    """Interpolates LookAhead (p = 0) and the full Taylor LOLA (p = 1)."""

    source = "Letcher et al., ICLR 2019, Algorithm 1"

    a: float = field(0.5, "first criterion: share of LookAhead's progress kept", low=0.0, high=1.0)
    b: float = field(0.1, "second criterion: radius around fixed points", low=0.0, high=1.0)

    def direction(self, view: View) -> Direction:
        players = range(view.n_players)
        gradient = simultaneous_gradient(view)  # -xi
        lookahead = tuple(  # -xi_0
            trees.add(g, view.seat(j).lookahead_term(), self.lookahead_lr)
            for j, g in zip(players, gradient, strict=True)
        )
        shaping = tuple(trees.scale(self.lookahead_lr, view.seat(j).shaping_term()) for j in players)  # alpha chi

        alignment = trees.dot(shaping, lookahead)  # <-alpha chi, xi_0>: both signs flip
        opposed = alignment < 0
        # The inner where keeps the unused branch finite, also under differentiation.
        ratio = -self.a * trees.dot(lookahead, lookahead) / jnp.where(opposed, alignment, 1.0)
        p1 = jnp.where(opposed, jnp.minimum(1.0, ratio), 1.0)
        squared_norm = trees.dot(gradient, gradient)
        p2 = jnp.where(squared_norm < self.b * self.b, squared_norm, 1.0)
        p = jax.lax.stop_gradient(jnp.minimum(p1, p2))

        i = view.player
        return Direction(trees.add(lookahead[i], shaping[i], p), {"sos_p": p})
