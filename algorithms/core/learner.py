"""What a learner is: a frozen dataclass of hyperparameters that is a pytree, with pure ``init`` and ``update``."""

from collections.abc import Mapping
from typing import Any, ClassVar

from jax import Array

from shaping_bench.algorithms.core import trees
from shaping_bench.algorithms.core.access import Access
from shaping_bench.algorithms.core.policy import Policy, tabular
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.core.view import View
from shaping_bench.games.base import Game
from shaping_bench.games.fields import field, pytree_dataclass

Info = Mapping[str, Array]


class Learner:
    """A learning rule: hyperparameters, and pure ``init`` and ``update``.

    Class attributes say what it needs; the harness checks them before anything runs.

    >>> import jax
    >>> from shaping_bench.algorithms.core import Stage
    >>> from shaping_bench.games import make
    >>> @pytree_dataclass
    ... class Imitator(Learner):
    ...     access = Access.GRADIENTS  # sees the others' parameters
    ...
    ...     def update(self, key, state, view):
    ...         return view.params[view.others[0]], state, {}
    >>> stage = Stage(make("tandem"), (Imitator(), Imitator()))
    >>> before = stage.begin(jax.random.key(0))
    >>> after, _, _ = stage.episode(jax.random.key(1), before)
    >>> after.params == before.params[::-1]
    True
    """

    access: ClassVar[Access] = Access.GRADIENTS
    views: ClassVar[frozenset[str]] = frozenset({"exact"})
    needs_preparation: ClassVar[bool] = False
    learns: ClassVar[bool] = True
    online: ClassVar[bool] = False
    """Learns after every step of play; see ``rollouts.live``."""
    chancy: ClassVar[bool] = False
    """Online learners: whether they learn by :meth:`react_by_chance`."""
    reads_facts: ClassVar[bool] = False
    """Whether its update asks for facts of the game that follow from numbers (``view.game.symmetric``):
    games that differ in them then share no program."""
    offered: ClassVar[frozenset[str]] = frozenset()
    """Names of what :meth:`offers` yields."""
    source: ClassVar[str] = ""
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Hyperparameters published for a game, by the game's registered name or by its family
    (``games.Entry.family``); they are the defaults there, and the name's win."""

    @property
    def width(self) -> int:
        """Environments that one update keeps in memory at once; how many seeds run side by
        side depends on it."""
        return int(getattr(self, "batch_size", 1))

    @property
    def episodes_per_update(self) -> int:
        """Episodes that ``update`` asks ``view.play`` for, at most. Everybody learns from the same
        play: it is as wide as the widest asks, and who asks for fewer sees the first of them."""
        if not self.learns or self.online or "exact" in self.views:
            return 0
        return int(getattr(self, "batch_size", 0))

    def policy(self, game: Game, player: int) -> Policy:
        """What plays: by default a memory-one policy whose logits are the parameters.

        Raises:
          ValueError: the game has no memory-one policies.
        """
        return tabular(game)

    def behaviour(self, game: Game, player: int) -> Policy:
        """What acts while the learner trains; learning is about ``policy``."""
        return self.policy(game, player)

    def valued_policy(self, game: Game, player: int) -> Policy:
        """What metrics value in its place: another one for rules that explore by chance while they learn."""
        return self.policy(game, player)

    def learned_part(self, params: Tree) -> Tree:
        """The part of its policy parameters that steps change: all, but for what some note of the last episode."""
        return params

    def offers(self, state: Tree) -> Mapping[str, Tree]:
        """What of its state others with access ``simulator`` may use, by name: ``action_values``."""
        del state
        return {}

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

    def react_by_chance(
        self, key: Array, game: Game, state: Tree, observation: Array, reward: Array, then: Array
    ) -> Tree:
        """The same of those that draw when they learn."""
        raise NotImplementedError

    def facts(self, game: Game) -> dict[str, Any]:
        """What readers of results need to know of the learner without its code, plain enough for JSON.

        >>> from shaping_bench.algorithms.lola import LOLA
        >>> from shaping_bench.games import make
        >>> facts = LOLA(lr=0.5).facts(make("ipd"))
        >>> facts["access"], facts["views"], facts["needs_preparation"]
        ('gradients', ['exact'], False)
        """
        return {
            "access": str(self.access),
            "views": sorted(self.views & game.views),
            "needs_preparation": self.needs_preparation,
            "prepared_jointly": bool(getattr(self, "prepared_jointly", True)),
            "prepared_against": None,
            "learns": self.learns,
            "online": self.online,
            "offers": sorted(self.offered),
        }

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

    def facts(self, game: Game) -> dict[str, Any]:
        from shaping_bench.algorithms.core.coplayers import described  # which holds learners

        against = described(getattr(self, "against", None))
        return {**super().facts(game), "prepared_against": against}

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
    """A learner that steps along a direction: ``theta_i <- theta_i + lr * d_i``.

    >>> import jax
    >>> from shaping_bench.algorithms.core import Stage
    >>> from shaping_bench.games import make
    >>> @pytree_dataclass
    ... class Altruist(GradientLearner):
    ...     def direction(self, view):
    ...         return view.gradient(of=view.others[0])
    >>> stage = Stage(make("tandem"), (Altruist(lr=0.1), Altruist(lr=0.1)))
    >>> joint = stage.joint([[1.0], [0.0]], [(), ()])
    >>> joint, _, _ = stage.episode(jax.random.key(0), joint)
    >>> [round(float(x), 3) for (x,) in joint.params]
    [0.8, -0.2]
    """

    lr: float = field(1.0, "own step size, on unnormalised values", low=0.0, step=True)

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
