"""A results directory that the first release wrote is read, tabled and continued.

``fixtures/results-schema-1.tar.xz`` holds it as it was left, and ``table.csv``, what that release's
``shaping-bench table DIR --format csv`` printed of it.
"""

import csv
import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from shaping_bench.cli import main
from shaping_bench.store.results import load
from shaping_bench.store.store import read_parquet

STORED = Path(__file__).parent / "fixtures" / "results-schema-1.tar.xz"
CELLS = 100
NUMBERS = ("mean", "std", "median", "iqm", "se", "n", "runs", "diverged")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old") / "results"
    with tarfile.open(STORED) as file:
        file.extractall(folder, filter="data")
    return folder


@pytest.fixture
def directory(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "results"))


@pytest.fixture
def suite(directory, tmp_path):
    path = tmp_path / "suite.yaml"
    shutil.copy(directory / "suite.yaml", path)
    return path


def numbers(text):
    rows = csv.DictReader(io.StringIO(text))
    return {(r["table"], r["row"], r["column"]): [r[x] for x in NUMBERS] for r in rows if "summary" not in r["table"]}


def finals(directory):
    return {
        path.parent.name: read_parquet(path).sort_values(["metric", "player", "seed"], ignore_index=True)
        for path in directory.glob("cells/[!.]*/finals.parquet")
    }


def run(suite, directory, *more):
    return main(["run", str(suite), "-o", str(directory), "--wandb", "disabled", *more])


def test_its_tables_hold_the_numbers_they_held(directory, capsys):
    assert len(load(directory).records) == CELLS
    assert main(["table", str(directory), "--format", "csv"]) == 0
    now, then = numbers(capsys.readouterr().out), numbers((directory / "table.csv").read_text())
    assert {key: now.get(key) for key in then} == then


def test_it_becomes_a_page(directory, capsys):
    assert main(["report", str(directory)]) == 0
    assert (directory / "report.html").stat().st_size > 100_000


def test_the_same_suite_keeps_every_cell(directory, suite, capsys):
    before = {p: p.read_bytes() for p in directory.glob("cells/*/*")}
    assert run(suite, directory) == 0
    assert f"0 cells computed, {CELLS} kept, 0 failed" in " ".join(capsys.readouterr().err.split())
    assert {p: p.read_bytes() for p in directory.glob("cells/*/*")} == before


def test_what_is_missing_of_it_comes_back_with_the_same_numbers(directory, suite, capsys):
    """One cell of each kind: a sweep's, of a rule that plays, of one that prepares, of a game of
    networks, and of a league exact, by play, and against a trained response."""
    wanted = [
        ("encounter", "ipd", ["naive", "lola"]),
        ("encounter", "imp", ["ppo(batch_size=8,minibatches=1)", "tft"]),
        ("encounter", "ipd", ["cola(num_steps=5,batch_size=4,hidden=4)", "tft"]),
        ("encounter", "coin-game(horizon=4)", ["naive-pg(batch_size=4,network=gru,hidden=4)"] * 2),
        ("league", "ipd", ["naive", "lola"]),
        ("league", "imp", ["naive", "best-response"]),
        ("league", "coin-game(horizon=4)", ["naive-pg(batch_size=4,network=gru,hidden=4)", "best-response"]),
    ]
    gone = [
        r["hash"]
        for r in load(directory).records
        if (r["kind"], r["game"]["label"], [x["label"] for x in r["learners"]]) in wanted
    ]
    assert len(gone) == len(wanted)
    before = finals(directory)
    for key in gone:
        shutil.rmtree(directory / "cells" / key)
    assert run(suite, directory) == 0
    assert f"{len(wanted)} cells computed, {CELLS - len(wanted)} kept, 0 failed" in capsys.readouterr().err
    after = finals(directory)
    assert set(after) == set(before)
    for key in gone:
        metrics = set(before[key]["metric"])
        again = after[key][after[key]["metric"].isin(metrics)].reset_index(drop=True)
        pd.testing.assert_frame_equal(again[["metric", "player", "seed"]], before[key][["metric", "player", "seed"]])
        # As far as compilers agree: tests compile with less effort than the release did.
        np.testing.assert_allclose(again["value"], before[key]["value"], rtol=1e-4, atol=1e-5)


def test_another_suite_is_still_refused(directory, suite, capsys):
    content = yaml.safe_load(suite.read_text())
    suite.write_text(yaml.safe_dump({**content, "learners": [*content["learners"], "sos"]}))
    assert run(suite, directory) == 2
    assert "suite.learners" in capsys.readouterr().err
