"""Copies of cells in a few files: read like the cells themselves, whatever has become of these since."""

import itertools
import json
import os
import re
import shutil
import threading

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shaping_bench.publish.report import page
from shaping_bench.publish.report.page import render_page
from shaping_bench.publish.tables import table_command
from shaping_bench.store import compaction, disk
from shaping_bench.store.results import load
from tests.shaping_bench.synthetic_results import write_cell, write_suite

LEARNERS = ("naive", "lola", "naive(lr=2.0)", "lola(lr=2.0)")
PAIRS = tuple(itertools.combinations_with_replacement(LEARNERS, 2))
UPDATES = (0, 5, 10)

_clock = itertools.count(10**18, 10**9)
"""Times of change, nanoseconds: long ago, so that folders count as settled, and never the same twice."""


def written(directory, pair, seed=0):
    """One cell; another seed, other numbers."""
    rng = np.random.default_rng((seed, LEARNERS.index(pair[0]), LEARNERS.index(pair[1])))
    curves = {"return": rng.normal(size=(3, 4, 2)), "cooperation": rng.uniform(size=(3, 4, 2))}
    finals = {"return": curves["return"][-1], "cooperation": curves["cooperation"][-1]}
    finals["return"][0, 0] = np.nan  # a diverged seed
    key = write_cell(directory, "ipd", pair, finals, curves=curves, updates=UPDATES)
    time = next(_clock)
    os.utime(directory / "cells" / key, ns=(time, time))
    return key


@pytest.fixture
def few(monkeypatch):
    """Two cells are many already."""
    monkeypatch.setattr(compaction, "MOST_LOOSE", 2)


@pytest.fixture
def directory(tmp_path):
    return made(tmp_path)


def made(directory):
    write_suite(directory, ["ipd"], list(LEARNERS), seeds=4, metrics=["return", "cooperation"])
    for pair in PAIRS:
        written(directory, pair)
    return directory


def parts(directory):
    return sorted(path for path in (directory / "compacted").iterdir() if not path.name.startswith("."))


def by_the_cells(directory):
    """The same results, of a reader that knows no copies."""
    alone = directory.parent / f"{directory.name}-alone"
    shutil.rmtree(alone, ignore_errors=True)
    shutil.copytree(directory, alone, ignore=shutil.ignore_patterns("compacted"))
    results = load(alone)
    assert results.parts == ()
    return results


def assert_alike(one, other):
    assert one.records == other.records
    for frame in ("finals", "curves", "cells", "seats"):
        pd.testing.assert_frame_equal(getattr(one, frame), getattr(other, frame))
    assert one.final_metrics("encounter") == other.final_metrics("encounter")
    for metric in one.curve_metrics:
        pd.testing.assert_frame_equal(one.curve_bands(metric), other.curve_bands(metric), rtol=1e-14)
        pd.testing.assert_frame_equal(one.final(metric), other.final(metric))


def test_copies_hold_what_the_cells_hold_and_tables_print_the_same(directory, few):
    alone = by_the_cells_without_few(directory)
    first, again = load(directory), load(directory)
    assert [part.size for part in first.parts] == [len(PAIRS)] == [part.size for part in again.parts]
    for results in (first, again):
        assert_alike(results, alone)
        for fmt, metrics in (("md", None), ("json", None), ("md", ["normalised_return"])):
            mine, theirs = (table_command(x, metrics, fmt) for x in (results, alone))
            assert mine.replace(str(results.directory), str(alone.directory)) == theirs
        assert render_page(results) == render_page(alone)


def by_the_cells_without_few(directory):
    """As :func:`by_the_cells`, where few cells are many."""
    most, compaction.MOST_LOOSE = compaction.MOST_LOOSE, 10**9
    try:
        return by_the_cells(directory)
    finally:
        compaction.MOST_LOOSE = most


@settings(max_examples=5)
@given(st.lists(st.tuples(st.sampled_from(("add", "delete", "rewrite")), st.sampled_from(PAIRS[:5])), max_size=6))
def test_whatever_becomes_of_the_cells_they_are_read_as_they_are(tmp_path_factory, steps):
    directory = tmp_path_factory.mktemp("results")
    write_suite(directory, ["ipd"], list(LEARNERS), seeds=4)
    stored = {pair: written(directory, pair) for pair in PAIRS[:3]}
    most, compaction.MOST_LOOSE = compaction.MOST_LOOSE, 1
    try:
        for seed, (step, pair) in enumerate(steps):
            if step != "add" and pair in stored and len(stored) > 1:
                shutil.rmtree(directory / "cells" / stored.pop(pair))
            if step != "delete" and pair not in stored:
                stored[pair] = written(directory, pair, seed)
            assert_alike(load(directory), by_the_cells_without_few(directory))
    finally:
        compaction.MOST_LOOSE = most


def test_a_cell_that_changes_while_it_is_copied_is_no_copy(directory, few, monkeypatch):
    key = compaction.folders(directory / "cells").popitem()[0]
    rows_of_cells = compaction.rows_of_cells

    def meanwhile(files):
        time = next(_clock)
        os.utime(directory / "cells" / key, ns=(time, time))
        return rows_of_cells(files)

    monkeypatch.setattr(compaction, "rows_of_cells", meanwhile)
    (part,) = load(directory).parts
    assert set(part.records) == set(os.listdir(directory / "cells")) - {key}


def test_a_cell_of_this_moment_is_not_copied(directory, few):
    key = os.listdir(directory / "cells")[0]
    os.utime(directory / "cells" / key)
    (part,) = load(directory).parts
    assert key not in part.records
    assert len(part.records) == len(PAIRS) - 1
    assert_alike(load(directory), by_the_cells_without_few(directory))


def test_half_a_copy_is_never_read(directory, few, monkeypatch):
    def dies(draft, folder):
        shutil.copytree(draft, draft.with_name(".left-behind"))
        raise OSError("killed here")

    monkeypatch.setattr(disk, "place", dies)
    results = load(directory)
    assert results.parts == ()
    assert_alike(results, by_the_cells_without_few(directory))
    assert os.listdir(directory / "compacted") == [".left-behind"]
    monkeypatch.undo()
    assert load(directory).parts == ()


@pytest.mark.parametrize("file", ["finals.parquet", "curves.parquet", "cells.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_copy_is_no_matter(directory, few, file, damage):
    load(directory)
    (part,) = parts(directory)
    if damage == "cut":
        (part / file).write_bytes((part / file).read_bytes()[:100])
    else:
        (part / file).unlink()
    compaction.MOST_LOOSE = 10**9
    assert_alike(load(directory), by_the_cells(directory))


def test_a_copy_that_is_removed_while_results_are_open_is_no_matter(directory, few):
    load(directory)
    results = load(directory)
    shutil.rmtree(directory / "compacted")
    assert_alike(results, by_the_cells_without_few(directory))


def test_who_may_not_write_reads_what_there_is(directory, few):
    (directory / "compacted").write_text("in the way")
    results = load(directory)
    assert results.parts == ()
    assert_alike(results, by_the_cells_without_few(directory))


def test_two_that_copy_at_once_do_no_harm(directory, few, monkeypatch):
    together = threading.Barrier(2)
    place = disk.place

    def both(draft, folder):
        together.wait()
        place(draft, folder)

    monkeypatch.setattr(disk, "place", both)
    threads = [threading.Thread(target=load, args=(directory,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(parts(directory)) == 2
    results = load(directory)
    assert [part.size for part in results.parts] == [len(PAIRS)]
    assert_alike(results, by_the_cells_without_few(directory))


def test_a_part_of_which_nothing_is_left_goes_with_the_next_copy(directory, few):
    load(directory)
    (outdated,) = parts(directory)
    for pair in PAIRS:
        shutil.rmtree(directory / "cells" / written_key(directory, pair))
    for pair in PAIRS[:5]:
        written(directory, pair, seed=1)
    load(directory)
    (current,) = parts(directory)
    assert current != outdated
    assert set(json.loads((current / "cells.json").read_text())["cells"]) == set(os.listdir(directory / "cells"))


def written_key(directory, pair):
    labels = [list(pair)]
    for key in os.listdir(directory / "cells"):
        record = json.loads((directory / "cells" / key / "cell.json").read_text())
        if [x["label"] for x in record["learners"]] in labels:
            return key
    raise KeyError(pair)


# --- the page of more cells than it shows -------------------------------------------------


def test_a_page_of_too_many_cells_shows_those_of_the_first_learners_and_says_so(directory, monkeypatch):
    monkeypatch.setattr(page, "MAX_CELLS", 6)
    text = render_page(load(directory))
    assert "Of 10 cells these are the 6 among 3 learners of 4" in text
    board = text[text.index('<table class="board"') : text.index("</table>", text.index('<table class="board"'))]
    for label in LEARNERS:  # the table of rules is of all of them
        assert label.split("(")[0] in board
    assert board.count("<tr data-access") == len(LEARNERS)
    identities = set(re.findall(r' id="([^"]+)"', text))
    addresses = set(re.findall(r'href="#([^"]+)"', text))
    assert addresses <= identities
    assert sum(identity.startswith("cell-") for identity in identities) == 6


def test_a_page_of_few_cells_shows_all_and_says_nothing(directory):
    text = render_page(load(directory))
    assert "these are the" not in text
    assert len(set(re.findall(r' id="(cell-[^"]+)"', text))) == len(PAIRS)
