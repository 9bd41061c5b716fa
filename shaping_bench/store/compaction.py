"""Thousands of cells read as a few files: a copy of them, beside the cells, which remain the truth.

``DIR/compacted/PART/`` holds what a few thousand cells hold: all rows of their ``finals.parquet`` and
``curves.parquet``, with the cell's hash, sorted by metric, so that to read one metric is to read one stretch
of a file; and ``cells.json``, their records. A reader that meets many cells of which there is no copy makes one.

A copy is used for cells whose folder is as it was when the copy was made, by name and time of change. What was
deleted or rewritten since is seen by that, and read from its folder. A part appears whole or not at all; two
processes may make parts of the same cells at once, of which one is then used. Whoever may not write reads
what there is, and to delete ``compacted`` loses nothing.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from shaping_bench.store import disk

FOLDER = "compacted"

SCHEMA = 1
"""Of a part; parts of another are left alone."""

MOST_LOOSE = 500
"""Cells without a copy that a reader puts up with, or a twentieth of those that have one: parts then
stay few however many cells there are."""

PART = 10_000
"""Most cells of a part, which bounds what sorting them takes."""

SETTLED = 2_000_000_000
"""Nanoseconds after which a folder counts as unchanged if its time of change is: file systems tell no finer
differences than that."""

_REFERENCE = "="
_ORDER = {"finals": "metric, hash, seed, player", "curves": "metric, hash, update, seed, player"}

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A copy of some cells.

    Attributes:
      folder: where it lies.
      records: by hash, of those of its cells that are as they were.
      size: how many cells it was made of.
    """

    folder: Path
    records: Mapping[str, Record]
    size: int


def folders(cells: Path) -> dict[str, int]:
    """Folders of finished cells, by name, and when each has changed last, in nanoseconds."""
    found = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(cells) as entries:
        for entry in entries:
            # Folders whose name begins with a dot are cells that a running process is still writing.
            if not entry.name.startswith(".") and entry.is_dir():
                found[entry.name] = entry.stat().st_mtime_ns
    return found


def parts(directory: Path, changed: Mapping[str, int]) -> list[Part]:
    """The copies that there are of a directory's cells; no cell is in two of them.

    Args:
      directory: of the results.
      changed: its :func:`folders` now.
    """
    found: list[Part] = []
    taken: set[str] = set()
    with contextlib.suppress(OSError):
        for folder in sorted(path for path in (directory / FOLDER).iterdir() if not path.name.startswith(".")):
            part = _part(folder, changed, taken)
            if part is not None:
                found.append(part)
                taken.update(part.records)
    return found


def _part(folder: Path, changed: Mapping[str, int], taken: set[str]) -> Part | None:
    """A part without the cells that are taken already, or not as they were; None if nothing is left of it."""
    try:
        content = json.loads((folder / "cells.json").read_text())
        if content["schema"] != SCHEMA:
            return None
        shared, cells = content["shared"], content["cells"]
        records = {
            key: _unpacked(packed, shared)
            for key, (stamp, packed) in cells.items()
            if changed.get(key) == stamp and key not in taken
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError):  # damaged, or gone by now: the cells are there
        return None
    return Part(folder=folder, records=records, size=len(cells)) if records else None


def many(loose: int, copied: int) -> bool:
    """Whether so many cells without a copy are too many, where others have one."""
    return loose > max(MOST_LOOSE, copied // 20)


def compacted(directory: Path, records: "Packed", changed: Mapping[str, int]) -> list[Part]:
    """Makes copies of cells, if the directory can be written; those that were made.

    Args:
      directory: of the results.
      records: of cells of which there is no copy.
      changed: the directory's :func:`folders`, from before they were read.
    """
    made: list[Part] = []
    with contextlib.suppress(OSError, duckdb.Error):
        (directory / FOLDER).mkdir(exist_ok=True)
        _drop_leftovers(directory / FOLDER, changed)
        keys = sorted(records.cells)
        for first in range(0, len(keys), PART):
            part = _made(directory, keys[first : first + PART], records, changed)
            if part is not None:
                made.append(part)
    return made


def _made(directory: Path, keys: Sequence[str], records: "Packed", changed: Mapping[str, int]) -> Part | None:
    name = uuid.uuid4().hex[:12]
    draft = directory / FOLDER / f".{name}"
    try:
        draft.mkdir()
        # By the clock of the file system, which need not be ours.
        now = draft.stat().st_mtime_ns
        settled = [key for key in keys if changed[key] < now - SETTLED]
        for table, order in _ORDER.items():
            files = [str(directory / "cells" / key / f"{table}.parquet") for key in settled]
            target = str(draft / f"{table}.parquet").replace("'", "''")
            with duckdb.connect() as connection:
                connection.execute(
                    f"COPY (SELECT * FROM ({rows_of_cells('files')}) ORDER BY {order}) TO '{target}' "
                    "(FORMAT parquet, COMPRESSION zstd)",
                    {"files": files},
                )
        # What has changed while it was copied is no copy.
        after = folders(directory / "cells")
        settled = [key for key in settled if after.get(key) == changed[key]]
        if not settled:
            return None
        content = {
            "schema": SCHEMA,
            "shared": records.shared,
            "cells": {key: (changed[key], records.cells[key]) for key in settled},
        }
        (draft / "cells.json").write_text(json.dumps(content, separators=(",", ":")))
        disk.place(draft, directory / FOLDER / name)
        own = {key: records.record(key) for key in settled}
        return Part(folder=directory / FOLDER / name, records=own, size=len(settled))
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def rows_of_cells(files: str) -> str:
    """SQL of the rows of cells' files, with the cell's hash; ``files`` names the parameter that lists them."""
    return (
        "SELECT * EXCLUDE (filename), parse_filename(parse_dirpath(filename)) AS hash "
        f"FROM read_parquet(${files}, filename = true, union_by_name = true)"
    )


def _drop_leftovers(folder: Path, changed: Mapping[str, int]) -> None:
    """Removes parts of which no cell is left, and drafts of processes that died an hour ago."""
    oldest = max(changed.values(), default=0) - 3600 * 10**9
    for path in folder.iterdir():
        is_draft = path.name.startswith(".")
        if path.stat().st_mtime_ns < oldest if is_draft else _part(path, changed, set()) is None:
            shutil.rmtree(path, ignore_errors=True)


# --- records ------------------------------------------------------------------------------


class Packed:
    """Records whose equal parts (the facts of a game, a learner's hyperparameters, versions) are kept once:
    a tenth of the room, on the disk and in memory.

    Attributes:
      cells: records by hash, in which every part is the place of one of the ``shared``.
      shared: the parts.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.shared: list[Any] = []
        self._places: dict[str, int] = {}
        self.cells = {record["hash"]: self._packed(record) for record in records}

    def record(self, key: str) -> Record:
        """A record; what it has in common with others is theirs too, and must not be changed."""
        return _unpacked(self.cells[key], self.shared)

    def _packed(self, record: Record) -> Record:
        return {key: self._shared(value) for key, value in record.items()}

    def _shared(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._shared(x) for x in value]
        if not isinstance(value, dict):
            return value
        place = self._places.setdefault(json.dumps(value), len(self.shared))
        if place == len(self.shared):
            self.shared.append(value)
        return {_REFERENCE: place}


def _unpacked(value: Any, shared: Sequence[Any]) -> Any:
    def parts(value: Any) -> Any:
        if isinstance(value, dict):
            return shared[value[_REFERENCE]]
        return [parts(x) for x in value] if isinstance(value, list) else value

    return {key: parts(x) for key, x in value.items()}


def chosen(parts: Sequence[Part], hashes: Iterable[str]) -> Iterator[tuple[Path, list[str] | None]]:
    """Of every part that is needed for some cells its folder, and which of its cells those are; None for all."""
    wanted = set(hashes)
    for part in parts:
        own = [key for key in part.records if key in wanted]
        if own:
            yield part.folder, None if len(own) == part.size else own
