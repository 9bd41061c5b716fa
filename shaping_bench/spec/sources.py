"""What decides the numbers of a learner in a game, apart from its hyperparameters: its code.

The hash is over syntax trees without docstrings, so that neither a comment nor a line break
throws away what took hours, and over everything that the code imports from the methods' and the
games' packages (or from its own, if it comes from elsewhere), so that a change in a shared part
counts. What the harness does is told by its version.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("shaping_bench.algorithms", "shaping_bench.games")
"""Whose modules count wherever they are imported."""


_PARSING = threading.Lock()
"""Python 3.11 counts the depth of all threads' syntax trees together, and then finds that it is wrong."""


def source_hash(*owners: Any) -> str:
    """Hash of the code that defines these learners and games.

    Args:
      owners: classes, or instances, whose own learner-valued fields count as well.
    """
    return _hash(frozenset(cls for owner in owners for cls in _classes(owner)))


@functools.cache
def package_hash() -> str:
    """Hash of every file of code of this package, whatever of it is in use."""
    digest = hashlib.sha256()
    for path in sorted(_package_files()):
        digest.update(f"{path.relative_to(_TOP).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:24]


def package_time() -> float:
    """When any file of this package's code was last written, or put where it stands, in seconds since the
    epoch; 0 if there are none, as in an archive."""
    stats = (path.stat() for path in _package_files())
    return max((max(x.st_mtime, x.st_ctime) for x in stats), default=0.0)


_TOP = Path(__file__).resolve().parent.parent


def _package_files() -> Iterator[Path]:
    files = (Path(folder) / name for folder, _, names in os.walk(_TOP, followlinks=True) for name in names)
    return (path for path in files if path.suffix == ".py")


def foreign_hash(*owners: Any) -> str:
    """The same of those learners and games alone that come from elsewhere; empty if none does."""
    classes = {cls for owner in owners for cls in _classes(owner)}
    foreign = frozenset(cls for cls in classes if not cls.__module__.startswith("shaping_bench."))
    return _hash(foreign) if foreign else ""


def _classes(owner: Any) -> Iterator[type]:
    if isinstance(owner, type):
        yield owner
    elif isinstance(owner, tuple | list):
        for part in owner:
            yield from _classes(part)
    elif dataclasses.is_dataclass(owner):
        yield type(owner)
        for field in dataclasses.fields(owner):
            yield from _classes(getattr(owner, field.name))


@functools.lru_cache(maxsize=256)
def _hash(classes: frozenset[type]) -> str:
    roots = {_module(base) for cls in classes for base in cls.__mro__}
    digest = hashlib.sha256()
    for name, code in sorted(_closure(roots).items()):
        digest.update(f"{name}\n{code}\n".encode())
    return digest.hexdigest()[:24]


def _module(cls: type) -> str:
    """The module's name by which others import it, also where it is the program that runs."""
    spec = getattr(sys.modules.get(cls.__module__), "__spec__", None)
    return spec.name if spec is not None else cls.__module__


def _closure(roots: Iterable[str]) -> dict[str, str]:
    """Code of modules and of what they import, by name; those of the standard library and of
    other people's packages are left out."""
    waiting = [name for name in roots if name.partition(".")[0] not in sys.stdlib_module_names]
    packages = (*PACKAGES, *(name.partition(".")[0] for name in waiting if not name.startswith("shaping_bench.")))
    sources: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if name in sources or path is None:
            continue
        sources[name], imported = _read(path, name)
        for base, names in imported:
            if any(base == package or base.startswith(f"{package}.") for package in packages):
                waiting += _modules(base, names)
    return sources


def _modules(base: str, names: Sequence[str]) -> list[str]:
    """The modules that ``from base import names`` brings: those of the names that are modules of the
    package, and the package's own where others are."""
    modules = {name: f"{base}.{name}" for name in names if _file(f"{base}.{name}") is not None}
    return [*modules.values(), *([] if names and len(modules) == len(names) else [base])]


@functools.lru_cache(maxsize=4096)
def _file(name: str) -> Path | None:
    module = sys.modules.get(name)
    path = inspect.getsourcefile(module) if module is not None and hasattr(module, "__file__") else None
    if path is None:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            return None  # `from package import name`, where the name is no module
        path = spec.origin if spec is not None and spec.has_location else None
    return Path(path) if path is not None and path.endswith(".py") and Path(path).is_file() else None


@functools.lru_cache(maxsize=1024)
def _read(path: Path, name: str) -> tuple[str, tuple[tuple[str, tuple[str, ...]], ...]]:
    """A module's code without docstrings and comments; and of what it imports the modules, each with
    the names taken from it."""
    with _PARSING:
        tree = ast.parse(path.read_bytes())
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    imported: dict[tuple[str, tuple[str, ...]], None] = {}
    for node in _nodes(tree):
        if isinstance(node, ast.Import):
            imported |= {(alias.name, ()): None for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level, package) if node.level else ""
            base = f"{base}.{node.module}" if base and node.module else base or str(node.module)
            imported[base, tuple(alias.name for alias in node.names)] = None
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_docstrings(node)
    return ast.unparse(tree), tuple(imported)


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes, but for what only type checkers see."""
    yield node
    unseen = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    for child in ast.iter_child_nodes(node):
        if not (unseen and isinstance(child, ast.Import | ast.ImportFrom)):
            yield from _nodes(child)


def _drop_docstrings(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    """Drops every string that stands for itself: a docstring, or one after an assignment."""
    statements = [
        x
        for x in node.body
        if not (isinstance(x, ast.Expr) and isinstance(x.value, ast.Constant) and isinstance(x.value.value, str))
    ]
    node.body = statements or [ast.Pass()]
