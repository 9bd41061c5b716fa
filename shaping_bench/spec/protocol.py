"""How an encounter is run and recorded: the one protocol of suites, claims and the command line."""

import dataclasses
from typing import Annotated, Any, Literal

import pydantic

from shaping_bench.errors import BadInput
from shaping_bench.spec.configs import Strict, allowed

EPISODES = 32
"""Episodes per recorded point that value policies by play, as many as LOQA's league plays."""

Seeds = Annotated[int, pydantic.Field(ge=1)]
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**32)]
Steps = Annotated[int, pydantic.Field(ge=0)]
RecordEvery = Annotated[int, pydantic.Field(ge=1)]
Precision = Literal["float32", "float64"]
Episodes = Annotated[int, pydantic.Field(ge=1)]
Preparations = Annotated[int, pydantic.Field(ge=1)]
Starts = Literal["drawn", "grid"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything that decides an encounter but who plays what.

    Attributes:
      seeds: number of seeds, run at once.
      seed: base of the random numbers.
      steps: simultaneous updates.
      record_every: updates between recorded points; None records start and end only.
      precision: floating point of the updates.
      episodes: played per recorded point where policies cannot be valued exactly.
      preparations: seeds from which learners that prepare are prepared; the encounter's seeds share them.
      starts: where policies begin: drawn by each learner, or at the points of a grid, one per seed; see
        :mod:`shaping_bench.run.starts`.
    """

    seeds: Seeds = 100
    seed: Seed = 0
    steps: Steps = 200
    record_every: RecordEvery | None = None
    precision: Precision = "float32"
    episodes: Episodes = EPISODES
    preparations: Preparations = 1
    starts: Starts = "drawn"

    @classmethod
    def of(cls, keys: Any, **changes: Any) -> "Protocol":
        """From anything that has these attributes, but for what is changed of them."""
        return Protocol(**{f.name: getattr(keys, f.name) for f in dataclasses.fields(Protocol)} | changes)

    @classmethod
    def from_options(cls, **values: Any) -> "Protocol":
        """From options of the command line.

        Raises:
          BadInput: a number out of its range; names the option.
        """
        try:
            return _OPTIONS.validate_python(values)
        except pydantic.ValidationError as error:
            problem = error.errors(include_url=False)[0]
            option = str(problem["loc"][0]).replace("_", "-")
            raise BadInput(f"--{option} is {problem['input']}; allowed: {allowed(problem)}") from None


_OPTIONS = pydantic.TypeAdapter(Protocol)


class Changes(Strict):
    """What a game of a suite, or a claim's published budget, changes of a protocol."""

    seeds: Seeds | None = None
    steps: Steps | None = None
    record_every: RecordEvery | None = None
    episodes: Episodes | None = None
    preparations: Preparations | None = None
    starts: Starts | None = None

    def protocol_changes(self) -> dict[str, Any]:
        """Those that are given."""
        return {name: x for name in Changes.model_fields if (x := getattr(self, name)) is not None}
