"""The offline W&B record, read back with W&B's own reader, says what the store says."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from shaping_bench.analysis import stats
from shaping_bench.cli import main
from shaping_bench.errors import BadInput
from shaping_bench.publish import tracking
from shaping_bench.publish.tables import table_command
from shaping_bench.publish.tracking import Tracker
from shaping_bench.store.store import Store, write_parquet

SUITE = {"name": "tiny", "games": ["ipd"], "learners": ["lola", "naive"]}
RETURNS = np.array([[-1.0, -2.0], [-1.5, -1.0], [np.nan, np.nan]])  # (seed, player); the last diverged


def store_cell(directory, key, kind="encounter"):
    """A stored cell with the final returns above and a curve that goes there from -2."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "suite.yaml").write_text(yaml.safe_dump(SUITE))
    cell = {
        "schema": 1,
        "hash": key,
        "steps": 20,
        "kind": kind,
        "suite": "tiny",
        "game": {"name": "ipd", "label": "ipd", "hyperparameters": {"gamma": 0.96}},
        "learners": [
            {
                "name": name,
                "label": name,
                "hyperparameters": {"lr": 1.0},
                "access": "gradients",
                "needs_preparation": False,
            }
            for name in ("lola", "naive")
        ],
        "seeds": 3,
        "timings": {"compile": 1.0, "run": 0.5, "metrics": 0.1},
        "costs": {"updates": 60},
        "diverged": 1,
    }
    finals, curves = [], []
    for seed, player in np.ndindex(RETURNS.shape):
        value = RETURNS[seed, player]
        finals.append((seed, player + 1, "return", value))
        finals.append((seed, player + 1, "diverged", float(np.isnan(value))))
        for update, share in ((0, 0.0), (10, 0.5), (20, 1.0)):
            curves.append((seed, update, player + 1, "return", -2.0 + share * (value + 2.0)))
    Store(directory).write(
        key,
        cell,
        pd.DataFrame(finals, columns=["seed", "player", "metric", "value"]),
        pd.DataFrame(
            curves if kind == "encounter" else None,
            columns=["seed", "update", "player", "metric", "value"],
        ),
    )
    return cell


def read_back(directory, key):
    """All records of a run's offline file, by type."""
    (file,) = (directory / "wandb").glob(f"offline-run-*-{key}/run-{key}.wandb")
    wandb = Path(sys.executable).with_name("wandb")
    done = subprocess.run([wandb, "leet", "inspect", "--json", file], capture_output=True, text=True, check=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return {kind: [r[kind] for r in records if r["type"] == kind] for kind in {r["type"] for r in records}}


def summary_of(records):
    merged = {}
    for record in records["summary"]:
        merged |= record.get("update", {})
    return merged


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A results directory of two cells, tracked offline to the end."""
    directory = tmp_path_factory.mktemp("tracked") / "results"
    cells = {"aaaa": store_cell(directory, "aaaa"), "bbbb": store_cell(directory, "bbbb", "league")}
    page = directory / "report.html"
    page.write_text("<html><body>the page</body></html>")
    tracker = Tracker(directory, SUITE, "offline")
    tracker.log_cell("aaaa")
    tracker.finish(page=page)
    assert tracker.problem is None
    return directory, cells


def test_the_suite_has_a_run_of_its_own_that_says_how_it_gets_on(tmp_path):
    store_cell(tmp_path, "aaaa")
    tracker, progress = Tracker(tmp_path, SUITE, "offline"), {"cells": 1, "running": 3, "hours_left": 0.5}
    tracker.log_progress(lambda: progress)  # too soon after it began
    progress |= {"cells": 2, "running": 0}
    tracker.finish()
    assert tracker.problem is None

    def others():
        """Of runs that are neither a cell's nor the report."""
        logged = {path.name for path in tmp_path.glob("wandb/logged/offline/*")}
        # Of two within a second W&B gives the second a number behind its key.
        return {path.name.split("-")[3] for path in tmp_path.glob("wandb/offline-run-*")} - logged

    (key,) = others()
    records = read_back(tmp_path, key)
    (run,) = records["run"]
    assert (run["display_name"], run["run_group"], run["job_type"]) == ("tiny: progress", "tiny", "progress")
    (point,) = records["history"]
    assert {name: point["item"][f"progress/{name}"] for name in progress} == progress
    # Another launch of the suite goes on with the same run.
    again = Tracker(tmp_path, SUITE, "offline")
    again.log_progress(lambda: progress)
    again.finish()
    assert others() == {key}


def test_the_run_of_a_cell_has_the_cells_identity_and_configuration(tracked):
    directory, cells = tracked
    (run,) = read_back(directory, "aaaa")["run"]
    assert (run["run_id"], run["run_group"], run["project"]) == ("aaaa", "tiny", "shaping-bench")
    assert run["display_name"] == "ipd: lola vs naive"
    assert set(run["tags"]) == {"encounter", "ipd", "lola", "naive"}
    config = {name: value for name, value in run["config"]["update"].items() if name != "_wandb"}
    assert config == cells["aaaa"]


def test_curves_are_the_finite_seeds_mean_and_standard_deviation(tracked):
    history = {h["step"].get("num", 0): h["item"] for h in read_back(tracked[0], "aaaa")["history"]}
    assert sorted(history) == [0, 10, 20]
    for update, share in ((0, 0.0), (10, 0.5), (20, 1.0)):
        for player in (1, 2):
            reached = -2.0 + share * (RETURNS[:2, player - 1] + 2.0)
            item = history[update]
            assert item[f"return/player_{player}"] == pytest.approx(reached.mean(), abs=1e-12)
            assert item[f"return/player_{player}_std"] == pytest.approx(reached.std(ddof=1), abs=1e-12)


def test_a_league_match_up_is_no_run_of_its_own(tracked):
    directory, _ = tracked
    assert list((directory / "wandb").glob("offline-run-*-aaaa"))
    assert not list((directory / "wandb").glob("offline-run-*-bbbb"))


def test_the_summary_holds_the_final_numbers(tracked):
    summary = summary_of(read_back(tracked[0], "aaaa"))
    assert summary["final/return/player_1"] == pytest.approx(-1.25)
    assert summary["final/return/player_1_std"] == pytest.approx(0.5 / math.sqrt(2))
    assert summary["final/return/player_2_iqm"] == pytest.approx(-1.5)  # of two runs none is cut off
    assert summary["final/diverged/player_2"] == pytest.approx(1 / 3)
    assert summary["diverged"] == 1
    assert summary["seconds"]["run"] == 0.5


def test_the_report_run_holds_the_table_and_the_page(tracked):
    directory, _ = tracked
    (report,) = set((directory / "wandb" / "logged" / "offline").iterdir()) - {
        directory / "wandb" / "logged" / "offline" / key for key in ("aaaa", "bbbb")
    }
    records = read_back(directory, report.name)
    assert records["run"][0]["display_name"] == "tiny: report"
    item = records["history"][0]["item"]
    (files,) = (directory / "wandb").glob(f"offline-run-*-{report.name}/files")
    table = json.loads((files / item["results.path"]).read_text())
    assert table["columns"] == list(tracking.COLUMNS)
    rows = {(row[0], row[4], row[5]): row for row in table["data"]}
    assert len(rows) == 8  # two cells, two players, two metrics
    assert rows["encounter", 2, "return"][1:9] == [
        "ipd", "naive", "lola", 2, "return", -1.5, pytest.approx(0.5**0.5), 2,
    ]  # fmt: skip
    assert "the page" in (files / item["page.path"]).read_text()


def test_the_report_run_holds_comparison_tables_and_artifacts(tracked):
    """Panels show the printed tables; what artifacts stage lies in the results and is what is printed."""
    directory, _ = tracked
    (folder,) = {
        x for x in (directory / "wandb").glob("offline-run-*") if x.name.rpartition("-")[2] not in ("aaaa", "bbbb")
    }
    records = read_back(directory, folder.name.rpartition("-")[2])
    item = records["history"][0]["item"]
    panel = json.loads((folder / "files" / item["tables/ipd return.path"]).read_text())
    printed = table_command(directory, None, "md")
    assert panel["columns"][0] == "learner / opponent"
    for row in panel["data"]:
        for text in row:
            assert text in printed
    assert "-1.25 ± 0.35 (n=2/3)" in {text for row in panel["data"] for text in row}
    # Those of type run_table are W&B's own, one per panel.
    artifacts = {x["type"]: x for x in records["artifact"] if x["type"] != "run_table"}
    assert {name: x["name"] for name, x in artifacts.items()} == {"tables": "tiny-tables", "page": "tiny-page"}
    staged = {x["path"]: Path(x["local_path"]) for a in artifacts.values() for x in a["manifest"]["contents"]}
    assert set(staged) == {"tables.md", "tables.tex", "tables.csv", "tables.json", "report.html"}
    assert all(path.is_relative_to(directory.resolve()) for path in staged.values())
    assert staged["tables.md"].read_text() == printed
    assert "the page" in staged["report.html"].read_text()


def test_offline_records_are_what_an_upload_finds(tracked, capfd):
    """W&B's own sync lists every run; without credentials nothing is sent, and nothing asked."""
    directory, _ = tracked
    assert main(["upload", str(directory), "--dry-run"]) == 0
    listed = capfd.readouterr()
    shown = listed.out + listed.err
    assert "Would sync 2 run(s)" in shown
    for folder in (directory / "wandb").glob("offline-run-*"):
        assert folder.name in shown


def test_an_upload_without_records_or_credentials_is_bad_input(tracked, tmp_path, monkeypatch, capfd):
    assert main(["upload", str(tmp_path)]) == 2
    assert "holds no offline W&B records" in capfd.readouterr().err
    monkeypatch.setattr(tracking, "log_in", lambda what, allowed: (_ for _ in ()).throw(BadInput(what)))
    assert main(["upload", str(tracked[0])]) == 2
    assert "needs credentials" in capfd.readouterr().err


def test_iqm_is_that_of_the_tables(tmp_path):
    store_cell(tmp_path, "abcd")
    values = np.array([5.0, 1.0, 2.0, 100.0, 3.0, -7.0, np.nan, 4.0, 0.5])
    frame = pd.DataFrame({"seed": range(9), "player": 1, "metric": "return", "value": values})
    write_parquet(frame, tmp_path / "cells" / "abcd" / "finals.parquet")
    Tracker(tmp_path, SUITE).log_cell("abcd")
    summary = summary_of(read_back(tmp_path, "abcd"))
    assert summary["final/return/player_1_iqm"] == pytest.approx(float(stats.iqm([values[np.isfinite(values)]])))


def test_nothing_is_logged_twice_and_the_rest_is_logged_later(tmp_path):
    directory = tmp_path / "results"
    store_cell(directory, "cccc")
    Tracker(directory, SUITE).log_cell("cccc")  # and then the process dies
    store_cell(directory, "dddd")
    for _ in range(2):
        tracker = Tracker(directory, SUITE)
        tracker.log_cell("cccc")
        tracker.finish()
    names = [path.name.rpartition("-")[2] for path in (directory / "wandb").glob("offline-run-*")]
    assert len(names) == 3  # the two cells and one report
    assert {"cccc", "dddd"} < set(names)


def test_everything_stays_inside_the_results_directory(tmp_path):
    """No home, no terminal: nothing is written outside, printed or asked."""
    directory, home = tmp_path / "results", tmp_path / "home"
    home.mkdir()
    store_cell(directory, "eeee")
    code = (
        "import sys; from shaping_bench.publish.tracking import Tracker\n"
        f"assert 'wandb' not in sys.modules\nTracker({str(directory)!r}, {SUITE!r}).finish()"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        cwd=Path(tracking.__file__).parents[1],
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert len(list((directory / "wandb").glob("offline-run-*"))) == 2


def test_disabled_does_nothing(tmp_path):
    store_cell(tmp_path, "ffff")
    before = sorted(tmp_path.rglob("*"))
    tracker = Tracker(tmp_path, SUITE, "disabled")
    tracker.log_cell("ffff")
    tracker.finish()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failing_tracker_loses_no_results_and_says_so_once(tmp_path, capsys):
    store_cell(tmp_path, "gggg")
    (tmp_path / "wandb").write_text("a file where the folder belongs")
    tracker = Tracker(tmp_path, SUITE)
    tracker.log_cell("gggg")
    tracker.finish()
    assert tracker.problem is not None
    (line,) = capsys.readouterr().err.splitlines()
    assert "W&B (offline) failed" in line
    assert "NotADirectoryError" in line


def test_an_unknown_mode_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match=r"--wandb is 'ofline', .*did you mean 'offline'"):
        Tracker(tmp_path, SUITE, "ofline")


def test_online_without_credentials_is_bad_input_and_never_asks(tmp_path):
    code = (
        "from shaping_bench.publish.tracking import Tracker\nfrom shaping_bench.errors import BadInput\n"
        f"try:\n    Tracker({str(tmp_path)!r}, {SUITE!r}, 'online')\nexcept BadInput as error:\n    print(error)"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        cwd=Path(tracking.__file__).parents[1],
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "--wandb is 'online'" in done.stdout
    assert "WANDB_API_KEY" in done.stdout
