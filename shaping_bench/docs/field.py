"""Writes ``SUITE.json``, which the page of results shows of a suite of rules: who does what to whom.

By ``shaping-bench run field -o DIR`` and ``python -m shaping_bench.docs.field DIR``, which prints every question of
``configs/findings/field.yaml`` with its answer besides, those that the numbers leave open included.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pydantic
from numpy.typing import NDArray

from shaping_bench.analysis import metagame
from shaping_bench.analysis.entries import entries
from shaping_bench.errors import BadInput
from shaping_bench.metrics import anchors
from shaping_bench.spec.configs import Strict, configs_folder, read_yaml
from shaping_bench.store.results import Results, load

FOLDER = Path(__file__).parent
DIGITS = 4
"""After the point."""

Number = Literal["own", "other", "ahead"]


class Question(Strict):
    """Something to ask of a field; ``configs/findings/field.yaml`` lists them by suite.

    Attributes:
      of: labels of rules whose numbers are averaged.
      less: of rules whose mean is taken off; none, of nothing.
      against: whom both meet: ``everybody``, ``itself``, or labels. In a list a rule's own label is left out where
        its gap to the other is asked for, which is 0 there.
      number: what the rules get, what those opposite get, or the difference.
      more, fewer: what is said if it is above nothing, and if below.
    """

    of: list[str]
    less: list[str] = pydantic.Field(default=[])
    against: Literal["everybody", "itself"] | list[str]
    number: Number = "own"
    more: str
    fewer: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What the numbers say.

    Attributes:
      text: a sentence, or None where they leave it open.
      value: difference of normalised returns, averaged over games.
      low, high: 95 % interval, over training seeds or over the preparations that they share.
      units: how many of these there are.
    """

    text: str | None
    value: float
    low: float
    high: float
    units: int


def questions(suite: str) -> list[Question]:
    """What is asked of a suite.

    Raises:
      BadInput: nothing is asked of it.
    """
    listed = read_yaml(configs_folder() / "findings" / "field.yaml", "findings 'field'")
    if suite not in listed:
        raise BadInput(f"suite {suite!r} has no questions; allowed: {', '.join(listed)}")
    return [Question.model_validate(x) for x in listed[suite]]


class Field:
    """Normalised returns of everybody opposite everybody, by game and training seed."""

    def __init__(self, frame: pd.DataFrame) -> None:
        """
        Args:
          frame: game, learner, opponent, seed, value, unit (see :mod:`shaping_bench.analysis.entries`).
        """
        self.games = list(dict.fromkeys(frame["game"]))
        self.rules = list(dict.fromkeys(frame["learner"]))
        pairs = frame.groupby(["game", "learner", "opponent"], sort=False, observed=True)
        self._values = {key: part.set_index("seed")["value"].sort_index().to_numpy() for key, part in pairs}
        self._units = {key: part.set_index("seed")["unit"].sort_index().to_numpy(int) for key, part in pairs}

    def answer(self, question: Question, confidence: float) -> Answer:
        """The answer: Student's interval over units.

        Args:
          confidence: a sentence is said only if the interval of this confidence lies on one side of nothing.
        """
        import scipy.stats  # slow to import

        own, units = self._mean(question, question.of)
        if question.less:
            less, of_less = self._mean(question, question.less)
            own, units = own - less, min(units, of_less, key=lambda x: len(np.unique(x)))
        finite = np.isfinite(own)  # seeds of which an encounter diverged say nothing
        means = np.array([own[finite & (units == k)].mean() for k in np.unique(units[finite])])
        value, error = float(means.mean()), float(means.std(ddof=1) / math.sqrt(len(means)))

        def half(share: float) -> float:
            return float(scipy.stats.t.ppf(0.5 + share / 2, len(means) - 1)) * error

        sure = abs(value) > half(confidence)
        text = (question.more if value > 0 else question.fewer) if sure else None
        return Answer(text=text, value=value, low=value - half(0.95), high=value + half(0.95), units=len(means))

    def _mean(self, question: Question, rules: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Per training seed, and the coarsest units of the encounters behind."""
        numbers, units = [], []
        for game in self.games:
            for rule in rules:
                others = self._opposite(question, rule)
                own = [self._values[game, rule, x] for x in others]
                theirs = [self._values[game, x, rule] for x in others]
                chosen = {"own": own, "other": theirs, "ahead": [a - b for a, b in zip(own, theirs, strict=True)]}
                numbers.append(np.mean(chosen[question.number], axis=0))
                units += [self._units[game, rule, x] for x in others]
        return np.mean(numbers, axis=0), min(units, key=lambda x: len(np.unique(x)))

    def _opposite(self, question: Question, rule: str) -> list[str]:
        if question.against == "itself":
            return [rule]
        listed = self.rules if question.against == "everybody" else question.against
        return [x for x in listed if question.number != "ahead" or x != rule]

    def matrix(self, game: str, number: Number) -> NDArray[np.float64]:
        """Means over seeds, a row per rule and a column per opponent."""
        own = np.array([[np.nanmean(self._values[game, a, b]) for b in self.rules] for a in self.rules])
        return own.T if number == "other" else own - own.T if number == "ahead" else own


def field_of(results: Results) -> Field:
    """The rules of a suite that all met each other and themselves, in all its games."""
    frame = entries(results, anchors.METRIC)
    met = {game: metagame.analyse(results, game) for game in results.games}
    rules = [x for x in results.labels if all(meta is not None and x in meta.rules for meta in met.values())]
    frame = frame[frame["learner"].isin(rules) & frame["opponent"].isin(rules)]
    order = {x: k for k, x in enumerate((*results.games, *rules))}
    return Field(frame.sort_values(["game", "learner"], key=lambda x: x.map(order), kind="stable"))


def answers(field: Field, asked: Sequence[Question]) -> list[Answer]:
    """One per question: sentences by intervals that Bonferroni's correction for all of them makes wider.

    Raises:
      BadInput: a rule that is asked for did not meet everybody.
    """
    for x in asked:
        named = {*x.of, *x.less, *(x.against if isinstance(x.against, list) else ())}
        if absent := sorted(named - {*field.rules}):
            raise BadInput(f"field has no {absent[0]!r}; allowed: {', '.join(field.rules)}, who all met each other")
    return [field.answer(x, 1.0 - 0.05 / len(asked)) for x in asked]


def summary(results: Results) -> dict[str, Any]:
    """All that the page shows of a field's results, as JSON."""
    field, suite = field_of(results), str(results.suite["name"])
    cells = results.cells[results.cells["kind"] == "encounter"]
    found = answers(field, questions(suite))
    records = results.records
    return {
        "suite": suite,
        "commits": sorted({x["git_commit"] for x in records}),
        "seeds": int(cells["seeds"].max()),
        "cells": len(cells),
        "rules": field.rules,
        "games": {game: _game(results, field, game) for game in field.games},
        "answers": [dataclasses.asdict(x) for x in found],
    }


def _game(results: Results, field: Field, game: str) -> dict[str, Any]:
    meta = metagame.analyse(results, game)
    assert meta is not None
    index = {x: k for k, x in enumerate(meta.rules)}
    order = [index[x] for x in field.rules]
    return {
        "scores": field.matrix(game, "own").tolist(),
        "self_play": [meta.payoffs[i, i] for i in order],
        "exploitability": [meta.exploitability[i] for i in order],
        "exploitability_ci": [meta.exploitability_ci[i].tolist() for i in order],
        "exploiter": [meta.rules[meta.exploiter[i]] for i in order],
        "alpha_rank": [meta.alpha_rank[i] for i in order],
        "alpha_rank_ci": [meta.alpha_rank_ci[i].tolist() for i in order],
        "equilibria": [
            {
                "shares": {x: s for x, s in zip(meta.rules, e.shares, strict=True) if s > 0.0},
                "payoff": e.payoff,
                "stays": e.chance,
            }
            for e in meta.equilibria
        ],
        "steps_per_seed": _steps(results, game, field.rules),
    }


def _steps(results: Results, game: str, rules: Sequence[str]) -> list[float]:
    """Environment steps of self-play, per training seed, of both seats; 0 where values are exact."""
    frame = entries(results, "environment_steps")
    frame = frame[(frame["game"] == game) & (frame["learner"] == frame["opponent"])].set_index("learner")["value"]
    seeds = {x["learners"][0]["label"]: x["seeds"] for x in _self_play(results, game)}
    return [float(frame[x]) / seeds[x] for x in rules]


def _self_play(results: Results, game: str) -> list[Mapping[str, Any]]:
    return [
        x
        for x in results.records
        if x["kind"] == "encounter"
        and x["game"]["label"] == game
        and len({seat["label"] for seat in x["learners"]}) == 1
    ]


def main() -> None:
    results = load(Path(sys.argv[1]))
    found = summary(results)
    rounded = json.loads(json.dumps(found), parse_float=lambda x: round(float(x), DIGITS) + 0.0)
    games = ",\n".join(f"{json.dumps(name)}: {json.dumps(x)}" for name, x in rounded.pop("games").items())
    head = json.dumps(rounded).removesuffix("}")
    (FOLDER / f"{found['suite']}.json").write_text(f'{head}, "games": {{\n{games}\n}}}}\n')
    for question, answer in zip(questions(found["suite"]), found["answers"], strict=True):
        said = answer["text"] or f"open: {question.more}"
        print(f"{answer['value']:+.3f} [{answer['low']:+.3f}, {answer['high']:+.3f}] {answer['units']} units  {said}")


if __name__ == "__main__":
    main()
