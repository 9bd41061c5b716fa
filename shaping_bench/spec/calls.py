"""Text such as ``mfos(against=lola(lr=0.5))``, to a name and plain values, and back."""

import ast
import json
import keyword
import re
from collections.abc import Mapping
from typing import Any

from shaping_bench.errors import BadInput

_CALL = re.compile(r"\s*([A-Za-z][\w.-]*)\s*(?:\((.*)\))?\s*", re.DOTALL)


def parse_call(text: str, field: str) -> tuple[str, dict[str, Any]]:
    """Splits ``name(key=value,...)`` into the name and its keyword arguments.

    Words need no quotes. A call within a call stays text, to be read by who knows what it means.

    >>> parse_call("mfos(episodes=8,against=lola(lr=0.5))", "learner")
    ('mfos', {'episodes': 8, 'against': 'lola(lr=0.5)'})
    >>> parse_call("mfos(against={naive: 0.7, lola-dice(lr=0.5): 0.3})", "learner")
    ('mfos', {'against': {'naive': 0.7, 'lola-dice(lr=0.5)': 0.3}})
    """
    match = _CALL.fullmatch(text)
    if match is None:
        raise BadInput(f"{field} is {text!r}; allowed: a name, or a name with hyperparameters like name(key=1.0)")
    name, inside = match.groups()
    if not inside:
        return name, {}
    complaint = BadInput(
        f"{field} is {text!r}; allowed: hyperparameters written key=value with literal values, each once"
    )
    source = f"f({inside})"
    try:
        call = ast.parse(source, mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
            raise complaint
        keywords = {str(k.arg): _value(k.value, source) for k in call.keywords}
    except (SyntaxError, ValueError, TypeError):
        raise complaint from None
    if len(keywords) != len(call.keywords):
        raise complaint
    return name, keywords


def split_call(spec: str | Mapping[str, Any], field: str) -> tuple[str, dict[str, Any]]:
    """Splits a learner or game, however written, into its name and hyperparameters.

    >>> split_call({"lola": {"lr": 0.5}}, "learner") == split_call("lola(lr=0.5)", "learner")
    True
    """
    if isinstance(spec, str):
        return parse_call(spec, field)
    if isinstance(spec, Mapping) and len(spec) == 1:
        ((name, settings),) = spec.items()
        if settings is None or isinstance(settings, Mapping):
            return str(name), dict(settings or {})
    raise BadInput(f"{field} is {spec!r}; allowed: a name, name(key=value) or {{name: {{key: value}}}}")


def is_call(spec: Any) -> bool:
    """Whether it names one learner or game: text, or ``{name: {key: value}}``."""
    if isinstance(spec, str):
        return True
    return (
        isinstance(spec, Mapping) and len(spec) == 1 and all(x is None or isinstance(x, Mapping) for x in spec.values())
    )


def written(value: Any) -> str:
    """A hyperparameter's value; words without the quotes that they do not need.

    >>> written("conv-gru"), written("loqa-coin-3"), written("3-coins")
    ('conv-gru', 'loqa-coin-3', '"3-coins"')
    """
    if not isinstance(value, str):
        return repr(value)
    first, *more = value.split("-")
    numbered = (word for word in more if not (word.isdecimal() and str(int(word)) == word))
    bare = all(word.isidentifier() and not keyword.iskeyword(word) for word in (first, *numbered))
    return value if bare else json.dumps(value)


def _value(node: ast.expr, source: str) -> Any:
    if any(isinstance(x, ast.Call) for x in ast.walk(node)) and not isinstance(node, ast.List | ast.Tuple | ast.Dict):
        return ast.get_source_segment(source, node)
    if isinstance(node, ast.Name):  # bare words are strings: expansion=taylor
        return {"true": True, "false": False}.get(node.id, node.id)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):  # and so are hyphenated ones: network=conv-gru
        words = [_value(x, source) for x in (node.left, node.right)]
        numbered = isinstance(node.right, ast.Constant) and type(node.right.value) is int  # policy=loqa-coin-3
        if isinstance(words[0], str) and (numbered or isinstance(words[1], str)):
            return "-".join(map(str, words))
    if isinstance(node, ast.List | ast.Tuple):
        values = [_value(x, source) for x in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    if isinstance(node, ast.Dict):
        if None in node.keys:
            raise ValueError("a mapping of names to shares")
        pairs = [(_value(k, source), _value(v, source)) for k, v in zip(node.keys, node.values, strict=True) if k]
        if len(dict(pairs)) != len(pairs):
            raise ValueError("each name once")
        return dict(pairs)
    return ast.literal_eval(node)
