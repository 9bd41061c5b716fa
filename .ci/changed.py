"""The tests of what has changed: prints the test files to run, for ``make check``.

A test file is of interest if it has changed, or if it imports, over however many modules of ours, one
that has. Files that are not code (configs, pages) have their tests in :data:`OTHERS`. Changed is what
differs from the main branch; where nothing does, or git is not there, a fast selection is printed.
"""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FAST = ("tests/games/test_fields.py", "tests/games/test_memory_one.py", "tests/algorithms/test_lola_family.py")
OTHERS = {
    "configs/": "tests/shaping_bench/test_suite.py",
    "shaping_bench/docs/": "tests/test_docs.py",
    "README.md": "tests/test_worked_example.py",
    "pyproject.toml": "tests/test_packaging.py",
    "Makefile": "tests/test_packaging.py",
    ".ci/": "tests/test_packaging.py",
    "shaping_bench/scaffold/templates/": "tests/shaping_bench/test_scaffold.py",
    "shaping_bench/publish/report/": "tests/shaping_bench/test_report.py",
}
LONG = 12
"""Above so many test files, those that import a changed module themselves."""


def changed_files() -> set[str]:
    """Files that differ from where this branch left main, or from the last commit on main itself."""
    try:
        base = _git("merge-base", "HEAD", "main") if _git("rev-parse", "HEAD") != _git("rev-parse", "main") else "HEAD"
        files = _git("diff", "--name-only", base).splitlines()
        return {*files, *_git("ls-files", "--others", "--exclude-standard").splitlines()}
    except (OSError, subprocess.CalledProcessError):
        return set()


def _git(*words: str) -> str:
    command = ["git", *words]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def module_of(file: str) -> str:
    """The name by which a file is imported; those at the top are linked into the package."""
    dotted = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return f"shaping_bench.{dotted}" if dotted.split(".")[0] in ("algorithms", "games") else dotted


def imports_of(file: Path) -> set[str]:
    """Modules that a file imports, and those that ``from package import module`` may name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.startswith("shaping_bench")}


def selected(changed: set[str]) -> list[str]:
    """Test files to run after these changes."""
    folders = ("algorithms", "games", "shaping_bench")
    sources = [file.relative_to(ROOT).as_posix() for name in folders for file in (ROOT / name).rglob("*.py")]
    modules = {module_of(name): imports_of(ROOT / name) for name in sources if "/templates/" not in name}
    touched = {module_of(file) for file in changed if file.endswith(".py")}
    tests = [file.relative_to(ROOT).as_posix() for file in (ROOT / "tests").rglob("test_*.py")]
    direct = {test: imports_of(ROOT / test) for test in tests}

    def reaches(names: set[str]) -> bool:
        seen: set[str] = set()
        todo = set(names)
        while todo:
            seen |= todo
            if seen & touched:
                return True
            todo = {x for name in todo for x in modules.get(name, ())} - seen
        return False

    other = {test for start, test in OTHERS.items() if any(file.startswith(start) for file in changed)}
    chosen = other | {test for test in tests if test in changed}
    # What a package hands on is imported under the package's name.
    packages = {name for name in modules if any(x.startswith(f"{name}.") for x in modules)}
    named = touched | {name for name in packages if modules[name] & touched}
    near = {test for test, names in direct.items() if names & named}
    if touched and not near:  # a module that only others of ours import: its tests are theirs
        named |= {name for name, used in modules.items() if used & named}
        near = {test for test, names in direct.items() if names & named}
    far = {test for test, names in direct.items() if reaches(names)}
    chosen |= far if len(far) <= LONG else near
    return sorted(test for test in chosen if (ROOT / test).is_file()) or list(FAST)


if __name__ == "__main__":
    print(*selected(set(sys.argv[1:]) or changed_files()))
