"""The examples in docstrings, ``>>>``, are run."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLACES = {"algorithms": "shaping_bench.algorithms", "games": "shaping_bench.games", "shaping_bench": "shaping_bench"}
NOT_IMPORTED = {"docs", "templates"}


def modules():
    """Modules of ours with an example in them, by the names at which they are imported."""
    found = []
    for folder, package in PLACES.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            inner = file.relative_to(ROOT / folder).with_suffix("")
            if not NOT_IMPORTED & set(inner.parts) and re.search(r"^\s*>>> ", file.read_text(), re.MULTILINE):
                found.append(".".join([package, *inner.parts]).removesuffix(".__init__"))
    return found


@pytest.mark.parametrize("name", modules())
def test_examples_do_what_they_say(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
    assert result.attempted


def test_there_are_examples_of_what_users_call():
    assert {"shaping_bench.algorithms.core.stage", "shaping_bench.games.base", "shaping_bench.conformance.kit"} <= {
        *modules()
    }
