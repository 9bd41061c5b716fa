"""The same encounters, store, league, tables and claims for learners that play."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
import yaml

from shaping_bench import metrics
from shaping_bench.algorithms.fixed import TFT, AllC, AllD, Frozen
from shaping_bench.algorithms.lola import LOLA
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.policy_gradient import NaivePG
from shaping_bench.claims import verify as claims
from shaping_bench.claims.files import Claim
from shaping_bench.cli import main
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.games.grids.coin import CoinGame
from shaping_bench.publish.report import write_report
from shaping_bench.run import devices, encounter
from shaping_bench.run.encounter import (
    planned_memory_bytes,
    played_names,
    run_encounter,
    steps_per_update,
    valued_exactly,
)
from shaping_bench.run.episodes import shown_episode
from shaping_bench.run.pace import Pace
from shaping_bench.run.runner import run_suite
from shaping_bench.spec import registry
from shaping_bench.spec.suite import expand, validate
from shaping_bench.store.results import load
from shaping_bench.store.store import Store, read_parquet

IPD, COIN = make("ipd", horizon=10), make("coin-game", horizon=8)
PG = NaivePG(batch_size=8, lr=0.1)
NET = NaivePG(batch_size=8, lr=0.1, network="gru", hidden=4)


def test_a_seed_does_not_depend_on_how_many_run_beside_it():
    few = run_encounter(COIN, [NET, AllD()], num_seeds=1, num_updates=3)
    many = run_encounter(COIN, [NET, AllD()], num_seeds=3, num_updates=3)
    for a, b in zip(jax.tree.leaves(few.final), jax.tree.leaves(many.final), strict=True):
        np.testing.assert_allclose(a[0], b[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(few.played["return"].shape, (2, 1, 2))


def test_records_and_chunks_do_not_change_what_is_learnt(monkeypatch):
    monkeypatch.setattr(encounter, "Pace", lambda: Pace(first=1000))  # calls as long as records allow
    plain = run_encounter(IPD, [PG, PG], num_seeds=3, num_updates=9)
    done = []
    chunked = run_encounter(IPD, [PG, PG], num_seeds=3, num_updates=9, record_every=1, on_progress=done.append)
    np.testing.assert_array_equal(plain.params[0][-1], chunked.params[0][-1])
    np.testing.assert_array_equal(plain.params[1][0], chunked.params[1][0])
    assert done == [3, 7, 9]
    assert chunked.infos[0]["critic_loss"].shape == (10, 3)
    assert np.isnan(chunked.infos[0]["critic_loss"][0]).all()


def test_tables_are_valued_exactly_and_networks_by_play():
    assert valued_exactly(IPD, [PG, TFT()])
    assert not valued_exactly(IPD, [PG, NET])
    assert not valued_exactly(COIN, [NET, NET])
    assert set(played_names(COIN, [NET, AllC()])) == {"return", "discounted_return", "own_coins", "other_coins"}
    against = run_encounter(IPD, [NET, AllD()], num_seeds=2, num_updates=1, episodes=64)
    assert against.params == ()
    # Against defection, cooperating costs exactly one per step.
    loss = -2.0 - against.played["return"][..., 0]
    np.testing.assert_allclose(loss, against.played["cooperation"][..., 0], atol=1e-5)
    np.testing.assert_allclose(against.played["cooperation"][..., 1], 0.0)


def test_an_exact_rule_meets_one_that_plays():
    outcome = run_encounter(IPD, [LOLA(), PG], num_seeds=2, num_updates=2)
    assert [x.shape for x in outcome.params] == [(2, 2, 5)] * 2
    # What the exact rule does in its first update does not depend on how the other learns.
    one = run_encounter(IPD, [LOLA(), PG], num_seeds=2, num_updates=1)
    exact = run_encounter(IPD, [LOLA(), Naive()], num_seeds=2, num_updates=1, init=[x[0] for x in one.params])
    np.testing.assert_allclose(one.params[0][-1], exact.params[0][-1], rtol=2e-5)
    with pytest.raises(BadInput, match=r"plays a network's policy, but learner 'lola' needs policies"):
        registry.check_encounter(
            registry.make_game("ipd"), [registry.make_learner("lola"), registry.make_learner("naive-pg(network='gru')")]
        )


def test_frozen_policies_stay_and_start_where_told():
    first = run_encounter(COIN, [NET, NET], num_seeds=2, num_updates=2)
    again = run_encounter(
        COIN, [Frozen(rule=NET), NET], num_seeds=2, num_updates=2, init=[first.final[0], None], seed=4
    )
    for a, b in zip(jax.tree.leaves(first.final[0]), jax.tree.leaves(again.final[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    fresh = run_encounter(COIN, [NET, NET], num_seeds=2, num_updates=0, seed=4)
    moved = [
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(again.final[1]), jax.tree.leaves(fresh.final[1]), strict=True)
    ]
    assert all(moved)


def test_a_diverged_network_is_reported():
    wild = dataclasses.replace(NET, lr=np.float32(np.inf))
    outcome = run_encounter(COIN, [wild, AllD()], num_seeds=2, num_updates=2)
    assert outcome.diverged.all()


def test_play_is_priced_once_where_it_is_shared():
    assert steps_per_update(IPD, [PG, PG]) == 8 * 10
    assert steps_per_update(IPD, [PG, dataclasses.replace(PG, batch_size=4)]) == 8 * 10  # the first 4 of the 8
    assert steps_per_update(IPD, [TFT(), AllC()]) == 0


def test_what_does_not_fit_is_refused_before_it_runs(monkeypatch):
    needed = planned_memory_bytes(COIN, [NET, NET], num_seeds=2)
    assert 10_000 < needed < 2**30
    larger = planned_memory_bytes(COIN, [dataclasses.replace(NET, batch_size=512)] * 2, num_seeds=2)
    assert larger > 2 * needed
    monkeypatch.setattr(devices, "free_memory_bytes", lambda: 1000)
    rule = dataclasses.replace(NET, batch_size=16)
    with pytest.raises(BadInput, match=r"needs about \d+\.\d GiB of memory, 0\.0 GiB are free; allowed: .*batch_size"):
        run_encounter(COIN, [rule, rule], num_seeds=2, num_updates=1)


def test_metrics_from_play():
    played = {
        "return": np.array([[0.5, -0.1]]),
        "own_coins": np.array([[0.3, 0.0]]),
        "other_coins": np.array([[0.1, 0.0]]),
    }
    got = metrics.from_play(COIN, played)
    np.testing.assert_allclose(got["welfare"], [[0.4, 0.4]])
    np.testing.assert_allclose(got["exploitation_gap"], [[0.6, -0.6]])
    np.testing.assert_allclose(got["own_coin_share"], [[0.75, np.nan]])


def test_published_hyperparameters_are_the_defaults_of_their_game():
    assert registry.make_learner("naive-pg", game="coin-game").hyperparameters["lr"] == 0.005
    assert registry.make_learner("naive-pg(lr=0.3)", game="coin-game").hyperparameters["lr"] == 0.3
    assert registry.make_learner("naive-pg", game="ipd").hyperparameters["lr"] == 1.0


PLAYING = {
    "name": "playing",
    "games": [{"game": "coin-game(horizon=8)", "learners": ["naive-pg(batch_size=8,network=gru,hidden=4)"]}],
    "learners": ["naive"],
    "opponents": ["all-d"],
    "seeds": 2,
    "steps": 2,
    "record_every": 2,
    "episodes": 4,
    "league": {
        "opponents": ["all-c", "wsls"],
        "responder": "naive-pg(batch_size=8,network=gru,hidden=4)",
        "responder_steps": 1,
    },
}


def test_a_suite_with_play_runs_whole_and_again_for_nothing(tmp_path):
    suite = expand(validate(PLAYING))
    store = Store(tmp_path)
    assert run_suite(suite, store) == []
    computed = []
    assert run_suite(suite, store, lambda cell, now: computed.append(now)) == []
    assert not any(computed)
    results = load(tmp_path)
    coin = results.finals[results.finals["game"] == "coin-game(horizon=8)"]
    assert {"return", "own_coins", "other_coins", "own_coin_share"} <= set(coin["metric"])
    records = [json.loads(p.read_text()) for p in tmp_path.glob("cells/*/cell.json")]
    played = [r for r in records if r["kind"] == "encounter" and r["game"]["name"] == "coin-game"]
    assert all(r["costs"]["environment_steps"] == 2 * 2 * 8 * 8 for r in played)
    # Encounters in the Coin Game show an episode of what they ended in.
    shown = {r["hash"]: tmp_path / "cells" / r["hash"] / "episode.json" for r in records}
    assert {key for key, path in shown.items() if path.exists()} == {r["hash"] for r in played}
    for r in played:
        episode = json.loads(shown[r["hash"]].read_text())
        assert (episode["rows"], episode["columns"], len(episode["frames"])) == (3, 3, 8 + 1)
        for before, after in itertools.pairwise(episode["frames"]):
            (was, then), (is_now, _) = (_board(frame["pieces"]) for frame in (before, after))
            for i in (0, 1):
                moved = [(x - y) % 3 for x, y in zip(is_now[i], was[i], strict=True)]
                assert sorted(moved) in ([0, 1], [0, 2])  # one step on the torus
            taken = [[owner for owner, at in then if at == player] for player in is_now]
            paid = [len(taken[i]) - 2 * sum(owner != 1 - i for owner in taken[1 - i]) for i in (0, 1)]
            assert after["rewards"] == paid
    # The trained best response states who was trained, for how long, and what it cost.
    (trained,) = (r for r in records if "responder" in r)
    assert trained["responder"]["steps"] == 1
    assert [r["hash"] for r in records if r["best_response"]] == [trained["hash"]]
    assert all(x["swept"] == {} for r in records for x in r["learners"])
    assert {x["entry"] for r in records if r["kind"] == "encounter" for x in r["learners"]} <= {0, 1, 2}
    assert trained["costs"]["environment_steps"] == 2 * 8 * 8
    # Only strategies that the game defines are met.
    met = {x["label"] for r in records if r["kind"] == "league" for x in r["learners"]}
    assert met == {"naive-pg(batch_size=8,network=gru,hidden=4)", "all-c", "best-response"}


def _board(pieces):
    """Places of both players, and owner and place of each coin."""
    at = [(name, place) for name, *place in pieces]
    coins = [(("red coin", "blue coin").index(name), place) for name, place in at if name.endswith("coin")]
    return [dict(at)[name] for name in ("red", "blue")], coins


@pytest.mark.parametrize("board", [{"tiles": [1, 2]}, {"grid": 3, "tiles": [1]}, 5])
def test_a_board_of_ones_own_costs_no_cell(tmp_path, monkeypatch, board):
    """What a game shows may be anything; what cannot be drawn is not, and the encounter is stored."""
    monkeypatch.setattr(CoinGame, "board", lambda self, state: board)
    suite = expand(validate({**PLAYING, "seeds": 1, "steps": 1, "opponents": [], "league": False}))
    with pytest.warns(UserWarning, match="CoinGame cannot be shown"):
        assert run_suite(suite, Store(tmp_path)) == []
    assert not list(tmp_path.glob("cells/*/episode.json"))
    assert "Watch them play" not in write_report(load(tmp_path).directory, tmp_path / "page.html").read_text()


def test_strategies_that_do_not_learn_are_shown_too():
    episode = shown_episode(COIN, [AllC(), AllD()], [(), ()], seed=0)
    assert len(episode["frames"]) == 9
    assert episode["legend"]["blue coin"] == {"shape": "diamond", "label": "coins", "colour": 1, "owner": 1}
    assert shown_episode(IPD, [Naive(), Naive()], [np.zeros(5), np.zeros(5)], seed=0) is None


def test_the_table_shows_pick_ups_beside_returns(tmp_path, capsys):
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump({**PLAYING, "games": PLAYING["games"][:1], "league": False}))
    assert main(["run", str(path), "-o", str(tmp_path / "out"), "--wandb", "disabled"]) == 0
    assert main(["table", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert all(f"coin-game(horizon=8): {name}" in shown for name in ("return", "own_coins", "other_coins"))


def test_claims_of_play(tmp_path):
    """Always-defect takes from always-cooperate what the reference says, directly and as who is met."""
    claim = {
        "id": "coin",
        "statement": "s",
        "source": "s",
        "protocol": {
            "game": "coin-game",
            "learners": ["all-d", "all-c"],
            "steps": 0,
            "seeds": 8,
            "episodes": 256,
            "full": {"seeds": 2, "episodes": 8},
        },
        "quantities": [
            {"metric": "return", "player": 1, "published": 0.637, "tolerance": 0.015, "why": "w"},
            {"metric": "own_coin_share", "player": 2, "published": 1.0, "tolerance": 0.0, "why": "w"},
            {
                "metric": "return",
                "player": 2,
                "against": "all-c",
                "published": -0.266,
                "tolerance": 0.015,
                "why": "w",
            },
        ],
    }
    known = {"coin": Claim.model_validate(claim)}
    verdicts = claims.verify(claims=known)
    assert [v.verdict for v in verdicts] == ["reproduced"] * 3
    assert verdicts[0].budget == "8 seeds x 0 updates of all-d vs all-c in coin-game"
    assert verdicts[0].full == "2 seeds x 0 updates of all-d vs all-c in coin-game"
    assert claims.verify(claims=known, full=True)[0].seeds == 2
    claim["quantities"][0]["metric"] = "cooperation"
    with pytest.raises(BadInput, match="metric of claim 'coin' in game 'coin-game' is 'cooperation', which is unknown"):
        claims.verify(claims={"coin": Claim.model_validate(claim)})


def test_the_command_line_plays(capsys):
    arguments = ["encounter", "coin-game(horizon=8)", "naive-pg(batch_size=8,network=gru,hidden=4)", "tft"]
    assert main([*arguments, "--seeds", "2", "--steps", "1", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert "params" not in shown
    assert shown["metrics"]["own_coins"][1]["n"] == 2
    assert main([*arguments, "--init", "missing.json"]) == 2
    assert main(["encounter", "coin-game", "lola"]) == 2
    assert "the game offers ['sampled']" in capsys.readouterr().err


def test_in_a_league_a_fixed_strategys_number_is_that_of_the_policy_it_met(tmp_path):
    league = {"opponents": ["all-d"], "best_response": False}
    suite = expand(validate({"name": "t", "games": ["ipd"], "learners": ["naive"], "seeds": 3, "steps": 2,
                             "opponents": [], "league": league}))  # fmt: skip
    store = Store(tmp_path)
    assert run_suite(suite, store) == []
    cell = next(c for c in suite.matches if {x.label for x in c.learners} == {"naive", "all-d"})
    encounter = next(c for c in suite.encounters if c.learners[0].label == c.learners[1].label == "naive")
    policies = store.policies(encounter.hash)["player_1"]
    game = make("ipd")
    defect = np.repeat(np.asarray(registry.make_learner("all-d").value.init(None, game, 1)[0])[None], 3, axis=0)
    expected = metrics.evaluate(game, [policies, defect], ["return"])["return"]
    finals = read_parquet(tmp_path / "cells" / cell.hash / "finals.parquet")
    got = finals[finals["metric"] == "return"].pivot(index="seed", columns="player", values="value").to_numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert np.ptp(got[:, 1]) > 1e-3
