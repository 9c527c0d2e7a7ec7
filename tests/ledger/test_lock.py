"""One queue per folder: the lock is its process's, and goes with it."""

import os
import signal
import subprocess
import sys

import pytest

from flatbit.ledger.lock import NAME, locked

HOLDS = """
import sys, time
from pathlib import Path
from flatbit.ledger.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_one_is_refused_while_the_first_holds_it(tmp_path):
    with locked(tmp_path / "new"):
        with (
            pytest.raises(ValueError, match=rf"new is in use by another queue \(process {os.getpid()}\): wait"),
            locked(tmp_path / "new"),
        ):
            raise AssertionError
        with locked(tmp_path / "other"):
            pass
    with locked(tmp_path / "new"):
        pass


def test_an_error_gives_it_back(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass


def test_a_process_that_is_killed_holds_it_no_longer(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"process {child.pid}\)"), locked(tmp_path):
            raise AssertionError
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    assert (tmp_path / NAME).is_file()
    with locked(tmp_path):
        assert (tmp_path / NAME).read_text() == f"{os.getpid()}\n"
