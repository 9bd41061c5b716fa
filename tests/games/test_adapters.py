"""Our games in JaxMARL's and gymnax's interface and theirs in ours, with the real packages."""

import functools
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.policy_gradient import NaivePG
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.games.adapters import (
    GymnaxGame,
    JaxMARLGame,
    SocialJaxGame,
    to_gymnax,
    to_jaxmarl,
    to_socialjax,
)
from shaping_bench.games.grids.coin import CoinGame, State, always_defect
from shaping_bench.run.encounter import run_encounter
from shaping_bench.spec.registry import make_game

WHY = "not installed: pip install --no-deps -r .ci/no-deps.txt"


@pytest.fixture(scope="module")
def jaxmarl():
    return pytest.importorskip("jaxmarl", reason=f"jaxmarl {WHY}")


@pytest.fixture(scope="module")
def gymnax():
    return pytest.importorskip("gymnax", reason=f"gymnax {WHY}")


# --- theirs as ours -----------------------------------------------------------------------

INNER, OUTER = 5, 3
COINS = {"environment": "coin_game", "horizon": INNER * OUTER}


def coins(**options):
    given = {"num_inner_steps": INNER, "num_outer_steps": OUTER, "cnn": True, **options}
    return JaxMARLGame(options=tuple(given.items()), **COINS)


def as_ours(inner):
    """JaxMARL's board as ours: cells count row by row."""

    def cell(position):
        return (3 * position[0] + position[1]).astype(jnp.int32)

    zero = jnp.zeros(())
    time = (INNER * inner.outer_t + inner.step).astype(jnp.int32)
    owners = (jnp.int32(0), jnp.int32(1))
    return State(
        time, (cell(inner.red_pos), cell(inner.blue_pos)),
        (cell(inner.red_coin_pos), cell(inner.blue_coin_pos)), owners, (zero, zero),
    )  # fmt: skip


def test_jaxmarls_coin_game_is_ours_step_by_step(jaxmarl):
    """Same board, same actions: same rewards, moves, coins left alone, and observations."""
    theirs = coins()
    ours = CoinGame(preset="jaxmarl", horizon=INNER, episodes=OUTER)
    centred = CoinGame(preset="jaxmarl", horizon=INNER, episodes=OUTER, observation="egocentric")
    planes = coins(egocentric=True).made.get_obs
    assert (theirs.n_players, theirs.n_actions, theirs.num_steps) == (ours.n_players, ours.n_actions, ours.num_steps)
    assert theirs.observation_shape == ours.observation_shape

    def step(state, now):
        key, actions = now
        board = as_ours(state.inner)
        seen, after, rewards, done, _ = theirs.step(key, state, actions)
        _, expected, paid, over, _ = ours.step(key, board, actions)
        new = as_ours(after.inner)
        taken = jnp.stack([(expected.players[0] == c) | (expected.players[1] == c) for c in board.coins])
        boundary = (board.time + 1) % INNER == 0
        kept = jnp.stack([jnp.array(b) == jnp.array(a) for b, a in zip(board.coins, new.coins, strict=True)])
        return after, {
            "rewards": (rewards, paid),
            "done": (done, over),
            "observations": (seen, ours.observe(new)),
            "egocentric": (
                jnp.stack([jnp.moveaxis(x, -1, 0) for x in planes(after.inner).values()]),
                centred.observe(new),
            ),
            "moves": (
                jnp.where(boundary, 0, jnp.stack(new.players)),
                jnp.where(boundary, 0, jnp.stack(expected.players)),
            ),
            "coins": (kept | taken | boundary, jnp.ones(2, bool)),
            "paid": (jnp.abs(paid).sum() > 0, None),
        }

    def play(key):
        reset_key, action_key, step_key = jax.random.split(key, 3)
        seen, state = theirs.reset(reset_key)
        keys = jax.random.split(step_key, INNER * OUTER)
        actions = jax.random.randint(action_key, (INNER * OUTER, 2), 0, 5)
        return jax.lax.scan(step, state, (keys, actions))[1], (seen, ours.observe(as_ours(state.inner)))

    compared, first = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), 64))
    np.testing.assert_array_equal(*first)
    assert np.asarray(compared.pop("paid")[0]).sum() > 100
    for name, (got, expected) in compared.items():
        np.testing.assert_array_equal(got, expected, err_msg=name)
    done = np.asarray(compared["done"][0])
    assert done[:, -1].all()
    assert not done[:, :-1].any()


def test_sampled_learners_meet_in_jaxmarls_coin_game(jaxmarl):
    """Vectors enter networks as planes of one cell; values are those of play."""
    game = coins(cnn=False)
    assert game.observation_shape == (36, 1, 1)
    rule = NaivePG(batch_size=4, network="mlp", hidden=4, lr=0.1)
    outcome = run_encounter(game, [rule, rule], num_seeds=2, num_updates=1, episodes=16)
    assert not outcome.diverged.any()
    returns = outcome.played["return"]
    assert returns.shape == (2, 2, 2)
    assert 0 < np.abs(returns).max() <= 2


class Clock:
    """A gymnax environment that pays 1 per step and ends after three; its step returns six values."""

    default_params = None

    def action_space(self, params):
        from gymnax.environments import spaces

        return spaces.Discrete(2)

    def observation_space(self, params):
        from gymnax.environments import spaces

        return spaces.Discrete(5)

    def reset(self, key, params):
        return jnp.int32(0), jnp.int32(0)

    def step(self, key, state, action, params):
        done = state >= 2
        return state + 1, state + 1, jnp.float32(1), jnp.asarray(False), done, {}


class OldClock(Clock):
    """The same in gymnax before 1.0: five values."""

    def step(self, key, state, action, params):
        observation, state, reward, terminated, truncated, info = super().step(key, state, action, params)
        return observation, state, reward, terminated | truncated, info


@pytest.mark.parametrize("environment", [Clock(), OldClock()])
def test_a_step_of_five_or_six_values(gymnax, environment):
    game = GymnaxGame(environment=environment, horizon=5)
    assert (game.n_players, game.observation_shape) == (1, (5, 1, 1))
    state, rewards, seen = game.reset(jax.random.key(0))[1], [], []
    for _ in range(5):
        observation, state, reward, _, _ = game.step(jax.random.key(0), state, jnp.zeros(1, jnp.int32))
        rewards.append(float(reward[0]))
        seen.append(int(observation[0].argmax()))
    assert rewards == [1, 1, 1, 0, 0]
    assert seen == [1, 2, 3, 3, 3]  # one-hot indices, the last one kept


def test_gymnaxs_cart_pole_is_a_game_of_one_player(gymnax):
    """By the same keys and actions, what gymnax itself plays."""
    game = GymnaxGame(environment="CartPole-v1", horizon=30)
    env, params = gymnax.make("CartPole-v1")

    def both(loop, key):
        state, (theirs, over) = loop
        action = jax.random.randint(key, (1,), 0, 2)
        seen, state, reward, done, _ = game.step(key, state, action)
        observation, theirs, pay, *ends, _ = env.step(key, theirs, action[0], params)
        now = functools.reduce(jnp.logical_or, ends)
        unequal = jnp.abs(seen[0, :, 0, 0] - observation).max() * (1 - (over | now))
        return (state, (theirs, over | now)), (unequal, reward[0] - jnp.where(over, 0.0, pay), done == (over | now))

    def play(key):
        start = game.reset(key)[1], (env.reset(key, params)[1], jnp.asarray(False))
        return jax.lax.scan(both, start, jax.random.split(key, 30))[1]

    unequal, difference, same = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), 8))
    assert np.abs(unequal).max() == 0
    assert np.abs(difference).max() == 0
    assert np.asarray(same).all()


# --- ours as theirs -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ipd", "coin-game"])
def test_our_games_keep_jaxmarls_contract(jaxmarl, name):
    """JaxMARL's own wrapper logs returns and lengths of episodes that follow one another."""
    from jaxmarl.wrappers.baselines import LogWrapper

    game = make(name, horizon=4)
    env = LogWrapper(to_jaxmarl(game))
    assert env.agents == [f"agent_{i}" for i in range(game.n_players)]

    def step(state, key):
        keys = jax.random.split(key, game.n_players + 1)
        actions = {a: env.action_space(a).sample(k) for a, k in zip(env.agents, keys[1:], strict=True)}
        seen, state, rewards, dones, info = env.step(keys[0], state, actions)
        return state, (seen, rewards, dones, info)

    @jax.jit
    def play(key):
        seen, state = env.reset(key)
        return seen, jax.lax.scan(step, state, jax.random.split(key, 10))[1]

    first, (seen, rewards, dones, info) = play(jax.random.key(0))
    assert set(dones) == {*env.agents, "__all__"}
    ends = np.arange(1, 11) % 4 == 0
    np.testing.assert_array_equal(dones["__all__"], ends)
    space = env.observation_space(env.agents[0])
    for agent in env.agents:
        assert first[agent].shape == space.shape
        assert seen[agent].shape == (10, *space.shape)
        assert seen[agent].dtype == space.dtype
    if name == "ipd":  # an episode's first observation is the start state, one-hot
        np.testing.assert_array_equal(seen["agent_0"][ends], np.eye(5)[[0, 0]])
        assert (np.asarray(seen["agent_0"])[~ends, 0] == 0).all()
    per_episode = np.stack([np.asarray(rewards[a])[:8].reshape(2, 4).sum(axis=1) for a in env.agents], axis=1)
    np.testing.assert_allclose(np.asarray(info["returned_episode_returns"])[[3, 7]], per_episode, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(info["returned_episode_lengths"])[[3, 7]], 4.0)
    counted = "own_coins" if name == "coin-game" else "cooperation"
    assert np.shape(info[counted]) == (10, game.n_players)


def test_our_steps_are_those_of_the_wrapped_game(jaxmarl):
    game = CoinGame(preset="mfos")
    env = to_jaxmarl(game)
    key = jax.random.key(3)
    _, state = env.reset(key)
    seen, after, rewards, dones, info = env.step_env(key, state, {"agent_0": 1, "agent_1": 2})
    expected, board, paid, done, counts = game.step(key, game.reset(key)[1], jnp.array([1, 2]))
    np.testing.assert_array_equal(seen["agent_1"], np.moveaxis(np.asarray(expected[1]), 0, -1))
    jax.tree.map(np.testing.assert_array_equal, after.game, board)
    np.testing.assert_array_equal([rewards["agent_0"], rewards["agent_1"]], paid)
    np.testing.assert_array_equal(info["own_coins"], counts["own_coins"])
    assert bool(dones["__all__"]) == bool(done)


def tit_for_tat(key, observation, state):
    """Own-frame states [start, CC, CD, DC, DD]: defects after the other's D."""
    return ((observation == 2) | (observation == 4)).astype(jnp.int32)


@pytest.mark.parametrize("player", [0, 1])
def test_a_seat_against_tit_for_tat_is_a_gymnax_environment(gymnax, player):
    game = make("ipd", horizon=6)
    env = to_gymnax(game, [tit_for_tat], player)
    params = env.default_params
    assert (env.num_actions, params.max_steps_in_episode) == (2, 6)
    key = jax.random.key(0)
    seen, state = env.reset(key, params)
    np.testing.assert_array_equal(seen, np.eye(5)[0])
    got, ends = [], []
    for action in (1, 1, 0, 0, 0, 1, 1):  # D D C C C D and the next episode's D
        seen, state, reward, *end, info = env.step(key, state, action, params)
        got.append(float(reward))
        ends.append(bool(functools.reduce(jnp.logical_or, end)))
    assert got == [0, -2, -3, -1, -1, 0, 0]
    assert ends == [False] * 5 + [True, False]
    np.testing.assert_array_equal(seen, np.eye(5)[3])  # D against C
    assert float(info["cooperation"]) == 0.0


def test_a_seat_of_the_coin_game_against_a_script(gymnax):
    from gymnax.wrappers.purerl import FlattenObservationWrapper, LogWrapper

    game = CoinGame(preset="loqa", horizon=8)
    opponent = lambda key, observation, state: always_defect(game, key, state, 1)  # noqa: E731
    env = LogWrapper(FlattenObservationWrapper(to_gymnax(game, [opponent])))
    params = env.default_params

    def step(state, key):
        seen, state, reward, *_, info = env.step(key, state, jax.random.randint(key, (), 0, 4), params)
        return state, (seen, reward, info["returned_episode"], info["returned_episode_returns"])

    def play(key):
        return jax.lax.scan(step, env.reset(key, params)[1], jax.random.split(key, 8))[1]

    seen, reward, ended, returned = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), 32))
    assert seen.shape == (32, 8, 36)
    np.testing.assert_array_equal(ended, np.broadcast_to(np.arange(8) == 7, (32, 8)))
    np.testing.assert_allclose(returned[:, -1], np.asarray(reward).sum(axis=1), rtol=1e-6)
    assert np.asarray(reward).mean() < 0  # a random player loses coins to a greedy one


# --- bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("jaxmarl(environment=coin_gam)", "environment is 'coin_gam'; allowed: module:Class, or one of .*coin_game"),
        ("jaxmarl", "needs the hyperparameter 'environment'"),
        ("jaxmarl(environment=coin_game,options=(('x',1),))", r"options \(\('x', 1\),\): .*'x'"),
        (
            "jaxmarl(environment='shaping_bench.games.grids.coin:CoinGam')",
            "environment is 'shaping_bench.games.grids.coin:CoinGam'",
        ),
        (
            "jaxmarl(environment=storm)",
            "environment is 'storm', whose rewards are wrong: .*; allowed: others, and the game",
        ),
        ("jaxmarl(environment=storm_np)", "environment is 'storm_np', whose rewards are wrong: "),
        # One of every reason for which parts of its registry are refused, that imports without further packages.
        ("jaxmarl(environment=storm_2p)", "environment 'storm_2p' has observations in dict; allowed: arrays"),
        ("jaxmarl(environment=jaxnav)", r"'jaxnav' has the action spaces \['Box', 'Box'\] with"),
        ("jaxmarl(environment=MPE_simple_speaker_listener_v4)", r"with \['3', '5'\] actions; allowed: equally many"),
        (
            "jaxmarl(environment=MPE_simple_tag_v3)",
            r"observations of the shapes \[\(14, 1, 1\), \(16, 1, 1\)\]; allowed: one",
        ),
        ("jaxmarl(environment=ant_4x2)", "ant_4x2 requires brax"),
    ],
)
def test_bad_environments_are_bad_input(jaxmarl, text, complaint):
    with pytest.raises(BadInput, match=complaint):
        make_game(text)


def test_continuous_actions_are_bad_input(gymnax):
    with pytest.raises(BadInput, match=r"Pendulum-v1.*allowed: equally many discrete actions"):
        make_game("gymnax(environment='Pendulum-v1')")


def test_games_that_cannot_be_sampled_are_bad_input(jaxmarl, gymnax):
    with pytest.raises(ValueError, match=r"views \['exact'\]; allowed: games that are sampled"):
        to_jaxmarl(make("tandem"))
    with pytest.raises(ValueError, match="others are 2; allowed: 1"):
        to_gymnax(make("ipd"), [tit_for_tat] * 2)
    with pytest.raises(ValueError, match="player is 2; allowed: a seat from 0 to 1"):
        to_gymnax(make("ipd"), [tit_for_tat], 2)


def test_importing_them_writes_nothing_to_stdout(jaxmarl):
    code = "from shaping_bench.games.adapters import JaxMARLGame\nprint(JaxMARLGame(environment='coin_game').n_actions)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "5\n"


def test_without_their_packages_all_else_works():
    code = (
        "import sys; sys.modules['jaxmarl'] = sys.modules['gymnax'] = sys.modules['socialjax'] = None\n"
        "from shaping_bench.spec.registry import make_game\n"
        "from shaping_bench.errors import BadInput\n"
        "make_game('ipd')\n"
        "games = 'jaxmarl(environment=x)', 'socialjax(environment=x)', \"gymnax(environment='CartPole-v1')\"\n"
        "for text in games:\n"
        "    try:\n        make_game(text)\n    except BadInput as error:\n        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line, package, install in zip(
        lines, ("jaxmarl", "socialjax", "gymnax"), ("jaxmarl", "chex, clone", "gymnax"), strict=True
    ):
        assert f"needs the package {package}" in line
        assert f"pip install --no-deps {install}" in line


# --- SocialJax, which is no package that can be installed: its interface in small -----------------


class _Space:
    def __init__(self, *bounds, shape=None, n=None):
        self.bounds = bounds
        if shape is not None:
            self.shape = shape
        if n is not None:
            self.n = n


class Wages:
    """An environment as SocialJax's are: agents are numbers, rewards and observations arrays, times N or common; it
    resets by itself in the step that ends an episode, and pays nothing there."""

    def __init__(self, num_agents=3, num_inner_steps=1000, shared_rewards=True):
        self.num_agents, self.num_inner_steps, self.shared_rewards = num_agents, num_inner_steps, shared_rewards
        self.agents = list(range(num_agents))

    def observation_space(self):
        return _Space(0, 1e9, shape=(2, 1, 1)), (2, 1, 1)

    def action_space(self, agent_id=None):
        return _Space(n=4)

    def _seen(self, time):
        own = jnp.arange(self.num_agents, dtype=jnp.float32)
        return jnp.stack([own, jnp.broadcast_to(time, own.shape)], axis=1).reshape(-1, 2, 1, 1)

    def reset(self, key):
        return self._seen(0), {"time": 0}

    def step_env(self, key, state, actions, timestep=0):
        time = state["time"] + 1
        pay = jnp.array(actions) * self.num_agents
        rewards = jnp.full_like(pay, pay.sum() // self.num_agents) if self.shared_rewards else pay
        over = time == self.num_inner_steps
        time = jnp.where(over, 0, time)
        dones = {str(a): over for a in (*self.agents, "__all__")}
        return self._seen(time), {"time": time}, jnp.where(over, 0, rewards), dones, {}


@pytest.fixture
def socialjax(monkeypatch):
    from shaping_bench.games.adapters import socialjax as adapter

    class MultiAgentEnv:
        def __init__(self, num_agents):
            self.num_agents = num_agents

    def make_named(name, **options):
        return {"wages": Wages}[name](**options)

    spaces = types.SimpleNamespace(
        Box=lambda low, high, shape, dtype: _Space(low, high, shape=shape), Discrete=lambda n: _Space(n=n)
    )
    parts = {
        "socialjax": {"make": make_named, "registered_envs": ["wages"]},
        "socialjax.environments": {"spaces": spaces},
        "socialjax.environments.multi_agent_env": {"MultiAgentEnv": MultiAgentEnv},
    }
    for name, content in parts.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    caches = adapter._socialjax, adapter._socialjax_class
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def test_an_environment_of_socialjax_is_a_game(socialjax):
    """All of an episode's steps are paid, to each its own wage, and the last observation is the episode's own."""
    game = SocialJaxGame(environment="wages", horizon=3, reward_scale=1 / 3)
    assert (game.n_players, game.n_actions, game.num_steps, game.observation_shape) == (3, 4, 3, (1, 2, 1))
    actions = np.array([(0, 1, 2), (3, 0, 0), (1, 1, 1)])
    state, paid = game.reset(jax.random.key(0))[1], []
    for joint in actions:
        seen, state, rewards, done, _ = game.step(jax.random.key(0), state, jnp.asarray(joint))
        paid.append(rewards)
    np.testing.assert_allclose(paid, actions, rtol=1e-6)
    np.testing.assert_array_equal(seen[:, 0, :, 0], [[0, 3], [1, 3], [2, 3]])
    assert not bool(done)
    # Their own habits, where options ask for them: the common reward, and an end that is not paid.
    common = SocialJaxGame(
        environment="wages", horizon=2, options=(("shared_rewards", True), ("num_inner_steps", 2), ("num_agents", 2))
    )
    state, paid = common.reset(jax.random.key(0))[1], []
    for _ in range(2):
        _, state, rewards, done, _ = common.step(jax.random.key(0), state, jnp.array([1, 2]))
        paid.append(rewards.tolist())
    assert (paid, bool(done)) == ([[3, 3], [0, 0]], True)
    with pytest.raises(BadInput, match="environment is 'wage'; allowed: module:Class, or one of wages"):
        make_game("socialjax(environment=wage)")


def test_our_games_keep_socialjaxs_contract(socialjax):
    """Rewards and observations are arrays, ends are by the numbers of agents as words, and the next episode begins
    in the step that ends one; and back again a game is what it was."""
    ours = make("ipd", horizon=2)
    env = to_socialjax(ours)
    box, shape = env.observation_space()
    assert (env.agents, env.num_agents, env.action_space().n, shape, box.shape) == ([0, 1], 2, 2, (5,), (5,))
    seen, state = env.reset(jax.random.key(0))
    np.testing.assert_array_equal(seen, np.eye(5)[[0, 0]])
    got = []
    for joint in ([0, 1], [1, 1], [0, 0]):
        seen, state, rewards, dones, info = env.step_env(jax.random.key(0), state, joint)
        assert list(dones) == ["0", "1", "__all__"]
        got.append((seen.argmax(axis=1).tolist(), rewards.tolist(), bool(dones["__all__"])))
    assert got == [([2, 3], [-3, 0], False), ([0, 0], [-2, -2], True), ([1, 1], [-1, -1], False)]
    assert info["cooperation"].tolist() == [1, 1]
    back = SocialJaxGame(environment=env, horizon=2)
    assert (back.n_players, back.n_actions, back.observation_shape) == (2, 2, (5, 1, 1))
    _, _, rewards, *_ = back.step(jax.random.key(0), back.reset(jax.random.key(0))[1], jnp.array([0, 1]))
    assert rewards.tolist() == [-3, 0]
    with pytest.raises(ValueError, match=r"views \['exact'\]; allowed: games that are sampled"):
        to_socialjax(make("tandem"))
