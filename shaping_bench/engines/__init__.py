"""Engines: where the work of a suite runs.

An engine only schedules. It is given a function and the jobs to call it with, and hands back what
each yielded, in whatever order they end; what to run, and what becomes of it, is the runner's
affair (:mod:`shaping_bench.run.runner`). To add one, write a class with the one method of
:class:`Engine` in a file of its own here, and name it in :data:`ENGINES` and among the words of
``--engine`` in ``cli.py``.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from shaping_bench.engines.local import Local

Job = TypeVar("Job")
Result = TypeVar("Result")


class Engine(Protocol):
    """Calls a function with every job."""

    def each(
        self, function: Callable[[Job], Result], jobs: Sequence[Job]
    ) -> "Iterator[tuple[Job, Result | Exception]]":
        """Yields every job with what the function returned, or the exception it raised, as they end.

        A result is the caller's as soon as it is yielded: an engine holds few at a time and keeps
        none. When the caller stops listening, jobs that have not begun are dropped.
        """
        ...


ENGINES: dict[str, Callable[[], Engine]] = {"local": Local}
"""By the name that ``--engine`` takes."""
