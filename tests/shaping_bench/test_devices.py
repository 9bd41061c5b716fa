"""JAX's settings, each in a fresh process because they are settled once per process."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

import shaping_bench
from shaping_bench.errors import BadInput
from shaping_bench.run import devices, programs
from shaping_bench.run.encounter import run_encounter
from shaping_bench.spec.registry import make_game, make_learner

ROOT = Path(shaping_bench.__file__).parent.parent
SHOW = """
import json, sys
import shaping_bench.run.devices as devices
from jax._src import xla_bridge
untouched = not xla_bridge.backends_are_initialized()
devices.configure(*sys.argv[1:])
devices.configure(*sys.argv[1:])
import jax, jax.numpy as jnp
print(json.dumps({"untouched": untouched, "cache": jax.config.jax_compilation_cache_dir,
                  "devices": jax.local_device_count(), "dtype": str(jnp.zeros(()).dtype)}))
"""


def configured(*arguments, **environment):
    unset = ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME", "XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "JAX_PLATFORMS")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-c", SHOW, *arguments],
        env={**inherited, "JAX_PLATFORMS": "cpu", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_defaults(tmp_path):
    found = configured(XDG_CACHE_HOME=str(tmp_path))
    assert found == {
        "untouched": True,
        "cache": str(tmp_path / "shaping-bench" / "jax"),
        "devices": 2,  # the same on every machine, as seeds are laid out by devices
        "dtype": "float32",
    }


REGISTERED = """
import importlib, json, pkgutil
from jax._src import xla_bridge
import shaping_bench
from shaping_bench.spec import registry
for module in pkgutil.walk_packages(shaping_bench.__path__, "shaping_bench."):
    if not any(x in module.name for x in ("__main__", ".docs", "axelrod_strategies")):  # run, or need more packages
        importlib.import_module(module.name)
made = [registry.make_learner(name) for name in registry.algorithms()]
made += [registry.make_game(name) for name in ("ipd", "coin-game")]
print(json.dumps([len(made), xla_bridge.backends_are_initialized()]))
"""


def test_importing_what_is_registered_starts_no_device():
    """A process that plans or schedules would take a GPU's memory with it."""
    done = subprocess.run(
        [sys.executable, "-c", REGISTERED],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    made, started = json.loads(done.stdout)
    assert made > 30
    assert not started


SUM = """
import hashlib
import numpy as np
import shaping_bench.run.devices as devices
devices.configure()
import jax, jax.numpy as jnp
x = np.random.default_rng(0).normal(size=(100_000, 33)).astype(np.float32)
print(hashlib.sha256(np.asarray(jax.jit(lambda x: jnp.sum(x, axis=0))(x)).tobytes()).hexdigest())
"""


def test_a_single_encounter_does_not_import_what_only_suites_need():
    code = """if True:
        import sys
        from shaping_bench.cli import main
        main(["encounter", "ipd", "naive", "--seeds", "2", "--steps", "1"])
        print(sorted({"pandas", "duckdb", "distributed"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
def test_last_bits_do_not_depend_on_the_number_of_cores(tmp_path):
    def bits(name, cores, **environment):
        """Of a large sum, by a process that may use so many cores."""
        inherited = {k: v for k, v in os.environ.items() if k not in ("PJRT_NPROC", "NPROC", "XLA_FLAGS")}
        done = subprocess.run(
            [sys.executable, "-c", SUM],
            env={**inherited, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path / name), **environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        return done.stdout

    all_cores = sorted(os.sched_getaffinity(0))
    one = bits("one", all_cores[:1])
    assert one == bits("all", all_cores)
    assert one != bits("set", all_cores, JAX_NUM_CPU_DEVICES="1", PJRT_NPROC="1")  # else this would compare nothing


def test_the_users_own_settings_win(tmp_path):
    found = configured(
        "float64",
        JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"),
        XLA_FLAGS="--xla_force_host_platform_device_count=3",
    )
    assert found["cache"] == str(tmp_path / "mine")
    assert (found["devices"], found["dtype"]) == (3, "float64")


def test_without_a_writable_cache_there_is_none(tmp_path):
    (tmp_path / "file").touch()
    assert configured(XDG_CACHE_HOME=str(tmp_path / "file"))["cache"] is None


def test_a_record_names_versions_commit_and_device():
    assert set(devices.versions()) >= {"python", "jax", "jaxlib", "numpy"}
    commit = devices.git_commit()
    assert commit is None or len(commit.removesuffix("-dirty")) == 40
    assert set(devices.describe()) == {"platform", "kind", "count"}
    assert devices.peak_memory_bytes() > 10 * 2**20  # no process with JAX in it is smaller


def test_programs_run_side_by_side_as_far_as_memory_reaches(monkeypatch):
    monkeypatch.setattr(devices, "free_memory_bytes", lambda: 100)
    admission, at_once, most = devices._Admission(), [], []
    begun = threading.Barrier(2)

    def run(needed, meets):
        with admission.admitted(needed):
            at_once.append(needed)
            most.append(sum(at_once))
            if meets:
                begun.wait(timeout=10)  # two of 40 do run at once
            at_once.remove(needed)

    for needed, meets in (40, True), (70, False):
        threads = [threading.Thread(target=run, args=(needed, meets)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=20)
            assert not thread.is_alive()
    assert max(most) == 80
    with pytest.raises(BadInput, match="needs about"), admission.admitted(101):
        pass
    assert admission.running == []


@pytest.mark.parametrize(("learner", "alone"), [("network=gru,hidden=16", True), ("network=tabular", False)])
def test_only_where_networks_learn_from_play_is_the_library_of_kernels_left_out(learner, alone):
    game = make_game("ipd(horizon=4)").value
    rule = make_learner(f"naive-pg(batch_size=1024,{learner})", game="ipd").value
    run_encounter(game, [rule] * 2, num_seeds=1, num_updates=1, episodes=2)
    # Another version of the compiler may have no such library, or no such option.
    otherwise = jax.jit(lambda x: x.sum(axis=-1)).lower(np.zeros((4096, 2), np.float32)).compile().as_text()
    left_out = alone and bool(devices.compiler_options(networks=True))
    used = "ynn_fusion" in programs.kept()[-1].function.as_text()
    assert used == ("ynn_fusion" in otherwise and not left_out)


def test_options_that_the_compiler_does_not_know_or_the_user_has_set_are_left_out(monkeypatch):
    assert devices.compiler_options(networks=True) in (devices.FOR_NETWORKS["cpu"], {})
    assert devices.compiler_options(networks=False) == {}
    with monkeypatch.context() as patch:
        patch.setitem(devices.FOR_NETWORKS, "cpu", {"xla_cpu_of_another_version": "1"})
        assert devices.compiler_options(networks=True) == {}
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT")
    assert devices.compiler_options(networks=True) == {}
