"""Reading stored results, and tables of them: numbers by hand, five formats with the same digits."""

import csv
import dataclasses
import html.parser
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from shaping_bench import cli
from shaping_bench.analysis import stats
from shaping_bench.analysis.entries import alike, entries
from shaping_bench.errors import BadInput
from shaping_bench.publish import model, standings, tables
from shaping_bench.publish.writers.html import html_table
from shaping_bench.store import results as results_
from tests.shaping_bench.synthetic_results import write_cell, write_suite

NAN = float("nan")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Two learners and a fixed strategy; ipd is stored in one order, imp in both."""
    path = tmp_path_factory.mktemp("results")
    write_suite(path, ["ipd", {"game": "imp", "label": "pennies"}], ["naive", "lola"], opponents=["all-d"])
    updates = [0, 10, 20]
    curve = np.arange(18.0).reshape(3, 3, 2)

    def cell(game, labels, returns, **more):
        cooperation = np.linspace(0, 1, np.size(returns)).reshape(np.shape(returns))
        finals = {"return": returns, "cooperation": cooperation}
        write_cell(path, game, labels, finals, curves={"return": curve}, updates=updates, **more)

    cell("ipd", ["naive", "naive"], [[-2.0, -1.0], [-2.0, -2.0], [-1.0, -3.0]])
    cell("ipd", ["lola", "lola"], [[-1.0, -1.0], [-1.5, -0.5], [NAN, NAN]])
    cell("ipd", ["naive", "lola"], [[-2.0, -1.0], [-3.0, -1.5], [-1.0, -0.5]])
    cell("ipd", ["naive", "all-d"], [[-2.0, -2.0], [-2.0, -2.0], [-2.0, -2.0]])
    cell("ipd", ["lola", "all-d"], [[-2.5, -1.0], [-2.5, -1.0], [-2.5, -1.0]])
    cell("pennies", ["naive", "naive"], [[0.5, -0.5], [0.1, -0.1], [0.0, 0.0]])
    cell("pennies", ["lola", "lola"], [[0.0, 0.0]] * 3)
    cell("pennies", ["naive", "lola"], [[0.2, -0.2], [0.4, -0.4], [0.0, 0.0]])
    cell("pennies", ["lola", "naive"], [[0.0, 0.0], [NAN, NAN], [0.3, -0.3]])
    write_cell(path, "ipd", ["lola", "best-response"], {"return": [[-3.0, 0.0]] * 3}, kind="league")
    return path


@pytest.fixture(scope="module")
def loaded(directory):
    return results_.load(directory)


def entry(table, row, column):
    return table.cells[table.row_labels.index(row)][table.col_labels.index(column)]


# --- reading ------------------------------------------------------------------------------


def test_cells_are_in_the_suites_order(loaded):
    assert list(loaded.cells["game"]) == ["ipd"] * 5 + ["pennies"] * 4 + ["ipd"]
    assert list(loaded.cells["kind"]) == ["encounter"] * 9 + ["league"]
    assert loaded.labels == ("naive", "lola", "all-d", "best-response")
    assert loaded.learners == ("naive", "lola")
    first = loaded.cells.iloc[0]
    assert (first["learner_1"], first["learner_2"], first["seeds"], first["diverged"]) == ("naive", "naive", 3, 0)
    assert (first["compile_seconds"], first["run_seconds"], first["gradient_evaluations"]) == (1.5, 0.5, 1200)
    assert first["command"] == "shaping-bench encounter 'ipd' 'naive' 'naive'"


def test_a_rows_learner_sits_in_its_players_seat(loaded):
    finals = loaded.finals
    rows = finals[(finals["game"] == "ipd") & (finals["metric"] == "return") & (finals["opponent"] == "all-d")]
    assert set(rows["learner"]) == {"naive", "lola"}
    assert set(rows["player"]) == {1}
    assert sorted(rows.loc[rows["learner"] == "lola", "value"]) == [-2.5] * 3
    assert len(finals[finals["metric"] == "return"]) == 10 * 3 * 2


def test_curves_and_bands(loaded):
    assert len(loaded.curves) == 9 * 18
    bands = loaded.curve_bands("return")
    chosen = bands[(bands["game"] == "ipd") & (bands["learner"] == "lola") & (bands["opponent"] == "naive")]
    # Seat 2 holds 1, 3, 5 at the first record, and 6 more at each later one.
    assert list(chosen["mean"]) == [3.0, 9.0, 15.0]
    assert list(chosen["std"]) == [2.0, 2.0, 2.0]
    assert list(chosen["update"]) == [0, 10, 20]
    assert set(bands["n"]) == {3}


def test_three_players_meet_groups(tmp_path):
    write_suite(tmp_path, ["public-goods"], ["naive", "lola"])
    write_cell(tmp_path, "public-goods", ["naive", "lola", "lola"], {"return": [[1.0, 2.0, 4.0]]})
    # In another order of seats the same learners meet the same others.
    write_cell(tmp_path, "public-goods", ["lola", "lola", "naive"], {"return": [[6.0, 8.0, 3.0]]})
    write_cell(tmp_path, "public-goods", ["sos", "naive", "lola"], {"return": [[7.0, 8.0, 9.0]]})
    loaded = results_.load(tmp_path)
    (table,) = tables.build(loaded, "return")
    assert table.col_labels == ("lola", "lola + naive", "lola + sos", "naive + sos")
    assert entry(table, "naive", "lola").mean == 2.0
    assert entry(table, "lola", "lola + naive").mean == 5.0
    assert entry(table, "sos", "lola + naive").mean == 7.0
    assert len(entry(table, "lola", "lola + naive").hashes) == 2
    assert "opponent: everybody else in the game, one name for several who are alike" in table.note


def test_influence_on_several_others(tmp_path):
    """Of three players: what the two others return with the learner, minus with a naive one in its place."""
    write_suite(tmp_path, ["public-goods"], ["naive", "lola"], opponents=["all-d"])
    write_cell(tmp_path, "public-goods", ["lola", "naive", "all-d"], {"return": [[0.0, 1.0, 4.0]]})
    write_cell(tmp_path, "public-goods", ["naive", "naive", "all-d"], {"return": [[2.0, 4.0, 10.0]]})
    (table,) = tables.build(results_.load(tmp_path), "influence")
    assert set(table.row_labels) == {"lola", "naive"}  # of all-d, nobody naive met the same two
    assert entry(table, "naive", "all-d + naive").mean == 0.0
    # Both seats of naive pool: (2 + 4) / 2.
    assert entry(table, "lola", "all-d + naive").mean == pytest.approx((1.0 - 3.0 + 4.0 - 10.0) / 2)
    assert entry(table, "lola", "all-d + naive").n == 1


def test_swept_labels_follow_their_entry(tmp_path):
    entries = [{"learner": "lola(lr=[0.1,10.0])", "label": "L"}, {"naive": {"lr": [1.0, 2.0]}}]
    write_suite(tmp_path, ["ipd"], entries, opponents=["all-d"])
    for label in ("naive(lr=2.0)", "naive", "L lola(lr=0.1)", "all-d"):
        write_cell(tmp_path, "ipd", [label, label], {"return": [[0.0, 0.0]]})
    loaded = results_.load(tmp_path)
    assert loaded.labels == ("L lola(lr=0.1)", "naive", "naive(lr=2.0)", "all-d")
    assert loaded.learners == ("L lola(lr=0.1)", "naive", "naive(lr=2.0)")


def test_cells_say_where_their_labels_come_from(tmp_path):
    """By the index of the suite's entry and the swept field: what a label looks like does not matter."""
    write_suite(tmp_path, ["ipd"], ["lola", {"learner": "naive(lr=[0.5,2.0])", "label": "b"}], opponents=["naive"])
    keys = []
    for label, entry_, swept in (("zz", 0, {}), ("lola", 1, {"lr": 0.5}), ("aa", 2, {})):
        described = {**NAIVE, "label": label, "entry": entry_, "swept": swept}
        keys.append(write_cell(tmp_path, "ipd", [label, label], {"return": [[0.0, 0.0]]}, learners=[described] * 2))
    loaded = results_.load(tmp_path)
    assert loaded.labels == ("zz", "lola", "aa")
    assert loaded.learners == ("zz", "lola")
    assert [record["hash"] for record in loaded.records] == keys


def test_tables_need_no_code_of_what_cells_describe(tmp_path, monkeypatch):
    """Anchors, symmetry and who was prepared together stand in the cells; nothing is asked of the registry."""
    from shaping_bench.spec import registry

    for name in ("make_game", "make_learner"):
        monkeypatch.setattr(registry, name, lambda *given: pytest.fail(f"asked for {given}"))
    anchors_ = {"random": 0.0, "social_optimum": 10.0, "best_response": None, "smallest": -1.0, "largest": 20.0}
    facts_ = {"exchangeable": False, "anchors": {**anchors_, "source": "measured"}}
    game = {"name": "elsewhere", "label": "elsewhere", "hyperparameters": {}, "facts": facts_}
    learner = {**prepared_learner(4), "facts": {"prepared_jointly": True}}
    returns = np.array([0.0, 1.0, 2.0, 3.0, 0.0, 1.0, 2.0, 3.0])
    both = np.stack([returns, returns], axis=1)
    write_suite(tmp_path, ["elsewhere"], ["naive", "mfos"])
    for pair in ([NAIVE, learner], [NAIVE, NAIVE], [learner, learner]):
        labels = [x["label"] for x in pair]
        key = write_cell(tmp_path, "elsewhere", labels, {"return": both}, learners=pair)
        path = tmp_path / "cells" / key / "cell.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "game": game}))
    loaded = results_.load(tmp_path)
    (table,) = tables.build(loaded, "return", spread="se")
    # Prepared together, the second seat's preparations take turns as the first's do.
    assert entry(table, "mfos", "naive").se == pytest.approx(np.std([0.0, 1.0, 2.0, 3.0], ddof=1) / 2)
    (normalised,) = tables.build(loaded, "normalised_return")
    assert entry(normalised, "mfos", "naive").mean == pytest.approx(0.15)
    from shaping_bench.analysis import metagame

    assert metagame.analyse(loaded, "elsewhere") is None  # only one order of seats was played


def test_cells_being_written_are_not_read(directory, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    some = next((copy / "cells").iterdir())
    some.rename(some.parent / f".{some.name}-tmp")
    assert len(results_.load(copy).records) == 9


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda d: None, "no readable suite.yaml"),
        (lambda d: (d / "suite.yaml").write_text("- 1\n"), "not a YAML mapping"),
        (lambda d: (d / "suite.yaml").write_text("a: [\n"), "not a YAML mapping"),
        (lambda d: write_suite(d, ["ipd"], ["naive"]), "holds no finished cell"),
    ],
)
def test_a_directory_without_results_is_refused(tmp_path, prepare, message):
    prepare(tmp_path)
    with pytest.raises(BadInput, match=message):
        results_.load(tmp_path)


def test_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(BadInput, match="which is no directory"):
        results_.load(tmp_path / "absent")


@pytest.mark.parametrize("spoil", ["{", '{"schema": 1}', "[]"])
def test_a_broken_cell_is_named(tmp_path, spoil):
    write_suite(tmp_path, ["ipd"], ["naive"])
    key = write_cell(tmp_path, "ipd", ["naive", "naive"], {"return": [[0.0, 0.0]]})
    (tmp_path / "cells" / key / "cell.json").write_text(spoil)
    with pytest.raises(BadInput, match=key):
        results_.load(tmp_path)


def test_a_newer_schema_and_a_broken_file_are_refused(tmp_path):
    write_suite(tmp_path, ["ipd"], ["naive"])
    key = write_cell(tmp_path, "ipd", ["naive", "naive"], {"return": [[0.0, 0.0]]})
    (tmp_path / "cells" / key / "finals.parquet").write_bytes(b"PAR1")
    with pytest.raises(BadInput, match=r"finals\.parquet"):
        _ = results_.load(tmp_path).finals
    write_cell(tmp_path, "imp", ["naive", "naive"], {"return": [[0.0, 0.0]]}, schema=99)
    with pytest.raises(BadInput, match="schema 99"):
        results_.load(tmp_path)


# --- numbers ------------------------------------------------------------------------------


def test_one_stored_encounter_gives_both_entries(loaded):
    (table,) = tables.build(loaded, "return", game="ipd")
    assert (table.row_labels, table.col_labels) == (("naive", "lola", "all-d"),) * 2
    assert entry(table, "naive", "lola").text == "-2.00 ± 1.00"
    assert entry(table, "lola", "naive").text == "-1.00 ± 0.50"
    assert entry(table, "all-d", "lola").text == "-1.00 ± 0.00"
    assert entry(table, "all-d", "all-d") == model.Entry(model.ABSENT)


def test_self_play_pools_the_seats_of_a_seed(loaded):
    (table,) = tables.build(loaded, "return", game="ipd")
    cell = entry(table, "naive", "naive")
    seeds = [-1.5, -2.0, -2.0]
    assert (cell.n, cell.runs) == (3, 3)
    assert cell.mean == pytest.approx(np.mean(seeds))
    assert cell.std == pytest.approx(np.std(seeds, ddof=1))


def test_both_orders_of_an_asymmetric_game_are_pooled(loaded):
    (table,) = tables.build(loaded, "return", game="pennies")
    cell = entry(table, "lola", "naive")
    # Per seed, seat 2 of one cell and seat 1 of the other: (-0.2 + 0)/2, lost, (0 + 0.3)/2.
    assert cell.mean == pytest.approx(np.mean([-0.1, 0.15]))
    assert (cell.n, cell.runs, cell.diverged) == (2, 3, 1)


def test_diverged_seeds_are_excluded_visibly(loaded):
    (table,) = tables.build(loaded, "return", game="ipd")
    cell = entry(table, "lola", "lola")
    assert (cell.text, cell.n, cell.runs, cell.diverged) == ("-1.00 ± 0.00 (n=2/3)", 2, 3, 1)
    assert "(n=a/b)" in table.note


def test_a_missing_value_is_no_divergence(tmp_path):
    write_suite(tmp_path, ["ipd"], ["naive"])
    write_cell(
        tmp_path, "ipd", ["naive", "naive"], {"return": [[0.0, 0.0]] * 2, "updates_to_settle": [[NAN, 3.0], [5.0, 6.0]]}
    )
    (table,) = tables.build(results_.load(tmp_path), "updates_to_settle")
    assert table.cells[0][0].text == "5.50 (n=1/2)"
    assert (table.cells[0][0].n, table.cells[0][0].diverged) == (1, 0)


def test_all_diverged_has_no_number(tmp_path):
    write_suite(tmp_path, ["ipd"], ["naive"])
    write_cell(tmp_path, "ipd", ["naive", "naive"], {"return": [[NAN, NAN]] * 2})
    for spread in model.SPREADS:
        (table,) = tables.build(results_.load(tmp_path), "return", spread=spread)
        cell = table.cells[0][0]
        assert (cell.text, cell.mean, cell.ci, cell.n, cell.diverged) == (f"{model.ABSENT} (n=0/2)", None, None, 0, 2)
        assert json.loads(tables.render([table], "json"))[0]["cells"][0][0]["mean"] is None


def test_dimensions_that_are_no_axis_split_or_average(loaded):
    by_game = tables.build(loaded, "return", rows="learner", cols="game", spread="none")
    assert [t.title for t in by_game] == ["return"]
    # naive in ipd against naive, lola, all-d, each weighing the same.
    assert entry(by_game[0], "naive", "ipd").mean == pytest.approx((-11 / 6 - 2.0 - 2.0) / 3)
    assert entry(by_game[0], "lola", "ipd").n == 8
    by_metric = tables.build(loaded, ["return", "cooperation"], rows="game", cols="metric")
    assert [(t.row_labels, t.col_labels) for t in by_metric] == [(("ipd", "pennies"), ("return", "cooperation"))]
    assert [t.title for t in tables.build(loaded, ["return", "cooperation"])] == [
        "ipd: return",
        "ipd: cooperation",
        "pennies: return",
        "pennies: cooperation",
    ]


def test_statistics_and_intervals(loaded):
    (table,) = tables.build(loaded, "return", game="ipd", statistic="median", spread="ci")
    cell = entry(table, "naive", "lola")
    low, high = stats.bootstrap_interval(stats.median, [np.array([-2.0, -3.0, -1.0])])
    assert cell.ci == (low, high)
    assert cell.text == f"-2.00 [{low:.2f}, {high:.2f}]"
    assert entry(table, "naive", "naive").median == -2.0


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([-0.001, 0.001, 0.0], "0.00 ± 0.00"),
        ([0.0123, 0.0123, 0.0123], "0.012 ± 0.000"),
        ([4096.0, 4096.0, 4096.0], "4096 ± 0"),
        ([1.5e8, 1.5e8, 1.5e8], "1.50e+08 ± 0"),
        ([-1.036, -1.036, -1.036], "-1.04 ± 0.00"),
    ],
)
def test_digits(tmp_path, values, text):
    write_suite(tmp_path, ["ipd"], ["naive"])
    write_cell(tmp_path, "ipd", ["naive", "naive"], {"return": [[x, x] for x in values]})
    (table,) = tables.build(results_.load(tmp_path), "return")
    assert table.cells[0][0].text == text


def test_league_is_apart(loaded):
    (table,) = tables.build(loaded, "return", kind="league")
    assert table.title == "ipd: return (league)"
    assert entry(table, "lola", "best-response").mean == -3.0
    assert entry(table, "best-response", "lola").mean == 0.0


def test_robustness_and_influence_by_hand(loaded):
    frame = entries(loaded, "robustness_worst")
    chosen = frame[(frame["game"] == "ipd") & (frame["learner"] == "lola")]
    assert list(chosen["value"]) == [-2.5] * 3  # against all-d
    (table,) = tables.build(loaded, "robustness_mean", game="ipd")
    assert entry(table, "lola", "all met").mean == pytest.approx((-1.0 - 1.0 - 2.5) / 3)
    (table,) = tables.build(loaded, "influence", game="ipd")
    # all-d has -1 against lola and -2 against naive; naive has -2 against lola and -11/6 against itself.
    assert entry(table, "lola", "all-d").mean == 1.0
    assert entry(table, "lola", "naive").mean == pytest.approx(-2.0 + 11 / 6)
    assert entry(table, "naive", "all-d").mean == 0.0


def test_costs_are_metrics_of_a_cell(loaded):
    (table,) = tables.build(loaded, "gradient_evaluations", game="ipd", spread="none")
    assert entry(table, "naive", "lola").text == "1200"
    assert "per cell" in table.note


def test_every_table_says_what_its_learners_may_see(loaded):
    table = tables.build(loaded, "return", game="ipd")[0]
    assert "; access: gradients (naive, lola), actions (all-d)" in table.note


def test_every_entry_names_the_cells_it_comes_from(loaded):
    def stored(game, *labels):
        records = [r for r in loaded.records if r["kind"] == "encounter" and r["game"]["label"] == game]
        return {r["hash"] for r in records if [x["label"] for x in r["learners"]] == list(labels)}

    ipd, pennies = tables.build(loaded, "return")
    assert set(entry(ipd, "lola", "naive").hashes) == set(entry(ipd, "naive", "lola").hashes)
    assert set(entry(ipd, "lola", "naive").hashes) == stored("ipd", "naive", "lola")
    both = stored("pennies", "naive", "lola") | stored("pennies", "lola", "naive")
    assert set(entry(pennies, "lola", "naive").hashes) == both
    assert entry(ipd, "all-d", "all-d").hashes == ()
    (worst,) = tables.build(loaded, "robustness_worst", game="ipd")
    assert set(entry(worst, "lola", "worst met").hashes) == stored("ipd", "lola", "all-d")
    (influence,) = tables.build(loaded, "influence", game="ipd")
    compared = stored("ipd", "lola", "all-d") | stored("ipd", "naive", "all-d")
    assert set(entry(influence, "lola", "all-d").hashes) == compared
    (cost,) = tables.build(loaded, "wall_seconds", game="ipd")
    assert set(entry(cost, "lola", "lola").hashes) == stored("ipd", "lola", "lola")


def test_entries_link_where_there_is_something_to_link_to(loaded):
    (table,) = tables.build(loaded, "return", game="ipd")
    aim = entry(table, "lola", "all-d")
    text = html_table(table, lambda hashes: "#a&b" if hashes == aim.hashes else None)
    assert text.count("<a ") == 2  # the encounter's two sides
    assert aim.best  # with three seeds nothing is told apart
    assert f'<a href="#a&amp;b"><strong>{aim.text}</strong></a>' in text
    assert "<a " not in html_table(table)


# --- bold ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contest(tmp_path_factory):
    """Twelve seeds against tit for tat: b is 0.01 behind a on average, c 0.5 behind, d lost all seeds."""
    path = tmp_path_factory.mktemp("contest")
    write_suite(path, ["ipd"], ["naive (a)", "naive (b)", "naive (c)", "naive (d)"], opponents=["tft", "all-d"])
    noise = np.random.default_rng(0).normal(0.0, 0.1, (3, 12))
    scores = {"a": noise[0] - noise[0].mean(), "b": noise[1] - noise[1].mean() - 0.01}
    scores |= {"c": noise[2] - noise[2].mean() - 0.5, "d": np.full(12, NAN)}
    for name, x in scores.items():
        both = np.stack([x, x], axis=1)
        finals = {"return": both, "other_coins": both, "cooperation": both, "welfare": both * 1e-6}
        write_cell(path, "ipd", [f"naive ({name})", "tft"], finals)
    ahead = np.ones((12, 2))
    write_cell(path, "ipd", ["all-d", "tft"], {"return": ahead, "other_coins": ahead, "cooperation": ahead})
    return results_.load(path)


def marked(table, column="tft"):
    return {x for x in table.row_labels if entry(table, x, column).best}


def test_bold_are_the_best_and_what_the_runs_do_not_tell_apart(contest):
    (table,) = tables.build(contest, "return")
    assert marked(table) == {"naive (a)", "naive (b)"}  # the fixed strategy is ahead, and no learner
    assert "bold: the best of each column among the suite's learners" in table.note
    for statistic in ("median", "iqm"):
        assert marked(tables.build(contest, "return", statistic=statistic)[0]) >= {"naive (a)"}
        assert "naive (c)" not in marked(tables.build(contest, "return", statistic=statistic)[0])


def test_bold_goes_by_the_metrics_direction(contest):
    (fewer,) = tables.build(contest, "other_coins")
    assert marked(fewer) == {"naive (c)"}
    (neither,) = tables.build(contest, "cooperation")
    assert marked(neither) == set()
    assert "bold" not in neither.note
    (cost,) = tables.build(contest, "wall_seconds")
    assert marked(cost) == set()
    (plain,) = tables.build(contest, "return", bold=False)
    assert marked(plain) == set()
    assert "bold" not in plain.note


def test_bold_compares_learners_wherever_they_stand(contest):
    (table,) = tables.build(contest, "return", rows="opponent", cols="learner")
    row = table.row_labels.index("tft")
    best = {x for x, cell in zip(table.col_labels, table.cells[row], strict=True) if cell.best}
    assert best == {"naive (a)", "naive (b)"}
    assert "bold: the best of each row" in table.note
    (by_metric,) = tables.build(contest, ["return", "other_coins"], rows="learner", cols="metric")
    assert marked(by_metric, "return") == {"naive (a)", "naive (b)"}
    assert marked(by_metric, "other_coins") == {"naive (c)"}
    (no_learner,) = tables.build(contest, "return", rows="game", cols="opponent")
    assert not any(cell.best for row in no_learner.cells for cell in row)


def test_what_prints_alike_is_marked_alike(tmp_path):
    write_suite(tmp_path, ["ipd"], ["naive (a)", "naive (b)", "naive (c)"], opponents=["tft"])
    for name, x in (("a", -1.0), ("b", -1.0001), ("c", -1.5)):
        write_cell(tmp_path, "ipd", [f"naive ({name})", "tft"], {"return": [[x, x]] * 20})
    (table,) = tables.build(results_.load(tmp_path), "return")
    assert marked(table) == {"naive (a)", "naive (b)"}


def test_few_seeds_tell_nobody_apart(tmp_path):
    write_suite(tmp_path, ["ipd"], ["naive (a)", "naive (b)"], opponents=["tft"])
    for name, x in (("a", 0.0), ("b", -5.0)):
        write_cell(tmp_path, "ipd", [f"naive ({name})", "tft"], {"return": [[x, x]] * 5})
    (table,) = tables.build(results_.load(tmp_path), "return")
    assert marked(table) == {"naive (a)", "naive (b)"}
    assert "fewer than 6 seeds tell nobody apart" in table.note


def test_many_comparisons_need_stronger_evidence(tmp_path):
    # Six seeds of one sign: p = 2/64, below 0.05 alone and not with one more comparison.
    def marks(names):
        path = tmp_path / str(len(names))
        write_suite(path, ["ipd"], [f"naive ({x})" for x in names], opponents=["tft"])
        for name in names:
            x = {"a": 0.0, "b": -1.0, "c": -1.1}[name]
            write_cell(path, "ipd", [f"naive ({name})", "tft"], {"return": [[x, x]] * 6})
        return marked(tables.build(results_.load(path), "return")[0])

    assert marks("ab") == {"naive (a)"}
    assert marks("abc") == {"naive (a)", "naive (b)", "naive (c)"}


# --- spreads, counts, units ---------------------------------------------------------------


def test_standard_errors_and_counts(loaded):
    (table,) = tables.build(loaded, "return", game="ipd", spread="se", show_n=True)
    assert entry(table, "naive", "lola").text == "-2.00 ± 0.58 (n=3)"
    assert entry(table, "naive", "lola").se == pytest.approx(1 / np.sqrt(3))
    assert entry(table, "lola", "lola").text == "-1.00 ± 0.00 (n=2/3)"
    assert "mean ± standard error of the mean over 3 seeds" in table.note


def prepared_learner(count):
    """One that was prepared from so many seeds, each seat on its own."""
    described = {"access": "gradients", "hyperparameters": {}, "needs_preparation": True}
    cost = {"artifact": "abc", "gradient_evaluations": 10, "environment_steps": 0, "seconds": 1.0}
    return {"name": "mfos", "label": "mfos", **described, "preparation": {**cost, "seeds": count}}


NAIVE = {"name": "naive", "label": "naive", "access": "gradients", "hyperparameters": {}, "needs_preparation": False}


def prepared_results(path, count):
    """Eight seeds; a seed's return is the number of its preparation plus little."""
    write_suite(path, ["ipd"], ["mfos", "naive"])
    returns = np.arange(8) % count + np.array([0.0, 0.01] * 4)
    both = np.stack([returns, returns], axis=1)
    write_cell(path, "ipd", ["mfos", "naive"], {"return": both}, learners=[prepared_learner(count), NAIVE])
    return results_.load(path)


def test_preparations_that_seeds_share_are_the_units(tmp_path):
    (table,) = tables.build(prepared_results(tmp_path / "4", 4), "return", spread="se")
    for row, column in (("mfos", "naive"), ("naive", "mfos")):
        cell = entry(table, row, column)
        assert (cell.n, cell.runs) == (8, 8)
        # Means 0, 1.01, 2, 3.01 of the four preparations, not eight numbers.
        assert cell.se == pytest.approx(np.std([0.0, 1.01, 2.0, 3.01], ddof=1) / 2)
    assert "in groups that share one of 4 preparations" in table.note
    (ends,) = tables.build(prepared_results(tmp_path / "2", 2), "return", spread="ci")
    # With two preparations an interval ends where one of them is drawn twice.
    assert entry(ends, "mfos", "naive").ci == pytest.approx((0.0, 1.01))


def test_units_of_a_learner_that_is_not_installed(tmp_path):
    write_suite(tmp_path, ["ipd"], ["elsewhere", "naive"])
    returns = np.stack([np.arange(8) % 4.0] * 2, axis=1)
    learner = {**prepared_learner(4), "name": "elsewhere", "label": "elsewhere"}
    write_cell(tmp_path, "ipd", ["elsewhere", "naive"], {"return": returns}, learners=[learner, NAIVE])
    (table,) = tables.build(results_.load(tmp_path), "return", spread="se")
    assert entry(table, "elsewhere", "naive").se == pytest.approx(np.std([0.0, 1.0, 2.0, 3.0], ddof=1) / 2)


def test_units_follow_the_seat(tmp_path):
    # Of the second seat, seeds take preparations 1 2 3 0, then 2 3 0 1: seats meet in all pairs.
    write_suite(tmp_path, ["ipd"], ["naive", "mfos"])
    returns = np.array([1.0, 2.0, 3.0, 0.0, 2.0, 3.0, 0.0, 1.0])
    both = np.stack([returns, returns], axis=1)
    write_cell(tmp_path, "ipd", ["naive", "mfos"], {"return": both}, learners=[NAIVE, prepared_learner(4)])
    (table,) = tables.build(results_.load(tmp_path), "return", spread="se")
    for row, column in (("mfos", "naive"), ("naive", "mfos")):
        assert entry(table, row, column).se == pytest.approx(np.std([0.0, 1.0, 2.0, 3.0], ddof=1) / 2)


@pytest.mark.parametrize(("count", "apart"), [(2, True), (6, True), (7, False)])
def test_preparations_are_compared_as_such_where_there_are_enough(tmp_path, count, apart):
    # Two preparations count by their seeds; six that are all ahead suffice (p = 1/32); of seven, one that is
    # as far behind as the others are ahead leaves 2 (1 + 7) / 128, which its 14 seeds would not.
    write_suite(tmp_path, ["ipd"], ["mfos", "naive", "lola"], opponents=["tft"])
    returns = np.where((np.arange(14) % count == 0) & (count == 7), -1.0, 1.0)
    tft = {**NAIVE, "name": "tft", "label": "tft"}
    for learner, x in ((prepared_learner(count), returns), (NAIVE, np.zeros(14))):
        both = np.stack([x, x], axis=1)
        write_cell(tmp_path, "ipd", [learner["label"], "tft"], {"return": both}, learners=[learner, tft])
    (table,) = tables.build(results_.load(tmp_path), "return")
    assert marked(table) == ({"mfos"} if apart else {"mfos", "naive"})
    assert ("of the preparations that there are, not of others" in table.note) == (count == 2)


def test_of_one_preparation_and_of_as_many_as_seeds_the_seeds_are_units(tmp_path):
    (one,) = tables.build(prepared_results(tmp_path / "1", 1), "return", spread="se")
    assert entry(one, "mfos", "naive").se == pytest.approx(np.std([0.0, 0.01] * 4, ddof=1) / np.sqrt(8))
    assert "one preparation each, so that spreads are of encounters only: mfos" in one.note
    (all_,) = tables.build(prepared_results(tmp_path / "8", 8), "return", spread="se")
    own = np.arange(8) + np.array([0.0, 0.01] * 4)
    assert entry(all_, "mfos", "naive").se == pytest.approx(np.std(own, ddof=1) / np.sqrt(8))
    assert "one preparation" not in all_.note


def test_leagues_say_that_whom_they_met_is_given(loaded):
    (table,) = tables.build(loaded, "return", kind="league")
    assert "spreads are over the learner's own seeds, whom they met being as it was" in table.note


# --- who is compared with whom ------------------------------------------------------------


@pytest.fixture
def unlike(tmp_path):
    """Three rules on ipd, of whom one met others and one was met by play; eight seeds."""
    write_suite(tmp_path, ["ipd"], ["lola", "naive", "sos", "naive-pg"], opponents=["tft", "all-d"])
    spread = np.linspace(-0.01, 0.01, 8)[:, None]
    by_play = {"updates": 800, "gradient_evaluations": [0, 0], "environment_steps": 10**6}
    for a, b, x, more in (
        ("lola", "tft", -1.0, {}),
        ("lola", "all-d", -2.0, {}),
        ("naive", "tft", -1.5, {}),
        ("naive", "all-d", -2.1, {}),
        ("sos", "tft", -1.2, {}),
        ("naive-pg", "tft", -0.5, {"costs": by_play}),
        ("naive-pg", "all-d", -2.2, {"costs": by_play}),
    ):
        write_cell(tmp_path, "ipd", [a, b], {"return": np.array([[x, x]]) + spread}, **more)
    return results_.load(tmp_path)


def test_nobody_is_the_best_among_rules_that_were_met_in_other_ways(unlike):
    (table,) = tables.build(unlike, "return")
    assert not any(cell.best for row in table.cells for cell in row)  # one of them was valued by play
    exact = unlike.among([x for x in unlike.labels if x != "naive-pg"])
    (table,) = tables.build(exact, "return")
    assert [x for x in table.row_labels if entry(table, x, "tft").best] == ["lola"]
    assert [x for x in table.row_labels if entry(table, x, "all-d").best] == ["lola"]


def test_averages_over_others_than_one_another_met_are_not_compared(unlike):
    exact = unlike.among([x for x in unlike.labels if x != "naive-pg"])
    for metric, cols in (("robustness_mean", "game"), ("robustness_worst", "game"), ("return", "game")):
        (table,) = tables.build(exact, metric, cols=cols)
        assert not any(cell.best for row in table.cells for cell in row)
        (table,) = tables.build(exact.among(["lola", "naive", "tft", "all-d"]), metric, cols=cols)
        assert [x for x in table.row_labels if entry(table, x, "ipd").best] == ["lola"]


# Each against itself, or in a round robin, is the same for all.
@pytest.mark.parametrize("pairs", [[("lola", "lola"), ("naive", "naive")], [("lola", "naive"), ("lola", "lola")]])
def test_oneself_is_the_same_as_oneself(tmp_path, pairs):
    write_suite(tmp_path, ["ipd"], ["lola", "naive"])
    for a, b in pairs:
        write_cell(tmp_path, "ipd", [a, b], {"return": np.zeros((8, 2))})
    results = results_.load(tmp_path)
    assert alike(results, "encounter", ["ipd"], ["lola", "naive"]) == (pairs[0][0] == pairs[0][1])


# --- formats ------------------------------------------------------------------------------


def grid(table):
    return [[table.corner, *table.col_labels]] + [
        [label, *(cell.text for cell in row)] for label, row in zip(table.row_labels, table.cells, strict=True)
    ]


def bold(table):
    return [[cell.best for cell in row] for row in table.cells]


@pytest.fixture(scope="module", params=["std", "se", "ci", "none"])
def several(loaded, request):
    made = tables.build(loaded, ["return", "cooperation"], spread=request.param, show_n=request.param == "se")
    return made


def test_markdown_parses_back(several):
    blocks = re.split(r"^### ", tables.render(several, "md"), flags=re.MULTILINE)[1:]
    for block, table in zip(blocks, several, strict=True):
        title, _, *lines = (line for line in block.splitlines() if line)
        assert title == table.title
        cells = [[x.strip() for x in line.strip("|").split("|")] for line in lines]
        shown = [cells[0], *cells[2:]]
        assert [[x.strip("*") for x in row] for row in shown] == grid(table)
        assert [[x.startswith("**") and x.endswith("**") for x in row[1:]] for row in shown[1:]] == bold(table)


def test_latex_parses_back(several):
    for block, table in zip(tables.render(several, "latex").split(r"\caption")[1:], several, strict=True):
        shown = None
        for body in re.findall(r"\\toprule\n(.*?)\\bottomrule", block, flags=re.DOTALL):
            lines = [line.removesuffix(r" \\") for line in body.splitlines() if line and line != r"\midrule"]
            part = [line.split(" & ") for line in lines]
            # A wide table's columns go on below, with the rows' labels again.
            shown = part if shown is None else [row + more[1:] for row, more in zip(shown, part, strict=True)]
        found = [[re.fullmatch(r"(?:({\\bfseries\\boldmath )(.*)}|(.*))", x) for x in row] for row in shown]
        assert [[plain_latex(x[2] or x[3]) for x in row] for row in found] == grid(table)
        assert [[x[1] is not None for x in row[1:]] for row in found[1:]] == bold(table)


def test_wide_latex_tables_go_on_below(contest):
    (narrow,) = tables.build(contest, "return")
    labels = tuple(f"opponent {k}" for k in range(20))
    wide = dataclasses.replace(narrow, col_labels=labels, cells=tuple(row[:1] * 20 for row in narrow.cells))
    two = dataclasses.replace(narrow, col_labels=labels[:2], cells=tuple(row[:2] for row in narrow.cells))
    assert tables.render([two], "latex").count(r"\begin{tabular}") == 1
    text = tables.render([wide], "latex")
    assert text.count(r"\begin{tabular}") > 2
    assert [text.count(f"opponent {k} ") for k in range(20)] == [1] * 20


def plain_latex(text):
    for written, meant in ((r"\pm", "±"), (r"\_", "_"), (r"\%", "%"), (r"\&", "&"), ("$", "")):
        text = text.replace(written, meant)
    return model.ABSENT + text[2:] if text.startswith("--") else text


def test_csv_parses_back_with_the_texts_digits(several):
    rows = list(csv.DictReader(io.StringIO(tables.render(several, "csv"))))
    cells = [
        (t.title, r, c, cell)
        for t in several
        for r, row in zip(t.row_labels, t.cells, strict=True)
        for c, cell in zip(t.col_labels, row, strict=True)
    ]
    assert len(rows) == len(cells)
    for row, (title, label, column, cell) in zip(rows, cells, strict=True):
        assert (row["table"], row["row"], row["column"], row["text"]) == (title, label, column, cell.text)
        assert (int(row["n"]), int(row["diverged"]), bool(int(row["best"]))) == (cell.n, cell.diverged, cell.best)
        if cell.n and column != "access":
            assert cell.text.startswith(row["mean"])
            assert " ± " not in cell.text or re.search(rf"± ({row['std']}|{row['se']})( |$)", cell.text)
            assert "[" not in cell.text or f"[{row['ci_low']}, {row['ci_high']}]" in cell.text


def test_json_parses_back(several):
    for got, table in zip(json.loads(tables.render(several, "json")), several, strict=True):
        assert got["title"] == table.title
        assert [[x["text"] for x in row] for row in got["cells"]] == [[x.text for x in row] for row in table.cells]
        assert [[x["mean"] for x in row] for row in got["cells"]] == [[x.mean for x in row] for row in table.cells]
        assert [[x["best"] for x in row] for row in got["cells"]] == bold(table)


class Cells(html.parser.HTMLParser):
    """The texts of a page's table cells, per table and row."""

    def __init__(self):
        super().__init__()
        self.tables, self.strong, self.inside = [], 0, False

    def handle_starttag(self, tag, attributes):
        if tag == "strong":
            self.strong += 1
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.tables[-1][-1][-1] += data


def test_html_parses_back(several):
    parser = Cells()
    parser.feed(tables.render(several, "html"))
    assert parser.tables == [grid(table) for table in several]
    assert parser.strong == sum(sum(row) for table in several for row in bold(table)) > 0


NASTY = r"50% of_a & {b} <i>\x|#$~^ [c]*"


def nasty_tables(tmp_path):
    write_suite(tmp_path, ["ipd"], [NASTY])
    write_cell(tmp_path, "ipd", [NASTY, NASTY], {"return": [[-1.0, -1.0], [-3e9, 2.0]]})
    write_cell(tmp_path, "ipd", ["[x]", NASTY], {"return": [[-1.0, -1.0], [NAN, NAN]]})
    results = results_.load(tmp_path)
    return [
        *tables.build(results, "return"),
        *tables.build(results, "return", spread="ci"),
        *tables.build(results, "return", spread="se", statistic="iqm", show_n=True),
        *tables.build(results, "robustness_mean"),
        *tables.build(results, "return", rows="opponent", cols="learner"),
        *tables.build(results, "return", cols="game"),
        *tables.build(results, "return", cols="metric", spread="none"),
        standings.anchor_table(results),
    ]


def test_labels_are_escaped(tmp_path):
    made = nasty_tables(tmp_path)
    parser = Cells()
    parser.feed(tables.render(made, "html"))
    assert parser.tables[0][0][1] == NASTY
    lines = tables.render(made[:1], "md").splitlines()[4:]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert NASTY in {row["row"] for row in csv.DictReader(io.StringIO(tables.render(made, "csv")))}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles_with_booktabs_only(tmp_path, several):
    tables_text = tables.render([*several, *nasty_tables(tmp_path)], "latex")
    source = (
        f"\\documentclass{{article}}\n\\usepackage{{booktabs}}\n\\begin{{document}}\n{tables_text}\n\\end{{document}}\n"
    )
    (tmp_path / "t.tex").write_text(source)
    if not shutil.which("kpsewhich") or not subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).stdout:
        pytest.skip("needs booktabs")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_latex_is_balanced(tmp_path):
    text = tables.render(nasty_tables(tmp_path), "latex")
    for kind in ("table", "tabular"):
        assert text.count(rf"\begin{{{kind}}}") == text.count(rf"\end{{{kind}}}") >= 8
    assert re.sub(r"\\[$]", "", text).count("$") % 2 == 0
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")


# --- the command --------------------------------------------------------------------------


def test_command_prints_the_suites_metrics(directory):
    titles = [t["title"] for t in json.loads(tables.table_command(directory, fmt="json"))]
    assert titles == ["ipd: return", "pennies: return", "ipd: return (league)"]
    chosen = json.loads(tables.table_command(directory, ["cooperation"], "json", kind="encounter"))
    assert [t["title"] for t in chosen] == ["ipd: cooperation", "pennies: cooperation"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(metrics=["retrun"]), "metric is 'retrun'.*did you mean 'return'"),
        (dict(fmt="markdwn"), "format is 'markdwn'"),
        (dict(rows="learners"), "rows is 'learners'.*did you mean 'learner'"),
        (dict(cols="seed"), "cols is 'seed'"),
        (dict(rows="game", cols="game"), "rows and cols are both 'game'"),
        (dict(kind="leage"), "kind is 'leage'.*did you mean 'league'"),
        (dict(statistic="mode"), "statistic is 'mode'.*allowed: iqm, mean, median"),
        (dict(spread="sd"), "spread is 'sd'"),
        (dict(metrics=["return"], cards=True), "metric is return; allowed with --cards: none"),
        (dict(cards=True), "holds no card; allowed"),
    ],
)
def test_command_names_what_is_wrong(directory, arguments, message):
    with pytest.raises(BadInput, match=message):
        tables.table_command(directory, **arguments)


def test_the_commands_options_reach_the_tables(directory, capsys):
    arguments = ["table", str(directory), "--metric", "return", "--kind", "encounter", "--format", "json"]
    options = ["--statistic", "median", "--spread", "se", "--show-n", "--no-bold"]
    assert cli.main([*arguments, *options]) == 0
    got = json.loads(capsys.readouterr().out)
    made = tables.build(results_.load(directory), "return", statistic="median", spread="se", show_n=True, bold=False)
    assert got == json.loads(tables.render(made, "json"))
    assert got[0]["cells"][0][0]["text"].endswith(" (n=3)")


def test_normalised_returns_say_their_scale(directory, capsys):
    assert cli.main(["table", str(directory), "--metric", "normalised_return", "--format", "json"]) == 0
    titles = [t["title"] for t in json.loads(capsys.readouterr().out)]
    assert titles[-1] == "synthetic: anchors"


def test_command_refuses_a_kind_that_was_not_run(tmp_path):
    write_suite(tmp_path, ["ipd"], ["naive"])
    write_cell(tmp_path, "ipd", ["naive", "naive"], {"return": [[0.0, 0.0]]})
    with pytest.raises(BadInput, match="has no cell; allowed: encounter"):
        tables.table_command(tmp_path, kind="league")


def test_build_refuses_unknown_names(loaded):
    for arguments, message in (
        (dict(statistic="mode"), "statistic"),
        (dict(spread="sd"), "spread"),
        (dict(game="ipdd"), "did you mean 'ipd'"),
    ):
        with pytest.raises(BadInput, match=message):
            tables.build(loaded, "return", **arguments)
    with pytest.raises(BadInput, match="format"):
        tables.render([], "xml")
