"""Which job comes next: what an engine asks that does its own scheduling.

Longest first, where longest is the way to the end through all who wait; a job that failed is done
once more, elsewhere if there is an elsewhere; one whose worker died is, so long as it does not take
too many with it; what needs a failed preparation fails with it.
"""

import dataclasses
import heapq
import math
import time
from collections.abc import Callable, Iterator

from shaping_bench.engines.base import Event
from shaping_bench.engines.calls import Reply
from shaping_bench.errors import NoRoom
from shaping_bench.run.jobs import Job, Plan

ATTEMPTS = 2
"""How often a job is begun that fails."""

LOSSES = 5
"""Workers that a job may take with it, without any progress in between."""

HELD_SECONDS = 2.0
"""After which to look again for a job that another process is at."""


@dataclasses.dataclass(kw_only=True)
class _Entry:
    """A job that has not ended. ``rank`` is its place among those that are ready."""

    job: Job
    missing: set[str]
    rank: tuple[bool, float, int]
    failures: int = 0
    losses: int = 0
    done: float = 0.0
    failed_at: str = ""

    @property
    def alone(self) -> bool:
        return self.rank[0]

    def set_alone(self) -> None:
        """It is done once nothing else is left that could be, with all the memory there is."""
        self.rank = (True, *self.rank[1:])


class Schedule:
    """The jobs of a plan that are still to be done.

    Args:
      plan: of which.
      memory: bytes that all jobs together may take; None if unknown.
      one_memory: whether they share one, so that what found no room beside the others may find it alone.
      attempts: how often a job is begun that fails.
      clock: seconds of a clock.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        memory: int | None = None,
        one_memory: bool = True,
        attempts: int = ATTEMPTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.memory, self.one_memory, self.attempts, self.clock = memory, one_memory, attempts, clock
        self.running: dict[str, _Entry] = {}
        self.waiters: dict[str, list[str]] = {}
        keys = {job.key for job in plan.jobs}
        for job in plan.jobs:
            for key in job.after:
                self.waiters.setdefault(key, []).append(job.key)
        weights: dict[str, float] = {}
        for job in reversed(plan.jobs):  # whoever waits comes later
            behind = max((weights[key] for key in self.waiters.get(job.key, ())), default=0.0)
            weights[job.key] = job.expected + behind
        self.left = {
            job.key: _Entry(job=job, missing=keys.intersection(job.after), rank=(False, -weights[job.key], k))
            for k, job in enumerate(plan.jobs)
        }
        self._ready = [(x.rank, key) for key, x in self.left.items() if not x.missing]
        self._held: list[tuple[float, str]] = []
        heapq.heapify(self._ready)

    @property
    def ended(self) -> bool:
        return not self.left and not self.running

    @property
    def ready(self) -> int:
        """Jobs that could be taken now, or once it is time to look at them again."""
        return len(self._ready) + len(self._held)

    def failed_at(self, key: str) -> str:
        """Where a job that was taken had failed before; empty if nowhere."""
        return self.running[key].failed_at

    def take(self, worker: str = "", *, others: bool = False) -> Job | None:
        """A job for a worker; None if there is none for it now.

        Args:
          worker: who asks.
          others: whether there are others, who may do what failed here.
        """
        while self._held and self._held[0][0] <= self.clock():
            self._push(heapq.heappop(self._held)[1])
        passed = []
        chosen = None
        while self._ready and chosen is None:
            rank, key = heapq.heappop(self._ready)
            entry = self.left.get(key)
            if entry is None:  # it has failed with what it needed
                continue
            if self._fits(entry) and not (others and worker and entry.failed_at == worker):
                chosen = self.running[key] = self.left.pop(key)
            else:
                passed.append((rank, key))
        for item in passed:
            heapq.heappush(self._ready, item)
        return None if chosen is None else chosen.job

    def _fits(self, entry: _Entry) -> bool:
        if not self.running:
            return True
        if entry.alone or any(x.alone for x in self.running.values()):
            return False
        taken = sum(x.job.memory or 0 for x in self.running.values())
        return self.memory is None or taken + (entry.job.memory or 0) <= self.memory

    def settle(self, key: str, reply: Reply) -> Iterator[Event]:
        """What came of a job that was taken, and what follows from it."""
        entry, status = self.running.pop(key), reply["status"]
        told = ("worker", "seconds", "error", "traceback", "fault", "errors", "further")
        event = Event(what="done", key=key, **{name: reply[name] for name in told if name in reply})  # type: ignore
        if status == "done":
            self._release(key)
            yield event
        elif status == "stopped":  # it goes on elsewhere, should there be time
            self._again(entry)
            yield dataclasses.replace(event, what="stopped")
        elif status == "held":
            self.left[key] = entry
            heapq.heappush(self._held, (self.clock() + HELD_SECONDS, key))
            yield dataclasses.replace(event, what="held")
        else:
            entry.failures += 1
            entry.failed_at = event.worker
            if event.fault == NoRoom.__name__ and self.one_memory:  # what did not fit beside the others may fit alone
                entry.set_alone()
            if status == "failed" and entry.failures < self.attempts:
                self._again(entry)
                yield dataclasses.replace(event, what="retried")
            else:
                yield from self._fail(entry.job, dataclasses.replace(event, what="failed"))

    def lost(self, key: str, worker: str, why: str) -> Iterator[Event]:
        """The worker of a job that was taken is no more."""
        entry = self.running.pop(key)
        entry.losses += 1
        entry.failed_at = worker
        event = Event(what="lost", key=key, worker=worker, error=why, fault="WorkerLost")
        if entry.losses < LOSSES:
            if entry.losses > 1 and self.one_memory:  # it may be what there is not enough memory for
                entry.set_alone()
            self._again(entry)
            yield event
        else:
            yield from self._fail(entry.job, dataclasses.replace(event, what="failed"))

    def progressed(self, key: str, done: float = math.inf) -> None:
        """A running job has done so much; if that is more than ever before, the workers that it lost until
        now are forgiven."""
        entry = self.running.get(key)
        if entry is not None and done > entry.done:
            entry.losses, entry.done = 0, done if done < math.inf else entry.done

    def seconds_until_next(self) -> float:
        """After which :meth:`take` looks again for a job that was held; infinite if none was."""
        return max(0.0, self._held[0][0] - self.clock()) if self._held else math.inf

    def _push(self, key: str) -> None:
        if key in self.left:
            heapq.heappush(self._ready, (self.left[key].rank, key))

    def _again(self, entry: _Entry) -> None:
        self.left[entry.job.key] = entry
        self._push(entry.job.key)

    def _release(self, key: str) -> None:
        for waiter in self.waiters.get(key, ()):
            if waiter in self.left:
                self.left[waiter].missing.discard(key)
                if not self.left[waiter].missing:
                    self._push(waiter)

    def _fail(self, job: Job, event: Event) -> Iterator[Event]:
        yield event
        if job.kind != "prepare":
            # Of a group some cells may stand, and a match says itself what it lacks.
            self._release(job.key)
            return
        for waiter in self.waiters.get(job.key, ()):
            entry = self.left.pop(waiter, None)
            if entry is not None:
                yield from self._fail(entry.job, dataclasses.replace(event, key=waiter, seconds=0.0))
