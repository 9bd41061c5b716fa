"""LILI: learning and influencing latent intent, by inferring what comes from what was.

Xie, Losey, Tolsma, Finn, Sadigh, CoRL 2020 (arXiv 2011.06619). The other keeps a hidden strategy during an
interaction and changes it by what it met. So an encoder makes of each interaction what the next one's strategy is, a
vector z that lets a decoder tell the next one's rewards; a soft actor-critic acts on it; and because values reach
from the end of one interaction into the next one, under the next z, the policy is paid for how the other will have
changed.

The paper was not accessible beyond its introduction; equations and sizes are those of a public review, and of code that
descends from the authors'.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from shaping_bench.algorithms.core import field, pytree_dataclass
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.networks import Network
from shaping_bench.algorithms.parts.policies import encoding
from shaping_bench.algorithms.sac import SAC, Batch, Interactions, moments
from shaping_bench.games.base import Game

SOURCE = "Xie et al., CoRL 2020, arXiv 2011.06619; code that descends from the authors'"


@pytree_dataclass
class LILI(SAC):
    """SAC on what is seen and ``z^i = E(tau^{i-1})``. The encoder descends the critics' error by one Adam, and together
    with the decoder ``(D(s, z^i) - r)^2`` by another; the policy's loss does not reach it."""

    history: ClassVar[int] = 1
    source = SOURCE

    influence: bool = field(True, "values reach into the next interaction; false: LILI (no influence)", static=True)
    context_lr: float = field(3e-4, "step of Adam, encoder by the critics' error; 0: it learns from rewards", low=0.0)
    reconstruction_lr: float = field(1e-3, "step of Adam, decoder and encoder", low=0.0)
    latent: int = field(8, "numbers in z", low=1, static=True, small=2)
    encoder_hidden: int = field(128, "units of each of two layers, encoder and decoder", low=1, static=True, small=8)
    ordered: bool = field(
        False,
        "the encoder reads evenly spaced steps in their order; false: drawn ones, in no order",
        static=True,
        added=True,
    )
    stability: float = field(0.0, "weight of a bonus -|z^{i+1} - z^i| at an interaction's end; SILI", low=0.0)

    def context_size(self, game: Game) -> int:
        return self.latent

    def _encoder(self) -> Network:
        return Network(heads=(("z", self.latent),), dense=(self.encoder_hidden,) * 2)

    def _decoder(self) -> Network:
        return Network(heads=(("reward", 1),), dense=(self.encoder_hidden,) * 2)

    def representation(self, key: Array, game: Game, player: int) -> Tree:
        first, second = jax.random.split(key)
        size = encoding(game, player=player).shape[0]
        return {
            "encoder": self._encoder().init(first, (), jnp.zeros(self.transitions * (size + 1)))["params"],
            "decoder": self._decoder().init(second, (), jnp.zeros(size + self.latent))["params"],
        }

    def encoded(self, representation: Tree, transcripts: Array) -> Array:
        """Of K transitions each, what was seen and earned, ``(..., K, d + 1)``, the z that follow, ``(..., c)``."""
        network = self._encoder()
        scaled = transcripts.at[..., -1].multiply(self.reward_scale)
        flat = scaled.reshape(*scaled.shape[:-2], -1)
        return network.along(network.laid(representation["encoder"]), flat)["z"]

    def dice(self) -> dict[str, tuple[int, ...]]:
        return {"before": (self.interactions, self.transitions - 1)}

    def inputs(self, words: Mapping[str, Array], memory: Interactions, batch: Batch) -> Tree:
        before, length = memory.earlier(batch.which, 1), memory.rewards.shape[1]
        now = self._read(words["before"], length) if self.ordered else batch.times
        return memory.transcript(before, self._read(words["before"], length)), memory.transcript(batch.which, now)

    def _read(self, words: Array, length: int) -> Array:
        """Times of what the encoder reads of interactions, ``(..., K)``; the last is the interaction's last."""
        drawn = moments(words, length)
        if not self.ordered:
            return drawn
        even = np.linspace(0, length - 1, self.transitions).round().astype(np.int32)
        return jnp.broadcast_to(even, drawn.shape)

    def contexts(self, representation: Tree, inputs: Tree) -> tuple[Tree, Tree]:
        before, now = inputs
        return self.encoded(representation, before), self.encoded(representation, now)

    def noted(self, words: Mapping[str, Array], representation: Tree, memory: Interactions) -> Tree:
        times = self._read(words["before"][0], memory.rewards.shape[1])
        return self.encoded(representation, memory.transcript(memory.earlier(memory.total, 1), times))

    def misfit(self, representation: Tree, inputs: Tree, batch: Batch) -> Array:
        context = self.encoded(representation, inputs[0])[:, None]
        network = self._decoder()
        beside = jnp.broadcast_to(context, (*batch.seen.shape[:-1], context.shape[-1]))
        told = network.along(network.laid(representation["decoder"]), jnp.concatenate([batch.seen, beside], axis=-1))[
            "reward"
        ]
        return jnp.mean(jnp.square(told[..., 0] - self.reward_scale * batch.rewards))

    def bonus(self, context: Tree, following: Tree) -> Any:
        return -self.stability * jnp.linalg.norm(following - context, axis=-1)

    def _optimisers(self) -> dict[str, optax.GradientTransformation]:
        steps = {"representation": self.context_lr, "reconstruction": self.reconstruction_lr}
        both = {name: optax.flatten(optax.adam(lr)) for name, lr in steps.items()}
        return super()._optimisers() | both
