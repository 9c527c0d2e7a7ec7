"""The parts of a GPU session: what each is given, and in what order tests run."""

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from benchmarks.gpu import parts
from benchmarks.gpu.budget import Budget
from benchmarks.gpu.settings import Limits, Settings

ROOT = Path(__file__).parent.parent


def settings(tmp_path, **limits):
    return Settings(
        budget=Budget(started=time.time(), seconds=600), root=ROOT, python=sys.executable,
        out=tmp_path, work=tmp_path, limits=Limits(**limits),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ledger", "limits", "seconds"),
    [
        (True, {}, parts.ENGINE_S),
        (False, {}, 400 - parts.IMPORTS_S),
        (True, {"engine": 240.0}, 240),
        (False, {"engine": 30.0}, 30),
        (False, {"engine": 900.0}, 400 - parts.IMPORTS_S),
    ],
)
def test_without_a_queue_the_engine_has_what_is_left(ledger, limits, seconds, tmp_path):
    made = parts.engine(settings(tmp_path, **limits), "cuda", {"gpu": "NVIDIA H100", "ledger": ledger}, "2026-11-28")
    command = made.command(min(made.seconds, 400.0))
    assert float(command[command.index("--seconds") + 1]) == seconds


def test_what_compiles_runs_after_all_other_tests_of_a_device(tmp_path):
    command = [word for word in parts.tests(settings(tmp_path)).command(60.0) if not word.endswith(".py")]
    files = ["tests/engine/test_update.py", "tests/engine/test_execution_ways.py", "tests/train/test_sharpness.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--collect-only", "-qq", *files], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    names = [line for line in done.stdout.splitlines() if "::" in line]
    last = [name for name in names if "compiled" in name]
    assert names[-len(last) :] == last, done.stdout + done.stderr
    assert {name.partition("::")[0] for name in last} == {*files[:2]}
    assert any(name.startswith(files[2]) for name in names)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Synchronization debug mode is a prototype feature and does not yet detect all of them", UserWarning),
        ("TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled.", UserWarning),
        ("`torch.jit.script` is deprecated.", DeprecationWarning),
    ],
)
def test_what_torch_says_once_on_a_device_fails_no_test(words, kind):
    warnings.warn(words, kind, stacklevel=1)
