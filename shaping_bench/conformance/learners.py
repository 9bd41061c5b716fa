"""Checks of learning rules.

Most compare the *lanes* of one compiled program: the same update with one thing changed (its seed, its
dice, its step size, what it may not see). A few read the program itself.
"""

import contextlib
import dataclasses
import functools
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.algorithms.core import Access, AccessError, Learner, PreparedLearner
from shaping_bench.algorithms.core.stage import started
from shaping_bench.conformance.declarations import check_class
from shaping_bench.conformance.findings import Finding, Note, all_finite, attempt, attempts, near, plain
from shaping_bench.conformance.preparations import check_preparation
from shaping_bench.conformance.program import (
    changed_name,
    fingerprint,
    key_reuse,
    outside_randomness,
    python_state,
    single_precision,
    weakly_typed,
)
from shaping_bench.conformance.trial import (
    PADDED,
    ROOM_OF_THREE,
    TABLE_OF_THREE,
    THREE_PLAYERS,
    CutShort,
    Lane,
    Trial,
    Updated,
    entered_seats,
    is_exact,
    step_sizes,
    trial_games,
    trial_rule,
)
from shaping_bench.games import make
from shaping_bench.metrics import METRICS
from shaping_bench.run.encounter import run_encounter
from shaping_bench.run.preparation import imagined_artifact


def check_learner(cls: type[Learner], *, thorough: bool = True) -> list[Finding]:
    """Checks a learning rule on every trial game that it can play.

    Args:
      cls: the class.
      thorough: False leaves out what takes longest: in a second game and among three to run a rule that plays,
        whose program is then only read (as is its preparation), and episodes that end early; the other seat of
        one that does not; to store an encounter.
    """
    findings = check_class(cls)
    if not findings[0].passed:
        return findings
    exact = is_exact(cls)
    tried: list[str] = []
    refused = False
    with jax.enable_x64(exact):  # networks are as encounters have them; exact rules are compared to rounding
        for name, numbers in trial_games(cls):
            game = make(name, **numbers)
            rule = trial_rule(cls, name, game)
            if rule is None or refused:
                continue
            tried.append(name)
            trial = Trial(rule, game, name)
            if isinstance(rule, PreparedLearner) and len(tried) == 1:
                findings += check_preparation(rule, game, name, run=exact or thorough)
            results = _check_program(trial)
            findings += results
            refused = not results[0].passed  # it cannot be traced, so nothing else can be said
            if any(not f.passed and f.check in DECISIVE for f in results):
                continue  # every comparison of numbers would fail because of it
            if exact or thorough or len(tried) == 1:
                findings += _check_lanes(trial, first=len(tried) == 1, thorough=thorough)
                if name == "ipd" and exact:
                    findings.append(_check_zero_sum(trial))
        if tried and all(f.passed for f in findings):
            findings += _check_three(cls, run=exact or thorough)
            if not exact and thorough:
                findings += _check_padding(cls)
    names = ", ".join(name for name, _ in trial_games(cls))
    findings.append(Finding("plays at least one trial game", bool(tried), "" if tried else f"none of {names}"))
    if tried and thorough and all(f.passed for f in findings):
        stored = f"{tried[0]}: an encounter runs, is measured, stored and read back"
        findings.append(attempt(stored, lambda: _stored(cls, tried[0])))
    return findings


REFUSED = "compiles, with the access it declares"
KEPT = "init and update keep shapes, structure and dtype"
PURE = "update is a pure function"
CARRIED = "state can be stored"
DECISIVE = (REFUSED, KEPT, PURE, CARRIED)
"""Checks without which updates cannot be compared."""


def _check_program(trial: Trial) -> list[Finding]:
    """Checks that need no run: of the program that an update is."""
    rule, game = trial.rule, trial.game
    traced: list[Any] = []
    warned: list[str] = []

    def allowed() -> str | None:
        with _precision_warnings(warned):
            traced.append(trial.program.trace(*trial.arguments()))
        return _overdeclared(trial)

    def kept() -> str | None:
        out: Updated = traced[0].out_info
        if trial.exact:
            seat = trial.player
            # A tuple of scalars will do as well as an array.
            got = jax.eval_shape(
                lambda: jnp.stack([*started(rule, jax.random.key(0), game, seat, trial.artifacts[seat])[0]])
            ).shape
            if got != (game.sizes[trial.player],):
                return f"init gives policy parameters of shape {got}, not {(game.sizes[trial.player],)}"
        for what, x, y in (("own parameters", out.before, out.after), ("state", out.state, out.new_state)):
            if str(jax.tree.structure(x)) != str(jax.tree.structure(y)):
                return f"update changes the structure of the {what}: a loop over updates cannot carry that"
            for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
                if a.shape != b.shape:
                    return f"update changes the shape {a.shape} in the {what} to {b.shape}"
                if a.dtype != b.dtype:
                    return f"update changes the dtype {a.dtype} in the {what} to {b.dtype}; keep that of view.own"
        if any(x.shape for x in out.info.values()):
            return "an info is not a scalar; report a mean, or several"
        return None

    def precise() -> str | None:
        if weakly_typed((traced[0].out_info.after, traced[0].out_info.new_state)):
            return "a weakly typed number (a Python one) is returned, whose dtype is whatever it meets; use jnp.asarray"
        out, told = traced[0].out_info, warned
        if trial.exact:  # others are traced in single precision anyhow
            told = []
            with jax.enable_x64(False), _precision_warnings(told):
                single = single_precision(trial.artifacts)
                out = jax.eval_shape(
                    Trial(rule, game, trial.name, artifacts=single).update, *single_precision(trial.arguments())
                )
        if told:
            return "asks for float64 in single precision; use the dtype of view.own, or leave it out"
        wrong = [x.dtype for x in jax.tree.leaves(out.after) if x.dtype != jnp.float32]
        return f"float32 parameters become {wrong[0]}" if wrong else None

    def pure() -> str | None:
        before = python_state(type(rule))
        again, _ = trial.again
        changed = changed_name(before, python_state(type(rule)))
        if changed:
            return f"an update changes {changed}: what is remembered belongs into the state that update returns"
        if fingerprint(again) != fingerprint(traced[0]):
            return (
                "two equal calls are two different programs: something beside the arguments decides "
                "(Python's or NumPy's random numbers, the clock, what an earlier call left)"
            )
        return "update writes into the state that it is given; return a new one" if trial.written else None

    def keys() -> str | None:
        return outside_randomness(_keyed_trace(trial)) or key_reuse(trial.update, trial.arguments())

    def carried() -> str | None:
        out: Updated = traced[0].out_info
        for what, tree in (("policy parameters", out.after), ("state", out.new_state)):
            for x in jax.tree.leaves(tree):
                if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
                    return f"the {what} hold a random key, which cannot be stored; every update is given its own"
        return None

    def named() -> str | None:
        counted = {name for count in game.counts for name in (count.name, *count.share_of)}
        computed = {name for name, metric in METRICS.items() if metric.level != "report"}
        taken = sorted({*traced[0].out_info.info} & (computed | counted))
        if not taken:
            return None
        return (
            f"reports {taken[0]!r}, which is a metric: it would be stored as 'reported_{taken[0]}'; give another name"
        )

    def stated() -> str | None:
        text = plain(lambda: rule.facts(game))
        forgotten = sorted({*Learner().facts(game)} - {*json.loads(text)})
        if forgotten:
            return f"facts() leaves out {forgotten[0]!r}; add to super().facts(game)"
        again = jax.tree.unflatten(jax.tree.structure(rule), jax.tree.leaves(rule))
        return None if plain(lambda: again.facts(game)) == text else "two equal rules state different facts"

    findings = attempts(trial.name, {REFUSED: allowed})
    if not traced:
        return findings
    return findings + attempts(
        trial.name,
        {
            KEPT: kept,
            "precision is that of its parameters": precise,
            PURE: pure,
            "random keys are used once, and no others": keys,
            CARRIED: carried,
            "reports by names of its own": named,
            "facts are JSON, and always the same": stated,
        },
    )


@contextlib.contextmanager
def _precision_warnings(messages: list[str]) -> Iterator[None]:
    """Collects JAX's warnings of double precision that was asked for and not to be had."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    messages += [str(w.message) for w in caught if "float64" in str(w.message) and "requested" in str(w.message)]


def _overdeclared(trial: Trial) -> Note | None:
    """No fault: what a rule may see can be more than it asked for this time."""
    access = trial.rule.access
    if access == Access.ACTIONS:
        return None
    try:
        jax.eval_shape(lambda own, lane, at: trial.update(own, lane, at, Access(access - 1)), *trial.arguments())
    except AccessError:
        return None
    return Note(f"declares access {str(access)!r}; what it asked the view for needs less")


def _undeclared_steps(rule: Learner) -> Note | None:
    """No fault: what is called a step size may be one that others are assumed to take."""
    alike = [
        f.name
        for f in dataclasses.fields(rule)  # type: ignore[arg-type]
        if isinstance(f.default, float) and (f.name == "lr" or f.name.endswith("_lr"))
    ]
    if not alike:
        return None
    return Note(
        f"not checked: {', '.join(alike)} may be a step size, but no field is declared as one; if it multiplies the "
        "update, field(default, doc, step=True)"
    )


def _keyed_trace(trial: Trial) -> Any:
    """The program of init and update from keys that enter as arguments."""

    def both(key: Array, update_key: Array, params: Any) -> Any:
        stage = trial.stage(trial.numbers, trial.game, trial.artifacts)
        joint = trial.start(stage, key)
        start = trial.start(stage, key, params) if params else joint
        still = {i: (start.params[i], start.states[i]) for i in range(trial.game.n_players) if i != trial.player}
        return joint, stage.episode(update_key, start, still)

    key = jax.eval_shape(jax.random.key, 0)
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct((), x.dtype), trial.point(0))
    return jax.jit(both).trace(key, key, params)


def _check_lanes(trial: Trial, first: bool, thorough: bool) -> list[Finding]:
    """Checks that compare updates of one program; in the first game also with updates of single seeds,
    which have programs of their own."""
    rule, game = trial.rule, trial.game
    lanes = trial.lanes()
    tolerance = 1e-9 if trial.exact else 1e-3
    memory: dict[str, Any] = {}

    def ran() -> dict[str, Updated]:
        if not memory:
            memory.update(zip(lanes, trial.together(list(lanes.values())), strict=True))
        return memory

    @functools.cache
    def batched() -> bool:
        """Whether a seed alone gets what it gets in a batch."""
        return near(_alone(trial, *lanes["first"]).after, ran()["first"].after, tolerance)

    def finite() -> str | None:
        for name in ("first", "second", "no step", "half"):
            if not all_finite((ran()[name].after, ran()[name].new_state)):
                what = {"no step": "with step sizes of zero", "half": "with all numbers halved"}.get(name, "")
                return f"not finite after one update {what}".strip()
        return None

    def deterministic() -> str | None:
        again = trial.together(list(lanes.values()))
        same = all(near(x, y) for x, y in zip(again, ran().values(), strict=True))
        return None if same else "two equal calls of one program differ: it calls back into Python, or keeps something"

    def apart() -> str | None:
        names = list(lanes)
        turned = names[1:] + names[:1]
        shifted = dict(zip(turned, trial.together([lanes[x] for x in turned]), strict=True))
        changed = [x for x in names if not near(shifted[x].after, ran()[x].after, tolerance)]
        if first and not batched():
            return "a seed alone (unbatched) gets another update than in a batch: batch sizes or other seeds leak in"
        return "a seed's update depends on which other seeds are in the batch" if changed else None

    def swept() -> str | None:
        if not jax.tree.leaves(rule) or not first or not batched():
            return None
        same = near(_alone(trial, *lanes["half"]).after, ran()["half"].after, tolerance)
        return None if same else "a vmapped sweep over hyperparameters differs from single runs"

    def still() -> str | None:
        steps = step_sizes(trial.numbers)
        if rule.online:  # a learner that learns while it plays shows what it played last
            return None
        if not steps:
            return _undeclared_steps(rule)
        out = ran()["no step"]
        after, before = (jax.tree.leaves(rule.learned_part(x)) for x in (out.after, out.before))
        # The program may compute where it starts twice, and round otherwise.
        same = near(list(after), list(before), 1e-6)
        return None if same else f"{', '.join(steps)} = 0 moves the policy; every step is to be multiplied by it"

    def honest() -> str | None:
        first, moved = ran()["first"], ran()["hidden moved"]
        # Tight: a small step turns what is peeked at into a small change.
        if near((moved.after, moved.new_state), (first.after, first.new_state), min(tolerance, 1e-5)):
            return None
        return (
            f"the update changes with what access {str(rule.access)!r} does not show (others' parameters, rewards, "
            "states or rules): ask the view, not its private attributes, and declare what you need"
        )

    def random() -> str | None:
        first, other = ran()["first"], ran()["other dice"]
        if not rule.learns:
            return None
        if not trial.exact and near((first.after, first.new_state), (other.after, other.new_state)):
            return "other episodes and another key give the very same update; learn from view.play"
        return None

    def shaped() -> str | None:
        arrays = dataclasses.replace(trial, arrays=True)
        got = arrays.update(*jax.tree.map(jnp.asarray, lanes["first"])).after
        scalars = _alone(trial, *lanes["first"]).after
        if np.shape(got) == (game.sizes[0],) and np.allclose(got, np.stack(scalars)):
            return None
        return "arrays and tuples of scalars as parameters give different updates; use algorithms.core.trees"

    def rounded() -> str | None:
        if not near(ran()["other dice"].after, ran()["first"].after):
            return None  # draws differ between precisions
        with jax.enable_x64(False):
            single = Trial(rule, game, trial.name)
            got = single.together(list(single.lanes().values()))[0]
        return None if near(got.after, ran()["first"].after, 1e-3) else "single precision gives another update"

    def fair() -> str | None:
        jointly = isinstance(rule, PreparedLearner) and rule.prepared_jointly
        if not (trial.exact and game.symmetric and game.n_players == 2) or jointly:
            return None  # what was prepared for both seats need not be alike; dice are not shared by seats
        second = dataclasses.replace(trial, player=1)
        got = second.together(list(second.lanes(swapped=True).values()))[0]
        if near(got.after, ran()["first"].after, tolerance):
            return None
        return "the two seats of a symmetric game are treated differently; use view.player, view.others, not 0 and 1"

    def prepared() -> str | None:
        if not isinstance(rule, PreparedLearner):
            return None
        first, other = ran()["first"], ran()["other artifact"]
        same = near((first.start, first.after, first.new_state), (other.start, other.after, other.new_state))
        return "another artifact gives the same start and update: what was prepared is not used" if same else None

    def priced() -> str | None:
        if trial.exact or not rule.learns:
            return None
        _, steps = trial.again
        return None if steps else "an update is charged no environment steps; play by view.play or price it"

    findings = attempts(trial.name, {"finite": finite})
    if not findings[0].passed:
        return findings
    checks: dict[str, Callable[[], str | None]] = {
        "deterministic under a key": deterministic,
        "seeds are independent of the batch": apart,
        "hyperparameters can be swept": swept,
        "a step size of zero is a no-op": still,
        "sees only what it declares": honest,
    }
    if trial.exact:
        if first or thorough:
            checks["symmetric seats"] = fair
        if first and not rule.needs_preparation:
            checks |= {"parameters as arrays or as scalars": shaped, "single precision agrees": rounded}
    else:
        checks |= {"different under different keys": random, "play is priced": priced}
    if isinstance(rule, PreparedLearner):
        checks["the artifact matters"] = prepared
    return findings + attempts(trial.name, checks)


def _alone(trial: Trial, rule: Learner, lane: Lane) -> Updated:
    """An update of a single seed: exact rules without any compilation, others compiled."""
    if trial.exact and not rule.needs_preparation:
        return trial.update(jax.tree.map(jnp.asarray, rule), jax.tree.map(jnp.asarray, lane))
    return trial.alone(rule, lane)


def _check_zero_sum(trial: Trial) -> Finding:
    """Iterated matching pennies differ from the prisoner's dilemma in numbers and in facts that follow from them."""
    game = make("imp")

    def updated() -> str | None:
        if len(entered_seats(trial.rule, game)) < game.n_players:
            return None
        # What was prepared for one game need not fit another.
        there = Trial(trial.rule, game, "imp") if trial.rule.needs_preparation else trial
        outs = there.together(list(there.lanes().values()), game)
        return None if all(all_finite(out.after) for out in outs[:4]) else "not finite after one update"

    return attempt("imp: a finite update", updated)


def _check_three(cls: type[Learner], run: bool) -> list[Finding]:
    """Among three players, if the rule says that it can be; where it is not run, its program is only made."""
    places = (("matrix-one-shot", {"payoffs": THREE_PLAYERS}),) if is_exact(cls) else (TABLE_OF_THREE, ROOM_OF_THREE)
    for name, numbers in places:
        game = make(name, **numbers)
        rule = trial_rule(cls, name, game)
        if rule is not None:
            break
    if rule is None or (rule.needs_preparation and not run):
        return []

    def updated() -> str | None:
        trial = Trial(rule, game, name)
        out = jax.eval_shape(trial.program, *trial.arguments())
        if str(jax.tree.structure(out.before)) != str(jax.tree.structure(out.after)):
            return "update changes the structure of the own parameters"
        if not run:
            return None
        (out,) = trial.together([(trial.numbers, trial.lane())])
        return None if all_finite(out.after) else "not finite after one update"

    return [attempt(f"{name}: a finite update among 3 players", updated)]


def _check_padding(cls: type[Learner]) -> list[Finding]:
    """Episodes that are over before they are full: random words and keys of what is played are the same then,
    however long they are padded."""
    rule = trial_rule(cls, "ipd", CutShort())
    if rule is None:
        return []

    def unmoved() -> str | None:
        outs = []
        for horizon in PADDED:
            trial = Trial(rule, CutShort(horizon=horizon), "ipd")
            (out,) = trial.together([(trial.numbers, trial.lane())])
            outs.append(jax.tree.leaves((out.after, out.new_state)))
        # What a rule keeps of whole episodes is as long as they are.
        short, long = zip(*((x, y) for x, y in zip(*outs, strict=True) if x.shape == y.shape), strict=True)
        if near(short, long, 1e-3):
            return None
        return "what comes after the end of an episode changes the update; weigh steps by play.alive, if there is one"

    return [attempt("ipd: learns nothing after the end of an episode", unmoved)]


def _stored(cls: type[Learner], name: str) -> str | None:
    """What goes wrong on the way from an encounter to a stored cell and back."""
    from shaping_bench.run.measure import measure
    from shaping_bench.store.store import Store, read_parquet

    game = make(name, **dict(trial_games(cls))[name])
    rule = trial_rule(cls, name, game)
    assert rule is not None
    rules = (rule,) * game.n_players
    artifacts = [
        jax.tree.map(lambda x: np.asarray(x)[None], imagined_artifact(rule, game, i)) for i in range(game.n_players)
    ]
    outcome = run_encounter(game, rules, num_seeds=2, num_updates=2, episodes=4, artifacts=artifacts)
    if outcome.diverged.any():
        return "diverged within two updates"
    finals, curves = measure(game, rules, outcome)
    with tempfile.TemporaryDirectory() as folder:
        Store(folder).write("trial", {}, finals, curves)
        read = read_parquet(Path(folder) / "cells" / "trial" / "finals.parquet")
    values = read.loc[read["metric"] == "return", "value"]
    return None if len(values) == 2 * game.n_players and np.isfinite(values).all() else "no finite returns are stored"
