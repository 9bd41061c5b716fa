"""The results directory: one folder per cell, written whole or not at all.

A cell is assembled in a temporary folder and renamed into place, so a killed process
leaves no half cell, and two processes on one directory cannot lose or double one: the
rename of the second fails and its copy is dropped. No locks, so network file systems are
fine. Contents reach the disk before the name does, so a loss of power leaves no half cell either.
"""

import contextlib
import functools
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from shaping_bench.errors import BadInput, StoreError
from shaping_bench.store import disk

if TYPE_CHECKING:  # slow to import, and one who only looks for an artifact pays for neither
    import duckdb
    import pandas as pd

SCHEMA = 1

WITHIN = "within.parquet"
"""Of a cell, what its final policies get in each step of an episode: columns seed, step (from 1), player, metric and
value, the mean over episodes."""

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast where there is libyaml: suites of hundreds of games are long."""


class Store:
    """A results directory of one suite.

    Args:
      directory: created if missing.
      writable: False for those who only look, and create nothing.

    Raises:
      BadInput: the directory cannot be created or written.
    """

    def __init__(self, directory: Path | str, writable: bool = True) -> None:
        self.directory = Path(directory)
        self.cells = self.directory / "cells"
        if not writable:
            return
        try:
            self.cells.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.cells):
                pass
        except OSError as error:
            raise BadInput(
                f"results directory is {str(directory)!r}, which cannot be written ({error.strerror}); "
                "allowed: a writable directory with free space"
            ) from None

    def adopt(self, suite: Mapping[str, Any], resolve: Callable[[Any], Mapping[str, Any]] | None = None) -> None:
        """Writes the resolved suite, or checks that the directory was made by the same one.

        A suite that differs by more ``steps`` only, of encounters that keep their ends, takes the place of
        the stored one: its encounters go on from there.

        Args:
          suite: as it is now.
          resolve: resolves what an earlier version has written, which knew fewer keys, as this version
            would; without it, what is stored is compared as it stands.

        Raises:
          BadInput: the directory holds results of another suite; names the first difference.
        """
        path = self.directory / "suite.yaml"
        if not path.exists():
            _place(self._draft(suite), path)
            disk.sync_folder(self.directory)
        stored = yaml.load(path.read_text(), Loader=LOADER)
        if resolve is not None:
            # What this version cannot read, a later one's say, is told as the difference it is.
            with contextlib.suppress(BadInput):
                stored = resolve(stored)
        theirs, ours = json.loads(json.dumps(stored)), json.loads(json.dumps(suite))
        difference = _first_difference(theirs, ours)
        if difference and _goes_on(theirs, ours):
            os.replace(self._draft(suite), path)
            disk.sync_folder(self.directory)
        elif difference:
            where, theirs, ours = difference
            raise BadInput(
                f"results directory {str(self.directory)!r} was made by another suite: {where} is {theirs!r} there and "
                f"{ours!r} here; allowed: the same suite, or another directory"
            )

    def _draft(self, suite: Mapping[str, Any]) -> Path:
        draft = self.directory / f".suite-{uuid.uuid4().hex[:12]}"
        draft.write_text(yaml.safe_dump(dict(suite), sort_keys=False, allow_unicode=True))
        disk.sync_file(draft)
        return draft

    def __contains__(self, key: str) -> bool:
        return (self.cells / key).is_dir()

    def finished(self) -> frozenset[str]:
        """The cells that are stored, in one look at the folder."""
        try:
            return frozenset(name for name in os.listdir(self.cells) if not name.startswith("."))
        except FileNotFoundError:
            return frozenset()

    def write(
        self,
        key: str,
        cell: Mapping[str, Any],
        finals: "pd.DataFrame",
        curves: "pd.DataFrame",
        policies: Mapping[str, np.ndarray] | None = None,
        episode: Mapping[str, Any] | None = None,
        more: Mapping[str, Callable[[Path], object]] | None = None,
    ) -> bool:
        """Stores one cell, on the disk when this returns; False if another process has stored it meanwhile.

        Threads may do so side by side, which pays: of the time, most is waiting for the disk.

        Args:
          policies: final policies, to meet others in a league.
          episode: one episode of them, for people who look (``episode.json``).
          more: further files of it, by name, each told where to write itself.

        Raises:
          StoreError: the cell cannot be written; nothing of it remains.
        """
        work = self.cells / f".{key[:12]}-{uuid.uuid4().hex[:12]}"
        try:
            work.mkdir()
            (work / "cell.json").write_text(json.dumps(cell, indent=1) + "\n")
            write_parquet(finals, work / "finals.parquet")
            write_parquet(curves, work / "curves.parquet")
            if policies is not None:
                np.savez(work / "policies.npz", allow_pickle=False, **policies)
            if episode is not None:
                (work / "episode.json").write_text(json.dumps(episode, separators=(",", ":")) + "\n")
            for name, write in (more or {}).items():
                write(work / name)
            disk.place(work, self.cells / key)
        except OSError as error:
            if key in self:
                return False
            raise StoreError(
                f"cannot write to {str(self.directory)!r}: {error.strerror or error}; finished cells are stored, "
                "the same command goes on once there is space"
            ) from None
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return True

    def policies(self, key: str, update: int | None = None) -> dict[str, np.ndarray]:
        """Policies of a cell: ``player_1 (S, d_1)``, ...

        Args:
          key: the cell's hash.
          update: one on the way at which the suite kept them; None for the final ones.

        Raises:
          BadInput: none were kept at that update; names those at which they were.
        """
        if update is None:
            with np.load(self.cells / key / "policies.npz") as file:
                return {name: file[name] for name in file.files}
        kept: list[int] = []
        with contextlib.suppress(FileNotFoundError), np.load(self.cells / key / "policies_along.npz") as file:
            kept = file["updates"].tolist()
            if update in kept:
                return {name: file[name][kept.index(update)] for name in file.files if name != "updates"}
        raise BadInput(
            f"update is {update}, at which cell {key} kept no policies; allowed: {', '.join(map(str, kept)) or 'none'}"
        )

    def cell(self, key: str) -> dict[str, Any]:
        return json.loads((self.cells / key / "cell.json").read_text())


def _place(draft: Path, path: Path) -> None:
    """Gives a written file its name, unless another process has done so meanwhile."""
    try:
        # A link, unlike a rename, never replaces what another process wrote.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    except OSError:  # a file system without hard links: equal suites write equal files, others are told apart below
        if not path.exists():
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _first_difference(a: Any, b: Any, where: str = "suite") -> tuple[str, Any, Any] | None:
    if isinstance(a, dict) and isinstance(b, dict):
        pairs = [(f"{where}.{k}", a.get(k), b.get(k)) for k in dict.fromkeys([*a, *b])]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = [(f"{where}.{k}", x, y) for k, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        return None if a == b else (where, a, b)
    return next((d for w, x, y in pairs if (d := _first_difference(x, y, w))), None)


def _goes_on(stored: Any, suite: Any) -> bool:
    """Whether a suite asks for more updates of encounters that have kept where they ended, and for nothing
    else that is new."""
    if not (isinstance(stored, dict) and stored.get("keep_state") and suite.get("keep_state")):
        return False
    (theirs, before), (ours, now) = _without_steps(stored), _without_steps(suite)
    return theirs == ours and all(a <= b for a, b in zip(before, now, strict=True))


def _without_steps(suite: Mapping[str, Any]) -> tuple[Any, list[int]]:
    """All but how long its games are played, and how long that is."""
    rest = {key: x for key, x in suite.items() if key not in ("steps", "games")}
    games: list[Any] = []
    steps: list[int] = []
    for game in suite["games"]:
        own = game.get("steps") if isinstance(game, dict) else None
        steps.append(suite["steps"] if own is None else own)
        games.append({key: x for key, x in game.items() if key != "steps"} if isinstance(game, dict) else game)
    return (rest, games), steps


@functools.cache
def _database() -> "duckdb.DuckDBPyConnection":
    """A database in memory, of which every reader and writer has a connection of its own: one must not
    be used by two threads at once."""
    import duckdb

    return duckdb.connect()


def read_parquet(path: Path) -> "pd.DataFrame":
    """A tidy file."""
    with _database().cursor() as connection:
        return connection.execute("SELECT * FROM read_parquet(?)", [str(path)]).df()


def write_parquet(frame: "pd.DataFrame", path: Path) -> None:
    """Writes a tidy file.

    Raises:
      OSError: it cannot be written.
    """
    import duckdb

    try:
        target = str(path).replace("'", "''")
        with _database().cursor() as connection:
            connection.register("frame_to_write", frame)
            connection.execute(f"COPY frame_to_write TO '{target}' (FORMAT parquet, COMPRESSION zstd)")
    except duckdb.Error as error:  # a full disk arrives here
        raise OSError(f"cannot write {path.name}: {str(error).splitlines()[0]}") from None
