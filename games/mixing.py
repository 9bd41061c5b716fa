"""Games in which players are paid a share of what the others get.

Any game takes ``own_share``: at s a player is paid ``s r_i + (1 - s) / (n - 1) sum_{j != i} r_j``. At 1,
the default, that is the game itself; at 1 / n everybody is paid the mean; at 0 the others' mean alone.
Everything that is computed from rewards (values, returns, best responses) is then about these.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from shaping_bench.games.fields import field, pytree_dataclass

__all__ = ["OPTIONS", "mixed", "mixture"]


@dataclasses.dataclass(frozen=True)
class _Options:
    own_share: float = field(
        1.0, "weight s of a player's own reward; 1 - s is that of the others' mean", low=0.0, high=1.0, added=True
    )


OPTIONS: Mapping[str, dataclasses.Field] = {f.name: f for f in dataclasses.fields(_Options)}
"""Of those that every game has besides its own (:mod:`shaping_bench.games.options`), the one that mixes."""


def mixture(own_share: Any, rewards: Sequence[Any]) -> tuple[Any, ...]:
    """What each player is paid for the rewards of all, which may be numbers or arrays.

    >>> mixture(0.75, [4.0, 0.0])
    (3.0, 1.0)
    """
    others = (1.0 - own_share) / (len(rewards) - 1)
    return tuple(
        own_share * x + others * sum(y for j, y in enumerate(rewards) if j != i) for i, x in enumerate(rewards)
    )


def mixed(game: Any, own_share: float) -> Any:
    """The game with rewards mixed.

    Raises:
      ValueError: nobody else is there whose rewards could count.
    """
    if game.n_players < 2:
        raise ValueError("has one player; own_share needs others")
    given = {f.name: getattr(game, f.name) for f in dataclasses.fields(game)}
    if given.get("payoffs") is not None:  # the same kind of game, with other numbers
        return dataclasses.replace(game, payoffs=mixed_table(own_share, given["payoffs"]))
    cls: Any = type(game)
    return _mixed(cls)(own_share=own_share, **given)


def mixed_table(own_share: Any, table: Sequence[Sequence[Any]]) -> tuple[tuple[Any, ...], ...]:
    """A table of rewards of joint actions, mixed."""
    columns = [mixture(own_share, column) for column in zip(*table, strict=True)]
    return tuple(zip(*columns, strict=True))


@functools.cache
def _mixed(cls: Any) -> Any:
    """The class of mixed games of a class: once, for equal classes share programs."""
    from shaping_bench.games.views import ExactGame, SampledGame

    body: dict[str, Any] = {
        "__doc__": cls.__doc__,
        "__module__": cls.__module__,
        "__annotations__": {"own_share": float},
        "own_share": field(1.0, "weight of a player's own reward", low=0.0, high=1.0),
    }
    if isinstance(getattr(cls, "payoffs", None), property):
        # All that follows from a table follows from the mixed one.
        body["payoffs"] = property(lambda self: mixed_table(self.own_share, super(made, self).payoffs))
    else:
        body |= {"value": _value, "step": _step, "anchors": _anchors, "table": property(lambda self: None)}
        body["best_response"] = ExactGame.best_response  # known for one's own reward alone
        if cls.paid is not SampledGame.paid:
            body["paid"] = _paid
    made: Any = pytree_dataclass(type(f"Mixed{cls.__name__}", (cls,), body))
    return made


def _unmixed(self: Any) -> Any:
    """The methods of the game whose rewards are mixed."""
    return super(type(self), self)


def _value(self: Any, params: Sequence[Any], player: int) -> Array:
    values = [_unmixed(self).value(params, i) for i in range(self.n_players)]
    return mixture(self.own_share, values)[player]


def _step(self: Any, key: Array, state: Any, actions: Array) -> Any:
    seen, after, rewards, done, info = _unmixed(self).step(key, state, actions)
    return seen, after, _stacked(self, rewards), done, info


def _paid(self: Any, observations: Array, actions: Array) -> Array:
    return _stacked(self, _unmixed(self).paid(observations, actions))


def _stacked(self: Any, rewards: Array) -> Array:
    return jnp.stack(mixture(self.own_share, [rewards[..., i] for i in range(self.n_players)]), axis=-1)


def _anchors(self: Any) -> Any:
    """Means over the seats, which mixing leaves as they are."""
    known = _unmixed(self).anchors
    known = known() if callable(known) else known
    if dataclasses.is_dataclass(known):
        return dataclasses.replace(known, best_response=None)  # type: ignore[type-var]
    return known and {**known, "best_response": None}
