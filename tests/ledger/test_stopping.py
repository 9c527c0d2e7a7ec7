"""Stopping in time: at a deadline and at SIGTERM, and never in the middle of what takes several steps."""

import os
import signal
import time

import pytest

from flatbit.ledger.stopping import Stopped, stopping, undisturbed


def handlers():
    return signal.getsignal(signal.SIGALRM), signal.getsignal(signal.SIGTERM)


def test_the_time_is_up():
    before = handlers()
    with pytest.raises(Stopped, match="the time is up"), stopping(time.monotonic() + 0.05):
        time.sleep(30)
    assert handlers() == before


def test_a_time_that_is_past_is_up_at_once():
    with pytest.raises(Stopped, match="the time is up"), stopping(time.monotonic() - 5):
        time.sleep(30)


def asked_to_stop():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)


def test_sigterm_stops_too():
    with pytest.raises(Stopped, match="SIGTERM"), stopping(time.monotonic() + 60):
        asked_to_stop()


def test_nothing_that_catches_errors_swallows_it():
    assert not issubclass(Stopped, Exception)


def test_who_is_done_in_time_is_left_alone():
    before = handlers()
    with stopping(time.monotonic() + 0.2):
        pass
    assert handlers() == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    time.sleep(0.25)


def test_an_error_takes_the_timer_off_as_well():
    before = handlers()
    with pytest.raises(KeyError), stopping(time.monotonic() + 60):
        raise KeyError
    assert handlers() == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_must_be_whole_is_finished_first():
    steps = []

    def several():
        with undisturbed():
            os.kill(os.getpid(), signal.SIGTERM)
            steps.extend(("one", "two"))
        steps.append("more")

    with pytest.raises(Stopped), stopping(time.monotonic() + 60):
        several()
    assert steps == ["one", "two"]
