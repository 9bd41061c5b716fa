"""Suites expand into the cells they should, with hashes that are their identity."""

import dataclasses
import inspect
import itertools
import shlex

import pytest

from shaping_bench import cli, commands, games
from shaping_bench.claims.files import ClaimProtocol
from shaping_bench.errors import BadInput
from shaping_bench.spec import registry, suite
from shaping_bench.spec.calls import parse_call
from shaping_bench.spec.lineups import Labelled, line_up
from shaping_bench.spec.protocol import EPISODES, Changes, Protocol


def expand(**content):
    return suite.expand(suite.validate({"name": "t", "games": ["ipd"], "learners": ["naive"], **content}))


def met(expanded, game=None):
    return [tuple(x.label for x in c.learners) for c in expanded.encounters if game is None or c.game.label == game]


def test_symmetric_games_need_one_order_and_others_both():
    learners = ["naive", "lola"]
    assert met(expand(learners=learners)) == [("naive", "naive"), ("lola", "lola"), ("naive", "lola")]
    # The offerer and the responder of an ultimatum are not alike.
    both = met(expand(games=["ultimatum"], learners=learners))
    assert set(both) == {("naive", "naive"), ("lola", "lola"), ("naive", "lola"), ("lola", "naive")}
    # In matching pennies the seats are alike up to the names of actions: for rules that learn
    # one order is enough, a fixed strategy knows the names.
    pennies = met(expand(games=["imp"], learners=learners, opponents=["tft"]))
    assert ("naive", "lola") in pennies
    assert ("lola", "naive") not in pennies
    assert {("lola", "tft"), ("tft", "lola")} <= set(pennies)


def test_pairs_and_opponents():
    learners = ["naive", "lola", "sos"]
    assert len(met(expand(learners=learners, pairs="self"))) == 3
    assert len(met(expand(learners=learners, pairs="cross"))) == 3
    with_fixed = met(expand(learners=learners, opponents=["all-d", "tft"]))
    assert len(with_fixed) == 6 + 6
    assert ("all-d", "tft") not in with_fixed


def test_more_than_two_players_one_against_the_rest():
    found = met(expand(games=["public-goods"], learners=["naive", "lola"]))
    assert ("naive", "lola", "lola") in found
    # Although the seats are alike: one against two is not two against one.
    assert ("lola", "naive", "naive") in found
    assert ("lola", "naive", "naive") in found


def test_seats_that_are_alike_make_no_two_lineups_the_same_for_more_than_two_players():
    """One lola among three is another encounter than two, though any seats may be exchanged."""
    assert registry.make_game("public-goods").value.symmetric
    learners = ["naive", "lola"]
    assert met(expand(games=["public-goods"], learners=learners)) == [
        ("naive",) * 3,
        ("lola",) * 3,
        ("naive", "lola", "lola"),
        ("lola", "naive", "naive"),
    ]
    # In which seat the one sits is nothing, here.
    rest = expand(games=["public-goods"], learners=learners, lineups="one-against-rest")
    assert met(rest) == met(expand(games=["public-goods"], learners=learners))


class Seated(games.Game):
    """Three seats, none like another."""

    n_players = 3
    symmetric = exchangeable = False


def seats(kind, learners, opponents=(), game=None, which="all"):
    everybody = {x: Labelled(named=registry.make_learner(x), label=x) for x in (*learners, *opponents)}
    own, others = ([everybody[x] for x in group] for group in (learners, opponents))
    played = game or registry.make_game("public-goods").value
    return [tuple(x.label for x in lineup) for lineup in line_up(kind, own, others, played, which)]


def test_mixtures_fill_the_seats_in_every_way_that_differs():
    alike = seats("mixtures", ["naive", "lola", "sos"])
    assert len(alike) == 10  # multisets of three of three
    assert {tuple(sorted(x)) for x in alike} == set(
        itertools.combinations_with_replacement(["lola", "naive", "sos"], 3)
    )
    assert len(seats("mixtures", ["naive", "lola"], game=Seated())) == 2**3
    # Who is only met sits beside a learner, and not by itself.
    met_only = seats("mixtures", ["naive"], ["all-d"])
    assert set(met_only) == {("naive",) * 3, ("naive", "naive", "all-d"), ("naive", "all-d", "all-d")}


def test_the_one_sits_in_every_seat_that_differs():
    found = seats("one-against-rest", ["naive", "lola"], game=Seated(), which="cross")
    one = {"naive": "lola", "lola": "naive"}
    assert set(found) == {tuple(a if i == k else b for i in range(3)) for a, b in one.items() for k in range(3)}


def test_lineups_by_list():
    rows = [["naive", "lola", "tft-like"], ["lola", "lola", "naive"], ["naive", "lola", "lola"]]
    learners = ["naive", "lola", {"learner": "sos", "label": "tft-like"}]
    expanded = expand(games=["public-goods"], learners=learners, lineups=rows, league={"best_response": False})
    assert met(expanded) == [("naive", "lola", "tft-like"), ("lola", "lola", "naive")]
    with pytest.raises(BadInput, match=r"suite.lineups.0 is 'nave', which is unknown; did you mean 'naive'"):
        expand(games=["public-goods"], learners=["naive"], lineups=[["nave", "naive", "naive"]])
    with pytest.raises(BadInput, match="has 2 learners; allowed: 3, one per seat"):
        expand(games=["public-goods"], learners=["naive"], lineups=[["naive", "naive"]])
    # A list is for games of its length; the others may be left out, or have lists of their own.
    games_ = ["ipd", {"game": "public-goods", "lineups": [["naive", "naive", "lola"]]}]
    content = {"games": games_, "learners": ["naive", "lola"], "lineups": [["naive", "lola"]]}
    assert met(expand(**content)) == [("naive", "lola"), ("naive", "naive", "lola")]


def test_labels_say_where_they_come_from():
    games_ = ["ipd", {"game": "imp", "learners": ["sos", "lola(lr=[0.1,1.0])"]}]
    expanded = expand(games=games_, learners=["naive", "lola(lookahead_lr=[0.5,1.0],lr=2)"], opponents=["tft"])
    where = {(c.game.label, x.label): (x.entry, dict(x.swept)) for c in expanded.encounters for x in c.learners}
    assert where == {
        ("ipd", "naive"): (0, {}),
        ("ipd", "lola(lr=2.0,lookahead_lr=0.5)"): (1, {"lookahead_lr": 0.5}),
        ("ipd", "lola(lr=2.0)"): (1, {"lookahead_lr": 1.0}),
        ("ipd", "tft"): (4, {}),
        ("imp", "sos"): (2, {}),
        ("imp", "lola(lr=0.1)"): (3, {"lr": 0.1}),
        ("imp", "lola"): (3, {"lr": 1.0}),
        ("imp", "tft"): (4, {}),
    }
    assert {c.game.label: c.game.entry for c in expanded.encounters} == {"ipd": 0, "imp": 1}


def test_lists_of_hyperparameters_are_sweeps():
    found = met(expand(learners=["lola(lr=[0.1,1.0],lookahead_lr=[0.5,1.0])"], pairs="self"))
    assert [a for a, _ in found] == ["lola(lr=0.1,lookahead_lr=0.5)", "lola(lr=0.1)", "lola(lookahead_lr=0.5)", "lola"]


def test_a_game_sets_numbers_for_all_learners_that_have_them_and_labels_stay():
    games = [{"game": "tandem", "steps": 7, "set": {"lr": 0.1, "lookahead_lr": 0.2}}]
    expanded = expand(games=games, learners=["naive", "lola", "lola(lr=0.5)"], pairs="self")
    numbers = {c.learners[0].label: c.learners[0].named.hyperparameters for c in expanded.encounters}
    assert numbers["naive"]["lr"] == 0.1
    assert numbers["lola"] == {"lookahead_lr": 0.2, "lr": 0.1}
    assert numbers["lola(lr=0.5)"] == {"lookahead_lr": 0.2, "lr": 0.5}
    assert {c.steps for c in expanded.encounters} == {7}


def test_every_number_is_part_of_the_hash_and_no_label_is():
    (cell,) = expand().encounters
    relabelled = dataclasses.replace(cell, game=dataclasses.replace(cell.game, label="other"))
    assert relabelled.hash == cell.hash
    changed = [
        expand(games=["ipd(gamma=0.9)"]),
        expand(learners=["naive(lr=0.5)"]),
        expand(seeds=99),
        expand(seed=1),
        expand(steps=199),
        expand(record_every=5),
        expand(precision="float64"),
    ]
    hashes = [cell.hash, *(e.encounters[0].hash for e in changed)]
    assert len(set(hashes)) == len(hashes)


def test_league_matches_need_their_self_play():
    league = {"opponents": ["all-d"], "best_response": True}
    expanded = expand(learners=["naive", "lola"], league=league)
    assert [tuple(x.label for x in c.learners) for c in expanded.matches] == [
        ("naive", "naive"),
        ("lola", "lola"),
        ("naive", "lola"),
        ("naive", "all-d"),
        ("lola", "all-d"),
        ("naive", "best-response"),
        ("lola", "best-response"),
    ]
    assert [c.best_response for c in expanded.matches] == [False] * 5 + [True] * 2
    assert expand(learners=["naive", "lola"], pairs="cross", league=league).matches == ()


def test_incompatible_pairs_are_refused_or_left_out_as_the_suite_says():
    content = {"games": ["tandem"], "learners": ["naive"], "opponents": ["tft"]}
    with pytest.raises(BadInput, match="memory-one"):
        expand(**content)
    expanded = expand(**content, skip_incompatible=True)
    assert met(expanded) == [("naive", "naive")]
    assert expanded.skipped


def test_the_suites_that_ship_expand():
    for name in suite.suite_names():
        loaded = suite.load(name)
        assert loaded.encounters
        assert suite.expand(suite.validate(loaded.resolved())).encounters == loaded.encounters


def test_quick_is_what_make_bench_promises():
    quick = suite.load("quick")
    card, played = quick.file.cards
    assert [(x.track, x.tier, x.games) for x in (card, played)] == [
        ("exact", "quick", None),
        ("sampled", "quick", ["ipd"]),
    ]
    of_cards = [c for c in quick.encounters if c.game.entry is None]
    assert set(card.learners) | set(played.learners) <= {c.learners[0].label for c in of_cards}
    games = {c.game.label.partition("/")[0] for c in of_cards}
    assert games == {"ipd", "imp", "hawk-dove", "stag-hunt", "bos", "chicken", "ordinal"}
    own = [c for c in quick.encounters if c.game.entry is not None]
    learning = {c.learners[0].label for c in own if len({x.label for x in c.learners}) == 1}
    assert len(learning) >= 6
    games = {c.game.label for c in own}
    assert len(games) >= 4
    for game in games:
        alone = {c.learners[0].label for c in own if c.game.label == game and len({x.label for x in c.learners}) == 1}
        pairs = {frozenset(x.label for x in c.learners) for c in own if c.game.label == game}
        assert all(frozenset((a, b)) in pairs for a in alone for b in alone)


def test_any_payoff_matrix_from_yaml():
    expanded = expand(games=[{"matrix": {"payoffs": [[3, 0, 5, 1], [3, 5, 0, 1]], "gamma": 0.9}}])
    (cell,) = expanded.encounters
    game = cell.game.named.value
    assert game.payoffs == ((3.0, 0.0, 5.0, 1.0), (3.0, 5.0, 0.0, 1.0))
    assert game.symmetric
    assert cell.game.label.startswith("matrix(payoffs=")


def test_hyphenated_words_need_no_quotes():
    assert parse_call("ppo(network=conv-gru,lr=-1)", "learner") == ("ppo", {"network": "conv-gru", "lr": -1})
    assert registry.make_learner("ppo(network=conv-mlp,separate=true)").value.network == "conv-mlp"
    assert parse_call("a(b=x-1)", "learner") == ("a", {"b": "x-1"})
    for text in ("a(b=1-2)", "a(b=-x)"):
        with pytest.raises(BadInput, match="allowed: hyperparameters written key=value"):
            parse_call(text, "learner")


def test_commands_are_read_by_a_shell_as_what_they_say():
    learners = ["ppo(network=conv-gru,batch_size=16)", "all-d"]
    cell = next(
        c
        for c in expand(games=["coin-game(preset=mfos,episodes=1)"], learners=learners).encounters
        if c.learners[0].named.name != c.learners[1].named.name
    )
    command = shlex.split(cell.command)
    assert command[:3] == ["shaping-bench", "encounter", "coin-game(preset=mfos,episodes=1)"]
    assert command[5:] == shlex.split(
        "--seeds 100 --steps 200 --seed 0 --record-every 10 --precision float32 --episodes 32"
    )
    for text, learner in zip(command[3:5], cell.learners, strict=True):
        read = registry.make_learner(text, game="coin-game")
        assert read.identity() == learner.named.identity()
        assert not {"'", '"'} & set(text)


def test_suites_claims_and_the_command_line_have_one_protocol(monkeypatch):
    """Every key of it can be given everywhere, and a cell's command gives the cell's."""
    keys = {f.name for f in dataclasses.fields(Protocol)}
    assert keys <= set(suite.SuiteFile.model_fields)
    assert keys - {"starts"} <= set(ClaimProtocol.model_fields)  # which a claim says as its init
    assert keys <= set(inspect.signature(cli.encounter).parameters)
    assert set(Changes.model_fields) == keys - {"seed", "precision"}
    numbers = {"seeds": 3, "seed": 5, "steps": 7, "record_every": 2, "precision": "float64", "episodes": 9}
    run: list[Protocol] = []

    def pretend(game, learners, protocol, **options):
        run.append(protocol)
        raise BadInput("enough")

    monkeypatch.setattr(commands, "encounter_result", pretend)
    learners = ["naive-pg(batch_size=8,network=gru)", "cola"]
    for game, learner in zip(["coin-game", "tandem"], learners, strict=True):
        (cell,) = expand(games=[game], learners=[learner], preparations=4, **numbers).encounters
        assert cli.main(shlex.split(cell.command)[1:]) == 2
        said = Protocol.of(cell)
        if game == "tandem":  # of what plays no part it says nothing
            said = dataclasses.replace(said, episodes=EPISODES)
        else:
            said = dataclasses.replace(said, preparations=1)
        assert run.pop() == said


def test_a_comment_in_somebodys_project_is_no_entry_point(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project = tmp_path / "pyproject.toml"
    group = "shaping_bench.algorithms"
    for text in (
        f"# not yet in {group}\n[project]\nname = 'x'\n",
        f"[tool.other]\nnote = '{group}'\n",
        "[project]\nname = 'x'\n[project.entry-points.other]\na = 'b:c'\n",
        "not TOML",
    ):
        project.write_text(text)
        assert registry._here(group) == []
    project.write_text(f"[project.entry-points.'{group}']\nmine = 'my_rule:Mine'\n")
    (point,) = registry._here(group)
    assert (point.name, point.value) == ("mine", "my_rule:Mine")
    for text in (
        f"[project.entry-points]\n'{group}' = 3\n",
        f"[project.entry-points.'{group}']\nmine = 3\n",
        f"{group} [",
    ):
        project.write_text(text)
        with pytest.raises(BadInput, match=group):
            registry._here(group)
