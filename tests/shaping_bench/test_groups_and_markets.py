"""The tracks of three players with exact values and of amounts instead of actions: what they ask and ship."""

import itertools

import numpy as np
import pytest

from shaping_bench import metrics
from shaping_bench.analysis import reference
from shaping_bench.cli import main
from shaping_bench.spec.registry import make_game, make_learner
from shaping_bench.spec.scenarios import card_cells, load_track

GROUPS, MARKETS = load_track("groups"), load_track("markets")


def games(track):
    return {x.game: make_game(x.game).value for x in track.scenarios}


@pytest.mark.parametrize("track", [GROUPS, MARKETS], ids=["groups", "markets"])
def test_among_three_visitors_and_residents_are_asked(track):
    for game, value in games(track).items():
        for tier in track.tiers:
            own = [x for x in track.at(tier).of("test") if x.game == game]
            for family in "learners", "frozen":
                seats = {x.seats(value.n_players) for x in own if x.family == family}
                assert seats == ({(0,)} if value.n_players == 2 else {(0,), (0, 1)})
            assert ("adversary" in {x.family for x in own}) == (value.n_players == 2)


def test_groups_are_of_three_and_every_best_response_among_them_is_exact():
    for value in games(GROUPS).values():
        assert value.n_players == 3
        assert value.has_best_response
        assert "exact" in value.views
    goods, named = (make_game(x).value for x in ("tensor(preset=public_goods)", "public-goods"))
    np.testing.assert_allclose(goods.payoffs, named.payoffs)
    assert (goods.gamma, goods.horizon) == (named.gamma, named.horizon)


def test_in_markets_of_two_and_three_everybody_is_played():
    sizes = {(make_game(game).name, value.n_players) for game, value in games(MARKETS).items()}
    assert sizes == {(name, n) for name in ("cournot", "fishery") for n in (2, 3)}
    assert all(value.views == {"sampled"} for value in games(MARKETS).values())
    assert MARKETS.responders == (MARKETS.naive,)
    for tier in MARKETS.tiers:
        shapers = {x.background for x in MARKETS.at(tier).scenarios if x.family == "shapers"}
        assert bool(shapers) == (tier == "standard")  # nobody shapes at the budget of `quick`


@pytest.mark.parametrize("track", [GROUPS, MARKETS], ids=["groups", "markets"])
def test_amounts_are_measured_by_what_scripts_earn_at_most(track):
    measured = {x.game: x.spread for x in track.scenarios if make_game(x.game).name in ("cournot", "fishery")}
    for game, spread in measured.items():
        steady = make_game(game.replace(",steady=false", "")).value
        returns = []
        for names in itertools.product(("all-c", "all-d"), repeat=steady.n_players):
            params = [np.asarray(make_learner(x).value.init(None, steady, i)[0])[None] for i, x in enumerate(names)]
            returns.append(metrics.evaluate(steady, params, ["return"])["return"])
        assert spread == pytest.approx(np.max(returns), rel=0.1), game  # rounded


def test_who_plays_no_game_of_a_track_is_refused_in_a_line_before_anything_is_computed(tmp_path, capsys):
    for track, learner, why in (
        ("markets", "tft", "needs a repeated two-action game"),
        ("groups", "tft", "is defined for 2 players"),
        ("markets", "mfos", "plays the views ['exact']"),
    ):
        assert main(["score", learner, "--track", track, "-o", str(tmp_path / "score")]) == 2
        said = capsys.readouterr()
        assert why in said.err
        assert said.err.count("\n") == 1
        assert track in said.err
    assert not (tmp_path / "score").exists()


@pytest.mark.parametrize(
    ("track", "learner", "played"),
    [("groups", "stackelberg", 48), ("groups", "tft", 0), ("markets", "paa", 26), ("markets", "naive-q", 0)],
)
def test_who_can_play_is_asked_and_who_cannot_is_told_why_in_a_line(track, learner, played):
    cells = card_cells(load_track(track), "quick", learner)
    refused = [x for x in cells.values() if isinstance(x, str)]
    assert len([x for x in load_track(track).at("quick").of("test") if not x.projected]) == len(cells)
    assert len(cells) - len(refused) == played - (2 if track == "markets" and played else 0)  # of self-play's policies
    assert all(x.startswith(f"learner {learner!r} in seat 1 of game") and "\n" not in x for x in refused)


def test_ppo_learns_about_the_equilibrium_of_the_market_and_leaves_random_play_behind_in_the_fishery():
    runs = {x: reference.load(MARKETS).subject(x, MARKETS.tiers["quick"]).runs for x in (MARKETS.naive, "random")}
    for game, value in games(MARKETS).items():
        learnt, drawn = (x[x["scenario"] == f"{game}/self"]["own"] for x in runs.values())
        steady = make_game(game.replace(",steady=false", "")).value
        params = [
            np.asarray(make_learner("all-d").value.init(None, steady, i)[0])[None] for i in range(value.n_players)
        ]
        equilibrium = metrics.evaluate(steady, params, ["return"])["return"].mean()
        assert drawn.mean() < 0.0 < learnt.min()
        assert learnt.mean() < value.anchors().social_optimum
        assert learnt.mean() == pytest.approx(equilibrium, rel=0.1 if game.startswith("cournot") else 0.35)
