"""Content hashes: what is stored under them is what they describe."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

LENGTH = 24
"""Hexadecimal digits of a hash."""


def content_hash(identity: Mapping[str, Any]) -> str:
    """Hash of what is plain enough for JSON; the order of keys does not matter.

    >>> content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:LENGTH]
