"""What decides the numbers of a rule: all its code, and nothing but code."""

import importlib
import sys

import pytest

from shaping_bench.algorithms.good_shepherd import GoodShepherd
from shaping_bench.algorithms.lola import LOLA
from shaping_bench.algorithms.mfos import MFOS
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.parts.meta_game import MetaGame
from shaping_bench.games import make
from shaping_bench.spec import sources
from shaping_bench.spec.sources import source_hash

SHARED = '''
"""Shared."""
STEP = 1.0  # a comment
'''
RULE = '''
"""A rule."""
import dataclasses
from .shared import STEP

@dataclasses.dataclass(frozen=True)
class Rule:
    """Its docstring."""
    lr: float = STEP
    """What it is."""
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of somebody's own, with a function that rewrites one of its files."""
    folder = tmp_path / "somebodys_rules"
    folder.mkdir()

    def write(name, text):
        (folder / name).write_text(text)
        sources._file.cache_clear()
        sources._read.cache_clear()
        sources._hash.cache_clear()

    write("__init__.py", "")
    write("shared.py", SHARED)
    write("rule.py", RULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield write, importlib.import_module("somebodys_rules.rule").Rule
    for name in [x for x in sys.modules if x.startswith("somebodys_rules")]:
        del sys.modules[name]


def test_comments_and_docstrings_change_nothing(package):
    write, rule = package
    before = source_hash(rule)
    write("rule.py", RULE.replace("Its docstring.", "Another.").replace("What it is.", "Else.") + "\n# a comment\n")
    write("shared.py", SHARED.replace("# a comment", ""))
    assert source_hash(rule) == before


def test_a_shared_part_counts(package):
    write, rule = package
    before = source_hash(rule)
    write("shared.py", SHARED.replace("1.0", "2.0"))
    assert source_hash(rule) != before


def test_the_rule_itself_counts(package):
    write, rule = package
    before = source_hash(rule)
    write("rule.py", RULE.replace("lr: float", "rate: float"))
    assert source_hash(rule) != before


def modules_of(*owners):
    return set(sources._closure({base.__module__ for x in owners for y in sources._classes(x) for base in y.__mro__}))


def test_what_preparations_rest_on_is_in_their_hash():
    assert {MetaGame.__module__, Naive.__module__, LOLA.__module__} <= modules_of(GoodShepherd())
    assert {Naive.__module__, LOLA.__module__} <= modules_of(MFOS())
    assert "shaping_bench.algorithms.core.view" in modules_of(Naive())


def test_the_game_and_the_co_players_are_in_the_hash():
    ipd, coin = make("ipd"), make("coin-game")
    assert type(ipd).__module__ in modules_of(Naive(), ipd)
    assert len({source_hash(Naive(), ipd), source_hash(Naive(), coin), source_hash(LOLA(), ipd)}) == 3
    assert type(coin).__module__ not in modules_of(Naive(), ipd)  # a list of names brings no code
    assert source_hash((Naive(), LOLA())) == source_hash(LOLA(), Naive())
