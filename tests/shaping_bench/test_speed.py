"""The benchmark's arithmetic, a small real measurement, and that the second process compiles nothing."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.speed import benchmark as speed
from shaping_bench.speed import exact, peers, play
from shaping_bench.speed.exact import Work
from shaping_bench.speed.operations import Compiled
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
    row = exact.row_of(Work("naive", "float32", 9, peer=other), 5, [1.0], [1.0])
    assert row["terms"] == "it plays fewer episodes"
    text = speed._exact_table([row]) + speed._about_peers(peers.PEAK, True)
    assert all(x in text for x in ("somebody (1, ", peers.TAKEN, peers.MACHINE, "50.00", "it plays fewer episodes"))
    assert peers.beside(SOMEBODY, 100.0, True)["terms"] == "like"
    assert peers.beside(other, 100.0, False)["terms"] == "it plays fewer episodes; another machine"
    assert "no ratios" in speed._about_peers(2 * peers.PEAK, False)


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


def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile()


def test_operations_of_a_compiled_program_are_those_counted_by_hand():
    w, x = np.ones((32, 8), np.float32), np.ones((100, 32), np.float32)

    def one(x):
        return jnp.tanh(x @ w) @ w.T  # 2 * 100 * 32 * 8, twice, and 100 * 8 hyperbolic tangents

    products, others = 2 * 2 * 100 * 32 * 8, 100 * 8
    program = Compiled.read(compiled(one, x).as_text())
    assert program.operations() == (products, others)
    # Loops whose number of turns the compiler knows, one inside the other, in one of unknown number.
    inner = lambda x: jax.lax.fori_loop(0, 5, lambda _, x: one(x), x)  # noqa: E731
    scanned = lambda x: jax.lax.scan(lambda x, _: (inner(x), None), x, None, length=3)[0]  # noqa: E731
    unknown = compiled(lambda x, n: jax.lax.fori_loop(0, n, lambda _, x: scanned(x), x), x, np.int32(4))
    assert Compiled.read(unknown.as_text()).operations(turns=4) == (4 * 15 * products, 4 * 15 * others)
    assert unknown.cost_analysis()["flops"] < 2 * products  # what XLA counts itself, and why this file exists
    # Products of one matrix each for many, derivatives, sums; of two branches the longer.
    ws = np.ones((7, 32, 8), np.float32)
    batched = compiled(jax.vmap(lambda w: x @ w), ws)
    assert Compiled.read(batched.as_text()).operations().products == 7 * 2 * 100 * 32 * 8
    slope = compiled(jax.grad(lambda w: jnp.sum(jnp.square(x @ w))), w)
    assert Compiled.read(slope.as_text()).operations().products == 2 * 2 * 100 * 32 * 8
    branches = compiled(lambda x, k: jax.lax.cond(k > 0, lambda: inner(x), lambda: x), x, np.int32(0))
    assert Compiled.read(branches.as_text()).operations().products == 5 * products
    # What is summed; the compiler adds partial sums, and zeros to make them equally long.
    total = Compiled.read(compiled(lambda x: jnp.sum(x, axis=0), x).as_text()).operations()
    assert (total.products, total.others) == (0, pytest.approx(100 * 32, rel=0.1))


def test_operations_of_ppo_are_those_of_its_network():
    game = "coin-game(preset=jaxmarl,episodes=1)"
    call = play._encounter(game, ["ppo(batch_size=64,minibatches=4,epochs=2,network='gru',hidden=16)"], 2, 1)
    call.run()  # one seed on each device, where there are two
    # Per environment step and seat: 36 numbers to 16 units, those to three gates, these from 16 units, five heads.
    forward = 2 * (36 * 16 + 2 * 16 * 48 + 16 * 5)
    # One pass to play, one to judge, three per epoch (forward; derivatives by weights and by what came in, which
    # the first layer does without); the value after the last of 16 steps is asked too.
    judged = 17 / 16 + 2 * 3
    by_hand = 2 * (forward * (1 + judged) - 2 * 2 * 36 * 16)
    assert call.operations().products / (2 * 64 * 16) == pytest.approx(by_hand, rel=0.03)


def test_a_row_says_how_much_of_the_matrix_rate_it_reaches():
    x = np.ones((256, 256), np.float32)
    program = compiled(lambda x: x @ x, x)
    call = play.Call(run=lambda: jax.block_until_ready(program(x)), text=program.as_text)
    work = play.PlayWork(name="x", unit="y", count=10, make=lambda: call)
    row = play.timed(work, 2, matrix_rate=1e12, alike=True)
    assert row["flop"] == row["flop_of_products"] == 2 * 256**3 / 10
    assert row["of_peak"] == pytest.approx(row["per_cpu_second"] * row["flop"] / 1e12)
