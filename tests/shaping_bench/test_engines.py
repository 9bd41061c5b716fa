"""Engines call a function with every job, side by side, and keep nothing."""

import gc
import threading
import weakref

import pytest

from shaping_bench.engines import ENGINES, Local


class Result:
    """Something that one can see the end of."""


def test_every_job_comes_back_with_what_it_yielded():
    def square(x):
        if x == 3:
            raise ValueError("three")
        return x * x

    outcomes = dict(Local(2).each(square, range(6)))
    assert isinstance(outcomes.pop(3), ValueError)
    assert outcomes == {0: 0, 1: 1, 2: 4, 4: 16, 5: 25}
    assert list(ENGINES["local"]().each(square, [])) == []


def test_jobs_run_side_by_side():
    together = threading.Barrier(2)
    assert len(dict(Local(2).each(lambda x: together.wait(timeout=10), [1, 2]))) == 2


def test_few_results_are_held_while_the_caller_stores_them():
    alive = weakref.WeakSet()
    most = []

    def job(x):
        result = Result()
        alive.add(result)
        return result

    for _, result in Local(2).each(job, range(40)):
        del result
        gc.collect()
        most.append(len(alive))
    assert max(most) <= 4  # two per worker
    assert len(alive) == 0


def test_what_has_not_begun_is_dropped_when_the_caller_stops():
    begun = []
    outcomes = Local(1).each(begun.append, range(100))
    next(outcomes)
    with pytest.raises(KeyboardInterrupt):
        outcomes.throw(KeyboardInterrupt())
    assert len(begun) <= 3
