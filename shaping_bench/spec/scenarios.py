"""Scenarios: in which game a subject meets whom, whether they learn on, and for how long.

``configs/scenarios/TRACK.yaml`` lists what is asked of every rule of a track. A scenario is an entry of
that list in one of its games; a *member* is one game of it, of which the 78 ordinal games are many. What
a card says is a projection of ordinary cells, one for each subject and member: :func:`card_suite` is the
suite that holds them.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pydantic

from shaping_bench.errors import BadInput, unknown
from shaping_bench.run.starts import SIDE
from shaping_bench.spec import registry
from shaping_bench.spec.configs import Strict, allowed, configs_folder, read_yaml
from shaping_bench.spec.lineups import Labelled
from shaping_bench.spec.protocol import Preparations, RecordEvery, Seeds, Starts, Steps
from shaping_bench.spec.suite import Cell, adversaries, responses

Family = Literal["self", "learners", "unseen-learners", "frozen", "shapers", "adversary", "rational"]
Split = Literal["train", "validation", "test"]
Block = Literal["main", "ordinal", "diagnostic"]
Role = Literal["visitor", "resident"]

HELD_OUT: frozenset[str] = frozenset({"unseen-learners", "shapers"})
"""Families of which generality is the mean."""

UNDRAWN: frozenset[str] = frozenset({"self", "learners", "adversary", "rational"})
"""Families in which nothing is drawn for a split."""

SPLITS: tuple[str, ...] = get_args(Split)

BACKGROUND = "background"
"""Label of whoever sits in the other seats."""


ResponseSteps = Annotated[int, pydantic.Field(ge=2)]


class Tier(Strict):
    """A budget.

    Attributes:
      steps, record_every, response_steps: where it has others than its track.
      reference: rules whose results are shipped, likewise.
    """

    seeds: Seeds
    preparations: Preparations = 1
    steps: Annotated[Steps, pydantic.Field(ge=10)] | None = None
    record_every: RecordEvery | None = None
    response_steps: ResponseSteps | None = None
    reference: list[str] = pydantic.Field(default=[])


class GameGroup(Strict):
    """A game of a track.

    Attributes:
      block: averages that it belongs to; games of another block than ``main`` are in no ranking.
      count: of how many games it stands for, those with ``index`` 0, 1, ... from either seat; None: itself.
      tiers: that ask about it; all without.
      spread: of returns per step, by which effects and gains are measured and told from nothing, where rewards are so
        rare that the smallest and the largest of a step say little of them; by default the range of rewards.
    """

    block: Block = "main"
    count: Annotated[int, pydantic.Field(ge=1)] | None = None
    tiers: list[str] = pydantic.Field(default=[])
    spread: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)] | None = None


class Asked(Strict):
    """An entry of the list: what is asked, in which games; of the tiers that are named, or of all.

    Attributes:
      role: of the subject among three and more: a visitor has the first seat, residents have all but the last.
    """

    name: str = pydantic.Field(pattern=r"^[a-z][a-z0-9-]*$")
    family: Family
    about: str
    background: str | None = None
    role: Role = "visitor"
    games: list[str] = pydantic.Field(min_length=1)
    splits: list[Split] = pydantic.Field(["test"], min_length=1)
    tiers: list[str] = pydantic.Field(default=[])
    tags: list[str] = pydantic.Field(default=[])
    starts: Starts = "drawn"
    """From a grid the scenario tells which starts lead to what is best for both, whatever the tier, and is in no
    average."""


class TrackFile(Strict):
    """What a file of scenarios may say.

    Attributes:
      responders: who is trained to be the adversary, the stronger of whom counts; none where best responses
        are exact. Where there are any, the best known return stands for that of a best response, in every game.
      response_steps: updates of each.
      measure: metric that scores are made of, where it is another one than the return.
      told: metrics that its card tells besides, in no score.
      minutes: by tier, rules whose results are not shipped, as they would be asked, and the CPU-minutes that their
        cards would take.
    """

    track: str
    view: Literal["exact", "sampled"]
    naive: str
    random: str
    reference: list[str] = pydantic.Field(default=[])
    steps: Annotated[Steps, pydantic.Field(ge=10)]
    record_every: RecordEvery
    responders: list[str] = pydantic.Field(default=[])
    response_steps: ResponseSteps = 300
    measure: str = "return"
    told: list[str] = pydantic.Field(default=[])
    minutes: dict[str, dict[str, Annotated[float, pydantic.Field(gt=0.0)]]] = pydantic.Field(default={})
    tiers: dict[str, Tier] = pydantic.Field(min_length=1)
    games: dict[str, GameGroup] = pydantic.Field(min_length=1)
    scenarios: list[Asked] = pydantic.Field(min_length=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """What a subject is asked in a game.

    Attributes:
      name: ``GAME/NAME``, with ``:SPLIT`` unless it is of the test split.
      game: of the track, a group of games where several are played.
      members: the games, as one writes them, by what they are called within the scenario.
      background: who sits in the other seats; None: the subject itself.
      role: which seats are the subject's, see :meth:`seats`.
      learns: whether the background does.
      block: whose averages it enters.
      about: the background in words.
      tiers: that ask it.
      starts: where policies begin, see :class:`shaping_bench.spec.protocol.Protocol`.
      spread: of the game, see :class:`GameGroup`.
    """

    name: str
    track: str
    family: Family
    game: str
    members: Mapping[str, str]
    background: str | None
    role: Role
    learns: bool
    split: Split
    block: Block
    about: str
    tags: tuple[str, ...]
    steps: int
    tiers: tuple[str, ...]
    starts: Starts = "drawn"
    spread: float | None = None

    @property
    def gridded(self) -> bool:
        """Whether it begins at every point of a grid, and so has seeds of its own."""
        return self.starts != "drawn"

    def seeds(self, tier: Tier) -> int:
        return SIDE**2 if self.gridded else tier.seeds

    def seats(self, n_players: int) -> tuple[int, ...]:
        """Of the subject: all without a background, else the first, of residents all but the last.

        >>> scenario = load_track("exact").scenarios[0]
        >>> scenario.name, scenario.seats(2)
        ('ipd/self', (0, 1))
        """
        if self.background is None:
            return tuple(range(n_players))
        return tuple(range(n_players - 1)) if self.role == "resident" else (0,)

    def sides(self, n_players: int) -> tuple[list[int], list[int]]:
        """The subject's seats, and the others; where the subject sits in all of them, these are the others too."""
        own = list(self.seats(n_players))
        return own, [i for i in range(n_players) if i not in own] or own

    @property
    def projected(self) -> bool:
        """Whether it has no encounters of its own: who answers them answers the policies of self-play."""
        return self.family in ("adversary", "rational")

    def label(self, member: str) -> str:
        """The game's label in the suite of a card."""
        return self.name if member == self.game else f"{self.name}/{member}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Track:
    """The scenarios of a track.

    Attributes:
      name: of the track.
      view: of a game that its rules play.
      naive: its naive learner, from which shaping is measured.
      random: who plays at random, from which shares are measured.
      reference: rules whose results are shipped.
      responders: who is trained to be the adversary, for ``response_steps`` updates each; none where best
        responses are exact.
      measure: metric that its scores are made of.
      told: metrics that its card tells besides.
      minutes: by tier, what cards of rules that are not shipped would take; see :class:`TrackFile`.
      scenarios: of all splits.
      games: those of its games that are meant, if not all of them are.
    """

    name: str
    view: str
    naive: str
    random: str
    reference: tuple[str, ...]
    record_every: int
    responders: tuple[str, ...]
    response_steps: int
    tiers: Mapping[str, Tier]
    scenarios: tuple[Scenario, ...]
    games: tuple[str, ...] = ()
    measure: str = "return"
    told: tuple[str, ...] = ()
    minutes: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)

    def only(self, games: Sequence[str] | None, field: str = "--games") -> "Track":
        """The track as far as it is about some of its games; all of it if none are given.

        Raises:
          BadInput: no scenario is in one of them.
        """
        known = tuple(dict.fromkeys(x.game for x in self.scenarios))
        for game in games or ():
            if game not in known:
                raise unknown(f"{field} of the track {self.name!r}", game, known)
        if not games or set(games) == set(known):
            return self
        chosen = tuple(x for x in known if x in games)
        return dataclasses.replace(self, scenarios=tuple(x for x in self.scenarios if x.game in chosen), games=chosen)

    def of(self, split: str) -> tuple[Scenario, ...]:
        """What a card of a split is made of: its scenarios, and those in which nothing is drawn for a split."""
        return tuple(x for x in self.scenarios if x.split == split or x.family in UNDRAWN)

    @property
    def headline(self) -> str:
        """The score that rules are ranked by: generality, or cooperation where nobody is held out, as where nobody
        else has a seat.

        >>> load_track("exact").headline, load_track("latent").headline
        ('generality', 'cooperation')
        """
        return "generality" if any(x.family in HELD_OUT for x in self.scenarios) else "cooperation"

    def tier(self, name: str, field: str = "--tier") -> Tier:
        if name not in self.tiers:
            raise unknown(f"{field} of the track {self.name!r}", name, self.tiers)
        return self.tiers[name]

    def at(self, tier: str, field: str = "--tier") -> "Track":
        """The track as a tier has it: what that asks, for as many updates as it says."""
        budget = self.tier(tier, field)
        return dataclasses.replace(
            self,
            reference=tuple(budget.reference) or self.reference,
            record_every=budget.record_every or self.record_every,
            response_steps=budget.response_steps or self.response_steps,
            scenarios=tuple(
                dataclasses.replace(x, steps=budget.steps or x.steps) for x in self.scenarios if tier in x.tiers
            ),
        )

    def subject(self, learner: str, field: str = "learner") -> str:
        """A learner as the track calls it.

        Raises:
          BadInput: it does not play the track's view of a game.
        """
        named = registry.make_learner(learner, field)
        if self.view not in named.value.views:
            raise BadInput(
                f"{field} {named.text!r} plays the views {sorted(named.value.views)}; the {self.name} track asks for "
                f"{self.view!r}"
            )
        return named.text


@functools.cache
def track_names() -> dict[str, Path]:
    """Tracks and their files."""
    return {p.stem: p for p in sorted((configs_folder() / "scenarios").glob("*.yaml"))}


@functools.cache
def load_track(name: str, field: str = "--track") -> Track:
    """The scenarios of a track.

    Args:
      name: of the track.
      field: where it is asked for, for messages.

    Raises:
      BadInput: there is no such track, or its file is wrong; names the field, the value and what is allowed.
    """
    names = track_names()
    if name not in names:
        raise unknown(field, name, names)
    return read_track(read_yaml(names[name], f"scenarios {name!r}"))


def read_track(content: Any) -> Track:
    """A track from what a file of scenarios says.

    Raises:
      BadInput: as :func:`load_track`.
    """
    try:
        file = TrackFile.model_validate(content)
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(x) for x in problem["loc"])
        raise BadInput(f"scenarios.{field} is {problem.get('input')!r}; allowed: {allowed(problem)}") from None
    for name, group in file.games.items():
        for tier in group.tiers:
            if tier not in file.tiers:
                raise unknown(f"scenarios.games.{name}.tiers", tier, file.tiers)
    scenarios: list[Scenario] = []
    for k, asked in enumerate(file.scenarios):
        if (asked.background is None) != (asked.family in ("self", "adversary")):
            raise BadInput(
                f"scenarios.{k}.background is {asked.background!r} in the family {asked.family!r}; allowed: none for "
                "self and adversary, a learner elsewhere"
            )
        for tier in asked.tiers:
            if tier not in file.tiers:
                raise unknown(f"scenarios.{k}.tiers", tier, file.tiers)
        for game in asked.games:
            if game not in file.games:
                raise unknown(f"scenarios.{k}.games", game, file.games)
            scenarios += [_scenario(file, asked, game, split, f"scenarios.{k}") for split in asked.splits]
    for k, responder in enumerate(file.responders):
        if not registry.make_learner(responder, f"scenarios.responders.{k}").value.learns:
            raise BadInput(f"scenarios.responders.{k} is {responder!r}; allowed: who learns")
    answered = (x for x in scenarios if x.family == "adversary" and file.responders)
    for call in dict.fromkeys(call for x in answered for call in x.members.values()):
        if registry.make_game(call, "scenarios.games").value.has_best_response:
            raise BadInput(
                f"scenarios.responders are {', '.join(file.responders)}, but best responses are exact in {call!r}; "
                "allowed: none"
            )
    for scenario in scenarios:
        own = {x.family for x in scenarios if x.game == scenario.game}
        if scenario.family == "rational" and not own >= {"self", "adversary"}:
            raise BadInput(
                f"scenarios: {scenario.name!r} answers self-play and is measured as an adversary, which "
                f"{scenario.game!r} has not; allowed: games of the families self and adversary"
            )
    _check_metrics(file)
    for tier, timed in file.minutes.items():
        if tier not in file.tiers:
            raise unknown("scenarios.minutes", tier, file.tiers)
        _written(list(timed), f"scenarios.minutes.{tier}")
    # As suites and stored cells call them, however a file orders their numbers.
    naive, random = (_written([getattr(file, x)], f"scenarios.{x}")[0] for x in ("naive", "random"))
    tiers = {
        name: tier.model_copy(update={"reference": _written(tier.reference, f"scenarios.tiers.{name}.reference")})
        for name, tier in file.tiers.items()
    }
    once = {x.name for x in scenarios}
    if len(once) < len(scenarios):
        raise BadInput(f"scenarios of {file.track!r} have a name twice; allowed: one name each")
    return Track(
        name=file.track,
        view=file.view,
        naive=naive,
        random=random,
        reference=tuple(_written(file.reference, "scenarios.reference")),
        record_every=file.record_every,
        responders=tuple(file.responders),
        response_steps=file.response_steps,
        tiers=tiers,
        scenarios=tuple(scenarios),
        measure=file.measure,
        told=tuple(file.told),
        minutes=file.minutes,
    )


def _written(learners: Sequence[str], field: str) -> list[str]:
    """Learners as suites and stored cells call them."""
    return [registry.make_learner(x, field).text for x in learners]


def _check_metrics(file: TrackFile) -> None:
    """Raises ``BadInput`` if something is measured or told that is no metric."""
    from shaping_bench.metrics import METRICS

    named = {"measure": file.measure, **{f"told.{k}": name for k, name in enumerate(file.told)}}
    for field, name in named.items():
        if name not in METRICS:
            raise unknown(f"scenarios.{field}", name, METRICS, "shaping-bench list metrics")


def _scenario(file: TrackFile, asked: Asked, game: str, split: Split, field: str) -> Scenario:
    group = file.games[game]
    background = None if asked.background is None else asked.background.replace("{split}", split)
    members = {game: game} if group.count is None else _members(game, group.count, asked.family == "self")
    learns = asked.family != "frozen"
    if background is not None:
        named = registry.make_learner(background, f"{field}.background")
        if named.value.learns != learns:
            what = "learns" if named.value.learns else "does not learn"
            raise BadInput(f"{field}.background is {background!r}, which {what}; the family is {asked.family!r}")
    sizes = {call: registry.make_game(call, f"{field}.games").value.n_players for call in members.values()}
    for call, n in sizes.items():
        if asked.role == "resident" and (n < 3 or background is None):
            raise BadInput(
                f"{field}.role is 'resident' in {call!r} of {n} players; allowed: with a background among three and "
                "more"
            )
        if asked.family in ("adversary", "rational") and n != 2:
            raise BadInput(f"{field}.games holds {call!r} of {n} players; allowed for an adversary: games of two")
    suffix = "" if split == "test" else f":{split}"
    return Scenario(
        name=f"{game}/{asked.name}{suffix}",
        track=file.track,
        family=asked.family,
        game=game,
        members=members,
        background=background,
        role=asked.role,
        learns=learns,
        split=split,
        # What has seeds of its own is in no average of seeds; nor is what stands beside safety.
        block=group.block if asked.starts == "drawn" and asked.family != "rational" else "diagnostic",
        about=asked.about,
        tags=tuple(asked.tags),
        steps=file.steps,
        tiers=tuple(x for x in asked.tiers or file.tiers if x in (group.tiers or file.tiers)),
        starts=asked.starts,
        spread=group.spread,
    )


def _members(game: str, count: int, alone: bool) -> dict[str, str]:
    """Games by index. From the other seat a game is another one, but where the seats are alike, and where
    the subject sits in both."""
    members = {}
    for k in range(count):
        members[str(k)] = f"{game}(index={k})"
        if not (alone or registry.make_game(members[str(k)]).value.exchangeable):
            members[f"{k}x"] = f"{game}(index={k},exchanged=true)"
    return members


# --- the suite of a card ------------------------------------------------------------------


def subjects_of(track: Track, learners: Sequence[str], field: str = "learner") -> list[str]:
    """Whose cells a card of these learners takes: shaping is measured from the naive learner, shares from
    random play.

    Raises:
      BadInput: as :meth:`Track.subject`.
    """
    return list(dict.fromkeys([*(track.subject(x, field) for x in learners), track.naive, track.random]))


def card_suite(track: Track, tier: str, subjects: Sequence[str], split: str = "test") -> dict[str, Any]:
    """Content of the suite file that holds every cell of these subjects' cards.

    Args:
      track: of which scenarios.
      tier: seeds and preparations.
      subjects: learners as one writes them.
      split: which scenarios.
    """
    budget, track = track.tier(tier), track.at(tier)
    games = []
    for scenario in track.of(split):
        if scenario.projected:
            continue
        league = _league(track, scenario, split)
        for member, game in scenario.members.items():
            # Who prepares does so for each game: for hundreds of them nobody waits.
            playing = subjects if scenario.block != "ordinal" else [x for x in subjects if not _prepares(x)]
            if not playing:
                continue
            other, n = scenario.background, registry.make_game(game).value.n_players
            own = scenario.seats(n)
            entry = {
                "game": game,
                "label": scenario.label(member),
                "steps": scenario.steps,
                "learners": list(playing),
                "opponents": [] if other is None else [{"learner": other, "label": BACKGROUND}],
                "lineups": [[x if i in own else BACKGROUND for i in range(n)] for x in playing],
            }
            if scenario.gridded:
                entry |= {"starts": scenario.starts, "seeds": scenario.seeds(budget)}
            games.append(entry | {"league": league} if league else entry)
    return {
        "name": f"card-{track.name}-{tier}",
        "description": f"Cells of cards of the {track.name} track, {tier} tier.",
        "games": games,
        "learners": list(subjects),
        "seeds": budget.seeds,
        "preparations": budget.preparations,
        "record_every": track.record_every,
        "skip_incompatible": True,
        **({"within": True} if track.view == "sampled" else {}),
    }


def card_cells(track: Track, tier: str, subject: str, split: str = "test") -> dict[tuple[str, str], Cell | str]:
    """Where what a card says of a subject is stored: by scenario and member, the cell, or why there is none.

    Scenarios may share a cell: a naive learner among its like meets the background of naive learners.
    """
    budget, track = track.tier(tier), track.at(tier)
    cells: dict[tuple[str, str], Cell | str] = {}
    for scenario in track.of(split):
        for member, game in scenario.members.items() if not scenario.projected else ():
            named = registry.make_game(game)
            own = registry.make_learner(subject, game=named.name)
            other = own if scenario.background is None else registry.make_learner(scenario.background, game=named.name)
            key = scenario.name, member
            if scenario.block == "ordinal" and own.value.needs_preparation:
                cells[key] = "it would have to prepare for each of the games"
                continue
            n = named.value.n_players
            seats = scenario.seats(n)
            try:
                registry.check_encounter(named, [own if i in seats else other for i in range(n)])
            except BadInput as error:
                cells[key] = str(error)
                continue
            cells[key] = Cell(
                kind="encounter",
                game=Labelled(named=named, label=scenario.label(member)),
                learners=tuple(
                    Labelled(named=own, label=subject) if i in seats else Labelled(named=other, label=BACKGROUND)
                    for i in range(n)
                ),
                seeds=scenario.seeds(budget),
                starts=scenario.starts,
                steps=scenario.steps,
                record_every=track.record_every,
                preparations=budget.preparations,
            )
    return cells


def card_responses(track: Track, tier: str, subject: str, split: str = "test") -> dict[tuple[str, str], list[Cell]]:
    """The league cells in which somebody is trained against a subject's policies of self-play, by scenario and member:
    of the family ``adversary`` one for each of the track's responders, none where best responses are exact; of
    ``rational`` one. None where the subject cannot play."""
    track = track.at(tier)
    encounters = card_cells(track, tier, subject, split)
    cells: dict[tuple[str, str], list[Cell]] = {}
    for scenario in track.of(split):
        for member in scenario.members if scenario.projected else ():
            source = encounters.get((f"{scenario.game}/self", member))
            if not isinstance(source, Cell):
                continue
            budget: dict[str, Any] = {"steps": track.response_steps, "after": source.steps}
            if scenario.background is not None:
                several = adversaries(source, [scenario.background], field="scenarios.background", **budget)
                cells[scenario.name, member] = several
            elif track.responders:
                several = responses(source, track.responders, field="scenarios.responders", **budget)
                cells[scenario.name, member] = several
    return cells


def _league(track: Track, scenario: Scenario, split: str) -> dict[str, Any]:
    """Who is trained against the policies of a scenario's encounters; empty where nobody is."""
    asked = [x for x in track.of(split) if x.projected and x.game == scenario.game]
    if scenario.family != "self" or scenario.gridded:
        return {}
    league: dict[str, Any] = {"responder_steps": track.response_steps, "among": False}
    rational = list(dict.fromkeys(x.background for x in asked if x.background is not None))
    if rational:
        league["adversaries"] = rational
    if track.responders and len(asked) > len(rational):
        league["responder"] = list(track.responders)
    elif rational:
        league["best_response"] = False
    else:
        return {}
    return league


def _prepares(subject: str) -> bool:
    return bool(registry.make_learner(subject).value.needs_preparation)
