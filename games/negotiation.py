"""The negotiation game of Advantage Alignment: two players divide items by what they claim of each.

Items and what each player values them at are public. Both say at once how much of each item they claim; what
nobody can have twice is divided in proportion to the claims. Each step is a negotiation of its own, and the next one
is about other items: what links them is what the players have learned of one another.

Source: Duque et al., ICLR 2025 (arXiv 2406.14662). The game is in the history of its official code, in two versions
named by their commits (May 2024), which differ in the scale of observations; a configuration without continuous
numbers is there, too.
"""

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.games.anchors import Anchors
from shaping_bench.games.base import Count, PlayedGame, share
from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.spaces import Box, Discrete, Product, Space

MOST = 5
"""Largest claim, and largest value of an item."""


class Rules(NamedTuple):
    """The conventions in which the versions differ; :class:`Negotiation` says what each means."""

    actions: str = "continuous"
    sampling: str = "high_contrast"
    split: str = "divide_when_above"
    observation: str = "raw"
    scale: float = 10.0


PRESETS: dict[str, Rules] = {
    "e99df9c": Rules(),
    "71be9b2": Rules(scale=1.0),
    "discrete": Rules(actions="discrete"),
    "uniform": Rules(sampling="uniform"),
}


class State(NamedTuple):
    """State of the game.

    Attributes:
      time: steps since ``reset``.
      values: what each item is worth to each player, ``(2, items)``.
      pool: how many there are of each item, ``(items,)``.
      claims: of the step before, ``(2, items)``; zero at the start.
      coins: by which scripts break ties, ``(2, items)``.
    """

    time: Array
    values: Array
    pool: Array
    claims: Array
    coins: Array


def _override(doc: str, *choices: Any) -> Any:
    return field(None, f"{doc}; none: as the preset", choices=(None, *choices), static=True)


@pytree_dataclass
class Negotiation(PlayedGame):
    """Two players divide items: ``r_i = sum_m value_im pool_m share_im / (5 items)`` with the share
    ``claim_im / max(claim_1m + claim_2m, 5)``; the sampled view."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {name: rules._asdict() for name, rules in PRESETS.items()}
    family: ClassVar[str | None] = "negotiation"
    scripts: ClassVar[tuple[str, ...]] = ("all-c", "all-d", "random")
    counts: ClassVar[tuple[Count, ...]] = (
        Count(
            "efficiency",
            "what both earned, over the most that both together could have",
            "share",
            direction="higher",
            high=1.0,
            source="official code of Advantage Alignment (max_sum_reward_ratio)",
        ),
        Count(
            "own_claims",
            "claims of items that the player values more, in items per step",
            "items per step",
            source="this benchmark",
        ),
        Count(
            "other_claims",
            "claims of items that the other values more, in items per step",
            "items per step",
            source="this benchmark",
        ),
        share("own_claim_share", "own_claims", "other_claims", source="this benchmark"),
    )

    preset: str = field("e99df9c", "whose conventions to play by", choices=tuple(PRESETS), static=True)
    items: int = field(3, "kinds of items", low=1, high=8, static=True)
    gamma: float = field(0.96, "discount", low=0.0, high=1.0)
    horizon: int = field(50, "negotiations of an episode", low=1, static=True)
    quantity: int = field(5, "most pieces of an item (sampling=uniform)", low=1, static=True)
    actions: str | None = _override("claims are numbers between 0 and 5, or whole ones", "continuous", "discrete")
    sampling: str | None = _override(
        "values: 1 to one player and 5 to the other; or 1 to 5 each, of 1 to `quantity` pieces; or 5 5 1 and 1 1 5",
        "high_contrast",
        "uniform",
        "fixed",
    )
    split: str | None = _override(
        "what is claimed is divided by 5 at least, or by what is claimed", "divide_when_above", "proportion"
    )
    observation: str | None = _override(
        "pool, own values and last claims, the other's; or own less other's values", "raw", "difference"
    )
    scale: float | None = field(
        None, "divides raw observations; none: as the preset", low=0.0, exclusive=True, static=True
    )

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        if values["sampling"] == "fixed" and values["items"] != 3:
            raise ValueError(f"items is {values['items']}; allowed: 3 with sampling=fixed")
        return dict(values)

    @property
    def rules(self) -> Rules:
        """The rules in force: the preset's, but for those given."""
        own = {name: getattr(self, name) for name in Rules._fields}
        return PRESETS[self.preset]._replace(**{k: v for k, v in own.items() if v is not None})

    @property
    def n_players(self) -> int:
        return 2

    @property
    def symmetric(self) -> bool:
        return self.rules.sampling != "fixed"

    @property
    def num_steps(self) -> int:
        return self.horizon

    @property
    def observation_shape(self) -> tuple[int, ...]:
        return ((5 if self.rules.observation == "raw" else 1) * self.items,)

    def action_space(self, player: int) -> Space:
        """A claim of each item."""
        if self.rules.actions == "continuous":
            return Box(0.0, float(MOST), (self.items,))
        return Product((Discrete(MOST + 1),) * self.items)

    # --- what is known of it

    @property
    def reward_bounds(self) -> tuple[float, float] | None:
        """All of everything that is worth most."""
        most = {"high_contrast": 1.0, "uniform": float(self.quantity), "fixed": 11.0 / (MOST * self.items)}
        return 0.0, most[self.rules.sampling]

    def anchors(self) -> Anchors | None:
        """In closed form. Claiming everything is the best response to anybody."""
        sampling = self.rules.sampling
        pieces = (1 + self.quantity) / 2 if sampling == "uniform" else 1.0
        choices = range(1, MOST + 1)
        more = np.mean([max(pair) for pair in itertools.product(choices, choices)]) if sampling == "uniform" else MOST
        at_random, greedy = self._mean_shares()
        least, most = self.reward_bounds or (0.0, 0.0)
        value = pieces * (1 + MOST) / 2 / MOST
        return Anchors(
            random=value * at_random,
            social_optimum=float(pieces * more / (2 * MOST)),
            best_response=value * greedy,
            smallest=least,
            largest=most,
            source="closed form",
        )

    def _mean_shares(self) -> tuple[float, float]:
        """Mean shares of an item that a random claim and the largest one get beside a random claim."""
        divided = self.rules.split == "divide_when_above"
        if self.rules.actions == "continuous":
            return 5 / 12 if divided else 1 / 2, float(np.log(2.0))
        own, other = np.meshgrid(np.arange(MOST + 1.0), np.arange(MOST + 1.0), indexing="ij")
        shares = own / np.maximum(own + other, MOST if divided else 1e-8)
        return float(shares.mean()), float(shares[-1].mean())

    # --- the environment

    def reset(self, key: Array) -> tuple[Array, State]:
        """Returns observations ``(2, *observation_shape)`` and state."""
        values, pool, coins = self._drawn(key)
        claims = jnp.zeros((2, self.items))
        state = State(time=jnp.zeros((), jnp.int32), values=values, pool=pool, claims=claims, coins=coins)
        return self.observe(state), state

    def _drawn(self, key: Array) -> tuple[Array, Array, Array]:
        """Values, pool and coins of a negotiation."""
        sampling, items = self.rules.sampling, self.items
        dtype = jnp.result_type(float)
        value_key, pool_key, coin_key = jax.random.split(key, 3)
        coins = jax.random.bernoulli(coin_key, shape=(2, items))
        pool = jnp.ones((items,), dtype)
        if sampling == "uniform":
            values = jax.random.randint(value_key, (2, items), 1, MOST + 1).astype(dtype)
            pool = jax.random.randint(pool_key, (items,), 1, self.quantity + 1).astype(dtype)
        elif sampling == "high_contrast":
            first = jnp.where(jax.random.bernoulli(value_key, shape=(items,)), float(MOST), 1.0)
            values = jnp.stack([first, MOST + 1.0 - first]).astype(dtype)
        else:
            values = jnp.array([[5.0, 5.0, 1.0], [1.0, 1.0, 5.0]], dtype)
        return values, pool, coins

    def step(self, key: Array, state: State, actions: Any) -> tuple[Array, State, Array, Array, dict[str, Array]]:
        """One negotiation.

        Args:
          key: of the next one's items.
          state: from ``reset`` or ``step``.
          actions: of each player, claims ``(items,)``; whole ones as a tuple of integers.

        Returns:
          Observations ``(2, *observation_shape)`` of the next negotiation with the claims of this one, state,
          rewards ``(2,)``, done, and what :attr:`counts` says.
        """
        whole = self.rules.actions == "discrete"
        claims = jnp.stack([jnp.stack(a) if whole else a for a in actions]).astype(state.claims.dtype)
        total = jnp.sum(claims, axis=0)
        base = jnp.maximum(total, float(MOST)) if self.rules.split == "divide_when_above" else total + 1e-8
        unit = MOST * self.items
        rewards = jnp.sum(state.values * state.pool * claims / base, axis=1) / unit
        most = jnp.sum(jnp.max(state.values, axis=0) * state.pool) / unit
        more = state.values > state.values[::-1]
        info = {
            "efficiency": jnp.full((2,), jnp.sum(rewards) / most),
            "own_claims": jnp.sum(jnp.where(more, claims, 0.0), axis=1) / MOST,
            "other_claims": jnp.sum(jnp.where(more[::-1], claims, 0.0), axis=1) / MOST,
        }
        values, pool, coins = self._drawn(key)
        after = State(time=state.time + 1, values=values, pool=pool, claims=claims, coins=coins)
        return self.observe(after), after, rewards, after.time >= self.horizon, info

    def observe(self, state: State, player: int | None = None) -> Array:
        """What ``player`` sees of a state; by default what both see, ``(2, *observation_shape)``."""
        if player is None:
            return jnp.stack([self.observe(state, i) for i in range(2)])
        other = 1 - player
        if self.rules.observation == "difference":
            return state.values[player] - state.values[other]
        seen = (state.pool, state.values[player], state.claims[player], state.values[other], state.claims[other])
        return jnp.concatenate(seen) / self.rules.scale

    def script(self, name: str, memory: Array, state: State, player: int) -> tuple[Array, Any]:
        """``all-c`` claims all of what it values more and of ties by a coin, ``all-d`` all of everything."""
        own, other = state.values[player], state.values[1 - player]
        wanted = (own > other) | ((own == other) & state.coins[player]) | (name == "all-d")
        if self.rules.actions == "continuous":
            if name == "random":
                return memory, (0.0, float(MOST))
            claims = jnp.where(wanted, float(MOST), 0.0)
            return memory, (claims, claims)
        claimed = jnp.where(wanted, MOST, 0)[:, None] == jnp.arange(MOST + 1)
        logits = jnp.where(claimed | (name == "random"), 0.0, -jnp.inf)
        return memory, tuple(logits[m] for m in range(self.items))
