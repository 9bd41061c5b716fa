"""Clusters: jobs on real worker processes of dask's, their faults, and a real Slurm of one node."""

import os
import subprocess
import sys

import dask.config
import pytest

from shaping_bench.cli import main
from shaping_bench.engines import clusters, workers
from shaping_bench.engines import dask as engine
from shaping_bench.engines.base import Workplace
from shaping_bench.errors import BadInput, StoreError
from shaping_bench.run import devices
from shaping_bench.run.jobs import Job, Plan
from tests.shaping_bench import cluster_faults as faults
from tests.shaping_bench.test_interruption import finished, numbers

SUITE = """
name: faults
games: [ipd]
learners: [naive, lola, {learner: cola(num_steps=60), label: cola}]
seeds: 3
steps: 10
league: {opponents: [], best_response: false}
"""
CELLS = 12  # six unordered pairs, as encounters and as league match-ups, after one preparation


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    path = tmp_path_factory.mktemp("suite") / "faults.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture(scope="module")
def own_caches(tmp_path_factory):
    """An environment in which compiled programs are shared, and preparations are not taken over from other runs."""
    compiled = devices.cache_folder()
    shared = {} if compiled is None else {"JAX_COMPILATION_CACHE_DIR": str(compiled)}
    return lambda: {**shared, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(autouse=True)
def prepares_anew(own_caches, monkeypatch):
    for name, value in own_caches().items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def alone(suite, own_caches, tmp_path_factory):
    """Every number of the suite by the local engine."""
    directory = tmp_path_factory.mktemp("alone") / "results"
    environment = {**os.environ, **own_caches()}
    words = faults.command(suite, directory)
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(finished(directory)) == CELLS
    return numbers(directory)


def check(directory, alone):
    """None lost, none doubled, no half cell, and every bit as alone. A killed process may leave a draft."""
    assert len(finished(directory)) == len([x for x in (directory / "cells").iterdir() if x.name[0] != "."]) == CELLS
    assert numbers(directory) == alone


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


# --- who gets what ------------------------------------------------------------------------


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """A driver's program that tells of two GPUs of 80 GiB, and a machine of eight cores."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    rows = [f"{k}, GPU-{k}{k}, Fast GPU, 81920" for k in range(2)]
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{row}'\n" for row in rows))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(workers.devices, "usable_cores", lambda: 8)
    monkeypatch.setattr(workers.devices, "uses_gpus", lambda: True)  # as with the extra `gpu`


def visible(parts):
    return [x.environment.get("CUDA_VISIBLE_DEVICES") for x in parts]


def test_a_machine_serves_with_a_process_per_gpu_and_one_per_core_that_is_left(two_gpus, monkeypatch):
    parts = workers.processes("m")
    assert visible(parts) == ["0", "1", *[None] * 6]
    assert [x.name for x in parts][:3] == ["m", "m+1", "m+2"]
    gpu, core = parts[0], parts[-1]
    assert gpu.resources[workers.GPU_MEMORY] == pytest.approx(0.9 * 80 * 2**30)
    assert gpu.resources["Fast GPU"] == core.resources[workers.CORE] == 1
    assert workers.version() in gpu.resources
    assert core.environment["JAX_PLATFORMS"] == "cpu"  # it must not take its share of the GPUs' memory
    assert visible(workers.processes("m", cores=4, gpus=1)) == ["0", None, None, None]
    assert visible(workers.processes("m", cores=4, jobs_per_gpu=2)) == ["0", "0", "1", "1"]
    assert visible(workers.processes("m", cores=1)) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert visible(workers.processes("m", cores=2)) == ["1", None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-11,GPU-00")
    assert visible(workers.processes("m", cores=2)) == ["GPU-11", "GPU-00"]
    assert {workers.machine_of(x.name) for x in parts} == {"m"}


def test_without_gpus_cores_are_all_there_is(two_gpus, monkeypatch):
    monkeypatch.setattr(workers.devices, "uses_gpus", lambda: False)  # JAX would not find them
    parts = workers.processes("m", cores=3)
    assert [dict(x.environment) for x in parts] == [{}] * 3


class Client:
    """Remembers what was submitted, and says who is there."""

    def __init__(self, *there):
        self.submitted, self.cancelled, self.there = [], [], list(there)

    def scheduler_info(self, n_workers):
        about = {x.address: {"name": x.name, "resources": x.resources, "memory_limit": x.memory} for x in self.there}
        return {"workers": {address: {**x, "status": "running"} for address, x in about.items()}}

    def cancel(self, futures, force):
        self.cancelled += futures

    def submit(self, function, *arguments, **options):
        self.submitted.append((arguments[0], options))
        return self

    def add_done_callback(self, function):
        pass


def run_of(jobs, tmp_path, **settings):
    plan = Plan(jobs=tuple(jobs), cells=len(jobs), stored=frozenset())
    return engine._Run(plan, Workplace(directory=tmp_path, suite="", fingerprint=""), clusters.Settings(**settings))


def worker(name, *, gpu=False, version=None, memory=0):
    has = {workers.GPU: 1, workers.GPU_MEMORY: 40e9} if gpu else {workers.CORE: 1}
    return engine._Worker(address=name, name=name, resources={**has, version or workers.version(): 1}, memory=memory)


def job(key, seconds=0.0, **about):
    return Job(key=key, kind="encounters", title=key, cells=(key,), seconds={"cpu": seconds}, **about)


def test_jobs_that_want_a_gpu_wait_for_one_and_the_longest_come_first(tmp_path):
    jobs = [job(f"play {k}", seconds=k, accelerator=True, memory=10**9) for k in range(4)]
    jobs += [job(f"exact {k}", seconds=0.1 * k) for k in range(4)]
    jobs += [job("too large", seconds=9.0, accelerator=True, memory=10**11)]
    run, client = run_of(jobs, tmp_path), Client()
    run.workers = {x.name: x for x in (worker("gpu", gpu=True), worker("core"), worker("old", version="another"))}
    run._submit(client)
    assert [key for key, _ in client.submitted] == ["too large", "play 3"]
    (_, large), (_, play) = client.submitted
    assert large["resources"] == {workers.version(): 1, workers.CORE: 1}
    assert play["resources"] == {workers.version(): 1, workers.GPU: 1, workers.GPU_MEMORY: 10**9}
    assert large["workers"] is play["workers"] is None  # whoever has what they need
    assert run.demand() == 9
    run._submit(client)
    assert len(client.submitted) == 2
    (tmp_path / workers.SUITE).touch()
    run._forget(jobs[-1].key)
    assert [x.what for x in run._settle(jobs[-1], {"status": "done", "worker": "core", "seconds": 60.0})] == ["done"]
    run._submit(client)
    assert client.submitted[-1][0] == "exact 3"


def test_a_gpu_does_all_where_there_is_nothing_else_and_none_is_missed(tmp_path):
    jobs = [job("exact"), job("play", accelerator=True, memory=10**12)]
    for there, resource in ((worker("w", gpu=True), workers.GPU), (worker("w"), workers.CORE)):
        run, client = run_of(jobs, tmp_path), Client()
        run.workers, run.typical = {"w": there}, 0.01
        run._submit(client)
        assert {key for key, _ in client.submitted} == {"exact", "play"}
        wanted = {workers.version(): 1, resource: 1}
        assert [options["resources"] for _, options in client.submitted] == [wanted, wanted]


def test_jobs_are_submitted_one_per_process_and_short_ones_two(tmp_path):
    run, client = run_of([job(str(k)) for k in range(100)], tmp_path), Client()
    run.workers = {x: worker(x) for x in "ab"}
    run._submit(client)
    assert len(client.submitted) == 2  # how long they are is not known yet
    run.typical = 0.01
    run._submit(client)
    assert len(client.submitted) == 4


def test_what_failed_on_a_worker_goes_elsewhere(tmp_path):
    run, client = run_of([job("a")], tmp_path), Client()
    run.workers = {x: worker(x) for x in "ab"}
    run._submit(client)
    run._forget("a")
    assert [x.what for x in run._settle(job("a"), {"status": "failed", "worker": "a"})] == ["retried"]
    run._submit(client)
    assert client.submitted[-1][1]["workers"] == ["b"]
    run._forget("a")
    assert [x.what for x in run._settle(job("a"), {"status": "failed", "worker": "b"})] == ["failed"]
    assert run.schedule.ended


def test_a_job_that_only_workers_may_do_who_are_gone_is_given_to_others(tmp_path):
    run, client = run_of([job("a")], tmp_path), Client(worker("a"), worker("b"))

    def look():
        run.looked = -engine.SECONDS_BETWEEN_LOOKS
        events = [x.what for x in run._look(client)]
        run._submit(client)
        return events, [options["workers"] for _, options in client.submitted]

    assert look() == (["joined", "joined"], [None])
    run._forget("a")
    list(run._settle(job("a"), {"status": "failed", "worker": "a"}))
    assert look() == ([], [None, ["b"]])
    client.there = [worker("a"), worker("c")]
    events, _ = look()
    assert (events, len(client.cancelled), dict(run.futures)) == (["held", "joined"], 1, {})
    run.schedule._held[0] = (0.0, "a")  # now
    assert look() == ([], [None, ["b"], ["c"]])
    assert list(run._look(client)) == []


def test_a_job_goes_to_a_process_with_room_for_it_if_there_is_one(tmp_path):
    for memory, expected in ((4, None), (6, ["b", "c"]), (9, ["c"]), (10**12, None)):
        run, client = run_of([job("a", memory=memory)], tmp_path), Client()
        run.workers = {x.name: x for x in (worker("a", memory=5), worker("b", memory=8), worker("c", memory=9))}
        run._submit(client)
        assert [options["workers"] for _, options in client.submitted] == [expected]
    assert engine._limited(job("a"), 0) == ""
    assert engine._limited(job("a", memory=2 * 10**9), 10**9).startswith("; it had 1.0 GB, and jobs like this one have")


def test_workers_are_not_paused_for_what_their_compiled_programs_take():
    (process,) = workers.processes("m", cores=1)
    options = workers.nanny_options(process, quiet=9.0, memory=10**9)
    with dask.config.set({**dask.config.config, **options["config"]}):  # as dask does in the process
        assert dask.config.get("distributed.worker.memory.pause") is False
        assert dask.config.get("distributed.worker.memory.terminate") == pytest.approx(0.95)


def test_a_job_that_lost_its_workers_keeps_nobody_waiting(tmp_path):
    """Each process has a memory of its own: it need not be alone on the cluster."""
    run, client = run_of([job("deadly", seconds=9.0), job("a"), job("b")], tmp_path), Client()
    run.workers = {x: worker(x) for x in "xy"}
    for _ in range(3):
        run._submit(client)
        assert set(run.futures) == {"deadly", "a"}
        run._forget("deadly")
        assert [x.what for x in run.schedule.lost("deadly", "x", "killed")] == ["lost"]
    run._submit(client)
    assert set(run.futures) == {"deadly", "a"}
    assert client.submitted[-1][1]["workers"] == ["y"]


# --- what comes back ----------------------------------------------------------------------


@pytest.fixture
def one_job(tmp_path):
    """A run of one job, which dask has, and what is to be told about it."""
    run = run_of([job("a")], tmp_path, patience="1s")
    return run, run.schedule.take()


def test_a_worker_of_another_version_costs_no_job(one_job):
    run, job = one_job
    events = list(run._settle(job, {"status": "refused", "worker": "w", "error": "source is 'x' here and 'y' there"}))
    assert [x.what for x in events] == ["refused", "held"]
    assert not run.schedule.ended


def test_what_cannot_be_stored_waits_while_patience_lasts(one_job):
    run, job = one_job
    full = {"status": "failed", "worker": "w", "error": "cannot write to 'here'", "fault": "StoreError"}
    assert [x.what for x in run._settle(job, full)] == ["retried", "held"]
    run.schedule.running[job.key] = run.schedule.left.pop(job.key)
    run.unwritable[job.key] -= 2.0  # seconds ago
    with pytest.raises(StoreError, match="cannot write to 'here'"):
        list(run._settle(job, full))


# --- faults -------------------------------------------------------------------------------

# As few processes as show it: each takes seconds to come up. `make faults` has more of them, and kills more.


def test_killed_workers_lose_and_double_no_cell(suite, alone, tmp_path):
    counts = faults.workers_killed(suite, tmp_path / "out", tmp_path, seconds=1.0, count=2, most=2)
    assert counts["workers killed"] > 0
    check(tmp_path / "out", alone)


def test_a_scheduler_may_be_killed_and_started_again(suite, alone, tmp_path):
    faults.scheduler_killed(suite, tmp_path / "out", tmp_path, cores=1)
    check(tmp_path / "out", alone)


def test_a_worker_that_says_nothing_any_more_is_given_up(suite, alone, tmp_path):
    faults.worker_stopped(suite, tmp_path / "out", tmp_path)
    check(tmp_path / "out", alone)


def test_what_one_worker_cannot_write_another_does_and_cells_may_come_as_bytes(suite, alone, tmp_path):
    counts = faults.disk_full(suite, tmp_path / "out", tmp_path, shared=False)
    assert counts["jobs it could not store"] > 0
    check(tmp_path / "out", alone)


def test_a_shared_directory_may_vanish_for_a_while(suite, alone, tmp_path):
    directory = tmp_path / "share" / "out"
    directory.parent.mkdir()
    faults.directory_away(suite, directory, tmp_path)
    check(directory, alone)


def test_a_launcher_that_is_told_to_end_leaves_checkpoints_and_no_workers(suite, alone, tmp_path):
    faults.launcher_told_to_end(suite, tmp_path / "out", tmp_path, cores=1)
    check(tmp_path / "out", alone)


def test_two_launchers_share_a_directory(suite, alone, tmp_path):
    assert faults.two_launchers(suite, tmp_path / "out", tmp_path)["failed"] == 0
    check(tmp_path / "out", alone)


# --- hosts --------------------------------------------------------------------------------


def test_hosts_serve_by_whatever_ssh_there_is(suite, alone, tmp_path):
    """Here, by a program that runs on this machine what a host was to run."""
    program, log = tmp_path / "ssh", tmp_path / "hosts"
    program.write_text(f'#!/bin/sh\necho "$2" >> {log}\nshift 2\nexec sh -c "$*"\n')
    program.chmod(0o755)
    file = faults.settings(
        tmp_path / "hosts.yaml",
        f"{{hosts: [one, {{host: two, cores: 1}}], cores: 1, ssh: [{program}, -q], host: 127.0.0.1, shared: false}}",
    )
    with faults.launcher(suite, tmp_path / "out", "--cluster", "ssh", "--cluster-file", file) as run:
        faults.ended(run, tmp_path / "out")
        assert sorted(log.read_text().split()) == ["one", "two"]
    check(tmp_path / "out", alone)


# --- Slurm --------------------------------------------------------------------------------


@pytest.mark.skipif(not faults.slurm_can_be_had(), reason="no root, or Slurm and munge are not installed")
def test_a_suite_goes_through_slurm(suite, alone, tmp_path):
    counts = faults.on_slurm(suite, tmp_path / "out", tmp_path, text="queue: main, cores: 2, memory: 2GB, maximum: 1")
    assert counts["jobs"] >= 1
    check(tmp_path / "out", alone)


@pytest.mark.skipif(not faults.slurm_can_be_had(), reason="no root, or Slurm and munge are not installed")
def test_what_slurm_says_against_a_job_is_said(suite, tmp_path):
    file = faults.settings(tmp_path / "slurm.yaml", "{host: 127.0.0.1, queue: nowhere}")
    with faults.slurm(tmp_path / "node") as environment:
        words = faults.command(
            suite, tmp_path / "out", "--engine", "dask", "--cluster", "slurm", "--cluster-file", file
        )
        done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "--cluster cannot be started: allocation failure: Invalid partition name" in done.stderr.splitlines()[-1]
