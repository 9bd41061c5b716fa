"""The results directory: writers side by side, and suites of earlier versions."""

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from shaping_bench.errors import BadInput, StoreError
from shaping_bench.publish.tables import table_command
from shaping_bench.run.artifacts import Artifacts
from shaping_bench.run.preparation import needed
from shaping_bench.spec.registry import make_game, make_learner
from shaping_bench.spec.suite import resolve
from shaping_bench.store.results import Results, kept, load
from shaping_bench.store.store import Store, read_parquet, write_parquet
from tests.shaping_bench.synthetic_results import write_cell, write_suite

SUITE = resolve({"name": "small", "games": ["ipd"], "learners": ["naive"]})


def test_threads_write_side_by_side(tmp_path):
    """Preparations that end together do; one connection for all of them failed every other time."""
    frame = pd.DataFrame({"seed": range(20), "value": 0.5})
    errors = []

    def write(k):
        for i in range(60):
            try:
                write_parquet(frame.assign(value=100.0 * k + i), tmp_path / f"{k}-{i}.parquet")
            except OSError as error:
                errors.append(error)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for k in range(2):
        for i in range(60):
            assert (read_parquet(tmp_path / f"{k}-{i}.parquet")["value"] == 100.0 * k + i).all()


def test_a_suite_of_a_version_that_knew_fewer_keys_is_the_same_suite(tmp_path):
    store = Store(tmp_path)
    older = {key: x for key, x in SUITE.items() if key not in ("episodes", "league")}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(older))
    store.adopt(SUITE, resolve)
    with pytest.raises(BadInput, match=r"suite\.seeds is 100 there and 7 here"):
        store.adopt({**SUITE, "seeds": 7}, resolve)


def test_a_suite_that_this_version_cannot_read_is_another(tmp_path):
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({**SUITE, "of_the_future": 1}))
    with pytest.raises(BadInput, match=r"suite\.of_the_future is 1 there"):
        Store(tmp_path).adopt(SUITE, resolve)


def test_a_file_system_without_hard_links_holds_results(tmp_path, monkeypatch):
    def link(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    Store(tmp_path).adopt(SUITE, resolve)
    with pytest.raises(BadInput, match=r"suite\.name is 'small' there and 'other' here"):
        Store(tmp_path).adopt({**SUITE, "name": "other"}, resolve)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_functions_of_one_name_keep_what_is_theirs(tmp_path):
    def named(module, value):
        def series(results):
            return value

        series.__module__, series.__qualname__ = module, "series"
        return kept(series)

    results = Results(tmp_path, {}, ())
    assert [named("one", 1)(results), named("two", 2)(results)] == [1, 2]


def test_of_two_cells_with_the_same_labels_the_newer_is_shown(tmp_path):
    write_suite(tmp_path, ["ipd"], ["naive"])
    for started, value in (("2026-01-02T00:00:00", 2.0), ("2026-01-01T00:00:00", 1.0)):
        key = write_cell(tmp_path, "ipd", ["naive", "naive"], {"return": [[value, value]] * 3})
        path = tmp_path / "cells" / key
        record = json.loads((path / "cell.json").read_text())
        (path / "cell.json").write_text(json.dumps({**record, "started": started}))
        path.rename(path.with_name(f"of-{started[:10]}"))  # as if a default had changed in between
    results = load(tmp_path)
    assert set(results.final("return")["value"]) == {2.0}
    assert [r["started"][:10] for r in results.superseded] == ["2026-01-01"]
    assert "1 older cell of the same labels left out" in table_command(results, ["return"])


# --- a loss of power ----------------------------------------------------------------------

FRAME = pd.DataFrame({"seed": [0], "player": [1], "metric": ["return"], "value": [0.5]})


@pytest.fixture
def calls(monkeypatch):
    """What reaches the disk and what is renamed, in order: ``("fsync", name)``, ``("rename", name)``."""
    log = []
    fsync, rename = os.fsync, os.rename

    def logged_fsync(handle):
        log.append(("fsync", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
        fsync(handle)

    def logged_rename(source, target):
        log.append(("rename", Path(target).name))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "rename", logged_rename)
    return log


def _assert_in_order(log, files, target):
    """Files, then the draft that names them, then its name, then the folder that holds that."""
    at = log.index(("rename", target))
    before, after = [name for _, name in log[:at]], [name for _, name in log[at + 1 :]]
    assert set(before[:-1]) == files
    assert before[-1].startswith(".")
    return after


def test_a_cell_reaches_the_disk_before_its_name_does(tmp_path, calls):
    store = Store(tmp_path)
    assert store.write("abc", {"hash": "abc"}, FRAME, FRAME, {"player_1": np.zeros(2)}, {"frames": []})
    files = {"cell.json", "finals.parquet", "curves.parquet", "policies.npz", "episode.json"}
    assert _assert_in_order(calls, files, "abc") == ["cells"]
    assert {path.name for path in (tmp_path / "cells" / "abc").iterdir()} == files


def test_an_artifact_reaches_the_disk_before_its_name_does(tmp_path, calls):
    cola = make_learner("cola(num_steps=1,batch_size=2)")
    preparation, _ = needed(make_game("tandem"), [cola] * 2, seeds=1, seed=0, precision="float32")
    Artifacts(tmp_path).prepared(preparation)
    rename = calls.index(("rename", preparation.hash))
    own = [call for call in calls[: rename + 2] if "checkpoint" not in call[1]]
    files = {"artifact.npz", "artifact.json", "curves.parquet"}
    assert _assert_in_order(own, files, preparation.hash)[-1] == tmp_path.name


@pytest.mark.parametrize("fails", ["fsync", "rename"])
def test_what_fails_before_its_name_is_given_leaves_nothing(tmp_path, monkeypatch, fails):
    store = Store(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(StoreError, match="No space left on device"):
        store.write("abc", {"hash": "abc"}, FRAME, FRAME)
    assert list(store.cells.iterdir()) == []


def test_a_process_that_dies_before_its_name_is_given_leaves_no_cell(tmp_path):
    program = f"""
import os
import pandas as pd
from shaping_bench.store.store import Store
frame = pd.DataFrame({{"seed": [0], "player": [1], "metric": ["return"], "value": [0.5]}})
os.rename = lambda *_: os._exit(9)
Store({str(tmp_path)!r}).write("abc", {{"hash": "abc"}}, frame, frame)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 9
    assert "abc" not in Store(tmp_path)
    assert Store(tmp_path).finished() == frozenset()
    (draft,) = (tmp_path / "cells").iterdir()
    assert {path.name for path in draft.iterdir()} == {"cell.json", "finals.parquet", "curves.parquet"}
