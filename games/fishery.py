"""An open-access fishery: N boats catch from one stock of fish, which grows back.

As in pax (Souly et al. 2023, arXiv 2312.12564; after Perman et al., Natural Resource and Environmental Economics),
with its numbers. The most effort of a boat, and how it is shown, is this benchmark's: pax does not hold efforts to
the bound that it states.
"""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from shaping_bench.games import incomes
from shaping_bench.games.anchors import Anchors
from shaping_bench.games.base import Count, Params
from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.shares import ShareGame, logit_of, steady_field
from shaping_bench.games.views import replaced

STOCKS, EFFORTS, EPISODES = 401, 201, 256
"""Points of the grids on which the best joint plan is found, and episodes of random play."""

TRIED, REFINED = 17, 4
"""Efforts among which the best one is looked for, and how often: every time between those next to the best."""


class State(NamedTuple):
    """Steps since ``reset``, the stock, and the shares of the step before, ``(n_players,)``; zero at the start."""

    time: Array
    stock: Array
    shares: Array


@pytree_dataclass
class Fishery(ShareGame):
    """The stock grows to ``s' = s + g s (1 - s / s_max)``, of which boats with efforts ``e_i`` catch
    ``H = min(e s sum_i e_i, s')``: ``r_i = P H e_i / sum_j e_j - w e_i``."""

    family: ClassVar[str | None] = "fishery"
    counts: ClassVar[tuple[Count, ...]] = (
        Count("stock", "fish after the catch, as a share of the largest stock", "share", direction="higher", high=1.0),
        Count("effort", "of the player", "units per step"),
        *incomes.COUNTS,
    )

    num_players: int = field(2, "number of boats", low=2, high=8, static=True)
    growth: float = field(0.15, "g: rate at which few fish multiply", low=0.0)
    efficiency: float = field(0.009, "e: share of the stock that a unit of effort catches", low=0.0)
    price: float = field(200.0, "P: of the fish", low=0.0)
    wage: float = field(0.9, "w: cost of a unit of effort", low=0.0)
    first_stock: float = field(0.5, "s_0: at the start of an episode", low=0.0)
    largest_stock: float = field(1.0, "s_max: at which the stock grows no more", low=0.0, exclusive=True)
    most_effort: float = field(10.0, "of a player", low=0.0, exclusive=True)
    gamma: float = field(0.96, "discount of rules that learn from play", low=0.0, high=1.0)
    init_mean: float = field(0.0, "mean of the initial logits")
    init_std: float = field(1.0, "standard deviation of the initial logits", low=0.0)
    horizon: int = field(300, "steps of an episode", low=1, static=True)
    steady: bool = steady_field()

    def caught(self, stock: Any, efforts: Any) -> tuple[Any, Any]:
        """The stock after a catch, and what each boat earns by it, ``(n_players,)``."""
        total = efforts.sum()
        grown = stock + self.growth * stock * (1.0 - stock / self.largest_stock)
        catch = jnp.minimum(self.efficiency * total * stock, grown)
        shares = jnp.where(total > 0.0, efforts / jnp.where(total > 0.0, total, 1.0), 0.0)
        return grown - catch, self.price * catch * shares - self.wage * efforts

    @property
    def best_total(self) -> Any:
        """Effort of all that earns most in a steady state, ``g / 2e (1 - w / (P e s_max))``."""
        worth = 1.0 - self.wage / (self.price * self.efficiency * self.largest_stock)
        return 0.5 * self.growth / self.efficiency * worth

    def scripted_share(self, name: str) -> Any:
        """Of the best steady effort of all, ``all-c`` makes its N-th part; ``all-d`` makes what is best for itself in a
        steady state if all do, 2 / (N + 1) of it."""
        part = 1.0 / self.num_players if name == "all-c" else 2.0 / (self.num_players + 1)
        return self.best_total * part / self.most_effort

    # exact view

    def course(self, params: Sequence[Params]) -> tuple[Array, Array]:
        """Stocks after each step ``(T,)`` and rewards ``(T, n_players)`` of steady efforts; of who plays at random at
        its mean effort, since stocks average what is drawn."""
        efforts = self.shares(params) * self.most_effort

        def step(stock: Array, _: Any) -> Any:
            after, rewards = self.caught(stock, efforts)
            return after, (after, rewards)

        return lax.scan(step, jnp.asarray(self.first_stock, efforts.dtype), length=self.horizon)[1]

    def value(self, params: Sequence[Params], player: int) -> Array:
        return jnp.mean(self.course(params)[1][:, player])

    def observables(self, params: Sequence[Params]) -> dict[str, Array]:
        stocks, rewards = self.course(params)
        return {
            "stock": jnp.full((self.num_players,), jnp.mean(stocks) / self.largest_stock),
            "effort": self.shares(params) * self.most_effort,
            "sustainability": incomes.sustainability(rewards),
        }

    def best_response(self, params: Sequence[Params], player: int) -> tuple[Array, ...]:
        """The best of steady efforts, to 1e-4 of the most effort: what one earns rises with it up to there and falls
        beyond."""
        shares = self.shares(params)
        steps = jnp.linspace(0.0, 1.0, TRIED, dtype=shares.dtype)

        def earned(share: Array) -> Array:
            own = jnp.stack([logit_of(share).astype(shares.dtype)])
            return self.value(replaced(params, player, own), player)

        def narrowed(between: tuple[Array, Array], _: Any) -> Any:
            low, high = between
            tried = low + (high - low) * steps
            best = jnp.argmax(jax.vmap(earned)(tried))
            return (tried[jnp.maximum(best - 1, 0)], tried[jnp.minimum(best + 1, TRIED - 1)]), tried[best]

        ends = jnp.zeros((), shares.dtype), jnp.ones((), shares.dtype)
        return (logit_of(lax.scan(narrowed, ends, length=REFINED)[1][-1]).astype(shares.dtype),)

    def anchors(self) -> Anchors | None:
        """Random efforts by simulation; the optimum is that of all plans, by dynamic programming."""
        numbers = [self.growth, self.efficiency, self.price, self.wage, self.first_stock, self.largest_stock]
        return _anchors(self.num_players, self.horizon, float(self.most_effort), *map(float, numbers))

    @property
    def reward_bounds(self) -> tuple[float, float] | None:
        """Alone among all fish, and at full effort among none."""
        most = float(self.most_effort)
        catch = min(float(self.efficiency) * most, 1.0) * float(self.largest_stock)
        return -float(self.wage) * most, float(self.price) * catch - float(self.wage) * most

    # sampled view

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shares of the step before, the own first, and the stock as a share of the largest."""
        return (self.num_players + 1,)

    def reset(self, key: Array) -> tuple[Array, State]:
        """Returns observations ``(n_players, n_players + 1)`` and state."""
        del key
        zeros = jnp.zeros((self.num_players,))
        stock = jnp.asarray(self.first_stock, zeros.dtype)
        state = State(time=jnp.zeros((), jnp.int32), stock=stock, shares=zeros)
        return self.observe(state), state

    def step(self, key: Array, state: State, actions: Any) -> tuple[Array, State, Array, Array, dict[str, Array]]:
        """One catch; ``actions`` are shares of the most effort, of all boats."""
        del key
        shares = jnp.stack(list(actions)).astype(state.shares.dtype)
        efforts = shares * self.most_effort
        stock, rewards = self.caught(state.stock, efforts)
        after = State(time=state.time + 1, stock=stock, shares=shares)
        info = {
            "stock": jnp.full((self.num_players,), stock / self.largest_stock),
            "effort": efforts,
            **incomes.counted(rewards, state.time, self.horizon),
        }
        return self.observe(after), after, rewards, after.time >= self.horizon, info

    def observe(self, state: State, player: int | None = None) -> Array:
        """What ``player`` sees of a state; by default what all see."""
        if player is None:
            return jnp.stack([self.observe(state, i) for i in range(self.num_players)])
        return jnp.append(self.from_seat(state.shares, player), state.stock / self.largest_stock)


@functools.lru_cache(maxsize=64)
def _anchors(n: int, length: int, most: float, *numbers: float) -> Anchors:
    growth, efficiency, price, wage, first, largest = numbers

    def caught(stock: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The stock after a catch, and what all together earn."""
        grown = stock + growth * stock * (1.0 - stock / largest)
        catch = np.minimum(efficiency * total * stock, grown)
        return grown - catch, price * catch - wage * total

    rng = np.random.default_rng(0)
    stock, earned = np.full(EPISODES, first), 0.0
    for _ in range(length):
        stock, reward = caught(stock, rng.uniform(0.0, most, (n, EPISODES)).sum(axis=0))
        earned += float(reward.mean())
    top = max(largest, first)
    stocks = np.linspace(0.0, top, STOCKS)
    after, rewards = caught(stocks[:, None], np.linspace(0.0, n * most, EFFORTS)[None, :])
    place = np.clip(after / top * (STOCKS - 1), 0.0, STOCKS - 1)
    below = np.minimum(place.astype(int), STOCKS - 2)
    above = place - below
    values = np.zeros(STOCKS)
    for _ in range(length):
        values = np.max(rewards + (1.0 - above) * values[below] + above * values[below + 1], axis=1)
    return Anchors(
        random=round(earned / (n * length), 6),
        social_optimum=round(float(np.interp(first, stocks, values)) / (n * length), 6),
        smallest=-wage * most,
        largest=price * min(efficiency * most, 1.0) * largest - wage * most,
        source="random efforts by simulation, the best joint plan by dynamic programming",
    )
