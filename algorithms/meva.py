"""Meta-value learning (MeVa).

A joint policy x = (x_1, x_2) is scored not by the returns f(x) there but by those along the
path of learning that starts there. With simultaneous own gradients ``gbar``, meta-discounts
gamma_i and all products per player,

    V(x) = (1 - gamma) f(x) + gamma V(x'),     x' = x + alpha gbar V(x),

where an opponent that is no meta-learner moves by its own rule instead. A network learns V
before anybody is met, by temporal differences along imagined paths that follow it; what is
played is gradient ascent on it. It is given the meta-discounts, so one network serves all.

The ``u`` form learns ``U(x) = V(x')`` and adds the return, whose gradient is exact:
``V = (1 - gamma) f + gamma U``, which at gamma = 0 is naive learning whatever U is.

Returns f are per step (normalised), and so is the published step: alpha = 25 in the iterated
prisoner's dilemma and matching pennies and 1 in chicken, all with discount 0.96. ``lr`` is on
unnormalised values as everywhere here: ``lr = (1 - 0.96) alpha``, 1 and 0.04.

Arrays of two players are own-first: the row of the learner, then the opponent's.
"""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from shaping_bench.algorithms.core import (
    Access,
    GradientLearner,
    Info,
    PreparedLearner,
    Stage,
    View,
    costs,
    field,
    pytree_dataclass,
    trees,
    with_info,
)
from shaping_bench.algorithms.core.coplayers import Mixture
from shaping_bench.algorithms.core.stage import Given
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.lola import LOLA
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.parts.networks import orthogonal
from shaping_bench.games.base import Game


class NormalisedDense(nn.Module):
    """A layer on one or several inputs side by side: no bias, orthogonal at first, layer norm."""

    width: int

    @nn.compact
    def __call__(self, *parts: Array) -> Array:
        dtype = jnp.result_type(float)
        sizes = [x.shape[-1] for x in parts]
        kernel = self.param("kernel", orthogonal, (sum(sizes), self.width), dtype)
        # One product per input, so that a derivative with respect to one input costs one.
        total, start = None, 0
        for x, size in zip(parts, sizes, strict=True):
            product = x @ kernel[start : start + size]
            total = product if total is None else total + product
            start += size
        return nn.LayerNorm(epsilon=1e-6, param_dtype=dtype)(total)


class Dense(nn.Module):
    """The usual layer, on one or several inputs side by side."""

    width: int

    @nn.compact
    def __call__(self, *parts: Array) -> Array:
        return nn.Dense(self.width, param_dtype=jnp.result_type(float))(jnp.concatenate(parts, axis=-1))


class ResidualBlock(nn.Module):
    """``s x + (1 - s) dense(GELU(layer(x)))`` with a learned share s per channel, at first 1/2."""

    layer: type[nn.Module]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        y = Dense(width)(nn.gelu(self.layer(width)(x)))
        share = nn.sigmoid(self.param("gate", nn.initializers.zeros, (width,), jnp.result_type(float)))
        return share * x + (1.0 - share) * y


class MetaValueNetwork(nn.Module):
    """Quantiles of every player's meta-value, ``(2, B, quantiles)``; the players share all weights.

    A player's own features and then the other's make its quantiles, so exchanging the players
    exchanges the outputs, unless features have a scale and offset per player.

    Attributes:
      of_policies: parameters are logits and shown to the network as probabilities; else they
        are real numbers of the order of 10.
      hidden: units per layer.
      quantiles: outputs per player.
      blocks: residual blocks per player, and again of the pair.
      equivariant: without a scale and offset per player.
    """

    of_policies: bool
    hidden: int
    quantiles: int
    blocks: int
    equivariant: bool

    def setup(self) -> None:
        n = self.hidden
        layer: type[nn.Module] = NormalisedDense if self.of_policies else Dense
        self.first = Dense(n)
        if self.of_policies:
            self.second, self.of_discount = layer(n), Dense(n)
        if not self.equivariant:
            shape = (2, 2 * n if self.of_policies else n)
            self.scale = self.param("scale", nn.initializers.ones, shape, jnp.result_type(float))
            self.offset = self.param("offset", nn.initializers.zeros, shape, jnp.result_type(float))
        self.joined, self.pair, self.last = layer(n), layer(n), layer(n)
        self.own_blocks = [ResidualBlock(layer) for _ in range(self.blocks)]
        self.pair_blocks = [ResidualBlock(layer) for _ in range(self.blocks)]
        self.output = Dense(self.quantiles)

    def features(self, x: Array, gamma: Array, rows: slice) -> Array:
        """What the parameters ``(r, B, d)`` and discounts ``(r, B)`` of these rows say, ``(r, B, hidden)``."""
        gamma = gamma[..., None]
        if self.of_policies:
            z = nn.gelu(self.second(nn.gelu(self.first(nn.sigmoid(x)))))
            z = self._by_player(jnp.concatenate([z, nn.gelu(self.of_discount(gamma))], axis=-1), rows)
            z = nn.gelu(self.joined(z))
            for block in self.own_blocks:
                z = block(z)
            return z
        z = self._by_player(nn.gelu(self.first(x / 10.0, gamma)), rows)
        for block in self.own_blocks:
            z = block(z)
        return nn.gelu(self.joined(z))

    def _by_player(self, z: Array, rows: slice) -> Array:
        return z if self.equivariant else z * self.scale[rows, None] + self.offset[rows, None]

    def heads(self, own: Array, other: Array, signs: Array | None = None) -> Array:
        """Quantiles ``(r, B, quantiles)`` from features; ``signs`` multiply the last layer, ``(r, B, hidden)``."""
        h = nn.gelu(self.pair(own, other))
        for block in self.pair_blocks:
            h = block(h)
        h = nn.tanh(self.last(h))
        return self.output(h if signs is None else h * signs)

    def __call__(self, x: Array, gamma: Array) -> Array:
        z = self.features(x, gamma, slice(0, 2))
        return self.heads(z, z[::-1])


def own_slopes(network: Any, weights: Tree, x: Array, gamma: Array, led: int, signs: Array | None = None) -> Array:
    """Derivative of each meta-value with respect to its player's own parameters.

    A player's own parameters enter its meta-value by its own features alone. With the others'
    held constant, one backward pass over the sum gives every player's own derivative.

    Args:
      network, weights: the network, with methods ``features`` and ``heads``.
      x, gamma: parameters ``(2, B, d)`` and meta-discounts ``(2, B)``.
      led: of how many players, the first or both.
      signs: see :meth:`MetaValueNetwork.heads`, ``(led, B, hidden)``.

    Returns:
      ``(led, B, d)``.
    """

    def total(own: Array) -> Array:
        z = network.apply(weights, own, gamma[:led], slice(0, led), method="features")
        if led == 2:
            other = lax.stop_gradient(z[::-1])
        else:
            other = network.apply(weights, x[1:], gamma[1:], slice(1, 2), method="features")
        quantiles = network.apply(weights, z, other, signs, method="heads")
        return jnp.sum(jnp.mean(quantiles, axis=-1))

    return jax.grad(total)(x[:led])


def lambda_returns(rewards: Array, later: Array, gamma: Array, lam: Any) -> Array:
    """``G_t = (1 - gamma) r_t + gamma [(1 - lambda) q_{t+1} + lambda G_{t+1}]`` with ``G_n = q_n``.

    Args:
      rewards: ``r_0 .. r_{n-1}``, ``(n, 2, B)``.
      later: quantiles ``q_1 .. q_n``, ``(n, 2, B, Q)``; each goes through on its own, unsorted.
      gamma: meta-discounts, ``(2, B)``.
      lam: lambda.

    Returns:
      ``G_0 .. G_{n-1}``, ``(n, 2, B, Q)``.
    """
    discount = gamma[..., None]

    def back(onward: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, q = step
        onward = (1.0 - discount) * reward[..., None] + discount * ((1.0 - lam) * q + lam * onward)
        return onward, onward

    return lax.scan(back, later[-1], (rewards, later), reverse=True)[1]


@jax.custom_vjp
def quantile_huber(predicted: Array, target: Array) -> Array:
    """Quantile regression with Huber's threshold 1: ``(..., Q)`` and samples ``(..., N)`` to ``(...)``.

    ``sum_k mean_j |tau_k - 1[u < 0]| huber(u)`` with ``u = target_j - predicted_k`` and
    ``tau_k = (k + 1/2) / Q``, k from 0 (Dabney et al., AAAI 2018, eq. 10). Targets are data:
    derivatives are with respect to the prediction.
    """
    return _quantile_huber(predicted, target)[0]


def _quantile_huber(predicted: Array, target: Array) -> tuple[Array, Array]:
    """The loss and its derivative. All pairs of quantiles and samples are many: the samples are
    a loop and nothing of the size of the pairs is ever stored."""
    count = predicted.shape[-1]
    tau = (jnp.arange(count) + 0.5) / count
    samples = jnp.moveaxis(target, -1, 0)[..., None]

    def add(j: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        u = samples[j] - predicted
        pull = jnp.clip(u, -1.0, 1.0)
        weighed = jnp.where(u < 0, 1.0 - tau, tau) * pull
        return sums[0] + weighed * (u - 0.5 * pull), sums[1] - weighed

    zeros = jnp.zeros_like(predicted)
    loss, slope = lax.fori_loop(0, len(samples), add, (zeros, zeros), unroll=min(8, len(samples)))
    return jnp.sum(loss, axis=-1) / len(samples), slope / len(samples)


quantile_huber.defvjp(_quantile_huber, lambda slope, cotangent: (cotangent[..., None] * slope, None))


@pytree_dataclass
class MeVa(PreparedLearner, GradientLearner):
    """Gradient ascent on a learned meta-value, ``d/dx_i [(1 - gamma) f_i + gamma U_i]``.

    Playing takes everybody's parameters and the own gradient. The preparation imagines
    opponents that learn by the rule ``against``: ``naive``, ``lola`` (the LOLA paper's update
    with the own step as assumed step), ``self``, the same meta-value with the same weights, or
    another rule that steps along a direction, or several of them with shares.

    A step of the preparation is one step of Adam, of which there are ``inner_steps / stride`` on
    the way from one set of random policies. Where to learn is decided by a path along the raw
    network whose last layer has some of its signs flipped; from wherever it has come to, a path
    of ``stride`` steps of the rule itself, at meta-discounts drawn anew from Beta(1/2, 1/2), is
    what is learned from. The shipped network is the target network.
    """

    access: ClassVar[Access] = Access.GRADIENTS
    reads_facts: ClassVar[bool] = True
    source = "Cooijmans, Aghajohari, Courville, arXiv 2307.08863; official notebooks of November 2023"
    published: ClassVar = {
        "ipd": {"lr": 1.0},
        "imp": {"lr": 1.0},
        "chicken": {"lr": 0.04},
        "logistic": {
            "lr": 1.0,
            "form": "v",
            "explore": "none",
            "hidden": 64,
            "quantiles": 16,
            "residual_blocks": 1,
            "outer_steps": 5001,
            "inner_steps": 50,
            "stride": 50,
            "target_rate": 0.0,
            "weight_decay": 0.0,
            "start_range": 8.0,
        },
    }

    gamma_eval: float = field(0.95, "meta-discount that is played with", low=0.0, high=1.0)
    against: Any = field(
        "self",
        "rule of the opponents imagined in the preparation",
        choices=("naive", "lola", "self"),
        static=True,
        learner=True,
    )
    form: str = field(
        "u", "u: the return is exact and what follows is learned; v: all is", choices=("u", "v"), static=True
    )
    vary_gamma: bool = field(
        True, "meta-discounts of the preparation are drawn at random; else gamma_eval", static=True
    )
    explore: str = field(
        "sign",
        "paths that decide where to learn: sign: flipped signs in the last layer; raw: none flipped; none: no such "
        "paths, each path learned from starts where the one before ended",
        choices=("sign", "raw", "none"),
        static=True,
    )
    flip: float = field(1 / 16, "share of signs flipped", low=0.0, high=1.0)
    hidden: int = field(128, "units per layer", low=1, static=True, small=8)
    quantiles: int = field(64, "quantiles of a meta-value; 1 is a mean", low=1, static=True)
    residual_blocks: int = field(0, "residual blocks per player, and of the pair", low=0, static=True)
    outer_steps: int = field(1001, "sets of random policies learned from", low=1, static=True, small=4)
    inner_steps: int = field(100, "updates from each of them", low=1, static=True, small=2)
    stride: int = field(10, "updates per step of Adam", low=1, static=True)
    batch_size: int = field(128, "joint policies at once", low=1, static=True, small=16)
    td_lambda: float = field(0.9, "lambda of the returns", low=0.0, high=1.0)
    target_rate: float = field(
        0.99, "what stays of the target network per step; 0: no target network", low=0.0, high=1.0
    )
    learning_rate: float = field(1e-3, "step of Adam (0.9, 0.99)", low=0.0)
    weight_decay: float = field(0.01, "decoupled decay per step, times learning_rate", low=0.0)
    start_range: float = field(
        0.0, "imagined policies start uniformly in plus or minus this; 0: as the game's do", low=0.0, static=True
    )

    def check_game(self, game: Game, player: int) -> None:
        if game.n_players != 2:
            raise ValueError(f"is defined for 2 players, as its paper is; the game has {game.n_players}")
        if game.sizes[0] != game.sizes[1]:
            raise ValueError("needs two players with equally many parameters, which this game does not have")
        if self.led == 1:
            coplayers = self.coplayers()
            coplayers.check_exact(game, player)
            coplayers.check_counts(self.batch_size, "paths")
            for rule in coplayers.learners:
                name = type(rule).__name__
                if not isinstance(rule, GradientLearner):
                    raise ValueError(f"has against={name}, which has no direction; allowed: rules that step along one")
                if jax.tree.leaves(jax.eval_shape(lambda rule=rule: rule.init(jax.random.key(0), game, 1 - player)[1])):
                    raise ValueError(f"has against={name}, which remembers something; allowed: rules that do not")
        if self.inner_steps % self.stride:
            raise ValueError(f"has inner_steps {self.inner_steps}, which is no multiple of its stride {self.stride}")

    # --- the rule ---------------------------------------------------------------------------

    def network(self, game: Game) -> Any:
        """The meta-values' network for this game, an instance of flax's ``Module``: equivariant where
        the players are alike in everything."""
        equivariant = self.led == 2 and game.symmetric
        return MetaValueNetwork(game.memory_one, self.hidden, self.quantiles, self.residual_blocks, equivariant)

    def direction(self, view: View) -> Tree:
        game, (other,) = view.game, view.others
        x = jnp.stack([jnp.stack(list(view.own)), jnp.stack(list(view.params[other]))])[:, None]
        gamma = jnp.full((2, 1), self.gamma_eval, x.dtype)
        slopes = own_slopes(self.network(game), view.artifact, x, gamma, led=1)[0, 0] / game.per_step
        onward = tuple(slopes) if isinstance(view.own, tuple) else slopes
        if self.form == "v":
            return onward
        return trees.add(trees.scale(1.0 - self.gamma_eval, view.gradient()), onward, self.gamma_eval)

    # --- imagined paths ---------------------------------------------------------------------

    @property
    def led(self) -> int:
        """How many players follow the meta-value in the preparation."""
        return 2 if self.against == "self" else 1

    def coplayers(self) -> Mixture:
        """The rules of imagined opponents that are no meta-learners."""
        words = {"naive": Naive(lr=self.lr), "lola": LOLA(lr=self.lr, lookahead_lr=self.lr)}
        return Mixture.of(self.against, words)

    def moved(
        self,
        game: Game,
        player: int,
        weights: Tree,
        x: Array,
        gamma: Array,
        signs: Array | None = None,
        *,
        raw: bool = False,
    ) -> Array:
        """Joint parameters ``(2, B, d)`` after one update of both players.

        Args:
          game, player: the seat that the first row sits in.
          weights: of the network.
          x, gamma: parameters ``(2, B, d)`` and meta-discounts ``(2, B)``.
          signs: of the network's last layer.
          raw: meta-learners follow the network's output itself, not what it stands for.
        """
        follow_return = self.form == "u" and not raw
        direction = own_slopes(self.network(game), weights, x, gamma, self.led, signs) / game.per_step
        if not follow_return and self.led == 2:
            return x + self.lr * direction
        gradients, others = self._exact_directions(game, player, x, follow_return)
        if follow_return:
            discount = gamma[: self.led, :, None]
            direction = (1.0 - discount) * gradients + discount * direction
        # One sum for both rows, whoever they follow: taken apart it is rounded otherwise.
        return x + self.lr * jnp.concatenate([direction, others])

    def _exact_directions(self, game: Game, player: int, x: Array, gradients: bool) -> tuple[Array, Array]:
        """What an update takes from the exact game, in units of the own step.

        Returns:
          Gradients of the meta-learners' own returns, ``(led, B, d)``, if asked for (else ``(0, B, d)``);
          and the directions of opponents that are none, ``(2 - led, B, d)``.
        """
        coplayers = self.coplayers() if self.led == 1 else Mixture(learners=(Given(),), shares=(1.0,))
        cuts = np.cumsum(coplayers.counts(x.shape[1]))[:-1]
        rows = self.led if gradients else 0
        parts = []
        for rule, pairs in zip(coplayers.learners, jnp.split(x, cuts, axis=1), strict=True):
            stage = Stage(game, (Given(), rule) if player == 0 else (rule, Given()), playing=False)

            def of_one(pair: Array, stage: Stage = stage, rule: Any = rule) -> Array:
                views = stage.views(stage.joint(_seated(pair, player), [(), ()]))
                towards = [views[seat].gradient() for seat in (player, 1 - player)[:rows]]
                if self.led == 1:
                    direction = with_info(rule.direction(views[1 - player]))[0]
                    towards.append(direction if rule.lr is self.lr else trees.scale(rule.lr / self.lr, direction))
                return jnp.stack([jnp.stack(d) for d in towards])

            with costs.repeated(pairs.shape[1]):
                parts.append(jax.vmap(of_one, in_axes=1, out_axes=1)(pairs))
        together = jnp.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        return together[:rows], together[rows:]

    def path(self, game: Game, player: int, weights: Tree, x: Array, gamma: Array) -> Array:
        """Joint parameters along ``stride`` updates, both ends included, ``(stride + 1, 2, B, d)``."""

        def step(x: Array, _: None) -> tuple[Array, Array]:
            x = self.moved(game, player, weights, x, gamma)
            return x, x

        with costs.repeated(self.stride):
            _, after = lax.scan(step, x, length=self.stride)
        return jnp.concatenate([x[None], after])

    def _explored(self, game: Game, player: int, weights: Tree, x: Array, gamma: Array, signs: Array) -> Array:
        """Where the path that decides where to learn comes to in ``stride`` updates."""
        flipped = signs[: self.led] if self.explore == "sign" else None

        def step(_: Array, x: Array) -> Array:
            return self.moved(game, player, weights, x, gamma, flipped, raw=True)

        with costs.repeated(self.stride):
            return lax.fori_loop(0, self.stride, step, x)

    def returns(self, game: Game, player: int, x: Array) -> Array:
        """Per-step returns, own first, at joint parameters ``(..., 2, B, d)``: ``(..., 2, B)``."""
        flat = jnp.moveaxis(x, -3, 0).reshape(2, -1, x.shape[-1])

        def of_one(pair: Array) -> Array:
            costs.charge(evaluations=2)
            return jnp.stack([game.value(_seated(pair, player), seat) for seat in (player, 1 - player)])

        with costs.repeated(flat.shape[1]):
            values = jax.vmap(of_one, in_axes=1, out_axes=1)(flat)
        return game.per_step * jnp.moveaxis(values.reshape(2, *x.shape[:-3], x.shape[-2]), 0, -2)

    # --- learning the meta-value ------------------------------------------------------------

    def targets(self, game: Game, weights: Tree, path: Array, returns: Array, gamma: Array) -> Array:
        """Lambda-returns ``(n, 2, B, Q)`` along a path, by a network that is not differentiated.

        Args:
          game: the game.
          weights: of the target network.
          path: ``(n + 1, 2, B, d)``.
          returns: along the path, ``(n + 1, 2, B)``; U counts those after each update, V those before.
          gamma: meta-discounts, ``(2, B)``.
        """
        rewards = returns[1:] if self.form == "u" else returns[:-1]
        later = self._along(game, weights, path[1:], gamma)
        return lax.stop_gradient(lambda_returns(rewards, later, gamma, self.td_lambda))

    def _along(self, game: Game, weights: Tree, path: Array, gamma: Array) -> Array:
        """Quantiles at all points of a path in one pass, ``(n, 2, B, d)`` to ``(n, 2, B, Q)``."""
        n, _, batch, size = path.shape
        flat = jnp.swapaxes(path, 0, 1).reshape(2, n * batch, size)
        quantiles = self.network(game).apply(weights, flat, jnp.tile(gamma, (1, n)))
        return jnp.swapaxes(quantiles.reshape(2, n, batch, -1), 0, 1)

    def loss(
        self, game: Game, weights: Tree, target: Tree, path: Array, returns: Array, gamma: Array
    ) -> tuple[Array, Array]:
        """Mean quantile-regression loss along a path, and the mean absolute error of the mean.

        Paths are data: nothing is differentiated but the predictions in ``weights``.
        """
        path = lax.stop_gradient(path)
        goal = self.targets(game, target, path, returns, gamma)
        predicted = self._along(game, weights, path[:-1], gamma)
        error = jnp.mean(jnp.abs(jnp.mean(goal, axis=-1) - jnp.mean(predicted, axis=-1)))
        return jnp.mean(quantile_huber(predicted, goal)), error

    # --- the preparation --------------------------------------------------------------------

    @property
    def preparation_steps(self) -> int:
        return self.outer_steps * (self.inner_steps // self.stride)

    @property
    def preparation_width(self) -> int:
        return self.batch_size

    def optimiser(self) -> optax.GradientTransformation:
        return optax.adamw(self.learning_rate, b1=0.9, b2=0.99, weight_decay=self.weight_decay)

    def prepare_init(self, key: Array, game: Game, player: int) -> Tree:
        del player
        network = self.network(game)
        x = jnp.zeros((2, 1, game.sizes[0]))
        online, target = (network.init(k, x, jnp.zeros((2, 1))) for k in jax.random.split(key))
        # Independent of one another as in the official code, unless there is no target network.
        target = jax.tree.map(lambda a, b: jnp.where(self.target_rate == 0.0, a, b), online, target)
        return {
            "weights": online,
            "target": target,
            "optimiser": self.optimiser().init(online),
            "x": jnp.zeros((2, self.batch_size, game.sizes[0])),
            "gamma": jnp.zeros((2, self.batch_size)),
            "signs": jnp.ones((2, self.batch_size, self.hidden)),
        }

    def prepare_step(self, key: Array, step: Array, carry: Tree, game: Game, player: int) -> tuple[Tree, Info]:
        weights, target = carry["weights"], carry["target"]
        start_key, key = jax.random.split(key)
        begins = step % (self.inner_steps // self.stride) == 0
        setting = tuple(carry[name] for name in ("x", "gamma", "signs"))
        fresh = self._fresh(start_key, game, player)
        x, gamma, signs = (jnp.where(begins, new, old) for new, old in zip(fresh, setting, strict=True))
        start = x if self.explore == "none" else self._explored(game, player, weights, x, gamma, signs)

        discount = self._discounts(key)
        path = self.path(game, player, weights, start, discount)
        returns = self.returns(game, player, path)
        (loss, error), slopes = jax.value_and_grad(
            lambda w: self.loss(game, w, target, path, returns, discount), has_aux=True
        )(weights)
        change, optimiser = self.optimiser().update(slopes, carry["optimiser"], weights)
        weights = optax.apply_updates(weights, change)
        target = jax.tree.map(lambda a, b: self.target_rate * a + (1.0 - self.target_rate) * b, target, weights)
        new = {
            "weights": weights,
            "target": target,
            "optimiser": optimiser,
            "x": path[-1] if self.explore == "none" else start,
            "gamma": gamma,
            "signs": signs,
        }
        own, other = jnp.mean(returns[-1], axis=-1)
        return new, {"loss": loss, "td_error": error, "own_return": own, "other_return": other}

    def artifact(self, carry: Tree) -> Tree:
        return carry["target"]

    def _fresh(self, key: Array, game: Game, player: int) -> tuple[Array, Array, Array]:
        """Random policies, meta-discounts and signs to explore with."""
        policy_key, gamma_key, sign_key = jax.random.split(key, 3)
        batch, size = self.batch_size, game.sizes[0]
        if self.start_range > 0.0:
            x = jax.random.uniform(policy_key, (2, batch, size), minval=-self.start_range, maxval=self.start_range)
        else:
            keys = jax.random.split(policy_key, (2, batch))
            seats = (player, 1 - player)
            x = jnp.stack([jax.vmap(lambda k, i=i: game.init_params(k, i))(keys[row]) for row, i in enumerate(seats)])
        flips = jax.random.bernoulli(sign_key, self.flip, (2, batch, self.hidden))
        return x, self._discounts(gamma_key), jnp.where(flips, -1.0, 1.0)

    def _discounts(self, key: Array) -> Array:
        """Meta-discounts of both players, ``(2, B)``, distributed as Beta(1/2, 1/2)."""
        shape = (2, self.batch_size)
        if not self.vary_gamma:
            return jnp.full(shape, self.gamma_eval, jnp.result_type(float))
        return jnp.square(jnp.sin(0.5 * math.pi * jax.random.uniform(key, shape)))


def _seated(pair: Array, player: int) -> tuple[Tree, ...]:
    """Own-first parameters ``(2, d)`` as the game has them: by seat, tuples of scalars."""
    own, other = tuple(pair[0]), tuple(pair[1])
    return (own, other) if player == 0 else (other, own)
