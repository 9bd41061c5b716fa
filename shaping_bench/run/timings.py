"""How long jobs took and how much memory, for those who plan the next: kept in the user's cache.

Jobs are alike if they run the same programs: classes and static hyperparameters are the same, and
numbers differ. Of each such program and each kind of device the last measurement counts, split into what
does not depend on how much there is to do (compiling), what grows with lanes times updates, and what
every cell costs.
"""

import contextlib
import dataclasses
import functools
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shaping_bench.run import devices


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """What a job amounts to.

    Attributes:
      program: hash of what is compiled; jobs of one are alike.
      lanes: settings times seeds that run at once.
      steps: updates, or steps of a preparation.
      cells: that it stores.
    """

    program: str
    lanes: int
    steps: int
    cells: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """What was measured of a job on one kind of device.

    Attributes:
      fixed: seconds, whatever there is to do.
      run: seconds for each lane and step.
      cell: seconds for each cell.
      lane: bytes for each lane; 0 if unknown.
    """

    fixed: float
    run: float
    cell: float
    lane: float = 0.0

    def seconds(self, load: Load) -> float:
        """Expected of a job like it."""
        return self.fixed + self.run * load.lanes * load.steps + self.cell * load.cells


class Timings:
    """A folder of measurements, one file per program.

    Args:
      folder: created when something is noted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._noted: dict[tuple[str, str], int] = {}

    def of(self, program: str) -> Mapping[str, Timing]:
        """What is known of a program, by kind of device; empty if nothing is."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            kinds: dict[str, Any] = json.loads(self._path(program).read_text())
            return {kind: Timing(**x) for kind, x in kinds.items()}
        return {}

    def note(self, load: Load, kind: str, timing: Timing) -> None:
        """Keeps a measurement. It is a convenience, which costs nothing where it cannot be written; of
        many jobs like one another a process notes the largest."""
        amount = load.lanes * load.steps + load.cells
        if amount <= self._noted.get((load.program, kind), -1):
            return
        self._noted[load.program, kind] = amount
        kinds = {**self.of(load.program), kind: timing}
        text = json.dumps({name: dataclasses.asdict(x) for name, x in kinds.items()}, indent=1)
        draft = self.folder / f".{uuid.uuid4().hex[:12]}"
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            draft.write_text(text + "\n")
            os.replace(draft, self._path(load.program))

    def _path(self, program: str) -> Path:
        return self.folder / f"{program}.json"


@functools.cache
def _kept(folder: Path) -> Timings:
    return Timings(folder)


def of_user() -> Timings | None:
    """Those in the user's cache; None without a home."""
    base = devices.user_cache()
    return None if base is None else _kept(base / "timings")
