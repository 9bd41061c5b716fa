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
    cell = [jnp.int32(3 * row + column) for row, column in (*players, *coins)]
    nothing = jnp.zeros(())
    return State(
        jnp.int32(time), (cell[0], cell[1]), tuple(cell[2:]), tuple(map(jnp.int32, owners)), (nothing, nothing)
    )


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


def play(game, episodes):
    """Per pairing and step: rewards, own and other's pick-ups, each ``(pairings, 2)``, and the
    standard error of the rewards."""
    scripts = list(SCRIPTS.values())
    seats = jnp.array([[list(SCRIPTS).index(name) for name in pair.split()] for pair in PAIRINGS])

    def episode(key, kinds):
        def step(state, key):
            *keys, chance = jax.random.split(key, 3)
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
    red, blue = state.players
    close = 5 * np.sqrt((1 / 9) * (8 / 9) / draws)
    for cells in (red, blue, *state.coins):
        np.testing.assert_allclose(_frequencies(cells, 9), 1 / 9, atol=close)
    together = float(np.mean(red == blue))
    assert together == (0.0 if preset in ("lola", "lola_dice") else pytest.approx(1 / 9, abs=close))
    for coin in state.coins:
        under = float(np.mean((coin == red) | (coin == blue)))
        assert under == (0.0 if game.rules.initial_coins == "free" else pytest.approx(17 / 81, abs=0.015))
    if game.rules.num_coins == 1:
        assert float(np.mean(state.owners[0])) == pytest.approx(0.5, abs=0.02)
    else:
        assert [set(np.asarray(x).tolist()) for x in state.owners] == [{0}, {1}]
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


@pytest.mark.parametrize("preset", ["loqa", "lola", "mfos", "jaxmarl"])  # the others differ from these in data
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
