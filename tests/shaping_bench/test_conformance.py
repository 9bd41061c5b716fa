"""The conformance kit passes on everything that is registered, and finds each of many seeded faults."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import jax
import pytest

from shaping_bench.algorithms import ALGORITHMS
from shaping_bench.conformance.declarations import check_class
from shaping_bench.conformance.kit import check_game, check_learner, check_target
from shaping_bench.errors import BadInput
from shaping_bench.games import GAMES

_spec = importlib.util.spec_from_file_location("faults", Path(__file__).with_name("faults.py"))
faults = importlib.util.module_from_spec(_spec)
sys.modules["faults"] = faults
_spec.loader.exec_module(faults)

NUMBERS = {
    "matrix": GAMES["ipd"].defaults,
    "matrix-one-shot": GAMES["matching-pennies"].defaults,
    # Boards whose programs take long to compile, with few players and steps.
    "in-the-matrix": {"horizon": 9, "episodes": 2},
    "in-the-matrix-repeated": {"horizon": 20},
    "harvest": {"layout": "small", "num_players": 3, "horizon": 20},
    "cleanup": {"layout": "small", "num_players": 2, "horizon": 20},
    "cleanup-lite": {"horizon": 20},
    "ordinal": {"index": 70},
    "tensor": {"num_players": 2},
    "public-goods": {"num_players": 2},  # three compile for long, and are other numbers of the same code
}
"""Of games that need some, or are checked with others than their own."""

NO_OP = "a step size of zero is a no-op"


def missing(findings):
    return [str(finding) for finding in findings if not finding.passed]


def described(findings):
    return {finding.check for finding in findings}


@pytest.fixture
def few_programs():
    """Hundreds of compiled programs exhaust a process's memory mappings."""
    yield
    jax.clear_caches()


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_registered_algorithms_pass(name):
    findings = check_learner(ALGORITHMS[name], thorough=False)
    assert missing(findings) == []
    assert described(findings) >= {
        "finite",
        "update is a pure function",
        "random keys are used once, and no others",
        "seeds are independent of the batch",
        "sees only what it declares",
        "hyperparameters are validated",
    }
    assert ("the artifact matters" in described(findings)) == ALGORITHMS[name].needs_preparation


def test_registered_games_pass():
    # In one test: games that differ in numbers only share their programs.
    for name, entry in GAMES.items():
        findings = check_game(entry.cls, NUMBERS.get(name, entry.defaults))
        assert missing(findings) == [], name
        names = {finding.name for finding in findings}
        assert ("differentiable" in names) == ("exact" in entry.cls.views)
        assert ("sampled view: finite" in names) == ("sampled" in entry.cls.views)


@pytest.mark.parametrize("twin", faults.HONEST, ids=lambda cls: cls.__name__)
def test_the_honest_twins_pass(twin):
    findings = check_game(twin) if issubclass(twin, faults.Game) else check_learner(twin)
    assert missing(findings) == []
    if not issubclass(twin, faults.Game):
        assert "an encounter runs, is measured, stored and read back" in described(findings)


@pytest.mark.parametrize(
    ("check", "cls"),
    [(check, cls) for check, classes in faults.LEARNERS.items() for cls in classes],
    ids=lambda x: getattr(x, "__name__", ""),
)
# A rule that asks for float64 in vain is told so by JAX too; the kit says what to do.
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")
def test_a_faulty_rule_is_found(check, cls):
    found = [finding for finding in check_learner(cls) if not finding.passed]
    assert {finding.check for finding in found} == {check}, missing(found)
    assert all(finding.detail for finding in found)


@pytest.mark.parametrize(
    ("check", "cls"),
    [(check, cls) for check, classes in faults.GAMES.items() for cls in classes],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_faulty_game_is_found(check, cls):
    found = [finding for finding in check_game(cls) if not finding.passed]
    assert {finding.name for finding in found} == {check}, missing(found)
    assert all(finding.detail for finding in found)


def test_a_step_size_that_is_not_declared_is_noted():
    (note,) = [f for f in check_learner(faults.StepsUndeclared, thorough=False) if f.check == NO_OP]
    assert note.passed
    assert "lr may be a step size" in note.detail


def test_a_class_that_is_no_dataclass_is_told_so_first():
    class Plain(faults.Ascent):
        """No decorator."""

    findings = check_learner(Plain)
    assert findings[0].passed is False
    assert "pytree_dataclass" in findings[0].detail


def test_fields_without_a_meaning_or_choices_are_found():
    @faults.pytree_dataclass
    class Silent(faults.Ascent):
        """Its fields say nothing."""

        depth: int = dataclasses.field(default=1, metadata={"static": True})
        mode: str = faults.field("slow", "how", static=True)

    found = {finding.name: finding.detail for finding in check_class(Silent) if not finding.passed}
    assert "depth" in found["is documented"]
    assert "depth" in found["hyperparameters are validated"]


def test_targets_by_name():
    assert missing(check_target("tandem")) == []
    with pytest.raises(BadInput, match="MODULE:CLASS"):
        check_target("no-such-rule")
