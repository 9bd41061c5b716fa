"""Cournot's oligopoly: N firms choose how much to make, and the price falls with what all of them make.

As in pax (Souly et al. 2023, arXiv 2312.12564), with its numbers. What a firm may make at most, and how quantities are
shown, is this benchmark's: pax lets quantities be any number and shows them in units, to networks.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array

from shaping_bench.games.anchors import Anchors
from shaping_bench.games.base import Count, Params
from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.shares import ShareGame, logit_of, steady_field


class State(NamedTuple):
    """Steps since ``reset``, and the shares of the step before, ``(n_players,)``; zero at the start."""

    time: Array
    shares: Array


@pytree_dataclass
class Cournot(ShareGame):
    """``r_i = q_i (a - b sum_j q_j - c)`` with quantities ``q_i`` of at most ``(a - c) / b``, what a market at cost
    takes. The price may fall below zero, as in pax."""

    family: ClassVar[str | None] = "cournot"
    counts: ClassVar[tuple[Count, ...]] = (
        Count("quantity", "how much the player makes", "units per step", source="Cournot 1838"),
    )

    num_players: int = field(2, "number of firms", low=2, high=8, static=True)
    intercept: float = field(100.0, "a: price at which nobody buys", low=0.0)
    slope: float = field(1.0, "b: by how much a unit lowers the price", low=0.0, exclusive=True)
    cost: float = field(10.0, "c: of making a unit", low=0.0)
    gamma: float = field(0.96, "discount of rules that learn from play", low=0.0, high=1.0)
    init_mean: float = field(0.0, "mean of the initial logits")
    init_std: float = field(1.0, "standard deviation of the initial logits", low=0.0)
    horizon: int = field(1, "rounds of an episode; pax: 1", low=1, static=True)
    steady: bool = steady_field()

    @property
    def margin(self) -> Any:
        """Price less cost where nothing is made, ``a - c``."""
        return self.intercept - self.cost

    def profits(self, shares: Array) -> Array:
        """Of all firms, ``(n_players,)``."""
        quantities = shares * self.margin / self.slope
        return quantities * (self.margin - self.slope * jnp.sum(quantities))

    def scripted_share(self, name: str) -> float:
        """``all-c`` makes its part of what a cartel would make, ``all-d`` what all make at the Nash equilibrium."""
        return 0.5 / self.num_players if name == "all-c" else 1.0 / (self.num_players + 1)

    # exact view

    def value(self, params: Sequence[Params], player: int) -> Array:
        """Exact for random play, too: what all make is linear in it, and of one's own the square counts besides."""
        shares = self.shares(params)
        varied = self.margin**2 / self.slope * self.variances(params)
        return (self.profits(shares) - varied.astype(shares.dtype))[player]

    def observables(self, params: Sequence[Params]) -> dict[str, Array]:
        return {"quantity": self.shares(params) * self.margin / self.slope}

    def best_response(self, params: Sequence[Params], player: int) -> tuple[Array, ...]:
        """Half of what the others leave of the market."""
        shares = self.shares(params)
        return (logit_of(0.5 * (1.0 - (jnp.sum(shares) - shares[player]))).astype(shares.dtype),)

    def anchors(self) -> Anchors | None:
        """In closed form; in units of ``(a - c)^2 / b``, which a share of the market squared is worth."""
        n, unit = self.num_players, self.margin**2 / self.slope
        # Of uniform shares the mean is 1/2, that of squares 1/3.
        answer = max(0.0, 0.5 * (1.0 - 0.5 * (n - 1)))
        return Anchors(
            random=float(unit * (0.5 - 1.0 / 3.0 - 0.25 * (n - 1))),
            social_optimum=float(unit / (4 * n)),
            best_response=float(unit * answer**2),
            smallest=float(unit * (1 - n)),
            largest=float(unit / 4),
            source="closed form",
        )

    @property
    def reward_bounds(self) -> tuple[float, float] | None:
        unit = self.margin**2 / self.slope
        return float(unit * (1 - self.num_players)), float(unit / 4)

    # sampled view

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shares of the step before, the own first, and the price as a share of the intercept."""
        return (self.num_players + 1,)

    def reset(self, key: Array) -> tuple[Array, State]:
        """Returns observations ``(n_players, n_players + 1)`` and state."""
        del key
        state = State(time=jnp.zeros((), jnp.int32), shares=jnp.zeros((self.num_players,)))
        return self.observe(state), state

    def step(self, key: Array, state: State, actions: Any) -> tuple[Array, State, Array, Array, dict[str, Array]]:
        """One round of the market; ``actions`` are shares of all firms."""
        del key
        shares = jnp.stack(list(actions)).astype(state.shares.dtype)
        after = State(time=state.time + 1, shares=shares)
        info = {"quantity": shares * self.margin / self.slope}
        return self.observe(after), after, self.profits(shares), after.time >= self.horizon, info

    def observe(self, state: State, player: int | None = None) -> Array:
        """What ``player`` sees of a state; by default what all see."""
        if player is None:
            return jnp.stack([self.observe(state, i) for i in range(self.num_players)])
        price = 1.0 - jnp.sum(state.shares) * self.margin / self.intercept
        return jnp.append(self.from_seat(state.shares, player), price.astype(state.shares.dtype))
