"""Episodes that a learner took part in, as far as its access shows them."""

from typing import TYPE_CHECKING

from jax import Array

from shaping_bench.algorithms.core import rollouts
from shaping_bench.algorithms.core.access import Access
from shaping_bench.algorithms.core.rollouts import Trajectory

if TYPE_CHECKING:
    from shaping_bench.algorithms.core.view import View


class Play:
    """Episodes that one player took part in, as far as its access shows them.

    Observations and actions of everybody are public: what a policy does, where it does it.
    """

    def __init__(self, view: "View", trajectory: Trajectory) -> None:
        self._view, self._trajectory = view, trajectory

    def _seat(self, player: int | None) -> int:
        return self._view.player if player is None else player

    def observations(self, player: int | None = None) -> Array:
        """What a player (default: the own) saw, ``(T + 1, B, *observation_shape)``, the end included."""
        return rollouts.observations(self._view.game, self._trajectory, self._seat(player))

    def actions(self, player: int | None = None) -> Array:
        """``(T, B)``, integers."""
        return self._trajectory.actions[..., self._seat(player)]

    def rewards(self, player: int | None = None) -> Array:
        """``(T, B)``. Those of others need access ``rewards``."""
        if self._seat(player) != self._view.player:
            self._view._require(Access.REWARDS, "another player's rewards")
        return self._trajectory.rewards[..., self._seat(player)]

    @property
    def trajectory(self) -> Trajectory:
        """Everything, as ``rollouts.rollout`` returns it."""
        self._view._require(Access.REWARDS, "the whole trajectory")
        return self._trajectory
