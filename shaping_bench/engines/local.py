"""The local engine: threads of this process, one per core that it may use."""

import concurrent.futures
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from shaping_bench.run import devices

Job = TypeVar("Job")
Result = TypeVar("Result")


class Local:
    """Runs jobs side by side in threads: compilation is most of the work, and uses one core each.

    Args:
      workers: threads; as many as there are usable cores by default.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or devices.usable_cores()

    def each(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[Job, Result | Exception]]:
        """See :class:`shaping_bench.engines.Engine`. At most two jobs per worker are begun and not
        yet taken, so that results do not pile up in memory while the caller stores them."""
        waiting = iter(jobs)
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            running: dict[concurrent.futures.Future[Result], Job] = {
                pool.submit(function, job): job for job in itertools.islice(waiting, 2 * self.workers)
            }
            try:
                while running:
                    concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                    future = next(x for x in running if x.done())  # the first of the jobs, where several are
                    job, outcome = running.pop(future), [_outcome(future)]
                    del future
                    yield job, outcome.pop()  # nothing here holds it then
                    for following in itertools.islice(waiting, 1):
                        running[pool.submit(function, following)] = following
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _outcome(future: concurrent.futures.Future[Any]) -> Any:
    try:
        return future.result()
    except Exception as error:  # one job's failure must not lose the others' results
        return error
