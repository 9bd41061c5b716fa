"""The negotiation game: published divisions by hand, observations, closed forms against scripts at play."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core.rollouts import rollout
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.spec.registry import check_encounter, make_game, make_learner


def facing(game, values, pool=(1, 1, 1)):
    """A state in which the items are worth that much."""
    _, state = game.reset(jax.random.key(0))
    return state._replace(values=jnp.array(values, float), pool=jnp.array(pool, float))


CONTRAST = ((5, 1, 5), (1, 5, 1))
BOTH = {
    "AC, AC": (((5, 0, 5), (0, 5, 0)), (0.6667, 0.3333)),
    "AD, AD": (((5, 5, 5), (5, 5, 5)), (0.3667, 0.2333)),
    "small claims leave a rest": (((2, 2, 2), (2, 2, 2)), (0.2933, 0.1867)),
    "AC, AD": (((5, 0, 5), (5, 5, 5)), (0.3333, 0.4000)),
}


@pytest.mark.parametrize("case", BOTH)
def test_divisions_as_published(case):
    claims, expected = BOTH[case]
    game = make("negotiation")
    _, after, rewards, done, info = game.step(jax.random.key(1), facing(game, CONTRAST), jnp.array(claims, float))
    assert rewards == pytest.approx(expected, abs=1e-4)
    assert info["efficiency"] == pytest.approx(sum(expected), abs=2e-4)  # all of it is worth 15
    assert info["own_claims"] == pytest.approx([sum(claims[0][::2]) / 5, claims[1][1] / 5])
    assert info["other_claims"] == pytest.approx([claims[0][1] / 5, sum(claims[1][::2]) / 5])
    assert (int(after.time), bool(done)) == (1, False)


def test_proportion():
    game = make("negotiation", split="proportion")
    rewards = game.step(jax.random.key(1), facing(game, CONTRAST), jnp.array([[1.0] * 3, [3.0] * 3]))[2]
    assert rewards == pytest.approx((0.1833, 0.35), abs=1e-4)


def test_what_is_seen():
    """Pool, own values and claims, the other's; the claims are of the negotiation before."""
    game, raw = make("negotiation"), make("negotiation", preset="71be9b2")
    first, state = raw.reset(jax.random.key(3))
    assert first.shape == (2, 15)
    assert not first[:, 6:9].any()
    claims = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 0.0]])
    seen, after, *_ = raw.step(jax.random.key(4), state, claims)
    pool, own, mine, other, theirs = seen[0].reshape(5, 3)
    assert (pool.tolist(), mine.tolist(), theirs.tolist()) == ([1.0] * 3, *claims.tolist())
    assert own.tolist() == after.values[0].tolist()
    assert (own + other).tolist() == [6.0] * 3
    assert jnp.array_equal(seen[1].reshape(5, 3), jnp.stack([pool, other, theirs, own, mine]))
    assert jnp.allclose(10 * game.observe(after), seen)
    apart = make("negotiation", observation="difference").observe(after)
    assert jnp.array_equal(apart, jnp.stack([own - other, other - own]))


@pytest.mark.parametrize(
    ("actions", "sampling"), [("continuous", "high_contrast"), ("discrete", "uniform"), ("discrete", "fixed")]
)
def test_closed_forms_are_what_scripts_get(actions, sampling):
    """2000 negotiations of pairs of scripts, by five standard errors."""
    game = make("negotiation", actions=actions, sampling=sampling, horizon=100)
    anchors = game.anchors()
    pairs = {
        ("all-c", "all-c"): (anchors.social_optimum,) * 2,
        ("all-d", "all-d"): (anchors.random * 0.5 / game._mean_shares()[0],) * 2,
    }
    if sampling == "high_contrast":
        pairs |= {("all-d", "all-c"): (0.55, 0.25), ("all-d", "random"): (anchors.best_response, np.nan)}
    if sampling != "fixed":
        pairs["random", "random"] = (anchors.random,) * 2

    @jax.jit
    def returns(key):
        plays = []
        for pair in pairs:
            rules = [make_learner(x).value.policy(game, i) for i, x in enumerate(pair)]
            plays.append(rollout(key, game, rules, ((), ()), 20).rewards.reshape(-1, 2))
        return jnp.stack(plays)

    rewards = np.asarray(returns(jax.random.key(0)))
    expected = np.array(list(pairs.values()))
    if sampling == "fixed":  # the seats differ: what is known is the mean over them
        rewards, expected = rewards.mean(axis=-1, keepdims=True), expected[:, :1]
    error = rewards.std(axis=1, ddof=1) / np.sqrt(rewards.shape[1])
    off = np.abs(rewards.mean(axis=1) - expected) - 5 * error
    assert (off[np.isfinite(expected)] < 1e-6).all()


@pytest.mark.parametrize("text", ["ppo(batch_size=4)", "naive-pg(batch_size=4)", "all-c", "all-d", "random"])
@pytest.mark.parametrize("game", ["negotiation", "negotiation(preset=discrete)"])
def test_who_can_play(text, game):
    check_encounter(make_game(game), [make_learner(text)] * 2)


@pytest.mark.parametrize("text", ["lola", "tft", "naive-q", "loqa", "mfos", "jal-q", "phc", "best-response"])
def test_who_cannot_says_so(text):
    with pytest.raises(BadInput, match=f"learner '{text}' in seat 1"):
        check_encounter(make_game("negotiation"), [make_learner(text)] * 2)


def test_fixed_negotiations_are_of_three_items():
    with pytest.raises(BadInput, match="items is 4; allowed: 3 with sampling=fixed"):
        make_game("negotiation(items=4,sampling=fixed)")
    assert not make("negotiation", sampling="fixed").symmetric
