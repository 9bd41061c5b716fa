"""Encounters from the points of a grid, and the share of them that ends in what is best for both."""

import numpy as np
import pytest

from shaping_bench import metrics
from shaping_bench.cli import main
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.metrics.definitions import payoff_dominant
from shaping_bench.run.encounter import run_encounter
from shaping_bench.run.starts import check, initial
from shaping_bench.spec import suite
from shaping_bench.spec.registry import make_game, make_learner

HUNT = "matrix-one-shot(payoffs=((4,0,3,2),(4,3,0,2)))"


@pytest.mark.parametrize(
    ("game", "best"),
    [
        ("ipd", 0),
        ("stag-hunt", 0),
        ("bos", None),
        ("imp", None),
        ("hawk-dove", None),
        (HUNT, 0),
        # One equilibrium alone leaves nothing to choose.
        ("matrix-one-shot(payoffs=((-1,-3,0,-2),(-1,0,-3,-2)))", None),
        ("matrix-one-shot(payoffs=((2,3,0,4),(2,0,3,4)))", 3),
    ],
)
def test_what_is_best_for_both_of_what_they_may_settle_on(game, best):
    assert payoff_dominant(make_game(game).value) == best


def test_basins_of_naive_learning_lie_where_its_flow_says():
    """By the gradients of both logits, x' = p (1 - p) (3 q - 2) and the same of q, H(p) - H(q) is constant with
    H(p) = 2 / p + 1 / (1 - p) - log(p / (1 - p)): where one starts above 2/3, the larger H decides."""
    game, rule = make_game(HUNT).value, make_learner("naive", game="matrix-one-shot").value
    start = initial("grid", game, (rule, rule), 441)
    outcome = run_encounter(game, (rule, rule), num_seeds=441, num_updates=200, init=start)
    ends = metrics.evaluate(game, outcome.final, names=["basin"])["basin"][:, 0]
    p, q = (1.0 / (1.0 + np.exp(-x[:, 0])) for x in start)
    assert sorted({round(float(x), 6) for x in p}) == [round((k + 0.5) / 21, 6) for k in range(21)]
    level = [2.0 / x + 1.0 / (1.0 - x) - np.log(x / (1.0 - x)) for x in (p, q)]
    above = (p > 2 / 3).astype(int) + (q > 2 / 3)
    expected = np.where(above == 1, np.where(p > q, level[0] > level[1], level[1] > level[0]), above == 2)
    near = np.abs(level[0] - level[1]) < 0.3  # steps are no flow
    np.testing.assert_array_equal(ends[~near | (above != 1)], expected[~near | (above != 1)])
    assert ends.mean() == pytest.approx(0.297, abs=0.01)


def test_whoever_does_not_learn_plays_what_it_plays():
    ipd = make("ipd")
    start = initial("grid", ipd, (make_learner("naive").value, make_learner("tft").value), 4)
    assert start[1] is None
    np.testing.assert_allclose(start[0], np.repeat(np.log([[1 / 3], [1 / 3], [3], [3]]), 5, axis=1))
    assert initial("drawn", ipd, (), 5) is None


@pytest.mark.parametrize(
    ("game", "rules", "seeds", "said"),
    [
        ("ipd", ["naive", "naive"], 440, "seeds is 440 .*square numbers"),
        ("tandem", ["naive", "naive"], 441, "starts is 'grid' in a Tandem"),
        ("ipd", ["naive-pg(network=mlp)", "tft"], 441, "seat 1 is a network"),
    ],
)
def test_what_cannot_begin_there_is_told(game, rules, seeds, said):
    with pytest.raises(BadInput, match=said):
        check("grid", make(game), [make_learner(x).value for x in rules], seeds)


def test_cells_of_a_grid_are_others_and_say_so(capsys):
    def cells(**more):
        content = {"name": "x", "games": ["ipd"], "learners": ["naive"], "seeds": 9, "steps": 2}
        return suite.expand(suite.validate({**content, **more})).encounters

    (drawn,), (grid,) = cells(), cells(starts="grid")
    assert drawn.hash != grid.hash
    assert "--starts grid" in grid.command
    assert "starts" not in drawn.command
    assert "starts" not in suite.validate({"name": "x", "games": ["ipd"], "learners": ["naive"]}).plain()
    with pytest.raises(BadInput, match="square"):
        cells(starts="grid", seeds=8)
    assert main(["encounter", "ipd", "naive", "--seeds", "8", "--starts", "grid"]) == 2
    assert "square numbers" in capsys.readouterr().err
