"""Scores of a card: runs of scenarios, the anchors that shares are measured by, and what they average to.

``share(x) = (x - low) / (high - low)`` on returns per step, or on what else a track measures by, of every scenario
and member:

================  ========================================  =============================================
family            ``high``                                  ``x``
================  ========================================  =============================================
self              the social optimum                        mean over the seats
learners,         the best known return of any rule there   the subject's return
unseen-learners,
shapers
frozen            the exact best response's return          the subject's return
adversary         what the best of the pure memory-one      what the subject's policy of self-play keeps
                  policies keeps, or random play            against its exact best response
rational          that of ``adversary``                     the same against the scenario's background, who
                                                            was trained against it
================  ========================================  =============================================

``low`` is what random play gets in the very scenario: in the subject's seat, among this background. (What
it gets where everybody plays at random may be more than a best response gets here, from a defector say.)
In constant-sum games nothing keeps more from an adversary than random play: there that is ``high``, and
``low`` is the least reward.

What a best response gets differs from seed to seed of a frozen background, and may be worth nothing
against one of them; so a run's share is what it loses to the best response of its seed, over what best
responses are worth on average: ``1 - (high_s - x) / mean(high - low)``.

Where policies are networks no best response is exact. There ``high`` of ``frozen`` is the best known return of
any rule as well, and so is that of ``adversary``, of what policies keep against the stronger of those who were
trained against them. Of games of which nobody knows the social optimum, ``high`` of ``self`` is the best known mean.

A share of a scenario is the mean over seeds, clipped to [-1, 1]; a lost run, whose policy or partner's is
not finite, counts as -1. Scenarios weigh the same, and so do the members of one. Those in which random
play loses less than :data:`FLAT` of the range of rewards to the best tell nothing apart, and are left out.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from shaping_bench.analysis import stats
from shaping_bench.errors import BadInput
from shaping_bench.games.anchors import SATURATED_LOGIT
from shaping_bench.metrics.curves import TAIL, long_enough
from shaping_bench.spec import coplayers, registry
from shaping_bench.spec.scenarios import HELD_OUT, Scenario, Track
from shaping_bench.spec.suite import Cell
from shaping_bench.store import facts
from shaping_bench.store.results import Results

COLUMNS = ("cooperation", "shaping", "generality", "adaptation", "safety", "effect")
"""Scores of a card, in its order."""

FLAT = 0.05
"""Least share of the range of rewards that anchors must be apart."""

BEATS = 0.005
"""Share of that range by which a mean return, less two of its standard errors, must exceed the best known one to
be told."""

LEVEL = 0.05
"""Of the tests behind marks, after correction for their number in a column."""

EXCHANGES = 2**16
"""Of these tests: with 16 seeds all that there are."""

INEXACT = "its policies are networks: no best response to them is exact"
"""Why a scenario is missing."""

COSTS = ("gradient_evaluations", "environment_steps", "seconds")
"""What is counted of computing a card."""

KEYS = ["scenario", "member", "seed"]
NUMBERS = ["own", "own_lifetime", "other", "other_lifetime", "best", "basin"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Anchor:
    """What shares in a member of a scenario are measured by.

    Attributes:
      low, high: returns per step of share 0 and 1.
      spread: largest less smallest reward of a step, or what the track's file says instead.
      by: whose return ``high`` is, where it is the best known one.
    """

    low: float
    high: float
    spread: float
    by: str | None = None

    @property
    def flat(self) -> bool:
        return not self.high - self.low >= FLAT * self.spread


Anchors = Mapping[tuple[str, str], Anchor]
"""By scenario and member."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A rule and all that its card is made of.

    Attributes:
      learner: as one writes it.
      runs: one row per scenario, member and seed: ``own`` and ``other`` return at the end (mean over the
        last tenth of the updates), the same over all updates, what a best response would get (``best``,
        of frozen backgrounds), whether it ended payoff-dominant (``basin``, from grids of starts),
        ``lost``, ``unit`` (what a bootstrap draws as one) and the ``cell``.
      access: of the rule.
      costs: of all that was computed for its card, per seed, by game.
      absent: scenario to why it is missing.
      origin: where its runs were read.
      trained: by scenario, of an adversary that was trained: the share of seeds in which each responder was the
        stronger, updates and environment steps of all of them, and whether that was ``enough``
        (:func:`shaping_bench.metrics.curves.long_enough`).
      told: by scenario, of metrics that the track's card tells besides, the mean at the end over seeds and members:
        of the subject's seats and of the others.
    """

    learner: str
    runs: pd.DataFrame
    access: str
    costs: Mapping[str, Mapping[str, float]]
    absent: Mapping[str, str]
    origin: str
    trained: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    told: Mapping[str, Mapping[str, Mapping[str, float]]] = dataclasses.field(default_factory=dict)

    def cost(self, track: Track) -> dict[str, Any]:
        """Per seed, of the track's main block: what its seat asked for, and its preparations apart."""
        games = {x.game for x in track.scenarios if x.block == "main"}
        own = [x for game, x in self.costs.items() if game in games]
        return {name: sum(x[name] for x in own) for name in COSTS} | {
            "preparation": {name: sum(x[f"preparation_{name}"] for x in own) for name in COSTS}
        }


# --- from cells to runs -------------------------------------------------------------------


def subject_of(
    results: Results,
    track: Track,
    learner: str,
    cells: Mapping[tuple[str, str], Cell | str],
    split: str = "test",
    responses: Mapping[tuple[str, str], Sequence[Cell]] | None = None,
) -> Subject:
    """What a results directory says of a subject.

    Args:
      results: of the suite of its card.
      track: whose scenarios.
      learner: the subject.
      cells: see :func:`shaping_bench.spec.scenarios.card_cells`.
      split: of the card.
      responses: see :func:`shaping_bench.spec.scenarios.card_responses`.
    """
    records = {record["hash"]: record for record in results.records}
    wanted = {key: cell.hash for key, cell in cells.items() if not isinstance(cell, str)}
    answers = {key: [cell.hash for cell in several] for key, several in (responses or {}).items()}
    read = dict.fromkeys(itertools.chain(wanted.values(), *answers.values()))
    stored = _Stored(results, tuple(x for x in read if x in records), track)
    scenarios = {x.name: x for x in track.of(split)}
    rows: list[Rows] = []
    absent: dict[str, str] = {}
    for key, cell in cells.items():
        if key in wanted and wanted[key] in records:
            if scenarios[key[0]].family == "frozen" and not (track.responders or stored.exact(wanted[key])):
                absent.setdefault(key[0], INEXACT)
                continue
            rows.append(stored.runs(scenarios[key[0]], key[1], wanted[key], records[wanted[key]]))
        else:
            absent.setdefault(key[0], cell if isinstance(cell, str) else "not computed")
    trained: dict[str, dict[str, Any]] = {}
    for scenario in scenarios.values():
        if not scenario.projected:
            continue
        if scenario.background is not None:
            for member in scenario.members:
                several = answers.get((scenario.name, member), [])
                rows += [stored.faced(scenario, member, x, records[x]) for x in several if x in records]
                if not all(x in records for x in several or [""]):
                    why = "not computed" if several else "it cannot meet the subject's policies"
                    absent[scenario.name] = absent.get(f"{scenario.game}/self", why)
            continue
        if track.responders:
            for member in scenario.members:
                several = answers.get((scenario.name, member), [])
                if several and all(x in records for x in several):
                    answered, trained[scenario.name] = stored.answered(scenario, member, several, records)
                    rows.append(answered)
                else:
                    absent[scenario.name] = absent.get(f"{scenario.game}/self", "not computed")
            continue
        own = f"{scenario.game}/self"
        absent |= {scenario.name: absent[own]} if own in absent else {}
        for (name, member), found in wanted.items():
            if name == own and found in records and not stored.exact(found):
                absent[scenario.name] = INEXACT
            elif name == own and found in records:
                rows += stored.kept(scenario, member, found, records[found])
    played: dict[str, dict[str, Mapping[str, Any]]] = {}
    for (name, _), found in wanted.items():
        if found in records and scenarios[name].block == "main":
            played.setdefault(scenarios[name].game, {})[found] = records[found]
    first = next((record for own in played.values() for record in own.values()), None)
    return Subject(
        learner=learner,
        runs=_frame(rows),
        access="unknown" if first is None else str(first["learners"][0]["access"]),
        costs={game: _cost(list(own.values())) for game, own in played.items()},
        absent=absent,
        origin=str(results.directory),
        trained=trained,
        told=_told(results, track, {key: found for key, found in wanted.items() if found in records}, scenarios),
    )


def _told(
    results: Results, track: Track, found: Mapping[tuple[str, str], str], scenarios: Mapping[str, Scenario]
) -> dict[str, dict[str, dict[str, float]]]:
    """See :attr:`Subject.told`; of scenarios that have the metric."""
    told: dict[str, dict[str, dict[str, float]]] = {}
    for metric in track.told:
        curves = _curves(results, metric, tuple(dict.fromkeys(found.values())))
        means: dict[str, list[tuple[float, float]]] = {}
        for (name, _), key in found.items():
            if key in curves:
                final, _ = _returns(*curves[key])
                own, others = scenarios[name].sides(final.shape[1])
                means.setdefault(name, []).append(tuple(float(np.nanmean(final[:, x])) for x in (own, others)))  # type: ignore[arg-type]
        for name, pairs in means.items():
            mine, theirs = (sum(x) / len(x) for x in zip(*pairs, strict=True))
            told.setdefault(name, {})[metric] = {"own": mine, "others": theirs}
    return told


def without_runs(track: Track, learner: str, why: str, split: str = "test") -> Subject:
    """A subject of which nothing is stored.

    Args:
      track, learner, split: as of :func:`subject_of`.
      why: what is told of every scenario.
    """
    return Subject(
        learner=learner,
        runs=_frame([]),
        access=str(registry.make_learner(learner).value.access),
        costs={},
        absent={x.name: why for x in track.of(split)},
        origin="nothing",
    )


Rows = Mapping[str, np.ndarray]
"""Some runs, a column each."""


def _curves(results: Results, metric: str, hashes: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By cell the recorded updates, and a metric there, ``(S, R, n_players)``."""
    curves = results.curve(metric, hashes) if hashes else None
    if curves is None:
        return {}
    read = {}
    for key, part in curves.groupby("hash", observed=True):
        updates, players = np.unique(part["update"]), part["player"].max()
        # Ordered by seed, update, player.
        read[str(key)] = updates, part["value"].to_numpy().reshape(-1, len(updates), players)
    return read


class _Stored:
    """Numbers of cells as arrays ``(S, n_players)``, each file of a cell read once."""

    def __init__(self, results: Results, hashes: Sequence[str], track: Track) -> None:
        self._measure = measure = track.measure
        self._known_best = not track.responders
        self._curves = _curves(results, measure, hashes)
        self._finals: dict[str, dict[str, np.ndarray]] = {}
        for metric in ("br_value", "held_value", "basin", "diverged", measure):
            rows = results.final(metric)  # ordered as curves are
            own = rows[rows["hash"].isin(hashes)]
            keys = own["hash"].to_numpy(object)
            starts = np.flatnonzero(keys[1:] != keys[:-1]) + 1
            parts = (np.split(own[name].to_numpy(), starts) for name in ("value", "player"))
            cells = list(zip(*parts, strict=True)) if len(keys) else []
            names = keys[[0, *starts]] if len(keys) else []
            self._finals[metric] = {
                str(key): values.reshape(-1, players.max()) for key, (values, players) in zip(names, cells, strict=True)
            }

    def exact(self, key: str) -> bool:
        """Whether policies of the cell are such that best responses to them are known."""
        return key in self._finals["br_value"]

    def runs(self, scenario: Scenario, member: str, key: str, record: Mapping[str, Any]) -> Rows:
        final, lifetime = _returns(*self._curves[key])
        own, others = scenario.sides(final.shape[1])
        known = scenario.family == "frozen" and self._known_best and self.exact(key)
        nothing = np.full(len(final), np.nan)
        best = self._best(key, own) if known else nothing
        basin = self._finals["basin"][key][:, 0] if scenario.gridded else nothing
        numbers = (*(x[:, seats].mean(axis=1) for seats in (own, others) for x in (final, lifetime)), best, basin)
        return _rows(scenario, member, key, record, numbers, self._lost(key, final))

    def _best(self, key: str, seats: Sequence[int]) -> np.ndarray:
        """What a best responder in the subject's seat gets, ``(S,)``; of residents the mean, each alone."""
        responses = self._finals["br_value"][key]
        n = responses.shape[1]
        if n == 2:
            return responses[:, 1]
        # Stored is, of each seat, the mean over the best responders in all others.
        return (responses.sum(axis=1, keepdims=True) - (n - 1) * responses)[:, list(seats)].mean(axis=1)

    def kept(self, scenario: Scenario, member: str, key: str, record: Mapping[str, Any]) -> list[Rows]:
        """What is kept against a best response, of the policies of both seats of a self-play."""
        held, gain = self._finals["held_value"][key], self._finals["br_value"][key]
        lost = self._lost(key, held)
        seats = {member: [0], f"{member}x": [1]} if f"{member}x" in scenario.members else {member: [0, 1]}
        out = []
        for name, of in seats.items():
            own, other = held[:, of].mean(axis=1), gain[:, of].mean(axis=1)
            nothing = np.full(len(own), np.nan)
            numbers = (own, own, other, other, nothing, nothing)
            out.append(_rows(scenario, name, key, record, numbers, lost))
        return out

    def faced(self, scenario: Scenario, member: str, key: str, record: Mapping[str, Any]) -> Rows:
        """What is kept, of the policies of seat 1 of a self-play, against who was trained to face them."""
        returns = self._finals[self._measure][key]
        own, other = returns[:, 0], returns[:, 1]
        nothing = np.full(len(own), np.nan)
        lost = (self._finals["diverged"][key][:, 0] > 0) | ~np.isfinite(own)
        return _rows(scenario, member, key, record, (own, own, other, other, nothing, nothing), lost)

    def answered(
        self, scenario: Scenario, member: str, hashes: Sequence[str], records: Mapping[str, Mapping[str, Any]]
    ) -> tuple[Rows, dict[str, Any]]:
        """What is kept, of the policies of seat 1 of a self-play, against the stronger of those who were trained
        to answer each; and how they were trained."""
        returns = np.stack([self._finals[self._measure][x] for x in hashes])  # (R, S, 2)
        halfway = np.array([records[x]["responder"]["halfway"] for x in hashes], np.float64)
        seeds = np.arange(returns.shape[1])
        first = np.argmax(_or_least(returns[..., 1]), axis=0)
        own, other = returns[first, seeds, 0], returns[first, seeds, 1]
        nothing = np.full(len(own), np.nan)
        lost = (self._finals["diverged"][hashes[0]][:, 0] > 0) | ~np.isfinite(own)
        rows = _rows(
            scenario,
            member,
            np.array(hashes, object)[first],
            records[hashes[0]],
            (own, own, other, other, nothing, nothing),
            lost,
        )
        said = [records[x]["responder"] for x in hashes]
        return rows, {
            "responders": {x["learner"]: float((first == k).mean()) for k, x in enumerate(said)},
            "updates": [x["steps"] for x in said],
            "environment_steps": [records[x]["costs"]["environment_steps"] for x in hashes],
            **long_enough(_or_least(halfway).max(axis=0), other),
        }

    def _lost(self, key: str, values: np.ndarray) -> np.ndarray:
        return (self._finals["diverged"][key] > 0).any(axis=1) | ~np.isfinite(values).all(axis=1)


def _or_least(x: np.ndarray) -> np.ndarray:
    """What is not finite is less than all else."""
    return np.where(np.isfinite(x), x, -np.inf)


def _returns(updates: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the last tenth of the updates and of all of them, ``(S, n_players)``, of ``(S, R, n_players)``."""
    last = updates[-1]
    final = values[:, updates >= (1.0 - TAIL) * last].mean(axis=1)
    steps = np.diff(updates).astype(np.float64)
    between = (values[:, 1:] + values[:, :-1]) / 2.0
    return final, (between * steps[None, :, None]).sum(axis=1) / last


def _rows(
    scenario: Scenario,
    member: str,
    key: str | np.ndarray,
    record: Mapping[str, Any],
    numbers: Sequence[np.ndarray],
    lost: np.ndarray,
) -> Rows:
    """Rows of one cell, or of the cell of each seed."""
    count = len(lost)
    named = {"scenario": scenario.name, "member": member, "cell": key}
    return {
        **{name: np.full(count, x, object) for name, x in named.items()},
        **dict(zip(NUMBERS, numbers, strict=True)),
        "seed": np.arange(count),
        "lost": lost,
        "unit": _units(record, count),
    }


def _frame(rows: Sequence[Rows]) -> pd.DataFrame:
    columns = [*KEYS, *NUMBERS, "lost", "unit", "cell"]
    return pd.DataFrame({name: np.concatenate([x[name] for x in rows]) if rows else [] for name in columns})


def _units(record: Mapping[str, Any], num_seeds: int) -> np.ndarray:
    """What began alike: a seed, or all seeds of a preparation."""
    prepared = record["learners"][0].get("preparation")
    if not prepared:
        return np.arange(num_seeds)
    jointly = bool(facts.learner(record, 0).get("prepared_jointly", True))
    return facts.shared_preparations(jointly, 0, num_seeds, int(prepared["seeds"]))


def _cost(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Per seed, over some cells: what the subject's seat asked for, and its preparations."""
    prepared: dict[str, Mapping[str, Any]] = {}
    for record in records:
        x = record["learners"][0].get("preparation")
        prepared |= {x["artifact"]: x} if x else {}
    evaluations = sum(r["costs"]["gradient_evaluations"][0] / r["seeds"] for r in records)
    steps = sum(
        r["costs"].get("environment_steps_asked", [r["costs"]["environment_steps"]])[0] / r["seeds"] for r in records
    )
    return {
        "gradient_evaluations": float(evaluations),
        "environment_steps": float(steps),
        "seconds": float(sum(sum(r["timings"].values()) for r in records)),
        **{f"preparation_{name}": float(sum(x[name] / x["seeds"] for x in prepared.values())) for name in COSTS},
    }


# --- anchors ------------------------------------------------------------------------------


def anchors_of(track: Track, subjects: Sequence[Subject], split: str = "test") -> dict[tuple[str, str], Anchor]:
    """Anchors from the runs of several rules, random play among them.

    Raises:
      BadInput: nobody among them plays at random.
    """
    by_learner = {x.learner: x for x in subjects}
    if track.random not in by_learner:
        raise BadInput(f"learners are {', '.join(by_learner)}; anchors need {track.random!r} among them")
    means = {
        name: x.runs.groupby(["scenario", "member"])[["own", "best"]]
        .mean()
        .assign(lost=x.runs.groupby(["scenario", "member"])["lost"].any())
        for name, x in by_learner.items()
    }
    at_random = means[track.random]
    found = {}
    for scenario in track.of(split):
        for member, call in scenario.members.items():
            key = scenario.name, member
            if key not in at_random.index or scenario.family == "rational":
                continue
            game = registry.make_game(call).value
            spread = scenario.spread or _spread(game, call)
            low, by = float(at_random.loc[key, "own"]), None
            told = game.anchors()
            if scenario.family == "self" and told is not None:
                high = told.social_optimum
            elif scenario.family == "frozen" and not track.responders:
                high = float(at_random.loc[key, "best"])
            elif scenario.family == "adversary" and not track.responders:
                high = max(most_kept(game), low)
                low = _rewards(game, call)[0] if _constant_sum(game) else low
            else:
                known = {
                    n: float(x.loc[key, "own"]) for n, x in means.items() if key in x.index and not x.loc[key, "lost"]
                }
                by = max(known, key=known.__getitem__)
                high = known[by]
            found[key] = Anchor(low=low, high=high, spread=spread, by=by)
    return found


def _spread(game: Any, call: str) -> float:
    smallest, largest = _rewards(game, call)
    return largest - smallest


def _rewards(game: Any, call: str) -> tuple[float, float]:
    """Smallest and largest reward of a step.

    Raises:
      BadInput: they are not known.
    """
    anchors = game.anchors()
    bounds = game.reward_bounds or (anchors and (anchors.smallest, anchors.largest))
    if bounds is None or None in bounds:
        raise BadInput(f"game is {call!r}, whose smallest and largest rewards are not known; shares need both")
    return bounds


def _constant_sum(game: Any) -> bool:
    sums = np.sum(np.asarray(game.table, np.float64), axis=0)
    return bool(np.ptp(sums) <= 1e-9 * np.abs(np.asarray(game.table)).max())


def most_kept(game: Any) -> float:
    """What the best of the pure memory-one policies of seat 1 keeps against its exact best response, per step."""
    from shaping_bench.metrics import evaluate

    pure = (np.arange(32)[:, None] >> np.arange(5)) & 1
    policies = np.where(pure == 1, SATURATED_LOGIT, -SATURATED_LOGIT)
    held = evaluate(game, [policies, np.zeros_like(policies)], names=["held_value"])["held_value"]
    return float(held[:, 0].max())


# --- shares and scores --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Task:
    """What one member adds to a score.

    Attributes:
      values: a number per seed, ``(S,)``.
      weight: in the score; those of a score add up to 1.
    """

    values: np.ndarray
    weight: float


def shares(runs: pd.DataFrame, anchor: Anchor, family: str, number: str = "own") -> np.ndarray:
    """Shares of the runs of one member, in the order of its rows; unclipped, -1 where a run is lost."""
    x, span = runs[number].to_numpy(np.float64), anchor.high - anchor.low
    best = runs["best"].to_numpy(np.float64)
    exact = family == "frozen" and np.isfinite(best).any()
    share = 1.0 - (best - x) / span if exact else (x - anchor.low) / span
    return np.where(runs["lost"].to_numpy(bool), -1.0, share)


def clipped_mean(tasks: Sequence[Task]) -> Callable[..., np.ndarray]:
    """The score as a statistic of which seeds are drawn: the weighted mean of members' means, each clipped."""
    values, weights = np.stack([x.values for x in tasks]), np.array([x.weight for x in tasks])

    def score(runs: stats.Strata, drawn: stats.Weights | None = None) -> np.ndarray:
        del runs
        times = np.ones((1, values.shape[1])) if drawn is None else np.asarray(drawn[0], np.float64)
        means = times @ values.T / times.sum(axis=-1, keepdims=True)
        return (np.clip(means, -1.0, 1.0) @ weights)[() if drawn is not None else 0]

    return score


def interval(tasks: Sequence[Task], units: np.ndarray, seed: int = 0, confidence: float = 0.95) -> dict[str, float]:
    """A score with its interval: seeds, or preparations, are drawn anew for all scenarios at once.

    Percentiles of resampled means lie too near for few units, by the factor that Student's t mends: they are
    taken so much further out as to hold that share of normal numbers (expanded percentiles, Hesterberg 2015).
    """
    score = clipped_mean(tasks)
    seeds = np.arange(len(units), dtype=np.float64)
    count = int(units.max()) + 1
    drawn_as = stats.Units(of=(units,), pools=("units",), sizes=(count,))
    inner = expanded(confidence, count)
    low, high = stats.bootstrap_interval(score, [seeds], units=[drawn_as], confidence=inner, seed=seed)
    return {"value": float(score([seeds])), "low": low, "high": high}


def expanded(confidence: float, count: int) -> float:
    """Mass between percentiles of resampled means of ``count`` units that holds a normal mean with the given chance.

    >>> round(expanded(0.95, 16), 4), round(expanded(0.95, 10**6), 4)
    (0.9723, 0.95)
    """
    import scipy.stats  # slow to import, and single encounters have no scores

    if count < 2:
        return confidence
    widened = math.sqrt(count / (count - 1)) * scipy.stats.t.ppf(0.5 + confidence / 2, count - 1)
    return float(1.0 - 2.0 * scipy.stats.norm.sf(widened))


class Scored:
    """The scores of one subject.

    Args:
      subject: who.
      naive: the track's naive learner, from which shaping and effects are measured.
      anchors: by what shares are measured.
      track, split: of the card.
    """

    def __init__(
        self, subject: Subject, *, naive: Subject, anchors: Anchors, track: Track, split: str = "test"
    ) -> None:
        self.track, self.subject, self.split = track, subject, split
        # Whoever faces a policy of self-play is measured as the adversary is.
        rational = {
            (x.name, m): anchors[key]
            for x in track.of(split)
            if x.family == "rational"
            for y in track.of(split)
            if y.family == "adversary" and y.game == x.game
            for m in x.members
            if (key := (y.name, m)) in anchors
        }
        self.anchors = {**anchors, **rational}
        self._runs = _by_member(subject.runs)
        self._naive = _by_member(naive.runs)
        gridded = {x.name for x in track.of(split) if x.gridded}
        some = next((runs for (name, _), runs in self._runs.items() if name not in gridded), None)
        self.units = np.zeros(1, np.int64) if some is None else some["unit"].to_numpy(np.int64)

    def scenarios(self, block: str) -> list[Scenario]:
        return [x for x in self.track.of(self.split) if x.block == block]

    def missing(self, block: str) -> dict[str, str]:
        """Scenarios that the subject has not played whole, and why."""
        out = {}
        for scenario in self.scenarios(block):
            gone = [m for m in scenario.members if (scenario.name, m) not in self._runs]
            if gone:
                out[scenario.name] = self.subject.absent.get(scenario.name, "not computed")
        return out

    def basin(self) -> float | None:
        """Share of the starts of its grids that end payoff-dominant, the mean over their games; a lost run does
        not. Nothing is drawn of a grid, so there is no interval."""
        shares = [
            float(np.nanmean(np.where(runs["lost"], 0.0, runs["basin"])))
            for scenario in self.track.of(self.split)
            if scenario.gridded
            for member in scenario.members
            if (runs := self._runs.get((scenario.name, member))) is not None
        ]
        return sum(shares) / len(shares) if shares else None

    def gain(self) -> dict[str, float | None]:
        """What a best response to its policies of self-play gets beyond what they get there, as a share of the range of
        rewards: the adversary's gain. Where everybody is at a mutual best response, also of defection, there is none.
        A lost run counts as 1."""
        return self._interval(self._gains("main"))

    def _gains(self, block: str, game: str | None = None) -> list[Task]:
        scenarios = [x for x in self.scenarios(block) if game in (None, x.game)]
        own = {x.game: x.name for x in scenarios if x.family == "self"}
        both = [
            ((x.name, m), (own.get(x.game, ""), m)) for x in scenarios if x.family == "adversary" for m in x.members
        ]
        both = [x for x in both if all(key in self._runs for key in x) and x[0] in self.anchors]
        return [Task(self._gained(*x), 1.0 / len(both)) for x in both]

    def in_game(self, column: str, game: str, block: str) -> float | None:
        """What a score, or ``gain``, is in one game alone; None where that tells nothing apart."""
        tasks = self._gains(block, game) if column == "gain" else self.tasks(column, block, game=game)
        return float(clipped_mean(tasks)([])) if tasks else None

    def _gained(self, answered: tuple[str, str], alone: tuple[str, str]) -> np.ndarray:
        runs, before = self._runs[answered], self._runs[alone]
        among = before[["own", "other"]].to_numpy(np.float64).mean(axis=1)
        gained = (runs["other"].to_numpy(np.float64) - among) / self.anchors[answered].spread
        return np.where(runs["lost"].to_numpy(bool) | before["lost"].to_numpy(bool), 1.0, gained)

    def rational(self) -> float | None:
        """The share that its policies of self-play keep of what there is to keep, as ``safety`` has it, against who was
        trained to be the worst of rational partners; the mean over games. None if the card does not ask."""
        asked = [x for x in self.scenarios("diagnostic") if x.family == "rational" and self.members(x)]
        shares = [self.share(x)["value"] for x in asked]
        return float(np.mean(shares)) if shares else None  # type: ignore[arg-type]

    def members(self, scenario: Scenario) -> list[str]:
        """Those that tell rules apart and that the subject has played."""
        if scenario.gridded:
            return []
        keys = [(scenario.name, m) for m in scenario.members]
        return [k[1] for k in keys if k in self._runs and k in self.anchors and not self.anchors[k].flat]

    def tasks(self, column: str, block: str, lifetime: bool = False, game: str | None = None) -> list[Task]:
        """What a column is the mean of, or its part of one game; empty if the subject has nothing of it."""
        asked: dict[str, tuple[frozenset[str], Callable[..., np.ndarray]]] = {
            "cooperation": (frozenset({"self"}), self._share),
            "shaping": (frozenset({"learners"}), self._shaping),
            "generality": (HELD_OUT, self._share),
            "adaptation": (frozenset({"frozen"}), self._share),
            "safety": (frozenset({"adversary"}), self._share),
            "effect": (frozenset({"learners", "unseen-learners"}), self._effect),
        }
        families, per_run = asked[column]
        # What is measured from the naive learner has to wait for it.
        wanted = self._naive if column in ("shaping", "effect") else self._runs
        chosen = [
            (x, [m for m in self.members(x) if (x.name, m) in wanted])
            for x in self.scenarios(block)
            if x.family in families and game in (None, x.game)
        ]
        chosen = [(x, members) for x, members in chosen if members]
        return [
            Task(per_run(x, m, lifetime), 1.0 / (len(chosen) * len(members))) for x, members in chosen for m in members
        ]

    def score(self, column: str, block: str, lifetime: bool = False) -> dict[str, float | None]:
        return self._interval(self.tasks(column, block, lifetime))

    def share(self, scenario: Scenario) -> dict[str, float | None]:
        """Of one scenario."""
        members = self.members(scenario)
        return self._interval([Task(self._share(scenario, m), 1.0 / len(members)) for m in members])

    def shares_of(self, scenario: Scenario) -> np.ndarray:
        """Shares of one scenario, seed by seed, ``(S,)``: the mean over its members."""
        return np.mean([self._share(scenario, m) for m in self.members(scenario)], axis=0)

    def runs(self, scenario: Scenario) -> pd.DataFrame:
        found = [self._runs[scenario.name, m] for m in scenario.members if (scenario.name, m) in self._runs]
        return pd.concat(found) if found else self.subject.runs.iloc[:0]

    def per_seed(self, column: str, block: str) -> np.ndarray | None:
        """The score of each seed by itself, ``(S,)``."""
        tasks = self.tasks(column, block)
        return sum(x.weight * x.values for x in tasks) if tasks else None  # type: ignore[return-value]

    def beats(self) -> list[str]:
        """Scenarios with learning backgrounds in which the subject gets more than anybody was known to."""
        out = []
        for scenario in self.track.of(self.split):
            asked = scenario.learns and scenario.background is not None and not scenario.projected
            for member in self.members(scenario) if asked else ():
                anchor, runs = self.anchors[scenario.name, member], self._runs[scenario.name, member]
                gained = runs["own"].mean() - anchor.high
                surely = gained - 2.0 * runs["own"].std() / math.sqrt(len(runs))  # a few lucky seeds beat nobody
                if not runs["lost"].any() and surely > BEATS * anchor.spread and self.subject.learner != anchor.by:
                    out.append(scenario.label(member))
        return out

    def _interval(self, tasks: Sequence[Task]) -> dict[str, float | None]:
        return dict(interval(tasks, self.units)) if tasks else {"value": None, "low": None, "high": None}

    def _share(self, scenario: Scenario, member: str, lifetime: bool = False) -> np.ndarray:
        key = scenario.name, member
        number = "own_lifetime" if lifetime else "own"
        return shares(self._runs[key], self.anchors[key], scenario.family, number)

    def _shaping(self, scenario: Scenario, member: str, lifetime: bool = False) -> np.ndarray:
        key, number = (scenario.name, member), "own_lifetime" if lifetime else "own"
        anchor = self.anchors[key]
        own, naive = (shares(x, anchor, scenario.family, number) for x in (self._runs[key], self._of_naive(key)))
        return own - naive

    def _effect(self, scenario: Scenario, member: str, lifetime: bool = False) -> np.ndarray:
        key, number = (scenario.name, member), "other_lifetime" if lifetime else "other"
        own, naive = self._runs[key], self._of_naive(key)
        gained = (own[number].to_numpy() - naive[number].to_numpy()) / self.anchors[key].spread
        return np.where(own["lost"].to_numpy(bool) | naive["lost"].to_numpy(bool), -1.0, gained)

    def _of_naive(self, key: tuple[str, str]) -> pd.DataFrame:
        naive = self._naive[key]
        return naive[naive["seed"].isin(self._runs[key]["seed"])]


def _by_member(runs: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    ordered = runs.sort_values(KEYS)
    return {(str(s), str(m)): part for (s, m), part in ordered.groupby(["scenario", "member"], observed=True)}


# --- what is not held out, and who is best ------------------------------------------------


def overlaps(track: Track, learner: str, split: str = "test") -> list[str]:
    """Scenarios of held-out families that are not held out for a rule: it is the background itself, or was
    prepared against it, or against a list that the background is drawn from."""
    named = registry.make_learner(learner)
    met = coplayers.names_in(named.hyperparameters.get("against"))
    out = []
    for scenario in track.of(split):
        if scenario.background is None or scenario.family == "learners":
            continue
        background = registry.make_learner(scenario.background)
        itself = scenario.family == "shapers" and background.name == named.name
        if itself or background.name in met:
            out.append(scenario.name)
    return out


def marked(scores: Mapping[str, np.ndarray], values: Mapping[str, float]) -> set[str]:
    """The best of a column, and those that their seeds do not tell apart from it.

    By the exchange test of seeds, corrected for all pairs (see :func:`shaping_bench.analysis.compare.best`): any
    rule that is as good as the best is left unmarked with a chance of at most :data:`LEVEL`.

    Args:
      scores: of each seed, ``(S,)``, by learner.
      values: the scores, by learner.
    """
    if not values:
        return set()
    first = max(values, key=values.__getitem__)
    others = [x for x in values if x != first and len(scores[x]) == len(scores[first])]
    units = [np.arange(len(scores[first]))]
    pairs = len(values) * (len(values) - 1) // 2
    chances = [
        stats.exchange_test([scores[first]], [scores[x]], units, reps=EXCHANGES, normal_tail=True)
        if not np.array_equal(scores[first], scores[x])
        else 1.0
        for x in others
    ]
    apart = stats.holm(chances, family=pairs) <= LEVEL if others else np.zeros(0, bool)
    return {first, *(x for x, far in zip(others, apart, strict=True) if not far)}


def finite(x: float | None) -> float | None:
    return None if x is None or not math.isfinite(x) else float(x)
