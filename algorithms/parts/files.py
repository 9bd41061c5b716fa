"""Files that learners read: who names one says by its hash which content is meant."""

import hashlib
import io
from pathlib import Path


def content(path: str, sha256: str) -> io.BytesIO:
    """What a file holds.

    Args:
      path: of the file.
      sha256: of its content, at least eight first digits.

    Raises:
      ValueError: it is not there, or not the one that is meant.
    """
    try:
        found = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ValueError(f"reads {path}: {error.strerror}") from None
    digest = hashlib.sha256(found).hexdigest()
    if len(sha256) < 8 or not digest.startswith(sha256):
        raise ValueError(f"has sha256={sha256!r}; that of {path} begins with {digest[:16]}")
    return io.BytesIO(found)
