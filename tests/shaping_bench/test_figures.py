"""What the figures show, read from what matplotlib was told to draw, and the files they become."""

import itertools
import re

import matplotlib
import numpy as np
import pytest
import scipy.stats

from shaping_bench.analysis import curves, metagame
from shaping_bench.analysis.entries import entries
from shaping_bench.cli import main
from shaping_bench.errors import BadInput
from shaping_bench.publish import figures, tables
from shaping_bench.store import results
from tests.shaping_bench.synthetic_results import write_cell, write_suite

LEARNERS = ("naive", "lola", "sos")
UPDATES = (0, 50, 100)
KINDS = ("adoption", "cross-play", "curves", "meta-game", "profiles")
NAN = float("nan")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Two games, three learners and an opponent, four seeds; one seed of one encounter diverges."""
    folder = tmp_path_factory.mktemp("results")
    write_suite(folder, ["ipd", "stag-hunt"], list(LEARNERS), opponents=["all-d"])
    rng = np.random.default_rng(0)
    pairs = [*itertools.combinations_with_replacement(LEARNERS, 2), *((x, "all-d") for x in LEARNERS)]
    for game, (a, b) in itertools.product(("ipd", "stag-hunt"), pairs):
        curve = rng.uniform(-2.0, -1.0, (3, 4, 2))
        if (game, a, b) == ("ipd", "lola", "sos"):
            curve[-1, 2] = NAN
        write_cell(folder, game, (a, b), {"return": curve[-1]}, curves={"return": curve}, updates=UPDATES)
    return folder


@pytest.fixture(scope="module")
def opened(directory):
    return results.load(directory)


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context(figures.STYLE):
        yield


def lines(panel):
    return {line.get_label(): line for line in panel.lines}


def test_learning_curves(opened):
    figure = figures.learning_curves(opened, "ipd")
    assert [panel.get_title() for panel in figure.axes] == list(LEARNERS)
    bands = curves.bands(opened, "return")
    bands = bands[bands["game"] == "ipd"]
    drawn = lines(figure.axes[1])
    assert set(drawn) == {"self-play", "against naive", "naive against it"}
    lola = bands[(bands["learner"] == "lola") & (bands["opponent"] == "naive")]
    assert drawn["against naive"].get_xdata().tolist() == list(UPDATES)
    assert drawn["against naive"].get_ydata() == pytest.approx(lola["mean"].to_numpy())
    alone = bands[(bands["learner"] == "lola") & (bands["opponent"] == "lola")]
    assert drawn["self-play"].get_ydata() == pytest.approx(alone.groupby("update")["mean"].mean().to_numpy())
    assert set(lines(figure.axes[0])) == {"self-play"}
    (band, *_) = figure.axes[1].collections
    own = opened.self_play_bands("return")
    own = own[(own["game"] == "ipd") & (own["learner"] == "lola")]
    half = scipy.stats.t.ppf(0.975, 3) * own["std"].to_numpy() / np.sqrt(4)
    edges = band.get_paths()[0].vertices[:, 1]
    assert edges.max() == pytest.approx((own["mean"] + half).max())


def test_in_self_play_a_seeds_seats_are_averaged_first(tmp_path):
    """Seats that mirror one another leave no spread; a seed of which one seat is lost does not count."""
    write_suite(tmp_path, ["imp"], ["lola"])
    curve = np.array([[[1.0, -1.0], [-0.5, 0.5], [3.0, NAN]]])
    write_cell(tmp_path, "imp", ("lola", "lola"), {"return": curve[-1]}, curves={"return": curve}, updates=[7])
    (row,) = results.load(tmp_path).self_play_bands("return").to_dict("records")
    assert {key: row[key] for key in ("game", "learner", "update", "mean", "std", "n")} == {
        "game": "imp",
        "learner": "lola",
        "update": 7,
        "mean": 0.0,
        "std": 0.0,
        "n": 2,
    }


def test_cross_play_prints_the_tables_digits(opened):
    figure = figures.cross_play(opened, "ipd")
    (table,) = tables.build(opened, "return", game="ipd", spread="none", bold=False)
    expected = {
        (c + 0.5, r + 0.5): cell.text.split(" ")[0].replace("-", "\N{MINUS SIGN}") + "*" * (cell.n < cell.runs)
        for r, row in enumerate(table.cells)
        for c, cell in enumerate(row)
        if cell.mean is not None
    }
    assert {text.get_position(): text.get_text() for text in figure.axes[0].texts} == expected
    assert sum(text.endswith("*") for text in expected.values()) == 2
    assert [x.get_text() for x in figure.axes[0].get_yticklabels()] == list(table.row_labels)
    assert figure.get_size_inches()[0] == figures.COLUMN


def test_profiles_fall_from_one_to_nothing(opened):
    figure = figures.performance_profiles(opened, "ipd")
    drawn = lines(figure.axes[0])
    assert set(drawn) == set(LEARNERS)
    for line in drawn.values():
        heights = line.get_ydata()
        assert (np.diff(heights) <= 1e-12).all()
        assert heights[0] > 0.8
        assert heights[-1] < 0.2
    at = drawn["sos"].get_xdata()[50]
    returns = entries(opened, "return")
    sos = returns[(returns["game"] == "ipd") & (returns["learner"] == "sos")].dropna(subset="value")
    by_opponent = sos.assign(more=sos["value"] > at).groupby("opponent")["more"].mean()
    assert drawn["sos"].get_ydata()[50] == pytest.approx(by_opponent.mean())


def test_the_meta_game(opened):
    figure = figures.meta_game(opened, "ipd")
    meta = metagame.analyse(opened, "ipd")
    bars, sweep, path = figure.axes
    assert [bar.get_width() for bar in bars.patches] == meta.alpha_rank.tolist()
    assert np.array([line.get_ydata() for line in sweep.lines]) == pytest.approx(meta.alpha_sweep.T)
    assert path.lines[0].get_ydata()[0] == pytest.approx(1 / 3, abs=0.1)
    gain = figures.adoption(opened, "ipd")
    printed = {text.get_position(): text.get_text() for text in gain.axes[0].texts}
    assert float(printed[0.5, 1.5].replace("\N{MINUS SIGN}", "-")) == pytest.approx(meta.gain[1, 0], abs=6e-4)
    low, high = gain.axes[0].collections[0].get_clim()
    assert low == -high


def test_learners_are_told_apart_without_colour(opened):
    class Many:
        labels = tuple(f"rule{k}" for k in range(40))

        def rank(self, dimension, label):
            return self.labels.index(label)

    looks = [figures._look(Many(), label) for label in Many.labels]
    assert len({(look["linestyle"], look["marker"]) for look in looks}) == 40
    neighbours = itertools.pairwise(look["color"] for look in looks)
    assert all(a != b for a, b in neighbours)
    assert figures._look(opened, "lola") == figures._look(opened, "lola")


def test_files_are_as_wide_as_columns_and_hold_text_and_lines(directory, tmp_path, capsys):
    before = dict(matplotlib.rcParams)
    assert main(["figures", str(directory), "-o", str(tmp_path / "out"), "--game", "ipd"]) == 0
    assert dict(matplotlib.rcParams) == before
    paths = sorted((tmp_path / "out").iterdir())
    assert sorted(capsys.readouterr().out.split()) == [str(x) for x in paths]
    assert [x.name for x in paths] == [f"ipd-{kind}.pdf" for kind in KINDS]
    for path in paths:
        content = path.read_bytes()
        width = float(re.search(rb"/MediaBox \[ 0 0 (\S+)", content)[1])
        assert width in (72 * figures.COLUMN, 72 * figures.PAGE), path.name
        assert b"/CIDFontType2" in content, path.name  # Type 42
        assert b"/Type3" not in content, path.name
        assert b"/Subtype /Image" not in content, path.name


def test_every_game_has_its_figures(opened):
    names = {f"{game}-{kind}" for game in ("ipd", "stag-hunt") for kind in (*KINDS, "within")}
    assert set(figures.figures(opened)) == names


@pytest.mark.parametrize("fmt", figures.FORMATS)
def test_the_same_results_give_the_same_bytes(directory, tmp_path, fmt):
    opened = results.load(directory)
    drawn = {"ipd-profiles": figures.performance_profiles, "ipd-cross-play": figures.cross_play}
    chosen = {name: lambda draw=draw: draw(opened, "ipd") for name, draw in drawn.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "figures", lambda results, game: chosen)
        once, twice = ([x.read_bytes() for x in figures.write_figures(directory, tmp_path / k, fmt)] for k in "ab")
    assert once == twice
    assert len(once) == 2


def test_what_results_do_not_hold_is_not_drawn(tmp_path):
    write_suite(tmp_path, ["ipd"], ["naive"])
    write_cell(tmp_path, "ipd", ("naive", "naive"), {"cooperation": np.zeros((2, 2))})
    assert list(figures.write_figures(tmp_path, tmp_path / "out")) == []


def test_bad_input_is_named(directory, tmp_path):
    with pytest.raises(BadInput, match="format is 'gif', which is unknown"):
        list(figures.write_figures(directory, tmp_path, "gif"))
    with pytest.raises(BadInput, match="game is 'ipdd', which is unknown; did you mean 'ipd'"):
        list(figures.write_figures(directory, tmp_path, "pdf", "ipdd"))
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="which cannot be written"):
        list(figures.write_figures(directory, tmp_path / "file", "svg", "ipd"))
