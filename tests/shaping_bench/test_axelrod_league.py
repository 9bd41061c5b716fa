"""Axelrod's strategies as ours, with the real package: conversions are exact, scores are Axelrod's.

Importing the package takes most of this file's time.
"""

import importlib.util
import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from shaping_bench.algorithms.axelrod_strategies import memory_one, package, payoffs_of, player
from shaping_bench.algorithms.fixed import GTFT, TFT, WSLS, AllC, AllD, Grim, Random, ZDExtort
from shaping_bench.cli import main
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.metrics import evaluate
from shaping_bench.run.axelrod_league import _learned_class, match_values, play_league
from shaping_bench.run.encounter import run_encounter
from shaping_bench.spec.registry import make_learner
from shaping_bench.store import results
from tests.shaping_bench.synthetic_results import write_cell, write_suite

ALIKE = {
    "Tit For Tat": TFT(),
    "Win-Stay Lose-Shift": WSLS(),
    "Cooperator": AllC(),
    "Defector": AllD(),
    "Random": Random(),
    "GTFT": GTFT(generosity=1 / 3),
}
"""Ours by the name of Axelrod's."""

AXELRODS = {"payoffs": ((3.0, 0.0, 5.0, 1.0), (3.0, 5.0, 0.0, 1.0))}


@pytest.fixture(scope="module", autouse=True)
def axelrod():
    reason = "axelrod not installed: pip install --no-deps -r .ci/no-deps.txt"
    if importlib.util.find_spec("axelrod") is None:
        pytest.skip(reason)
    return package()


def logits(rule, game):
    return np.asarray(rule.init(None, game, 0)[0], np.float64)


@pytest.mark.parametrize("name", ALIKE)
def test_conversions_are_our_strategies(name):
    game = make("ipd")
    np.testing.assert_allclose(memory_one(name), ALIKE[name].probabilities(game, 0), atol=1e-12)


def test_zero_determinant_strategies_are_ours_without_discount():
    """Stewart & Plotkin's slope s = 1/2 and phi = 1/9 are our chi = 1/s and phi s; their first move is to cooperate."""
    game = make("matrix", gamma=1 - 1e-12, **AXELRODS)
    ours = np.array([float(p) for p in ZDExtort(chi=2.0, phi=1 / 18).probabilities(game, 0)])
    np.testing.assert_allclose(memory_one("ZD-Extort-2")[1:], ours[1:], atol=1e-9)
    assert (memory_one("ZD-Extort-2")[0], ours[0]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("name", "rule"), [("Tit For Tat", TFT()), ("Win-Stay Lose-Shift", WSLS()), ("Grudger", Grim())]
)
def test_our_policies_move_as_axelrods_players_do(axelrod, name, rule):
    """Against every sequence of six moves, in Axelrod's engine."""
    probabilities = 1 / (1 + np.exp(-logits(rule, make("ipd"))))
    for moves in itertools.product((axelrod.Action.C, axelrod.Action.D), repeat=6):
        played = [
            axelrod.Match((own, axelrod.MockPlayer(list(moves))), turns=7, seed=1).play()
            for own in (_learned_class()(probabilities), player(name))
        ]
        assert played[0] == played[1]


@pytest.mark.parametrize("opponent", ["Alternator", "Tit For 2 Tats", "Grudger", "Fool Me Once", "Win-Stay Lose-Shift"])
def test_returns_are_axelrods_scores(axelrod, opponent):
    """Without discount, the score per turn of Axelrod's own players under Axelrod's own payoffs."""
    game = make("matrix", gamma=1 - 1e-12, **AXELRODS)
    for name, rule in (("Tit For Tat", TFT()), ("Win-Stay Lose-Shift", WSLS()), ("Grudger", Grim())):
        match = axelrod.Match((player(name), player(opponent)), turns=30)
        match.play()
        got = match_values(game, logits(rule, game)[None], opponent, turns=30)
        np.testing.assert_allclose(got["return"][0], match.final_score_per_turn(), atol=1e-9)
        cooperations = [x / 30 for x in match.cooperation()]
        np.testing.assert_allclose(got["cooperation"][0], cooperations, atol=1e-9)


def test_matches_agree_with_exact_values():
    """A converted strategy in an encounter, exactly, and the same in matches."""
    game = make("ipd")
    stochastic = np.array([0.3, -0.5, 1.0, 0.2, -1.0])
    rule = make_learner("axelrod(strategy='firm but fair')").value
    exact = evaluate(game, [stochastic[None], logits(rule, game)[None]], names=("return",))["return"][0]
    played = match_values(game, np.repeat(stochastic[None], 400, axis=0), "Firm But Fair")["return"]
    error = played.std(axis=0, ddof=1) / 20
    assert (np.abs(played.mean(axis=0) - exact) < 4 * error + 1e-3).all()
    met = run_encounter(game, [make_learner("naive(lr=0)").value, rule], num_seeds=1, num_updates=0)
    np.testing.assert_allclose(met.final[1][0], logits(rule, game), rtol=1e-6)


def test_matches_are_repeatable_and_differ_between_policies_and_seeds():
    game, random = make("ipd"), np.zeros((3, 5))
    first = match_values(game, random, "Random", turns=20, seed=1)["return"]
    np.testing.assert_array_equal(first, match_values(game, random, "Random", turns=20, seed=1)["return"])
    np.testing.assert_array_equal(first[:2], match_values(game, random[:2], "Random", turns=20, seed=1)["return"])
    assert len(np.unique(first[:, 0])) == 3
    assert (first != match_values(game, random, "Random", turns=20, seed=2)["return"]).any()


def test_asymmetric_payoffs_and_lost_seeds():
    game = make("bos")  # player 1 prefers both playing 0
    policies = np.stack([np.full(5, 40.0), np.full(5, np.nan)])
    got = match_values(game, policies, "Cooperator", turns=10)["return"]
    np.testing.assert_allclose(got[0], [3.0, 2.0])
    assert np.isnan(got[1]).all()
    with pytest.raises(ValueError, match="repeated two-action games of two players"):
        payoffs_of(make("public-goods"))


@pytest.mark.parametrize(
    ("strategy", "complaint"),
    [
        ("Adaptive", "remembers more than the last round.*shaping-bench axelrod"),
        ("ZD-Extort-2", "depends on the payoffs.*zd-extort"),
        ("Tit for", "strategy is 'Tit for'.*'Tit For Tat'"),
    ],
)
def test_what_cannot_enter_an_encounter_is_bad_input(strategy, complaint, capsys):
    assert main(["encounter", "ipd", "naive", f"axelrod(strategy='{strategy}')", "--seeds", "2"]) == 2
    assert re.search(complaint, capsys.readouterr().err)


@pytest.fixture
def directory(tmp_path):
    """Two learners' self-play of three seeds, one of which diverged, with final policies."""
    write_suite(tmp_path, ["ipd"], ["naive", "lola"])
    for label, rule in (("naive", AllD()), ("lola", TFT())):
        key = write_cell(tmp_path, "ipd", [label, label], {"return": np.zeros((3, 2))})
        policies = np.stack([logits(rule, make("ipd"))] * 2 + [np.full(5, np.nan)])
        np.savez(tmp_path / "cells" / key / "policies.npz", player_1=policies, player_2=policies)
    return tmp_path


def test_final_policies_meet_axelrods_strategies(directory, capsys):
    assert main(["axelrod", str(directory), "tit for tat", "Cooperator", "--turns", "50"]) == 0
    assert "Axelrod: Tit For Tat" in capsys.readouterr().out
    found = results.load(directory)
    league = [x for x in found.records if x["kind"] == "league"]
    assert len(league) == 4
    assert {x["diverged"] for x in league} == {1}
    values = found.final("return", "league")
    mean = values.groupby(["learner", "opponent"], observed=True)["value"].mean()
    # Defection earns 0 on the first step against tit for tat, -2 thereafter.
    weights = 0.96 ** np.arange(50) / (0.96 ** np.arange(50)).sum()
    assert mean["naive", "Axelrod: Tit For Tat"] == pytest.approx(-2 + 2 * weights[0])
    assert mean["naive", "Axelrod: Cooperator"] == pytest.approx(0.0)
    assert mean["lola", "Axelrod: Tit For Tat"] == pytest.approx(-1.0)
    assert mean["Axelrod: Cooperator", "naive"] == pytest.approx(-3.0)
    times = {x: x.stat().st_mtime_ns for x in (directory / "cells").glob("*/cell.json")}
    play_league(directory, ["Tit For Tat", "Cooperator"], turns=50)
    assert times == {x: x.stat().st_mtime_ns for x in (directory / "cells").glob("*/cell.json")}
    record = json.loads((directory / "cells" / league[0]["hash"] / "cell.json").read_text())
    assert record["learners"][1]["hyperparameters"]["turns"] == 50
    assert record["versions"]["axelrod"]


def test_results_without_policies_are_bad_input(tmp_path):
    write_suite(tmp_path, ["ipd"], ["naive"])
    write_cell(tmp_path, "ipd", ["naive", "naive"], {"return": np.zeros((3, 2))})
    with pytest.raises(BadInput, match="holds no final memory-one policies; allowed: those of a suite with a league"):
        play_league(tmp_path, ["Cooperator"])


def test_without_the_package_all_else_works():
    code = (
        "import sys; sys.modules['axelrod'] = None\n"
        "from shaping_bench.cli import main\n"
        "sys.exit(main(['encounter', 'ipd', 'naive', \"axelrod(strategy='Cooperator')\", '--seeds', '1']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "needs the package axelrod" in done.stderr
    assert "pip install --no-deps axelrod" in done.stderr
