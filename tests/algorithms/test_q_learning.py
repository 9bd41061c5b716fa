"""Q-learners and hill climbers: their updates by hand and replayed, what they play and show."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import Learner, pytree_dataclass, rollouts
from shaping_bench.algorithms.q_learning import (
    PHC,
    JointActionQ,
    JointState,
    NaiveQ,
    PHCState,
    QState,
    WoLFPHC,
    WoLFState,
    constant_table,
    expected,
    others_actions,
    own_action,
    read,
    write,
)
from shaping_bench.games import make
from shaping_bench.run.encounter import run_encounter
from shaping_bench.spec.registry import make_game, make_learner

NAMES = ("naive-q", "jal-q", "phc", "wolf-phc")
START, CC, CD, DC, DD = range(5)


def tabled(array):
    """Nested tuples of scalars."""
    array = np.asarray(array)
    return tuple(tabled(x) for x in array) if array.ndim else jnp.float32(array)


def numbers(table):
    return np.array(jax.tree.map(float, table))


def near(x):
    return pytest.approx(x, abs=1e-6)


# --- one step by hand -----------------------------------------------------------------------


def test_tables_are_read_and_written_at_one_index():
    table = tabled(np.arange(10).reshape(5, 2))
    assert numbers(read(table, jnp.int32(3))).tolist() == [6, 7]
    written = numbers(write(table, jnp.int32(3), tabled([-1, -2])))
    assert written.tolist() == [[0, 1], [2, 3], [4, 5], [-1, -2], [8, 9]]


def test_naive_q_step():
    game = make("ipd", gamma=0.9)
    table = np.zeros((5, 2))
    table[CD], table[DC] = [1.0, 2.0], [-4.0, -6.0]
    rule = NaiveQ(lr=0.25, lr_decay=1.0)
    # The own defection against cooperation: from CD to DC, paid 0. The rate is 1 / (4 + 1).
    state = QState(tabled(table), jnp.int32(0))
    after = rule.react(game, state, jnp.int32(CD), jnp.float32(0.0), jnp.int32(DC))
    table[CD, 1] = 0.8 * 2.0 + 0.2 * (0.0 + 0.9 * -4.0)
    assert numbers(after.table) == near(table)
    assert int(after.time) == 1
    # At the second step it is 1 / (4 + 2).
    after = rule.react(game, after, jnp.int32(DC), jnp.float32(-3.0), jnp.int32(CD))
    table[DC, 0] = 5 / 6 * -4.0 + 1 / 6 * (-3.0 + 0.9 * 1.0)
    assert numbers(after.table) == near(table)


def test_jal_step_values_the_next_state_before_it_counts():
    game = make("ipd", gamma=0.5)
    table = np.zeros((5, 2, 2))
    table[DD] = [[1.0, 3.0], [5.0, 7.0]]
    counts = np.zeros((5, 2))
    counts[DD] = [1.0, 3.0]
    rule = JointActionQ(lr=0.5, lr_decay=0.0)
    state = JointState(tabled(table), tabled(counts), jnp.int32(7))
    after = rule.react(game, state, jnp.int32(DD), jnp.float32(-2.0), jnp.int32(DD))
    # Q'(DD, .) = ((1 + 9) / 4, (5 + 21) / 4).
    table[DD, 1, 1] = 0.5 * 7.0 + 0.5 * (-2.0 + 0.5 * 6.5)
    counts[DD, 1] = 4.0
    assert numbers(after.table) == near(table)
    assert numbers(after.counts) == near(counts)
    assert int(after.time) == 8


def test_jal_expects_nothing_of_a_state_it_never_saw():
    row = tabled([[-3.0, 2.0], [4.0, 5.0]])
    assert numbers(expected(row, tabled([0.0, 0.0]))).tolist() == [0.0, 0.0]
    assert numbers(expected(row, tabled([3.0, 1.0]))) == near([-1.75, 4.25])


@pytest.mark.parametrize(
    ("before", "then", "after"),
    [
        (0.5, CC, 0.6),  # cooperated, which is greedy: gains a step
        (0.5, DC, 0.6),  # defected, which is not: loses a step
        (0.95, CC, 1.0),  # no more than the other action has
        (0.95, DC, 1.0),
    ],
)
def test_phc_moves_towards_the_greedy_action(before, then, after):
    game = make("ipd", gamma=0.9)
    table, policy = np.zeros((5, 2)), np.full((5, 2), 0.5)
    table[CD], policy[CD] = [9.0, -9.0], [before, 1 - before]
    rule = PHC(lr=0.01, policy_lr=1 / 9, policy_lr_decay=1.0)  # 1 / (9 + 1) at the first step
    state = PHCState(tabled(table), tabled(policy), jnp.int32(0))
    moved = numbers(rule.react(game, state, jnp.int32(CD), jnp.float32(0.0), jnp.int32(then)).policy)
    policy[CD] = [after, 1 - after]
    assert moved == near(policy)
    assert moved.min() >= 0.99e-8  # an action never dies out
    # Logits stay finite.
    assert np.isfinite(rule.played(PHCState(tabled(table), tabled(moved), jnp.int32(1)))).all()


@pytest.mark.parametrize(("policy", "step"), [(0.7, 0.1), (0.3, 0.2)])
def test_wolf_learns_fast_while_losing(policy, step):
    game = make("ipd", gamma=0.9)
    table, policies = np.zeros((5, 2)), np.full((5, 2), 0.5)
    table[DD] = [1.0, 0.0]  # cooperation is worth more: 0.7 of it wins over the average, 0.3 loses
    policies[DD] = [policy, 1 - policy]
    rule = WoLFPHC(lr=1e-6, lr_decay=0.0, policy_lr=0.1, policy_lr_decay=0.0)
    average, visits = tabled(np.full((5, 2), 0.5)), tabled([0, 0, 0, 0, 3])
    state = WoLFState(tabled(table), tabled(policies), average, visits, jnp.int32(0))
    after = rule.react(game, state, jnp.int32(DD), jnp.float32(0.0), jnp.int32(CC))
    mean = 0.5 + (policy - 0.5) / 4
    assert numbers(after.average)[DD] == near([mean, 1 - mean])
    assert numbers(after.visits).tolist() == [0, 0, 0, 0, 4]
    assert numbers(after.policy)[DD] == near([policy + step, 1 - policy - step])


def test_a_tie_counts_as_losing():
    rule = WoLFPHC(policy_lr=0.1, policy_lr_decay=0.0, losing=4.0)
    half = tabled([0.5, 0.5])
    assert float(rule.step(tabled([1.0, 0.0]), half, half, jnp.int32(1))) == near(0.4)


# --- acting -----------------------------------------------------------------------------------


WORDS = jnp.arange(2**16, dtype=jnp.uint32) << 16
"""Evenly spread over all 32-bit words."""


def test_epsilon_is_the_share_of_the_other_action():
    rule = NaiveQ(epsilon=0.2)
    state = QState(tabled([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0], [0.0, 0.0], [0.0, 0.0]]), jnp.int32(0))
    acts = jax.vmap(rule.act, in_axes=(0, None, None))
    shares = [float(jnp.mean(acts(WORDS, state, jnp.int32(s)))) for s in range(5)]
    # Share of action 1; of equal values the first is greedy.
    assert shares == pytest.approx([0.2, 0.8, 0.2, 0.2, 0.2], abs=2e-5)
    assert 1.0 - jax.nn.sigmoid(rule.played(state)) == pytest.approx(np.array(shares), abs=2e-5)


@pytest.mark.parametrize("rule", [PHC(), WoLFPHC()])
def test_hill_climbers_play_their_policy(rule):
    policy = np.array([[0.5, 0.5], [0.9, 0.1], [0.25, 0.75], [1.0, 1e-8], [1e-8, 1.0]])
    state = rule.start(jax.random.key(0), make("ipd"), 0)._replace(policy=tabled(policy))
    acts = jax.vmap(rule.act, in_axes=(0, None, None))
    shares = [float(jnp.mean(acts(WORDS, state, jnp.int32(s)) == 0)) for s in range(5)]
    assert shares == pytest.approx(policy[:, 0].tolist(), abs=2e-5)
    assert jax.nn.sigmoid(rule.played(state)) == pytest.approx(policy[:, 0], abs=1e-6)


# --- replayed: the rules of the method sheet in plain loops, on the steps that were taken --------


def replayed(name, rule, state, steps, gamma):
    """Final state of one seat after ``steps``, each (state, own action, other's, reward, next)."""
    state = {key: numbers(x) for key, x in state._asdict().items()}
    table = state["table"]
    for n, (s, a, b, r, then) in enumerate(steps, start=1):
        lr = 1 / (1 / rule.lr + n * rule.lr_decay)
        if name == "jal-q":
            worth = (table[then] * state["counts"][then]).sum(-1) / (state["counts"][then].sum() + 1e-8)
            table[s, a, b] = (1 - lr) * table[s, a, b] + lr * (r + gamma * worth.max())
            state["counts"][s, b] += 1
            continue
        table[s, a] = (1 - lr) * table[s, a] + lr * (r + gamma * table[then].max())
        if name == "naive-q":
            continue
        step = 1 / (1 / rule.policy_lr + n * rule.policy_lr_decay)
        policy = state["policy"]
        if name == "wolf-phc":
            state["visits"][s] += 1
            state["average"][s] += (policy[s] - state["average"][s]) / state["visits"][s]
            if not (policy[s] * table[s]).sum() > (state["average"][s] * table[s]).sum():
                step *= rule.losing
        move = min(policy[s, 1 - a], step) if a == table[s].argmax() else -min(policy[s, a], step)
        policy[s, a] += move
        policy[s, 1 - a] -= move
        policy[s] = policy[s].clip(1e-8, 1 - 1e-8)
    state["time"] += len(steps)
    return state


def two_episodes(game, rules, mirrored=False):
    """Two consecutive episodes from a seat-independent start: starts, ends, and per episode and
    seat the steps. ``mirrored`` gives each seat the other's random words."""
    original = jax.random.bits

    def bits(*arguments):
        words = original(*arguments)
        return words[:, ::-1] if mirrored else words

    starts = tuple(rule.start(jax.random.key(len(repr(rule))), game, 0) for rule in rules)

    def both(states):
        plays = []
        for key in jax.random.split(jax.random.key(5)):
            params = [rule.played(state) for rule, state in zip(rules, states, strict=True)]
            play, states = rollouts.live(key, game, rules, params, states)
            plays.append((play, [rollouts.observations(game, play, i)[:, 0] for i in range(2)]))
        return plays, states

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "bits", bits)
        plays, ends = jax.device_get(jax.jit(both)(starts))

    def of_seat(play, seen, i):
        own, other, paid = play.actions[:, 0, i], play.actions[:, 0, 1 - i], play.rewards[:, 0, i]
        return list(zip(seen[i][:-1], own, other, paid, seen[i][1:], strict=True))

    steps = [[of_seat(play, seen, i) for i in range(2)] for play, seen in plays]
    return starts, ends, steps


FAST = {
    "naive-q": NaiveQ(lr=0.3, lr_decay=0.01, epsilon=0.3),
    "jal-q": JointActionQ(lr=0.3, lr_decay=0.01, epsilon=0.3),
    "phc": PHC(lr=0.3, lr_decay=0.01, policy_lr=0.1, policy_lr_decay=0.1),
    "wolf-phc": WoLFPHC(lr=0.3, lr_decay=0.01, policy_lr=0.05, policy_lr_decay=0.1),
}
PAIRS = [("naive-q", "jal-q"), ("phc", "wolf-phc")]


@pytest.mark.parametrize("names", PAIRS)
def test_states_are_those_of_the_rules_replayed(names):
    game = make_game("bos(horizon=80,gamma=0.9)").value  # what the seats are paid tells them apart
    starts, ends, steps = two_episodes(game, tuple(FAST[name] for name in names))
    for i, name in enumerate(names):
        first, second = (episode[i] for episode in steps)
        assert first[0][0] == second[0][0] == START
        assert all(then == 1 + 2 * a + b for _, a, b, _, then in first)  # own action first
        # Step sizes run on into the second episode; there is no step from the end of the first.
        expected_state = replayed(name, FAST[name], starts[i], first + second, game.gamma)
        for key, value in expected_state.items():
            assert numbers(getattr(ends[i], key)) == pytest.approx(value, abs=2e-4), (name, key)


def test_seats_are_alike():
    game = make_game("ipd(horizon=60,gamma=0.9)").value
    rules = (FAST["jal-q"], FAST["wolf-phc"])
    _, ends, steps = two_episodes(game, rules)
    _, mirrored_ends, mirrored = two_episodes(game, rules[::-1], mirrored=True)
    for episode, reflected in zip(steps, mirrored, strict=True):
        assert episode == reflected[::-1]
    for end, reflected in zip(ends, mirrored_ends[::-1], strict=True):
        jax.tree.map(np.testing.assert_array_equal, end, reflected)


# --- what others see --------------------------------------------------------------------------------


@pytree_dataclass
class Copycat(Learner):
    """Becomes what it sees of the other."""

    def update(self, key, state, view):
        return view.params[view.others[0]], state, {}


@pytest.mark.parametrize("rule", [NaiveQ(shows="played"), JointActionQ(shows="played"), PHC(), WoLFPHC()])
def test_the_played_policy_is_shown(rule):
    state = rule.start(jax.random.key(0), make("ipd"), 0)
    params = rule.played(state)
    assert rule.shown(params, state) is params


def test_q_learners_show_the_softmax_of_their_values():
    game = make("ipd")
    table = np.random.default_rng(0).normal(size=(5, 2))
    state = QState(tabled(table), jnp.int32(0))
    shown = NaiveQ().shown(NaiveQ().played(state), state)
    softmax = np.exp(table) / np.exp(table).sum(axis=1, keepdims=True)
    assert jax.nn.sigmoid(shown) == near(softmax[:, 0])
    joint = JointState(tabled(np.stack([table, table], -1)), constant_table(1.0, 5, 2), jnp.int32(0))
    assert JointActionQ().shown(JointActionQ().played(joint), joint) == near(np.asarray(shown))
    assert NaiveQ().start(jax.random.key(0), game, 0)._fields == state._fields


def test_an_exchanged_joint_table_is_valued_by_the_others_action():
    rng = np.random.default_rng(0)
    q, c = rng.normal(size=(5, 2, 2)), rng.integers(1, 9, (5, 2)).astype(float)
    state = JointState(
        tuple(tuple(tuple(entry) for entry in row) for row in q), tuple(tuple(x) for x in c), jnp.zeros((), jnp.int32)
    )
    straight, exchanged = (
        np.einsum(spec, q, c) / c.sum(axis=1, keepdims=True) for spec in ("sab,sb->sa", "sba,sb->sa")
    )
    for shows, values in (("values", straight), ("exchanged", exchanged)):
        got = JointActionQ(shows=shows).shown(None, state)
        np.testing.assert_allclose(got, values[:, 0] - values[:, 1], rtol=1e-6)


def test_what_a_fresh_joint_action_learner_shows_and_plays_differ():
    game = make_game("ipd(horizon=20)").value
    outcome = run_encounter(game, [JointActionQ(), Copycat()], num_seeds=3, num_updates=1)
    played, seen = outcome.params[0][0], outcome.params[1][-1]
    assert (seen == 0.0).all()  # nothing was counted: both actions are worth nothing
    assert played == pytest.approx(np.full((3, 5), np.log(0.95 / 0.05)), abs=1e-4)  # the first action


# --- encounters ---------------------------------------------------------------------------------------


def test_naive_q_defects_against_a_defector():
    game = make_game("ipd(gamma=0.5,horizon=50)").value
    rules = [NaiveQ(lr=0.1), make_learner("all-d").value]
    outcome = run_encounter(game, rules, num_seeds=16, num_updates=60)
    visited = outcome.params[0][-1][:, [CD, DD]]
    assert (visited < 0).mean() > 0.95


LEARNERS = {
    "naive-q": NaiveQ(lr=0.1),
    "jal-q": JointActionQ(lr=0.1),
    "phc": PHC(lr=0.1, policy_lr=0.02, policy_lr_decay=0.0),
    "wolf-phc": WoLFPHC(lr=0.1),
}


@pytest.mark.parametrize("names", PAIRS)
def test_all_defect_where_the_future_hardly_counts(names):
    game = make_game("ipd(gamma=0.01,horizon=50)").value
    outcome = run_encounter(game, [LEARNERS[name] for name in names], num_seeds=16, num_updates=100)
    for params in outcome.params:
        assert (params[-1][:, DD] < 0).mean() > 0.95
    for info in outcome.infos:  # the first move, hardly discounted: rarely seen, yet learnt
        assert info["episode_return"][-1].mean() < -1.5


@pytest.mark.parametrize("names", PAIRS)
def test_seeds_are_reproducible_and_of_their_own(names):
    game, rules = make_game("imp(gamma=0.9,horizon=50)").value, [LEARNERS[name] for name in names]
    one, two = (run_encounter(game, rules, num_seeds=s, num_updates=3) for s in (4, 6))
    for a, b in zip(one.params, two.params, strict=True):
        np.testing.assert_array_equal(a, b[:, :4])
    assert len(np.unique(one.infos[0]["episode_return"][-1])) > 1


def test_the_return_of_an_episode_is_discounted_and_normalised():
    rule, game = NaiveQ(), make("ipd", gamma=0.9)
    state = rule.start(jax.random.key(0), game, 0)
    play = types.SimpleNamespace(rewards=lambda: jnp.array([[-1.0], [0.0], [-2.0]]))
    view = types.SimpleNamespace(live=lambda: (play, state), game=game)
    params, after, info = rule.update(jax.random.key(1), (), view)
    assert float(info["episode_return"]) == near(0.1 * (-1.0 - 0.81 * 2.0))
    assert after is state
    np.testing.assert_array_equal(params, rule.played(state))


def test_three_players():
    game, rules = make("public-goods", horizon=5), (NaiveQ(), JointActionQ(), WoLFPHC())
    state = game.reset(jax.random.key(0))[1]
    seen = game.step(jax.random.key(0), state, jnp.array([1, 0, 1]))[0]
    assert [(int(own_action(s, 3)), int(others_actions(s, 3))) for s in seen] == [(1, 0b01), (0, 0b11), (1, 0b10)]

    def play(key):
        params, states = zip(*[rule.init(key, game, i) for i, rule in enumerate(rules)], strict=True)
        return rollouts.live(key, game, rules, params, states)

    trajectory, states = jax.eval_shape(play, jax.random.key(0))
    assert trajectory.rewards.shape == (5, 1, 3)
    assert len(states[1].table) == 9
    assert len(states[1].table[0][0]) == 4


@pytest.mark.parametrize("text", NAMES)
def test_they_need_memory_one_states(text):
    with pytest.raises(ValueError, match="one row of values per memory-one state"):
        make_learner(text).value.check_game(make("coin-game"), 0)
