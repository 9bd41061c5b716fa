"""Clean-up: growth and dirt as the source has them, beams that clean, and that cleaning pays for all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core.rollouts import rollout
from shaping_bench.algorithms.parts.policies import Scripted
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.games.grids.cleanup import CLEAN, State
from shaping_bench.games.grids.gathering import NOOP, ZAP, Bodies
from shaping_bench.spec.registry import make_game

KEY = jax.random.key(0)
EAST, SOUTH, WEST, NORTH = range(4)
GAME = make("cleanup", num_players=2)
COLUMNS, RIVER, TREES = 28, GAME._map.river.cells, GAME._map.orchard.cells
STEP = jax.jit(GAME.step)


def state(*poses, dirt=(), apples=(), time=0):
    nothing = jnp.zeros(2, jnp.int32)
    bodies = Bodies(
        cell=jnp.array([COLUMNS * row + column for row, column, _ in poses], jnp.int32),
        heading=jnp.array([x[2] for x in poses], jnp.int32), away=nothing, cooldown=nothing,
    )  # fmt: skip
    on = [np.isin(cells, [COLUMNS * r + c for r, c in some]) for cells, some in ((TREES, apples), (RIVER, dirt))]
    return State(
        time=jnp.int32(time),
        bodies=bodies,
        brush=nothing,
        apples=jnp.array(on[0]),
        dirt=jnp.array(on[1]),
        beaming=nothing,
    )


def dirty(after):
    return {divmod(int(x), COLUMNS) for x in RIVER[np.asarray(after.dirt)]}


def test_the_board_is_that_of_the_source():
    assert GAME._map.size == (19, 28)
    assert (len(RIVER), int(GAME._map.dirty.sum()), len(TREES), len(GAME._map.starts)) == (147, 79, 122, 19)


@pytest.mark.parametrize(("cells", "rate"), [(0, 0.05), (40, 0.0160), (58, 0.0007), (59, 0.0), (60, 0.0), (147, 0.0)])
def test_growth_falls_with_dirt(cells, rate):
    assert float(GAME.growth(jnp.arange(147) < cells)) == pytest.approx(rate, abs=5e-5)


def test_each_line_of_a_beam_stops_at_its_first_dirt():
    # Looking down at (0, 10): two in the line ahead, one of which is cleaned, and one to the left.
    before = state((0, 10, SOUTH), (12, 5, EAST), dirt=[(1, 10), (2, 10), (1, 11), (4, 4)])
    _, after, _, _, info = STEP(KEY, before, jnp.array([CLEAN, NOOP]))
    assert dirty(after) == {(2, 10), (4, 4)}
    assert info["cleaned"].tolist() == [2, 0]
    # It has to rest for two steps.
    left = []
    for _ in range(3):
        _, after, *_ = STEP(KEY, after, jnp.array([CLEAN, NOOP]))
        left.append(dirty(after))
    assert left == [{(2, 10), (4, 4)}, {(2, 10), (4, 4)}, {(4, 4)}]


def test_dirt_comes_after_fifty_steps_every_other_one():
    before, idle = state((12, 5, 0), (9, 5, 0)), jnp.zeros(2, jnp.int32)
    steps = jax.jit(jax.vmap(lambda key, t: GAME.step(key, before._replace(time=t), idle)[1].dirt, (0, None)))
    keys = jax.random.split(KEY, 4000)
    assert not steps(keys, jnp.int32(49)).any()
    came = np.asarray(steps(keys, jnp.int32(50)))
    assert came.sum(1).max() == 1
    assert came.sum(1).mean() == pytest.approx(0.5, abs=0.04)
    assert came.sum(0).max() < 40  # any cell alike: 13.6 each on average


def test_apples_are_eaten_and_who_is_hit_stays_away():
    before = state((15, 2, EAST), (15, 4, EAST), dirt=[tuple(divmod(int(x), COLUMNS)) for x in RIVER], apples=[(15, 2)])
    _, after, rewards, _, info = STEP(KEY, before, jnp.array([ZAP, NOOP]))
    assert rewards.tolist() == [1, 0]
    assert info["zaps"].tolist() == [1, 0]
    assert (int(after.bodies.cell[1]), int(after.bodies.away[1])) == (-1, 50)
    assert info["dirt"].tolist() == [1, 1]
    seen = GAME.observe(after)
    assert not seen[1].any()
    assert seen[0, 8:, 0, 0].tolist() == [0, 1]


def test_what_is_seen_of_the_river():
    seen = np.asarray(GAME.observe(state((4, 6, NORTH), (9, 9, EAST), dirt=[(3, 7), (0, 6)])))[0]
    assert [tuple(map(int, x)) for x in np.argwhere(seen[1])] == [(5, 5), (8, 6)]
    river = np.zeros((11, 11), bool)
    for r, c in (divmod(int(x), COLUMNS) for x in RIVER):
        if -9 <= r - 4 <= 1 and abs(c - 6) <= 5:
            river[9 + r - 4, c - 6 + 5] = True
    np.testing.assert_array_equal(seen[2], river)
    assert seen[3, :5].all()
    assert not seen[3, 5:].any()


def test_the_last_column_is_seen_along_it():
    seen = np.asarray(GAME.observe(state((2, 26, NORTH), (9, 9, EAST), dirt=[(0, 27), (1, 26)])))[0]
    assert [tuple(map(int, x)) for x in np.argwhere(seen[1])] == [(7, 6), (8, 5)]


def test_more_players_than_starts_are_refused():
    assert make_game("cleanup(layout=small,num_players=6)").value.n_players == 6
    with pytest.raises(BadInput, match=r"cleanup\.num_players is 7; allowed: at most 6"):
        make_game("cleanup(layout=small,num_players=7)")


def test_who_takes_turns_cleaning_earns_more():
    game = make("cleanup", layout="small", num_players=2, horizon=300)
    earned = {}
    for name in ("all-d", "all-c"):
        policies = [Scripted(game, name, i) for i in range(2)]
        play = jax.jit(lambda key, policies=policies: rollout(key, game, policies, [()] * 2, 8))(KEY)
        earned[name] = np.asarray(play.rewards).sum(0).mean()
    assert earned["all-d"] < 2
    assert earned["all-c"] > 10


# --- others' rules --------------------------------------------------------------------------------

OTHERS = {rules: make("cleanup", num_players=2, rules=rules) for rules in ("socialjax", "socialjax_v1.1.0", "ssd")}
STEPS = {rules: jax.jit(game.step) for rules, game in OTHERS.items()}
STAY = {"socialjax": 6, "socialjax_v1.1.0": 6, "ssd": 4}


def test_growth_falls_with_dirt_by_others_rules():
    """SocialJax counts 20 cells of the river that never become dirty, too; the first code has 119 cells."""
    first = make("cleanup", layout="ssd", rules="ssd")
    assert (len(first._map.river.cells), int(first._map.dirty.sum()), len(first._map.orchard.cells)) == (119, 56, 103)
    for game, rates in ((OTHERS["socialjax"], (0.0201, 0.0051)), (first, (0.0080, 0.0))):
        dirt = [jnp.arange(len(game._map.river.cells)) < cells for cells in (40, 60)]
        assert [float(game.growth(x)) for x in dirt] == pytest.approx(rates, abs=5e-5)


def test_socialjax_cleans_all_that_a_beam_covers():
    before = state((0, 10, SOUTH), (12, 5, EAST), dirt=[(1, 10), (2, 10), (1, 11), (4, 4)])
    _, after, _, _, info = STEPS["socialjax"](KEY, before, jnp.array([CLEAN, 6]))
    assert dirty(after) == {(4, 4)}
    assert info["cleaned"].tolist() == [3, 0]
    # Not under a player; and one of release 1.1.0 walks through another.
    before = state((0, 10, SOUTH), (1, 10, EAST), dirt=[(1, 10), (2, 10)])
    for rules in ("socialjax", "socialjax_v1.1.0"):
        _, after, *_ = STEPS[rules](KEY, before, jnp.array([CLEAN, 6]))
        assert dirty(after) == {(1, 10)}
    swapped = [STEPS[rules](KEY, before, jnp.array([4, 5]))[1].bodies.cell.tolist() for rules in STEPS][:2]
    assert swapped == [[10, 38], [38, 10]]


def test_the_first_codes_dirt_stays_while_there_is_much_of_it():
    """From a share of .4 on nothing comes and nothing grows; below, about one cell a step."""
    half = [tuple(divmod(int(x), COLUMNS)) for x in RIVER[:60]]
    idle = jnp.full(2, STAY["ssd"])
    now = state((12, 5, EAST), (14, 9, EAST), dirt=half)
    for k in range(5):
        _, now, *_ = STEPS["ssd"](jax.random.key(k), now, idle)
    assert dirty(now) == set(half)
    assert not now.apples.any()
    now = state((12, 5, EAST), (14, 9, EAST), dirt=half[:30])
    for k in range(5):
        _, now, *_ = STEPS["ssd"](jax.random.key(k), now, idle)
    assert len(dirty(now)) == 35
    # A line of five cells, from beside oneself on, ends at the first dirt and at players.
    before = state((0, 10, SOUTH), (3, 11, EAST), dirt=[(4, 10), (4, 11), (2, 9)])
    _, after, rewards, _, info = STEPS["ssd"](KEY, before, jnp.array([CLEAN, STAY["ssd"]]))
    assert {(4, 11)} <= dirty(after)
    assert info["cleaned"].tolist() == [2, 0]
    assert rewards.tolist() == [0, 0]
    # What lies under a player at which it ends is cleaned; and one beam goes on past what another has cleaned.
    before = state((0, 10, SOUTH), (3, 11, EAST), dirt=[(3, 11), (4, 11)])
    assert STEPS["ssd"](KEY, before, jnp.array([CLEAN, STAY["ssd"]]))[4]["cleaned"].tolist() == [1, 0]
    before = state((0, 10, SOUTH), (0, 12, SOUTH), dirt=[(2, 11), (4, 11)])
    _, after, _, _, info = STEPS["ssd"](KEY, before, jnp.array([CLEAN, CLEAN]))
    assert info["cleaned"].tolist() == [1, 1]
    assert not {(2, 11), (4, 11)} & dirty(after)


@pytest.mark.parametrize("rules", OTHERS)
def test_who_cleans_does_so_by_others_rules(rules):
    game, now = OTHERS[rules], state((6, 3, NORTH), (14, 9, EAST), dirt=[tuple(divmod(int(x), COLUMNS)) for x in RIVER])
    counted = 0.0
    for _ in range(6):
        chosen = game.script("all-c", jnp.zeros(()), now, 0)[1].argmax()
        _, now, _, _, info = STEPS[rules](KEY, now, jnp.array([chosen, STAY[rules]]))
        counted += float(info["cleaned"][0])
    assert counted > 0
