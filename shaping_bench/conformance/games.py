"""Checks of games: the exact view, and the sampled one."""

import functools
import json
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from shaping_bench.algorithms.core.policy import tabular
from shaping_bench.algorithms.core.rollouts import rollout
from shaping_bench.algorithms.naive import Naive
from shaping_bench.conformance.declarations import check_class
from shaping_bench.conformance.findings import Finding, all_finite, attempts, near, plain
from shaping_bench.conformance.program import fingerprint, key_reuse, outside_randomness, weakly_typed
from shaping_bench.games.base import Game
from shaping_bench.games.grids.board import Board
from shaping_bench.games.spaces import Discrete, Product, Space
from shaping_bench.run.encounter import run_encounter


def check_game(cls: type[Game], numbers: Mapping[str, Any] | None = None) -> list[Finding]:
    """Checks a game with its default numbers, or with those given."""
    findings = check_class(cls)
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
    findings = attempts("", {"facts are JSON, and always the same": lambda: _facts(game)})
    if "exact" in game.views:
        findings += attempts("", _exact_view(game))
    if "sampled" in game.views:
        findings += attempts("", {SHAPED: lambda: _shapes(game)})
        if findings[-1].passed:  # else it cannot be played
            findings += attempts("", _sampled_view(game))
    return findings


def _facts(game: Game) -> str | None:
    """What cells store of a game has to be plain, and to follow from what the game is."""
    again = jax.tree.unflatten(jax.tree.structure(game), jax.tree.leaves(game))
    return None if plain(again.facts) == plain(game.facts) else "two equal games state different facts"


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
        if weakly_typed(jax.eval_shape(values, *points[0])):
            return "a value is a Python number, whose dtype is whatever it meets"
        single = [jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in points[0]]
        with jax.enable_x64(False), warnings.catch_warnings():
            warnings.simplefilter("error")
            out = jax.eval_shape(lambda *p: game.values(p), *single)
        return None if out.dtype == jnp.float32 else f"float32 parameters are valued in {out.dtype}"

    def pure() -> str | None:
        first, again = (jax.jit(lambda *p: game.values(p)).trace(*points[0]) for _ in range(2))
        if fingerprint(first) != fingerprint(again) or outside_randomness(first):
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

SHAPED = "sampled view: shapes, structure and dtypes"


def random_element(space: Space, key: Array) -> Any:
    """Any choice; a number within the bounds, within a few units of the other where one is missing."""
    if isinstance(space, Product):
        return tuple(random_element(part, jax.random.fold_in(key, k)) for k, part in enumerate(space.parts))
    if isinstance(space, Discrete):
        return jax.random.randint(key, (), 0, space.n)
    low = space.low if math.isfinite(space.low) else min(space.high, 2.0) - 4.0
    high = space.high if math.isfinite(space.high) else low + 4.0
    return jax.random.uniform(key, space.shape, minval=low, maxval=high)


def random_actions(game: Game, key: Array) -> Any:
    """Of all seats, as ``step`` takes them: integers ``(n_players,)`` if everybody has choices, else a tuple."""
    spaces = [game.action_space(i) for i in range(game.n_players)]
    actions = tuple(random_element(space, jax.random.fold_in(key, i)) for i, space in enumerate(spaces))
    return jnp.stack(actions) if all(isinstance(space, Discrete) for space in spaces) else actions


def _described(tree: Any) -> Any:
    return jax.tree.structure(tree), [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]


def _shapes(game: Game) -> str | None:
    n = game.n_players
    key = jax.eval_shape(jax.random.key, 0)
    seen, state = jax.eval_shape(game.reset, key)
    actions = jax.eval_shape(lambda key: random_actions(game, key), key)
    seen_next, state_next, rewards, done, info = jax.eval_shape(game.step, key, state, actions)
    if rewards.shape != (n,) or done.shape != ():
        return f"step gives rewards of shape {rewards.shape} and done of {done.shape}, not ({n},) and ()"
    if _described((seen, state)) != _described((seen_next, state_next)):
        return "reset and step differ in the structure, shapes or dtypes of observations or states"
    if isinstance(seen, tuple):
        if len(seen) != n:
            return f"observations are {len(seen)} trees for {n} players"
    elif seen.shape[:1] != (n,):
        return f"observations have shape {seen.shape}; their first axis should be the {n} players"
    elif seen.shape[1:] != tuple(game.observation_shape):
        return f"observations have shape {seen.shape[1:]} per player; observation_shape says {game.observation_shape}"
    for player in range(n):
        alone = jax.eval_shape(lambda state, i=player: game.observe(state, i), state)
        own = jax.eval_shape(lambda seen, i=player: seen[i], seen)
        if _described(alone) != _described(own):
            return f"observe(state, player={player}) is of another structure, shape or dtype than what step shows"
    wrong = next((name for name, x in info.items() if x.shape != (n,)), None)
    return None if wrong is None else f"the count {wrong!r} has shape {info[wrong].shape}, not ({n},)"


@functools.partial(jax.jit, static_argnames="length")
def _episode(game: Game, seed: Any, swapped: Any, other_dice: Any, *, length: int) -> Any:
    """Random actions, the seats' exchanged where ``swapped``, chance moves others with ``other_dice``: what was seen
    at first, and per step what is seen, what ``observe`` makes of the state (for all, and for each), rewards, done,
    counts."""
    first, choice, dice = (jax.random.fold_in(jax.random.key(seed), k) for k in (0, 1, 2 + other_dice))
    actions = jax.vmap(lambda key: random_actions(game, key))(jax.random.split(choice, length))
    if isinstance(actions, Array):
        actions = jnp.where(swapped, jnp.flip(actions, axis=1), actions)

    def step(loop: Any, now: Any) -> Any:
        state, alive = loop
        seen, after, rewards, done, info = game.step(now[0], state, now[1])
        if game.ends_early:  # what comes after the end counts nowhere
            rewards, info = jax.tree.map(lambda x: jnp.where(alive, x, jnp.zeros_like(x)), (rewards, info))
        seats = [game.observe(after, i) for i in range(game.n_players)]
        return (after, alive & ~done), (seen, (game.observe(after), seats), rewards, done, info)

    seen, state = game.reset(first)
    start = state, jnp.ones((), bool)
    return seen, jax.lax.scan(step, start, (jax.random.split(dice, length), actions))[1]


@functools.partial(jax.jit, static_argnames="length")
def _episodes(game: Game, seeds: Any, swapped: Any, other_dice: Any, *, length: int) -> Any:
    return jax.vmap(lambda seed: _episode(game, seed, swapped, other_dice, length=length))(seeds)


@functools.partial(jax.jit, static_argnames="episodes")
def _played_and_valued(game: Game, seed: Any, *point: Any, episodes: int) -> Any:
    """Discounted returns ``(episodes, n_players)``, exact values, and the largest reward."""
    play = rollout(jax.random.key(seed), game, [tabular(game)] * game.n_players, point, episodes)
    weights = jnp.asarray(game.gamma) ** jnp.arange(play.rewards.shape[0])
    return jnp.tensordot(weights, play.rewards, axes=1), game.values(point), jnp.abs(play.rewards).max()


def _sampled_view(game: Game) -> dict[str, Callable[[], str | None]]:
    n = game.n_players
    key = jax.eval_shape(jax.random.key, 0)
    actions = jax.eval_shape(lambda key: random_actions(game, key), key)
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

    def declared() -> str | None:
        spaces = [game.action_space(i) for i in range(n)]
        if all(isinstance(space, Discrete) for space in spaces):
            most = max(space.n for space in spaces if isinstance(space, Discrete))
            if most != game.n_actions:
                return f"action_space offers {most} choices at most; n_actions says {game.n_actions}"
        if game.num_states is None:
            return None
        first, (seen, *_) = ran()
        size = game.num_states
        for player in range(n):
            indices = np.concatenate([first[..., player].ravel(), seen[..., player].ravel()])
            if not np.issubdtype(indices.dtype, np.integer) or indices.min() < 0 or indices.max() >= size:
                return (
                    f"player {player + 1} sees {indices.min()} to {indices.max()} ({indices.dtype}), which should be "
                    f"the index of one of its {size} states"
                )
        return None

    def observed() -> str | None:
        _, (seen, (observed, seats), _, _, _) = ran()
        if not near(seen, observed, 1e-6):
            return "observe gives other observations of a state than step"
        for player, alone in enumerate(seats):
            own = seen[player] if isinstance(seen, tuple) else seen[:, :, player]
            if not near(own, alone, 1e-6):
                return f"observe(state, player={player}) shows another thing than observe(state) shows that player"
        return None

    def finite() -> str | None:
        return None if all_finite(ran()) else "not finite within an episode of random actions"

    def ends() -> str | None:
        if length < game.num_steps:
            return None
        done = ran()[1][3]
        if game.ends_early:
            late = not done.any(axis=1).all()
            return f"done should be true at step {game.num_steps} (num_steps) at the latest" if late else None
        if done[:, :-1].any() or not done[:, -1].all():
            return (
                f"done should be true at step {game.num_steps} (num_steps) and not before; a game whose episodes may "
                "be over before says ends_early = True"
            )
        return None

    def deterministic() -> str | None:
        return None if near(together(seeds), ran()) else "two equal episodes differ"

    def batched() -> str | None:
        one = jax.device_get(_episode(numbers, seeds[1], False, 0, length=length))
        return None if near(one, jax.tree.map(lambda x: x[1], ran()), 1e-6) else "vmap changes what a step does"

    def pure() -> str | None:
        first, again = (jax.jit(lambda *x: game.step(*x)).trace(key, shapes[1], actions) for _ in range(2))
        if fingerprint(first) != fingerprint(again):
            return "two equal calls of step are two different programs: Python's or NumPy's random numbers?"
        return None

    def keys() -> str | None:
        for name, function, arguments in (
            ("reset", game.reset, (key,)),
            ("step", game.step, (key, shapes[1], actions)),
        ):
            wrong = outside_randomness(jax.jit(lambda *x, f=function: f(*x)).trace(*arguments))
            wrong = wrong or key_reuse(function, arguments)
            if wrong:
                return f"{name} {wrong}"
        return None

    def counted() -> str | None:
        info = jax.eval_shape(game.step, key, shapes[1], actions)[4]
        undeclared = sorted({*info} - {count.name for count in game.counts if not count.share_of})
        return f"step counts {undeclared[0]!r}, which `counts` does not declare" if undeclared else None

    def shown() -> str | None:
        state = game.reset(jax.random.key(0))[1]
        board = game.board(state)
        if board is None:
            return None
        if not isinstance(board, Board):
            return f"board() is a {type(board).__name__}, not a Board of games.grids.board"
        try:
            board.check(game.legend, n)
            json.dumps(board.plain(), allow_nan=False)
        except (TypeError, ValueError) as error:
            return f"what board() gives cannot be stored or drawn: {error}"
        return None if game.board(state) == board else "one state has two boards"

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
        "sampled view: actions and observations are as declared": declared,
        "sampled view: observe agrees with step": observed,
        "sampled view: finite": finite,
        "sampled view: episodes end when they should": ends,
        "sampled view: deterministic under a key": deterministic,
        "sampled view: vmappable": batched,
        "sampled view: step is a pure function": pure,
        "sampled view: random keys are used once, and no others": keys,
        "sampled view: counts what it declares": counted,
        "sampled view: a board can be stored and drawn": shown,
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
