"""What a class says of itself, before anything runs."""

import dataclasses
from typing import Any

import jax

from shaping_bench.algorithms.core import Learner
from shaping_bench.conformance.findings import Finding, attempts
from shaping_bench.games.fields import check_field
from shaping_bench.spec import registry


def check_class(cls: type) -> list[Finding]:
    def dataclass_pytree() -> str | None:
        if not dataclasses.is_dataclass(cls) or "__dataclass_fields__" not in vars(cls):
            return "decorate the class with games.fields.pytree_dataclass"
        fields = dataclasses.fields(cls)
        without = [f.name for f in fields if f.default is dataclasses.MISSING and issubclass(cls, Learner)]
        if without:
            return f"fields without a default: {', '.join(without)}"
        if any(f.default is dataclasses.MISSING for f in fields):
            return None  # a game that needs numbers; its instances are checked
        value = cls()
        leaves, structure = jax.tree.flatten(value)
        # A field that is None by default ("as something else") has no leaf until it is given.
        traced = [f.name for f in fields if not f.metadata.get("static") and f.default is not None]
        if len(leaves) < len(traced) or not isinstance(jax.tree.unflatten(structure, leaves), cls):
            return "the class does not round-trip as a pytree whose leaves are its traced fields"
        return None

    def documented() -> str | None:
        if not (vars(cls).get("__doc__") or "").strip() or (cls.__doc__ or "").startswith(f"{cls.__name__}("):
            return "the class has no docstring; say in one line, with its equation, what it does"
        silent = [f.name for f in dataclasses.fields(cls) if not f.metadata.get("doc")]
        return f"fields without a doc: {', '.join(silent)}; field(default, 'what it means')" if silent else None

    def credited() -> str | None:
        if not issubclass(cls, Learner) or cls.source.strip():
            return None
        return "source is empty; say where the rule comes from: paper and equation, or that it is new"

    def validated() -> str | None:
        for f in dataclasses.fields(cls):
            wrong = _unvalidated(f, issubclass(cls, Learner))
            if wrong:
                return f"{f.name}: {wrong}"
        for game, values in getattr(cls, "published", {}).items():
            fields = {f.name: f for f in dataclasses.fields(cls)}
            if game not in registry.games():
                return f"published names the game {game!r}, which is not registered"
            for name, value in values.items():
                if name not in fields:
                    return f"published for {game} sets {name!r}, which is no field"
                check_field(cls.__name__, fields[name], value)
        return None

    return attempts(
        "",
        {
            "is a frozen dataclass that is a pytree, all fields with defaults": dataclass_pytree,
            "is documented": documented,
            "names its source": credited,
            "hyperparameters are validated": validated,
        },
    )


def _unvalidated(f: dataclasses.Field, learner: bool) -> str | None:
    """Why values of a field are not checked before a run, if they are not."""
    meta = f.metadata
    default: Any = None if f.default is dataclasses.MISSING else f.default
    if default is not None and not isinstance(default, tuple):
        check_field("default", f, default)
    if isinstance(default, str) and not meta.get("choices"):
        return "a word without choices; field(default, doc, choices=(...), static=True)"
    number = isinstance(default, int | float) and not isinstance(default, bool)
    low, high = meta.get("low"), meta.get("high")
    counted = isinstance(default, int) and number and not meta.get("choices")
    if learner and low is None and (counted or f.metadata.get("step")):
        return f"a {'count' if counted else 'step size'} that may be negative; field(default, doc, low=0)"
    for bound, beyond in ((low, -1.0), (high, 1.0)):
        if bound is not None:
            value = int(bound + beyond) if isinstance(default, int) else bound + beyond
            try:
                check_field("trial", f, value)
            except ValueError:
                continue
            return f"{value} is accepted though it lies beyond the bound {bound}"
    return None
