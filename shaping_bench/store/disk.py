"""Folders that survive a loss of power: whole under their names, or not there at all.

A rename alone does not promise that. The file system may write the new name before what the files hold, and
a machine that goes down in between comes back with a folder of empty files under a name that says that all
is done. So contents reach the disk first, then the name does.
"""

import contextlib
import math
import os
import time
from pathlib import Path


def place(draft: Path, folder: Path) -> None:
    """Gives a draft, which holds plain files only, its name; on the disk when this returns.

    Raises:
      OSError: a folder of this name stands there already, or the disk fails.
    """
    for path in sorted(draft.iterdir()):
        sync_file(path)
    sync_folder(draft)
    os.rename(draft, folder)
    sync_folder(folder.parent)


def sync_file(path: Path) -> None:
    """What a file holds survives a loss of power.

    Raises:
      OSError: the disk fails, or is full where space is only found as data reach it.
    """
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Names in a folder survive it too, where the system can be asked for that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def prune(folder: Path, *, most: int, days: float = math.inf) -> None:
    """Removes files not written to for so many days, and of the others the oldest until they take at most so many
    bytes; what other processes do there meanwhile is no matter."""
    found = []
    with contextlib.suppress(OSError):  # there is none yet
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):  # another process has removed it
                if entry.is_file(follow_symlinks=False):
                    about = entry.stat(follow_symlinks=False)
                    found.append((about.st_mtime, about.st_size, entry.path))
    now, total = time.time(), 0
    for written, size, path in sorted(found, reverse=True):
        total += size
        if now - written > 86400.0 * days or total > most:
            with contextlib.suppress(OSError):
                os.unlink(path)
