"""Reading programs: keys used twice, randomness from elsewhere, weak types, what Python remembers."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a program, inner programs included."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)


def fingerprint(traced: Any) -> list[Any]:
    """What a program computes, with the numbers in it; equal for equal programs."""
    plain = int | float | str | bool
    out: list[Any] = [np.asarray(x).tobytes() for x in traced.jaxpr.consts]
    for equation in _equations(traced.jaxpr.jaxpr):
        literals = [np.asarray(x.val).tobytes() for x in equation.invars if hasattr(x, "val")]
        params = [(k, v) for k, v in equation.params.items() if isinstance(v, plain)]
        # Arrays that an inner program closes over, such as numpy's random ones.
        consts = [np.asarray(c).tobytes() for v in equation.params.values() for c in (getattr(v, "consts", None) or ())]
        out.append((equation.primitive.name, literals, params, consts))
    return out


def python_state(cls: type) -> dict[str, Any]:
    """What of a class and its module can change: numbers, texts, and the sizes of containers."""

    def seen(value: Any) -> Any:
        if isinstance(value, list | dict | set):
            return (type(value).__name__, len(value), repr(value) if len(value) < 20 else "")
        if isinstance(value, np.ndarray):
            return value.tobytes()
        if isinstance(value, np.random.RandomState | np.random.Generator):
            return "a random generator"
        return value if isinstance(value, int | float | str | bool) else type(value).__name__

    module = sys.modules.get(cls.__module__)
    places = {f"{cls.__name__}.{k}": v for k, v in vars(cls).items() if not k.startswith("__")}
    places |= {f"{cls.__module__}.{k}": v for k, v in vars(module).items() if not k.startswith("__")} if module else {}
    return {name: seen(value) for name, value in places.items() if not callable(value)}


def changed_name(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    return next((name for name in {**before, **after} if before.get(name) != after.get(name)), None)


def outside_randomness(traced: Any) -> str | None:
    if any(equation.primitive.name == "random_seed" for equation in _equations(traced.jaxpr.jaxpr)):
        return "makes a random key of its own, the same for all seeds; draw from the key that it is given"
    return None


def weakly_typed(tree: Any) -> bool:
    return any(getattr(x, "weak_type", False) for x in jax.tree.leaves(tree))


def key_reuse(function: Callable[..., Any], arguments: Sequence[Any]) -> str | None:
    try:
        with jax.debug_key_reuse(True):
            jax.jit(lambda *x: function(*x)).trace(*arguments)
    except jax.errors.KeyReuseError as error:
        first = str(error).splitlines()[0]
        return f"uses a random key twice, so that draws are dependent; split it ({first})"
    return None


def single_precision(tree: Any) -> Any:
    """The same arrays or abstract values in single precision."""

    def single(x: Any) -> Any:
        dtype = jnp.float32 if x.dtype == jnp.float64 else x.dtype
        return jax.ShapeDtypeStruct(x.shape, dtype) if isinstance(x, jax.ShapeDtypeStruct) else np.asarray(x, dtype)

    return jax.tree.map(single, tree)
