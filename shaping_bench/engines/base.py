"""What an engine is told, and what it tells."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from shaping_bench.run.deadline import Deadline
from shaping_bench.run.jobs import Plan

What = Literal["joined", "refused", "started", "progress", "done", "failed", "lost", "retried", "stopped", "held"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where the jobs of a plan run, in words that any process understands.

    Attributes:
      directory: the results.
      suite: the resolved suite as text, see :func:`shaping_bench.engines.calls.suite_text`.
      fingerprint: of versions and source, see :func:`shaping_bench.engines.calls.fingerprint`.
      shared: whether workers elsewhere see the directory under this very name; if not, what a job
        yields comes back as bytes.
      deadline: after which nothing more is begun.
    """

    directory: Path
    suite: str
    fingerprint: str
    shared: bool = True
    deadline: Deadline = dataclasses.field(default_factory=Deadline)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """Something that has happened to a job.

    Attributes:
      what: ``joined``: a worker is there; ``refused``: one that gets no jobs, ``error`` says why; ``started``;
        ``progress``; ``done``: what it yields is
        stored; ``retried``: it failed or was held up, and is to be done elsewhere; ``failed``: for
        good; ``lost``: its worker died or said nothing any more, and it is to be done elsewhere;
        ``stopped``: its deadline passed, that of the workplace or its worker's own, and it goes on
        from its checkpoint; ``held``: another launcher's worker is at it, and it is looked at again.
      key: of the job; empty where a worker joins.
      worker: who.
      seconds: that the job took.
      error: what was wrong, in one line.
      traceback: the same in full.
      errors: of single cells, by hash, where a job failed in part.
      fault: name of the error's class.
      done, total, values: of progress: steps taken, of how many, and what is known of them there.
      further: of what was stopped, whether it got further than where it was begun.
      about: of a worker that joins: ``host``, ``pid``, ``device`` and ``memory_bytes``.
    """

    what: What
    key: str = ""
    worker: str = ""
    seconds: float = 0.0
    error: str = ""
    traceback: str = ""
    errors: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fault: str = ""
    done: int = 0
    total: int = 0
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    further: bool = True
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Engine(Protocol):
    """Does the jobs of a plan."""

    def run(self, plan: Plan, workplace: Workplace) -> Iterator[Event]:
        """Yields what happens, as it happens. Every job ends in one event ``done`` or ``failed``, unless
        the workplace's deadline passes; what a ``done`` job yields stands in the workplace's directory
        by then. When the caller stops listening, jobs that have not begun are dropped, and workers of
        the engine's own end.
        """
        ...
