"""``shaping-bench new``: a working algorithm or game to change, with its test and its suite.

In a checkout of this repository the files go to their places and the name is registered; elsewhere
they make a small package whose ``pyproject.toml`` says the name. What is written are the files of
``templates/`` with another name: they work as they stand.
"""

import dataclasses
import importlib.util
import itertools
import keyword
import re
import shutil
import sys
from pathlib import Path
from typing import Literal

from shaping_bench.errors import BadInput
from shaping_bench.spec import registry

Kind = Literal["exact", "sampled", "prepares", "game"]

TEMPLATES = Path(__file__).resolve().parent / "templates"

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written, and what to do next.

    Attributes:
      files: new or changed files.
      commands: shell commands, in order.
      note: what else is left to the user, if anything.
    """

    files: tuple[Path, ...]
    commands: tuple[str, ...]
    note: str = ""

    def __str__(self) -> str:
        lines = ["Wrote", *(f"  {file}" for file in self.files)]
        if self.note:
            lines += ["", self.note]
        return "\n".join([*lines, "", "Next", *(f"  {command}" for command in self.commands)])


def is_checkout(folder: Path) -> bool:
    """Whether a folder is the root of this repository's source tree."""
    return all((folder / name / "__init__.py").is_file() for name in ("algorithms", "games", "shaping_bench"))


def new(kind: Kind, name: str, folder: Path | None = None) -> Written:
    """Writes a new algorithm or game.

    Args:
      kind: an exact rule, one that plays (``sampled``), one that ``prepares``, or a game.
      name: what it will be called in suites and tables, in kebab-case.
      folder: a checkout of this repository, or where the package goes; by default the current folder
        if it is a checkout, and a new one of that name otherwise.

    Raises:
      BadInput: the name is not kebab-case or taken, or a file exists already; nothing is written then.
    """
    what = "game" if kind == "game" else "algorithm"
    _check_name(what, name)
    root = folder if folder is not None else Path(".") if is_checkout(Path(".")) else Path(name)
    inside = is_checkout(root)
    module = name.replace("-", "_")
    package = "games" if what == "game" else "algorithms"
    if not inside:
        _check_module(name, module, root)
    words = {
        "from new_thing": f"from shaping_bench.{package}.{module}" if inside else f"from {module}",
        "shaping_bench.things": f"shaping_bench.{package}",
        "new-thing": name,
        "new_thing": module,
        "New thing": name.replace("-", " ").capitalize(),
        "NewThing": "".join(part.capitalize() for part in name.split("-")),
    }
    folders = (
        {".py": root / package, "test": root / "tests" / package, ".yaml": root / "configs" / "suites"}
        if inside
        else {}
    )
    places: dict[Path, str] = {}
    for template in sorted((TEMPLATES / kind).glob("*.*")):
        part = "test" if template.name.startswith("test_") else template.suffix
        text = template.read_text()
        if inside and what == "algorithm" and part == "test":
            text = _without_kit(text)  # the tests of the repository try it on whatever is registered
        places[folders.get(part, root) / _replaced(template.name, words)] = text
    note, project = "", root / "pyproject.toml"
    if not inside and project.exists():
        entry = f'[project.entry-points."shaping_bench.{package}"]\n  {name} = "{module}:{words["NewThing"]}"'
        note = f"{project} is there already; add to it\n  {entry}"
    elif not inside:
        places[project] = (TEMPLATES / "pyproject.toml").read_text()
    else:
        note = (
            f"To become part of the benchmark, {name} also needs a line on a page of shaping_bench/docs and its paper "
            "in configs/references.bib (or a place in references.UNPUBLISHED); make test says so."
        )
    for file in places:
        if file.exists():
            raise BadInput(
                f"new {what} would write {str(file)!r}, which exists; allowed: another name, or another folder"
            )
    registered = _registered(root / package / "__init__.py", what, name, words) if inside else {}
    own = {"shaping_bench"} if inside else {module}
    texts = {
        file: _with_sorted_imports(text, own) if file.suffix == ".py" else text
        for file, text in ((file, _replaced(text, words)) for file, text in places.items())
    }
    for file, text in {**texts, **registered}.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        except OSError as error:
            raise BadInput(
                f"new {what} cannot write {str(file)!r} ({error.strerror}); allowed: a writable folder"
            ) from None
    there = () if root.resolve() == Path.cwd() else (f"cd {root}",)
    # As the user can type it: with the environment not activated, the command is on no path.
    active = shutil.which("shaping-bench") is not None
    python = "python" if active else sys.executable
    program = "shaping-bench" if active else f"{python} -m shaping_bench"
    where = name if inside else f"{name}.yaml"
    tests = next(str(file.relative_to(root)) for file in places if file.name.startswith("test_"))
    commands = (
        *there,
        f"{program} check {name}",
        f"{python} -m pytest -q {tests}",
        f"{program} run {where} -o results/{name}",
    )
    return Written((*texts, *registered), commands, note)


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        near = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()).strip("-")
        hint = f", such as {near!r}" if _NAME.fullmatch(near) else ""
        raise BadInput(
            f"name of the new {what} is {name!r}; allowed: lower-case letters and digits, words joined by hyphens{hint}"
        )
    for kind, taken in (("algorithm", registry.algorithms()), ("game", registry.games())):
        if name in taken:
            raise BadInput(
                f"name of the new {what} is {name!r}, which is the name of a registered {kind}; allowed: another"
            )
    if keyword.iskeyword(name) or name == "test":
        raise BadInput(f"name of the new {what} is {name!r}, which Python reserves; allowed: another")


def _check_module(name: str, module: str, root: Path) -> None:
    """A module of this name elsewhere would be imported instead of the new one, or the other way round."""
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.origin and Path(spec.origin).resolve() != (root / f"{module}.py").resolve():
        raise BadInput(f"name is {name!r}, but a Python module {module!r} is installed already; allowed: another name")


def _replaced(text: str, words: dict[str, str]) -> str:
    """The text with the template's words exchanged for the new ones, the longest first."""
    return re.sub("|".join(words), lambda match: words[match[0]], text)


def _without_kit(test: str) -> str:
    """A template's test without the conformance kit."""
    body, _, _ = test.partition("\n\n\ndef test_it_is_a_good_citizen")
    return re.sub(r"^from shaping_bench\.conformance.*\n", "", body, flags=re.MULTILINE) + "\n"


def _registered(file: Path, what: str, name: str, words: dict[str, str]) -> dict[Path, str]:
    """The registry of the repository with the new name in it.

    Raises:
      BadInput: the file is not laid out as it was.
    """
    lines, cls = file.read_text().splitlines(), words["NewThing"]
    opening = "ALGORITHMS: dict" if what == "algorithm" else "GAMES: dict"
    start = next((k for k, line in enumerate(lines) if line.startswith(opening)), None)
    end = next((k for k, line in enumerate(lines) if start is not None and k > start and line == "}"), None)
    if end is None:
        raise BadInput(
            f"{str(file)!r} has no mapping {opening.split(':')[0]} to add to; allowed: the repository's own file"
        )
    entry = f"{cls}," if what == "algorithm" else f'Entry({cls}, "new", "say in a few words what it is about"),'
    lines.insert(end, f'    "{name}": {entry}')
    line = f"{words['from new_thing']} import {cls}"
    own = [k for k, x in enumerate(lines) if x.startswith("from shaping_bench.")]
    before = next((k for k in own if lines[k].split()[1] > line.split()[1]), own[-1] + 1)
    lines.insert(before, line)
    return {file: "\n".join(lines) + "\n"}


def _with_sorted_imports(text: str, own: set[str]) -> str:
    """Imports in the customary order: the standard library's, other packages', one's ``own``."""
    lines = text.splitlines()
    imports = [k for k, line in enumerate(lines) if line.startswith(("import ", "from "))]

    def order(line: str) -> tuple[int, bool, str]:
        module = line.split()[1]
        root = module.partition(".")[0]
        return (2 if root in own else 0 if root in sys.stdlib_module_names else 1, line.startswith("from "), module)

    ordered = sorted((lines[k] for k in imports), key=order)
    blocks = ["\n".join(block) for _, block in itertools.groupby(ordered, key=lambda line: order(line)[0])]
    return "\n".join([*lines[: imports[0]], "\n\n".join(blocks), *lines[imports[-1] + 1 :]]) + "\n"
