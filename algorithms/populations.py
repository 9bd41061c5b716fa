"""Populations of co-players, of which each seed draws its own.

Most never learn: memory-one policies, personas among them, bots with names, policies that were stored
before. One does: naive learners with settings that rules which shape do not expect. They are co-players
like any other learner (``mfos(against=memory-one(split=train))``), and sit in encounters and leagues as
well. What a seed draws is data of its lane: all draws share one compiled program.
"""

import dataclasses
import functools
import itertools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.algorithms.core import GradientLearner, Info, Learner, View, field, pytree_dataclass
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.fixed import FixedStrategy, logits_of
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.parts.files import content
from shaping_bench.algorithms.policy_gradient import NaivePG
from shaping_bench.algorithms.ppo import PPO
from shaping_bench.games.base import Game
from shaping_bench.games.matrix.memory_one import TEMPLATES

SPLITS = {"train": range(8), "validation": (8,), "test": (9,), "all": range(10)}
"""Which of every ten policies of a list are in which part of it."""

MOST_STATES = 12
"""Most states of which all pure policies are listed."""


class Population(FixedStrategy):
    """Base: a list of policies, cut into disjoint parts, of which each seed draws one."""

    two_players_only: ClassVar[bool] = False
    split: str

    def everybody(self, game: Game, player: int) -> np.ndarray:
        """Logits of the whole list, ``(N, d_i)``.

        Raises:
          ValueError: there is none for this seat.
        """
        raise NotImplementedError

    def logits(self, game: Game, player: int) -> np.ndarray:
        """Logits of the part that is drawn from. A longer list leaves everybody in their part."""
        return _part(self.everybody(game, player), self.split)

    def check_game(self, game: Game, player: int) -> None:
        super().check_game(game, player)
        if not len(self.logits(game, player)):
            raise ValueError(f"has no policies in its part {self.split!r}; allowed here: all")

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Tree]:
        logits = jax.numpy.asarray(self.logits(game, player), jax.numpy.result_type(float))
        return logits[jax.random.randint(key, (), 0, len(logits))], ()


@pytree_dataclass
class MemoryOne(Population):
    """A memory-one policy drawn from a seeded list of them.

    Of every ten policies of the list eight are in the part ``train``, one is in ``validation`` and
    one in ``test``; whoever is prepared against the one part can be met by another.

    >>> from shaping_bench.games import make
    >>> [len(MemoryOne(split=split, size=50).logits(make("ipd"), 0)) for split in ("train", "validation", "test")]
    [40, 5, 5]
    """

    source = "the space of memory-one policies"

    split: str = field("all", "part of the list that is drawn from", choices=tuple(SPLITS), static=True)
    size: int = field(1000, "policies in the list; of the pure ones all are", low=10, static=True)
    seed: int = field(0, "of the list", low=0, static=True)
    kind: str = field(
        "uniform",
        "probabilities of action 0: uniform in [0, 1]; arcsine: mostly near 0 or 1, Beta(1/2, 1/2); pure: 0 or 1",
        choices=("uniform", "arcsine", "pure"),
        static=True,
    )

    def everybody(self, game: Game, player: int) -> np.ndarray:
        states = game.sizes[player]
        if self.kind == "pure" and states > MOST_STATES:
            raise ValueError(f"would list 2**{states} pure policies; allowed: games of at most {MOST_STATES} states")
        return _saturated(_memory_one(self.kind, self.size, self.seed, states))


@pytree_dataclass
class Stored(Population):
    """A policy out of a file of final policies, as cells store them (``policies.npz``)."""

    source = "what was stored"

    path: str = field(doc="of the file", static=True)
    sha256: str = field(doc="of its content, the first digits: what was met stays what was met", static=True)
    seat: int = field(1, "whose policies", low=1, static=True)
    split: str = field("all", "part of the policies that is drawn from", choices=tuple(SPLITS), static=True)

    def everybody(self, game: Game, player: int) -> np.ndarray:
        logits = _stored(self.path, self.sha256, f"player_{self.seat}")
        if logits.ndim != 2 or logits.shape[1] != game.sizes[player]:
            size = game.sizes[player]
            raise ValueError(f"holds policies {logits.shape[1:]} in {self.path}; here they have {size} numbers")
        return logits


@pytree_dataclass
class Persona(Population):
    """A memory-one policy whose probabilities of action 0 are all drawn from one range: from (1/2, 1) one
    that is inclined to cooperate, from (0, 1/2) one that is not (the persona classes of Meta-MAPG).

    The range is data: personas of all kinds share one compiled program.
    """

    source = "Kim et al., ICML 2021"

    low: float = field(0.0, "least probability", low=0.0, high=1.0)
    high: float = field(1.0, "greatest probability", low=0.0, high=1.0)
    split: str = field("all", "part of the list that is drawn from", choices=tuple(SPLITS), static=True)
    size: int = field(1000, "policies in the list", low=10, static=True)
    seed: int = field(0, "of the list", low=0, static=True)

    def everybody(self, game: Game, player: int) -> np.ndarray:
        return np.asarray(logits_of(self._probabilities(self._draws(game, player))))

    def _draws(self, game: Game, player: int) -> np.ndarray:
        return _memory_one("uniform", self.size, self.seed, game.sizes[player])

    def _probabilities(self, draws: Any) -> Any:
        return self.low + (self.high - self.low) * draws

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Tree]:
        draws = jnp.asarray(_part(self._draws(game, player), self.split), jnp.result_type(float))
        return logits_of(self._probabilities(draws[jax.random.randint(key, (), 0, len(draws))])), ()


PERSONAS = {"train": range(200), "validation": range(200, 220), "test": range(220, 240), "all": range(240)}
"""Which personas of each class are in which part: 200, 20 and 20."""


@pytree_dataclass
class PersonaLearner(GradientLearner):
    """A naive learner that starts as a persona (Meta-MAPG's peers): one action is likelier than all others in
    every state. Its probability is uniform between 1/k and 1 of k actions, drawn for each state; the others
    share the rest. Of every class, one per action, there are 240, cut into 200, 20 and 20.
    """

    source = "Kim et al., ICML 2021, official code"

    split: str = field("all", "part of the list that is drawn from", choices=tuple(PERSONAS), static=True)
    prefers: int | None = field(None, "the likelier action; none: of each class alike", low=0, static=True)
    seed: int = field(0, "of the list", low=0, static=True)

    def everybody(self, game: Game, player: int) -> np.ndarray:
        """Parameters of the part that is drawn from, ``(N, d_i)``."""
        actions = self._actions(game)
        # Two actions: one logit per state; more: one per state and action.
        states = game.sizes[player] // (1 if actions == 2 else actions)
        likely = 1.0 / actions + (1.0 - 1.0 / actions) * np.random.default_rng([self.seed, states]).random(
            (actions, len(PERSONAS["all"]), states)
        )
        classes = range(actions) if self.prefers is None else (self.prefers,)
        found = []
        for action in classes:
            chosen = likely[action, list(PERSONAS[self.split])]
            shares = np.repeat(((1.0 - chosen) / (actions - 1))[..., None], actions, axis=-1)
            shares[..., action] = chosen
            logits = np.log(shares)
            found.append(logits[..., 0] - logits[..., 1] if actions == 2 else logits.reshape(len(chosen), -1))
        return np.concatenate(found)

    @staticmethod
    def _actions(game: Game) -> int:
        return 2 if game.table is not None else game.n_actions

    def check_game(self, game: Game, player: int) -> None:
        if game.table is None and game.family != "rps":
            raise ValueError("starts as a persona, a policy of a few actions; allowed: two-action games, and rps")
        actions = self._actions(game)
        if self.prefers is not None and self.prefers >= actions:
            raise ValueError(f"has prefers={self.prefers}; allowed: none, or 0 to {actions - 1}")

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Tree]:
        listed = jnp.asarray(self.everybody(game, player), jnp.result_type(float))
        return listed[jax.random.randint(key, (), 0, len(listed))], ()

    def direction(self, view: View) -> Tree:
        return view.gradient()


BOTS: dict[str, tuple[float, ...]] = {
    "cooperator": TEMPLATES["all_c"],
    "defector": TEMPLATES["all_d"],
    "tit for tat": TEMPLATES["tft"],
    "suspicious tit for tat": TEMPLATES["suspicious_tft"],
    "trembling tit for tat": (0.9, 0.9, 0.1, 0.9, 0.1),
    "generous tit for tat": (1.0, 1.0, 0.3, 1.0, 0.3),
    "grim after one strike": TEMPLATES["grim"],
    "win-stay, lose-shift": TEMPLATES["wsls"],
}
"""The bots of repeated dilemmas that remember one round, as probabilities of action 0."""


@pytree_dataclass
class Bots(FixedStrategy):
    """One of the bots that lists of scenarios of repeated dilemmas have in common, of those that remember
    one round: cooperator, defector, tit for tat (plain, suspicious, trembling, generous), grim, win-stay
    lose-shift."""

    source = "Leibo et al. 2021, scenarios of the prisoner's dilemma in the matrix"

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Tree]:
        del game, player
        bots = logits_of(np.array(list(BOTS.values())))
        return bots[jax.random.randint(key, (), 0, len(BOTS))], ()


class Drawn:
    """Base of naive learners with settings drawn from a seeded list: the step is 1/10 to 10 times ``lr``, and
    the initial policy 1/3 to 3 times as far from the mean as the game says, both log-uniform."""

    split: str
    size: int
    seed: int

    def settings(self) -> np.ndarray:
        """Factors of step and spread that are drawn from, ``(N, 2)``."""
        exponents = 2.0 * np.random.default_rng(self.seed).random((self.size, 2)) - 1.0
        return _part(np.stack([10.0 ** exponents[:, 0], 3.0 ** exponents[:, 1]], axis=-1), self.split)

    def naive(self, step: Any) -> Learner:
        """The naive learner whose step is so many times ``lr``."""
        raise NotImplementedError

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Tree]:
        params, inner = self.naive(1.0).init(key, game, player)
        listed = jnp.asarray(self.settings(), jnp.result_type(float))
        step, spread = listed[jax.random.randint(jax.random.fold_in(key, 1), (), 0, len(listed))]
        return self.spread(params, spread, game), (step, inner)

    def spread(self, params: Tree, factor: Array, game: Game) -> Tree:
        """An initial policy so many times as far from the mean."""
        return game.init_mean + factor * (params - game.init_mean)

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        step, inner = state
        params, inner, info = self.naive(step).update(key, inner, view)
        return params, (step, inner), info


@pytree_dataclass
class DrawnNaive(Drawn, GradientLearner):
    """A naive learner with settings drawn from a seeded list: its step is 1/10 to 10 times ``lr``, and its
    initial policy 1/3 to 3 times as far from the mean as the game says, both log-uniform."""

    source = "the naive learner"

    optimiser: str = field(default="sgd", doc="what turns gradients into steps", choices=("sgd", "adam"), static=True)
    split: str = field("all", "part of the list that is drawn from", choices=tuple(SPLITS), static=True)
    size: int = field(1000, "settings in the list", low=10, static=True)
    seed: int = field(0, "of the list", low=0, static=True)

    def naive(self, step: Any) -> Naive:
        return Naive(lr=self.lr * step, optimiser=self.optimiser)


@pytree_dataclass
class DrawnNaivePG(Drawn, NaivePG):
    """A naive policy-gradient learner with settings drawn from a seeded list, as of ``drawn-naive``; its policy is
    a table."""

    source = "the naive policy-gradient learner"

    split: str = field("all", "part of the list that is drawn from", choices=tuple(SPLITS), static=True)
    size: int = field(1000, "settings in the list", low=10, static=True)
    seed: int = field(0, "of the list", low=0, static=True)

    def check_game(self, game: Game, player: int) -> None:
        if self.network_for(game) != "tabular":
            raise ValueError("draws how far a table lies from the mean, and has none here; allowed: memory-one games")

    def naive(self, step: Any) -> NaivePG:
        own = {x.name: getattr(self, x.name) for x in dataclasses.fields(NaivePG)}
        return NaivePG(**{**own, "lr": self.lr * step})


@pytree_dataclass
class DrawnPPO(Drawn, PPO):
    """PPO whose step is 1/10 to 10 times ``lr``, log-uniform, drawn from a seeded list; how the initial policy of a
    network spreads is its own affair."""

    source = "PPO as other learners meet it"

    split: str = field("all", "part of the list that is drawn from", choices=tuple(SPLITS), static=True)
    size: int = field(1000, "settings in the list", low=10, static=True)
    seed: int = field(0, "of the list", low=0, static=True)

    def spread(self, params: Tree, factor: Array, game: Game) -> Tree:
        return params

    def naive(self, step: Any) -> PPO:
        own = {x.name: getattr(self, x.name) for x in dataclasses.fields(PPO)}
        return PPO(**{**own, "lr": self.lr * step})


def _part(everybody: np.ndarray, split: str) -> np.ndarray:
    return everybody[np.isin(np.arange(len(everybody)) % 10, list(SPLITS[split]))]


@functools.lru_cache(maxsize=32)
def _memory_one(kind: str, size: int, seed: int, states: int) -> np.ndarray:
    """Probabilities of action 0, ``(N, states)``."""
    rng = np.random.default_rng([seed, states])
    if kind == "pure":
        return rng.permutation(np.array(list(itertools.product((0.0, 1.0), repeat=states))))
    draws = rng.random((size, states))
    return draws if kind == "uniform" else np.sin(0.5 * np.pi * draws) ** 2


def _saturated(probabilities: np.ndarray) -> np.ndarray:
    with jax.ensure_compile_time_eval():
        return np.asarray(logits_of(probabilities))


@functools.lru_cache(maxsize=32)
def _stored(path: str, sha256: str, name: str) -> np.ndarray:
    """Raises ``ValueError`` if the file is not there or not the one that is meant."""
    with np.load(content(path, sha256)) as file:
        if name not in file.files:
            raise ValueError(f"holds no policies of {name} in {path}; there are {', '.join(file.files)}")
        return np.asarray(file[name])
