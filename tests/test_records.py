"""The records in the repository are read as they are written, equal, and import nothing."""

import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flatbit.cli.choice import recipe_of
from flatbit.cli.console import parse_settings
from flatbit.engine.record import FORMAT, RECORD, RunRecord, read_run
from flatbit.recipes import Network
from flatbit.report.summary import summarize
from flatbit.report.training import trainings

FILES = sorted((Path(__file__).parent.parent / "records").glob("*.json"))
every_record = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def folder_of(file, tmp_path):
    """A run's folder with this record in it."""
    (tmp_path / RECORD).write_bytes(file.read_bytes())
    return tmp_path


def test_there_are_records():
    assert len(FILES) >= 6


@every_record
def test_it_reads_as_a_record_and_is_written_the_same(file):
    found = json.loads(file.read_text())
    record = RunRecord.from_dict(found)
    assert found["format"] == FORMAT
    assert record.as_dict() == found
    assert json.loads(json.dumps(record.as_dict())) == found
    assert RunRecord.from_dict(record.as_dict()) == record


@every_record
def test_reading_imports_nothing_that_it_names(file, monkeypatch):
    def refused(path):
        raise AssertionError(path)

    monkeypatch.setattr("flatbit.plain.import_object", refused)
    assert RunRecord.from_dict(json.loads(file.read_text())).recipe.stages


@every_record
def test_what_is_not_ours_in_it_is_imported_on_trust_only(file):
    found = json.loads(file.read_text())
    found["recipe"]["stages"][0]["schedule"] = {"kind": "tests.cases_of_nobody:Schedule"}
    with pytest.raises(ValueError, match=r"wants to import 'tests\.cases_of_nobody:Schedule': if you trust it"):
        RunRecord.from_dict(found)
    assert "tests.cases_of_nobody" not in sys.modules
    with pytest.raises(ValueError, match=r"no module 'tests\.cases_of_nobody'"):
        RunRecord.from_dict(found, trust=True)


@every_record
def test_every_stage_of_it_is_finished_scored_and_costed(file):
    record = RunRecord.from_dict(json.loads(file.read_text()))
    assert [stage.name for stage in record.finished()] == list(record.stages)
    assert record.failure is None
    for entry in record.stages.values():
        assert entry.score == (entry.test.miou if entry.metric == "miou" else entry.test.top1)
        assert min(entry.cost.bitops, entry.cost.size_bytes, entry.cost.params) > 0


@every_record
def test_it_can_be_reported(file, tmp_path):
    run = read_run(folder_of(file, tmp_path))
    assert [row.stage for row in summarize([run])] == list(run.record.stages)
    assert [told.stage for told in trainings(run.record)] == list(run.record.stages)


def built(command):
    """The recipe that a command runs."""
    words = shlex.split(command.replace("\\\n", " "))
    given = {option: [] for option in ("--set", "--model", "--checkpoint", "--data", "--data-dir", "--data-arg")}
    for option, value in zip(words[3::2], words[4::2], strict=True):
        given[option].append(value)
    model, data = (next(iter(given[option]), None) for option in ("--model", "--data"))
    made = recipe_of(words[2], parse_settings(given["--set"]), Network(model=model), data)
    return replace(made, data_arguments=parse_settings(given["--data-arg"], "--data-arg"))


@pytest.mark.parametrize(
    ("start", "changes", "name"),
    [
        ("run faq ", {}, "resnet20-cifar10-faq-w8a8"),
        (
            "run faq ",
            {"weights=8": "weights=4", "activations=8": "activations=4", "weight_decay=0": "epochs=3",
             "--set training.batch_size=128": ""},
            "resnet20-cifar10-faq-w4a4",
        ),
        ("run hol-deeplab-voc", {}, "deeplab-camvid-hol-w4a4"),
    ],
)  # fmt: skip
def test_the_commands_of_its_page_give_its_stages(start, changes, name):
    page = (FILES[0].parent / "README.md").read_text()
    commands = re.findall(r"^`?(flatbit run (?:\\\n|[^\n`])+)", page, re.MULTILINE)
    (command,) = [command for command in commands if f"flatbit {start}" in command]
    for old, new in changes.items():
        command = command.replace(old, new)
    recipe = RunRecord.from_dict(json.loads((FILES[0].parent / f"{name}.json").read_text())).recipe
    made = built(command)
    assert made.stages == recipe.stages
    facts = ("name", "model", "model_arguments", "data", "data_arguments")
    assert [getattr(made, fact) for fact in facts] == [getattr(recipe, fact) for fact in facts]


@pytest.mark.parametrize("number", [1, 3, None, "2"])
def test_another_format_is_refused(number, tmp_path):
    found = json.loads(FILES[0].read_text()) | {"format": number}
    (tmp_path / RECORD).write_text(json.dumps(found))
    with pytest.raises(
        ValueError, match=rf"a record of format {number}, written by an?(other| older) version: this version reads 2$"
    ):
        read_run(tmp_path)
