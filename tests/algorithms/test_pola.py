"""POLA against LOLA-DiCE written by hand, its proximal terms, and its independence of parametrisation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from shaping_bench.algorithms.core import Access, AccessError, View, pytree_dataclass
from shaping_bench.algorithms.core.policy import Tabular
from shaping_bench.algorithms.core.rollouts import observations, rollout
from shaping_bench.algorithms.parts.estimators import gae, loaded_dice
from shaping_bench.algorithms.pola import POLA, POLAOM, Imagination, ModelledState, POLAState
from shaping_bench.games.matrix.repeated import RepeatedGame
from shaping_bench.run.encounter import steps_per_update
from shaping_bench.spec.registry import check_encounter, make_game, make_learner

# The paper's contribution game: a contribution costs 1, the pool grows by 1.33 and is shared.
CONTRIBUTION = RepeatedGame(payoffs=((0.33, -0.335, 0.665, 0.0), (0.33, 0.665, -0.335, 0.0)), gamma=0.9, horizon=8)
THETA = (jnp.array([0.5, -0.3, 0.8, -1.2, 0.1]), jnp.array([-0.7, 0.4, -0.2, 1.1, -0.9]))
CRITICS = (jnp.array([0.3, -0.2, 0.1, 0.4, 0.0]), jnp.array([-0.1, 0.2, 0.5, 0.0, 0.3]))
RULE = POLA(batch_size=64, outer_steps=1, lookahead_steps=1, lookahead_lr=0.7, kl_inner=0.0, kl_outer=0.0)


def imagination(rule: POLA) -> Imagination:
    policies, critics = (tuple(make(CONTRIBUTION, i) for i in range(2)) for make in (rule.policy, rule.critic))
    return Imagination(view(rule), policies, critics, THETA, rule.lam)


def view(rule: POLA, params: tuple[Array, ...] = THETA, player: int = 0, access: Access = Access.SIMULATOR) -> View:
    return View(CONTRIBUTION, params, player, access, learners=(rule, rule), key=jax.random.key(5))


def slopes(rule: POLA, me: int, key: Array, x: Array | None = None) -> Array:
    return _slopes(rule, key, THETA[me] if x is None else x, me=me)


@functools.partial(jax.jit, static_argnames="me")
def _slopes(rule: POLA, key: Array, x: Array, me: int) -> Array:
    return rule.gradient(key, imagination(rule), me, x, CRITICS[me], CRITICS[1 - me])[0][0]


@functools.partial(jax.jit, static_argnames=("me", "batch_size"))
def lola_dice(me: int, key: Array, eta: float, batch_size: int) -> Array:
    """One look-ahead, both objectives loaded DiCE with the log-probabilities of both players."""
    game, policies = CONTRIBUTION, (Tabular(5), Tabular(5))
    inner_key, outer_key = jax.random.split(key)

    def value(player: int, params: tuple[Array, ...], key: Array) -> Array:
        play = rollout(key, game, policies, params, batch_size)
        seen = [observations(game, play, i) for i in range(2)]
        log_probs = [policies[i].unroll(params[i], seen[i][:-1]).log_prob(play.actions[..., i]) for i in range(2)]
        values = CRITICS[player][seen[player]]
        advantages = gae(play.rewards[..., player], values[:-1], values[-1], game.gamma, 1.0)
        return jnp.mean(loaded_dice(jnp.stack(log_probs, axis=-1), advantages, game.gamma))

    def ahead(x: Array) -> Array:
        def joint(y: Array) -> tuple[Array, ...]:
            return (x, y) if me == 0 else (y, x)

        y = THETA[1 - me]
        y = y + eta * jax.grad(lambda y: value(1 - me, joint(y), jax.random.split(inner_key, 1)[0]))(y)
        return value(me, joint(y), outer_key)

    return jax.grad(ahead)(THETA[me])


@pytest.mark.parametrize("me", [0, 1])
def test_one_step_of_each_without_divergence_is_lola_dice(me):
    key = jax.random.key(3)
    np.testing.assert_allclose(slopes(RULE, me, key), lola_dice(me, key, 0.7, 64), rtol=2e-4, atol=1e-5)


def test_the_look_ahead_is_differentiated_through():
    key = jax.random.key(4)
    blind = dataclasses.replace(RULE, lookahead_lr=0.0)
    naive = slopes(blind, 1, key)
    frozen = slopes(dataclasses.replace(RULE, lookahead_lr=1e-3), 1, key)
    far = slopes(dataclasses.replace(RULE, lookahead_lr=5.0), 1, key)
    assert np.abs(frozen - naive).max() < 1e-3
    assert np.abs(far - naive).max() > 0.1


def test_a_divergence_matters_from_the_second_step_on():
    key, me = jax.random.key(4), 1
    heavy = dataclasses.replace(RULE, kl_inner=50.0, kl_outer=50.0)
    np.testing.assert_allclose(slopes(heavy, me, key), slopes(RULE, me, key), rtol=1e-4, atol=1e-5)
    two, two_heavy = (
        dataclasses.replace(r, lookahead_steps=2) for r in (RULE, dataclasses.replace(heavy, kl_outer=0.0))
    )
    assert np.abs(slopes(two, me, key) - slopes(two_heavy, me, key)).max() > 1e-2
    away = THETA[me] + 0.5
    assert np.abs(slopes(heavy, me, key, away) - slopes(RULE, me, key, away)).max() > 1.0
    towards = slopes(heavy, me, key, away) - slopes(RULE, me, key, away)
    assert (np.asarray(towards) <= 1e-6).all()  # back to the reference, below in every coordinate


@jax.jit
def updated(rule: POLA, params: tuple[Array, ...]) -> Array:
    return rule.update(jax.random.key(2), POLAState(*CRITICS), view(rule, params))[0]


def test_the_outer_weight_has_no_effect_on_a_single_step():
    light, heavy = (
        dataclasses.replace(RULE, kl_outer=weight, outer_steps=1, optimiser="sgd") for weight in (0.0, 100.0)
    )
    a, b = (updated(rule, THETA) for rule in (light, heavy))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    a, b = (updated(dataclasses.replace(rule, outer_steps=5), THETA) for rule in (light, heavy))
    assert np.abs(a - b).max() > 1e-2
    assert np.linalg.norm(b - THETA[0]) < np.linalg.norm(a - THETA[0])


def test_the_objective_of_the_critic_is_the_squared_error_of_the_bootstrapped_return():
    world = imagination(RULE)
    play = world.play(jax.random.key(1), THETA, 16)
    _, (kl, error) = world.objective(0, THETA, CRITICS[0], play, 0.0)
    values = np.asarray(CRITICS[0])[np.asarray(play.observations(0))]
    returns = values[-1]
    total = 0.0
    for t in reversed(range(CONTRIBUTION.horizon)):
        returns = np.asarray(play.rewards(0)[t]) + 0.9 * returns
        total = total + (returns - values[t]) ** 2
    np.testing.assert_allclose(error, total.mean(), rtol=1e-5)
    np.testing.assert_allclose(kl, 0.0, atol=1e-6)


@dataclasses.dataclass(frozen=True)
class Mixed(Tabular):
    """Memory-one policies whose logits are ``Q theta``: the same policies, other coordinates."""

    @staticmethod
    def mixing() -> np.ndarray:
        mixing = np.eye(5)
        mixing[1:, 4] = (-1.0, -1.0, -1.0, 1.0)  # as the paper's preconditioner, a column of one state
        return mixing

    def unroll(self, params, seen):
        return super().unroll(jnp.asarray(self.mixing(), params.dtype) @ params, seen)


@pytree_dataclass
class MixedPOLA(POLA):
    def policy(self, game, player):
        return Mixed(5)


def moved(rule: POLA, start: tuple[Array, ...]) -> np.ndarray:
    """Probabilities of player 1 after one update."""
    mixing = Mixed.mixing() if isinstance(rule, MixedPOLA) else np.eye(5)
    return np.asarray(jax.nn.sigmoid(jnp.asarray(mixing @ np.asarray(updated(rule, start)))))


def test_the_proximal_step_does_not_depend_on_the_parametrisation():
    unmixed = tuple(jnp.asarray(np.linalg.solve(Mixed.mixing(), np.asarray(theta)), jnp.float32) for theta in THETA)
    # Without a look-ahead, so that few steps solve the problem; play is the same for equal policies.
    common = {"batch_size": 2048, "optimiser": "sgd", "lookahead_steps": 1, "lookahead_lr": 0.0, "critic_lr": 0.0}
    solved = {**common, "lr": 0.3, "outer_steps": 200, "kl_outer": 10.0}
    single = {**common, "lr": 1.0, "outer_steps": 1, "kl_outer": 0.0}
    start = np.asarray(jax.nn.sigmoid(THETA[0]))
    proximal, proximal_mixed = moved(POLA(**solved), THETA), moved(MixedPOLA(**solved), unmixed)
    gradient, gradient_mixed = moved(POLA(**single), THETA), moved(MixedPOLA(**single), unmixed)
    apart = np.abs(gradient - gradient_mixed).max() / np.abs(gradient - start).max()
    together = np.abs(proximal - proximal_mixed).max() / np.abs(proximal - start).max()
    assert apart > 1.0
    assert together < 0.1


def test_access_and_seats_are_checked():
    with pytest.raises(AccessError, match="simulator"):
        RULE.update(jax.random.key(0), POLAState(*CRITICS), view(RULE, access=Access.GRADIENTS))
    three = make_game("public-goods")
    with pytest.raises(ValueError, match="2 players"):
        check_encounter(three, [make_learner("pola")] * 3)


def test_imagined_steps_are_priced():
    rule = dataclasses.replace(RULE, batch_size=4, outer_steps=3, lookahead_steps=2)
    # Each outer step plays twice for the look-ahead and once itself; both players do.
    assert steps_per_update(CONTRIBUTION, (rule, rule)) == 2 * 3 * (2 + 1) * 4 * CONTRIBUTION.horizon


def test_the_model_finds_what_the_opponent_plays():
    """From its actions alone: the access would not show its parameters."""
    rule = POLAOM(batch_size=128, model_batches=60, model_lr=0.1, outer_steps=1, lookahead_steps=1)
    seen = view(rule, access=Access.ACTIONS)
    with pytest.raises(AccessError):
        seen.params  # noqa: B018
    model, loss = jax.jit(lambda: rule._fitted(jnp.zeros(5), view(rule, access=Access.ACTIONS)))()
    np.testing.assert_allclose(jax.nn.sigmoid(model), jax.nn.sigmoid(THETA[1]), atol=0.08)
    assert 0.4 < loss < np.log(2.0)


def test_with_a_perfect_model_pola_om_is_pola():
    plain = dataclasses.replace(RULE, outer_steps=5, optimiser="sgd")
    exact = POLAOM(**{f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}, model_lr=0.0, model_batches=1)
    state = ModelledState(POLAState(*CRITICS), THETA[1])
    got = jax.jit(lambda: exact.update(jax.random.key(2), state, view(exact, access=Access.ACTIONS))[0])()
    np.testing.assert_allclose(got, updated(plain, THETA), rtol=1e-4, atol=1e-5)
