"""What is installed, pinned and shipped fits what the code needs."""

import ast
import email
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("algorithms", "games", "configs")  # folders at the top, linked into the package
PYTHONS = ("3.11", "3.12", "3.13")
FOR_RULES = {"flax", "optax", "evosax"}  # what a rule may count on, whoever writes it: networks, optimisers, evolution
# Other people's, imported only by those who ask for them: .ci/no-deps.txt
ADAPTED = {"axelrod", "gymnax", "jaxmarl", "socialjax"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
]


def requirements(*extras):
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in PROJECT["optional-dependencies"][extra])]
    return [Requirement(text) for text in texts if canonicalize_name(Requirement(text).name) != "shaping-bench"]


def shipped_code():
    """Every module by the path at which it is imported; the documentation
    is built from a checkout only, and templates are data."""
    own = [file for file in (ROOT / "shaping_bench").rglob("*.py") if not {"docs", "templates"} & {*file.parts}]
    linked = [f"shaping_bench/{file.relative_to(ROOT)}" for name in LINKED for file in (ROOT / name).rglob("*.py")]
    return sorted({*own, *(ROOT / name for name in linked)})


def shipped_data():
    """Configs, templates and what pages are made of, by the path in the package."""
    linked = [file for ending in ("yaml", "json", "bib") for file in (ROOT / "configs").rglob(f"*.{ending}")]
    page = (ROOT / "shaping_bench" / "publish" / "report").glob("*.[cj]s*")
    templates = (file for file in (ROOT / "shaping_bench" / "scaffold" / "templates").rglob("*") if file.is_file())
    own = {str(file.relative_to(ROOT)) for file in (*page, *templates) if "__pycache__" not in file.parts}
    return own | {f"shaping_bench/{file.relative_to(ROOT)}" for file in linked}


def imported_names(file):
    """Top-level names that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).split(".")[0])
    return found


def imported_modules():
    found = {name for file in shipped_code() for name in imported_names(file)}
    return found - set(sys.stdlib_module_names) - {"shaping_bench"} - ADAPTED


def test_dependencies_are_what_the_code_imports():
    providers = metadata.packages_distributions()
    needed = {canonicalize_name(providers[module][0]) for module in imported_modules()}
    assert needed | FOR_RULES == {canonicalize_name(r.name) for r in requirements("cluster")}


def test_dependencies_have_lower_bounds_and_no_caps():
    for requirement in requirements("gpu", "cluster", "test", "docs"):
        assert [s.operator for s in requirement.specifier] == [">="], requirement
    assert PROJECT["requires-python"] == ">=3.11"


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_has_one_pin_that_satisfies_it(python):
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    pins: dict[str, list[Version]] = {}
    for pin in PINS:
        (specifier,) = pin.specifier
        assert specifier.operator == "==", pin
        if pin.marker is None or pin.marker.evaluate(environment):
            pins.setdefault(canonicalize_name(pin.name), []).append(Version(specifier.version))
    assert all(len(versions) == 1 for versions in pins.values())
    for requirement in requirements("cluster", "test", "docs", "dev"):
        (version,) = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_no_file_of_the_set_up_names_a_registry():
    for name in ("constraints.txt", "pyproject.toml", "Makefile", ".ci/run"):
        text = (ROOT / name).read_text()
        assert not re.search(r"https?://|--index|--extra-index|--find-links|-f ", text), name


# --- one name to import, however it came here --------------------------------------------------

offline = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-build-isolation")


def shell(*command, cwd, **environment):
    """What a command prints. Nothing of this process's own path reaches it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**inherited, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment_of(tmp_path_factory):
    """Makes environments that see other people's packages, and of ours only what is installed into them."""
    if Version(metadata.version("setuptools")) < Version("77"):
        pytest.skip("building needs setuptools >= 77, which the extra `test` installs")

    def environment(*installed):
        folder = tmp_path_factory.mktemp("environment")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        (site,) = folder.glob("lib/python*/site-packages")
        # A path in a .pth file is not searched for further .pth files, such as the one of an editable install.
        (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
        python = folder / "bin" / "python"
        if installed:
            shell(sys.executable, "-m", "pip", "--python", python, "install", *offline, *installed, cwd=folder)
        return python, site

    return environment


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A checkout: what a build needs of it, links as links."""
    folder = tmp_path_factory.mktemp("sources")
    for name in (*LINKED, "shaping_bench", ".package"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def sdist(sources, tmp_path_factory):
    out = tmp_path_factory.mktemp("sdist")
    code = f"import setuptools.build_meta as build; build.build_sdist({str(out)!r})"
    shell(sys.executable, "-c", code, cwd=sources)
    (file,) = out.glob("*.tar.gz")
    return file


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """The wheel as the index would have it: built from the sdist, which holds no links any more."""
    out = tmp_path_factory.mktemp("wheel")
    shell(sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", out, sdist, cwd=out)
    (file,) = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def from_wheel(wheel, environment_of):
    return environment_of(wheel)


@pytest.fixture(scope="module")
def editable(sources, environment_of):
    return environment_of("--editable", sources)


@pytest.fixture(scope="module")
def bare(environment_of):
    """Nothing of ours is installed."""
    return environment_of()


def test_nothing_imports_the_folders_at_the_top_by_their_own_names():
    files = [*shipped_code(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "shaping_bench" / "docs").rglob("*.py")]
    wrong = [file.name for file in files if imported_names(file) & {"algorithms", "games", "configs"}]
    assert wrong == []


def test_every_module_is_a_real_file_behind_its_import_name():
    """An editor that follows an import opens the file that one edits, by nothing but paths."""
    for name in LINKED:
        link = ROOT / "shaping_bench" / name
        assert link.is_symlink()
        assert os.readlink(link) == f"../{name}"
    for file in shipped_code():
        assert file.is_file()
        *folders, module = file.relative_to(ROOT).with_suffix("").parts
        dotted = ".".join(folders if module == "__init__" else [*folders, module])
        assert Path(importlib.util.find_spec(dotted).origin).samefile(file), dotted


def test_the_type_checker_finds_each_module_once_by_its_import_name():
    build, options = pytest.importorskip("mypy.find_sources"), pytest.importorskip("mypy.options")
    found = build.create_source_list([str(ROOT / "shaping_bench")], options.Options())
    names = [source.module for source in found if source.module]
    assert len(names) == len(set(names))
    assert {"shaping_bench.algorithms.lola", "shaping_bench.games.base"} <= set(names)
    assert not [name for name in names if name.partition(".")[0] in LINKED]


def test_the_sdist_holds_files_instead_of_links(sdist):
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert not [member.name for member in members if member.issym() or member.islnk()]
    names = {member.name.partition("/")[2].removeprefix(".package/") for member in members}
    assert {str(file.relative_to(ROOT)) for file in shipped_code()} | shipped_data() <= names


def test_the_wheel_holds_one_name_with_all_code_and_data_and_the_licence(from_wheel):
    _, site = from_wheel
    (info,) = site.glob("*.dist-info")
    recorded = {line.split(",")[0] for line in (info / "RECORD").read_text().splitlines()}
    tops = {name.partition("/")[0] for name in recorded if not name.startswith("..")}
    assert tops == {"shaping_bench", info.name}
    assert {str(file.relative_to(ROOT)) for file in shipped_code()} | shipped_data() <= recorded
    about = email.message_from_string((info / "METADATA").read_text())
    assert about["License-Expression"] == "Apache-2.0"
    assert "Apache License" in (info / "licenses" / "LICENSE").read_text()


def test_an_editable_install_is_a_path_that_editors_can_follow(editable, sources, tmp_path):
    python, site = editable
    (link,) = site.glob("__editable__*.pth")
    # An import hook would hide all from editors and type checkers; the checkout itself holds other names besides.
    (path,) = map(Path, link.read_text().split())
    assert {entry.name for entry in path.iterdir() if entry.suffix != ".egg-info"} == {"shaping_bench"}
    code = "import shaping_bench.algorithms.lola as module; print(module.__file__)"
    file = Path(shell(python, "-c", code, cwd=tmp_path).strip())
    assert file.is_relative_to(path)
    assert file.samefile(sources / "algorithms" / "lola.py")


def test_a_checkout_works_without_being_installed(bare):
    python, _ = bare
    assert "ipd" in shell(python, "-m", "shaping_bench", "list", "games", cwd=ROOT)
    pytest_ = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/games/test_fields.py")
    assert "passed" in shell(python, *pytest_, cwd=ROOT)


CODE = """
import algorithms.lola, games
from shaping_bench.algorithms.lola import LOLA
from shaping_bench.games import make

assert (algorithms.lola.LOLA, games.IPD) == ("somebody else's", "mine"), (algorithms, games)
assert LOLA.__module__ == "shaping_bench.algorithms.lola" and make("ipd").n_players == 2
"""

RULE = '''
from shaping_bench.algorithms.naive import Naive
from shaping_bench.games.fields import pytree_dataclass


@pytree_dataclass
class Mine(Naive):
    """Naive learning by another name."""
'''

PROJECT_OF_MINE = """
[project]
name = "mine"
version = "1"
[project.entry-points."shaping_bench.algorithms"]
mine = "algorithms.mine:Mine"
"""


@pytest.mark.parametrize(("how", "init"), [("from_wheel", True), ("editable", False)])
def test_folders_of_ones_own_by_the_same_names_are_in_nobodys_way(how, init, request, tmp_path):
    """By the console script, ``-m``, ``-c``, a script, pytest; and what one registers from them is found."""
    python, _ = request.getfixturevalue(how)
    for name, text in {
        **({"algorithms/__init__.py": ""} if init else {}),  # without one, any package of that name comes first
        "algorithms/lola.py": 'LOLA = "somebody else\'s"\n',
        "algorithms/mine.py": RULE,
        "games/__init__.py": "IPD = 'mine'\n",
        "script.py": CODE,
        "test_mine.py": f"def test_mine():\n{textwrap.indent(CODE, '    ')}",
        "pyproject.toml": PROJECT_OF_MINE,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    program = python.with_name("shaping-bench")
    commands = [
        (program, "list", "algorithms"),
        (python, "-m", "shaping_bench", "encounter", "tandem", "mine", "lola", "--seeds", "1", "--steps", "1"),
        (python, "-c", CODE),
        (python, "script.py"),
        (python, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
    ]
    with ThreadPoolExecutor(2) as pool:
        listed, met, _, _, tested = pool.map(lambda command: shell(*command, cwd=tmp_path), commands)
    assert "mine" in listed
    assert "mine (player 1)" in met
    assert "1 passed" in tested


def test_named_suites_and_templates_are_found_without_a_checkout(from_wheel, tmp_path):
    python, _ = from_wheel
    program = python.with_name("shaping-bench")
    suites = shell(program, "list", "suites", "--json", cwd=tmp_path)
    assert "quick" in {suite["name"] for suite in json.loads(suites)}
    assert "check my-rule" in shell(program, "new", "algorithm", "my-rule", cwd=tmp_path)
    assert (tmp_path / "my-rule" / "my_rule.py").is_file()


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("CANDIDATES=no-such-python", "no Python 3.11 or newer"),
        ("PYTHON=no-such-python", "PYTHON=no-such-python is not a Python 3.11 or newer"),
    ],
)
def test_make_without_a_suitable_python_says_what_to_do(tmp_path, given, said):
    # What an outer make was given would be inherited.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTHON"))
    }
    command = ["make", "test", f"VENV={tmp_path / 'venv'}", given]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "venv").exists()


def test_ci_can_be_started():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)
