"""Claims: published numbers with protocol and tolerance, and whether we reproduce them.

``configs/claims`` has one YAML file per paper, and a claim in it is one encounter at the
paper's own protocol with the quantities that it yields. :func:`verify` runs the encounter
and compares every quantity with its published value.

A tolerance is argued, never fitted. Where the published number is a statistic of a finite
sample it is ``rounding + 3 sqrt(se_published^2 + se_ours^2)``; the published standard error
is either stated by the source or that of a sample of the published size drawn from ours.
Numbers without sampling error (closed forms, counts over a grid) state their tolerance.

Where the published budget is beyond two cores, a protocol states a smaller one and, under
``full``, what differs at the published one; every verdict names the budget that was spent.
"""

import dataclasses
import datetime
import hashlib
import itertools
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
from rich.console import Console
from rich.table import Table

from shaping_bench.algorithms.fixed import Frozen
from shaping_bench.errors import BadInput, unknown
from shaping_bench.games.base import Game
from shaping_bench.metrics import definitions as metrics
from shaping_bench.run import devices
from shaping_bench.run.encounter import (
    EPISODES,
    Outcome,
    info_names,
    played_names,
    recorded_updates,
    run_encounter,
    steps_per_update,
    valued_exactly,
)
from shaping_bench.run.preparation import Artifacts, Preparation, Prepared, curve_names, needed
from shaping_bench.spec import registry
from shaping_bench.spec.registry import Named
from shaping_bench.spec.suite import configs_folder, read_yaml

STANDARD_ERRORS = 3.0
"""Width of a statistical tolerance; one honest number in 370 falls outside."""


# --- what a file may say ------------------------------------------------------------------


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Grid(_Strict):
    """One start per point of a square grid over the joint parameters of two scalar players."""

    low: float
    high: float
    num: int = pydantic.Field(ge=2)


class Uniform(_Strict):
    """Starts drawn uniformly, every parameter from one interval."""

    low: float
    high: float


class Init(_Strict):
    """Starts other than the game's own; a normal one is written as the game's ``init_std``."""

    grid: Grid | None = None
    uniform: Uniform | None = None

    @pydantic.model_validator(mode="after")
    def _one(self) -> "Init":
        if (self.grid is None) == (self.uniform is None):
            raise ValueError("either grid or uniform")
        return self


class Budget(_Strict):
    """What the published budget changes of a protocol."""

    game: str | None = None
    learners: list[str] | None = pydantic.Field(None, min_length=1)
    steps: int | None = pydantic.Field(None, ge=0)
    seeds: int | None = pydantic.Field(None, ge=1)
    record_every: int | None = pydantic.Field(None, ge=1)
    episodes: int | None = pydantic.Field(None, ge=1)
    preparations: int | None = pydantic.Field(None, ge=1)


class Protocol(_Strict):
    """One encounter. ``learners`` has one entry for self-play; ``episodes`` are those that value
    policies by play; ``preparations`` are the seeds from which learners that prepare are
    prepared, shared by the encounter's seeds."""

    game: str
    learners: list[str] = pydantic.Field(min_length=1)
    steps: int = pydantic.Field(ge=0)
    seeds: int | None = pydantic.Field(None, ge=1)
    seed: int = pydantic.Field(0, ge=0, lt=2**32)
    record_every: int | None = pydantic.Field(None, ge=1)
    precision: Literal["float32", "float64"] = "float32"
    episodes: int = pydantic.Field(EPISODES, ge=1)
    preparations: int = pydantic.Field(1, ge=1)
    init: Init | None = None
    full: Budget | None = None

    def at_full_budget(self) -> "Protocol":
        """The published budget, where this one is smaller."""
        changes = self.full.model_dump(exclude_none=True) if self.full else {}
        return Protocol(**{**self.model_dump(), **changes, "full": None})

    @property
    def text(self) -> str:
        """The budget in words."""
        return f"{self.num_seeds} seeds x {self.steps} updates of {' vs '.join(self.learners)} in {self.game}"

    @pydantic.model_validator(mode="after")
    def _counted(self) -> "Protocol":
        if (self.seeds is None) != (self.init is not None and self.init.grid is not None):
            raise ValueError("seeds, unless the starts are a grid")
        return self

    @property
    def num_seeds(self) -> int:
        if self.seeds is not None:
            return self.seeds
        assert self.init is not None
        assert self.init.grid is not None
        return self.init.grid.num**2


class Quantity(_Strict):
    """One published number.

    Per seed the metric is taken ``at`` a number of updates done (default: all; a pair is the
    mean over the recorded ones from first to last, both included), for a ``player`` (``both``
    is the lesser of the two) and times ``scale``. In the phase ``preparation`` it is a curve of the
    preparation of player 1, at a number of its steps, and the seeds are those of the preparation.
    With ``against`` the final policies of player 1 first meet that fixed strategy as player 2,
    without learning. Seeds are aggregated by ``mean``, ``median``, ``std`` (mean over blocks of
    ``runs`` seeds of the standard deviation within a block), or by ``fraction`` or ``count`` of
    those above ``threshold``.
    """

    metric: str
    phase: Literal["encounter", "preparation"] = "encounter"
    against: str | None = None
    player: Literal[1, 2, "mean", "sum", "both"] = "mean"
    at: Annotated[list[int], pydantic.Field(min_length=2, max_length=2)] | int | None = None
    aggregate: Literal["mean", "median", "std", "fraction", "count"] = "mean"
    threshold: float = 0.5
    scale: float = 1.0
    published: float
    provenance: Literal["published", "recomputed", "derived"] = "published"
    tolerance: float | None = pydantic.Field(None, ge=0.0)
    rounding: float = pydantic.Field(0.0, ge=0.0)
    runs: int | None = pydantic.Field(None, ge=2)
    standard_error: float | None = pydantic.Field(None, ge=0.0)
    why: str = pydantic.Field(min_length=1)
    note: str = ""

    @pydantic.model_validator(mode="after")
    def _one_tolerance(self) -> "Quantity":
        if [self.tolerance, self.standard_error].count(None) == 0 or (
            self.tolerance is None and self.standard_error is None and self.runs is None
        ):
            raise ValueError("a tolerance, or the published standard_error, or the published number of runs")
        if self.against is not None and self.at is not None:
            raise ValueError("either against, which is about final policies, or at")
        if self.against is not None and self.phase == "preparation":
            raise ValueError("either against, which is about final policies, or the phase preparation")
        if self.aggregate == "std" and self.runs is None:
            raise ValueError("with aggregate 'std', the published number of runs")
        return self

    @property
    def text(self) -> str:
        """Short description, e.g. ``return of player 1 at 99, mean``."""
        who = {"mean": "", "sum": ", summed", "both": ", both players"}.get(str(self.player), f", player {self.player}")
        when = "" if self.at is None else f", update {self.at}" if isinstance(self.at, int) else ""
        if isinstance(self.at, list):
            when = f", updates {self.at[0]}..{self.at[1]}"
        how = "" if self.aggregate == "mean" else f", {self.aggregate}"
        if self.aggregate in ("fraction", "count") and self.threshold != 0.5:  # 0.5 is for flags
            how += f" above {self.threshold:g}"
        scaled = "" if self.scale == 1.0 else f"{self.scale:g} * "
        met = "" if self.against is None else f" against {self.against}"
        return f"{scaled}{self.metric}{met}{who}{when}{how}"


class Claim(_Strict):
    """A published result: where it stands, the protocol, and its numbers."""

    id: str = pydantic.Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    statement: str
    source: str
    protocol: Protocol
    quantities: list[Quantity] = pydantic.Field(min_length=1)

    @pydantic.model_validator(mode="after")
    def _recorded(self) -> "Claim":
        for protocol, q in itertools.product((self.protocol, self.protocol.at_full_budget()), self.quantities):
            recorded = set(recorded_updates(protocol.steps, protocol.record_every).tolist())
            asked = [] if q.at is None else [q.at] if isinstance(q.at, int) else q.at
            if q.phase == "preparation":  # its curves have points of their own
                continue
            if any(t not in recorded for t in asked) or asked != sorted(asked):
                raise ValueError(f"{q.metric} at recorded updates (steps and record_every decide), not at {q.at}")
        return self

    @property
    def hash(self) -> str:
        """Of all that decides a verdict: the protocol and the numbers, not the words about them."""
        said = {"statement": True, "source": True, "quantities": {"__all__": {"why", "note"}}}
        text = json.dumps(self.model_dump(mode="json", exclude=said), sort_keys=True)  # type: ignore[arg-type]
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class ClaimFile(_Strict):
    """The claims of one paper; ``anchors`` holds YAML anchors that the claims share."""

    paper: str
    anchors: Any = None
    claims: list[Claim] = pydantic.Field(min_length=1)


_MODELS: Mapping[str, type[_Strict]] = {
    "claims": Claim,
    "protocol": Protocol,
    "full": Budget,
    "init": Init,
    "grid": Grid,
    "uniform": Uniform,
    "quantities": Quantity,
}


def load_claims(folder: Path | None = None) -> dict[str, Claim]:
    """All claims by id, in the order of the files.

    Args:
      folder: where the files are; ``configs/claims`` by default.

    Raises:
      BadInput: a file that is not YAML, a key or value that is not allowed, an id used twice.
    """
    claims: dict[str, Claim] = {}
    for path in _files(folder):
        for claim in _read(path).claims:
            if claim.id in claims:
                raise BadInput(f"{path.name}: claim id is {claim.id!r}, which is taken; allowed: an id of its own")
            claims[claim.id] = claim
    return claims


def papers(folder: Path | None = None) -> dict[str, str]:
    """Claim id to the paper whose number it is; ``folder`` and errors as in :func:`load_claims`."""
    return {claim.id: content.paper for content in map(_read, _files(folder)) for claim in content.claims}


def _files(folder: Path | None) -> list[Path]:
    return sorted((folder or configs_folder() / "claims").glob("*.yaml"))


def _read(path: Path) -> ClaimFile:
    content = read_yaml(path, path.name)
    try:
        return ClaimFile.model_validate(content)
    except pydantic.ValidationError as error:
        raise _complaint(path.name, error.errors(include_url=False)[0]) from None


def _complaint(file: str, problem: Mapping[str, Any]) -> BadInput:
    steps = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        owners = [_MODELS[step] for step in steps[:-1] if step in _MODELS]
        where = ".".join([file, *steps[:-1]])
        return unknown(f"key of {where}", steps[-1], (owners[-1] if owners else ClaimFile).model_fields)
    value = {"missing": "missing", "value_error": "inconsistent"}.get(problem["type"], repr(problem.get("input")))
    message = problem["msg"].removeprefix("Value error, ")
    return BadInput(f"{'.'.join([file, *steps])} is {value}; allowed: {message[0].lower()}{message[1:]}")


# --- verdicts -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One published number beside ours.

    Attributes:
      claim, source, quantity: which number.
      provenance: ``published`` (the paper or the official code's record), ``recomputed`` (somebody
        else's independent computation at the published protocol) or ``derived`` (closed form).
      published, ours, difference: the numbers, and ours minus published.
      std: standard deviation over seeds (aggregate ``std``: over blocks of seeds).
      standard_error: of our number; 0 where the starts are a grid, which is no sample.
      seeds, diverged: how many seeds, and how many of them have no finite end.
      tolerance, why: largest difference that counts as reproduced, and its argument.
      verdict: ``reproduced`` or ``missed``.
      note: what is known about a miss.
      seconds: wall time of the claim's encounter and metrics, shared by its quantities.
      budget: seeds, updates, learners and game of the encounter that was run.
      full: the same at the published budget, where that is another; else empty.
      environment_steps: joint actions played, all seeds; those of a preparation are not among them.
      preparation: what the learners' preparations cost; empty if they need none.
    """

    claim: str
    source: str
    quantity: str
    provenance: str
    published: float
    ours: float
    difference: float
    std: float
    standard_error: float
    seeds: int
    diverged: int
    tolerance: float
    why: str
    verdict: str
    note: str
    seconds: float
    budget: str = ""
    full: str = ""
    environment_steps: int = 0
    preparation: str = ""


@dataclasses.dataclass(frozen=True)
class _Resolved:
    claim: Claim
    protocol: Protocol
    game: Named
    learners: tuple[Named, ...]

    @property
    def needs(self) -> tuple[Preparation | None, ...]:
        """The preparation of each seat."""
        protocol = self.protocol
        return needed(
            self.game,
            self.learners,
            seeds=protocol.preparations,
            seed=protocol.seed,
            precision=protocol.precision,
        )


def verify(
    ids: Sequence[str] | None = None,
    on_progress: Callable[[str], None] | None = None,
    *,
    claims: Mapping[str, Claim] | None = None,
    full: bool = False,
    artifacts: Artifacts | None = None,
    record: Path | None = None,
) -> list[Verdict]:
    """Re-runs the protocols of claims.

    Args:
      ids: which claims; None for all.
      on_progress: called with a line of text before each encounter.
      claims: the claims to choose from; those of ``configs/claims`` by default.
      full: run published budgets where the protocols state smaller ones.
      artifacts: where preparations are kept; by default where those of single encounters are.
      record: file to write each claim's verdicts to as they come, as :func:`recorded` reads them.

    Returns:
      One verdict per quantity, in the order of the claims.

    Raises:
      BadInput: an unknown claim, game, learner or metric, or a record that is none, before
        anything is computed.
    """
    known = load_claims() if claims is None else claims
    chosen = list(known) if ids is None else list(dict.fromkeys(ids))
    for name in chosen:
        if name not in known:
            raise unknown("claim", name, known)
    resolved = [_resolve(known[name], full) for name in chosen]
    if record is not None:
        _read_record(record)
    verdicts: list[Verdict] = []
    for k, entry in enumerate(resolved):
        if on_progress is not None:
            on_progress(f"claim {k + 1} of {len(resolved)}: {entry.claim.id}")
        found = _verify(entry, artifacts or Artifacts(devices.artifacts_folder()))
        if record is not None:
            _write_record(record, entry.claim, found, full)
        verdicts += found
    return verdicts


def _resolve(claim: Claim, full: bool = False) -> _Resolved:
    where, protocol = f"claim {claim.id!r}", claim.protocol.at_full_budget() if full else claim.protocol
    game = registry.make_game(protocol.game, f"game of {where}")
    learners = tuple(registry.make_learner(text, f"learner of {where}", game.name) for text in protocol.learners)
    if len(learners) == 1:
        learners *= game.value.n_players
    registry.check_encounter(game, learners)
    entry = _Resolved(claim, protocol, game, learners)
    observed = _observed(entry)
    for q in claim.quantities:
        if q.phase == "preparation":
            preparation = entry.needs[0]
            if preparation is None:
                raise BadInput(f"phase of {where} is 'preparation', but learner {learners[0].text!r} needs none")
            curves = curve_names(preparation)
            if q.metric not in curves:
                raise unknown(f"metric of the preparation in {where}", q.metric, curves)
            continue
        definition = metrics.METRICS.get(q.metric)
        applies = definition is not None and definition.level in ("policy", "rule") and definition.applies(game.value)
        if not (applies and valued_exactly(game.value, [x.value for x in learners])) and q.metric not in observed:
            allowed = [m.name for m in metrics.METRICS.values() if m.level in ("policy", "rule")]
            raise unknown(f"metric of {where} in game {game.text!r}", q.metric, [*allowed, *observed])
        if q.against is not None:
            opponent = registry.make_learner(q.against, f"against of {where}")
            registry.check_encounter(game, [learners[0], opponent])
    return entry


def _observed(entry: _Resolved) -> list[str]:
    """What the game and the learners of an encounter observe beside the benchmark's metrics."""
    game, rules = entry.game.value, [x.value for x in entry.learners]
    names = list(info_names(game, rules))
    if valued_exactly(game, rules):
        return [*metrics.observable_names(game), *names]
    n = game.n_players
    played = {name: np.zeros((1, n)) for name in played_names(game, rules)}
    return [*metrics.from_play(game, played), *names]


def _verify(entry: _Resolved, artifacts: Artifacts) -> list[Verdict]:
    claim, protocol, game = entry.claim, entry.protocol, entry.game.value
    rules = [learner.value for learner in entry.learners]
    prepared = [None if p is None else artifacts.prepared(p) for p in entry.needs]
    started = time.perf_counter()
    outcome = run_encounter(
        game,
        rules,
        num_seeds=protocol.num_seeds,
        num_updates=protocol.steps,
        seed=protocol.seed,
        record_every=protocol.record_every,
        init=_starts(protocol, game),
        precision=protocol.precision,
        episodes=protocol.episodes,
        artifacts=[None if x is None else x.artifact for x in prepared],
    )
    found: dict[tuple[str | None, int, str], np.ndarray] = {}  # (against, record, metric) -> (S, n_players)
    met_in_play = [q for q in claim.quantities if q.phase == "encounter"]
    for against in dict.fromkeys(q.against for q in met_in_play):
        names = sorted({q.metric for q in met_in_play if q.against == against})
        at = {r for q in met_in_play if q.against == against for r in _records(q, outcome.updates)}
        met = outcome if against is None else _met(entry, outcome, against)
        for record in sorted(at):
            here = record if against is None else 0
            measured = _metrics(entry, names, met, here, [x and x.artifact for x in prepared])
            found |= {(against, record, name): x for name, x in measured.items()}
    seconds = time.perf_counter() - started
    diverged = int(np.sum(outcome.diverged))
    steps = steps_per_update(game, rules) * protocol.num_seeds * protocol.steps
    cost = _cost_of([x.record for x in prepared if x is not None])
    verdicts = []
    for q in claim.quantities:
        if q.phase == "preparation":
            assert prepared[0] is not None
            lost = len(prepared[0].record["diverged"])
            verdicts.append(_judge(entry, q, q.scale * _on_curve(q, prepared[0]), lost, seconds, steps, cost))
            continue
        records = _records(q, outcome.updates)
        values = np.mean([found[q.against, record, q.metric] for record in records], axis=0)
        values = np.where(outcome.diverged[:, None], np.nan, values)
        verdicts.append(_judge(entry, q, q.scale * _per_seed(q, values), diverged, seconds, steps, cost))
    return verdicts


def _cost_of(records: Sequence[Mapping[str, Any]]) -> str:
    """What preparations cost, in words; one that serves several seats counts once."""
    parts = []
    for record in {x["hash"]: x for x in records}.values():
        counts = {"gradient evaluations": "gradient_evaluations", "environment steps": "environment_steps"}
        spent = [f"{record['costs'][key]:.3g} {name}" for name, key in counts.items() if record["costs"][key]]
        what = f"{record['learner']['name']}: {record['seeds'][0]} x {record['steps']} steps"
        parts.append(", ".join([what, *spent, f"{record['timings']['run']:.0f} s"]))
    return "; ".join(parts)


def _on_curve(q: Quantity, prepared: Prepared) -> np.ndarray:
    """A curve of a preparation at (or averaged over) a number of its steps, per seed of it."""
    rows = prepared.curves[prepared.curves["metric"] == q.metric]
    updates = np.unique(rows["update"])
    first, last = (updates[-1],) * 2 if q.at is None else (q.at,) * 2 if isinstance(q.at, int) else q.at
    # A point is the mean since the point before, so the first that reaches a step covers it.
    chosen = [t for k, t in enumerate(updates) if t >= first and (k == 0 or updates[k - 1] < last)]
    table = rows[rows["update"].isin(chosen)].pivot(index="update", columns="seed", values="value")
    return table.to_numpy().mean(axis=0)


def _met(entry: _Resolved, outcome: Outcome, against: str) -> Outcome:
    """The final policies of player 1 against a fixed strategy."""
    game, protocol = entry.game.value, entry.protocol
    opponent = registry.make_learner(against, game=entry.game.name).value
    mine = Frozen(rule=entry.learners[0].value)  # type: ignore[call-arg]
    return run_encounter(
        game,
        [mine, opponent],
        num_seeds=protocol.num_seeds,
        num_updates=0,
        seed=protocol.seed,
        init=[outcome.final[0], None],
        precision=protocol.precision,
        episodes=max(protocol.episodes, EPISODES),
    )


def _starts(protocol: Protocol, game: Game) -> tuple[np.ndarray, ...] | None:
    """Initial parameters per player, ``(S, d_i)``; None for the game's own."""
    if protocol.init is None:
        return None
    if protocol.init.grid is not None:
        grid = protocol.init.grid
        if tuple(game.sizes) != (1, 1):
            raise BadInput(f"init.grid needs two players with one parameter each; the game has sizes {game.sizes}")
        axis = np.linspace(grid.low, grid.high, grid.num)
        return tuple(x.reshape(-1, 1) for x in np.meshgrid(axis, axis, indexing="ij"))
    assert protocol.init.uniform is not None
    low, high = protocol.init.uniform.low, protocol.init.uniform.high
    draws = np.random.default_rng(protocol.seed)
    return tuple(draws.uniform(low, high, (protocol.num_seeds, d)) for d in game.sizes)


def _records(q: Quantity, updates: np.ndarray) -> list[int]:
    first, last = (updates[-1],) * 2 if q.at is None else (q.at,) * 2 if isinstance(q.at, int) else q.at
    return np.flatnonzero((updates >= first) & (updates <= last)).tolist()


def _metrics(
    entry: _Resolved, names: Sequence[str], outcome: Outcome, record: int, artifacts: Sequence[Any]
) -> dict[str, np.ndarray]:
    """Metrics of the policies, of the rules or of what the learners observed at a
    recorded point: ``(S, n_players)``."""
    game = entry.game.value
    out: dict[str, np.ndarray] = {}
    for name in names:
        if name in metrics.RULE_METRICS:
            params = [p[record] for p in outcome.params]
            out[name] = metrics.RULE_METRICS[name](game, [x.value for x in entry.learners], params, artifacts)
        elif any(name in info for info in outcome.infos):
            missing = np.full(outcome.diverged.shape, np.nan)
            out[name] = np.stack([info[name][record] if name in info else missing for info in outcome.infos], -1)
    rest = [name for name in names if name not in out]
    if not rest:
        return out
    if outcome.params:
        return out | metrics.evaluate(game, [p[record] for p in outcome.params], rest)
    played = metrics.from_play(game, {name: x[record] for name, x in outcome.played.items()})
    return out | {name: played[name] for name in rest}


def _per_seed(q: Quantity, values: np.ndarray) -> np.ndarray:
    """``(S, n_players)`` to ``(S,)``."""
    if q.player == "mean":
        return values.mean(axis=1)
    if q.player == "sum":
        return values.sum(axis=1)
    if q.player == "both":
        return values.min(axis=1)
    return values[:, int(q.player) - 1]


@dataclasses.dataclass(frozen=True)
class _Estimate:
    value: float
    std: float
    standard_error: float
    published_error: float
    """Standard error of the same statistic of ``runs`` seeds; 0 if ``runs`` is not given."""


def _estimate(q: Quantity, values: np.ndarray) -> _Estimate:
    """Aggregates one value per seed ``(S,)``; seeds without a finite value never count as above
    a threshold and are left out of means."""
    if q.aggregate in ("fraction", "count"):
        n = len(values)
        above = int(np.sum(values > q.threshold))
        # Laplace's rule: a share of exactly 0 or 1 in a finite sample is not known exactly.
        share = (above + 1) / (n + 2)
        std = math.sqrt(share * (1.0 - share))
        unit = n if q.aggregate == "count" else 1
        error = unit * std / math.sqrt(n)
        return _Estimate(unit * above / n, std, error, unit * std / math.sqrt(q.runs) if q.runs else 0.0)
    finite = values[np.isfinite(values)]
    if q.aggregate == "std":
        assert q.runs is not None
        blocks = len(finite) // q.runs
        if blocks < 2:
            return _Estimate(math.nan, math.nan, math.nan, math.nan)
        within = finite[: blocks * q.runs].reshape(blocks, q.runs).std(axis=1, ddof=1)
        spread = float(within.std(ddof=1))
        return _Estimate(float(within.mean()), spread, spread / math.sqrt(blocks), spread)
    if len(finite) == 0:
        return _Estimate(math.nan, math.nan, math.nan, math.nan)
    if q.aggregate == "median":
        # Of a normal sample with the same quartiles: heavy tails are why one asks for a median.
        low, middle, high = np.quantile(finite, [0.25, 0.5, 0.75])
        spread = float(high - low) / 1.349
        error = 1.2533 * spread / math.sqrt(len(finite))
        return _Estimate(float(middle), spread, error, 1.2533 * spread / math.sqrt(q.runs) if q.runs else 0.0)
    std = float(finite.std(ddof=1)) if len(finite) > 1 else 0.0
    published = std / math.sqrt(q.runs) if q.runs else 0.0
    return _Estimate(float(finite.mean()), std, std / math.sqrt(len(finite)), published)


def _judge(
    entry: _Resolved,
    q: Quantity,
    values: np.ndarray,
    diverged: int,
    seconds: float,
    environment_steps: int = 0,
    preparation: str = "",
) -> Verdict:
    claim, protocol = entry.claim, entry.protocol
    ours = _estimate(q, values)
    if protocol.init is not None and protocol.init.grid is not None:
        ours = dataclasses.replace(ours, standard_error=0.0)
    if q.tolerance is not None:
        tolerance = q.tolerance
    else:
        published_error = ours.published_error if q.standard_error is None else q.standard_error
        tolerance = q.rounding + STANDARD_ERRORS * math.hypot(published_error, ours.standard_error)
    difference = ours.value - q.published
    return Verdict(
        claim=claim.id,
        source=claim.source,
        quantity=q.text,
        provenance=q.provenance,
        published=q.published,
        ours=ours.value,
        difference=difference,
        std=ours.std,
        standard_error=ours.standard_error,
        seeds=len(values),
        diverged=diverged,
        tolerance=tolerance,
        why=q.why,
        # A NaN compares false, and so is a miss.
        verdict="reproduced" if abs(difference) <= tolerance else "missed",
        note=q.note,
        seconds=seconds,
        budget=protocol.text,
        full="" if protocol.full is None else protocol.at_full_budget().text,
        environment_steps=environment_steps,
        preparation=preparation,
    )


# --- the record ---------------------------------------------------------------------------


def record_file() -> Path:
    """The verdicts that come with the benchmark."""
    return configs_folder() / "claims" / "recorded.json"


def recorded(path: Path | None = None, claims: Mapping[str, Claim] | None = None) -> list[dict[str, Any]]:
    """Verdicts of earlier runs, for those who want to read them without an hour of computing.

    Args:
      path: a file written by ``verify(record=...)``; by default the one that comes with the benchmark.
      claims: what they are verdicts of; those of ``configs/claims`` by default.

    Returns:
      One dict per quantity, in the order of the claims: the fields of :class:`Verdict`, the
      claim's ``statement``, and of the run ``at_full_budget``, ``date``, ``commit``, ``machine``.
      Claims whose protocol or numbers have changed since are left out. Empty if there is no file.

    Raises:
      BadInput: the file is no record.
    """
    entries = _read_record(path or record_file())
    rows: list[dict[str, Any]] = []
    for claim in (load_claims() if claims is None else claims).values():
        entry = entries.get(claim.id)
        if entry is None or entry["hash"] != claim.hash:
            continue
        run = {key: entry[key] for key in ("at_full_budget", "date", "commit", "machine")}
        for q, verdict in zip(claim.quantities, entry["verdicts"], strict=True):
            # The words are today's: a note on a miss is often written after the run.
            rows.append({**verdict, **run, "statement": claim.statement, "note": q.note, "why": q.why})
    return rows


def record_about(path: Path | None = None) -> dict[str, str]:
    """Where and when a record was made: ``machine``, ``commit``, ``date``, several joined by commas."""
    entries = _read_record(path or record_file()).values()
    dates = sorted(str(x["date"])[:10] for x in entries)
    return {
        "machine": ", ".join(dict.fromkeys(x["machine"] for x in entries)),
        "commit": ", ".join(dict.fromkeys(str(x["commit"])[:10] for x in entries)),
        "date": " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "",
    }


def _read_record(path: Path) -> dict[str, dict[str, Any]]:
    try:
        entries = json.loads(path.read_text())
        return {str(name): {**entry, "verdicts": list(entry["verdicts"])} for name, entry in entries.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise BadInput(f"record is {str(path)!r}, which is none; allowed: a file written by verify --record") from None


def _write_record(path: Path, claim: Claim, verdicts: Sequence[Verdict], full: bool) -> None:
    device = devices.describe()
    entry = {
        "hash": claim.hash,
        "at_full_budget": full,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": devices.git_commit(),
        "machine": f"{device['count']} x {device['kind']}",
        "verdicts": to_json(verdicts)["verdicts"],
    }
    entries = {**_read_record(path), claim.id: entry}
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(entries, indent=1, sort_keys=True, allow_nan=False) + "\n")
        os.replace(draft, path)
    except OSError as error:
        raise BadInput(f"record is {str(path)!r}, which cannot be written ({error.strerror})") from None
    finally:
        draft.unlink(missing_ok=True)


# --- output -------------------------------------------------------------------------------


def _totals(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    reproduced = sum(v.verdict == "reproduced" for v in verdicts)
    return {
        "reproduced": reproduced,
        "missed": len(verdicts) - reproduced,
        "seconds": sum({v.claim: v.seconds for v in verdicts}.values()),
    }


def to_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """``{"verdicts": [...], "reproduced": n, "missed": m, "seconds": s}``; what is not finite is null."""

    def plain(x: Any) -> Any:
        return None if isinstance(x, float) and not math.isfinite(x) else x

    rows = [{name: plain(x) for name, x in dataclasses.asdict(v).items()} for v in verdicts]
    return {"verdicts": rows, **_totals(verdicts)}


def to_text(verdicts: Sequence[Verdict]) -> str:
    """A table for people: published, ours with its standard error, spread, tolerance, verdict."""
    console = Console(width=None if Console().is_terminal else 160)
    table = Table(box=None, pad_edge=False)
    table.add_column("claim", no_wrap=True)
    table.add_column("quantity", overflow="fold")
    for name in ("published", "ours", "std. error", "spread", "difference", "tolerance"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("from")
    table.add_column("verdict", no_wrap=True)
    previous = None
    for v in verdicts:
        style = "bold red" if v.verdict == "missed" else ""
        numbers = (v.published, v.ours, v.standard_error, v.std, v.difference, v.tolerance)
        shown = (f"{x:.4g}" if i < 2 else f"{x:.2g}" for i, x in enumerate(numbers))
        table.add_row(v.claim if v.claim != previous else "", v.quantity, *shown, v.provenance, v.verdict, style=style)
        previous = v.claim
    with console.capture() as capture:
        console.print(table)
        for v in verdicts:
            if v.verdict == "missed":
                text = f"\nmissed: {v.claim}, {v.quantity} ({v.source}). Tolerance: {v.why}. {v.note}"
                if v.full:
                    text += f" Budget: {v.budget}; published budget, by --full: {v.full}."
                if v.preparation:
                    text += f" Preparation: {v.preparation}."
                console.print(text.rstrip(), markup=False, highlight=False)
    totals = _totals(verdicts)
    summary = f"{totals['reproduced']} reproduced, {totals['missed']} missed, {totals['seconds']:.1f} s"
    return f"{capture.get().rstrip()}\n\n{summary}"
