"""What a file of claims may say, and reading it.

``configs/claims`` has one YAML file per paper, or part of one, and a claim in it is one
encounter at the paper's own protocol with the quantities that it yields.

Where the published budget is beyond two cores, a protocol states a smaller one and, under
``full``, what differs at the published one; every verdict names the budget that was spent.
"""

import fnmatch
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pydantic

from shaping_bench.errors import BadInput, unknown
from shaping_bench.run.encounter import recorded_updates
from shaping_bench.spec.configs import Strict, allowed, configs_folder, read_yaml
from shaping_bench.spec.protocol import (
    EPISODES,
    Changes,
    Episodes,
    Precision,
    Preparations,
    Protocol,
    RecordEvery,
    Seed,
    Seeds,
    Steps,
)


class Extended(Strict):
    """What has got a key after verdicts had been recorded: where it is not used they stay valid."""

    added: ClassVar[str]

    @pydantic.model_serializer(mode="wrap")
    def _as_before(self, serialize: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {k: v for k, v in serialize(self).items() if k != self.added or v}


class Grid(Extended):
    """One start per point of a square grid over the joint parameters of two scalar players, or over the
    ``probabilities`` of action 0 whose logits these are."""

    added: ClassVar[str] = "probabilities"

    low: float
    high: float
    num: int = pydantic.Field(ge=2)
    probabilities: bool = False

    @pydantic.model_validator(mode="after")
    def _within(self) -> "Grid":
        if self.probabilities and not 0.0 < self.low < self.high < 1.0:
            raise ValueError("0 < low < high < 1 for probabilities")
        return self

    @property
    def axis(self) -> np.ndarray:
        """The parameters along one side, ``(num,)``."""
        points = np.linspace(self.low, self.high, self.num)
        return np.log(points) - np.log1p(-points) if self.probabilities else points


class Uniform(Strict):
    """Starts drawn uniformly, every parameter from one interval."""

    low: float
    high: float


class Init(Strict):
    """Starts other than the game's own; a normal one is written as the game's ``init_std``."""

    grid: Grid | None = None
    uniform: Uniform | None = None

    @pydantic.model_validator(mode="after")
    def _one(self) -> "Init":
        if (self.grid is None) == (self.uniform is None):
            raise ValueError("either grid or uniform")
        return self


class Budget(Extended, Changes):
    """What the published budget changes of a protocol."""

    added: ClassVar[str] = "starts"

    game: str | None = None
    learners: list[str] | None = pydantic.Field(None, min_length=1)


class ClaimProtocol(Strict):
    """One encounter: a protocol, and who plays. ``learners`` has one entry for self-play; ``seeds`` are
    those of the grid where ``init`` is one."""

    game: str
    learners: list[str] = pydantic.Field(min_length=1)
    steps: Steps
    seeds: Seeds | None = None
    seed: Seed = 0
    record_every: RecordEvery | None = None
    precision: Precision = "float32"
    episodes: Episodes = EPISODES
    preparations: Preparations = 1
    init: Init | None = None
    full: Budget | None = None

    def at_full_budget(self) -> "ClaimProtocol":
        """The published budget, where this one is smaller."""
        changes = self.full.model_dump(exclude_none=True) if self.full else {}
        return ClaimProtocol(**{**self.model_dump(), **changes, "full": None})

    @property
    def starts(self) -> Literal["drawn"]:
        """What a protocol calls so; where a published encounter begins elsewhere, ``init`` says."""
        return "drawn"

    @property
    def protocol(self) -> Protocol:
        """How the encounter is run."""
        return Protocol.of(self, seeds=self.num_seeds)

    @property
    def text(self) -> str:
        """The budget in words."""
        return f"{self.num_seeds} seeds x {self.steps} updates of {' vs '.join(self.learners)} in {self.game}"

    @pydantic.model_validator(mode="after")
    def _counted(self) -> "ClaimProtocol":
        if (self.seeds is None) != (self.init is not None and self.init.grid is not None):
            raise ValueError("seeds, unless the starts are a grid")
        return self

    @property
    def num_seeds(self) -> int:
        if self.seeds is not None:
            return self.seeds
        assert self.init is not None
        assert self.init.grid is not None
        return self.init.grid.num**2


class Quantity(Extended):
    """One published number.

    Per seed the metric is taken ``at`` a number of updates done (default: all; a pair is the
    mean over the recorded ones from first to last, both included), for a ``player`` (``both``
    is the lesser of the two) and times ``scale``. In the phase ``preparation`` it is a curve of the
    preparation of player 1, at a number of its steps, and the seeds are those of the preparation.
    With ``against`` the final policies of player 1 first meet that fixed strategy as player 2,
    without learning. With ``beyond`` the number is no published one but what a control gets, in a run of
    ours (provenance ``control``): this one has to lie above or below it by more than the tolerance.
    Seeds are aggregated by ``mean``, ``median``, ``std`` (mean over blocks of
    ``runs`` seeds of the standard deviation within a block), or by ``fraction`` or ``count`` of
    those above ``threshold``.
    """

    added: ClassVar[str] = "beyond"

    metric: str
    phase: Literal["encounter", "preparation"] = "encounter"
    against: str | None = None
    player: Literal[1, 2, "mean", "sum", "both"] = "mean"
    at: Annotated[list[int], pydantic.Field(min_length=2, max_length=2)] | int | None = None
    aggregate: Literal["mean", "median", "std", "fraction", "count"] = "mean"
    threshold: float = 0.5
    scale: float = 1.0
    published: float
    provenance: Literal["published", "recomputed", "derived", "control"] = "published"
    beyond: Literal["above", "below"] | None = None
    tolerance: float | None = pydantic.Field(None, ge=0.0)
    rounding: float = pydantic.Field(0.0, ge=0.0)
    runs: int | None = pydantic.Field(None, ge=2)
    standard_error: float | None = pydantic.Field(None, ge=0.0)
    why: str = pydantic.Field(min_length=1)
    note: str = ""

    @pydantic.model_validator(mode="after")
    def _one_tolerance(self) -> "Quantity":
        if [self.tolerance, self.standard_error].count(None) == 0 or (
            self.tolerance is None and self.standard_error is None and self.runs is None
        ):
            raise ValueError("a tolerance, or the published standard_error, or the published number of runs")
        if (self.provenance == "control") != (self.beyond is not None):
            raise ValueError("beyond, above or below, exactly where the provenance is control")
        if self.against is not None and self.at is not None:
            raise ValueError("either against, which is about final policies, or at")
        if self.against is not None and self.phase == "preparation":
            raise ValueError("either against, which is about final policies, or the phase preparation")
        if self.aggregate == "std" and self.runs is None:
            raise ValueError("with aggregate 'std', the published number of runs")
        return self

    @property
    def text(self) -> str:
        """Short description, e.g. ``return of player 1 at 99, mean``."""
        who = {"mean": "", "sum": ", summed", "both": ", both players"}.get(str(self.player), f", player {self.player}")
        when = "" if self.at is None else f", update {self.at}" if isinstance(self.at, int) else ""
        if isinstance(self.at, list):
            when = f", updates {self.at[0]}..{self.at[1]}"
        how = "" if self.aggregate == "mean" else f", {self.aggregate}"
        if self.aggregate in ("fraction", "count") and self.threshold != 0.5:  # 0.5 is for flags
            how += f" above {self.threshold:g}"
        scaled = "" if self.scale == 1.0 else f"{self.scale:g} * "
        opponent = "" if self.against is None else f" against {self.against}"
        bound = "" if self.beyond is None else f", {self.beyond} the control's"
        return f"{scaled}{self.metric}{opponent}{who}{when}{how}{bound}"


class Claim(Strict):
    """A published result: where it stands, the protocol, and its numbers."""

    id: str = pydantic.Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    statement: str
    source: str
    protocol: ClaimProtocol
    quantities: list[Quantity] = pydantic.Field(min_length=1)

    @pydantic.model_validator(mode="after")
    def _recorded(self) -> "Claim":
        for protocol, q in itertools.product((self.protocol, self.protocol.at_full_budget()), self.quantities):
            recorded = set(recorded_updates(protocol.steps, protocol.record_every).tolist())
            asked = [] if q.at is None else [q.at] if isinstance(q.at, int) else q.at
            if q.phase == "preparation":  # its curves have points of their own
                continue
            if any(t not in recorded for t in asked) or asked != sorted(asked):
                raise ValueError(f"{q.metric} at recorded updates (steps and record_every decide), not at {q.at}")
        return self

    @property
    def hash(self) -> str:
        """Of all that decides a verdict: the protocol and the numbers, not the words about them."""
        said = {"statement": True, "source": True, "quantities": {"__all__": {"why", "note"}}}
        text = json.dumps(self.model_dump(mode="json", exclude=said), sort_keys=True)  # type: ignore[arg-type]
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class ClaimFile(Strict):
    """The claims of one paper; ``references`` are its keys in ``configs/references.bib``, ``anchors``
    holds YAML anchors that the claims share."""

    paper: str
    references: list[str] = pydantic.Field(default=[])
    anchors: Any = None
    claims: list[Claim] = pydantic.Field(min_length=1)


_MODELS: Mapping[str, type[Strict]] = {
    "claims": Claim,
    "protocol": ClaimProtocol,
    "full": Budget,
    "init": Init,
    "grid": Grid,
    "uniform": Uniform,
    "quantities": Quantity,
}


def load_claims(folder: Path | None = None) -> dict[str, Claim]:
    """All claims by id, in the order of the files.

    Args:
      folder: where the files are; ``configs/claims`` by default.

    Raises:
      BadInput: a file that is not YAML, a key or value that is not allowed, an id used twice.
    """
    claims: dict[str, Claim] = {}
    for path in _files(folder):
        for claim in _read(path).claims:
            if claim.id in claims:
                raise BadInput(f"{path.name}: claim id is {claim.id!r}, which is taken; allowed: an id of its own")
            claims[claim.id] = claim
    return claims


def papers(folder: Path | None = None) -> dict[str, str]:
    """Claim id to the paper whose number it is; ``folder`` and errors as in :func:`load_claims`."""
    return {claim.id: content.paper for content in map(_read, _files(folder)) for claim in content.claims}


def select(patterns: Sequence[str] = (), of_papers: Sequence[str] = (), folder: Path | None = None) -> list[str]:
    """Ids of the claims that any of the patterns or papers means, in the order of the files; all without any.

    Args:
      patterns: ids, or shell patterns of ids such as ``sos-*``.
      of_papers: names of claim files (``loqa``) or keys of references (``aghajohari2024loqa``), or
        shell patterns of them.
      folder: where the files are; ``configs/claims`` by default.

    Raises:
      BadInput: a pattern or a paper that means none; names the nearest.

    >>> len(select()) == len(load_claims())
    True
    >>> set(select(["sos-*"])) <= set(select(of_papers=["sos"]))
    True
    """
    by_paper: dict[str, list[str]] = {}
    ids: list[str] = []
    for path in _files(folder):
        content = _read(path)
        own = [claim.id for claim in content.claims]
        ids += own
        for name in dict.fromkeys([path.stem, *content.references]):
            by_paper.setdefault(name, []).extend(own)
    if not patterns and not of_papers:
        return ids
    chosen = {claim for name in patterns for claim in _matching("claim", name, ids)}
    chosen |= {
        claim for name in of_papers for paper in _matching("--paper", name, by_paper) for claim in by_paper[paper]
    }
    return [claim for claim in ids if claim in chosen]


def _matching(field: str, pattern: str, names: Iterable[str]) -> list[str]:
    matching = fnmatch.filter(names, pattern)
    if not matching:
        raise unknown(field, pattern, names, "shaping-bench list claims")
    return matching


def _files(folder: Path | None) -> list[Path]:
    return sorted((folder or configs_folder() / "claims").glob("*.yaml"))


def _read(path: Path) -> ClaimFile:
    content = read_yaml(path, path.name)
    try:
        return ClaimFile.model_validate(content)
    except pydantic.ValidationError as error:
        raise _complaint(path.name, error.errors(include_url=False)[0]) from None


def _complaint(file: str, problem: Mapping[str, Any]) -> BadInput:
    steps = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        owners = [_MODELS[step] for step in steps[:-1] if step in _MODELS]
        where = ".".join([file, *steps[:-1]])
        return unknown(f"key of {where}", steps[-1], (owners[-1] if owners else ClaimFile).model_fields)
    value = {"missing": "missing", "value_error": "inconsistent"}.get(problem["type"], repr(problem.get("input")))
    return BadInput(f"{'.'.join([file, *steps])} is {value}; allowed: {allowed(problem)}")
