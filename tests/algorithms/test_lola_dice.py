"""LOLA-DiCE: its direction is that of differentiating through the opponents' exact steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import Access, AccessError, pytree_dataclass, trees
from shaping_bench.algorithms.lola import LOLAExact
from shaping_bench.algorithms.lola_dice import LOLADiCE, LOLADiCEOM, ModellingState
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.parts.opponent_models import Models
from shaping_bench.games import make
from shaping_bench.run.encounter import costs_per_update, run_encounter, steps_per_update
from shaping_bench.spec.registry import make_game, make_learner
from tests.algorithms import sampled

ETA = 1.0
"""Large enough for the shaping to show at the test point."""


def dice(batch_size=64, **kwargs):
    return LOLADiCE(**{"lr": 1.0, "lookahead_lr": ETA, "batch_size": batch_size} | kwargs)


def played(game, spec, opponent=None, seeds=2, updates=2):
    game = make_game(game)
    rules = [make_learner(text, game=game.name).value for text in (spec, opponent or spec)]
    return run_encounter(game.value, rules, num_seeds=seeds, num_updates=updates, episodes=4)


def same(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


# --- the direction ------------------------------------------------------------------------


@pytest.mark.parametrize(("player", "steps"), [(0, 1), (1, 2)])
def test_the_direction_is_the_exact_one_as_the_batch_grows(player, steps):
    samples = sampled.directions(dice(4096, lookahead_steps=steps), player, 24)
    exact = LOLAExact(lookahead_lr=ETA, lookahead_steps=steps)
    sampled.agrees(samples, sampled.exact_direction(exact, player))
    # Neither a naive learner, nor one that looks another number of steps ahead.
    for other in (Naive(), LOLAExact(lookahead_lr=ETA, lookahead_steps=steps + 1)):
        assert sampled.disagrees(samples, sampled.exact_direction(other, player))


def test_the_noise_falls_as_that_of_monte_carlo():
    assert sampled.slope(dice, 0, (256, 4096), 24) == pytest.approx(-0.5, abs=0.12)


@pytest.mark.parametrize("kwargs", [{"loaded": False, "baseline": "none"}, {"baseline": "critic"}])
def test_every_form_of_dice_has_the_same_expectation(kwargs):
    samples = sampled.directions(dice(4096, **kwargs), 0, 16)
    sampled.agrees(samples, sampled.exact_direction(LOLAExact(lookahead_lr=ETA), 0))


def test_loaded_dice_without_values_is_dice():
    """Summation by parts, episode by episode."""
    plain, loaded = (sampled.directions(dice(baseline="none", loaded=form), 0, 2) for form in (False, True))
    np.testing.assert_allclose(plain, loaded, rtol=2e-3, atol=2e-3)


def test_without_the_magic_box_the_opponents_step_is_a_constant():
    """The naive gradient where the opponent will be: nothing is shaped."""
    samples = sampled.directions(dice(4096, magic_box=False), 0, 24)

    def value(own, game, there):
        return game.value((own, there), 0)

    game = make("ipd", gamma=sampled.GAMMA)
    own, other = sampled.point()
    there = other + ETA * jax.jit(jax.grad(lambda y: game.value((own, y), 1)))(other)
    sampled.agrees(samples, jax.jit(jax.grad(lambda x: value(x, game, there)))(own))
    assert sampled.disagrees(samples, sampled.exact_direction(LOLAExact(lookahead_lr=ETA), 0))


# --- limits -------------------------------------------------------------------------------


def test_no_imagined_step_is_naive_policy_gradient():
    naive = played("ipd(horizon=20)", "naive-pg(lr=0.3,batch_size=16)", updates=3)
    none = played("ipd(horizon=20)", "lola-dice(lr=0.3,batch_size=16,lookahead_steps=0,baseline=critic)", updates=3)
    same(naive.final, none.final, rtol=1e-4, atol=1e-4)


def test_an_assumed_step_of_zero_shapes_nobody():
    """The magic box then makes no difference: the same play, a first derivative only."""
    with_box, without = (
        sampled.directions(dice(lookahead_lr=0.0, lookahead_steps=2, magic_box=box), 0, 2) for box in (True, False)
    )
    np.testing.assert_allclose(with_box, without, rtol=1e-3, atol=1e-3)


def test_learners_come_to_cooperate():
    """Naive ones end at -2; what the ablation does to whole runs is a claim, ``lola-dice-ipd-no-magic-box``."""
    spec = "lola-dice(batch_size=64,lr=0.15,lookahead_lr=0.2,lookahead_steps=2)"
    outcome = played("ipd", spec, seeds=6, updates=60)
    values = jax.jit(jax.vmap(lambda a, b: make("ipd").values((a, b))))(*outcome.final)
    assert 0.04 * float(np.median(values)) > -1.5


# --- what it plays, sees and costs --------------------------------------------------------


def test_every_imagined_step_plays_anew():
    """The first one looks at what was really played, which both seats share."""
    game, rule = make("ipd", horizon=10), dice(8, lookahead_steps=3)
    assert [c.steps for c in costs_per_update(game, [rule, rule])] == [4 * 80] * 2
    assert steps_per_update(game, [rule, rule]) == (1 + 2 * 3) * 80


@pytree_dataclass
class Peeping(LOLADiCE):
    """Declares less than it asks for."""

    access = Access.ACTIONS


def test_without_access_there_is_nothing_to_imagine():
    rule = Peeping(batch_size=4)
    with pytest.raises(AccessError, match="needs access"):
        run_encounter(make("ipd", horizon=5), [rule, rule], num_seeds=1, num_updates=1)


SMALL = "batch_size=4,network=mlp,hidden=4"


LEARNERS = [f"lola-dice({SMALL},baseline=critic)", f"lola-dice-om({SMALL})"]
# Every learner meets every opponent and enters every game, and every opponent enters every game.
MEETINGS = [
    pytest.param(game, LEARNERS[(i + j) % 2], opponent, id=f"{i}-{j}")
    for i, game in enumerate(("ipd(horizon=4)", "coin-game(horizon=4)"))
    for j, opponent in enumerate((f"naive-pg({SMALL})", "naive-pg(batch_size=4,network=gru)", "ppo", "all-d"))
]


@pytest.mark.parametrize(("game", "learner", "opponent"), MEETINGS)
def test_any_policy_can_be_imagined(game, learner, opponent):
    """Traced only: shapes, access and prices. A model's play is imagined from the first step on."""
    game = make_game(game)
    rules = [make_learner(text, game=game.name).value for text in (learner, opponent)]
    assert costs_per_update(game.value, rules)[0].steps == (3 if "om" in learner else 2) * 4 * 4


# --- inferred opponents -------------------------------------------------------------------


def test_models_stand_in_for_the_opponent_everywhere():
    """With the truth as the model: the own step on imagined play alone, from actions alone."""
    game, (own, other) = sampled.ipd(), sampled.point()
    rule = LOLADiCEOM(lr=0.5, lookahead_lr=ETA, batch_size=32, first_model_steps=0, model_steps=0)
    _, fresh = rule.init(jax.random.key(0), game, 0)
    state = ModellingState(fresh.dice, Models((other,), jnp.ones((), jnp.int32)))
    play_key, own_key = jax.random.split(jax.random.key(4))
    view = sampled.view_of(rule, play_key, 0)
    assert view._access == Access.ACTIONS
    moved, after, _ = jax.jit(lambda: rule.update(own_key, state, view))()
    view = sampled.view_of(rule, play_key, 0)
    policies = [rule.policy(game, j) for j in range(2)]
    expected, _ = jax.jit(lambda: rule.direction(own_key, policies, (own, other), (), view))()
    np.testing.assert_allclose(moved, trees.add(own, expected, 0.5), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(after.models.params[0], other)
