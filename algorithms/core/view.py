"""What one player sees of a game at a joint policy."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
from jax import Array

from shaping_bench.algorithms.core import costs, rollouts, trees
from shaping_bench.algorithms.core.access import Access, require
from shaping_bench.algorithms.core.memory import Memory
from shaping_bench.algorithms.core.play import Play
from shaping_bench.algorithms.core.policy import Policy
from shaping_bench.algorithms.core.rollouts import Trajectory
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.games.base import Game

if TYPE_CHECKING:
    from shaping_bench.algorithms.core.learner import Learner


class View:
    """What one player sees of a game at the current joint policy.

    >>> import jax.numpy as jnp
    >>> from shaping_bench.algorithms.core import Access
    >>> from shaping_bench.games import make
    >>> point = (jnp.array([1.0]), jnp.array([0.0]))
    >>> view = View(make("tandem"), point, 0, Access.GRADIENTS)  # V_i = 2 x_i - (x_1 + x_2)^2
    >>> float(view.value()), view.gradient(of=1, wrt=1).tolist()
    (1.0, [0.0])
    >>> view.lookahead_term().tolist(), view.shaping_term().tolist()
    ([0.0], [4.0])
    >>> float(view.moved({1: jnp.array([-1.0])}).value())
    2.0
    >>> View(make("tandem"), point, 0, Access.ACTIONS).gradient()  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    shaping_bench.algorithms.core.access.AccessError: player 1 asked for an exact gradient

    Args:
      game: the game.
      params: joint policy parameters, one entry per player.
      player: the seat of the learner that holds this view.
      access: what the learner declared.
      learners: everybody's learning rule, for ``simulator`` access and for play.
      memory: what views have derived so far; a stage shares one among all seats.
      key: randomness of the play of this update, the same for all seats.
      states: everybody's learner state, for learners that learn while they play.
      shown: the policy parameters that others see where those differ from the ones played.
      artifact: what the preparation of the learner that holds this view yielded.
      episodes: the first so many episodes that the stage has played with these policies; None: the
        view plays by itself.
    """

    def __init__(
        self,
        game: Game,
        params: Sequence[Tree],
        player: int,
        access: Access,
        *,
        learners: Sequence["Learner"] = (),
        memory: Memory | None = None,
        key: Array | None = None,
        states: Sequence[Tree] = (),
        shown: Sequence[Tree] | None = None,
        artifact: Tree = None,
        episodes: Callable[[int], Trajectory] | None = None,
    ) -> None:
        self._game, self._access, self._learners = game, access, tuple(learners)
        self._played = tuple(params)
        others = tuple(params if shown is None else shown)
        self._params = tuple(x if j == player else others[j] for j, x in enumerate(params))
        self._memory = Memory() if memory is None else memory
        self._key, self._states, self._episodes = key, tuple(states), episodes
        self.player, self.artifact = player, artifact

    def _remembered(self, what: tuple[Any, ...], derive: Callable[[], Tree]) -> Tree:
        return self._memory.recall(self._params, what, derive)

    def _require(self, level: Access, what: str) -> None:
        require(self._access, level, self.player, what)

    def _look(self, trajectory: Trajectory) -> Play:
        return Play(self._game, trajectory, self.player, access=self._access, memory=self._memory)

    # Always visible.

    @property
    def game(self) -> Game:
        """The rules of the game: payoffs, discount, shapes."""
        return self._game

    @property
    def n_players(self) -> int:
        return self._game.n_players

    @property
    def others(self) -> tuple[int, ...]:
        return tuple(j for j in range(self.n_players) if j != self.player)

    @property
    def own(self) -> Tree:
        """The player's own policy parameters."""
        return self._params[self.player]

    def play(self, batch_size: int) -> Play:
        """Episodes of the current policies, ``batch_size`` of them: the first of those that all
        seats learn from.

        Raises:
          ValueError: more than the learner declares in ``episodes_per_update``.
        """
        if self._episodes is not None:
            return self._look(self._episodes(batch_size))

        def derive() -> Trajectory:
            key = jax.random.fold_in(self._playing_key(), batch_size)
            return rollouts.rollout(key, self._game, self._policies(), self._played, batch_size)

        return self._look(self._memory.recall(self._played, ("play", batch_size), derive))

    def live(self) -> tuple[Play, Tree]:
        """One episode in which online learners learn as they play: the play, and the own new state."""

        def derive() -> Any:
            return rollouts.live(self._playing_key(), self._game, self._learners, self._played, self._states)

        trajectory, states = self._memory.recall(self._played, ("live",), derive)
        return self._look(trajectory), states[self.player]

    def _playing_key(self) -> Array:
        assert self._key is not None, "this view has no key to play with"
        return self._key

    def imagine(
        self,
        key: Array,
        policies: Sequence[Policy],
        params: Sequence[Tree],
        batch_size: int,
        *,
        groups: Sequence[int] | None = None,
        said_by: Sequence[int] = (),
    ) -> Play:
        """Episodes played in one's head, by the rules of the game: whoever thinks them up knows all of them.

        Args:
          key: randomness.
          policies, params: who plays, one per seat; what is not known of others is one's own guess.
          batch_size: number of episodes.
          groups, said_by: see ``rollouts.rollout``.
        """
        trajectory = rollouts.rollout(key, self._game, policies, params, batch_size, groups=groups, said_by=said_by)
        return Play(self._game, trajectory, self.player)

    @property
    def policy(self) -> Policy:
        """The player's own policy."""
        return self._learners[self.player].policy(self._game, self.player)

    def _policies(self) -> tuple[Policy, ...]:
        return tuple(rule.policy(self._game, j) for j, rule in enumerate(self._learners))

    # Access 'gradients': everybody's policy parameters and exact derivatives.

    @property
    def policies(self) -> tuple[Policy, ...]:
        """Everybody's policy, for which ``params`` are the parameters."""
        self._require(Access.GRADIENTS, "the others' policies")
        return self._policies()

    @property
    def params(self) -> tuple[Tree, ...]:
        """Joint policy parameters."""
        self._require(Access.GRADIENTS, "the joint policy parameters")
        return self._params

    def at(self, params: Sequence[Tree]) -> "View":
        """The same view at other (imagined) joint parameters."""
        self._require(Access.GRADIENTS, "values at imagined parameters")
        return View(self._game, params, self.player, self._access, learners=self._learners)

    def seat(self, player: int) -> "View":
        """The joint view from another seat: what rules defined for everybody at once need."""
        self._require(Access.GRADIENTS, "the view from another seat")
        return View(self._game, self._params, player, self._access, learners=self._learners, memory=self._memory)

    def moved(self, moves: Mapping[int, Tree], scale: Any = 1.0) -> "View":
        """The view after ``params[j] += scale * moves[j]`` for the given players."""
        return self.at(
            [trees.add(theta, moves[j], scale) if j in moves else theta for j, theta in enumerate(self._params)]
        )

    def value(self, player: int | None = None) -> Array:
        """Unnormalised value V of ``player`` (default: own), a scalar."""
        self._require(Access.GRADIENTS, "exact values")
        costs.charge(evaluations=1)
        return self._game.value(self._params, self.player if player is None else player)

    def gradient(self, of: int | None = None, wrt: int | None = None) -> Tree:
        """``grad_j V_i`` with ``i = of`` and ``j = wrt``; both default to the own seat."""
        self._require(Access.GRADIENTS, "an exact gradient")
        i = self.player if of is None else of
        j = self.player if wrt is None else wrt

        def derive() -> Tree:
            costs.charge(evaluations=1)
            return jax.grad(lambda theta: self._game.value(self._replaced({j: theta}), i))(self._params[j])

        return self._remembered(("gradient", i, j), derive)

    def lookahead_term(self) -> Tree:
        """``A_i = sum_{j != i} (grad_i grad_j V_i) grad_j V_j``: how the own gradient changes
        when every opponent takes a naive step. Forward over reverse; no Hessian is formed."""
        self._require(Access.GRADIENTS, "a second derivative")
        i, others = self.player, self.others
        here = {j: self._params[j] for j in others}

        def derive() -> Tree:
            steps = {j: self.gradient(of=j, wrt=j) for j in others}
            return jax.jvp(lambda theta: self.at(self._replaced(theta)).gradient(of=i, wrt=i), (here,), (steps,))[1]

        return self._remembered(("lookahead", i), derive)

    def shaping_term(self) -> Tree:
        """``S_i = sum_{j != i} (grad_i grad_j V_j) grad_j V_i``: how the opponents' naive steps
        change with the own parameters, weighed by what those steps are worth to the player."""
        self._require(Access.GRADIENTS, "a second derivative")
        i = self.player

        def derive() -> Tree:
            total: Tree = None
            for j in self.others:
                # (grad_i grad_j V_j) c is the derivative of grad_i V_j along c in theta_j.
                towards = self.gradient(of=i, wrt=j)
                term = jax.jvp(
                    lambda theta, j=j: self.at(self._replaced({j: theta})).gradient(of=j, wrt=i),
                    (self._params[j],),
                    (towards,),
                )[1]
                total = term if total is None else trees.add(total, term)
            return total

        return self._remembered(("shaping", i), derive)

    def best_response(self) -> Tree:
        """Exact best response to the others' current policies."""
        self._require(Access.GRADIENTS, "the others' policies")
        return self._game.best_response(self._params, self.player)

    # Access 'simulator': roll out imagined updates of the others.

    @property
    def learners(self) -> tuple["Learner", ...]:
        """Everybody's learning rule."""
        self._require(Access.SIMULATOR, "the others' learning rules")
        return self._learners

    @property
    def states(self) -> tuple[Tree, ...]:
        """What everybody's learning rule remembers."""
        self._require(Access.SIMULATOR, "the others' learner states")
        return self._states

    def _replaced(self, changes: Mapping[int, Tree]) -> tuple[Tree, ...]:
        return tuple(changes.get(j, theta) for j, theta in enumerate(self._params))
