"""The documentation site builds without a warning, leads nowhere wrong, fetches nothing, and has a place for all."""

import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from shaping_bench.algorithms import ALGORITHMS
from shaping_bench.games import GAMES
from shaping_bench.games.adapters import ADAPTERS
from shaping_bench.spec import registry

pytest.importorskip("sphinx", reason="the extra `docs` is not installed")

SOURCES = Path(__file__).resolve().parent.parent / "shaping_bench" / "docs"
PAGES = sorted(SOURCES.rglob("*.md"))
TEXT = {page: page.read_text() for page in PAGES}


class Page(HTMLParser):
    """What a page of the built site defines and where it points."""

    def __init__(self, file):
        super().__init__()
        self.anchors, self.links, self.loaded, self.equations = set(), [], [], 0
        self.feed(file.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        self.equations += tag == "math"
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if "src" in given:
            self.loaded.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Every page of the site, built with warnings as errors, by path."""
    out = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-n", "-W", "--keep-going", "-d", str(out / "trees")]
    done = subprocess.run(
        [*command, str(SOURCES), str(out / "html")],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    return {file: Page(file) for file in sorted((out / "html").rglob("*.html"))}


def test_every_link_within_the_site_leads_somewhere(site):
    wrong = []
    for file, page in site.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            known = target in site if target.suffix == ".html" else target.is_file()
            if not known or (parts.fragment and unquote(parts.fragment) not in site[target].anchors):
                wrong.append(f"{file.name}: {link}")
    assert not wrong


def test_links_to_elsewhere_are_well_formed(site):
    for file, page in site.items():
        for parts in filter(lambda parts: parts.scheme, map(urlsplit, page.links)):
            assert parts.scheme == "https", (file.name, parts)
            assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), (file.name, parts)


def test_pages_load_nothing_from_elsewhere(site):
    for file, page in site.items():
        for address in page.loaded:
            parts = urlsplit(address)
            assert not parts.scheme, (file.name, address)
            assert not parts.netloc, (file.name, address)
            assert (file.parent / parts.path).is_file(), (file.name, address)


def test_nothing_is_escaped_twice(site):
    assert not [file.name for file in site if re.search(r"&amp;(lt|gt|amp|#\d+);", file.read_text())]


def test_equations_are_mathml(site):
    written = {page for page, text in TEXT.items() if "$$" in text}
    drawn = {file.stem for file, page in site.items() if page.equations}
    assert written
    assert {page.stem for page in written} <= drawn


@pytest.mark.parametrize(
    ("kind", "names"), [("learner", [*ALGORITHMS, *registry.ADAPTED]), ("game", [*GAMES, *ADAPTERS])]
)
def test_everything_registered_has_one_place(kind, names):
    marked = re.findall(rf"<!-- generate: {kind} ([\w-]+)", "\n".join(TEXT.values()))
    assert sorted(marked) == sorted(names)


def test_what_a_page_holds_is_among_its_claims_and_citations():
    for page, text in TEXT.items():
        learners, games = (
            [name for name in re.findall(rf"<!-- generate: {kind} ([\w-]+)", text) if name in known]
            for kind, known in (("learner", ALGORITHMS), ("game", GAMES))
        )
        for fragment, names in (("reproduction", learners), ("bibtex", learners + games)):
            found = re.search(rf"<!-- generate: {fragment} (?:only )?(.*?) -->", text)
            assert sorted(found[1].split() if found else []) == sorted(names), (page.name, fragment)


def test_learners_and_encounters_that_pages_name_exist():
    """In code: ``lola(lr=1)``, ``ipd(gamma=0.9)``, and whole encounters."""
    checked = 0
    for page, text in TEXT.items():
        for name, inside in re.findall(r"`([a-z][\w-]*)\(([^`…*]*=[^`…*]*)\)`", text):
            spec = re.sub(
                r"\[([^],]*).*?\]", r"\1", f"{name}({inside})".replace("order=n", "order=2")
            )  # sweeps are of suites
            made = registry.make_game if name in GAMES else registry.make_learner
            assert made(spec), page.name
            checked += 1
        for words in re.findall(r"^shaping-bench encounter (.*)$", text, re.MULTILINE):
            game, *learners = shlex.split(words.split(" --")[0])
            if {text.partition("(")[0] for text in (game, *learners)} & {*ADAPTERS, *registry.ADAPTED}:
                continue  # their packages need not be installed
            made = registry.make_game(game)
            both = [registry.make_learner(text, game=made.name) for text in learners]
            registry.check_encounter(made, both if len(both) > 1 else both * made.value.n_players)
            checked += 1
    assert checked > 40
