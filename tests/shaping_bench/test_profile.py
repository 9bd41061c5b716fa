"""Where the time of a program goes: own times of nested events, kinds of instructions, and a real trace."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import shaping_bench
from shaping_bench.algorithms.parts.networks import Network
from shaping_bench.speed import deep, profile
from shaping_bench.speed.operations import Compiled, Product
from shaping_bench.speed.profile import Event, handed, own_times

ROOT = Path(shaping_bench.__file__).parent.parent


def test_own_times_leave_out_what_ran_inside():
    events = [Event("loop", 0, 100), Event("dot", 10, 40), Event("dot", 50, 60), Event("inner", 52, 55)]
    assert own_times([*events, Event("after", 100, 130)]) == {
        "loop": [60],
        "dot": [30, 7],
        "inner": [3],
        "after": [30],
    }


def test_what_threads_work_at_between_events_of_their_regions():
    start, record, stop = (Event(f"ThreadpoolListener::{x}", 0, 0) for x in ("StartRegion", "Record", "StopRegion"))
    events = [start, Event("dot", 10, 40), Event("inner", 20, 25), record._replace(begin=45, end=45)]
    assert handed([*events, stop._replace(begin=100, end=100), Event("outside", 150, 160)]) == 10 + 60
    assert handed([Event("dot", 10, 40), Event("dot", 50, 60)]) == 0


def kinds(function, *arguments):
    """Of the instructions that a compiled program runs itself."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    program, sources = Compiled.read(text), profile.Sources(text)
    entry = program.computations[program.entry].values()
    return {profile.kind(x, program, sources) for x in entry if x.opcode not in ("parameter", "constant", "tuple")}


def test_kinds_of_instructions():
    x, w = np.ones((64, 32), np.float32), np.ones((32, 32), np.float32)
    assert kinds(lambda x: x @ w, x) - {"moves"} == {"products"}
    assert kinds(lambda x: jnp.exp(x) + 1, x) - {"moves"} == {"rest"}
    assert kinds(lambda x: jnp.concatenate([x.T, x.T]), x) == {"moves"}
    assert kinds(lambda x: jnp.sort(x), x) - {"moves"} == {"gathers"}
    assert "random" in kinds(lambda seed: jax.random.bits(jax.random.key(seed), (1000,)), np.uint32(0))
    # A network's own arithmetic is told by the file that it stands in.
    network = Network(heads=(("q", 4),), dense=(16,), activation="tanh")
    params = network.init(jax.random.key(0), (), x[0])
    found = kinds(lambda x: network.apply(params, x, method="unroll")["q"], x[None])
    assert found >= {"products", "network"}
    assert not found & {"game", "optimiser", "gathers", "random"}


def test_a_trace_names_what_ran_and_a_call_of_something_else_is_an_error():
    x = np.ones((300, 300), np.float32)
    program = jax.jit(lambda x: jax.lax.fori_loop(0, 20, lambda _, x: jnp.tanh(x @ x), x)).lower(x).compile()

    def run():
        return jax.block_until_ready(program(x))

    run()
    seconds, longest, products = profile.profile(run, program.as_text)
    assert set(seconds) == set(profile.KINDS)
    assert seconds["products"] > 0
    assert {"products", "rest"} <= {kind for _, kind, _, _ in longest}
    assert products == {Product(((300, 300), (300, 300)), ((1,), (0,)), ((), ())): 20}
    assert 1e8 < profile.alone(products) < 1e13
    assert seconds["gathers"] == seconds["game"] == 0
    with pytest.raises(RuntimeError, match="no instruction"):
        profile.profile(lambda: None, program.as_text)


def test_tables_of_what_was_found_and_bad_names(capsys):
    seconds = dict.fromkeys(profile.KINDS, 0.0) | {"products": 3.0, "moves": 1.0}
    row = {"unit": "updates", "count": 2, "cpu_seconds": 4.0, "flop": 4e9, "flop_of_products": 3e9, "seconds": seconds}
    row |= {
        "products_alone": 2e9,
        "longest": [["dot.1", "products", "a/b.py", 2.0]],
        "compile": {"cold": 9.0, "warm": 0.5},
    }
    seeds = [{"seeds": 2, "per_cpu_second": 5.0, "per_wall_second": 9.0, "bytes_per_seed": 2.0**20}]
    name = next(iter(deep.SEEDED))
    text = deep.to_text({"machine": {"matrix_rate": 1e10}, "rows": {"x": row}, "seeds": {name: seeds}})
    assert "2e+09 flop per updates, 10 % of the matrix rate; its products 10 %, and 20 % where nothing else is" in text
    assert "compiles in 9.0" in text
    assert "75 %" in text
    assert "MiB per seed" in text
    with pytest.raises(SystemExit, match="2"):
        deep.main(["nothing of this name"])
    assert "allowed: parts of" in capsys.readouterr().err
