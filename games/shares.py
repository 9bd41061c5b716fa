"""What continuous games of N players have in common: each chooses a share of the most that it can do.

In the sampled view an action is that share, a number between 0 and 1, chosen anew at every step. In the exact view
a player does the same all the time: its one parameter is the logit of the share, and a value is what an episode of
that pays per step, without a discount, so that both views report the same number for it.

Random play is no steady share but one anew at every step, each as likely as any other. In the exact view a parameter
of its own, :data:`UNIFORM`, stands for that: others meet its mean, one half, and what a game pays for more than that
(the square of one's own amount, say) is the game's to add.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from shaping_bench.games.anchors import SATURATED_LOGIT
from shaping_bench.games.base import Game, Params
from shaping_bench.games.fields import field
from shaping_bench.games.spaces import Box, Space

UNIFORM = 1234.5
"""Parameter of who plays at random: no logit, since those of scripts end at :data:`SATURATED_LOGIT`."""

VARIANCE = 1.0 / 12.0
"""Of a share that is drawn uniformly."""


def steady_field() -> Any:
    """The field ``steady`` of a game of shares."""
    return field(
        True,
        "whether players who do the same all the time are valued exactly; else everybody is played, step by step",
        static=True,
        added=True,
    )


def logit_of(share: Any) -> Array:
    """Logit of a share, which is cut to [0, 1]."""
    inside = jnp.clip(jnp.asarray(share, jnp.result_type(float)), 1e-17, 1.0)
    return jnp.clip(jnp.log(inside) - jnp.log1p(-inside), -SATURATED_LOGIT, SATURATED_LOGIT)


class ShareGame(Game):
    """Base: subclasses define ``num_players``, ``horizon``, ``scripted_share`` and the rest of either view."""

    views: ClassVar[frozenset[str]] = frozenset({"exact", "sampled"})
    scripts: ClassVar[tuple[str, ...]] = ("all-c", "all-d", "random")

    num_players: int
    horizon: int
    steady: bool

    def __post_init__(self) -> None:
        if not self.steady:
            object.__setattr__(self, "views", frozenset({"sampled"}))

    @property
    def has_best_response(self) -> bool:
        return self.steady and super().has_best_response

    def scripted_share(self, name: str) -> Any:
        """What everybody who plays ``all-c`` or ``all-d`` does all the time."""
        raise NotImplementedError

    @property
    def n_players(self) -> int:
        return self.num_players

    @property
    def symmetric(self) -> bool:
        return True

    @property
    def sizes(self) -> tuple[int, ...]:
        return (1,) * self.num_players

    @property
    def coordinates(self) -> tuple[tuple[str, ...], ...]:
        return (("share",),) * self.num_players

    @property
    def num_steps(self) -> int:
        return self.horizon

    def action_space(self, player: int) -> Space:
        return Box(0.0, 1.0)

    def script(self, name: str, memory: Array, state: Any, player: int) -> tuple[Array, Any]:
        if name == "random":
            return memory, (0.0, 1.0)
        share = self.scripted_share(name)
        return memory, (share, share)

    def scripted_params(self, name: str, player: int) -> Params:
        if name == "random":
            return jnp.full((1,), UNIFORM, jnp.result_type(float))
        return jnp.stack([logit_of(self.scripted_share(name))])

    def shares(self, params: Sequence[Params]) -> Array:
        """Of all players, ``(n_players,)``; of who plays at random the mean."""
        return jnp.stack([jnp.where(theta[0] == UNIFORM, 0.5, jax.nn.sigmoid(theta[0])) for theta in params])

    def variances(self, params: Sequence[Params]) -> Array:
        """Of shares from step to step, ``(n_players,)``: none but of who plays at random."""
        return jnp.stack([jnp.where(theta[0] == UNIFORM, VARIANCE, 0.0) for theta in params])

    def from_seat(self, x: Array, player: int) -> Array:
        """Numbers of all players as one reads them: the own first, then the others' from its right."""
        return jnp.roll(x, -player)
