"""Objectives of proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347)."""

from typing import Any

import jax.numpy as jnp
from jax import Array


def clipped_surrogate(log_ratios: Array, advantages: Array, clip: Any) -> Array:
    """``min(ratio A, clip(ratio, 1 - clip, 1 + clip) A)``, elementwise (eq. 7).

    A pessimistic bound on what the change of policy gains: an action is neither made more
    likely beyond ``1 + clip`` for its advantage, nor less likely than ``1 - clip`` against it.

    Args:
      log_ratios: log-probability now minus log-probability when played.
      advantages: of the actions, same shape.
      clip: half width of the interval of ratios, in (0, 1).
    """
    ratios = jnp.exp(log_ratios)
    return jnp.minimum(ratios * advantages, jnp.clip(ratios, 1.0 - clip, 1.0 + clip) * advantages)


def clipped_error(values: Array, old_values: Array, targets: Array, clip: Any) -> Array:
    """Squared error of the values, or of what they are within ``clip`` of the old ones if that is worse."""
    near = old_values + jnp.clip(values - old_values, -clip, clip)
    return jnp.maximum(jnp.square(values - targets), jnp.square(near - targets))
