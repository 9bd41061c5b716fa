"""What the harness takes for many cells: the benchmark's arithmetic, memory that stays, resamples that repeat."""

import gc
import itertools
import tracemalloc

import numpy as np
import pytest
import yaml

from shaping_bench.analysis import stats
from shaping_bench.run import jobs
from shaping_bench.run.runner import run_suite
from shaping_bench.spec.suite import expand, validate
from shaping_bench.speed import scale
from shaping_bench.store.store import Store


def test_a_small_measurement_stores_its_suite_and_is_lines(tmp_path):
    suite = {**scale.suite_of(4), "games": ["ipd"]}
    (tmp_path / "scale.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    result = {name: stage(tmp_path) for name, stage in scale.STAGES.items()}
    cells = result["plan"].pop("cells")
    assert cells == len(Store(tmp_path / "out").finished())
    assert 0.0 < result["run"]["own_ms_per_cell"] < 1000.0 * result["run"]["cpu_seconds"]
    result |= {"again": result["publish"], "store": scale.stored(tmp_path / "out" / "cells", cells)}
    assert result["store"]["inodes_per_cell"] == 4 + 1 / cells  # the folder of all cells is one more
    result |= {"cells": cells, "cores": 1, "device": {"kind": "some"}}
    result |= {"limits": {"plan.seconds": 1e9, "publish.page_bytes": 1.0}}
    result["met"] = scale.judged(result)
    text = scale.to_text(result)
    assert "plan.seconds" in text
    assert result["met"] == {"plan.seconds": True, "publish.page_bytes": False}
    assert "MISSED (limit 1)" in text


def test_limits_grow_with_the_suite_and_do_not_shrink_with_it():
    result = {"cells": 40_000, "plan": {"seconds": 50.0}, "limits": {"plan.seconds": 30.0}}
    assert scale.judged(result) == {"plan.seconds": True}
    assert scale.judged({**result, "cells": 20_000}) == {"plan.seconds": False}
    assert scale.judged({**result, "cells": 10}) == {"plan.seconds": False}


def test_memory_does_not_grow_with_the_cells_that_are_stored(tmp_path, monkeypatch):
    learners = [{"naive": {"lr": [0.1 + 0.01 * k for k in range(24)]}}]
    suite = expand(
        validate({"name": "many", "games": ["ipd"], "learners": learners, "seeds": 2, "steps": 2, "record_every": 1})
    )
    assert len(suite.encounters) == 300
    held = []
    measured = jobs._measured_encounter

    def traced(*arguments):
        if len(held) % 20 == 0:
            gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
        return measured(*arguments)

    monkeypatch.setattr(jobs, "_measured_encounter", traced)
    tracemalloc.start()
    try:
        assert run_suite(suite, Store(tmp_path)) == []
    finally:
        tracemalloc.stop()
    assert len(held) == 300
    # One kept cell would be some ten thousand bytes. The least of a hundred, since up to sixteen are being written.
    assert min(held[-100:]) - min(held[100:200]) < 100 * 2000


@pytest.mark.parametrize("sizes", [(2,), (2, 3), (5,)])
def test_resamples_that_repeat_are_valued_once_and_are_the_same(sizes, monkeypatch):
    rng = np.random.default_rng(0)
    runs = [rng.normal(size=n) for n in sizes for _ in range(2)]
    units = stats.Units(
        of=tuple(np.arange(len(x)) for x in runs),
        pools=tuple(("seeds", len(x)) for x in runs),
        sizes=tuple(map(len, runs)),
    )
    called = []

    def statistic(*arguments):
        value = stats.iqm(*arguments)
        called.append(len(value))
        return value

    values = {}
    for name, outcomes in (("once", stats._outcomes), ("each", lambda sizes: np.inf)):
        monkeypatch.setattr(stats, "_outcomes", outcomes)
        called.clear()
        values[name] = stats.bootstrap(statistic, runs, units=[units], reps=1000)
        counts = {name: sum(called)}
    np.testing.assert_allclose(values["once"], values["each"], rtol=1e-13)
    assert counts == {"each": 1000}
    monkeypatch.undo()
    called.clear()
    stats.bootstrap(statistic, runs, units=[units], reps=1000)
    assert sum(called) <= stats._outcomes(sizes)


def test_point_estimates_of_one_task_are_those_of_several():
    rng = np.random.default_rng(1)
    for size, lost in itertools.product(range(1, 12), (0.0, 0.3)):
        scores = rng.normal(size=(size, 1))
        scores[rng.random(size) < lost] = np.nan
        finite = stats.strata(scores)
        one = stats.aggregate(scores)
        assert one.n == sum(map(len, finite))
        for name, statistic in stats.STATISTICS.items():
            np.testing.assert_equal(getattr(one, name), float(statistic(finite)))
        np.testing.assert_equal(one.std, stats.std(scores))
