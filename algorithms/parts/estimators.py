"""Estimators of values, gradients and cross derivatives from sampled play.

Arrays are time-major: axis 0 is time ``T``, what follows is batch, usually ``[T, B]``, and
the players come last where there are several, ``[T, B, n_players]``. A column of the batch
is one episode from its start. ``gamma`` and ``lam`` may be traced.

Where episodes may end early, ``alive``, ``[T + 1, B]``, says of each step whether it is played, and
of the end whether the episode goes on after it (``play.alive``); rewards after an end are 0. What is
estimated is then the same however long the batch is padded. Without it all steps count.

Objectives return one number per episode, ``[B]``: take the mean over the batch, then
differentiate. Everything ascends. With the score of player i, ``c_i,t = sum_{l<=t} log pi_i,l``:

====================  ==============================================  =========================
objective             per episode                                     derivatives that are right
====================  ==============================================  =========================
score_function        sum_t gamma^t (R_t - b_t) log pi_t              first
lola_pg_surrogate     sum_t gamma^t (r_t - b_t) c_i,t c_j,t           cross, d2 / d i d j
dice_objective        sum_t gamma^t r_t box(sum_i c_i,t)              value and all
loaded_dice           sum_t gamma^t A_t (box(c_t) - box(c_t-1))       all (its value is 0)
====================  ==============================================  =========================

Sources: Foerster et al., AAMAS 2018, equations 4.5 to 4.7 (score function, LOLA-PG);
Foerster et al., ICML 2018 (DiCE); Farquhar et al., NeurIPS 2019 (Loaded DiCE); Schulman et
al., ICLR 2016 (GAE); Sutton & Barto 2018, chapter 12 (lambda-returns).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax


def _check_shapes(**arrays: Array) -> None:
    """Raises ``ValueError`` unless all shapes are equal: broadcasting would hide a mistake."""
    shapes = {name: jnp.shape(x) for name, x in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError("shapes must agree: " + ", ".join(f"{name} is {shape}" for name, shape in shapes.items()))


def _discounted_sum(x: Array, gamma: Any) -> Array:
    """``sum_t gamma^t x_t``: ``[T, ...] -> [...]``."""
    time = jnp.arange(x.shape[0]).reshape((-1,) + (1,) * (x.ndim - 1))
    return jnp.sum(jnp.asarray(gamma, x.dtype) ** time * x, axis=0)


def _running_sum(x: Array) -> Array:
    """``sum_{l<=t} x_l``: ``[T, ...] -> [T, ...]``. A scan, for it takes one pass over memory;
    ``cumsum`` on CPUs is a tree of slices, ten times as slow."""

    def add(total: Array, now: Array) -> tuple[Array, Array]:
        total = total + now
        return total, total

    return lax.scan(add, jnp.zeros_like(x[0]), x)[1]


# --- steps that count ---------------------------------------------------------------------


def played(x: Array, alive: Array | None) -> Array:
    """``x`` ``[T, ...]`` with 0 where no step is played."""
    return x if alive is None else jnp.where(alive[:-1], x, jnp.zeros_like(x))


def step_mean(x: Array, alive: Array | None) -> Array:
    """Mean of ``x`` ``[T, B]`` over all steps that are played."""
    if alive is None:
        return jnp.mean(x)
    return jnp.sum(played(x, alive)) / jnp.maximum(jnp.sum(alive[:-1]), 1)


def step_deviation(x: Array, alive: Array | None) -> Array:
    """Standard deviation of ``x`` ``[T, B]`` over all steps that are played."""
    if alive is None:
        return jnp.std(x)
    return jnp.sqrt(step_mean(jnp.square(x - step_mean(x, alive)), alive))


# --- returns and advantages ---------------------------------------------------------------


def lambda_returns(
    rewards: Array, values: Array, bootstrap: Array, gamma: Any, lam: Any, alive: Array | None = None
) -> Array:
    """``G_t = r_t + gamma ((1 - lam) V_{t+1} + lam G_{t+1})`` with ``G_T = V_T``.

    ``lam=1`` is the discounted return, ``lam=0`` the one-step target. Differentiable in the
    values; targets of a critic want them stopped.

    Args:
      rewards: ``[T, ...]``.
      values: of the states in which the rewards were earned, ``[T, ...]``.
      bootstrap: value of the state after the last step, ``[...]``.
      gamma: discount.
      lam: weight of the longer returns, in [0, 1].
      alive: ``[T + 1, ...]``: nothing after the end of an episode counts, the bootstrap included.

    Returns:
      ``[T, ...]``.
    """
    _check_shapes(rewards=rewards, values=values)
    _check_shapes(bootstrap=bootstrap, one_step_of_values=values[0])
    goes_on = jnp.ones_like(rewards) if alive is None else jnp.asarray(alive[1:], rewards.dtype)
    _check_shapes(rewards=rewards, alive_after=goes_on)
    next_values = jnp.concatenate([values[1:], bootstrap[None]])

    def backwards(later: Array, step: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        reward, next_value, on = step
        here = reward + gamma * on * ((1.0 - lam) * next_value + lam * later)
        return here, here

    return lax.scan(backwards, bootstrap, (rewards, next_values, goes_on), reverse=True)[1]


def discounted_returns(rewards: Array, gamma: Any, bootstrap: Array | None = None, alive: Array | None = None) -> Array:
    """``R_t = sum_{l>=t} gamma^{l-t} r_l``, plus ``gamma^{T-t}`` times the bootstrap.

    Args:
      rewards: ``[T, ...]``.
      gamma: discount.
      bootstrap: value of the state after the last step, ``[...]``; nothing by default.
      alive: ``[T + 1, ...]``; nothing comes after an end.

    Returns:
      ``[T, ...]``.
    """
    last = jnp.zeros_like(rewards[0]) if bootstrap is None else bootstrap
    return lambda_returns(rewards, jnp.zeros_like(rewards), last, gamma, 1.0, alive)


def gae(rewards: Array, values: Array, bootstrap: Array, gamma: Any, lam: Any, alive: Array | None = None) -> Array:
    """Generalised advantages ``A_t = sum_{l>=t} (gamma lam)^{l-t} (r_l + gamma V_{l+1} - V_l)``.

    The values are held constant: a gradient through them is not part of the policy gradient.

    Args and shapes as in ``lambda_returns``, of which this is the excess over the values.
    """
    values, bootstrap = lax.stop_gradient((values, bootstrap))
    return played(lambda_returns(rewards, values, bootstrap, gamma, lam, alive) - values, alive)


def leave_one_out(x: Array, alive: Array | None = None) -> Array:
    """Mean over the other episodes that are still played: ``[T, B] -> [T, B]``; 0 where there is none.

    As a baseline it keeps every estimator unbiased, an episode's own sample being no part
    of it; the plain mean over the batch would shrink gradients by ``(B - 1) / B``.

    Raises:
      ValueError: fewer than two episodes.
    """
    batch_size = x.shape[1]
    if batch_size < 2:
        raise ValueError(f"a leave-one-out baseline needs at least 2 episodes, the batch has {batch_size}")
    if alive is None:
        return (jnp.sum(x, axis=1, keepdims=True) - x) / (batch_size - 1)
    mine, counted = played(x, alive), alive[:-1].astype(x.dtype)
    others = jnp.sum(counted, axis=1, keepdims=True) - counted
    return (jnp.sum(mine, axis=1, keepdims=True) - mine) / jnp.maximum(others, 1.0)


# --- objectives ---------------------------------------------------------------------------


def score_function(
    log_probs: Array, returns: Array, gamma: Any, baselines: Array | None = None, alive: Array | None = None
) -> Array:
    """Policy-gradient surrogate ``sum_t gamma^t (R_t - b_t) log pi_t`` (LOLA paper, eq. 4.5).

    Only its first derivative means anything: the cross derivative of a plain surrogate, even
    one with the log-probabilities of all players, is zero, which makes a LOLA learner naive.

    Args:
      log_probs: of the own actions, ``[T, B]``.
      returns: discounted returns, or advantages, ``[T, B]``; held constant.
      gamma: discount. Its powers belong to the gradient of the discounted value.
      baselines: ``[T, B]``, independent of the action at t and of what follows: values of
        the states, or ``leave_one_out(returns)``.
      alive: ``[T + 1, B]``; steps that are not played have no gradient.

    Returns:
      ``[B]``.
    """
    advantages = played(returns if baselines is None else returns - baselines, alive)
    _check_shapes(log_probs=log_probs, returns=returns, advantages=advantages)
    return _discounted_sum(lax.stop_gradient(advantages) * log_probs, gamma)


def lola_pg_surrogate(
    own_log_probs: Array,
    other_log_probs: Array,
    rewards: Array,
    gamma: Any,
    baselines: Array | None = None,
    alive: Array | None = None,
) -> Array:
    """Surrogate of the cross derivative ``grad_i grad_j V`` (LOLA paper, eq. 4.6).

    ``sum_t gamma^t (r_t - b_t) (sum_{l<=t} log pi_i,l) (sum_{l<=t} log pi_j,l)``; with more
    players it holds for each pair. No other derivative of it means anything.

    Args:
      own_log_probs: of player i's actions, ``[T, B]``.
      other_log_probs: of player j's actions, ``[T, B]``.
      rewards: of the player whose value is meant (in LOLA: j), ``[T, B]``.
      gamma: discount.
      baselines: of the single reward, ``[T, B]``; independent of the episode altogether (a
        state is the outcome of earlier scores): a constant, or ``leave_one_out(rewards)``.
      alive: ``[T + 1, B]``; what is not played has no part in it.

    Returns:
      ``[B]``.
    """
    centred = played(rewards if baselines is None else rewards - baselines, alive)
    _check_shapes(own_log_probs=own_log_probs, other_log_probs=other_log_probs, rewards=rewards, centred=centred)
    scores = _running_sum(own_log_probs) * _running_sum(other_log_probs)
    return _discounted_sum(lax.stop_gradient(centred) * scores, gamma)


def magic_box(x: Array) -> Array:
    """``exp(x - stop_gradient(x))``: 1, but its derivative is itself times that of ``x``."""
    return jnp.exp(x - lax.stop_gradient(x))


def dice_objective(
    log_probs: Array, rewards: Array, gamma: Any, baselines: Array | None = None, alive: Array | None = None
) -> Array:
    """DiCE: ``sum_t gamma^t r_t box(sum_{l<=t} sum_i log pi_i,l)``; derivatives of every order.

    With baselines, ``sum_t gamma^t b_t (1 - box(sum_i log pi_i,t))`` is added. It is zero,
    and so is the expectation of all its derivatives. It is made to lower the variance of the
    first derivative; for higher ones ``loaded_dice`` does better.

    Args:
      log_probs: of the actions of *all* players, ``[T, B, n_players]``. Without those of the
        others the cross derivatives vanish.
      rewards: of the player whose value is meant, ``[T, B]``.
      gamma: discount.
      baselines: of the return ``R_t``, ``[T, B]``, independent of the actions at t and of
        what follows; held constant.
      alive: ``[T + 1, B]``; what is not played has no part in it.

    Returns:
      ``[B]``, the discounted returns.
    """
    joint = jnp.sum(log_probs, axis=-1)
    _check_shapes(one_player_of_log_probs=joint, rewards=rewards)
    objective = lax.stop_gradient(rewards) * magic_box(_running_sum(joint))
    if baselines is not None:
        _check_shapes(rewards=rewards, baselines=baselines)
        objective += lax.stop_gradient(played(baselines, alive)) * (1.0 - magic_box(joint))
    return _discounted_sum(objective, gamma)


def loaded_dice(log_probs: Array, advantages: Array, gamma: Any) -> Array:
    """Loaded DiCE: ``sum_t gamma^t A_t (box(c_t) - box(c_{t-1}))``, ``c_t`` as in DiCE.

    With GAE's ``lam=1`` the expectations of its derivatives of every order are those of the
    value, whatever the critic; with smaller ``lam`` bias buys variance, at every order. Advantages
    of steps that are not played are 0, as ``gae`` has them.

    Args:
      log_probs: of the actions of all players, ``[T, B, n_players]``.
      advantages: of the player whose value is meant, ``[T, B]``; held constant.
      gamma: discount.

    Returns:
      ``[B]``, zeros: what counts are the derivatives.
    """
    joint = jnp.sum(log_probs, axis=-1)
    _check_shapes(one_player_of_log_probs=joint, advantages=advantages)
    box = magic_box(_running_sum(joint))
    before = jnp.concatenate([jnp.ones_like(box[:1]), box[:-1]])
    return _discounted_sum(lax.stop_gradient(advantages) * (box - before), gamma)


def cross_product(objective: Callable[[Any, Any], Array], own: Any, other: Any, vector: Any) -> Any:
    """``(grad_own grad_other objective) vector`` without the matrix: LOLA's shaping term.

    For eq. 4.7 the objective is the mean of ``lola_pg_surrogate``, the vector an estimate of
    what the other's step is worth, ``grad_j V_i``. Take the two from independent batches: on
    one batch their covariance is a bias.

    Args:
      objective: scalar function of own and other parameters (trees).
      own: point of the own parameters.
      other: point of the other's parameters.
      vector: like ``other``; held constant.

    Returns:
      Like ``own``.
    """
    vector = lax.stop_gradient(vector)

    def slope(own: Any) -> Array:
        # Backwards twice: networks whose derivative is written by hand have no other.
        along = jax.grad(objective, argnums=1)(own, other)
        return jax.tree.reduce(jnp.add, jax.tree.map(jnp.vdot, along, vector))

    return jax.grad(slope)(own)
