"""Results as bytes: what is packed comes back, whatever is not ours is refused."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from shaping_bench.errors import BadInput, StoreError
from shaping_bench.store.pack import MANIFEST, packed, unpacked


@pytest.fixture
def cell(tmp_path):
    folder = tmp_path / "cell"
    (folder / "policies").mkdir(parents=True)
    (folder / "cell.json").write_text('{"hash": "abc"}\n')
    (folder / "finals.parquet").write_bytes(bytes(range(256)) * 20)
    (folder / "policies" / "100.npz").write_bytes(b"\0" * 700)
    return folder


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def leftovers(folder):
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def test_a_folder_comes_back_byte_for_byte(cell, tmp_path):
    (cell / ".draft").write_text("not yet")
    (cell / "elsewhere").symlink_to("/etc/passwd")
    data = packed(cell)
    target = tmp_path / "other" / "abc"
    assert unpacked(data, target)
    (cell / ".draft").unlink()
    (cell / "elsewhere").unlink()
    assert content(target) == content(cell)
    assert leftovers(target.parent) == []


def test_equal_folders_make_equal_bytes_whatever_their_times_and_order(cell, tmp_path):
    data = packed(cell)
    twin = tmp_path / "twin"
    assert unpacked(data, twin)
    for path in twin.rglob("*"):
        os.utime(path, (1, 1))
    (twin / "cell.json").chmod(0o600)
    assert packed(twin) == data


def test_a_folder_that_stands_already_stays_as_it_is(cell, tmp_path):
    data = packed(cell)
    target = tmp_path / "there"
    target.mkdir()
    (target / "cell.json").write_text("mine")
    assert not unpacked(data, target)
    assert content(target) == {"cell.json": b"mine"}


def test_no_damage_passes_and_nothing_is_left_of_what_was_damaged(cell, tmp_path):
    data, target = packed(cell), tmp_path / "out" / "abc"
    assert len(data) > 8 * 1024
    for k in range(0, len(data), 197):
        broken = bytearray(data)
        broken[k] ^= 0x15
        with contextlib.suppress(BadInput):
            unpacked(bytes(broken), target)
            # The byte was in the padding between files, of which nothing is kept.
            assert content(target) == content(cell)
            shutil.rmtree(target)
        assert not target.exists()
    for size in range(0, data.rindex(b"}\n"), 511):
        with pytest.raises(BadInput, match="damaged or incomplete"):
            unpacked(data[:size], target)
    assert not target.exists()
    assert leftovers(target.parent) == []


def forged(members):
    """A tar with a right manifest of what somebody else put into it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        sums = {}
        for member, text in members:
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
            sums[member.name] = hashlib.sha256(text).hexdigest()
        manifest = json.dumps({"schema": 1, "version": "9", "kind": "folder", "files": sums}).encode()
        end = tarfile.TarInfo(MANIFEST)
        end.size = len(manifest)
        tar.addfile(end, io.BytesIO(manifest))
    return stream.getvalue()


def member(name, kind=tarfile.REGTYPE, link=""):
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found


FOREIGN = {
    "above": member("../evil"),
    "absolute": member("/tmp/evil"),
    "hidden above": member("a/../../evil"),
    "windows": member("..\\evil"),
    "drive": member("C:evil"),
    "link": member("evil", tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": member("evil", tarfile.LNKTYPE, "cell.json"),
    "device": member("evil", tarfile.CHRTYPE),
    "pipe": member("evil", tarfile.FIFOTYPE),
    "folder": member("evil", tarfile.DIRTYPE),
    "twice": member("cell.json"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_paths_links_and_devices_are_refused(kind, tmp_path):
    data = forged([(member("cell.json"), b"{}"), (FOREIGN[kind], b"")])
    with pytest.raises(BadInput, match="which is not taken"):
        unpacked(data, tmp_path / "deep" / "er" / "abc")
    assert list((tmp_path / "deep" / "er").iterdir()) == []
    assert [p.name for p in tmp_path.iterdir()] == ["deep"]


def test_what_a_later_version_packed_is_told_so(cell, tmp_path):
    data = packed(cell).replace(b'"schema": 1', b'"schema": 7')
    with pytest.raises(BadInput, match="later than this one"):
        unpacked(data, tmp_path / "abc")


def test_a_place_that_cannot_be_written_is_one_line(cell):
    with pytest.raises(StoreError, match="cannot write packed bytes to '/proc"):
        unpacked(packed(cell), Path("/proc/shaping-bench/abc"))
