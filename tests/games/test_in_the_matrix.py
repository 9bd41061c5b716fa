"""In the matrix: hand-made positions, and JaxMARL's own environment step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core.rollouts import rollout
from shaping_bench.algorithms.parts.policies import Scripted
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.games.grids.board import stepped
from shaping_bench.games.grids.in_the_matrix import COINS, SPAWNS, Player, State
from shaping_bench.spec.registry import make_game

RIGHT, LEFT, FORWARD, INTERACT, STAY = range(5)
KEY = jax.random.key(0)
GAME = make("in-the-matrix")
STEP = jax.jit(GAME.step)
ALL = (1 << 12) - 1
FIXED = sum(1 << COINS.index(cell) for cell in [(1, 2), (1, 5), (1, 6), (5, 1), (5, 6), (6, 6)])


def stood(row, column, heading, c=0, d=0):
    return Player(jnp.int32(4 * (8 * row + column) + heading), (jnp.int32(c), jnp.int32(d)))


def state(first, second, *, lying=ALL, freeze=-1, time=0):
    return State(
        time=jnp.int32(time), players=(stood(*first), stood(*second)), lying=jnp.int32(lying), kinds=jnp.int32(FIXED),
        freeze=jnp.int32(freeze), beaming=(jnp.zeros((), bool), jnp.zeros((), bool)),
    )  # fmt: skip


def step(before, *actions):
    seen, after, rewards, done, info = STEP(KEY, before, jnp.array(actions))
    return seen, after, [round(x, 3) for x in rewards.tolist()], done, info


def pose(player):
    return [*divmod(int(player.cell), 8), int(player.heading)]


@pytest.mark.parametrize(
    ("second", "paid"),
    [((3, 5, 2, 0, 1), [0, 5]), ((4, 4, 2, 0, 1), [0, 5]), ((4, 3, 2, 0, 1), [0, 0]), ((3, 6, 2, 0, 1), [0, 0])],
)
def test_a_meeting_pays_whoever_presses(second, paid):
    _, after, rewards, _, info = step(state((3, 3, 0, 1, 0), second), INTERACT, STAY)
    assert rewards == paid
    assert int(after.freeze) == (5 if paid != [0, 0] else -1)
    assert info["interactions"].tolist() == [float(paid != [0, 0])] * 2


def test_inventories_are_mixed_strategies():
    *_, rewards, _, info = step(state((3, 3, 0, 3, 1), (3, 4, 0, 1, 1)), INTERACT, STAY)
    assert rewards == [1.875, 3.125]
    assert info["cooperated"].tolist() == [0.75, 0.5]
    *_, rewards, _, _ = step(state((3, 3, 0, 2, 1), (3, 4, 0, 1, 2)), INTERACT, INTERACT)
    assert rewards == [1.444, 3.111]


def test_nobody_meets_with_empty_hands():
    for second in ((3, 4, 2), (3, 4, 2, 1, 0)):
        _, after, rewards, _, _ = step(state((3, 3, 0), second), INTERACT, INTERACT)
        assert (rewards, int(after.freeze)) == ([0, 0], -1)


def test_what_is_seen_at_a_meeting():
    seen, _, _, _, _ = step(state((3, 3, 0, 1, 0), (3, 5, 2, 0, 1)), INTERACT, STAY)
    assert seen.dtype == jnp.int8
    assert seen[:, 10:, 0, 0].tolist() == [[1, 0, 1, 1, 0, 1], [0, 1, 1, 1, 1, 0]]
    # The first at row 2, column 0 of its window, the other two ahead and looking at it; beams around it.
    marks = [[tuple(map(int, x)) for x in np.argwhere(np.asarray(plane))] for plane in seen[0, :10]]
    assert marks[:2] + marks[4:] == [[(2, 0)], [(2, 2)], [], [(1, 1), (2, 1), (3, 1)], [], [], [(2, 2)], []]
    # Its row 0 is row 1 of the board, its row 4 row 5; columns 3 to 7 are in sight.
    assert marks[2:4] == [[(0, 2), (0, 3), (4, 3)], [(1, 3)]]
    # The second sees the same from the other side, a quarter of the board mirrored twice.
    marks = [[tuple(map(int, x)) for x in np.argwhere(np.asarray(plane))] for plane in seen[1, :10]]
    assert marks[0] == [(2, 0)]
    assert marks[1] == marks[8] == [(2, 2)]
    assert marks[5] == [(1, 1), (2, 1), (3, 1)]


def test_who_stays_keeps_the_cell_and_cells_may_be_exchanged():
    _, after, *_ = step(state((3, 3, 0), (3, 4, 2)), FORWARD, STAY)
    assert [pose(x) for x in after.players] == [[3, 3, 0], [3, 4, 2]]
    _, after, *_ = step(state((3, 3, 0), (3, 4, 2)), FORWARD, FORWARD)
    assert [pose(x) for x in after.players] == [[3, 4, 0], [3, 3, 2]]
    _, after, *_ = step(state((0, 0, 3), (7, 7, 0)), FORWARD, RIGHT)
    assert [pose(x) for x in after.players] == [[0, 0, 3], [7, 7, 1]]
    keys = jax.random.split(KEY, 400)
    clash = state((3, 3, 0), (3, 5, 2))
    _, after, *_ = jax.jit(jax.vmap(lambda key: GAME.step(key, clash, jnp.array([FORWARD, FORWARD]))))(keys)
    columns = np.stack([np.asarray(x.cell) % 8 for x in after.players], axis=1)
    assert set(map(tuple, columns.tolist())) == {(4, 5), (3, 4)}
    assert 0.4 < (columns[:, 0] == 4).mean() < 0.6


def test_both_are_frozen_for_five_steps_and_start_anew():
    _, after, *_ = step(state((3, 3, 0, 1, 0), (3, 5, 2, 0, 1), lying=0), INTERACT, STAY)
    freezes = []
    for _ in range(5):
        held = after
        seen, after, rewards, _, _ = step(after, FORWARD, FORWARD)
        freezes.append(int(after.freeze))
        assert rewards == [0, 0]
        if freezes[-1] > 0:
            assert [pose(x) for x in after.players] == [pose(x) for x in held.players]
    assert freezes == [4, 3, 2, 1, -1]
    assert [int(x) for player in after.players for x in player.held] == [0] * 4
    assert int(after.lying).bit_count() in (10, 12)
    assert seen[:, 10:].max() == 0


def test_coins_are_collected_once_and_lost_under_who_walks_off():
    _, after, *_ = step(state((1, 3, 2), (7, 0, 0)), FORWARD, STAY)
    assert [int(x) for x in after.players[0].held] == [1, 0]
    assert not int(after.lying) & 1 << COINS.index((1, 2))
    # Started on a coin: hidden by it; whoever stays has it, whoever leaves loses it.
    on = state((2, 1, 0), (5, 6, 0))
    assert GAME.observe(on)[:, :2].max() == 0
    _, after, *_ = step(on, STAY, FORWARD)
    assert [[int(x) for x in player.held] for player in after.players] == [[0, 1], [0, 0]]
    assert int(after.lying) == ALL & ~(1 << COINS.index((2, 1)) | 1 << COINS.index((5, 6)))


def test_the_last_step_is_not_paid():
    before = state((3, 3, 0, 1, 0), (3, 5, 2, 0, 1), time=151)
    *_, rewards, done, info = step(before, INTERACT, STAY)
    assert rewards == [0, 0]
    assert bool(done)
    assert info["interactions"].tolist() == [1, 1]


def test_starts_are_opposite_and_coins_may_be_shuffled():
    game = make("in-the-matrix", fixed_coins=False)
    _, start = jax.jit(jax.vmap(game.reset))(jax.random.split(KEY, 2000))
    first, second = start.players
    assert {divmod(x, 8) for x in first.cell.tolist()} == set(SPAWNS)
    assert (first.cell + second.cell == 63).all()
    assert set(first.heading.tolist()) == {0, 1, 2}
    bits = (np.asarray(start.kinds)[:, None] >> np.arange(12)) & 1
    assert (bits.sum(1) == 6).all()
    np.testing.assert_allclose(bits.mean(0), 0.5, atol=0.06)


@pytest.mark.parametrize(
    ("text", "symmetric", "zero_sum"),
    [
        ("in-the-matrix", True, False),
        ("in-the-matrix(matrix=imp)", False, True),
        ("in-the-matrix(matrix=stag-hunt)", True, False),
        ("in-the-matrix(matrix=bos)", False, False),
        ("in-the-matrix(payoffs=((1,0,0,1),(1,0,0,1)))", True, False),
        ("in-the-matrix(own_share=0.5)", True, False),
    ],
)
def test_matrices_by_name(text, symmetric, zero_sum):
    game = make_game(text).value
    assert (game.symmetric, game.zero_sum) == (symmetric, zero_sum)


def test_a_table_of_another_form_is_refused():
    with pytest.raises(BadInput, match=r"in-the-matrix\.payoffs is .*allowed: two rows of four numbers"):
        make_game("in-the-matrix(payoffs=((1,2),(3,4)))")


def test_shared_rewards_are_those_of_a_mixed_matrix():
    before = state((3, 3, 0, 1, 0), (3, 5, 2, 0, 1))
    for text in ("in-the-matrix(own_share=0.75)", "in-the-matrix(own_share=0.75,payoffs=((3,0,5,1),(3,5,0,1)))"):
        *_, rewards, _, _ = make_game(text).value.step(KEY, before, jnp.array([INTERACT, STAY]))
        assert rewards.tolist() == [1.25, 3.75]


def test_scripts_collect_only_their_kind_and_meet():
    """Two who go for C by the shortest ways get through at least eight rounds of mutual cooperation."""
    policies = [Scripted(GAME, "all-c", i) for i in (0, 1)]
    play = jax.jit(lambda key: rollout(key, GAME, policies, [(), ()], 16))(KEY)
    rounds, cooperated = (np.asarray(play.info[x]).sum(0) for x in ("interactions", "cooperated"))
    assert rounds.min() >= 8
    np.testing.assert_allclose(cooperated, rounds, atol=0.5)
    assert GAME.anchors().social_optimum == pytest.approx(np.asarray(play.rewards).mean(), abs=0.02)


# --- JaxMARL's -----------------------------------------------------------------------------

INNER, OUTER = 40, 2


def as_ours(inner, beaming):
    def player(place, held):
        row, column, heading = place.astype(jnp.int32)
        return Player(4 * (8 * row + column) + heading, tuple(held.astype(jnp.int32)))

    lying = [(inner.grid[r, c] == 3) | (inner.grid[r, c] == 4) for r, c in COINS]
    kinds = [(inner.red_coins == jnp.array(cell)).all(-1).any() for cell in COINS]
    masks = [sum(x.astype(jnp.int32) << k for k, x in enumerate(bits)) for bits in (lying, kinds)]
    return State(
        time=(INNER * inner.outer_t + inner.step).astype(jnp.int32),
        players=(player(inner.red_pos, inner.red_inventory), player(inner.blue_pos, inner.blue_inventory)),
        lying=masks[0], kinds=masks[1], freeze=inner.freeze.astype(jnp.int32), beaming=beaming,
    )  # fmt: skip


def test_jaxmarls_storm_is_ours_step_by_step():
    """Same board, same actions: same moves, coins, inventories, freezing, rewards and observations."""
    jaxmarl = pytest.importorskip("jaxmarl", reason="jaxmarl not installed: pip install --no-deps -r .ci/no-deps.txt")
    theirs = jaxmarl.make("storm_2p", num_inner_steps=INNER, num_outer_steps=OUTER, fixed_coin_location=False)
    ours = make("in-the-matrix", horizon=INNER, episodes=OUTER, fixed_coins=False)
    nobody = jnp.zeros((), bool)

    def planes(seen):
        boards = jnp.stack([jnp.moveaxis(x["observation"], -1, 0) for x in seen])
        numbers = jnp.stack([x["inventory"] for x in seen])[..., None, None]
        return jnp.concatenate([boards, jnp.broadcast_to(numbers, (2, 6, 5, 5))], axis=1)

    def step(loop, now):
        inner, beaming = loop
        key, actions = now
        before = as_ours(inner, beaming)
        seen, after, rewards, dones, _ = theirs.step_env(key, inner, tuple(actions))
        _, expected, paid, over, info = ours.step(key, before, actions)
        ended = (before.time + 1) % INNER == 0
        fresh = ended | (before.freeze == 1)
        beaming = tuple(jnp.where(fresh, nobody, x) for x in expected.beaming)
        new = as_ours(after, beaming)
        # A clash of two that move is decided by chance; so is where one starts anew.
        ahead = [stepped(p.cell // 8, p.cell % 8, p.heading) for p in before.players]
        clash = (actions == FORWARD).all() & (ahead[0][0] == ahead[1][0]) & (ahead[0][1] == ahead[1][1])
        skip = fresh | clash

        def told(x):
            return jax.tree.map(lambda leaf: jnp.where(skip, 0, leaf), x)

        compared = {
            "rewards": (jnp.where(clash, 0, jnp.stack(rewards)), jnp.where(clash, 0, paid)),
            "done": (dones["__all__"], over),
            "state": (told(new), told(expected)),
            "freeze": (jnp.where(clash, 0, new.freeze), jnp.where(clash, 0, expected.freeze)),
            "seen": (planes(seen), ours.observe(new)),
        }
        return (after, beaming), (compared, info["interactions"][0], clash)

    def play(key):
        reset_key, action_key, step_key = jax.random.split(key, 3)
        _, inner = theirs.reset(reset_key)
        inner = jax.tree.map(jnp.asarray, inner)
        # Forward and interact more often than by chance, or nobody meets.
        actions = jax.random.choice(action_key, jnp.array([0, 1, 2, 2, 2, 3, 3, 4]), (INNER * OUTER, 2))
        keys = jax.random.split(step_key, INNER * OUTER)
        typed = jax.eval_shape(lambda s: theirs.step_env(step_key, s, tuple(actions[0]))[1], inner)
        inner = jax.tree.map(lambda x, t: x.astype(t.dtype), inner, typed)
        return jax.lax.scan(step, (inner, (nobody, nobody)), (keys, actions))[1]

    run = jax.jit(jax.vmap(play), compiler_options={"xla_backend_optimization_level": 0})
    compared, met, clash = run(jax.random.split(KEY, 256))
    assert np.asarray(met).sum() > 20
    assert 0 < np.asarray(clash).sum() < 500
    for name, (got, expected) in compared.items():
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5, err_msg=name)
