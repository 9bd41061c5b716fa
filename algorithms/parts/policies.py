"""Policies and critics: scripts, networks over encoded observations, and what they are called."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from shaping_bench.algorithms.core.distributions import Categorical, Explored, distribution, num_outputs, scripted
from shaping_bench.algorithms.core.policy import Policy, select, tabular
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.networks import Network, Weights
from shaping_bench.games.base import Game
from shaping_bench.games.fields import field
from shaping_bench.games.spaces import Space


@dataclasses.dataclass(frozen=True)
class Scripted(Policy):
    """A fixed strategy that the game defines by a rule of its state; no parameters."""

    game: Game
    name: str
    player: int

    def init(self, key: Array) -> Tree:
        del key
        return ()

    def start(self) -> Tree:
        return jnp.zeros(())

    def step(self, params: Tree, carry: Tree, observation: Tree, state: Tree) -> tuple[Tree, Any]:
        carry, said = self.game.script(self.name, carry, state, self.player)
        return carry, scripted(self.game.action_space(self.player), said)

    def along(self, params: Tree, observations: Tree, states: Tree) -> Any:
        width = jax.tree.leaves(states)[0].shape[1]
        start = jax.tree.map(lambda x: jnp.broadcast_to(x, (width, *x.shape)), self.start())
        step = jax.vmap(self.step, in_axes=(None, 0, 0, 0))
        return lax.scan(lambda carry, now: step(params, carry, *now), start, (observations, states))[1]


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How observations enter a network.

    Attributes:
      kind: ``"planes"`` as they are, ``"board"`` without the constant ones among them, ``"flat"``
        planes as a vector, ``"numbers"`` everything else, also trees of arrays, as a vector, ``"states"``
        one-hot of the memory-one state, ``"moves"`` one-hot of own and other's last action, zeros at
        the start (LOQA's code).
      size: for ``states`` the number of states.
      shape: of the encoded observation.
      axes: for ``numbers`` how many axes each array of an observation has.
    """

    kind: str
    size: int
    shape: tuple[int, ...]
    axes: tuple[int, ...] = ()

    def __call__(self, observations: Tree) -> Array:
        if self.kind == "numbers":
            leaves = zip(jax.tree.leaves(observations), self.axes, strict=True)
            flat = [x.reshape(*x.shape[: x.ndim - axes], -1).astype(jnp.result_type(float)) for x, axes in leaves]
            return jnp.concatenate(flat, axis=-1)
        if self.kind in ("planes", "board", "flat"):
            # Boards are shown in whole numbers of a byte, where they are large.
            planes = observations.astype(jnp.result_type(float))
            return planes.reshape(*planes.shape[:-3], -1) if self.kind == "flat" else planes[..., : self.shape[0], :, :]
        if self.kind == "states":
            return jax.nn.one_hot(observations, self.size)
        before = observations - 1
        own, other = before // 2, before % 2
        moves = jnp.stack([own == 0, own == 1, other == 0, other == 1], axis=-1)
        return jnp.where((observations > 0)[..., None], moves, False).astype(jnp.result_type(float))


def shape_seen(game: Game) -> tuple[int, ...] | None:
    """``game.observation_shape``; None where observations are trees, which have no one shape."""
    try:
        return game.observation_shape
    except NotImplementedError:
        return None


def encoding(game: Game, kind: str | None = None, player: int = 0) -> Encoding:
    """How a game's observations enter a network; by default one-hot states, or planes or other
    numbers as a vector.

    Raises:
      ValueError: the game's observations have no such encoding.
    """
    shape = shape_seen(game)
    if shape is None or len(shape) not in (0, 3):
        if kind is not None:
            raise ValueError(f"observations that are neither planes nor an index have no encoding {kind!r}")
        seen = jax.eval_shape(lambda key: game.reset(key)[0], jax.eval_shape(jax.random.key, 0))
        own = seen[player] if isinstance(seen, tuple) else jax.eval_shape(lambda x: x[player], seen)
        arrays = jax.tree.leaves(own)
        return Encoding(
            kind="numbers", size=0, shape=(sum(x.size for x in arrays),), axes=tuple(x.ndim for x in arrays)
        )
    kind = kind or ("flat" if len(shape) == 3 else "states")
    if (len(shape) == 3) != (kind in ("planes", "board", "flat")) or (kind == "moves" and game.n_players != 2):
        raise ValueError(f"observations of shape {shape} have no encoding {kind!r}")
    if kind in ("planes", "board", "flat"):
        size = 0
        channels, rows, columns = shape
        shape = {
            "planes": shape,
            "board": (game.board_planes, rows, columns),
            "flat": (channels * rows * columns,),
        }[kind]
    else:
        size = game.num_states or 1 + 2**game.n_players
        shape = (size,) if kind == "states" else (4,)
    return Encoding(kind, size, shape)


@dataclasses.dataclass(frozen=True)
class Net:
    """A network over encoded observations: actor, critic or both.

    Attributes:
      network: the flax module.
      encoding: of the observations.
      clock: appends the time step, as a raw number, to the input (LOQA's critics); a policy
        that acts has none.
    """

    network: Network
    encoding: Encoding
    clock: bool = False

    def init(self, key: Array) -> Tree:
        shape = self.encoding.shape
        x = jnp.zeros((shape[0] + 1,) if self.clock else shape)
        return self.network.init(key, self.network.start(), x)["params"]

    def start(self) -> Tree:
        return self.network.start()

    def laid(self, params: Tree) -> Weights:
        """Parameters as :meth:`act` reads them, once for many steps."""
        return self.network.laid(params, self.encoding.shape if self.network.conv else ())

    def act(self, weights: Weights, carry: Tree, observation: Array) -> tuple[Tree, Mapping[str, Array]]:
        return self.network.act(weights, carry, self.encoding(observation))

    def unroll(self, params: Tree, observations: Array) -> Mapping[str, Array]:
        """All heads along whole episodes, each ``(T, B, size)``."""
        x = self.encoding(observations)
        if self.clock:
            time = jnp.arange(x.shape[0], dtype=x.dtype).reshape(-1, *([1] * (x.ndim - 1)))
            x = jnp.concatenate([x, jnp.broadcast_to(time, (*x.shape[:-1], 1))], axis=-1)
        return self.network.along(self.laid(params), x)


@dataclasses.dataclass(frozen=True)
class NetworkPolicy(Policy):
    """Acts by the head ``logits`` of a network.

    Attributes:
      net: the network.
      space: of the actions.
      part: where its parameters lie within the player's, if those hold more (critics).
    """

    net: Net
    space: Space
    part: str | None = None

    def init(self, key: Array) -> Tree:
        params = self.net.init(key)
        return params if self.part is None else {self.part: params}

    def start(self) -> Tree:
        return self.net.start()

    def _own(self, params: Tree) -> Tree:
        return params if self.part is None else params[self.part]

    def step(self, params: Tree, carry: Tree, observation: Tree, state: Tree) -> tuple[Tree, Any]:
        return self.act(self.laid(params), carry, observation, state)

    def laid(self, params: Tree) -> Weights:
        return self.net.laid(self._own(params))

    def act(self, laid: Weights, carry: Tree, observation: Tree, state: Tree) -> tuple[Tree, Any]:
        carry, heads = self.net.act(laid, carry, observation)
        return carry, self.acting(heads)

    def unroll(self, params: Tree, observations: Tree) -> Any:
        return self.acting(self.net.unroll(self._own(params), observations))

    def acting(self, heads: Mapping[str, Array]) -> Any:
        """The distribution that the network's heads speak of."""
        return distribution(self.space, heads["logits"])


def acting_head(game: Game, player: int) -> tuple[str, int]:
    """The head by which a network acts in a seat."""
    return "logits", num_outputs(game.action_space(player))


@dataclasses.dataclass(frozen=True)
class Exploring(Policy):
    """Plays a uniformly random action with probability ``epsilon``, else what the policy says."""

    policy: Policy
    epsilon: Any

    def init(self, key: Array) -> Tree:
        return self.policy.init(key)

    def start(self) -> Tree:
        return self.policy.start()

    def _mixed(self, said: Categorical) -> Categorical:
        probabilities = (1.0 - self.epsilon) * jax.nn.softmax(said.logits) + self.epsilon / said.logits.shape[-1]
        return Explored(logits=jnp.log(probabilities), policy=said)

    def step(self, params: Tree, carry: Tree, observation: Tree, state: Tree) -> tuple[Tree, Categorical]:
        return self.act(self.laid(params), carry, observation, state)

    def laid(self, params: Tree) -> Tree:
        return self.policy.laid(params)

    def act(self, laid: Tree, carry: Tree, observation: Tree, state: Tree) -> tuple[Tree, Categorical]:
        carry, said = self.policy.act(laid, carry, observation, state)
        return carry, self._mixed(said)

    def unroll(self, params: Tree, observations: Tree) -> Categorical:
        return self._mixed(self.policy.unroll(params, observations))


# --- actors and critics by name ---------------------------------------------------------------

NETWORKS = ("auto", "tabular", "mlp", "gru", "conv-mlp", "conv-gru", "conv-lstm")
"""``conv-mlp``: two circular 3x3 convolutions of 2 filters and a dense layer, of the board alone
(M-FOS's naive learner). ``mlp``: two tanh layers. ``gru``: dense + GRU (POLA). ``conv-gru``: two circular 3x3
convolutions of 16 filters + GRU (M-FOS). ``conv-lstm``: two 3x3 convolutions of 20 filters +
LSTM (LOLA; without its batch normalisation)."""


def network_field(doc: str) -> Any:
    """The hyperparameter that names a network; trials, which are about the rule, take a small one."""
    return field("auto", doc, choices=NETWORKS, static=True, small=lambda game: "auto" if game.memory_one else "mlp")


_WIDTHS = {"mlp": 64, "gru": 64, "conv-mlp": 8, "conv-gru": 16, "conv-lstm": 32}


def resolved(game: Game, network: str, otherwise: str) -> str:
    """The network meant by ``auto``: a table where the game is memory-one, else ``otherwise``, or
    ``mlp`` if that convolves and there are no planes.

    Raises:
      ValueError: a table or a convolution for a game that is not made for it.
    """
    planes = len(shape_seen(game) or ()) == 3
    if network == "auto":
        by_table = game.num_states is not None
        network = "tabular" if by_table else otherwise if planes or otherwise[:4] != "conv" else "mlp"
    if network == "tabular" and game.num_states is None:
        raise ValueError("has network='tabular', which needs a repeated matrix game; allowed: mlp, gru, conv-...")
    if network.startswith("conv") and not planes:
        raise ValueError(f"has network={network!r}, which needs observations in planes; allowed: tabular, mlp, gru")
    return network


def net(
    game: Game, network: str, heads: tuple[tuple[str, int], ...], hidden: int | None = None, player: int = 0
) -> Net:
    """A network by name, with the units of its papers unless ``hidden`` is given."""
    width = hidden or _WIDTHS[network]
    if network == "mlp":
        module = Network(heads=heads, dense=(width, width), activation="tanh")
    elif network == "gru":
        module = Network(heads=heads, dense=(width,), cell="gru", width=width)
    elif network == "conv-mlp":
        module = Network(heads=heads, conv=(2, 2), padding="CIRCULAR", dense=(width,))
        return Net(module, encoding(game, "board"))
    elif network == "conv-gru":
        module = Network(heads=heads, conv=(16, 16), padding="CIRCULAR", cell="gru", width=width)
    else:
        module = Network(heads=heads, conv=(20, 20), cell="lstm", width=width)
    return Net(module, encoding(game, "planes" if network.startswith("conv") else None, player))


def actor(game: Game, network: str, player: int = 0, hidden: int | None = None) -> Policy:
    """The policy of a resolved network's name."""
    if network == "tabular":
        return tabular(game)
    return NetworkPolicy(net(game, network, (acting_head(game, player),), hidden, player), game.action_space(player))


@dataclasses.dataclass(frozen=True)
class TabularCritic:
    """One value per memory-one state, zero at first."""

    num_states: int

    def init(self, key: Array) -> Array:
        del key
        return jnp.zeros((self.num_states,))

    def unroll(self, params: Array, observations: Array) -> Array:
        """Values ``(T, B)``."""
        return select(params, observations)


@dataclasses.dataclass(frozen=True)
class NetCritic:
    """A network's head ``value``."""

    net: Net

    def init(self, key: Array) -> Tree:
        return self.net.init(key)

    def unroll(self, params: Tree, observations: Array) -> Array:
        """Values ``(T, B)`` along whole episodes."""
        return self.net.unroll(params, observations)["value"][..., 0]


Critic = TabularCritic | NetCritic


def critic(game: Game, network: str, player: int = 0, hidden: int | None = None) -> Critic:
    """A critic of its own, of the same shape as the actor of that name."""
    if network == "tabular":
        return TabularCritic(tabular(game).num_states)
    return NetCritic(net(game, network, (("value", 1),), hidden, player))
