"""The conformance kit: what the harness relies on, checked on anybody's class.

``shaping-bench check MODULE:CLASS`` runs it on an algorithm or a game and says what is missing
and how to mend it. Most checks compare the *lanes* of one compiled program: the same update with
one thing changed (its seed, its dice, its step size, what it may not see). A few read the
program itself: keys used twice, randomness that comes from elsewhere, weak types.
"""

import contextlib
import dataclasses
import functools
import importlib
import inspect
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from shaping_bench.algorithms.core import Access, AccessError, Learner, Play, PreparedLearner, View, costs
from shaping_bench.algorithms.core.policy import Tabular
from shaping_bench.algorithms.core.rollouts import rollout
from shaping_bench.algorithms.core.stage import started
from shaping_bench.algorithms.naive import Naive
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.games.base import Game
from shaping_bench.games.fields import check_field
from shaping_bench.run.encounter import run_encounter
from shaping_bench.run.preparation import imagined_artifact
from shaping_bench.spec import registry

SMALL_GAMES: tuple[tuple[str, dict[str, Any]], ...] = (("tandem", {}), ("ipd", {}))
"""Where an exact rule is tried: one number per player and no bounds, then memory-one policies. Both
are symmetric."""

THREE_PLAYERS = ((1, 2, 0, -1, 3, -2, 1, 0), (0, 1, 2, -1, 1, 1, -2, 3), (2, 0, 1, 1, -1, 0, 3, -2))
"""Payoffs of a one-shot game of three players without symmetry."""

PLAYGROUNDS: tuple[tuple[str, dict[str, Any]], ...] = (("ipd", {"horizon": 6}), ("coin-game", {"horizon": 6}))
"""Where a rule that plays is tried: memory-one policies, then networks."""

SIZES = {
    "batch_size": 16,
    "hidden": 8,
    "population": 4,
    "opponents": 2,
    "meta_steps": 3,
    "lookahead_steps": 1,
    "buffer_size": 2,
    "model_steps": 2,
    "inner_steps": 2,
    "outer_steps": 4,
}
"""Static fields that are made small for the trial where a rule has them."""

SHIFT = 0.37
"""By how much what must not matter is changed."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One check: what it is about, whether it holds, and what was seen."""

    name: str
    passed: bool
    detail: str = ""

    @property
    def check(self) -> str:
        """The name without the game it was checked on."""
        return self.name.rpartition(": ")[2]

    def __str__(self) -> str:
        return f"{'ok     ' if self.passed else 'MISSING'}  {self.name}" + (f": {self.detail}" if self.detail else "")


def check_target(target: str) -> list[Finding]:
    """Checks ``MODULE:CLASS``, or a learner or game by its registered name.

    Raises:
      BadInput: the target cannot be imported or is neither a learner nor a game.
    """
    module, colon, name = target.partition(":")
    if not colon and target in registry.algorithms():
        return check_learner(registry.algorithms()[target])
    if not colon and target in registry.games():
        entry = registry.games()[target]
        return check_game(entry.cls, entry.defaults)
    if not colon or not module or not name:
        raise BadInput(
            f"check is {target!r}; allowed: MODULE:CLASS, e.g. shaping_bench.algorithms.lola:LOLA, or a name of "
            "`shaping-bench list`"
        )
    if "" not in sys.path:  # an installed command does not look where the user stands
        sys.path.insert(0, "")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise BadInput(f"check is {target!r}, which cannot be imported ({error})") from None
    except Exception as error:  # whatever a module raises on import is its author's to mend
        raise BadInput(f"check is {target!r}, whose module fails on import ({type(error).__name__}: {error})") from None
    if not inspect.isclass(cls) or not issubclass(cls, Learner | Game):
        raise BadInput(f"check is {target!r}, which is neither a Learner nor a Game; allowed: a subclass of either")
    return check_learner(cls) if issubclass(cls, Learner) else check_game(cls)


def _attempt(name: str, check: Callable[[], str | None]) -> Finding:
    """A check returns what is wrong, or None; an exception is a finding too."""
    try:
        wrong = check()
    except AccessError as error:
        return Finding(name, False, f"{error}; declare that access, or do without")
    except Exception as error:
        return Finding(name, False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    return Finding(name, wrong is None, wrong or "")


def _attempts(where: str, checks: Mapping[str, Callable[[], str | None]]) -> list[Finding]:
    return [_attempt(f"{where}: {what}" if where else what, check) for what, check in checks.items()]


# --- what a class says of itself ----------------------------------------------------------


def _of_the_class(cls: type) -> list[Finding]:
    def dataclass_pytree() -> str | None:
        if not dataclasses.is_dataclass(cls) or "__dataclass_fields__" not in vars(cls):
            return "decorate the class with games.fields.pytree_dataclass"
        fields = dataclasses.fields(cls)
        without = [f.name for f in fields if f.default is dataclasses.MISSING and issubclass(cls, Learner)]
        if without:
            return f"fields without a default: {', '.join(without)}"
        if any(f.default is dataclasses.MISSING for f in fields):
            return None  # a game that needs numbers; its instances are checked
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
        if not (vars(cls).get("__doc__") or "").strip() or (cls.__doc__ or "").startswith(f"{cls.__name__}("):
            return "the class has no docstring; say in one line, with its equation, what it does"
        silent = [f.name for f in dataclasses.fields(cls) if not f.metadata.get("doc")]
        return f"fields without a doc: {', '.join(silent)}; field(default, 'what it means')" if silent else None

    def credited() -> str | None:
        if not issubclass(cls, Learner) or cls.source.strip():
            return None
        return "source is empty; say where the rule comes from: paper and equation, or that it is new"

    def validated() -> str | None:
        for f in dataclasses.fields(cls):
            wrong = _unvalidated(f, issubclass(cls, Learner))
            if wrong:
                return f"{f.name}: {wrong}"
        for game, values in getattr(cls, "published", {}).items():
            fields = {f.name: f for f in dataclasses.fields(cls)}
            if game not in registry.games():
                return f"published names the game {game!r}, which is not registered"
            for name, value in values.items():
                if name not in fields:
                    return f"published for {game} sets {name!r}, which is no field"
                check_field(cls.__name__, fields[name], value)
        return None

    return _attempts(
        "",
        {
            "is a frozen dataclass that is a pytree, all fields with defaults": dataclass_pytree,
            "is documented": documented,
            "names its source": credited,
            "hyperparameters are validated": validated,
        },
    )


def _unvalidated(f: dataclasses.Field, learner: bool) -> str | None:
    """Why values of a field are not checked before a run, if they are not."""
    meta = f.metadata
    default: Any = None if f.default is dataclasses.MISSING else f.default
    if default is not None and not isinstance(default, tuple):
        check_field("default", f, default)
    if isinstance(default, str) and not meta.get("choices"):
        return "a word without choices; field(default, doc, choices=(...), static=True)"
    number = isinstance(default, int | float) and not isinstance(default, bool)
    low, high = meta.get("low"), meta.get("high")
    counted = isinstance(default, int) and number and not meta.get("choices")
    if learner and low is None and (counted or f.name.endswith("lr")):
        return f"a {'count' if counted else 'step size'} that may be negative; field(default, doc, low=0)"
    for bound, beyond in ((low, -1.0), (high, 1.0)):
        if bound is not None:
            value = int(bound + beyond) if isinstance(default, int) else bound + beyond
            try:
                check_field("trial", f, value)
            except ValueError:
                continue
            return f"{value} is accepted though it lies beyond the bound {bound}"
    return None


# --- reading programs ---------------------------------------------------------------------


def _equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a program, inner programs included."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)


def _fingerprint(traced: Any) -> list[Any]:
    """What a program computes, with the numbers in it; equal for equal programs."""
    plain = int | float | str | bool
    out: list[Any] = [np.asarray(x).tobytes() for x in traced.jaxpr.consts]
    for equation in _equations(traced.jaxpr.jaxpr):
        literals = [np.asarray(x.val).tobytes() for x in equation.invars if hasattr(x, "val")]
        params = [(k, v) for k, v in equation.params.items() if isinstance(v, plain)]
        # Arrays that an inner program closes over, such as numpy's random ones.
        consts = [np.asarray(c).tobytes() for v in equation.params.values() for c in (getattr(v, "consts", None) or ())]
        out.append((equation.primitive.name, literals, params, consts))
    return out


def _python_state(cls: type) -> dict[str, Any]:
    """What of a class and its module can change: numbers, texts, and the sizes of containers."""

    def seen(value: Any) -> Any:
        if isinstance(value, list | dict | set):
            return (type(value).__name__, len(value), repr(value) if len(value) < 20 else "")
        if isinstance(value, np.ndarray):
            return value.tobytes()
        if isinstance(value, np.random.RandomState | np.random.Generator):
            return "a random generator"
        return value if isinstance(value, int | float | str | bool) else type(value).__name__

    module = sys.modules.get(cls.__module__)
    places = {f"{cls.__name__}.{k}": v for k, v in vars(cls).items() if not k.startswith("__")}
    places |= {f"{cls.__module__}.{k}": v for k, v in vars(module).items() if not k.startswith("__")} if module else {}
    return {name: seen(value) for name, value in places.items() if not callable(value)}


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    return next((name for name in {**before, **after} if before.get(name) != after.get(name)), None)


def _outside_randomness(traced: Any) -> str | None:
    if any(equation.primitive.name == "random_seed" for equation in _equations(traced.jaxpr.jaxpr)):
        return "makes a random key of its own, the same for all seeds; draw from the key that it is given"
    return None


def _weak(tree: Any) -> bool:
    return any(getattr(x, "weak_type", False) for x in jax.tree.leaves(tree))


def _key_reuse(function: Callable[..., Any], arguments: Sequence[Any]) -> str | None:
    try:
        with jax.debug_key_reuse(True):
            jax.jit(lambda *x: function(*x)).trace(*arguments)
    except jax.errors.KeyReuseError as error:
        first = str(error).splitlines()[0]
        return f"uses a random key twice, so that draws are dependent; split it ({first})"
    return None


# --- learners -----------------------------------------------------------------------------


class _Lane(NamedTuple):
    """One update: whose, from where, with which dice, and what of the hidden is moved.

    Attributes:
      seed, dice: of the encounter's start, and of this update.
      params: joint policy parameters to start from; ``()``: the learners' own.
      hidden: 1 moves everything that the rule's access does not show; 0 leaves it.
      artifact: 1 changes what was prepared.
    """

    seed: Any
    dice: Any
    params: Any
    hidden: Any
    artifact: Any


class _Updated(NamedTuple):
    start: Any
    before: Any
    after: Any
    state: Any
    new_state: Any
    info: Any


def _shifted(tree: Any, by: Any) -> Any:
    """The tree with every number changed; unchanged for ``by`` = 0. Keys and booleans stay."""

    def shift(x: Any) -> Any:
        x = jnp.asarray(x)
        if jnp.issubdtype(x.dtype, jnp.floating):
            return x + (SHIFT * by).astype(x.dtype) * (1 + x)
        return x + by.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.integer) else x

    return jax.tree.map(shift, tree)


class _Veiled(View):
    """A view in which all that the access does not show is moved by ``hidden``, down to private
    attributes, while episodes are played by the true policies."""

    def __init__(self, true: View, hidden: Any) -> None:
        super().__init__(
            true._game,
            true._played,
            true.player,
            true._access,
            learners=true._learners,
            key=true._key,
            states=true._states,
        )
        self.__true, self.__hidden = true, hidden
        self.artifact = true.artifact

        def moved(items: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(x if j == self.player else _shifted(x, hidden) for j, x in enumerate(items))

        self._played = moved(true._played)
        self._params = true._params if self._access >= Access.GRADIENTS else moved(true._params)
        if self._access < Access.SIMULATOR:
            self._states, self._learners = moved(true._states), moved(true._learners)
        if true._key is not None:
            self._key = jax.random.fold_in(true._key, hidden.astype(jnp.uint32))

    def play(self, batch_size: int) -> Play:
        return self._look(self.__veiled(self.__true.play(batch_size)._trajectory))

    def live(self) -> tuple[Play, Any]:
        play, state = self.__true.live()
        return self._look(self.__veiled(play._trajectory)), state

    def __veiled(self, trajectory: Any) -> Any:
        if self._access >= Access.REWARDS:
            return trajectory
        mine = jnp.arange(self.n_players) == self.player
        moved = _shifted(trajectory.rewards, self.__hidden)
        return trajectory._replace(rewards=jnp.where(mine, trajectory.rewards, moved))


@dataclasses.dataclass
class _Trial:
    """A rule in every seat of a game; one seat is updated as an encounter would."""

    rule: Learner
    game: Game
    name: str
    player: int = 0
    artifacts: Sequence[Any] = ()

    def __post_init__(self) -> None:
        self.exact = "exact" in self.rule.views
        if not self.artifacts:
            # Unprepared networks will do: what is checked does not depend on what they learned.
            make_one = jax.jit(lambda i: imagined_artifact(self.rule, self.game, i), static_argnums=0)
            prepares, n = isinstance(self.rule, PreparedLearner), self.game.n_players
            seats = [self.rule.prepared_seat(self.game, i) for i in range(n)] if prepares else [0] * n  # type: ignore[attr-defined]
            found = {seat: make_one(seat) for seat in sorted(set(seats))}
            self.artifacts = [found[seat] for seat in seats]
        self.numbers = jax.tree.map(lambda x: np.asarray(x, jnp.result_type(float)), self.rule)

    def starts(self, game: Game, rules: Sequence[Learner], artifacts: Sequence[Any], seed: Any) -> list[Any]:
        key = jax.random.fold_in(jax.random.key(seed), 0)
        # Keys count from the updated seat: both seats of a symmetric game then get the same.
        keys = [jax.random.fold_in(key, (i - self.player) % len(rules)) for i in range(len(rules))]
        return [started(rule, keys[i], game, i, artifacts[i]) for i, rule in enumerate(rules)]

    def update(self, own: Learner, lane: _Lane, game: Game | None = None, access: Access | None = None) -> _Updated:
        """One update of the seat; the other seats keep the rule with its default numbers."""
        game = self.game if game is None else game
        n = game.n_players
        rules = tuple(own if i == self.player else self.numbers for i in range(n))
        artifacts = [_shifted(x, lane.artifact) for x in self.artifacts]
        pairs = self.starts(game, rules, artifacts, lane.seed)
        params, states = lane.params or [x for x, _ in pairs], [x for _, x in pairs]
        shown = [rule.shown(x, state) for rule, x, state in zip(rules, params, states, strict=True)]
        dice = jax.random.fold_in(jax.random.fold_in(jax.random.key(lane.seed), 1), lane.dice)
        key, play = jax.random.fold_in(dice, 0), jax.random.fold_in(dice, n)
        true = View(
            game,
            params,
            self.player,
            own.access if access is None else access,
            learners=rules,
            key=None if self.exact else play,
            states=states,
            shown=shown,
            artifact=artifacts[self.player],
        )
        state = states[self.player]
        new, new_state, info = own.update(key, state, _Veiled(true, lane.hidden))
        return _Updated(pairs[self.player][0], params[self.player], new, state, new_state, dict(info))

    def point(self, k: int, swapped: bool = False) -> Any:
        """Joint parameters to start from: scalars, as encounters pass them to exact rules."""
        if not self.exact:
            return ()
        rng = np.random.default_rng(k)
        dtype = jnp.result_type(float)
        drawn = [tuple(dtype.type(x) for x in 0.5 * rng.normal(size=d)) for d in self.game.sizes]
        return tuple(reversed(drawn)) if swapped else tuple(drawn)

    def lane(self, seed: int = 0, dice: int = 0, hidden: int = 0, artifact: int = 0, swapped: bool = False) -> _Lane:
        kind = jnp.result_type(float).type
        return _Lane(np.uint32(seed), np.uint32(dice), self.point(seed, swapped), kind(hidden), kind(artifact))

    def lanes(self, swapped: bool = False) -> dict[str, tuple[Learner, _Lane]]:
        """Updates of two seeds, and of the first seed with one thing changed: its dice, no step size, all numbers
        halved, all that the rule may not see moved, another artifact. ``swapped`` exchanges two players' parameters."""
        rule, lane = self.numbers, functools.partial(self.lane, swapped=swapped)
        still = dataclasses.replace(rule, **{name: 0.0 * getattr(rule, name) for name in _steps(rule)})  # type: ignore[type-var]
        return {
            "first": (rule, lane()),
            "second": (rule, lane(seed=1, dice=1)),
            "other dice": (rule, lane(dice=1)),
            "no step": (still, lane()),
            "half": (jax.tree.map(lambda x: (0.5 * x).astype(x.dtype), rule), lane()),
            "hidden moved": (rule, lane(hidden=1)),
            "other artifact": (rule, lane(artifact=1)),
        }

    def arguments(self) -> Any:
        """Of one update, as abstract values: for tracing."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), (self.numbers, self.lane()))

    def together(self, lanes: Sequence[tuple[Learner, _Lane]], game: Game | None = None) -> list[_Updated]:
        """All these updates at once, by one compiled program; in a game that differs in numbers only, if given."""
        if not hasattr(self, "_together"):
            self._together = jax.jit(jax.vmap(self.update, in_axes=(0, 0, None)))
        rules, laid = (jax.tree.map(lambda *x: np.stack(x), *column) for column in zip(*lanes, strict=True))
        numbers = jax.tree.map(lambda x: np.asarray(x, jnp.result_type(float)), self.game if game is None else game)
        out = jax.device_get(self._together(rules, laid, numbers))
        return [jax.tree.map(lambda x, k=k: x[k], out) for k in range(len(lanes))]


def _steps(rule: Learner) -> list[str]:
    """Fields that are the rule's own step sizes: ``lr``, and where it learns from play its critic's and models' too."""
    fields = dataclasses.fields(rule)  # type: ignore[arg-type]
    others = "exact" not in rule.views and not rule.needs_preparation  # a preparation has step sizes of its own
    names = [f.name for f in fields if not f.metadata.get("static") and getattr(rule, f.name) is not None]
    return [x for x in names if x == "lr" or (others and x.endswith("lr"))]


def _near(x: Any, y: Any, tolerance: float = 0.0) -> bool:
    """Whether two trees of one structure hold the same numbers; tolerance relative to the largest."""
    pairs = list(zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))
    if not tolerance:
        return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
    scale = max([1.0, *(float(np.abs(b).max()) for _, b in pairs if np.size(b) and np.isfinite(b).all())])
    return all(np.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True) for a, b in pairs)


def _finite(tree: Any) -> bool:
    return all(np.isfinite(x).all() for x in jax.tree.leaves(tree))


def check_learner(cls: type[Learner], *, thorough: bool = True) -> list[Finding]:
    """Checks a learning rule on every trial game that it can play.

    Args:
      cls: the class.
      thorough: False leaves out what takes longest: in a second game to run a rule that plays, whose program
        is then only read (as is its preparation), and the other seat of one that does not; to store an encounter.
    """
    findings = _of_the_class(cls)
    if not findings[0].passed:
        return findings
    exact = "exact" in cls.views
    tried: list[str] = []
    refused = False
    with jax.enable_x64(exact):  # networks are as encounters have them; exact rules are compared to rounding
        for name, numbers in SMALL_GAMES if exact else PLAYGROUNDS:
            game = make(name, **numbers)
            rule = _trial_rule(cls, name, game)
            if rule is None or refused:
                continue
            tried.append(name)
            trial = _Trial(rule, game, name)
            if isinstance(rule, PreparedLearner) and len(tried) == 1:
                findings += _check_preparation(rule, game, name, run=exact or thorough)
            found = _check_program(trial)
            findings += found
            refused = not found[0].passed  # it cannot be traced, so nothing else can be said
            if any(not f.passed and f.check in DECISIVE for f in found):
                continue  # every comparison of numbers would fail because of it
            if exact or thorough or len(tried) == 1:
                findings += _check_lanes(trial, first=len(tried) == 1, thorough=thorough)
                if name == "ipd" and exact:
                    findings.append(_check_zero_sum(trial))
        if exact and tried and all(f.passed for f in findings):
            findings += _check_three(cls)
    names = ", ".join(name for name, _ in (SMALL_GAMES if exact else PLAYGROUNDS))
    findings.append(Finding("plays at least one trial game", bool(tried), "" if tried else f"none of {names}"))
    if tried and thorough and all(f.passed for f in findings):
        stored = f"{tried[0]}: an encounter runs, is measured, stored and read back"
        findings.append(_attempt(stored, lambda: _stored(cls, tried[0])))
    return findings


def _trial_rule(cls: type[Learner], name: str, game: Game) -> Learner | None:
    """The rule with small sizes, as it would enter that game; None if it cannot."""
    own = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    published = registry.published(cls, name)
    small: dict[str, Any] = {k: v for k, v in SIZES.items() if k in own and own[k].metadata.get("static")}
    if "lr" in own and own["lr"].default is None:
        small["lr"] = 1.0  # as something else by default; a number, so that it can be zero
    if "network" in own and not game.memory_one and "mlp" in (own["network"].metadata.get("choices") or ()):
        small["network"] = "mlp"  # what is checked is the rule
    # Small sizes may not go together with the other fields, which is no reason to skip a game.
    for settings in (published | small, published):
        try:
            for key, value in settings.items():
                check_field(cls.__name__, own[key], value)
            rule = cls(**settings)
        except ValueError:
            continue
        if rule.views & game.views and len(_entered(rule, game)) == game.n_players:
            return rule
    return None


def _entered(rule: Learner, game: Game) -> list[int]:
    """Seats of the game that the rule can take."""
    seats = []
    for player in range(game.n_players):
        with contextlib.suppress(ValueError):
            rule.check_game(game, player)
            if "exact" not in rule.views:
                rule.policy(game, player)
            seats.append(player)
    return seats


REFUSED = "compiles, with the access it declares"
KEPT = "init and update keep shapes, structure and dtype"
PURE = "update is a pure function"
CARRIED = "state can be stored"
DECISIVE = (REFUSED, KEPT, PURE, CARRIED)
"""Checks without which updates cannot be compared."""


def _check_program(trial: _Trial) -> list[Finding]:
    """Checks that need no run: of the program that an update is."""
    rule, game = trial.rule, trial.game
    traced: list[Any] = []

    def trace() -> Any:
        # A new function each time: what was traced before is not traced again.
        return jax.jit(lambda own, lane: trial.update(own, lane)).trace(*trial.arguments())

    def allowed() -> str | None:
        traced.append(trace())
        return None

    def kept() -> str | None:
        out: _Updated = traced[0].out_info
        if trial.exact:
            params = jax.eval_shape(lambda: trial.starts(game, (trial.numbers,) * game.n_players, trial.artifacts, 0))
            got = np.shape(params[trial.player][0])
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
        if _weak((traced[0].out_info.after, traced[0].out_info.new_state)):
            return "a weakly typed number (a Python one) is returned, whose dtype is whatever it meets; use jnp.asarray"
        with jax.enable_x64(False), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            single = _single(trial.artifacts)
            out = jax.eval_shape(
                lambda *x: _Trial(rule, game, trial.name, artifacts=single).update(*x), *_single(trial.arguments())
            )
        told = [str(w.message) for w in caught if "float64" in str(w.message) and "requested" in str(w.message)]
        if told:
            return "asks for float64 in single precision; use the dtype of view.own, or leave it out"
        wrong = [x.dtype for x in jax.tree.leaves(out.after) if x.dtype != jnp.float32]
        return f"float32 parameters become {wrong[0]}" if wrong else None

    def pure() -> str | None:
        before = _python_state(type(rule))
        again = trace()
        changed = _changed(before, _python_state(type(rule)))
        if changed:
            return f"an update changes {changed}: what is remembered belongs into the state that update returns"
        if _fingerprint(again) != _fingerprint(traced[0]):
            return (
                "two equal calls are two different programs: something beside the arguments decides "
                "(Python's or NumPy's random numbers, the clock, what an earlier call left)"
            )
        return _inputs_changed(trial)

    def keys() -> str | None:
        return _outside_randomness(_keyed_trace(trial)) or _key_reuse(
            lambda own, lane: trial.update(own, lane), trial.arguments()
        )

    def carried() -> str | None:
        out: _Updated = traced[0].out_info
        for what, tree in (("policy parameters", out.after), ("state", out.new_state)):
            for x in jax.tree.leaves(tree):
                if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
                    return f"the {what} hold a random key, which cannot be stored; every update is given its own"
        return None

    findings = _attempts(trial.name, {REFUSED: allowed})
    if not traced:
        return findings
    findings[0] = dataclasses.replace(findings[0], detail=_overdeclared(trial) or "")
    return findings + _attempts(
        trial.name,
        {
            KEPT: kept,
            "precision is that of its parameters": precise,
            PURE: pure,
            "random keys are used once, and no others": keys,
            CARRIED: carried,
        },
    )


def _single(tree: Any) -> Any:
    """The same arrays or abstract values in single precision."""

    def single(x: Any) -> Any:
        dtype = jnp.float32 if x.dtype == jnp.float64 else x.dtype
        return jax.ShapeDtypeStruct(x.shape, dtype) if isinstance(x, jax.ShapeDtypeStruct) else np.asarray(x, dtype)

    return jax.tree.map(single, tree)


def _overdeclared(trial: _Trial) -> str | None:
    """A note, not a fault: what a rule may see can be more than it asked for this time."""
    access = trial.rule.access
    if access == Access.ACTIONS:
        return None
    try:
        jax.eval_shape(lambda own, lane: trial.update(own, lane, access=Access(access - 1)), *trial.arguments())
    except AccessError:
        return None
    return f"declares access {str(access)!r}; what it asked the view for needs less"


def _inputs_changed(trial: _Trial) -> str | None:
    """Whether ``update`` writes into the containers that it is given."""
    found: list[str] = []

    class Watched(type(trial.rule)):  # type: ignore[misc]
        def update(self, key: Any, state: Any, view: View) -> Any:
            before, leaves = jax.tree.structure(state), jax.tree.leaves(state)
            out = super().update(key, state, view)
            after = jax.tree.leaves(state)
            if str(jax.tree.structure(state)) != str(before) or any(
                x is not y for x, y in zip(leaves, after, strict=True)
            ):
                found.append("update writes into the state that it is given; return a new one")
            return out

    watched = object.__new__(Watched)
    for f in dataclasses.fields(trial.rule):  # type: ignore[arg-type]
        object.__setattr__(watched, f.name, getattr(trial.rule, f.name))
    jax.eval_shape(lambda lane: trial.update(watched, lane), trial.arguments()[1])
    return found[0] if found else None


def _keyed_trace(trial: _Trial) -> Any:
    """The program of init and update from keys that enter as arguments."""
    n = trial.game.n_players
    rules = (trial.numbers,) * n

    def both(key: Array, play: Array, params: Any) -> Any:
        pairs = [started(trial.rule, jax.random.fold_in(key, i), trial.game, i, trial.artifacts[i]) for i in range(n)]
        states = [x for _, x in pairs]
        params = params or [x for x, _ in pairs]
        shown = [trial.rule.shown(x, state) for x, state in zip(params, states, strict=True)]
        view = View(
            trial.game,
            params,
            trial.player,
            trial.rule.access,
            learners=rules,
            key=None if trial.exact else play,
            states=states,
            shown=shown,
            artifact=trial.artifacts[trial.player],
        )
        out = trial.rule.update(jax.random.fold_in(key, n), states[trial.player], view)
        return pairs, out[0], out[1]

    key = jax.eval_shape(jax.random.key, 0)
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct((), x.dtype), trial.point(0))
    return jax.jit(both).trace(key, key, params)


def _check_lanes(trial: _Trial, first: bool, thorough: bool) -> list[Finding]:
    """Checks that compare updates of one program; in the first game also with updates of single seeds,
    which have programs of their own."""
    rule, game = trial.rule, trial.game
    lanes = trial.lanes()
    tolerance = 1e-9 if trial.exact else 1e-3
    memory: dict[str, Any] = {}

    def ran() -> dict[str, _Updated]:
        if not memory:
            memory.update(zip(lanes, trial.together(list(lanes.values())), strict=True))
        return memory

    @functools.cache
    def batched() -> bool:
        """Whether a seed alone gets what it gets in a batch."""
        return _near(_alone(trial, *lanes["first"]).after, ran()["first"].after, tolerance)

    def finite() -> str | None:
        for name in ("first", "second", "no step", "half"):
            if not _finite((ran()[name].after, ran()[name].new_state)):
                what = {"no step": "with step sizes of zero", "half": "with all numbers halved"}.get(name, "")
                return f"not finite after one update {what}".strip()
        return None

    def deterministic() -> str | None:
        again = trial.together(list(lanes.values()))
        same = all(_near(x, y) for x, y in zip(again, ran().values(), strict=True))
        return None if same else "two equal calls of one program differ: it calls back into Python, or keeps something"

    def apart() -> str | None:
        names = list(lanes)
        turned = names[1:] + names[:1]
        shifted = dict(zip(turned, trial.together([lanes[x] for x in turned]), strict=True))
        changed = [x for x in names if not _near(shifted[x].after, ran()[x].after, tolerance)]
        if first and not batched():
            return "a seed alone (unbatched) gets another update than in a batch: batch sizes or other seeds leak in"
        return "a seed's update depends on which other seeds are in the batch" if changed else None

    def swept() -> str | None:
        if not jax.tree.leaves(rule) or not first or not batched():
            return None
        same = _near(_alone(trial, *lanes["half"]).after, ran()["half"].after, tolerance)
        return None if same else "a vmapped sweep over hyperparameters differs from single runs"

    def still() -> str | None:
        steps = _steps(trial.numbers)
        if not steps or rule.online:  # a learner that learns while it plays shows what it played last
            return None
        out = ran()["no step"]
        same = _near(list(jax.tree.leaves(out.after)), list(jax.tree.leaves(out.before)))
        return None if same else f"{', '.join(steps)} = 0 moves the policy; every step is to be multiplied by it"

    def honest() -> str | None:
        first, moved = ran()["first"], ran()["hidden moved"]
        # Tight: a small step turns what is peeked at into a small change.
        if _near((moved.after, moved.new_state), (first.after, first.new_state), min(tolerance, 1e-5)):
            return None
        return (
            f"the update changes with what access {str(rule.access)!r} does not show (others' parameters, rewards, "
            "states or rules): ask the view, not its private attributes, and declare what you need"
        )

    def random() -> str | None:
        first, other = ran()["first"], ran()["other dice"]
        if not rule.learns:
            return None
        if not trial.exact and _near((first.after, first.new_state), (other.after, other.new_state)):
            return "other episodes and another key give the very same update; learn from view.play"
        return None

    def shaped() -> str | None:
        rule, lane = jax.tree.map(jnp.asarray, lanes["first"])
        got = trial.update(rule, lane._replace(params=tuple(jnp.stack(x) for x in lane.params))).after
        scalars = _alone(trial, *lanes["first"]).after
        same = np.shape(got) == (game.sizes[0],) and np.allclose(got, np.stack(scalars))
        return (
            None
            if same
            else "arrays and tuples of scalars as parameters give different updates; use algorithms.core.trees"
        )

    def rounded() -> str | None:
        if not _near(ran()["other dice"].after, ran()["first"].after):
            return None  # draws differ between precisions
        with jax.enable_x64(False):
            single = _Trial(rule, game, trial.name)
            got = single.together(list(single.lanes().values()))[0]
        return None if _near(got.after, ran()["first"].after, 1e-3) else "single precision gives another update"

    def fair() -> str | None:
        if not (trial.exact and game.symmetric and game.n_players == 2) or getattr(rule, "prepared_jointly", False):
            return None  # what was prepared for both seats need not be alike; dice are not shared by seats
        second = dataclasses.replace(trial, player=1)
        got = second.together(list(second.lanes(swapped=True).values()))[0]
        if _near(got.after, ran()["first"].after, tolerance):
            return None
        return "the two seats of a symmetric game are treated differently; use view.player, view.others, not 0 and 1"

    def prepared() -> str | None:
        if not isinstance(rule, PreparedLearner):
            return None
        first, other = ran()["first"], ran()["other artifact"]
        same = _near((first.start, first.after, first.new_state), (other.start, other.after, other.new_state))
        return "another artifact gives the same start and update: what was prepared is not used" if same else None

    def priced() -> str | None:
        if trial.exact or not rule.learns:
            return None
        with costs.counting() as count:
            jax.eval_shape(lambda *x: trial.update(*x), *trial.arguments())  # a new function, so traced anew
        return None if count.steps else "an update is charged no environment steps; play by view.play or price it"

    findings = _attempts(trial.name, {"finite": finite})
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
    return findings + _attempts(trial.name, checks)


def _alone(trial: _Trial, rule: Learner, lane: _Lane) -> _Updated:
    """An update of a single seed: exact rules without any compilation, others compiled."""
    if trial.exact and not rule.needs_preparation:
        return trial.update(jax.tree.map(jnp.asarray, rule), jax.tree.map(jnp.asarray, lane))
    if not hasattr(trial, "_single"):
        trial._single = jax.jit(lambda own, lane: trial.update(own, lane))  # type: ignore[attr-defined]
    return trial._single(rule, lane)  # type: ignore[attr-defined]


def _check_zero_sum(trial: _Trial) -> Finding:
    """Iterated matching pennies differ from the prisoner's dilemma in numbers only: the program is compiled already."""
    game = make("imp")

    def updated() -> str | None:
        if len(_entered(trial.rule, game)) < game.n_players:
            return None
        outs = trial.together(list(trial.lanes().values()), game)
        return None if all(_finite(out.after) for out in outs[:4]) else "not finite after one update"

    return _attempt("imp: a finite update", updated)


def _check_three(cls: type[Learner]) -> list[Finding]:
    """Among three players, if the rule says that it can be."""
    game = make("matrix-one-shot", payoffs=THREE_PLAYERS)
    rule = _trial_rule(cls, "matrix-one-shot", game)
    if rule is None:
        return []
    trial = _Trial(rule, game, "matrix-one-shot")

    def updated() -> str | None:
        (out,) = trial.together([(trial.numbers, trial.lane())])
        if str(jax.tree.structure(out.before)) != str(jax.tree.structure(out.after)):
            return "update changes the structure of the own parameters"
        return None if _finite(out.after) else "not finite after one update"

    return [_attempt("matrix-one-shot: a finite update among 3 players", updated)]


def _stored(cls: type[Learner], name: str) -> str | None:
    """What goes wrong on the way from an encounter to a stored cell and back."""
    from shaping_bench.run.measure import measure
    from shaping_bench.store.store import Store, read_parquet

    places = SMALL_GAMES if "exact" in cls.views else PLAYGROUNDS
    game = make(name, **dict(places)[name])
    rule = _trial_rule(cls, name, game)
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


def _check_preparation(rule: PreparedLearner, game: Game, name: str, run: bool) -> list[Finding]:
    seat = rule.prepared_seat(game, 0)

    def begun(seed: Any) -> Any:
        return rule.prepare_init(jax.random.fold_in(jax.random.key(0), seed), game, seat)

    def step_from(carry: Any, seed: Any, step: Any) -> Any:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), seed), step)
        return rule.prepare_step(key, jnp.asarray(step, jnp.int32), carry, game, seat)

    def stepped(seed: Any) -> Any:
        """Two steps, as the harness loops over them: the second starts where the first ended."""

        def body(carry: Any, step: Any) -> Any:
            carry, info = step_from(carry, seed, step)
            return carry, dict(info)

        carry, info = jax.lax.scan(body, begun(seed), jnp.arange(2))
        return rule.artifact(begun(seed)), rule.artifact(carry), info

    together = jax.jit(jax.vmap(stepped))
    seeds = np.arange(2)
    memory: list[Any] = []

    def ran() -> Any:
        if not memory:
            memory.append(jax.device_get(together(seeds)))
        return memory[0]

    def contract() -> str | None:
        before = jax.eval_shape(begun, 0)
        after, info = jax.eval_shape(lambda: step_from(begun(0), 0, 0))
        if str(jax.tree.structure(before)) != str(jax.tree.structure(after)):
            return "a step changes the structure of what it carries"
        for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            if (x.shape, x.dtype) != (y.shape, y.dtype):
                return f"a step changes {x.dtype}{x.shape} of what it carries to {y.dtype}{y.shape}"
            if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
                return "the carry holds a random key, which checkpoints cannot; steps are given theirs"
        if any(x.shape for x in info.values()):
            return "an info is not a scalar"
        return None if rule.preparation_steps > 0 else f"preparation_steps is {rule.preparation_steps}"

    def fixed() -> str | None:
        first, last = (
            [(x.shape, x.dtype) for x in jax.tree.leaves(y)]
            for y in (jax.eval_shape(lambda: rule.artifact(begun(0))), jax.eval_shape(stepped, 0)[1])
        )
        return None if first == last else "the artifact's shapes depend on how long was prepared"

    def finite() -> str | None:
        _, artifact, info = ran()
        return None if _finite((artifact, info)) else "not finite after two steps"

    def deterministic() -> str | None:
        if not _near(together(seeds), ran()):
            return "two equal preparations differ"
        programs = [jax.jit(lambda seed: stepped(seed)).trace(0) for _ in range(2)]
        same = _fingerprint(programs[0]) == _fingerprint(programs[1])
        return (
            None if same else "two equal preparations are two different programs: Python's or NumPy's random numbers?"
        )

    def random() -> str | None:
        rows = [jax.tree.map(lambda x, k=k: x[k], ran()[1]) for k in range(2)]
        return "two seeds prepare the same" if _near(*rows) else None

    def learned() -> str | None:
        before, after, _ = ran()
        return "two steps leave the artifact as it was" if _near(before, after) else None

    def keys() -> str | None:
        return _key_reuse(stepped, (0,))

    def priced() -> str | None:
        with costs.counting() as count:
            jax.eval_shape(lambda: step_from(begun(0), 0, 0))  # a new function, so traced anew
        if count.evaluations or count.steps:
            return None
        return "a step is charged nothing; price imagined games in shaping_bench.algorithms.core.costs"

    checks = {
        "preparation keeps shapes, structure and dtypes": contract,
        "the artifact's shapes are fixed": fixed,
        "preparation uses random keys once": keys,
        "preparation is priced": priced,
    }
    if run:
        checks |= {
            "finite preparation": finite,
            "preparation deterministic under a key": deterministic,
            "preparation different under different keys": random,
            "preparation changes the artifact": learned,
        }
    return _attempts(name, checks)


# --- games --------------------------------------------------------------------------------


def check_game(cls: type[Game], numbers: Mapping[str, Any] | None = None) -> list[Finding]:
    """Checks a game with its default numbers, or with those given."""
    findings = _of_the_class(cls)
    if not findings[0].passed:
        return findings
    try:
        game = cls(**(numbers or {}))
    except TypeError:
        return [*findings, Finding("can be made from its defaults", False, "give every field a default")]
    with jax.enable_x64(True):
        return findings + check_game_instance(game)


def check_game_instance(game: Game) -> list[Finding]:
    """Checks a game as it stands; call it with 64-bit floats enabled."""
    checks: dict[str, Callable[[], str | None]] = {}
    if "exact" in game.views:
        checks |= _exact_view(game)
    if "sampled" in game.views:
        checks |= _sampled_view(game)
    return _attempts("", checks)


NAIVE = Naive(lr=1e-3)

# Programs with the game as data: games that differ in numbers only share them.


@jax.jit
def _values(game: Game, *point: Any) -> Array:
    return game.values(point)


@jax.jit
def _values_together(game: Game, *points: Any) -> Array:
    return jax.vmap(lambda *p: game.values(p))(*points)


@jax.jit
def _slopes(game: Game, point: Any, direction: Any) -> Array:
    """Of all values along a direction, ``(n_players,)``."""
    flat, back = ravel_pytree(point)
    return jax.jacrev(lambda x: game.values(back(x)))(flat) @ direction


@functools.partial(jax.jit, static_argnames="player")
def _answer(game: Game, point: Any, player: int) -> Array:
    return jnp.stack(list(game.best_response(point, player)))


def _exact_view(game: Game) -> dict[str, Callable[[], str | None]]:
    rng = np.random.default_rng(0)
    points = [[jnp.asarray(0.5 * rng.normal(size=d)) for d in game.sizes] for _ in range(3)]
    numbers = jax.tree.map(lambda x: np.asarray(x, jnp.result_type(float)), game)
    values = functools.partial(_values, numbers)

    def shapes() -> str | None:
        if len(game.sizes) != game.n_players:
            return f"sizes has {len(game.sizes)} entries for {game.n_players} players"
        for player in range(game.n_players):
            got = np.shape(game.init_params(jax.random.key(0), player))
            if got != (game.sizes[player],):
                return f"init_params gives {got} for player {player + 1}, not ({game.sizes[player]},)"
        if tuple(len(x) for x in game.coordinates) != tuple(game.sizes):
            return "coordinates names another number of parameters than sizes"
        out = jax.eval_shape(values, *points[0])
        return None if out.shape == (game.n_players,) else f"values has shape {out.shape}, not ({game.n_players},)"

    def precise() -> str | None:
        if _weak(jax.eval_shape(values, *points[0])):
            return "a value is a Python number, whose dtype is whatever it meets"
        single = [jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in points[0]]
        with jax.enable_x64(False), warnings.catch_warnings():
            warnings.simplefilter("error")
            out = jax.eval_shape(lambda *p: game.values(p), *single)
        return None if out.dtype == jnp.float32 else f"float32 parameters are valued in {out.dtype}"

    def pure() -> str | None:
        first, again = (jax.jit(lambda *p: game.values(p)).trace(*points[0]) for _ in range(2))
        if _fingerprint(first) != _fingerprint(again) or _outside_randomness(first):
            return "two equal calls are two different programs, or draw random numbers: values are expectations"
        return None

    def finite() -> str | None:
        good = all(np.isfinite(values(*p)).all() for p in points)
        return None if good else "values are not finite at ordinary points"

    def scalars() -> str | None:
        as_tuples = [tuple(theta) for theta in points[0]]
        same = np.allclose(values(*points[0]), values(*as_tuples))
        return None if same else "arrays and tuples of scalars give different values"

    def differentiable() -> str | None:
        flat, back = ravel_pytree(points[0])
        direction = jnp.asarray(rng.normal(size=flat.shape))
        step = 1e-5
        slopes = _slopes(numbers, points[0], direction)
        ahead, behind = (np.asarray(values(*back(flat + sign * step * direction))) for sign in (1, -1))
        for i, (slope, numeric) in enumerate(zip(slopes, (ahead - behind) / (2 * step), strict=True)):
            if not np.allclose(slope, numeric, rtol=1e-5, atol=1e-6):
                return f"the gradient of player {i + 1} disagrees with finite differences"
        return None

    def batched() -> str | None:
        stacked = [jnp.stack(x) for x in zip(*points, strict=True)]
        together = _values_together(numbers, *stacked)
        return None if np.allclose(together, np.stack([values(*p) for p in points])) else "vmap changes the values"

    def symmetric() -> str | None:
        if not game.symmetric:
            return None
        # Turning the table: with three and more players policies read the others in the order of seats.
        same = all(np.allclose(values(*point), np.roll(values(*point[1:], point[0]), 1)) for point in points)
        return None if same else "claims symmetry, but exchanging the players does not exchange their values"

    def zero_sum() -> str | None:
        if not game.zero_sum:
            return None
        same = all(np.allclose(sum(values(*p)), 0.0, atol=1e-9) for p in points)
        return None if same else "claims to be zero-sum, but is not"

    def best_response() -> str | None:
        if not game.has_best_response:
            return None
        for i in range(game.n_players):
            answer = _answer(numbers, points[0], i)
            best = values(*[answer if j == i else x for j, x in enumerate(points[0])])[i]
            for tried in points:
                if best < values(*[tried[i] if j == i else x for j, x in enumerate(points[0])])[i] - 1e-9:
                    return f"the best response of player {i + 1} is worse than an arbitrary policy"
        return None

    def met() -> str | None:
        try:
            NAIVE.check_game(game, 0)
        except ValueError:
            return None
        outcome = run_encounter(game, (NAIVE,) * game.n_players, num_seeds=2, num_updates=1)
        return "naive learners diverge within an update" if outcome.diverged.any() else None

    return {
        "shapes": shapes,
        "precision is that of the parameters": precise,
        "values are a pure function": pure,
        "finite values": finite,
        "parameters as arrays or as scalars": scalars,
        "differentiable": differentiable,
        "vmappable": batched,
        "symmetric as it says": symmetric,
        "zero-sum as it says": zero_sum,
        "best response is one": best_response,
        "learners can meet in it": met,
    }


EPISODES = 3
"""Episodes of random actions that a sampled view is checked on."""


@functools.partial(jax.jit, static_argnames="length")
def _episode(game: Game, seed: Any, swapped: Any, other_dice: Any, *, length: int) -> Any:
    """Random actions, the seats' exchanged where ``swapped``, chance moves others with ``other_dice``: what was seen
    at first, and per step what is seen, what ``observe`` makes of the state, rewards, done, counts."""
    first, drawn, dice = (jax.random.fold_in(jax.random.key(seed), k) for k in (0, 1, 2 + other_dice))
    actions = jax.random.randint(drawn, (length, game.n_players), 0, game.n_actions)
    actions = jnp.where(swapped, jnp.flip(actions, axis=1), actions)

    def step(state: Any, now: Any) -> Any:
        seen, after, rewards, done, info = game.step(now[0], state, now[1])
        return after, (seen, game.observe(after), rewards, done, info)

    seen, state = game.reset(first)
    return seen, jax.lax.scan(step, state, (jax.random.split(dice, length), actions))[1]


@functools.partial(jax.jit, static_argnames="length")
def _episodes(game: Game, seeds: Any, swapped: Any, other_dice: Any, *, length: int) -> Any:
    return jax.vmap(lambda seed: _episode(game, seed, swapped, other_dice, length=length))(seeds)


@functools.partial(jax.jit, static_argnames="episodes")
def _played_and_valued(game: Game, seed: Any, *point: Any, episodes: int) -> Any:
    """Discounted returns ``(episodes, n_players)``, exact values, and the largest reward."""
    play = rollout(jax.random.key(seed), game, [Tabular(d) for d in game.sizes], point, episodes)
    weights = jnp.asarray(game.gamma) ** jnp.arange(play.rewards.shape[0])
    return jnp.tensordot(weights, play.rewards, axes=1), game.values(point), jnp.abs(play.rewards).max()


def _sampled_view(game: Game) -> dict[str, Callable[[], str | None]]:
    n = game.n_players
    key = jax.eval_shape(jax.random.key, 0)
    actions = jax.ShapeDtypeStruct((n,), jnp.int32)
    shapes = jax.eval_shape(game.reset, key)
    length = min(game.num_steps, 200)

    numbers = jax.tree.map(lambda x: np.asarray(x, jnp.result_type(float)), game)

    def together(seeds: Any, swapped: bool = False, other_dice: int = 0) -> Any:
        return jax.device_get(_episodes(numbers, seeds, swapped, other_dice, length=length))

    seeds = np.arange(EPISODES, dtype=np.uint32)
    memory: list[Any] = []

    def ran() -> Any:
        if not memory:
            memory.append(together(seeds))
        return memory[0]

    def contract() -> str | None:
        seen, state = shapes
        seen_next, state_next, rewards, done, info = jax.eval_shape(game.step, key, state, actions)
        if rewards.shape != (n,) or done.shape != ():
            return f"step gives rewards of shape {rewards.shape} and done of {done.shape}, not ({n},) and ()"
        if seen.shape[:1] != (n,):
            return f"observations have shape {seen.shape}; their first axis should be the {n} players"
        described = [
            (jax.tree.structure(x), [(y.shape, y.dtype) for y in jax.tree.leaves(x)])
            for x in ((seen, state), (seen_next, state_next))
        ]
        if described[0] != described[1]:
            return "reset and step differ in the structure, shapes or dtypes of observations or states"
        if seen.shape[1:] != tuple(game.observation_shape):
            return (
                f"observations have shape {seen.shape[1:]} per player; observation_shape says {game.observation_shape}"
            )
        wrong = next((name for name, x in info.items() if x.shape != (n,)), None)
        return None if wrong is None else f"the count {wrong!r} has shape {info[wrong].shape}, not ({n},)"

    def observed() -> str | None:
        _, (seen, observed, _, _, _) = ran()
        return None if np.allclose(seen, observed) else "observe gives other observations of a state than step"

    def finite() -> str | None:
        return None if _finite(ran()) else "not finite within an episode of random actions"

    def ends() -> str | None:
        if length < game.num_steps:
            return None
        done = ran()[1][3]
        if done[:, :-1].any() or not done[:, -1].all():
            return f"done should be true at step {game.num_steps} (num_steps) and not before"
        return None

    def deterministic() -> str | None:
        return None if _near(together(seeds), ran()) else "two equal episodes differ"

    def batched() -> str | None:
        one = jax.device_get(_episode(numbers, seeds[1], False, 0, length=length))
        return None if _near(one, jax.tree.map(lambda x: x[1], ran()), 1e-6) else "vmap changes what a step does"

    def pure() -> str | None:
        first, again = (jax.jit(lambda *x: game.step(*x)).trace(key, shapes[1], actions) for _ in range(2))
        if _fingerprint(first) != _fingerprint(again):
            return "two equal calls of step are two different programs: Python's or NumPy's random numbers?"
        return None

    def keys() -> str | None:
        for name, function, arguments in (
            ("reset", game.reset, (key,)),
            ("step", game.step, (key, shapes[1], actions)),
        ):
            wrong = _outside_randomness(jax.jit(lambda *x, f=function: f(*x)).trace(*arguments))
            wrong = wrong or _key_reuse(function, arguments)
            if wrong:
                return f"{name} {wrong}"
        return None

    def symmetric() -> str | None:
        if not (game.symmetric and game.memory_one):
            return None  # elsewhere a board is drawn for seats, so that single episodes are not mirrored
        rewards, mirrored = ran()[1][2], together(seeds, True)[1][2]
        if not np.array_equal(together(seeds, False, 1)[1][2], rewards):
            return None  # chance moves are drawn for seats; means are compared with the exact view
        same = np.allclose(np.flip(mirrored, -1), rewards)
        return None if same else "claims symmetry, but exchanged actions do not exchange the rewards"

    def zero_sum() -> str | None:
        if not game.zero_sum:
            return None
        same = np.allclose(ran()[1][2].sum(-1), 0.0, atol=1e-6)
        return None if same else "claims to be zero-sum, but rewards do not sum to zero"

    def agreeing() -> str | None:
        if "exact" not in game.views or not game.memory_one:
            return None
        return _views_agree(game)

    return {
        "sampled view: shapes, structure and dtypes": contract,
        "sampled view: observe agrees with step": observed,
        "sampled view: finite": finite,
        "sampled view: episodes end when they should": ends,
        "sampled view: deterministic under a key": deterministic,
        "sampled view: vmappable": batched,
        "sampled view: step is a pure function": pure,
        "sampled view: random keys are used once, and no others": keys,
        "sampled view: symmetric as it says": symmetric,
        "sampled view: zero-sum as it says": zero_sum,
        "sampled view: agrees with the exact view": agreeing,
    }


def _views_agree(game: Game) -> str | None:
    """Discounted returns of memory-one policies, nearly all of them deterministic, against their exact values."""
    rng = np.random.default_rng(0)
    episodes = 64
    # Deterministic choices leave no noise; one undecided state makes what is compared more than a path.
    points = [[np.where(rng.random(d) < 0.5, 20.0, -20.0) for d in game.sizes] for _ in range(6)]
    for point in points[3:]:
        point[0][1 + rng.integers(len(point[0]) - 1)] = 0.0

    numbers = jax.tree.map(lambda x: np.asarray(x, jnp.result_type(float)), game)
    for k, point in enumerate(points):
        returns, exact, largest = jax.device_get(_played_and_valued(numbers, k, *point, episodes=episodes))
        cut = float(game.gamma) ** game.num_steps * largest / max(1e-9, 1 - float(game.gamma))
        error = 5 * returns.std(axis=0, ddof=1) / np.sqrt(episodes) + cut + 2e-3 * (1 + np.abs(exact))
        off = np.abs(returns.mean(axis=0) - exact)
        if (off > error).any():
            i = int(np.argmax(off - error))
            return (
                f"episodes return {returns.mean(axis=0)[i]:.4g} to player {i + 1} where the exact value is "
                f"{exact[i]:.4g}: check the rewards, the order of states, and who is discounted when"
            )
    return None
