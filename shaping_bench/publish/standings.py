"""Tables of cards, for every format: the scores, the shares scenario by scenario, ranks, and who improves on
whom; and what normalised returns are measured by."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shaping_bench.analysis.entries import entries, metric_names
from shaping_bench.analysis.scores import COLUMNS
from shaping_bench.analysis.standing import Standing, standing
from shaping_bench.metrics import anchors
from shaping_bench.publish import digits
from shaping_bench.publish.cards import BY_GAME, Card, Row, explained, extra, extras, games_of, marks, marks_used
from shaping_bench.publish.model import ABSENT, Entry, Table, count, plain
from shaping_bench.store.results import Results


def card_tables(card: Card) -> list[Table]:
    """Everything that a card has to say, as tables."""
    tables = [card_table(card), *game_tables(card), lifetime_table(card), scenario_table(card)]
    found = standing(card.ranked)
    return [*tables, rank_table(card, found), improvement_table(card, found)] if found else tables


def card_table(card: Card) -> Table:
    """The scores of a card, the best by the track's headline first; those that lack a scenario last, without rank."""
    more = extras(card)
    spent = ("gradient evaluations", "environment steps")
    columns = ("rank", *COLUMNS, "ordinal generality", *more, "lost", "access", *spent)
    return Table(
        title=card.title,
        note=(
            "shares of returns per step (0 is random play, 1 the best known or possible, clipped to [-1, 1]); "
            f"a lost run counts as -1, with 95 % bootstrap intervals over seeds; ranked by {card.track.headline} over "
            "the same scenarios; bold: the best, and what its seeds do not tell from it (exchange test, Holm-corrected "
            "over all pairs of the column, level 0.05); costs per seed, preparations included"
            + "".join(f"; {mark}: {said}" for mark, said in marks_used(card).items())
            + "".join(f"; {name}: {explained(name)}" for name in more)
        ),
        rows="learner",
        cols="",
        row_labels=tuple(name_of(row) for row in card.rows),
        col_labels=columns,
        cells=tuple(_entries(row, more) for row in card.rows),
    )


def lacking_table(card: Card) -> Table:
    """Registered rules that have no row on a card, a line for each thing that is missing."""
    return Table(
        title=f"{card.title}: rules without a row",
        note="registered rules of which no setting has a row, and what is missing, at their defaults; "
        f"shaping-bench score RULE --track {card.track.name} --tier {card.tier} computes one",
        rows="missing",
        cols="",
        row_labels=tuple(x.why for x in card.lacking),
        col_labels=("rules",),
        cells=tuple((Entry(", ".join(x.rules)),) for x in card.lacking),
    )


def lifetime_table(card: Card) -> Table:
    """The same scores over all updates instead of the last tenth of them: what learning was worth on the way."""
    columns = tuple(card.rows[0]["lifetime"]) if card.rows else ()
    return Table(
        title=f"{card.title}: over all updates",
        note="the scores of the card, of the mean over all updates (lifetime), not over the last tenth of them; with "
        "95 % bootstrap intervals over seeds",
        rows="learner",
        cols="",
        row_labels=tuple(name_of(row) for row in card.rows),
        col_labels=columns,
        cells=tuple(tuple(score_entry(row["lifetime"][x]) for x in columns) for row in card.rows),
    )


def game_tables(card: Card) -> list[Table]:
    """Scores in one game each, where a card has several: none of one."""
    games = games_of(card.track, card.split)
    meanings = {
        "cooperation": "what a rule gets with its like: 0 random play, 1 the social optimum",
        "shaping": "what it gets from a naive learner beyond what a naive one gets there, as a share",
        "gain": "what a best response to it gets beyond what it and its like get, of the range of rewards",
    }
    outside = ", ".join(x for x, block in games.items() if block != "main")
    return [
        Table(
            title=f"{card.title}: {column} game by game",
            note=meanings[column] + (f"; in no average: {outside}" if outside else ""),
            rows="learner",
            cols="",
            row_labels=tuple(name_of(row) for row in card.rows),
            col_labels=tuple(games),
            cells=tuple(tuple(plain(row["games"][x][column], 2) for x in games) for row in card.rows),
        )
        for column in BY_GAME
        if len(games) > 1 and any(row["games"][x][column] is not None for row in card.rows for x in games)
    ]


def name_of(row: Row) -> str:
    """A rule as tables of cards call it: with the marks of its row."""
    return row["learner"] + marks(row)


def _entries(row: Row, more: Sequence[str]) -> tuple[Entry, ...]:
    cost, prepared = row["cost"], row["cost"].get("preparation", {})
    spent = (cost.get(x, 0.0) + prepared.get(x, 0.0) for x in ("gradient_evaluations", "environment_steps"))
    return (
        count(row["rank"]) if row["rank"] else Entry(ABSENT),
        *(score_entry(row[column]) for column in COLUMNS),
        score_entry(row["ordinal"]["generality"]),
        *(plain(extra(row, name), 2) for name in more),
        count(row["lost"]),
        Entry(row["access"]),
        *(plain(float(x), 0) for x in spent),
    )


def score_entry(score: Row | None) -> Entry:
    """A score with its interval."""
    if score is None or score["value"] is None:
        return Entry(ABSENT)
    ends = (score["low"], score["high"])
    if not all(map(math.isfinite, ends)):
        return dataclasses.replace(plain(score["value"], 2), best=bool(score.get("best")))
    text = digits.with_interval(score["value"], ends, 2)
    return Entry(text, mean=score["value"], ci=ends, n=1, runs=1, best=bool(score.get("best")))


def scenario_table(card: Card) -> Table:
    """Shares of every scenario, those of the ordinal games and of diagnostic ones last."""
    order = {"main": 0, "ordinal": 1, "diagnostic": 2}
    scenarios = sorted(card.track.of(card.split), key=lambda x: order[x.block])
    return Table(
        title=f"{card.title}: scenarios",
        note="share of each scenario, with its 95 % bootstrap interval over seeds; none where a scenario tells nothing "
        "apart or was not played",
        rows="scenario",
        cols="learner",
        row_labels=tuple(x.name for x in scenarios),
        col_labels=tuple(name_of(row) for row in card.rows),
        cells=tuple(tuple(score_entry(row["scenarios"][x.name]["share"]) for row in card.rows) for x in scenarios),
    )


def rank_table(card: Card, found: Standing) -> Table:
    """How often each ranked rule has each rank: the share of bootstrap resamples and scenarios."""
    shares = found.ranks.distribution
    places = [str(k + 1) for k in range(len(found.learners))]
    return Table(
        title=f"{card.title}: ranks",
        note=(
            f"mean rank by the share in each of {len(found.scenarios)} scenarios, [95 % bootstrap interval over "
            "seeds]; then the share of resamples and scenarios in which a rule has a rank; those who tie share their "
            "ranks"
        ),
        rows="learner",
        cols="rank",
        row_labels=found.learners,
        col_labels=("mean", *places),
        cells=tuple(
            (
                _between(float(found.ranks.mean[k]), _ends(found.ranks.interval, k), 1),
                *(plain(float(x) if x else None, 2) for x in shares[k]),
            )
            for k in range(len(found.learners))
        ),
    )


def improvement_table(card: Card, found: Standing) -> Table:
    """Probability of improvement of the row's rule over the others together, and over each."""
    size = len(found.learners)
    chances, ends = found.improvement
    return Table(
        title=f"{card.title}: probability of improvement",
        note=(
            "probability that a run of the row's rule has a larger share than one of another in the same scenario, "
            f"averaged over {len(found.scenarios)} scenarios, [95 % bootstrap interval over seeds, of each pair on its "
            "own]; anyone: over one of the others, drawn at random"
        ),
        rows="learner",
        cols="over",
        row_labels=found.learners,
        col_labels=("anyone", *found.learners),
        cells=tuple(
            (
                _between(float(chances[a]), _ends(ends, a)),
                *(_between(*found.pairs[a, b]) if a != b else Entry(ABSENT) for b in range(size)),
            )
            for a in range(size)
        ),
    )


def _between(x: float, ends: tuple[float, float], decimals: int = 2) -> Entry:
    return Entry(digits.with_interval(x, ends, decimals), mean=x, ci=ends, n=1, runs=1)


def _ends(of: NDArray[np.float64], k: int) -> tuple[float, float]:
    return float(of[0, k]), float(of[1, k])


def anchor_table(results: Results) -> Table:
    """The reference returns of each game and what they make of the scale."""
    columns = ("random", "naive", "best response", "social optimum", "scores 0", "scores 1", "lowest", "highest")
    rows = []
    own: dict[str, float] = {}
    if "return" in metric_names(results, "encounter"):
        returns = entries(results, "return")
        naive = [x for x in results.labels if results.played[x]["name"] == "naive"][:1]
        among_naive = returns[returns["learner"].isin(naive) & returns["opponent"].isin(naive)]
        own = among_naive.groupby("game", sort=False)["value"].mean().to_dict()
    for game in results.games:
        scale = anchors.anchors_in(results)[game]
        ends: tuple[float | None, float | None] = (None, None) if scale is None or not scale.range else scale.range
        numbers = (
            (None, own.get(game), *[None] * 6)
            if scale is None
            else (scale.random, own.get(game), scale.best_response, scale.social_optimum)
            + ((None, None) if scale.one is None else (scale.random, scale.one))
            + ends
        )
        rows.append(tuple(plain(None if x is None or not math.isfinite(x) else float(x), 3) for x in numbers))
    return Table(
        title=f"{results.suite.get('name', 'suite')}: anchors",
        note=(
            "returns per step, mean over seats; random: everybody acts uniformly at random (games of real numbers: "
            "what initial parameters get on average); naive: self-play of the naive learner in these results; best "
            "response: of one player to random others; scores 0, scores 1: the returns whose normalised score they "
            "are (1 is the social optimum, in constant-sum games the largest reward); lowest, highest: possible "
            "scores of a step"
        ),
        rows="game",
        cols="",
        row_labels=results.games,
        col_labels=columns,
        cells=tuple(rows),
        decimals=3,
    )
