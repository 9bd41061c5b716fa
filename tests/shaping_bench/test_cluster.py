"""Clusters: jobs on real worker processes of dask's, their faults, and a real Slurm of one node."""

import subprocess
import sys

import pytest

from shaping_bench.cli import main
from shaping_bench.engines import clusters
from shaping_bench.errors import BadInput
from tests.shaping_bench.test_interruption import CELLS, SUITE, finished, numbers

pytest.importorskip("distributed", reason="the extra `cluster` is not installed")


def command(suite, directory, *options):
    words = [sys.executable, "-m", "shaping_bench", "run", str(suite), "-o", str(directory), "--wandb", "disabled"]
    return [*words, *map(str, options)]


def run(suite, directory, *options, **kwargs):
    return subprocess.run(command(suite, directory, *options), capture_output=True, text=True, timeout=300, **kwargs)


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    path = tmp_path_factory.mktemp("suite") / "faults.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture(scope="module")
def alone(suite, tmp_path_factory):
    """Every number of the suite by the local engine."""
    directory = tmp_path_factory.mktemp("alone") / "results"
    done = run(suite, directory)
    assert done.returncode == 0, done.stderr
    return numbers(directory)


# --- settings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("local", "coers: 2", "a setting of .* is 'coers', which is unknown; did you mean 'cores'?"),
        ("local", "cores: 0", "cores of .* is 0; allowed: a number of at least 1"),
        ("local", "lost: soon", "lost of .* is 'soon'; allowed: .*55m"),
        ("local", "memory: a lot", "memory of .* is 'a lot'; allowed: .*500MB"),
        ("local", "[1, 2]", "holds list; allowed: settings"),
        ("local", "a: [", "is not YAML .line"),
        ("ssh", "cores: 2", "hosts is missing"),
        ("slurm", "{walltime: 1m, grace: 60s}", "allowed: a grace below the walltime, 1m"),
        ("slurm", "{minimum: 3, maximum: 2}", "allowed: a minimum of at most the maximum, 2"),
    ],
)
def test_settings_that_are_wrong_are_named(kind, text, said, tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=said):
        clusters.read_settings(clusters.SETTINGS[kind], path)


@pytest.mark.parametrize("kind", clusters.SETTINGS)
def test_printed_settings_are_the_defaults(kind, tmp_path, capsys):
    assert main(["cluster", kind]) == 0
    path = tmp_path / "cluster.yaml"
    path.write_text(capsys.readouterr().out)
    read = clusters.read_settings(clusters.SETTINGS[kind], path)
    required = {"hosts": ["node1", "node2"]} if kind == "ssh" else {}
    assert read == clusters.SETTINGS[kind](**required)


def test_hosts_may_differ():
    hosts = ["a", {"host": "b", "cores": 8, "gpus": 2}]
    machines = clusters.SshSettings(hosts=hosts, cores=4, memory="8GB").machines
    assert {name: (x.cores, x.gpus, x.memory) for name, x in machines.items()} == {
        "a": (4, None, "8GB"),
        "b": (8, 2, "8GB"),
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scheduler", "here:1"], "--scheduler is given and --engine is 'local'"),
        (["--cluster-file", "x.yaml"], "--cluster-file is given and --engine is 'local'"),
        (["--engine", "dask", "--scheduler", "a:1", "--cluster", "ssh"], "allowed: one of them"),
        (["--engine", "dask", "--cluster-file", "nowhere.yaml"], "--cluster-file 'nowhere.yaml' cannot be read"),
        (["--engine", "dask", "--scheduler", "nowhere"], "--scheduler is 'nowhere', where there is none"),
    ],
)
def test_options_that_do_not_fit_are_bad_input(words, said, tmp_path, capsys):
    assert main(["run", "quick", "-o", str(tmp_path / "out"), *words]) == 2
    assert said in capsys.readouterr().err


def test_dask_is_imported_by_none_who_does_not_ask_for_it(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text("name: tiny\ngames: [ipd]\nlearners: [naive]\nseeds: 1\nsteps: 1\n")
    code = (
        "import sys\n"
        "from shaping_bench.cli import main\n"
        f"code = main(['run', {str(path)!r}, '-o', {str(tmp_path / 'out')!r}, '--wandb', 'disabled'])\n"
        "found = {name.split('.')[0] for name in sys.modules} & {'dask', 'distributed', 'dask_jobqueue'}\n"
        "assert (code, found) == (0, set()), (code, found)\n"
        "sys.modules.update(distributed=None, dask_jobqueue=None)\n"
        "sys.exit(main(['run', 'quick', '--engine', 'dask']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "pip install 'shaping-bench[cluster]'" in done.stderr.splitlines()[-1]


# --- the local cluster --------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
def test_a_cluster_stores_what_the_local_engine_stores_bit_for_bit(shared, suite, alone, tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(f"{{shared: {str(shared).lower()}, cores: 2}}")
    done = run(suite, tmp_path / "out", "--engine", "dask", "--cluster-file", path)
    assert done.returncode == 0, done.stderr
    assert f"{CELLS} cells computed, 0 kept, 0 failed" in done.stderr
    assert len(finished(tmp_path / "out")) == CELLS
    assert numbers(tmp_path / "out") == alone
