"""Files that learners read: who names one says by its hash which content is meant."""

import functools
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

POLICIES = Path(__file__).absolute().parents[2] / "configs" / "reference" / "policies"
"""Where policies are that are shipped: ``NAME.npz``, and what is known of them in ``policies.json``."""


@functools.cache
def shipped(folder: Path = POLICIES) -> Mapping[str, Mapping[str, Any]]:
    """What is known of policies that are shipped, by name."""
    path = folder / "policies.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def list_shipped(entries: Mapping[str, Mapping[str, Any]], folder: Path = POLICIES) -> None:
    """Writes what is known of policies that are shipped."""
    (folder / "policies.json").write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")
    shipped.cache_clear()


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
