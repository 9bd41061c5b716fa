"""The 78 strictly ordinal games, counted again by another route, and played by one program."""

import itertools

import jax
import numpy as np
import pytest

from shaping_bench.algorithms.naive import Naive
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.run.encounter import run_encounter, shareable
from shaping_bench.spec import registry


def bimatrix(game):
    return np.array(game.payoffs).reshape(2, 2, 2)  # player, first's action, second's action


def orbit(x):
    """Everything that renaming actions and exchanging players makes of it."""
    for seated in (x, np.stack([x[1].T, x[0].T])):
        for rows, columns in itertools.product((1, -1), repeat=2):
            yield seated[:, ::rows, ::columns].tobytes()


def test_there_are_78_and_every_table_of_ranks_is_one_of_them():
    ranks = [np.array(x, float).reshape(2, 2) for x in itertools.permutations((1, 2, 3, 4))]
    classes = {min(orbit(np.stack(pair))) for pair in itertools.product(ranks, ranks)}
    ours = [min(orbit(bimatrix(make("ordinal", index=k)))) for k in range(78)]
    assert len(classes) == 78
    assert set(ours) == classes
    assert len(set(ours)) == 78


def test_seats_are_alike_in_twelve_of_them():
    games = [make("ordinal", index=k) for k in range(78)]
    assert sum(game.exchangeable for game in games) == 12
    for game in games:
        other = make("ordinal", index=game.index, exchanged=True)
        assert np.array_equal(bimatrix(other)[0], bimatrix(game)[1].T)


def test_action_0_leads_to_the_greatest_sum():
    for k in range(78):
        sums = np.sum(make("ordinal", index=k).payoffs, axis=0)
        assert sums[0] == sums.max()


@pytest.mark.parametrize(
    ("index", "first"), [(64, (3, 1, 4, 2)), (59, (3, 2, 4, 1)), (18, (4, 1, 3, 2))], ids=["dilemma", "chicken", "stag"]
)
def test_dilemmas_with_names_have_their_usual_tables(index, first):
    game = make("ordinal", index=index)
    assert game.symmetric
    assert game.payoffs[0] == first


def test_all_of_them_share_one_program_which_knows_the_table():
    games = [make("ordinal", index=k, exchanged=flip) for k in range(78) for flip in (False, True)]
    rules = (Naive(lr=1.0), Naive(lr=1.0))
    programs = {jax.tree.structure(shareable(game, rules)) for game in (*games, make("ipd"))}
    assert len(programs) == 1
    chosen = [games[k] for k in (0, 37, 128)]
    swept = jax.tree.map(lambda *x: np.array(x, np.float64), *(shareable(game, rules) for game in chosen))
    together = run_encounter(*swept, num_seeds=3, num_updates=5)
    for k, game in enumerate(chosen):
        alone = run_encounter(game, rules, num_seeds=3, num_updates=5)
        assert np.allclose(together.final[0][k], alone.final[0], atol=1e-4)
    assert not np.allclose(together.final[0][0], together.final[0][1], atol=1e-2)


def test_an_index_beyond_the_last_is_refused():
    with pytest.raises(BadInput, match="index is 78"):
        registry.make_game("ordinal(index=78)")
