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
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gpu.budget import Budget
from benchmarks.gpu.packing import CHECKPOINTS, END_BYTES, LOGS, RECORDS, Item, pack, plan_packing
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


def started(tmp_path, interpreter, *words):
    command = [sys.executable, "-m", "benchmarks.gpu", "--python", str(interpreter)]
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


# Packing


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3), st.floats(-9, 9)), max_size=40),
    st.integers(0, 5),
    st.integers(1, 4000),
)
def test_any_files_fit_the_limits_and_what_does_not_is_told(sizes, files, file_bytes):
    items = [Item(name=f"é{i}", size=s, kind=kind, age=age) for i, (s, kind, age) in enumerate(sizes)]
    packing = plan_packing(items, files=files, file_bytes=file_bytes)
    by_name = {item.name: item for item in items}
    packed = [name for names in packing.archives for name in names]
    assert sorted([*packed, *packing.left_out]) == sorted(by_name)
    assert len(packing.archives) <= files
    for names in packing.archives:
        assert names
        assert sum(by_name[name].cost for name in names) + END_BYTES <= file_bytes


@given(st.lists(st.integers(0, 900), max_size=20), st.lists(st.integers(0, 900), max_size=20), st.integers(1, 3))
def test_records_go_first(records, others, files):
    """No checkpoint takes the place of a record: the records are packed as if there were nothing else."""
    made = [Item(name=f"r{i}", size=size, kind=RECORDS) for i, size in enumerate(records)]
    rest = [Item(name=f"c{i}", size=size, kind=CHECKPOINTS) for i, size in enumerate(others)]
    alone, both = (plan_packing(items, files=files, file_bytes=1500) for items in (made, [*rest, *made]))
    assert {name for name in both.left_out if name[0] == "r"} == {*alone.left_out}


def test_of_one_kind_the_newest_go_first():
    items = [
        Item(name=name, size=900, kind=LOGS, age=age) for name, age in (("old", 3.0), ("new", 1.0), ("between", 2.0))
    ]
    packing = plan_packing(items, files=1, file_bytes=2200)
    assert packing.archives == (("new", "between"),)
    assert packing.left_out == {"old": "900 bytes: no room in 1 files"}


def test_archives_are_as_large_as_planned_and_hold_what_was_written(tmp_path):
    work, out = tmp_path / "work", tmp_path / "out"
    (work / "a/b").mkdir(parents=True)
    out.mkdir()
    contents = {f"a/b/{i}.safetensors": os.urandom(20_000 + i) for i in range(7)} | {"run.json": b"[1]" * 50_000}
    for name, content in contents.items():
        (work / name).write_bytes(content)
    (work / "a/.half.pt.7.partial").write_bytes(b"half")
    packing = pack(work, out, files=3, file_bytes=50_000)
    assert len(packing.left_out) == 1
    assert "run.json" in packing.archives[0]
    found = {}
    for path in out.iterdir():
        assert path.stat().st_size <= 50_000
        with zipfile.ZipFile(path) as archive:
            found |= {name: archive.read(name) for name in archive.namelist()}
    assert found == {name: content for name, content in contents.items() if name not in packing.left_out}


def test_headers_count_where_members_are_many_and_small(tmp_path):
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    out.mkdir()
    for i in range(60):
        (work / f"a-rather-long-name-of-a-small-file-é-{i}.json").write_text("{}")
    packing = pack(work, out, files=3, file_bytes=3000)
    assert packing.left_out
    assert [path.stat().st_size <= 3000 for path in out.iterdir()] == [True] * 3


def test_packing_again_leaves_no_archive_of_before(tmp_path):
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    out.mkdir()
    for i in range(3):
        (work / f"{i}.pt").write_bytes(os.urandom(900))
    assert len(pack(work, out, files=3, file_bytes=1200).archives) == 3
    for i in range(2):
        (work / f"{i}.pt").unlink()
    pack(work, out, files=3, file_bytes=1200)
    assert [path.name for path in out.iterdir()] == ["part-1.zip"]
    assert {path.name for path in tmp_path.iterdir()} == {"work", "out"}


def test_pytests_lines_are_counted_also_where_it_was_killed(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "collecting ... collected 3 items\n"
        "tests/a.py::test_b[0.5 x] PASSED     [ 33%]\ntests/a.py::test_c FAILED [ 66%]\ntests/a.py::test_d "
    )
    found = count_tests(log)
    assert found["tests"] == {"passed": 1, "failed": 1}
    assert found["bad"] == ["tests/a.py::test_c"]
