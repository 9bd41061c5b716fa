"""Facts about games: what they say of themselves, and that it is known where their numbers are not."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.errors import BadInput
from shaping_bench.games import GAMES, Entry, make
from shaping_bench.games.fields import pytree_dataclass
from shaping_bench.games.matrix.repeated import RepeatedGame
from shaping_bench.games.matrix.tables import TableGame
from shaping_bench.games.spaces import Box, Discrete, Product
from shaping_bench.spec import registry

COMPLETE = [name for name in GAMES if name not in ("matrix", "matrix-one-shot", "ordinal")]


@pytest.mark.parametrize("name", COMPLETE)
def test_facts_are_plain_and_complete(name):
    game = make(name)
    facts = game.facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["n_players"] == len(facts["seats"]) == game.n_players
    assert facts["symmetric"] == game.symmetric
    assert facts["exchangeable"] or not facts["symmetric"]
    assert (facts["states"] is not None) == game.memory_one


def test_repeated_games_of_two_actions_are_a_family():
    families = {name: make(name).facts()["family"] for name in COMPLETE}
    assert {families[name] for name in ("ipd", "imp", "chicken", "stag-hunt", "bos")} == {"matrix"}
    assert families["coin-game"] == "coin"
    assert GAMES["matrix"].family == "matrix"
    assert Entry(RepeatedGame, "", "", family="dilemmas").family == "dilemmas"


@pytest.mark.parametrize("players", [2, 3, 4, 5])
def test_public_goods_are_symmetric_for_any_number_of_players(players):
    game = make("public-goods", num_players=players)
    assert game.symmetric
    assert game.exchangeable
    assert not game.zero_sum
    assert make("public-goods", num_players=players, multiplier=1.0).zero_sum


def table(n, reward):
    joint = list(itertools.product((0, 1), repeat=n))
    return tuple(tuple(float(reward(i, a)) for a in joint) for i in range(n))


def test_symmetry_of_three_players_is_that_of_all_exchanges():
    # Each is paid for being like its right neighbour: turning the table changes nothing, exchanging two does.
    turning = make("matrix", payoffs=table(3, lambda i, a: a[i] + 2 * a[(i + 1) % 3]))
    assert not turning.symmetric
    # What the third calls 0 the others call 1: alike up to that name.
    renamed = table(3, lambda i, a: 1.0 if (a[0], a[1], 1 - a[2])[i] == 0 else a[0] + a[1] + (1 - a[2]))
    game = make("matrix", payoffs=renamed)
    assert (game.symmetric, game.exchangeable) == (False, True)
    assert not make("matrix", payoffs=renamed, init_mean=1.0).exchangeable
    crowd = make("matrix", payoffs=table(3, lambda i, a: sum(a) - 2 * a[i]))
    assert crowd.symmetric


@pytest.mark.parametrize("name", ["ipd", "imp", "bos", "public-goods"])
def test_facts_are_known_where_payoffs_are_tracers(name):
    game = make(name)
    seen = []

    @jax.jit
    def program(game):
        seen.append((game.symmetric, game.exchangeable, game.zero_sum))
        return game.gamma

    program(game)
    program(jax.tree.map(jnp.asarray, game))
    assert seen[0] == seen[-1] == (game.symmetric, game.exchangeable, game.zero_sum)
    # Equal facts, one program; other facts, another one.
    assert len(set(map(tuple, seen))) == 1
    assert jax.tree.structure(make("ipd")) == jax.tree.structure(make("chicken"))
    assert jax.tree.structure(make("ipd")) != jax.tree.structure(make("imp"))


def test_games_that_share_a_program_know_no_facts_in_it():
    shared = make("ipd").unpinned()
    assert jax.tree.structure(shared) == jax.tree.structure(make("imp").unpinned())
    assert shared.symmetric  # the numbers are there
    with pytest.raises(TypeError, match="reads_facts"):
        jax.jit(lambda game: jnp.float32(game.symmetric))(shared)


def test_a_structure_outlives_its_leaves():
    game = make("ipd")
    axes = jax.tree.map(lambda _: 0, game)
    assert jax.tree.structure(axes) == jax.tree.structure(game)
    assert isinstance(axes, TableGame)


@pytest.mark.parametrize("name", ["ipd", "public-goods", "coin-game"])
def test_one_seat_sees_what_it_sees_among_all(name):
    game = make(name)
    _, state = game.reset(jax.random.key(0))
    for _ in range(3):
        actions = jnp.arange(game.n_players) % game.n_actions
        seen, state, *_ = game.step(jax.random.key(1), state, actions)
        for player in range(game.n_players):
            np.testing.assert_array_equal(game.observe(state, player), seen[player])
            assert game.observe(state, player).shape == game.observation_shape
            assert game.action_space(player) == Discrete(game.n_actions)


def test_what_is_counted_is_declared():
    for name in ("ipd", "public-goods", "coin-game"):
        game = make(name)
        _, state = game.reset(jax.random.key(0))
        info = game.step(jax.random.key(1), state, jnp.zeros(game.n_players, jnp.int32))[-1]
        assert set(info) == {count.name for count in game.counts if not count.share_of}


def test_spaces_are_hashable_and_checked():
    space = Product([Discrete(2), Box(0, 1, [3])])
    assert space == Product((Discrete(2), Box(0, 1, (3,))))
    assert hash(space.parts[1]) == hash(Box(0, 1, (3,)))
    with pytest.raises(ValueError, match="allowed: the smaller number first"):
        Box(1.0, 0.0)
    with pytest.raises(ValueError, match="at least 1"):
        Discrete(0)


@pytree_dataclass
class Odd(RepeatedGame):
    """A game that has a say in its hyperparameters."""

    @classmethod
    def checked(cls, values):
        values = super().checked(values)
        if values["horizon"] % 2 == 0:
            raise ValueError(f"horizon is {values['horizon']}; allowed: an odd number")
        return values


def test_a_game_checks_its_own_hyperparameters(monkeypatch):
    monkeypatch.setattr(registry, "games", lambda: {"odd": Entry(Odd, "", "", GAMES["ipd"].defaults)})
    assert registry.make_game("odd(horizon=3, payoffs=((3,0,5,1),(3,5,0,1)))").value.payoffs[0] == (3.0, 0.0, 5.0, 1.0)
    with pytest.raises(BadInput, match=r"^game: odd\.horizon is 4; allowed: an odd number"):
        registry.make_game("odd(horizon=4)")
    with pytest.raises(BadInput, match=r"odd\.payoffs is \(\(1, 2\), \(3, 4\)\); allowed: one row of 2\^n"):
        registry.make_game("odd(horizon=3, payoffs=((1,2),(3,4)))")
