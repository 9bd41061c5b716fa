"""Payments: who gets and loses what by either convention; the Escape Room by hand; offers that make cooperation pay."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.games.escape_room import DOOR, LEVER, START, EscapeRoom, _at_random
from shaping_bench.games.incentives import paying, with_payments
from shaping_bench.games.spaces import Box, Discrete, Product
from shaping_bench.spec.registry import make_game

KEY = jax.random.key(0)


def test_the_room_by_hand():
    game = EscapeRoom()
    _, state = game.reset(KEY)

    def went(state, *places):
        _, after, rewards, done, info = game.step(KEY, state, jnp.array(places))
        return after, rewards.tolist(), bool(done), float(info["escape"][0])

    assert went(state, LEVER, DOOR)[1:] == ([-1.0, 10.0], True, 1.0)
    assert went(state, START, START)[1:] == ([0.0, 0.0], False, 0.0)
    assert went(state, DOOR, DOOR)[1:] == ([-1.0, -1.0], False, 0.0)
    at_lever, rewards, done, _ = went(state, LEVER, START)
    assert (rewards, done) == ([-1.0, 0.0], False)
    assert went(at_lever, LEVER, DOOR)[1] == [0.0, 10.0]  # who stays pays nothing
    late = state._replace(time=jnp.asarray(4))
    assert went(late, START, START)[2]


def test_two_of_three_hold_the_lever():
    game = EscapeRoom(num_players=3)
    _, state = game.reset(KEY)
    assert game.step(KEY, state, jnp.array([LEVER, DOOR, DOOR]))[2].tolist() == [-1.0] * 3
    assert game.step(KEY, state, jnp.array([LEVER, DOOR, LEVER]))[2].tolist() == [-1.0, 10.0, -1.0]
    assert game.anchors().social_optimum == pytest.approx(8 / 3)
    assert EscapeRoom().anchors().social_optimum == 4.5
    one = EscapeRoom(num_players=3, needed=1)
    assert one.step(KEY, state, jnp.array([LEVER, DOOR, DOOR]))[2].tolist() == [-1.0, 10.0, 10.0]


def test_random_play_is_enumerated():
    def total(places, left, levers):
        """Of all players."""
        if not left:
            return 0.0
        n, returns = len(places), []
        for now in itertools.product(range(3), repeat=n):
            opened = now.count(LEVER) >= levers
            gain = sum(10 if opened and a == DOOR else -(a != b) for a, b in zip(now, places, strict=True))
            over = opened and DOOR in now
            returns.append(gain + (0.0 if over else total(now, left - 1, levers)))
        return sum(returns) / len(returns)

    assert _at_random(2, 1, 1) == pytest.approx(10 / 18)
    assert _at_random(2, 1, 3) == pytest.approx(total((START,) * 2, 3, 1) / 2)
    assert _at_random(3, 2, 2) == pytest.approx(total((START,) * 3, 2, 2) / 3)


def offered(*offers):
    return [jnp.array(x, jnp.float32) for x in offers]


@pytest.mark.parametrize("payments", ["none", "minted", "transferred"])
def test_conventions(payments):
    """Player 1 pays for the lever, player 2 for the door; what else they offer is not paid."""
    game = make("escape-room", payments=payments)
    _, state = game.reset(KEY)
    first, second = offered([[1.5], [0.7], [0.2]], [[0.9], [0.8], [0.25]])
    actions = ((jnp.asarray(DOOR), first), (jnp.asarray(LEVER), second))
    seen, after, rewards, done, info = game.step(KEY, state, actions)
    pays = payments != "none"
    given = np.array([1.5, 0.25]) * pays
    expected = np.array([10.0, -1.0]) + given[::-1] - given * (payments == "transferred")
    assert rewards == pytest.approx(expected)
    assert info["earned"].tolist() == [10.0, -1.0]
    assert info["given"] == pytest.approx(given)
    assert info["received"] == pytest.approx(given[::-1])
    assert info["net"] == pytest.approx(np.array([10.0, -1.0]) + given[::-1] - given)
    assert float(info["net"].sum()) == pytest.approx(9.0)
    assert bool(done)
    # The own place, the other's, and what was given so far.
    assert seen[0] == pytest.approx([0, 0, 1, 1, 0, 0, given[0]])
    again = game.step(KEY, after, actions)[0]
    assert again[1, -1] == pytest.approx(2 * given[1])


def test_rows_of_offers_are_joint_actions_of_the_others():
    game = make("escape-room", payments="minted", num_players=3)
    assert game.action_space(1) == Product((Discrete(3), Box(0.0, 2.0, (9, 2))))
    _, state = game.reset(KEY)
    # Everybody offers for each joint action of the others a number of its own.
    table = jnp.arange(18.0).reshape(9, 2) / 10
    actions = tuple((jnp.asarray(a), table) for a in (LEVER, DOOR, START))
    _, _, _, _, info = game.step(KEY, state, actions)
    # Player 1 meets (door, start), row 7; player 2 (lever, start), row 1; player 3 (lever, door), row 2.
    paid = np.array([[0, 1.4, 1.5], [0.2, 0, 0.3], [0.4, 0.5, 0]])
    assert info["given"] == pytest.approx(paid.sum(axis=1))
    assert info["received"] == pytest.approx(paid.sum(axis=0))
    for k in range(3):
        assert info[f"received_from_{k + 1}"] == pytest.approx(paid[k])
    assert game.answers(1)[1] == (LEVER, START)


@pytest.mark.parametrize("payments", ["minted", "transferred"])
def test_an_offer_above_one_makes_cooperation_dominant(payments):
    """Prisoner's dilemma: to defect is worth 1 whatever the other does, that the other cooperates is worth 2. So each
    pays 1 for cooperation, and both have what mutual cooperation is worth."""
    game = make_game(f"ipd(payments={payments},most=3)").value
    _, state = game.reset(KEY)

    @functools.cache
    def net(first, second, offer):
        offers = jnp.array([[offer], [0.0]])
        _, _, rewards, _, info = game.step(KEY, state, ((jnp.asarray(first), offers), (jnp.asarray(second), offers)))
        return rewards, info["net"]

    for offer in (0.5, 1.0, 1.5):
        for other in (0, 1):
            gain = net(other, 0, offer)[0][1] - net(other, 1, offer)[0][1]
            assert float(gain) == pytest.approx(offer - 1.0)
    assert net(0, 0, 1.0)[1].tolist() == [-1.0, -1.0]
    # Who alone pays as much still has more than after mutual defection.
    alone = net(1, 0, 1.0)[1][0]
    assert float(alone) == pytest.approx(0.0 - 1.0)
    assert game.anchors().social_optimum == -1.0


def test_any_game_of_choices_takes_payments():
    call = make_game("ipd(horizon=5,payments=transferred,most=3)")
    assert make_game(call.text).identity() == call.identity()
    assert call.value.payments == "transferred"
    assert paying(EscapeRoom) is type(make("escape-room"))
    assert not call.value.memory_one
    assert call.value.views == {"sampled"}
    # Payments are no part of what games are without them.
    assert not {"payments", "most"} & {*make_game("ipd").identity()["hyperparameters"]}
    _, said = call.value.script("all-d", jnp.zeros(()), call.value.reset(KEY)[1], 0)
    assert said[0].tolist() == [-np.inf, 0.0]
    assert said[1] == (0.0, 0.0)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        ("ipd(payments=free)", "payments is 'free'; allowed: 'none', 'minted', 'transferred'"),
        ("ipd(most=3)", "has most without payments"),
        ("ipd(payments=minted,own_share=0.5)", "has own_share and payments"),
        ("ipd(payments=minted,most=0)", "most is 0"),
        ("negotiation(payments=minted)", "has actions that are numbers"),
        ("tandem(payments=minted)", "not played step by step"),
        ("cleanup(num_players=7,payments=minted)", "joint actions of the others"),
        ("escape-room(num_players=3,needed=3)", "needed is 3; allowed among 3 players: 1 to 2"),
    ],
)
def test_what_cannot_be_is_refused(call, complaint):
    with pytest.raises(BadInput, match=complaint.replace("(", r"\(")):
        make_game(call)


def test_boards_are_seen_as_they_are():
    plain = make("coin-game")
    game = with_payments(plain, "minted")
    assert game.observation_shape == plain.observation_shape
    _, state = game.reset(KEY)
    assert jnp.array_equal(game.observe(state), plain.observe(state.inner))
    assert game.board(state) == plain.board(state.inner)
