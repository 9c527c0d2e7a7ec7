"""scripts/gpu: the parts in order, inside the budget; what was written is packed within limits, also when killed."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from benchmarks.gpu.budget import Budget
from benchmarks.gpu.parts import Part, count_tests
from benchmarks.gpu.processes import run_limited
from benchmarks.gpu.session import PACK_RESERVE_S, Session
from benchmarks.gpu.settings import Settings

ROOT = Path(__file__).parent.parent
MACHINE = {"cuda": False, "gpu": None, "ledger": False}
STAND_IN = """#!{python}
import json, pathlib, signal, sys, time
words = sys.argv[2:]
def value(name): return words[words.index(name) + 1]
def log(line):
    with open({calls!r}, "a") as calls: calls.write(line + "\\n")
part = words[0].rpartition(".")[2]
if part == "probe":
    print(json.dumps({machine}))
    sys.exit()
log(" ".join(words))
if part == "selfcheck":
    pathlib.Path(value("--out")).write_text(json.dumps(dict(a=dict(ok=True, told="well"))))
elif part == "engine":
    record = pathlib.Path(value("--record"))
    record.write_text(json.dumps(dict(rows=[1, 2])))
    if {hangs}:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        log("hangs")
        time.sleep(600)
elif part == "flatbit":
    run = pathlib.Path(value("--out")) / "a" / "b"
    run.mkdir(parents=True)
    (run / "run.json").write_text("[]")
    (run / "checkpoint.pt").write_bytes(bytes(range(256)) * 100)
"""


# The command line, over an interpreter that stands in for the parts


def stand_in(tmp_path, machine, hangs=False):
    """An interpreter that does what the parts do, at once, and notes how it was called."""
    path = tmp_path / "python"
    calls = str(tmp_path / "calls")
    path.write_text(STAND_IN.format(python=sys.executable, calls=calls, machine=machine, hangs=hangs))
    path.chmod(0o755)
    return path


def started(tmp_path, interpreter, *words, by=("-m", "benchmarks.gpu")):
    command = [sys.executable, *by, "--python", str(interpreter)]
    places = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    return subprocess.Popen([*command, *places, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process):
    out, error = process.communicate(timeout=60)
    return process.returncode, (out + error).decode()


def story(tmp_path):
    return json.loads((tmp_path / "out/session.json").read_text())


def test_the_parts_run_in_order_and_all_they_wrote_comes_back(tmp_path):
    machine = MACHINE | {"cuda": True, "gpu": "NVIDIA H100 80GB HBM3", "ledger": True}
    status, told = ended(started(tmp_path, stand_in(tmp_path, machine), "--data-dir", str(tmp_path)))
    assert status == 0, told
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == [
        "benchmarks.gpu.selfcheck",
        "pytest",
        "benchmarks.gpu.engine",
        "flatbit",
    ]
    assert "ledger run --device cuda" in calls[3]
    assert f"--data-dir {tmp_path}" in calls[3]
    minutes = float(calls[3].partition("--budget-minutes ")[2])
    assert 0 < minutes <= 9 - PACK_RESERVE_S / 60
    assert [(part["part"], part["ended"]) for part in story(tmp_path)["parts"]] == [
        (name, "done") for name in ("check", "tests", "engine", "queue")
    ]
    [record] = (tmp_path / "out").glob("*-engine-h100.json")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"session.json", "part-1.zip", record.name}
    with zipfile.ZipFile(tmp_path / "out/part-1.zip") as archive:
        assert {"queue/a/b/run.json", "queue/a/b/checkpoint.pt", "check.json", "tests.log"} <= {*archive.namelist()}


def test_killed_in_the_middle_it_packs_what_there_is_and_leaves_nothing_running(tmp_path):
    process = started(tmp_path, stand_in(tmp_path, MACHINE | {"cuda": True}, hangs=True))
    deadline = time.monotonic() + 60
    while not (tmp_path / "calls").is_file() or "hangs" not in (tmp_path / "calls").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    status, told = ended(process)
    assert status == 130, told
    parts = {part["part"]: part["ended"] for part in story(tmp_path)["parts"]}
    assert parts == {"check": "done", "tests": "done", "engine": "stopped"}
    assert story(tmp_path)["packed"].keys() == {"part-1.zip"}
    [record] = (tmp_path / "out").glob("*-engine-cuda.json")
    assert json.loads(record.read_text()) == {"rows": [1, 2]}
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path / "python") not in running


def test_a_signal_while_it_packs_costs_nothing(tmp_path):
    slow = (
        "import sys, time; from benchmarks.gpu import __main__, session; pack = session.pack\n"
        "def slowly(*given, **named): print('packing', flush=True); time.sleep(1); return pack(*given, **named)\n"
        "session.pack = slowly; sys.exit(__main__.main())"
    )
    interpreter = stand_in(tmp_path, MACHINE | {"cuda": True})
    process = started(tmp_path, interpreter, by=("-c", slow))
    assert process.stdout is not None
    while b"packing" not in (line := process.stdout.readline()):
        assert line
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process.send_signal(number)
    status, told = ended(process)
    assert status == 0, told
    assert story(tmp_path)["packed"].keys() == {"part-1.zip"}
    assert (tmp_path / "out/part-1.zip").is_file()


def test_without_a_device_it_says_so_and_ends_well(tmp_path):
    status, told = ended(started(tmp_path, stand_in(tmp_path, MACHINE)))
    assert status == 0
    assert "no CUDA device here: nothing to do" in told
    assert not (tmp_path / "out").exists()


def test_a_rehearsal_goes_through_the_parts_without_one(tmp_path):
    status, told = ended(started(tmp_path, stand_in(tmp_path, MACHINE), "--rehearse"))
    assert status == 0, told
    assert "queue: left out: this flatbit has no ledger yet" in told
    calls = (tmp_path / "calls").read_text()
    assert "selfcheck --device cpu" in calls
    assert "--small" in calls


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--max-files", "2"], "expected 3 files or more"),
        (["--data-dir", "nowhere"], "nowhere is no folder"),
        (["--out", "/tmp"], "/tmp is not empty"),
        (["--out", "a", "--work", "a/b"], "folders beside each other"),
    ],
)
def test_what_cannot_be_is_said_at_once(tmp_path, words, why):
    status, told = ended(started(tmp_path, stand_in(tmp_path, MACHINE), "--rehearse", *words))
    assert status == 2
    assert why in told


# A session


def session(tmp_path, monkeypatch, parts, seconds=600.0, **named):
    out, work = tmp_path / "out", tmp_path / "work"
    out.mkdir()
    work.mkdir()
    monkeypatch.setattr("benchmarks.gpu.session.parts_of", lambda *_: parts)
    budget = Budget(started=time.time(), seconds=seconds)
    settings = Settings(budget=budget, root=ROOT, python=sys.executable, out=out, work=work, **named)
    return Session(settings, MACHINE, say=lambda line: None)


def part(name, code, **named):
    return Part(name=name, **{"seconds": 60.0} | named, command=lambda seconds: [sys.executable, "-c", code])


def ends(made):
    return [entry["ended"] for entry in made.story["parts"]]


def test_a_part_that_fails_is_told_and_the_rest_goes_on(tmp_path, monkeypatch):
    made = session(tmp_path, monkeypatch, [part("check", "raise SystemExit(3)"), part("tests", "print('hello')")])
    assert made.run() == 1
    assert ends(made) == ["failed", "done"]
    assert made.story["parts"][0]["status"] == 3
    assert (tmp_path / "work/tests.log").read_text() == "hello\n"


def test_a_part_is_stopped_when_the_budget_ends_and_the_next_is_not_begun(tmp_path, monkeypatch):
    parts = [part("queue", "import time; time.sleep(600)"), part("more", "1")]
    made = session(tmp_path, monkeypatch, parts, seconds=PACK_RESERVE_S + 3)
    assert made.run() == 0
    assert ends(made) == ["time limit", "left out"]
    assert made.settings.budget.left() > 0
    assert made.story["parts"][1]["why"] == "no time is left"


def test_a_check_that_did_not_end_is_no_check(tmp_path, monkeypatch):
    made = session(tmp_path, monkeypatch, [part("check", "import time; time.sleep(600)", seconds=0.3)])
    assert made.run() == 1


def test_a_test_that_failed_is_a_failure_also_where_the_limit_cut_the_rest(tmp_path, monkeypatch):
    code = "import time; print('tests/a.py::test_c FAILED [ 66%]', flush=True); time.sleep(600)"
    made = session(tmp_path, monkeypatch, [part("tests", code, seconds=1.0, read=count_tests)])
    assert made.run() == 1
    assert ends(made) == ["time limit"]


def test_what_lies_in_out_counts_as_files_too(tmp_path, monkeypatch):
    write = (
        "from pathlib import Path; import os; [Path({!r}, f'{{i}}.pt').write_bytes(os.urandom(9000)) for i in range(9)]"
    )
    parts = [part("queue", write.format(str(tmp_path / "work")))]
    made = session(tmp_path, monkeypatch, parts, max_files=4, max_file_mib=10_000 / 2**20)
    (tmp_path / "out/record.json").write_text("{}")
    assert made.run() == 0
    assert len(list((tmp_path / "out").iterdir())) == 4
    assert len(made.story["left_out"]) == 7 == len(story(tmp_path)["left_out"])


def test_a_budget_counts_from_the_scripts_own_start():
    budget = Budget(started=100.0, seconds=60.0, clock=lambda: 130.0)
    assert (budget.left(), budget.left(20.0), budget.left(40.0), budget.passed()) == (30.0, 10.0, 0.0, 30.0)


# Processes


def test_a_process_that_ignores_the_interrupt_is_killed_with_its_children(tmp_path):
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    log = tmp_path / "log"
    outcome = run_limited([sys.executable, "-c", code], log, seconds=2.0, cwd=tmp_path, grace=0.3)
    assert (outcome.ended, outcome.status) == ("time limit", -signal.SIGKILL)
    child = int(log.read_text())
    deadline = time.monotonic() + 10
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_an_interrupted_process_may_write_down_what_it_holds(tmp_path):
    code = "import time\ntry:\n  time.sleep(600)\nexcept KeyboardInterrupt:\n  print('kept')"
    outcome = run_limited([sys.executable, "-c", code], tmp_path / "log", seconds=2.0, cwd=tmp_path)
    assert outcome.ended == "time limit"
    assert (tmp_path / "log").read_text() == "kept\n"


def test_pytests_lines_are_counted_also_where_it_was_killed(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "collecting ... collected 3 items\n"
        "tests/a.py::test_b[0.5 x] PASSED     [ 33%]\ntests/a.py::test_c FAILED [ 66%]\ntests/a.py::test_d "
    )
    found = count_tests(log)
    assert found["tests"] == {"passed": 1, "failed": 1}
    assert found["bad"] == ["tests/a.py::test_c"]
