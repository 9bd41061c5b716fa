"""New thing: say in one sentence what is at stake.

Say here where the numbers come from.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jax import Array

from shaping_bench.games.base import Game, Params
from shaping_bench.games.fields import field, pytree_dataclass


@pytree_dataclass
class NewThing(Game):
    """Two firms choose quantities x and y; the price is ``demand - x - y``: ``V1 = x (demand - x - y)``.

    Put your own game here. What each player chooses is its policy parameters, ``sizes`` many numbers;
    ``value`` must be differentiable in all of them. Values ascend: negate losses.
    """

    demand: float = field(3.0, "price when nothing is sold", low=0.0, exclusive=True)
    init_mean: float = field(1.0, "mean of the initial quantities")
    init_std: float = field(0.1, "standard deviation of the initial quantities", low=0.0)

    @property
    def n_players(self) -> int:
        return 2

    @property
    def sizes(self) -> tuple[int, ...]:
        return (1, 1)

    @property
    def coordinates(self) -> tuple[tuple[str, ...], ...]:
        return (("x",), ("y",))

    @property
    def symmetric(self) -> bool:
        # Exchanging the players exchanges their values; say False if not. So too zero_sum.
        return True

    def value(self, params: Sequence[Params], player: int) -> Array:
        # Change this. A player's parameters unpack into scalars.
        (x,), (y,) = params
        price = self.demand - x - y
        return (x, y)[player] * price

    def best_response(self, params: Sequence[Params], player: int) -> tuple[Array, ...]:
        # Leave this out where there is no closed form.
        (other,) = params[1 - player]
        return ((self.demand - other) / 2,)

    def observables(self, params: Sequence[Params]) -> Mapping[str, Array]:
        # Whatever else is worth measuring, one number per player.
        (x,), (y,) = params
        return {"price": jnp.stack([self.demand - x - y] * 2)}
