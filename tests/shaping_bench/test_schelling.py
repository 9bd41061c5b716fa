"""Schelling diagrams: closed forms, the same by play, trained policies, and what is said of them."""

import json

import numpy as np
import pytest

from shaping_bench.analysis import schelling
from shaping_bench.analysis.schelling import Curve, Diagram, diagram
from shaping_bench.cli import main
from shaping_bench.publish import schelling as published
from shaping_bench.spec.registry import make_game, make_learner


def of(game, cooperator="all-c", defector="all-d", **protocol):
    return diagram(make_game(game), make_learner(cooperator), make_learner(defector), **protocol)


def test_public_goods_in_closed_form():
    """R_c(l) = m l / N - 1 and R_d(l) = m l / N of l cooperators: a gain of 1 - m / N at equal numbers of others."""
    found = of("public-goods(multiplier=2)")
    others = np.arange(3)
    assert found.exact
    assert found.cooperate.mean == pytest.approx(2 * (others + 1) / 3 - 1)
    assert found.defect.mean == pytest.approx(2 * others / 3)
    assert found.gain.mean == pytest.approx(1 / 3)
    assert found.group.mean == pytest.approx(np.arange(4) / 3)
    assert not found.gain.half.any()
    assert found.conditions == dict.fromkeys(schelling.CONDITIONS, True)


def test_rows_of_a_tensor_game_are_its_diagram():
    found = of("tensor(preset=pax_3pl)")
    assert found.defect.mean == pytest.approx([1, 3, 5])
    assert found.cooperate.mean == pytest.approx([0, 2, 4])
    hunt = of("tensor(preset=stag_hunt)").conditions
    assert (hunt["fear"], hunt["greed"], hunt["dilemma"]) == (True, False, True)
    # With a factor beyond the number of players nobody gains by keeping.
    assert of("public-goods(multiplier=4)").conditions["dilemma"] is False


def test_policies_are_trained_for_what_they_are():
    """Naive learners cooperate where both are paid the mean, and defect on their own rewards."""
    found = of("ipd", "naive", "naive", seeds=8, steps=300)
    assert (found.exact, found.steps, found.seeds) == (True, 300, 8)
    assert found.cooperate.mean == pytest.approx([-3, -1], abs=0.3)
    assert found.defect.mean == pytest.approx([-2, 0], abs=0.3)
    assert found.defect.half[0] > 0
    assert found.conditions["dilemma"]
    assert schelling.from_plain(json.loads(json.dumps(found.plain()))).plain() == found.plain()


def test_by_play():
    """Scripts of the Coin Game, beside their measured returns."""
    found = of("coin-game", episodes=32)
    assert (found.exact, found.steps, found.episodes) == (False, 0, 32)
    for curve, known in ((found.cooperate, (-0.266, 0.349)), (found.defect, (0.0, 0.637))):
        assert (np.abs(curve.mean - known) < 2 * curve.half + 0.002).all()
    assert found.conditions["dilemma"]


def test_undecided_is_no_verdict():
    def curve(mean, half):
        return Curve(mean=np.array(mean), half=np.array(half))

    exact = dict(game="x", cooperator="a", defector="b", exact=False, episodes=2, seeds=1, steps=0)
    found = Diagram(
        **exact,
        cooperate=curve([0.0, 2.0], [0.1, 0.1]),
        defect=curve([0.1, 1.0], [0.1, 0.1]),
        group=curve([0.1, 0.5, 2.0], [0.0] * 3),
    )
    assert found.conditions == {"together": True, "not_alone": True, "fear": None, "greed": False, "dilemma": None}
    assert "(fear): undecided" in published.text(found)


def test_the_command(capsys, tmp_path):
    picture = tmp_path / "diagram.svg"
    command = ["schelling", "tensor(preset=pax_2pl)", "-o", str(picture)]
    assert main(command) == 0
    assert (
        "1                                      4.00               5.00                 1.00" in capsys.readouterr().out
    )
    assert picture.read_text().startswith("<?xml")
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["defect"]["mean"] == pytest.approx([3.0, 5.0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ipd", "--cooperator", "mfos"], "--cooperator is 'mfos', which prepares"),
        (["ipd", "--defector", "all-e"], "--defector is 'all-e'"),
        (["tandem"], "learner 'all-c' in seat 1 of game 'tandem'"),
        (["ipd", "-o", "x.gif"], "--output is 'x.gif'; allowed: a file that ends in .pdf"),
        (["ipd", "--episodes", "1"], "--episodes is 1"),
    ],
)
def test_bad_input_is_one_line(arguments, said, capsys):
    assert main(["schelling", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
