"""Suites expand into the cells they should, with hashes that are their identity."""

import dataclasses
import shlex

import pytest

from shaping_bench.errors import BadInput
from shaping_bench.spec import registry, suite
from shaping_bench.spec.calls import parse_call


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
        ("naive", "lola"),
        ("lola", "lola"),
        ("naive", "all-d"),
        ("naive", "best-response"),
        ("lola", "all-d"),
        ("lola", "best-response"),
    ]
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
    learning = {c.learners[0].label for c in quick.encounters if len({x.label for x in c.learners}) == 1}
    assert len(learning) >= 6
    games = {c.game.label for c in quick.encounters}
    assert len(games) >= 4
    for game in games:
        own = {
            c.learners[0].label
            for c in quick.encounters
            if c.game.label == game and len({x.label for x in c.learners}) == 1
        }
        pairs = {frozenset(x.label for x in c.learners) for c in quick.encounters if c.game.label == game}
        assert all(frozenset((a, b)) in pairs for a in own for b in own)


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
    for text in ("a(b=1-2)", "a(b=x-1)", "a(b=-x)"):
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
    for text, learner in zip(command[3:5], cell.learners, strict=True):
        read = registry.make_learner(text, game="coin-game")
        assert read.identity() == learner.named.identity()
        assert not {"'", '"'} & set(text)


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
