"""Sweeps come together from stored cells that differ in one number; W&B's run as their file says."""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from shaping_bench.analysis.sweeps import series, wandb_sweep, with_settings
from shaping_bench.cli import main
from shaping_bench.errors import BadInput
from shaping_bench.store import results
from tests.shaping_bench.synthetic_results import write_cell, write_suite


def learner(label, name, **hyperparameters):
    return {
        "name": name, "label": label, "hyperparameters": hyperparameters, "access": "gradients",
        "needs_preparation": False, "preparation": None,
    }  # fmt: skip


LOLA = learner("lola", "lola", lr=1.0, lookahead_lr=0.5)


def naive(lr, optimiser="sgd"):
    given = [f"lr={lr}"] * (lr != 1.0) + [f"optimiser='{optimiser}'"] * (optimiser != "sgd")
    return learner(f"naive({','.join(given)})" if given else "naive", "naive", lr=lr, optimiser=optimiser)


def cell(directory, *players, game="ipd", value=0.0, **more):
    """Four seeds whose returns are value - 1, value, value, value + 1 in seat 1, and ten more in seat 2."""
    own = value + np.array([-1.0, 0.0, 0.0, 1.0])
    finals = {"return": np.stack([own, own + 10.0], axis=1)}
    return write_cell(directory, game, [x["label"] for x in players], finals, learners=list(players), **more)


@pytest.fixture
def directory(tmp_path):
    write_suite(tmp_path, ["ipd", "imp"], ["lola"], opponents=["naive(lr=[0.1, 1, 10])"])
    return tmp_path


def test_a_sweep_of_the_opponent_is_one_series(directory):
    hashes = [cell(directory, LOLA, naive(lr), value=lr) for lr in (10.0, 0.1, 1.0)]
    (found,) = series(results.load(directory))
    assert (found.game, found.learner, found.opponent) == ("ipd", "lola", "naive")
    assert (found.swept, found.hyperparameter, found.assumed) == ("opponent", "lr", 0.5)
    assert found.x == (0.1, 1.0, 10.0)
    np.testing.assert_allclose(found.mean, found.x)
    assert found.n == (4, 4, 4)
    assert found.hashes == ((hashes[1],), (hashes[2],), (hashes[0],))
    for mean, low, high in zip(found.mean, found.low, found.high, strict=True):
        # Means of four draws from -1, 0, 0, 1: their 95 % range is +-0.75 or a quarter less.
        assert mean - low in (pytest.approx(0.75), pytest.approx(0.5))
        assert high - mean in (pytest.approx(0.75), pytest.approx(0.5))


def test_both_orders_of_seats_are_averaged(directory):
    for lr in (0.1, 1.0, 10.0):
        cell(directory, LOLA, naive(lr), game="imp", value=lr)
        cell(directory, naive(lr), LOLA, game="imp", value=lr)  # in seat 2 LOLA has 10 more
    (found,) = series(results.load(directory))
    np.testing.assert_allclose(found.mean, [x + 5.0 for x in found.x])
    assert found.n == (8, 8, 8)


def test_other_numbers_make_another_series(directory):
    for lr in (0.1, 1.0, 10.0):
        cell(directory, LOLA, naive(lr))
        cell(directory, LOLA, naive(lr, "adam"))
    cell(directory, LOLA, naive(0.3), steps=7)
    found = series(results.load(directory))
    assert [x.opponent for x in found] == ["naive", "naive(optimiser='adam')"]
    assert [x.x for x in found] == [(0.1, 1.0, 10.0)] * 2


def test_diverged_seeds_are_counted_and_not_averaged(directory):
    for lr in (0.1, 1.0):
        cell(directory, LOLA, naive(lr), value=lr)
    lost = {"return": np.array([[3.0, 3.0], [5.0, 5.0], [np.nan, np.nan], [np.nan, np.nan]])}
    write_cell(directory, "ipd", ["lola", "naive(lr=10.0)"], lost, learners=[LOLA, naive(10.0)])
    write_cell(directory, "imp", ["lola", "naive"], lost, learners=[LOLA, naive(1.0)])
    (found,) = series(results.load(directory))
    assert (found.mean[-1], found.n[-1], found.diverged) == (4.0, 2, (0, 0, 2))
    nothing = {"return": np.full((4, 2), np.nan)}
    write_cell(directory, "ipd", ["lola", "naive(lr=99.0)"], nothing, learners=[LOLA, naive(99.0)])
    (found,) = series(results.load(directory))
    assert np.isnan([found.mean[-1], found.low[-1], found.high[-1]]).all()
    assert found.n[-1] == 0


def test_a_learner_swept_in_self_play_sweeps_both(tmp_path):
    write_suite(tmp_path, ["ipd"], ["naive(lr=[0.1, 1, 10])"])
    for lr in (0.1, 1.0, 10.0):
        cell(tmp_path, naive(lr), naive(lr), value=lr)
    (found,) = series(results.load(tmp_path))
    assert (found.learner, found.opponent, found.swept, found.assumed) == ("naive", "naive", "both", None)
    np.testing.assert_allclose(found.mean, [x + 5.0 for x in found.x])  # the mean of both seats
    assert found.n == (4, 4, 4)


def test_a_learner_swept_against_one_opponent(tmp_path):
    write_suite(tmp_path, ["ipd"], ["lola(lookahead_lr=[0.1, 0.2, 0.4])"], opponents=["naive"])
    for x in (0.1, 0.2, 0.4):
        own = learner(f"lola(lookahead_lr={x})", "lola", lr=1.0, lookahead_lr=x)
        cell(tmp_path, own, naive(1.0), value=x)
    (found,) = series(results.load(tmp_path))
    assert (found.learner, found.opponent, found.swept) == ("lola", "naive", "learner")
    assert (found.hyperparameter, found.x, found.assumed) == ("lookahead_lr", (0.1, 0.2, 0.4), None)


def test_two_values_are_no_sweep_and_an_unknown_metric_is_bad_input(directory):
    for lr in (0.1, 1.0):
        cell(directory, LOLA, naive(lr))
    assert series(results.load(directory)) == []
    with pytest.raises(BadInput, match=r"metric is 'retrun'.*allowed: diverged, return"):
        series(results.load(directory), "retrun")


def test_the_robustness_suite_sweeps_what_rules_assume():
    from shaping_bench.spec.suite import load

    suite = load("robustness")
    against = {
        (cell.game.label, cell.learners[0].label, cell.learners[1].named.hyperparameters["lr"])
        for cell in suite.encounters
        if cell.learners[1].named.name == "naive" and cell.learners[1].named.hyperparameters["optimiser"] == "sgd"
    }
    for game, label in (("ipd", "lola"), ("imp", "sos"), ("chicken", "lola-exact"), ("ipd", "control")):
        steps = sorted(lr for g, name, lr in against if (g, name) == (game, label))
        assumed = 0.04 if game == "chicken" else 1.0
        assert assumed in steps
        assert steps[0] <= assumed / 100
        assert steps[-1] == pytest.approx(10 * assumed)


# --- sweeps by W&B ------------------------------------------------------------------------


def agents_command(sweep, values):
    """What ``wandb agent`` would run for these values, by W&B's own code."""
    from wandb.sdk.launch.sweeps import utils

    chosen = {"program": sweep["program"], "args": {name: {"value": value} for name, value in values.items()}}
    macros = utils.create_sweep_command_args(chosen) | {"program": [sweep["program"]], "env": ["/usr/bin/env"]}
    words = []
    for word in utils.create_sweep_command(list(sweep["command"])):
        words += macros[word[2:-1]] if word.startswith("${") else [word]
    return words


def test_the_agents_run_logs_the_metric_of_the_sweep(tmp_path, capsys):
    """The written file, W&B's command line of a run, and what that run records."""
    file = tmp_path / "sweep.yaml"
    arguments = ["sweep", "ultimatum", "lola", "naive(lr=0.3)", "--over", "lr=log:0.01:1", "lookahead_lr=0.1,0.3"]
    assert main([*arguments, "--seeds", "3", "--steps", "5", "-o", str(file)]) == 0
    assert "wandb sweep" in capsys.readouterr().out
    sweep = yaml.safe_load(file.read_text())
    command = agents_command(sweep, {"lr": 0.25, "lookahead_lr": 0.3})
    assert command[:3] == ["/usr/bin/env", "shaping-bench", "encounter"]
    given = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_RUN_ID": "abc123", "WANDB_SWEEP_ID": "s1"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "shaping_bench", *command[2:]],
        env={**os.environ, **given, "PATH": path, "WANDB_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (log,) = tmp_path.glob("wandb/offline-run-*-abc123/run-abc123.wandb")
    wandb = Path(sys.executable).with_name("wandb")
    shown = subprocess.run([wandb, "leet", "inspect", "--json", log], capture_output=True, text=True, check=True)
    records = [json.loads(line) for line in shown.stdout.splitlines()]
    (run,) = [x["run"] for x in records if x["type"] == "run"]
    assert run["sweep_id"] == "s1"
    assert run["config"]["update"]["hyperparameters"][0] == {"lr": 0.25, "lookahead_lr": 0.3}
    (row,) = [x["history"]["item"] for x in records if x["type"] == "history"]
    assert main(["encounter", "ultimatum", "lola(lr=0.25,lookahead_lr=0.3)", "naive(lr=0.3)",
                 "--seeds", "3", "--steps", "5", "--json"]) == 0  # fmt: skip
    alone = json.loads(capsys.readouterr().out)["metrics"]["return"][0]
    assert row[sweep["metric"]["name"]] == pytest.approx(alone["mean"])
    assert row[sweep["metric"]["name"] + "_iqm"] == pytest.approx(alone["iqm"])


def schema():
    """W&B's own schema of sweeps, without importing what it belongs to."""
    found = importlib.util.find_spec("sweeps")
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema not installed: .ci/no-deps.txt")
    if found is None:
        pytest.skip("sweeps not installed: pip install --no-deps -r .ci/no-deps.txt")
    return jsonschema.Draft7Validator(
        json.loads((Path(found.submodule_search_locations[0]) / "config" / "schema.json").read_text())
    )


def test_generated_files_keep_wandbs_schema():
    validator = schema()
    cases = [
        ("ipd", "lola", ["naive"], ["lr=log:0.01:1", "lookahead_lr"], {"method": "bayes"}),
        ("ipd", "hola", [], ["order=0:3", "expansion", "differentiate_inner"], {"method": "random"}),
        ("ipd", "naive", ["all-d"], ["optimiser=sgd,adam", "lr=0.1,1"], {"method": "grid", "metric": "welfare"}),
        ("coin-game", "ppo", [], ["clip=0.1:0.3", "lam", "batch_size=64,128", "epochs"], {}),
    ]
    for game, rule, others, over, more in cases:
        sweep = wandb_sweep(game, rule, others, over, **more)
        assert [error.message for error in validator.iter_errors(sweep)] == []
    assert list(validator.iter_errors({**sweep, "method": "annealing"}))  # it can complain
    assert sweep["parameters"]["lam"] == {"distribution": "uniform", "min": 0.0, "max": 1.0}
    assert sweep["parameters"]["epochs"] == {"distribution": "int_uniform", "min": 1, "max": 4}


def test_searches_are_written_as_asked():
    sweep = wandb_sweep("ipd", "hola", ["naive"], ["lr=0.5:2", "order", "expansion", "lookahead_lr"], method="random")
    assert sweep["parameters"] == {
        "lr": {"distribution": "uniform", "min": 0.5, "max": 2.0},
        "order": {"distribution": "int_uniform", "min": 1, "max": 4},
        "expansion": {"values": ["exact", "taylor"]},
        "lookahead_lr": {"distribution": "log_uniform_values", "min": 0.1, "max": 10.0},
    }
    assert sweep["metric"] == {"name": "final/return/player_1", "goal": "maximize"}
    assert wandb_sweep("ipd", "lola", [], ["lr"], metric="nash_conv")["metric"]["goal"] == "minimize"
    assert with_settings("lola(lr=0.5)", ["lr=0.1", "lookahead_lr=2"], "ipd").text == "lola(lr=0.1,lookahead_lr=2.0)"
    assert math.isclose(with_settings("naive", ["optimiser=adam", "lr=1e-3"], "ipd").value.lr, 1e-3)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["lola", "--over", "lrr=1"], "hyperparameter of --over for 'lola' is 'lrr'.*did you mean 'lr'"),
        (["lola"], "--over is empty; allowed: hyperparameters of 'lola': lr, lookahead_lr"),
        (["lola", "--over", "lr=1:0"], "--over lr is '1:0'; allowed: LOW:HIGH"),
        (["lola", "--over", "lr=log:0:1"], "--over lr is 'log:0:1'; allowed"),
        (["lola", "--over", "lr=-1:1"], r"lola.lr is -1.0; allowed: a number in \[0, inf\)"),
        (["lola", "--over", "lr=0.1:1", "--method", "grid"], "method 'grid' cannot go through; allowed: lr=V1,V2"),
        (["hola", "--over", "order=0.5:2"], "--over order is '0.5:2'; allowed for a whole number"),
        (["lola", "--over", "lr", "--metric", "retrun"], "--metric is 'retrun'.*did you mean 'return'"),
        (["lola", "all-d", "all-d", "--over", "lr"], "learners: 3 given, but game 'ipd' has 2 players"),
    ],
)
def test_bad_sweeps_are_bad_input(arguments, complaint, capsys):
    assert main(["sweep", "ipd", *arguments]) == 2
    assert re.search(complaint, capsys.readouterr().err)


@pytest.mark.parametrize(("setting", "complaint"), [("lr", "NAME=VALUE"), ("lr=-1", "lola.lr is -1"), ("x=1", "'x'")])
def test_bad_settings_are_bad_input(setting, complaint, capsys):
    assert main(["encounter", "ipd", "lola", "--set", setting]) == 2
    assert complaint in capsys.readouterr().err
