"""The benchmark's arithmetic, a small real measurement, and that the second process compiles nothing."""

import dataclasses
import json

import pytest

from shaping_bench.speed import benchmark as speed
from shaping_bench.speed import exact, peers, play
from shaping_bench.speed.exact import Work
from shaping_bench.speed.peers import Peer

SOMEBODY = Peer(name="somebody", version="1", work="the same", unit="updates", per_cpu_second=50.0)


def test_rates_are_medians_and_judged_against_the_target():
    work = Work("naive", "float32", 1000, target=1e5, peer=SOMEBODY)
    row = exact.row_of(work, 200, walls=[1.0, 2.0, 9.0], cpus=[4.0, 2.0, 1.0])
    assert row["seed_updates"] == 200_000
    assert (row["wall_seconds"], row["cpu_seconds"]) == (2.0, 2.0)
    assert (row["per_wall_second"], row["per_cpu_second"]) == (1e5, 1e5)
    assert (row["times_peer"], row["cores_used"]) == (2000.0, 1.0)
    assert row["met"] is True
    assert exact.row_of(work, 200, walls=[1.0], cpus=[2.1])["met"] is False


def test_without_a_target_nothing_is_judged():
    row = exact.row_of(Work("cgd", "float64", 10), 5, walls=[1.0], cpus=[1.0])
    assert row["met"] is None
    assert row["times_peer"] is None


def test_a_ratio_needs_the_same_work_and_a_machine_of_the_same_kind():
    assert peers.beside(SOMEBODY, 100.0, True)["times_peer"] == 2.0
    assert peers.beside(SOMEBODY, 100.0, False)["times_peer"] is None
    other = dataclasses.replace(SOMEBODY, differs="it plays fewer episodes")
    assert peers.beside(other, 100.0, True)["times_peer"] is None
    assert peers.like_terms(1.1 * peers.PEAK, "cpu")
    assert not peers.like_terms(0.5 * peers.PEAK, "cpu")  # a busy machine, or an older one
    assert not peers.like_terms(peers.PEAK, "gpu")
    row = {**exact.row_of(Work("naive", "float32", 9, peer=other), 5, [1.0], [1.0]), "of_peak": None}
    text = speed._exact_table([row]) + speed._about_peers([row], peers.PEAK, True)
    assert "somebody (50.00)" in text
    assert "No ratio to somebody, the same: it plays fewer episodes" in text


def test_a_small_measurement_is_plausible_json_and_a_table():
    result = speed.measure(works=[Work("naive", "float32", 64)], learners=[], runs=2, plays=False)
    (row,) = json.loads(json.dumps(result, allow_nan=False))["throughput"]
    assert row["runs"] == 2
    assert 1e3 < row["per_wall_second"] < 1e10
    assert result["device"]["count"] >= 1
    assert result["peak_memory_bytes"] > 10 * 2**20  # no JAX process is smaller
    text = speed.to_text(result)
    assert "naive float32" in text
    assert "Peak memory" in text


def test_the_second_process_finds_the_first_ones_programs():
    row = exact.startup("naive")
    assert 0 < row["warm"]["compile_seconds"] < row["cold"]["compile_seconds"]
    assert row["warm"]["run_seconds"] < row["warm"]["first_result_seconds"]


def test_bad_number_of_runs_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        speed.main(["--runs", "0"])
    assert "--runs is 0; allowed" in capsys.readouterr().err


def test_works_are_named_once_and_their_peers_are_on_the_list():
    works = play.works()
    assert len({work.label for work in exact.WORKS}) == len(exact.WORKS)
    assert len({work.name for work in works}) == len(works)
    assert {work.learner for work in exact.WORKS} == set(exact.STARTUP_LEARNERS)
    shown = {work.peer for work in (*exact.WORKS, *works) if work.peer} - {peers.LOQA_COIN_FEWER}  # as another's row
    assert shown | set(peers.ELSEWHERE) == set(peers.PEERS)


def test_what_is_known_of_the_arithmetic_is_held_against_the_matrix_product():
    work = play.PlayWork(name="x", unit="y", count=10, make=lambda: lambda: sum(range(200_000)), flop=1e6)
    row = play.timed(work, 2, matrix_rate=1e12, alike=True)
    assert row["of_peak"] == pytest.approx(row["per_cpu_second"] / 1e6)
