"""What the shipped results say, in sentences: each with its number, its interval and a command.

A sentence stands here only if its 95 % interval supports it: a difference between two rules, or of one from
nothing, seed by seed over the same scenarios. What a sentence says depends on the sign, so that none is
written before the numbers are.
"""

import dataclasses
import shlex
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pydantic

from shaping_bench.analysis import reference
from shaping_bench.analysis.scores import Scored, Task, interval
from shaping_bench.spec.configs import Strict, configs_folder, read_yaml
from shaping_bench.spec.scenarios import Block, Tier, Track


class Question(Strict):
    """Something to ask of the numbers; ``configs/findings/TRACK.yaml`` lists them.

    Attributes:
      of: rules whose scores are averaged.
      column: of the card; or the end of scenarios' names, with a slash before it, whose shares are asked for.
      less: rules whose mean is taken off; none, of nothing.
      block: of scenarios.
      more, fewer: what is said if it is above nothing, and if below.
      known: the paper that says so of its own games, if there is one.
    """

    of: list[str]
    column: str
    less: list[str] = pydantic.Field(default=[])
    block: Block = "main"
    more: str
    fewer: str
    known: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """An answer.

    Attributes:
      text: the sentence, without its number.
      value, low, high: the number and its 95 % interval.
      command: that prints what it is from.
      known: as of the question.
    """

    text: str
    value: float
    low: float
    high: float
    command: str
    known: str


def questions(track: str) -> list[Question]:
    """What is asked of a track's results."""
    path = configs_folder() / "findings" / f"{track}.yaml"
    return [Question.model_validate(x) for x in read_yaml(path, f"findings {track!r}")] if path.is_file() else []


def findings(track: Track) -> list[Finding]:
    """What is known of a track; empty if no results are shipped.

    Of many sentences some would be luck: each stands only if the interval that Bonferroni's correction for all
    questions makes wider supports it. Its 95 % interval is what is shown.
    """
    asked = questions(track.name)
    rules = shipped_rules(track, {name for x in asked for name in (*x.of, *x.less)})
    tier = max(track.tiers, key=lambda x: track.tiers[x].seeds)
    found = (_answer(question, rules, track, tier, 0.05 / len(asked)) for question in asked)
    return [x for x in found if x is not None]


def shipped_rules(track: Track, names: Collection[str]) -> dict[str, Scored]:
    """Scores of those of the rules whose results are shipped whole."""
    known = reference.load(track)
    if known is None:
        return {}
    budget, track = Tier(**known.manifest["tier"]), track.at(known.manifest["tier_name"])
    naive = known.subject(track.naive, budget)
    scored = (
        Scored(known.subject(x, budget), naive=naive, anchors=known.anchors, track=track)
        for x in known.learners
        if x in names
    )
    return {x.subject.learner: x for x in scored if not x.missing("main")}


def _answer(question: Question, rules: Mapping[str, Scored], track: Track, tier: str, level: float) -> Finding | None:
    if not {*question.of, *question.less} <= set(rules):
        return None
    own = _mean(_tasks(question, [rules[x] for x in question.of]))
    other = _mean(_tasks(question, [rules[x] for x in question.less])) if question.less else None
    tasks = own if other is None else [Task(a.values - b.values, a.weight) for a, b in zip(own, other, strict=True)]
    units = rules[question.of[0]].units
    surely = interval(tasks, units, confidence=1.0 - level)
    text = question.more if surely["low"] > 0.0 else question.fewer if surely["high"] < 0.0 else None
    if text is None:
        return None
    learners = shlex.join([*question.of, *question.less])
    return Finding(
        text=text,
        **interval(tasks, units),
        command=f"shaping-bench score {learners} --alone --track {track.name} --tier {tier} --json",
        known=question.known,
    )


def _tasks(question: Question, rules: Sequence[Scored]) -> list[list[Task]]:
    """Of each rule the same tasks."""
    if not question.column.startswith("/"):
        return [x.tasks(question.column, question.block) for x in rules]
    chosen = [x for x in rules[0].scenarios(question.block) if x.name.endswith(question.column)]
    return [[Task(rule.shares_of(x), 1.0 / len(chosen)) for x in chosen] for rule in rules]


def _mean(of_rules: Sequence[Sequence[Task]]) -> list[Task]:
    return [Task(np.mean([x.values for x in same], axis=0), same[0].weight) for same in zip(*of_rules, strict=True)]
