"""Naive learning by Adam is the published recursion on the exact gradient."""

import jax
import jax.numpy as jnp
import numpy as np

from shaping_bench.algorithms.naive import Naive
from shaping_bench.games import make
from shaping_bench.run.encounter import run_encounter

START = [np.array([0.3, -0.5, 1.0, 0.2, -1.0]), np.array([-0.2, 0.7, 0.1, -0.9, 0.4])]


def adam_by_hand(game, params, lr, steps, decay=(0.9, 0.999), epsilon=1e-8):
    """Kingma & Ba, algorithm 1, ascending, for everybody at once."""
    first, second = [np.zeros(5) for _ in params], [np.zeros(5) for _ in params]
    params = [x.copy() for x in params]
    for t in range(1, steps + 1):
        slopes = [
            np.asarray(jax.grad(lambda x, i=i: game.value([*params[:i], x, *params[i + 1 :]], i))(jnp.asarray(theta)))
            for i, theta in enumerate(params)
        ]
        for i, g in enumerate(slopes):
            first[i] = decay[0] * first[i] + (1 - decay[0]) * g
            second[i] = decay[1] * second[i] + (1 - decay[1]) * g**2
            m, v = first[i] / (1 - decay[0] ** t), second[i] / (1 - decay[1] ** t)
            params[i] = params[i] + lr * m / (np.sqrt(v) + epsilon)
    return params


def test_adam_is_the_published_recursion(float64):
    game = make("ipd", gamma=0.8)
    outcome = run_encounter(
        game, [Naive(lr=0.2, optimiser="adam")] * 2, num_seeds=1, num_updates=4, init=START, precision="float64"
    )
    for got, expected in zip(outcome.final, adam_by_hand(game, START, 0.2, 4), strict=True):
        np.testing.assert_allclose(got[0], expected, rtol=1e-9)


def test_adam_does_not_see_the_scale_of_the_payoffs():
    def final(factor, optimiser):
        payoffs = tuple(tuple(factor * x for x in row) for row in make("ipd").payoffs)
        rules = [Naive(lr=0.1, optimiser=optimiser)] * 2
        return run_encounter(make("matrix", payoffs=payoffs), rules, num_seeds=2, num_updates=3).final[0]

    np.testing.assert_allclose(final(100.0, "adam"), final(1.0, "adam"), rtol=1e-3)
    assert np.abs(final(100.0, "sgd") - final(1.0, "sgd")).max() > 1.0
