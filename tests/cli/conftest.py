import io
import sys
from collections import namedtuple
from contextlib import redirect_stderr, redirect_stdout
from itertools import count
from unittest import mock

import pytest
import torch

from flatbit.cli import main

Result = namedtuple("Result", "status out err")
COUNT = count()


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Before the first module's fixtures train anything: threads that wait for each other take ten times as long."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def flatbit():
    """The command line as a function: ``flatbit("cost", "resnet20")`` gives status, stdout and stderr."""

    def call(*arguments):
        out, err = io.StringIO(), io.StringIO()
        argv = mock.patch.object(sys, "argv", ["flatbit", *map(str, arguments)])
        with argv, redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
        return Result(ended.value.code or 0, out.getvalue(), err.getvalue())

    return call


@pytest.fixture(scope="session")
def refuses(flatbit):
    """Hold that a call is the caller's mistake: status 2, nothing on stdout, one line about it; give the line."""

    def check(*arguments):
        result = flatbit(*arguments)
        assert (result.status, result.out) == (2, ""), result
        *progress, line = result.err.splitlines()
        assert line.startswith("flatbit: ")
        assert all(
            said.startswith(("seed ", "float: top-1 ", "no --checkpoint")) or "held out" in said for said in progress
        ), progress
        return line

    return check


@pytest.fixture
def no_page(monkeypatch):
    """Leave the report unwritten: it takes a second, and other tests hold it."""
    for verb in ("quantize", "quickstart", "run"):
        monkeypatch.setattr(f"flatbit.cli.verbs.{verb}.write_page", lambda runs, path, **settings: path)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """An empty working directory, and how to write a module of a unique name into it."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        name = f"own_module_{next(COUNT)}"
        tmp_path.joinpath(f"{name}.py").write_text(text)
        return name

    return write
