"""Schelling diagrams: what a cooperator and a defector get, by how many of the others cooperate.

Two policies are fixed, one that counts as cooperating and one as defecting, and every number of seats is given to
the first (Hughes et al. 2018, arXiv 1803.08884, after Schelling 1973). Read at an equal number x of *others* who
cooperate, the two curves are what one gets by either choice; at an equal number of cooperators they are not.

A game of the two policies is a social dilemma if (1) all cooperating beats all defecting, (2) it beats cooperating
alone, and (3) defecting pays where nobody else cooperates (fear) or where all others do (greed). What policies are
not the best of their kind say of a game is only what they say: a diagram of learned ones can confirm, not refute.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from shaping_bench import metrics
from shaping_bench.algorithms.core import pytree_dataclass
from shaping_bench.algorithms.core.distributions import Distribution
from shaping_bench.algorithms.core.policy import Policy
from shaping_bench.algorithms.core.rollouts import rollout
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.analysis.stats import half_width
from shaping_bench.errors import BadInput
from shaping_bench.games.base import Game
from shaping_bench.games.fields import field
from shaping_bench.games.mixing import mixed
from shaping_bench.run.encounter import run_encounter, valued_exactly
from shaping_bench.spec import registry
from shaping_bench.spec.registry import Named

EPISODES_AT_ONCE = 32
"""Episodes that are played side by side: all that happens in them is held in memory."""

ZERO = 1e-9
"""Exact differences that are no larger are none."""

CONDITIONS: dict[str, str] = {
    "together": "all cooperating beats all defecting",
    "not_alone": "all cooperating beats cooperating alone",
    "fear": "defecting pays where nobody else cooperates (fear)",
    "greed": "defecting pays where all others cooperate (greed)",
    "dilemma": "a social dilemma: the first two, and fear or greed",
}
"""What :attr:`Diagram.conditions` says, in words."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """Mean returns per step with half the widths of their 95 % intervals, ``(K,)``; 0 where they are exact."""

    mean: np.ndarray
    half: np.ndarray

    def __sub__(self, other: "Curve") -> "Curve":
        return Curve(mean=self.mean - other.mean, half=np.hypot(self.half, other.half))

    def at(self, k: int) -> "Curve":
        return Curve(mean=self.mean[k], half=self.half[k])

    @property
    def positive(self) -> bool | None:
        """Of one number: whether it is more than nothing; None if its interval does not tell."""
        margin = max(float(self.half), ZERO)
        return True if self.mean > margin else False if self.half <= ZERO or self.mean < -margin else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diagram:
    """A Schelling diagram of N players.

    Attributes:
      game, cooperator, defector: as one writes them.
      cooperate, defect: of a player, by the number of others who cooperate, ``(N,)``.
      group: mean over all players, by the number of cooperators, ``(N + 1,)``.
      exact: whether these are exact values.
      episodes: that were played for each number of cooperators and seed; 0 if values are exact.
      seeds: of training, where policies were trained.
      steps: updates of training; 0 where none was trained.
    """

    game: str
    cooperator: str
    defector: str
    cooperate: Curve
    defect: Curve
    group: Curve
    exact: bool
    episodes: int
    seeds: int
    steps: int

    @property
    def gain(self) -> Curve:
        """Of defecting, at an equal number of others who cooperate."""
        return self.defect - self.cooperate

    @property
    def conditions(self) -> dict[str, bool | None]:
        """Which of :data:`CONDITIONS` hold; None where intervals do not tell."""
        everybody, gain = self.cooperate.at(-1), self.gain
        together = (everybody - self.defect.at(0)).positive
        not_alone = (everybody - self.cooperate.at(0)).positive
        fear, greed = gain.at(0).positive, gain.at(-1).positive
        found = (together, not_alone, fear, greed, _all(together, not_alone, _any(fear, greed)))
        return dict(zip(CONDITIONS, found, strict=True))

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        whole = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        curves = {
            name: {"mean": x.mean.tolist(), "half": x.half.tolist()} for name, x in whole.items() if type(x) is Curve
        }
        return {**whole, **curves, "conditions": self.conditions}


def _all(*said: bool | None) -> bool | None:
    return False if False in said else None if None in said else True


def _any(*said: bool | None) -> bool | None:
    return True if True in said else None if None in said else False


def from_plain(stored: dict[str, Any]) -> Diagram:
    """The diagram that :meth:`Diagram.plain` wrote."""
    known = {f.name for f in dataclasses.fields(Diagram)}
    values: dict[str, Any] = {
        name: Curve(mean=np.array(x["mean"]), half=np.array(x["half"])) if isinstance(x, dict) else x
        for name, x in stored.items()
        if name in known
    }
    return Diagram(**values)


# --- from policies to curves ----------------------------------------------------------------------


def diagram(
    game: Named,
    cooperator: Named,
    defector: Named,
    *,
    episodes: int = 64,
    seeds: int = 1,
    steps: int = 200,
    seed: int = 0,
) -> Diagram:
    """The diagram of a game and two policies.

    A rule that learns is trained first, by itself in all seats: as the cooperator where everybody is paid the mean of
    all (``own_share=1/N``), as the defector where everybody is paid the own reward.

    Args:
      game: of any number of players.
      cooperator, defector: rules that do not prepare.
      episodes: per number of cooperators and seed, with seats drawn anew for each, where values are not exact.
      seeds: of training, or of what populations draw.
      steps: updates of training.
      seed: of all random numbers.

    Raises:
      BadInput: a rule that prepares, or cannot play the game.
    """
    n = game.value.n_players
    if n < 2:
        raise BadInput(f"game is {game.text!r}, of one player; allowed: games of several")
    for field_, rule in (("--cooperator", cooperator), ("--defector", defector)):
        if rule.value.needs_preparation:
            raise BadInput(f"{field_} is {rule.text!r}, which prepares; allowed: rules that need no preparation")
        registry.check_encounter(game, [rule] * n)
    shared = mixed(game.value, 1.0 / n)
    kinds = [
        _params(shared if cooperator.value.learns else game.value, cooperator, seeds, steps, seed),
        _params(game.value, defector, seeds, steps, seed + 1),
    ]
    exactly = all(valued_exactly(game.value, [rule.value] * n) for rule in (cooperator, defector))
    if exactly:
        flags = (np.arange(2**n)[:, None] >> np.arange(n)) & 1 == 1
        returns = _valued(game.value, kinds, flags)
    else:
        flags = _drawn_seats(n, episodes, seed)
        returns = _played(game.value, (cooperator, defector), kinds, flags, seed)
    curves = _curves(np.asarray(returns, np.float64), flags, exactly)
    trained = cooperator.value.learns or defector.value.learns
    return Diagram(
        game=game.text,
        cooperator=cooperator.text,
        defector=defector.text,
        **curves,
        exact=exactly,
        episodes=0 if exactly else episodes,
        seeds=seeds,
        steps=steps if trained else 0,
    )


def _params(game: Game, rule: Named, seeds: int, steps: int, seed: int) -> tuple[Tree, ...]:
    """Policy parameters of every seat, leaves ``(S, ...)``."""
    n = game.n_players
    if rule.value.learns:
        return run_encounter(game, [rule.value] * n, num_seeds=seeds, num_updates=steps, seed=seed).final
    keys = jax.random.split(jax.random.key(seed), (n, seeds))
    return tuple(
        jax.vmap(lambda key, player=i: rule.value.init(key, game, player)[0], axis_size=seeds)(keys[i])
        for i in range(n)
    )


def _drawn_seats(n: int, episodes: int, seed: int) -> np.ndarray:
    """Who cooperates, ``((N + 1) * episodes, N)``: every number of cooperators equally often, in any seats."""
    cooperators = np.repeat(np.tril(np.ones((n + 1, n), bool), -1), episodes, axis=0)
    return np.random.default_rng(seed).permuted(cooperators, axis=1)


def _valued(game: Game, kinds: Sequence[tuple[Tree, ...]], flags: np.ndarray) -> np.ndarray:
    """Exact returns per step, ``(S, A, N)``."""
    both = [[np.asarray(x, np.float64)[:, None, :] for x in params] for params in kinds]
    joint = [np.where(flags[None, :, i, None], a, b) for i, (a, b) in enumerate(zip(*both, strict=True))]
    return metrics.evaluate(game, joint, names=["return"])["return"]


@pytree_dataclass
class _Chosen(Distribution):
    """One of two distributions."""

    first: Any = field(doc="that holds where the flag is set")
    second: Any = field(doc="that holds elsewhere")
    flag: Any = field(doc="of each environment")

    def sample(self, words: Array) -> Tree:
        def chosen(a: Array, b: Array) -> Array:
            return jnp.where(self.flag.reshape(self.flag.shape + (1,) * (a.ndim - self.flag.ndim)), a, b)

        return jax.tree.map(chosen, self.first.sample(words), self.second.sample(words))


@dataclasses.dataclass(frozen=True)
class _Either(Policy):
    """Plays one of two policies, as a flag among its parameters says: ``(flag, own of the first, of the second)``."""

    first: Policy
    second: Policy

    def start(self) -> Tree:
        return self.first.start(), self.second.start()

    def laid(self, params: Tree) -> Tree:
        flag, first, second = params
        return flag, self.first.laid(first), self.second.laid(second)

    def act(self, laid: Tree, carry: Tree, observation: Tree, state: Tree) -> tuple[Tree, _Chosen]:
        flag, first, second = laid
        one, said = self.first.act(first, carry[0], observation, state)
        two, other = self.second.act(second, carry[1], observation, state)
        return (one, two), _Chosen(first=said, second=other, flag=jnp.asarray(flag))


def _played(
    game: Game, rules: Sequence[Named], kinds: Sequence[tuple[Tree, ...]], flags: np.ndarray, seed: int
) -> np.ndarray:
    """Mean rewards per step of an episode for each arrangement of seats, ``(S, A, N)``."""
    n = game.n_players
    policies = [_Either(*(rule.value.policy(game, i) for rule in rules)) for i in range(n)]

    @jax.jit
    def returns(kinds: Any, flags: Array, keys: Array) -> Array:
        def episode(arrangement: Any) -> Array:
            flag, key = arrangement
            params = [(flag[i], kinds[0][i], kinds[1][i]) for i in range(n)]
            return jnp.sum(rollout(key, game, policies, params, 1).rewards[:, 0], axis=0) / game.num_moves

        return lax.map(episode, (flags, keys), batch_size=EPISODES_AT_ONCE)

    seeds = max((len(x) for x in jax.tree.leaves(kinds)), default=1)
    out = []
    for s in range(seeds):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), s), len(flags))
        out.append(jax.device_get(returns(jax.tree.map(lambda x, s=s: jnp.asarray(x)[s], kinds), flags, keys)))
    return np.stack(out)


def _curves(returns: np.ndarray, flags: np.ndarray, exactly: bool) -> dict[str, Curve]:
    """Of returns ``(S, A, N)``. What is drawn anew, and so what spreads are of, are seeds; of one seed, episodes."""
    n = flags.shape[1]
    count = flags.sum(axis=1)

    def curve(of: np.ndarray, sizes: range) -> Curve:
        """Over the seats ``(A, N)`` of arrangements with so many cooperators."""
        points = []
        for size in sizes:
            wanted = of & (count == size)[:, None]
            rows = wanted.any(axis=1)
            each = (returns * wanted).sum(axis=2)[:, rows] / wanted.sum(axis=1)[rows]
            units = each.mean(axis=1) if len(returns) > 1 or exactly else each[0]
            spread = units.std(ddof=1) if len(units) > 1 else 0.0
            points.append((units.mean(), float(half_width(spread, len(units)))))
        means, halves = (np.array(x, np.float64) for x in zip(*points, strict=True))
        return Curve(mean=means, half=halves)

    return {
        "cooperate": curve(flags, range(1, n + 1)),
        "defect": curve(~flags, range(n)),
        "group": curve(np.ones_like(flags), range(n + 1)),
    }
