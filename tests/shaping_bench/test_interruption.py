"""Faults: kill -9, two processes on one directory, no space, no permission."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from shaping_bench.cli import main

SUITE = """
name: faults
games: [ipd, stag-hunt, {game: tandem, steps: 20, set: {lr: 0.1, lookahead_lr: 0.1}}]
learners: [naive, lookahead]
seeds: 7
steps: 30
record_every: 10
league: {opponents: [], best_response: false}
"""
CELLS = 18  # three games, three unordered pairs each, as encounters and as league match-ups


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "faults.yaml"
    path.write_text(SUITE)
    return path


def command(suite, directory):
    return [sys.executable, "-m", "shaping_bench", "run", str(suite), "-o", str(directory), "--wandb", "disabled"]


def run(suite, directory, **kwargs):
    return subprocess.run(command(suite, directory), capture_output=True, text=True, timeout=300, **kwargs)


def finished(directory):
    return {p.parent.name for p in Path(directory).glob("cells/[!.]*/cell.json")}


def numbers(directory):
    """Every stored number, in order, as bits."""
    out = {}
    for table in ("finals", "curves"):
        for path in sorted(Path(directory).glob(f"cells/[!.]*/{table}.parquet")):
            rows = duckdb.sql(f"select * from read_parquet('{path}')").fetchall()
            out[path.parent.name, table] = [tuple(x.hex() if isinstance(x, float) else x for x in row) for row in rows]
    return out


def test_kill_9_then_the_same_command_equals_an_uninterrupted_run_bit_for_bit(suite, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = run(suite, whole)
    assert done.returncode == 0, done.stderr
    assert len(finished(whole)) == CELLS

    process = subprocess.Popen(command(suite, broken), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(finished(broken)) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    survivors = finished(broken)
    assert 4 <= len(survivors) < CELLS  # it was in the middle
    before = {key: (broken / "cells" / key / "cell.json").read_bytes() for key in survivors}

    again = run(suite, broken)
    assert again.returncode == 0, again.stderr
    assert f"{CELLS - len(survivors)} cells computed, {len(survivors)} kept, 0 failed" in again.stderr
    for key, content in before.items():
        assert (broken / "cells" / key / "cell.json").read_bytes() == content  # kept, not redone
    assert numbers(broken) == numbers(whole)


def test_two_processes_on_one_directory_lose_and_double_no_cell(suite, tmp_path):
    directory = tmp_path / "shared"
    processes = [
        subprocess.Popen(command(suite, directory), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert len(finished(directory)) == CELLS
    assert [p for p in (directory / "cells").iterdir() if p.name.startswith(".")] == []
    for key in finished(directory):
        assert json.loads((directory / "cells" / key / "cell.json").read_text())["hash"] == key
        assert {p.name for p in (directory / "cells" / key).iterdir()} >= {
            "cell.json",
            "finals.parquet",
            "curves.parquet",
        }


def test_a_full_disk_is_one_clear_line_and_leaves_no_half_cell(suite, tmp_path):
    directory = tmp_path / "full"
    directory.mkdir()

    def little_space():
        # No file may grow beyond 2 KB: the suite fits, a cell's numbers do not.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))

    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = run(suite, directory, preexec_fn=little_space, env=environment)
    assert done.returncode == 1
    complaint = done.stderr.strip().splitlines()[-1]
    assert complaint.startswith("shaping-bench: cannot write to")
    assert "finished cells are stored" in complaint
    assert "Traceback" not in done.stderr
    assert list((directory / "cells").iterdir()) == []


def test_a_directory_of_another_suite_is_refused(suite, tmp_path, capsys):
    text = "name: small\ngames: [ipd]\nlearners: [naive]\nseeds: 7\nsteps: 1\n"
    words = ["run", str(suite), "-o", str(tmp_path / "out"), "--wandb", "disabled"]
    suite.write_text(text)
    assert main(words) == 0
    suite.write_text(text.replace("seeds: 7", "seeds: 8"))
    assert main(words) == 2
    assert "suite.seeds is 7 there and 8 here" in capsys.readouterr().err


def test_an_unwritable_directory_is_refused(suite, capsys):
    assert main(["run", str(suite), "-o", "/proc/shaping-bench", "--wandb", "disabled"]) == 2
    assert "/proc/shaping-bench" in capsys.readouterr().err


def test_a_failing_cell_is_listed_and_the_others_are_stored(suite, tmp_path):
    plugin = tmp_path / "plugin"
    (plugin / "broken_rule-1.dist-info").mkdir(parents=True)
    (plugin / "broken_rule-1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: broken-rule\nVersion: 1\n"
    )
    (plugin / "broken_rule-1.dist-info" / "entry_points.txt").write_text(
        "[shaping_bench.algorithms]\nbroken = broken_rule:Broken\n"
    )
    (plugin / "broken_rule.py").write_text(
        "from shaping_bench.algorithms.core import GradientLearner, pytree_dataclass\n"
        "@pytree_dataclass\n"
        "class Broken(GradientLearner):\n"
        "    def direction(self, view):\n"
        "        raise RuntimeError('this rule is broken')\n"
    )
    suite.write_text("name: half\ngames: [ipd]\nlearners: [naive, broken]\nseeds: 3\nsteps: 5\n")
    directory = tmp_path / "out"
    done = run(suite, directory, env={**os.environ, "PYTHONPATH": str(plugin)})
    assert done.returncode == 1
    assert "failed: ipd: naive vs broken: RuntimeError: this rule is broken" in done.stderr
    assert len(finished(directory)) == 1
    assert f"tables: shaping-bench table {directory}" in done.stdout
