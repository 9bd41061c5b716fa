"""What a learner is, and what it may see.

A learner is a frozen dataclass of hyperparameters that is a pytree, with pure ``init``
and ``update``. It meets the game through a :class:`View`, which holds what its access
level allows and refuses the rest. The view of gradients has the three quantities every
exact shaping rule is made of::

    view.gradient()         g_i = grad_i V_i
    view.lookahead_term()   A_i = sum_j (grad_i grad_j V_i) grad_j V_j
    view.shaping_term()     S_i = sum_j (grad_i grad_j V_j) grad_j V_i

so that LookAhead is ``g + eta A``, LOLA ``g + eta S``, and LOLA with the full Taylor
expansion is LookAhead plus the shaping term.

In a sampled game ``view.play(batch_size)`` are episodes of the current policies against one
another; learners that ask for equally many see the same ones.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
from jax import Array
from jax.extend.core import get_opaque_trace_state

from algorithms import costs, rollouts, trees
from algorithms.policies import Policy, Tabular
from algorithms.rollouts import Trajectory
from algorithms.trees import Tree
from games.base import Game
from games.fields import field, pytree_dataclass

__all__ = [
    "Access",
    "AccessError",
    "GradientLearner",
    "Learner",
    "PreparedLearner",
    "View",
    "field",
    "pytree_dataclass",
]

Info = Mapping[str, Array]

Memory = dict[tuple[Any, ...], list[tuple[Any, Tree]]]
"""What was derived at a joint policy, with the transformations it was derived under."""


class Access(enum.IntEnum):
    """What a learner may see of the others, from least to most."""

    ACTIONS = 0
    REWARDS = 1
    GRADIENTS = 2
    SIMULATOR = 3

    def __str__(self) -> str:
        return self.name.lower()


class AccessError(Exception):
    """A learner asked for more than its declared access."""


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


class View:
    """What one player sees of a game at the current joint policy.

    Args:
      game: the game.
      params: joint policy parameters, one entry per player.
      player: the seat of the learner that holds this view.
      access: what the learner declared.
      learners: everybody's learning rule, for ``simulator`` access.
      memory: what views of this joint policy have derived so far; the harness shares one
        among all seats, so that what two learners need is traced and compiled once.
      key: randomness of the play of this update, the same for all seats.
      states: everybody's learner state, for learners that learn while they play.
      shown: the policy parameters that others see where those differ from the ones played.
      artifact: what the preparation of the learner that holds this view yielded.
    """

    def __init__(
        self,
        game: Game,
        params: Sequence[Tree],
        player: int,
        access: Access,
        learners: Sequence["Learner"] = (),
        memory: "Memory | None" = None,
        key: Array | None = None,
        states: Sequence[Tree] = (),
        shown: Sequence[Tree] | None = None,
        artifact: Tree = None,
    ) -> None:
        self._game, self._access, self._learners = game, access, tuple(learners)
        self._played = tuple(params)
        others = tuple(params if shown is None else shown)
        self._params = tuple(x if j == player else others[j] for j, x in enumerate(params))
        self._memory: Memory = {} if memory is None else memory
        self._key, self._states = key, tuple(states)
        self.player, self.artifact = player, artifact

    def _remembered(self, key: tuple[Any, ...], derive: Callable[[], Tree]) -> Tree:
        # A tracer must not leave the transformation it belongs to: only what was derived
        # under the very same ones is reused.
        state = get_opaque_trace_state(convention="nnx")
        entries = self._memory.setdefault(key, [])
        for known, result in entries:
            if known == state:
                return result
        entries.append((state, derive()))
        return entries[-1][1]

    def _require(self, level: Access, what: str) -> None:
        if self._access < level:
            raise AccessError(
                f"player {self.player + 1} asked for {what}, which needs access '{level}', "
                f"but its learner declares access '{self._access}'"
            )

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
        """Episodes of the current policies, ``batch_size`` of them; a reset each."""

        def derive() -> Trajectory:
            assert self._key is not None, "this view has no key to play with"
            policies = self._policies()
            key = jax.random.fold_in(self._key, batch_size)
            return rollouts.rollout(key, self._game, policies, self._played, batch_size)

        return Play(self, self._remembered(("play", batch_size), derive))

    def live(self) -> tuple[Play, Tree]:
        """One episode in which online learners learn as they play: the play, and the own new state."""

        def derive() -> Any:
            assert self._key is not None, "this view has no key to play with"
            return rollouts.live(self._key, self._game, self._learners, self._played, self._states)

        trajectory, states = self._remembered(("live",), derive)
        return Play(self, trajectory), states[self.player]

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
        return View(self._game, params, self.player, self._access, self._learners)

    def seat(self, player: int) -> "View":
        """The joint view from another seat: what rules defined for everybody at once need."""
        self._require(Access.GRADIENTS, "the view from another seat")
        return View(self._game, self._params, player, self._access, self._learners, self._memory)

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


class Learner:
    """A learning rule: hyperparameters, and pure ``init`` and ``update``.

    Class attributes say what it needs; the harness checks them before anything runs.
    """

    access: ClassVar[Access] = Access.GRADIENTS
    views: ClassVar[frozenset[str]] = frozenset({"exact"})
    needs_preparation: ClassVar[bool] = False
    learns: ClassVar[bool] = True
    online: ClassVar[bool] = False
    """Learns after every step of play; see ``rollouts.live``."""
    source: ClassVar[str] = ""
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Hyperparameters published for a game, by the game's registered name; they are the
    defaults there."""

    @property
    def width(self) -> int:
        """Environments that one update keeps in memory at once; how many seeds run side by
        side depends on it."""
        return int(getattr(self, "batch_size", 1))

    def policy(self, game: Game, player: int) -> Policy:
        """What plays: by default a memory-one policy whose logits are the parameters.

        Raises:
          ValueError: the game has no memory-one policies.
        """
        if not game.memory_one:
            raise ValueError("plays memory-one policies, which this game does not have")
        return Tabular(game.sizes[player])

    def shown(self, params: Tree, state: Tree) -> Tree:
        """The policy parameters that others see, where those are not the ones played."""
        del state
        return params

    def act(self, word: Array, state: Tree, observation: Array) -> Array:
        """Online learners: the action in one environment, by 32 random bits."""
        raise NotImplementedError

    def react(self, game: Game, state: Tree, observation: Array, reward: Array, then: Array) -> Tree:
        """Online learners: the new state after a step; ``then`` is the next observation."""
        raise NotImplementedError

    def check_game(self, game: Game, player: int) -> None:
        """Raises ``ValueError`` if this learner cannot play that seat of that game."""

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Tree]:
        """Initial policy parameters ``(d_i,)`` and learner state."""
        return game.init_params(key, player), ()

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        """One update.

        Args:
          key: randomness of this update.
          state: the learner's own state.
          view: what the learner may see, before anybody's update.

        Returns:
          New own parameters, new state, and an info of scalars worth plotting.
        """
        raise NotImplementedError


class PreparedLearner(Learner):
    """A learner that learns something before it meets anyone: its *preparation*.

    The harness starts from ``prepare_init``, takes ``preparation_steps`` steps of
    ``prepare_step``, stores the ``artifact`` of the end, and hands it to ``init`` and, as
    ``view.artifact``, to ``update``. All are pure, so a preparation can be interrupted and
    taken up again after any step. It is charged to the learner: price imagined encounters in
    ``costs`` as an update would, a batch of B of them inside ``costs.repeated(B)``.
    """

    needs_preparation: ClassVar[bool] = True
    prepared_jointly: ClassVar[bool] = False
    """Whether the seats of an encounter share one preparation: its artifact holds what all of
    them need (COLA's pair of update functions). Otherwise seats that play the same learner have
    been prepared from different seeds, as far as there are several."""
    played_only: ClassVar[frozenset[str]] = frozenset()
    """Hyperparameters that the preparation does not depend on: one serves all their values."""

    @property
    def preparation_steps(self) -> int:
        """Steps of preparation."""
        raise NotImplementedError

    @property
    def preparation_width(self) -> int:
        """Games that one step imagines at once; several seeds are prepared side by side while
        these are few."""
        return 1

    def prepared_seat(self, game: Game, player: int) -> int:
        """The seat whose preparation serves ``player``: in a symmetric game one serves all."""
        return 0 if game.symmetric or self.prepared_jointly else player

    def prepare_init(self, key: Array, game: Game, player: int) -> Tree:
        """What the first step of the preparation for that seat starts from."""
        raise NotImplementedError

    def prepare_step(self, key: Array, step: Array, carry: Tree, game: Game, player: int) -> tuple[Tree, Info]:
        """One step.

        Args:
          key: randomness of this step.
          step: how many were taken before, a scalar.
          carry: what the step before left.
          game, player: the seat to prepare for.

        Returns:
          What the next step starts from, and an info of scalars: the preparation's curves.
        """
        raise NotImplementedError

    def artifact(self, carry: Tree) -> Tree:
        """What is kept of the end: a pytree of arrays."""
        return carry

    def init(self, key: Array, game: Game, player: int, artifact: Tree = None) -> tuple[Tree, Tree]:
        """As :meth:`Learner.init`, with the artifact that was prepared for the seat; without one,
        parameters of the right shape."""
        del artifact
        return super().init(key, game, player)


@pytree_dataclass
class GradientLearner(Learner):
    """A learner that steps along a direction: ``theta_i <- theta_i + lr * d_i``."""

    lr: float = field(1.0, "own step size, on unnormalised values", low=0.0)

    def direction(self, view: View) -> Tree | tuple[Tree, Info]:
        """Update direction ``d_i`` at the joint policy (optionally with an info)."""
        raise NotImplementedError

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        del key
        d, info = with_info(self.direction(view))
        return trees.add(view.own, d, self.lr), state, info


class Direction(tuple):
    """A direction that comes with an info: ``Direction(d, {"p": p})``."""

    def __new__(cls, d: Tree, info: Info) -> "Direction":
        return super().__new__(cls, (d, info))


def with_info(direction: Any) -> tuple[Tree, Info]:
    """Splits what ``direction`` returned into the direction and its info."""
    return (direction[0], direction[1]) if isinstance(direction, Direction) else (direction, {})
