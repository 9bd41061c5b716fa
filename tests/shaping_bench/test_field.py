"""Questions to a field of rules: answers by hand, and those that are shipped against their own numbers."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from shaping_bench.docs import field as asking
from shaping_bench.errors import BadInput
from shaping_bench.spec import suite as suites

RULES = ("a", "b", "tft")
OWN = {("a", "a"): 0.5, ("a", "b"): 0.9, ("a", "tft"): 0.7, ("b", "a"): 0.1, ("b", "b"): 0.2, ("b", "tft"): 0.3}
OWN |= {("tft", "a"): 0.6, ("tft", "b"): 0.3, ("tft", "tft"): 1.0}
SHIFTS = np.array([-0.02, 0.0, 0.02, 0.04])
"""Of seeds, in rule a alone."""


def frame(units=(0, 1, 2, 3)):
    return pd.DataFrame(
        [
            dict(game=game, learner=x, opponent=y, seed=s, value=OWN[x, y] + (x == "a") * SHIFTS[s], unit=units[s])
            for game in ("ipd", "imp")
            for x in RULES
            for y in RULES
            for s in range(4)
        ]
    )


def answer(confidence=0.95, units=(0, 1, 2, 3), **asked):
    question = asking.Question(more="more", fewer="fewer", **asked)
    return asking.Field(frame(units)).answer(question, confidence)


@pytest.mark.parametrize(
    ("asked", "value"),
    [
        (dict(of=["a"], against="everybody"), (0.5 + 0.9 + 0.7) / 3 + 0.01),
        (dict(of=["a"], less=["b"], against=["tft"]), 0.7 + 0.01 - 0.3),
        (dict(of=["a"], less=["b"], against="itself"), 0.5 + 0.01 - 0.2),
        (dict(of=["a"], less=["b"], against=["tft"], number="other"), 0.6 - 0.3),
        (dict(of=["a"], against=["a", "b"], number="ahead"), 0.9 + 0.01 - 0.1),
        (dict(of=["a", "b"], against=["a", "b"], number="ahead"), 0.0),
    ],
)
def test_answers_are_those_by_hand(asked, value):
    assert answer(**asked).value == pytest.approx(value)


def test_intervals_are_students_over_seeds_or_over_the_preparations_that_they_share():
    asked = dict(of=["a"], less=["b"], against=["tft"])
    found = answer(**asked)
    half = scipy.stats.t.ppf(0.975, 3) * SHIFTS.std(ddof=1) / 2
    assert (found.low, found.high, found.units) == pytest.approx((found.value - half, found.value + half, 4))
    shared = answer(units=(0, 1, 0, 1), **asked)
    half = scipy.stats.t.ppf(0.975, 1) * np.std([0.0, 0.02], ddof=1) / np.sqrt(2)
    assert (shared.value - shared.low, shared.units) == pytest.approx((half, 2))


def test_a_sentence_is_said_only_where_the_wider_interval_supports_it():
    asked = dict(of=["a"], less=["b"], against=["tft"])
    assert answer(**asked).text == "more"
    assert answer(of=["b"], less=["a"], against=["tft"]).text == "fewer"
    assert answer(confidence=0.9999, units=(0, 1, 0, 1), **asked).text is None


def test_the_map_is_of_means():
    field = asking.Field(frame())
    own = field.matrix("ipd", "own")
    assert own[0] == pytest.approx([0.51, 0.91, 0.71])
    assert field.matrix("ipd", "other") == pytest.approx(own.T)
    assert field.matrix("ipd", "ahead") == pytest.approx(own - own.T)


def test_who_did_not_meet_everybody_is_named():
    asked = asking.Question(of=["a"], less=["lola"], against="itself", more="more", fewer="fewer")
    with pytest.raises(BadInput, match="field has no 'lola'; allowed: a, b, tft"):
        asking.answers(asking.Field(frame()), [asked])


def test_nothing_is_asked_of_other_suites():
    with pytest.raises(BadInput, match="suite 'quick' has no questions; allowed: field"):
        asking.questions("quick")


@pytest.mark.parametrize("suite", ["field", "field-sampled", "field-by-play"])
def test_questions_name_rules_of_their_suite(suite):
    cells = suites.load(suite).encounters
    known = {x.label for cell in cells for x in cell.learners}
    for question in asking.questions(suite):
        named = {*question.of, *question.less, *(question.against if isinstance(question.against, list) else ())}
        assert named <= known


@pytest.mark.parametrize("path", sorted(asking.FOLDER.glob("field*.json")), ids=lambda x: x.stem)
def test_what_is_shipped_answers_what_is_asked_by_its_own_numbers(path):
    found = json.loads(path.read_text())
    assert not any(x.endswith("-dirty") for x in found["commits"])
    at, scores = {x: k for k, x in enumerate(found["rules"])}, [np.array(x["scores"]) for x in found["games"].values()]
    asked = asking.questions(found["suite"])
    assert len(asked) == len(found["answers"])
    for question, said in zip(asked, found["answers"], strict=True):
        assert said["text"] in (question.more, question.fewer, None)
        assert said["low"] <= said["value"] <= said["high"]
        assert said["text"] is None or (said["text"] == question.more) == (said["low"] > 0.0)

        def mean(rules, question=question):
            return np.mean(
                [
                    {"own": x[i, j], "other": x[j, i], "ahead": x[i, j] - x[j, i]}[question.number]
                    for x in scores
                    for i, js in ((at[r], opposite(r, question)) for r in rules)
                    for j in js
                ]
            )

        def opposite(rule, question):
            listed = {"everybody": found["rules"], "itself": [rule]}.get(str(question.against), question.against)
            return [at[x] for x in listed if question.number != "ahead" or x != rule]

        value = mean(question.of) - (mean(question.less) if question.less else 0.0)
        assert said["value"] == pytest.approx(value, abs=2e-3)
