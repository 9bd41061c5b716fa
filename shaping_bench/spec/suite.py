"""Suites: a YAML file of games, learners and a protocol, expanded into cells.

A cell is one encounter or one league match-up; its content hash is its identity, so that
nothing is computed twice and a changed number is a new cell.
"""

import dataclasses
import hashlib
import itertools
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml

from shaping_bench.errors import BadInput, unknown
from shaping_bench.games.base import Game
from shaping_bench.run.encounter import EPISODES, valued_exactly
from shaping_bench.run.preparation import Preparation, needed
from shaping_bench.spec import registry
from shaping_bench.spec.calls import split_call
from shaping_bench.spec.registry import Named
from shaping_bench.store.store import SCHEMA


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


Call = str | dict[str, dict[str, Any] | None]


class LearnerEntry(_Strict):
    """A learner of the suite under a label of its own."""

    learner: Call
    label: str | None = None


class GameEntry(_Strict):
    """A game of the suite, with what differs from the suite's protocol there."""

    game: Call
    label: str | None = None
    steps: int | None = pydantic.Field(None, ge=1)
    seeds: int | None = pydantic.Field(None, ge=1)
    record_every: int | None = pydantic.Field(None, ge=1)
    preparations: int | None = pydantic.Field(None, ge=1)
    learners: list[LearnerEntry | Call] | None = pydantic.Field(None, min_length=1)
    opponents: list[LearnerEntry | Call] | None = None
    set: dict[str, float] = {}
    """Hyperparameters given to every learner that has them, e.g. step sizes fit for the game."""


class League(_Strict):
    """Which frozen opponents the final policies meet."""

    opponents: list[Call] = []
    best_response: bool = True
    responder: Call = "ppo"
    """Who is trained from scratch as the best response where none is exact: in games without
    exact values; in exact ones a naive learner is."""
    responder_steps: Annotated[int, pydantic.Field(ge=1)] = 300


class SuiteFile(_Strict):
    """What a suite file may say."""

    name: str = pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    description: str = ""
    games: list[GameEntry | Call] = pydantic.Field(min_length=1)
    learners: list[LearnerEntry | Call] = pydantic.Field(min_length=1)
    opponents: list[LearnerEntry | Call] = []
    """Met by every learner, but not by one another (fixed strategies, say)."""
    pairs: Literal["all", "self", "cross"] = "all"
    seeds: int = pydantic.Field(100, ge=1)
    seed: int = pydantic.Field(0, ge=0, lt=2**32)
    steps: int = pydantic.Field(200, ge=1)
    record_every: int = pydantic.Field(10, ge=1)
    precision: Literal["float32", "float64"] = "float32"
    episodes: int = pydantic.Field(EPISODES, ge=1)
    """Played per recorded point where policies cannot be valued exactly."""
    preparations: int = pydantic.Field(1, ge=1)
    """Seeds from which learners that prepare are prepared; the encounters' seeds share them."""
    league: League | bool = False
    metrics: list[str] = ["return"]
    skip_incompatible: bool = False
    """Leave out learners that cannot play a game instead of refusing the suite."""


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A learner or game with the label it has in tables."""

    named: Named
    label: str


@dataclasses.dataclass(frozen=True)
class Cell:
    """One encounter, or one league match-up of policies that encounters produced."""

    kind: Literal["encounter", "league"]
    game: Labelled
    learners: tuple[Labelled, ...]
    seeds: int
    seed: int
    steps: int
    record_every: int
    precision: str
    episodes: int = EPISODES
    preparations: int = 1
    responder: Labelled | None = None
    """Of a league cell against a trained best response: who is trained, for ``steps`` updates."""

    @property
    def hash(self) -> str:
        identity: dict[str, Any] = {
            "schema": SCHEMA,
            "kind": self.kind,
            "game": self.game.named.identity(),
            "learners": [x.named.identity() for x in self.learners],
            "protocol": [self.seeds, self.seed, self.steps, self.record_every, self.precision],
        }
        if not valued_exactly(self.game.named.value, [x.named.value for x in self.learners]):
            identity["episodes"] = self.episodes
        if any(self.needs):
            identity["preparations"] = self.preparations
        if self.responder is not None:
            identity["responder"] = self.responder.named.identity()
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]

    @property
    def needs(self) -> tuple[Preparation | None, ...]:
        """The preparation that each seat needs, if any; the same for a league's policies."""
        return needed(
            self.game.named,
            [x.named for x in self.learners],
            seeds=self.preparations,
            seed=self.seed,
            precision=self.precision,
        )

    @property
    def title(self) -> str:
        vs = " vs ".join(dict.fromkeys(x.label for x in self.learners))
        return f"{self.game.label}: {vs}" + (" (league)" if self.kind == "league" else "")

    @property
    def command(self) -> str:
        """The shell command that runs this encounter alone."""
        names = shlex.join(x.named.text for x in (self.game, *self.learners))
        return (
            f"shaping-bench encounter {names} --seeds {self.seeds} --steps {self.steps} "
            f"--seed {self.seed} --precision {self.precision}"
            + (f" --preparations {self.preparations}" if any(self.needs) and self.preparations > 1 else "")
        )


@dataclasses.dataclass(frozen=True)
class Suite:
    """A resolved suite: its file, its cells, and what was left out as incompatible."""

    file: SuiteFile
    encounters: tuple[Cell, ...]
    matches: tuple[Cell, ...]
    skipped: tuple[str, ...]

    def resolved(self) -> dict[str, Any]:
        return self.file.model_dump(mode="json")


def load(
    suite: str | Path, overrides: Sequence[str] = (), seeds: int | None = None, *, folder: Path | None = None
) -> Suite:
    """Reads, overrides, validates and expands a suite.

    Args:
      suite: a name in ``configs/suites`` or a path.
      overrides: ``path=value`` with a dotted path into the file, e.g. ``games.0.steps=50``.
      seeds: replaces the number of seeds.
      folder: where named suites live.

    Raises:
      BadInput: anything wrong, naming the field, the value and what is allowed.
    """
    path = _find(str(suite), folder or configs_folder() / "suites")
    content = read_yaml(path, f"suite {str(path)!r}")
    if not isinstance(content, dict):
        raise BadInput(f"suite {str(path)!r} holds a {type(content).__name__}; allowed: a mapping of suite keys")
    for override in overrides:
        _override(content, override)
    if seeds is not None:
        content["seeds"] = seeds
        for game in content.get("games") or ():
            if isinstance(game, dict) and "game" in game:
                game.pop("seeds", None)
    return expand(validate(content))


def read_yaml(path: Path, what: str) -> Any:
    """Content of a YAML file.

    Raises:
      BadInput: it cannot be read or is not YAML; names ``what``, the line and the column.
    """
    try:
        return yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1}, column {where.column + 1})" if where else ""
        raise BadInput(f"{what} is not YAML{line}: {getattr(error, 'problem', None) or error}") from None
    except OSError as error:
        raise BadInput(f"{what} cannot be read ({error.strerror})") from None


def validate(content: Mapping[str, Any]) -> SuiteFile:
    """Validates the content of a suite file."""
    try:
        return SuiteFile.model_validate(content)
    except pydantic.ValidationError as error:
        raise _first_complaint(error) from None


def resolve(content: Any) -> dict[str, Any]:
    """What a suite file of any version says, in all of this version's words: of a key it does not
    know yet, the default.

    Raises:
      BadInput: as :func:`validate`.
    """
    return validate(content).model_dump(mode="json")


def _first_complaint(error: pydantic.ValidationError) -> BadInput:
    problems = error.errors(include_url=False)
    # Of a union's several complaints the deepest is about what the user meant.
    worst = max(problems, key=lambda e: (e["type"] == "extra_forbidden", len(e["loc"])))
    names: dict[str, type[_Strict]] = {"GameEntry": GameEntry, "LearnerEntry": LearnerEntry, "League": League}
    models = [names[str(part)] for part in worst["loc"] if str(part) in names]
    steps = [str(part) for part in worst["loc"] if str(part) not in names and "[" not in str(part)]
    field = "suite." + ".".join(steps)
    if worst["type"] == "extra_forbidden":
        allowed = list((models[-1] if models else SuiteFile).model_fields)
        return unknown(f"key of {field.rpartition('.')[0]}", steps[-1], allowed)
    value = worst.get("input")
    shown = "missing" if worst["type"] == "missing" else repr(value)
    return BadInput(f"{field} is {shown}; allowed: {worst['msg'][0].lower()}{worst['msg'][1:]}")


def _find(suite: str, folder: Path) -> Path:
    if suite.endswith((".yaml", ".yml")) or "/" in suite:
        if not Path(suite).is_file():
            raise BadInput(f"suite is {suite!r}, which is no file; allowed: a path to a YAML file, or a name")
        return Path(suite)
    names = suite_names(folder)
    if suite not in names:
        raise unknown("suite", suite, names)
    return names[suite]


def suite_names(folder: Path | None = None) -> dict[str, Path]:
    """Named suites and their files."""
    return {p.stem: p for p in sorted((folder or configs_folder() / "suites").glob("*.yaml"))}


def configs_folder() -> Path:
    """``configs/``, which is part of the package: a link in a checkout, a folder in a wheel."""
    return Path(__file__).resolve().parent.parent / "configs"


def _override(content: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise BadInput(f"--set is {override!r}; allowed: PATH=VALUE with a dotted path, e.g. games.0.steps=50")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise BadInput(f"--set {path} is {text!r}; allowed: a YAML value") from None
    *parents, last = path.split(".")
    node: Any = content
    for step in parents:
        if isinstance(node, dict):
            node = node.setdefault(step, {})
        elif isinstance(node, list) and step.isdigit() and int(step) < len(node):
            node = node[int(step)]
        else:
            raise BadInput(f"--set {path} has no place {step!r}; allowed: an existing path of the suite")
    if isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise BadInput(f"--set {path} has no place {last!r}; allowed: an existing path of the suite")


def expand(file: SuiteFile) -> Suite:
    """All cells of a suite."""
    from shaping_bench.metrics.definitions import METRICS

    for k, metric in enumerate(file.metrics):
        if metric not in METRICS:
            raise unknown(f"suite.metrics.{k}", metric, METRICS, "shaping-bench list metrics")
    encounters: dict[str, Cell] = {}
    matches: dict[str, Cell] = {}
    skipped: list[str] = []
    game_labels: set[str] = set()
    for g, raw in enumerate(file.games):
        entry = raw if isinstance(raw, GameEntry) else GameEntry.model_validate({"game": raw})
        named = registry.make_game(entry.game, f"suite.games.{g}")
        game = Labelled(named, entry.label or named.text)
        if game.label in game_labels:
            raise BadInput(f"suite.games.{g} has the label {game.label!r} of another game; allowed: one label each")
        game_labels.add(game.label)
        own, others = (
            (file.learners, "suite.learners")
            if entry.learners is None
            else (entry.learners, f"suite.games.{g}.learners"),
            (file.opponents, "suite.opponents")
            if entry.opponents is None
            else (entry.opponents, f"suite.games.{g}.opponents"),
        )
        learners = _learners(*own, entry.set, named.name)
        opponents = _learners(*others, entry.set, named.name)
        labels = [x.label for x in (*learners, *opponents)]
        for k, label in enumerate(labels):
            if label in labels[:k]:
                raise BadInput(f"suite.learners has two learners with the label {label!r}; allowed: one label each")

        def cell(
            kind: Literal["encounter", "league"],
            pair: tuple[Labelled, Labelled],
            game: Labelled = game,
            entry: GameEntry = entry,
        ) -> Cell:
            seats = (pair[0], *([pair[1]] * (game.named.value.n_players - 1)))
            return Cell(
                kind,
                game,
                seats,
                entry.seeds or file.seeds,
                file.seed,
                entry.steps or file.steps,
                entry.record_every or file.record_every,
                file.precision,
                file.episodes,
                entry.preparations or file.preparations,
            )

        pairs = _pairs(learners, opponents, file.pairs, game.named.value)
        for pair in pairs:
            try:
                candidate = cell("encounter", pair)
                registry.check_encounter(candidate.game.named, [x.named for x in candidate.learners])
            except BadInput as error:
                if not file.skip_incompatible:
                    raise
                skipped.append(str(error))
                continue
            encounters[candidate.hash] = candidate
        for pair in _league_pairs(file, learners, game):
            candidate = cell("league", pair)
            if pair[1].label == "best-response":
                candidate = dataclasses.replace(candidate, **_response(file, game, pair[0]))
            needed = [cell("encounter", (x, x)) for x in pair if x.named.value.learns and x.label != "best-response"]
            if all(x.hash in encounters for x in needed):
                matches[candidate.hash] = candidate
    return Suite(file, tuple(encounters.values()), tuple(matches.values()), tuple(skipped))


def _learners(
    entries: Sequence[LearnerEntry | Call], field: str, given: Mapping[str, float], game: str
) -> list[Labelled]:
    out = []
    for k, raw in enumerate(entries):
        entry = raw if isinstance(raw, LearnerEntry) else LearnerEntry(learner=raw)
        for point in _sweep(entry.learner, f"{field}.{k}"):
            plain = registry.make_learner(point, f"{field}.{k}")
            ((name, own),) = point.items()
            applicable = {key: v for key, v in given.items() if key in plain.hyperparameters and key not in own}
            named = registry.make_learner({name: {**applicable, **own}}, f"{field}.{k}", game)
            # The label does not change from game to game: what a game sets for all is its own affair.
            label = entry.label if entry.label and len(_sweep(entry.learner, field)) == 1 else None
            out.append(Labelled(named, label or f"{entry.label or ''}{' ' if entry.label else ''}{plain.text}"))
    known = {key for x in out for key in x.named.hyperparameters}
    for key in given:
        if known and key not in known and field.endswith("learners"):
            raise unknown("key of suite.games.set", key, known)
    return out


def _sweep(call: Call, field: str) -> list[dict[str, dict[str, Any]]]:
    """A learner whose hyperparameters are lists is a sweep over their product; where the value is a
    learner a list is a mixture, and a list of lists a sweep."""
    name, given = split_call(call, field)
    mixed = registry.learner_fields(name)

    def values(key: str, x: Any) -> Sequence[Any]:
        several = isinstance(x, list | tuple) and (key not in mixed or all(isinstance(y, list | tuple) for y in x))
        return x if several else [x]

    axes = [[(k, x) for x in values(k, v)] for k, v in given.items()]
    return [{name: dict(point)} for point in itertools.product(*axes)]


def _pairs(
    learners: Sequence[Labelled], opponents: Sequence[Labelled], which: str, game: Game
) -> list[tuple[Labelled, Labelled]]:
    own = [(x, x) for x in learners]
    cross = list(itertools.combinations(learners, 2))
    chosen = {"all": own + cross, "self": own, "cross": cross}[which] + list(itertools.product(learners, opponents))
    return _orders(chosen, game)


def _orders(pairs: Sequence[tuple[Labelled, Labelled]], game: Game) -> list[tuple[Labelled, Labelled]]:
    """Adds the other order of seats where it is another encounter.

    In a symmetric game it never is. Where the seats are alike up to the names of actions it is
    not for rules that learn, which do not know the names; a fixed strategy does.
    """

    def one_order(a: Labelled, b: Labelled) -> bool:
        learning = a.named.value.learns and b.named.value.learns
        if game.n_players > 2:  # A against two of B, and B against two of A
            return "best-response" in (a.label, b.label)
        return game.symmetric or (learning and game.exchangeable) or "best-response" in (a.label, b.label)

    return _distinct([*pairs, *((b, a) for a, b in pairs if not one_order(a, b))])


def _distinct(pairs: Sequence[tuple[Labelled, Labelled]]) -> list[tuple[Labelled, Labelled]]:
    return list({(a.label, b.label): (a, b) for a, b in pairs}.values())


def _league_pairs(file: SuiteFile, learners: Sequence[Labelled], game: Labelled) -> list[tuple[Labelled, Labelled]]:
    if not file.league:
        return []
    league = file.league if isinstance(file.league, League) else League()
    fixed = [
        (named := registry.make_learner(c, f"suite.league.opponents.{k}"), named.text)
        for k, c in enumerate(league.opponents)
    ]
    others = [Labelled(*x) for x in fixed]
    if league.best_response:
        others.append(Labelled(registry.make_learner("best-response"), "best-response"))
    playable = [x for x in others if x.label == "best-response" or _can_play(x, game)]
    own = list(itertools.combinations_with_replacement(learners, 2)) + list(itertools.product(learners, playable))
    return _orders(own, game.named.value)


def _can_play(x: Labelled, game: Labelled) -> bool:
    try:
        for player in range(game.named.value.n_players):
            x.named.value.check_game(game.named.value, player)
    except ValueError:
        return False
    return bool(x.named.value.views & game.named.value.views)


def _response(file: SuiteFile, game: Labelled, met: Labelled) -> dict[str, Any]:
    """Who is trained against frozen policies, and for how long, where no best response is exact."""
    made = game.named.value
    exactly = valued_exactly(made, [met.named.value] * made.n_players)
    if exactly and made.has_best_response:
        return {}
    league = file.league if isinstance(file.league, League) else League()
    named = registry.make_learner("naive" if exactly else league.responder, "suite.league.responder", game.named.name)
    return {"responder": Labelled(named, named.text), "steps": league.responder_steps}
