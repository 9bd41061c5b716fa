"""The page: well-formed, self-contained, and with the tables' own digits."""

import html.parser
import itertools
import re

import numpy as np
import pytest

from shaping_bench import report, tables
from shaping_bench import results as results_
from shaping_bench.errors import BadInput
from tests.shaping_bench.synthetic_results import write_cell, write_suite

NAN = float("nan")
VOID = {"meta", "link", "br", "img", "input", "wbr", "hr", "use", "path"}
LEARNERS = ("naive", "lola", "a <b> & c")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("page")
    write_suite(path, ["ipd", "tandem"], LEARNERS, opponents=["all-d"], description="Two games & <more>.")
    rng = np.random.default_rng(0)
    updates = list(range(0, 1010, 10))
    for game in ("ipd", "tandem"):
        pairs = [(a, b) for k, a in enumerate(LEARNERS) for b in (*LEARNERS[k:], *(["all-d"] if game == "ipd" else []))]
        for a, b in pairs:
            finals = {"return": rng.normal(size=(4, 2))}
            if game == "ipd":
                finals |= {f"cooperation_{s}": rng.random((4, 2)) for s in report.STATES}
            if (game, a, b) == ("tandem", "lola", "lola"):
                finals["return"][[1, 3]] = NAN
            curves = {"return": rng.normal(size=(len(updates), 4, 2))}
            write_cell(path, game, [a, b], finals, curves=curves, updates=updates)
    write_cell(path, "ipd", ["naive", "best-response"], {"return": [[-3.0, -0.125]] * 4}, kind="league")
    return path


@pytest.fixture(scope="module")
def page(directory):
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
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


@pytest.fixture(scope="module")
def structure(page):
    parser = Structure()
    parser.feed(page)
    parser.close()
    return parser


def test_every_element_is_closed(structure):
    assert structure.errors == []
    assert structure.open == []


def test_page_needs_nothing_else(structure, page):
    tags = {tag for tag, _ in structure.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "img", "image"}
    for tag, attributes in structure.elements:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            if tag != "a" and name in attributes:
                assert attributes[name].startswith("#")
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", page)
    assert "http://" not in page


def test_identifiers_are_unique_and_links_arrive(structure):
    found = [attributes["id"] for _, attributes in structure.elements if "id" in attributes]
    outside_figures = [x for x in found if not re.fullmatch(r"[mp][0-9a-f]{6,}|DejaVu.*", x)]
    assert len(outside_figures) == len(set(outside_figures))
    targets = {a["href"][1:] for tag, a in structure.elements if tag in ("a", "use") and a["href"].startswith("#")}
    assert targets
    assert targets <= set(found)


def test_headings_do_not_skip_a_level(structure):
    levels = [int(tag[1]) for tag, _ in structure.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_accessible_names(structure):
    for tag, attributes in structure.elements:
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if attributes.get("role") == "region" or tag == "nav":
            assert attributes["aria-label"]
    assert ("html", {"lang": "en"}) in structure.elements
    scopes = [attributes.get("scope") for tag, attributes in structure.elements if tag == "th"]
    assert set(scopes) == {"row", "col"}


def test_page_has_the_tables_digits(page, directory):
    results = results_.load(directory)
    for kind in ("encounter", "league"):
        for table in tables.build(results, "return", kind):
            assert tables.html_table(table) in page
    assert tables.html_table(tables.summary(results, ["return"])) in page
    # The heat map prints the tables' means.
    (table, _) = tables.build(results, "return", spread="none")
    svg = re.search(r'<svg [^>]*aria-label="ipd: return".*?</svg>', page, flags=re.DOTALL)[0]
    shown = re.findall(r">(-?\d+\.\d\d)</text>", svg)
    assert shown == [cell.text for row in table.cells for cell in row if cell.n]


def test_lost_seeds_are_starred_and_listed(page):
    svg = re.search(r'<svg [^>]*aria-label="tandem: return".*?</svg>', page, flags=re.DOTALL)[0]
    assert len(re.findall(r">-?\d+\.\d\d\*</text>", svg)) == 1
    section = page[page.index('<section id="diverged"') :]
    assert 'tandem: lola in self-play</th><td>2 of 4</td><td class="left">1, 3</td>' in section


def test_no_divergence_is_said(tmp_path):
    write_suite(tmp_path, ["ipd"], ["naive"])
    write_cell(tmp_path, "ipd", ["naive", "naive"], {"return": [[0.0, 0.0]]})
    page = report.render_page(results_.load(tmp_path))
    assert "None: every seed of every cell stayed finite." in page
    assert "Learning curves" not in page
    assert "Cooperation by state" not in page


def test_every_cell_has_its_command(structure, directory):
    words = "".join(structure.words)
    for record in results_.load(directory).records:
        assert record["command"] in words
        assert record["hash"] in words


def test_curves_have_one_panel_per_encounter_and_few_points(page):
    panels = re.findall(r"<figure><svg .*?</figure>", page, flags=re.DOTALL)
    curves = [x for x in panels if re.search(r'aria-label="(ipd|tandem), return: ', x)]
    assert len(curves) == 9 + 6
    longest = max(len(re.findall(r"L ", path)) for x in curves for path in re.findall(r'd="([^"]*)"', x))
    assert longest <= 2 * report.MAX_POINTS + 1


def test_state_section_only_for_memory_one_games(page):
    assert page.count("<h3>Cooperation by state</h3>") == 1


def test_names_from_outside_are_escaped(page):
    assert "Two games &amp; &lt;more&gt;." in page
    assert "<b>" not in page


def test_page_is_reproducible(page, directory):
    assert report.render_page(results_.load(directory)) == page


def test_limits_follow_the_bulk_when_some_run_away():
    low, high = report._limits([*np.linspace(-2, -1, 100), -1e9])
    assert -2.2 < low < -1.8
    assert -1.2 < high < -0.8
    low, high = report._limits([-2.0, -1.0, NAN])
    assert low < -2.0 < -1.0 < high
    assert report._limits([NAN]) == (0.0, 1.0)


def test_an_explosion_does_not_break_the_page(tmp_path):
    write_suite(tmp_path, ["ipd"], ["naive", "lola"])
    huge = np.array([[1e30, -1e30], [0.0, 1.0]])
    curves = {"return": np.stack([huge, huge * 1e5, np.full((2, 2), NAN)])}
    write_cell(tmp_path, "ipd", ["naive", "lola"], {"return": huge}, curves=curves, updates=[0, 1, 2])
    write_cell(tmp_path, "ipd", ["naive", "naive"], {"return": [[NAN, NAN]] * 2})
    page = report.render_page(results_.load(tmp_path))
    assert "5.00e+29" in page
    assert "nan" not in re.sub(r"[a-z-]*nan[a-z]+|[a-z]+nan", "", page.lower())


def test_output_goes_where_asked(directory, tmp_path):
    assert report.write_report(directory, tmp_path / "x.html") == tmp_path / "x.html"
    with pytest.raises(BadInput, match="output is"):
        report.write_report(directory, tmp_path / "no" / "x.html")
    with pytest.raises(BadInput, match="no directory"):
        report.write_report(tmp_path / "no")
