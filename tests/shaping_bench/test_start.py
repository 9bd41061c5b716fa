"""How processes of ours start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import shaping_bench
from shaping_bench import start

ROOT = Path(shaping_bench.__file__).parent.parent


@pytest.mark.parametrize(
    ("offered", "told", "wanted"),
    [
        ("always [madvise] never", None, "glibc.malloc.hugetlb=1"),
        ("always [madvise] never", "glibc.malloc.check=1", "glibc.malloc.check=1:glibc.malloc.hugetlb=1"),
        ("always [madvise] never", "glibc.malloc.hugetlb=0", None),  # the user's own
        ("[always] madvise never", None, None),  # they come unasked
        ("always madvise [never]", None, None),
        (None, None, None),  # another system
    ],
)
def test_large_pages_are_asked_for_where_who_asks_gets_them(offered, told, wanted, tmp_path):
    path = tmp_path / "enabled"
    if offered is not None:
        path.write_text(f"{offered}\n")
    own = {"HOME": "/home/me"} | ({} if told is None else {start.TUNABLES: told})
    assert start.environment(own, path) == (wanted and {**own, start.TUNABLES: wanted})


@pytest.mark.parametrize(
    "given",
    [
        ["python", "-m", "pdb", "-m", "shaping_bench", "list"],
        ["python", "/bin/coverage", "run", "-m", "shaping_bench", "list"],
        ["python", "-m", "pytest", "list"],
        ["python", "-c", "main()", "list"],
        ["python", "-m", "shaping_bench", "list", "games"],  # main was given other arguments
        ["python"],
    ],
)
def test_what_was_started_otherwise_stays_what_it_is(given):
    assert start.command("shaping_bench", given, ["list"]) is None


PROBE = """
import json, os, sys
from shaping_bench import start
first = os.environ.setdefault("FIRST", str(os.getpid()))
start.settle("probe")
same = first == str(os.getpid())
print(json.dumps([os.environ.get(start.TUNABLES), sys.argv[1:], sys.dont_write_bytecode, sys.stdin.read(), same]))
"""


def test_a_process_starts_anew_once_as_itself(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    own = {name: x for name, x in os.environ.items() if name != start.TUNABLES}
    done = subprocess.run(
        [sys.executable, "-B", "-m", "probe", "a", "b c", "-m"],
        env={**own, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        input="what it reads",
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = (start.environment(own) or own).get(start.TUNABLES)
    assert json.loads(done.stdout) == [wanted, ["a", "b c", "-m"], True, "what it reads", True]
