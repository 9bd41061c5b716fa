"""CleanUp-lite: every rule of the source in its order, by a slow second implementation, and in closed form."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shaping_bench.algorithms.core.rollouts import rollout
from shaping_bench.algorithms.parts.policies import Scripted
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.games.grids.cleanup_lite import DOWN, LEFT, NOOP, RIGHT, UP, ZAP, State
from shaping_bench.spec.registry import make_game

KEY = jax.random.key(0)
GAME = make("cleanup-lite")
STEP = jax.jit(GAME.step)
STEPS = jax.jit(jax.vmap(GAME.step, (0, None, None)))
KEYS = jax.random.split(KEY, 4000)


def state(cells, *, frozen=(0, 0), apples=(), dirt=(), game=GAME, time=0):
    rows = np.arange(game.rows)
    return State(
        time=jnp.int32(time),
        cell=jnp.array([game.columns * r + c for r, c in cells], jnp.int32),
        frozen=jnp.array(frozen, jnp.int32),
        apples=jnp.array(np.isin(rows, apples)),
        dirt=jnp.array(np.isin(rows, dirt)),
    )


# --- a second implementation ------------------------------------------------------------------


def share(word):
    return (int(word) >> 8) / 2**24


def drawn(free, words):
    """Of the free cells the one with the largest word but for its last byte, where the number of the cell stands."""
    return max(free, key=lambda k: (int(words[k]) & ~255) | k)


def slow(game, words, position, frozen, apples, dirt, actions):
    """A step cell by cell; sets of rows for what lies on the board. Returns what a state has, and what is counted."""
    rows, columns = game.rows, game.columns
    soils, ripens, (spill, ripe, lot), aims, order = np.split(words, np.cumsum([rows, rows, 3, 2]))
    apples, dirt, frozen, position = set(apples), set(dirt), list(frozen), list(position)
    eaten, cleaned, hits = [0, 0], [0, 0], [0, 0]
    clean = [k for k in range(rows) if k not in dirt]
    if clean and share(spill) < game.dirt_rate:
        dirt.add(drawn(clean, soils))
    free = [k for k in range(rows) if k not in apples]
    if free and share(ripe) < 1 - min(1, len(dirt) / game.depletion):
        apples.add(drawn(free, ripens))
    awake = [x == 0 for x in frozen]
    first = int(lot) >> 31
    for i in (first, 1 - first):
        row, column = position[i]
        if awake[i] and column == 0 and row in apples:
            apples.remove(row)
            eaten[i] = 1
    for i in (first, 1 - first):
        row, column = position[i]
        if awake[i] and column == columns - 1 and row in dirt:
            dirt.remove(row)
            cleaned[i] = 1
    ways = [abs(a - b) for a, b in zip(*position, strict=True)]
    near = (sum(ways) if game.metric == "manhattan" else max(ways)) <= game.zap_range
    for i in range(2):
        if actions[i] == ZAP and all(awake) and near and share(aims[i]) < game.zap_rate:
            hits[i] = 1
    targets = []
    for i in range(2):
        down, right = {RIGHT: (0, 1), LEFT: (0, -1), UP: (-1, 0), DOWN: (1, 0)}.get(int(actions[i]), (0, 0))
        row, column = position[i][0] + down, position[i][1] + right
        stays = not awake[i] or hits[1 - i] or not (0 <= row < rows and 0 <= column < columns)
        targets.append(position[i] if stays else (row, column))
    if game.apart:
        exchange = targets[0] == position[1] and targets[1] == position[0]
        if exchange:
            targets = list(position)
        elif targets[0] == targets[1]:
            moves = [i for i in range(2) if targets[i] != position[i]]
            # Of two who step on it the one with the larger word, the number of the seat in its last bits.
            ranks = [(int(order[i]) & ~7) | i for i in range(2)]
            loses = moves if len(moves) == 1 else [int(ranks[0] > ranks[1])]
            for i in loses:
                targets[i] = position[i]
    frozen = [game.freeze if hits[1 - i] else max(frozen[i] - 1, 0) for i in range(2)]
    return targets, frozen, apples, dirt, eaten, cleaned, hits


def seen(game, position, frozen, apples, dirt, player):
    """What a seat sees, number by number."""
    rows, columns = game.rows, game.columns
    order = (player, 1 - player)
    out = [int(position[i] == (r, c)) for i in order for r in range(rows) for c in range(columns)]
    for r, c in itertools.product(range(rows), range(columns)):
        apple, dirty = c == 0 and r in apples, c == columns - 1 and r in dirt
        out += [int(not apple and not dirty), int(apple), int(dirty)]
    return out + [int(frozen[i] > 0) for i in order]


VARIANTS = {
    "the paper's": {},
    "four rows": {"rows": 4, "columns": 5},
    "the longer way": {"metric": "chebyshev", "zap_range": 1, "zap_rate": 0.6},
    "apart": {"apart": True, "rows": 2, "columns": 2, "initial_dirt": 1, "depletion": 4.0},
    "crowded": {"rows": 2, "columns": 2, "initial_dirt": 2, "dirt_rate": 0.1, "depletion": 5.0, "freeze": 2},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_are_those_of_a_slow_implementation(variant):
    """Twelve random episodes of forty steps, with the same random words."""
    game = make("cleanup-lite", horizon=40, **VARIANTS[variant])
    step, reset = jax.jit(game.step), jax.jit(game.reset)
    words_of = jax.jit(lambda key: jax.random.bits(key, (2 * game.rows + 7,), jnp.uint32))
    rng = np.random.default_rng(1)
    happened = np.zeros(4, int)
    for episode in range(12):
        _, now = reset(jax.random.key(episode))
        for t in range(game.horizon):
            position = [tuple(int(y) for y in divmod(int(x), game.columns)) for x in now.cell]
            before = position, now.frozen.tolist(), *(set(np.flatnonzero(x).tolist()) for x in (now.apples, now.dirt))
            actions, key = rng.integers(6, size=2), jax.random.key(1000 * episode + t)
            expected = slow(game, np.asarray(words_of(key)), *before, actions)
            observed, now, rewards, done, info = step(key, now, jnp.asarray(actions))
            targets, frozen, apples, dirt, eaten, cleaned, hits = expected
            assert [tuple(divmod(int(x), game.columns)) for x in now.cell] == targets
            assert now.frozen.tolist() == frozen
            assert set(np.flatnonzero(now.apples).tolist()) == apples
            assert set(np.flatnonzero(now.dirt).tolist()) == dirt
            assert rewards.tolist() == info["apples"].tolist() == eaten
            assert info["cleaned"].tolist() == cleaned
            assert info["zaps"].tolist() == hits
            assert info["dirt"].tolist() == pytest.approx([len(dirt) / game.rows] * 2)
            assert bool(done) == (t == game.horizon - 1)
            for i in range(2):
                assert observed[i].tolist() == seen(game, targets, frozen, apples, dirt, i)
                assert not game.apart or targets[0] != targets[1]
            happened += [sum(eaten), sum(cleaned), sum(hits), targets[0] == targets[1]]
    assert (happened[:3] > 0).all()
    assert (happened[3] > 0) != game.apart


# --- in closed form -----------------------------------------------------------------------------


def test_it_starts_with_three_cells_of_dirt_no_apples_and_players_anywhere():
    _, start = jax.vmap(GAME.reset)(KEYS)
    assert (start.dirt.sum(axis=1) == 3).all()
    assert not start.apples.any()
    assert not start.frozen.any()
    # Uniform: 4000 pairs on 400, chi-square with 399 degrees of freedom, 5 standard deviations; dirt likewise.
    pairs = np.bincount(np.asarray(start.cell[:, 0] * 20 + start.cell[:, 1]), minlength=400)
    assert ((pairs - 10) ** 2 / 10).sum() < 399 + 5 * np.sqrt(2 * 399)
    np.testing.assert_allclose(start.dirt.mean(axis=0), 0.6, atol=0.04)


@pytest.mark.parametrize("dirt", range(6))
def test_dirt_comes_at_its_rate_and_apples_by_how_much_there_is(dirt):
    before = state([(2, 1), (2, 2)], dirt=range(dirt))
    _, after, *_ = STEPS(KEYS, before, jnp.array([NOOP, NOOP]))
    comes = 0.35 if dirt < 5 else 0.0
    more = np.asarray(after.dirt.sum(axis=1)) - dirt
    assert set(more) <= {0, 1}
    assert more.mean() == pytest.approx(comes, abs=0.03)
    # By what is there after dirt has come.
    for count in (dirt, dirt + 1):
        grown = np.asarray(after.apples.sum(axis=1))[more == count - dirt]
        if len(grown):
            rate = max(0.0, 1 - count / 3)
            assert grown.mean() == pytest.approx(rate, abs=1e-12 if rate in (0.0, 1.0) else 0.06)
    new = np.asarray(after.dirt)[more == 1][:, dirt:]
    if dirt < 5:
        np.testing.assert_allclose(new.mean(axis=0), 1 / (5 - dirt), atol=0.06)


def test_apples_grow_on_any_free_cell_and_none_where_all_bear():
    _, after, *_ = STEPS(KEYS, state([(2, 1), (2, 2)], apples=[0, 2]), jnp.array([NOOP, NOOP]))
    grown = np.asarray(after.apples)
    assert grown[:, [0, 2]].all()
    np.testing.assert_allclose(grown[:, [1, 3, 4]].mean(axis=0), (0.65 + 0.35 * 2 / 3) / 3, atol=0.03)
    full = state([(2, 1), (2, 2)], apples=range(5), dirt=range(5))
    _, after, *_ = STEP(KEY, full, jnp.array([NOOP, NOOP]))
    assert after.apples.all()
    assert after.dirt.all()


def test_who_is_frozen_neither_eats_nor_cleans_and_of_two_on_one_cell_chance_takes():
    alone = state([(1, 0), (3, 3)], apples=range(5), dirt=range(5))
    _, after, rewards, _, info = STEP(KEY, alone, jnp.array([NOOP, NOOP]))
    assert (rewards.tolist(), info["cleaned"].tolist()) == ([1, 0], [0, 1])
    assert np.flatnonzero(~np.asarray(after.apples)).tolist() == [1]
    assert np.flatnonzero(~np.asarray(after.dirt)).tolist() == [3]
    still = alone._replace(frozen=jnp.array([2, 1]))
    _, after, rewards, _, info = STEP(KEY, still, jnp.array([RIGHT, LEFT]))
    assert (rewards.tolist(), info["cleaned"].tolist()) == ([0, 0], [0, 0])
    assert after.apples.all()
    assert after.dirt.all()
    assert after.cell.tolist() == alone.cell.tolist()
    for cell, count in (((1, 0), "apples"), ((1, 3), "cleaned")):
        both = state([cell, cell], apples=range(5), dirt=range(5))
        *_, info = STEPS(KEYS, both, jnp.array([NOOP, NOOP]))
        taken = np.asarray(info[count])
        assert (taken.sum(axis=1) == 1).all()
        assert taken[:, 0].mean() == pytest.approx(0.5, abs=0.04)
        *_, info = STEPS(KEYS[:50], both._replace(frozen=jnp.array([3, 0])), jnp.array([NOOP, NOOP]))
        assert np.asarray(info[count]).tolist() == [[0, 1]] * 50


@pytest.mark.parametrize(("metric", "reached"), [("manhattan", 13), ("chebyshev", 25)])
def test_a_zap_reaches_two_cells_and_hits_nine_times_of_ten(metric, reached):
    game = make("cleanup-lite", metric=metric, rows=7, columns=7)
    steps = jax.jit(jax.vmap(game.step, (0, None, None)))
    hit = 0
    for r, c in itertools.product(range(7), range(7)):
        *_, info = steps(KEYS[:400], state([(3, 3), (r, c)], game=game), jnp.array([ZAP, NOOP]))
        rate = np.asarray(info["zaps"])[:, 0].mean()
        assert rate == 0 or rate == pytest.approx(0.9, abs=0.075)
        hit += rate > 0
    assert hit == reached


def test_who_is_hit_is_frozen_for_five_steps_and_not_hit_again_meanwhile():
    sure = make("cleanup-lite", zap_rate=1.0, dirt_rate=0.0)
    step = jax.jit(sure.step)
    now = state([(2, 1), (2, 2)], game=sure)
    # In the step of the zap it does not move any more, though it may zap back.
    _, now, _, _, info = step(KEY, now, jnp.array([ZAP, DOWN]))
    assert (now.cell.tolist(), now.frozen.tolist(), info["zaps"].tolist()) == ([9, 10], [0, 5], [1, 0])
    for left in (4, 3, 2, 1, 0):
        seen, now, _, _, info = step(KEY, now, jnp.array([ZAP, ZAP if left else DOWN]))
        assert (now.cell.tolist(), now.frozen.tolist(), info["zaps"].tolist()) == ([9, 10], [0, left], [0, 0])
        assert seen[:, -2:].tolist() == [[0, left > 0], [left > 0, 0]]
    _, after, _, _, info = step(KEY, now, jnp.array([NOOP, DOWN]))
    assert after.cell.tolist() == [9, 14]
    _, after, _, _, info = step(KEY, now, jnp.array([ZAP, ZAP]))
    assert (after.frozen.tolist(), info["zaps"].tolist()) == ([5, 5], [1, 1])


def test_moves_end_at_the_edges_and_two_may_share_a_cell():
    for action, cell in ((RIGHT, (2, 2)), (LEFT, (2, 0)), (UP, (1, 1)), (DOWN, (3, 1)), (ZAP, (2, 1)), (NOOP, (2, 1))):
        _, after, *_ = STEP(KEY, state([(2, 1), (4, 3)], frozen=(0, 0)), jnp.array([action, NOOP]))
        assert after.cell.tolist() == [4 * cell[0] + cell[1], 19]
    for corner, actions in (((0, 0), (LEFT, UP)), ((4, 3), (RIGHT, DOWN))):
        for action in actions:
            _, after, *_ = STEP(KEY, state([corner, (2, 1)]), jnp.array([action, NOOP]))
            assert after.cell[0] == 4 * corner[0] + corner[1]
    meeting = state([(2, 1), (2, 3)]), jnp.array([RIGHT, LEFT])
    assert STEP(KEY, *meeting)[1].cell.tolist() == [10, 10]
    apart = jax.jit(make("cleanup-lite", apart=True).step)
    ends = {tuple(apart(key, *meeting)[1].cell.tolist()) for key in KEYS[:20]}
    assert ends == {(10, 11), (9, 10)}


rows = st.lists(st.booleans(), min_size=5, max_size=5)


@settings(deadline=None, max_examples=50)
@given(st.tuples(st.integers(0, 19), st.integers(0, 19)), st.tuples(st.integers(0, 5), st.integers(0, 5)), rows, rows)
def test_exchanging_the_players_exchanges_what_they_see(cell, frozen, apples, dirt):
    now = State(jnp.int32(0), *(jnp.array(x) for x in (cell, frozen, apples, dirt)))
    other = now._replace(cell=now.cell[::-1], frozen=now.frozen[::-1])
    seen, exchanged = (np.asarray(GAME.observe(x)) for x in (now, other))
    assert (seen[::-1] == exchanged).all()
    assert (GAME.observe(now, 1) == seen[1]).all()
    assert seen.sum() == 2 * (2 + 20) + 2 * sum(x > 0 for x in frozen)
    planes = np.asarray(make("cleanup-lite", observation="planes").observe(now))
    assert planes[:, :2].reshape(2, -1).tolist() == seen[:, :40].tolist()
    assert (
        planes[:, 2:4].reshape(2, 2, 20).tolist() == seen[:, 40:100].reshape(2, 20, 3)[..., 1:].swapaxes(1, 2).tolist()
    )
    assert planes[:, 4:].tolist() == np.broadcast_to(seen[:, -2:, None, None], (2, 2, 5, 4)).tolist()
    where = {x.glyph: (x.row, x.column) for x in GAME.board(now).pieces}
    assert where == {"1": divmod(cell[0], 4), "2": divmod(cell[1], 4)}
    assert "".join(GAME.board(now).cells).count("a") == sum(apples)


# --- scripts and anchors --------------------------------------------------------------------------


def returns(game, names, episodes=512):
    policies = [Scripted(game, name, i) for i, name in enumerate(names)]
    return np.asarray(jax.jit(lambda key: rollout(key, game, policies, [()] * 2, episodes).rewards)(KEY))  # (T, B, 2)


def test_scripts_return_what_the_page_says():
    """Cleaning by turns pays whoever is met; all-c shares."""
    mean = {x: returns(GAME, x).mean(axis=(0, 1)) for x in itertools.product(("all-c", "all-d"), repeat=2)}
    together, alone = mean["all-c", "all-c"], mean["all-d", "all-d"]
    assert together.mean() == pytest.approx(0.200, abs=0.006)
    assert abs(together[0] - together[1]) < 0.015
    assert alone.max() < 0.005
    # Who is alone in cleaning earns little, and the other nearly as much as who takes turns.
    for cleans, eats in (mean["all-c", "all-d"], mean["all-d", "all-c"][::-1]):
        assert cleans == pytest.approx(0.013, abs=0.005)
        assert eats == pytest.approx(0.172, abs=0.015)


def planned(rows, columns, horizon, *, dirt_rate=0.35, depletion=3.0, initial_dirt=3):
    """Return per step and player of the best joint plan: backwards over all cells, dirt and apples (bits by row). A
    zap only takes from what both can do, so that no plan needs one."""
    cells, sets = np.arange(rows * columns), np.arange(1 << rows)
    row, column = np.divmod(cells, columns)
    steps = ((0, 0), (0, 1), (0, -1), (-1, 0), (1, 0))
    to = [np.clip(row + a, 0, rows - 1) * columns + np.clip(column + b, 0, columns - 1) for a, b in steps]
    count = np.array([int(x).bit_count() for x in sets])

    def on(side):
        mask = np.where(column == side, 1 << row, 0)
        return (mask[:, None] | mask)[..., None]

    after_eating, after_cleaning = sets & ~on(0), sets & ~on(columns - 1)
    eaten = count[sets & on(0)][:, :, None, :]
    here = np.ogrid[: len(cells), : len(cells), :1, :1][:2]

    def one_more(value, axis, chance):
        value = np.moveaxis(value, axis, -1)
        more, free = np.zeros_like(value), rows - count
        for k in range(rows):
            lacks = (sets >> k & 1) == 0
            more[..., lacks] += value[..., sets[lacks] | 1 << k] / free[lacks]
        more[..., -1] = value[..., -1]
        return chance * np.moveaxis(more, -1, axis) + (1 - chance) * np.moveaxis(value, -1, axis)

    value = np.zeros((len(cells), len(cells), len(sets), len(sets)))  # by cells, dirt, apples
    growth = (1 - np.minimum(1, count / depletion))[:, None]
    for _ in range(horizon):
        value = np.maximum.reduce([value[x] for x in to])
        value = np.maximum.reduce([value[:, x] for x in to])
        value = eaten + value[*here, after_cleaning[..., :, None], after_eating[..., None, :]]
        value = one_more(one_more(value, 3, growth), 2, dirt_rate)
    starts = [sum(1 << k for k in some) for some in itertools.combinations(range(rows), initial_dirt)]
    return value[:, :, starts, 0].mean() / (2 * horizon)


@pytest.mark.parametrize(("rows", "columns"), [(5, 4), (4, 5)])
def test_the_optimum_is_that_of_the_best_joint_plan(rows, columns):
    anchors = make("cleanup-lite", rows=rows, columns=columns).anchors()
    assert anchors.social_optimum == pytest.approx(planned(rows, columns, 64), abs=5e-5)


def test_anchors_of_play_are_what_scripts_return():
    anchors = GAME.anchors()
    rewards = returns(GAME, ("random", "random"), 2048)
    assert rewards.mean() == pytest.approx(anchors.random, abs=0.001)
    response = [
        returns(GAME, x, 2048)[..., x.index("all-c")].mean() for x in (("all-c", "random"), ("random", "all-c"))
    ]
    assert np.mean(response) == pytest.approx(anchors.best_response, abs=0.003)
    assert make("cleanup-lite", horizon=32).anchors() is None
    assert make("cleanup-lite", gamma=0.9, observation="planes").anchors() == anchors


def test_more_dirt_than_river_is_refused():
    with pytest.raises(BadInput, match=r"cleanup-lite\.initial_dirt is 3; allowed: at most the 2 cells of the river"):
        make_game("cleanup-lite(rows=2)")
    with pytest.raises(BadInput, match=r"cleanup-lite\.metric is 'euclidean'; allowed: 'manhattan', 'chebyshev'"):
        make_game("cleanup-lite(metric=euclidean)")
