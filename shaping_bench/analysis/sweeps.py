"""Sweeps over hyperparameters: read back from stored results, and written for W&B to search.

A suite sweeps by writing lists, ``naive(lr=[0.1, 1, 10])``; every value is a cell of its own.
:func:`series` brings cells that differ in one number only together again, as the curve of a
metric over that number. :func:`wandb_sweep` describes a search that ``wandb sweep`` and
``wandb agent`` carry out, one encounter per run.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from shaping_bench.analysis import stats
from shaping_bench.errors import BadInput, unknown
from shaping_bench.metrics import METRICS
from shaping_bench.spec import registry
from shaping_bench.spec.calls import parse_call
from shaping_bench.spec.registry import Named, with_settings
from shaping_bench.store import facts
from shaping_bench.store.results import Results, kept

LEAST_POINTS = 3
"""Values that make a sweep; two are a comparison."""

RESAMPLES = 1000
"""Of the bootstrap, per point."""

ASSUMED = {"lr": "lookahead_lr", "batch_size": "batch_size"}
"""Hyperparameter by which a rule that looks ahead assumes its opponent's: the step, and, where it
imagines play, the batch. No rule assumes an optimiser other than plain gradient steps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """A metric of one learner along the values of one hyperparameter.

    Attributes:
      game: label of the game.
      learner: label of whose metric it is, without the swept number if that is its own.
      opponent: likewise of the other players; the learner's own in self-play.
      swept: whose hyperparameter differs: the learner's, the opponent's, or in self-play both.
      hyperparameter: its name.
      metric: name of the metric.
      x: its values, ascending, ``(P,)``.
      mean: of the metric over the seeds that did not diverge; NaN where all did, ``(P,)``.
      low, high: 95 % percentile interval of the mean by the stratified bootstrap over seeds.
      n: seeds that did not diverge, in all cells of a point.
      diverged: seeds that did.
      assumed: the value that the learner takes the opponent to have; None where it takes none.
      hashes: per point the cells behind it.
    """

    game: str
    learner: str
    opponent: str
    swept: Literal["learner", "opponent", "both"]
    hyperparameter: str
    metric: str
    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: tuple[int, ...]
    diverged: tuple[int, ...]
    assumed: float | None
    hashes: tuple[tuple[str, ...], ...]


@kept
def series(results: Results, metric: str = "return") -> list[Series]:
    """Every sweep of the suite's learners in stored encounters, in the suite's order.

    A sweep is three or more cells that differ in nothing but one number: of the learner, of its
    opponents (who then play alike), or of both in self-play. Where a pair met in both orders of
    seats, a point is the mean over the two.

    Args:
      results: a results directory.
      metric: a final metric.

    Raises:
      BadInput: no encounter has stored that metric.
    """
    stored = results.final_metrics("encounter")
    if metric not in stored:
        raise BadInput(f"metric is {metric!r}, which no encounter has stored; allowed: {', '.join(stored)}")
    # Per sweep and value: the cells, and where the learner sat in them.
    seats: dict[_Sweep, dict[float, dict[str, list[int]]]] = {}
    for record in results.records:
        for player, learner in enumerate(record["learners"]):
            if record["kind"] == "encounter" and learner["label"] in results.learners:
                for sweep, x in _sweeps(record, player):
                    seats.setdefault(sweep, {}).setdefault(x, {}).setdefault(record["hash"], []).append(player + 1)
    final = results.final(metric, "encounter")
    values, groups = final["value"].to_numpy(float), final.groupby(["hash", "player"], observed=True)
    runs = {key: values[rows] for key, rows in groups.indices.items()}
    curves = [_measured(sweep, metric, points, runs) for sweep, points in seats.items() if len(points) >= LEAST_POINTS]
    rank = {game: k for k, game in enumerate(results.games)}, {label: k for k, label in enumerate(results.learners)}
    return sorted(curves, key=lambda s: (rank[0][s.game], rank[1].get(s.learner, len(rank[1])), s.learner, s.opponent))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sweep:
    """What the cells of a sweep have in common."""

    game: str
    learner: str
    opponent: str
    swept: Literal["learner", "opponent", "both"]
    hyperparameter: str
    assumed: float | None
    rest: str
    """All other numbers of the players and of the protocol."""


def _sweeps(record: Mapping[str, Any], player: int) -> Iterator[tuple[_Sweep, float]]:
    """The sweeps that an encounter may be a point of, seen from one seat, and its value in each."""
    own = record["learners"][player]
    others = [x for j, x in enumerate(record["learners"]) if j != player]
    if any((x["label"], x["hyperparameters"]) != (others[0]["label"], others[0]["hyperparameters"]) for x in others):
        return
    alike = own["label"] == others[0]["label"]
    sides: list[Literal["learner", "opponent", "both"]] = ["both"] if alike else ["learner", "opponent"]
    for swept in sides:
        source = others[0] if swept == "opponent" else own
        for name, x in source["hyperparameters"].items():
            if isinstance(x, bool) or not isinstance(x, int | float):
                continue
            fixed = [
                {k: v for k, v in y["hyperparameters"].items() if k != name or swept not in (side, "both")}
                for side, y in (("learner", own), ("opponent", others[0]))
            ]
            protocol = [record.get(key) for key in ("seeds", "seed", "steps", "precision")]
            sweep = _Sweep(
                game=record["game"]["label"],
                learner=own["label"] if swept == "opponent" else facts.without(own, name),
                opponent=others[0]["label"] if swept == "learner" else facts.without(others[0], name),
                swept=swept,
                hyperparameter=name,
                assumed=None if swept == "learner" else _assumed(own["hyperparameters"], name),
                rest=json.dumps([own["name"], others[0]["name"], fixed, protocol], sort_keys=True),
            )
            yield sweep, float(x)


def _assumed(own: Mapping[str, Any], name: str) -> float | None:
    """What a learner with these hyperparameters takes its opponent's ``name`` to be."""
    value = own.get(ASSUMED.get(name, "")) if "lookahead_lr" in own else None
    return None if value is None else float(value)


def _measured(
    sweep: _Sweep,
    metric: str,
    points: Mapping[float, Mapping[str, Sequence[int]]],
    runs: Mapping[tuple[str, int], np.ndarray],
) -> Series:
    x = sorted(points)
    means, ends, n, lost = [], [], [], []
    for value in x:
        # A task per cell; a seed that sat in both seats counts once, with its mean.
        tasks = [np.mean([runs[cell, seat] for seat in seats], axis=0) for cell, seats in points[value].items()]
        finite = [task[np.isfinite(task)] for task in tasks]
        strata = [task for task in finite if len(task)]
        means.append(float(stats.mean(strata)))
        ends.append(stats.bootstrap_interval(stats.mean, strata, reps=RESAMPLES) if strata else (np.nan, np.nan))
        n.append(sum(map(len, finite)))
        lost.append(sum(map(len, tasks)) - n[-1])
    return Series(
        game=sweep.game,
        learner=sweep.learner,
        opponent=sweep.opponent,
        swept=sweep.swept,
        hyperparameter=sweep.hyperparameter,
        metric=metric,
        x=tuple(x),
        mean=tuple(means),
        low=tuple(low for low, _ in ends),
        high=tuple(high for _, high in ends),
        n=tuple(n),
        diverged=tuple(lost),
        assumed=sweep.assumed,
        hashes=tuple(tuple(points[value]) for value in x),
    )


# --- sweeps by W&B ------------------------------------------------------------------------

METHODS = ("bayes", "random", "grid")
"""How W&B chooses the next values."""


def wandb_sweep(
    game: str,
    learner: str,
    opponents: Sequence[str],
    over: Sequence[str],
    *,
    method: str = "bayes",
    metric: str = "return",
    goal: str | None = None,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """What ``wandb sweep FILE`` reads: a search over the first player's hyperparameters.

    Each run of ``wandb agent`` is one ``shaping-bench encounter`` with ``--set``, which logs
    the metric's mean over seeds in seat 1.

    Args:
      game, learner, opponents: as ``shaping-bench encounter`` takes them.
      over: ``NAME=LOW:HIGH``, ``NAME=log:LOW:HIGH``, ``NAME=V1,V2,...``, or ``NAME`` alone: its
        choices, its allowed range, or around its default.
      method: one of :data:`METHODS`.
      metric: of the encounter.
      goal: ``"maximize"`` or ``"minimize"``; by default what is better for the metric.
      options: further words of the encounter's command.

    Raises:
      BadInput: anything that the encounter would refuse, said before W&B is asked.
    """
    if method not in METHODS:
        raise unknown("--method", method, METHODS)
    if goal not in (None, "maximize", "minimize"):
        raise unknown("--goal", goal, ("maximize", "minimize"))
    played = registry.make_game(game)
    named = registry.make_learner(learner, game=played.name)
    others = [registry.make_learner(text, game=played.name) for text in opponents]
    registry.check_encounter(played, [named, *others] if others else [named] * played.value.n_players)
    measured = [x.name for x in METRICS.values() if x.level in ("policy", "play", "report") and x.applies(played.value)]
    if metric not in measured:
        raise unknown("--metric", metric, measured)
    direction = METRICS[metric].direction
    if goal is None and direction == "none":
        raise BadInput(f"metric {metric!r} has no better direction; allowed: with --goal maximize or minimize")
    if not over:
        raise BadInput(
            f"--over is empty; allowed: hyperparameters of {named.name!r}: {', '.join(named.hyperparameters)}"
        )
    parameters = {}
    for text in over:
        name, equals, spec = text.partition("=")
        if name not in named.hyperparameters:
            raise unknown(f"hyperparameter of --over for {named.name!r}", name, named.hyperparameters)
        parameters[name] = _searched(named, name, spec) if equals else _declared(named, name)
        values = parameters[name].get("values", [parameters[name].get("min"), parameters[name].get("max")])
        if method == "grid" and "values" not in parameters[name]:
            raise BadInput(
                f"--over {text} is a range, which method 'grid' cannot go through; allowed: {name}=V1,V2,..."
            )
        for value in values:  # what the encounter would refuse, W&B must not propose
            with_settings(learner, [f"{name}={value}"], played.name)
    return {
        "name": f"{played.text}: {named.text}" + "".join(f" vs {x.text}" for x in others),
        "program": "shaping-bench",
        "method": method,
        "metric": {
            "name": f"final/{metric}/player_1",
            "goal": goal or ("maximize" if direction == "higher" else "minimize"),
        },
        "parameters": parameters,
        "command": [
            *("${env}", "${program}", "encounter", game, learner, *opponents, *options),
            *("--wandb", "online", "--set", "${args_no_hyphens}"),
        ],
    }


def _searched(named: Named, name: str, spec: str) -> dict[str, Any]:
    """Of ``log:LOW:HIGH``, ``LOW:HIGH`` or ``V1,V2,...``."""
    complaint = BadInput(
        f"--over {name} is {spec!r}; allowed: LOW:HIGH, log:LOW:HIGH with 0 < LOW, or values V1,V2,..., with LOW < HIGH"
    )
    logarithmic = spec.startswith("log:")
    ends = spec.removeprefix("log:").split(":")
    if len(ends) == 1 and not logarithmic:
        return {"values": [parse_call(f"x(v={x})", f"--over {name}")[1]["v"] for x in spec.split(",")]}
    try:
        low, high = (float(x) for x in ends)
    except ValueError:
        raise complaint from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high) or (logarithmic and low <= 0):
        raise complaint
    whole = isinstance(named.hyperparameters[name], int) and not isinstance(named.hyperparameters[name], bool)
    if whole and (logarithmic or not (low.is_integer() and high.is_integer())):
        raise BadInput(f"--over {name} is {spec!r}; allowed for a whole number: LOW:HIGH of whole numbers, or values")
    if whole:
        return {"distribution": "int_uniform", "min": int(low), "max": int(high)}
    return {"distribution": "log_uniform_values" if logarithmic else "uniform", "min": low, "max": high}


def _declared(named: Named, name: str) -> dict[str, Any]:
    """What the field itself says: its choices, its range, or a decade to either side of its value."""
    field = next(f for f in dataclasses.fields(named.value) if f.name == name)
    value, meta = named.hyperparameters[name], field.metadata
    if meta.get("choices"):
        return {"values": list(meta["choices"])}
    if isinstance(value, bool):
        return {"values": [True, False]}
    low, high = meta.get("low"), meta.get("high")
    if isinstance(value, int) and value > 0:
        least, most = max(low or 1, value // 2), value * 2
        return {"distribution": "int_uniform", "min": least, "max": most if high is None else min(most, int(high))}
    if isinstance(value, float) and low is not None and high is not None and not meta.get("exclusive"):
        return {"distribution": "uniform", "min": float(low), "max": float(high)}
    if isinstance(value, float) and value > 0:
        ends = (max(value / 10, low or 0.0), value * 10 if high is None else min(value * 10, high))
        if ends[0] > 0 and not (meta.get("exclusive") and ends[1] == high):
            return {"distribution": "log_uniform_values", "min": ends[0], "max": ends[1]}
    raise BadInput(f"--over {name} has no range of its own at {value!r}; allowed: {name}=LOW:HIGH or {name}=V1,V2,...")
