"""The game between learning rules: games solved by hand, and what nashpy and OpenSpiel say."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from shaping_bench.analysis import metagame, solvers
from shaping_bench.errors import BadInput
from shaping_bench.publish import metagame_tables
from shaping_bench.store import results
from tests.shaping_bench.synthetic_results import write_cell, write_suite

ORACLES = json.loads((Path(__file__).parent / "fixtures" / "metagame.json").read_text())
DILEMMA = np.array([[-1.0, -3.0], [0.0, -2.0]])
HAWK_DOVE = np.array([[-1.0, 4.0], [0.0, 2.0]])  # value 4, cost 6: two thirds are hawks
COORDINATION = np.array([[2.0, 0.0], [0.0, 1.0]])
ROCK_PAPER_SCISSORS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
NAN = float("nan")


def shares(payoffs):
    return [x for x, _ in solvers.symmetric_equilibria(payoffs)[0]]


def same_set(first, second):
    return len(first) == len(second) and all(min(np.abs(a - b).max() for b in second) < 1e-7 for a in first)


# --- other people's code ------------------------------------------------------------------


@pytest.mark.parametrize("game", ORACLES["games"], ids=lambda x: x["name"])
def test_equilibria_are_those_that_nashpy_finds(game):
    assert same_set(shares(game["payoffs"]), [np.array(x) for x in game["equilibria"]])


@pytest.mark.parametrize("game", ORACLES["games"], ids=lambda x: x["name"])
def test_alpha_rank_is_that_of_open_spiel(game):
    for alpha, masses in game["alpha_rank"].items():
        got = solvers.alpha_rank(game["payoffs"], float(alpha), ORACLES["population"])
        # OpenSpiel's come from eigenvectors, which lose digits where selection is strong.
        assert masses is None or got == pytest.approx(masses, abs=1e-7)
    # OpenSpiel's limit lets losing mutants through with a chance of 1e-6; ties are never met here.
    if game["alpha_rank_infinite"] is not None:
        assert solvers.alpha_rank(game["payoffs"]) == pytest.approx(game["alpha_rank_infinite"], abs=2e-3)


def test_the_oracles_were_asked():
    asked = [masses for game in ORACLES["games"] for masses in game["alpha_rank"].values()]
    assert sum(x is not None for x in asked) > 80
    assert sum(len(x["equilibria"]) > 2 for x in ORACLES["games"]) > 5


# --- games solved by hand -----------------------------------------------------------------


def test_prisoners_dilemma():
    (x,) = shares(DILEMMA)
    assert x.tolist() == [0.0, 1.0]
    assert solvers.pure_profiles(DILEMMA) == ()
    assert solvers.alpha_rank(DILEMMA) == pytest.approx([0.0, 1.0])
    assert solvers.gains(DILEMMA).tolist() == [[0.0, -1.0], [1.0, 0.0]]
    assert solvers.exploitability(DILEMMA).tolist() == [1.0, -1.0]


def test_hawk_dove_mixes_and_has_an_asymmetric_equilibrium():
    (x,) = shares(HAWK_DOVE)
    assert x == pytest.approx([2 / 3, 1 / 3])
    assert solvers.pure_profiles(HAWK_DOVE) == ((0, 1),)
    _, path = solvers.replicator(HAWK_DOVE, [[0.99, 0.01], [0.01, 0.99]])
    assert path[-1] == pytest.approx(np.array([[2 / 3, 1 / 3]] * 2), abs=1e-9)
    # One seat's hawk meets the other's dove: selection between populations ends there.
    assert solvers.alpha_rank(HAWK_DOVE) == pytest.approx([0.5, 0.5])


def test_rock_paper_scissors_goes_round():
    (x,) = shares(ROCK_PAPER_SCISSORS)
    assert x == pytest.approx([1 / 3] * 3)
    assert solvers.alpha_rank(ROCK_PAPER_SCISSORS) == pytest.approx([1 / 3] * 3)
    times, path = solvers.replicator(ROCK_PAPER_SCISSORS, [[0.5, 0.3, 0.2]])
    # The product of the shares is conserved; the orbit is closed and does not come to rest.
    assert np.prod(path[:, 0], axis=1) == pytest.approx(0.03, rel=1e-3)
    assert np.ptp(path[times[:, 0] > 100, 0, 0]) > 0.2
    winners_gain_more = ROCK_PAPER_SCISSORS + (ROCK_PAPER_SCISSORS > 0)
    _, path = solvers.replicator(winners_gain_more, [[0.98, 0.01, 0.01]])
    assert path[-1, 0] == pytest.approx([1 / 3] * 3, abs=1e-6)


def test_basins_of_a_coordination_game():
    game = metagame.meta_game("coordination", ("a", "b"), COORDINATION[..., None])
    assert same_set([x.shares for x in game.equilibria], [np.array([1.0, 0]), np.array([0, 1.0]), np.array([1, 2]) / 3])
    assert [x.rules for x in game.basins] == [(0,), (1,)]
    # Mixtures with more than a third of a end in a; four standard errors of a fraction of 256.
    assert game.basins[0].fraction == pytest.approx(2 / 3, abs=4 * np.sqrt(2 / 9 / solvers.MIXTURES))
    assert [(x.start, x.settled, x.end.round(6).tolist()) for x in game.trajectories] == [
        ("uniform", True, [1.0, 0.0]),
        ("a", True, [1.0, 0.0]),
        ("b", True, [0.0, 1.0]),
    ]


def test_replicator_dynamics_agree_with_an_adaptive_solver():
    rng = np.random.default_rng(1)
    for scale in (0.01, 1.0, 300.0):
        payoffs = scale * rng.normal(size=(4, 4))
        start = rng.dirichlet(np.ones(4))
        times, path = solvers.replicator(payoffs, start[None])
        early = times[:, 0] < 30.0 / scale
        assert early.sum() > 15

        def flow(_, x, payoffs=payoffs):
            return x * (payoffs @ x - x @ payoffs @ x)

        exact = solve_ivp(flow, (0.0, 30.0 / scale), start, t_eval=times[early, 0], rtol=1e-9, atol=1e-11)
        assert path[early, 0] == pytest.approx(exact.y.T, abs=1e-4)


def test_a_game_of_very_unequal_payoffs_still_settles():
    """Crashes cost 100, the rest is about hundredths: steps follow what is left of the population."""
    payoffs = np.array([[0.0, -0.01, -0.01], [0.02, -100.0, 0.0], [0.005, -0.02, 0.0]])
    game = metagame.meta_game("chicken", ("swerve", "drive", "wait"), payoffs[..., None])
    assert all(x.settled for x in game.trajectories)
    assert min(np.abs(game.trajectories[0].end - x.shares).max() for x in game.equilibria) < 1e-3


# --- degenerate games ---------------------------------------------------------------------


def is_equilibrium(payoffs, x):
    fitness = payoffs @ x
    return fitness.max() - fitness[x > 0].min() < 1e-7 and x.sum() == pytest.approx(1.0) and (x >= 0).all()


@pytest.mark.parametrize(
    "payoffs",
    [
        np.zeros((3, 3)),
        np.full((2, 2), -1e-3),
        [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [2.0, 0.0, -1.0]],
        # Rules 0 and 1 return the same against each other, but each alone is invaded: a segment without corners.
        [[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 9.0], [1.0, -2.0, 0.0, 0.0], [-2.0, 1.0, 0.0, 0.0]],
    ],
)
def test_a_continuum_of_equilibria_shows_a_point(payoffs):
    payoffs = np.asarray(payoffs, float)
    found = shares(payoffs)
    assert found
    assert all(is_equilibrium(payoffs, x) for x in found)
    assert solvers.alpha_rank(payoffs).sum() == pytest.approx(1.0)


def test_the_segment_without_corners_is_found():
    payoffs = np.array([[0.0, 0, 9, 9], [0, 0, 9, 9], [1, -2, 0, 0], [-2, 1, 0, 0]])
    assert any(x[:2].sum() == pytest.approx(1.0) and x.max() <= 2 / 3 + 1e-6 for x in shares(payoffs))


def test_many_rules_are_searched_as_far_as_allowed():
    payoffs = np.eye(8)
    every, complete = solvers.symmetric_equilibria(payoffs)
    assert complete
    assert len(every) == 2**8 - 1
    few, complete = solvers.symmetric_equilibria(payoffs, max_supports=8 + 28)
    assert not complete
    assert len(few) == 8 + 28


# --- invariances --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_what_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    payoffs = rng.normal(size=(5, 5))
    order = rng.permutation(5)
    renamed = payoffs[np.ix_(order, order)]
    shifted = 3.0 * payoffs + rng.normal(size=5)
    assert same_set(shares(payoffs), [x[np.argsort(order)] for x in shares(renamed)])
    assert same_set(shares(payoffs), shares(shifted))
    rank = solvers.alpha_rank(payoffs)
    assert solvers.alpha_rank(renamed) == pytest.approx(rank[order])
    assert solvers.alpha_rank(shifted) == pytest.approx(rank)
    assert solvers.alpha_rank(3.0 * payoffs, alpha=0.2) == pytest.approx(solvers.alpha_rank(payoffs, alpha=0.6))
    assert solvers.alpha_rank(np.stack([payoffs, renamed])) == pytest.approx(np.stack([rank, rank[order]]))


def test_selection_from_none_to_strong():
    game = metagame.meta_game("dilemma", ("c", "d"), DILEMMA[..., None])
    assert game.alpha_sweep[0] == pytest.approx([0.5, 0.5], abs=0.1)
    assert (np.diff(game.alpha_sweep[:, 1]) >= -1e-12).all()
    assert game.alpha_sweep[-1] == pytest.approx(game.alpha_rank)
    assert solvers.alpha_rank(DILEMMA, alpha=0.0) == pytest.approx([0.5, 0.5])
    assert solvers.alpha_rank(DILEMMA, alpha=1e9) == pytest.approx([0.0, 1.0])


# --- training seeds -----------------------------------------------------------------------


def test_gains_and_effects_by_hand():
    game = metagame.meta_game("dilemma", ("c", "d"), np.repeat(DILEMMA[..., None], 4, axis=-1))
    assert game.gain.tolist() == [[0.0, -1.0], [1.0, 0.0]]
    assert game.effect.tolist() == [[0.0, 2.0], [-2.0, 0.0]]
    assert game.gain_chance[1, 0] == 1.0
    assert game.gain_chance[0, 1] == 0.0
    assert np.isnan(np.diagonal(game.gain_chance)).all()
    assert game.exploitability.tolist() == [1.0, -1.0]
    assert game.exploiter.tolist() == [1, 0]
    (equilibrium,) = game.equilibria
    assert (equilibrium.payoff, equilibrium.chance) == (-2.0, 1.0)


def test_a_seed_is_resampled_with_all_its_encounters():
    """What a seed adds to all of its encounters cancels in gains, but not in payoffs."""
    common = np.random.default_rng(0).normal(size=20)
    game = metagame.meta_game("dilemma", ("c", "d"), DILEMMA[..., None] + 5.0 * common)
    assert np.ptp(game.payoff_ci, axis=-1).min() > 2.0
    assert np.ptp(game.gain_ci, axis=-1).max() < 1e-9
    again = metagame.meta_game("dilemma", ("c", "d"), DILEMMA[..., None] + 5.0 * common)
    assert (game.payoff_ci == again.payoff_ci).all()


def test_intervals_cover_the_mean_as_often_as_they_say():
    noise = np.random.default_rng(0).normal(size=(8, 8, 30))
    low, high = np.moveaxis(metagame.meta_game("noise", tuple("abcdefgh"), noise).payoff_ci, -1, 0)
    # 95 % nominal; percentile intervals of 30 seeds are a little short. Four standard errors of 64 pairs.
    assert ((low < 0.0) & (high > 0.0)).mean() > 0.93 - 4 * np.sqrt(0.93 * 0.07 / 64)
    assert np.ptp(np.stack([low, high]), axis=0).mean() == pytest.approx(2 * 1.96 / np.sqrt(30), rel=0.1)


def test_diverged_seeds_are_counted_and_enter_nothing():
    returns = np.repeat(DILEMMA[..., None], 3, axis=-1)
    returns[1, 0] = [0.0, NAN, NAN]
    game = metagame.meta_game("dilemma", ("c", "d"), returns)
    assert game.payoffs.tolist() == DILEMMA.tolist()
    assert game.diverged.tolist() == [[0, 0], [2, 0]]
    assert np.isfinite(game.payoff_ci).all()
    (strategies, gains, *_) = metagame_tables.meta_tables(game)
    assert gains.cells[1][0].text == "1.00 [1.00, 1.00] (n=4/6)"
    assert gains.cells[1][0].diverged == 2
    assert "the others enter no number" in strategies.note


# --- stored results -----------------------------------------------------------------------

RULES = ("naive", "lola", "sos")


def write_tournament(directory, game="ipd", rules=RULES, opponents=("all-d",), skip=(), change=None, **more):
    """Every pair once: return of rule i against rule j is 10 i + j, in each of two seeds."""
    write_suite(directory, [game], list(rules), opponents=list(opponents))
    pairs = [*itertools.combinations_with_replacement(rules, 2), *itertools.product(rules, opponents)]
    labels = (*rules, *opponents)
    for a, b in pairs:
        if (a, b) not in skip:
            i, j = labels.index(a), labels.index(b)
            values = np.array([[10.0 * i + j, 10.0 * j + i]] * 2)
            write_cell(directory, game, (a, b), {"return": change(a, b, values) if change else values}, **more)


def test_the_tournament_of_a_symmetric_game(tmp_path):
    write_tournament(tmp_path)
    opened = results.load(tmp_path)
    game = metagame.analyse(opened, "ipd")
    assert game.rules == RULES
    assert game.payoffs.tolist() == [[0.0, 1.0, 2.0], [10.0, 11.0, 12.0], [20.0, 21.0, 22.0]]
    assert game.left_out == {"all-d": "did not meet itself"}
    assert (game.runs == 2).all()
    assert not game.diverged.any()
    assert game.hashes[0][1] == game.hashes[1][0] != game.hashes[0][0]
    assert game.note == "2 seeds"
    assert metagame.analyse(opened, "ipd") is game


def test_the_largest_set_that_all_met(tmp_path):
    write_tournament(tmp_path, skip={("naive", "sos")})
    game = metagame.analyse(results.load(tmp_path), "ipd")
    assert game.rules == ("naive", "lola")
    assert game.left_out == {"sos": "did not meet naive", "all-d": "did not meet itself"}


def test_a_pair_that_always_diverged_has_no_payoff(tmp_path):
    write_tournament(tmp_path, change=lambda a, b, x: x * NAN if (a, b) == ("lola", "lola") else x)
    game = metagame.analyse(results.load(tmp_path), "ipd")
    assert game.rules == ("naive", "sos")
    assert game.left_out["lola"] == "no finite return against itself"


def test_the_largest_set_against_all_subsets():
    rng = np.random.default_rng(0)
    for _ in range(20):
        n = 7
        met = rng.random((n, n)) < 0.7
        met = met & met.T
        rules, left_out = metagame._all_met(met, met, [f"r{i}" for i in range(n)])
        sets = [s for k in range(n + 1) for s in itertools.combinations(range(n), k) if met[np.ix_(s, s)].all()]
        assert met[np.ix_(rules, rules)].all()
        assert len(rules) == max(map(len, sets))
        assert set(left_out) == {f"r{i}" for i in set(range(n)) - set(rules)}


def test_seats_that_differ_are_averaged_and_both_orders_needed(tmp_path):
    write_tournament(tmp_path, game="ultimatum", opponents=())
    assert metagame.analyse(results.load(tmp_path), "ultimatum") is None
    for a, b in itertools.combinations(RULES, 2):
        i, j = RULES.index(a), RULES.index(b)
        write_cell(tmp_path, "ultimatum", (b, a), {"return": np.array([[10.0 * j + i + 4.0, 10.0 * i + j + 2.0]] * 2)})
    game = metagame.analyse(results.load(tmp_path), "ultimatum")
    assert game.rules == RULES
    assert game.payoffs.tolist() == [[0.0, 2.0, 3.0], [12.0, 11.0, 13.0], [22.0, 23.0, 22.0]]


def test_games_without_a_meta_game(tmp_path):
    write_suite(tmp_path, ["public-goods", "ipd"], ["naive"])
    write_cell(tmp_path, "public-goods", ("naive",) * 3, {"return": np.zeros((2, 3))})
    write_cell(tmp_path, "ipd", ("naive",) * 2, {"return": np.zeros((2, 2))})
    opened = results.load(tmp_path)
    assert metagame.analyse(opened, "public-goods") is None
    assert metagame.analyse(opened, "ipd") is None
    with pytest.raises(BadInput, match="game is 'idp', which is unknown; did you mean 'ipd'"):
        metagame.analyse(opened, "idp")
    with pytest.raises(
        BadInput, match=r"no meta-game of public-goods, ipd; allowed: games in which at least two rules"
    ):
        metagame_tables.meta_game_command(tmp_path)


def prepare(directory, label, count):
    for path in directory.glob("cells/*/cell.json"):
        record = json.loads(path.read_text())
        for learner in record["learners"]:
            if learner["label"] == label:
                learner["preparation"] = {"artifact": "a", "seeds": count}
        path.write_text(json.dumps(record))


def test_a_rule_prepared_once_is_named(tmp_path):
    write_tournament(tmp_path, rules=("naive", "lola"), opponents=())
    prepare(tmp_path, "lola", 1)
    game = metagame.analyse(results.load(tmp_path), "ipd")
    assert game.note == ("2 seeds; prepared once, so that intervals leave out what another preparation changes: lola")


def test_seeds_that_share_preparations_are_resampled_together(tmp_path):
    """Two preparations that return 0 and 1 in four seeds each: half of the resamples hold only one."""
    outcome = np.repeat(np.tile([0.0, 1.0], 4)[:, None], 2, axis=1)
    write_tournament(tmp_path, rules=("naive", "lola"), opponents=(), change=lambda a, b, x: outcome)
    apart = metagame.analyse(results.load(tmp_path), "ipd")
    assert 0.05 < apart.payoff_ci[1, 1, 0] < apart.payoff_ci[1, 1, 1] < 0.95
    prepare(tmp_path, "lola", 2)
    shared = metagame.analyse(results.load(tmp_path), "ipd")
    assert shared.payoff_ci[1, 1].tolist() == [0.0, 1.0]
    assert shared.payoff_ci[0, 0].tolist() == apart.payoff_ci[0, 0].tolist()
    assert shared.payoffs.tolist() == apart.payoffs.tolist()


def test_the_command_prints_the_same_digits_in_every_format(tmp_path):
    write_tournament(tmp_path)
    tables = json.loads(metagame_tables.meta_game_command(tmp_path, "ipd", "json"))
    assert [x["title"] for x in tables] == [
        "ipd: rules as strategies",
        "ipd: gain of adopting",
        "ipd: effect of adopting on the others",
        "ipd: probability that adopting gains",
        "ipd: symmetric equilibria",
    ]
    assert tables[1]["cells"][2][0]["text"] == "20.00 [20.00, 20.00]"
    assert tables[4]["row_labels"] == ["1 (pure)"]
    for fmt in ("md", "csv", "html"):
        written = metagame_tables.meta_game_command(tmp_path, "ipd", fmt)
        texts = {cell["text"] for table in tables for row in table["cells"] for cell in row}
        assert all(text in written for text in texts), fmt
    with pytest.raises(BadInput, match="format is 'pdf'"):
        metagame_tables.meta_game_command(tmp_path, None, "pdf")


# --- more than two players ----------------------------------------------------------------

GOOD = np.array([[3.0, 1.0, -1.0], [4.0, 2.0, 0.0]])
"""Three players: to defect pays one more, whatever the others do. Columns: of the others none, one or both defect."""


def test_companies_of_two_players_are_the_opponents_rules():
    assert solvers.compositions(3, 1) == ((0,), (1,), (2,))
    assert solvers.alike(3, 2).tolist() == [0, 1, 2]
    assert solvers.joined(3, 2).tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    assert [solvers.compositions(2, 2)[c] for c in solvers.joined(2, 3)[0]] == [(0, 0), (0, 1)]


def test_a_dilemma_of_three_players():
    equilibria, complete = solvers.symmetric_equilibria(GOOD, players=3)
    assert complete
    assert [(x.tolist(), v) for x, v in equilibria] == [([0.0, 1.0], 0.0)]
    assert solvers.gains(GOOD, 3).tolist() == [[0.0, -1.0], [1.0, 0.0]]
    # One who still contributes has 1 instead of 3; a contributor among defectors leaves each of them 2.
    assert solvers.effects(GOOD, 3).tolist() == [[0.0, 2.0], [-2.0, 0.0]]
    assert solvers.pure_profiles(GOOD, 3) == ()
    assert solvers.alpha_rank(GOOD, players=3) == pytest.approx([0.0, 1.0])
    _, path = solvers.replicator(GOOD, [[0.9, 0.1]], players=3)
    assert path[-1, 0] == pytest.approx([0.0, 1.0], abs=1e-6)


def test_a_volunteers_dilemma_mixes_as_by_hand():
    """One volunteer is enough: all have 3, and who volunteers pays 1. With q the share of those who do not,
    all are indifferent where 2 = 3 (1 - q^2)."""
    payoffs = np.array([[2.0, 2.0, 2.0], [3.0, 3.0, 0.0]])
    q = np.sqrt(1.0 / 3.0)
    ((x, value),), complete = solvers.symmetric_equilibria(payoffs, players=3)
    assert complete
    assert x == pytest.approx([1.0 - q, q])
    assert value == pytest.approx(2.0)
    # One volunteers, the two others do not: nobody gains by leaving.
    assert solvers.pure_profiles(payoffs, 3) == ((0, 1, 1),)
    _, path = solvers.replicator(payoffs, [[0.95, 0.05], [0.05, 0.95]], players=3)
    assert path[-1] == pytest.approx(np.array([[1.0 - q, q]] * 2), abs=1e-6)


@pytest.mark.parametrize("players", [3, 4])
def test_a_game_that_adds_up_over_pairs_is_that_of_its_pairs(players):
    """Who meets each other player in turn has the pairs' equilibria, gains and fitness, times their number."""
    pairs = np.random.default_rng(3).normal(size=(3, 3))
    payoffs = np.stack([pairs[:, list(c)].sum(axis=1) for c in solvers.compositions(3, players - 1)], axis=1)
    others = players - 1
    assert solvers.gains(payoffs, players) == pytest.approx(others * solvers.gains(pairs))
    assert solvers.effects(payoffs, players) == pytest.approx(solvers.effects(pairs))
    mixtures = np.random.default_rng(4).dirichlet(np.ones(3), 5)
    assert solvers.fitness(payoffs, mixtures, players) == pytest.approx(others * solvers.fitness(pairs, mixtures))
    expected = shares(pairs)
    several = [x for x, _ in solvers.symmetric_equilibria(payoffs, players=players)[0]]
    assert same_set(several, expected)
    _, path = solvers.replicator(payoffs, mixtures, players=players)
    _, alone = solvers.replicator(pairs, mixtures)
    assert path[-1] == pytest.approx(alone[-1], abs=1e-4)


def test_the_tournament_of_three_players(tmp_path):
    """Return of a rule: 10 times its place plus the sum of the others', in every mixture of two rules; the third
    rule was not met in all of them."""
    write_suite(tmp_path, ["public-goods"], ["naive", "lola", "sos"])
    names = ("naive", "lola", "sos")
    for profile in itertools.combinations_with_replacement(range(3), 3):
        if profile != (0, 1, 2):
            returns = [10.0 * i + sum(profile) - i for i in profile]
            write_cell(tmp_path, "public-goods", [names[i] for i in profile], {"return": np.array([returns] * 2)})
    game = metagame.analyse(results.load(tmp_path), "public-goods")
    assert game.players == 3
    assert game.rules == ("naive", "lola")
    assert game.left_out == {"sos": "did not meet lola + naive"}
    assert game.companies == ((0, 0), (0, 1), (1, 1))
    assert game.payoffs.tolist() == [[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]]
    assert game.gain.tolist() == [[0.0, -10.0], [10.0, 0.0]]
    assert game.effect.tolist() == [[0.0, -1.0], [1.0, 0.0]]
    assert [x.shares.tolist() for x in game.equilibria] == [[0.0, 1.0]]
    assert game.trajectories[0].end == pytest.approx([0.0, 1.0])
    tables = json.loads(metagame_tables.meta_game_command(tmp_path, "public-goods", "json"))
    assert tables[1]["cells"][1][0]["text"] == "10.00 [10.00, 10.00]"
    assert "3 populations of 50" in tables[0]["note"]
