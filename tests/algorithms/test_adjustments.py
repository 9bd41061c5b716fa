"""Gradient adjustments and the elimination they rest on: matrix formulas, vectors, closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shaping_bench.algorithms.core import Access, View, with_info
from shaping_bench.algorithms.parts import joint
from shaping_bench.games.differentiable import OneShotGame
from shaping_bench.games.matrix.repeated import RepeatedGame
from shaping_bench.run.encounter import run_encounter
from shaping_bench.spec.registry import make_game, make_learner

pytestmark = pytest.mark.usefixtures("float64")


@functools.partial(jax.jit, static_argnames="spec")
def joint_direction(game, params, spec):
    rule = make_learner(spec).value
    views = [View(game, params, i, rule.access) for i in range(game.n_players)]
    return jnp.concatenate([jnp.stack(list(with_info(rule.direction(v))[0])) for v in views])


def losses_gradient_and_hessian(game, params):
    """xi and H of the joint losses by plain autodiff of the concatenated parameters."""
    cuts = np.cumsum([len(theta) for theta in params])[:-1]

    def split(x):
        return tuple(jnp.split(x, cuts))

    owner = np.repeat(np.arange(len(params)), [len(theta) for theta in params])

    def xi(x):
        table = jax.jacrev(lambda x: -game.values(split(x)))(x)
        return table[owner, np.arange(owner.size)]

    x = jnp.concatenate(params)
    h = jax.jacfwd(xi)(x)
    return xi(x), h, jnp.where(owner[:, None] == owner[None], 0.0, h), owner


_losses = jax.jit(lambda game, params: losses_gradient_and_hessian(game, params)[:3])


def expected(spec, xi, h, off, lr=1.0, eps=0.1, ridge=0.1):
    """The published matrix formulas for the losses; the direction in values is minus that."""
    eye = np.eye(xi.size)
    if spec == "naive":
        return -xi
    if spec == "lookahead":
        return -(eye - lr * off) @ xi
    if spec == "cgd":
        return -np.linalg.solve(eye + lr * off, xi)
    if spec == "consensus":
        return -(xi + h.T @ xi)
    if spec == "sga":
        antisymmetric = 0.5 * (h - h.T)
        adjustment = antisymmetric.T @ xi
        pull = h.T @ xi
        return -(xi + np.sign(np.dot(xi, pull) * np.dot(adjustment, pull) / xi.size + eps) * adjustment)
    if spec == "lss":
        inverse = np.linalg.inv(h) if np.linalg.det(h) != 0 else np.linalg.solve(h.T @ h + ridge * eye, h.T)
        return -0.5 * (eye + h.T @ inverse) @ xi
    raise AssertionError(spec)


@pytest.mark.parametrize("spec", ["lookahead", "sga", "consensus", "cgd", "lss"])
def test_rules_equal_their_matrix_formulas(spec):
    rng = np.random.default_rng(5)
    for _ in range(6):
        payoffs = tuple(tuple(map(float, row)) for row in rng.normal(size=(2, 4)))
        game = RepeatedGame(payoffs=payoffs, gamma=0.9)
        params = tuple(jnp.array(rng.normal(size=5)) for _ in range(2))
        xi, h, off = map(np.asarray, _losses(game, params))
        want = expected(spec, xi, h, off)
        got = joint_direction(game, params, spec)
        # An ill-conditioned H amplifies rounding in LSS, in both computations.
        tolerance = 1e-10 if spec != "lss" else 1e-15 * np.linalg.cond(h) * 100 + 1e-10
        np.testing.assert_allclose(got, want, atol=tolerance * max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("spec", ["lookahead", "sga", "consensus", "cgd", "lss"])
def test_rules_of_three_players_equal_their_matrix_formulas(spec):
    rng = np.random.default_rng(0)
    game = OneShotGame(payoffs=tuple(tuple(map(float, row)) for row in rng.normal(size=(3, 8))))
    params = tuple(jnp.array(rng.normal(size=1)) for _ in range(3))
    xi, h, off = map(np.asarray, _losses(game, params))
    np.testing.assert_allclose(joint_direction(game, params, spec), expected(spec, xi, h, off), atol=1e-11)


# --- elimination ---------------------------------------------------------------------------


@given(st.integers(1, 14).flatmap(lambda n: arrays(float, (n, n + 1), elements=st.floats(-5, 5))))
def test_solve_agrees_with_lapack(system):
    matrix, b = system[:, :-1], system[:, -1]
    if np.linalg.cond(matrix) > 1e4:
        matrix = matrix + 20.0 * np.eye(len(b))[::-1]  # well conditioned, and it needs pivoting
    if np.linalg.cond(matrix) > 1e5:
        return
    x, determinant = joint.solve(jnp.array(matrix), jnp.array(b))
    want = np.linalg.solve(matrix, b)
    np.testing.assert_allclose(x, want, atol=1e-10 * max(1.0, np.abs(want).max()))
    np.testing.assert_allclose(determinant, abs(np.linalg.det(matrix)), rtol=1e-9)


def test_solve_of_a_batch_and_its_derivative():
    rng = np.random.default_rng(1)
    matrices, b = rng.normal(size=(50, 10, 10)), rng.normal(size=(50, 10))
    x, _ = jax.jit(jax.vmap(joint.solve))(matrices, b)
    np.testing.assert_allclose(x, np.linalg.solve(matrices, b[..., None])[..., 0], atol=1e-10)
    derivative = jax.jacrev(lambda m: joint.solve(m, b[0])[0])(jnp.array(matrices[0]))
    exact = jax.jacrev(lambda m: jnp.linalg.solve(m, b[0]))(jnp.array(matrices[0]))
    np.testing.assert_allclose(derivative, exact, atol=1e-8)


def test_a_singular_matrix_has_determinant_zero_and_a_finite_answer():
    x, determinant = joint.solve(jnp.array([[1.0, 1.0], [1.0, 1.0]]), jnp.array([1.0, 2.0]))
    assert determinant == 0
    assert np.isfinite(x).all()


# --- vectors and closed forms --------------------------------------------------------------


def run(game, learner, init, steps):
    rule = make_learner(learner).value
    o = run_encounter(
        make_game(game).value,
        [rule, rule],
        num_seeds=1,
        num_updates=steps,
        record_every=1,
        init=[np.array(theta) for theta in init],
        precision="float64",
    )
    return [theta[:, 0, 0] for theta in o.params]


def test_competitive_gradient_descent_on_matching_pennies():
    x, y = run("matching-pennies", "cgd", [[0.5], [-0.3]], 10)
    np.testing.assert_allclose((x[1], y[1]), (0.540330698212726, -0.170987424246767), atol=1e-14)
    np.testing.assert_allclose((x[10], y[10]), (-0.117827421257661, 0.428684911386348), atol=1e-13)


ALPHA, RIDGE = 0.1, 0.1
FACTORS = {
    "naive(lr=0.1)": 1 - 4 * ALPHA,
    "lookahead(lr=0.1,lookahead_lr=0.1)": 1 - 4 * ALPHA * (1 - 2 * ALPHA),
    "cgd(lr=0.1)": 1 - 4 * ALPHA / (1 + 2 * ALPHA),
    "extragradient(lr=0.1)": 1 - 4 * ALPHA * (1 - 4 * ALPHA),
    "consensus(lr=0.1)": 1 - 4 * ALPHA * (1 + 4),
    "sga(lr=0.1)": 1 - 4 * ALPHA,
    "lss(lr=0.1)": 1 - 2 * ALPHA * (1 + 16 / (16 + RIDGE)),  # H is singular on tandem
}


@pytest.mark.parametrize("learner", FACTORS)
def test_contraction_on_tandem(learner):
    x, y = run("tandem", learner, [[0.7], [-0.4]], 4)
    np.testing.assert_allclose(x + y - 1, (0.3 - 1) * FACTORS[learner] ** np.arange(5), atol=1e-12)
    np.testing.assert_allclose(x - y, 1.1, atol=1e-12)


def test_symplectic_adjustment_and_lookahead_coincide_on_matching_pennies():
    sga = run("matching-pennies", "sga", [[0.5], [-0.3]], 20)
    lookahead = run("matching-pennies", "lookahead", [[0.5], [-0.3]], 20)
    np.testing.assert_allclose(sga, lookahead, atol=1e-12)


def test_naive_leaves_the_cycle_and_extragradient_does_not():
    x, y = run("hamiltonian", "naive(lr=0.1)", [[0.5], [-0.3]], 10)
    np.testing.assert_allclose(x**2 + y**2, 0.34 * (1 + 0.1**2) ** np.arange(11), rtol=1e-12)
    x, y = run("hamiltonian", "extragradient(lr=0.1)", [[0.5], [-0.3]], 10)
    np.testing.assert_allclose(x**2 + y**2, 0.34 * ((1 - 0.1**2) ** 2 + 0.1**2) ** np.arange(11), rtol=1e-12)


def test_joint_products_equal_the_dense_jacobian():
    game = make_game("ipd").value
    rng = np.random.default_rng(3)
    params = tuple(jnp.array(rng.normal(size=5)) for _ in range(2))
    v = tuple(jnp.array(rng.normal(size=5)) for _ in range(2))
    seen = View(game, params, 0, Access.GRADIENTS)
    dense = np.asarray(joint.jacobian(seen))
    np.testing.assert_allclose(dense, -np.asarray(_losses(game, params)[1]), atol=1e-9)
    np.testing.assert_allclose(np.concatenate(joint.jacobian_product(seen, v)), dense @ np.concatenate(v), atol=1e-9)
    np.testing.assert_allclose(
        np.concatenate(joint.transposed_jacobian_product(seen, v)), dense.T @ np.concatenate(v), atol=1e-9
    )
