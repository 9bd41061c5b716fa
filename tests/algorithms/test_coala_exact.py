"""COALA in exact games: derivatives through everybody's updates, by hand."""

import jax
import numpy as np
import pytest

from shaping_bench.algorithms.coala_exact import COALAExact
from shaping_bench.algorithms.core import Access, View
from shaping_bench.games import make


@pytest.mark.usefixtures("float64")
def test_the_analytic_shaping_term_is_the_derivative_through_everybodys_updates():
    """In tandem, ``V_1 = 2x - s^2``, every naive step is ``y += eta (2 - 2s)``; by hand."""
    game, rule = make("tandem", init_std=0.0), COALAExact(naive_lr=0.1, naive_steps=3)
    value, slope = jax.jit(jax.value_and_grad(lambda x: rule.naive_value(jax.random.key(0), (x,), game, 0)))(0.4)
    x, y, dy, values, slopes = 0.4, 0.0, 0.0, [], []
    for _ in range(4):
        values.append(2 * x - (x + y) ** 2)
        slopes.append(2 - 2 * (x + y) * (1 + dy))
        y, dy = y + 0.1 * (2 - 2 * (x + y)), dy - 0.2 * (1 + dy)
    np.testing.assert_allclose([value, slope], [np.mean(values), np.mean(slopes)], atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_without_naive_company_the_agent_ascends_its_own_value():
    game = make("tandem")
    view = View(game, ((0.3,), (0.1,)), 0, Access.GRADIENTS)
    (got,) = COALAExact(naive_share=0.0, naive_steps=0).direction(view, jax.random.key(0))
    np.testing.assert_allclose(got, 2 - 2 * 0.4, atol=1e-12)
