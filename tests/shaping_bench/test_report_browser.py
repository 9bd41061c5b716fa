"""The page in a real browser: what a reader sees, clicks, types and links to."""

import contextlib
import os
import re
import shutil

import pytest

from shaping_bench.publish import report, tables
from shaping_bench.publish.report import page as page_
from shaping_bench.store import results as results_
from tests.shaping_bench.page_results import FRAMES, LEARNERS, PAPERS, VERDICTS, write_page_results

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync"]  # fmt: skip
DESKTOP, PHONE = (1280, 900), (375, 812)
SCREENS = [(size, scheme) for size in (DESKTOP, PHONE) for scheme in ("light", "dark")]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="the page's browser tests need playwright")
    with sync_api.sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, BROWSERS)), None)
        if path is None and not os.path.exists(playwright.chromium.executable_path):
            pytest.skip(f"the page's browser tests need a browser: one of {', '.join(BROWSERS)}")
        # A browser of root's has no sandbox.
        flags = [*FLAGS, "--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else FLAGS
        started = playwright.chromium.launch(executable_path=path, args=flags)
        yield started
        started.close()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("page")
    write_page_results(path)
    return path


@pytest.fixture(scope="module")
def address(browser, directory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_, "recorded", lambda: VERDICTS)
        patch.setattr(page_, "papers", lambda: PAPERS)
        patch.setattr(page_, "record_about", dict)
        return report.write_report(directory).as_uri()


@contextlib.contextmanager
def opened(browser, address, size=DESKTOP, **options):
    """A page with ``errors`` (console and uncaught) and ``asked`` (addresses requested)."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    context.set_default_timeout(10_000)
    page = context.new_page()
    page.errors, page.asked = [], []
    page.on("console", lambda message: page.errors.append(message.text))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(address)
    yield page
    context.close()


@pytest.fixture(scope="module")
def shared(browser, address):
    """One page for all that leaves nothing behind; :func:`page` brings it back to where it began."""
    with opened(browser, address) as page:
        yield page
        assert page.errors == []


@pytest.fixture
def page(shared):
    shared.evaluate("""() => {
        for (const form of document.forms) form.reset();
        document.querySelectorAll("details[open]").forEach((x) => (x.open = false));
        document.activeElement?.blur();
        history.replaceState(null, "", "#");
        scrollTo(0, 0);
    }""")
    return shared


CONTRASTS = """() => {
  const parse = (text) => {
    const numbers = text.match(/[\\d.]+/g).map(Number);
    return text.startsWith("color(srgb") ? [...numbers.slice(0, 3).map((x) => 255 * x), numbers[3] ?? 1]
      : [...numbers.slice(0, 3), numbers[3] ?? 1];
  };
  const over = (top, below) => [0, 1, 2].map((k) => top[k] * top[3] + below[k] * (1 - top[3]));
  const luminance = (color) => {
    const [r, g, b] = color.map((x) => x / 255).map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const back = (element) => {
    const layers = [];
    for (let x = element; x; x = x.parentElement) layers.push(parse(getComputedStyle(x).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const found = [];
  for (const element of document.body.querySelectorAll("*")) {
    const text = [...element.childNodes].filter((x) => x.nodeType === 3).map((x) => x.data).join("").trim();
    if (!text || element.matches("script, style, noscript, option") || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const below = back(element);
    const ink = over(parse(element instanceof SVGElement ? style.fill : style.color), below);
    const [low, high] = [luminance(ink), luminance(below)].sort((a, b) => a - b);
    found.push([(high + 0.05) / (low + 0.05), text.slice(0, 40), style.color, String(below)]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}"""


@pytest.mark.parametrize(("size", "scheme"), SCREENS, ids=lambda x: x if isinstance(x, str) else f"{x[0]}px")
def test_opens_quietly_fits_and_can_be_read(browser, address, size, scheme):
    with opened(browser, address, size, color_scheme=scheme) as page:
        wide = "[document.documentElement.scrollWidth, innerWidth]"
        assert page.evaluate(wide) == [size[0], size[0]]
        page.evaluate("document.querySelectorAll('details').forEach((x) => (x.open = true))")
        assert page.evaluate(wide) == [size[0], size[0]]
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 500
        assert [x for x in contrasts if x[0] < 4.5] == []
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert sum(map(int, re.findall(r"\d+", back))) < 150 if scheme == "dark" else back == "rgb(255, 255, 255)"
        scrolled = page.evaluate("""[...document.querySelectorAll(".scroll")].filter(
            (x) => x.scrollWidth > x.clientWidth && x.tabIndex === 0 && x.getAttribute("aria-label")).length""")
        assert scrolled > 0 if size == PHONE else True
        if size == PHONE:
            page.set_viewport_size({"width": 320, "height": 568})
            assert page.evaluate(wide) == [320, 320]
        assert page.errors == []
        assert page.asked == [address]


def shown_rows(page, selector):
    """Labels of the visible rows of a visible table."""
    return page.eval_on_selector_all(
        f"{selector} tbody tr", "rows => rows.filter((r) => r.checkVisibility()).map((r) => r.cells[0].textContent)"
    )


def test_filters_hide_rows_and_are_restored_from_the_address(page, browser, address):
    form = page.locator("form[data-filters=rules]")
    assert set(shown_rows(page, "#board-0")) == set(LEARNERS)
    form.locator("[name=access]").select_option("gradients")
    assert set(shown_rows(page, "#board-0")) == set(LEARNERS) - {"mfos"}
    assert form.locator("output").text_content() == "3 of 4 learners"
    form.locator("[name=game]").select_option("tandem")
    assert shown_rows(page, "#board-0") == []
    assert set(shown_rows(page, "#board-1")) == set(LEARNERS) - {"mfos"}
    form.locator("[name=access]").select_option("")
    form.locator("[name=preparation]").select_option("60")
    assert set(shown_rows(page, "#board-1")) == set(LEARNERS) - {"mfos"}
    offered = form.locator("[name=preparation] option").all_text_contents()
    assert offered == ["any", "none", "up to a minute"]
    form.locator("[name=preparation]").select_option("")
    assert set(shown_rows(page, "#board-1")) == set(LEARNERS)
    form.locator("[name=preparation]").select_option("0")
    page.get_by_role("button", name="self-play").click()
    link = page.url
    assert link.endswith("#rules?game=tandem&preparation=0&sort=self-play&order=descending")
    before = shown_rows(page, "#board-1")
    form.locator("button[type=reset]").click()
    assert set(shown_rows(page, "#board-0")) == set(LEARNERS)
    assert page.url.endswith("#rules")
    with opened(browser, link) as again:
        assert shown_rows(again, "#board-1") == before
        assert again.locator("[name=preparation]").input_value() == "0"
        head = again.locator("#board-1 th[aria-sort]")
        assert (head.count(), head.get_attribute("aria-sort")) == (1, "descending")
        # Somebody edits the address of the open page.
        again.evaluate("location.hash = 'rules?game=coin-game&access=nonsense'")
        again.wait_for_function("document.querySelector('#board-2').checkVisibility()")
        assert set(shown_rows(again, "#board-2")) == set(LEARNERS) - {"mfos"}  # who did not play it


def test_verdicts_are_filtered(page):
    page.locator("[name=verdict]").select_option("missed")
    assert [x[:18] for x in shown_rows(page, ".claims")] == ["Statement of a-two"]
    assert page.locator("form[data-filters=claims] output").text_content() == "1 of 3 numbers"
    assert page.url.endswith("#claims?verdict=missed")
    assert page.locator("details.paper:visible").count() == 1
    page.locator("[name=verdict]").select_option("")
    assert page.locator("details.paper:visible").count() == 2


def test_sorting_sorts(page, directory):
    (means,) = tables.build(results_.load(directory), "robustness_mean", game="ipd", bold=False)
    numbers = {x: row[0].mean for x, row in zip(means.row_labels, means.cells, strict=True)}
    head = page.locator("#board-0").get_by_role("columnheader", name="mean over all met")
    for order, sign in (("descending", -1), ("ascending", 1)):
        head.get_by_role("button").press("Enter")
        assert head.get_attribute("aria-sort") == order
        assert shown_rows(page, "#board-0") == sorted(LEARNERS, key=lambda x: sign * numbers[x])


def test_what_has_no_number_comes_last_in_either_order(page):
    page.locator("form[data-filters=rules] [name=game]").select_option("coin-game")
    head = page.locator("#board-2").get_by_role("columnheader", name="self-play")
    for _ in range(2):
        head.get_by_role("button").press("Enter")
        assert shown_rows(page, "#board-2")[0] == "naive"  # only it met itself there


def test_a_number_leads_to_its_cell_and_command(page):
    number = page.locator("#game-0 table.heat").first.locator("td a").nth(1)
    cell = number.get_attribute("href")
    command = page.locator(f"{cell} pre")
    assert not command.is_visible()
    number.click()
    page.wait_for_function("document.activeElement.id.startsWith('cell-')")
    assert command.is_visible()
    assert command.text_content() == "shaping-bench encounter 'ipd' 'naive' 'lola'"
    assert page.locator(f"{cell} dt").first.text_content() == "Game"
    # Nothing lies over the button that copies it.
    page.locator(f"{cell} button", has_text="Copy").click(trial=True)
    top, height = page.evaluate("(s) => [document.querySelector(s).getBoundingClientRect().top, innerHeight]", cell)
    below_nav = page.evaluate("document.querySelector('nav').getBoundingClientRect().bottom")
    assert below_nav <= top < height
    # The same link again, after its cell has been closed by hand.
    page.evaluate("document.querySelectorAll('details[open]').forEach((x) => (x.open = false))")
    number.click()
    assert command.is_visible()


def test_an_average_leads_to_the_row_that_it_averages(page):
    link = page.locator("#board-0 tbody tr", has_text="lola").locator("td a").nth(2)
    row = page.locator(link.get_attribute("href"))
    assert row.locator("th").text_content() == "lola"
    link.click()
    assert row.evaluate("(x) => x.matches(':target') && x.getBoundingClientRect().top < innerHeight")


def focused(page):
    return page.evaluate("""() => {
        const style = getComputedStyle(document.activeElement);
        return { text: document.activeElement.textContent, inside: Boolean(document.activeElement.closest(".episode")),
                 outline: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 };
    }""")


def test_keyboard_skips_to_the_results(browser, address):
    with opened(browser, address) as page:
        assert page.locator(".skip").bounding_box()["x"] < 0
        page.keyboard.press("Tab")
        first = focused(page)
        assert first["text"] == "Skip to the results"
        assert first["outline"]
        assert page.locator(".skip").bounding_box()["x"] >= 0
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"


def status(page):
    return page.locator(".episode output").text_content()


def players(step):
    """Rows and columns of the players as stored."""
    at = {name: place for name, *place in FRAMES[step]["pieces"]}
    return [at["red"], at["blue"]]


def place(page, player):
    """Row and column of an agent, from where it is drawn."""
    x, y = page.evaluate(
        """(k) => {
            const board = document.querySelector(".episode .board");
            const matrix = new DOMMatrix(board.querySelectorAll(".player")[k].style.transform);
            return [matrix.e / board.dataset.square - 0.5, matrix.f / board.dataset.square - 0.5];
        }""",
        player - 1,
    )
    return [y, x]


def test_keyboard_reaches_operates_and_leaves_the_player(page):
    page.locator("nav a", has_text="coin-game").press("Enter")
    for _ in range(40):
        page.keyboard.press("Tab")
        if focused(page)["text"] == "Play":
            break
    at = focused(page)
    assert at["text"] == "Play"
    assert at["outline"]
    assert status(page) == "Step 0 of 3: naive 0, naive 0"
    assert [place(page, 1), place(page, 2)] == players(0)
    page.keyboard.press("ArrowRight")
    assert status(page) == "Step 1 of 3: naive +1, naive 0"
    assert [place(page, 1), place(page, 2)] == players(1)
    page.keyboard.press("End")
    assert status(page).startswith("Step 3 of 3")
    assert page.locator(".episode .paid").all_text_contents() == [": 0 in all", ": +1 in all"]
    page.keyboard.press("ArrowLeft")
    assert status(page) == "Step 2 of 3: naive \N{MINUS SIGN}2, naive +1"
    page.keyboard.press("Home")
    page.keyboard.press("Space")
    assert focused(page)["text"] == "Pause"
    page.wait_for_function("document.querySelector('.episode output').textContent.startsWith('Step 1')")
    page.keyboard.press("Space")
    assert focused(page)["text"] == "Play"
    stopped = status(page)
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.episode [data-do=play]').textContent === 'Play'")
    assert status(page).startswith("Step 3 of 3")
    assert stopped != status(page)
    for _ in range(10):
        page.keyboard.press("Tab")
        if not focused(page)["inside"]:
            break
    assert not focused(page)["inside"]


def test_episodes_are_chosen_scrubbed_and_lead_to_their_cell(page):
    episode = page.locator(".episode")
    episode.locator("select").select_option(label="naive against a <b> & c")
    assert episode.locator(".key .who").all_text_contents() == ["naive", "a <b> & c"]
    episode.locator("input[type=range]").fill("2")
    assert status(page) == "Step 2 of 3: naive \N{MINUS SIGN}2, a <b> & c +1"
    coins = page.eval_on_selector_all(
        ".episode .things .thing", "xs => xs.map((x) => [x.getAttribute('class'), x.firstChild.getAttribute('d')])"
    )
    assert [name for name, _ in coins] == ["thing ring t0", "thing diamond t1"]
    assert coins[0][1] != coins[1][1]
    episode.get_by_text("Its cell").click()
    assert page.locator(":target pre").text_content() == "shaping-bench encounter 'coin-game' 'naive' 'a <b> & c'"


def test_motion_is_reduced_on_request_and_never_crosses_the_board(page):
    moving = "getComputedStyle(document.querySelector('.episode .player')).transitionDuration"
    episode = page.locator(".episode")
    episode.locator("input[type=range]").fill("1")
    assert page.evaluate(moving) == "0.28s"
    # The last step of player 1 leaves at one edge and comes in at the other.
    torus = [[0, 2], [2, 2]]
    assert [players(2)[0], players(3)[0]] == torus
    episode.locator("input[type=range]").fill("3")
    assert page.evaluate(moving) == "0s"
    page.emulate_media(reduced_motion="reduce")
    episode.locator("input[type=range]").fill("1")
    assert page.evaluate(moving) == "0s"
    page.emulate_media(reduced_motion="no-preference")


def test_reads_without_its_script(browser, address):
    with opened(browser, address, java_script_enabled=False) as page:
        boards = page.locator("table.board")
        assert boards.count() == 3
        assert all(boards.nth(k).is_visible() for k in range(3))
        for gone in ("form.filters", ".controls", ".episode .which"):
            assert not page.locator(gone).first.is_visible()
        assert page.locator(".episode .board .player").first.is_visible()
        assert page.locator(".episode noscript").is_visible()
        number = page.locator("#game-0 table.heat").first.locator("td a").nth(1)
        number.click()
        # The browser itself opens what encloses a link's target.
        assert page.locator(f"{number.get_attribute('href')} pre").is_visible()


def test_prints_without_what_only_a_screen_can_use(page):
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert not page.locator(".controls").first.is_visible()
    assert page.locator("#board-0").is_visible()
    page.emulate_media(media="screen")
