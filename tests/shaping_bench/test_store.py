"""The results directory: writers side by side, and suites of earlier versions."""

import errno
import json
import os
import threading

import pandas as pd
import pytest
import yaml

from shaping_bench.errors import BadInput
from shaping_bench.publish.tables import table_command
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
