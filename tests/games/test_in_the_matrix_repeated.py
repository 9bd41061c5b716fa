"""In the matrix, repeated: pay of inventories that are never empty, its delay, absence, beams, walls, what is seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.games import make
from shaping_bench.games.grids.gathering import FORWARD, NOOP, ZAP, Bodies
from shaping_bench.games.grids.in_the_matrix_repeated import State, _distances

KEY = jax.random.key(0)
EAST, SOUTH, WEST, NORTH = range(4)
GAME = make("in-the-matrix-repeated")
COLUMNS, CELLS = 21, GAME._map.sites.cells
STEP = jax.jit(GAME.step)


def state(*poses, held=((1, 1), (1, 1)), live=True, worn=0):
    nothing = jnp.zeros(2, jnp.int32)
    bodies = Bodies(
        cell=jnp.array([COLUMNS * row + column for row, column, _ in poses], jnp.int32),
        heading=jnp.array([x[2] for x in poses], jnp.int32), away=nothing, cooldown=nothing,
    )  # fmt: skip
    return State(
        time=jnp.int32(0), bodies=bodies, held=jnp.array(held), pending=jnp.int32(0), due=jnp.zeros(2),
        live=jnp.full(len(CELLS), live), gone=jnp.zeros(len(CELLS), jnp.int32),
        worn=jnp.full(len(CELLS), worn), kinds=jnp.asarray(GAME._map.first), beaming=jnp.zeros(2, bool),
    )  # fmt: skip


def step(before, *actions, key=KEY):
    return STEP(key, before, jnp.array(actions))


def test_boards_are_those_of_the_source():
    for matrix, counts in (("ipd", (12, 12, 12)), ("stag-hunt", (10, 25, 12))):
        board = make("in-the-matrix-repeated", matrix=matrix)._map
        drawn = len(board.first) - int(board.first.sum()) - int(board.second.sum())
        assert board.size == (13, 21)
        assert (int(board.first.sum()), int(board.second.sum()), drawn) == counts
    assert GAME.symmetric
    assert not make("in-the-matrix-repeated", matrix="bos").symmetric
    far = _distances("ipd")
    assert far[0, 20] == 20
    assert far[COLUMNS * 4 + 6, COLUMNS * 4 + 12] == 6
    assert far[COLUMNS * 2 + 9, COLUMNS * 2 + 11] > 2  # around a wall


@pytest.mark.parametrize(
    ("held", "paid"),
    [
        (((6, 1), (6, 1)), (2.837, 2.837)), (((1, 6), (1, 6)), (1.408, 1.408)), (((1, 6), (6, 1)), (4.163, 0.592)),
        (((8, 1), (8, 1)), (2.877, 2.877)), (((1, 1), (6, 1)), (0.0, 0.0)),
    ],
)  # fmt: skip
def test_who_meets_is_paid_by_shares_17_steps_later(held, paid):
    """And not at all, if somebody has collected nothing."""
    _, after, rewards, _, info = step(state((7, 5, EAST), (7, 8, WEST), held=held), ZAP, NOOP)
    assert rewards.tolist() == [0, 0]
    assert info["interactions"].tolist() == [1, 1] if paid[0] else [0, 0]
    np.testing.assert_allclose(after.due, paid, atol=6e-4)


def test_delay_absence_and_return():
    _, now, *_ = step(state((7, 5, EAST), (7, 8, WEST), held=((6, 1), (6, 1)), live=False), ZAP, NOOP)
    seen, got, dark = [], [], []
    for k in range(24):
        cells = now.bodies.cell.tolist()
        shown, now, rewards, *_ = step(now, FORWARD, FORWARD, key=jax.random.key(k))
        got.append(float(rewards[0]))
        dark.append(not shown.any())
        seen.append(now.bodies.cell.tolist() == cells)
    assert all(seen[:16])  # nobody moves while pay is due
    assert [k + 1 for k, x in enumerate(got) if x] == [17]
    assert got[16] == pytest.approx(2.837, abs=6e-4)
    assert [k + 1 for k, x in enumerate(dark) if x] == [17, 18, 19, 20, 21, 22]
    assert now.held.min() >= 1
    assert now.live.sum() >= len(CELLS) - 2


def test_beams_end_at_walls_and_wear_resources_down():
    # A wall stands between them; and so does a resource, which the third beam destroys and passes.
    held = ((6, 1), (6, 1))
    _, after, *_ = step(state((2, 9, EAST), (2, 11, WEST), held=held), ZAP, NOOP)
    assert int(after.pending) == 0
    before = state((4, 5, EAST), (4, 7, WEST), held=held)
    site = CELLS.tolist().index(COLUMNS * 4 + 6)
    _, after, *_ = step(before, ZAP, NOOP)
    assert (int(after.pending), int(after.worn[site]), bool(after.live[site])) == (0, 1, True)
    _, after, *_ = step(before._replace(worn=before.worn.at[site].set(2)), ZAP, NOOP)
    assert (int(after.pending), bool(after.live[site])) == (17, False)


def test_what_is_collected_and_what_is_seen():
    seen, after, *_ = step(state((4, 5, EAST), (10, 2, NORTH)), FORWARD, NOOP)
    site = CELLS.tolist().index(COLUMNS * 4 + 6)
    assert after.held[0].tolist() == [2, 1]
    assert not bool(after.live[site])
    # Looking along the columns from (4, 6): the next two hold resources, the second drawn as a D here; ahead is up.
    assert seen[0, :2, :4, 2].tolist() == [[0, 0, 1, 0], [0, 1, 0, 0]]
    assert seen[0, 8:, 0, 0].tolist() == [2, 1, 1, 0]
    assert GAME.observe(state((2, 9, EAST), (2, 12, WEST)))[0, 2, 2, 2] == 1  # a wall next to it


@pytest.mark.parametrize("name", ["all-c", "all-d"])
def test_scripts_collect_their_kind_and_meet(name):
    """Both walk around walls, and stop at shares that are nearly pure."""

    def one(now, key):
        chosen = jnp.stack([GAME.script(name, jnp.zeros(()), now, i)[1] for i in range(2)])
        action_key, step_key = jax.random.split(key)
        _, now, _, _, info = GAME.step(step_key, now, jax.random.categorical(action_key, chosen))
        return now, (info["interactions"][0], info["cooperated"][0])

    play = jax.jit(lambda key: jax.lax.scan(one, GAME.reset(key)[1], jax.random.split(key, 400))[1])
    met, cooperated = play(KEY)
    assert met.sum() >= 3
    share = float(cooperated.sum() / met.sum())
    assert share > 0.7 if name == "all-c" else share < 0.3
