"""Games of N players by numbers: published rewards, closed forms, and both views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core.policy import Tabular
from shaping_bench.algorithms.core.rollouts import rollout
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.games.matrix.repeated import _dense_advantages
from shaping_bench.spec import registry
from shaping_bench.spec.suite import expand, validate


def one_step(game, actions):
    _, state = game.reset(jax.random.key(0))
    seen, _, rewards, *_ = game.step(jax.random.key(1), state, jnp.array(actions))
    return rewards.tolist(), (seen - 1).tolist()  # pax counts from all cooperating


@pytest.mark.parametrize(
    ("preset", "actions", "rewards", "seen"),
    [
        ("pax_3pl", (0, 1, 1), [0, 3, 3], [3, 6, 5]),
        ("pax_3pl", (0, 0, 0), [4, 4, 4], [0, 0, 0]),
        ("pax_3pl", (1, 1, 1), [1, 1, 1], [7, 7, 7]),
        ("pax_test_3pl", (0, 0, 1), [2.66, 2.66, 5.66], [1, 2, 4]),
        ("pax_2pl", (1, 0), [5, 2], [2, 1]),
        ("pax_lola", (0, 1), [-3, 0], [1, 2]),
    ],
)
def test_one_step_as_published(preset, actions, rewards, seen):
    got = one_step(make("tensor", preset=preset), actions)
    assert got[0] == pytest.approx(rewards)
    assert got[1] == seen


@pytest.mark.parametrize("players", [2, 3, 4, 5])
def test_formulas(players):
    goods = make("tensor", num_players=players)
    assert goods.payoffs == make("public-goods", num_players=players).payoffs
    cooperate, defect = goods.rows
    assert np.subtract(defect, cooperate) == pytest.approx(1 - 1.6 / players)
    volunteer, free = make("tensor", preset="volunteer", num_players=players).rows
    assert volunteer == (1.0,) * players
    assert free == (2.0,) * (players - 1) + (0.0,)
    stag, hare = make("tensor", preset="stag_hunt", num_players=players).rows
    assert (stag, hare) == ((4.0,) + (0.0,) * (players - 1), (2.0,) * players)
    needed = make("tensor", preset="threshold", num_players=players, threshold=2).rows
    assert needed == ((2.0,) * (players - 1) + (-1.0,), (3.0,) * max(0, players - 2) + (0.0,) * min(2, players))


def test_published_tables_are_scaled_public_goods():
    for preset, multiplier, base, digits in (("pax_3pl", 2.0, 1.0, 1e-6), ("pax_test_3pl", 4 / 3, 3.0, 0.02)):
        goods = make("public-goods", multiplier=multiplier)
        assert make("tensor", preset=preset).rows == pytest.approx(base + 3 * np.array(goods.rows), abs=digits)


def test_public_goods_are_what_they_were():
    """Content hashes of cells and payoffs of before they were a special case."""
    game = registry.make_game("public-goods(num_players=4,multiplier=2.5)")
    assert game.value.payoffs[1][0b0100] == 2.5 * 3 / 4
    assert game.value.payoffs[1][0b1000] == 2.5 * 3 / 4 - 1.0
    content = {"name": "x", "games": ["public-goods"], "learners": ["naive"], "seeds": 4, "steps": 3}
    (cell,) = expand(validate(content)).encounters
    assert cell.hash == "b40f5570f3c64542491ad782"


def test_episodes_of_four_players_return_their_exact_value():
    """Certain policies leave no noise; what is cut off is below 2 * 0.5**23."""
    game = make("tensor", preset="threshold", num_players=4, gamma=0.5, horizon=24)
    rng = np.random.default_rng(0)
    points = [jnp.asarray(np.where(rng.random((3, 17)) < 0.5, 30.0, -30.0), jnp.float32) for _ in range(4)]

    @jax.jit
    @jax.vmap
    def both(*params):
        play = rollout(jax.random.key(0), game, [Tabular(17)] * 4, params, 1)
        return jnp.tensordot(0.5 ** jnp.arange(24.0), play.rewards[:, 0], axes=1), game.values(params)

    played, exact = both(*points)
    np.testing.assert_allclose(played, exact, atol=1e-5)
    assert np.ptp(exact) > 0.5


@pytest.mark.usefixtures("float64")
def test_best_responses_of_many():
    three = make("tensor", preset="threshold", num_players=3)
    params = tuple(jnp.asarray(np.random.default_rng(i).normal(size=9)) for i in range(3))
    scalars = tuple(tuple(theta) for theta in params)
    for player in range(3):
        expected = three.action_advantages(scalars, player, three.payoffs[player])
        got = _dense_advantages(params, player, three.payoffs[player], three.gamma)
        np.testing.assert_allclose(jnp.stack(got), jnp.stack(expected), atol=1e-10)
    # Of five, who is alone volunteers; who is among volunteers does not.
    five = make("tensor", preset="volunteer", num_players=5)

    @jax.jit
    def response_value(logit):
        others = (jnp.full(33, logit),) * 5
        return five.per_step * five.value((jnp.stack(five.best_response(others, 0)), *others[1:]), 0)

    assert float(response_value(-40.0)) == pytest.approx(1.0)
    assert float(response_value(40.0)) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tensor(cooperate=(1,2))", "tensor.defect is None; allowed: one finite number per player"),
        ("tensor(cooperate=(1,2),defect=(1,2,3))", r"tensor.defect is \(1.0, 2.0, 3.0\); allowed: as many"),
        ("tensor(cooperate=(1,2,3,4,5,6),defect=(1,2,3,4,5,6))", "2 to 5 of them"),
        ("tensor(preset=pax_3pl,num_players=4)", "num_players is 4; allowed: 3, as in the preset pax_3pl"),
        ("tensor(preset=pax_3pl,threshold=2)", "threshold is 2; allowed: none"),
        ("tensor(preset=volunteer,threshold=2)", "threshold is 2; allowed: none with preset=volunteer"),
        ("tensor(preset=stag_hunt,num_players=3,threshold=4)", "no more than there are players"),
        ("tensor(num_players=6)", r"a number in \[2, 5\]"),
    ],
)
def test_what_is_no_game_is_refused(text, said):
    with pytest.raises(BadInput, match=said):
        registry.make_game(text)


def test_rows_are_read_as_given():
    named = registry.make_game("tensor(cooperate=(4,2,0),defect=(5,3,1))")
    assert named.value.payoffs == make("tensor", preset="pax_3pl").payoffs
    assert named.value.n_players == 3
    assert registry.make_game(named.text).identity() == named.identity()
    assert named.value.symmetric
