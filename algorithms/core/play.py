"""Episodes as a player looks at them: those that it took part in, and those that it imagines."""

import jax
import jax.numpy as jnp
from jax import Array

from shaping_bench.algorithms.core import rollouts
from shaping_bench.algorithms.core.access import Access, require
from shaping_bench.algorithms.core.memory import Memory
from shaping_bench.algorithms.core.policy import Policy
from shaping_bench.algorithms.core.rollouts import Trajectory
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.games.base import Game


class Play:
    """T steps of B episodes, from the seat of one player, as far as its access shows them.

    Observations and actions of everybody are public: what a policy does, where it does it. Of the
    imagined, everything is known.

    Args:
      game: the game.
      trajectory: what was played.
      player: the seat of who looks.
      access: what the learner in that seat declared.
      memory: what else was derived in the same update.
    """

    def __init__(
        self,
        game: Game,
        trajectory: Trajectory,
        player: int,
        *,
        access: Access = Access.SIMULATOR,
        memory: Memory | None = None,
    ) -> None:
        self.game, self.player = game, player
        self._trajectory, self._access = trajectory, access
        self._memory = Memory() if memory is None else memory

    def _seat(self, player: int | None) -> int:
        return self.player if player is None else player

    def observations(self, player: int | None = None, *, end: bool = True) -> Tree:
        """What a player (default: the own) saw, ``(T + 1, B, ...)``, or ``(T, B, ...)`` without the end."""
        seat, trajectory = self._seat(player), self._trajectory
        # A state is smaller than what is seen of it, so it is derived from states, once.
        seen = self._memory.recall(
            trajectory.states, ("observations", seat), lambda: rollouts.observations(self.game, trajectory, seat)
        )
        return seen if end else jax.tree.map(lambda x: x[:-1], seen)

    def actions(self, player: int | None = None) -> Tree:
        """``(T, B)``, integers; where actions are not choices, ``(T, B, ...)``."""
        actions, seat = self._trajectory.actions, self._seat(player)
        return actions[seat] if isinstance(actions, tuple) else actions[..., seat]

    def rewards(self, player: int | None = None) -> Array:
        """``(T, B)``, 0 after the end of an episode. Those of others need access ``rewards``."""
        if self._seat(player) != self.player:
            require(self._access, Access.REWARDS, self.player, "another player's rewards")
        return self._trajectory.rewards[..., self._seat(player)]

    @property
    def alive(self) -> Array | None:
        """Whether each step is played, and whether the episode goes on after the last, ``(T + 1, B)``;
        None in games whose episodes do not end early."""
        return self._trajectory.alive

    @property
    def trajectory(self) -> Trajectory:
        """Everything, as ``rollouts.rollout`` returns it."""
        require(self._access, Access.REWARDS, self.player, "the whole trajectory")
        return self._trajectory

    def log_probs(self, policy: Policy, params: Tree, player: int | None = None) -> Array:
        """Log-probabilities of a player's actions, ``(T, B)``, differentiable in its policy's parameters."""
        return policy.unroll(params, self.observations(player, end=False)).log_prob(self.actions(player))

    def episodes(self, which: slice) -> "Play":
        """Some of the episodes."""
        return self.of(jax.tree.map(lambda x: x[:, which], self._trajectory))

    def by_the_rules(self) -> "Play":
        """The same with everybody's rewards as the rules of the game pay them: they follow from what
        is public."""
        rewards = self.game.paid(self.observations(0, end=False), self._trajectory.actions)
        return self.paying(rewards, max(self._access, Access.REWARDS))

    def paying(self, rewards: Array, access: Access | None = None) -> "Play":
        """The same with other rewards, ``(T, B, n_players)``, wherever a step is played."""
        if self.alive is not None:
            rewards = jnp.where(self.alive[:-1, :, None], rewards, 0.0)
        return self.of(self._trajectory._replace(rewards=rewards), access)

    def of(self, trajectory: Trajectory, access: Access | None = None) -> "Play":
        """Another record, seen from here."""
        access = self._access if access is None else access
        return Play(self.game, trajectory, self.player, access=access, memory=self._memory)
