"""The conformance kit: what the harness relies on, checked on anybody's class.

``shaping-bench check MODULE:CLASS`` runs it on an algorithm or a game and says what is
missing. Every check is small, runs in float64 and compares numbers, not types alone.
"""

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from algorithms import costs
from algorithms.base import AccessError, Learner, PreparedLearner, View
from games import make
from games.base import Game
from shaping_bench.encounter import imagined_artifact, started
from shaping_bench.errors import BadInput

TRIAL_GAMES = ("ipd", "imp", "tandem", "public-goods")
"""Symmetric, zero-sum, unbounded and three-player: what a rule may meet."""

TRIAL_PLAYGROUNDS = (("ipd", {"horizon": 6}), ("coin-game", {"horizon": 6}))
"""Where a rule that plays is tried: a memory-one game and one that needs a network."""

TRIAL_SIZES = {"batch_size": 16, "hidden": 8}
"""Static fields of a rule that are made small for the trial, where it has them."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One check: what it is about, whether it holds, and what was seen."""

    name: str
    passed: bool
    detail: str = ""

    def __str__(self) -> str:
        return f"{'ok     ' if self.passed else 'MISSING'}  {self.name}" + (f": {self.detail}" if self.detail else "")


def check_target(target: str) -> list[Finding]:
    """Checks ``MODULE:CLASS``.

    Raises:
      BadInput: the target cannot be imported or is neither a learner nor a game.
    """
    module, colon, name = target.partition(":")
    if not colon or not module or not name:
        raise BadInput(f"check is {target!r}; allowed: MODULE:CLASS, e.g. algorithms.lola:LOLA")
    if "" not in sys.path:  # an installed command does not look where the user stands
        sys.path.insert(0, "")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise BadInput(f"check is {target!r}, which cannot be imported ({error})") from None
    if not inspect.isclass(cls) or not issubclass(cls, Learner | Game):
        raise BadInput(f"check is {target!r}, which is neither a Learner nor a Game; allowed: a subclass of either")
    return check_learner(cls) if issubclass(cls, Learner) else check_game(cls)


def _attempt(name: str, check: Callable[[], str | None]) -> Finding:
    """A check returns what is wrong, or None; an exception is a finding too."""
    try:
        wrong = check()
    except AccessError as error:
        return Finding(name, False, str(error))
    except Exception as error:
        return Finding(name, False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    return Finding(name, wrong is None, wrong or "")


def _as_pytree(cls: type) -> list[Finding]:
    def dataclass_pytree() -> str | None:
        if not dataclasses.is_dataclass(cls) or "__dataclass_fields__" not in vars(cls):
            return "decorate the class with games.fields.pytree_dataclass"
        fields = dataclasses.fields(cls)
        without = [f.name for f in fields if f.default is dataclasses.MISSING]
        if without:
            return f"fields without a default: {', '.join(without)}"
        made = cls()
        leaves, structure = jax.tree.flatten(made)
        # A field that is None by default ("as something else") has no leaf until it is given.
        traced = [f.name for f in fields if not f.metadata.get("static") and f.default is not None]
        if len(leaves) < len([x for x in traced if x != "payoffs"]) or not isinstance(
            jax.tree.unflatten(structure, leaves), cls
        ):
            return "the class does not round-trip as a pytree whose leaves are its traced fields"
        return None

    def documented() -> str | None:
        if not (cls.__doc__ or "").strip():
            return "the class has no docstring"
        silent = [f.name for f in dataclasses.fields(cls) if not f.metadata.get("doc")]
        return f"fields without a doc: {', '.join(silent)}" if silent else None

    return [
        _attempt("is a frozen dataclass that is a pytree, all fields with defaults", dataclass_pytree),
        _attempt("is documented", documented),
    ]


# --- learners -----------------------------------------------------------------------------


def check_learner(cls: type[Learner]) -> list[Finding]:
    """Checks a learning rule on every trial game that it can play."""
    findings = _as_pytree(cls)
    if not findings[0].passed:
        return findings
    rule = _small(cls)
    if "exact" not in rule.views:
        return findings + _check_playing(cls)
    played = 0
    with jax.enable_x64(True):
        for name in TRIAL_GAMES:
            game = make(name)
            try:
                for player in range(game.n_players):
                    rule.check_game(game, player)
            except ValueError:
                continue
            played += 1
            if isinstance(rule, PreparedLearner):
                findings += _check_preparation(rule, game, name)
            findings += _check_on(rule, game, name)
    findings.append(Finding("plays at least one trial game", played > 0, "" if played else ", ".join(TRIAL_GAMES)))
    return findings


def _small(cls: type[Learner]) -> Learner:
    """The rule with its default numbers; a preparation is made small."""
    own = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    small = {k: v for k, v in TRIAL_SIZES.items() if k in own and cls.needs_preparation}
    return cls(**small)


def _check_preparation(rule: PreparedLearner, game: Game, name: str) -> list[Finding]:
    seat = rule.prepared_seat(game, 0)

    def begun(seed: Any) -> Any:
        return rule.prepare_init(jax.random.fold_in(jax.random.key(0), seed), game, seat)

    def stepped(seed: Any) -> Any:
        """Two steps: the second starts where the first ended."""
        carry: Any = begun(seed)
        info: Any = None
        for step in range(2):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), seed), step)
            carry, info = rule.prepare_step(key, jnp.int32(step), carry, game, seat)
        return rule.artifact(carry), dict(info or {})

    together = jax.jit(jax.vmap(stepped))
    seeds = jnp.arange(2)

    def contract() -> str | None:
        before = jax.eval_shape(begun, 0)
        key = jax.random.key(0)
        after, info = jax.eval_shape(lambda: rule.prepare_step(key, jnp.int32(0), begun(0), game, seat))
        if str(jax.tree.structure(before)) != str(jax.tree.structure(after)):
            return "a step changes the structure of what it carries"
        for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            if x.shape != y.shape:
                return f"a step changes the shape {x.shape} of what it carries to {y.shape}"
            if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
                return "the carry holds a random key, which checkpoints cannot; steps are given theirs"
        if any(x.shape for x in info.values()):
            return "an info is not a scalar"
        return None if rule.preparation_steps > 0 else f"preparation_steps is {rule.preparation_steps}"

    def finite() -> str | None:
        artifact, info = together(seeds)
        good = all(np.isfinite(x).all() for x in jax.tree.leaves((artifact, info)))
        return None if good else "not finite after two steps"

    def deterministic() -> str | None:
        first, again = jax.tree.leaves(together(seeds)[0]), jax.tree.leaves(together(seeds)[0])
        same = all(np.array_equal(x, y) for x, y in zip(first, again, strict=True))
        return None if same else "two equal preparations differ"

    def random() -> str | None:
        leaves = jax.tree.leaves(together(seeds)[0])
        return None if any(not np.array_equal(x[0], x[1]) for x in leaves) else "two seeds prepare the same"

    def priced() -> str | None:
        with costs.counting() as count:
            jax.eval_shape(lambda: stepped(0))  # a new function: what was traced before is not traced again
        return None if count.evaluations or count.steps else "a step is charged nothing"

    checks = {
        "preparation keeps shapes and structure": contract,
        "finite preparation": finite,
        "preparation deterministic under a key": deterministic,
        "preparation different under different keys": random,
        "preparation is priced": priced,
    }
    return [_attempt(f"{name}: {what}", check) for what, check in checks.items()]


def _check_on(rule: Learner, game: Game, name: str) -> list[Finding]:
    # Seats beyond the second teach nothing new and cost a compilation each.
    players = range(game.n_players) if game.n_players == 2 else range(1)
    rules = (rule,) * game.n_players
    batch = 3
    rng = np.random.default_rng(0)
    # Scalars, as encounters pass them; arrays are checked for the same answer.
    points = [tuple(jnp.asarray(0.5 * rng.normal(size=batch)) for _ in range(d)) for d in game.sizes]
    key = jax.random.key(0)
    # Unprepared networks will do: what is checked does not depend on what they learned.
    artifacts = [jax.jit(lambda i=i: imagined_artifact(rule, game, i))() for i in players]

    def update(rule: Learner, params: Sequence[Any], player: int, seed: Any = 0) -> Any:
        start = jax.random.fold_in(key, seed)
        _, state = started(rule, start, game, player, artifacts[player])
        view = View(game, params, player, rule.access, rules, key=start, artifact=artifacts[player])
        return rule.update(start, state, view)

    def at(k: int) -> list[Any]:
        return [tuple(x[k] for x in theta) for theta in points]

    step = [jax.jit(lambda r, params, seed, i=i: update(r, params, i, seed)[0]) for i in players]

    def moved(k: int, player: int = 0, rule: Learner = rule) -> np.ndarray:
        return np.array([float(x) for x in step[player](rule, at(k), k)])

    def contract() -> str | None:
        for player in players:
            params, _ = started(rule, key, game, player, artifacts[player])
            if np.shape(params) != (game.sizes[player],):
                return f"init gives player {player + 1} shape {np.shape(params)}, not {(game.sizes[player],)}"
            new, _, info = jax.eval_shape(lambda i=player: update(rule, at(0), i))
            before, after = (str(jax.tree.structure(x)) for x in (at(0)[player], new))
            if before != after:
                return "update changes the structure of the own parameters"
            if any(x.dtype != jnp.float64 for x in new):
                return f"update changes the dtype to {[str(x.dtype) for x in new]}"
            if any(x.shape for x in info.values()):
                return "an info is not a scalar"
        return None

    def finite() -> str | None:
        bad = [k for k in range(batch) for i in players if not np.isfinite(moved(k, i)).all()]
        return f"not finite at trial point {bad[0]}" if bad else None

    def deterministic() -> str | None:
        return None if np.array_equal(moved(0), moved(0)) else "two equal calls differ"

    def batched() -> str | None:
        for player in players:
            together = jax.vmap(step[player], in_axes=(None, 0, 0))(rule, points, jnp.arange(batch))
            apart = np.stack([moved(k, player) for k in range(batch)], -1)
            if not np.allclose(np.stack(together), apart, rtol=1e-9, atol=1e-9):
                return "a seed's update depends on the batch it is in"
        return None

    def swept() -> str | None:
        leaves, structure = jax.tree.flatten(rule)
        if not leaves:
            return None
        factors = jnp.array([0.5, 1.0])
        swept_rule = jax.tree.unflatten(structure, [jnp.asarray(x, jnp.float64) * factors for x in leaves])
        together = jax.vmap(step[0], in_axes=(0, None, None))(swept_rule, at(0), 0)
        halved = jax.tree.unflatten(structure, [x * 0.5 for x in leaves])
        apart = np.stack([moved(0, rule=halved), moved(0)], -1)
        return (
            None
            if np.allclose(np.stack(together), apart, rtol=1e-9, atol=1e-9)
            else "a vmapped sweep differs from single runs"
        )

    def still() -> str | None:
        if not any(f.name == "lr" for f in dataclasses.fields(rule)):  # type: ignore[arg-type]
            return None
        frozen = dataclasses.replace(rule, lr=0.0)  # type: ignore[type-var]
        before = np.array([float(x) for x in at(0)[0]])
        return None if np.array_equal(moved(0, rule=frozen), before) else "lr = 0 moves the parameters"

    def fair() -> str | None:
        if not (game.symmetric and game.n_players == 2) or getattr(rule, "prepared_jointly", False):
            return None  # what was prepared for both seats need not be alike
        here = at(0)
        swapped = [here[1], here[0]]
        first = [float(x) for x in step[0](rule, here, 0)]
        second = [float(x) for x in step[1](rule, swapped, 0)]
        return (
            None
            if np.allclose(first, second, rtol=1e-9, atol=1e-9)
            else "the two seats of a symmetric game are treated differently"
        )

    checks = {
        "init and update keep shapes, structure and dtype": contract,
        "sees only what its access allows; finite updates": finite,
        "deterministic under a key": deterministic,
        "independent of the batch": batched,
        "hyperparameters can be swept": swept,
        "a step size of zero is a no-op": still,
        "symmetric seats": fair,
    }
    return [_attempt(f"{name}: {what}", check) for what, check in checks.items()]


def _enters(rule: Learner, game: Game) -> bool:
    try:
        for player in range(game.n_players):
            rule.check_game(game, player)
            rule.policy(game, player)
    except ValueError:
        return False
    return True


def _check_playing(cls: type[Learner]) -> list[Finding]:
    """Checks a rule that learns from play on every playground that it can enter."""
    findings: list[Finding] = []
    entered = 0
    own = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name, changes in TRIAL_PLAYGROUNDS:
        game = make(name, **changes)
        published = dict(cls.published.get(name, {}))
        small = published | {k: v for k, v in TRIAL_SIZES.items() if k in own}
        # Small sizes may not go together with the other fields, which is no reason to skip a game.
        rule = next((rule for rule in (cls(**small), cls(**published)) if _enters(rule, game)), None)
        if rule is None:
            continue
        entered += 1
        findings += _check_play_in(rule, game, name)
    names = ", ".join(name for name, _ in TRIAL_PLAYGROUNDS)
    return [*findings, Finding("plays at least one trial game", entered > 0, "" if entered else names)]


def _check_play_in(rule: Learner, game: Game, name: str) -> list[Finding]:
    rules = (rule,) * game.n_players

    def update(rule: Learner, seed: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(0), seed)
        everybody = (rule, *rules[1:])
        artifacts = [imagined_artifact(r, game, i) for i, r in enumerate(everybody)]
        pairs = [started(r, jax.random.fold_in(key, i), game, i, artifacts[i]) for i, r in enumerate(everybody)]
        params, states = [x for x, _ in pairs], [x for _, x in pairs]
        shown = [r.shown(x, state) for r, (x, state) in zip(rules, pairs, strict=True)]
        view = View(game, params, 0, rule.access, everybody, key=key, states=states, shown=shown, artifact=artifacts[0])
        new, state, info = rule.update(key, states[0], view)
        return params[0], new, (states[0], state), dict(info)

    seeds = jnp.arange(3)
    together = jax.jit(jax.vmap(update, in_axes=(None, 0)))
    alone = jax.jit(update)

    def contract() -> str | None:
        before, after, (old, new), info = jax.eval_shape(update, rule, 0)
        for what, x, y in (("own parameters", before, after), ("state", old, new)):
            if str(jax.tree.structure(x)) != str(jax.tree.structure(y)):
                return f"update changes the structure of the {what}"
            changed = [a for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True) if a != b]
            if changed:
                return f"update changes the shape or dtype of the {what}"
        return "an info is not a scalar" if any(x.shape for x in info.values()) else None

    def same(x: Any, y: Any, exactly: bool = True) -> bool:
        near = np.array_equal if exactly else lambda a, b: np.allclose(a, b, rtol=1e-3, atol=1e-4)
        return all(near(a, b) for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))

    def finite() -> str | None:
        _, new, _, _ = together(rule, seeds)
        good = all(np.isfinite(x).all() for x in jax.tree.leaves(new))
        return None if good else "not finite after one update"

    def deterministic() -> str | None:
        return None if same(together(rule, seeds)[1], together(rule, seeds)[1]) else "two equal calls differ"

    def batched() -> str | None:
        first = jax.tree.map(lambda x: x[1], together(rule, seeds)[1])
        return (
            None if same(first, alone(rule, 1)[1], exactly=False) else "a seed's update depends on the batch it is in"
        )

    def random() -> str | None:
        a, b = (jax.tree.map(lambda x, k=k: x[k], together(rule, seeds)[1]) for k in (0, 1))
        return "two seeds give the same policy" if rule.learns and same(a, b) else None

    def still() -> str | None:
        steps = [f.name for f in dataclasses.fields(rule) if f.name.endswith("lr")]  # type: ignore[arg-type]
        if not steps or rule.online:  # a learner that learns while it plays shows what it played last
            return None
        frozen = dataclasses.replace(rule, **dict.fromkeys(steps, 0.0))  # type: ignore[type-var]
        before, after, _, _ = together(frozen, seeds)
        return None if same(before, after) else f"{', '.join(steps)} = 0 moves the policy"

    def priced() -> str | None:
        with costs.counting() as count:
            jax.eval_shape(lambda: update(rule, 0))  # a new function: what was traced before is not traced again
        return "an update is charged no environment steps" if rule.learns and not count.steps else None

    checks = {
        "init and update keep shapes, structure and dtype": contract,
        "sees only what its access allows; finite updates": finite,
        "deterministic under a key": deterministic,
        "different under different keys": random,
        "independent of the batch": batched,
        "step sizes of zero are a no-op": still,
        "play is priced": priced,
    }
    return [_attempt(f"{name}: {what}", check) for what, check in checks.items()]


# --- games --------------------------------------------------------------------------------


def check_game(cls: type[Game]) -> list[Finding]:
    """Checks a game with its default numbers."""
    findings = _as_pytree(cls)
    if not findings[0].passed:
        return findings
    with jax.enable_x64(True):
        return findings + check_game_instance(cls())


def check_game_instance(game: Game) -> list[Finding]:
    """Checks a game as it stands; call it with 64-bit floats enabled."""
    rng = np.random.default_rng(0)
    points = [[jnp.asarray(0.5 * rng.normal(size=d)) for d in game.sizes] for _ in range(3)]

    def shapes() -> str | None:
        for player in range(game.n_players):
            got = np.shape(game.init_params(jax.random.key(0), player))
            if got != (game.sizes[player],):
                return f"init_params gives {got} for player {player + 1}, not ({game.sizes[player]},)"
        got = np.shape(game.values(points[0]))
        return None if got == (game.n_players,) else f"values has shape {got}, not ({game.n_players},)"

    def finite() -> str | None:
        return (
            None
            if all(np.isfinite(game.values(p)).all() for p in points)
            else "values are not finite at ordinary points"
        )

    def scalars() -> str | None:
        as_tuples = [tuple(theta) for theta in points[0]]
        same = np.allclose(game.values(points[0]), game.values(as_tuples))
        return None if same else "arrays and tuples of scalars give different values"

    def differentiable() -> str | None:
        for i in range(game.n_players):
            flat, back = ravel_pytree(points[0])

            def value(x: Any, i: int = i, back: Any = back) -> Any:
                return game.value(back(x), i)

            gradient = jax.grad(value)(flat)
            direction = jnp.asarray(rng.normal(size=flat.shape))
            step = 1e-5
            numeric = (value(flat + step * direction) - value(flat - step * direction)) / (2 * step)
            if not np.allclose(gradient @ direction, numeric, rtol=1e-5, atol=1e-6):
                return f"the gradient of player {i + 1} disagrees with finite differences"
        return None

    def batched() -> str | None:
        stacked = [jnp.stack(x) for x in zip(*points, strict=True)]
        together = jax.vmap(lambda *p: game.values(p))(*stacked)
        return None if np.allclose(together, np.stack([game.values(p) for p in points])) else "vmap changes the values"

    def symmetric() -> str | None:
        if not game.symmetric:
            return None
        a, b = points[0]
        return (
            None
            if np.allclose(game.values((a, b)), game.values((b, a))[::-1])
            else "claims symmetry, but is not symmetric"
        )

    def zero_sum() -> str | None:
        if not game.zero_sum:
            return None
        return None if np.allclose(sum(game.values(points[0])), 0.0, atol=1e-9) else "claims to be zero-sum, but is not"

    def best_response() -> str | None:
        if not game.has_best_response:
            return None
        for i in range(game.n_players):
            answer = jnp.stack(list(game.best_response(points[0], i)))
            best = game.value([answer if j == i else x for j, x in enumerate(points[0])], i)
            if best < game.value(points[0], i) - 1e-9:
                return f"the best response of player {i + 1} is worse than an arbitrary policy"
        return None

    exact = {
        "shapes": shapes,
        "finite values": finite,
        "parameters as arrays or as scalars": scalars,
        "differentiable": differentiable,
        "vmappable": batched,
        "symmetric as it says": symmetric,
        "zero-sum as it says": zero_sum,
        "best response is one": best_response,
    }
    checks = {**(exact if "exact" in game.views else {}), "sampled view": lambda: _sampled_view(game)}
    return [_attempt(what, check) for what, check in checks.items()]


def _sampled_view(env: Any) -> str | None:
    """What is wrong with ``reset`` and ``step``, if the game offers them."""
    if "sampled" not in env.views:
        return None
    keys = jax.random.split(jax.random.key(0), 3)
    actions = jnp.zeros(env.n_players, jnp.int32)

    @jax.jit
    def first_step(key: Any) -> Any:
        return env.step(key, env.reset(key)[1], actions)

    seen, state = env.reset(keys[0])
    seen_next, state_next, rewards, done, _ = jax.jit(env.step)(keys[1], state, actions)
    if rewards.shape != (env.n_players,) or done.shape != ():
        return "step gives rewards or done of the wrong shape"
    if seen.shape[:1] != (env.n_players,):
        return f"observations have shape {seen.shape}; their first axis should be the {env.n_players} players"
    described = [jax.tree.map(lambda x: (x.shape, x.dtype), x) for x in ((seen, state), (seen_next, state_next))]
    if described[0] != described[1]:
        return "reset and step differ in the structure, shapes or dtypes of observations or states"
    if not np.allclose(env.observe(state_next), seen_next):
        return "observe gives other observations of a state than step"
    if seen.shape[1:] != tuple(env.observation_shape):
        return f"observations have shape {seen.shape[1:]} per player; observation_shape says {env.observation_shape}"
    together = jax.vmap(first_step)(keys)
    apart = [first_step(key) for key in keys]
    same = jax.tree.map(lambda x, *rows: np.allclose(x, np.stack(rows)), together, *apart)
    return None if all(jax.tree.leaves(same)) else "vmap changes what a step does"
