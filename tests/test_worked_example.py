"""The README's worked example, run as it stands: in a package of its own, out of the tree."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


def examples():
    """The README's blocks that are marked as parts of the example, by name."""
    blocks = re.findall(r"<!-- example: (\S+) -->\n```\w*\n(.*?)```", README.read_text(), re.DOTALL)
    return dict(blocks)


@pytest.fixture
def project(tmp_path):
    """The example's three files in a folder, nothing installed."""
    for name in ("prosocial.py", "prosocial.yaml", "pyproject.toml"):
        (tmp_path / name).write_text(examples()[name])
    return tmp_path


@pytest.fixture
def installed(tmp_path):
    """The example as an installed package is seen from another folder: modules and metadata on the path."""
    blocks = examples()
    project = tomllib.loads(blocks["pyproject.toml"])["project"]
    folder = tmp_path / "site"
    metadata = folder / f"{project['name']}-{project['version']}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(points))
    (folder / "prosocial.py").write_text(blocks["prosocial.py"])
    return tmp_path, {"PYTHONPATH": str(folder)}


def shell(line, folder, environment=None):
    arguments = [word.strip("'") for word in line.split()]
    assert arguments[0] == "shaping-bench"
    done = subprocess.run(
        [sys.executable, "-m", "shaping_bench", *arguments[1:]],
        cwd=folder,
        env={**os.environ, "WANDB_MODE": "offline", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_command_of_the_example_runs(project):
    outputs = [shell(line, project) for line in examples()["shell"].strip().splitlines()]
    assert "MISSING" not in outputs[0]
    assert "prosocial (player 1)" in outputs[1]
    assert "prosocial" in outputs[2]
    cells = [json.loads(p.read_text()) for p in project.glob("results/prosocial/cells/*/cell.json")]
    assert len(cells) == 12  # two games, six unordered pairs each
    met = {tuple(x["name"] for x in cell["learners"]) for cell in cells}
    assert ("lola", "prosocial") in met
    assert ("prosocial", "prosocial") in met
    assert "prosocial" in (project / "results" / "prosocial" / "report.html").read_text()


def test_caring_fully_for_the_other_is_ascending_the_sum(installed):
    folder, environment = installed
    out = shell("shaping-bench encounter ipd prosocial(care=1.0) --seeds 20 --steps 200 --json", folder, environment)
    returns = json.loads(out)["metrics"]["return"]
    # With care 1 the prisoner's dilemma is a common-interest game whose optimum is cooperation.
    assert all(player["mean"] > -1.05 for player in returns)


def test_the_python_example_runs(tmp_path):
    block = next(b for b in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "run_encounter" in b)
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = (float(x) for x in done.stdout.strip("[] \n").split())
    assert first > second  # LOLA does better than the naive learner it meets


BEFORE = '''"""Prosocial learning: part of everybody else's value counts as one's own."""

from algorithms import trees
from algorithms.base import GradientLearner, View, field, pytree_dataclass


@pytree_dataclass
class Prosocial(GradientLearner):
    """``d_i = grad_i [V_i + care sum_j V_j]``: naive learning for care = 0."""

    source = "the README of shaping-bench"

    care: float = field(0.5, "weight of the others' values", low=0.0)

    def direction(self, view: View):
        direction = view.gradient()
        for j in view.others:
            direction = trees.add(direction, view.gradient(of=j), self.care)
        return direction
'''
"""The example as it stood while one imported ``algorithms`` and ``games`` from the top of the repository."""


def test_a_rule_of_before_needs_its_import_lines_changed_and_nothing_else(project):
    after = BEFORE.replace("from algorithms import trees", "from shaping_bench.algorithms.core import trees").replace(
        "from algorithms.base import", "from shaping_bench.algorithms.core import"
    )
    changed = [line for line, new in zip(BEFORE.splitlines(), after.splitlines(), strict=True) if line != new]
    assert all(line.startswith("from algorithms") for line in changed)
    (project / "prosocial.py").write_text(after)
    assert "MISSING" not in shell("shaping-bench check prosocial", project)
    out = shell("shaping-bench encounter ipd prosocial lola --seeds 4 --steps 5 --json", project)
    assert json.loads(out)["diverged"] == 0
