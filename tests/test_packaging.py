"""What is installed, pinned and shipped fits what the code needs."""

import ast
import email
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("games", "algorithms", "shaping_bench")
PYTHONS = ("3.11", "3.12", "3.13")
FOR_RULES = {"flax", "optax", "evosax"}  # what a rule may count on, whoever writes it: networks, optimisers, evolution
ADAPTED = {"axelrod", "gymnax", "jaxmarl"}  # other people's, imported only by those who ask for them: .ci/no-deps.txt
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
    """Every module of the packages; the documentation's sources are built from a checkout only."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    return [file for file in files if not file.is_relative_to(ROOT / "shaping_bench" / "docs")]


def imported_modules():
    found = set()
    for file in shipped_code():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(str(node.module).split(".")[0])
    return found - set(sys.stdlib_module_names) - set(PACKAGES) - ADAPTED


def test_dependencies_are_what_the_code_imports():
    providers = metadata.packages_distributions()
    needed = {canonicalize_name(providers[module][0]) for module in imported_modules()}
    assert needed | FOR_RULES == {canonicalize_name(r.name) for r in requirements()}


def test_dependencies_have_lower_bounds_and_no_caps():
    for requirement in requirements("gpu", "test", "docs"):
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
    for requirement in requirements("test", "docs", "dev"):
        (version,) = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_no_file_of_the_set_up_names_a_registry():
    for name in ("constraints.txt", "pyproject.toml", "Makefile", ".ci/run"):
        text = (ROOT / name).read_text()
        assert not re.search(r"https?://|--index|--extra-index|--find-links|-f ", text), name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built offline from a copy of the sources."""
    if Version(metadata.version("setuptools")) < Version("77"):
        pytest.skip("building needs setuptools >= 77, which the extra `test` installs")
    work = tmp_path_factory.mktemp("wheel")
    for name in (*PACKAGES, "configs"):
        shutil.copytree(ROOT / name, work / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, work / "source" / name)
    offline = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", str(work), str(work / "source")],
        check=True,
        capture_output=True,
    )
    (file,) = work.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(work / "unpacked")
    return work / "unpacked"


def test_the_wheel_holds_all_code_configs_and_the_licence(wheel):
    files = {str(path.relative_to(wheel)) for path in wheel.rglob("*") if path.is_file()}
    code = {str(path.relative_to(ROOT)) for path in shipped_code()}
    configs = {f"shaping_bench/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert "shaping_bench/configs/suites/quick.yaml" in configs
    assert code | configs <= files
    (info,) = wheel.glob("*.dist-info")
    about = email.message_from_string((info / "METADATA").read_text())
    assert about["License-Expression"] == "Apache-2.0"
    assert "Apache License" in (info / "licenses" / "LICENSE").read_text()
    assert "shaping-bench = shaping_bench.cli:main" in (info / "entry_points.txt").read_text()


def test_named_suites_are_found_without_a_checkout(wheel, tmp_path):
    code = "from shaping_bench import suite; print(suite.configs_folder(), *suite.suite_names())"
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    folder, *names = done.stdout.split()
    assert Path(folder) == (wheel / "shaping_bench" / "configs").resolve()
    assert "quick" in names


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
