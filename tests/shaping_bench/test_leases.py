"""Among processes on one directory, one does a job at a time, and nobody's death holds up the others."""

import subprocess
import sys
import time

from hypothesis import given
from hypothesis import strategies as st

from shaping_bench.store.leases import STALE_SECONDS, Leases


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def others(folder, clock=time.monotonic, host="elsewhere"):
    """Leases as a process of another machine sees them; it beats when it is told to."""
    return Leases(folder, beat_seconds=None, clock=clock, host=host)


def test_a_lease_has_one_owner_and_is_free_when_given_back(tmp_path):
    mine, theirs = others(tmp_path, host="a"), others(tmp_path, host="b")
    assert mine.take("job")
    assert not theirs.take("job")
    assert theirs.take("other job")
    theirs.give_back("job")  # which is not theirs to give
    assert not theirs.take("job")
    mine.give_back("job")
    assert theirs.take("job")
    theirs.give_back("job")
    theirs.give_back("other job")
    assert list(tmp_path.iterdir()) == []


def test_an_owner_who_says_nothing_any_more_is_followed_and_one_who_does_is_not(tmp_path):
    clock = Clock()
    owner, waiter = others(tmp_path, clock, "a"), others(tmp_path, clock, "b")
    assert owner.take("job")
    for _ in range(20):
        clock.now += STALE_SECONDS / 6
        owner.beat()
        assert not waiter.take("job")
    clock.now += STALE_SECONDS - 1.0
    assert not waiter.take("job")
    clock.now += 2.0
    assert waiter.take("job")
    owner.beat()  # it comes to itself, and sees that it is the owner no more
    owner.give_back("job")
    assert not others(tmp_path, clock, "c").take("job")
    waiter.give_back("job")
    assert list(tmp_path.iterdir()) == []


def test_of_many_who_wait_for_a_dead_owner_one_follows(tmp_path):
    clock = Clock()
    owner, waiters = others(tmp_path, clock), [others(tmp_path, clock, f"w{k}") for k in range(8)]
    assert owner.take("job")
    assert not any(x.take("job") for x in waiters)
    clock.now += STALE_SECONDS + 1.0
    assert [x.take("job") for x in waiters].count(True) == 1
    assert not any(x.take("job") for x in waiters)


def test_who_dies_while_taking_over_is_followed_too(tmp_path):
    clock = Clock()
    owner, waiter = others(tmp_path, clock), others(tmp_path, clock, "b")
    assert owner.take("job")
    token = owner._owned["job"].token
    (tmp_path / f"job.after-{token}").write_text("")  # of somebody who got no further
    for _ in range(3):  # the owner is found out, then who wanted to follow it
        assert not waiter.take("job")
        clock.now += STALE_SECONDS + 1.0
    assert waiter.take("job")


def test_on_one_machine_a_lease_ends_with_its_process_at_once(tmp_path):
    script = (
        f"from shaping_bench.store.leases import Leases; from pathlib import Path; import os, sys; "
        f"print(Leases(Path({str(tmp_path)!r})).take('job'), flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "True\n"
    mine = Leases(tmp_path)
    assert not mine.take("job")
    process.kill()
    process.wait()
    assert mine.take("job")
    mine.give_back("job")


def test_owners_of_this_process_say_that_they_are_there(tmp_path):
    mine = Leases(tmp_path, beat_seconds=0.02)
    assert mine.take("job")
    before = (tmp_path / "job").read_text()
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline and (tmp_path / "job").read_text() in (before, ""):
        time.sleep(0.01)
    assert (tmp_path / "job").read_text() not in (before, "")
    mine.give_back("job")


def test_a_folder_that_cannot_be_written_refuses_nobody(tmp_path):
    (tmp_path / "file").write_text("")
    assert Leases(tmp_path / "file" / "leases").take("job")  # what comes of the job will tell why


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["take", "beat", "give back", "die", "wait"])), max_size=60)
)
def test_whatever_happens_no_two_who_are_alive_own_a_lease_unless_one_slept(tmp_path_factory, steps):
    clock, folder = Clock(), tmp_path_factory.mktemp("leases")
    actors = [others(folder, clock, f"h{k}") for k in range(4)]
    owners: dict[int, float] = {}  # and when they were last heard of
    for who, what in steps:
        if what == "wait":
            clock.now += STALE_SECONDS / 4
        elif what == "take" and who not in owners and actors[who].take("job"):
            assert all(clock.now - last >= STALE_SECONDS for last in owners.values())
            owners = {who: clock.now}
        elif what == "beat":
            actors[who].beat()
            if who in owners:
                owners[who] = clock.now
        elif what == "give back":
            actors[who].give_back("job")
            owners.pop(who, None)
        elif what == "die":  # it says nothing any more; somebody new has its place
            actors[who] = others(folder, clock, f"h{who}")
    # However it went, it is free in the end.
    late = others(folder, clock, "late")
    for _ in range(3):
        if late.take("job"):
            break
        clock.now += STALE_SECONDS + 1.0
    assert "job" in late._owned
