"""Where the time of a compiled program goes: CPU-seconds by kind of instruction, from XLA's own trace.

The runtime says when each instruction of a program began and ended, the program's text what it is and
which line of whose code it comes from. What the instructions do not account for is the runtime's own:
loops, and handing out work.
"""

import collections
import re
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shaping_bench.run import devices
from shaping_bench.speed.clock import clocked
from shaping_bench.speed.operations import FLOATS, Compiled, Instruction, Product, product

KINDS = {
    "products": "products of matrices",
    "random": "random bits",
    "gathers": "gather, scatter, sort",
    "moves": "copies: layouts, slices of loops",
    "game": "the game: steps, observations",
    "optimiser": "optimiser",
    "network": "networks, beside products",
    "rest": "objectives and other arithmetic",
    "pieces": "pieces of these handed to threads, products mostly",
    "between": "between instructions: loops, handing out",
}
"""Kinds of instruction; the first that fits counts."""

_MOVES = frozenset(
    {
        *("bitcast", "bitcast-convert", "broadcast", "concatenate", "constant", "copy", "get-tuple-element", "iota"),
        *("dynamic-slice", "dynamic-update-slice", "pad", "parameter", "reshape", "reverse", "slice", "transpose"),
        "tuple",
    }
)
# Indices into what is copied, and the choice of where it goes, make no arithmetic of it.
_INDICES = frozenset({"add", "and", "clamp", "compare", "convert", "multiply", "not", "or", "select", "subtract"})
_SHIFTS = frozenset({"shift-left", "shift-right-logical", "xor"})


class Event(NamedTuple):
    """That something ran: its name, and when it began and ended, nanoseconds."""

    name: str
    begin: float
    end: float


def own_times(events: Iterable[Event]) -> dict[str, list[float]]:
    """Nanoseconds of every event of one thread without those inside it, by name."""
    times: dict[str, list[float]] = collections.defaultdict(list)
    open_: list[list[Any]] = []  # name, end, own time so far

    def close(until: float) -> None:
        while open_ and open_[-1][1] <= until:
            name, _, own = open_.pop()
            times[name].append(own)

    for name, begin, end in sorted(events, key=lambda x: (x.begin, -x.end)):
        close(begin)
        if open_:
            open_[-1][2] -= end - begin
        open_.append([name, end, end - begin])
    close(float("inf"))
    return times


def handed(events: Iterable[Event]) -> float:
    """Nanoseconds that one thread of a pool worked at what no event has the name of: the pieces into which large
    instructions, products above all, are cut for threads, even for one."""
    total, since = 0.0, None
    for name, begin, end in sorted(events, key=lambda x: x.begin):
        if name.endswith("::StartRegion"):
            since = begin
        elif since is not None and not name.endswith("::Record"):
            total += max(0.0, begin - since)
            since = None if name.endswith("::StopRegion") else max(since, end)
    return total


class Sources:
    """Which file each instruction of a program's text comes from: the innermost of its frames."""

    def __init__(self, text: str) -> None:
        def table(title: str) -> list[tuple[str, str]]:
            _, _, after = text.partition(f"\n{title}\n")
            return re.findall(r"^(\d+) (.*)$", after.partition("\n\n")[0], flags=re.MULTILINE)

        files = {number: name.strip('"') for number, name in table("FileNames")}
        places = {number: re.search(r"file_name_id=(\d+)", what) for number, what in table("FileLocations")}
        frames = {number: re.search(r"file_location_id=(\d+)", what) for number, what in table("StackFrames")}
        self._files = {
            number: files.get(place[1], "")
            for number, frame in frames.items()
            if frame and (place := places.get(frame[1]))
        }

    def of(self, x: Instruction) -> str:
        frame = re.search(r"stack_frame_id=(\d+)", x.rest)
        return self._files.get(frame[1], "") if frame else ""


def kind(x: Instruction, compiled: Compiled, sources: Sources) -> str:
    """Which of :data:`KINDS` an instruction is of, what it calls included."""
    inside = list(_all(x, compiled))
    opcodes = {y.opcode for y in inside}
    real = any(y.shape[0] in FLOATS and y.opcode not in _MOVES for y in inside)
    path = "/".join(("", *Path(sources.of(x)).parts))
    if opcodes & {"dot", "convolution"}:
        return "products"
    if opcodes >= {"xor", "shift-left"} or (opcodes & _SHIFTS and not real):
        return "random"
    if opcodes & {"gather", "scatter", "sort"}:
        return "gathers"
    if "/optax/" in path:
        return "optimiser"
    if opcodes - {"fusion", "call"} <= _MOVES | (set() if real else _INDICES):
        return "moves"
    if "/games/" in path:
        return "game"
    if path.endswith(("/networks.py", "/policies.py")) or "/flax/" in path:
        return "network"
    return "rest"


def _products(x: Instruction, beside: Mapping[str, Instruction], compiled: Compiled) -> Iterable[Product]:
    """Those that an instruction does, fused ones included."""
    if x.opcode == "dot":
        yield product(x, beside)
    for name in x.called if x.opcode == "fusion" else ():
        within = compiled.computations.get(name, {})
        for y in within.values():
            yield from _products(y, within, compiled)


def _all(x: Instruction, compiled: Compiled) -> Iterable[Instruction]:
    yield x
    for name in x.called:
        for y in compiled.computations.get(name, {}).values():
            yield from _all(y, compiled)


class Profile(NamedTuple):
    """Where the time of one call went.

    Attributes:
      seconds: CPU-seconds by kind; they add up to those of the call.
      longest: instructions that take longest: name, kind, file, and CPU-seconds of each.
      products: products of matrices, and how often each was done.
    """

    seconds: Mapping[str, float]
    longest: Sequence[tuple[str, str, str, float]]
    products: Mapping[Product, int]


def profile(call: Callable[[], Any], text: Callable[[], str], runs: int = 3, longest: int = 12) -> Profile:
    """Traces a call of one compiled program.

    An instruction counts by the median of its turns, so that a busy machine does not distort it. Where all of
    them take longer than the call does without a trace, each counts for as much less.

    Args:
      call: runs the program to its end.
      text: of the program, once it has run.
      runs: calls without a trace, whose least CPU-seconds are the whole.
      longest: how many instructions are named.

    Raises:
      RuntimeError: the call runs no instruction of the program.
    """
    whole = min(clocked(call, runs)[1])
    compiled, sources = Compiled.read(text()), Sources(text())
    known = {name: x for part in compiled.computations.values() for name, x in part.items()}
    beside = {name: part for part in compiled.computations.values() for name in part}
    times: dict[str, list[float]] = collections.defaultdict(list)
    pieces = 0.0
    for thread in _traced(call):
        pieces += 1e-9 * handed(thread)
        for name, own in own_times(thread).items():
            if name in known and known[name].opcode not in ("while", "conditional"):
                times[name].extend(own)
    if not times:
        raise RuntimeError("the call runs no instruction of the program whose text is given")
    took = {name: 1e-9 * statistics.median(own) * len(own) for name, own in times.items()}
    # Being traced takes time itself, of small instructions as much as they do.
    slowed = max(1.0, (pieces + sum(took.values())) / whole)
    took = {name: x / slowed for name, x in took.items()}
    kinds = {name: kind(known[name], compiled, sources) for name in took}
    seconds = dict.fromkeys(KINDS, 0.0)
    for name, x in took.items():
        seconds[kinds[name]] += x
    seconds["pieces"] = pieces / slowed
    seconds["between"] = max(0.0, whole - sum(seconds.values()))
    first = sorted(took, key=lambda name: -took[name])[:longest]
    products: collections.Counter[Product] = collections.Counter()
    for name, own in times.items():
        for what in _products(known[name], beside[name], compiled):
            products[what] += len(own)
    return Profile(
        seconds,
        [(name, kinds[name], "/".join(Path(sources.of(known[name])).parts[-2:]), took[name]) for name in first],
        products,
    )


def alone(products: Mapping[Product, int], least: float = 0.02) -> float:
    """Operations per CPU-second of these products where nothing else is done: what matrices of these sizes can give.

    Each is done again and again by one program, as loops of programs do it; of the ways to compile it that are in use
    here, the faster one counts.

    Args:
      products: and how often each is done.
      least: seconds for which each is timed.
    """
    import jax
    from jax import lax
    from jax import numpy as jnp

    def repeated(what: Product, times: int, networks: bool) -> Callable[[], Any]:
        left, right = (jnp.ones(sizes, jnp.float32) for sizes in what.sizes)
        corner = (0,) * left.ndim

        def step(_: Any, carry: Any) -> Any:
            left, done = carry
            # One number of the next product comes of this one, so that none is left out.
            left = left.at[corner].set(done.ravel()[0])
            return left, lax.dot_general(left, right, (what.contracted, what.batch))

        def loop(left: Any) -> Any:
            return lax.fori_loop(0, times, step, step(0, (left, jnp.zeros(1))))

        program = jax.jit(loop).lower(left).compile(devices.compiler_options(networks=networks))
        return lambda: jax.block_until_ready(program(left))

    def seconds(what: Product) -> float:
        found = []
        for networks in (False, True):
            once = min(clocked(repeated(what, 1, networks), 3)[1])
            times = 1 + int(least / once)
            found.append(min(clocked(repeated(what, times, networks), 3)[1]) / (times + 1))
        return min(found)

    total = sum(count * what.operations for what, count in products.items())
    return total / sum(count * seconds(what) for what, count in products.items())


def _traced(call: Callable[[], Any]) -> list[list[Event]]:
    """What the threads of the runtime did during a call."""
    import jax

    options = jax.profiler.ProfileOptions()
    options.python_tracer_level, options.host_tracer_level = 0, 3
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            call()
        (path,) = Path(folder).rglob("*.xplane.pb")
        planes = jax.profiler.ProfileData.from_file(str(path)).planes
        return [
            [Event(x.name, x.start_ns, x.start_ns + x.duration_ns) for x in line.events]
            for plane in planes
            for line in plane.lines
            if "XLA" in line.name
        ]
