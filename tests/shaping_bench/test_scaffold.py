"""``shaping-bench new``: what it writes works as it stands, and it never overwrites."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shaping_bench.conformance.kit import check_game, check_learner
from shaping_bench.errors import BadInput
from shaping_bench.scaffold import scaffold

ROOT = Path(__file__).resolve().parents[2]
KINDS = {"exact": "warm-heart", "sampled": "keen-player", "prepares": "well-read", "game": "small-market"}


def loaded(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shell(folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "shaping_bench", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=400,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_package_works_as_it_stands(kind, tmp_path, monkeypatch):
    """Its own test passes, the kit passes, and its suite runs by name without installing anything."""
    name = KINDS[kind]
    written = scaffold.new(kind, name, tmp_path)
    module = name.replace("-", "_")
    assert {file.name for file in written.files} == {
        f"{module}.py",
        f"test_{module}.py",
        f"{name}.yaml",
        "pyproject.toml",
    }
    assert [
        f" {word} " in command for word, command in zip(("check", "pytest", "run"), written.commands[-3:], strict=True)
    ]

    monkeypatch.syspath_prepend(tmp_path)
    tests = loaded(tmp_path / f"test_{module}.py")
    own = [test for test in vars(tests) if test.startswith("test_")]
    assert len(own) >= 2
    cls = getattr(sys.modules[module], "".join(part.capitalize() for part in name.split("-")))
    for test in own:
        if test == "test_it_is_a_good_citizen":  # the same with fewer programs
            findings = check_game(cls) if kind == "game" else check_learner(cls, thorough=False)
            assert [str(finding) for finding in findings if not finding.passed] == []
        else:
            getattr(tests, test)()

    small = ["--seeds", "2", "--set", "steps=2", "record_every=2"]
    fewer = {"sampled": [f"learners=['{name}(batch_size=8)']"], "prepares": [f"learners=['{name}(num_steps=2)']"]}
    done = shell(tmp_path, "run", f"{name}.yaml", "-o", "r", "--wandb", "disabled", *small, *fewer.get(kind, []))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tables: shaping-bench table r" in done.stdout
    assert name in (tmp_path / "r" / "report.html").read_text()


def test_in_the_repository_it_is_registered(tmp_path):
    """In a copy of the source tree: the names are known, and the files lie where the others do."""
    for folder in ("algorithms", "games", "shaping_bench", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=ignored)
    (tmp_path / "tests").mkdir()
    here = {"PYTHONPATH": str(tmp_path)}
    for words in (["algorithm", "warm-heart"], ["game", "small-market"]):
        done = shell(tmp_path, "new", *words, **here)
        assert done.returncode == 0, done.stderr
        assert f"{words[1]} also needs a line on a page of shaping_bench/docs" in done.stdout
    for file in (
        "algorithms/warm_heart.py",
        "tests/algorithms/test_warm_heart.py",
        "configs/suites/warm-heart.yaml",
        "games/small_market.py",
    ):
        assert (tmp_path / file).is_file()
    code = (
        "from shaping_bench.spec.registry import algorithms, games, make_game, make_learner\n"
        "from shaping_bench.spec.suite import load\n"
        "assert list(algorithms())[-1] == 'warm-heart' and list(games())[-1] == 'small-market'\n"
        "print(make_learner('warm-heart(care=0.9)').value.care, make_game('small-market').value.n_players)\n"
        "print(len(load('warm-heart').encounters), len(load('small-market').encounters))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, **here},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout.split() == ["0.9", "2", "12", "6"], done.stderr
    # Imports stay in order, so that a linter has nothing to say.
    lines = (tmp_path / "algorithms" / "__init__.py").read_text().splitlines()
    modules = [line.split()[1] for line in lines if line.startswith("from shaping_bench.")]
    assert "shaping_bench.algorithms.warm_heart" in modules
    assert modules == sorted(modules)
    # The kit meets whatever is registered; a test of one's own need not.
    assert "good_citizen" not in (tmp_path / "tests" / "algorithms" / "test_warm_heart.py").read_text()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("MyRule", ("'MyRule'", "'my-rule'")),
        ("my_rule", ("'my_rule'", "'my-rule'")),
        ("1st", ("'1st'", "lower-case")),
        ("lola", ("'lola'", "registered algorithm")),
        ("ipd", ("'ipd'", "registered game")),
        ("class", ("'class'", "reserves")),
        ("json", ("'json'", "installed already")),
    ],
)
def test_names_that_will_not_do(name, words, tmp_path):
    with pytest.raises(BadInput) as caught:
        scaffold.new("exact", name, tmp_path / "new")
    assert all(word in str(caught.value) for word in words)
    assert not (tmp_path / "new").exists()


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "kind_heart.py").write_text("mine")
    with pytest.raises(BadInput, match=r"kind_heart\.py', which exists"):
        scaffold.new("exact", "kind-heart", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["kind_heart.py"]
    assert (tmp_path / "kind_heart.py").read_text() == "mine"


def test_a_second_algorithm_in_one_package_leaves_its_project_alone(tmp_path):
    scaffold.new("exact", "kind-heart", tmp_path)
    before = (tmp_path / "pyproject.toml").read_text()
    written = scaffold.new("exact", "cold-heart", tmp_path)
    assert (tmp_path / "pyproject.toml").read_text() == before
    assert 'cold-heart = "cold_heart:ColdHeart"' in str(written)


def test_a_project_that_names_nothing_loadable_is_told(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[project.entry-points."shaping_bench.algorithms"]\nmine = "no_such_module:Mine"\n'
    )
    done = shell(tmp_path, "list", "algorithms")
    assert done.returncode == 2
    assert "mine" in done.stderr
    assert "no_such_module:Mine" in done.stderr
