"""Programs kept between processes: taken over where they are the same, compiled anew wherever they might not be."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from shaping_bench import metrics
from shaping_bench.algorithms.cola import COLA
from shaping_bench.algorithms.core import field, pytree_dataclass
from shaping_bench.algorithms.lola import LOLA, LOLAFull
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.policy_gradient import NaivePG
from shaping_bench.games import make
from shaping_bench.metrics import evaluation
from shaping_bench.run import devices, executables, programs
from shaping_bench.run import preparation as phase
from shaping_bench.run.encounter import run_encounter
from shaping_bench.run.executables import Strange, described
from shaping_bench.spec.registry import make_game, make_learner


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Keeps programs, as tests do not: what they run is not always what stands in the files. A function that
    yields the names of those that are kept. What JAX itself has kept is forgotten."""
    folder, before = tmp_path / "programs", jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compilation_cache.reset_cache()
    monkeypatch.setattr(executables, "MOST_BYTES", 2**28)
    monkeypatch.setattr(executables, "SETTLED", -1e9)  # a checkout may be seconds old
    monkeypatch.setattr(devices, "programs_folder", lambda: folder)
    yield lambda: sorted(path.name for path in folder.glob("*"))
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


@pytest.fixture
def lowered(monkeypatch):
    """The names of functions that are made for being compiled, as they are made."""
    names = []
    function = programs.Program.function

    def noted(self, name):
        names.append(name)
        return function(self, name)

    monkeypatch.setattr(programs.Program, "function", noted)
    return names


PAIR = (LOLA(), Naive())


def outcome(game="tandem", rules=PAIR, **settings):
    """An encounter in what could be a new process."""
    programs.forget()
    return run_encounter(make(game), rules, **{"num_seeds": 3, "num_updates": 4, **settings})


def assert_equal(a, b):
    ours, theirs = (jax.tree.leaves((x.final, x.infos, x.played)) for x in (a, b))
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(x, y)


def test_an_exact_encounter_is_taken_over_to_the_last_bit(kept, lowered):
    first = outcome()
    assert lowered == ["whole"]
    assert len(kept()) == 1
    (compiled,) = programs.kept()
    again = outcome()
    (loaded,) = programs.kept()
    assert (loaded.memory, loaded.operations) == (compiled.memory, compiled.operations)
    assert lowered == ["whole"]
    assert len(kept()) == 1
    assert_equal(first, again)
    other = outcome(rules=(LOLA(lr=0.5), Naive()))  # numbers are data
    assert lowered == ["whole"]
    assert not np.array_equal(first.params[0], other.params[0])


def test_an_encounter_by_play_is_taken_over_to_the_last_bit(kept, lowered):
    rules = (NaivePG(batch_size=4, network="mlp", hidden=2),) * 2
    first = outcome("ipd", rules, num_updates=3, record_every=1, episodes=2)
    names = list(lowered)
    assert set(names) == {"begin", "advance"}
    assert len(kept()) == 2
    assert_equal(first, outcome("ipd", rules, num_updates=3, record_every=1, episodes=2))
    assert lowered == names


def test_metrics_are_taken_over_to_the_last_bit(kept):
    params = [np.random.default_rng(0).normal(size=(3, 1)) for _ in range(2)]

    def found():
        evaluation._program.cache_clear()
        return metrics.evaluate(make("tandem"), params)

    first, names = found(), kept()
    again = found()
    assert len(names) == 1
    assert kept() == names
    for name, x in first.items():
        np.testing.assert_array_equal(x, again[name])


def test_a_preparation_is_taken_over_to_the_last_bit(kept):
    game, rule = make_game("tandem"), make_learner("cola(batch_size=2,num_steps=3,hidden=2)", game="tandem")
    (asked, _) = phase.needed(game, [rule, rule], seeds=2, seed=1, precision="float32")
    first, names = phase.prepare(asked), kept()
    assert len(names) == 2
    again = phase.prepare(asked)
    assert kept() == names
    for x, y in zip(jax.tree.leaves(first.artifact), jax.tree.leaves(again.artifact), strict=True):
        np.testing.assert_array_equal(x, y)
    phase.prepare(dataclasses.replace(asked, seed=2))  # is a number in the program
    assert len(kept()) > len(names)


class Found(Exception):
    """A program was looked for under this path."""


@pytest.fixture
def name_of(kept, monkeypatch):
    """The name under which an encounter looks for its first program; it goes no further."""

    def found(path, _):
        raise Found(path)

    def name(**settings):
        with pytest.raises(Found) as stop:
            outcome(**settings)
        return stop.value.args[0].name

    monkeypatch.setattr(executables, "_load", found)
    return name


def test_what_is_another_program_has_another_name(name_of):
    others = [
        {"rules": (LOLAFull(), Naive())},
        {"rules": (Naive(), LOLA())},
        {"game": "ipd", "rules": (NaivePG(), NaivePG())},
        {"game": "balduzzi"},
        {"game": "ipd"},
        {"num_seeds": 40},
        {"precision": "float64"},
        {"record_every": 2},
        {"init": [np.zeros(1)] * 2},
    ]
    names = [name_of(), *(name_of(**settings) for settings in others)]
    assert len(set(names)) == len(names)
    assert name_of(seed=1, num_updates=7, rules=(LOLA(lr=0.1), Naive())) == names[0]  # these are data


def test_what_is_decided_elsewhere_counts(kept, monkeypatch):
    def name():
        return executables._path("anything", jax.local_devices())

    names = {name()}
    with monkeypatch.context() as patch:
        patch.setattr(executables, "package_hash", lambda: "of other code")
        names.add(name())
    with monkeypatch.context() as patch:
        patch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} --xla_cpu_enable_fast_math=true")
        names.add(name())
    with jax.default_matmul_precision("highest"):
        names.add(name())
    assert len(names) == 4
    assert name() in names


def test_the_second_process_takes_over_what_the_first_has_kept(tmp_path):
    script = """
import sys
from shaping_bench import cli
from shaping_bench.run import executables
executables.SETTLED = -1e9
sys.exit(cli.main(["encounter", "tandem", "naive", "--seeds", "2", "--steps", "3", "--json"]))
"""
    outcomes, names = [], set()
    for seed in ("1", "2"):  # sets are in another order
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path), "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            check=True,
        )
        outcomes.append({k: v for k, v in json.loads(done.stdout).items() if k != "seconds"})
        paths = list((tmp_path / "programs").iterdir())
        assert {path.name for path in paths} == (names or {path.name for path in paths})
        if names:
            assert all(path.stat().st_mtime > 1e9 for path in paths)  # was used
        for path in paths:
            os.utime(path, (1e9, 1e9))
        names = {path.name for path in paths}
    assert len(names) == 2  # the encounter, and its metrics
    assert outcomes[0] == outcomes[1]


RULE = """
import jax
from shaping_bench.algorithms.core import field, pytree_dataclass
from shaping_bench.algorithms.naive import Naive

@pytree_dataclass
class Mine(Naive):
    def direction(self, view):
        return jax.tree.map(lambda x: FACTOR * x, super().direction(view))
"""


def test_a_changed_rule_of_somebody_elses_gives_its_own_numbers(kept, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))

    def found(factor):
        (tmp_path / "somebodys_rule.py").write_text(RULE.replace("FACTOR", factor))
        sys.modules.pop("somebodys_rule", None)
        importlib.invalidate_caches()
        return outcome(rules=(importlib.import_module("somebodys_rule").Mine(lr=0.5), LOLA())).params[0]

    first, changed, again = found("1.0"), found("-1.0"), found("1.0")
    assert not np.array_equal(first, changed)
    np.testing.assert_array_equal(first, again)
    assert kept() == []  # nothing says what else of theirs decides


@pytree_dataclass
class Own(Naive):
    """Of this file, and so somebody else's."""

    extra: int = field(0, "nothing", static=True)


@pytest.mark.parametrize(
    "x",
    [Own(), jax.tree.structure(Own()), (1, lambda: 1), object(), [np.sum]],
    ids=["a rule", "its structure", "a function", "an object", "a function of numpy"],  # no addresses
)
def test_what_cannot_be_described_is_strange(x):
    with pytest.raises(Strange):
        described(x)


def test_descriptions_tell_values_apart():
    values = [
        0,
        0.0,
        -0.0,
        False,
        "0",
        None,
        (),
        [],
        (0,),
        ((0,),),
        {"a": 0},
        np.float32(0),
        np.float64(0),
        np.zeros(1),
    ]
    values += [Naive(), Naive(lr=2.0), LOLA(), int, float, frozenset(), jax.tree.structure((0, 0)), COLA()]
    values += [jax.tree.structure([0, 0]), jax.tree.structure(Naive()), jax.tree.structure(LOLA()), make("tandem")]
    assert len({json.dumps(described(x)) for x in values}) == len(values)


def test_code_that_has_changed_since_it_was_loaded_says_nothing(kept, monkeypatch):
    monkeypatch.setattr(executables, "package_time", time.time)
    monkeypatch.setattr(executables, "SETTLED", 0.0)
    outcome()
    assert kept() == []


def test_what_jax_had_kept_is_not_kept_again(kept):
    """Its machine code is not in what it is serialised to: it would be loaded, and then not run."""
    first, (name,) = outcome(), kept()
    path = devices.programs_folder() / name
    path.unlink()
    assert_equal(first, outcome())
    assert kept() == []


def test_a_damaged_file_is_compiled_anew(kept, lowered):
    first, (name,) = outcome(), kept()
    path = devices.programs_folder() / name
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:100] + b"?" + whole[101:]):
        path.write_bytes(damaged)
        assert_equal(first, outcome())
    assert lowered == ["whole"] * 4


def test_what_was_used_last_stays(kept, monkeypatch):
    outcome()
    path = devices.programs_folder() / kept()[0]
    os.utime(path, (1e9, 1e9))
    outcome()
    assert path.stat().st_mtime > 1e9
    os.utime(path, (1e9, 1e9))
    monkeypatch.setattr(executables, "MOST_BYTES", int(1.5 * path.stat().st_size))
    outcome(num_seeds=40)  # about as large
    assert len(kept()) == 1
    assert not path.exists()


def test_a_notebook_keeps_nothing():
    script = """
from shaping_bench.run import devices
import jax
jax.config.update("jax_compilation_cache_dir", "somewhere")
before = devices.programs_folder()
devices.configure()
after = devices.programs_folder()
jax.config.update("jax_enable_compilation_cache", False)
print(before, after.name, devices.programs_folder())
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == ["None", "programs", "None"]
