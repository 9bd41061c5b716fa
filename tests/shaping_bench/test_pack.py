"""Results as bytes: what is packed comes back, whatever is not ours is refused."""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from shaping_bench import __version__
from shaping_bench.cli import main
from shaping_bench.errors import BadInput, StoreError
from shaping_bench.run.artifacts import Artifacts
from shaping_bench.run.checkpoints import Checkpoint, Moment
from shaping_bench.run.runner import run_suite
from shaping_bench.spec.suite import expand, resolve, validate
from shaping_bench.store.pack import MANIFEST, bytes_of, pack, packed, unpack, unpacked
from shaping_bench.store.store import Store, read_parquet, write_parquet
from tests.shaping_bench.walker import preparation


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


def forged(members, kind="folder"):
    """A tar with a right manifest of what somebody else put into it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        sums = {}
        for member, text in members:
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
            sums[member.name] = hashlib.sha256(text).hexdigest()
        manifest = json.dumps({"schema": 1, "version": "9", "kind": kind, "files": sums}).encode()
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


# --- directories --------------------------------------------------------------------------


def suite(**changes):
    content = {"name": "packed", "games": ["ipd"], "learners": ["naive", "lola"], "seeds": 2, "steps": 3}
    return expand(validate({**content, **changes}))


def checkpoint(path):
    return Checkpoint(path, {"of": "a test"})


def moment(done):
    return Moment(done=done, seconds=1.0, leaves=[np.arange(3)], updates=np.zeros(0, int), records={})


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A results directory with all there is: cells, an artifact, checkpoints, and what is not packed."""
    directory = tmp_path_factory.mktemp("packed") / "results"
    assert run_suite(suite(), Store(directory)) == []
    Artifacts(directory / "artifacts").prepared(preparation(num_steps=4))
    checkpoint(directory / "artifacts" / ".checkpoint-0123.npz").save(moment(7))
    (directory / "checkpoints").mkdir()
    shutil.copy(directory / "artifacts" / ".checkpoint-0123.npz", directory / "checkpoints" / "4567.npz")
    (directory / "checkpoints" / "4567.npz-draft").write_text("half")
    (directory / "cells" / ".half").mkdir()
    (directory / "cells" / ".half" / "cell.json").write_text("{")
    (directory / "wandb").mkdir()
    (directory / "wandb" / "run.wandb").write_text("of this machine")
    (directory / "report.html").write_text("made again")
    return directory


PACKED = {"cell": 3, "artifact": 1, "checkpoint": 2}


def of_results(directory):
    """What is packed of a directory, by path."""
    unpacked = (".half", "wandb", "report.html", "draft")
    return {name: data for name, data in content(directory).items() if not any(x in name for x in unpacked)}


def test_a_directory_comes_back_elsewhere_and_nothing_is_left_to_do(results, tmp_path):
    package = pack(results, tmp_path / "a.tar")
    assert package.paths == (tmp_path / "a.tar",)
    assert package.counts == PACKED
    assert package.size == (tmp_path / "a.tar").stat().st_size
    merger = unpack(tmp_path / "a.tar", tmp_path / "there", resolve)
    assert merger.new == PACKED
    assert content(tmp_path / "there") == of_results(results)
    assert leftovers(tmp_path / "there") == leftovers(tmp_path) == []
    began = []
    assert run_suite(suite(), Store(tmp_path / "there"), lambda cell, now: began.append(now)) == []
    assert began == [False] * 3
    again = unpack(tmp_path / "a.tar", tmp_path / "there", resolve)
    assert not any(again.new.values())
    assert again.old == PACKED
    assert again.conflicts == ()
    pack(tmp_path / "there", tmp_path / "b.tar")
    assert (tmp_path / "b.tar").read_bytes() == (tmp_path / "a.tar").read_bytes()


def test_a_tar_as_any_other(results, tmp_path):
    pack(results, tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as tar:
        names = tar.getnames()
        manifest = json.load(tar.extractfile(MANIFEST))
        assert names == [*sorted(manifest["files"]), MANIFEST]
        assert (manifest["schema"], manifest["kind"], manifest["version"]) == (1, "results", __version__)
        for name, stated in manifest["files"].items():
            assert hashlib.sha256(tar.extractfile(name).read()).hexdigest() == stated


def test_parts_are_the_file_and_each_is_needed(results, tmp_path):
    pack(results, tmp_path / "whole.tar")
    whole = (tmp_path / "whole.tar").read_bytes()
    folder = tmp_path / "parts"
    (folder).mkdir()
    (folder / "a.tar.099").write_text("of an earlier, longer file")
    package = pack(results, folder / "a.tar", part_size=len(whole) // 98)
    assert len(package.paths) in (98, 99)
    package = pack(results, folder / "a.tar", part_size=10_000)
    assert [p.name for p in package.paths] == sorted(p.name for p in folder.iterdir())
    assert all(p.stat().st_size == 10_000 for p in package.paths[:-1])
    assert b"".join(p.read_bytes() for p in package.paths) == whole
    for k, name in enumerate(("a.tar", "a.tar.001")):
        assert unpack(folder / name, tmp_path / f"out-{k}", resolve).new == PACKED
    assert content(tmp_path / "out-0") == of_results(results)
    with pytest.raises(BadInput, match=r"which is no first part; allowed: '.*a\.tar\.001'"):
        unpack(folder / "a.tar.002", tmp_path / "no")
    for path in package.paths[len(whole.rstrip(b"\0")) // 10_000 :]:  # what is behind its end is empty
        path.unlink()
    with pytest.raises(BadInput, match="damaged or incomplete"):
        unpack(folder / "a.tar.001", tmp_path / "no", resolve)
    package.paths[1].unlink()
    with pytest.raises(BadInput, match=r"a\.tar\.002' is missing"):
        unpack(folder / "a.tar.001", tmp_path / "no")
    assert not (tmp_path / "no" / "cells").exists()


def test_what_stands_already_is_kept_and_other_numbers_are_told(results, tmp_path):
    pack(results, tmp_path / "a.tar")
    there = tmp_path / "there"
    unpack(tmp_path / "a.tar", there, resolve)
    later, other, missing = sorted(p for p in (there / "cells").iterdir())
    record = json.loads((later / "cell.json").read_text())
    (later / "cell.json").write_text(json.dumps({**record, "timings": {"run": 99.0}}))  # the same numbers, another day
    finals = read_parquet(other / "finals.parquet")
    write_parquet(finals.assign(value=finals["value"] + 1.0), other / "finals.parquet")
    shutil.rmtree(missing)
    # One checkpoint is further here, the other there.
    checkpoint(there / "artifacts" / ".checkpoint-0123.npz").save(moment(8))
    checkpoint(there / "checkpoints" / "4567.npz").save(moment(6))
    kept = content(there / "cells")
    merger = unpack(tmp_path / "a.tar", there, resolve)
    assert merger.new == {"cell": 1, "artifact": 0, "checkpoint": 1}
    assert merger.old == {"cell": 2, "artifact": 1, "checkpoint": 1}
    assert merger.conflicts == (f"cells/{other.name}",)
    assert {name: data for name, data in content(there / "cells").items() if name in kept} == kept
    assert content(missing) == content(results / "cells" / missing.name)
    assert checkpoint(there / "artifacts" / ".checkpoint-0123.npz").load().done == 8
    assert checkpoint(there / "checkpoints" / "4567.npz").load().done == 7


def test_the_same_numbers_of_another_day_are_no_conflict(results, tmp_path):
    """Two machines have computed the same cell; where it ended also says how long that took."""
    for place, seconds in (("one", 1.0), ("other", 2.0)):
        shutil.copytree(results, tmp_path / place)
        for cell in (tmp_path / place / "cells").iterdir():
            end = dataclasses.replace(moment(3), seconds=seconds)
            checkpoint(cell / "state.npz").save(end)
    pack(tmp_path / "one", tmp_path / "a.tar")
    assert unpack(tmp_path / "a.tar", tmp_path / "other", resolve).conflicts == ()
    cell = next((tmp_path / "other" / "cells").glob("[!.]*"))
    checkpoint(cell / "state.npz").save(dataclasses.replace(moment(3), leaves=[np.arange(3) + 1]))
    assert unpack(tmp_path / "a.tar", tmp_path / "other", resolve).conflicts == (f"cells/{cell.name}",)


def test_a_checkpoint_of_what_has_ended_there_is_left_out(results, tmp_path):
    pack(results, tmp_path / "a.tar")
    (tmp_path / "there" / "artifacts" / "0123").mkdir(parents=True)
    unpack(tmp_path / "a.tar", tmp_path / "there", resolve, "results")
    assert not (tmp_path / "there" / "artifacts" / ".checkpoint-0123.npz").exists()


def test_a_directory_of_another_suite_is_refused_and_stays_as_it_was(results, tmp_path):
    pack(results, tmp_path / "a.tar")
    other = Store(tmp_path / "other")
    other.adopt(suite(seeds=3).resolved())
    before = content(other.directory)
    with pytest.raises(BadInput, match=r"made by another suite: suite\.seeds is 3 there and 2 here"):
        unpack(tmp_path / "a.tar", other.directory, resolve)
    assert content(other.directory) == before
    assert leftovers(other.directory) == []


def test_a_cache_is_packed_alike_and_not_mixed_up_with_results(results, tmp_path):
    cache = tmp_path / "cache"
    shutil.copytree(results / "artifacts", cache / "artifacts")
    (cache / "jax").mkdir()
    (cache / "jax" / "program").write_text("of this machine")
    (cache / "checkpoints").mkdir()
    (cache / "checkpoints" / "verdicts-1.json").write_text('{"a claim": []}')
    assert pack(cache, tmp_path / "c.tar").counts == {"cell": 0, "artifact": 1, "checkpoint": 2}
    target = tmp_path / "home"
    unpack(tmp_path / "c.tar", target, kind="cache")
    assert {name.split("/")[0] for name in content(target)} == {"artifacts", "checkpoints"}
    (target / "checkpoints" / "verdicts-1.json").write_text('{"a claim": [], "one more": []}')
    assert unpack(tmp_path / "c.tar", target, kind="cache").new["checkpoint"] == 0
    pack(results, tmp_path / "r.tar")
    for path, kind, directory in (("c.tar", None, results), ("r.tar", "cache", target), ("r.tar", None, target)):
        with pytest.raises(BadInput, match="is of kind"):
            unpack(tmp_path / path, directory, resolve, kind)


@pytest.mark.parametrize("name", ["cells/abc", "wandb/run", "cells/.half/cell.json", "checkpoints/x.sh", "notes"])
def test_only_what_belongs_to_results_is_unpacked(name, tmp_path):
    (tmp_path / "a.tar").write_bytes(forged([(member(name), b"x")], "cache"))
    with pytest.raises(BadInput, match="which is not taken"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_damage_anywhere_changes_nothing(results, tmp_path):
    data = pack(results, tmp_path / "a.tar") and (tmp_path / "a.tar").read_bytes()
    there = tmp_path / "there"
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
    # Within files: behind each a tar is filled up with zeros that nobody reads.
    inside = [x.offset_data + x.size // 2 for x in (members[len(members) // 2], members[-2], members[-1])]
    for k in (0, 200, 700, *inside):
        broken = bytearray(data)
        broken[k : k + 40] = bytes(x ^ 0x55 for x in broken[k : k + 40])
        (tmp_path / "b.tar").write_bytes(bytes(broken))
        with pytest.raises(BadInput, match=r"b\.tar"):
            unpack(tmp_path / "b.tar", there, resolve)
        assert list(there.iterdir()) == []
    (tmp_path / "b.tar").write_bytes(b"")
    with pytest.raises(BadInput, match="damaged or incomplete"):
        unpack(tmp_path / "b.tar", there, resolve)


def test_sizes_are_read_as_people_write_them():
    sizes = {"500MB": 5 * 10**8, "500M": 5 * 10**8, "1.5gb": 15 * 10**8, "64MiB": 2**26, " 2 KiB ": 2048, "4096": 4096}
    assert {text: bytes_of(text) for text in sizes} == sizes
    for text in ("", "MB", "0", "-5MB", "999", "5 apples", "1e6", "0.1KB", "9" * 400):
        with pytest.raises(BadInput, match=r"--part-size is .* allowed: a size of at least 1000 bytes"):
            bytes_of(text)


# --- the commands -------------------------------------------------------------------------


def test_the_commands_say_what_they_did(results, tmp_path, capsys):
    file, there = tmp_path / "a.tar", tmp_path / "there"
    assert main(["pack", str(results), str(file), "--part-size", "20KB"]) == 0
    assert main(["unpack", str(file), str(there)]) == 0
    assert main(["unpack", f"{file}.001", str(there)]) == 0
    said = capsys.readouterr().out.splitlines()
    number = len(list(tmp_path.glob("a.tar.*")))
    assert said[0].startswith(f"{file}.001 to a.tar.{number:03d}: 3 cells, 1 artifact, 2 checkpoints; ")
    assert said[0].endswith(f" {sum(p.stat().st_size for p in tmp_path.glob('a.tar.*')) / 1000:.1f} kB")
    assert said[1] == f"{there}: 3 cells, 1 artifact, 2 checkpoints taken over"
    kept = "kept, as they stand already: 3 cells, 1 artifact, 2 checkpoints"
    assert said[2] == f"{there}: nothing taken over; {kept}"
    cell = next((there / "cells").iterdir())
    shutil.copy(cell / "curves.parquet", cell / "finals.parquet")
    assert main(["unpack", str(file), str(there)]) == 1
    assert f"{cell} has other numbers than {file} and was kept" in capsys.readouterr().err


def test_the_cache_is_packed_by_its_flag(results, tmp_path, capsys, monkeypatch):
    for home in ("here", "there"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / home))
        if home == "here":
            shutil.copytree(results / "artifacts", tmp_path / "here" / "shaping-bench" / "artifacts")
            assert main(["pack", "--cache", str(tmp_path / "c.tar")]) == 0
        else:
            assert main(["unpack", "--cache", str(tmp_path / "c.tar")]) == 0
    there = tmp_path / "there" / "shaping-bench"
    assert content(there / "artifacts") == content(results / "artifacts")
    assert f"{there}: 1 artifact, 1 checkpoint taken over" in capsys.readouterr().out


BAD = {
    "no results": (["pack", "{empty}", "{empty}/a.tar"], "holds no results"),
    "no directory": (["pack", "{empty}/none", "{empty}/a.tar"], "holds no results"),
    "no file": (["pack", "{results}"], "allowed: pack DIR FILE, or pack --cache FILE"),
    "cache and directory": (["pack", "--cache", "{results}", "a.tar"], "allowed: pack DIR FILE, or pack --cache FILE"),
    "onto a directory": (["pack", "{results}", "{empty}"], "which is a directory"),
    "unwritable": (["pack", "{results}", "/proc/a.tar"], "'/proc/a.tar', which cannot be written"),
    "part size": (["pack", "{results}", "{empty}/a.tar", "--part-size", "tiny"], "--part-size is 'tiny'"),
    "nothing there": (["unpack", "{empty}/none.tar", "{empty}/out"], "none.tar', which does not exist"),
    "no target": (["unpack", "{results}/suite.yaml"], "allowed: unpack FILE DIR, or unpack --cache FILE"),
    "none of ours": (["unpack", "{results}/suite.yaml", "{empty}/out"], "suite.yaml' is damaged or incomplete"),
    "into a file": (["unpack", "{results}/suite.yaml", "{results}/report.html"], "report.html' is a file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_line(kind, results, tmp_path, capsys):
    arguments, complaint = BAD[kind]
    assert main([x.format(results=results, empty=tmp_path) for x in arguments]) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert said.count("\n") == 1


def test_a_full_disk_replaces_no_file_and_leaves_no_half_cell(results, tmp_path):
    """No file may grow beyond a limit: what is packed does not fit, then what is unpacked does not."""
    file, there = tmp_path / "a.tar", tmp_path / "there"
    size = pack(results, file).size
    before = file.read_bytes()

    def limited(limit, *arguments):
        program = (
            f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
            "from shaping_bench.cli import main; sys.exit(main(sys.argv[1:]))"
        )
        # Without -B a module that is imported for the first time leaves half of its compiled code.
        command = [sys.executable, "-B", "-c", program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    done = limited(size // 2, "pack", results, file)
    assert done.returncode == 1, done.stderr
    assert "a.tar': File too large; it was not replaced" in done.stderr
    assert file.read_bytes() == before
    done = limited(1000, "unpack", file, there)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("shaping-bench: cannot write ")
    assert not list(there.rglob("cell.json"))
    assert leftovers(tmp_path) == leftovers(there) == []
