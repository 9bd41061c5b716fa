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
from shaping_bench.run.encounter import run_encounter, valued_exactly
from shaping_bench.spec.registry import check_encounter, make_game, make_learner

KEY = jax.random.key(0)


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


@pytest.mark.parametrize("others", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_the_best_steady_effort_is_that_of_a_fine_grid(others):
    game = make("fishery", num_players=3, horizon=100)
    with jax.enable_x64(True):
        fixed = [jnp.stack([logit_of(others)])] * 2
        earned = jax.jit(jax.vmap(lambda x: game.value([jnp.stack([logit_of(x)]), *fixed], 0)))
        grid = jnp.linspace(0.0, 1.0, 5001)
        values = earned(grid)
        answer = jax.nn.sigmoid(game.best_response([jnp.zeros(1), *fixed], 0)[0])
        assert float(answer) == pytest.approx(float(grid[jnp.argmax(values)]), abs=3e-4)
        assert float(earned(answer[None])[0]) == pytest.approx(float(values.max()), abs=1e-5)


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


ANYWHERE = ("ppo(batch_size=4)", "naive-pg(batch_size=4)", "all-c", "all-d", "random")


@pytest.mark.parametrize("game", ["cournot", "fishery(num_players=3,horizon=4)"])
def test_who_can_play(game):
    made = make_game(game)
    for text in ("naive", "lola", "sos", "best-response", *ANYWHERE):
        check_encounter(made, [make_learner(text)] * made.value.n_players)
    for lineup in (("naive", "ppo"), ("tft", "naive"), ("naive-q", "naive-q")):
        with pytest.raises(BadInput, match="in seat "):
            check_encounter(made, [make_learner(x) for x in (lineup * 2)[: made.value.n_players]])


@pytest.mark.parametrize("game", ["cournot(horizon=20,steady=false)", "fishery(horizon=20,steady=false)"])
def test_where_nobody_is_steady_everybody_is_played(game):
    made = make_game(game)
    for text in ANYWHERE:
        check_encounter(made, [make_learner(text)] * 2)
        assert not valued_exactly(made.value, [make_learner(text).value] * 2)
    with pytest.raises(BadInput, match=r"the game offers \['sampled'\]"):
        check_encounter(made, [make_learner("naive")] * 2)
    assert not made.value.has_best_response
    steady = make_game(game.replace(",steady=false", ""))
    assert steady.value.has_best_response
    assert valued_exactly(steady.value, [make_learner("random").value] * 2)
    assert made.value.anchors() == steady.value.anchors()
    assert "steady" not in steady.text  # cells that were stored before keep their names


@pytest.mark.parametrize("game", ["cournot(horizon=20,steady=false)", "fishery(num_players=3,horizon=60,steady=false)"])
def test_random_play_chooses_anew_at_every_step_and_earns_what_the_anchor_says(game):
    made = make_game(game).value
    rules = [make_learner("random").value] * made.n_players
    params = [rule.init(KEY, made, i)[0] for i, rule in enumerate(rules)]
    played = jax.jit(lambda key: rollout(key, made, [x.policy(made, i) for i, x in enumerate(rules)], params, 512))(KEY)
    shares = np.asarray(played.states.shares)[1:]
    assert shares.mean() == pytest.approx(0.5, abs=0.01)
    assert shares.std(axis=0).mean() == pytest.approx(np.sqrt(1 / 12), rel=0.05)
    per_episode = np.asarray(played.rewards).mean(axis=(0, 2))
    error = per_episode.std() / np.sqrt(len(per_episode))
    assert abs(per_episode.mean() - made.anchors().random) < 5 * error


@pytest.mark.parametrize(
    ("name", "settings", "near"),
    [("cournot", {"num_players": 2}, 1e-6), ("cournot", {"num_players": 4, "slope": 2.0}, 1e-6)]
    + [("fishery", {"num_players": n, "horizon": h}, 0.06) for n, h in ((2, 100), (3, 100), (2, 300))],
)
def test_random_play_is_worth_the_same_where_it_is_valued_exactly(name, settings, near):
    game = make(name, **settings)
    rules = [make_learner("random").value] * game.n_players
    outcome = run_encounter(game, rules, num_seeds=2, num_updates=1)
    values = metrics.evaluate(game, outcome.final, ["return"])["return"]
    assert values == pytest.approx(np.full((2, game.n_players), game.anchors().random), abs=near, rel=near)


def test_beside_random_play_a_firm_gets_what_it_gets_on_average():
    game = make("cournot", intercept=4.0, cost=1.0)
    drawn = jax.random.uniform(KEY, (20000,))
    steady = logit_of(0.3)
    exact = game.values([jnp.stack([steady]), game.scripted_params("random", 1)])
    profits = np.asarray(jax.vmap(lambda x: game.profits(jnp.stack([jnp.float32(0.3), x])))(drawn))
    error = profits.std(axis=0) / np.sqrt(len(drawn))
    assert (np.abs(profits.mean(axis=0) - np.asarray(exact)) < 5 * error).all()
    answer = game.best_response([jnp.stack([steady]), game.scripted_params("random", 1)], 0)
    assert float(jax.nn.sigmoid(answer[0])) == pytest.approx(0.25)


def test_logits_of_shares():
    shares = jnp.array([0.0, 0.25, 1.0, 2.0])
    assert jax.nn.sigmoid(logit_of(shares)) == pytest.approx([0.0, 0.25, 1.0, 1.0], abs=1e-12)
