"""What a compiled program does: floating-point operations, counted from the compiler's own text.

XLA's cost analysis counts the body of a loop once, however often it runs; here it counts as often as
the compiler knows it does. Operations of products of matrices are kept apart from all others,
because a machine does the former several times as fast.
"""

import functools
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

_INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<type>\(.*?\)|\S+) (?P<opcode>[\w-]+)\((?P<rest>.*)$"
)
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$")
_SHAPE = re.compile(r"(?P<type>[a-z]\w*)\[(?P<sizes>[\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.-]+)")
_BRANCHES = re.compile(r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.-]+))")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_AXES = re.compile(r"(lhs|rhs)_(contracting|batch)_dims=\{([\d,]*)\}")

_DEVICES = re.compile(r"(?:replica_count|num_partitions)=(\d+)")

FLOATS = frozenset({"f16", "bf16", "f32", "f64"})

ARITHMETIC = frozenset(
    {
        *("add", "subtract", "multiply", "divide", "maximum", "minimum", "negate", "abs", "sign", "clamp", "remainder"),
        *("sqrt", "rsqrt", "cbrt", "power", "exponential", "exponential-minus-one", "log", "log-plus-one", "logistic"),
        *("tanh", "sine", "cosine", "tan", "atan2", "erf", "floor", "ceil", "round-nearest-even", "round-nearest-afz"),
    }
)
"""One operation per number of the result, whatever the function."""


class Operations(NamedTuple):
    """Floating-point operations.

    Attributes:
      products: in products of matrices, a multiplication and an addition each.
      others: in everything else, one per number that comes of it, or that is summed.
    """

    products: float = 0.0
    others: float = 0.0

    @property
    def total(self) -> float:
        return self.products + self.others

    def __add__(self, more: "Operations") -> "Operations":  # type: ignore[override]
        return Operations(self.products + more.products, self.others + more.others)

    def __mul__(self, times: float) -> "Operations":  # type: ignore[override]
        return Operations(self.products * times, self.others * times)


class Product(NamedTuple):
    """A product of two arrays, as ``jax.lax.dot_general`` takes it.

    Attributes:
      sizes: of the two.
      contracted: axes of each that are summed over.
      batch: axes of each along which products stand side by side.
    """

    sizes: tuple[tuple[int, ...], tuple[int, ...]]
    contracted: tuple[tuple[int, ...], tuple[int, ...]]
    batch: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def operations(self) -> float:
        """A multiplication and an addition per term."""
        (left, right), summed, beside = self.sizes, self.contracted[1], self.batch[1]
        return 2.0 * math.prod(left) * math.prod(n for k, n in enumerate(right) if k not in (*summed, *beside))


class Instruction(NamedTuple):
    """One line of a compiled program.

    Attributes:
      name, opcode: of it.
      shape: of its result: element type and sizes; of a tuple its first part's.
      rest: the line after the opcode: operands and attributes.
    """

    name: str
    opcode: str
    shape: tuple[str, tuple[int, ...]]
    rest: str

    @property
    def size(self) -> int:
        return math.prod(self.shape[1])

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of what it is computed from."""
        depth, end = 1, 0
        while depth and end < len(self.rest):
            depth += {"(": 1, ")": -1}.get(self.rest[end], 0)
            end += 1
        return tuple(re.findall(r"%([\w.-]+)", self.rest[:end]))

    @property
    def called(self) -> tuple[str, ...]:
        """Computations it runs; those of a condition of a loop are left out."""
        return tuple(_CALLED.findall(self.rest))

    @property
    def branches(self) -> tuple[str, ...]:
        names = [name for several, one in _BRANCHES.findall(self.rest) for name in (several or one).split(",")]
        return tuple(name.strip().lstrip("%") for name in names)

    @property
    def turns(self) -> int | None:
        """How often a loop runs its body, where the compiler knows."""
        found = _TURNS.search(self.rest)
        return int(found[1]) if found else None


class Compiled(NamedTuple):
    """A compiled program, read from its text (``jax.stages.Compiled.as_text``).

    Attributes:
      computations: by name the instructions of each, by name.
      entry: name of the computation that it begins with.
      devices: on how many it runs, each doing what the text says.
    """

    computations: Mapping[str, Mapping[str, Instruction]]
    entry: str
    devices: int = 1

    @classmethod
    def read(cls, text: str) -> "Compiled":
        computations: dict[str, dict[str, Instruction]] = {}
        entry, now = "", {}
        for line in text.splitlines():
            if (head := _COMPUTATION.match(line)) is not None:
                now = computations.setdefault(head["name"], {})
                entry = head["name"] if head["entry"] else entry
            elif (found := _INSTRUCTION.match(line)) is not None:
                shape = _SHAPE.search(found["type"])
                sizes = tuple(int(x) for x in shape["sizes"].split(",") if x) if shape else ()
                what = (shape["type"] if shape else "", sizes)
                now[found["name"]] = Instruction(
                    name=found["name"], opcode=found["opcode"], shape=what, rest=found["rest"]
                )
        header = text.partition("\n")[0]
        return cls(computations, entry, math.prod(map(int, _DEVICES.findall(header))))

    def operations(self, turns: float = 1.0) -> Operations:
        """What one run of it does, on all its devices.

        Args:
          turns: how often the loops run whose number of turns is an argument of the program, on average.
        """
        return self._within(turns)(self.entry) * self.devices

    def _within(self, turns: float) -> "functools._lru_cache_wrapper[Operations]":
        @functools.cache
        def of(name: str) -> Operations:
            instructions = self.computations[name]
            total = Operations()
            for x in instructions.values():
                if x.opcode == "while":
                    count = turns if x.turns is None else x.turns
                    total += sum((of(body) for body in x.called), Operations()) * count
                elif x.opcode == "conditional":
                    total += max((of(branch) for branch in x.branches), key=lambda o: o.total, default=Operations())
                elif x.opcode in ("fusion", "call", "async-start"):
                    total += sum((of(body) for body in x.called), Operations())
                else:
                    total += _own(x, instructions)
            return total

        return of


def product(x: Instruction, beside: Mapping[str, Instruction]) -> Product:
    """What a ``dot`` multiplies, told by the instructions beside it that its operands come from."""
    axes = {
        (side, what): tuple(int(k) for k in numbers.split(",") if k) for side, what, numbers in _AXES.findall(x.rest)
    }
    left, right = (beside[name].shape[1] for name in x.operands[:2])
    contracted, batch = (
        (axes.get(("lhs", what), ()), axes.get(("rhs", what), ())) for what in ("contracting", "batch")
    )
    return Product((left, right), contracted, batch)


def _own(x: Instruction, beside: Mapping[str, Instruction]) -> Operations:
    """What an instruction does that runs no other computation.

    Raises:
      NotImplementedError: it is a product that is not counted here.
    """
    if x.opcode == "convolution" or (x.opcode == "custom-call" and re.search(r"matmul|gemm|conv", x.rest)):
        raise NotImplementedError(f"operations of {x.opcode} {x.name}")
    if x.shape[0] not in FLOATS:
        return Operations()
    if x.opcode == "dot":
        return Operations(products=product(x, beside).operations)
    if x.opcode in ("reduce", "reduce-window"):
        # What is summed; the numbers that come of a window are as many.
        return Operations(others=float(max(beside[x.operands[0]].size, x.size)))
    return Operations(others=float(x.size)) if x.opcode in ARITHMETIC else Operations()
