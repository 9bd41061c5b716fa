"""The command line's contract: names, options, exit codes, one-line errors, JSON."""

import json
import math
from typing import get_args

import numpy as np
import pytest

from shaping_bench.cli import Engine, Format, main
from shaping_bench.engines import ENGINES
from shaping_bench.publish.writers import WRITERS

TEST_POINT = [[0.5, -0.3, 0.8, -1.2, 0.1], [-0.7, 0.4, -0.2, 1.1, -0.9]]


def run(capsys, *arguments):
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


BAD = {
    "unknown game": (["encounter", "ipdd", "lola"], "game is 'ipdd'", "did you mean 'ipd'"),
    "unknown learner": (["encounter", "ipd", "lolla"], "learner is 'lolla'", "did you mean 'lola'"),
    "unknown hyperparameter": (["encounter", "ipd", "lola(lrr=1)"], "'lrr'", "did you mean 'lr'"),
    "hyperparameter out of range": (
        ["encounter", "ipd", "lola(lr=-1)"],
        "lola.lr is -1",
        "allowed: a number in [0, inf)",
    ),
    "discount of one": (["encounter", "ipd(gamma=1.0)", "lola"], "ipd.gamma is 1.0", "(0, 1)"),
    "hyperparameter of the wrong type": (["encounter", "ipd", "lola(lr=fast)"], "lola.lr is 'fast'", "a number"),
    "unknown choice": (["encounter", "ipd", "hola(expansion=padé)"], "hola.expansion is 'padé'", "'taylor'"),
    "unreadable call": (["encounter", "ipd", "lola(lr=)"], "learner is 'lola(lr=)'", "key=value"),
    "twice given": (["encounter", "ipd", "lola(lr=1,lr=2)"], "learner is", "once"),
    "more seeds than fit": (["encounter", "ipd", "lola", "--seeds", "99999999999"], "GiB of memory", "fewer seeds"),
    "more preparations than fit": (
        ["encounter", "ipd", "cola", "--preparations", "99999999999"],
        "GiB of memory",
        "fewer seeds",
    ),
    "learner without its view": (["encounter", "tandem", "tft", "naive"], "learner 'tft' in seat 1", "memory-one"),
    "infeasible extortion": (["encounter", "ipd", "zd-extort(phi=3)"], "zd-extort(phi=3.0)", "[0, 1]"),
    "wrong number of learners": (["encounter", "ipd", "lola", "lola", "lola"], "3 given", "allowed: 1 or 2"),
    "missing payoffs": (["encounter", "matrix", "naive"], "'payoffs'", "reward of each player"),
    "crooked payoffs": (["encounter", "matrix(payoffs=((1,2),(3,4)))", "naive"], "matrix.payoffs", "2^n"),
    "no seeds": (["encounter", "ipd", "lola", "--seeds", "0"], "--seeds is 0", "at least 1"),
    "negative seed": (["encounter", "ipd", "lola", "--seed", "-1"], "--seed is -1", "allowed"),
    "not a number": (["encounter", "ipd", "lola", "--seeds", "many"], "--seeds", "many"),
    "half a step": (["encounter", "ipd", "lola", "--steps", "1.5"], "--steps is '1.5'", "a whole number"),
    "half a seed of a suite": (["run", "quick", "--seeds", "2.5"], "--seeds is '2.5'", "a whole number"),
    "half a layer": (["encounter", "coin-game", "ppo(hidden=1.5)"], "ppo.hidden is 1.5", "a whole number"),
    "unknown precision": (["encounter", "ipd", "lola", "--precision", "float16"], "float16", "float32"),
    "missing init file": (["encounter", "ipd", "lola", "--init", "/nowhere.json"], "--init is '/nowhere.json'", "read"),
    "unknown suite": (["run", "quik"], "suite is 'quik'", "did you mean 'quick'"),
    "missing suite file": (["run", "./nothing.yaml"], "suite is './nothing.yaml'", "no file"),
    "unknown suite key": (["run", "quick", "--set", "stepz=3"], "'stepz'", "did you mean 'steps'"),
    "suite value out of range": (["run", "quick", "--set", "steps=0"], "suite.steps is 0", "allowed"),
    "suite value of the wrong type": (["run", "quick", "--set", "steps=soon"], "suite.steps is 'soon'", "integer"),
    "unknown metric in a suite": (
        ["run", "quick", "--set", "metrics.0=retrun"],
        "suite.metrics.0",
        "did you mean 'return'",
    ),
    "unknown learner in a suite": (
        ["run", "quick", "--set", "learners.0=nave"],
        "suite.learners.0",
        "did you mean 'naive'",
    ),
    "incompatible pair in a suite": (["run", "quick", "--set", "skip_incompatible=false"], "tandem", "memory-one"),
    "no such path": (["run", "quick", "--set", "games.99.steps=1"], "games.99.steps", "existing path"),
    "not an override": (["run", "quick", "--set", "steps"], "--set is 'steps'", "PATH=VALUE"),
    "unknown engine": (["run", "quick", "--engine", "warp"], "warp", "local"),
    "unknown tracking": (["run", "quick", "--wandb", "maybe"], "maybe", "offline"),
    "table of nothing": (["table", "/nowhere"], "/nowhere", "shaping-bench run"),
    "report of nothing": (["report", "/nowhere"], "/nowhere", "shaping-bench run"),
    "unknown claim": (["verify", "lola-table-33"], "claim is 'lola-table-33'", "nearest: "),
    "unknown paper": (["verify", "sos-*", "--paper", "loqqa"], "--paper is 'loqqa'", "did you mean 'loqa'"),
    "unknown option": (["encounter", "ipd", "lola", "--sedes", "3"], "--sedes", "--seeds"),
    "unknown command": (["encouter", "ipd"], "encouter", "encounter"),
    "unknown kind": (["list", "algoritms"], "algoritms", "algorithms"),
    "no target": (["check", "nothing"], "check is 'nothing'", "MODULE:CLASS"),
    "unimportable target": (["check", "no.such.module:Rule"], "no.such.module:Rule", "imported"),
    "target of another kind": (["check", "json:JSONDecoder"], "json:JSONDecoder", "Learner"),
}


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.replace(" ", "-"))
def test_bad_input_is_one_line_that_names_it_and_exit_code_2(case, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, *expected = BAD[case]
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert len(err) < 600
    for text in expected:
        assert text in err
    assert list(tmp_path.iterdir()) == []  # nothing was computed or written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [unclosed", "is not YAML"),
        ("just a sentence", "allowed: a mapping"),
        ("name: x\ngames: [ipd]\n", "suite.learners is missing"),
        ("name: x\ngames: [{game: ipd, stepz: 3}]\nlearners: [naive]\n", "did you mean 'steps'"),
        ("name: x\ngames: [{game: ipd, set: {lrr: 3}}]\nlearners: [naive]\n", "did you mean 'lr'"),
        ("name: x\ngames: [ipd, ipd]\nlearners: [naive]\n", "label 'ipd' of another game"),
        ("name: x\ngames: [ipd]\nlearners: [naive, naive]\n", "two learners with the label 'naive'"),
        ("name: a/b\ngames: [ipd]\nlearners: [naive]\n", "suite.name is 'a/b'"),
    ],
)
def test_bad_suite_files(text, expected, capsys, tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    code, out, err = run(capsys, "run", str(path), "-o", str(tmp_path / "out"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert expected in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not JSON"),
        ("[[0,0,0,0,0]]", "1 entries"),
        ("[[0,0,0,0,0],[0,0,0,0]]", "for player 2"),
        ('[[0,0,0,0,0],[0,0,0,0,"x"]]', "'x' for player 2"),
        ("[[0,0,0,0,0],[0,0,0,0,NaN]]", "nan for player 2"),
    ],
)
def test_bad_init_files(content, expected, capsys, tmp_path):
    path = tmp_path / "init.json"
    path.write_text(content)
    code, out, err = run(capsys, "encounter", "ipd", "lola", "--init", str(path))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert expected in err
    assert "lengths [5, 5]" in err or "JSON" in err


def test_encounter_prints_the_object_of_the_contract(capsys):
    code, out, _ = run(capsys, "encounter", "ipd", "lola", "lola", "--seeds", "1000", "--json")
    result = json.loads(out)
    assert code == 0
    assert (result["game"], result["learners"]) == ("ipd", ["lola", "lola"])
    assert (result["seeds"], result["steps"], result["diverged"]) == (1000, 200, 0)
    assert set(result["seconds"]) == {"compile", "run"}
    for per_player in result["metrics"].values():
        assert [set(x) for x in per_player] == [{"mean", "std", "iqm", "n"}] * 2
    # LOLA paper, Table 3: -1.06 (0.19) over 50 runs; 1000 seeds have a standard error of 0.005.
    for player in result["metrics"]["return"]:
        assert player["n"] == 1000
        assert abs(player["mean"] - -1.042) < 0.03
    assert np.shape(result["params"]) == (1000, 2, 5)


def test_parameters_are_omitted_above_1000_seeds(capsys):
    _, out, _ = run(capsys, "encounter", "tandem", "naive(lr=0.1)", "--seeds", "1001", "--steps", "1", "--json")
    assert "params" not in json.loads(out)


def test_one_update_from_given_parameters_is_the_published_vector(capsys, tmp_path):
    path = tmp_path / "init.json"
    path.write_text(json.dumps(TEST_POINT))
    arguments = ["--init", str(path), "--steps", "1", "--seeds", "2", "--precision", "float64", "--json"]
    _, out, _ = run(capsys, "encounter", "ipd", "lola", "lola", *arguments)
    first, second = json.loads(out)["params"]
    assert first == second  # every seed starts there
    direction = np.array(first) - TEST_POINT
    expected = [
        [-0.041000, 1.591054, -3.740013, 3.773224, -2.658165],
        [-0.329585, 2.310958, -5.710074, 0.228477, -6.686982],
    ]
    np.testing.assert_allclose(direction, expected, atol=1e-6)


def test_no_steps_return_the_start(capsys, tmp_path):
    path = tmp_path / "init.json"
    path.write_text(json.dumps(TEST_POINT))
    _, out, _ = run(capsys, "encounter", "ipd", "naive", "--init", str(path), "--steps", "0", "--seeds", "1", "--json")
    result = json.loads(out)
    np.testing.assert_allclose(result["params"][0], TEST_POINT, rtol=1e-6)
    # lola.md, test vector B: (1 - gamma) V
    assert math.isclose(result["metrics"]["return"][0]["mean"], -1.463744, abs_tol=1e-5)


def test_a_diverged_seed_is_reported_not_averaged_away(capsys):
    # Consensus optimisation on Balduzzi's cycle with a unit step explodes.
    _, out, _ = run(capsys, "encounter", "balduzzi", "consensus", "--seeds", "5", "--steps", "200", "--json")
    result = json.loads(out)
    assert result["diverged"] == 5
    assert result["metrics"]["return"][0] == {"mean": None, "std": None, "iqm": None, "n": 0}


def test_every_engine_and_format_of_tables_can_be_asked_for():
    assert set(get_args(Engine)) == set(ENGINES)
    assert set(get_args(Format)) == set(WRITERS)


def test_list_says_what_exists(capsys):
    code, out, _ = run(capsys, "list", "--json")
    found = json.loads(out)
    assert code == 0
    assert set(found) == {"algorithms", "games", "metrics", "suites", "claims", "scenarios"}
    lola = next(a for a in found["algorithms"] if a["name"] == "lola")
    assert lola["access"] == "gradients"
    assert lola["needs_preparation"] is False
    assert lola["views"] == ["exact"]
    assert {"memory-one", "stored", "axelrod"} <= {a["name"] for a in found["algorithms"]}
    metric = next(m for m in found["metrics"] if m["name"] == "return")
    assert metric["formula"]
    assert metric["direction"] == "higher"
    code, out, _ = run(capsys, "list", "games", "--json")
    assert {"ipd", "imp", "tandem", "public-goods"} <= {g["name"] for g in json.loads(out)}
    for kind in found:
        code, out, _ = run(capsys, "list", kind)
        assert code == 0
        assert found[kind][0]["name"] in out


@pytest.mark.parametrize(
    "command", [[], ["run"], ["encounter"], ["table"], ["report"], ["verify"], ["check"], ["list"]]
)
def test_help_everywhere(command, capsys):
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert "shaping-bench" in out


def test_check_passes_a_built_in_and_names_a_fault(capsys, tmp_path, monkeypatch):
    code, out, _ = run(capsys, "check", "shaping_bench.games.differentiable:Tandem")
    assert code == 0
    assert "MISSING" not in out
    (tmp_path / "faulty_rule.py").write_text(
        "from shaping_bench.algorithms.core import Access, GradientLearner, pytree_dataclass\n"
        "@pytree_dataclass\n"
        "class Peeks(GradientLearner):\n"
        "    'Asks for more than it declares.'\n"
        "    access = Access.ACTIONS\n"
        "    def direction(self, view):\n"
        "        return view.gradient()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    code, out, _ = run(capsys, "check", "faulty_rule:Peeks")
    assert code == 1
    assert "access 'gradients'" in out
