"""The repeated public-goods game of any number of players."""

from typing import ClassVar

from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.matrix.tensor import Rows, TensorGame, linear_rows


@pytree_dataclass
class PublicGoods(TensorGame):
    """Repeated n-player public-goods game: a contribution costs 1, the pool is multiplied
    by ``multiplier`` and shared by all; a social dilemma for 1 < multiplier < n_players."""

    family: ClassVar[str | None] = "public-goods"

    num_players: int = field(3, "number of players", low=2, high=5, static=True)
    multiplier: float = field(1.6, "factor of the pool", low=0.0)
    gamma: float = field(0.96, "discount", low=0.0, high=1.0, exclusive=True)
    init_mean: float = field(0.0, "mean of the initial logits")
    init_std: float = field(1.0, "standard deviation of the initial logits", low=0.0)
    horizon: int = field(150, "length of an episode of the sampled view", low=1, static=True)

    @property
    def rows(self) -> Rows:
        return linear_rows(self.num_players, self.multiplier)
