import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flatbit.ledger import evidence
from flatbit.ledger.evidence import read, write
from flatbit.ledger.experiments import experiment

from ...ledger.cases import numbers, proof_of, tiny_ledger_

ROOT = Path(__file__).parents[3]
CHILD = """
import sys
from pathlib import Path
import pytest
import torch
from flatbit.cli import main
from tests.ledger.cases import tiny_ledger_

torch.set_num_threads(1)
tiny_ledger_(pytest.MonkeyPatch(), Path(sys.argv.pop(1)))
main()
"""
"""The command line with the tiny ledger, in a process of its own: its own records' folder, then the words."""


@pytest.fixture
def ours(monkeypatch, tmp_path):
    """A folder of our own records with two seeds of one run."""
    folder = tmp_path / "ours"
    for seed, score in enumerate((84.3, 84.7)):
        write(proof_of("hol/f2-128-4", score, seed=seed), folder)
    for module in ("flatbit.ledger.evidence", "flatbit.cli.verbs.ledger"):
        monkeypatch.setattr(sys.modules[module], "ours", lambda: folder)
    return folder


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The ledger of tiny runs, and a folder to work in."""
    tiny_ledger_(monkeypatch, tmp_path / "ours")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True, scope="module")
def _loaded(flatbit):
    flatbit("ledger", "--help")


# Cells


@pytest.mark.parametrize("words", [("show", "HOL/Fig2"), ("HOL/Fig2",), ("hol/fig2",)])
def test_a_table_is_shown_with_and_without_its_verb(flatbit, ours, words):
    result = flatbit("ledger", *words)
    assert (result.status, result.err) == (0, "")
    assert re.search(r"HOL-Fig2-03 .* W2/A2 .* 84\.6 .* 84\.50 ± 0\.28 .*-0\.10 .*reproduced", result.out)
    assert "9 rows: " in result.out
    assert "6 not run, 2 better, 1 reproduced" in result.out


def test_json_has_every_cell(flatbit, ours):
    result = flatbit("ledger", "HOL/Fig2", "--json")
    found = json.loads(result.out)
    assert (result.status, result.err) == (0, "")
    assert [cell["id"] for cell in found["cells"]] == [f"HOL-Fig2-0{n}" for n in range(1, 10)]
    assert sum(found["summary"].values()) == 9
    cell = found["cells"][2]
    assert (cell["ours"], cell["status"], cell["seeds"]) == (84.5, "reproduced", [0, 1])


def test_options_may_come_first_and_all_of_it_is_761_rows(flatbit, ours, monkeypatch):
    monkeypatch.setattr("flatbit.ledger.cells.count", lambda row, name, stage: row.value)
    found = json.loads(flatbit("ledger", "--json").out)
    assert len(found["cells"]) == 761
    assert sum(found["summary"].values()) == 761


def test_a_status_alone(flatbit, refuses, ours):
    found = json.loads(flatbit("ledger", "HOL/Fig2", "--status", "reproduced", "--json").out)
    assert [cell["id"] for cell in found["cells"]] == ["HOL-Fig2-03"]
    assert "--status computed: no such row; there are " in refuses("ledger", "HOL/Fig2", "--status", "computed")


def test_commands_are_one_per_run(flatbit, ours):
    out = flatbit("ledger", "HOL/Fig2", "--commands").out
    assert [line for line in out.splitlines() if line.startswith("flatbit ")] == [
        experiment(f"hol/{name}").command() for name in ("f2-128-4", "f2-256-4", "f2-128-8")
    ]
    assert "# Figure 2: 256-4" in out


def test_commands_can_be_copied_whole(flatbit, ours):
    """However long they are, no line break comes into one."""
    out = flatbit("ledger", "UNIQ/T6", "--commands").out
    assert {experiment(f"uniq/t6-{name}").command() for name in ("sgd-0.01", "adam-warm10")} <= {*out.splitlines()}


def test_a_page_is_written(flatbit, ours, tmp_path):
    result = flatbit("ledger", "HOL/Fig2", "--html", tmp_path / "page.html")
    assert result.err == f"page: {tmp_path / 'page.html'}\n"
    assert (tmp_path / "page.html").read_text().count("<tr data-paper") == 9


def test_records_of_the_users_own_count_and_what_is_none_is_named(flatbit, ours, tmp_path):
    more = tmp_path / "more"
    write(proof_of("hol/f2-256-4", 88.8), more)
    (more / "notes.json").write_text("{}")
    result = flatbit("ledger", "HOL-Fig2-06", "--records", more, "--json")
    (cell,) = json.loads(result.out)["cells"]
    assert (cell["status"], cell["ours"]) == ("one seed", 88.8)
    assert result.err == f"left out: {more / 'notes.json'}: no ledger record: it has no digest\n"


def test_a_place_that_is_none_names_the_nearest(refuses, ours):
    assert "no paper, table or row 'HOL/Fig22': " in refuses("ledger", "HOL/Fig22")
    assert "HOL/Fig2" in refuses("ledger", "HOL/Fig22")
    assert "no paper, table or row 'shwo'" in refuses("ledger", "shwo")
    assert "is no folder: --records names one" in refuses("ledger", "HOL", "--records", "nowhere")


# verify, add


def test_records_that_are_whole_are_verified(flatbit, ours):
    result = flatbit("ledger", "verify")
    assert (result.status, result.out, result.err) == (0, "2 records: every digest holds\n", "")
    assert json.loads(flatbit("ledger", "verify", ours, "--json").out) == {"records": 2}


def test_our_own_records_are_verified(flatbit):
    assert "every digest holds" in flatbit("ledger", "verify", ROOT / "records").out


def test_an_edited_record_is_refused_by_name(refuses, ours):
    path = sorted(ours.iterdir())[0]
    path.write_text(path.read_text().replace("84.3", "94.3").replace("84.7", "94.7"))
    line = refuses("ledger", "verify")
    assert line == (
        f"flatbit: 1 of 2 records are refused: {path}: its digest does not match: it was edited after it was written, "
        "or is damaged"
    )


def test_a_record_of_another_format_is_refused_and_a_folder_without_any(refuses, ours, tmp_path):
    path = sorted(ours.iterdir())[0]
    content = json.loads(path.read_text()) | {"format": 7}
    path.write_text(json.dumps(content | {"digest": evidence.digest_of(content)}))
    assert "a record of format 7: this version reads 1" in refuses("ledger", "verify")
    (tmp_path / "empty").mkdir()
    assert "no records in " in refuses("ledger", "verify", tmp_path / "empty")


def test_a_run_of_ones_own_becomes_a_record(flatbit, refuses, tiny):
    assert flatbit("ledger", "run", "pair", "--out", "q").status == 0
    result = flatbit("ledger", "add", "q/runs/tiny/good/seed0", "--to", "mine", "--json")
    (written,) = json.loads(result.out)
    assert Path(written).parent == Path("mine")
    assert (read(Path(written)).experiment, read(Path(written)).variation) == ("tiny/good", "")
    assert "no run in q" in refuses("ledger", "add", "q")


def test_a_run_of_nothing_in_the_ledger_or_an_unfinished_one_is_refused(flatbit, refuses, tiny, no_page):
    small = ("run", "float", "--model", "fcdnn", "--model-arg", "width=4", "--model-arg", "depth=2")
    flatbit(*small, "--model-arg", "in_features=64", "--smoke", "--out", "other")
    assert "other: its recipe is none of the ledger's" in refuses("ledger", "add", "other")


# queue, run


def test_the_queue_lists_its_groups_in_order(flatbit, tiny):
    found = json.loads(flatbit("ledger", "queue", "--json").out)
    assert [group["name"] for group in found] == ["pair", "long", "seeds", "bad", "orphan", "cifar"]
    assert found[0]["experiments"] == ["tiny/good", "tiny/other"]
    assert {group["recorded"] for group in found} == {0}
    flatbit("ledger", "run", "pair", "--out", "q")
    for path in Path("q/records").iterdir():
        shutil.copy(path, "ours")
    recorded = {group["name"]: group["recorded"] for group in json.loads(flatbit("ledger", "queue", "--json").out)}
    assert (recorded["pair"], recorded["seeds"], recorded["long"]) == (2, 1, 0)
    assert "2 of 2" in flatbit("ledger", "queue", "pair").out


def test_the_real_queue_is_listed(flatbit, ours):
    out = flatbit("ledger", "queue", "SAQ/TC").out
    assert "saq-w4a4" in out
    assert "spirals" not in out


def test_a_group_is_run_and_its_records_are_told(flatbit, tiny):
    result = flatbit("ledger", "run", "seeds", "--out", "q", "--json")
    found = json.loads(result.out)
    assert result.status == 0
    assert found == {"records": "q/records", "won": {"tiny/float": [0], "tiny/good": [0, 1]}}
    lines = result.err.splitlines()
    assert "seeds: spread" in lines
    assert lines[-1] == "nothing is left to run of these groups"
    assert len([*Path("q/records").iterdir()]) == 3
    again = flatbit("ledger", "run", "seeds", "--out", "q", "--json")
    assert json.loads(again.out)["won"] == {}


def test_its_records_fill_cells(flatbit, tiny):
    flatbit("ledger", "run", "seeds", "--out", "q")
    (cell,) = json.loads(flatbit("ledger", "HOL-T4-05", "--records", "q/records", "--json").out)["cells"]
    assert (len(cell["seeds"]), cell["experiment"]) == (2, "tiny/good")
    assert cell["ours"] is not None


def test_only_trying_leaves_no_record(flatbit, tiny):
    result = flatbit("ledger", "run", "pair", "--smoke", "--out", "q", "--json")
    assert (result.status, json.loads(result.out)["won"]) == (0, {})
    assert [*Path("q/records").iterdir()] == []


def test_errors_of_the_queue_are_the_callers(flatbit, tiny, refuses):
    assert "no paper, table or row 'pear'" in refuses("ledger", "run", "pear")
    result = flatbit("ledger", "run", "cifar", "--out", "q")
    assert result.status == 2
    assert re.search(r"flatbit: nothing can be run: .*--data-dir DIR.*HOL-T4-06", result.err)


def test_a_budget_too_small_is_the_callers_mistake(flatbit, tiny, monkeypatch):
    monkeypatch.setattr("flatbit.ledger.queue.Queue.seconds", lambda queue, group: 90.0)
    result = flatbit("ledger", "run", "pair", "--out", "q", "--budget-minutes", 1)
    assert result.status == 2
    assert "--budget-minutes is too small: of the groups that are left the smallest, pair, takes" in result.err
    partial = flatbit("ledger", "run", "pair", "--out", "q", "--budget-minutes", 1, "--partial", "--json")
    assert (partial.status, len(json.loads(partial.out)["won"])) == (0, 3)


def test_what_is_carried_goes_on_elsewhere_within_its_limits(flatbit, tiny, monkeypatch):
    carry = ("--carry", "c", "--max-files", 2, "--max-file-mib", 0.2)
    with monkeypatch.context() as patch:  # for the second group there is no time
        patch.setattr("flatbit.ledger.queue.Queue.seconds", lambda queue, group: 1e6 * (group.name == "seeds"))
        first = flatbit("ledger", "run", "pair", "seeds", "--out", "here", *carry)
    assert re.search(r"\d+ files packed into [12] of c", first.err)
    assert all(path.stat().st_size <= 0.2 * 2**20 for path in Path("c").iterdir())
    shutil.rmtree("here")
    second = flatbit("ledger", "run", "seeds", "--out", "there", *carry, "--json")
    assert re.search(r"^\d+ files taken from c$", second.err, re.MULTILINE)
    assert json.loads(second.out)["won"] == {"tiny/good": [1]}
    assert len([*Path("there/records").iterdir()]) == 4


# Processes


def started(tiny, *words):
    """The command line in a process of its own, once it said that it trains the long run."""
    script = tiny / "child.py"
    script.write_text(CHILD)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, script, tiny / "theirs", "ledger", "run", "long", *words], cwd=tiny, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in child.stderr:
        if line.startswith("tiny/long: "):
            return child
    raise AssertionError(child.communicate())


def records(folder):
    """By experiment, without the plug-ins that happen to be loaded in a process of tests."""
    found = [read(path) for path in Path(folder).iterdir()]
    return {each.experiment: numbers(replace(each.run, plugins=()).as_dict()) for each in found}


def test_a_killed_queue_is_gone_on_with_and_a_living_one_keeps_others_out(flatbit, refuses, tiny):
    """The child is stopped, so that it lives while we ask, and then killed without a chance to tidy up."""
    child = started(tiny, "--out", "q")
    try:
        child.send_signal(signal.SIGSTOP)
        line = refuses("ledger", "run", "long", "--out", "q")
        assert line == (
            f"flatbit: q is in use by another queue (process {child.pid}): wait for it, or give another --out"
        )
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert flatbit("ledger", "run", "long", "--out", "q").status == 0
    assert flatbit("ledger", "run", "long", "--out", "whole").status == 0
    assert records("q/records") == records("whole/records")


def test_at_sigterm_it_ends_well_and_tells_what_is_finished(tiny):
    child = started(tiny, "--out", "q", "--carry", "c", "--json")
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    won = json.loads(out)["won"]
    assert won == {"tiny/float": [0]} or won == {"tiny/float": [0], "tiny/long": [0]}
    assert "files packed into" in err
