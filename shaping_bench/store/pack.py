"""Results and checkpoints as bytes: one file that another machine goes on from.

The file is a tar of plain files in a fixed order, without times and owners, so that equal contents
make equal files; its last member, ``manifest.json``, holds the schema, our version and every file's
SHA-256. It may be cut into parts, which are the file when put one behind the other.

Nothing is merged before all of it has been read and every sum was right, and what is merged is
renamed into place: a cell stands there whole or not at all.

What belongs to the machine rather than to the results stays where it is: compiled programs, records
of Weights & Biases (which are made again from the results) and the page.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from shaping_bench import __version__
from shaping_bench.errors import BadInput, StoreError
from shaping_bench.store import disk
from shaping_bench.store.store import Store, read_parquet

SCHEMA = 1

MANIFEST = "manifest.json"

_PIECE = 2**20
"""Bytes that are read and hashed at once."""


FOLDERS = ("cells", "artifacts")
"""Of results: what is in them is a folder of its own, and stands whole or not at all."""

_RESULTS = re.compile(
    r"suite\.yaml|(?:cells|artifacts)/[^/.][^/]*/.+|artifacts/\.checkpoint-[^/]+\.npz"
    r"|checkpoints/(?:[^/.][^/]*/)*[^/.][^/]*\.(?:npz|json)|failures/[^/.][^/]*\.json|events/[^/.][^/]*\.jsonl"
)
"""Paths of a results directory, or of the user's cache, that are packed, and no others are unpacked."""

_SIZES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}

_FOLDERS_OF_RESULTS = ("artifacts", "cells", "checkpoints", "events", "failures")

LEAST_PART = 1000
"""Bytes."""


# --- a directory as a file ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """What :func:`pack` has written.

    Attributes:
      paths: the file, or its parts.
      counts: of cells, artifacts and checkpoints in it.
      size: bytes.
    """

    paths: tuple[Path, ...]
    counts: Mapping[str, int]
    size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Merger:
    """What :func:`unpack` has done.

    Attributes:
      new: counts of cells, artifacts and checkpoints that were taken over.
      old: the same of those that stood already and were kept.
      conflicts: cells and artifacts that stood already with other numbers.
    """

    new: Mapping[str, int]
    old: Mapping[str, int]
    conflicts: tuple[str, ...]


def pack(directory: Path, path: Path, part_size: int | None = None) -> Package:
    """Writes results, artifacts and checkpoints as one file, which another machine goes on from.

    The directory may be in use meanwhile: what is in the file is whole.

    Args:
      directory: a results directory, or the user's cache.
      path: the file; one of that name is replaced once the new one is finished.
      part_size: bytes of ``path.001``, ``path.002``, ... instead.

    Raises:
      BadInput: the directory holds no results, or the path cannot be written.
      StoreError: there is not enough space; what was there before is still there.
    """
    names = [f"{top}/{name}" for top in _FOLDERS_OF_RESULTS for name in _files(directory / top)]
    names = sorted(name for name in ("suite.yaml", *names) if _RESULTS.fullmatch(name) and (directory / name).exists())
    kind = _kind(directory)
    if not names:
        raise BadInput(f"{str(directory)!r} holds no results; allowed: a results directory, or --cache")
    if path.is_dir():
        raise BadInput(f"file is {str(path)!r}, which is a directory; allowed: the name of a file")
    if part_size is not None and path.exists():
        raise BadInput(f"{str(path)!r} stands beside parts of that name; allowed: another name, or remove it")
    outlet = _Outlet(path, part_size)
    try:
        sizes = _write(outlet, {name: directory / name for name in names}, {"kind": kind})
        paths = outlet.finish()
    except OSError as error:
        why = error.strerror or error
        if outlet.size == 0:
            raise BadInput(f"file is {str(path)!r}, which cannot be written ({why}); allowed: another place") from None
        raise StoreError(f"cannot write {str(path)!r}: {why}; it was not replaced") from None
    finally:
        outlet.close()
    return Package(paths=paths, counts=_counts(_units(sizes)), size=outlet.size)


def unpack(
    path: Path, directory: Path, resolve: Callable[[Any], Mapping[str, Any]] | None = None, kind: str | None = None
) -> Merger:
    """Merges a packed file into a directory of the same suite, or into a new one.

    Cells and artifacts that stand already are kept; of two checkpoints of one run the one that is
    further is.

    Args:
      path: the file, or the first of its parts.
      directory: where to; created if missing.
      resolve: see :meth:`shaping_bench.store.store.Store.adopt`.
      kind: ``results`` or ``cache``, which it must be; whichever the directory is by default.

    Raises:
      BadInput: the file is none of ours, damaged or not all there, or the directory is of another
        suite; nothing has been changed.
      StoreError: there is not enough space; nothing half has been written.
    """
    paths = _parts(path)
    what = f"{str(path)!r}" if len(paths) == 1 else f"{str(paths[0])!r} with {len(paths) - 1} more parts"
    if directory.exists() and not directory.is_dir():
        raise BadInput(f"{str(directory)!r} is a file; allowed: a directory")
    kind = kind or (None if not _holds_results(directory) else _kind(directory))
    with _draft(directory, what) as draft, contextlib.ExitStack() as files:
        handles = [files.enter_context(_opened(part)) for part in paths]
        sums = _read(io.BufferedReader(_Chain(handles), _PIECE), draft, what, kind, durable=False)
        foreign = next((name for name in sums if not _RESULTS.fullmatch(name)), None)
        if foreign is not None:
            raise BadInput(f"{what} holds {foreign!r}, which is not taken; allowed: what `pack` wrote")
        if hasattr(os, "sync"):  # all files at once: one by one they would be waited for
            os.sync()
        return _merged(draft, directory, _units(sums), resolve)


def bytes_of(text: str, name: str = "--part-size") -> int:
    """A size as people write it, in bytes.

    Args:
      text: ``500MB``, ``1.5GB``, ``64MiB``, ``1000000``.
      name: of what has this value.

    Raises:
      BadInput: it is none, or too small to be a file's.

    >>> bytes_of("1.5MB"), bytes_of("2 KiB")
    (1500000, 2048)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", text.strip().upper())
    if not match or match[2] not in _SIZES or not LEAST_PART <= float(match[1]) * _SIZES[match[2]] < 2**63:
        raise BadInput(f"{name} is {text!r}; allowed: a size of at least {LEAST_PART} bytes, e.g. 500MB, 2GB or 64MiB")
    return int(float(match[1]) * _SIZES[match[2]])


def _kind(directory: Path) -> str:
    return "results" if (directory / "suite.yaml").exists() else "cache"


def _holds_results(directory: Path) -> bool:
    return any((directory / name).exists() for name in ("suite.yaml", "cells", "artifacts", "checkpoints"))


def _units(names: Iterable[str]) -> dict[str, list[str]]:
    """What is placed as a whole, a folder or a file, with the files of each."""
    units: dict[str, list[str]] = {}
    for name in names:
        parts = name.split("/")
        unit = "/".join(parts[:2]) if parts[0] in FOLDERS else name
        units.setdefault(unit, []).append(name)
    return units


def _sort(unit: str) -> str | None:
    """Whether a unit is a cell, an artifact or a checkpoint; None for the others."""
    top, _, rest = unit.partition("/")
    if top == "checkpoints" or rest.startswith("."):
        return "checkpoint"
    return {"cells": "cell", "artifacts": "artifact"}.get(top)


def _counts(units: Iterable[str]) -> dict[str, int]:
    counts = dict.fromkeys(("cell", "artifact", "checkpoint"), 0)
    for sort in filter(None, map(_sort, units)):
        counts[sort] += 1
    return counts


def _merged(
    draft: Path,
    directory: Path,
    units: Mapping[str, Sequence[str]],
    resolve: Callable[[Any], Mapping[str, Any]] | None,
) -> Merger:
    """Moves a finished draft into a directory."""
    if "suite.yaml" in units:
        import yaml

        try:
            suite = yaml.safe_load((draft / "suite.yaml").read_text())
            suite = suite if resolve is None else resolve(suite)
        except BadInput:  # of a later version, or with learners that are unknown here: compared as it stands
            resolve = None
        if not (directory / "suite.yaml").exists():
            os.replace(draft / "suite.yaml", directory / "suite.yaml")
        Store(directory).adopt(suite, resolve)
    new: list[str] = []
    old: list[str] = []
    conflicts: list[str] = []
    for unit in units:
        target = directory / unit
        if unit == "suite.yaml":
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if _sort(unit) in ("cell", "artifact"):
            is_new = _placed(draft / unit, target)
            if not is_new and not _same_numbers(draft / unit, target):
                conflicts.append(unit)
        else:
            key = target.name.removeprefix(".checkpoint-").removesuffix(".npz")
            is_over = target.parent.name == "artifacts" and (target.parent / key).is_dir()
            is_new = not is_over and _progress(draft / unit) > _progress(target)
            if is_new:
                os.replace(draft / unit, target)
        (new if is_new else old).append(unit)
    for folder in {(directory / unit).parent for unit in units}:
        disk.sync_folder(folder)
    return Merger(new=_counts(new), old=_counts(old), conflicts=tuple(conflicts))


def _progress(path: Path) -> int:
    """How far a checkpoint is: updates, steps, or claims that are decided; of other files their length.
    -1 where there is none that can be read."""
    try:
        if path.suffix == ".npz":
            with np.load(path) as file:
                return int(json.loads(file["head"].tobytes())["done"] if "head" in file.files else file["done"])
        return len(json.loads(path.read_text())) if path.parent.name == "checkpoints" else path.stat().st_size
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
        return -1


def _same_numbers(ours: Path, theirs: Path) -> bool:
    """Whether two folders of one name say the same; records also say when and where, which may differ."""
    for name in {*_files(ours), *_files(theirs)}:
        a, b = ours / name, theirs / name
        if name.endswith(".json") or not (a.exists() and b.exists()) or a.read_bytes() == b.read_bytes():
            continue
        # Another version of a library may write the same numbers as other bytes.
        if name.endswith(".parquet") and read_parquet(a).equals(read_parquet(b)):
            continue
        if not (name.endswith(".npz") and _arrays(a) == _arrays(b)):
            return False
    return True


def _arrays(path: Path) -> dict[str, tuple[Any, ...]]:
    """The arrays of a file as bits, but for its head, which says how long they took."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "head"}
    return {name: (x.dtype, x.shape, x.tobytes()) for name, x in arrays.items()}


class _Outlet:
    """Where a file is written to: under a draft's name until it is finished, whole or in parts."""

    def __init__(self, path: Path, part_size: int | None) -> None:
        self.path, self.part_size, self.size = path, part_size, 0
        self.stamp = uuid.uuid4().hex[:12]
        self.drafts: list[Path] = []
        self.handle: IO[bytes] | None = None
        self.room = 0

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        while len(rest):
            if self.handle is None or self.room == 0:
                self._next()
            assert self.handle is not None
            piece = rest[: self.room]
            self.handle.write(piece)
            rest = rest[len(piece) :]
            self.room -= len(piece)
            self.size += len(piece)
        return len(data)

    def _next(self) -> None:
        self._end()
        draft = self.path.with_name(f".{self.path.name}-{self.stamp}-{len(self.drafts) + 1}")
        draft.parent.mkdir(parents=True, exist_ok=True)
        self.handle = draft.open("xb")
        self.drafts.append(draft)
        self.room = 2**63 if self.part_size is None else self.part_size

    def _end(self) -> None:
        if self.handle is not None:
            self.handle.flush()
            os.fsync(self.handle.fileno())
            self.handle.close()
            self.handle = None

    def finish(self) -> tuple[Path, ...]:
        """Gives what was written its name; parts of an earlier, longer file are removed."""
        self._end()
        if self.part_size is None:
            os.replace(self.drafts[0], self.path)
            return (self.path,)
        paths = tuple(_part(self.path, k + 1) for k in range(len(self.drafts)))
        for draft, path in zip(self.drafts, paths, strict=True):
            os.replace(draft, path)
        number = len(paths)
        while (old := _part(self.path, number := number + 1)).exists():
            old.unlink()
        return paths

    def close(self) -> None:
        """Nothing of what is not finished remains."""
        if self.handle is not None:
            self.handle.close()
        for draft in self.drafts:
            draft.unlink(missing_ok=True)


def _part(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number:03d}")


def _parts(path: Path) -> list[Path]:
    """The files that a packed file consists of.

    Raises:
      BadInput: it is not there, or a part is missing.
    """
    numbered = re.fullmatch(r"(.+)\.(\d{3,})", path.name)
    if path.exists() and not numbered:
        return [path]
    whole = path.with_name(numbered[1]) if numbered else path
    numbers = sorted(
        int(x.name.removeprefix(f"{whole.name}."))
        for x in (whole.parent.iterdir() if whole.parent.is_dir() else ())
        if re.fullmatch(r"\d{3,}", x.name.removeprefix(f"{whole.name}.")) and x.name.startswith(f"{whole.name}.")
    )
    if numbered and int(numbered[2]) != 1:
        raise BadInput(f"file is {str(path)!r}, which is no first part; allowed: {str(_part(whole, 1))!r}")
    if not numbers:
        raise BadInput(f"file is {str(path)!r}, which does not exist; allowed: a file that `pack` wrote")
    gap = next((k + 1 for k, number in enumerate(numbers) if number != k + 1), None)
    if gap is not None:
        raise BadInput(f"{str(_part(whole, gap))!r} is missing; allowed: all parts in one directory")
    return [_part(whole, number) for number in numbers]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        handle = path.open("rb")
    except OSError as error:
        raise BadInput(f"file is {str(path)!r}, which cannot be read ({error.strerror})") from None
    with handle:
        yield handle


class _Chain(io.RawIOBase):
    """Files read one behind the other."""

    def __init__(self, handles: Sequence[IO[bytes]]) -> None:
        self.handles = list(handles)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self.handles:
            data = self.handles[0].read(len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)
            self.handles.pop(0)
        return 0


# --- one folder as bytes ------------------------------------------------------------------


def packed(folder: Path) -> bytes:
    """The files of a folder, a cell's or an artifact's, as bytes; equal files make equal bytes.

    Raises:
      OSError: it cannot be read.
    """
    stream = io.BytesIO()
    _write(stream, {name: folder / name for name in _files(folder)}, {"kind": "folder"})
    return stream.getvalue()


def unpacked(data: bytes, folder: Path) -> bool:
    """Makes a folder of what :func:`packed` yielded; False if it stands already, and then it stays as it is.

    Raises:
      BadInput: the bytes are damaged or hold something else than plain files; nothing is written.
      StoreError: it cannot be written; nothing of it remains.
    """
    if folder.is_dir():
        return False
    with _draft(folder.parent, "packed bytes") as draft:
        _read(io.BytesIO(data), draft, "packed bytes", "folder")
        disk.sync_folder(draft)
        is_new = _placed(draft, folder)
        disk.sync_folder(folder.parent)
        return is_new


# --- reading and writing the format -------------------------------------------------------


def _files(folder: Path) -> list[str]:
    """Paths of the plain files below a folder, sorted; drafts, links and the like are none."""
    names = []
    for place, folders, files in os.walk(folder):
        inner = Path(place).relative_to(folder)
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [
            (inner / name).as_posix()
            for name in files
            if (not name.startswith(".") or name.startswith(".checkpoint-"))
            and not os.path.islink(os.path.join(place, name))
        ]
    return sorted(names)


class _Summed:
    """A file whose SHA-256 is known once it has been read or written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sum = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.sum.update(data)
        return data


def _write(stream: Any, files: Mapping[str, Path], about: Mapping[str, Any]) -> dict[str, int]:
    """Writes files, in the order given, and their manifest; returns the size of each.

    A file that is gone by now, a checkpoint that has become a cell say, is left out.
    """
    sums: dict[str, str] = {}
    sizes: dict[str, int] = {}
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name, path in files.items():
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                member = tarfile.TarInfo(name)
                member.size = os.fstat(file.fileno()).st_size
                summed = _Summed(file)
                tar.addfile(member, summed)  # type: ignore[arg-type]
                sums[name], sizes[name] = summed.sum.hexdigest(), member.size
        manifest = {"schema": SCHEMA, "version": __version__, **about, "files": sums}
        text = (json.dumps(manifest, indent=1) + "\n").encode()
        member = tarfile.TarInfo(MANIFEST)
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
    return sizes


def _read(stream: Any, draft: Path, what: str, kind: str | None, durable: bool = True) -> dict[str, str]:
    """Writes what a stream holds below a draft, and checks it; returns every file's sum.

    Args:
      stream: of bytes.
      draft: a folder.
      what: the stream, in words.
      kind: of what it must be; None for any.
      durable: whether to wait until each file is on the disk.

    Raises:
      BadInput: it is damaged, of a later version, of another kind, or holds what is no plain file.
    """
    sums: dict[str, str] = {}
    manifest: Any = None
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                if manifest is not None:
                    raise _damaged(what, f"{member.name!r} stands behind its end")
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or not _harmless(member.name) or member.name in sums:
                    raise BadInput(f"{what} holds {member.name!r}, which is not taken; allowed: what `pack` wrote")
                if member.name == MANIFEST:
                    manifest = json.loads(content.read())
                    continue
                summed, path = _Summed(content), draft / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    shutil.copyfileobj(summed, file, _PIECE)
                    if durable:
                        file.flush()
                        os.fsync(file.fileno())
                sums[member.name] = summed.sum.hexdigest()
    except (tarfile.TarError, EOFError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise _damaged(what, str(error)) from None
    if manifest is None:
        raise _damaged(what, "its end is missing")
    _check(manifest, sums, what, kind)
    return sums


def _check(manifest: Any, sums: Mapping[str, str], what: str, kind: str | None) -> None:
    try:
        schema, version, own, stated = (manifest[key] for key in ("schema", "version", "kind", "files"))
        later = int(schema) > SCHEMA
    except (TypeError, KeyError, ValueError):
        raise _damaged(what, "its manifest is none") from None
    if later:
        raise BadInput(f"{what} was packed by shaping-bench {version}, which is later than this one ({__version__})")
    if kind is not None and own != kind:
        raise BadInput(f"{what} is of kind {own!r}; allowed here: {kind!r}")
    for name in {**stated, **sums}:
        if stated.get(name) != sums.get(name):
            raise _damaged(what, f"the sum of {name!r} is not the one in its manifest")


def _damaged(what: str, why: str) -> BadInput:
    return BadInput(f"{what} is damaged or incomplete ({why}); nothing was taken from it")


def _harmless(name: str) -> bool:
    """Whether a path leads to a place below where it starts, on any system."""
    parts = name.split("/")
    return not any(part in ("", ".", "..") or set(part) & set('\\:\0*?"<>|') for part in parts)


@contextlib.contextmanager
def _draft(folder: Path, what: str) -> Iterator[Path]:
    """A folder beside its target, gone afterwards.

    Raises:
      StoreError: it cannot be written.
    """
    draft = folder / f".unpack-{uuid.uuid4().hex[:12]}"
    try:
        draft.mkdir(parents=True)
        yield draft
    except OSError as error:
        raise StoreError(f"cannot write {what} to {str(folder)!r}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _placed(draft: Path, folder: Path) -> bool:
    """Gives a finished folder its name; False if one of that name stands there already."""
    try:
        os.rename(draft, folder)
    except OSError:
        if folder.is_dir():
            return False
        raise
    return True
