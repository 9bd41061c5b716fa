"""Engines: where the work of a suite runs.

An engine is given a plan and a workplace, and tells what happens (:mod:`shaping_bench.engines.base`);
what is to do is the plan's affair (:mod:`shaping_bench.run.jobs`), what becomes of it the runner's
(:mod:`shaping_bench.run.runner`). A job is a call by its key (:mod:`shaping_bench.engines.calls`), and
:mod:`shaping_bench.engines.schedule` says which comes next, for engines that do not know better. To add
one, write a class with the one method of :class:`Engine` in a file of its own here, and name it in
:data:`ENGINES` and among the words of ``--engine`` in ``cli.py``.
"""

from collections.abc import Callable

from shaping_bench.engines.base import Engine, Event, Workplace
from shaping_bench.engines.local import Local

ENGINES: dict[str, Callable[[], Engine]] = {"local": Local}
"""By the name that ``--engine`` takes."""

__all__ = ["ENGINES", "Engine", "Event", "Local", "Workplace"]
