"""Fixed strategies that remember more than one round, as finite automata.

They are played, and their policies are valued exactly (:mod:`shaping_bench.games.matrix.automata`); rules that
follow derivatives of exact values between memory-one policies do not meet them.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from shaping_bench.algorithms.core import field, pytree_dataclass
from shaping_bench.algorithms.core.distributions import Categorical
from shaping_bench.algorithms.core.policy import Policy, select
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.fixed import FixedStrategy
from shaping_bench.games.base import Game
from shaping_bench.games.matrix import automata


@dataclasses.dataclass(frozen=True)
class Remembering(Policy):
    """Plays the automaton that its parameters ``(5 M,)`` are, see :func:`automata.encoded`; its carry is the state."""

    finite_memory: ClassVar[bool] = True

    num_states: int

    def start(self) -> Array:
        return jnp.zeros((), jnp.int32)

    def step(self, params: Tree, carry: Array, observation: Array, state: Tree) -> tuple[Array, Categorical]:
        del state
        # An observation is 0 at the start, then 1 + the joint action in the own frame.
        follows = lax.stop_gradient(params[self.num_states :])
        after = select(follows, automata.JOINT * carry + observation - 1)
        carry = jnp.where(observation == 0, 0, jnp.round(after).astype(jnp.int32))
        logit = select(params[: self.num_states], carry)
        return carry, Categorical(logits=jnp.stack([logit, jnp.zeros_like(logit)], axis=-1))

    def unroll(self, params: Tree, observations: Array) -> Categorical:
        def one(carry: Array, seen: Array) -> tuple[Array, Categorical]:
            return self.step(params, carry, seen, None)

        return lax.scan(one, jnp.zeros(observations.shape[1:], jnp.int32), observations)[1]


def _automaton(cooperate: tuple[float, ...], follows: tuple[tuple[int, ...], ...]) -> automata.Automaton:
    return automata.Automaton(np.array(cooperate), np.array(follows))


def _copies(defecting: int, cooperating: int) -> tuple[int, int, int, int]:
    """Where an automaton goes by what the other has done: after CC, CD, DC, DD, own action first."""
    return (cooperating, defecting, cooperating, defecting)


def _corrigible(tremble: float) -> automata.Automaton:
    count = [_copies(k + 1, k) for k in range(3)]
    return _automaton((0.0, 0.0, 0.0, 1.0 - tremble, tremble), (*count, _copies(4, 3), _copies(4, 3)))


KINDS: dict[str, automata.Automaton] = {
    "two-strike-grim": _automaton((1.0, 1.0, 0.0), (_copies(1, 0), _copies(2, 1), _copies(2, 2))),
    "tit-for-two-tats": _automaton((1.0, 1.0, 0.0), (_copies(1, 0), _copies(2, 0), _copies(2, 0))),
    "flip": _automaton((1.0, 1.0, 1.0, 0.0), ((1,) * 4, (2,) * 4, (3,) * 4, (3,) * 4)),
    "corrigible": _corrigible(0.0),
    "trembling-corrigible": _corrigible(0.15),
}
"""Two-strike grim defects for ever once the other has defected twice; tit for two tats after two defections in a row.
Flip cooperates three times, then never. Corrigible defects until the other has defected three times, cooperates
once, and plays tit for tat from then on; the trembling one errs in that with probability 0.15."""

STATES = max(len(x.cooperate) for x in KINDS.values())
"""Of every one of them; what an automaton does not need is never reached."""


def _padded(automaton: automata.Automaton) -> np.ndarray:
    missing = STATES - len(automaton.cooperate)
    cooperate, follows = (
        np.pad(automaton.cooperate, (0, missing), constant_values=0.5),
        np.pad(automaton.follows, ((0, missing), (0, 0))),
    )
    return automata.encoded(automata.Automaton(cooperate, follows))


@pytree_dataclass
class Bot(FixedStrategy):
    """A bot that remembers more than one round: of the scenario lists of repeated dilemmas those that no
    memory-one policy is, and tit for two tats."""

    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
    source = "Leibo et al. 2021, scenarios of the prisoner's dilemma in the matrix; Axelrod 1984 (tit for two tats)"

    kind: str = field("drawn", "which; drawn: another one for every seed", choices=(*KINDS, "drawn"), static=True)

    def check_game(self, game: Game, player: int) -> None:
        del player
        if not game.memory_one or game.n_players != 2:
            raise ValueError("needs a repeated game of two players and two actions")

    def policy(self, game: Game, player: int) -> Policy:
        return Remembering(STATES)

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Tree]:
        del game, player
        listed = jnp.asarray(everybody(self.kind), jnp.result_type(float))
        return listed[jax.random.randint(key, (), 0, len(listed))], ()


def everybody(kind: str) -> Any:
    """Parameters of the bots of a kind, ``(N, 5 STATES)``."""
    return np.stack([_padded(x) for name, x in KINDS.items() if kind in (name, "drawn")])
