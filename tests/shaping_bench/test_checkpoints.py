"""Whenever a process dies, the same call goes on and ends bit for bit as if nothing had happened.

What outlives a process is what stands on the disk. So one run with a checkpoint after every call is
watched, and its folder copied at every moment: before and after each call, in the middle of writing, and
before and after the rename. A process killed then leaves just that copy, from which the run goes on here.
Some real processes are killed too, see :mod:`tests.shaping_bench.kills`.
"""

import dataclasses
import os
import warnings

import jax
import numpy as np
import pytest

from shaping_bench.algorithms.fixed import AllD
from shaping_bench.algorithms.lola import LOLA
from shaping_bench.algorithms.loqa import LOQA
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.policy_gradient import NaivePG
from shaping_bench.algorithms.ppo import PPO
from shaping_bench.errors import OutOfTime, StoreError
from shaping_bench.games import make
from shaping_bench.run import checkpoints, encounter, lanes, programs
from shaping_bench.run import preparation as phase
from shaping_bench.run.checkpoints import Checkpoint, Moment
from shaping_bench.run.deadline import Deadline
from shaping_bench.run.encounter import run_encounter
from shaping_bench.run.pace import Pace
from shaping_bench.run.preparation import checkpoint_identity, prepare
from tests.shaping_bench.kills import kill_points
from tests.shaping_bench.walker import Walker, preparation

IPD, SHORT = make("ipd"), make("ipd", horizon=5)

EXACT = dict(game=IPD, learners=[LOLA(), Naive()], num_seeds=3, num_updates=90, record_every=7, keep_end=True)
ENCOUNTERS = {
    "exact": EXACT,
    "of one program": {**EXACT, "record_every": None},
    "swept": {**EXACT, "learners": [LOLA(lr=np.array([0.1, 1.0])), Naive()]},
    "in double precision": {**EXACT, "precision": "float64"},
    "from given starts": {**EXACT, "init": [np.zeros(5), None]},
    "prepared": {**EXACT, "learners": [Walker(), Naive()], "artifacts": [np.arange(10.0).reshape(2, 5), None]},
    "with policies on the way": {**EXACT, "policies_every": 20},
    "memory and replay": dict(
        game=SHORT,
        learners=[
            PPO(batch_size=4, minibatches=1, network="gru", hidden=3),
            LOQA(batch_size=16, hidden=3, buffer_size=8, buffer_every=2),
        ],
        num_seeds=2,
        num_updates=20,
        record_every=6,
        episodes=2,
        policies_every=9,
        keep_end=True,
    ),
    "diverged": dict(
        game=SHORT,
        learners=[NaivePG(batch_size=4, lr=np.array([0.1, np.inf])), AllD()],
        num_seeds=2,
        num_updates=12,
        record_every=5,
        keep_end=True,
    ),
}


def run(*, game, learners, **settings):
    return run_encounter(game, learners, **settings)


def left_by(path):
    """The checkpoint of this test's runs, left after every call."""
    return Checkpoint(path, {"of": "a test"}, seconds=0.0)


def bits(outcome):
    """Everything an encounter yields but for seconds, as bytes."""
    plain = dataclasses.replace(outcome, compile_seconds=0.0, run_seconds=0.0)
    plain = dataclasses.replace(plain, end=plain.end and dataclasses.replace(plain.end, seconds=0.0))
    values = [getattr(plain, f.name) for f in dataclasses.fields(plain) if f.name != "end"]
    end = plain.end and [getattr(plain.end, f.name) for f in dataclasses.fields(plain.end)]
    return [(np.asarray(x).dtype, np.shape(x), np.asarray(x).tobytes()) for x in jax.tree.leaves((values, end))]


def prepared_bits(prepared):
    curves = prepared.curves.to_dict("list")
    return [np.asarray(x).tobytes() for x in [*jax.tree.leaves(prepared.artifact), *curves.values()]]


@pytest.fixture
def calls_of(monkeypatch):
    """Lets all calls of a run do so many updates."""

    def set_to(count):
        fixed = type("Fixed", (Pace,), {"took": lambda self, updates, seconds: None})
        for module in (encounter, phase):
            monkeypatch.setattr(module, "Pace", lambda first=1: fixed(first=count))
        # An exact encounter's first call is no longer than any other.
        monkeypatch.setattr(encounter, "_first_updates", lambda *_: count)

    return set_to


class Watcher:
    """Copies a folder at every moment at which a process may die."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.copies = folder, []
        save, replace = checkpoints.save_arrays, os.replace

        def watched_save(path, arrays):
            save(path, arrays)
            whole = path.read_bytes()
            for size in (0, len(whole) // 2):
                path.write_bytes(whole[:size])
                self.copy()
            path.write_bytes(whole)
            self.copy()

        def watched_replace(source, target):
            replace(source, target)
            self.copy()

        monkeypatch.setattr(checkpoints, "save_arrays", watched_save)
        monkeypatch.setattr(os, "replace", watched_replace)

    def copy(self, *_):
        self.copies.append({path.name: path.read_bytes() for path in self.folder.iterdir()})


def restored(copy, folder):
    folder.mkdir()
    for name, data in copy.items():
        (folder / name).write_bytes(data)
    return folder


def watched(call, tmp_path, monkeypatch):
    """What a call yields, given a checkpoint and whom to tell of its progress, and the copies."""
    (tmp_path / "watched").mkdir()
    with monkeypatch.context() as patch:
        watcher = Watcher(tmp_path / "watched", patch)
        result = call(left_by(tmp_path / "watched" / "run.npz"), watcher.copy)
    return result, watcher.copies


def chosen(copies, count):
    """So many different moments, over all of the run."""
    return [copies[k] for k in np.unique(np.linspace(0, len(copies) - 1, count).astype(int))]


# --- killed at any moment -----------------------------------------------------------------


@pytest.mark.parametrize("name", ENCOUNTERS)
def test_a_killed_encounter_ends_as_an_undisturbed_one(name, tmp_path, monkeypatch, calls_of):
    settings = ENCOUNTERS[name]
    whole = bits(run(**settings))
    calls_of(2)
    result, copies = watched(
        lambda checkpoint, say: run(**settings, checkpoint=checkpoint, on_progress=say), tmp_path, monkeypatch
    )
    assert bits(result) == whole
    calls_of(1000)
    starts = []
    for k, copy in enumerate(chosen(copies, 100 if name == "exact" else 8)):
        checkpoint = left_by(restored(copy, tmp_path / str(k)) / "run.npz")
        moment = checkpoint.load()
        starts.append(moment.done if moment else 0)
        assert bits(run(**settings, checkpoint=checkpoint)) == whole, f"killed at copy {k}, after {starts[-1]} updates"
    assert starts[0] == 0
    assert max(starts) > 0.8 * settings["num_updates"]
    assert len(set(starts)) > 4
    if name == "exact":
        assert len(starts) == 100


class CompiledOnce:
    """The functions of a preparation, which it would compile again whenever it goes on."""

    def __init__(self, program):
        self.nothing, self.artifact = program.nothing, program.artifact
        self.program, self.known = program, {}

    def compiled(self, name, *arguments):
        if name not in self.known:
            self.known[name] = self.program.compiled(name, *arguments)
        return self.known[name]


def test_a_killed_preparation_ends_as_an_undisturbed_one(tmp_path, monkeypatch, calls_of):
    monkeypatch.setattr(phase, "POINTS", 7)  # so that most calls end between two points
    asked = preparation(num_steps=80)
    kept = CompiledOnce(phase._Program(asked.learner.value, asked.game.value, 0, 7, lanes.Lanes(2)))
    monkeypatch.setattr(phase, "_Program", lambda *_: kept)
    identity = {"of": "a test"}
    whole = prepared_bits(prepare(asked))
    calls_of(3)

    def call(_, say):
        checkpoint = Checkpoint(tmp_path / "watched" / "run.npz", identity, seconds=0.0)
        return prepare(asked, checkpoint, lambda *_: say())

    result, copies = watched(call, tmp_path, monkeypatch)
    assert prepared_bits(result) == whole
    assert len(copies) > 100
    for k, copy in enumerate(chosen(copies, 100)):
        checkpoint = Checkpoint(restored(copy, tmp_path / str(k)) / "run.npz", identity, seconds=1e9)
        assert prepared_bits(prepare(asked, checkpoint)) == whole, f"killed at copy {k}"


def test_processes_that_are_killed_end_as_undisturbed_ones(tmp_path):
    """A few; ``make faults`` kills hundreds, preparations too."""
    assert kill_points(tmp_path, kind="encounter", count=2, seed=0) == 2


# --- nothing of it can be left out --------------------------------------------------------


def changed(x):
    x = np.array(x)
    if np.issubdtype(x.dtype, np.floating):
        return x + 0.25
    return ~x if x.dtype == bool else x + 1


@pytest.mark.parametrize("name", ["exact", "with policies on the way", "memory and replay"])
def test_whatever_a_checkpoint_loses_shows(name, tmp_path, calls_of):
    settings = ENCOUNTERS[name]
    whole = bits(run(**settings))
    calls_of(10)
    checkpoint = left_by(tmp_path / "run.npz")

    class Killed(Exception):
        pass

    def die(done):
        if done > settings["num_updates"] // 2:
            raise Killed

    with pytest.raises(Killed):
        run(**settings, checkpoint=checkpoint, on_progress=die)
    moment = checkpoint.load()
    assert 0 < moment.done < settings["num_updates"]
    calls_of(1000)

    def ends(altered):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checkpoint.save(altered)
            return bits(run(**settings, checkpoint=checkpoint))

    assert ends(moment) == whole
    for k in range(len(moment.leaves)):
        leaves = list(moment.leaves)
        leaves[k] = changed(leaves[k])
        assert ends(dataclasses.replace(moment, leaves=leaves)) != whole, f"leaf {k}"
    for kind in ("records", "policies"):
        named = getattr(moment, kind)
        assert bool(named) == (kind == "records" or "policies_every" in settings)
        for key, rows in named.items():
            if rows.size:
                altered = {**named, key: changed(rows)}
                assert ends(dataclasses.replace(moment, **{kind: altered})) != whole, key
    assert ends(dataclasses.replace(moment, done=moment.done + 1)) != whole


def test_a_preparation_needs_its_sums_between_two_points(tmp_path, monkeypatch, calls_of):
    monkeypatch.setattr(phase, "POINTS", 4)
    asked = preparation(num_steps=40)
    whole = prepared_bits(prepare(asked))
    calls_of(3)
    checkpoint = Checkpoint(tmp_path / "run.npz", checkpoint_identity(asked), seconds=0.0)
    with pytest.raises(OutOfTime, match="a preparation stopped at step 13 of 40"):
        prepare(asked, checkpoint, deadline=Passing(after=5))
    moment = checkpoint.load()
    assert moment.done == 13
    assert moment.updates.tolist() == [10]
    for k in range(len(moment.leaves)):
        leaves = list(moment.leaves)
        leaves[k] = changed(leaves[k])
        checkpoint.save(dataclasses.replace(moment, leaves=leaves))
        counter = k == 1  # of the steps it took, which nothing of the outcome reads
        assert (prepared_bits(prepare(asked, checkpoint)) == whole) == counter, f"leaf {k}"
    checkpoint.save(moment)
    assert prepared_bits(prepare(asked, checkpoint)) == whole


class Passing(Deadline):
    """Allows so many calls."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def allows(self, seconds):
        self.after -= 1
        return self.after >= 0


# --- what is no checkpoint of this run ----------------------------------------------------


def stopped(path, calls=4, **settings):
    """A run that is stopped after so many calls, and its checkpoint."""
    checkpoint = left_by(path)
    with pytest.raises(OutOfTime):
        run(**settings, checkpoint=checkpoint, deadline=Passing(after=calls))
    return checkpoint


def test_what_is_damaged_or_of_another_run_is_told_and_left_alone(tmp_path, calls_of):
    whole = bits(run(**EXACT))
    calls_of(10)
    checkpoint = stopped(tmp_path / "run.npz", **EXACT)
    good = checkpoint.path.read_bytes()
    moment = checkpoint.load()
    middle = len(good) // 2
    damages = {
        "cut short": good[:middle],
        "empty": b"",
        "of another kind": b"PK and nothing more",
        "a bit turned": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
    }
    for name, data in damages.items():
        checkpoint.path.write_bytes(data)
        with pytest.warns(UserWarning, match=r"checkpoint '.*run\.npz' is not used, it cannot be read .*; begun anew"):
            assert checkpoint.load() is None, name
    with pytest.warns(UserWarning, match="cannot be read"):
        assert bits(run(**EXACT, checkpoint=checkpoint)) == whole
    checkpoint.save(moment)
    with pytest.warns(UserWarning, match="left by other code, versions or settings; begun anew"):
        assert Checkpoint(checkpoint.path, {"of": "another test"}).load() is None
    np.savez(checkpoint.path, done=3)  # as the first version wrote them
    with pytest.warns(UserWarning, match="left by another version"):
        assert checkpoint.load() is None


def test_a_checkpoint_says_by_which_code_and_versions_it_was_left(monkeypatch):
    from shaping_bench.run import devices
    from shaping_bench.spec.protocol import Protocol
    from shaping_bench.spec.registry import make_game, make_learner

    def identity(learner="lola", **changes):
        protocol = Protocol(**changes)
        init = changes and [np.zeros(5), np.full(5, float(protocol.seed))]
        return checkpoints.encounter_identity(
            make_game("ipd"), [make_learner(learner)] * 2, protocol, seeds=protocol.seeds, init=init or None
        )

    same = checkpoints.fingerprint(identity())
    assert same == checkpoints.fingerprint(identity())
    others = [
        identity("naive"),
        identity(seeds=3),
        identity(seed=3),
        identity(precision="float64"),
        identity(episodes=3),
    ]
    monkeypatch.setattr(checkpoints, "source_hash", lambda *_: "changed")
    others.append(identity())
    monkeypatch.undo()
    assert len({same, *map(checkpoints.fingerprint, others)}) == 1 + len(others)
    monkeypatch.setattr(devices, "versions", lambda: {"jax": "0.0.1"})
    assert checkpoints.fingerprint(identity()) != same


def test_a_checkpoint_of_other_shapes_is_not_used(tmp_path, calls_of):
    calls_of(10)
    checkpoint = stopped(tmp_path / "run.npz", **EXACT)
    for changes in ({"num_seeds": 4}, {"precision": "float64"}, {"learners": [Naive(optimiser="adam"), Naive()]}):
        other = {**EXACT, **changes}
        assert bits(run(**other, checkpoint=checkpoint)) == bits(run(**other)), changes


@pytest.mark.parametrize("change", ["tiles", "devices"])
def test_lanes_may_lie_otherwise_when_a_run_goes_on(change, tmp_path, monkeypatch, calls_of):
    many = {**EXACT, "num_seeds": 70}
    whole = bits(run(**many))
    assert len(jax.local_devices()) == 2
    calls_of(10)
    checkpoint = stopped(tmp_path / "run.npz", **many)
    if change == "tiles":
        monkeypatch.setattr(lanes, "TILE", 16)
    else:
        one = jax.local_devices()[:1]
        monkeypatch.setattr(lanes.jax, "local_devices", lambda: one)
    assert checkpoint.load().done == 40
    assert bits(run(**many, checkpoint=checkpoint)) == whole


def test_random_keys_and_narrow_numbers_survive(tmp_path):
    four = lanes.Lanes(4)
    narrow = four.split(np.asarray(jax.numpy.arange(4, dtype="bfloat16") / 3))
    keys = four.split(np.asarray(jax.random.key_data(jax.random.split(jax.random.key(3), 4))))
    tree = four.place({"key": jax.random.wrap_key_data(keys), "narrow": narrow})
    leaves = checkpoints.gathered(tree, four)
    checkpoint = left_by(tmp_path / "run.npz")
    checkpoint.save(Moment(done=1, seconds=0.0, leaves=leaves, updates=np.zeros(0, int), records={}))
    moment = checkpoint.load()
    assert checkpoints.fits(moment, tree, 4)
    assert not checkpoints.fits(moment, tree, 5)
    back = checkpoints.spread(moment.leaves, tree, four)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), back) == jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    np.testing.assert_array_equal(np.asarray(back["narrow"]), narrow)
    np.testing.assert_array_equal(jax.random.key_data(back["key"]), keys)


# --- calls and programs -------------------------------------------------------------------


def programs_of(monkeypatch, **settings):
    """Which programs a run calls, and how often each."""
    counts = {}
    compiled = programs.Program.compiled

    def counted(self, name, arguments):
        function, seconds = compiled(self, name, arguments)

        def call(*arguments):
            counts[name] = counts.get(name, 0) + 1
            return function(*arguments)

        return (call if name != "whole" else _Counted(function, call)), seconds

    with monkeypatch.context() as patch:
        patch.setattr(programs.Program, "compiled", counted)
        outcome = run(**settings)
    return counts, outcome


class _Counted:
    def __init__(self, function, call):
        self.operations, self.call = function.operations, call

    def __call__(self, *arguments):
        return self.call(*arguments)


def test_a_short_exact_encounter_is_one_call_of_one_program_and_a_long_one_is_cut(monkeypatch):
    short = {**EXACT, "record_every": None, "num_seeds": 20}
    counts, whole = programs_of(monkeypatch, **short)
    assert counts == {"whole": 1}
    monkeypatch.setattr(encounter, "FIRST_OPERATIONS", {"cpu": 1e6})
    monkeypatch.setattr(encounter, "Pace", lambda first=1: Pace(first, seconds=1e-9))
    counts, cut = programs_of(monkeypatch, **short)
    assert counts["whole"] == 1
    assert counts["advance"] > 1
    assert bits(cut) == bits(whole)


def test_the_first_call_of_an_exact_encounter_is_as_short_as_its_program_is_long(monkeypatch):
    """So that nobody waits for minutes before the first checkpoint, whatever learns."""
    monkeypatch.setattr(encounter, "FIRST_OPERATIONS", {"cpu": 1e10})
    first, found = encounter._first_updates, {}
    for name, rule, seeds in (("cheap", Naive(), 4000), ("many", Naive(), 40_000), ("dear", LOLA(), 4000)):

        def noted(*arguments, name=name):
            found[name] = first(*arguments)
            return 1

        monkeypatch.setattr(encounter, "_first_updates", noted)
        with pytest.raises(OutOfTime):
            run_encounter(IPD, [rule] * 2, num_seeds=seeds, num_updates=10**6, deadline=Passing(after=1))
    assert 5 * found["many"] < found["cheap"] < 20 * found["many"]
    assert 10 < found["dear"] < found["cheap"] / 2 < 10**6 / 2


def test_calls_grow_to_the_time_they_should_take():
    pace, done = Pace(seconds=2.0), []
    for _ in range(8):
        done.append(pace.updates)
        pace.took(pace.updates, 0.004 * pace.updates)
    assert done == [1, 16, 256, 500, 500, 500, 500, 500]
    pace.took(500, 20.0)  # somebody else wants the core
    assert pace.updates == 50
    pace.took(3, 0.012)  # cut short by something recorded
    assert pace.updates == 50
    pace.took(1, 100.0)
    assert pace.updates == 1


def test_a_run_that_writes_no_checkpoint_is_the_same(tmp_path, monkeypatch):
    """What is shorter than the time between checkpoints leaves nothing on the disk."""
    checkpoint = Checkpoint(tmp_path / "deep" / "run.npz", {"of": "a test"})
    assert bits(run(**EXACT, checkpoint=checkpoint)) == bits(run(**EXACT))
    assert list(tmp_path.iterdir()) == []


def test_large_checkpoints_come_less_often(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path / "run.npz", {"of": "a test"}, seconds=5.0)
    pauses = checkpoints.Pauses("it is at", 100, checkpoint, None)
    saved, clock = [], [0.0]
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: clock[0])

    def save(moment):
        saved.append(moment)
        clock[0] += 1.0

    monkeypatch.setattr(checkpoint, "save", save)
    for k in range(100):
        pauses.pause(k, 1.0, lambda k=k: k)
    assert saved == [4, 54]  # after five seconds; then as seldom as it takes to spend a fiftieth


# --- ends ---------------------------------------------------------------------------------


def test_old_checkpoints_of_many_runs_are_removed_and_the_oldest_of_too_many(tmp_path):
    checkpoints.prune(tmp_path / "nowhere")
    for days, name in enumerate(("today", "yesterday", "before", "long ago", "longer ago")):
        path = tmp_path / name
        path.write_bytes(bytes(100))
        os.utime(path, (path.stat().st_mtime - 86400 * days,) * 2)
    (tmp_path / "folder").mkdir()

    def left():
        return {x.name for x in tmp_path.iterdir()}

    checkpoints.prune(tmp_path)
    assert len(left()) == 6
    checkpoints.prune(tmp_path, days=2.5)
    assert left() == {"today", "yesterday", "before", "folder"}
    checkpoints.prune(tmp_path, most=250)
    assert left() == {"today", "yesterday", "folder"}


def test_time_that_is_up_ends_an_encounter_at_its_checkpoint(tmp_path, calls_of):
    whole = bits(run(**EXACT))
    calls_of(10)
    checkpoint = Checkpoint(tmp_path / "run.npz", {"of": "a test"}, seconds=1e9)
    for k in range(8):
        with pytest.raises(OutOfTime, match=rf"an encounter stopped at update {10 * k + 10} of 90") as caught:
            run(**EXACT, checkpoint=checkpoint, deadline=Passing(after=1))
        assert caught.value.further
        assert checkpoint.load().done == 10 * k + 10
    with pytest.raises(OutOfTime, match="an encounter stopped at update 80 of 90") as caught:
        run(**EXACT, checkpoint=checkpoint, deadline=Passing(after=0))
    assert not caught.value.further
    assert bits(run(**EXACT, checkpoint=checkpoint, deadline=Passing(after=1))) == whole


def test_time_that_is_up_once_something_is_compiled_ends_it_before_the_call(tmp_path, monkeypatch, calls_of):
    calls_of(10)
    checkpoint, deadline = left_by(tmp_path / "run.npz"), Deadline()
    compiled = programs.Program.compiled

    def slowly(self, name, arguments):
        if name == "advance":
            deadline.stop("it took so long")
        return compiled(self, name, arguments)[0], 60.0

    monkeypatch.setattr(programs.Program, "compiled", slowly)
    with pytest.raises(OutOfTime, match="an encounter stopped at update 10 of 90") as caught:
        run(**EXACT, checkpoint=checkpoint, deadline=deadline)
    assert caught.value.further
    assert checkpoint.load().done == 10


def test_a_checkpoint_that_cannot_be_written_costs_no_run_but_one_that_has_to_end(tmp_path, calls_of):
    (tmp_path / "file").write_text("no folder")
    checkpoint = left_by(tmp_path / "file" / "run.npz")
    calls_of(30)
    with pytest.warns(UserWarning, match="no checkpoint now: cannot write to"):
        assert bits(run(**EXACT, checkpoint=checkpoint)) == bits(run(**EXACT))
    rarely = Checkpoint(checkpoint.path, {"of": "a test"}, seconds=1e9)
    with pytest.raises(StoreError, match="cannot write to"):
        run(**EXACT, checkpoint=rarely, deadline=Passing(after=2))


@pytest.mark.parametrize("name", ENCOUNTERS)
def test_an_encounter_goes_on_to_more_updates(name, tmp_path):
    more = ENCOUNTERS[name]
    fewer = {**more, "num_updates": more["num_updates"] // 2 + 1}
    end = run(**fewer).end
    assert end.done == fewer["num_updates"]
    written = left_by(tmp_path / "end.npz")
    written.save(end)
    done = []
    outcome = run(**more, earlier=written.load(), on_progress=done.append)
    assert bits(outcome) == bits(run(**more))
    assert done[0] > fewer["num_updates"]


def test_what_recorded_other_points_is_not_gone_on_from(tmp_path):
    seldom = run(**{**EXACT, "record_every": None, "num_updates": 40}).end
    assert bits(run(**EXACT, earlier=seldom)) == bits(run(**EXACT))
    often = run(**{**EXACT, "record_every": 1, "num_updates": 40}).end
    done = []
    assert bits(run(**EXACT, earlier=often, on_progress=done.append)) == bits(run(**EXACT))
    assert done[0] > 40
