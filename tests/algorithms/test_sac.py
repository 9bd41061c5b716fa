"""Soft actor-critic in a life of interactions, its oracle, and LILI: what is remembered, drawn, inferred and valued."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import Play, Stage
from shaping_bench.algorithms.core.rollouts import rollout
from shaping_bench.algorithms.lili import LILI
from shaping_bench.algorithms.rili import RILI
from shaping_bench.algorithms.sac import SAC, Interactions, SACOracle, below, moments
from shaping_bench.games import make
from shaping_bench.spec.registry import check_encounter, make_game, make_learner

H = 5
GAME = make("point-mass", horizon=H, speed=0.05)
SMALL = dict(hidden=4, memory=6, interactions=3, transitions=3, gradient_steps=2, rest=0)
LILIPUT = LILI(**SMALL, latent=2, encoder_hidden=4)


def remembered(count, size=6, d=1):
    """A memory in which interaction i earned i at every step and saw 10 i + t, d times."""
    memory = Interactions(
        seen=jnp.zeros((size, H + 1, d)),
        actions=jnp.zeros((size, H, 1)),
        rewards=jnp.zeros((size, H)),
        latents=jnp.zeros((size, 1)),
        total=jnp.int32(0),
    )
    for i in range(count):
        seen = jnp.tile(10.0 * i + jnp.arange(H + 1.0)[:, None], d)
        memory = memory.with_one(seen, jnp.zeros((H, 1)), jnp.full(H, float(i)), jnp.full(1, float(i)))
    return memory


def words(name, shape):
    return jax.random.bits(jax.random.key(len(name)), shape, jnp.uint32)


def drawn(rule, memory, m=200):
    rule = dataclasses.replace(rule, interactions=m)
    return rule.drawn({"index": words("index", (m,)), "times": words("times", (m, 2))}, memory)


@pytest.mark.parametrize("count", [4, 9])
def test_batches_are_of_interactions_whose_neighbours_are_remembered(count):
    """Of nine interactions in a memory of six the fifth is the first whose predecessor is kept, the eighth the last
    whose successor is known."""
    memory = remembered(count)
    batch = drawn(LILIPUT, memory)
    chosen = set(np.asarray(batch.rewards[:, 0]).astype(int).tolist())
    assert chosen == set(range(max(1, count - 5), count - 1))
    assert np.asarray(batch.last).tolist() == [[False, False, True]] * 200 or bool(batch.last[:, -1].all())
    before = memory.rewards[memory.earlier(batch.which, 1), 0]
    np.testing.assert_array_equal(before, batch.rewards[:, 0] - 1.0)


@pytest.mark.parametrize("influence", [True, False])
def test_what_follows_the_last_step(influence):
    """With influence the first sight of the next interaction, without the end of the own one."""
    batch = drawn(dataclasses.replace(LILIPUT, influence=influence), remembered(9))
    i, t = np.asarray(batch.rewards), np.asarray(batch.times)
    np.testing.assert_array_equal(batch.seen[..., 0], 10 * i + t)
    ends = 10 * (i + 1) if influence else 10 * i + H
    np.testing.assert_array_equal(batch.later[..., 0], np.where(t == H - 1, ends, 10 * i + t + 1))


def test_words_as_integers_and_times():
    ends = jnp.array([0, 2**32 - 1], jnp.uint32)
    assert below(ends, 4000).tolist() == [0, 3999]
    counts = np.bincount(np.asarray(below(words("x", (30_000,)), 3)))
    np.testing.assert_allclose(counts / 30_000, 1 / 3, atol=0.015)
    times = np.asarray(moments(words("x", (500, 2)), H))
    assert (times[:, -1] == H - 1).all()
    assert set(times[:, :-1].ravel().tolist()) == set(range(H - 1))
    assert moments(words("x", (1, 1)), 1).tolist() == [[0, 0]]


@jax.jit
def _lived(rule):
    stage = Stage(GAME, (rule,))

    def episode(joint, key):
        joint, play, infos = stage.episode(key, joint)
        return joint, (joint, play, infos[0])

    start = stage.begin(jax.random.key(0))
    return start, jax.lax.scan(episode, start, jax.random.split(jax.random.key(1), 4))[1]


def lived(rule):
    """Joint states before and after each of four interactions, leaves ``(5, ...)``, and what was played and told.
    Rules that differ in numbers share the program."""
    start, (after, play, info) = _lived(jax.tree.map(jnp.float32, rule))
    return jax.tree.map(lambda x, xs: np.concatenate([x[None], xs]), start, after), play, info


def moved(path, part):
    """Whether a part of the joint states changes in each interaction."""
    leaves = jax.tree.leaves(part(path))
    return [any((x[k] != x[k + 1]).any() for x in leaves) for k in range(len(leaves[0]) - 1)]


def test_lili_learns_as_soon_as_there_are_three_interactions_and_acts_on_what_it_noted():
    path, play, info = lived(LILIPUT)
    for part in ("critics", "representation"):
        assert moved(path, lambda x, part=part: getattr(x.states[0].nets, part)) == [False, False, True, True]
    assert moved(path, lambda x: x.params[0]["actor"]) == [False, False, True, True]
    memory = path.states[0].memory
    np.testing.assert_allclose(memory.rewards[-1, :4], play.rewards[:, :, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(info["interaction_return"], play.rewards.sum(axis=(1, 2, 3)), rtol=1e-6)
    # The first interaction is met without a context; what is noted afterwards ends with its last step.
    assert not path.params[0]["context"][0].any()
    assert path.params[0]["context"][1:].any(axis=1).all()


def test_the_policys_loss_does_not_reach_the_encoder_nor_zero_steps_anything():
    """With the representation's two steps at zero nothing of it moves, whatever the policy learns; and the other way
    round the decoder and encoder learn from rewards alone."""
    still = dataclasses.replace(LILIPUT, lr=0.0, context_lr=0.0, reconstruction_lr=0.0)
    path, *_ = lived(still)
    assert not any(moved(path, lambda x: (x.states[0].nets, x.params[0]["actor"])))
    path, *_ = lived(dataclasses.replace(LILIPUT, lr=0.0, context_lr=0.0))
    assert moved(path, lambda x: x.states[0].nets.representation["encoder"])[2:] == [True, True]
    assert moved(path, lambda x: x.states[0].nets.representation["decoder"])[2:] == [True, True]
    assert not any(moved(path, lambda x: (x.states[0].nets.critics, x.params[0]["actor"])))


def test_an_ordered_encoder_reads_the_same_steps_of_an_interaction_whenever_it_is_drawn():
    """Its first, its last and the one between them, whatever the words: so the context noted after an interaction is
    the one under which its successor is learned."""
    rule, memory = dataclasses.replace(LILIPUT, ordered=True), remembered(9)
    batch = drawn(rule, memory)
    for read, i in zip(rule.inputs({"before": words("before", (200, 2))}, memory, batch), (-1, 0), strict=True):
        earned = np.asarray(batch.rewards[:, :1]) + i
        np.testing.assert_array_equal(read[..., 1], np.tile(earned, 3))
        np.testing.assert_array_equal(read[..., 0], 10.0 * earned + [0, 2, 4])
    read = rule.inputs({"before": words("x", (200, 2))}, memory, drawn(LILIPUT, memory))[1]
    assert len(np.unique(np.asarray(read[..., 0]) % 10.0, axis=0)) == 1


def test_stability_pays_for_strategies_that_stay():
    rule = dataclasses.replace(LILIPUT, stability=0.5)
    assert rule.bonus(jnp.zeros((1, 1, 2)), jnp.array([[[3.0, 4.0]]])).tolist() == [[-2.5]]


def test_rili_reads_four_interactions_and_is_off_by_their_rewards_where_its_networks_say_nothing():
    rule = RILI(**SMALL, latent=2, encoder_hidden=3)
    memory = remembered(7, size=8, d=2)
    batch = rule.drawn({"index": words("index", (3,)), "times": words("times", (3, 2))}, memory)
    dice = {name: words(name, shape) for name, shape in rule.dice().items()}
    inputs = rule.inputs(dice, memory, batch)
    ages = np.asarray(batch.rewards[:, :1])
    np.testing.assert_array_equal(inputs[0][:, :, 0, -1], ages + np.arange(-4.0, 1.0))
    silent = jax.tree.map(jnp.zeros_like, rule.representation(jax.random.key(0), GAME, 0))
    # Of every interaction but the fifth as it was, and of every one but the first as foretold; no divergence.
    squares = np.square(ages + np.arange(-4.0, 1.0))
    expected = 4.0 * (squares[:, :4].mean() + squares[:, 1:].mean())
    np.testing.assert_allclose(rule.misfit(silent, inputs, batch), expected, rtol=1e-6)
    # What is drawn there is noise, of deviation 1, for the strategy and the partner.
    now, following = rule.contexts(silent, inputs)
    noise = inputs[1]["contexts"]
    for k, context in enumerate((now, following)):
        parts = [noise[:, k, 1], np.ones((3, 2)), noise[:, k, 0]]
        np.testing.assert_allclose(context, np.concatenate(parts, axis=1), rtol=1e-6)


def test_the_oracle_acts_on_the_hidden_strategy_and_remembers_it():
    rule = SACOracle(**SMALL)
    policy, params = rule.policy(GAME, 0), rule.init(jax.random.key(0), GAME, 0)[0]
    states = [GAME._begun(jnp.int32(k)) for k in (0, 5)]
    means = [policy.step(params, (), GAME.observe(x, 0), x)[1].normal.mean for x in states]
    assert not np.allclose(*means)
    played = rollout(jax.random.key(1), GAME, [policy], [params], 1, num_steps=1)
    seen = rule.latents(Play(GAME, played, 0))
    np.testing.assert_allclose(seen, [np.cos(-0.2), np.sin(-0.2)], rtol=1e-6)
    inputs = rule.inputs({}, remembered(9), drawn(rule, remembered(9)))
    np.testing.assert_array_equal(inputs[1], inputs[0] + 1.0)


def test_metrics_value_the_middle_of_what_is_played():
    rule = SAC(**SMALL)
    params = rule.init(jax.random.key(0), GAME, 0)[0]
    state = GAME._begun(jnp.int32(0))
    said = rule.policy(GAME, 0).step(params, (), GAME.observe(state, 0), state)[1]
    valued = rule.valued_policy(GAME, 0).step(params, (), GAME.observe(state, 0), state)[1]
    for seed in (0, 1):
        action = valued.sample(words("x" * seed, (2,)))
        np.testing.assert_allclose(action, jnp.tanh(said.normal.mean / 2.0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cls", [SAC, SACOracle, LILI])
def test_nothing_that_is_kept_is_an_array_of_no_numbers(cls):
    """Such arrays cannot be spread over devices."""
    shapes = jax.eval_shape(lambda key: cls(**SMALL).init(key, GAME, 0), jax.random.key(0))
    assert all(x.size for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("learner", "game", "message"),
    [
        ("sac", "ipd", "numbers between two bounds"),
        ("sac-oracle", "cournot", "a game with a hidden strategy"),
    ],
)
def test_refuses_games_that_it_cannot_play(learner, game, message):
    game = make_game(game)
    with pytest.raises(ValueError, match=message):
        check_encounter(game, [make_learner(learner)] * game.value.n_players)
    check_encounter(make_game("cournot"), [make_learner("sac")] * 2)
