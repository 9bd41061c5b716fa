"""Frozen dataclasses that are pytrees, with each field marked traced or static.

Games and learners are described by numbers. A *traced* field is a pytree leaf: it may
be swept by ``vmap`` and cells that differ only in it share one compiled program. A
*static* field changes a shape, a loop length or a branch, and so the program.
"""

import dataclasses
import math
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


def field(
    default: Any = dataclasses.MISSING,
    doc: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    exclusive: bool = False,
    choices: tuple[Any, ...] | None = None,
    static: bool = False,
    learner: bool = False,
    added: bool = False,
    step: bool = False,
    small: Any = None,
    written: str | None = None,
) -> Any:
    """A dataclass field that knows its meaning and its range.

    Args:
      default: default value; omit it for a required field.
      doc: what the field means, with its source where it is a published constant.
      low, high: allowed range; inclusive unless ``exclusive``.
      choices: allowed values of a categorical (static) field.
      static: True if the field is part of the program rather than data.
      learner: True if the value is a learner or a mixture of learners, or one of the words in
        ``choices``; static, too.
      added: True if results were stored before there was the field: at its default it is then no part
        of what identifies them.
      step: True if it is a step size of the updates: with zero in all of them, policies stay where they are.
      small: what trials of the rule set it to, which are about the rule and not about its size; or a
        function from the game of the trial to that.
      written: what users call it, where the attribute of that name is something else.
    """
    metadata: dict[str, Any] = dict(doc=doc, low=low, high=high, exclusive=exclusive, choices=choices)
    metadata |= dict(static=static, learner=learner, added=added, step=step, small=small, written=written)
    return dataclasses.field(default=default, metadata=metadata)


# Not naming `field` among the specifiers: type checkers would then look for a keyword `default`, and take every
# field whose default comes first for a required one.
@dataclass_transform(frozen_default=True, kw_only_default=True)
def pytree_dataclass(cls: type[T]) -> type[T]:
    """Makes ``cls`` a frozen keyword-only dataclass and registers it as a pytree.

    The class is part of the static data. ``jax.tree_util.register_dataclass`` leaves it out: tree
    structures of two classes with equal fields are then equal (jax 0.10.2), and a function compiled
    for one of them is now and then called with the other.

    So is what a method ``pinned()`` returns, where the class has one: facts that follow from traced
    fields, decided while these are numbers, and still known where they are tracers. An object that
    was made from leaves has them as its attribute ``_pinned``.
    """
    cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    static = [f.name for f in fields if f.metadata.get("static")]
    traced = [f.name for f in fields if not f.metadata.get("static")]
    keys = [jax.tree_util.GetAttrKey(name) for name in traced]
    pins = hasattr(cls, "pinned")

    def flatten(instance: T) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        pinned = instance.pinned() if pins else None  # type: ignore[attr-defined]
        children = tuple(getattr(instance, name) for name in traced)
        return children, (cls, pinned, *(getattr(instance, name) for name in static))

    def flatten_with_keys(instance: T) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        children, fixed = flatten(instance)
        return tuple(zip(keys, children, strict=True)), fixed

    def unflatten(fixed: tuple[Any, ...], children: Any) -> T:
        _, pinned, *values = fixed
        instance = cls(**dict(zip(static, values, strict=True)), **dict(zip(traced, children, strict=True)))
        if pins:
            object.__setattr__(instance, "_pinned", pinned)
        return instance

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def written_name(f: dataclasses.Field) -> str:
    """What users call a field."""
    return f.metadata.get("written") or f.name


def check_field(owner: str, f: dataclasses.Field, value: Any) -> None:
    """Raises ``ValueError`` naming the field, the value and what is allowed."""
    meta: dict[str, Any] = dict(f.metadata)
    where = f"{owner}.{written_name(f)}"
    if value is None and f.default is None:
        return
    choices = meta.get("choices")
    if meta.get("learner") and not isinstance(value, str):
        return
    if choices is not None:
        if value not in choices:
            raise ValueError(f"{where} is {value!r}; allowed: {', '.join(map(repr, choices))}")
        return
    default = f.default
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{where} is {value!r}; allowed: true or false")
        return
    whole = f.type in (int, int | None) or (isinstance(default, int) and meta.get("static"))
    if whole and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError(f"{where} is {value!r}; allowed: a whole number")
    low, high, exclusive = meta.get("low"), meta.get("high"), meta.get("exclusive", False)
    numeric = isinstance(default, int | float) and not isinstance(default, bool)
    if not (numeric or low is not None or high is not None):
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where} is {value!r}; allowed: a number")
    below = low is not None and (value <= low if exclusive else value < low)
    above = high is not None and (value >= high if exclusive else value > high)
    if below or above or not math.isfinite(value):
        left = "(-inf" if low is None else f"({low:g}" if exclusive else f"[{low:g}"
        right = "inf)" if high is None else f"{high:g})" if exclusive else f"{high:g}]"
        raise ValueError(f"{where} is {value!r}; allowed: a number in {left}, {right}")
