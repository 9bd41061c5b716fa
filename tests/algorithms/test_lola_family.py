"""LOLA, its relatives and HOLA against published vectors, finite differences and identities.

The vectors of games A, B, C and IMP were computed in float64 from the formulas of the LOLA
paper (section 4) by code independent of this package; those of tandem and of the cyclic
games are closed forms.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shaping_bench.algorithms.core import Access, View, with_info
from shaping_bench.games import make
from shaping_bench.games.matrix.public_goods import PublicGoods
from shaping_bench.games.matrix.repeated import RepeatedGame
from shaping_bench.run.encounter import run_encounter
from shaping_bench.spec.registry import make_game, make_learner

pytestmark = pytest.mark.usefixtures("float64")

A = ((0.0,) * 5, (0.0,) * 5)
B = ((0.5, -0.3, 0.8, -1.2, 0.1), (-0.7, 0.4, -0.2, 1.1, -0.9))
C = ((2.0, 3.0, -3.0, 2.5, -2.0), (1.5, 2.0, -2.5, 3.0, -3.0))


@functools.cache
def _compiled(game_spec, learner_spec, player):
    game, rule = make_game(game_spec).value, make_learner(learner_spec).value
    return jax.jit(lambda params: with_info(rule.direction(View(game, params, player, rule.access)))[0])


def direction(game_spec, learner_spec, params, player):
    params = tuple(jnp.array(theta) for theta in params)
    return np.asarray(_compiled(game_spec, learner_spec, player)(params))


def view(game, params, player=0):
    return View(game, tuple(jnp.asarray(theta) for theta in params), player, Access.SIMULATOR)


def close(got, expected, digits=6):
    np.testing.assert_allclose(np.asarray(got), expected, rtol=0, atol=0.51 * 10.0**-digits)


VECTORS = [
    # game, point, player (from 1), learner, direction
    ("ipd", A, 1, "lola", (-0.25, 2.85, -5.85, 2.85, -5.85)),
    ("ipd", A, 2, "lola", (-0.25, 2.85, -5.85, 2.85, -5.85)),
    ("ipd", A, 1, "lola-exact(lookahead_lr=0.1)", (-0.25, -0.958873, -2.041127, -0.958873, -2.041127)),
    ("ipd", A, 1, "lola-exact", (-0.25, 2.028862, -5.028862, 2.028862, -5.028862)),
    (
        "ipd",
        A,
        1,
        "lola-exact(lookahead_lr=0.1,lookahead_steps=2)",
        (-0.25, -0.427011, -2.572989, -0.427011, -2.572989),
    ),
    ("ipd", A, 1, "hola(lookahead_lr=0.1)", (-0.237240, -0.956579, -1.888980, -0.830465, -2.017572)),
    ("ipd", B, 1, "naive", (-0.084212, -0.750040, -0.705461, -0.473567, -0.545089)),
    ("ipd", B, 2, "naive", (-0.324254, -2.197611, -2.520623, -1.437360, -2.040701)),
    ("ipd", B, 1, "lola", (-0.041000, 1.591054, -3.740013, 3.773224, -2.658165)),
    ("ipd", B, 2, "lola", (-0.329585, 2.310958, -5.710074, 0.228477, -6.686982)),
    ("ipd", B, 1, "lookahead", (-0.042008, 0.259565, -1.056063, 0.707308, -0.277740)),
    ("ipd", B, 1, "lola-full", (0.001204, 2.600659, -4.090615, 4.954099, -2.390815)),
    ("ipd", B, 1, "lola-exact(lookahead_lr=0.1)", (-0.079819, -0.449557, -1.046658, -0.002562, -0.728472)),
    ("ipd", B, 2, "lola-exact(lookahead_lr=0.1)", (-0.323864, -1.663382, -2.878414, -1.243005, -2.572059)),
    ("ipd", B, 1, "lola-exact", (-0.247613, 0.358136, -3.245060, 0.521684, -2.459341)),
    ("ipd", B, 2, "lola-exact", (-0.300444, 2.578630, -5.160973, 0.511641, -6.937596)),
    (
        "ipd",
        B,
        1,
        "lola-exact(lookahead_lr=0.1,lookahead_steps=2)",
        (-0.090410, -0.249377, -1.409253, 0.242122, -0.924235),
    ),
    ("ipd", B, 1, "hola(lookahead_lr=0.1)", (-0.070832, -0.456807, -1.004005, 0.003773, -0.654842)),
    (
        "ipd",
        B,
        1,
        "hola(lookahead_lr=0.1,expansion=taylor)",
        (-0.079825, -0.569022, -1.020872, -0.070814, -0.738933),
    ),
    (
        "ipd",
        B,
        1,
        "hola(lookahead_lr=0.1,expansion=taylor,differentiate_inner=false)",
        (-0.079854, -0.549674, -1.008318, -0.056503, -0.751930),
    ),
    ("ipd", C, 1, "naive", (0.160013, 0.490662, 0.428476, 0.838410, 0.794484)),
    ("ipd", C, 2, "naive", (0.281526, 1.472108, 0.838410, 0.428476, 0.264806)),
    ("ipd", C, 1, "lola", (0.297150, 2.535727, 0.272276, 0.632894, -0.216590)),
    ("ipd", C, 2, "lola", (0.233333, 2.452714, 0.733402, 0.447204, -0.641491)),
    ("ipd", C, 1, "lola-exact", (0.285508, 2.853497, 0.010729, 0.560737, -0.202727)),
    ("ipd", C, 2, "lola-exact", (0.207057, 2.474119, 0.520540, 0.164751, -0.431031)),
    ("imp", B, 1, "naive", (-0.139366, 0.224588, 0.445643, -0.058432, -0.455968)),
    ("imp", B, 2, "naive", (-0.086400, 0.188398, 0.601569, -0.255288, -0.010970)),
    ("imp", B, 1, "lola", (-0.153982, 0.346700, 0.383908, 0.169796, -0.421123)),
    ("imp", B, 2, "lola", (-0.044475, 0.123974, 0.632537, -0.361504, 0.236187)),
    ("imp", B, 1, "lookahead", (-0.153982, 0.346700, 0.383908, 0.169796, -0.421123)),
    ("imp", B, 1, "lola-exact", (-0.163584, 0.508719, 0.316621, 0.506999, -0.346139)),
    ("imp", B, 2, "lola-exact", (-0.004162, 0.038298, 0.668588, -0.422824, 0.501798)),
    # closed forms on tandem at s = -0.05: see the tests below for their derivation
    ("tandem", ((0.05,), (-0.1,)), 1, "lola-exact(lookahead_lr=0.1)", (1.744,)),
    ("tandem", ((0.05,), (-0.1,)), 2, "lola-exact(lookahead_lr=0.1)", (1.744,)),
    ("tandem", ((0.05,), (-0.1,)), 1, "lola-full(lookahead_lr=0.1)", (1.66,)),
    ("tandem", ((0.05,), (-0.1,)), 1, "hola(order=2,lookahead_lr=0.1)", (1.7830464,)),
]


@pytest.mark.parametrize(("game", "point", "player", "learner", "expected"), VECTORS)
def test_direction_equals_the_vector(game, point, player, learner, expected):
    close(direction(game, learner, point, player - 1), expected)


TERMS = [
    # game, point, player, term, vector
    ("ipd", A, 1, "S", (0, 4.35, -4.35, 4.35, -4.35)),
    ("ipd", A, 2, "A", (0, 1.0875, -1.0875, 1.0875, -1.0875)),
    ("ipd", B, 1, "S", (0.043212, 2.341095, -3.034552, 4.246791, -2.113076)),
    ("ipd", B, 1, "A", (0.042204, 1.009605, -0.350602, 1.180875, 0.267350)),
    ("ipd", B, 2, "S", (-0.005332, 4.508569, -3.189451, 1.665836, -4.646281)),
    ("ipd", B, 2, "A", (0.006153, 0.860236, -0.482565, 0.263335, -0.685654)),
    ("ipd", C, 1, "S", (0.137138, 2.045065, -0.156200, -0.205516, -1.011074)),
    ("ipd", C, 1, "A", (0.131057, 0.817833, 0.252665, 0.054999, -0.174209)),
    ("imp", B, 1, "S", (-0.014616, 0.122112, -0.061735, 0.228228, 0.034845)),
    ("imp", B, 1, "A", (-0.014616, 0.122112, -0.061735, 0.228228, 0.034845)),
    ("imp", B, 2, "S", (0.041925, -0.064424, 0.030968, -0.106217, 0.247157)),
]


@pytest.mark.parametrize(("game", "point", "player", "term", "expected"), TERMS)
def test_second_order_terms(game, point, player, term, expected):
    seen = view(make(game), point, player - 1)
    close(seen.shaping_term() if term == "S" else seen.lookahead_term(), expected)


@pytest.mark.parametrize(
    ("game", "point", "values"),
    [
        ("ipd", A, (-37.5, -37.5)),
        ("ipd", B, (-36.593594, -39.139283)),
        ("ipd", C, (-36.164805, -35.342702)),
        ("imp", B, (0.323265, -0.323265)),
    ],
)
def test_values(game, point, values):
    close(make(game).values(tuple(map(jnp.array, point))), values)


def test_gradients_of_the_other_players_value():
    close(view(make("ipd"), B).gradient(of=0, wrt=1), (0.458719, 3.092352, 3.530237, 2.037469, 2.879097))
    close(view(make("ipd"), B).gradient(of=1, wrt=0), (0.424791, 2.779694, 2.302018, 2.048367, 2.933321))
    close(view(make("ipd"), A).gradient(of=0, wrt=1), (0.5, 3, 3, 3, 3))
    # memory-one vector: central differences of the unnormalised value
    point = ((0.5, 1.0, -1.0, 0.25, -2.0), (-0.3, 0.8, 0.1, -0.6, 0.4))
    here = view(make("ipd"), point)
    np.testing.assert_allclose(make("ipd").values(here.params), (-33.58545584367624, -41.685410984349645), rtol=1e-13)
    close(here.gradient(), (-0.296887, -1.304132, -1.164667, -2.104643, -0.764352))
    close(here.gradient(of=0, wrt=1), (0.434414, 2.386273, 3.088236, 1.611008, 2.213126))


LOGISTIC = [
    ("naive", (-0.36363099, 0.36363099)),
    ("lola-exact", (0.16632866, 0.39282546)),
    ("lola", (-0.00842916, 0.49421795)),
    ("hola", (0.15676500, 0.70550695)),
]


@pytest.mark.parametrize(("learner", "expected"), LOGISTIC)
def test_logistic_game_vectors(learner, expected):
    point = ((1.0,), (-1.0,))
    close([direction("logistic", learner, point, i)[0] for i in (0, 1)], expected, digits=8)


# --- closed forms of the scalar games -----------------------------------------------------


def run_to_fixed_point(game, learner, init, steps=2000):
    o = run_encounter(
        make_game(game).value,
        [make_learner(learner).value] * 2,
        num_seeds=1,
        num_updates=steps,
        init=[np.array(x) for x in init],
        precision="float64",
    )
    return [float(theta[-1, 0, 0]) for theta in o.params]


@pytest.mark.parametrize(
    ("learner", "total"),
    [
        ("naive(lr=0.1)", 1.0),
        ("lookahead(lr=0.1,lookahead_lr=0.1)", 1.0),
        ("lola(lr=0.1,lookahead_lr=0.1)", 1 / (1 - 0.2)),
        ("lola-full(lr=0.1,lookahead_lr=0.1)", (1 - 0.2) / (1 - 0.4)),
        ("lola-exact(lr=0.1,lookahead_lr=0.1)", (1 / (1 - 0.2) - 0.2) / (1 - 0.2)),
        ("sos(lr=0.1,lookahead_lr=0.1)", 1.0),
    ],
)
def test_tandem_fixed_points(learner, total):
    x, y = run_to_fixed_point("tandem", learner, [[0.05], [-0.1]])
    assert x + y == pytest.approx(total, abs=1e-9)
    assert x - y == pytest.approx(0.15, abs=1e-9)  # the difference never changes


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
def test_hola_on_tandem_follows_the_affine_recursion(order):
    beta, x, y = 0.1, 0.3, -0.8
    a, b = -2.0, 2.0
    for _ in range(order):
        a, b = -2 * (1 + beta * a) ** 2, 2 - 2 * beta * b * (1 + beta * a)
    got = direction("tandem", f"hola(order={order},lookahead_lr={beta})", ((x,), (y,)), 0)
    np.testing.assert_allclose(got, [a * (x + y) + b], rtol=1e-12)


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_exact_lola_on_the_hamiltonian_game(beta):
    x, y = 0.4, -1.3
    got = [direction("hamiltonian", f"lola-exact(lookahead_lr={beta})", ((x,), (y,)), i)[0] for i in (0, 1)]
    np.testing.assert_allclose(got, [-2 * beta * x - y, x - 2 * beta * y], rtol=1e-12)


def test_exact_hola_on_balduzzi_tends_to_the_consistent_pair():
    # Consistent update at look-ahead beta: c = 10(1-beta)/(1+200 beta^2), a = -(1+20 beta c).
    beta, x, y = 0.01, 0.4, -1.3
    c = 10 * (1 - beta) / (1 + 200 * beta**2)
    a = -(1 + 20 * beta * c)
    got = [direction("balduzzi", f"hola(order=6,lookahead_lr={beta})", ((x,), (y,)), i)[0] for i in (0, 1)]
    np.testing.assert_allclose(got, [a * x - c * y, c * x + a * y], rtol=2e-3)


# --- properties over random games and policies ---------------------------------------------

payoff = st.floats(-3, 3, allow_nan=False).map(lambda x: round(x, 3))
logit = st.floats(-2.5, 2.5, allow_nan=False).map(lambda x: round(x, 3))


def tables(n):
    row = st.tuples(*[payoff] * 2**n)
    return st.tuples(*[row] * n)


def points(n):
    return st.tuples(*[st.tuples(*[logit] * (1 + 2**n))] * n)


@functools.partial(jax.jit, static_argnames="player")
def _terms(game, params, player):
    seen = View(game, params, player, Access.GRADIENTS)
    return seen.gradient(), seen.lookahead_term(), seen.shaping_term()


def random_game(payoffs, gamma):
    return RepeatedGame(payoffs=payoffs, gamma=gamma)


def central_difference(function, x, step=1e-5):
    x = np.asarray(x, float)
    return np.array([(function(x + step * e) - function(x - step * e)) / (2 * step) for e in np.eye(x.size)])


_values = jax.jit(lambda game, params: game.values(params))


def replaced(params, player, theta):
    return tuple(jnp.asarray(theta) if i == player else x for i, x in enumerate(params))


@given(tables(2), points(2), st.sampled_from([0.5, 0.9, 0.96]))
def test_terms_equal_finite_differences_two_players(payoffs, point, gamma):
    check_terms(random_game(payoffs, gamma), point)


@settings(max_examples=4)
@given(st.one_of(tables(3), st.floats(0.5, 2.9).map(lambda m: PublicGoods(multiplier=m).payoffs)), points(3))
def test_terms_equal_finite_differences_three_players(payoffs, point):
    check_terms(random_game(payoffs, 0.8), point, players=(2,))


_grad_all = jax.jit(lambda game, params: jax.jacrev(game.values)(params))


def check_terms(game, point, players=(0, 1)):
    """The gradient against differences of values; A and S against differences of gradients."""
    params = tuple(jnp.asarray(theta) for theta in point)
    table = _grad_all(game, params)  # table[j][i]: gradient of V_i by theta_j
    scale = 1.0 / (1.0 - game.gamma)
    for i in players:
        g, look, shape = (np.asarray(x) for x in _terms(game, params, i))
        by_value = central_difference(lambda x, i=i: np.asarray(_values(game, replaced(params, i, x)))[i], params[i])
        np.testing.assert_allclose(g, by_value, atol=1e-6 * scale)
        others = [j for j in range(game.n_players) if j != i]
        worth = {j: np.asarray(table[j][i]) for j in others}
        steps = {j: np.asarray(table[j][j]) for j in others}

        def paired(x, i=i, others=others, worth=worth, steps=steps):
            moved = _grad_all(game, replaced(params, i, x))
            a = sum(np.dot(np.asarray(moved[j][i]), steps[j]) for j in others)
            s = sum(np.dot(np.asarray(moved[j][j]), worth[j]) for j in others)
            return np.array([a, s])

        a, s = central_difference(paired, params[i]).T
        np.testing.assert_allclose(look, a, atol=1e-6 * scale**2)
        np.testing.assert_allclose(shape, s, atol=1e-6 * scale**2)


@given(tables(2), points(2))
def test_zero_sum_games_have_equal_terms(payoffs, point):
    game = random_game((payoffs[0], tuple(-x for x in payoffs[0])), 0.9)
    _, look, shape = _terms(game, tuple(map(jnp.array, point)), 0)
    np.testing.assert_allclose(look, shape, atol=1e-9)


@functools.partial(jax.jit, static_argnames=("spec", "player"))
def _direction_in(game, params, lookahead_lr, spec, player):
    rule = type(make_learner(spec).value)(**{**make_learner(spec).hyperparameters, "lookahead_lr": lookahead_lr})
    return with_info(rule.direction(View(game, params, player, rule.access)))[0]


@given(tables(2), points(2), st.floats(0.01, 2.0))
def test_full_minus_lookahead_is_shaping(payoffs, point, eta):
    game, params = random_game(payoffs, 0.9), tuple(map(jnp.array, point))
    full, look, drop, naive = (
        np.asarray(_direction_in(game, params, eta if spec != "naive" else 0.0, spec if spec != "naive" else "lola", 0))
        for spec in ("lola-full", "lookahead", "lola", "naive")
    )
    np.testing.assert_allclose(full - look, drop - naive, atol=1e-10 * max(1, np.abs(full).max()))
    shape = np.asarray(_terms(game, params, 0)[2])
    np.testing.assert_allclose(full - look, eta * shape, atol=1e-10 * max(1, np.abs(full).max()))


def test_exact_lola_minus_full_taylor_is_of_second_order():
    errors = []
    for eta in (1e-2, 1e-3, 1e-4):
        exact = direction("ipd", f"lola-exact(lookahead_lr={eta})", B, 0)
        full = direction("ipd", f"lola-full(lookahead_lr={eta})", B, 0)
        errors.append(np.linalg.norm(exact - full))
    slopes = -np.diff(np.log10(errors))
    np.testing.assert_allclose(slopes, 2.0, atol=0.02)


@given(tables(2), points(2), st.floats(0.0, 1.0))
def test_first_order_hola_is_lola(payoffs, point, eta):
    game, params = random_game(payoffs, 0.9), tuple(map(jnp.array, point))
    exact, hola, taylor, lola = (
        np.asarray(_direction_in(game, params, eta, spec, 1))
        for spec in ("lola-exact", "hola(order=1)", "hola(order=1,expansion=taylor)", "lola")
    )
    np.testing.assert_allclose(hola, exact, atol=1e-10)
    np.testing.assert_allclose(taylor, lola, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2])
def test_hola_best_responds_to_the_order_below(order):
    """The exact recursion by finite differences through the lower order's compiled steps."""
    eta, game = 0.1, make_game("ipd").value
    params = tuple(np.array(theta) for theta in B)

    def anticipated(x):
        below = direction("ipd", f"hola(order={order - 1},lookahead_lr={eta})", (x, params[1]), 1)
        return float(_values(game, (jnp.asarray(x), jnp.asarray(params[1] + eta * below)))[0])

    got = direction("ipd", f"hola(order={order},lookahead_lr={eta})", B, 0)
    np.testing.assert_allclose(got, central_difference(anticipated, params[0]), atol=1e-7)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_exact_lola_differentiates_through_the_imagined_steps(steps):
    eta, game = 0.3, make_game("chicken(gamma=0.8)").value
    spec = f"lola-exact(lookahead_lr={eta},lookahead_steps={steps})"
    params = tuple(np.array(theta) for theta in C)

    def anticipated(x):
        y = jnp.asarray(params[1])
        for _ in range(steps):
            y = y + eta * _grad_all(game, (jnp.asarray(x), y))[1][1]
        return float(_values(game, (jnp.asarray(x), y))[0])

    got = direction("chicken(gamma=0.8)", spec, C, 0)
    expected = central_difference(anticipated, params[0])
    np.testing.assert_allclose(got, expected, atol=1e-6 * max(1.0, np.abs(expected).max()))
