"""From what a user writes, ``lola(lr=0.5)`` or ``ipd(gamma=0.9)``, to learners and games.

Built-in names come from ``algorithms.ALGORITHMS`` and ``games.GAMES``; other packages add
theirs through the entry-point groups ``shaping_bench.algorithms`` and
``shaping_bench.games``: those that are installed, and the one in the current folder.
"""

import dataclasses
import functools
import importlib.metadata
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shaping_bench.algorithms import ALGORITHMS
from shaping_bench.algorithms.automata import Bot
from shaping_bench.algorithms.axelrod_strategies import AxelrodStrategy
from shaping_bench.algorithms.core import Learner
from shaping_bench.algorithms.evolved import OpenES
from shaping_bench.algorithms.foreign import FilePolicy, ReferencePolicy
from shaping_bench.algorithms.populations import (
    Bots,
    DrawnNaive,
    DrawnNaivePG,
    DrawnPPO,
    MemoryOne,
    Persona,
    PersonaLearner,
    Stored,
)
from shaping_bench.errors import BadInput, unknown
from shaping_bench.games import GAMES, Entry
from shaping_bench.games.adapters import ADAPTERS
from shaping_bench.games.base import Game
from shaping_bench.games.fields import check_field, written_name
from shaping_bench.games.options import OPTIONS, applied
from shaping_bench.spec import coplayers
from shaping_bench.spec.calls import parse_call, split_call, written

ADAPTED: dict[str, type[Learner]] = {
    "axelrod": AxelrodStrategy,
    "memory-one": MemoryOne,
    "persona": Persona,
    "persona-learner": PersonaLearner,
    "bots": Bots,
    "bot": Bot,
    "drawn-naive": DrawnNaive,
    "drawn-naive-pg": DrawnNaivePG,
    "drawn-ppo": DrawnPPO,
    "stored": Stored,
    "policy": FilePolicy,
    "reference": ReferencePolicy,
    "open-es": OpenES,
}
"""Learners by name that are no methods but populations of strategies, some of another package or in a
file, and adversaries; as ``shaping_bench.games.adapters.ADAPTERS`` for games."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named:
    """A name and hyperparameters, and the learner or game that they stand for.

    Attributes:
      name: registered.
      hyperparameters: all of them, plain enough for JSON. Where the value is a learner this is
        ``{name: {key: value}}``, of a mixture a list of ``{"share": ..., "learner": ...}``.
      value: the learner or game.
      game: of a learner, the registered name of the game whose published numbers are its defaults.
    """

    name: str
    hyperparameters: dict[str, Any]
    value: Any
    game: str | None = dataclasses.field(default=None, compare=False)

    @property
    def text(self) -> str:
        """As one would write it on the command line, with the non-default numbers only.

        >>> make_learner({"lola": {"lr": 0.5, "lookahead_lr": 1.0}}).text
        'lola(lr=0.5)'
        """
        inside = ",".join(f"{k}={self._written(k)}" for k in self.hyperparameters if not self._is_default(k))
        return f"{self.name}({inside})" if inside else self.name

    def identity(self) -> dict[str, Any]:
        """Everything that defines it, for content hashes and records. A field that was added after
        results had been stored is left out at its default: without it they are the same results."""
        hyperparameters = {
            k: v
            for k, v in self.hyperparameters.items()
            if not ((f := _field(self.value, k)).metadata.get("added") and v == f.default)
        }
        return {"name": self.name, "hyperparameters": hyperparameters}

    def _is_default(self, key: str) -> bool:
        """Whether reading the name alone yields this value, with and without the game."""
        value, default = self.hyperparameters[key], _field(self.value, key).default
        if isinstance(self.value, Game):
            entry = games().get(self.name)
            return value == (entry.defaults if entry else {}).get(key, default)
        return value == default and value == published(type(self.value), self.game).get(key, default)

    def _written(self, key: str) -> str:
        value, f = self.hyperparameters[key], _field(self.value, key)
        return coplayers.written(value, _coplayers(f, self.game)) if f.metadata.get("learner") else written(value)


def _field(value: Any, key: str) -> dataclasses.Field:
    return next((f for f in dataclasses.fields(value) if written_name(f) == key), None) or OPTIONS[key]


def published(cls: type[Learner], game: str | None) -> dict[str, Any]:
    """Hyperparameters that a learner's paper published for a registered game, or for its family.

    >>> published(algorithms()["ppo"], "stag-hunt")["lr"]
    1.0
    """
    entry = games().get(game or "")
    family = entry.family if entry is not None else None
    return {**cls.published.get(family or "", {}), **cls.published.get(game or "", {})}


@functools.cache
def algorithms() -> dict[str, type[Learner]]:
    """All learners by name, built in and installed."""
    return {**ALGORITHMS, **_installed("shaping_bench.algorithms", ALGORITHMS)}


@functools.cache
def games() -> dict[str, Entry]:
    """All games by name, built in and installed."""
    installed = _installed("shaping_bench.games", GAMES)
    return {**GAMES, **{k: v if isinstance(v, Entry) else Entry(v, v.__module__, k) for k, v in installed.items()}}


def _installed(group: str, builtin: Mapping[str, Any]) -> dict[str, Any]:
    loaded: dict[str, Any] = {}
    for point in (*_here(group), *importlib.metadata.entry_points(group=group)):
        if point.name in loaded:  # an installed package is met again in its own folder
            continue
        if point.name in builtin:
            raise BadInput(f"entry point {group}:{point.name} ({point.value}) takes the name of a built-in")
        try:
            loaded[point.name] = point.load()
        except Exception as error:  # a broken plug-in must be named, whatever it raised
            raise BadInput(f"entry point {group}:{point.name} ({point.value}) does not load: {error!r}") from error
    return loaded


def _here(group: str) -> list[importlib.metadata.EntryPoint]:
    """Entry points of the project in the current folder, which need not be installed.

    Raises:
      BadInput: they are no mapping of names to MODULE:CLASS, or stand in a ``pyproject.toml`` that is not TOML.
    """
    try:
        text = Path("pyproject.toml").read_text()
    except (OSError, UnicodeDecodeError):
        return []
    try:
        node: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        if group not in text:  # somebody else's broken file
            return []
        raise BadInput(f"pyproject.toml of the current folder does not name its {group} ({error!r})") from None
    for key in ("project", "entry-points", group):
        node = node.get(key, {}) if isinstance(node, dict) else {}
    try:
        points = [importlib.metadata.EntryPoint(name, value, group) for name, value in node.items()]
        if not all(isinstance(point.value, str) for point in points):
            raise TypeError("allowed: NAME = 'MODULE:CLASS'")
    except (ValueError, AttributeError, TypeError) as error:
        raise BadInput(f"pyproject.toml of the current folder does not name its {group} ({error!r})") from None
    if points and "" not in sys.path:  # an installed command does not look where the user stands
        sys.path.insert(0, "")
    return points


def make_learner(spec: str | Mapping[str, Any], field: str = "learner", game: str | None = None) -> Named:
    """Builds a learner from ``"lola(lr=0.5)"`` or ``{"lola": {"lr": 0.5}}``.

    Args:
      spec: name and hyperparameters.
      field: what it is called in complaints.
      game: registered name of the game to be played; hyperparameters that the learner's paper
        published for it are the defaults there.

    Raises:
      BadInput: unknown name or hyperparameter, or a value out of range.
    """
    name, settings = split_call(spec, field)
    known = {**ADAPTED, **algorithms()}
    if name not in known:
        raise unknown(field, name, known, "shaping-bench list algorithms")
    cls = known[name]
    return _build(name, cls, published(cls, game), settings, field, game)


def with_settings(learner: str, settings: Sequence[str], game: str) -> Named:
    """A learner as the command line names it, with ``NAME=VALUE`` settings that win over its own.

    Raises:
      BadInput: not of that form, or no hyperparameter of the learner.
    """
    name, own = split_call(learner, "learner")
    for setting in settings:
        key, equals, _ = setting.partition("=")
        if not equals or not key.isidentifier():
            raise BadInput(f"--set is {setting!r}; allowed: NAME=VALUE with a hyperparameter of {name!r}")
        own |= parse_call(f"x({setting})", "--set")[1]
    return make_learner({name: own}, "--set" if settings else "learner", game)


def learner_fields(name: str) -> frozenset[str]:
    """Hyperparameters of a registered learner whose values are learners; none of an unknown one."""
    cls = {**ADAPTED, **algorithms()}.get(name)
    fields = dataclasses.fields(cls) if cls is not None else ()  # type: ignore[arg-type]
    return frozenset(written_name(f) for f in fields if f.metadata.get("learner"))


def make_game(spec: str | Mapping[str, Any], field: str = "game") -> Named:
    """Builds a game from ``"ipd(gamma=0.9)"`` or ``{"ipd": {"gamma": 0.9}}``.

    Raises:
      BadInput: as :func:`make_learner`.
    """
    name, settings = split_call(spec, field)
    known = {**ADAPTERS, **games()}
    if name not in known:
        raise unknown(field, name, known, "shaping-bench list games")
    return _build(name, known[name].cls, known[name].defaults, settings, field)


def _build(
    name: str, cls: type, defaults: Mapping[str, Any], settings: Mapping[str, Any], field: str, game: str | None = None
) -> Named:
    fields = {written_name(f): f for f in dataclasses.fields(cls)}
    options = {k: f for k, f in OPTIONS.items() if issubclass(cls, Game) and k not in fields}
    for key in settings:
        if key not in {**fields, **options}:
            raise unknown(f"hyperparameter of {field} {name!r}", key, {**fields, **options})
    chosen = _chosen(name, options, settings, field)
    settings = {k: v for k, v in settings.items() if k not in options}
    plain = {**defaults, **{k: _plain(v) for k, v in settings.items()}}
    for key, f in fields.items():
        if key not in plain:
            if f.default is dataclasses.MISSING:
                raise BadInput(f"{field} {name!r} needs the hyperparameter {key!r}: {f.metadata.get('doc', '')}")
            plain[key] = f.default
    plain = {key: float(plain[key]) if _is_real(f, plain[key]) else plain[key] for key, f in fields.items()}
    values = dict(plain)
    for key, f in fields.items():
        if f.metadata.get("learner"):
            plain[key], values[key] = coplayers.read(plain[key], _coplayers(f, game), f"{name}.{key} of {field}")
        try:
            check_field(name, f, values[key])
        except ValueError as error:
            raise BadInput(f"{field}: {error}") from None
    if issubclass(cls, Game):
        try:
            plain = values = cls.checked(values)
        except ValueError as error:
            raise BadInput(f"{field}: {name}.{error}") from None
    try:
        value = cls(**{fields[key].name: x for key, x in values.items()})
        value = applied(value, chosen) if chosen else value
        return Named(name=name, hyperparameters={**plain, **chosen}, value=value, game=game)
    except (ValueError, ImportError) as error:  # adapters: no such environment, or not its package
        raise BadInput(f"{field} {name!r}: {error}") from None


def _chosen(
    name: str, options: Mapping[str, dataclasses.Field], settings: Mapping[str, Any], field: str
) -> dict[str, Any]:
    """Of the options that every game has, those that are given and not at their defaults."""
    chosen = {}
    for key, f in options.items():
        try:
            check_field(name, f, settings.get(key, f.default))
        except ValueError as error:
            raise BadInput(f"{field}: {error}") from None
        if settings.get(key, f.default) != f.default:
            chosen[key] = settings[key] if isinstance(f.default, str) else float(settings[key])
    return chosen


def _coplayers(f: dataclasses.Field, game: str | None) -> coplayers.Context:
    """What names mean in a field whose value is a learner."""
    words = tuple(f.metadata.get("choices") or ())
    return coplayers.Context(lambda spec, where: make_learner(spec, where, game), {**ADAPTED, **algorithms()}, words)


def _is_real(f: dataclasses.Field, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and not f.metadata.get("static")


def _plain(value: Any) -> Any:
    return tuple(_plain(v) for v in value) if isinstance(value, list | tuple) else value


def check_encounter(game: Named, learners: Sequence[Named]) -> None:
    """Checks that these learners can play this game, before anything is computed.

    Raises:
      BadInput: wrong number of learners, a view or a property that the game lacks.
    """
    n = game.value.n_players
    if len(learners) != n:
        raise BadInput(f"learners: {len(learners)} given, but game {game.name!r} has {n} players; allowed: 1 or {n}")
    playing = any("exact" not in x.value.views for x in learners)
    for player, learner in enumerate(learners):
        where = f"learner {learner.text!r} in seat {player + 1} of game {game.name!r}"
        if said := refusal(game, learner, player, playing):
            raise BadInput(f"{where} {said}")
        if playing and not learner.value.policy(game.value, player).exact:
            exact = [x.text for x in learners if "sampled" not in x.value.views]
            if exact:
                raise BadInput(
                    f"{where} plays a network's policy, but learner {exact[0]!r} needs policies that the exact game "
                    "can value; allowed: network='tabular', or opponents that play"
                )


def refusal(game: Named, learner: Named, player: int, playing: bool) -> str:
    """Why a learner cannot play a seat of a game, as what follows its name in a complaint; empty if it can.

    Args:
      playing: whether anybody there learns from play, so that everybody needs a policy that plays.
    """
    if not learner.value.views & game.value.views:
        return f"plays the views {sorted(learner.value.views)}; the game offers {sorted(game.value.views)}"
    try:
        learner.value.check_game(game.value, player)
        if playing:
            learner.value.policy(game.value, player)
    except ValueError as error:
        return str(error)
    return ""
