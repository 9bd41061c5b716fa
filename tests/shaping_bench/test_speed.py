"""The benchmark's arithmetic, a small real measurement, and that the second process compiles nothing."""

import json

import pytest

from shaping_bench.speed import benchmark as speed
from shaping_bench.speed.benchmark import Peer, Work


def test_rates_are_medians_and_judged_against_target_and_peer():
    work = Work("naive", "float32", 1000, wall_target=1e5, peer=Peer("somebody", 50.0), peer_target=1000)
    row = speed.row_of(work, 200, walls=[1.0, 2.0, 9.0], cpus=[4.0, 2.0, 1.0])
    assert row["seed_updates"] == 200_000
    assert (row["wall_seconds"], row["cpu_seconds"]) == (2.0, 2.0)
    assert (row["per_wall_second"], row["per_cpu_second"]) == (1e5, 1e5)
    assert (row["times_peer"], row["cores_used"]) == (2000.0, 1.0)
    assert row["met"] is True
    assert speed.row_of(work, 200, walls=[2.1], cpus=[2.0])["met"] is False  # too slow by the wall clock
    assert speed.row_of(work, 200, walls=[2.0], cpus=[4.1])["met"] is False  # too few times the peer's figure


def test_without_a_target_nothing_is_judged():
    row = speed.row_of(Work("cgd", "float64", 10), 5, walls=[1.0], cpus=[1.0])
    assert row["met"] is None
    assert row["times_peer"] is None


def test_a_small_measurement_is_plausible_json_and_a_table():
    result = speed.measure(works=[Work("naive", "float32", 64)], learners=[], runs=2, play=False)
    (row,) = json.loads(json.dumps(result, allow_nan=False))["throughput"]
    assert row["runs"] == 2
    assert 1e3 < row["per_wall_second"] < 1e10
    assert result["device"]["count"] >= 1
    assert result["peak_memory_bytes"] > 10 * 2**20  # no JAX process is smaller
    text = speed.to_text(result)
    assert "naive float32" in text
    assert "Peak memory" in text


def test_the_second_process_finds_the_first_ones_programs():
    row = speed.startup("naive")
    assert 0 < row["warm"]["compile_seconds"] < row["cold"]["compile_seconds"]
    assert row["warm"]["run_seconds"] < row["warm"]["first_result_seconds"]


def test_bad_number_of_runs_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        speed.main(["--runs", "0"])
    assert "--runs is 0; allowed" in capsys.readouterr().err


def test_works_cover_every_target():
    assert len({work.label for work in speed.WORKS}) == len(speed.WORKS)
    assert {work.learner for work in speed.WORKS} == set(speed.STARTUP_LEARNERS)
