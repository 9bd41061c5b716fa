"""Faults of a cluster, inflicted on real processes while a suite runs. Tests run them on a small suite, ``make faults``
on a large one; each returns what it counted, and leaves results that must be those of an undisturbed run."""

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.shaping_bench.test_interruption import finished

PATIENCE = 3600.0
"""Seconds within which a suite must end, however disturbed, and however busy the machine."""


def command(suite, directory, *options):
    words = [sys.executable, "-m", "shaping_bench", "run", suite, "-o", directory, "--wandb", "disabled", *options]
    return [str(word) for word in words]


def settings(path, text):
    path.write_text(text)
    return path


@contextlib.contextmanager
def process(words, log, **kwargs):
    """A process that is gone afterwards, with all that it started; what it says stands in the log."""
    with open(log, "w") as file:
        started = subprocess.Popen([str(x) for x in words], stdout=file, stderr=file, start_new_session=True, **kwargs)
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


@contextlib.contextmanager
def launcher(suite, directory, *options, **kwargs):
    """A run of the suite on the engine dask."""
    log = Path(f"{directory}.log")
    with process(command(suite, directory, "--engine", "dask", *options), log, **kwargs) as started:
        yield started


def ended(run, directory):
    """Waits for a launcher's end, and returns what it said."""
    code = run.wait(timeout=PATIENCE)
    said = Path(f"{directory}.log").read_text()
    assert code == 0, said[-5000:]
    return said


def workers_of(pid):
    """Worker processes below a process, be it a launcher with a cluster here or `shaping-bench worker`."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if any("spawn_main" in word for word in child.cmdline()):
                    found.append(child)
    return found


def until(condition, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def scheduler(port, log):
    module = "distributed.cli.dask_scheduler"
    words = [sys.executable, "-m", module, "--host", "127.0.0.1", "--port", port, "--no-dashboard", "--no-show"]
    with process(words, log) as started:
        yield started


@contextlib.contextmanager
def worker(port, log, *options, **kwargs):
    words = [sys.executable, "-m", "shaping_bench", "worker", f"127.0.0.1:{port}", *options]
    with process(words, log, **kwargs) as started:
        yield started


# --- the faults ---------------------------------------------------------------------------


def workers_killed(suite, directory, folder, *, seconds=4.0, count=4, most=None):
    """One of the local cluster's workers is killed (-9) every few seconds; on a machine on which that is no time to get
    anywhere, once a cell has been finished since; ``most`` of them, if given."""
    file = settings(folder / "kills.yaml", f"cores: {count}\n")
    killed = before = 0
    with launcher(suite, directory, "--cluster-file", file) as run:
        while run.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(timeout=seconds)
            found, now = workers_of(run.pid), len(finished(directory))
            if found and now > before and killed != most:
                before = now
                with contextlib.suppress(psutil.NoSuchProcess):
                    found[killed % len(found)].kill()
                    killed += 1
        said = ended(run, directory)
    return {"workers killed": killed, "jobs they were at": said.count("\nlost: ")}


def scheduler_killed(suite, directory, folder, *, times=1, cores=2):
    """The scheduler is killed (-9) in the middle, and another is started at its address a little later."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        stack.enter_context(worker(port, folder / "worker.log", "--cores", cores, "--patience", "120s"))
        running = stack.enter_context(contextlib.ExitStack())
        first = running.enter_context(scheduler(port, folder / "scheduler.log"))
        run = stack.enter_context(launcher(suite, directory, "--scheduler", f"127.0.0.1:{port}"))
        for k in range(times):
            before = len(finished(directory))
            until(lambda before=before: len(finished(directory)) > before + 1 or run.poll() is not None)
            first.kill()
            running.close()
            time.sleep(2.0)
            first = running.enter_context(scheduler(port, folder / f"scheduler-{k}.log"))
        ended(run, directory)
    return {"schedulers killed": times}


def worker_stopped(suite, directory, folder):
    """A worker says nothing any more (SIGSTOP) in the middle of a job."""
    file = settings(folder / "stop.yaml", "{cores: 2, lost: 5s}")
    with launcher(suite, directory, "--cluster-file", file) as run:
        until(lambda: finished(directory) or run.poll() is not None)
        workers_of(run.pid)[0].send_signal(signal.SIGSTOP)
        ended(run, directory)
    return {"workers stopped": 1}


def disk_full(suite, directory, folder, *, shared):
    """One of two workers cannot write files of more than two kilobytes; it is alone until it has failed."""
    port = free_port()

    def little_space():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))

    full = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    file = settings(folder / "disk.yaml", f"shared: {str(shared).lower()}\n")
    log = Path(f"{directory}.log")
    with (
        scheduler(port, folder / "scheduler.log"),
        # Of standard error, which is a file here, the limit would end the process.
        process(
            [sys.executable, "-m", "shaping_bench", "worker", f"127.0.0.1:{port}", "--cores", "1", "--name", "full"],
            os.devnull,
            preexec_fn=little_space,
            env=full,
        ),
        launcher(suite, directory, "--scheduler", f"127.0.0.1:{port}", "--cluster-file", file) as run,
    ):
        until(lambda: "\nretried: " in f"\n{log.read_text()}" or run.poll() is not None)
        with worker(port, folder / "worker.log", "--cores", 1, "--name", "empty"):
            said = ended(run, directory)
    return {"workers with a full disk": 1, "jobs it could not store": f"\n{said}".count("\nretried: ")}


def directory_away(suite, directory, folder, *, seconds=8.0):
    """The file system of the results vanishes for a while, as a network's may; ``directory`` is on it."""
    file = settings(folder / "away.yaml", "cores: 2\n")
    share, gone = directory.parent, directory.parent.with_name("gone")
    log = folder / "away"
    with process(command(suite, directory, "--engine", "dask", "--cluster-file", file), f"{log}.log") as run:
        until(lambda: len(finished(directory)) > 1 or run.poll() is not None)
        share.rename(gone)
        share.write_text("a file, in which nobody can make folders")
        time.sleep(seconds)
        share.unlink()
        gone.rename(share)
        ended(run, log)
    return {"times that the directory was away": 1}


def two_launchers(suite, directory, folder):
    """Two launchers, each with workers of its own, on one directory."""
    file = settings(folder / "two.yaml", "cores: 1\n")
    other = folder / "other"
    words = command(suite, directory, "--engine", "dask", "--cluster-file", file)
    with launcher(suite, directory, "--cluster-file", file) as first, process(words, f"{other}.log") as second:
        said = ended(first, directory) + ended(second, other)
    return {"launchers": 2, "failed": said.count("failed: ")}


def launcher_told_to_end(suite, directory, folder, *, cores=2):
    """The launcher gets the signal that schedulers send before the end, and then the same command is given again."""
    file = settings(folder / "end.yaml", f"cores: {cores}\n")
    with launcher(suite, directory, "--cluster-file", file) as run:
        until(lambda: finished(directory) or run.poll() is not None)
        left = workers_of(run.pid)
        run.send_signal(signal.SIGTERM)
        code = run.wait(timeout=PATIENCE)
        said = Path(f"{directory}.log").read_text()
        assert (code, "the same command goes on" in said.splitlines()[-1]) == (75, True), said[-5000:]
        assert left
        until(lambda: not any(x.is_running() for x in left), seconds=60)
    kept = len(finished(directory))
    with launcher(suite, directory, "--cluster-file", file) as run:
        assert f", {kept} kept, 0 failed" in ended(run, directory)
    return {"cells before": kept}


def job_hangs(suite, directory, folder):
    """A learner that hangs the first time it is met, in whatever worker; the others must not wait for it for ever."""
    plugin = folder / "plugin"
    (plugin / "hanging_rule-1.dist-info").mkdir(parents=True)
    (plugin / "hanging_rule-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: hanging\nVersion: 1\n")
    (plugin / "hanging_rule-1.dist-info" / "entry_points.txt").write_text(
        "[shaping_bench.algorithms]\nhanging = hanging_rule:Hanging\n"
    )
    flag = folder / "hung"
    (plugin / "hanging_rule.py").write_text(
        "import pathlib, time\n"
        "from shaping_bench.algorithms.naive import Naive\n"
        "from shaping_bench.algorithms.core import pytree_dataclass\n"
        "@pytree_dataclass\n"
        "class Hanging(Naive):\n"
        "    def direction(self, view):\n"
        f"        flag = pathlib.Path({str(flag)!r})\n"
        "        if not flag.exists():\n"
        "            flag.touch()\n"
        "            time.sleep(3600)\n"
        "        return super().direction(view)\n"
    )
    file = settings(folder / "quiet.yaml", "{cores: 2, quiet: 90s}")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(plugin), os.environ.get("PYTHONPATH", "")])}
    with launcher(suite, directory, "--cluster-file", file, env=environment) as run:
        ended(run, directory)
    assert flag.exists()
    return {"jobs that hung": 1}


# --- Slurm --------------------------------------------------------------------------------


def slurm_can_be_had():
    """Whether a Slurm of one node can be started here, see .ci/slurm."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    return os.geteuid() == 0 and all(shutil.which(name, path=path) for name in ("slurmctld", "slurmd", "munged"))


@contextlib.contextmanager
def slurm(folder):
    """A Slurm of one node; yields the environment for its commands."""
    script = Path(__file__).resolve().parents[2] / ".ci" / "slurm"
    try:
        subprocess.run([script, "start", folder], check=True, stdout=subprocess.DEVNULL)
        yield {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run([script, "stop", folder], check=False)


def on_slurm(suite, directory, folder, *, text):
    """A suite on a Slurm cluster with these settings; counts its jobs, and how often one ended while at work."""
    file = settings(folder / "slurm.yaml", f"{{host: 127.0.0.1, logs: {folder / 'logs'}, {text}}}")
    with slurm(folder / "node") as environment:
        options = ("--cluster", "slurm", "--cluster-file", file)
        with launcher(suite, directory, *options, env=environment) as run:
            said = ended(run, directory)
    jobs = len(list((folder / "logs").glob("*.out")))
    return {"jobs": jobs, "ended while at work": said.count("\nlost: ")}


def slurm_short(suite, directory, folder):
    """Through a partition whose jobs die after a minute; None where there is no Slurm."""
    if not slurm_can_be_had():
        return None
    return on_slurm(suite, directory, folder, text="queue: short, walltime: 60s, grace: 8s, maximum: 2, memory: 1GB")
