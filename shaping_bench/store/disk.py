"""Folders that survive a loss of power: whole under their names, or not there at all.

A rename alone does not promise that. The file system may write the new name before what the files hold, and
a machine that goes down in between comes back with a folder of empty files under a name that says that all
is done. So contents reach the disk first, then the name does.
"""

import contextlib
import os
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
