"""Fixed strategies and the best responder, by the values they force in encounters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.fixed import logits_of
from shaping_bench.games import make
from shaping_bench.run.encounter import run_encounter
from shaping_bench.spec.registry import make_game, make_learner

pytestmark = pytest.mark.usefixtures("float64")


def met(first, second, game="ipd", steps=1):
    """Final parameters and per-step values of one encounter."""
    made = make_game(game).value
    rules = [make_learner(x).value for x in (first, second)]
    o = run_encounter(made, rules, num_seeds=1, num_updates=steps, precision="float64")
    params = tuple(jnp.asarray(theta[-1, 0]) for theta in o.params)
    return params, np.asarray(made.values(params)) * np.asarray(made.per_step)


PAIRS = [
    ("tft", "tft", (-1, -1)),
    ("tft", "all-d", (-2.04, -1.92)),
    ("all-d", "tft", (-1.92, -2.04)),
    ("all-c", "all-d", (-3, 0)),
    ("all-d", "all-d", (-2, -2)),
    ("wsls", "all-d", (-2.510204081633, -0.979591836735)),
    ("gtft(generosity=0.5)", "all-d", (-2.52, -0.96)),
    ("random", "random", (-1.5, -1.5)),
    ("random", "all-d", (-2.5, -1)),
    ("grim", "all-d", (-2.04, -1.92)),
    ("zd-extort", "all-c", (-0.714285714286, -1.571428571429)),
    ("zd-extort", "all-d", (-2, -2)),
    ("zd-extort", "tft", (-1.836363636364, -1.945454545455)),
]


@pytest.mark.parametrize(("first", "second", "expected"), PAIRS)
def test_values_of_fixed_strategies(first, second, expected):
    np.testing.assert_allclose(met(first, second)[1], expected, atol=1e-10)


def test_fixed_strategies_do_not_move():
    (theta, _), _ = met("tft", "lola", steps=5)
    np.testing.assert_allclose(jax.nn.sigmoid(theta), [1, 1, 0, 1, 0], atol=1e-15)


@pytest.mark.parametrize("seat", [0, 1])
@pytest.mark.parametrize("opponent", ["random", "tft", "all-c", "gtft(generosity=0.2)"])
def test_extortion_forces_its_ratio_from_either_seat(opponent, seat):
    pair = ["zd-extort(chi=3.0,phi=0.1)", opponent]
    values = met(*(pair if seat == 0 else pair[::-1]))[1]
    own, other = values[seat], values[1 - seat]
    assert own + 2 == pytest.approx(3 * (other + 2), abs=1e-10)


def test_extortion_out_of_range_is_refused():
    with pytest.raises(ValueError, match="keep all of them in"):
        make_learner("zd-extort(chi=3.0,phi=0.5)").value.check_game(make("ipd"), 0)


def test_strategies_refuse_games_they_cannot_play():
    for name in ("tft", "all-d"):
        with pytest.raises(ValueError, match="repeated two-action"):
            make_learner(name).value.check_game(make("tandem"), 0)
    with pytest.raises(ValueError, match="2 players"):
        make_learner("tft").value.check_game(make("public-goods"), 0)
    make_learner("all-d").value.check_game(make("public-goods"), 0)
    with pytest.raises(ValueError, match="best response"):
        make_learner("best-response").value.check_game(make("hamiltonian"), 0)


@pytest.mark.parametrize(
    ("opponent", "value"),
    [
        ("tft", -1.0),
        ("grim", -1.0),
        ("wsls", -0.979591836735),
        ("all-c", 0.0),
        ("all-d", -2.0),
        ("gtft(generosity=0.5)", -0.96),
        ("zd-extort", -1.571428571429),
    ],
)
def test_best_response_values(opponent, value):
    assert met("best-response", opponent)[1][0] == pytest.approx(value, abs=1e-9)
    assert met(opponent, "best-response")[1][1] == pytest.approx(value, abs=1e-9)


def test_best_response_equals_enumeration_of_all_policies():
    game, rng = make("chicken", gamma=0.7), np.random.default_rng(0)
    bits = (np.arange(32)[:, None] >> np.arange(5)) & 1
    policies = jnp.asarray(np.where(bits, 40.0, -40.0))
    for _ in range(5):
        other = jnp.asarray(rng.normal(size=5) * 2)
        best = jnp.stack(game.best_response((jnp.zeros(5), other), 0))
        all_values = jax.vmap(lambda p, other=other: game.value((p, other), 0))(policies)
        assert float(game.value((best, other), 0)) == pytest.approx(float(all_values.max()), abs=1e-9)


def test_logits_saturate_and_invert():
    p = np.array([0.0, 0.25, 0.5, 1.0])
    np.testing.assert_allclose(jax.nn.sigmoid(logits_of(p)), p, atol=1e-15)
