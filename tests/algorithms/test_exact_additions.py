"""Basin entry, the Stackelberg gradient, PBOS and AgA: matrix formulas, and fixed points in linear-quadratic games."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.aga import AgA
from shaping_bench.algorithms.basin_entry import BasinEntry
from shaping_bench.algorithms.core import Access, Stage, View
from shaping_bench.algorithms.lola import LOLAExact
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.pbos import PBOS
from shaping_bench.algorithms.stackelberg import Stackelberg
from shaping_bench.games import make
from shaping_bench.games.base import Game
from shaping_bench.games.fields import field, pytree_dataclass

pytestmark = pytest.mark.usefixtures("float64")


@pytree_dataclass
class Cubic(Game):
    """Random values ``x' Q_i x + sum (A_i x)^3`` of all players' numbers together."""

    shape: tuple = field((2, 2), static=True)

    @property
    def n_players(self):
        return len(self.shape)

    @property
    def sizes(self):
        return self.shape

    def value(self, params, player):
        x = jnp.stack([y for theta in params for y in theta])
        square, cube = np.random.default_rng([7, player]).normal(size=(2, len(x), len(x)))
        return x @ square @ x + jnp.sum((cube @ x) ** 3)


POINTS = {
    game: tuple(np.random.default_rng(3).normal(size=d) for d in game.sizes)
    for game in (Cubic(), Cubic(shape=(2, 1, 2)))
}
TWO, THREE = POINTS


@pytree_dataclass
class Cournot(Game):
    """``V_i = x_i (1 - sum_j x_j)``."""

    firms: int = field(2, static=True)

    @property
    def n_players(self):
        return self.firms

    @property
    def sizes(self):
        return (1,) * self.firms

    def value(self, params, player):
        return params[player][0] * (1.0 - sum(theta[0] for theta in params))


@functools.cache
def derivatives(game):
    """Every player's gradient of every value, and all second derivatives, by plain autodiff."""
    cuts = np.cumsum(game.sizes)[:-1]

    @jax.jit
    def of(x):
        values = [lambda x, i=i: game.value(jnp.split(x, cuts), i) for i in range(game.n_players)]
        return [(jax.grad(value)(x), jax.hessian(value)(x)) for value in values]

    first, second = zip(*of(jnp.concatenate(POINTS[game])), strict=True)
    rows = [np.split(np.asarray(h), cuts) for h in second]
    return [np.split(np.asarray(g), cuts) for g in first], [[np.split(x, cuts, axis=1) for x in h] for h in rows]


@functools.partial(jax.jit, static_argnames="player")
def direction(rule, game, params, player):
    found = rule.direction(View(game, params, player, Access.GRADIENTS))
    return jnp.stack(jax.tree.leaves(found)).reshape(-1)


@pytest.mark.parametrize("game", POINTS, ids=["two", "three"])
@pytest.mark.parametrize("player", [0, 1])
def test_basin_entry_is_its_three_terms(game, player):
    g, h = derivatives(game)
    others = [j for j in range(game.n_players) if j != player]
    shaping = sum(h[j][player][j] @ g[player][j] for j in others)
    want = g[player][player] + 0.35 * 0.55 * h[player][player][player] @ g[player][player] + 1.5 * 0.55 * shaping
    np.testing.assert_allclose(direction(BasinEntry(), game, POINTS[game], player), want, atol=1e-12)


@pytest.mark.parametrize("game", POINTS, ids=["two", "three"])
@pytest.mark.parametrize("player", [0, 1])
def test_the_leader_follows_the_total_derivative(game, player):
    g, h = derivatives(game)
    others = [j for j in range(game.n_players) if j != player]
    among = np.block([[h[a][a][b] for b in others] for a in others])
    onto = np.concatenate([h[a][a][player] for a in others])
    worth = np.concatenate([g[player][j] for j in others])
    want = g[player][player] - onto.T @ np.linalg.solve((among - 0.3 * np.eye(len(worth))).T, worth)
    got = direction(Stackelberg(ridge=0.3), game, POINTS[game], player)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("game", POINTS, ids=["two", "three"])
def test_aga_is_its_matrix_formula(game):
    g, h = derivatives(game)
    players = range(game.n_players)
    collective = np.concatenate([sum(g[i][j] for i in players) for j in players])
    curvature = np.block([[sum(h[i][a][b] for i in players) for b in players] for a in players])
    own, growth = np.concatenate([g[i][i] for i in players]), curvature @ collective
    sign = np.sign(-(collective @ growth) * (growth @ growth - own @ growth))
    want = collective + 0.7 * sign * (own - growth)
    got = np.concatenate([direction(AgA(alignment=0.7), game, POINTS[game], i) for i in players])
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("game", POINTS, ids=["two", "three"])
def test_without_preferences_pbos_is_exact_lola(game):
    got, want = (
        direction(rule, game, POINTS[game], 1) for rule in (PBOS(lookahead_lr=0.4), LOLAExact(lookahead_lr=0.4))
    )
    np.testing.assert_allclose(got, want, atol=1e-12)


def test_with_full_preferences_everybody_ascends_the_sum_of_values():
    rule, (g, _) = PBOS(lookahead_lr=0.0, preference=1.0), derivatives(THREE)
    got = direction(rule, THREE, POINTS[THREE], 2)
    np.testing.assert_allclose(got, sum(g[i][2] for i in range(3)), atol=1e-12)


def test_preferences_ascend_the_own_value_after_one_round():
    rule, preferences = PBOS(lookahead_lr=0.3), jnp.array([0.2, -0.1, 0.4])
    view = View(THREE, POINTS[THREE], 0, Access.GRADIENTS)

    def after(c):
        chosen = preferences.at[0].set(c)
        own = POINTS[THREE][0] + 0.3 * rule.step(view, 0, c)
        there = view.at([own, *POINTS[THREE][1:]])
        answers = [POINTS[THREE][j] + 0.3 * rule.step(there, j, chosen[j]) for j in (1, 2)]
        return float(THREE.value((own, *answers), 0))

    slope = (after(0.2 + 1e-5) - after(0.2 - 1e-5)) / 2e-5
    np.testing.assert_allclose(rule.preference_slope(view, preferences), slope, rtol=1e-6)


# --- linear-quadratic games ------------------------------------------------------------------


def run(game, learners, init, steps):
    """Parameters after every update, ``(steps, n_players)``."""
    stage = Stage(game, tuple(learners))
    starts = stage.begin(jax.random.key(0))
    joint = stage.joint([[x] for x in init], starts.states)

    def update(joint, key):
        joint, _, _ = stage.episode(key, joint)
        return joint, jnp.stack([theta[0] for theta in joint.params])

    return np.asarray(jax.lax.scan(update, joint, jax.random.split(jax.random.key(1), steps))[1])


def test_basin_entry_in_the_tandem_game():
    """With s = x + y: g = 2 - 2s, H = -2, S = 4s, and a, b eta times the weights: (1 - 2a) (2 - 2s) + 4 b s = 0."""
    rule = BasinEntry(lookahead_lr=0.1, decay=0.0, lr=0.1)
    end = run(make("tandem"), (rule, rule), (0.3, -0.2), 400)[-1]
    a, b = 0.35 * 0.1, 1.5 * 0.1
    np.testing.assert_allclose(end.sum(), (1 - 2 * a) / (1 - 2 * a - 2 * b), atol=1e-9)


def test_the_step_of_basin_entry_falls_and_parameters_are_clipped():
    path = run(make("tandem"), (BasinEntry(own=0.0, peer=0.0, lr=0.9), Naive(lr=0.0)), (0.0, 0.0), 3)[:, 0]
    x = 0.0
    for k in range(3):
        x += 0.9 / (k + 10.0) ** 0.24 * (2.0 - 2.0 * x)
        np.testing.assert_allclose(path[k], x, atol=1e-12)
    assert run(make("tandem"), (BasinEntry(bound=0.25), Naive(lr=0.0)), (0.0, 0.0), 5)[-1, 0] == 0.25


@pytest.mark.parametrize("firms", [2, 3])
def test_the_leader_of_a_market_sells_half(firms):
    """The followers share what is left: each sells (1 - x) / firms, the leader x (1 - x) / firms is largest at 1/2."""
    followers = [Naive(lr=0.2)] * (firms - 1)
    end = run(Cournot(firms=firms), (Stackelberg(lr=0.2), *followers), (0.1,) * firms, 300)[-1]
    np.testing.assert_allclose(end, [0.5, *[0.5 / firms] * (firms - 1)], atol=1e-9)


def test_leaders_of_the_tandem_game_press_on_for_ever_or_stop_by_their_ridge():
    """Total derivative 2 - 2s + 4s / (2 + r): 2 without a ridge, zero at s = (2 + r) / r with one."""
    free = run(make("tandem"), (Stackelberg(lr=0.1), Stackelberg(lr=0.1)), (0.3, -0.2), 20)[:, 0]
    np.testing.assert_allclose(free, 0.3 + 0.2 * np.arange(1, 21), atol=1e-12)
    rule = Stackelberg(lr=0.1, ridge=2.0)
    np.testing.assert_allclose(run(make("tandem"), (rule, rule), (0.3, -0.2), 300)[-1].sum(), 2.0, atol=1e-9)


def test_where_no_answer_is_defined_the_leader_is_naive():
    rule = Stackelberg(lr=0.1)
    got = run(make("hamiltonian"), (rule, Naive(lr=0.1)), (0.5, -0.3), 5)
    np.testing.assert_allclose(got, run(make("hamiltonian"), (Naive(lr=0.1),) * 2, (0.5, -0.3), 5), atol=1e-14)


@pytest.mark.parametrize("c", [0.0, 0.25, 1.0])
def test_pbos_of_fixed_preferences_in_the_tandem_game(c):
    """With k = 1 - 2 eta (1 + c): s (1 + c) k^2 = 1 + c (k - 1) - 2 eta (1 + c) k."""
    eta = 0.1
    rule = PBOS(lr=0.1, lookahead_lr=eta, preference=c, preference_lr=0.0)
    k = 1 - 2 * eta * (1 + c)
    want = (1 + c * (k - 1) - 2 * eta * (1 + c) * k) / ((1 + c) * k * k)
    np.testing.assert_allclose(run(make("tandem"), (rule, rule), (0.3, -0.2), 400)[-1].sum(), want, atol=1e-9)


def test_aga_stays_at_the_collective_optimum_of_the_tandem_game():
    """The sum of values is best at s = 1/2, where lambda changes its sign: below it the direction is
    2 - 4s + lambda (18 - 34 s) > 0, above it, up to 9/17, 2 - 4s - lambda (18 - 34 s) < 0."""
    rule = AgA(lr=0.01, alignment=0.1)
    path = run(make("tandem"), (rule, rule), (0.3, -0.9), 300).sum(axis=1)
    step = 2 * 0.01 * 0.1 * 1.1  # of s, at 1/2, where 18 - 34 s is 1
    assert np.abs(path[-100:] - 0.5).max() <= step
    assert path[-100:].min() < 0.5 < path[-100:].max()
