"""Cournot's oligopoly and the fishery: steps by hand, closed forms, and one number from both views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench import metrics
from shaping_bench.algorithms.core.rollouts import rollout
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.games.shares import logit_of
from shaping_bench.run.encounter import run_encounter
from shaping_bench.spec.registry import check_encounter, make_game, make_learner


def one_step(game, shares, **state):
    _, first = game.reset(jax.random.key(0))
    return game.step(jax.random.key(1), first._replace(**state), tuple(jnp.float32(x) for x in shares))


# --- Cournot --------------------------------------------------------------------------------------


def test_a_market_by_hand():
    """30 and 15 units of a market of 90 at a price of 100 - 45."""
    game = make("cournot")
    seen, after, rewards, done, info = one_step(game, (1 / 3, 1 / 6))
    assert rewards == pytest.approx([30 * 45, 15 * 45])
    assert info["quantity"] == pytest.approx([30, 15])
    assert (bool(done), int(after.time)) == (True, 1)
    np.testing.assert_allclose(seen, [[1 / 3, 1 / 6, 0.55], [1 / 6, 1 / 3, 0.55]], atol=1e-6)


@pytest.mark.parametrize("firms", [2, 4])
def test_the_equilibrium_and_the_cartel(firms):
    """Nash: (a - c)^2 / (b (N + 1)^2) each, nobody gains by moving; a cartel: (a - c)^2 / (4 b N)."""
    game = make("cournot", num_players=firms, intercept=50.0, slope=2.0, cost=8.0)
    nash, cartel = ([jnp.asarray(game.scripted_params(name, i)) for i in range(firms)] for name in ("all-d", "all-c"))
    assert game.values(nash) == pytest.approx(42**2 / (2 * (firms + 1) ** 2))
    assert game.values(cartel) == pytest.approx(42**2 / (8 * firms))
    assert game.anchors().social_optimum == pytest.approx(42**2 / (8 * firms))
    slopes = jax.jit(jax.jacrev(lambda x: game.values([x[i : i + 1] for i in range(firms)])))(jnp.concatenate(nash))
    np.testing.assert_allclose(jnp.diagonal(slopes), 0.0, atol=1e-3)
    answer = game.best_response(nash, 0)
    assert float(answer[0]) == pytest.approx(float(nash[0][0]), abs=1e-4)
    assert metrics.evaluate(game, [np.asarray(x)[None] for x in nash], ["nash_conv"])["nash_conv"].max() < 1e-3


def test_naive_firms_find_the_equilibrium():
    outcome = run_encounter(make("cournot"), [make_learner("naive(lr=0.001)").value] * 2, num_seeds=4, num_updates=200)
    values = metrics.evaluate(make("cournot"), outcome.final, ["return", "quantity"])
    np.testing.assert_allclose(values["return"], 900, rtol=1e-3)
    np.testing.assert_allclose(values["quantity"], 30, rtol=1e-2)


def test_random_firms_lose():
    """Uniform shares: by the anchors' closed form, five standard errors."""
    game = make("cournot", num_players=3)
    shares = jax.random.uniform(jax.random.key(0), (20000, 3))
    profits = np.asarray(jax.vmap(game.profits)(shares)).mean(axis=1)
    assert abs(profits.mean() - game.anchors().random) < 5 * profits.std() / np.sqrt(len(profits))
    answered = np.asarray(jax.vmap(game.profits)(shares.at[:, 0].set(0.0)))[:, 0]
    assert game.anchors().best_response == answered.max() == 0.0  # two others fill the market
    assert profits.min() > game.reward_bounds[0]


# --- the fishery ----------------------------------------------------------------------------------


def test_a_catch_by_hand():
    """0.8 fish grow to 0.824, of which efforts 2 and 3 catch 0.036."""
    game = make("fishery")
    seen, after, rewards, done, info = one_step(game, (0.2, 0.3), stock=jnp.float32(0.8))
    assert float(after.stock) == pytest.approx(0.788)
    assert rewards == pytest.approx([200 * 0.4 * 0.036 - 1.8, 200 * 0.6 * 0.036 - 2.7], abs=1e-5)
    assert (info["effort"].tolist(), bool(done)) == (pytest.approx([2, 3]), False)
    np.testing.assert_allclose(seen, [[0.2, 0.3, 0.788], [0.3, 0.2, 0.788]], atol=1e-6)
    _, after, rewards, *_ = one_step(game, (0.0, 0.0))
    assert (float(after.stock), rewards.tolist()) == (pytest.approx(0.5375), [0.0, 0.0])


def test_no_more_is_caught_than_there_is():
    game = make("fishery", efficiency=0.2, num_players=3)
    _, after, rewards, *_ = one_step(game, (1.0, 1.0, 1.0))
    assert float(after.stock) == 0.0
    assert rewards == pytest.approx(200 * 0.5375 / 3 - 9, abs=1e-4)


def test_both_views_report_the_same():
    """Steady efforts of scripts, among them the best steady one: stocks settle at 1 - e E / g."""
    game = make("fishery", num_players=3)
    lineup = [make_learner(name).value for name in ("all-c", "all-d", "all-c")]
    check_encounter(make_game("fishery(num_players=3)"), [make_learner(x) for x in ("all-c", "all-d", "all-c")])
    params = [rule.init(jax.random.key(0), game, i)[0] for i, rule in enumerate(lineup)]
    play = jax.jit(lambda key: rollout(key, game, [r.policy(game, i) for i, r in enumerate(lineup)], params, 1))
    played = play(jax.random.key(0))
    per_step = np.asarray(played.rewards[:, 0]).mean(axis=0)
    exact = metrics.evaluate(game, [np.asarray(x)[None] for x in params])
    np.testing.assert_allclose(exact["return"][0], per_step, rtol=2e-3)
    shown = {name: np.asarray(x[:, 0]).mean(axis=0)[None] for name, x in played.info.items()}
    shown = metrics.from_play(game, {"return": per_step[None], **shown})
    for name in ("stock", "effort", "sustainability", "equality", "income_share"):
        np.testing.assert_allclose(shown[name], exact[name], rtol=2e-3)
    total = 25 / 6 * (1 / 3 + 2 / 4 + 1 / 3)
    assert float(played.states.stock[-1, 0]) == pytest.approx(1 - 0.06 * total, abs=1e-3)
    assert exact["income_share"][0] == pytest.approx(np.array([1 / 3, 1 / 2, 1 / 3]) / (7 / 6), rel=1e-4)


def test_who_takes_all_ends_soon():
    game = make("fishery", first_stock=1.0)
    greedy = [np.full((1, 1), 30.0)] * 2
    wise = [np.asarray(game.scripted_params("all-c", i))[None] for i in range(2)]
    ends, lasts = (metrics.evaluate(game, x, ["sustainability", "stock", "return"]) for x in (greedy, wise))
    assert (ends["sustainability"] < 0.1).all()
    assert lasts["sustainability"] == pytest.approx(0.5)
    assert (lasts["stock"] > ends["stock"] + 0.4).all()
    # What all plans together can get is more than a steady effort gets, and random play less.
    anchors = game.anchors()
    assert anchors.random < float(lasts["return"].mean()) < anchors.social_optimum < 1.5 * float(lasts["return"].mean())


# --- who plays --------------------------------------------------------------------------------------


@pytest.mark.parametrize("game", ["cournot", "fishery(num_players=3,horizon=4)"])
def test_who_can_play(game):
    made = make_game(game)
    for text in ("naive", "lola", "sos", "ppo(batch_size=4)", "naive-pg(batch_size=4)", "all-c", "all-d"):
        check_encounter(made, [make_learner(text)] * made.value.n_players)
    for lineup in (("naive", "ppo"), ("random", "naive"), ("tft", "naive"), ("naive-q", "naive-q")):
        with pytest.raises(BadInput, match="in seat "):
            check_encounter(made, [make_learner(x) for x in (lineup * 2)[: made.value.n_players]])


def test_logits_of_shares():
    shares = jnp.array([0.0, 0.25, 1.0, 2.0])
    assert jax.nn.sigmoid(logit_of(shares)) == pytest.approx([0.0, 0.25, 1.0, 1.0], abs=1e-12)
