"""What final policies get as an episode goes on: followed exactly, played, stored, and shown."""

import numpy as np
import pytest

from shaping_bench.algorithms.automata import Bot, everybody
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.policy_gradient import NaivePG
from shaping_bench.analysis import curves
from shaping_bench.games import make
from shaping_bench.publish.report.page import render_page
from shaping_bench.run.encounter import Outcome
from shaping_bench.run.runner import run_suite
from shaping_bench.run.within import _played, within
from shaping_bench.spec.suite import expand, validate
from shaping_bench.store.results import load
from shaping_bench.store.store import Store

TFT = [40.0, 40.0, -40.0, 40.0, -40.0]
DEFECTOR = [-40.0] * 5
HALF = [0.0] * 5


def outcome(*final, diverged=None):
    count = len(final[0])
    return Outcome(
        updates=np.arange(1),
        params=(),
        infos=({}, {}),
        diverged=np.zeros(count, bool) if diverged is None else np.array(diverged),
        compile_seconds=0.0,
        run_seconds=0.0,
        final=tuple(np.array(x, np.float32) for x in final),
        played={},
    )


def table(frame, metric="return"):
    return (
        frame[frame["metric"] == metric]
        .pivot(index="step", columns=["player", "seed"], values="value")
        .sort_index(axis=1)
    )


def test_tables_are_followed_exactly():
    game = make("ipd", horizon=4)
    ended = outcome([TFT, HALF, HALF], [DEFECTOR, HALF, HALF], diverged=[False, False, True])
    found = within(game, (Naive(), Naive()), ended, seed=0, episodes=1)
    returns = table(found)
    assert list(returns.index) == [1, 2, 3, 4]
    np.testing.assert_allclose(returns[1, 0], [-3.0, -2.0, -2.0, -2.0], atol=1e-9)
    np.testing.assert_allclose(returns[2, 0], [0.0, -2.0, -2.0, -2.0], atol=1e-9)
    np.testing.assert_allclose(returns[1, 1], -1.5)
    assert returns[1, 2].isna().all()
    np.testing.assert_allclose(table(found, "cooperation")[1, 0], [1.0, 0.0, 0.0, 0.0], atol=1e-9)


def test_play_agrees_with_what_is_expected_of_it():
    game, episodes = make("ipd", horizon=5), 4000
    rng = np.random.default_rng(0)
    rules, final = (NaivePG(), Bot()), (rng.normal(size=(2, 5)), everybody("drawn")[[1, 4]])
    expected = within(game, rules, outcome(*final), seed=0, episodes=1)
    played = _played(game, rules, outcome(*final).final, seeds=np.arange(2), seed=0, episodes=episodes)
    wanted = table(expected).to_numpy().reshape(5, 2, 2)
    np.testing.assert_allclose(np.moveaxis(played["return"], 1, 2), wanted, atol=5 * 1.5 / np.sqrt(episodes))
    assert played["cooperation"].shape == (5, 2, 2)


def test_games_that_are_not_played_have_none():
    assert within(make("tandem"), (Naive(), Naive()), outcome([[0.0]], [[0.0]]), seed=0, episodes=1) is None


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_it_is_stored_where_the_suite_says_so_and_shown(tmp_path):
    content = {"name": "x", "games": ["ipd(horizon=6)"], "learners": ["naive"], "opponents": ["tft"]}
    content |= {"seeds": 3, "steps": 2, "record_every": 1}
    suite = expand(validate({**content, "within": True}))
    assert not run_suite(suite, Store(tmp_path))
    results = load(tmp_path)
    bands = curves.within_bands(results, "return")
    assert set(bands["hash"]) == {cell.hash for cell in suite.encounters}
    assert sorted(bands["step"].unique()) == [1, 2, 3, 4, 5, 6]
    assert (bands["n"] == 3).all()
    raw = results.within("return", [suite.encounters[0].hash])
    first = raw[(raw["step"] == 4) & (raw["player"] == 1)]["value"]
    told = bands[(bands["hash"] == suite.encounters[0].hash) & (bands["step"] == 4) & (bands["player"] == 1)]
    assert told["mean"].item() == pytest.approx(first.mean())
    assert told["std"].item() == pytest.approx(first.std(ddof=1))
    assert "Within an episode" in render_page(results)
    assert "within" not in validate(content).plain()
