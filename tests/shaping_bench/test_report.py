"""The page as text: well-formed, self-contained, and with the tables' own digits.

What a reader does with it is tested in a browser, in test_report_browser.py.
"""

import html
import html.parser
import itertools
import json
import re

import numpy as np
import pytest

from shaping_bench.analysis import sweeps
from shaping_bench.errors import BadInput
from shaping_bench.games.grids.board import Board, Glyph, Piece, Window
from shaping_bench.publish import report, tables
from shaping_bench.publish.report import boards, drawing, episodes, verdicts
from shaping_bench.publish.report import page as page_
from shaping_bench.publish.report.markup import Addresses
from shaping_bench.publish.report.page import MAX_POINTS, robustness
from shaping_bench.publish.writers.html import html_table
from shaping_bench.store import results as results_
from tests.shaping_bench.page_results import (
    FRAMES,
    LEARNERS,
    LEGEND,
    NAN,
    OLD_FRAMES,
    PAPERS,
    VERDICTS,
    write_page_results,
)
from tests.shaping_bench.synthetic_results import write_cell, write_suite

VOID = {"meta", "link", "br", "img", "input", "wbr", "hr", "use", "path"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("page")
    write_page_results(path)
    return path


@pytest.fixture(scope="module")
def results(directory):
    return results_.load(directory)


@pytest.fixture(scope="module", autouse=True)
def recorded():
    """Verdicts of this module's own: reading all claims takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_, "recorded", lambda: VERDICTS)
        patch.setattr(page_, "papers", lambda: PAPERS)
        patch.setattr(page_, "record_about", lambda: {"machine": "a <machine>", "commit": "0123", "date": "2026-01-02"})
        yield


@pytest.fixture(scope="module")
def page(directory, recorded):
    return report.write_report(directory).read_text(encoding="utf-8")


class Structure(html.parser.HTMLParser):
    """Elements, attributes, and whether every element is closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.errors, self.words = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.errors.append(tag)

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)


@pytest.fixture(scope="module")
def structure(page):
    parser = Structure()
    parser.feed(page)
    parser.close()
    return parser


def section(page, key):
    return re.search(rf'<section id="{key}".*?</section>', page, flags=re.DOTALL)[0]


def test_every_element_is_closed(structure):
    assert structure.errors == []
    assert structure.open == []


def test_page_needs_nothing_else(structure, page):
    tags = {tag for tag, _ in structure.elements}
    assert not tags & {"link", "iframe", "object", "embed", "img", "image"}
    for tag, attributes in structure.elements:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            if tag != "a" and name in attributes:
                assert attributes[name].startswith("#")
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", page)
    assert re.findall(r"https?://[^\"']*", page) == ["http://www.w3.org/2000/svg"]


def test_identifiers_are_unique_and_links_arrive(structure):
    found = [attributes["id"] for _, attributes in structure.elements if "id" in attributes]
    assert len(found) == len(set(found))
    targets = {a["href"][1:] for tag, a in structure.elements if tag == "a" and a.get("href", "").startswith("#")}
    assert len(targets) > 20
    assert targets <= set(found)


def test_headings_do_not_skip_a_level(structure):
    levels = [int(tag[1]) for tag, _ in structure.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_accessible_names(structure):
    for tag, attributes in structure.elements:
        if tag == "svg" and "aria-hidden" not in attributes:
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if attributes.get("role") in ("region", "group") or tag == "nav":
            assert attributes["aria-label"]
    assert ("html", {"lang": "en"}) in structure.elements
    scopes = [attributes.get("scope") for tag, attributes in structure.elements if tag == "th"]
    assert set(scopes) == {"row", "col"}


def test_page_has_the_tables_digits(page, results):
    addresses = Addresses(results)
    for kind in ("encounter", "league"):
        for table in tables.build(results, "return", kind=kind):
            assert html_table(table, addresses.entry) in page


def test_heat_map_has_the_tables_means_and_links_to_their_cells(page, results):
    (table,) = tables.build(results, "return", game="ipd")
    heat = re.search(r'aria-label="ipd: return"><table class="heat">.*?</table>', page, flags=re.DOTALL)[0]
    linked = re.findall(r'<td style="[^"]*"><a href="#cell-(\w+)">(.*?)</a></td>', heat)
    entries = [cell for row in table.cells for cell in row if cell.n]
    texts = [(f"<strong>{x}</strong>" if cell.best else x) for cell in entries for x in [cell.text.split(" ")[0]]]
    assert [text for _, text in linked] == texts
    assert [hash_ for hash_, _ in linked] == [cell.hashes[0] for cell in entries]


@pytest.mark.parametrize("share", np.linspace(0, 1, 41))
def test_numbers_on_a_heat_map_contrast_with_it(share):
    back, ink = re.fullmatch(r"background:#(\w{6});color:#(\w{3})", drawing.shade(share)).groups()

    def luminance(color):
        channels = [int(color[k : k + 2], 16) / 255 for k in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(back), luminance(ink * 2)])
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_rules_stand_in_the_suites_order_with_the_tables_digits(page, results):
    (board,) = re.findall(r'<table class="board" id="board-1".*?</table>', page, flags=re.DOTALL)
    assert 'data-game="tandem"' in board
    rows = re.findall(r'<tr data-access="(\w+)" data-preparation="(\d+)"><th[^>]*>(.*?)</th>(.*?)</tr>', board)
    assert [(html.unescape(label), access, spent) for access, spent, label, _ in rows] == [
        (x, "simulator", "300") if x == "mfos" else (x, "gradients", "0") for x in LEARNERS
    ]
    (expected,) = tables.build(results, "robustness_mean", game="tandem")
    for (_, _, _, entries), (cell,) in zip(rows, expected.cells, strict=True):
        shown = [html.unescape(re.sub(r"<[^>]*>", "", x)) for x in re.findall(r"<td[^>]*>(.*?)</td>", entries)]
        assert shown[1] == cell.text


def test_means_over_whom_rules_met_are_shown_only_where_all_met_the_same(page):
    boards_ = re.findall(r'<table class="board" id="board-\d" data-game="([^"]*)".*?</table>', page, flags=re.DOTALL)
    (first, *_, last) = re.findall(r'<table class="board".*?</table>', page, flags=re.DOTALL)
    assert boards_ == ["ipd", "tandem", "coin-game"]
    assert '<th scope="col" data-best="higher">mean over all met' in first
    assert "mean over all met" not in last
    assert "They did not all meet the same" in last
    assert "rank" not in "".join(re.findall(r"<thead>.*?</thead>", first + last, flags=re.DOTALL))


def test_preparation_of_many_cells_counts_once(results):
    assert boards.preparation_seconds(results) == {"mfos": 300.0}


def test_addresses_of_entries_and_averages(results):
    addresses = Addresses(results)
    (table,) = tables.build(results, "return", game="tandem")
    entry = table.cells[0][1].hashes
    assert addresses.average(entry) == addresses.entry(entry) == f"#cell-{entry[0]}"
    (means,) = tables.build(results, "robustness_mean", rows="learner", cols="game")
    assert addresses.average(means.cells[0][1].hashes) == addresses.row("tandem", "naive") == "#row-1-0"
    everything = [record["hash"] for record in results.records]
    assert addresses.average(everything) is None
    assert addresses.average(()) is None
    assert addresses.entry(()) is None


def test_both_orders_of_seats_share_a_description(tmp_path):
    write_suite(tmp_path, ["imp"], ["naive", "lola"])
    first = write_cell(tmp_path, "imp", ["naive", "lola"], {"return": [[0.0, 1.0]]})
    second = write_cell(tmp_path, "imp", ["lola", "naive"], {"return": [[2.0, 3.0]]})
    addresses = Addresses(results_.load(tmp_path))
    assert addresses.entry([first]) == addresses.entry([second])
    page = report.render_page(results_.load(tmp_path))
    (shared,) = re.findall(r'<div id="cell-\w+" tabindex="-1">.*?</details>', page, flags=re.DOTALL)
    assert f"cells/{first}" in shared
    assert f"cells/{second}" in shared


def test_lost_seeds_are_starred_and_listed(page):
    heat = re.search(r'aria-label="tandem: return"><table class="heat">.*?</table>', page, flags=re.DOTALL)[0]
    assert len(re.findall(r">-?\d+\.\d\d\*<", heat)) == 1
    listed = section(page, "diverged")
    assert re.search(r'tandem: lola in self-play</th><td><a href="#cell-\w+">2 of 4</a></td>', listed)
    assert '<td class="left">1, 3</td>' in listed


def test_no_divergence_is_said(tmp_path):
    write_suite(tmp_path, ["ipd"], ["naive"])
    write_cell(tmp_path, "ipd", ["naive", "naive"], {"return": [[0.0, 0.0]]})
    page = report.render_page(results_.load(tmp_path))
    assert "None: every seed of every cell stayed finite." in page
    for absent in ("Learning curves", "Policies", "Watch them play", "Which rule to adopt", "Who improves on whom"):
        assert f"<h3>{absent}" not in page


def test_every_cell_has_its_command_and_configuration(structure, results):
    words = "".join(structure.words)
    for record in results.records:
        assert record["command"] in words
        assert f"cells/{record['hash']}" in words
    assert words.count("lr=1.0") >= len(results.records)
    assert "hidden" not in words.split("Every cell and its command")[-1]


def test_curves_have_one_panel_per_encounter_and_few_points(page):
    panels = re.findall(r"<figure><svg .*?</figure>", page, flags=re.DOTALL)
    curves = [x for x in panels if re.search(r'aria-label="(ipd|tandem|coin-game), return: ', x)]
    assert len(curves) == 14 + 10 + 3
    longest = max(path.count("L") for x in curves for path in re.findall(r'd="([^"]*)"', x))
    assert longest == 2 * MAX_POINTS - 1
    # Per player one line, its standard deviation and its interval.
    assert all(x.count('class="line') == 4 for x in curves)
    assert all(x.count('class="band') == 4 for x in curves)


def test_interval_of_a_curve_is_students(tmp_path):
    write_suite(tmp_path, ["ipd"], ["naive"])
    curves = {"return": np.array([[[0.0, 0.0], [2.0, 0.0]], [[1.0, 0.0], [3.0, 0.0]]])}
    write_cell(tmp_path, "ipd", ["naive", "naive"], {"return": [[1.0, 0.0]] * 2}, curves=curves, updates=[0, 1])
    page = report.render_page(results_.load(tmp_path))
    svg = re.search(r'<svg [^>]*aria-label="ipd, return: .*?</svg>', page, flags=re.DOTALL)[0]

    def height(kind):
        """Of player 1's band at the first update, in pixels."""
        points = re.search(rf'<path class="band{kind} f0" d="M([^z]*)z"', svg)[1].split("L")
        ys = [float(p.split()[1]) for p in points]
        return ys[-1] - ys[0]

    # Two seeds: the interval of the mean is t(0.975, 1) / sqrt(2) = 8.98 standard deviations, cut off at the panel.
    assert height(" mean") > height("") > 0


def test_final_policies_have_a_dot_per_seed_and_player(page):
    panels = re.findall(r'<svg [^>]*aria-label="ipd: probability of the first action by state, .*?</svg>', page)
    assert len(panels) == len(LEARNERS)
    for panel in panels:
        assert len(re.findall(r"M[\d.]+ [\d.]+h0", panel)) == 5 * 4 * 2
    squares = re.findall(r'<svg [^>]*aria-label="ipd: policies of both players, .*?</svg>', page)
    assert len(squares) == len(LEARNERS)
    for square in squares:
        marks = re.findall(r'<path class="mark s\d" d="([^"]*)"', square)
        assert [len(re.findall(r"M[\d.]+ [\d.]+", x)) for x in marks] == [4] * 5
    assert page.count("<h3>Policies</h3>") == 1


def test_a_policy_is_drawn_where_it_is():
    panel = drawing.strip_panel([("CC", np.array([1.0])), ("CD", np.array([0.0]))], "title", "caption")
    (top, bottom) = [float(y) for y in re.findall(r"M[\d.]+ ([\d.]+)h0", panel)]
    rules = [float(y) for y in re.findall(r"M34 ([\d.]+)H", panel)]
    assert (bottom, top) == (rules[0], rules[2])
    square = drawing.plane_panel([("DD", np.array([1.0]), np.array([0.0]))], "title", "caption")
    assert drawing.mark("DD", 174, 174) in square


def test_states_and_lines_differ_without_colour():
    assert len({drawing.mark(s, 0, 0) for s in drawing.STATES}) == len(drawing.STATES)
    style = (drawing.__file__).replace("drawing.py", "style.css")
    with open(style, encoding="utf-8") as file:
        dashes = re.findall(r"\.l[0-3] \{[^}]*\}", file.read())
    assert len({"".join(re.findall(r"stroke-dasharray:[^;]*", x)) for x in dashes}) == drawing.NUM_LINES


def test_episodes_are_in_the_page_whole(page):
    shown = section(page, "game-2")
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', shown, flags=re.DOTALL)
    stored = json.loads(data)
    assert [x["title"] for x in stored] == ["naive in self-play", "naive against lola", "naive against a <b> & c"]
    assert all(x["frames"] == FRAMES for x in stored)
    assert "Watch them play" not in section(page, "game-0")


def test_an_episode_cannot_end_its_element(tmp_path):
    write_suite(tmp_path, ["coin-game"], ["x</script><b>"])
    key = write_cell(tmp_path, "coin-game", ["x</script><b>"] * 2, {"return": [[0.0, 0.0]]})
    path = tmp_path / "cells" / key / "episode.json"
    path.write_text(json.dumps({"grid": 3, "frames": OLD_FRAMES}))
    text = episodes.player(results_.load(tmp_path), "coin-game")
    assert text.count("</script>") == 1
    assert "<b>" not in text.replace("\\/", "/").partition("<script")[0]
    frame = {**FRAMES[0], "pieces": [["red", 3, 0]]}
    outside = {"version": 2, "rows": 3, "columns": 3, "legend": LEGEND, "frames": [frame]}
    for broken in ("{", "[]", '{"grid": 3, "frames": [{"agents": 0, "coins": 0}]}', json.dumps(outside)):
        path.write_text(broken)
        with pytest.raises(BadInput, match=r"episode .* cannot be read"):
            episodes.player(results_.load(tmp_path), "coin-game")


def test_any_board_is_drawn_from_what_it_says_of_itself(tmp_path):
    """A game of one's own: walls, a beam, a window, things that are nobody's, and what is held."""
    legend = {
        "fox": Glyph("triangle", "fox", player=0),
        "hen": Glyph("disc", "hen", player=1),
        "corn": Glyph("cross", "corn", tone=2),
        "#": Glyph("block", "walls"),
        "~": Glyph("beam", "beams", owner=0),
    }
    board = Board(
        rows=2,
        columns=4,
        pieces=[Piece("corn", 0, 3), Piece("fox", 0, 0, "E"), Piece("hen", 1, 2)],
        cells=["..#.", ".~.."],
        windows=[Window(0, -1, -1, 3, 3)],
        inventories=[{"corn": 2}, {}],
    )
    board.check(legend, 2)
    frame = {**board.plain(), "rewards": [0.0, 1.0]}
    stored = {"version": 2, "rows": 2, "columns": 4, "legend": {k: x.plain() for k, x in legend.items()}}
    write_suite(tmp_path, ["farm"], ["naive", "lola"])
    key = write_cell(tmp_path, "farm", ["naive", "lola"], {"return": [[0.0, 0.0]]})
    path = tmp_path / "cells" / key / "episode.json"
    path.write_text(json.dumps({**stored, "note": "Hens eat corn.", "frames": [frame]}))
    text = episodes.player(results_.load(tmp_path), "farm")
    assert 'viewBox="-2 -2 164 84"' in text
    assert "Hens eat corn." in text
    for drawn in ("player triangle t0", "player disc t1", "thing cross t2", "thing block t4", "thing beam t0"):
        assert text.count(f'<g class="{drawn}"') == 2, drawn  # on the board and in the key
    assert 'class="window t0" d="M-40 -40h120v120h-120z"' in text
    assert 'transform="rotate(90)"' in text
    assert "coin" not in text.lower()
    # What earlier versions may have stored of other boards is no reason to show nothing of the rest.
    path.write_text(json.dumps({"grid": 3, "players": 2, "frames": [{"farm": [1, 2], "rewards": [0, 0]}]}))
    assert episodes.player(results_.load(tmp_path), "farm") == ""


def test_verdicts_are_counted_by_paper(page):
    shown = section(page, "claims")
    assert "<strong>2 of 3</strong>" in shown
    assert "Paper A: 1 of 2 numbers reproduced" in shown
    assert "Paper B: 1 of 1 number reproduced" in shown
    assert re.findall(r'<tr data-verdict="(\w+)">', shown) == ["reproduced", "missed", "reproduced"]
    assert "<code>shaping-bench verify a-two</code>" in shown
    assert "The paper&#x27;s &lt;figure&gt;." in shown
    assert "<td>\N{MINUS SIGN}1.06</td><td>\N{MINUS SIGN}1.125 " in shown
    assert "a &lt;machine&gt;" in shown


def test_no_verdicts_no_section():
    assert verdicts.published_numbers([], {}, {}) == ""


def test_names_from_outside_are_escaped(page):
    assert "Three games &amp; &lt;more&gt;." in page
    assert "<b>" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_page_is_reproducible(page, directory):
    rendered = report.render_page(results_.load(directory))
    for key in ("rules", "game-0", "game-2", "cells"):
        assert section(rendered, key) == section(page, key)


def test_limits_follow_the_bulk_when_some_run_away():
    low, high = drawing.limits([*np.linspace(-2, -1, 100), -1e9])
    assert -2.2 < low < -1.8
    assert -1.2 < high < -0.8
    low, high = drawing.limits([-2.0, -1.0, NAN])
    assert low < -2.0 < -1.0 < high
    assert drawing.limits([-2.0, -1.0], margin=0.0) == (-2.0, -1.0)
    assert drawing.limits([NAN]) == (0.0, 1.0)


def test_an_explosion_does_not_break_the_page(tmp_path):
    write_suite(tmp_path, ["ipd"], ["naive", "lola"])
    huge = np.array([[1e30, -1e30], [0.0, 1.0]])
    curves = {"return": np.stack([huge, huge * 1e5, np.full((2, 2), NAN)])}
    write_cell(tmp_path, "ipd", ["naive", "lola"], {"return": huge}, curves=curves, updates=[0, 1, 2])
    write_cell(tmp_path, "ipd", ["naive", "naive"], {"return": [[NAN, NAN]] * 2})
    page = report.render_page(results_.load(tmp_path))
    assert "5.00e+29" in page
    drawn = re.findall(r'(?: d|points|transform|style)="([^"]*)"', page)
    assert not [x for x in drawn if "nan" in x or "inf" in x]
    assert ">nan" not in page


def test_output_goes_where_asked(tmp_path):
    write_suite(tmp_path, ["ipd"], ["naive"])
    write_cell(tmp_path, "ipd", ["naive", "naive"], {"return": [[0.0, 0.0]]})
    assert report.write_report(tmp_path, tmp_path / "x.html") == tmp_path / "x.html"
    with pytest.raises(BadInput, match="output is"):
        report.write_report(tmp_path, tmp_path / "no" / "x.html")
    with pytest.raises(BadInput, match="no directory"):
        report.write_report(tmp_path / "no")


def test_a_logarithmic_panel_puts_the_geometric_mean_in_the_middle():
    line = drawing.Line("a", np.array([0.01, 1.0, 100.0]), np.zeros(3), interval=np.array([[0.5] * 3, [0.0] * 3]))
    panel = drawing.line_panel([line], "t", (-1.0, 1.0), "c", log=True, marked=(1.0, "assumed"))

    def points(name):
        path = re.search(rf'<path class="{name}" d="M(.*?)z?"', panel)[1]
        return [[float(x) for x in point.split()] for point in path.split("L")]

    drawn = points("line l0")
    assert drawn[1][0] == pytest.approx((drawn[0][0] + drawn[2][0]) / 2, abs=0.1)
    assert re.search(r'<path class="assumed" d="M([\d.]+) ', panel)[1] == f"{drawn[1][0]:g}"
    above, below = points("band mean f0")[:3], points("band mean f0")[3:]
    assert above == drawn  # nothing above the mean, a quarter of the panel below
    assert all(y > drawn[0][1] + 20 for _, y in below)


def test_a_sweep_is_drawn_with_what_was_assumed(results, monkeypatch):
    game, learner = results.games[0], results.learners[0]
    sweep = sweeps.Series(
        game=game,
        learner=learner,
        opponent="naive",
        swept="opponent",
        hyperparameter="lr",
        metric="return",
        x=(0.1, 1.0, 10.0),
        mean=(0.0, 0.5, 1.0),
        low=(-0.1, 0.4, 0.9),
        high=(0.1, 0.6, 1.1),
        n=(4, 4, 3),
        diverged=(0, 0, 1),
        assumed=1.0,
        hashes=((), (), ()),
    )
    assert "Robustness" not in robustness(results, game)
    monkeypatch.setattr(sweeps, "series", lambda results: [sweep])
    shown = robustness(results, game)
    assert "the lr of naive" in shown
    assert f"{html.escape(learner)}, 1 seed diverged" in shown
    assert 'class="assumed"' in shown
    assert robustness(results, results.games[1]) == ""
