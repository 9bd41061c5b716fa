"""Consistent learning with opponent-learning awareness (COLA).

LOLA assumes that its opponents learn naively, which is false where they use LOLA too. A joint
update function ``d(theta) = (d_1, ..., d_n)`` is *consistent* if every player's direction is
the exact gradient step of a player who knows that the others use theirs,

    d_i(theta) = grad_i [V_i(theta_i, theta_-i + beta d_-i(theta))]    for all theta,

where the derivative is total: it also goes through what the others' directions owe to theta_i.
HOLA iterates this map from the naive gradient and need not converge; COLA represents each d_i
by a network of all parameters and minimises the squared violation over a region, before play.

Directions are in the scaling of the official code: a step is ``beta d``, where the paper's
``h = beta d``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import Array

from shaping_bench.algorithms.core import Info, PreparedLearner, View, costs, field, pytree_dataclass, trees
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.lola import ShapingLearner
from shaping_bench.algorithms.parts.joint import Joint, block, concatenated
from shaping_bench.games.base import Game

UpdateFunction = Callable[[Joint], Tree]
"""A player's direction at joint parameters, in the form of its own parameters."""

Network = list[tuple[Array, Array]]
"""Per layer weights ``(out, in)`` and biases ``(out,)``."""

DECAY_EVERY = 750
"""Steps of preparation after which Adam's step size is multiplied by its decay."""

_POLYNOMIAL = {
    "num_steps": 120_000,
    "batch_size": 8,
    "region": 1.0,
    "hidden": 8,
    "layers": 2,
    "activation": "relu",
    "linear_last": True,
    "network_lr": 0.1,
    "network_lr_decay": 0.8,
}
"""What the official code uses where values are polynomials."""


def responses(game: Game, functions: Sequence[UpdateFunction], params: Joint, beta: Any) -> tuple[Joint, Joint]:
    """Everybody's directions d, and everybody's best responses to the others' as they move:
    ``grad_i [V_i(theta_i, theta_-i + beta d_-i(theta))]``, the total derivative.

    Args:
      game: an exact game.
      functions: d_j of each player.
      params: theta; an entry per player, of the form that ``functions`` yield.
      beta: the step along d_j that each player assumes of the others.
    """
    players = range(game.n_players)
    # One forward pass per function serves its own player and, backwards, all the others.
    directions, pullbacks = zip(*(jax.vjp(function, params) for function in functions), strict=True)
    answers = []
    for i in players:
        there = tuple(x if j == i else trees.add(x, directions[j], beta) for j, x in enumerate(params))
        costs.charge(evaluations=1)
        gradient = jax.grad(lambda theta, i=i: game.value(theta, i))(there)
        answer = gradient[i]
        for j in players:
            if j != i:  # the others' directions move with theta_i
                answer = trees.add(answer, pullbacks[j](gradient[j])[0][i], beta)
        answers.append(answer)
    return directions, tuple(answers)


def violation(game: Game, functions: Sequence[UpdateFunction], params: Joint, beta: Any) -> Array:
    """Squared violation of consistency summed over the players, a scalar (Willi et al., ICML
    2022, section 4): zero for all ``params`` iff ``functions`` are consistent. Nothing is held
    constant, neither the directions nor the responses to them."""
    directions, answers = responses(game, functions, params, beta)
    gap = trees.add(directions, answers, -1.0)
    return trees.dot(gap, gap)


@pytree_dataclass
class COLA(ShapingLearner, PreparedLearner):
    """Steps along networks that were trained to be consistent for one assumed step size.

    The networks of all players are prepared together and then frozen. Whoever meets a COLA
    player uses whatever it likes; COLA assumes that it uses COLA.
    """

    prepared_jointly: ClassVar[bool] = True
    played_only: ClassVar[frozenset[str]] = frozenset({"lr", "clamped"})
    source = "Willi, Letcher, Treutlein, Foerster, ICML 2022; hyperparameters of the official notebook"

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tandem": {**_POLYNOMIAL, "lookahead_lr": 0.1},
        "balduzzi": _POLYNOMIAL,
        "hamiltonian": _POLYNOMIAL,
        "ultimatum": {"lookahead_lr": 5.0},
        "ipd": {"clamped": True},
    }

    lr: Any = field(
        None, "own step size; none: the assumed one, which is self-consistent", low=0.0, step=True, small=1.0
    )
    num_steps: int = field(80_000, "steps of preparation", low=1, static=True)
    batch_size: int = field(64, "joint parameters drawn per step of preparation", low=1, static=True, small=16)
    region: float = field(7.0, "parameters are drawn uniformly from [-region, region]", low=0.0, exclusive=True)
    hidden: int = field(16, "units per hidden layer", low=1, static=True, small=8)
    layers: int = field(3, "hidden layers", low=1, static=True)
    activation: str = field("tanh", "of the hidden layers", choices=("tanh", "relu"), static=True)
    linear_last: bool = field(False, "the last hidden layer has no activation", static=True)
    weight_std: float = field(0.1, "standard deviation of the initial weights; biases start at 0", low=0.0)
    network_lr: float = field(1e-3, "Adam's step size", low=0.0)
    network_lr_decay: float = field(1.0, f"its factor after every {DECAY_EVERY} steps", low=0.0, high=1.0)
    clamped: bool = field(False, "in play, hold the networks' input in the region", static=True)

    @property
    def width(self) -> int:
        return 1  # the batch is the preparation's; an update evaluates one network at one point

    # Preparation.

    @property
    def preparation_steps(self) -> int:
        return self.num_steps

    @property
    def preparation_width(self) -> int:
        return self.batch_size

    def prepare_init(self, key: Array, game: Game, player: int) -> Tree:
        del player
        networks = [self._network(jax.random.fold_in(key, i), game, i) for i in range(game.n_players)]
        return {"networks": networks, "adam": self._adam().init(networks)}

    def prepare_step(self, key: Array, step: Array, carry: Tree, game: Game, player: int) -> tuple[Tree, Info]:
        """One step of Adam on the mean violation at fresh points; its curve is ``violation``."""
        del step, player  # Adam counts its own steps; the networks serve all seats
        shape = (sum(game.sizes), self.batch_size)
        points = jax.random.uniform(key, shape, minval=-self.region, maxval=self.region)

        def mean_violation(networks: list[Network]) -> Array:
            functions = [self._function(network) for network in networks]

            def at(point: Array) -> Array:
                return violation(game, functions, _joint(game, point), self.lookahead_lr)

            with costs.repeated(self.batch_size):
                return jnp.mean(jax.vmap(at, in_axes=1)(points))

        value, gradient = jax.value_and_grad(mean_violation)(carry["networks"])
        change, adam = self._adam().update(gradient, carry["adam"])
        return {"networks": optax.apply_updates(carry["networks"], change), "adam": adam}, {"violation": value}

    def artifact(self, carry: Tree) -> Tree:
        return carry["networks"]

    # Play.

    def direction(self, view: View) -> Tree:
        params = view.params
        if self.clamped:
            params = jax.tree.map(lambda x: jnp.clip(x, -self.region, self.region), params)
        return block(view, view.player, self._output(view.artifact[view.player], concatenated(params)))

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        del key
        lr = self.lookahead_lr if self.lr is None else self.lr
        return trees.add(view.own, self.direction(view), lr), state, {}

    # Networks.

    def _adam(self) -> optax.GradientTransformation:
        return optax.adam(optax.exponential_decay(self.network_lr, DECAY_EVERY, self.network_lr_decay, staircase=True))

    def _network(self, key: Array, game: Game, player: int) -> Network:
        sizes = [sum(game.sizes), *[self.hidden] * self.layers, game.sizes[player]]
        keys = jax.random.split(key, len(sizes) - 1)
        return [
            (self.weight_std * jax.random.normal(k, (after, before)), jnp.zeros(after))
            for k, before, after in zip(keys, sizes[:-1], sizes[1:], strict=True)
        ]

    def _function(self, network: Network) -> UpdateFunction:
        return lambda params: tuple(self._output(network, concatenated(params)))

    def _output(self, network: Network, x: Array) -> Array:
        """The direction ``(d_i,)`` at a joint vector ``(d,)``."""
        for k, (weights, bias) in enumerate(network):
            # Sums of products fuse with their neighbours, which for networks this small beats a
            # matrix product; but a fused tanh would be computed anew for every unit it feeds.
            total = jnp.sum(weights * x, axis=-1) if self.activation == "relu" else weights @ x
            x = total + bias
            if k < self.layers - self.linear_last:
                x = jnp.tanh(x) if self.activation == "tanh" else jax.nn.relu(x)
        return x


def _joint(game: Game, point: Array) -> Joint:
    """A joint vector ``(d,)`` as one tuple of scalars per player."""
    entries = iter(point)
    return tuple(tuple(next(entries) for _ in range(size)) for size in game.sizes)
