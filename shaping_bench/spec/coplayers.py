"""Hyperparameters whose value is a learner: ``mfos(against=lola(lr=0.5))``, in text and in YAML.

=====================================  ==========================================================
``against=naive``                      a word among the field's ``choices``: what the method says
``against=sos``, ``against=naive()``   a registered learner, with its defaults for the game
``against=lola(lr=0.5)``               the same with hyperparameters; in YAML also ``{lola: {lr: 0.5}}``
``against=[naive, lola(lr=0.5)]``      a mixture in equal shares
``against={naive: 0.7, lola: 0.3}``    a mixture with shares
=====================================  ==========================================================

Since a list is a mixture, a sweep over such a field is a list of lists: ``against=[[naive],[lola]]``.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from shaping_bench.algorithms.core.coplayers import Mixture
from shaping_bench.errors import BadInput, unknown
from shaping_bench.spec.calls import is_call

ALLOWED = "allowed: a learner, a list of learners, or a mapping of learners to shares"


class Context(NamedTuple):
    """What names mean in such a field.

    Attributes:
      make: a registered learner from its name and hyperparameters, and from what it is called in complaints.
      names: of all registered learners.
      words: of the field itself, which mean what its method says.
    """

    make: Callable[[Any, str], Any]
    names: Collection[str]
    words: Collection[str]


def read(spec: Any, context: Context, where: str) -> tuple[Any, Any]:
    """What is written for such a field: plain, with every hyperparameter, and as the learner is given it.

    Args:
      spec: any of the above, or what this function returned as plain.
      context: what names mean.
      where: what the field is called in complaints.

    Returns:
      A word and the word; ``{name: {key: value}}`` and the learner; or a list of
      ``{"share": ..., "learner": ...}`` and the mixture.

    Raises:
      BadInput: no learner, an unknown one, or shares that are none.
    """
    if is_call(spec):
        return _one(spec, context, where)
    members = _members(spec, where)
    if len(members) == 1:
        return _one(members[0][1], context, where)
    total = sum(share for share, _ in members)
    total = 1.0 if math.isclose(total, 1.0) else total  # what was normalised once stays as it is
    plain: list[dict[str, Any]] = []
    learners = []
    for share, member in members:
        described, learner = _one(member, context, where)
        if any(described == x["learner"] for x in plain):
            raise BadInput(f"{where} names {member!r} twice; allowed: each co-player once")
        plain.append({"share": share / total, "learner": described})
        learners.append(learner)
    return plain, Mixture(learners=tuple(learners), shares=tuple(x["share"] for x in plain))


def written(plain: Any, context: Context) -> str:
    """The text that :func:`read` reads as this."""
    if isinstance(plain, str):
        return plain
    if isinstance(plain, Mapping):
        text = context.make(plain, "learner").text
        return f"{text}()" if text in context.words else text
    texts = [written(x["learner"], context) for x in plain]
    shares = [x["share"] for x in plain]
    if len(set(shares)) == 1:
        return f"[{','.join(texts)}]"
    return "{" + ",".join(f"{text}:{share!r}" for text, share in zip(texts, shares, strict=True)) + "}"


def names_in(plain: Any) -> list[str]:
    """Words and registered names in the plain value of such a field, or of any other.

    >>> names_in([{"share": 0.5, "learner": "naive"}, {"share": 0.5, "learner": {"lola": {"lr": 1.0}}}])
    ['naive', 'lola']
    """
    if isinstance(plain, str):
        return [plain]
    if isinstance(plain, Mapping):
        return [str(name) for name in plain]
    members = plain if isinstance(plain, list | tuple) else ()
    return [name for x in members if isinstance(x, Mapping) for name in names_in(x.get("learner"))]


def _one(spec: Any, context: Context, where: str) -> tuple[Any, Any]:
    if not is_call(spec):
        raise BadInput(f"{where} is {spec!r}; {ALLOWED}")
    word = spec.strip() if isinstance(spec, str) else ""
    if word in context.words:
        return word, word
    if word.replace("-", "").isidentifier() and word not in context.names:
        raise unknown(where, word, [*context.words, *context.names], "shaping-bench list algorithms")
    named = context.make(spec, where)
    if named.value.needs_preparation:
        raise BadInput(f"{where} is {named.text!r}, which needs a preparation of its own; allowed: learners without")
    return {named.name: named.identity()["hyperparameters"]}, named.value


def _members(spec: Any, where: str) -> list[tuple[float, Any]]:
    if isinstance(spec, Mapping):
        pairs = [(share, name) for name, share in spec.items()]
    elif not isinstance(spec, Sequence):
        pairs = []
    elif all(isinstance(x, Mapping) and set(x) == {"share", "learner"} for x in spec):
        pairs = [(x["share"], x["learner"]) for x in spec]
    else:
        pairs = [(1.0 / len(spec), x) for x in spec]
    for share, name in pairs:
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < math.inf:
            raise BadInput(f"{where} gives {name!r} the share {share!r}; allowed: positive numbers")
    if not pairs:
        raise BadInput(f"{where} is {spec!r}; {ALLOWED}")
    return [(float(share), name) for share, name in pairs]
