"""Results of a game of three players go through tables, curves, heat maps, figures and the page."""

import itertools

import matplotlib
import numpy as np
import pytest

from shaping_bench.analysis import curves
from shaping_bench.publish import figures, report, tables
from shaping_bench.store import results
from tests.shaping_bench.synthetic_results import write_cell, write_suite

LEARNERS = ("naive", "lola")
UPDATES = (0, 50, 100)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Both learners in every mixture, and each alone against two who always defect; six seeds."""
    folder = tmp_path_factory.mktemp("three")
    write_suite(folder, ["public-goods"], list(LEARNERS), opponents=["all-d"])
    rng = np.random.default_rng(0)
    profiles = [*itertools.combinations_with_replacement(LEARNERS, 3), *((x, "all-d", "all-d") for x in LEARNERS)]
    for profile in profiles:
        curve = rng.uniform(0.0, 1.0, (3, 6, 3))
        write_cell(folder, "public-goods", profile, {"return": curve[-1]}, curves={"return": curve}, updates=UPDATES)
    for label in LEARNERS:
        write_cell(folder, "public-goods", (label, "all-d", "all-d"), {"return": rng.random((6, 3))}, kind="league")
    return results.load(folder)


def test_tables(opened):
    for kind in ("encounter", "league"):
        for table in tables.build(opened, "return", kind=kind):
            assert "opponent: everybody else in the game" in table.note
    (table,) = tables.build(opened, "return")
    assert table.col_labels == ("naive", "lola", "all-d", "all-d + lola", "all-d + naive", "lola + naive")
    met = opened.final("return", "encounter")
    own = met[(met["learner"] == "lola") & (met["opponent"] == "lola + naive")]
    k, c = table.row_labels.index("lola"), table.col_labels.index("lola + naive")
    assert table.cells[k][c].mean == pytest.approx(own["value"].mean())


def test_curves_and_figures(opened):
    bands = curves.bands(opened, "return")
    assert set(bands["opponent"]) == {"naive", "lola", "all-d", "all-d + lola", "all-d + naive", "lola + naive"}
    with matplotlib.rc_context(figures.STYLE):
        figure = figures.learning_curves(opened, "public-goods")
        drawn = {line.get_label(): line for line in figure.axes[1].lines}
        # Two naive ones meet lola: each of them has lola and the other one for company.
        theirs = bands[(bands["learner"] == "naive") & (bands["opponent"] == "lola + naive")]
        assert drawn["naive against it"].get_ydata() == pytest.approx(theirs.groupby("update")["mean"].mean())
        for name, draw in figures.figures(opened).items():
            # Nothing was stored of what happens within an episode.
            assert (draw() is None) == name.endswith("-within"), name


def test_the_page(opened):
    page = report.render_page(opened)
    assert "lola + naive" in page
    assert "naive against 2x lola" in page
    assert "Which rule to adopt" in page
