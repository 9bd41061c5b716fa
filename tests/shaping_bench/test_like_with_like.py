"""A suite of rules over different scenarios, tiers and tracks: what a run prints, its tables and its page, and that
nothing ranks rules together that were not asked the same."""

import dataclasses
import html
import json
import re

import pytest
import yaml

from shaping_bench.cli import main
from shaping_bench.errors import BadInput
from shaping_bench.publish import report
from shaping_bench.publish.cards import MAX_LINES, MAX_WIDTH, cards_beside, cards_in
from shaping_bench.publish.model import ABSENT
from shaping_bench.publish.standings import name_of
from shaping_bench.spec import scenarios, suite
from shaping_bench.store import results as results_

ASKED = [
    {"name": "self", "family": "self", "about": "itself", "games": ["ipd"]},
    {"name": "unseen", "family": "unseen-learners", "about": "others", "background": "drawn-naive", "games": ["ipd"]},
]
TRACK = {
    "view": "exact",
    "naive": "naive",
    "random": "random",
    "steps": 10,
    "record_every": 5,
    "tiers": {"quick": {"seeds": 6}, "standard": {"seeds": 8}},
    "games": {"ipd": {}, "stag-hunt": {}},
}
TRACKS = {
    "exact": {**TRACK, "track": "exact", "scenarios": ASKED},
    "sampled": {**TRACK, "track": "sampled", "scenarios": [{**x, "games": ["stag-hunt"]} for x in ASKED]},
}
RULES = {"exact quick": "naive(lr=0.5)", "exact standard": "naive(lr=0.7)", "sampled quick": "naive(lr=2.0)"}
"""One more rule per card. They are alike so that there is little to compile."""
SUITE = {
    "name": "unlike",
    "games": ["ipd", {"game": "stag-hunt", "learners": ["naive(lr=0.3)"], "lineups": [["naive(lr=0.3)"] * 2]}],
    "learners": ["naive", "naive(lr=0.1)"],
    "lineups": [["naive", "naive"], ["naive(lr=0.1)", "naive"]],
    "seeds": 4,
    "steps": 10,
    "record_every": 5,
    "cards": [
        {"track": track, "tier": tier, "learners": [rule]}
        for (track, tier), rule in ((key.split(), rule) for key, rule in RULES.items())
    ],
}
TOGETHER = {tuple(key.split()): {rule, "naive", "random"} for key, rule in RULES.items()}
RANKING = ("rank", "mean rank", "IQM", "improvement", "anyone")
"""Headings of columns that say who is better than whom over several scenarios."""


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    """Two small tracks, of which no results are shipped."""
    folder = tmp_path_factory.mktemp("tracks")
    own = {name: folder / f"{name}.yaml" for name in TRACKS}
    paths = {**scenarios.track_names(), **own}  # of the others there are shipped cards
    for name, path in own.items():
        path.write_text(yaml.safe_dump(TRACKS[name]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenarios, "track_names", lambda: paths)
        scenarios.load_track.cache_clear()
        yield paths
    scenarios.load_track.cache_clear()


@pytest.fixture(scope="module")
def ran(tracks, tmp_path_factory):
    """The directory of the suite above."""
    folder = tmp_path_factory.mktemp("unlike")
    (folder / "unlike.yaml").write_text(yaml.safe_dump(SUITE))
    assert main(["run", str(folder / "unlike.yaml"), "-o", str(folder / "out"), "--wandb", "disabled"]) == 0
    return folder / "out"


def tables_of(text):
    """Headings, and of each row its label and entries, of every table of a page."""
    found = []
    for table in re.findall(r"<table.*?</table>", text, flags=re.DOTALL):
        plain = [[html.unescape(re.sub(r"<[^>]*>", "", x)).strip() for x in re.findall(r"<t[hd].*?</t[hd]>", row)]
                 for row in re.findall(r"<tr.*?</tr>", table, flags=re.DOTALL)]  # fmt: skip
        found.append((plain[0][1:], {row[0]: row[1:] for row in plain[1:]}))
    return found


def ranked_together(heads, rows):
    """Who has an entry in a column that ranks; None where no column does."""
    columns = [k for k, head in enumerate(heads) if head in RANKING]
    ranked = {label for label, row in rows.items() if any(row[k] not in ("", ABSENT) for k in columns)}
    return ranked if columns else None


def test_a_run_prints_its_cards_what_is_missing_and_where_the_rest_is(ran, tracks, capsys):
    assert main(["run", str(ran.parent / "unlike.yaml"), "-o", str(ran), "--wandb", "disabled"]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert len(lines) + len(said.err.splitlines()) < MAX_LINES
    assert max(len(line.replace(str(ran), "results")) for line in lines) <= MAX_WIDTH
    assert "more rows" not in said.out
    assert sum("tier, " in line for line in lines) == len(SUITE["cards"])
    (beside,) = (line for line in lines if line.startswith("not in this suite, rows on the page: "))
    assert "deep" in beside.partition(": ")[2].partition(";")[0].split(", ")
    assert beside.endswith("; score RULE --track TRACK")
    assert str(ran / "report.html") in said.out
    assert f"shaping-bench table {ran} --cards" in said.out


def test_cards_are_of_the_cells_that_are_stored(ran):
    results = results_.load(ran)
    assert {x["game"]["label"] for x in results.records} == {"ipd", "stag-hunt"}
    assert {x["game"]["label"].partition("/")[2] for x in results.card_records} == {"self", "unseen"}
    stored = {record["hash"] for record in results.whole.records}
    cards = cards_in(results)
    assert {(x.track.name, x.tier): {row["learner"] for row in x.rows} for x in cards} == TOGETHER
    for card in cards:
        assert [row["rank"] for row in card.rows] == [1, 2, 3]
        for row in card.rows:
            assert row["origin"] == str(ran)
            assert all(x["cells"] and stored.issuperset(x["cells"]) for x in row["scenarios"].values())


def printed(directory, capsys, *options):
    assert main(["table", str(directory), "--format", "json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_no_table_of_cards_ranks_rules_of_other_scenarios_tiers_or_tracks(ran, capsys):
    tables = printed(ran, capsys, "--cards")
    assert len(tables) == 5 * len(TOGETHER)
    for table in tables:
        (own,) = [x for (track, tier), x in TOGETHER.items() if table["title"].startswith(f"{track} track, {tier}")]
        shown = {*table["row_labels"], *table["col_labels"]}
        assert shown & set.union(*TOGETHER.values()) <= own


@pytest.mark.parametrize("options", [[], ["--cols", "game"], ["--metric", "robustness_mean", "--cols", "game"]])
def test_no_other_table_ranks(ran, capsys, options):
    for table in printed(ran, capsys, *options):
        assert not set(RANKING) & set(table["col_labels"])
        best = {
            (label, column)
            for label, row in zip(table["row_labels"], table["cells"], strict=True)
            for column, cell in zip(table["col_labels"], row, strict=True)
            if cell["best"]
        }
        if options:  # one met itself, the other did not
            assert "ipd" not in {column for _, column in best}


def test_no_table_of_the_page_does_and_it_opens_with_the_cards(ran):
    results = results_.load(ran)
    page = report.render_page(results)
    assert page.index('<section id="cards"') < page.index('<section id="beside"') < page.index('<section id="rules"')
    rankings = [x for heads, rows in tables_of(page) if (x := ranked_together(heads, rows)) is not None]
    assert len(rankings) >= 2 * len(TOGETHER)
    # Tracks that the suite does not ask for stand beside them, each of their tiers in a table of its own.
    beside = {(card.track.name, card.tier): {name_of(row) for row in card.rows} for card in cards_beside(results)}
    assert {("deep", "quick"), ("deep", "standard")} <= set(beside)
    assert not {"exact", "sampled"} & {track for track, _ in beside}
    assert all(own in rankings for own in beside.values())
    assert all(any(x <= own for own in (*TOGETHER.values(), *beside.values())) for x in rankings)
    # A picture per rule and card, which leads to its scenarios and cells.
    links = re.findall(r'<figure><a href="#(card-\d-\d)" aria-label="Scores of', page)
    assert len(links) == len(set(links)) == sum(map(len, TOGETHER.values()))
    for link in links:
        (inside,) = re.findall(rf'<div id="{link}".*?</details>', page, flags=re.DOTALL)
        assert "shaping-bench encounter ipd" in inside or "shaping-bench encounter stag-hunt" in inside


def test_who_lacks_a_scenario_is_not_ranked(ran):
    results = results_.load(ran)
    left = tuple(
        x
        for x in results.card_records
        if (x["game"]["label"], x["learners"][0]["label"]) != ("stag-hunt/unseen", "naive(lr=2.0)")
    )
    card = cards_in(dataclasses.replace(results, card_records=left, memory={}))[-1]
    assert [(row["learner"], row["rank"]) for row in card.rows][-1] == ("naive(lr=2.0)", None)
    assert card.rows[-1]["missing"] == ["stag-hunt/unseen"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"track": "exakt", "learners": ["sga"]}, r"suite.cards.0.track is 'exakt'.*exact"),
        ({"track": "exact", "tier": "paper", "learners": ["sga"]}, r"suite.cards.0.tier.*'paper'.*quick"),
        ({"track": "exact", "learners": ["sgd"]}, r"suite.cards.0.learners is 'sgd'"),
        ({"track": "exact", "learners": ["ppo"]}, r"suite.cards.0.learners 'ppo' plays the views \['sampled'\]"),
        ({"track": "exact", "learners": []}, r"suite.cards.0.learners is \[\]"),
    ],
)
def test_what_is_wrong_with_a_card_is_said(tracks, entry, said):
    with pytest.raises(BadInput, match=said):
        suite.expand(suite.validate({**SUITE, "games": ["ipd"], "cards": [entry]}))


def test_a_suite_without_cards_is_written_as_it_was():
    assert "cards" not in suite.resolve({"name": "x", "games": ["ipd"], "learners": ["naive"]})
