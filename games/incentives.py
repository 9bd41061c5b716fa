"""Games with a payment channel: in every step each player may give some reward to each other.

What a player gives may depend on what the others do in that very step. So beside its action it says an *offer*: for
every joint action of the others an amount for each of them. Who offers the same whatever they do makes gifts.

There are two conventions of what giving costs. Payments are *minted* where they are made for the occasion, as in LIO's
code: who is paid gets them, who pays loses nothing. They are *transferred* where who pays loses what the other gets.
Rules learn from rewards with payments; what is compared is the balance ``net``, which is the same in either: what the
game itself paid, plus what was received, less what was given. Its sum is that of the game.

Source: Yang et al., NeurIPS 2020 (arXiv 2006.06051), and its official code.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array

from shaping_bench.games.anchors import Anchors
from shaping_bench.games.base import Count, Game, PlayedGame
from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.spaces import Box, Discrete, Product, Space

_SOURCE = "Yang et al., NeurIPS 2020 (LIO), official code"

COUNTS: tuple[Count, ...] = (
    Count("earned", "reward of the game itself, payments left out", "reward per step", low=None, source=_SOURCE),
    Count("given", "what the player pays the others", "reward per step", source=_SOURCE),
    Count("received", "what the others pay the player", "reward per step", source=_SOURCE),
    Count(
        "net",
        "earned + received - given, whether or not giving costs",
        "reward per step",
        direction="higher",
        low=None,
        source=_SOURCE,
    ),
)
"""What is counted in every game with payments."""

MOST_PAYERS = 7
"""Most players of games in which it is counted who paid."""

PAYERS: tuple[Count, ...] = tuple(
    Count(f"received_from_{k + 1}", f"what player {k + 1} pays the player", "reward per step", source=_SOURCE)
    for k in range(MOST_PAYERS)
)
"""What is counted besides among three and more."""

MOST_ANSWERS = 1024
"""Most joint actions of the others on which an offer may depend."""


def _payments_field() -> Any:
    return field(
        "none",
        "minted: who gives loses nothing; transferred: it loses what the other gets; none: nothing is paid",
        choices=("none", "minted", "transferred"),
        static=True,
        added=True,
    )


def _most_field() -> Any:
    return field(2.0, "most that a player can give another in a step", low=0.0, exclusive=True, static=True, added=True)


@dataclasses.dataclass(frozen=True)
class _Options:
    payments: str = _payments_field()
    most: float = _most_field()


OPTIONS: Mapping[str, dataclasses.Field] = {f.name: f for f in dataclasses.fields(_Options)}
"""Hyperparameters by which any game that is played with choices gets payments."""


class ChannelState(NamedTuple):
    """State of a game with payments.

    Attributes:
      inner: of the game.
      given: in this episode so far, ``(n_players, n_players)``, givers first.
    """

    inner: Any
    given: Array


INHERITED = (
    "family",
    "version",
    "presets",
    "ends_early",
    "keeps_world",
    "shows_payments",
    "legend",
    "board_note",
)
"""What a class with payments says of itself as the game's own does."""


@pytree_dataclass
class Channel(PlayedGame):
    """A game with payments; :func:`paying` gives it the hyperparameters of the game.

    An action is a pair: that of the game, and an offer ``(answers, n_players - 1)`` of numbers between 0 and ``most``.
    Its rows belong to the joint actions of the others, of which the first one's changes slowest, its columns to the
    others in the order of seats.
    """

    kind: ClassVar[type[Game]]
    """Class of the game."""

    payments: str = _payments_field()
    most: float = _most_field()

    @functools.cached_property
    def inner(self) -> Game:
        """The game itself."""
        return self.kind(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self.kind)})  # type: ignore[arg-type]

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        return dict(values) | cls.kind.checked({k: v for k, v in values.items() if k not in OPTIONS})

    # what is the game's own

    @property
    def n_players(self) -> int:
        return self.inner.n_players

    @property
    def seats(self) -> tuple[str, ...]:
        return self.inner.seats

    @property
    def symmetric(self) -> bool:
        return self.inner.symmetric

    @property
    def exchangeable(self) -> bool:
        return self.inner.exchangeable

    @property
    def num_steps(self) -> int:
        return self.inner.num_steps

    @property
    def num_moves(self) -> int:
        return self.inner.num_moves

    @property
    def board_planes(self) -> int:
        return self.inner.board_planes

    def board(self, state: ChannelState) -> Any:
        return self.inner.board(state.inner)

    def anchors(self) -> Anchors | None:
        """Those of the game: payments leave the sum of what all have as it is, once minted ones are taken off."""
        known = self.inner.anchors()
        if known is None:
            return None
        return Anchors(random=known.random, social_optimum=known.social_optimum, source=known.source)

    @property
    def reward_bounds(self) -> tuple[float, float] | None:
        bounds = self.inner.reward_bounds
        if bounds is None:
            return None
        total = (self.n_players - 1) * self.most * self.num_steps / self.num_moves
        return bounds[0] - total * (self.payments == "transferred"), bounds[1] + total * (self.payments != "none")

    # who may give what

    def choices(self, player: int) -> int:
        """Number of the game's own actions of a player.

        Raises:
          ValueError: they are no choice.
        """
        space = self.inner.action_space(player)
        if not isinstance(space, Discrete):
            raise ValueError("has actions that are numbers; payments need choices, which offers can name")
        return space.n

    def others(self, player: int) -> tuple[int, ...]:
        return tuple(j for j in range(self.n_players) if j != player)

    def answers(self, player: int) -> tuple[tuple[int, ...], ...]:
        """Joint actions of the others, in the order of an offer's rows."""
        return tuple(itertools.product(*(range(self.choices(j)) for j in self.others(player))))

    def action_space(self, player: int) -> Space:
        """The game's own action, and the offer."""
        rows = math.prod(self.choices(j) for j in self.others(player))
        return Product((Discrete(self.choices(player)), Box(0.0, self.most, (rows, self.n_players - 1))))

    def answer(self, actions: Sequence[Array], player: int) -> Array:
        """Which row of a player's offer holds.

        Args:
          actions: the game's own, of every seat, ``(...)``.
          player: whose offer.
        """
        row = jnp.zeros_like(actions[0])
        for j in self.others(player):
            row = row * self.choices(j) + actions[j]
        return row

    # the environment

    def reset(self, key: Array) -> tuple[Any, ChannelState]:
        """Returns observations and state."""
        _, inner = self.inner.reset(key)
        state = ChannelState(inner=inner, given=jnp.zeros((self.n_players, self.n_players)))
        return self.observe(state), state

    def resume(self, key: Array, state: ChannelState) -> ChannelState:
        return ChannelState(inner=self.inner.resume(key, state.inner), given=jnp.zeros_like(state.given))

    def promised(self, actions: Sequence[tuple[Array, Array]]) -> Array:
        """What everybody is to pay everybody, ``(n_players, n_players)``, givers first."""
        chosen = [action for action, _ in actions]
        rows = []
        for i, (_, offer) in enumerate(actions):
            holds = jnp.arange(offer.shape[0]) == self.answer(chosen, i)
            amounts = jnp.sum(jnp.where(holds[:, None], offer, 0.0), axis=0)
            rows.append(jnp.insert(amounts, i, 0.0))
        return jnp.stack(rows)

    def step(
        self, key: Array, state: ChannelState, actions: Any
    ) -> tuple[Any, ChannelState, Array, Array, dict[str, Array]]:
        """A step of the game, and what is paid for it.

        Args:
          key: of the game's chance moves.
          state: from ``reset`` or ``step``.
          actions: per seat the game's own and an offer.
        """
        chosen = jnp.stack([jnp.asarray(action, jnp.int32) for action, _ in actions])
        _, inner, earned, done, info = self.inner.step(key, state.inner, chosen)
        paid = self.promised(actions).astype(earned.dtype) * (self.payments != "none")
        given, received = jnp.sum(paid, axis=1), jnp.sum(paid, axis=0)
        rewards = earned + received - given * (self.payments == "transferred")
        counts = {"earned": earned, "given": given, "received": received, "net": earned + received - given}
        if 2 < self.n_players <= MOST_PAYERS:
            counts |= {PAYERS[k].name: paid[k] for k in range(self.n_players)}
        after = ChannelState(inner=inner, given=state.given + paid.astype(state.given.dtype))
        return self.observe(after), after, rewards, done, {**info, **counts}

    def observe(self, state: ChannelState, player: int | None = None) -> Any:
        """What the game shows, and what the player itself has given in this episode so far to each of the others,
        where the game says so (``shows_payments``)."""
        if not self.shows_payments:
            return self.inner.observe(state.inner, player)
        if player is None:
            return jnp.stack([self.observe(state, i) for i in range(self.n_players)])
        seen = self.inner.observe(state.inner, player)
        return jnp.concatenate([seen, jnp.delete(state.given[player], player).astype(seen.dtype)])

    @property
    def observation_shape(self) -> tuple[int, ...]:
        shape = self.inner.observation_shape
        return (shape[0] + self.n_players - 1,) if self.shows_payments else shape

    def script(self, name: str, memory: Array, state: ChannelState, player: int) -> tuple[Array, Any]:
        """The game's scripts, which give nothing."""
        if self.kind.memory_one:
            said = jnp.array({"all-c": (0.0, -jnp.inf), "all-d": (-jnp.inf, 0.0), "random": (0.0, 0.0)}[name])
        else:
            memory, said = self.inner.script(name, memory, state.inner, player)
        return memory, (said, (0.0, 0.0))


@functools.cache
def paying(cls: Any) -> Any:
    """A game's class with payments: once, for equal classes share programs.

    >>> from shaping_bench.games.matrix.repeated import RepeatedGame
    >>> paying(RepeatedGame).__name__, paying(RepeatedGame) is paying(RepeatedGame)
    ('PayingRepeatedGame', True)
    """
    own = {f.name: f for f in dataclasses.fields(cls)}
    body: dict[str, Any] = {
        **{name: dataclasses.field(default=f.default, metadata=f.metadata) for name, f in own.items()},
        "__annotations__": {name: f.type for name, f in own.items()},
        "__doc__": cls.__doc__,
        "__module__": cls.__module__,
        "kind": cls,
        "counts": (*cls.counts, *COUNTS, *PAYERS),
        "scripts": ("all-c", "all-d", "random") if cls.memory_one else cls.scripts,
        **{name: getattr(cls, name) for name in INHERITED},
    }
    return pytree_dataclass(type(f"Paying{cls.__name__}", (Channel,), body))


def with_payments(game: Any, payments: str, most: float = 2.0) -> Any:
    """A game with payments.

    Raises:
      ValueError: one player alone, actions that are numbers, or more joint actions than offers can name.
    """
    if game.n_players < 2 or "sampled" not in game.views:
        raise ValueError("has one player, or is not played step by step; payments need others and steps")
    given = {f.name: getattr(game, f.name) for f in dataclasses.fields(game)}
    cls: Any = type(game)
    made = paying(cls)(**given, payments=payments, most=most)
    most_answers = max(len(made.answers(i)) for i in range(made.n_players))
    if most_answers > MOST_ANSWERS:
        raise ValueError(f"has {most_answers} joint actions of the others; payments allow at most {MOST_ANSWERS}")
    return made
