"""Time limits and signals: what runs is left at a checkpoint, and the same call goes on bit for bit."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from shaping_bench.claims.files import load_claims
from shaping_bench.claims.verify import verify
from shaping_bench.errors import OutOfTime
from shaping_bench.run import devices
from shaping_bench.run.artifacts import Artifacts
from shaping_bench.run.deadline import Deadline
from shaping_bench.run.runner import run_suite
from shaping_bench.spec.suite import expand, resolve, validate
from shaping_bench.store.pack import pack, unpack
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


# --- processes ----------------------------------------------------------------------------

SLEEPER = '''
"""A rule that waits in every step of its preparation and in every update, whatever else the machine does."""

import time

import jax
import jax.numpy as jnp

from shaping_bench.algorithms.core import PreparedLearner, field, pytree_dataclass


def waited(x):
    def wait(x):
        time.sleep(0.02)
        return x

    return jax.pure_callback(wait, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="broadcast_all")


@pytree_dataclass
class Sleeper(PreparedLearner):
    """Steps into random directions, asleep most of the time."""

    source = "a test"
    num_steps: int = field(150, "steps of the preparation", low=1, static=True)

    @property
    def preparation_steps(self):
        return self.num_steps

    def prepare_init(self, key, game, player):
        return jnp.zeros(())

    def prepare_step(self, key, step, carry, game, player):
        return waited(carry + jax.random.normal(key)), {"height": carry}

    def artifact(self, carry):
        return carry

    def init(self, key, game, player, artifact=None):
        return game.init_params(key, player), ()

    def update(self, key, state, view):
        size = waited(0.1 * jax.random.normal(key) * view.artifact)
        return tuple(x + size for x in view.own), state, {}
'''

SUITE = """
name: asleep
games: [ipd]
learners: [naive, sleeper]
seeds: 3
steps: 150
record_every: 50
"""


@pytest.fixture
def command(tmp_path):
    """Starts a command in a process that knows the sleeper, with a user's cache of its own."""
    about = tmp_path / "plugin" / "sleeper-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: sleeper\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[shaping_bench.algorithms]\nsleeper = sleeper:Sleeper\n")
    (tmp_path / "plugin" / "sleeper.py").write_text(SLEEPER)
    (tmp_path / "suite.yaml").write_text(SUITE)
    paths = [str(tmp_path / "plugin"), *filter(None, [os.environ.get("PYTHONPATH")])]

    def start(*arguments, home="home"):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "XDG_CACHE_HOME": str(tmp_path / home),
            # Programs that call back into Python are not kept; those that do not are shared with other tests.
            "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "shaping_bench", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        processes.append(process)
        return process

    processes = []
    yield start
    for process in processes:
        process.kill()
        process.wait()


def ended(process):
    output, errors = process.communicate(timeout=400)
    return process.returncode, output, errors


def wait_until_it_listens(process):
    """Until it has handlers of its own for signals."""
    end = time.monotonic() + 100.0
    while process.poll() is None and time.monotonic() < end:
        state = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(re.search(r"^SigCgt:\s*(\w+)", state, re.MULTILINE)[1], 16)
        if caught >> (signal.SIGUSR1 - 1) & 1:
            return
        time.sleep(0.01)
    pytest.fail("it never listens")


def run(tmp_path, directory, *more):
    return "run", tmp_path / "suite.yaml", "-o", directory, "--wandb", "disabled", *more


def test_a_suite_in_slices_on_several_machines_ends_as_an_undisturbed_one(command, tmp_path):
    """Ended by every signal and by a time limit, packed and unpacked in between, then not ended any more."""
    whole, place = tmp_path / "whole", tmp_path / "place-0"
    undisturbed = command(*run(tmp_path, whole))
    signals = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]
    lines = []
    for k in range(len(signals) + 2):
        limit = ["--time-limit", "8s"] if k == len(signals) else []
        process = command(*run(tmp_path, place, *limit), home=f"home-{k}")
        if k < len(signals):
            wait_until_it_listens(process)
            time.sleep(2.0 * k)  # while it is imported, while programs are compiled, while they run
            process.send_signal(signals[k])
        code, _, errors = ended(process)
        lines.append(errors.strip().splitlines()[-1])
        if code == 0:
            break
        assert code == (130 if k == 2 else 75), errors
        assert "Traceback" not in errors
        assert lines[-1].startswith("shaping-bench: ")
        assert re.search(r"[0-3] of 3 cells stored", lines[-1]), lines[-1]
        assert ("the same command goes on" in lines[-1]) != ("nothing got further" in lines[-1])
        there = tmp_path / f"place-{k + 1}"
        pack(place, tmp_path / "slice.tar", part_size=5_000)
        unpack(tmp_path / "slice.tar.001", there, resolve)
        place = there
    assert code == 0, lines
    assert any("the same command goes on" in line for line in lines[:-1])
    code, _, errors = ended(undisturbed)
    assert code == 0, errors
    assert numbers(place) == numbers(whole)
    (ours,), (theirs,) = ([*(x / "artifacts").iterdir()] for x in (place, whole))
    assert (ours / "artifact.npz").read_bytes() == (theirs / "artifact.npz").read_bytes()


def in_slices(command, tmp_path, *asked, first=4.0):
    """What a command prints that is ended again and again, at first after so many seconds, its user's cache carried
    to another machine every time; and what it said in between."""
    lines = []
    for k in range(13):
        # Longer every time, lest a slow machine never get further.
        code, output, errors = ended(command(*asked, "--time-limit", f"{first * 1.7**k:.1f}s", home=f"home-{k}"))
        if code == 0:
            break
        assert (code, output) == (75, ""), errors
        lines.append(errors.splitlines()[-1])
        here, there = (tmp_path / f"home-{i}" / "shaping-bench" for i in (k, k + 1))
        if any(here.rglob("*.npz")) or any(here.rglob("*.json")):
            pack(here, tmp_path / "cache.tar")
            unpack(tmp_path / "cache.tar", there, kind="cache")
    assert code == 0, lines
    assert lines  # there is more to do than the first slice is enough for
    assert not list((tmp_path / f"home-{k}" / "shaping-bench").glob("checkpoints/*"))
    return output, lines


def test_an_encounter_in_slices_ends_as_an_undisturbed_one(command, tmp_path):
    asked = ["encounter", "ipd", "sleeper(num_steps=100)", "naive", "--seeds", 3, "--steps", 150, "--json"]
    undisturbed = command(*asked, home="whole")
    output, lines = in_slices(command, tmp_path, *asked)
    assert all(re.search(r"stopped at (step |update )?\d+ of 1[05]0; ", line) for line in lines), lines
    code, whole, errors = ended(undisturbed)
    assert code == 0, errors

    def lasting(text):
        result = json.loads(text)
        return result["metrics"], result["params"], [x and x["artifact"] for x in result["preparations"]]

    assert lasting(output) == lasting(whole)


def test_claims_in_slices_end_as_undisturbed_ones(command, tmp_path):
    asked = ["verify", "tandem-lola", "cola-hamiltonian-lola-0-9", "tandem-sos", "--json"]
    undisturbed = command(*asked, home="whole")
    # JAX alone needs about a second to come up.
    output, lines = in_slices(command, tmp_path, *asked, first=1.2)
    assert all(re.match(r"shaping-bench: \d+ of \d+ claims decided", line) for line in lines), lines
    code, whole, errors = ended(undisturbed)
    assert code == 0, errors

    def lasting(text):
        rows = json.loads(text)["verdicts"]
        return [{**row, "seconds": 0.0} for row in rows]

    assert lasting(output) == lasting(whole)


def test_a_limit_shorter_than_any_call_says_so(command, tmp_path):
    code, output, errors = ended(command(*run(tmp_path, tmp_path / "out", "--time-limit", "0.1s")))
    assert code == 75
    assert output == ""
    assert errors.splitlines()[-1].startswith("shaping-bench: 0 of 3 cells stored; nothing got further: ")


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
