"""RILI: LILI for others who change the rule by which they react, which is inferred from several interactions.

Parekh, Losey (arXiv 2212.09586). Of every interaction a strategy z is made; of four strategies in a row who the
partner is, a vector p; and the next strategy follows from the last one under that partner. A soft actor-critic acts
on the next strategy, its deviation and the partner, none of which its losses reach.

Equations and numbers are those of the official code. There a decoder tells all rewards of an interaction at once, on
the scale of that code's games; here too, on the scale of ``reward_scale``.
"""

from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.scipy.special import ndtri

from shaping_bench.algorithms.core import field, pytree_dataclass
from shaping_bench.algorithms.core.distributions import uniform
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.networks import Network
from shaping_bench.algorithms.parts.policies import encoding
from shaping_bench.algorithms.sac import SAC, Batch, Interactions
from shaping_bench.games.base import Game

PAST = 4
"""Interactions of which it is inferred who the partner is."""


@pytree_dataclass
class RILI(SAC):
    """SAC on what is seen and ``(z^{i}, sigma^{i}, p)``, which four interactions before the i-th foretell. Its networks
    descend the squared errors of rewards, told from strategies as made of interactions and as foretold, and the
    divergence of what is drawn from standard normal numbers."""

    history: ClassVar[int] = PAST
    source = "Parekh & Losey 2022, arXiv 2212.09586; official code"

    influence: bool = field(True, "values reach into the next interaction", static=True)
    temperature: float | None = field(0.2, "weight of the entropy; none: as keeps it at its target", low=0.0)
    reconstruction_lr: float = field(1e-3, "step of Adam, all that foretells", low=0.0)
    kl_weight: float = field(0.5, "of the divergences", low=0.0)
    interactions: int = field(50, "of a batch", low=1, static=True, small=4)
    latent: int = field(10, "numbers in z, and in p", low=1, static=True, small=2)
    encoder_hidden: int = field(64, "units of each of two layers of what foretells", low=1, static=True, small=8)

    def context_size(self, game: Game) -> int:
        return 3 * self.latent

    def _network(self, **heads: int) -> Network:
        return Network(heads=tuple(heads.items()), dense=(self.encoder_hidden,) * 2, activation="tanh")

    def _drawing(self) -> Network:
        return self._network(mean=self.latent, log_variance=self.latent)

    def representation(self, key: Array, game: Game, player: int) -> Tree:
        size, length = encoding(game, player=player).shape[0], game.num_steps
        networks = {
            "strategy": (self._network(z=self.latent), length * (size + 1)),
            "partner": (self._drawing(), PAST * self.latent),
            "dynamics": (self._drawing(), 2 * self.latent),
            "decoder": (self._network(rewards=length), length * size + self.latent),
        }
        keys = jax.random.split(key, len(networks))
        return {
            name: network.init(k, (), jnp.zeros(inputs))["params"]
            for k, (name, (network, inputs)) in zip(keys, networks.items(), strict=True)
        }

    # what foretells

    def strategies(self, representation: Tree, transcripts: Array) -> Array:
        """Of interactions, what was seen and earned in all their steps ``(..., H, d + 1)``, one each ``(..., l)``."""
        network, flat = self._network(z=self.latent), transcripts.reshape(*transcripts.shape[:-2], -1)
        return network.along(network.laid(representation["strategy"]), flat)["z"]

    def drawn_of(self, weights: Tree, noise: Array, *x: Array) -> tuple[Array, Array, Array]:
        """A draw, its mean and the logarithm of its variance, ``(..., l)`` each."""
        heads = self._drawing().along(self._drawing().laid(weights), jnp.concatenate(x, axis=-1))
        return heads["mean"] + jnp.exp(0.5 * heads["log_variance"]) * noise, heads["mean"], heads["log_variance"]

    def partner(self, representation: Tree, strategies: Array, noise: Array) -> tuple[Array, Array, Array]:
        """Of four strategies in a row, ``(..., 4, l)``."""
        return self.drawn_of(representation["partner"], noise, strategies.reshape(*strategies.shape[:-2], -1))

    def foretold(self, representation: Tree, transcripts: Array, noise: Array) -> Array:
        """The context after four interactions ``(..., 4, H, d + 1)``, by normal numbers ``(..., 2, l)``."""
        strategies = self.strategies(representation, transcripts)
        p, _, _ = self.partner(representation, strategies, noise[..., 0, :])
        z, _, spread = self.drawn_of(representation["dynamics"], noise[..., 1, :], strategies[..., -1, :], p)
        return jnp.concatenate([z, jnp.exp(0.5 * spread), p], axis=-1)

    def told(self, representation: Tree, seen: Array, strategies: Array) -> Array:
        """Rewards of interactions, ``(..., H)``, from what was seen in them ``(..., H, d)`` and their strategies."""
        network = self._network(rewards=seen.shape[-2])
        x = jnp.concatenate([seen.reshape(*seen.shape[:-2], -1), strategies], axis=-1)
        return network.along(network.laid(representation["decoder"]), x)["rewards"]

    # what the base asks

    def dice(self) -> dict[str, tuple[int, ...]]:
        return {"contexts": (self.interactions, 2, 2, self.latent), "fit": (self.interactions, 1 + PAST, self.latent)}

    def _transcripts(self, memory: Interactions, index: Array, count: int) -> Array:
        """Of so many interactions up to one, itself included, rewards scaled, ``(..., count, H, d + 1)``."""
        rows = memory.earlier(index[..., None], jnp.arange(count - 1, -1, -1))
        length = memory.rewards.shape[1]
        whole = memory.transcript(rows, jnp.broadcast_to(jnp.arange(length), (*rows.shape, length)))
        return whole.at[..., -1].multiply(self.reward_scale)

    def inputs(self, words: Mapping[str, Array], memory: Interactions, batch: Batch) -> Tree:
        noise = {name: ndtri(uniform(words[name])) for name in ("contexts", "fit")}
        return self._transcripts(memory, batch.which, 1 + PAST), noise

    def contexts(self, representation: Tree, inputs: Tree) -> tuple[Tree, Tree]:
        transcripts, noise = inputs
        parts = (transcripts[:, :PAST], transcripts[:, 1:])
        now, following = (self.foretold(representation, part, noise["contexts"][:, k]) for k, part in enumerate(parts))
        return lax.stop_gradient(now), lax.stop_gradient(following)

    def noted(self, words: Mapping[str, Array], representation: Tree, memory: Interactions) -> Tree:
        last = self._transcripts(memory, memory.earlier(memory.total, 1), PAST)
        return self.foretold(representation, last, ndtri(uniform(words["contexts"][0, 0])))

    def misfit(self, representation: Tree, inputs: Tree, batch: Batch) -> Array:
        transcripts, noise = inputs
        seen, rewards = transcripts[..., :-1], transcripts[..., -1]
        strategies = self.strategies(representation, transcripts[:, :PAST])
        p, *of_partner = self.partner(representation, strategies, noise["fit"][:, 0])
        beside = jnp.broadcast_to(p[:, None], strategies.shape)
        ahead, *of_next = self.drawn_of(representation["dynamics"], noise["fit"][:, 1:], strategies, beside)

        def error(which: slice, z: Array) -> Array:
            return PAST * jnp.mean(jnp.square(self.told(representation, seen[:, which], z) - rewards[:, which]))

        divergence = _from_standard(*of_partner) + PAST * _from_standard(*of_next)
        known, next_ones = error(slice(PAST), strategies), error(slice(1, None), ahead)
        return known + next_ones + self.kl_weight * divergence

    def _optimisers(self) -> dict[str, optax.GradientTransformation]:
        return super()._optimisers() | {"reconstruction": optax.flatten(optax.adam(self.reconstruction_lr))}


def _from_standard(mean: Array, log_variance: Array) -> Array:
    """Mean divergence, per number, of normal numbers from standard ones."""
    return 0.5 * jnp.mean(jnp.exp(log_variance) + jnp.square(mean) - 1.0 - log_variance)
