"""Leagues: final policies, frozen, meet one another, fixed strategies, and a best response.

Seat 1 holds the policies that are looked at, the other seats those that they meet: of each
learner the final policies of its self-play in that seat, one per seed. What a diverged policy
does is nobody's: whom it would have met is judged by the others it met.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from shaping_bench import metrics
from shaping_bench.algorithms.core import Learner
from shaping_bench.algorithms.core.stage import started
from shaping_bench.algorithms.fixed import Frozen
from shaping_bench.metrics.curves import long_enough
from shaping_bench.run.checkpoints import Checkpoint, encounter_identity
from shaping_bench.run.deadline import Deadline
from shaping_bench.run.encounter import run_encounter, steps_per_update, valued_exactly
from shaping_bench.run.preparation import imagined_artifact
from shaping_bench.spec.lineups import Labelled
from shaping_bench.spec.suite import Cell
from shaping_bench.store.store import Store

MAX_MET = 128
"""Most policies of an opponent that one policy meets in a league."""

MAX_MET_BY_PLAY = 16
"""The same where policies are valued by play."""

LEAGUE_METRICS = ("return", "welfare", "exploitation_gap", "cooperation")
"""Measured in league match-ups, where the game has them."""


@dataclasses.dataclass(frozen=True)
class Match:
    """What a league match-up yields.

    Attributes:
      values: metrics by name, ``(S, n_players)``; ``diverged`` among them, which is 1 where a
        player's own policy of that seed is not finite. A number is NaN where that is so, and where
        nobody was met whose policy is finite.
      met: policies that each policy was to meet.
      lost: per seat the meetings, of all seeds, that were left out because somebody else's policy
        is not finite.
      environment_steps: spent on training a best response.
      trained: of such training that is checked, what the responder got ``halfway``, a number per seed, and
        whether that was :func:`long_enough`; else empty.
    """

    values: dict[str, np.ndarray]
    met: int
    lost: tuple[int, ...]
    environment_steps: int = 0
    trained: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Population:
    """The policies of one seat: a tree with leaves ``(S, ...)``, and which of them are finite, ``(S,)``."""

    policies: Any
    finite: np.ndarray


def play_match(
    cell: Cell,
    steps: int,
    store: Store,
    deadline: Deadline | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Match:
    """Plays a league cell.

    Args:
      cell: which.
      steps: updates after which the self-plays' policies are final.
      store: where those lie.
      deadline: when the training of a best response is to stop at a checkpoint.
      on_progress: told how many updates of it are done.

    Raises:
      OutOfTime: the deadline has passed; the same call goes on.
    """
    seated = cell.learners[:-1] if cell.best_response else cell.learners
    policies = [_population(x, i, cell, steps, store) for i, x in enumerate(seated)]
    if cell.best_response:
        return _against_response(cell, seated, policies, store=store, deadline=deadline, on_progress=on_progress)
    return _all_against_all(cell, policies)


def self_play(cell: Cell, learner: Labelled, steps: int) -> Cell:
    """The encounter whose final policies of a learner meet in a league cell. A suite may hold it under other labels, as
    where a card's naive learner meets the background of naive learners: only its hash says which it is.

    Args:
      cell: of the league.
      learner: whose policies.
      steps: updates after which they are final.
    """
    return dataclasses.replace(
        cell,
        kind="encounter",
        learners=(learner,) * cell.game.named.value.n_players,
        best_response=False,
        responder=None,
        after=None,
        steps=steps,
    )


def flattened(final: Sequence[Any]) -> dict[str, np.ndarray]:
    """Final policies as named arrays: ``player_1`` if it is one, ``player_1.0``, ... if they are several."""
    out: dict[str, np.ndarray] = {}
    for i, theta in enumerate(final):
        leaves = jax.tree.leaves(theta)
        alone = isinstance(theta, np.ndarray)
        out |= {f"player_{i + 1}" if alone else f"player_{i + 1}.{k}": np.asarray(x) for k, x in enumerate(leaves)}
    return out


def _population(learner: Labelled, seat: int, cell: Cell, steps: int, store: Store) -> Population:
    """Final policies of a learner's self-play in a seat; a fixed strategy is alike in all seeds."""
    game, rule = cell.game.named.value, learner.named.value
    key = jax.random.key(0)
    if not rule.learns:
        policies = jax.tree.map(
            lambda x: np.repeat(np.asarray(x)[None], cell.seeds, axis=0), rule.init(key, game, seat)[0]
        )
        return Population(policies, np.ones(cell.seeds, bool))
    stored = store.policies(self_play(cell, learner, steps).hash)
    name = f"player_{seat + 1}"
    if name in stored:
        policies = stored[name]
    else:
        template = jax.eval_shape(lambda: started(rule, key, game, seat, imagined_artifact(rule, game, seat))[0])
        leaves = [stored[f"{name}.{k}"] for k in range(len(jax.tree.leaves(template)))]
        policies = jax.tree.unflatten(jax.tree.structure(template), leaves)
    finite = np.ones(cell.seeds, bool)
    for leaf in jax.tree.leaves(policies):
        finite &= np.isfinite(leaf).reshape(cell.seeds, -1).all(axis=1)
    return Population(policies, finite)


def _frozen(rule: Learner) -> Learner:
    return Frozen(rule=rule)  # type: ignore[call-arg]


def _flags(finite: Sequence[np.ndarray]) -> np.ndarray:
    """``diverged`` from whether each seat's policies are finite."""
    return np.stack([~x for x in finite], axis=-1).astype(float)


def _against_response(
    cell: Cell,
    seated: Sequence[Labelled],
    own: Sequence[Population],
    *,
    store: Store,
    deadline: Deadline | None,
    on_progress: Callable[[int], None] | None,
) -> Match:
    """A best response, in the last seat, to the policies of all others."""
    game = cell.game.named.value
    seat = game.n_players - 1
    sound = np.logical_and.reduce([x.finite for x in own])
    policies = [x.policies for x in own]
    reached: dict[str, Any] = {}
    if cell.responder is None:
        with jax.enable_x64(True):
            # The responder's own entry only fixes the shape.
            joint = [*(np.asarray(x, np.float64) for x in policies), np.zeros((cell.seeds, game.sizes[seat]))]
            answer = jax.jit(jax.vmap(lambda *theta: game.best_response(theta, seat)))(*joint)
        joint[seat] = np.stack([np.asarray(x) for x in answer], axis=-1)
        values, steps, answers = metrics.evaluate(game, joint, names=LEAGUE_METRICS), 0, np.ones(cell.seeds, bool)
    else:
        learners = [*(_frozen(x.named.value) for x in seated), cell.responder.named.value]
        who = [*(x.named for x in seated), cell.responder.named]
        identity = encounter_identity(cell.game.named, who, cell, seeds=cell.seeds, init=policies)
        checkpoint = Checkpoint(store.directory / "checkpoints" / f"{cell.hash}.npz", {"response": identity})
        halfway = None if cell.after is None else -(-cell.steps // 2)
        trained = run_encounter(
            game,
            learners,
            num_seeds=cell.seeds,
            num_updates=cell.steps,
            seed=cell.seed,
            record_every=halfway,
            init=[*policies, None],
            precision=cell.precision,
            episodes=cell.episodes,
            checkpoint=checkpoint,
            deadline=deadline,
            on_progress=on_progress,
        )
        checkpoint.drop()
        # Against a diverged policy the responder may diverge as well, which is not its doing.
        answers = ~trained.diverged | ~sound
        if valued_exactly(game, [x.named.value for x in seated] + [cell.responder.named.value]):
            values, steps = metrics.evaluate(game, trained.final, names=LEAGUE_METRICS), 0
        else:
            values = metrics.from_play(game, {name: x[-1] for name, x in trained.played.items()})
            steps = steps_per_update(game, learners) * cell.seeds * cell.steps
            if halfway is not None:
                (at,) = np.flatnonzero(trained.updates == halfway)
                gained = trained.played["return"][at][:, seat]
                reached = {"halfway": gained.tolist(), **long_enough(gained, values["return"][:, seat])}
    valid = (sound & answers)[:, None]
    values = {name: np.where(valid, x, np.nan) for name, x in values.items()}
    values["diverged"] = _flags([*(x.finite for x in own), answers])
    lost = tuple(int((~valid[:, 0] & x.finite).sum()) for x in own)
    lost = (*lost, int((~valid[:, 0] & answers).sum()))
    return Match(values=values, met=1, lost=lost, environment_steps=steps, trained=reached)


def _all_against_all(cell: Cell, seats: Sequence[Population]) -> Match:
    """Every policy of seat 1 meets the other seats' policies of all seeds (of all other seeds, if one
    of them is the same learner's); a value per seed is the mean over those it met."""
    game, seeds, learners = cell.game.named.value, cell.seeds, cell.learners
    rules = [x.named.value for x in learners]
    exactly = valued_exactly(game, rules)
    same = any(x.label == learners[0].label for x in learners[1:])
    shifts = range(1, seeds) if same and seeds > 1 else range(seeds)
    chosen = np.array(list(shifts))[: min(MAX_MET if exactly else MAX_MET_BY_PLAY, len(shifts))]
    met = (np.arange(seeds)[:, None] + chosen[None, :]) % seeds  # (S, M): each shift is a permutation
    if not (rules[0].learns and any(rule.learns for rule in rules[1:])):
        # Who does not learn is alike in all seeds: its number against a policy is that policy's seed's.
        met = np.repeat(np.arange(seeds)[:, None], 1 if exactly else len(chosen), axis=1)
    count = met.shape[1]
    sound = seats[0].finite[:, None] & np.logical_and.reduce([x.finite[met] for x in seats[1:]])  # (S, M)
    if exactly:
        joint = [np.repeat(seats[0].policies[:, None], count, axis=1), *(x.policies[met] for x in seats[1:])]
        values = metrics.evaluate(game, joint, names=LEAGUE_METRICS)
    else:
        played = run_encounter(
            game,
            [_frozen(rule) for rule in rules],
            num_seeds=seeds * count,
            num_updates=0,
            seed=cell.seed,
            init=[
                jax.tree.map(lambda x: np.repeat(x, count, axis=0), seats[0].policies),
                *(jax.tree.map(lambda x: x[met.ravel()], x.policies) for x in seats[1:]),
            ],
            precision=cell.precision,
            episodes=cell.episodes,
        ).played
        values = metrics.from_play(game, {name: x[0].reshape(seeds, count, -1) for name, x in played.items()})
    # Seed s of the others met those of seat 1 that met it.
    index = [np.repeat(np.arange(seeds)[:, None], count, axis=1), *[met] * (game.n_players - 1)]
    out = {}
    for name, x in values.items():
        columns = [_mean_by_seed(x[..., i], index[i], sound, along=i == 0) for i in range(game.n_players)]
        out[name] = np.stack(columns, axis=-1)
    out["diverged"] = _flags([x.finite for x in seats])
    lost = tuple(int((~sound & x.finite[who]).sum()) for x, who in zip(seats, index, strict=True))
    return Match(out, count, lost)


def _mean_by_seed(x: np.ndarray, seed: np.ndarray, sound: np.ndarray, along: bool) -> np.ndarray:
    """Mean of each seed's sound meetings, ``(S,)``; NaN for one without any.

    Args:
      x: values of the meetings, ``(S, M)``.
      seed: whose they are, ``(S, M)``.
      sound: which count.
      along: whether row s holds the meetings of seed s.
    """
    seeds, x = len(x), np.where(sound, x, 0.0)
    counts = np.bincount(seed[sound], minlength=seeds)
    sums = x.sum(axis=1) if along else np.bincount(seed.ravel(), weights=x.ravel(), minlength=seeds)
    return np.divide(sums, counts, out=np.full(seeds, np.nan), where=counts > 0)
