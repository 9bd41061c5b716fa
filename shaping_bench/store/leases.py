"""Leases: among independent processes on one directory, one does a job at a time.

A lease is a file that only one can create, and that its owner writes anew every few seconds. Who finds
one asks what it says; one that has said the same for a minute has no owner any more, and is taken
over. No clocks are compared, only one's own is read; and the files are opened anew to be looked at,
which shows on network file systems what others have written. On the machine of the owner a lease
ends with its process, at once.

Leases save work, they guard nothing: should two do one job after all, both end in the same bits, and
the store keeps one of them.
"""

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

BEAT_SECONDS = 10.0
"""Between two signs of life."""

STALE_SECONDS = 60.0
"""Without any, after which a lease is nobody's."""


@dataclasses.dataclass(frozen=True)
class Sign:
    """What a lease says: whose it is, and how often its owner has said so."""

    host: str
    pid: int
    token: str
    beat: int

    def text(self) -> str:
        return json.dumps(dataclasses.asdict(self)) + "\n"


class Leases:
    """The leases of a folder, as one process sees them. Any thread may ask.

    Args:
      folder: created when the first lease is taken.
      beat_seconds: between two signs of life, which a thread gives as long as there are leases; None
        leaves them to calls of :meth:`beat`.
      clock: seconds of a clock.
      host: the machine; a process number means something on the same one only.
    """

    def __init__(
        self,
        folder: Path,
        *,
        beat_seconds: float | None = BEAT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        host: str | None = None,
    ) -> None:
        self.folder, self.beat_seconds, self.clock = folder, beat_seconds, clock
        self.host = _host() if host is None else host
        self._seen: dict[str, tuple[Sign | None, float]] = {}
        self._owned: dict[str, Sign] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def take(self, key: str) -> bool:
        """Takes a lease, if it is nobody's."""
        sign = Sign(host=self.host, pid=os.getpid(), token=uuid.uuid4().hex, beat=0)
        with contextlib.suppress(OSError):  # not its parents: a results directory that is away is not to be made
            self.folder.mkdir(exist_ok=True)
        if not self._created(self._path(key), sign) and not (self._stale(key) and self._taken_over(key, sign)):
            return False
        with self._lock:
            self._owned[key] = sign
            self._seen.pop(key, None)
            if self.beat_seconds is not None and self._thread is None:
                self._thread = threading.Thread(target=self._live, daemon=True)
                self._thread.start()
        return True

    def _live(self) -> None:
        while True:
            time.sleep(self.beat_seconds or 0.0)
            with self._lock:
                if not self._owned:
                    self._thread = None
                    return
            self.beat()

    def give_back(self, key: str) -> None:
        """Ends one's own lease."""
        with self._lock:
            sign = self._owned.pop(key, None)
        if sign is not None and self._is_mine(key, sign):
            with contextlib.suppress(OSError):  # the directory is away by now: the lease ends with this process
                self._path(key).unlink(missing_ok=True)

    def beat(self) -> None:
        """Says that the owner of all its leases is there; one that others took over is given up."""
        with self._lock:
            owned = dict(self._owned)
        for key, sign in owned.items():
            mine = self._is_mine(key, sign)
            if mine is None:  # the directory is away, and may come back
                continue
            later = dataclasses.replace(sign, beat=sign.beat + 1)
            if mine:
                with contextlib.suppress(OSError):
                    self._path(key).write_text(later.text())
            with self._lock:
                if self._owned.get(key) is sign:
                    if mine:
                        self._owned[key] = later
                    else:
                        del self._owned[key]

    def _is_mine(self, key: str, sign: Sign) -> bool | None:
        """Whether the lease says so; None if it cannot be read."""
        found = self._read(self._path(key))
        return None if found is None and not self.folder.is_dir() else found is not None and found.token == sign.token

    def _stale(self, key: str) -> bool:
        """Whether the lease, which somebody has or had, has said nothing new for long."""
        sign, now = self._read(self._path(key)), self.clock()
        if sign is not None and sign.host == self.host and not _alive(sign.pid):
            return True
        before, since = self._seen.get(key, (None, now))
        if key not in self._seen or sign != before:
            self._seen[key] = (sign, now)
            return False
        return now - since >= STALE_SECONDS

    def _taken_over(self, key: str, sign: Sign) -> bool:
        """Takes a stale lease over, unless somebody else does: of all who found that very lease stale, one
        can create the file that says so."""
        stale = self._read(self._path(key))
        marker = self._path(f"{key}.after-{stale.token if stale is not None else 'none'}")
        if not self._created(marker, sign):
            if self._stale(marker.name):  # who wanted to take it over has died as well
                marker.unlink(missing_ok=True)
            return False
        try:
            # Somebody may have done all this in the meantime, marker and all.
            if self._read(self._path(key)) != stale:
                return False
            draft = self._path(f".{sign.token}")
            draft.write_text(sign.text())
            os.replace(draft, self._path(key))
            return True
        except OSError:
            return False
        finally:
            marker.unlink(missing_ok=True)

    def _created(self, path: Path, sign: Sign) -> bool:
        """Makes a file that is not there yet.

        A folder that cannot be written refuses nobody: what comes of the job will tell why.
        """
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        except OSError:
            return True
        with os.fdopen(handle, "w") as file, contextlib.suppress(OSError):
            file.write(sign.text())
        return True

    def _read(self, path: Path) -> Sign | None:
        """What a lease says; None if it is not there, or half written."""
        try:
            return Sign(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _path(self, key: str) -> Path:
        return self.folder / key


def _host() -> str:
    """The machine, and where there are containers, which of its sets of process numbers."""
    with contextlib.suppress(OSError):
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
