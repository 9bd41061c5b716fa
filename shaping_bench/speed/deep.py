"""Where the time of learners that play goes: ``python -m shaping_bench.speed.deep [PART OF A NAME ...]``.

Profiles the rows of the speed benchmark (those whose names hold one of the parts; all by default), one process each,
and counts what compiling them takes; with ``--seeds`` it times :data:`SEEDED` at growing numbers of seeds instead.
On stdout one JSON object, on stderr the same as tables; ``--json FILE`` replaces in FILE what was measured anew::

    machine     {kind, cores, matrix_rate, date, versions} of the rows; seeds_machine that of the seeds
    rows        {name: {unit, count, cpu_seconds, flop, flop_of_products, products_alone, seconds, longest, compile}};
                products_alone is the rate of its products where nothing else is done, seconds are by kind
                (profile.KINDS), longest {name, kind, file, seconds} of instructions, compile {cold, warm} CPU-seconds
    seeds       {name: [{seeds, per_cpu_second, per_wall_second, bytes_per_seed}]}
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shaping_bench import start
from shaping_bench.speed.profile import KINDS

SEEDS = (1, 2, 4, 8, 16)


class Seeded(NamedTuple):
    """What is timed at growing numbers of seeds.

    Attributes:
      game, learner: of self-play.
      updates: per call.
      unit: what is counted.
      units: of one update of one seed.
    """

    game: str
    learner: str
    updates: int
    unit: str
    units: float


SEEDED = {
    "PPO + GRU, Coin Game, 1000 x 16": Seeded(
        game="coin-game(preset=jaxmarl,episodes=1)",
        learner="ppo(batch_size=1000,network='gru',hidden=16)",
        updates=2,
        unit="env steps",
        units=16_000,
    ),
    "PPO + GRU, Coin Game, 16 x 16": Seeded(
        game="coin-game(preset=jaxmarl,episodes=1)",
        learner="ppo(batch_size=16,minibatches=4,network='gru',hidden=16)",
        updates=100,
        unit="env steps",
        units=256,
    ),
    "LOLA-DiCE, IPD, 128 x 150": Seeded(
        game="ipd", learner="lola-dice(batch_size=128)", updates=20, unit="updates", units=1
    ),
    "LOQA, IPD, 2048 x 50": Seeded(game="ipd(horizon=50)", learner="loqa", updates=3, unit="iterations", units=2),
    "LOQA, Coin Game, 512 x 50": Seeded(game="coin-game", learner="loqa", updates=1, unit="iterations", units=2),
}


def machine() -> dict[str, Any]:
    from shaping_bench.run import devices
    from shaping_bench.speed import peers

    return {
        "kind": devices.describe()["kind"],
        "cores": devices.usable_cores(),
        "matrix_rate": peers.matrix_rate(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": devices.versions(),
    }


def row(name: str) -> dict[str, Any]:
    """Profile and compile times of one row of the benchmark, in a process that has compiled nothing yet."""
    from shaping_bench.speed import play, profile
    from shaping_bench.speed.clock import clocked

    (work,) = (x for x in play.works() if x.name == name)
    compile_seconds = {}
    for phase in ("cold", "warm"):
        _forget()
        clock = time.process_time()
        call = work.make()
        made = time.process_time() - clock
        if work.warm:  # what was not compiled yet is compiled in the first run
            (first, second) = clocked(call.run, 2, warm=False)[1]
            made += max(0.0, first - second)
        compile_seconds[phase] = made
    if not work.warm:
        call.run()
    found = profile.profile(call.run, call.text, runs=work.runs)
    operations = call.operations()
    return {
        "unit": work.unit,
        "count": work.count,
        "cpu_seconds": sum(found.seconds.values()),
        "flop": operations.total,
        "flop_of_products": operations.products,
        "products_alone": profile.alone(found.products) if found.products else None,
        "seconds": dict(found.seconds),
        "longest": [list(x) for x in found.longest],
        "compile": compile_seconds,
    }


def _forget() -> None:
    """Compiled programs are looked up anew; those on disk stay."""
    import jax

    from shaping_bench.run import programs

    programs.forget()
    jax.clear_caches()


def seeds_table(name: str) -> list[dict[str, Any]]:
    """Throughput and memory of one of :data:`SEEDED` by the number of seeds."""
    from shaping_bench.run import programs
    from shaping_bench.run.encounter import run_encounter
    from shaping_bench.spec.registry import make_game, make_learner
    from shaping_bench.speed.clock import clocked

    what = SEEDED[name]
    game = make_game(what.game)
    rules = [make_learner(what.learner, game=game.name).value] * game.value.n_players
    rows = []
    for seeds in SEEDS:

        def run(seeds: int = seeds) -> Any:
            return run_encounter(game.value, rules, num_seeds=seeds, num_updates=what.updates, episodes=1)

        walls, cpus = clocked(run, 3)
        count = seeds * what.updates * what.units
        memory = programs.kept()[-1].memory
        rows.append(
            {
                "seeds": seeds,
                "per_cpu_second": count / min(cpus),
                "per_wall_second": count / min(walls),
                "bytes_per_seed": memory / seeds,
            }
        )
    return rows


def to_text(result: Mapping[str, Any]) -> str:
    """The result as tables for people."""
    from tabulate import tabulate

    parts = []
    for name, x in result.get("rows", {}).items():
        rate = result["machine"]["matrix_rate"]
        total, products = x["cpu_seconds"], x["seconds"]["products"] + x["seconds"]["pieces"]
        lines = [[KINDS[kind], f"{s:.3f}", f"{100 * s / total:.0f} %"] for kind, s in x["seconds"].items()]
        lines += [["  " + " ".join(x[:3]), f"{x[3]:.3f}", f"{100 * x[3] / total:.0f} %"] for x in x["longest"]]
        parts.append(
            f"{name}: {x['flop'] / x['count']:.3g} flop per {x['unit']}, {100 * x['flop'] / total / rate:.0f} % of the "
            f"matrix rate; its products {100 * x['flop_of_products'] / max(products, 1e-9) / rate:.0f} %, "
            f"and {100 * (x['products_alone'] or 0) / rate:.0f} % where nothing else is done; "
            f"compiles in {x['compile']['cold']:.1f} CPU-s, from the cache {x['compile']['warm']:.2f}\n"
            + tabulate(lines, ["", "CPU-s", ""], disable_numparse=True)
        )
    for name, rows in result.get("seeds", {}).items():
        lines = [
            [str(x["seeds"]), f"{x['per_cpu_second']:.4g}", f"{x['per_wall_second']:.4g}", _mebibytes(x)] for x in rows
        ]
        head = ["seeds", f"{SEEDED[name].unit} / CPU-s", "/ s", "MiB per seed"]
        parts.append(f"{name}\n" + tabulate(lines, head, disable_numparse=True))
    return "\n\n".join(parts)


def _mebibytes(x: Mapping[str, Any]) -> str:
    return f"{x['bytes_per_seed'] / 2**20:.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures: JSON on stdout, tables on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m shaping_bench.speed.deep", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("names", nargs="*", metavar="PART", help="of the names of rows (default: all)")
    parser.add_argument("--seeds", action="store_true", help="throughput and memory by the number of seeds instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="replace what was measured in this file")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    from shaping_bench.run import devices

    if options.one is not None:
        devices.configure()
        what = seeds_table(options.one) if options.seeds else row(options.one)
        print(json.dumps({"machine": machine(), "found": what}))
        return 0
    from shaping_bench.speed import play

    devices.configure()
    known = list(SEEDED) if options.seeds else [work.name for work in play.works()]
    names = [name for name in known if not options.names or any(part in name for part in options.names)]
    if not names:
        parser.error(f"no name holds any of {', '.join(options.names)}; allowed: parts of {'; '.join(known)}")
    result: dict[str, Any] = {}
    if options.json and options.json.exists():
        result = json.loads(options.json.read_text())
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        found = _in_a_process(name, options.seeds)
        part, where = ("seeds", "seeds_machine") if options.seeds else ("rows", "machine")
        result[where] = found["machine"]
        result.setdefault(part, {})[name] = found["found"]
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    print(f"\n{to_text(result)}", file=sys.stderr)
    return 0


def _in_a_process(name: str, seeds: bool) -> Any:
    """One row, in a process of its own whose cache of compiled programs is empty.

    Profiles are of one thread, since a trace does not say whose the pieces are that threads work at.
    """
    import tempfile

    with tempfile.TemporaryDirectory() as cache:
        told = {"XDG_CACHE_HOME": cache} if seeds else {"XDG_CACHE_HOME": cache, "PJRT_NPROC": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "shaping_bench.speed.deep", "--one", name, *(["--seeds"] if seeds else [])],
            env={**(start.environment(os.environ) or os.environ), **told},
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    return json.loads(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
