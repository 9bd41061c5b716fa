"""When a run has to stop: durations, limits, signals."""

import math
import os
import signal
import threading
import time

import pytest

from shaping_bench.errors import BadInput
from shaping_bench.run.deadline import ROOM, Deadline, seconds_of, signals

DURATIONS = {
    "55m": 3300,
    "1h30m": 5400,
    "1h 30m": None,
    "90s": 90,
    "0.5s": 0.5,
    "1.5h": 5400,
    "2d": 172800,
    "1d2h3m4s": 93784,
    "3600": 3600,
    " 55M ": 3300,
    "01:30:00": 5400,
    "100:00:00": 360000,
    "2-03:04:05": 183845,
    "1-12": 129600,
    "59:30": 3570,
    "90:00": 5400,
    "0": None,
    "0m": None,
    "00:00:00": None,
    "": None,
    "m": None,
    "-5": None,
    "5 minutes": None,
    "30m1h": None,
    "nan": None,
    "inf": None,
    "01:75:00": None,
    "01:00:75": None,
    "1-01:75": None,
    "1:2:3": None,
    "UNLIMITED": None,
    "1e3": None,
    "9" * 400: None,
}


@pytest.mark.parametrize("text", DURATIONS)
def test_durations_are_read_as_people_and_slurm_write_them(text):
    expected = DURATIONS[text]
    if expected is not None:
        assert seconds_of(text) == expected
        return
    with pytest.raises(BadInput) as caught:
        seconds_of(text)
    said = str(caught.value)
    assert said.startswith(f"--time-limit is {text!r}")
    assert "allowed: a time such as 55m" in said


def test_without_a_limit_it_never_comes():
    deadline = Deadline()
    assert deadline.left == math.inf
    assert deadline.allows(1e9)
    assert not deadline.expired
    assert deadline.reason == ""


def test_a_limit_passes():
    deadline = Deadline(0.2)
    assert 0.1 < deadline.left <= 0.2
    assert deadline.allows(0.0)
    assert not deadline.expired
    assert deadline.wait(10.0)
    assert deadline.expired
    assert not deadline.allows(0.0)
    assert deadline.left == 0.0
    assert deadline.reason == "time limit"


def test_the_first_for_whose_work_there_is_no_room_ends_it_for_all():
    deadline = Deadline(60.0)
    assert deadline.allows(60.0 / ROOM - 10.0)
    assert not deadline.expired
    assert not deadline.allows(60.0 / ROOM)
    assert deadline.expired
    assert not deadline.allows(0.0)
    assert deadline.reason == "time limit"


def test_of_several_reasons_the_first_counts():
    deadline = Deadline(3600.0)
    deadline.stop("SIGTERM")
    deadline.stop("SIGUSR1")
    assert deadline.expired
    assert deadline.left == 0.0
    assert deadline.reason == "SIGTERM"


def test_stopping_wakes_who_waits_in_another_thread():
    deadline = Deadline()
    woken = []
    waiter = threading.Thread(target=lambda: woken.append(deadline.wait(60.0)))
    waiter.start()
    started = time.monotonic()
    deadline.stop("enough")
    waiter.join(10.0)
    assert woken == [True]
    assert time.monotonic() - started < 10.0


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_signals_stop_it_and_handlers_are_restored(name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    deadline, told = Deadline(), []
    with signals(deadline, told.append):
        os.kill(os.getpid(), number)
        assert deadline.expired
    assert deadline.reason == name
    assert told == [name]
    assert signal.getsignal(number) is before


def test_the_second_interrupt_is_one_as_ever():
    def twice():
        with signals(Deadline()):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)  # ignored, in what a shell runs in the background
    with pytest.raises(KeyboardInterrupt):
        twice()
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_handlers_stay_as_they_are():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def listen():
        with signals(Deadline()):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [before]
