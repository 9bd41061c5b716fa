"""Harvest: growth as the sources have it, moves one after the other, beams, and what is seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core.rollouts import rollout
from shaping_bench.algorithms.parts.policies import Scripted
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.games.grids.board import unframed
from shaping_bench.games.grids.gathering import (
    BACKWARD,
    FORWARD,
    NOOP,
    STEP_LEFT,
    STEP_RIGHT,
    TURN_LEFT,
    TURN_RIGHT,
    ZAP,
    Bodies,
)
from shaping_bench.games.grids.harvest import State, _near
from shaping_bench.spec.registry import make_game

KEY = jax.random.key(0)
EAST, SOUTH, WEST, NORTH = range(4)
GAME = make("harvest", num_players=3)
SIZE, CELLS = GAME._map.size, GAME._map.sites.cells
STEP = jax.jit(GAME.step)


def state(*poses, apples=True, away=(0, 0, 0), cooldown=(0, 0, 0)):
    cells = [-1 if gone else 22 * row + column for (row, column, _), gone in zip(poses, away, strict=True)]
    bodies = Bodies(
        cell=jnp.array(cells, jnp.int32), heading=jnp.array([x[2] for x in poses], jnp.int32),
        away=jnp.array(away, jnp.int32), cooldown=jnp.array(cooldown, jnp.int32),
    )  # fmt: skip
    live = jnp.full(len(CELLS), apples) if isinstance(apples, bool) else jnp.isin(CELLS, jnp.array(apples))
    return State(time=jnp.int32(0), bodies=bodies, apples=live, beaming=jnp.zeros(3, bool))


def step(before, *actions, key=KEY):
    return STEP(key, before, jnp.array(actions))


def places(after):
    return [divmod(int(x), 22) if x >= 0 else None for x in after.bodies.cell]


def test_the_board_is_that_of_the_source():
    assert SIZE == (16, 22)
    assert (len(CELLS), len(GAME._map.starts), len(GAME._map.inner)) == (64, 60, 2)
    counts = _near("open", 4).sum(0)
    assert {n: int((counts == n).sum()) for n in set(counts.tolist())} == {3: 4, 4: 20, 5: 4, 7: 32, 12: 4}
    assert _near("open", 2).sum(0).max() == 8


@pytest.mark.parametrize(
    ("growth", "left", "site", "expected"),
    [
        ("melting_pot", "all", (0, 7), 0.025), ("ssd", "all", (0, 7), 0.05),
        ("melting_pot", [(0, 0)], (0, 2), 0.0025), ("socialjax", [(0, 0)], (0, 2), 0.001),
        ("ssd", [(0, 0)], (0, 2), 0.0),
        ("melting_pot", [(0, 0)], (1, 1), 0.0025), ("socialjax", [(0, 0)], (1, 1), 0.001),
        ("ssd", [(0, 0)], (1, 1), 0.005), ("melting_pot", [], (0, 0), 0.0), ("ssd", [], (0, 0), 0.0),
        ("melting_pot", [(0, 0), (0, 1)], (1, 1), 0.005), ("ssd", [(0, 0), (0, 1)], (1, 1), 0.02),
    ],
)  # fmt: skip
def test_growth_is_that_of_the_source(growth, left, site, expected):
    game = make("harvest", growth=growth)
    cell = 22 * site[0] + site[1]
    live = [x for x in CELLS.tolist() if x != cell] if left == "all" else [22 * r + c for r, c in left]
    thresholds = game._thresholds(jnp.isin(CELLS, jnp.array(live, jnp.int32)))
    assert int(thresholds[CELLS.tolist().index(cell)]) / 2**32 == pytest.approx(expected, abs=1e-9)


def test_apples_grow_at_their_rate_and_never_from_nothing():
    before = state((15, 0, 0), (15, 5, 0), (15, 9, 0), apples=[x for x in CELLS.tolist() if x != 7])
    run = jax.jit(jax.vmap(lambda key: GAME.step(key, before, jnp.zeros(3, jnp.int32))[1].apples))
    grown = np.asarray(run(jax.random.split(KEY, 20000)))[:, CELLS.tolist().index(7)]
    assert grown.mean() == pytest.approx(0.025, abs=0.005)
    before = state((15, 0, 0), (15, 5, 0), (15, 9, 0), apples=False)
    assert not jax.jit(jax.vmap(lambda key: GAME.step(key, before, jnp.zeros(3, jnp.int32))[1].apples))(
        jax.random.split(KEY, 2000)
    ).any()


@pytest.mark.parametrize(
    ("action", "heading", "expected"),
    [
        (NOOP, EAST, (5, 10, EAST)), (FORWARD, EAST, (5, 11, EAST)), (BACKWARD, EAST, (5, 9, EAST)),
        (STEP_LEFT, EAST, (4, 10, EAST)), (STEP_RIGHT, EAST, (6, 10, EAST)), (TURN_LEFT, EAST, (5, 10, NORTH)),
        (TURN_RIGHT, EAST, (5, 10, SOUTH)), (FORWARD, NORTH, (4, 10, NORTH)), (STEP_RIGHT, NORTH, (5, 11, NORTH)),
        (STEP_LEFT, WEST, (6, 10, WEST)),
    ],
)  # fmt: skip
def test_moves_are_relative_to_where_one_looks(action, heading, expected):
    _, after, *_ = step(state((5, 10, heading), (15, 5, 0), (15, 9, 0)), action, NOOP, NOOP)
    assert (*places(after)[0], int(after.bodies.heading[0])) == expected


def test_moves_happen_one_after_the_other():
    cases = {
        "exchange": (state((12, 5, EAST), (12, 6, WEST), (15, 9, 0)), {((12, 5), (12, 6))}),
        "follow": (state((12, 5, EAST), (12, 6, EAST), (15, 9, 0)), {((12, 5), (12, 7)), ((12, 6), (12, 7))}),
        "claim": (state((12, 5, EAST), (12, 7, WEST), (15, 9, 0)), {((12, 5), (12, 6)), ((12, 6), (12, 7))}),
        "edge": (state((0, 5, NORTH), (15, 7, SOUTH), (15, 9, 0)), {((0, 5), (15, 7))}),
    }
    run = jax.jit(
        jax.vmap(lambda key, x: GAME.step(key, x, jnp.array([FORWARD, FORWARD, NOOP]))[1].bodies.cell, (0, None))
    )
    for name, (before, outcomes) in cases.items():
        cells = np.asarray(run(jax.random.split(KEY, 64), before))[:, :2]
        assert {tuple(divmod(x, 22) for x in row) for row in cells.tolist()} == outcomes, name


def test_who_steps_on_an_apple_eats_it():
    before = state((0, 3, WEST), (15, 5, 0), (15, 9, 0))
    _, after, rewards, done, info = step(before, FORWARD, NOOP, NOOP)
    assert rewards.tolist() == [1, 0, 0]
    assert not after.apples[CELLS.tolist().index(2)]
    assert info["standing"].tolist() == [63] * 3
    assert not bool(done)


def test_beams_stop_at_the_first_player_and_send_it_away():
    # The third stands behind the second in the line, and is safe.
    before = state((12, 5, EAST), (12, 7, EAST), (12, 8, EAST))
    _, after, _, _, info = step(before, ZAP, NOOP, NOOP)
    assert (places(after)[1], places(after)[2]) == (None, (12, 8))
    assert info["zaps"].tolist() == [1, 0, 0]
    # Beside the shooter, and two ahead on the other side.
    _, after, *_ = step(state((12, 5, EAST), (11, 5, EAST), (13, 7, EAST)), ZAP, NOOP, NOOP)
    assert places(after)[1:] == [None, None]
    _, after, *_ = step(state((12, 5, EAST), (11, 8, EAST), (12, 4, EAST)), ZAP, NOOP, NOOP)
    assert None not in places(after)
    # Two may hit each other.
    _, after, *_ = step(state((12, 5, EAST), (12, 7, WEST), (15, 9, 0)), ZAP, ZAP, NOOP)
    assert places(after)[:2] == [None, None]


def test_who_was_hit_is_back_after_five_steps_and_beams_need_two_to_cool():
    after = step(state((12, 5, EAST), (12, 7, EAST), (15, 9, 0)), ZAP, NOOP, NOOP)[1]
    gone, shots = [], []
    for k in range(5):
        seen, after, *_ = step(after, ZAP, NOOP, NOOP, key=jax.random.key(k))
        gone.append(places(after)[1] is None)
        shots.append(bool(after.beaming[0]))
        if gone[-1]:
            assert not seen[1].any()
    assert gone == [True] * 4 + [False]
    assert shots == [False, False, True, False, False]
    assert int(after.bodies.cell[1]) in GAME._map.starts


def test_starts():
    _, start = jax.jit(jax.vmap(GAME.reset))(jax.random.split(KEY, 500))
    cells = np.asarray(start.bodies.cell)
    assert np.isin(cells[:, :2], GAME._map.inner).all()
    assert (cells[:, 0] != cells[:, 1]).all()
    assert np.isin(cells[:, 2], GAME._map.starts).all()
    assert np.asarray(start.apples).all()
    assert np.bincount(np.asarray(start.bodies.heading).ravel(), minlength=4).min() > 300


@pytest.mark.parametrize("layout", ["open", "ssd"])
def test_windows_are_cut_as_one_stands_and_looks(layout):
    """Against a loop over the cells of the window, from random places and from the far corner, with random apples; a
    line of the wider board has more cells than a word has bits."""
    game = make("harvest", layout=layout, num_players=3)
    sites = game._map.sites.cells
    rows, columns = game._map.size
    rng = np.random.default_rng(0)
    spots = np.array([rng.choice(rows * columns - 1, 3, replace=False) for _ in range(24)])
    spots[:8, 0] = rows * columns - 1
    headings = rng.integers(0, 4, spots.shape)
    headings[:, 0] = np.arange(24) % 4
    apples = rng.random((24, len(sites))) < 0.3
    nothing = jnp.zeros((24, 3), jnp.int32)
    bodies = Bodies(cell=jnp.array(spots, jnp.int32), heading=jnp.array(headings), away=nothing, cooldown=nothing)
    states = State(time=nothing[:, 0], bodies=bodies, apples=jnp.array(apples), beaming=nothing > 0)
    for i, seen in enumerate(np.asarray(jax.jit(jax.vmap(game.observe))(states))[:, 0]):
        poses = [(*divmod(int(cell), columns), int(h)) for cell, h in zip(spots[i], headings[i], strict=True)]
        live = {divmod(int(cell), columns) for cell in sites[apples[i]]}
        expected = np.zeros_like(seen)
        expected[6] = 1
        for down, right in np.ndindex(11, 11):
            r, c = map(int, unframed(*poses[0], 9 - down, right - 5))
            expected[0, down, right] = (r, c) in live
            expected[1, down, right] = not (0 <= r < rows and 0 <= c < columns)
            for row, column, h in poses[1:]:
                if (row, column) == (r, c):
                    expected[2 + (h - poses[0][2]) % 4, down, right] = 1
        np.testing.assert_array_equal(seen, expected)


def test_restraint_earns_more_than_greed_on_the_small_board():
    """Three scripts that leave what grows earn more than three that take everything."""
    game = make("harvest", layout="small", num_players=3, horizon=400)
    earned = {}
    for name in ("all-d", "all-c"):
        policies = [Scripted(game, name, i) for i in range(3)]
        play = jax.jit(lambda key, policies=policies: rollout(key, game, policies, [()] * 3, 16))(KEY)
        earned[name] = np.asarray(play.rewards).sum(0).mean()
    assert earned["all-d"] < 8
    assert earned["all-c"] > 2 * earned["all-d"]


# --- others' rules --------------------------------------------------------------------------------

SOCIALJAX = {rules: make("harvest", num_players=3, rules=rules) for rules in ("socialjax", "socialjax_v1.1.0")}
FIRST = make("harvest", num_players=3, rules="ssd")
STEPS = {name: jax.jit(game.step) for name, game in {**SOCIALJAX, "ssd": FIRST}.items()}
TURN, LEFT, RIGHT, STAY, SHOOT = 0, 3, 2, 6, 7
"""SocialJax's actions: a turn to the left, moves along the columns, and others."""


def by(rules, before, *actions, key=KEY):
    return STEPS[rules](key, before, jnp.array(actions))


def test_growth_goes_by_the_rules():
    single = jnp.isin(CELLS, jnp.array([22 * 0 + 1], jnp.int32))
    site = CELLS.tolist().index(0)
    rates = {rules: int(x._thresholds(single)[site]) / 2**32 for rules, x in {**SOCIALJAX, "ssd": FIRST}.items()}
    assert rates == pytest.approx({"socialjax": 0.001, "socialjax_v1.1.0": 0.001, "ssd": 0.005}, abs=1e-9)
    # SocialJax leaves out the cell below and to the left in the last column.
    lost = (GAME._neighbours - SOCIALJAX["socialjax"]._neighbours).sum(axis=1)
    assert [divmod(int(CELLS[k]), 22) for k in np.flatnonzero(lost)] == [(0, 21), (7, 21)]
    with pytest.raises(BadInput, match=r"growth is 'ssd'; allowed: none besides rules=socialjax"):
        make_game("harvest(rules=socialjax,growth=ssd)")


def test_moves_of_socialjax_are_along_rows_and_columns_and_at_once():
    exchange = state((12, 5, NORTH), (12, 6, NORTH), (15, 9, 0))
    follow = state((12, 5, NORTH), (12, 6, NORTH), (15, 9, 0))
    claim = state((12, 5, NORTH), (12, 7, NORTH), (15, 9, 0))
    for rules, followed in (("socialjax", [(12, 6), (12, 7)]), ("socialjax_v1.1.0", [(12, 5), (12, 7)])):
        assert places(by(rules, exchange, RIGHT, LEFT, STAY)[1])[:2] == [(12, 5), (12, 6)]
        assert places(by(rules, follow, RIGHT, RIGHT, STAY)[1])[:2] == followed
        outcomes = {tuple(places(by(rules, claim, RIGHT, LEFT, STAY, key=k)[1])[:2]) for k in jax.random.split(KEY, 16)}
        assert outcomes == {((12, 6), (12, 7)), ((12, 5), (12, 6))}
    # Before release 1.2.0 nobody can turn.
    turned = [int(by(rules, claim, TURN, STAY, STAY)[1].bodies.heading[0]) for rules in SOCIALJAX]
    assert turned == [WEST, NORTH]


def test_socialjax_eats_and_pays_nothing_in_the_last_step():
    before = state((0, 3, WEST), (15, 5, 0), (15, 9, 0))
    _, after, rewards, *_ = by("socialjax", before, LEFT, STAY, STAY)
    assert rewards.tolist() == [1, 0, 0]
    assert not after.apples[CELLS.tolist().index(2)]
    _, _, rewards, done, info = by("socialjax", before._replace(time=jnp.int32(999)), LEFT, STAY, STAY)
    assert (rewards.tolist(), info["apples"].tolist(), bool(done)) == ([0, 0, 0], [1, 0, 0], True)


def test_beams_of_socialjax_go_through_players_and_over_the_edge():
    # Two ahead, and beside the first of them; both are placed before the next step's moves.
    before = state((11, 5, SOUTH), (12, 6, 0), (13, 5, 0))
    _, after, _, _, info = by("socialjax", before, SHOOT, STAY, STAY)
    assert info["zaps"].tolist() == [2, 0, 0]
    assert places(after) == [(11, 5), (12, 6), (13, 5)]
    # The beam is in the way for one step.
    _, later, *_ = by("socialjax", after, STAY, STAY, STAY)
    assert np.isin(np.asarray(later.bodies.cell[1:]), GAME._map.starts).all()
    assert np.isin(np.asarray(later.bodies.heading[1:]), (0, 1, 3)).all()
    shot = state((11, 5, SOUTH), (12, 3, 0), (15, 9, 0))
    _, after, *_ = by("socialjax", shot, SHOOT, STAY, STAY)
    went = [places(by("socialjax", x, STAY, RIGHT, STAY)[1])[1] for x in (after, after._replace(beaming=shot.beaming))]
    assert went == [(12, 3), (12, 4)]
    # Over the first row it comes back from the last but one; at the last row it hits the shooter.
    _, _, _, _, info = by("socialjax", state((0, 5, NORTH), (15, 5, 0), (14, 5, 0)), SHOOT, STAY, STAY)
    assert info["zaps"].tolist() == [2, 0, 0]
    _, _, _, _, info = by("socialjax", state((15, 5, SOUTH), (13, 5, 0), (12, 5, 0)), SHOOT, STAY, STAY)
    assert info["zaps"].tolist() == [1, 0, 0]


def test_the_first_codes_beams_fine_the_first_in_each_line():
    before = state((12, 5, EAST), (12, 8, 0), (12, 9, 0))
    _, after, rewards, *_ = by("ssd", before, SHOOT, 4, 4)
    assert rewards.tolist() == [-1, -50, 0]
    assert places(after) == [(12, 5), (12, 8), (12, 9)]
    assert FIRST.reward_bounds == (-101, 1)
    assert make("harvest", layout="ssd", rules="ssd")._map.sites.cells.shape == (155,)


def test_scripts_walk_by_others_rules():
    """Who is greedy walks the way to the nearest apple, whatever the actions are called."""
    for rules, game in {**SOCIALJAX, "ssd": FIRST}.items():
        now = state((3, 4, NORTH), (15, 5, 0), (15, 9, 0), apples=[22 * 3 + 6])
        for _ in range(2):
            chosen = game.script("all-d", jnp.zeros(()), now, 0)[1].argmax()
            _, now, rewards, *_ = by(rules, now, chosen, STAY, STAY)
        assert rewards[0] == 1, rules
