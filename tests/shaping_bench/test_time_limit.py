"""Time limits and signals: what runs is left at a checkpoint, and the same call goes on bit for bit."""

import dataclasses
import json

import numpy as np
import pytest

from shaping_bench.claims.files import load_claims
from shaping_bench.claims.verify import verify
from shaping_bench.errors import OutOfTime
from shaping_bench.run import devices
from shaping_bench.run.artifacts import Artifacts
from shaping_bench.run.deadline import Deadline
from shaping_bench.run.runner import run_suite
from shaping_bench.spec.suite import expand, validate
from shaping_bench.store.store import Store
from tests.shaping_bench.test_claims import changed, written
from tests.shaping_bench.test_interruption import numbers
from tests.shaping_bench.walker import preparation


def expired():
    deadline = Deadline()
    deadline.stop("enough")
    return deadline


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A user's cache of its own, for artifacts and checkpoints; compiled programs are shared."""
    monkeypatch.setattr(devices, "artifacts_folder", lambda: tmp_path / "cache" / "artifacts")
    return tmp_path / "cache"


# --- preparations -------------------------------------------------------------------------


def test_a_preparation_that_is_stopped_leaves_a_checkpoint_and_goes_on_to_the_same_artifact(tmp_path):
    asked = preparation(num_steps=60)
    whole = Artifacts(tmp_path / "whole").prepared(asked)
    steps = []
    while True:
        deadline = Deadline()

        def on_point(_, done, __, deadline=deadline):
            steps.append(done)
            if done % 20 == 0:
                deadline.stop("enough")

        artifacts = Artifacts(tmp_path / "broken", on_point, checkpoint_seconds=1e9, deadline=deadline)
        if len(steps) == 40:
            broken = artifacts.prepared(asked)
            break
        with pytest.raises(OutOfTime, match=f"a preparation stopped at step {len(steps) + 20} of 60") as caught:
            artifacts.prepared(asked)
        assert caught.value.further
        assert asked not in artifacts
    assert steps == list(range(1, 61))  # none twice
    np.testing.assert_array_equal(broken.artifact, whole.artifact)
    assert broken.curves.equals(whole.curves)
    assert [p.name for p in (tmp_path / "broken").iterdir()] == [asked.hash]


def test_a_preparation_without_time_for_one_step_says_that_it_got_no_further(tmp_path):
    with pytest.raises(OutOfTime, match="step 0 of 60") as caught:
        Artifacts(tmp_path, deadline=expired()).prepared(preparation(num_steps=60))
    assert not caught.value.further
    assert list(tmp_path.glob(".checkpoint*")) == []


# --- suites -------------------------------------------------------------------------------


def test_of_a_suite_nothing_more_is_begun_and_the_same_call_does_the_rest(tmp_path):
    content = {"name": "stopped", "games": ["ipd", "stag-hunt"], "learners": ["naive", "lola"], "seeds": 3, "steps": 5}
    suite = expand(validate({**content, "league": {"opponents": [], "best_response": False}}))
    cells = [*suite.encounters, *suite.matches]
    whole, broken = Store(tmp_path / "whole"), Store(tmp_path / "broken")
    assert run_suite(suite, whole) == []
    deadline = Deadline()
    assert run_suite(suite, broken, lambda cell, now: deadline.stop("enough"), deadline=deadline) == []
    stored = sum(cell.hash in broken for cell in cells)
    assert 1 <= stored < len(cells)
    assert run_suite(suite, broken) == []
    assert numbers(broken.directory) == numbers(whole.directory)


# --- claims -------------------------------------------------------------------------------


def plain(verdicts):
    """Verdicts but for their wall time, as bits."""
    return [json.dumps({**dataclasses.asdict(v), "seconds": 0.0}) for v in verdicts]


def test_claims_that_are_decided_are_recorded_and_not_decided_again(tmp_path):
    claims = [changed(id=f"tandem-{k}", protocol__seed=k, protocol__steps=20) for k in range(3)]
    known = load_claims(written(tmp_path, *claims))
    undisturbed = verify(claims=known)
    record, kept = tmp_path / "record.json", tmp_path / "checkpoints"
    begun = []

    def once():
        deadline = Deadline()

        def say(text):
            begun.append(text)
            if len(begun) == 2:
                deadline.stop("enough")

        return verify(on_progress=say, claims=known, record=record, deadline=deadline, checkpoints=kept)

    with pytest.raises(OutOfTime, match=r"^1 of 3 claims decided") as caught:
        once()
    assert caught.value.further
    assert list(json.loads(record.read_text())) == ["tandem-0"]
    before = record.read_text()
    with pytest.raises(OutOfTime, match=r"^1 of 3 claims decided") as caught:
        verify(claims=known, record=record, deadline=expired(), checkpoints=kept)
    assert not caught.value.further
    assert record.read_text() == before
    again = once()
    assert begun == [f"claim {k + 1} of 3: tandem-{k}" for k in (0, 1, 1, 2)]
    assert plain(again) == plain(undisturbed)
    assert list(json.loads(record.read_text())) == ["tandem-0", "tandem-1", "tandem-2"]
    assert list(kept.iterdir()) == []  # the run has ended: another one is another


def test_what_was_decided_of_other_claims_or_budgets_is_not_taken_over(tmp_path):
    known = load_claims(written(tmp_path, *(changed(id=f"tandem-{k}", protocol__steps=20) for k in range(2))))
    kept = tmp_path / "checkpoints"

    def stopped(**given):
        deadline, begun = Deadline(), []

        def say(text):
            begun.append(text)
            if len(begun) == 2:
                deadline.stop("enough")

        with pytest.raises(OutOfTime):
            verify(on_progress=say, claims=known, deadline=deadline, checkpoints=kept, **given)
        return len(begun)

    assert stopped() == 2
    assert stopped(full=True) == 2
    assert stopped(record=tmp_path / "record.json") == 2
    assert stopped(ids=["tandem-1", "tandem-0"]) == 2
