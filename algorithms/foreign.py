"""Policies that come from elsewhere and do not learn: parameters in a file, one's own or shipped, and agents that are
no JAX.

Both sit in encounters and leagues like any fixed strategy; others see what they do and no more.

A file holds arrays and no code (``.npz``, read without pickle). Either they are the parameters of one of
this benchmark's networks, under the names that a complaint lists, such as those of a PyTorch agent that was
trained elsewhere; or they are the final policies of a cell (``policies.npz``) of any rule.

Agents are asked by a callback, a batch of environments at a time, at every step of play: a PyTorch or
NumPy agent becomes a learner in a dozen lines (:class:`ForeignAgent`). They are as slow as they are;
the rest of the game waits for them.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from shaping_bench.algorithms.core import Access, Info, Learner, View, field, pytree_dataclass
from shaping_bench.algorithms.core.distributions import Categorical
from shaping_bench.algorithms.core.policy import Policy
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.files import POLICIES, content, shipped
from shaping_bench.algorithms.parts.networks import Network
from shaping_bench.algorithms.parts.policies import NETWORKS, Net, NetworkPolicy, acting_head, actor, encoding, resolved
from shaping_bench.games.base import Game
from shaping_bench.games.spaces import Discrete


class _Unlearned(Learner):
    """Base: plays and never changes."""

    access: ClassVar[Access] = Access.ACTIONS
    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
    learns: ClassVar[bool] = False

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        del key
        return view.own, state, {}


# --- parameters in a file -----------------------------------------------------------------------


@pytree_dataclass
class FilePolicy(_Unlearned):
    """A policy whose parameters are in a file: of a network by name, or of a cell's final policies.

    ``policy(path='theirs.npz',sha256=9f86d081,network=conv-gru)`` takes arrays named as the network's parameters
    are, ``policy(path='cells/…/policies.npz',sha256=9f86d081,rule=loqa)`` what a rule has learnt. Where every
    array has one more axis in front, those are several policies, of which each seed draws one.
    """

    source = "what the file's author says"

    path: str = field(doc="of the file", static=True)
    sha256: str = field(doc="of its content, the first digits: what was met stays what was met", static=True)
    network: str = field("auto", "whose parameters they are, unless a rule's", choices=NETWORKS, static=True)
    hidden: int = field(0, "its units; 0: those of its papers", low=0, static=True)
    rule: Any = field("none", "whose final policies they are, as cells store them", choices=("none",), learner=True)
    seat: int = field(1, "of the cell, whose policies are taken", low=1, static=True)

    def policy(self, game: Game, player: int) -> Policy:
        if isinstance(self.rule, Learner):
            return self.rule.policy(game, player)
        return actor(game, resolved(game, self.network, "conv-gru"), player, self.hidden or None)

    def check_game(self, game: Game, player: int) -> None:
        if isinstance(self.rule, Learner):
            self.rule.check_game(game, player)
        self._policies(game, player)

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Tree]:
        policies = self._policies(game, player)
        count = len(jax.tree.leaves(policies)[0])
        index = jax.random.randint(key, (), 0, count)
        return jax.tree.map(lambda x: jnp.asarray(x)[index], policies), ()

    def _policies(self, game: Game, player: int) -> Tree:
        """All of them: leaves ``(N, ...)``.

        Raises:
          ValueError: the file is not there, or another, or holds other arrays than are needed.
        """
        key = jax.random.key(0)
        rule = self.rule if isinstance(self.rule, Learner) else None
        start = (lambda: rule.init(key, game, player)[0]) if rule else (lambda: self.policy(game, player).init(key))
        shapes = jax.eval_shape(start)
        paths = jax.tree_util.tree_flatten_with_path(shapes)[0]
        if rule is None:
            names = named_leaves(shapes)
        elif len(paths) == 1 and not paths[0][0]:
            names = [f"player_{self.seat}"]
        else:
            names = [f"player_{self.seat}.{k}" for k in range(len(paths))]
        return _read(self.path, self.sha256, shapes, names, whole=rule is None)


@pytree_dataclass
class ReferencePolicy(_Unlearned):
    """A policy that is shipped with the benchmark, by name. A name never stands for other numbers than it did."""

    source = "training by this benchmark, as the list of shipped policies says"

    which: str = field(doc="its name", static=True, written="policy")

    def _known(self) -> Mapping[str, Any]:
        """What is known of it.

        Raises:
          ValueError: none of that name is shipped.
        """
        known = shipped(POLICIES)
        if self.which not in known:
            there = ", ".join(sorted(known)) or "none, as none is shipped"
            raise ValueError(f"is the shipped policy {self.which!r}; allowed: {there}")
        return known[self.which]

    def policy(self, game: Game, player: int) -> Policy:
        of = self._known()
        layers: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in of["network"].items()}
        network = Network(heads=(acting_head(game, player),), **layers)
        return NetworkPolicy(Net(network, encoding(game, of["encoding"])), game.action_space(player))

    def check_game(self, game: Game, player: int) -> None:
        self.init(jax.random.key(0), game, player)

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Tree]:
        path, of = POLICIES / f"{self.which}.npz", self._known()
        shapes = jax.eval_shape(self.policy(game, player).init, key)
        policies = _read(str(path), of["sha256"], shapes, named_leaves(shapes), whole=True)
        return jax.tree.map(lambda x: jnp.asarray(x)[0], policies), ()


def named_leaves(shapes: Tree) -> list[str]:
    """Names of a policy's parameters in a file, in the order of its leaves."""
    return [_name(path) or "table" for path, _ in jax.tree_util.tree_flatten_with_path(shapes)[0]]


def _read(path: str, sha256: str, shapes: Tree, names: Sequence[str], whole: bool) -> Tree:
    """The policies of a file: leaves ``(N, ...)``.

    Args:
      path, sha256: of the file.
      shapes: of one policy.
      names: of its leaves in the file.
      whole: whether the file holds nothing else.

    Raises:
      ValueError: the file is not there, or another, or holds other arrays than are needed.
    """
    leaves, structure = jax.tree.flatten(shapes)
    found = _arrays(path, sha256)
    wanted = {name: leaf.shape for name, leaf in zip(names, leaves, strict=True)}
    wrong = [name for name, shape in wanted.items() if not _fits(found.get(name), shape)]
    extra = sorted(set(found) - set(wanted)) if whole else []
    counts = {len(found[name]) for name, shape in wanted.items() if not wrong and found[name].ndim > len(shape)}
    several = {found[name].ndim > len(shape) for name, shape in wanted.items() if not wrong}
    if wrong or extra or len(several) > 1 or len(counts) > 1 or 0 in counts:
        there = ", ".join(f"{name} {x.shape}" for name, x in found.items())
        needed = ", ".join(f"{name} {shape}" for name, shape in wanted.items())
        raise ValueError(f"reads {path}, which holds {there}; allowed here: {needed}, or all with N in front")
    arrays = [np.asarray(found[name], np.float32) for name in names]
    if not all(np.isfinite(x).all() for x in arrays):
        raise ValueError(f"reads {path}, which holds numbers that are not finite")
    return jax.tree.unflatten(structure, arrays if several == {True} else [x[None] for x in arrays])


def _name(path: tuple[Any, ...]) -> str:
    """``convolutions_0/kernel`` for a leaf of flax's parameters."""
    return jax.tree_util.keystr(path, simple=True, separator="/").removeprefix("params/")


def _fits(found: np.ndarray | None, shape: tuple[int, ...]) -> bool:
    return found is not None and found.dtype.kind in "fiu" and shape in (found.shape, found.shape[1:])


@functools.lru_cache(maxsize=32)
def _arrays(path: str, sha256: str) -> Mapping[str, np.ndarray]:
    """Raises ``ValueError`` if the file is not there, not the one that is meant, or holds more than arrays."""
    found = content(path, sha256)
    try:
        with np.load(found, allow_pickle=False) as file:
            return {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, AttributeError):  # not a .npz, or objects in it
        raise ValueError(f"reads {path}, which is no .npz of plain arrays") from None


# --- agents that are not JAX ----------------------------------------------------------------------


class ForeignAgent(_Unlearned):
    """Base of agents whose code is not JAX. A subclass says what it plays, in NumPy or by any library.

    Hyperparameters of a subclass are static fields: they belong to the program.

    >>> import jax, numpy as np
    >>> from shaping_bench.algorithms.core.rollouts import rollout
    >>> from shaping_bench.algorithms.fixed import AllD
    >>> from shaping_bench.games import make
    >>> @pytree_dataclass
    ... class Patient(ForeignAgent):
    ...     memory = (1,)  # defections seen
    ...     patience: int = field(3, "defections that it bears", low=0, static=True)
    ...     def answer(self, observations, memory):
    ...         defected = np.isin(observations, (2, 4))  # after CD and DD
    ...         memory = memory + defected[:, None]
    ...         cooperates = (memory[:, 0] <= self.patience).astype(np.float32)
    ...         return np.stack([cooperates, 1.0 - cooperates], axis=-1), memory
    >>> game, learners = make("ipd"), (Patient(), AllD())
    >>> policies = [x.policy(game, i) for i, x in enumerate(learners)]
    >>> params = [x.init(jax.random.key(0), game, i)[0] for i, x in enumerate(learners)]
    >>> play = rollout(jax.random.key(0), game, policies, params, batch_size=1)
    >>> play.actions[:6, 0, 0].tolist()  # after its fourth action it has seen more than it bears
    [0, 0, 0, 0, 1, 1]

    Attributes:
      memory: shape of what it remembers of an episode, of float32, zero at the start.
    """

    source: ClassVar[str] = "its author"
    memory: ClassVar[tuple[int, ...]] = ()

    def answer(self, observations: Any, memory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What it does in N environments.

        Args:
          observations: ``(N, *observation)``, in games whose observations are trees a tree of such.
          memory: ``(N, *memory)``.

        Returns:
          Probabilities of the actions ``(N, A)``, and the new memory.
        """
        raise NotImplementedError

    def policy(self, game: Game, player: int) -> Policy:
        space = game.action_space(player)
        if not isinstance(space, Discrete):
            raise ValueError(f"answers with probabilities of actions; this game's are {space}")
        return Asked(agent=self, num_actions=space.n)

    def check_game(self, game: Game, player: int) -> None:
        policy = self.policy(game, player)
        seen = jax.eval_shape(lambda: game.observe(game.reset(jax.random.key(0))[1], player))
        two = jax.tree.map(lambda x: np.zeros((2, *x.shape), x.dtype), seen)
        policy.ask(two, np.zeros((2, *self.memory), np.float32))  # type: ignore[attr-defined]

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Tree]:
        del key, game, player
        return (), ()


@dataclasses.dataclass(frozen=True)
class Asked(Policy):
    """Plays what an agent answers; no parameters, and nothing to differentiate."""

    agent: ForeignAgent
    num_actions: int

    def init(self, key: Array) -> Tree:
        del key
        return ()

    def start(self) -> Array:
        return jnp.zeros(self.agent.memory, jnp.float32)

    def step(self, params: Tree, carry: Array, observation: Tree, state: Tree) -> tuple[Array, Categorical]:
        shapes = (
            jax.ShapeDtypeStruct((self.num_actions,), jnp.float32),
            jax.ShapeDtypeStruct(self.agent.memory, jnp.float32),
        )
        observation = lax.stop_gradient(observation)
        probabilities, carry = jax.pure_callback(self.ask, shapes, observation, carry, vmap_method="broadcast_all")
        return carry, Categorical(logits=jnp.log(probabilities))

    def unroll(self, params: Tree, observations: Tree) -> Categorical:
        width = jax.tree.leaves(observations)[0].shape[1]
        start = jnp.broadcast_to(self.start(), (width, *self.agent.memory))
        step = jax.vmap(self.step, in_axes=(None, 0, 0, None))
        return lax.scan(lambda carry, seen: step(params, carry, seen, ()), start, observations)[1]

    def ask(self, observations: Tree, memory: Any) -> tuple[np.ndarray, np.ndarray]:
        """The agent's answer in any number of environments: axes ``(...)`` in front.

        Raises:
          ValueError: no probabilities, or a memory of another shape.
        """
        memory, depth = np.asarray(memory), len(self.agent.memory)
        front = memory.shape[: memory.ndim - depth]

        def joined(x: Any) -> np.ndarray:
            x = np.asarray(x)
            return x.reshape(math.prod(front), *x.shape[len(front) :])

        count = math.prod(front)
        said, after = self.agent.answer(jax.tree.map(joined, observations), joined(memory))
        said, after = np.asarray(said, np.float32), np.asarray(after, np.float32)
        name = type(self.agent).__name__
        if said.shape != (count, self.num_actions) or after.shape != (count, *self.agent.memory):
            raise ValueError(
                f"is {name}, which answers with shapes {said.shape} and {after.shape}; "
                f"allowed: {(count, self.num_actions)} and {(count, *self.agent.memory)}"
            )
        if not (np.all(said >= 0.0) and np.allclose(said.sum(axis=-1), 1.0, atol=1e-3)):
            raise ValueError(f"is {name}, which answers with numbers that are no probabilities, e.g. {said[0]}")
        return said.reshape(*front, self.num_actions), after.reshape(*front, *self.agent.memory)
