"""One update of one seat, with one thing changed: what the checks of learning rules compare."""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.algorithms.core import Access, Joint, Learner, Play, PreparedLearner, Stage, View, costs
from shaping_bench.algorithms.core.stage import started
from shaping_bench.games import make
from shaping_bench.games.base import Game
from shaping_bench.games.fields import check_field, field, pytree_dataclass
from shaping_bench.games.matrix.repeated import EnvState, RepeatedGame
from shaping_bench.run.preparation import imagined_artifact
from shaping_bench.spec import registry

SMALL_GAMES: tuple[tuple[str, dict[str, Any]], ...] = (("tandem", {}), ("ipd", {}))
"""Where an exact rule is tried: one number per player and no bounds, then memory-one policies. Both
are symmetric."""

THREE_PLAYERS = ((1, 2, 0, -1, 3, -2, 1, 0), (0, 1, 2, -1, 1, 1, -2, 3), (2, 0, 1, 1, -1, 0, 3, -2))
"""Payoffs of a one-shot game of three players without symmetry."""

PLAYGROUNDS: tuple[tuple[str, dict[str, Any]], ...] = (("ipd", {"horizon": 6}), ("coin-game", {"horizon": 6}))
"""Where a rule that plays is tried: memory-one policies, then networks."""

ELSEWHERE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("point-mass", {"horizon": 6}),
    ("escape-room", {"payments": "minted", "horizon": 2}),
)
"""Where one is tried that can play neither of these, the first that it can: seats whose actions are numbers, games
with payments."""

TABLE_OF_THREE: tuple[str, dict[str, Any]] = ("public-goods", {"horizon": 6})
"""Where it meets two others."""

ROOM_OF_THREE: tuple[str, dict[str, Any]] = ("escape-room", {"payments": "minted", "num_players": 3, "horizon": 2})
"""The same, of one that pays."""


def is_exact(rule: Learner | type[Learner]) -> bool:
    """Whether it learns from exact values; else it plays to learn."""
    return "exact" in rule.views


def trial_games(cls: type[Learner]) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Where a rule is tried: names of games and their numbers."""
    if is_exact(cls):
        return SMALL_GAMES
    places = (PLAYGROUNDS, *((place,) for place in ELSEWHERE))

    def playable(place: tuple[tuple[str, dict[str, Any]], ...]) -> bool:
        return any(trial_rule(cls, name, make(name, **numbers)) is not None for name, numbers in place)

    return next(filter(playable, places), PLAYGROUNDS)


@pytree_dataclass
class CutShort(RepeatedGame):
    """The repeated prisoner's dilemma, of which at most three steps are played, however long it is padded.

    What comes after the end is nonsense that nobody may learn from.
    """

    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
    ends_early: ClassVar[bool] = True

    payoffs: Any = field(((-1.0, -3.0, 0.0, -2.0), (-1.0, 0.0, -3.0, -2.0)), "rewards")

    def step(self, key: Array, state: EnvState, actions: Array) -> tuple[Array, EnvState, Array, Array, dict[str, Any]]:
        _, after, rewards, _, counts = super().step(key, state, actions)
        over = (after.time >= 3) | (after.joint_action == 0)
        after = after._replace(time=jnp.where(over, 3, after.time))
        return self.observe(after), after, jnp.where(state.time < 3, rewards, 99.0), over, counts


PADDED = (4, 7)
"""Lengths to which its episodes are padded."""


SHIFT = 0.37
"""By how much what must not matter is changed."""


class Lane(NamedTuple):
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


class Updated(NamedTuple):
    start: Any
    before: Any
    after: Any
    state: Any
    new_state: Any
    info: Any


def shifted(tree: Any, by: Any) -> Any:
    """The tree with every number changed; unchanged for ``by`` = 0. Keys and booleans stay."""

    def shift(x: Any) -> Any:
        x = jnp.asarray(x)
        if jnp.issubdtype(x.dtype, jnp.floating):
            return x + (SHIFT * by).astype(x.dtype) * (1 + x)
        return x + by.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.integer) else x

    return jax.tree.map(shift, tree)


class Veiled(View):
    """A view in which all that the access does not show is moved by ``hidden``, down to private
    attributes, while episodes are played by the true policies."""

    def __init__(self, true: View, hidden: Any, access: Access) -> None:
        super().__init__(
            true._game,
            true._played,
            true.player,
            access,
            learners=true._learners,
            key=true._key,
            states=true._states,
        )
        self.__true, self.__hidden = true, hidden
        self.artifact = true.artifact

        def moved(items: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(x if j == self.player else shifted(x, hidden) for j, x in enumerate(items))

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
        moved = shifted(trajectory.rewards, self.__hidden)
        return trajectory._replace(rewards=jnp.where(mine, trajectory.rewards, moved))


@dataclasses.dataclass
class Trial:
    """A rule in every seat of a game; one seat is updated as an encounter would."""

    rule: Learner
    game: Game
    name: str
    player: int = 0
    artifacts: Sequence[Any] = ()
    arrays: bool = False
    """Whether policies are arrays even where an exact rule could have tuples of scalars."""

    def __post_init__(self) -> None:
        self.exact = is_exact(self.rule)
        self.written = False
        """Whether an update has written into the state that it was given, instead of returning a new one."""
        if not self.artifacts:
            # Unprepared networks will do: what is checked does not depend on what they learned.
            imagined = jax.jit(lambda i: imagined_artifact(self.rule, self.game, i), static_argnums=0)
            seats = [prepared_seat(self.rule, self.game, i) for i in range(self.game.n_players)]
            by_seat = {seat: imagined(seat) for seat in sorted(set(seats))}
            self.artifacts = [by_seat[seat] for seat in seats]
        self.numbers = jax.tree.map(lambda x: np.asarray(x, jnp.result_type(float)), self.rule)

    def stage(self, own: Learner, game: Game, artifacts: Sequence[Any]) -> Stage:
        """The seat's rule among others with its default numbers."""
        rules = tuple(own if i == self.player else self.numbers for i in range(game.n_players))
        return Stage(game, rules, artifacts, playing=not self.exact)

    def start(self, stage: Stage, key: Array, params: Any = ()) -> Joint:
        """Where everybody is before the update: as they start, or at these parameters."""
        n = stage.game.n_players
        pairs = [
            # Keys count from the updated seat: both seats of a symmetric game then get the same.
            started(rule, jax.random.fold_in(key, (i - self.player) % n), stage.game, i, stage.artifacts[i])
            for i, rule in enumerate(stage.learners)
        ]
        return stage.joint(params or [theta for theta, _ in pairs], [x for _, x in pairs], jax.random.fold_in(key, n))

    def update(self, own: Learner, lane: Lane, game: Game | None = None, access: Access | None = None) -> Updated:
        """One update of the seat, as in an episode of the stage."""
        game = self.game if game is None else game
        stage = self.stage(own, game, [shifted(x, lane.artifact) for x in self.artifacts])
        key = jax.random.key(lane.seed)
        start = self.start(stage, jax.random.fold_in(key, 0))
        joint = self.start(stage, jax.random.fold_in(key, 0), lane.params) if lane.params else start
        if self.arrays:
            joint = joint._replace(params=tuple(jnp.stack(theta) for theta in joint.params))
        dice = jax.random.fold_in(jax.random.fold_in(key, 1), lane.dice)
        views = stage.views(joint, jax.random.fold_in(dice, game.n_players) if stage.trees else None)
        view = Veiled(views[self.player], lane.hidden, own.access if access is None else access)
        state = joint.states[self.player]
        structure, leaves = jax.tree.structure(state), jax.tree.leaves(state)
        # Every seat draws by the same key, so that those of a symmetric game can be compared.
        new, new_state, info = own.update(jax.random.fold_in(dice, 0), state, view)
        left = jax.tree.leaves(state)
        self.written |= str(jax.tree.structure(state)) != str(structure) or any(
            x is not y for x, y in zip(left, leaves, strict=True)
        )
        return Updated(
            start=start.params[self.player],
            before=joint.params[self.player],
            after=new,
            state=state,
            new_state=new_state,
            info=dict(info),
        )

    def point(self, k: int, swapped: bool = False) -> Any:
        """Joint parameters to start from: scalars, as encounters pass them to exact rules."""
        if not self.exact:
            return ()
        rng = np.random.default_rng(k)
        dtype = jnp.result_type(float)
        params = [tuple(dtype.type(x) for x in 0.5 * rng.normal(size=d)) for d in self.game.sizes]
        return tuple(reversed(params)) if swapped else tuple(params)

    def lane(self, seed: int = 0, dice: int = 0, hidden: int = 0, artifact: int = 0, swapped: bool = False) -> Lane:
        kind = jnp.result_type(float).type
        return Lane(
            seed=np.uint32(seed),
            dice=np.uint32(dice),
            params=self.point(seed, swapped),
            hidden=kind(hidden),
            artifact=kind(artifact),
        )

    def lanes(self, swapped: bool = False) -> dict[str, tuple[Learner, Lane]]:
        """Updates of two seeds, and of the first seed with one thing changed: its dice, no step size, all numbers
        halved, all that the rule may not see moved, another artifact. ``swapped`` exchanges two players' parameters."""
        rule, lane = self.numbers, functools.partial(self.lane, swapped=swapped)
        still = dataclasses.replace(rule, **{name: 0.0 * getattr(rule, name) for name in step_sizes(rule)})  # type: ignore[type-var]
        return {
            "first": (rule, lane()),
            "second": (rule, lane(seed=1, dice=1)),
            "other dice": (rule, lane(dice=1)),
            "no step": (still, lane()),
            "half": (jax.tree.map(lambda x: (0.5 * x).astype(x.dtype), rule), lane()),
            "hidden moved": (rule, lane(hidden=1)),
            "other artifact": (rule, lane(artifact=1)),
        }

    @functools.cached_property
    def program(self) -> Any:
        """An update of ``(rule, lane, game)``, compiled; whoever asks for it again, batched or not, traces nothing."""
        return jax.jit(lambda own, lane, game: self.update(own, lane, game))

    @functools.cached_property
    def again(self) -> tuple[Any, float]:
        """The program traced once more, as a new function, since what was traced before would not be traced anew; and
        the environment steps that it is charged."""
        with costs.counting() as count:
            traced = jax.jit(lambda own, lane, game: self.update(own, lane, game)).trace(*self.arguments())
        return traced, count.steps

    @functools.cached_property
    def _together(self) -> Any:
        return jax.jit(jax.vmap(self.program, in_axes=(0, 0, None)))

    def arguments(self) -> Any:
        """Of one update, as abstract values: for tracing."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), (self.numbers, self.lane(), numbers_of(self.game))
        )

    def alone(self, rule: Learner, lane: Lane) -> Updated:
        """An update of a single seed."""
        return self.program(rule, lane, numbers_of(self.game))

    def together(self, lanes: Sequence[tuple[Learner, Lane]], game: Game | None = None) -> list[Updated]:
        """All these updates at once, by one compiled program; in a game that differs in numbers only, if given."""
        rules, laid = (jax.tree.map(lambda *x: np.stack(x), *column) for column in zip(*lanes, strict=True))
        out = jax.device_get(self._together(rules, laid, numbers_of(self.game if game is None else game)))
        return [jax.tree.map(lambda x, k=k: x[k], out) for k in range(len(lanes))]


def numbers_of(game: Game) -> Game:
    """The game with its numbers as arrays, which a program takes as arguments."""
    return jax.tree.map(lambda x: np.asarray(x, jnp.result_type(float)), game)


def prepared_seat(rule: Learner, game: Game, player: int) -> int:
    """The seat whose preparation serves a player; the first for rules that do not prepare."""
    return rule.prepared_seat(game, player) if isinstance(rule, PreparedLearner) else 0


def step_sizes(rule: Learner) -> list[str]:
    """The rule's own step sizes, as its fields declare them."""
    fields = dataclasses.fields(rule)  # type: ignore[arg-type]
    return [f.name for f in fields if f.metadata.get("step") and getattr(rule, f.name) is not None]


def trial_rule(cls: type[Learner], name: str, game: Game) -> Learner | None:
    """The rule with small sizes, as it would enter that game; None if it cannot."""
    own = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    published = registry.published(cls, name)
    declared = {k: f.metadata["small"] for k, f in own.items() if f.metadata.get("small") is not None}
    small = {k: x(game) if callable(x) else x for k, x in declared.items()}
    # Small sizes may not go together with the other fields, which is no reason to skip a game.
    for settings in (published | small, published):
        try:
            for key, value in settings.items():
                check_field(cls.__name__, own[key], value)
            rule = cls(**settings)
        except ValueError:
            continue
        if rule.views & game.views and len(entered_seats(rule, game)) == game.n_players:
            return rule
    return None


def entered_seats(rule: Learner, game: Game) -> list[int]:
    """Seats of the game that the rule can take."""
    seats = []
    for player in range(game.n_players):
        with contextlib.suppress(ValueError):
            rule.check_game(game, player)
            if not is_exact(rule):
                rule.policy(game, player)
            seats.append(player)
    return seats
