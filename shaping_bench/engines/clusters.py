"""Clusters of the dask engine: their files of settings, and starting them.

Importing this module imports nothing of dask's, so that settings can be read and printed without it.
"""

import contextlib
import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic

from shaping_bench.errors import BadInput, unknown
from shaping_bench.run.deadline import seconds_of
from shaping_bench.spec.configs import Strict, allowed, read_yaml
from shaping_bench.store.pack import bytes_of

if TYPE_CHECKING:
    from distributed.deploy.spec import SpecCluster

Kind = Literal["local", "ssh", "slurm"]


def _as_time(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("a time such as 90s, 55m, 1h30m or HH:MM:SS")
    try:
        seconds_of(str(value), "it")
    except BadInput as error:
        raise ValueError(str(error).partition("allowed: ")[2]) from None
    return str(value)


def _as_size(value: Any) -> str:
    try:
        bytes_of(str(value), "it")
    except BadInput as error:
        raise ValueError(str(error).partition("allowed: ")[2]) from None
    return str(value)


Time = Annotated[str, pydantic.BeforeValidator(_as_time)]
Size = Annotated[str, pydantic.BeforeValidator(_as_size)]

Count = Annotated[int, pydantic.Field(ge=0)]
Positive = Annotated[int, pydantic.Field(ge=1)]


class Settings(Strict):
    """What every cluster has."""

    shared: bool = pydantic.Field(
        default=True,
        description="whether workers see the results directory under the same path; if not, cells come as bytes",
    )
    patience: Time = pydantic.Field(
        default="10m", description="how long to go on without a scheduler or without the results directory"
    )


class Machine(Strict):
    """What worker processes a machine gets."""

    cores: Positive | None = pydantic.Field(
        default=None, description="cores to use; all by default, less one per GPU process"
    )
    gpus: Count | None = pydantic.Field(default=None, description="GPUs to use; all by default")
    jobs_per_gpu: Positive = pydantic.Field(default=1, description="jobs that share a GPU and its memory")
    memory: Size | None = pydantic.Field(
        default=None, description="what its worker processes may take in equal parts, e.g. 16GB; no limit by default"
    )


class Started(Settings, Machine):
    """A cluster whose scheduler runs in the launcher."""

    quiet: Time = pydantic.Field(
        default="1h",
        description="after so long without any progress of its job a process is ended, and the job done elsewhere",
    )
    lost: Time = pydantic.Field(default="5m", description="after so long without a sign of life a worker is given up")
    dashboard: str | None = pydantic.Field(
        default=None, description="where dask's dashboard listens, e.g. ':8787'; needs the package bokeh"
    )


class LocalSettings(Started):
    """``--cluster local``: worker processes on this machine."""


class Remote(Started):
    """Workers on other machines."""

    host: str | None = pydantic.Field(default=None, description="address of this machine as the workers see it")
    interface: str | None = pydantic.Field(default=None, description="or the network interface to it, e.g. ib0")
    port: Count = pydantic.Field(default=0, description="on which the scheduler listens; any free one by default")
    python: str = pydantic.Field(default=sys.executable, description="the interpreter on the workers")
    prologue: list[str] = pydantic.Field(
        default=[], description="shell commands before a worker starts, e.g. 'module load cuda'"
    )


class Host(Machine):
    """One host, where it differs from the others."""

    host: str


class SshSettings(Remote):
    """``--cluster ssh``: hosts that one reaches by ssh without a password."""

    hosts: list[str | Host] = pydantic.Field(
        min_length=1, description="names, or {host: NAME, cores: 8, gpus: 2, ...} where one differs"
    )
    ssh: list[str] = pydantic.Field(default=["ssh", "-o", "BatchMode=yes"], description="the command")

    @property
    def machines(self) -> dict[str, Machine]:
        """What each host gets, by name."""
        common = {name: getattr(self, name) for name in Machine.model_fields}
        entries = [Host(host=x) if isinstance(x, str) else x for x in self.hosts]
        return {
            x.host: Machine(**(common | x.model_dump(include=x.model_fields_set, exclude={"host"}))) for x in entries
        }


class SlurmSettings(Remote):
    """``--cluster slurm``: jobs of a Slurm cluster, more or fewer as there is work."""

    queue: str | None = pydantic.Field(default=None, description="partition")
    account: str | None = None
    walltime: Time = pydantic.Field(default="1h", description="of a job; its workers stop at checkpoints before")
    grace: Time = pydantic.Field(default="60s", description="by how much before")
    cores: Positive = pydantic.Field(default=1, description="cores of a job, one worker process each")
    gpus: Count = pydantic.Field(default=0, description="GPUs of a job, with as many of its processes")
    memory: Size = pydantic.Field(
        default="4GB", description="of a job, which its worker processes share in equal parts"
    )
    directives: list[str] = pydantic.Field(default=[], description="more options of sbatch, e.g. '--exclude=node7'")
    minimum: Count = pydantic.Field(default=1, description="jobs at any time")
    maximum: Positive = pydantic.Field(default=10, description="jobs at most")
    logs: str | None = pydantic.Field(
        default=None, description="folder for the jobs' output; by default `logs` in the results directory if shared"
    )

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "SlurmSettings":
        if self.minimum > self.maximum:
            raise ValueError(f"a minimum of at most the maximum, {self.maximum}")
        if seconds_of(self.grace) >= seconds_of(self.walltime):
            raise ValueError(f"a grace below the walltime, {self.walltime}")
        return self


SETTINGS: dict[str, type[Started]] = {"local": LocalSettings, "ssh": SshSettings, "slurm": SlurmSettings}
"""By the word of ``--cluster``."""


def read_settings(kind: type[Settings], path: Path | None) -> Any:
    """Settings from a YAML file; the defaults without one.

    Raises:
      BadInput: the file, or a setting, is not as it should be.
    """
    what = f"--cluster-file {str(path)!r}"
    content = {} if path is None else read_yaml(path, what)
    if content is None:
        content = {}
    if not isinstance(content, Mapping):
        raise BadInput(f"{what} holds {type(content).__name__}; allowed: settings, NAME: VALUE")
    try:
        return kind.model_validate(content)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(x) for x in problem["loc"]) or "settings"
        if problem["type"] == "extra_forbidden":
            raise unknown(f"a setting of {what}", name, kind.model_fields) from None
        if problem["type"] == "missing":
            raise BadInput(f"{name} is missing from the settings ({what}); see `shaping-bench cluster`") from None
        raise BadInput(f"{name} of {what} is {problem['input']!r}; allowed: {allowed(problem)}") from None


def settings_text(kind: str) -> str:
    """All settings of a kind of cluster with their defaults, as a file that one can change."""
    lines = [f"# shaping-bench run SUITE --engine dask --cluster {kind} --cluster-file FILE", "# The defaults:"]
    for name, field in SETTINGS[kind].model_fields.items():
        value = ["node1", "node2"] if field.is_required() else field.default
        lines.append(f"{name}: {json.dumps(value)}" + (f"  # {field.description}" if field.description else ""))
    return "\n".join(lines) + "\n"


def need_dask() -> None:
    """
    Raises:
      BadInput: the extra ``cluster`` is not installed.
    """
    try:
        import dask_jobqueue  # noqa: F401
        import distributed  # noqa: F401
    except ImportError as error:
        raise BadInput(
            f"workers need dask's distributed and dask-jobqueue, which cannot be imported ({error}); "
            "allowed: after pip install 'shaping-bench[cluster]'"
        ) from None


# --- starting them ------------------------------------------------------------------------


@contextlib.contextmanager
def started(settings: Started, wanted: Callable[[], int], logs: Path | None = None) -> Iterator["SpecCluster"]:
    """A cluster that ends with the block.

    Args:
      settings: of which kind it is, and how.
      wanted: says how many jobs could run side by side now.
      logs: folder for what jobs of Slurm's say, if the settings name none; None drops it.

    Raises:
      BadInput: it cannot be started as the settings say.
    """
    import dask

    local = isinstance(settings, LocalSettings)
    with dask.config.set(
        {
            "distributed.scheduler.worker-ttl": f"{seconds_of(settings.lost)} s",
            # Of a worker that died the launcher is told at once: it knows whether the job got further before.
            "distributed.scheduler.allowed-failures": 0,
            # Nannies here start their processes anew, however long that takes; elsewhere a new job is submitted.
            "distributed.deploy.lost-worker-timeout": "1000 days" if local else "30 s",
        }
    ):
        try:
            cluster = _cluster(settings, wanted, logs)
        except (RuntimeError, OSError, ValueError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise BadInput(f"--cluster cannot be started: {lines[-1]}; allowed: settings by which it can") from None
        try:
            yield cluster
        finally:
            with contextlib.suppress(TimeoutError, OSError):
                cluster.close(timeout=30)


def _cluster(settings: Started, wanted: Callable[[], int], logs: Path | None) -> "SpecCluster":
    from distributed import Nanny, Scheduler
    from distributed.deploy.spec import SpecCluster

    from shaping_bench.engines import workers

    options: dict[str, Any] = {"dashboard_address": settings.dashboard, "dashboard": settings.dashboard is not None}
    if isinstance(settings, Remote):
        named = {"host": settings.host, "interface": settings.interface, "port": settings.port}
        options |= {name: value for name, value in named.items() if value is not None}
    if isinstance(settings, SlurmSettings):
        return _slurm(settings, options, wanted, logs)
    if isinstance(settings, SshSettings):
        specs = {name: _ssh(settings, name, machine) for name, machine in settings.machines.items()}
    else:
        options |= {"host": "127.0.0.1", "port": 0}
        parts = workers.processes(
            workers.default_name(), cores=settings.cores, gpus=settings.gpus, jobs_per_gpu=settings.jobs_per_gpu
        )
        quiet = seconds_of(settings.quiet)
        memory = 0 if settings.memory is None else bytes_of(settings.memory) // len(parts)
        specs = {x.name: {"cls": Nanny, "options": workers.nanny_options(x, quiet=quiet, memory=memory)} for x in parts}
    return SpecCluster(workers=specs, scheduler={"cls": Scheduler, "options": options}, silence_logs=logging.ERROR)


def _worker_options(machine: Machine, quiet: str) -> list[str]:
    """Of ``shaping-bench worker``."""
    named = {"cores": machine.cores, "gpus": machine.gpus, "jobs-per-gpu": machine.jobs_per_gpu, "quiet": quiet}
    return [word for name, value in named.items() if value is not None for word in (f"--{name}", str(value))]


def _ssh(settings: SshSettings, host: str, machine: Machine) -> dict[str, Any]:
    from shaping_bench.engines.ssh import OverSsh

    words = [*_worker_options(machine, settings.quiet), "--name", host, "--leash"]
    words += ["--memory", machine.memory] if machine.memory else []
    options = {
        "host": host,
        "ssh": settings.ssh,
        "prologue": settings.prologue,
        "python": settings.python,
        "words": words,
    }
    return {"cls": OverSsh, "options": options}


def _slurm(
    settings: SlurmSettings, scheduler: dict[str, Any], wanted: Callable[[], int], logs: Path | None
) -> "SpecCluster":
    from dask_jobqueue import SLURMCluster
    from distributed import Adaptive

    from shaping_bench.engines.workers import machine_of

    walltime = int(seconds_of(settings.walltime))
    limit = seconds_of(settings.walltime) - seconds_of(settings.grace)
    folder = settings.logs or (None if logs is None else str(logs))
    directives = [
        *([f"--gres=gpu:{settings.gpus}"] if settings.gpus else []),
        *(["--output=/dev/null"] if folder is None else []),
        *settings.directives,
    ]
    cluster = SLURMCluster(
        name=f"shaping-bench-{os.getpid()}",
        queue=settings.queue,
        account=settings.account,
        walltime=f"{walltime // 86400}-{walltime // 3600 % 24:02}:{walltime // 60 % 60:02}:{walltime % 60:02}",
        cores=settings.cores,
        # For dask-jobqueue a job is one process; `shaping-bench worker` makes of it as many as there are cores.
        processes=1,
        memory=str(bytes_of(settings.memory)),
        python=settings.python,
        worker_command="shaping_bench worker",
        worker_extra_args=[
            *_worker_options(Machine(gpus=settings.gpus, jobs_per_gpu=settings.jobs_per_gpu), settings.quiet),
            *("--time-limit", f"{limit:g}s"),
        ],
        job_script_prologue=settings.prologue,
        job_extra_directives=directives,
        job_name="shaping-bench",
        log_directory=folder,
        death_timeout=60,
        scheduler_options=scheduler,
        silence_logs=logging.ERROR,
    )

    class Wanted(Adaptive):
        """As many jobs as there is work for; those without work end."""

        async def target(self) -> int:
            return math.ceil(wanted() / settings.cores)

        async def workers_to_close(self, target: int) -> list[str]:
            # The scheduler itself: it runs in this process.
            states = cluster.scheduler.workers.values()
            busy = {machine_of(str(x.name)) for x in states if x.processing}
            return [name for name in self.plan if name not in busy][: max(0, len(self.plan) - target)]

    try:
        # What Slurm has against such a job is said now.
        script = cluster.job_script()
        subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        cluster.close()
        raise OSError(getattr(error, "stderr", "") or error) from None
    cluster.adapt(Adaptive=Wanted, minimum=settings.minimum, maximum=settings.maximum, interval="2s", wait_count=5)
    return cluster
