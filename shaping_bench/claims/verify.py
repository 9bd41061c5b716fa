"""Claims: published numbers with protocol and tolerance, and whether we reproduce them.

:func:`verify` runs a claim's encounter and compares every quantity with its published value.

A tolerance is argued, never fitted. Where the published number is a statistic of a finite
sample it is ``rounding + 3 sqrt(se_published^2 + se_ours^2)``; the published standard error
is either stated by the source or that of a sample of the published size drawn from ours.
Ours counts preparations where seeds share several of them, as the tables do.
Numbers without sampling error (closed forms, counts over a grid) state their tolerance.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shaping_bench import metrics
from shaping_bench.algorithms.fixed import Frozen
from shaping_bench.analysis import stats
from shaping_bench.claims.files import Claim, ClaimProtocol, Quantity, load_claims
from shaping_bench.claims.record import Decided, Verdict, read_record, write_record
from shaping_bench.errors import BadInput, OutOfTime, unknown
from shaping_bench.games.base import Game
from shaping_bench.run import devices
from shaping_bench.run.artifacts import Artifacts
from shaping_bench.run.checkpoints import Folder, encounter_identity
from shaping_bench.run.deadline import Deadline
from shaping_bench.run.encounter import (
    Outcome,
    info_names,
    played_names,
    run_encounter,
    steps_per_update,
    valued_exactly,
)
from shaping_bench.run.lanes import shared_preparations
from shaping_bench.run.preparation import Preparation, Prepared, curve_names, needed
from shaping_bench.spec import registry
from shaping_bench.spec.protocol import EPISODES
from shaping_bench.spec.registry import Named
from shaping_bench.spec.sources import package_hash, source_hash

STANDARD_ERRORS = 3.0
"""Width of a statistical tolerance; one honest number in 370 falls outside."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Resolved:
    claim: Claim
    protocol: ClaimProtocol
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
    deadline: Deadline | None = None,
    checkpoints: Path | None = None,
) -> list[Verdict]:
    """Re-runs the protocols of claims.

    Args:
      ids: which claims; None for all.
      on_progress: called with a line of text before each encounter.
      claims: the claims to choose from; those of ``configs/claims`` by default.
      full: run published budgets where the protocols state smaller ones.
      artifacts: where preparations are kept; by default where those of single encounters are.
      record: file to write each claim's verdicts to as they come, as
        :func:`~shaping_bench.claims.record.recorded` reads them.
      deadline: when to stop.
      checkpoints: folder that keeps what is decided until all is, and checkpoints of encounters, so that
        the same call goes on.

    Returns:
      One verdict per quantity, in the order of the claims.

    Raises:
      BadInput: an unknown claim, game, learner or metric, or a record that is none, before
        anything is computed.
      OutOfTime: the deadline has passed; says how many claims are decided.
    """
    known = load_claims() if claims is None else claims
    chosen = list(known) if ids is None else list(dict.fromkeys(ids))
    for name in chosen:
        if name not in known:
            raise unknown("claim", name, known)
    resolved = [_resolve(known[name], full) for name in chosen]
    if record is not None:
        read_record(record)
    deadline = deadline or Deadline()
    artifacts = artifacts or Artifacts(devices.artifacts_folder(), deadline=deadline)
    decided = None if checkpoints is None else Decided(checkpoints, _identity(resolved, full, record))
    verdicts = {} if decided is None else decided.read()
    begun = len(verdicts)
    for k, entry in enumerate(resolved):
        if entry.claim.id in verdicts:
            continue
        if on_progress is not None:
            on_progress(f"claim {k + 1} of {len(resolved)}: {entry.claim.id}")
        try:
            if deadline.expired:
                raise OutOfTime("", further=False)
            found = _verify(entry, artifacts, deadline, checkpoints)
        except OutOfTime as stop:
            parts = [f"{len(verdicts)} of {len(resolved)} claims decided", *([str(stop)] if str(stop) else [])]
            raise OutOfTime("; ".join(parts), stop.further or len(verdicts) > begun) from None
        if record is not None:
            write_record(record, entry.claim, found, full)
        verdicts[entry.claim.id] = found
        if decided is not None:
            decided.write(verdicts)
    if decided is not None:
        decided.drop()
    return [verdict for entry in resolved for verdict in verdicts[entry.claim.id]]


def _identity(resolved: Sequence[_Resolved], full: bool, record: Path | None) -> dict[str, Any]:
    """What verdicts are of: their claims, and all code of ours and of the rules and games."""
    sources = [source_hash(entry.game.value, *(x.value for x in entry.learners)) for entry in resolved]
    claims = [entry.claim.hash for entry in resolved]
    return {"claims": claims, "full": full, "record": str(record), "sources": [package_hash(), *sources]}


def _resolve(claim: Claim, full: bool = False) -> _Resolved:
    where, protocol = f"claim {claim.id!r}", claim.protocol.at_full_budget() if full else claim.protocol
    game = registry.make_game(protocol.game, f"game of {where}")
    learners = tuple(registry.make_learner(text, f"learner of {where}", game.name) for text in protocol.learners)
    if len(learners) == 1:
        learners *= game.value.n_players
    registry.check_encounter(game, learners)
    entry = _Resolved(claim=claim, protocol=protocol, game=game, learners=learners)
    # Found by tracing, which metrics of the benchmark's own need not wait for.
    observed = functools.cache(lambda: _observed(entry))
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
        if not (applies and valued_exactly(game.value, [x.value for x in learners])) and q.metric not in observed():
            allowed = [m.name for m in metrics.METRICS.values() if m.level in ("policy", "rule")]
            raise unknown(f"metric of {where} in game {game.text!r}", q.metric, [*allowed, *observed()])
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


def _verify(
    entry: _Resolved, artifacts: Artifacts, deadline: Deadline | None, checkpoints: Path | None
) -> list[Verdict]:
    claim, protocol, game = entry.claim, entry.protocol, entry.game.value
    rules = [learner.value for learner in entry.learners]
    prepared = [None if p is None else artifacts.prepared(p) for p in entry.needs]
    started = time.perf_counter()
    init = _starts(protocol, game)
    checkpoint = None
    if checkpoints is not None:
        seeds = protocol.num_seeds
        identity = encounter_identity(entry.game, entry.learners, protocol, seeds=seeds, needs=entry.needs, init=init)
        checkpoint = Folder(checkpoints, identity).checkpoint(protocol.steps)
    outcome = run_encounter(
        game,
        rules,
        num_seeds=protocol.num_seeds,
        num_updates=protocol.steps,
        seed=protocol.seed,
        record_every=protocol.record_every,
        init=init,
        precision=protocol.precision,
        episodes=protocol.episodes,
        artifacts=[None if x is None else x.artifact for x in prepared],
        checkpoint=checkpoint,
        deadline=deadline,
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
    spent: dict[str, Any] = {"seconds": seconds, "environment_steps": steps, "preparation": cost}
    for q in claim.quantities:
        if q.phase == "preparation":
            assert prepared[0] is not None
            lost = len(prepared[0].record["diverged"])
            values = q.scale * _on_curve(q, prepared[0])
            verdicts.append(_judge(entry, q, values, np.arange(len(values)), diverged=lost, **spent))
            continue
        records = _records(q, outcome.updates)
        values = np.mean([found[q.against, record, q.metric] for record in records], axis=0)
        values = np.where(outcome.diverged[:, None], np.nan, values)
        per_seed = q.scale * _per_seed(q, values)
        verdicts.append(_judge(entry, q, per_seed, _units(entry, q), diverged=diverged, **spent))
    if checkpoint is not None:
        checkpoint.drop()
    return verdicts


def _units(entry: _Resolved, q: Quantity) -> np.ndarray:
    """What of each seed is a draw of its own, ``(S,)``: the seed, or where several seeds share each of
    several preparations the preparation, of the player whose number it is before the others'.

    Of a single preparation there is no spread to be had: seeds are units, and the error is that of the
    number this preparation leads to.
    """
    seeds, count = entry.protocol.num_seeds, entry.protocol.preparations
    first = q.player - 1 if isinstance(q.player, int) else 0
    for seat in (first, *(i for i in range(len(entry.learners)) if i != first)):
        if entry.needs[seat] is not None and 1 < count < seeds:
            return shared_preparations(entry.learners[seat].value, seat, seeds, count)
    return np.arange(seeds)


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


def _starts(protocol: ClaimProtocol, game: Game) -> tuple[np.ndarray, ...] | None:
    """Initial parameters per player, ``(S, d_i)``; None for the game's own."""
    if protocol.init is None:
        return None
    if protocol.init.grid is not None:
        grid = protocol.init.grid
        if tuple(game.sizes) != (1, 1):
            raise BadInput(f"init.grid needs two players with one parameter each; the game has sizes {game.sizes}")
        return tuple(x.reshape(-1, 1) for x in np.meshgrid(grid.axis, grid.axis, indexing="ij"))
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Estimate:
    value: float
    std: float
    standard_error: float
    published_error: float
    """Standard error of the same statistic of ``runs`` seeds; 0 if ``runs`` is not given."""


def _estimate(q: Quantity, values: np.ndarray, units: np.ndarray) -> _Estimate:
    """Aggregates one value per seed ``(S,)``; seeds without a finite value never count as above
    a threshold and are left out of means. Seeds of one unit are no independent draws."""
    estimate = _of_independent(q, values)
    shared = len(np.unique(units)) < len(units)
    if not shared or not math.isfinite(estimate.value):
        return estimate
    parts = [values[units == unit] for unit in np.unique(units)]
    each = np.array([_of_independent(q, part).value for part in parts])
    each = each[np.isfinite(each)]
    error = stats.standard_error([each], stats.apart([each]))
    if q.aggregate in ("fraction", "count"):
        # Of a count, every unit has a part; and few units that agree do not make a share certain.
        error = max(error * (len(parts) if q.aggregate == "count" else 1), estimate.standard_error)
    return dataclasses.replace(estimate, standard_error=error)


def _of_independent(q: Quantity, values: np.ndarray) -> _Estimate:
    """The same as if every seed were a draw of its own."""
    if q.aggregate in ("fraction", "count"):
        n = len(values)
        above = int(np.sum(values > q.threshold))
        # Laplace's rule: a share of exactly 0 or 1 in a finite sample is not known exactly.
        share = (above + 1) / (n + 2)
        std = math.sqrt(share * (1.0 - share))
        unit = n if q.aggregate == "count" else 1
        return _Estimate(
            value=unit * above / n,
            std=std,
            standard_error=unit * std / math.sqrt(n),
            published_error=unit * std / math.sqrt(q.runs) if q.runs else 0.0,
        )
    finite = values[np.isfinite(values)]
    blocks = len(finite) // q.runs if q.aggregate == "std" and q.runs else 0
    if len(finite) == 0 or (q.aggregate == "std" and blocks < 2):
        return _Estimate(value=math.nan, std=math.nan, standard_error=math.nan, published_error=math.nan)
    if q.aggregate == "std":
        assert q.runs is not None
        within = finite[: blocks * q.runs].reshape(blocks, q.runs).std(axis=1, ddof=1)
        spread = float(within.std(ddof=1))
        return _Estimate(
            value=float(within.mean()),
            std=spread,
            standard_error=spread / math.sqrt(blocks),
            published_error=spread,
        )
    if q.aggregate == "median":
        # Of a normal sample with the same quartiles: heavy tails are why one asks for a median.
        low, middle, high = np.quantile(finite, [0.25, 0.5, 0.75])
        spread = float(high - low) / 1.349
        return _Estimate(
            value=float(middle),
            std=spread,
            standard_error=1.2533 * spread / math.sqrt(len(finite)),
            published_error=1.2533 * spread / math.sqrt(q.runs) if q.runs else 0.0,
        )
    std = float(finite.std(ddof=1)) if len(finite) > 1 else 0.0
    return _Estimate(
        value=float(finite.mean()),
        std=std,
        standard_error=std / math.sqrt(len(finite)),
        published_error=std / math.sqrt(q.runs) if q.runs else 0.0,
    )


def _tolerance(q: Quantity, ours: _Estimate) -> float:
    if q.tolerance is not None:
        return q.tolerance
    published_error = ours.published_error if q.standard_error is None else q.standard_error
    return q.rounding + STANDARD_ERRORS * math.hypot(published_error, ours.standard_error)


def _judge(
    entry: _Resolved,
    q: Quantity,
    values: np.ndarray,
    units: np.ndarray,
    *,
    diverged: int,
    seconds: float,
    environment_steps: int = 0,
    preparation: str = "",
) -> Verdict:
    claim, protocol = entry.claim, entry.protocol
    ours = _estimate(q, values, units)
    if protocol.init is not None and protocol.init.grid is not None:
        ours = dataclasses.replace(ours, standard_error=0.0)
    tolerance = _tolerance(q, ours)
    difference = ours.value - q.published
    # A NaN compares false, and so is a miss.
    beyond = {"above": difference, "below": -difference}
    reproduced = abs(difference) <= tolerance if q.beyond is None else beyond[q.beyond] > tolerance
    counted, narrow = len(np.unique(units)), _tolerance(q, _of_independent(q, values))
    remark = ""
    if reproduced and q.beyond is None and abs(difference) > narrow:
        remark = (
            f"Reproduced only because {counted} preparations differ: were the {len(values)} seeds that share them "
            f"independent, the tolerance were {narrow:.2g}."
        )
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
        units=counted,
        remark=remark,
        diverged=diverged,
        tolerance=tolerance,
        why=q.why,
        verdict="reproduced" if reproduced else "missed",
        note=q.note,
        seconds=seconds,
        budget=protocol.text,
        full="" if protocol.full is None else protocol.at_full_budget().text,
        environment_steps=environment_steps,
        preparation=preparation,
    )
