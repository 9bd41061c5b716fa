"""Suites: a YAML file of games, learners and a protocol, expanded into cells.

A cell is one encounter or one league match-up; its content hash is its identity, so that
nothing is computed twice and a changed number is a new cell.
"""

import dataclasses
import functools
import itertools
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml

from shaping_bench.errors import BadInput, unknown
from shaping_bench.games.base import Game
from shaping_bench.run import starts
from shaping_bench.run.encounter import valued_exactly
from shaping_bench.run.preparation import Preparation, needed
from shaping_bench.spec import registry
from shaping_bench.spec.calls import split_call
from shaping_bench.spec.configs import Strict, allowed, configs_folder, read_yaml
from shaping_bench.spec.identity import content_hash
from shaping_bench.spec.lineups import Kind, Labelled, Lineup, Which, line_up, title
from shaping_bench.spec.protocol import (
    EPISODES,
    Changes,
    Episodes,
    Precision,
    Preparations,
    Protocol,
    RecordEvery,
    Seed,
    Seeds,
    Starts,
    Steps,
)
from shaping_bench.spec.registry import Named
from shaping_bench.store.store import SCHEMA

Call = str | dict[str, dict[str, Any] | None]


class LearnerEntry(Strict):
    """A learner of the suite under a label of its own."""

    learner: Call
    label: str | None = None


Lineups = Kind | Annotated[list[list[str]], pydantic.Field(min_length=1)]


class League(Strict):
    """Which frozen opponents the final policies meet."""

    opponents: list[Call] = pydantic.Field(default=[])
    among: bool = True
    """Whether they meet one another."""
    best_response: bool = True
    responder: Call | Annotated[list[Call], pydantic.Field(min_length=1)] = "ppo"
    """Who is trained from scratch as the best response where none is exact: in games without
    exact values; in exact ones a naive learner is. Of several each is trained in a cell of its own."""
    responder_steps: Annotated[int, pydantic.Field(ge=1)] = 300
    adversaries: list[Call] = pydantic.Field(default=[])
    """Who else is trained from scratch against the policies of each self-play, for as many updates, whether or not best
    responses are exact: ``rational-adversary``."""

    @pydantic.model_serializer(mode="wrap")
    def _as_before(self, serialize: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without ``adversaries`` where there are none, as it was written before there were any."""
        return {k: v for k, v in serialize(self).items() if k != "adversaries" or v}


class GameEntry(Changes):
    """A game of the suite, with what differs from the suite's protocol there."""

    game: Call
    label: str | None = None
    steps: Annotated[Steps, pydantic.Field(ge=1)] | None = None
    learners: list[LearnerEntry | Call] | None = pydantic.Field(None, min_length=1)
    opponents: list[LearnerEntry | Call] | None = None
    lineups: Lineups | None = None
    set: dict[str, float] = pydantic.Field(default={})
    """Hyperparameters given to every learner that has them, e.g. step sizes fit for the game."""
    league: League | None = None
    """Of this game, instead of the suite's."""


class CardEntry(Strict):
    """Rules of which the suite holds every cell of their cards, besides those that cards are measured by."""

    track: str
    tier: str = "quick"
    learners: list[str] = pydantic.Field(min_length=1)
    games: list[str] | None = pydantic.Field(None, min_length=1)
    """Those of the track's games that are asked; all by default."""


class SuiteFile(Strict):
    """What a suite file may say."""

    name: str = pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    description: str = ""
    games: list[GameEntry | Call] = pydantic.Field(min_length=1)
    learners: list[LearnerEntry | Call] = pydantic.Field(min_length=1)
    opponents: list[LearnerEntry | Call] = pydantic.Field(default=[])
    """Met by every learner, but not by one another (fixed strategies, say)."""
    lineups: Lineups = "pairs"
    """Who sits where: see :mod:`shaping_bench.spec.lineups`."""
    pairs: Which = "all"
    """Of the line-ups all, those of one learner (``self``) or those of several (``cross``)."""
    seeds: Seeds = 100
    seed: Seed = 0
    steps: Annotated[Steps, pydantic.Field(ge=1)] = 200
    record_every: RecordEvery = 10
    precision: Precision = "float32"
    episodes: Episodes = EPISODES
    """Played per recorded point where policies cannot be valued exactly."""
    preparations: Preparations = 1
    """Seeds from which learners that prepare are prepared; the encounters' seeds share them."""
    starts: Starts = "drawn"
    """Policies begin as learners draw them, or at the points of a grid, one per seed."""
    league: League | bool = False
    metrics: list[str] = pydantic.Field(default=["return"])
    skip_incompatible: bool = False
    """Leave out learners that cannot play a game instead of refusing the suite."""
    keep_state: bool = False
    """Store where each encounter ended: the same suite with more steps goes on from there."""
    policies_every: Annotated[int, pydantic.Field(ge=1)] | None = None
    """Updates between policies that are stored on the way, besides the final ones."""
    within: bool = False
    """Store what final policies earn in each step of an episode, of games that are played."""
    cards: list[CardEntry] = pydantic.Field(default=[])
    """Their cells go by the protocols of their scenarios, whatever the suite's is."""

    def plain(self) -> dict[str, Any]:
        """All it says, and of what it does not say the defaults; but for keys that decide no number, which
        are left out where they are not given."""
        whole = self.model_dump(mode="json")
        unsaid = [
            key
            for key in ("keep_state", "policies_every", "within", "cards", "starts")
            if whole[key] == type(self).model_fields[key].default
        ]
        return {key: x for key, x in whole.items() if key not in unsaid}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell(Protocol):
    """One encounter, or one league match-up of policies that encounters produced: a protocol, and who plays.

    Attributes:
      learners: the line-up, one learner per seat.
      best_response: of a league cell, the last seat plays a best response to the others' policies.
      responder: who is trained to be it, for ``steps`` updates, where none is exact.
      after: updates of the self-play whose policies it answers, where a card or a game's own league asks;
        None: as the suite's encounters of the game have.
    """

    kind: Literal["encounter", "league"]
    game: Labelled
    learners: Lineup
    best_response: bool = False
    responder: Labelled | None = None
    after: int | None = None

    def identity(self) -> dict[str, Any]:
        """Everything that decides its numbers; labels do not."""
        learners = list(self.learners)
        if self.best_response:  # as it was first written: one policy, and best responses in all other seats
            learners = [learners[0], *([learners[-1]] * (len(learners) - 1))]
        identity: dict[str, Any] = {
            "schema": SCHEMA,
            "kind": self.kind,
            "game": self.game.named.identity(),
            "learners": [x.named.identity() for x in learners],
            "protocol": [self.seeds, self.seed, self.steps, self.record_every, self.precision],
        }
        if not self._exactly:
            identity["episodes"] = self.episodes
        if any(self.needs):
            identity["preparations"] = self.preparations
        if self.responder is not None:
            identity["responder"] = self.responder.named.identity()
        if self.after is not None:
            identity["after"] = self.after
        if self.starts != "drawn":
            identity["starts"] = self.starts
        return identity

    @functools.cached_property
    def hash(self) -> str:
        return content_hash(self.identity())

    @property
    def _exactly(self) -> bool:
        return valued_exactly(self.game.named.value, [x.named.value for x in self.learners])

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
        """What it is called where people read it."""
        players = title([x.label for x in self.learners])
        return f"{self.game.label}: {players}" + (" (league)" if self.kind == "league" else "")

    @property
    def command(self) -> str:
        """The shell command that runs this encounter alone, by the same protocol.

        Its numbers are those of the cell but for rounding: in a suite hyperparameters lie in lanes,
        one for each seed and setting, alone they are numbers that all seeds share, and the compiler
        makes other sums of them. Updates amplify that as they amplify everything: seeds near a
        boundary may end elsewhere.
        """
        names = shlex.join(x.named.text for x in (self.game, *self.learners))
        options = {
            "seeds": self.seeds,
            "steps": self.steps,
            "seed": self.seed,
            "record-every": self.record_every,
            "precision": self.precision,
            "episodes": None if self._exactly else self.episodes,
            "preparations": self.preparations if any(self.needs) and self.preparations > 1 else None,
            "starts": None if self.starts == "drawn" else self.starts,
        }
        given = "".join(f" --{name} {value}" for name, value in options.items() if value is not None)
        return f"shaping-bench encounter {names}{given}"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Suite:
    """A resolved suite: its file, its cells, and what was left out as incompatible. One object is equal
    to itself alone, so that what was made of it can be kept."""

    file: SuiteFile
    encounters: tuple[Cell, ...]
    matches: tuple[Cell, ...]
    skipped: tuple[str, ...]

    def resolved(self) -> dict[str, Any]:
        return self.file.plain()


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
    return validate(content).plain()


def _first_complaint(error: pydantic.ValidationError) -> BadInput:
    problems = error.errors(include_url=False)
    # Of a union's several complaints the deepest is about what the user meant.
    worst = max(problems, key=lambda e: (e["type"] == "extra_forbidden", len(e["loc"])))
    names: dict[str, type[Strict]] = {x.__name__: x for x in (GameEntry, LearnerEntry, League)}
    models = [names[str(part)] for part in worst["loc"] if str(part) in names]
    steps = [str(part) for part in worst["loc"] if str(part) not in names and "[" not in str(part)]
    field = "suite." + ".".join(steps)
    if worst["type"] == "extra_forbidden":
        keys = list((models[-1] if models else SuiteFile).model_fields)
        return unknown(f"key of {field.rpartition('.')[0]}", steps[-1], keys)
    value = worst.get("input")
    shown = "missing" if worst["type"] == "missing" else repr(value)
    return BadInput(f"{field} is {shown}; allowed: {allowed(worst)}")


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
    from shaping_bench.metrics import METRICS

    for k, metric in enumerate(file.metrics):
        if metric not in METRICS:
            raise unknown(f"suite.metrics.{k}", metric, METRICS, "shaping-bench list metrics")
    encounters: dict[str, Cell] = {}
    matches: dict[str, Cell] = {}
    skipped: list[str] = []
    labels: set[str] = set()
    for played in _games(file):
        if played.game.label in labels:
            raise BadInput(
                f"suite.games.{played.game.entry} has the label {played.game.label!r} of another game; allowed: one "
                "label each"
            )
        labels.add(played.game.label)
        for lineup in played.lineups(skipped if file.skip_incompatible else None):
            candidate = played.cell("encounter", lineup)
            try:
                registry.check_encounter(candidate.game.named, [x.named for x in candidate.learners])
                rules = [x.named.value for x in candidate.learners]
                starts.check(candidate.starts, candidate.game.named.value, rules, candidate.seeds)
            except BadInput as error:
                if not file.skip_incompatible:
                    raise
                skipped.append(str(error))
                continue
            encounters[candidate.hash] = candidate
        for match in _matches(file, played):
            sources = [x for x in match.learners if x.named.value.learns and not _answers(x, match)]
            n = len(match.learners)
            if all(played.cell("encounter", (x,) * n).hash in encounters for x in sources):
                matches[match.hash] = match
    for cell in _of_cards(file):
        (encounters if cell.kind == "encounter" else matches).setdefault(cell.hash, cell)
    return Suite(
        file=file, encounters=tuple(encounters.values()), matches=tuple(matches.values()), skipped=tuple(skipped)
    )


def _of_cards(file: SuiteFile) -> Iterator[Cell]:
    """The cells of all cards that can be played, those of naive learning and random play included."""
    from shaping_bench.spec import scenarios  # which are made of cells

    for k, entry in enumerate(file.cards):
        track = scenarios.load_track(entry.track, f"suite.cards.{k}.track").only(entry.games, f"suite.cards.{k}.games")
        track.tier(entry.tier, f"suite.cards.{k}.tier")
        for subject in scenarios.subjects_of(track, entry.learners, f"suite.cards.{k}.learners"):
            cells = scenarios.card_cells(track, entry.tier, subject).values()
            yield from (cell for cell in cells if not isinstance(cell, str))
            yield from itertools.chain(*scenarios.card_responses(track, entry.tier, subject).values())


def _answers(x: Labelled, match: Cell) -> bool:
    return match.best_response and x is match.learners[-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Played:
    """A game of a suite with everybody who plays it."""

    file: SuiteFile
    entry: GameEntry
    game: Labelled
    learners: tuple[Labelled, ...]
    opponents: tuple[Labelled, ...]

    @property
    def _kind(self) -> Any:
        return self.file.lineups if self.entry.lineups is None else self.entry.lineups

    def lineups(self, skipped: list[str] | None) -> list[Lineup]:
        """Of its encounters; what cannot be filled is told to ``skipped``, or raises."""
        own = self.entry.lineups is not None
        try:
            return line_up(
                self._kind,
                self.learners,
                self.opponents,
                self.game.named.value,
                self.file.pairs,
                f"suite.games.{self.game.entry}.lineups" if own else "suite.lineups",
            )
        except BadInput as error:
            if skipped is None or own:
                raise
            skipped.append(f"{self.game.label}: {error}")
            return []

    def league_lineups(self, others: Sequence[Labelled]) -> list[Lineup]:
        """Of its league: as in its encounters, of the learners and of ``others``, who are fixed."""
        kind, known = self._kind, {x.label for x in (*self.learners, *others)}
        if not isinstance(kind, str):
            kind = [row for row in kind if known.issuperset(row)]
        return line_up(kind, self.learners, others, self.game.named.value)

    def cell(self, kind: Literal["encounter", "league"], lineup: Lineup, **changes: Any) -> Cell:
        protocol = dataclasses.asdict(Protocol.of(self.file, **self.entry.protocol_changes()))
        return Cell(**{**protocol, "kind": kind, "game": self.game, "learners": lineup, **changes})


def _games(file: SuiteFile) -> Iterator[_Played]:
    entries = [raw if isinstance(raw, GameEntry) else GameEntry.model_validate({"game": raw}) for raw in file.games]
    first = _first_entries(file, entries)
    for g, entry in enumerate(entries):
        named = registry.make_game(entry.game, f"suite.games.{g}")
        players: dict[str, tuple[Labelled, ...]] = {}
        for key in ("learners", "opponents"):
            alone = getattr(entry, key) is not None
            players[key] = _learners(
                getattr(entry, key) if alone else getattr(file, key),
                f"suite.games.{g}.{key}" if alone else f"suite.{key}",
                given=entry.set,
                game=named.name,
                first=first[key, g if alone else None],
            )
        taken = [x.label for group in players.values() for x in group]
        for k, label in enumerate(taken):
            if label in taken[:k]:
                raise BadInput(f"suite.learners has two learners with the label {label!r}; allowed: one label each")
        game = Labelled(named=named, label=entry.label or named.text, entry=g)
        yield _Played(file=file, entry=entry, game=game, **players)


def _first_entries(file: SuiteFile, entries: Sequence[GameEntry]) -> dict[tuple[str, int | None], int]:
    """Index of the first entry of every list of learners, as :class:`Labelled` counts them."""
    first: dict[tuple[str, int | None], int] = {}
    count = 0
    for key in ("learners", "opponents"):
        for g, owner in [(None, file), *enumerate(entries)]:
            first[key, g] = count
            count += len(getattr(owner, key) or ())
    return first


def _learners(
    entries: Sequence[LearnerEntry | Call], field: str, *, given: Mapping[str, float], game: str, first: int
) -> tuple[Labelled, ...]:
    out = []
    for k, raw in enumerate(entries):
        entry = raw if isinstance(raw, LearnerEntry) else LearnerEntry(learner=raw)
        points, swept = _sweep(entry.learner, f"{field}.{k}")
        for point in points:
            plain = registry.make_learner(point, f"{field}.{k}")
            ((name, own),) = point.items()
            applicable = {key: v for key, v in given.items() if key in plain.hyperparameters and key not in own}
            named = registry.make_learner({name: {**applicable, **own}}, f"{field}.{k}", game)
            # The label does not change from game to game: what a game sets for all is its own affair.
            label = entry.label if entry.label and len(points) == 1 else None
            out.append(
                Labelled(
                    named=named,
                    label=label or f"{entry.label or ''}{' ' if entry.label else ''}{plain.text}",
                    entry=first + k,
                    swept={key: named.hyperparameters[key] for key in swept},
                )
            )
    known = {key for x in out for key in x.named.hyperparameters}
    for key in given:
        if known and key not in known and field.endswith("learners"):
            raise unknown("key of suite.games.set", key, known)
    return tuple(out)


def _sweep(call: Call, field: str) -> tuple[list[dict[str, dict[str, Any]]], tuple[str, ...]]:
    """A learner whose hyperparameters are lists is a sweep over their product; where the value is a
    learner a list is a mixture, and a list of lists a sweep. The points, and what is swept."""
    name, given = split_call(call, field)
    mixed = registry.learner_fields(name)

    def values(key: str, x: Any) -> Sequence[Any]:
        several = isinstance(x, list | tuple) and (key not in mixed or all(isinstance(y, list | tuple) for y in x))
        return x if several else [x]

    axes = {key: values(key, x) for key, x in given.items()}
    points = [{name: dict(zip(axes, point, strict=True))} for point in itertools.product(*axes.values())]
    return points, tuple(key for key, x in axes.items() if len(x) > 1)


# --- leagues ------------------------------------------------------------------------------


def _matches(file: SuiteFile, played: _Played) -> list[Cell]:
    """Match-ups of final policies: of all learners, with fixed strategies, and with a best response."""
    asked = file.league if played.entry.league is None else played.entry.league
    if not asked:
        return []
    league = asked if isinstance(asked, League) else League()
    game = played.game.named.value
    fixed = [registry.make_learner(c, f"suite.league.opponents.{k}") for k, c in enumerate(league.opponents)]
    others = [Labelled(named=x, label=x.text) for x in fixed if _can_play(x, game)]
    cells = [played.cell("league", lineup) for lineup in played.league_lineups(others)]
    if not league.among:
        fixed_labels = {x.label for x in others}
        cells = [cell for cell in cells if fixed_labels & {x.label for x in cell.learners}]
    responders = league.responder if isinstance(league.responder, list) else [league.responder]
    for x in played.learners if game.n_players > 1 else ():
        alone = played.cell("encounter", (x,) * game.n_players)
        budget: dict[str, Any] = {
            "steps": league.responder_steps,
            "after": None if asked is file.league else alone.steps,
        }
        if league.best_response:
            cells += responses(alone, responders, field="suite.league.responder", **budget)
        cells += adversaries(alone, league.adversaries, field="suite.league.adversaries", **budget)
    return cells


def _can_play(x: Named, game: Game) -> bool:
    try:
        for player in range(game.n_players):
            x.value.check_game(game, player)
    except ValueError:
        return False
    return bool(x.value.views & game.views)


def responses(
    alone: Cell, responders: Sequence[Call], *, steps: int, field: str, after: int | None = None
) -> list[Cell]:
    """The league cells in which a best response meets the policies of a self-play: one where it is exact, or a
    naive learner's; else one for each of those who are trained to be it.

    Args:
      alone: the self-play.
      responders: who is trained.
      steps: updates of each.
      field: what they are called in complaints.
      after: as of the cells.
    """
    game = alone.game
    exactly = valued_exactly(game.named.value, [x.named.value for x in alone.learners])
    if exactly and game.named.value.has_best_response:
        return [_response(alone, "best-response")]
    trained = _trained(game, ["naive"] if exactly else responders, field)
    # Of several each has a label of its own: cells of the same labels would supersede one another.
    return [
        _response(
            alone,
            "best-response" if len(trained) == 1 else f"best-response by {x.label}",
            responder=x,
            steps=steps,
            after=after,
        )
        for x in trained
    ]


def adversaries(alone: Cell, calls: Sequence[Call], *, steps: int, field: str, after: int | None = None) -> list[Cell]:
    """The league cells in which each of these is trained in the last seat against the policies of a self-play, as far
    as it can meet them.

    Args:
      alone, steps, field, after: as of :func:`responses`.
      calls: who is trained.

    Raises:
      BadInput: one of them does not learn.
    """
    cells = []
    for x in _trained(alone.game, calls, field):
        if not x.named.value.learns:
            raise BadInput(f"{field} has {x.label!r}; allowed: who learns")
        try:
            registry.check_encounter(alone.game.named, [*(y.named for y in alone.learners[:-1]), x.named])
        except BadInput:
            continue
        cells.append(_response(alone, x.label, responder=x, steps=steps, after=after))
    return cells


def _trained(game: Labelled, calls: Sequence[Call], field: str) -> list[Labelled]:
    return [
        Labelled(
            named=registry.make_learner(call, field, game.named.name), label=registry.make_learner(call, field).text
        )
        for call in calls
    ]


def _response(alone: Cell, label: str, **changes: Any) -> Cell:
    """A self-play's policies against somebody who answers them in the last seat."""
    lineup = (*alone.learners[:-1], Labelled(named=registry.make_learner("best-response"), label=label))
    return dataclasses.replace(alone, kind="league", learners=lineup, best_response=True, **changes)
