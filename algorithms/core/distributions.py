"""Distributions of actions: what a policy yields.

Each belongs to a space of actions (:mod:`shaping_bench.games.spaces`), which the functions at the end of
this file tell apart, and is a pytree whose arrays have batch axes ``...`` first. An action has the
same batch axes: an integer ``(...)`` for ``Discrete``, ``(..., *shape)`` for ``Box``, a tuple for
``Product``.

>>> import jax.numpy as jnp
>>> from shaping_bench.games.spaces import Box, Discrete, Product
>>> space = Product((Discrete(3), Box(0.0, 1.0)))
>>> policy = distribution(space, jnp.zeros(num_outputs(space)))
>>> [type(part).__name__ for part in policy.parts], num_words(space)
(['Categorical', 'SquashedNormal'], 2)
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtri

from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.spaces import Box, Discrete, Product, Space

Tree = Any

LOG_STD_LIMITS = (-5.0, 2.0)
"""Within which a network's logarithm of a standard deviation is bent."""


def uniform(words: Array) -> Array:
    """Random 32-bit words as numbers strictly between 0 and 1, of 23 bits each, so that an action
    of probability 0 or 1 to rounding is never or always taken."""
    return ((words >> 9).astype(jnp.float32) + 0.5) * jnp.float32(2.0**-23)


class Distribution:
    """Base of all."""

    def sample(self, words: Array) -> Tree:
        """An action, from random 32-bit words: ``(...)`` where :func:`num_words` is 1, else ``(..., words)``."""
        raise NotImplementedError

    def log_prob(self, action: Tree) -> Array:
        """Log-probability, or log-density, of actions: ``(...)``."""
        raise NotImplementedError

    def drawn(self, words: Array) -> tuple[Tree, Array]:
        """What :meth:`sample` gives and its ``log_prob``; of numbers both are differentiable in the distribution."""
        action = self.sample(words)
        return action, self.log_prob(action)

    def entropy(self) -> Array:
        """In nats, ``(...)``."""
        raise NotImplementedError

    def kl(self, other: Any) -> Array:
        """``KL(self || other)`` of two of the same class, ``(...)``, in nats."""
        raise NotImplementedError

    def unmixed(self) -> Any:
        """The distribution without what exploration adds to it."""
        return self

    def at(self, index: Any) -> Any:
        """The distributions at some places of the batch axes: ``policy.unroll(...).at(slice(-1))``."""
        return jax.tree.map(lambda x: x[index], self)


@pytree_dataclass
class Categorical(Distribution):
    """Of finitely many actions, by logits ``(..., n)``; minus infinity rules an action out."""

    logits: Array = field(doc="unnormalised log-probabilities")

    def sample(self, words: Array) -> Array:
        """By inversion."""
        logits, draws = self.logits, uniform(words)
        if logits.shape[-1] == 2:
            return (draws >= jax.nn.sigmoid(logits[..., 0] - logits[..., 1])).astype(jnp.int32)
        below = jnp.cumsum(jax.nn.softmax(logits, axis=-1), axis=-1)[..., :-1]
        return jnp.sum((draws[..., None] >= below).astype(jnp.int32), axis=-1)

    def log_prob(self, action: Array) -> Array:
        logits = self.logits
        if logits.shape[-1] == 2:
            margin = logits[..., 0] - logits[..., 1]
            return jax.nn.log_sigmoid(jnp.where(action == 0, margin, -margin))
        # Sums of comparisons: gathers, and the scatters that are their derivatives, do not vectorise.
        chosen = action[..., None] == jnp.arange(logits.shape[-1])
        return jnp.sum(jnp.where(chosen, jax.nn.log_softmax(logits, axis=-1), 0.0), axis=-1)

    def entropy(self) -> Array:
        log_p = jax.nn.log_softmax(self.logits, axis=-1)
        return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)

    def kl(self, other: "Categorical") -> Array:
        log_p, log_q = jax.nn.log_softmax(self.logits), jax.nn.log_softmax(other.logits)
        return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


@pytree_dataclass
class Explored(Categorical):
    """What a policy plays that explores."""

    policy: Categorical = field(doc="what it says without exploration")

    def unmixed(self) -> Categorical:
        return self.policy


@pytree_dataclass
class Normal(Distribution):
    """Independent normal numbers, ``mean`` and ``log_std`` ``(..., *shape)``."""

    mean: Array = field(doc="of each number")
    log_std: Array = field(doc="logarithm of each standard deviation")
    ndim: int = field(0, "axes of an action", static=True)

    def _sum(self, x: Array) -> Array:
        return jnp.sum(x, axis=tuple(range(-self.ndim, 0)))

    def sample(self, words: Array) -> Array:
        """By inversion; no number is further than 5.3 deviations from the mean."""
        draws = ndtri(uniform(words)).astype(self.mean.dtype)
        return self.mean + jnp.exp(self.log_std) * draws.reshape(self.mean.shape)

    def log_prob(self, action: Array) -> Array:
        scaled = (action - self.mean) * jnp.exp(-self.log_std)
        return self._sum(-0.5 * jnp.square(scaled) - self.log_std - 0.5 * math.log(2.0 * math.pi))

    def entropy(self) -> Array:
        return self._sum(self.log_std + 0.5 * math.log(2.0 * math.pi * math.e))

    def kl(self, other: "Normal") -> Array:
        ratio = jnp.exp(2.0 * (self.log_std - other.log_std))
        shift = jnp.square((self.mean - other.mean) * jnp.exp(-other.log_std))
        return self._sum(0.5 * (ratio + shift - 1.0) + other.log_std - self.log_std)


@pytree_dataclass
class SquashedNormal(Distribution):
    """Normal numbers bent into a box: ``low + (high - low) sigmoid(z)`` with z of a :class:`Normal`."""

    normal: Normal = field(doc="of the numbers before they are bent")
    low: float = field(doc="of the box", static=True)
    high: float = field(doc="of the box", static=True)

    def sample(self, words: Array) -> Array:
        return self.low + (self.high - self.low) * jax.nn.sigmoid(self.normal.sample(words))

    def drawn(self, words: Array) -> tuple[Array, Array]:
        z = self.normal.sample(words)  # bending it and unbending it again would lose what rounding loses
        action = self.low + (self.high - self.low) * jax.nn.sigmoid(z)
        return action, self.normal.log_prob(z) - self.normal._sum(self._log_slope(z))

    @property
    def middle(self) -> Array:
        """The action that is as likely exceeded as not: what a policy plays that explores no more."""
        return self.low + (self.high - self.low) * jax.nn.sigmoid(self.normal.mean)

    def _log_slope(self, z: Array) -> Array:
        """Logarithm of the derivative of the bent number."""
        return math.log(self.high - self.low) + jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z)

    def log_prob(self, action: Array) -> Array:
        # An action that rounding put on the edge counts as the last number inside.
        edge = float(jnp.finfo(action.dtype).eps)
        share = jnp.clip((action - self.low) / (self.high - self.low), edge, 1.0 - edge)
        z = jnp.log(share) - jnp.log1p(-share)
        return self.normal.log_prob(z) - self.normal._sum(self._log_slope(z))

    def entropy(self) -> Array:
        """That of the normal numbers plus the mean logarithm of the slope, by quadrature."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(12)
        z = self.normal.mean[..., None] + jnp.exp(self.normal.log_std)[..., None] * nodes.astype(np.float32)
        slope = jnp.sum(self._log_slope(z) * (weights / weights.sum()).astype(np.float32), axis=-1)
        return self.normal.entropy() + self.normal._sum(slope)

    def kl(self, other: "SquashedNormal") -> Array:
        """That of the normal numbers: bending both alike changes nothing."""
        return self.normal.kl(other.normal)


@pytree_dataclass
class Uniform(Distribution):
    """Independent numbers, each uniform between ``low`` and ``high`` ``(..., *shape)``, or certain where these are
    one: what scripts say in a box. A certain number counts as likely as one of a unit's width."""

    low: Array = field(doc="least of each number")
    high: Array = field(doc="largest of each number")
    ndim: int = field(0, "axes of an action", static=True)

    def sample(self, words: Array) -> Array:
        return self.low + (self.high - self.low) * uniform(words).astype(self.low.dtype).reshape(self.low.shape)

    def _log_widths(self) -> Array:
        width = self.high - self.low
        return jnp.sum(jnp.log(jnp.where(width > 0.0, width, 1.0)), axis=tuple(range(-self.ndim, 0)))

    def log_prob(self, action: Array) -> Array:
        inside = jnp.all((action >= self.low) & (action <= self.high), axis=tuple(range(-self.ndim, 0)))
        return jnp.where(inside, -self._log_widths(), -jnp.inf)

    def entropy(self) -> Array:
        return self._log_widths()


@pytree_dataclass
class Joint(Distribution):
    """Independent parts; an action is a tuple of one action of each."""

    parts: tuple[Any, ...] = field(doc="distributions")
    words: tuple[int, ...] = field(doc="random words that an action of each part takes", static=True)

    def sample(self, words: Array) -> tuple[Tree, ...]:
        actions, first = [], 0
        for part, count in zip(self.parts, self.words, strict=True):
            actions.append(part.sample(words[..., first] if count == 1 else words[..., first : first + count]))
            first += count
        return tuple(actions)

    def log_prob(self, action: tuple[Tree, ...]) -> Array:
        return _total(part.log_prob(x) for part, x in zip(self.parts, action, strict=True))

    def entropy(self) -> Array:
        return _total(part.entropy() for part in self.parts)

    def kl(self, other: "Joint") -> Array:
        return _total(mine.kl(theirs) for mine, theirs in zip(self.parts, other.parts, strict=True))


def _total(terms: Any) -> Array:
    first, *rest = terms
    for term in rest:
        first = first + term
    return first


# --- of a space -----------------------------------------------------------------------------------


def num_words(space: Space) -> int:
    """Random words that an action takes."""
    if isinstance(space, Product):
        return sum(num_words(part) for part in space.parts)
    return 1 if isinstance(space, Discrete) else space.size


def finite(space: Space) -> bool:
    """Whether it is a choice, or a product of choices."""
    return all(finite(part) for part in space.parts) if isinstance(space, Product) else isinstance(space, Discrete)


def num_outputs(space: Space) -> int:
    """Numbers that a network says of a distribution: logits; mean and deviation of each number of a box."""
    if isinstance(space, Product):
        return sum(num_outputs(part) for part in space.parts)
    return space.n if isinstance(space, Discrete) else 2 * space.size


def distribution(space: Space, outputs: Array) -> Any:
    """What a network says, ``(..., num_outputs(space))``, as a distribution on the space.

    Raises:
      ValueError: a box that is bounded on one side only.
    """
    if isinstance(space, Discrete):
        return Categorical(logits=outputs)
    if isinstance(space, Box):
        mean, spread = (x.reshape(*outputs.shape[:-1], *space.shape) for x in jnp.split(outputs, 2, axis=-1))
        low, high = LOG_STD_LIMITS
        # At 0, where networks start, the deviation is 1.
        log_std = jnp.where(spread > 0.0, high * jnp.tanh(spread / high), low * jnp.tanh(spread / low))
        normal = Normal(mean=mean, log_std=log_std, ndim=len(space.shape))
        if math.isinf(space.low) and math.isinf(space.high):
            return normal
        if math.isinf(space.low) or math.isinf(space.high):
            raise ValueError(f"actions between {space.low} and {space.high}; allowed: bounds on both sides, or none")
        return SquashedNormal(normal=normal, low=space.low, high=space.high)
    parts, first = [], 0
    for part in space.parts:
        parts.append(distribution(part, outputs[..., first : first + num_outputs(part)]))
        first += num_outputs(part)
    return Joint(parts=tuple(parts), words=tuple(num_words(part) for part in space.parts))


def scripted(space: Space, said: Any) -> Any:
    """What a game's script says, as a distribution on the space: of a choice logits ``(n,)``, of a box the least and
    the largest of each number, of a product a tuple of what it says of each part."""
    if isinstance(space, Discrete):
        return Categorical(logits=said)
    if isinstance(space, Box):
        low, high = (jnp.broadcast_to(jnp.asarray(x, jnp.result_type(float)), space.shape) for x in said)
        return Uniform(low=low, high=high, ndim=len(space.shape))
    parts = tuple(scripted(part, x) for part, x in zip(space.parts, said, strict=True))
    return Joint(parts=parts, words=tuple(num_words(part) for part in space.parts))
