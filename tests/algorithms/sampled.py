"""Helpers to test sampled learners: views of tabular play at a point, and Monte Carlo means."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from shaping_bench.algorithms.core import Access, View
from shaping_bench.games import make

B = ((0.5, -0.3, 0.8, -1.2, 0.1), (-0.7, 0.4, -0.2, 1.1, -0.9))
"""Test point: logits [start, CC, CD, DC, DD] of both players, own action first."""

GAMMA, STEPS = 0.7, 30
"""What is cut off, 0.7**30 = 2.3e-5 of the value, is far below the noise of any batch here."""


def ipd():
    return make("ipd", gamma=GAMMA, horizon=STEPS)


def point():
    return tuple(jnp.asarray(theta, jnp.result_type(float)) for theta in B)


def view_of(rule, key, player, game=None, params=None, access=None):
    """What ``rule`` sees from a seat when everybody plays by it."""
    game, params = game or ipd(), params or point()
    return View(game, params, player, access or rule.access, learners=(rule,) * len(params), key=key)


def exact_direction(rule, player):
    """Direction of an exact learner at the test point, ``(5,)``."""
    return np.asarray(_exact_direction(rule, point(), player=player))


@functools.partial(jax.jit, static_argnames="player")
def _exact_direction(rule, params, player):
    return rule.direction(View(make("ipd", gamma=GAMMA), params, player, Access.GRADIENTS))


def directions(rule, player, repetitions, seed=0, state=None):
    """``(update - own) / lr`` of many independent updates at the test point, ``(repetitions, 5)``.

    Compiled once for rules that differ in traced fields only; equal calls are answered once.
    """
    if state is None:
        return _directions_at_first(rule, player, repetitions, seed)
    return np.asarray(_directions(rule, state, _keys(seed, repetitions), player=player), np.float64)


@functools.cache
def _directions_at_first(rule, player, repetitions, seed):
    _, state = rule.init(jax.random.key(9), ipd(), player)
    return directions(rule, player, repetitions, seed, state)


def _keys(seed, repetitions):
    return jax.random.split(jax.random.key(seed), repetitions)


@functools.partial(jax.jit, static_argnames="player")
def _directions(rule, state, keys, player):
    def one(key):
        play_key, own_key = jax.random.split(key)
        view = view_of(rule, play_key, player)
        moved, _, _ = rule.update(own_key, state, view)
        return (moved - view.own) / rule.lr

    return jax.lax.map(one, keys, batch_size=max(1, 4096 // rule.batch_size))


def deviation(samples, expected):
    """Of the mean of samples ``(n, d)``, in standard errors, ``(d,)``."""
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    return np.abs(samples.mean(axis=0) - np.asarray(expected)) / error


def agrees(samples, expected):
    assert deviation(samples, expected).max() < 4.0


def disagrees(samples, expected):
    return deviation(samples, expected).max() > 5.0


def slope(rule_of, player, sizes, repetitions):
    """Slope of the logarithm of the noise against that of the batch size."""
    noise = [np.sqrt(directions(rule_of(size), player, repetitions).var(axis=0, ddof=1).sum()) for size in sizes]
    return np.polyfit(np.log(sizes), np.log(noise), 1)[0]
