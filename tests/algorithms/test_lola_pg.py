"""LOLA by policy gradients: its direction is the exact one, and models see actions only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import Access, AccessError, View, pytree_dataclass
from shaping_bench.algorithms.lola import LOLA
from shaping_bench.algorithms.lola_pg import LOLAOM, LOLAPG, ModellingState, Opponent
from shaping_bench.algorithms.parts.opponent_models import Models
from shaping_bench.algorithms.policy_gradient import NaivePG
from shaping_bench.games import make
from shaping_bench.run.encounter import costs_per_update, run_encounter
from shaping_bench.spec.registry import make_game, make_learner
from tests.algorithms import sampled

ETA = 2.0


def lola_pg(batch_size, **kwargs):
    return LOLAPG(lr=1.0, lookahead_lr=ETA, batch_size=batch_size, **kwargs)


def played(game, spec, opponent=None, seeds=2, updates=2):
    game = make_game(game)
    rules = [make_learner(text, game=game.name).value for text in (spec, opponent or spec)]
    return run_encounter(game.value, rules, num_seeds=seeds, num_updates=updates, episodes=4)


def same(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


# --- the direction ------------------------------------------------------------------------


@pytest.mark.parametrize("player", [0, 1])
def test_the_direction_is_the_exact_one_as_the_batch_grows(player):
    samples = sampled.directions(lola_pg(2048), player, 24)
    sampled.agrees(samples, sampled.exact_direction(LOLA(lookahead_lr=ETA), player))
    # Half or double the shaping term would stand out of the noise.
    for eta in (ETA / 2, 2 * ETA):
        assert sampled.disagrees(samples, sampled.exact_direction(LOLA(lookahead_lr=eta), player))


def test_the_noise_falls_as_that_of_monte_carlo():
    assert sampled.slope(lola_pg, 0, (128, 2048), 24) == pytest.approx(-0.5, abs=0.12)


def test_one_batch_for_both_factors_is_a_bias():
    exact, few = sampled.exact_direction(LOLA(lookahead_lr=ETA), 0), 4
    sampled.agrees(sampled.directions(lola_pg(few), 0, 2048), exact)
    assert sampled.disagrees(sampled.directions(lola_pg(few, split_batch=False), 0, 2048), exact)


def test_no_assumed_step_is_naive_policy_gradient():
    naive = played("ipd(horizon=20)", "naive-pg(batch_size=16)")
    lola = played("ipd(horizon=20)", "lola-pg(batch_size=16,lookahead_lr=0.0)")
    same(naive.final, lola.final, rtol=1e-5, atol=1e-6)
    shaped = played("ipd(horizon=20)", "lola-pg(batch_size=16)")
    assert np.abs(shaped.final[0] - naive.final[0]).max() > 1e-2


def test_odd_batches_do_not_split():
    with pytest.raises(ValueError, match="batch_size=7; allowed with split_batch: even"):
        lola_pg(7).check_game(make("ipd"), 0)
    lola_pg(7, split_batch=False).check_game(make("ipd"), 0)


# --- networks, and opponents of any kind --------------------------------------------------

SMALL = "batch_size=4,network=mlp,hidden=4"


def test_networks_shape_one_another():
    none, shaped = (played("ipd(horizon=6)", f"lola-pg({SMALL},lr=0.1,lookahead_lr={eta})") for eta in (0.0, 1.0))
    pairs = list(zip(jax.tree.leaves(none.final), jax.tree.leaves(shaped.final), strict=True))
    assert all(np.isfinite(y).all() for _, y in pairs)
    assert max(np.abs(x - y).max() for x, y in pairs) > 1e-4


def test_who_has_no_parameters_is_not_shaped():
    rule = lola_pg(4)

    @jax.jit
    def term(key):
        view = sampled.view_of(rule, key, 0)
        play, (_, state) = view.play(4), rule.init(jax.random.key(1), sampled.ipd(), 0)
        fixed = {1: Opponent(view.policies[1], ())}
        return rule.shaping_term(fixed, play, state, view)

    assert not np.any(term(jax.random.key(0)))


LEARNERS = [f"lola-pg({SMALL})", f"lola-om({SMALL})"]
# Every learner meets every opponent and enters every game, and every opponent enters every game.
MEETINGS = [
    pytest.param(game, LEARNERS[(i + j) % 2], opponent, id=f"{i}-{j}")
    for i, game in enumerate(("ipd(horizon=4)", "coin-game(horizon=4)"))
    for j, opponent in enumerate((f"naive-pg({SMALL})", "naive-pg(batch_size=4,network=gru)", "ppo", "all-d"))
]


@pytest.mark.parametrize(("game", "learner", "opponent"), MEETINGS)
def test_any_policy_can_be_shaped(game, learner, opponent):
    """Traced only: shapes, access and prices. Both sides' play is the same where batches agree."""
    game = make_game(game)
    rules = [make_learner(text, game=game.name).value for text in (learner, opponent)]
    assert costs_per_update(game.value, rules)[0].steps == 4 * 4


# --- inferred opponents -------------------------------------------------------------------


def om(**kwargs):
    return LOLAOM(**{"lr": 1.0, "lookahead_lr": ETA, "batch_size": 64} | kwargs)


def at_first(rule, player=0, models=None):
    """Learner state; with given models if any."""
    _, state = rule.init(jax.random.key(1), sampled.ipd(), player)
    return state if models is None else ModellingState(state.actor_critic, Models(models, jnp.ones((), jnp.int32)))


@pytest.mark.parametrize("player", [1])
def test_the_model_is_the_opponent_and_comes_from_its_actions(player):
    rule = om(batch_size=4096, first_model_steps=400, model_lr=0.1)
    assert sampled.view_of(rule, jax.random.key(2), player)._access == Access.ACTIONS
    other = sampled.point()[1 - player]

    @jax.jit
    def fits(start):
        view = sampled.view_of(rule, jax.random.key(2), player)
        truth = Models((other,), jnp.ones((), jnp.int32))
        return [rule.fit_models(models, view.play(4096), view) for models in (start, truth)]

    (models, info), (_, with_truth) = fits(at_first(rule, player).models)
    # 4096 starts, and 30 steps over four states of unequal share.
    np.testing.assert_allclose(models.params[0], other, atol=0.15)
    assert np.abs(models.params[0] - sampled.point()[player]).max() > 1.0
    # No model of anybody predicts better than the truth, but for the noise of this sample.
    assert abs(float(info["model_log_likelihood"]) - float(with_truth["model_log_likelihood"])) < 1e-4


def test_first_fit_takes_many_steps_later_ones_few():
    rule = om(first_model_steps=7, model_steps=2, model_lr=0.01)

    @jax.jit
    def fits(start):
        view = sampled.view_of(rule, jax.random.key(2), 0)
        play = view.play(64)
        first, _ = rule.fit_models(start, play, view)
        again, _ = rule.fit_models(first, play, view)
        return again, om(first_model_steps=9, model_lr=0.01).fit_models(start, play, view)[0]

    again, nine = fits(at_first(rule).models)
    np.testing.assert_allclose(again.params[0], nine.params[0], rtol=1e-5)
    assert int(again.updates) == 2


def test_with_the_true_model_it_is_lola_pg():
    rule = om(first_model_steps=0, model_steps=0)
    models = (sampled.point()[1],)
    inferred = sampled.directions(rule, 0, 3, state=at_first(rule, models=models))
    known = sampled.directions(lola_pg(64), 0, 3)
    np.testing.assert_allclose(inferred, known, rtol=1e-4, atol=1e-4)


@pytree_dataclass
class Peeping(LOLAPG):
    """Declares less than it asks for."""

    access = Access.ACTIONS


def test_without_access_there_are_no_parameters():
    rule = Peeping(batch_size=4)
    with pytest.raises(AccessError, match="policies"):
        run_encounter(make("ipd", horizon=5), [rule, rule], num_seeds=1, num_updates=1)


@pytest.mark.parametrize(
    "game", ["ipd(horizon=7)", "imp(horizon=7)", "coin-game(horizon=7)", "public-goods(horizon=7)"]
)
def test_public_rules_pay_what_was_paid(game):
    game = make_game(game).value
    rule = NaivePG(batch_size=8, network="mlp", hidden=4)

    @jax.jit
    def rewards():
        params = tuple(rule.init(jax.random.key(i), game, i)[0] for i in range(game.n_players))
        view = View(game, params, 0, Access.REWARDS, learners=(rule,) * game.n_players, key=jax.random.key(3))
        play = view.play(8)
        return play.by_the_rules().trajectory.rewards, play.trajectory.rewards

    public, paid = rewards()
    assert np.ptp(paid) > 0
    np.testing.assert_allclose(public, paid, atol=1e-6)
