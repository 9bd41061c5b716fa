"""Play: scripted policies reach their reference constants, sampled play has the law of the exact
game, groups and seats are what they say, and no gradient leaks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import Access, AccessError, Memory, Play, View, costs
from shaping_bench.algorithms.core.distributions import Categorical
from shaping_bench.algorithms.core.policy import Tabular
from shaping_bench.algorithms.core.rollouts import Dice, observations, rollout, taken, word_of
from shaping_bench.algorithms.fixed import GTFT, AllC
from shaping_bench.algorithms.parts.policies import Scripted, actor
from shaping_bench.games import make

IPD, COIN = make("ipd", horizon=6), make("coin-game")
THETA = jnp.array([0.5, -0.3, 0.8, -1.2, 0.1]), jnp.array([-0.7, 0.4, -0.2, 1.1, -0.9])
TABLES = (Tabular(5), Tabular(5))


# Mean reward per step of the first and the second, 4 x 4096 episodes by somebody else (standard error 0.001).
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("all-c", "all-c"), (0.349, 0.349)),
        (("all-d", "all-c"), (0.637, -0.266)),
        (("all-d", "random"), (0.531, -0.531)),
        (("all-c", "random"), (0.060, 0.114)),
    ],
)
def test_scripted_policies_of_the_coin_game_have_their_reference_returns(names, expected):
    policies = [Scripted(COIN, name, player) for player, name in enumerate(names)]
    play = jax.jit(lambda key: rollout(key, COIN, policies, ((), ()), 2048))(jax.random.key(1))
    np.testing.assert_allclose(np.mean(play.rewards, axis=(0, 1)), expected, atol=0.01)


def test_tit_for_tat_in_the_coin_game_forgives_after_a_coin():
    game = make("coin-game", size=3)
    _, state = game.reset(jax.random.key(0))

    def memory(before, reward):
        return float(game.script("tft", jnp.asarray(before), state._replace(rewards=(reward, 0.0)), 0)[0])

    assert memory(0.0, -2.0) == memory(1.0, 0.0) == memory(1.0, -1.0) == 1.0
    assert memory(1.0, 1.0) == memory(0.0, 0.0) == memory(0.0, 1.0) == 0.0
    # With nothing to punish it plays always-cooperate, else always-defect.
    for punished, name in ((0.0, "all-c"), (1.0, "all-d")):
        _, logits = game.script("tft", jnp.asarray(punished), state, 1)
        np.testing.assert_array_equal(logits, game.script(name, jnp.asarray(0.0), state, 1)[1])


def test_sampled_play_has_the_law_of_the_exact_game():
    """Frequencies of joint actions at every time against the Markov chain; four standard errors."""
    batch = 40_000
    play = jax.jit(lambda key: rollout(key, IPD, TABLES, THETA, batch))(jax.random.key(5))
    joint = np.asarray(play.actions[..., 0] * 2 + play.actions[..., 1])
    chain = np.stack([np.append(row, 1.0 - sum(row)) for row in np.asarray(IPD.chain(THETA))])
    law = chain[0]
    for t in range(6):
        seen = np.bincount(joint[t], minlength=4) / batch
        assert (np.abs(seen - law) < 4 * np.sqrt(law * (1 - law) / batch)).all(), t
        law = law @ chain[1:]
    rewards = np.array(IPD.payoffs)[:, joint].transpose(1, 2, 0)
    np.testing.assert_array_equal(play.rewards, rewards)
    np.testing.assert_array_equal(play.info["cooperation"], 1.0 - play.actions)
    # Each player reads the joint action from its own seat.
    np.testing.assert_array_equal(observations(IPD, play, 0)[1:], 1 + joint)
    np.testing.assert_array_equal(observations(IPD, play, 1)[1:], 1 + np.array([0, 2, 1, 3])[joint])


def test_the_players_words_are_uniform_and_independent():
    words = jax.random.bits(jax.random.key(0), (200_000,), jnp.uint32)
    first, second = (np.asarray(word_of(words, k)) / 2.0**32 for k in range(2))
    for a, b in ((first, second),):
        cells = np.histogram2d(a, b, bins=16)[0].ravel()
        expected = len(a) / 256
        # Chi-squared with 255 degrees of freedom: mean 255, standard deviation 22.6.
        assert np.sum((cells - expected) ** 2 / expected) < 255 + 4 * 22.6


def test_certain_and_impossible_actions():
    words = jnp.array([0, 1, 2**31, 2**32 - 1], jnp.uint32)
    for logits, action in (([40.0, -40.0], 0), ([-40.0, 40.0], 1), ([-jnp.inf, 0.0, -jnp.inf, -jnp.inf], 1)):
        np.testing.assert_array_equal(Categorical(logits=jnp.tile(jnp.array(logits), (4, 1))).sample(words), action)


def test_log_probabilities_and_entropy():
    logits = jnp.array([[0.3, -1.0, 2.0], [0.0, 0.0, 0.0]])
    policy, p = Categorical(logits=logits), jax.nn.softmax(logits)
    np.testing.assert_allclose(taken(policy, jnp.array([2, 0])), jnp.log(jnp.array([p[0, 2], p[1, 0]])), rtol=1e-6)
    np.testing.assert_allclose(policy.entropy(), -jnp.sum(p * jnp.log(p), -1), rtol=1e-6)
    play = rollout(jax.random.key(0), IPD, TABLES, THETA, 3)
    got = Play(IPD, play, 1).log_probs(TABLES[1], THETA[1])
    cooperates = jax.nn.sigmoid(THETA[1])[observations(IPD, play, 1)[:-1]]
    expected = jnp.log(jnp.where(play.actions[..., 1] == 0, cooperates, 1.0 - cooperates))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_groups_of_parameters_play_their_own_environments():
    """Two sets, one that always cooperates and one that always defects, three environments each."""
    sets = jnp.stack([jnp.full(5, 40.0), jnp.full(5, -40.0)])
    play = rollout(jax.random.key(0), IPD, TABLES, (THETA[0], sets), 6, groups=(0, 2))
    np.testing.assert_array_equal(play.actions[..., 1], np.tile([0, 0, 0, 1, 1, 1], (6, 1)))
    with pytest.raises(ValueError, match="divisors of the batch size 6"):
        rollout(jax.random.key(0), IPD, TABLES, (THETA[0], jnp.zeros((4, 5))), 6, groups=(0, 4))
    with pytest.raises(ValueError, match="1 policies and 2 parameters"):
        rollout(jax.random.key(0), IPD, TABLES[:1], THETA, 6)


def test_recurrent_policies_carry_their_own_memory_per_environment():
    policy = actor(COIN, "gru", hidden=6)
    params = policy.init(jax.random.key(0))
    play = rollout(jax.random.key(1), COIN, (policy, policy), (params, params), 4, num_steps=8)
    # Actions are those that the unrolled policy gives probability; check by their likelihood.
    likelihood = jnp.exp(Play(COIN, play, 0).log_probs(policy, params))
    assert likelihood.shape == (8, 4)
    assert (np.asarray(likelihood) > 0).all()
    assert play.rewards.shape == (8, 4, 2)


def test_no_gradient_passes_through_play():
    def total(theta):
        return jnp.sum(rollout(jax.random.key(0), IPD, TABLES, (theta, THETA[1]), 8).rewards)

    np.testing.assert_array_equal(jax.grad(total)(THETA[0]), np.zeros(5))


def test_play_is_priced_and_repetition_counts():
    with costs.counting() as count:
        rollout(jax.random.key(0), IPD, TABLES, THETA, 8)
        with costs.repeated(3):
            rollout(jax.random.key(0), IPD, TABLES, THETA, 2, num_steps=5)
    assert count.steps == 8 * 6 + 3 * 2 * 5


def test_a_view_shows_play_as_far_as_its_access():
    rules = (GTFT(), AllC())
    params = tuple(rule.init(jax.random.key(0), IPD, i)[0] for i, rule in enumerate(rules))

    def view(player, access, memory=None):
        return View(IPD, params, player, access, learners=rules, memory=memory, key=jax.random.key(2))

    shared = Memory()
    mine, theirs = view(0, Access.ACTIONS, shared).play(16), view(1, Access.REWARDS, shared).play(16)
    np.testing.assert_array_equal(mine.actions(1), theirs.actions())
    np.testing.assert_array_equal(theirs.actions(), np.zeros((6, 16)))
    np.testing.assert_array_equal(mine.rewards(), theirs.rewards(0))
    assert mine.observations().shape == (7, 16)
    for forbidden in (lambda: mine.rewards(1), lambda: mine.trajectory, lambda: view(0, Access.REWARDS).policies):
        with pytest.raises(AccessError, match="player 1 asked for"):
            forbidden()
    # What the rules pay is public: it follows from what everybody saw.
    seen, joint = mine.observations(0)[:-1], jnp.stack([mine.actions(0), mine.actions(1)], -1)
    np.testing.assert_array_equal(IPD.paid(seen, joint)[..., 0], mine.rewards())


@pytest.mark.parametrize("preset", ["loqa", "pola", "lola", "jaxmarl"])
def test_rewards_of_the_coin_game_can_be_read_off_the_board(preset):
    game = make("coin-game", preset=preset, episodes=1, boundary="none", horizon=12, observation="relative")
    policies = [Scripted(game, "random", player) for player in range(2)]
    play = rollout(jax.random.key(3), game, policies, ((), ()), 64)
    got = game.paid(observations(game, play, 0)[:-1], play.actions)
    np.testing.assert_array_equal(got, play.rewards)
    assert np.abs(play.rewards).sum() > 0


def test_five_seats_act_independently():
    """Joint frequencies of uniform choices out of 32 against their product, by chi-squared over all outcomes.

    From one word for all seats each of nine actions' outcomes is off by 0.4 %, of these by 9 %, which 8
    million joint actions show at eight standard deviations.
    """
    seats, actions, size = 5, 32, 2**20
    dice = Dice(counts=(1,) * seats, choices=True, shared=True)

    @jax.jit
    def outcomes(key):
        words = dice.draw(key, 1, size)[0]
        joint = jnp.zeros((size,), jnp.uint32)
        for i in range(seats):
            joint = joint * actions + (dice.words(words, i) >> 27)  # of 32, what inversion yields
        return joint.astype(jnp.int32)

    drawn = np.concatenate([outcomes(key) for key in jax.random.split(jax.random.key(0), 8)])
    cells = actions**seats
    expected = drawn.size / cells
    statistic = np.sum((np.bincount(drawn, minlength=cells) - expected) ** 2) / expected
    assert abs(statistic - (cells - 1)) < 4.5 * np.sqrt(2 * cells)
