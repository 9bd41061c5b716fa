"""Results and checkpoints as bytes: one file that another machine goes on from.

The file is a tar of plain files in a fixed order, without times and owners, so that equal contents
make equal files; its last member, ``manifest.json``, holds the schema, our version and every file's
SHA-256. It may be cut into parts, which are the file when put one behind the other.

Nothing is merged before all of it has been read and every sum was right, and what is merged is
renamed into place: a cell stands there whole or not at all.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from shaping_bench import __version__
from shaping_bench.errors import BadInput, StoreError

SCHEMA = 1

MANIFEST = "manifest.json"

_PIECE = 2**20
"""Bytes that are read and hashed at once."""


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
        return _placed(draft, folder)


# --- reading and writing the format -------------------------------------------------------


def _files(folder: Path) -> list[str]:
    """Paths of the plain files below a folder, sorted; drafts, links and the like are none."""
    found = []
    for path in folder.rglob("*"):
        inner = path.relative_to(folder)
        if path.is_file() and not path.is_symlink() and not any(part.startswith(".") for part in inner.parts):
            found.append(inner.as_posix())
    return sorted(found)


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


def _read(stream: Any, draft: Path, what: str, kind: str) -> dict[str, str]:
    """Writes what a stream holds below a draft, and checks it; returns every file's sum.

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


def _check(manifest: Any, sums: Mapping[str, str], what: str, kind: str) -> None:
    try:
        schema, version, named, told = (manifest[key] for key in ("schema", "version", "kind", "files"))
        later = int(schema) > SCHEMA
    except (TypeError, KeyError, ValueError):
        raise _damaged(what, "its manifest is none") from None
    if later:
        raise BadInput(f"{what} was packed by shaping-bench {version}, which is later than this one ({__version__})")
    if named != kind:
        raise BadInput(f"{what} is a packed {named}; allowed: a packed {kind}")
    for name in {**told, **sums}:
        if told.get(name) != sums.get(name):
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
        _sync_folder(draft)
        os.rename(draft, folder)
    except OSError:
        if folder.is_dir():
            return False
        raise
    _sync_folder(folder.parent)
    return True


def _sync_folder(folder: Path) -> None:
    """Names in it survive a loss of power, where the system can be asked for that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
