"""Tables over all games: the summary, the leaderboard with its ranks and comparisons, the anchors."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from shaping_bench.analysis import compare
from shaping_bench.analysis import leaderboard as leaderboard_
from shaping_bench.analysis.entries import COSTS, SUITE_METRICS, Sample, entries, metric_names, numbered, samples
from shaping_bench.metrics import anchors
from shaping_bench.publish import digits
from shaping_bench.publish.model import ABSENT, Entry, Spread, Style, Table, count, entry, plain
from shaping_bench.store.results import Results, kept

# --- the summary --------------------------------------------------------------------------


def summary(results: Results, metrics: Sequence[str] = (), spread: Spread = "std") -> Table:
    """One row per learner of the suite, best mean rank first: how it fares, and what it costs.

    Numbers are averaged over games on the games' own scales; the normalised return and the rank
    (1 is best, by the mean return in a game against an opponent, averaged over both) do not depend
    on them.

    Args:
      metrics: further metrics, averaged over games and opponents.
    """
    known = metric_names(results, "encounter")
    columns: list[tuple[str, pd.DataFrame]] = []
    if "return" in known:
        returns = entries(results, "return")
        columns.append(("self-play", returns[returns["learner"] == returns["opponent"]]))
        columns.append((anchors.METRIC, entries(results, anchors.METRIC)))
        columns += [(name, entries(results, name)) for name in SUITE_METRICS]
    shown = ("return", anchors.METRIC, *SUITE_METRICS, *COSTS)
    columns += [(name, entries(results, name)) for name in metrics if name in known and name not in shown]
    ranks = leaderboard_.mean_ranks(results) if "return" in known else {}
    learners = sorted(results.learners or results.labels, key=lambda x: ranks.get(x, math.inf))

    numbers: dict[str, list[Entry]] = {"mean rank": [plain(ranks.get(x), 1) for x in learners]} if ranks else {}
    for name, rows in columns:
        frame = numbered(rows.assign(metric=name))
        by_learner = samples(frame, "learner")
        behind = [by_learner.get(x) for x in learners]
        if not any(behind):
            continue
        decimals = digits.decimals(x.aggregate.mean for x in behind if x is not None)
        numbers[name] = [entry(x, Style(spread=spread), decimals) for x in behind]
    numbers |= _cost_columns(results, learners)
    return Table(
        title=f"{results.suite.get('name', 'suite')}: summary",
        note=(
            "averaged over games, on their own scales but for normalised_return; robustness over all opponents met, "
            "itself included; influence: opponent's return minus its return against naive; seconds per cell, "
            "evaluations and steps per seed"
        ),
        rows="learner",
        cols="",
        row_labels=tuple(learners),
        col_labels=tuple(numbers),
        cells=_rows(numbers, range(len(learners))),
    )


def _rows(columns: Mapping[str, Sequence[Entry]], order: Iterable[int]) -> tuple[tuple[Entry, ...], ...]:
    return tuple(tuple(column[k] for column in columns.values()) for k in order)


def _cost_columns(results: Results, learners: Sequence[str]) -> dict[str, list[Entry]]:
    """Wall seconds per cell, own gradient evaluations and environment steps per update, access,
    preparation, diverged."""
    seconds: dict[str, list[float]] = {x: [] for x in learners}
    evaluations: dict[str, list[float]] = {x: [] for x in learners}
    steps: dict[str, list[float]] = {x: [] for x in learners}
    diverged = dict.fromkeys(learners, 0)
    for record in results.records:
        labels = [x["label"] for x in record["learners"]]
        if record["kind"] != "encounter":
            continue
        spent = record["timings"].get("compile", 0.0) + record["timings"].get("run", 0.0)
        for label in dict.fromkeys(labels):
            if label in seconds:
                seconds[label].append(spent)
                diverged[label] += int(record.get("diverged", 0))
        costs, updates = record["costs"], record["costs"].get("updates", 0)
        for key, by_label in (("gradient_evaluations", evaluations), ("environment_steps_asked", steps)):
            counted = costs.get(key)
            if isinstance(counted, list) and updates:
                for label, total in zip(labels, counted, strict=False):
                    if label in by_label:
                        by_label[label].append(total / updates)

    def averaged(values: Mapping[str, list[float]], decimals: int) -> list[Entry]:
        return [plain(float(np.mean(values[x])) if values[x] else None, decimals) for x in learners]

    return {
        "wall seconds": averaged(seconds, 2),
        "gradient evaluations per update": averaged(evaluations, 1),
        "environment steps per update": averaged(steps, 0),
        **_described(results, learners),
        "diverged": [count(diverged[x]) for x in learners],
    }


def _described(results: Results, learners: Sequence[str], game: str | None = None) -> dict[str, list[Entry]]:
    """What learners may see of others, and what their preparations have cost in a game or in all."""
    prepared: dict[str, dict[str, Any]] = {x: {} for x in learners}
    for record in results.records:
        for x in record["learners"] if game in (None, record["game"]["label"]) else ():
            if x.get("preparation") and x["label"] in prepared:
                prepared[x["label"]][x["preparation"]["artifact"]] = x["preparation"]
    return {
        "access": [Entry(str(results.played[x].get("access") or ABSENT)) for x in learners],
        "preparation": [
            Entry(digits.preparation_cost(list(prepared[x].values())) if prepared[x] else _whether(results.played[x]))
            for x in learners
        ],
    }


def _whether(described: Mapping[str, Any]) -> str:
    return "needed" if described.get("needs_preparation") else "none"


# --- the leaderboard ----------------------------------------------------------------------


@kept
def leaderboard(results: Results, game: str | None = None, kind: str = "encounter") -> Table:
    """The suite's learners by what they get on average, best first.

    Columns are aggregates of normalised returns (:mod:`shaping_bench.metrics.anchors`) over the learner's
    tasks, a task being a game and an opponent, each with its 95 % interval by the stratified
    bootstrap: interquartile mean of all runs; mean; median over tasks of their means; optimality gap,
    what is missing to the social optimum. Then, among those who met the same opponents in the same
    games: the probability that a run returns more than one of another learner, and the mean rank.
    What learners may see of others, and what they spent before, stands beside it.

    Args:
      game: only this one; all by default.
      kind: ``"encounter"`` or ``"league"``.

    Raises:
      BadInput: an unknown name, or no game whose returns can be normalised.
    """
    field = leaderboard_.field(results, kind, game)
    size = len(field.learners)
    columns: dict[str, list[Entry]] = {}

    def column(
        points: Iterable[float], ends: Iterable[Sequence[float]], decimals: int, best: Sequence[bool] | None = None
    ) -> list[Entry]:
        return [
            _with_interval(float(x), (float(low), float(high)), decimals, behind, bool(marked))
            for x, (low, high), behind, marked in zip(points, ends, field.samples, best or [False] * size, strict=True)
        ]

    points, ends = field.aggregates
    for k, (name, (statistic, direction)) in enumerate(leaderboard_.AGGREGATES.items()):
        marks = compare.best(field.samples, statistic, direction, functools.partial(digits.number, decimals=2))
        columns[name] = column(points[:, k], ends[..., k], 2, marks)
    if size > 1:
        chances, chance_ends = field.improvement
        columns["improvement"] = column(chances, chance_ends.T, 2)
        columns["mean rank"] = column(field.ranks.mean, field.ranks.interval.T, 1)
    columns["games"] = [count(len(dict.fromkeys(task[0] for task in x.tasks))) for x in field.samples]
    columns |= _described(results, field.learners, game)
    columns["diverged"] = [count(x.diverged) for x in field.samples]
    order = sorted(range(size), key=lambda k: -_or(columns["IQM"][k].mean, -math.inf))
    scale = "0 is random play, 1 the social optimum, in constant-sum games the largest reward"
    note = (
        f"normalised returns per step ({scale}) over {field.played.shape[1]} tasks (game and opponent), with 95 % "
        "bootstrap intervals over training seeds (over preparations where seeds share several); task median: over "
        "tasks of their means; improvement: probability that a run returns more than one of another learner in the "
        "same task; mean rank: by task; bold: the best, and all that their runs in common tasks do not tell apart "
        f"from it (exchange test, Holm-corrected over all pairs, level {compare.LEVEL})"
    )
    if any(x.diverged for x in field.samples):
        note += (
            "; runs that diverged count as the least possible return, and where rewards have no bound as one as far "
            "below all that was seen as that spreads"
        )
    if not field.played.all():
        note += "; learners that met others, or in other games, are compared where they met the same"
    return Table(
        title=_title(results, game, "leaderboard") + (" (league)" if kind == "league" else ""),
        note=note,
        rows="learner",
        cols="",
        row_labels=tuple(field.learners[k] for k in order),
        col_labels=tuple(columns),
        cells=_rows(columns, order),
    )


def _title(results: Results, game: str | None, what: str) -> str:
    return f"{results.suite.get('name', 'suite') if game is None else game}: {what}"


def _or(x: float | None, otherwise: float) -> float:
    return otherwise if x is None else x


def _with_interval(x: float, ends: tuple[float, float], decimals: int, behind: Sample, best: bool) -> Entry:
    """A number that is no mean of the runs, with its interval."""
    about = Entry(
        ABSENT,
        runs=behind.aggregate.runs,
        diverged=behind.diverged,
        hashes=behind.hashes,
        best=best,
    )
    if not math.isfinite(x):
        return about
    text = digits.with_interval(x, ends, decimals)
    return dataclasses.replace(about, text=text, mean=x, ci=ends, n=behind.aggregate.n)


def rank_table(results: Results, game: str | None = None, kind: str = "encounter") -> Table:
    """How often each learner has each rank: the share of bootstrap resamples and tasks.

    Args, Raises: as :func:`leaderboard`.
    """
    field = leaderboard_.field(results, kind, game)
    order = np.argsort(field.ranks.mean, kind="stable")
    shares = field.ranks.distribution
    return Table(
        title=_title(results, game, "ranks"),
        note=(
            "share of bootstrap resamples of the seeds, and of tasks (game and opponent), in which the learner has a "
            "rank by its mean return among those who met the same; those who tie share their ranks"
        ),
        rows="learner",
        cols="rank",
        row_labels=tuple(field.learners[k] for k in order),
        col_labels=tuple(str(k + 1) for k in range(len(field.learners))),
        cells=tuple(tuple(plain(float(x) if x else None, 2) for x in shares[k]) for k in order),
    )


def improvement_table(results: Results, game: str | None = None, kind: str = "encounter") -> Table:
    """Probability of improvement of the row's learner over the column's, with its interval.

    Args, Raises: as :func:`leaderboard`.
    """
    field = leaderboard_.field(results, kind, game)
    size = len(field.learners)
    pairs = leaderboard_.pairwise_improvement(field)

    def shown(a: int, b: int) -> Entry:
        if (a, b) not in pairs:
            return Entry(ABSENT)
        pair = pairs[a, b]
        first, second = sorted((a, b))
        return Entry(
            digits.with_interval(pair.chance, pair.interval, 2),
            mean=pair.chance,
            ci=pair.interval,
            n=pair.tasks,
            runs=pair.tasks,
            hashes=tuple(dict.fromkeys([*field.samples[first].hashes, *field.samples[second].hashes])),
        )

    return Table(
        title=_title(results, game, "probability of improvement"),
        note=(
            "probability that a run of the row's learner returns more than one of the column's against the same "
            "opponent in the same game, averaged over all that both met, [95 % bootstrap interval over training "
            "seeds, of each pair on its own]; n: tasks"
        ),
        rows="learner",
        cols="over",
        row_labels=field.learners,
        col_labels=field.learners,
        cells=tuple(tuple(shown(a, b) for b in range(size)) for a in range(size)),
    )


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
