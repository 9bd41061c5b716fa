"""Views: what a learner may see, and that asking for more is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import Access, AccessError, Learner, View, pytree_dataclass
from shaping_bench.games import make
from shaping_bench.run.encounter import run_encounter
from shaping_bench.spec.registry import make_game, make_learner

THETA = (jnp.array([0.4]), jnp.array([-0.2]))


def view(access, player=0, learners=()):
    return View(make("tandem"), THETA, player, access, learners=learners)


REQUESTS = {
    "params": lambda v: v.params,
    "at": lambda v: v.at(THETA),
    "seat": lambda v: v.seat(1),
    "moved": lambda v: v.moved({1: THETA[1]}),
    "value": lambda v: v.value(),
    "gradient": lambda v: v.gradient(),
    "lookahead_term": lambda v: v.lookahead_term(),
    "shaping_term": lambda v: v.shaping_term(),
    "best_response": lambda v: v.best_response(),
}


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("access", list(Access))
def test_requests_for_gradients(access, request_):
    if access >= Access.GRADIENTS:
        REQUESTS[request_](view(access))
    else:
        with pytest.raises(AccessError, match=rf"player 1 asked for .*'gradients'.*declares access '{access}'"):
            REQUESTS[request_](view(access))


def test_learning_rules_need_simulator_access():
    rules = (make_learner("naive").value,) * 2
    assert view(Access.SIMULATOR, learners=rules).learners == rules
    with pytest.raises(AccessError, match="simulator"):
        _ = view(Access.GRADIENTS, learners=rules).learners


def test_own_parameters_and_rules_of_the_game_are_always_visible():
    seen = view(Access.ACTIONS, player=1)
    assert seen.own is THETA[1]
    assert seen.n_players == 2
    assert seen.others == (0,)
    assert seen.game == make("tandem")


@pytree_dataclass
class Peeping(Learner):
    """Declares less than it asks for."""

    access = Access.ACTIONS

    def update(self, key, state, view):
        return view.gradient(), state, {}


def test_an_encounter_hands_out_no_more_than_was_declared():
    with pytest.raises(AccessError, match="player 2 asked for an exact gradient"):
        run_encounter(make_game("tandem").value, [make_learner("naive").value, Peeping()], num_seeds=1, num_updates=1)


def test_imagined_parameters_seats_and_moves():
    seen = view(Access.GRADIENTS)
    assert seen.seat(1).player == 1
    assert seen.seat(1).own is THETA[1]
    assert float(seen.seat(1).value()) == float(seen.value(1))
    elsewhere = (jnp.array([2.0]), jnp.array([3.0]))
    assert float(seen.at(elsewhere).value()) == float(make("tandem").value(elsewhere, 0))
    moved = seen.moved({1: jnp.array([1.0])}, 0.5)
    np.testing.assert_allclose(moved.params[1], [0.3])
    assert moved.params[0] is THETA[0]
    assert moved.player == 0
    assert seen.params[1] is THETA[1]  # the view itself is unchanged


def test_gradient_arguments():
    seen = view(Access.GRADIENTS)
    # L1 = (x+y)^2 - 2x: values ascend
    np.testing.assert_allclose(seen.gradient(), [2 - 2 * 0.2], rtol=1e-6)
    np.testing.assert_allclose(seen.gradient(of=0, wrt=1), [-2 * 0.2], rtol=1e-6)
    np.testing.assert_allclose(seen.seat(1).gradient(), [2 - 2 * 0.2], rtol=1e-6)


def test_forms_of_parameters_are_kept():
    scalars = tuple((theta[0],) for theta in THETA)
    seen = View(make("tandem"), scalars, 0, Access.GRADIENTS)
    for got, expected in (
        (seen.gradient(), view(Access.GRADIENTS).gradient()),
        (seen.lookahead_term(), view(Access.GRADIENTS).lookahead_term()),
        (seen.shaping_term(), view(Access.GRADIENTS).shaping_term()),
    ):
        assert isinstance(got, tuple)
        np.testing.assert_allclose(jnp.stack(got), expected, rtol=1e-6)
