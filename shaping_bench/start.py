"""What a process can only be told before it starts, and so starts itself anew for.

Buffers of large programs come from the system and go back to it at every call, page by page of 4 KiB, which took a
third of the time of methods that remember much. In pages of 2 MiB it is hardly anything; glibc asks for those where it
finds in the environment, as it starts, that it should.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

TUNABLES = "GLIBC_TUNABLES"
LARGE_PAGES = "glibc.malloc.hugetlb"
"""Of glibc's tunables the one that asks for large pages."""

OFFERED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
"""Where Linux says whether who asks for large pages gets them."""


def environment(told: Mapping[str, str], offered: Path = OFFERED) -> dict[str, str] | None:
    """The environment in which a process of ours should start; None where the one it has will do.

    Args:
      told: the one it has.
      offered: what :data:`OFFERED` is.
    """
    tunables = told.get(TUNABLES, "")
    try:
        asked = "[madvise]" in offered.read_text()
    except OSError:  # another system
        asked = False
    if not asked or LARGE_PAGES in tunables:
        return None
    return {**told, TUNABLES: ":".join(x for x in (tunables, f"{LARGE_PAGES}=1") if x)}


def command(module: str, given: Sequence[str], arguments: Sequence[str]) -> list[str] | None:
    """The command that starts this process again; None where it was not started as ``python -m module`` or by a
    script of its name, and by nothing else: under debuggers and the like it stays what it is.

    >>> command("shaping_bench", ["python", "-m", "shaping_bench", "list"], ["list"])[1:]
    ['-m', 'shaping_bench', 'list']
    >>> command("shaping_bench", ["python", "/bin/shaping-bench", "list"], ["list"])[1:]
    ['/bin/shaping-bench', 'list']
    >>> command("shaping_bench", ["python", "-m", "pdb", "-m", "shaping_bench", "list"], ["list"])

    Args:
      module: which was to run.
      given: the whole command, as ``sys.orig_argv`` has it.
      arguments: what it says to the module, as the rest of ``sys.argv`` has it.
    """
    launch = list(given[1 : len(given) - len(arguments)])
    if [*launch, *arguments] != list(given[1:]) or not sys.executable:
        return None
    if launch[-2:] == ["-m", module]:
        flags = launch[:-2]
    elif launch and Path(launch[-1]).stem == module.replace("_", "-"):
        flags = launch[:-1]
    else:
        return None
    return [sys.executable, *given[1:]] if all(x.startswith("-") for x in flags) else None


def settle(module: str) -> None:
    """Starts this process anew, as itself, in the environment that it should have; to be called before anything
    is imported that takes long."""
    wanted, again = environment(os.environ), command(module, sys.orig_argv, sys.argv[1:])
    if wanted is not None and again is not None:
        os.execve(again[0], again, wanted)


def main() -> int:
    """The command line."""
    settle("shaping_bench")
    from shaping_bench import cli

    return cli.main()
