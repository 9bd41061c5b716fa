"""Of constructors with many fields, a reader sees which argument is which."""

import ast
from pathlib import Path

import shaping_bench

ROOT = Path(shaping_bench.__file__).resolve().parent.parent
MOST = 3
"""Fields up to which their order is told by heart."""


def _modules():
    for folder in ("games", "algorithms", "shaping_bench"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            inside = path.relative_to(ROOT / folder).parts
            if "templates" not in inside and not (ROOT / folder / inside[0]).is_symlink():
                yield path.relative_to(ROOT), ast.parse(path.read_text())


def _fields(node):
    """How many fields a dataclass or a named tuple has; 0 for other classes."""
    marks = " ".join(map(ast.unparse, [*node.decorator_list, *node.bases]))
    annotated = [s for s in node.body if isinstance(s, ast.AnnAssign) and "ClassVar" not in ast.unparse(s.annotation)]
    return len(annotated) if "dataclass" in marks or "NamedTuple" in marks else 0


def _name(call):
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)


def unnamed_arguments(modules):
    """Calls of constructors beyond MOST fields with more than MOST arguments told by position alone."""
    nodes = [(path, node) for path, tree in modules for node in ast.walk(tree)]
    wide = {n.name for _, n in nodes if isinstance(n, ast.ClassDef) and _fields(n) > MOST}
    for path, node in nodes:
        if isinstance(node, ast.Call) and _name(node) in wide and len(node.args) > MOST:
            yield f"{path}:{node.lineno}: {_name(node)}"


def test_constructors_beyond_three_fields_take_keywords():
    assert list(unnamed_arguments(_modules())) == []


def test_the_search_finds_one():
    source = (
        "class A(NamedTuple):\n    a: int\n    b: int\n    c: int\n    d: int\n\nA(1, 2, 3, 4)\nA(1, 2, c=3, d=4)\n"
    )
    assert list(unnamed_arguments([(Path("x.py"), ast.parse(source))])) == ["x.py:7: A"]
