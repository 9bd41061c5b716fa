"""The Coin Game: rules by hand-made positions, and scripted policies against reference constants."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.conformance.kit import check_game_instance
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.games.grids.coin import MOVES, PRESETS, State, always_cooperate, always_defect, uniformly_random
from shaping_bench.games.grids.pictures import COLOURS, frame, frames, save_gif, save_png
from shaping_bench.spec.registry import check_encounter, make_game, make_learner

RIGHT, LEFT, DOWN, UP = range(4)  # in LOLA's order
KEY = jax.random.key(0)


def board(players, coins, owners, time=0):
    """A state from (row, column) places on a 3 x 3 board."""
    cell, n = [jnp.int32(3 * row + column) for row, column in (*players, *coins)], len(players)
    nothing = (jnp.zeros(()),) * n
    return State(jnp.int32(time), tuple(cell[:n]), tuple(cell[n:]), tuple(map(jnp.int32, owners)), nothing)


def place(cell, size=3):
    return divmod(int(cell), size)


# --- constants ----------------------------------------------------------------------------
#
# Mean reward per step of the row's and the column's player, from an independent simulation of
# each convention (16384 episodes, standard error 0.001 to 0.002); AC-AC, AD-AC, AD-random and
# AC-random on 3 x 3 agree with the league files published with LOQA (0.347; 0.631, -0.269;
# 0.526, -0.534; 0.053, 0.106).

PAIRINGS = ("AC AC", "AD AC", "AD AD", "AD random", "AC random", "random random")
SCRIPTS = {"AC": always_cooperate, "AD": always_defect, "random": uniformly_random}

ONE_COIN = {
    3: ((0.349, 0.349), (0.637, -0.266), (0, 0), (0.531, -0.531), (0.060, 0.114), (0, 0)),
    4: ((0.244, 0.244), (0.441, -0.167), (0, 0), (0.395, -0.394), (0.038, 0.056), (0, 0)),
    5: ((0.203, 0.203), (0.371, -0.142), (0, 0), (0.350, -0.350), (0.028, 0.033), (0, 0)),
    6: ((0.163, 0.163), (0.297, -0.109), (0, 0), (0.289, -0.289), (0.022, 0.021), (0, 0)),
    7: ((0.142, 0.142), (0.259, -0.096), (0, 0), (0.258, -0.258), (0.018, 0.015), (0, 0)),
}
RED_FIRST = ((0.349, 0.349), (0.638, -0.426), (0.660, -0.660), (0.608, -0.608), (0.078, 0.103), (0.012, -0.012))
MFOS = ((0.307, 0.307), (0.856, -0.342), (0, 0), (0.624, -0.622), (0.190, 0.226), (0, 0))
JAXMARL = ((0.306, 0.306), (0.850, -0.343), (0, 0), (0.649, -0.652), (0.219, 0.183), (0, 0))

RANDOM_PICK_UPS = {"loqa": (0.057, 0.028, 0.016, 0.011, 0.007), "mfos": (0.113,), "jaxmarl": (0.095,)}
"""Own pick-ups per step of two random players, by size from 3 on; others' pick-ups are as many."""

CONSTANTS = [
    *((f"coin-game(size={size})", table) for size, table in ONE_COIN.items()),
    ("coin-game(preset=lola_dice)", ONE_COIN[3]),
    ("coin-game(preset=lola_dice,size=5)", ONE_COIN[5]),
    ("coin-game(preset=pola)", ONE_COIN[3]),
    ("coin-game(preset=lola)", RED_FIRST),
    ("coin-game(preset=mfos)", MFOS),
    ("coin-game(preset=jaxmarl)", JAXMARL),
]
TOLERANCE = 0.009
"""At least three standard errors of the difference of two estimates, the worst entry taken."""


def play(game, episodes, pairings=PAIRINGS):
    """Per pairing and step: rewards, own and others' pick-ups, each ``(pairings, n_players)``, and the
    standard error of the rewards."""
    scripts = list(SCRIPTS.values())
    seats = jnp.array([[list(SCRIPTS).index(name) for name in pair.split()] for pair in pairings])

    def episode(key, kinds):
        def step(state, key):
            *keys, chance = jax.random.split(key, game.n_players + 1)
            actions = [
                jnp.stack([script(game, k, state, i) for script in scripts])[kinds[i]] for i, k in enumerate(keys)
            ]
            _, state, rewards, _, info = game.step(chance, state, jnp.stack(actions))
            return state, jnp.stack([rewards, info["own_coins"], info["other_coins"]])

        start, key = jax.random.split(key)
        _, counts = jax.lax.scan(step, game.reset(start)[1], jax.random.split(key, game.rules.horizon))
        return counts.sum(0) * (game.rules.episodes / game.num_moves)

    # Compilation is most of the time, so less of it.
    run = jax.jit(
        jax.vmap(jax.vmap(episode, (0, None)), (None, 0)), compiler_options={"xla_backend_optimization_level": 1}
    )
    rates = np.asarray(run(jax.random.split(KEY, episodes), seats), np.float64)
    return *np.moveaxis(rates.mean(1), 1, 0), rates[:, :, 0].std(1, ddof=1) / np.sqrt(episodes)


@pytest.mark.parametrize(("text", "expected"), CONSTANTS, ids=[text for text, _ in CONSTANTS])
def test_scripted_policies_earn_the_reference_constants(text, expected):
    game = make_game(text).value
    episodes = {16: 16384, 50: 6144, 150: 2048}[game.rules.horizon]
    rewards, own, other, standard_error = play(game, episodes)
    assert standard_error.max() < 0.0023
    np.testing.assert_allclose(rewards, expected, atol=TOLERANCE, err_msg=f"{text}: {PAIRINGS}")
    np.testing.assert_allclose(other[0], 0.0)  # cooperators never take the other's coin
    if game.rules.tie_rule == "both":
        known = RANDOM_PICK_UPS.get(game.preset, RANDOM_PICK_UPS["loqa"])[game.size - 3]
        np.testing.assert_allclose(np.stack([own[-1], other[-1]]), known, atol=0.003)
    if game.rules.boundary != "zero_last_reward":
        np.testing.assert_allclose(rewards, own + other - 2 * other[:, ::-1], atol=1e-4)


# --- rules --------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(MOVES))
@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_moves_wrap_around_the_torus(order, size):
    game = make("coin-game", moves=order, num_actions=5, size=size)
    for cell in range(size * size):
        for action, (down, right) in enumerate(MOVES[order]):
            row, column = divmod(cell, size)
            expected = ((row + down) % size) * size + (column + right) % size
            assert int(game._moved(jnp.int32(cell), jnp.int32(action))) == expected


def test_loqa_exchanges_the_directions_of_lola():
    assert [MOVES["lola"][k] for k in (1, 0, 3, 2)] == list(MOVES["loqa"][:4])


@pytest.mark.parametrize(
    ("tie_rule", "owner", "rewards", "own", "other"),
    [
        ("both", 0, (-1, 1), (1, 0), (0, 1)),
        ("both", 1, (1, -1), (0, 1), (1, 0)),
        ("red_first", 0, (1, 0), (1, 0), (0, 0)),
        ("red_first", 1, (1, -2), (0, 0), (1, 0)),
        ("split", 0, (-0.5, 0.5), (0.5, 0), (0, 0.5)),
        ("split", 1, (0.5, -0.5), (0, 0.5), (0.5, 0)),
    ],
)
def test_two_players_on_one_coin(tie_rule, owner, rewards, own, other):
    game = make("coin-game", preset="pola", tie_rule=tie_rule)
    state = board([(0, 0), (0, 2)], [(0, 1)], [owner])
    _, after, got, done, info = game.step(KEY, state, jnp.array([RIGHT, LEFT]))
    assert got.tolist() == list(rewards)
    assert [info["own_coins"].tolist(), info["other_coins"].tolist()] == [list(own), list(other)]
    assert int(after.owners[0]) == 1 - owner
    assert int(after.coins[0]) != int(after.players[0])
    assert not bool(done)


@pytest.mark.parametrize(
    ("owner", "actions", "rewards"),
    [(0, (RIGHT, UP), (1, 0)), (1, (RIGHT, UP), (1, -2)), (0, (UP, LEFT), (-2, 1)), (1, (UP, LEFT), (0, 1))],
)
def test_one_player_on_a_coin(owner, actions, rewards):
    game = make("coin-game", preset="lola")
    state = board([(0, 0), (0, 2)], [(0, 1)], [owner])
    _, _, got, _, _ = game.step(KEY, state, jnp.array(actions))
    assert got.tolist() == list(rewards)


def test_payoffs_are_parameters_that_can_be_swept():
    game = make("coin-game", preset="pola", reward_own=3.0, reward_other=0.5, penalty=-7.0)
    state = board([(0, 0), (0, 2)], [(0, 1)], [0])
    *_, rewards, _, _ = game.step(KEY, state, jnp.array([RIGHT, LEFT]))
    assert rewards.tolist() == [3.0 - 7.0, 0.5]
    leaves, tree = jax.tree.flatten(game)
    swept = jax.tree.unflatten(tree, [jnp.array([x, 2 * x]) for x in leaves])
    rewards = jax.vmap(lambda g: g.step(KEY, state, jnp.array([RIGHT, LEFT]))[2])(swept)
    assert rewards.tolist() == [[-4.0, 0.5], [-8.0, 1.0]]


def test_swapping_cells_takes_nothing():
    game = make("coin-game", preset="pola")
    state = board([(0, 0), (0, 1)], [(2, 2)], [0])
    _, after, rewards, _, _ = game.step(KEY, state, jnp.array([RIGHT, LEFT]))
    assert [int(x) for x in after.players] == [1, 0]
    assert rewards.tolist() == [0.0, 0.0]
    assert (int(after.coins[0]), int(after.owners[0])) == (8, 0)


def test_coins_that_coincide_pay_twice():
    game = make("coin-game", preset="mfos")
    state = board([(0, 0), (2, 2)], [(0, 1), (0, 1)], [0, 1])
    _, _, rewards, _, info = game.step(KEY, state, jnp.array([RIGHT, LEFT]))
    assert rewards.tolist() == [2.0, -2.0]
    assert (info["own_coins"].tolist(), info["other_coins"].tolist()) == ([1.0, 0.0], [1.0, 0.0])


def _frequencies(draws, outcomes):
    return np.bincount(np.asarray(draws).astype(int), minlength=outcomes) / len(draws)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_boards_start_as_the_preset_says(preset):
    game = make("coin-game", preset=preset)
    draws = 20000
    _, state = jax.vmap(game.reset)(jax.random.split(KEY, draws))
    red, blue, *_ = state.players
    close = 5 * np.sqrt((1 / 9) * (8 / 9) / draws)
    for cells in (*state.players, *state.coins):
        np.testing.assert_allclose(_frequencies(cells, 9), 1 / 9, atol=close)
    together = float(np.mean(red == blue))
    assert together == (0.0 if preset in ("lola", "lola_dice") else pytest.approx(1 / 9, abs=close))
    for coin in state.coins:
        under = float(np.mean(np.any([coin == player for player in state.players], axis=0)))
        any_cell = pytest.approx(1 - (8 / 9) ** game.n_players, abs=0.015)
        assert under == (0.0 if game.rules.initial_coins == "free" else any_cell)
    if game.rules.num_coins == 1:
        np.testing.assert_allclose(_frequencies(state.owners[0], game.n_players), 1 / game.n_players, atol=0.02)
    else:
        assert [set(np.asarray(x).tolist()) for x in state.owners] == [{k} for k in range(game.n_players)]
        assert float(np.mean(state.coins[0] == state.coins[1])) == pytest.approx(1 / 9, abs=close)


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("where", ["free", "any"])
def test_new_coins_fall_uniformly(where, apart):
    game = make("coin-game", preset="pola", respawn=where)
    state = board([(0, 0), (2, 1) if apart else (0, 2)], [(0, 1)], [0])
    actions = jnp.array([RIGHT, UP if apart else LEFT])
    draws = 20000
    _, after, *_ = jax.vmap(lambda k: game.step(k, state, actions))(jax.random.split(KEY, draws))
    players = {int(x[0]) for x in after.players}
    assert players == ({1, 4} if apart else {1})
    free = [cell for cell in range(9) if where == "any" or cell not in players]
    expected = np.where(np.isin(np.arange(9), free), 1 / len(free), 0)
    np.testing.assert_allclose(_frequencies(after.coins[0], 9), expected, atol=5 * np.sqrt(0.14 * 0.86 / draws))


def test_colours_may_be_random():
    game = make("coin-game", preset="pola", colours="random")
    state = board([(0, 0), (2, 2)], [(0, 1)], [0])
    _, after, *_ = jax.vmap(lambda k: game.step(k, state, jnp.array([RIGHT, UP])))(jax.random.split(KEY, 4000))
    assert float(np.mean(after.owners[0])) == pytest.approx(0.5, abs=0.04)
    cells = np.asarray(after.coins[0])[np.asarray(after.owners[0]) == 1]
    np.testing.assert_allclose(_frequencies(cells, 9)[[0, 2, 3, 4, 6, 7, 8]].sum(), 1 - _frequencies(cells, 9)[5])


# --- observations -------------------------------------------------------------------------


def marked(plane):
    return [tuple(x) for x in np.argwhere(np.asarray(plane))]


def test_observations_from_each_seat():
    state = board([(0, 0), (2, 1)], [(1, 2)], [1])
    shared = make("coin-game", preset="lola").observe(state)
    relative = make("coin-game").observe(state)
    centred = make("coin-game", observation="egocentric").observe(state)
    assert shared.shape == relative.shape == centred.shape == (2, 4, 3, 3)
    red, blue, coin = [(0, 0)], [(2, 1)], [(1, 2)]
    assert [[marked(p) for p in seat] for seat in shared] == [[red, blue, [], coin]] * 2
    assert [[marked(p) for p in seat] for seat in relative] == [[red, blue, [], coin], [blue, red, coin, []]]
    assert [[marked(p) for p in seat] for seat in centred] == [
        [[(1, 1)], [(0, 2)], [], [(2, 0)]],  # red moves by (+1, +1)
        [[(1, 1)], [(2, 0)], [(0, 2)], []],  # blue by (-1, 0)
    ]


@pytest.mark.parametrize("observation", ["relative", "egocentric"])
@pytest.mark.parametrize("preset", ["loqa", "mfos", "jaxmarl"])
def test_seats_see_alike_after_exchanging_colours(preset, observation):
    game = make("coin-game", preset=preset, observation=observation, size=4)
    assert game.symmetric
    _, state = game.reset(KEY)
    one = len(state.coins) == 1
    mirrored = state._replace(
        players=state.players[::-1],
        coins=state.coins if one else state.coins[::-1],
        owners=tuple(1 - x for x in state.owners) if one else state.owners,
    )
    np.testing.assert_array_equal(game.observe(state)[::-1], game.observe(mirrored))


def test_shared_observations_are_not_symmetric():
    assert not any(make("coin-game", preset=x).symmetric for x in ("lola", "lola_dice", "pola"))


def test_centred_observations_hide_where_on_the_torus_play_is():
    game = make("coin-game", observation="egocentric", size=5)
    cells = np.array([[1, 2], [4, 0], [3, 3]])

    def seen(shift):
        red, blue, coin = (jnp.int32(5 * ((r + shift[0]) % 5) + (c + shift[1]) % 5) for r, c in cells)
        return game.observe(State(jnp.int32(0), (red, blue), (coin,), (jnp.int32(0),), (jnp.zeros(()), jnp.zeros(()))))

    for shift in ((1, 0), (3, 4), (2, 2)):
        np.testing.assert_array_equal(seen(shift), seen((0, 0)))


def test_mfos_sees_rewards_and_the_end_of_an_episode():
    game = make("coin-game", preset="mfos")
    state = board([(0, 0), (2, 2)], [(1, 1), (0, 1)], [0, 1], time=14)
    seen, after, rewards, _, _ = game.step(KEY, state, jnp.array([RIGHT, RIGHT]))  # the 15th and last move
    assert rewards.tolist() == [1.0, -2.0]
    assert seen.shape == (2, *game.observation_shape) == (2, 7, 3, 3)
    for seat, constants in enumerate(((1.0, -2.0, 1.0), (-2.0, 1.0, 1.0))):
        for k, value in enumerate(constants):
            np.testing.assert_array_equal(seen[seat, 4 + k], value)
    seen, after, rewards, done, info = game.step(KEY, after, jnp.array([RIGHT, RIGHT]))
    assert rewards.tolist() == [0.0, 0.0]
    assert not np.any(np.concatenate([info["own_coins"], info["other_coins"], np.ravel(seen[:, 4:])]))
    assert int(after.time) == 16
    assert not bool(done)


# --- three players ------------------------------------------------------------------------

AWAY = (UP, UP, DOWN)
TOWARDS = (RIGHT, LEFT, UP)  # of red, blue and green beside the coin at (0, 1)


def owed(takers, owner, penalties, n=3):
    """Rewards for one coin as the two codes write them: LOQA's once for any, the Reciprocator's each -n / (n - 1)."""
    rewards = np.array(takers, float)
    foreign = sum(takers) - takers[owner]
    rewards[owner] += {"each": -2 * foreign, "once": -2 * (foreign > 0), "balanced": -n / (n - 1) * foreign}[penalties]
    return rewards


@pytest.mark.parametrize("penalties", ["each", "once", "balanced"])
def test_what_one_coin_pays_three_players(penalties):
    game = make("coin-game", preset="loqa_three", moves="lola", penalties=penalties)
    cases = list(itertools.product(itertools.product((0, 1), repeat=3), range(3)))
    actions = [[TOWARDS[i] if takes else AWAY[i] for i, takes in enumerate(takers)] for takers, _ in cases]
    start = board([(0, 0), (0, 2), (1, 1)], [(0, 1)], [0])

    def step(actions, owner, key):
        return game.step(key, start._replace(owners=(owner,)), actions)

    owners = jnp.array([owner for _, owner in cases])
    play = jax.jit(jax.vmap(step))
    _, after, rewards, _, info = play(jnp.array(actions), owners, jax.random.split(KEY, len(cases)))
    np.testing.assert_allclose(rewards, [owed(takers, owner, penalties) for takers, owner in cases])
    takers = np.array([takers for takers, _ in cases])
    mine = np.arange(3) == np.asarray(owners)[:, None]
    np.testing.assert_array_equal(info["own_coins"], takers & mine)
    np.testing.assert_array_equal(info["other_coins"], takers & ~mine)
    taken = takers.any(axis=1)
    np.testing.assert_array_equal(after.owners[0], np.where(taken, (owners + 1) % 3, owners))
    assert not np.any((np.stack(after.players, 1) == np.asarray(after.coins[0])[:, None])[taken])
    known = {"each": -4.0, "once": -2.0, "balanced": -3.0}[penalties]  # both others take red's
    assert rewards[cases.index(((0, 1, 1), 0))].tolist() == [known, 1.0, 1.0]


@pytest.mark.parametrize(
    ("tie_rule", "rewards"),
    [("red_first", (1, 0, -2)), ("split", (1 / 3, 1 / 3, 1 / 3 - 4 / 3)), ("both", (1, 1, 1 - 4))],
)
def test_three_players_on_one_coin_of_the_last(tie_rule, rewards):
    game = make("coin-game", preset="loqa_three", moves="lola", penalties="each", tie_rule=tie_rule)
    state = board([(0, 0), (0, 2), (1, 1)], [(0, 1)], [2])
    got = game.step(KEY, state, jnp.array(TOWARDS))[2]
    np.testing.assert_allclose(got, rewards, atol=1e-6)


@pytest.mark.parametrize("preset", ["loqa_three", "reciprocator"])
def test_three_players_step_by_step(preset):
    """A long random episode beside the rules written down again."""
    game = make("coin-game", preset=preset, horizon=1000)
    rules = game.rules

    def step(state, key):
        actions = jax.random.randint(key, (3,), 0, game.n_actions)
        seen = game.observe(state)
        _, after, rewards, _, info = game.step(key, state, actions)
        return after, (state, after, actions, rewards, info, seen, game.paid(seen[0], actions))

    episode = jax.lax.scan(step, game.reset(KEY)[1], jax.random.split(KEY, 1000))[1]
    before, after, actions, rewards, info, seen, paid = jax.tree.map(np.asarray, episode)
    np.testing.assert_allclose(paid, rewards)
    moves = np.array(MOVES[rules.moves])
    places = (np.stack(np.divmod(np.stack(before.players, 1), 3), -1) + moves[actions]) % 3
    cells = 3 * places[..., 0] + places[..., 1]
    np.testing.assert_array_equal(np.stack(after.players, 1), cells)
    coins, owners = np.stack(before.coins, 1), np.stack(before.owners, 1)
    new, colours = np.stack(after.coins, 1), np.stack(after.owners, 1)
    times = range(len(cells))
    takers = cells[:, None] == coins[:, :, None]
    expected = [sum(owed(x, k, rules.penalties) for x, k in zip(takers[t], owners[t], strict=True)) for t in times]
    np.testing.assert_allclose(rewards, expected)
    mine = owners[:, :, None] == np.arange(3)
    np.testing.assert_array_equal(info["own_coins"], (takers & mine).sum(1))
    np.testing.assert_array_equal(info["other_coins"], (takers & ~mine).sum(1))
    taken = takers.any(-1)
    assert 100 < taken.sum() < taken.size - 100
    np.testing.assert_array_equal(new[~taken], coins[~taken])
    if rules.num_coins == 1:
        np.testing.assert_array_equal(colours, (owners + taken) % 3)
        assert not (cells[:, None] == new[:, :, None])[taken].any()
    else:
        assert (owners == [0, 1, 2]).all()
        assert (colours == owners).all()
        assert (cells[:, None] == new[:, :, None])[taken].any()  # they may fall on players
        # A third of what is taken is one's own, the rest costs its owners half as much again: blind play is worth 0.
        np.testing.assert_allclose(rewards.sum(), (takers & mine).sum() - (takers & ~mine).sum() / 2)
        assert abs(rewards.mean()) < 0.05
    # Everybody sees its own planes first, then those of the seats that follow.
    plain = np.zeros((1000, 6, 9))
    for k in range(3):
        plain[times, k, before.players[k]] = 1
    for k in range(rules.num_coins):
        plain[times, 3 + owners[:, k], coins[:, k]] = 1
    for seat, order in enumerate(([0, 1, 2, 3, 4, 5], [1, 2, 0, 4, 5, 3], [2, 0, 1, 5, 3, 4])):
        np.testing.assert_array_equal(seen[:, seat].reshape(1000, 6, 9), plain[:, order])


def test_new_coins_avoid_three_players():
    game = make("coin-game", preset="loqa_three", num_actions=5)
    together = [(1, 4, 7), (1, 4, 1), (1, 1, 1)]
    draws, stay = 10000, jnp.full(3, 4)
    state = board([(0, 1)] * 3, [(0, 1)], [0])
    play = jax.jit(jax.vmap(lambda k, players: game.step(k, state._replace(players=tuple(players)), stay), (0, None)))
    for players in together:
        coins = play(jax.random.split(KEY, draws), jnp.array(players, jnp.int32))[1].coins
        free = ~np.isin(np.arange(9), players)
        np.testing.assert_allclose(_frequencies(coins[0], 9), free / free.sum(), atol=0.02)


def test_three_players_may_start_apart():
    game = make("coin-game", preset="loqa_three", initial_players="distinct")
    players = np.stack(jax.jit(jax.vmap(game.reset))(jax.random.split(KEY, 9 * 8 * 7 * 20))[1].players, 1)
    counts = np.unique(players, axis=0, return_counts=True)[1]
    assert len(counts) == 9 * 8 * 7
    assert (counts.min() > 3, counts.max() < 45) == (True, True)  # 20 each, by chance 4.5 more or less


def test_seats_of_three_are_alike_unless_the_colour_goes_around():
    assert make("coin-game", preset="reciprocator").symmetric
    assert make("coin-game", preset="loqa_three", colours="random").symmetric
    assert not make("coin-game", preset="loqa_three").symmetric


THREE = ("AC AC AC", "AD random random", "random random random", "AD AD AD")


def test_scripted_policies_of_three_earn_the_anchors():
    game = make("coin-game", preset="loqa_three")
    rewards, _, other, standard_error = play(game, 4096, THREE)
    assert standard_error.max() < 0.003
    anchors = game.anchors()
    np.testing.assert_allclose(rewards[0], anchors.social_optimum, atol=TOLERANCE)
    np.testing.assert_allclose(rewards[1, 0], anchors.best_response, atol=TOLERANCE)
    np.testing.assert_allclose(rewards[2], anchors.random, atol=TOLERANCE)
    np.testing.assert_allclose(
        rewards[3], 0.208, atol=TOLERANCE
    )  # greed of all: a coin that two take costs one penalty
    np.testing.assert_allclose(other[0], 0.0)


# --- episodes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "horizon", "episodes", "moves"),
    [
        ("loqa", 50, 1, 50),
        ("pola", 50, 1, 50),
        ("lola", 150, 1, 150),
        ("lola_dice", 150, 1, 150),
        ("mfos", 16, 16, 240),
        ("jaxmarl", 16, 10, 160),
    ],
)
def test_length_of_a_game(preset, horizon, episodes, moves):
    game = make("coin-game", preset=preset)
    assert (game.rules.horizon, game.rules.episodes, game.num_moves) == (horizon, episodes, moves)

    def step(state, key):
        _, state, rewards, done, _ = game.step(key, state, jax.random.randint(key, (2,), 0, game.n_actions))
        return state, (rewards, done, state.players)

    _, state = game.reset(KEY)
    _, (rewards, done, players) = jax.jit(lambda s: jax.lax.scan(step, s, jax.random.split(KEY, game.num_steps)))(state)
    assert np.flatnonzero(done).tolist() == [game.num_steps - 1]
    assert game.num_steps == horizon * episodes
    if episodes > 1:
        assert not np.any(rewards[horizon - 1 :: horizon])
        assert np.any(rewards)
        cells = np.stack(players, -1)
        steps = [tuple(abs(a - b)) for a, b in itertools.pairwise(cells)]
        jumps = {k + 1 for k, (r, b) in enumerate(steps) if {r, b} & {4, 5, 7, 8}}  # no move changes a cell by so much
        assert jumps <= set(range(horizon - 1, game.num_steps, horizon))
        assert jumps


def test_jaxmarl_does_not_pay_the_last_step_but_counts_it():
    game = make("coin-game", preset="jaxmarl")
    state = board([(0, 0), (2, 2)], [(0, 1), (1, 1)], [0, 1], time=15)
    _, after, rewards, _, info = game.step(KEY, state, jnp.array([RIGHT, RIGHT]))
    assert rewards.tolist() == [0.0, 0.0]
    assert info["own_coins"].tolist() == [1.0, 0.0]
    assert [float(x) for x in after.rewards] == [0.0, 0.0]


# --- the scripted policies ----------------------------------------------------------------


def test_scripted_policies_move_as_defined():
    game = make("coin-game", preset="pola")
    mine = board([(0, 0), (2, 2)], [(0, 1)], [0])
    theirs = board([(0, 0), (2, 2)], [(0, 1)], [1])
    keys = jax.random.split(KEY, 64)

    def moves(script, state, player=0, game=game):
        return set(np.asarray(jax.vmap(lambda k: script(game, k, state, player))(keys)).tolist())

    assert moves(always_defect, mine) == moves(always_defect, theirs) == {RIGHT}
    assert moves(always_cooperate, mine) == {RIGHT}
    assert moves(always_cooperate, theirs) == {DOWN, UP}  # LEFT, around the torus, ends next to it again
    assert moves(always_defect, mine, 1) == {LEFT, DOWN}  # (0, 1) is one column left and, wrapping, one row down
    assert moves(uniformly_random, mine) == {RIGHT, LEFT, DOWN, UP}
    assert moves(uniformly_random, mine, game=make("coin-game", num_actions=5)) == {0, 1, 2, 3, 4}
    two = make("coin-game", preset="mfos")
    state = board([(0, 0), (2, 2)], [(1, 1), (0, 1)], [0, 1])
    assert moves(always_defect, state, game=two) == {RIGHT}
    assert moves(always_cooperate, state, game=two) == {DOWN}  # RIGHT is as near, but on blue's coin


# --- in the benchmark ---------------------------------------------------------------------


# The others differ from these in data.
@pytest.mark.parametrize("preset", ["loqa", "lola", "mfos", "jaxmarl", "loqa_three", "reciprocator"])
def test_the_conformance_kit_passes(preset, float64):
    findings = check_game_instance(make("coin-game", preset=preset))
    assert [str(f) for f in findings if not f.passed] == []
    views = {view for view, colon, _ in (f.name.partition(":") for f in findings) if colon}
    assert views == {"sampled view"}


def test_exact_learners_refuse_it_in_one_line():
    with pytest.raises(BadInput, match=r"plays the views \['exact'\]; the game offers \['sampled'\]") as caught:
        check_encounter(make_game("coin-game"), [make_learner("lola")] * 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "coin-game(preset=pax)",
        "coin-game(size=1)",
        "coin-game(size=17)",
        "coin-game(horizon=0)",
        "coin-game(tie_rule=blue_first)",
        "coin-game(num_coins=3)",
        "coin-game(num_players=4)",
        "coin-game(penalties=twice)",
        "coin-game(preset=jaxmarl,num_players=3)",
        "coin-game(preset=reciprocator,num_players=2)",
        "coin-game(grid=3)",
    ],
)
def test_bad_rules_are_refused(text):
    with pytest.raises(BadInput, match="coin-game"):
        make_game(text)


def test_a_rule_of_the_preset_can_be_replaced():
    named = make_game("coin-game(preset=lola,tie_rule=both,horizon=20)")
    assert named.text == "coin-game(preset=lola,horizon=20,tie_rule=both)"
    assert named.value.rules == PRESETS["lola_dice"]._replace(horizon=20)


# --- pictures -----------------------------------------------------------------------------


def test_a_frame_shows_players_and_coins_in_their_cells():
    state = board([(0, 0), (2, 1)], [(1, 2)], [1])
    image = frame(make("coin-game"), state, cell_pixels=20)
    assert image.shape == (60, 60, 3)
    assert image.dtype == np.uint8
    for colour, places in zip(COLOURS[:2], ({(0, 0)}, {(2, 1), (1, 2)}), strict=True):
        rows, columns = np.nonzero((image == colour).all(-1))
        assert {(r // 20, c // 20) for r, c in zip(rows, columns, strict=True)} == places
    together = frame(make("coin-game"), board([(1, 1), (1, 1)], [(1, 1)], [0]), cell_pixels=20)
    for colour in COLOURS[:2]:
        assert (together == colour).all(-1).sum() > 40


def test_an_episode_becomes_files(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    game = make("coin-game", preset="jaxmarl")

    def step(state, key):
        return game.step(key, state, jax.random.randint(key, (2,), 0, 5))[1], state

    _, states = jax.lax.scan(step, game.reset(KEY)[1], jax.random.split(KEY, 12))
    images = frames(game, states, cell_pixels=16)
    assert images.shape == (12, 48, 48, 3)
    np.testing.assert_array_equal(images[3], frame(game, jax.tree.map(lambda x: x[3], states), 16))
    save_gif(tmp_path / "episode.gif", images)
    with Image.open(tmp_path / "episode.gif") as gif:
        assert gif.size == (48, 48)
        assert 1 < gif.n_frames <= 12  # equal frames in a row may be joined
        shown = np.asarray(gif.convert("RGB"), int)
    assert np.abs(shown - images[0]).max() < 40
    save_png(tmp_path / "one.png", images[0])
    save_png(tmp_path / "sheet.png", images, columns=5)
    with Image.open(tmp_path / "one.png") as png:
        np.testing.assert_array_equal(np.asarray(png), images[0])
    with Image.open(tmp_path / "sheet.png") as png:
        assert png.size == (5 * 48 + 4 * 4, 3 * 48 + 2 * 4)
