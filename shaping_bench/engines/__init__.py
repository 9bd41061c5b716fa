"""Engines: where the work of a suite runs.

An engine is given a plan and a workplace, and tells what happens (:mod:`shaping_bench.engines.base`);
what is to do is the plan's affair (:mod:`shaping_bench.run.jobs`), what becomes of it the runner's
(:mod:`shaping_bench.run.runner`). A job is a call by its key (:mod:`shaping_bench.engines.calls`), and
:mod:`shaping_bench.engines.schedule` says which comes next, for engines that do not know better. To add
one, write a class with the one method of :class:`Engine` in a file of its own here, and name it in
:data:`ENGINES` and among the words of ``--engine`` in ``cli.py``.
"""

from collections.abc import Callable
from pathlib import Path

from shaping_bench.engines.base import Engine, Event, Workplace
from shaping_bench.engines.local import Local
from shaping_bench.errors import BadInput


def _dask(scheduler: str | None = None, cluster: str | None = None, file: Path | None = None) -> Engine:
    """Workers of a scheduler that is there, or of a cluster that is started: on this machine by default.

    Raises:
      BadInput: both, something wrong in the cluster's file of settings, or dask is not installed.
    """
    from shaping_bench.engines import clusters

    if scheduler and cluster:
        raise BadInput(f"--scheduler is {scheduler!r} and --cluster is {cluster!r}; allowed: one of them")
    kind = clusters.Settings if scheduler else clusters.SETTINGS[cluster or "local"]
    settings = clusters.read_settings(kind, file)
    clusters.need_dask()
    from shaping_bench.engines.dask import Dask  # half a second, and not for those who have other engines

    return Dask(settings, scheduler)


ENGINES: dict[str, Callable[..., Engine]] = {"local": Local, "dask": _dask}
"""By the name that ``--engine`` takes."""

__all__ = ["ENGINES", "Engine", "Event", "Local", "Workplace"]
