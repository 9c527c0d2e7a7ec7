"""The records in the repository are read as they are written, equal, import nothing, and are evidence of the ledger."""

import json
import sys
from pathlib import Path

import pytest

from flatbit.engine.record import FORMAT, RECORD, RunRecord, read_run
from flatbit.ledger.evidence import FORMAT as EVIDENCE_FORMAT
from flatbit.ledger.evidence import digest_of, ours, read, shelf, write
from flatbit.ledger.experiments import experiments
from flatbit.report.summary import summarize
from flatbit.report.training import trainings

FOLDER = Path(__file__).parent.parent / "records"
FILES = sorted(FOLDER.glob("*.json"))
every_record = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
KB = 1000


def run_of(file):
    """The plain record of the run."""
    return json.loads(file.read_text())["run"]


def test_there_are_records_and_they_are_our_evidence():
    assert len(FILES) >= 2
    assert ours() == FOLDER
    found = shelf()
    assert [*found.files] == FILES
    assert found.left_out == {}


@every_record
def test_it_reads_as_evidence_and_is_written_the_same(file, tmp_path):
    found = read(file)
    written = write(found, tmp_path)
    assert written.name == file.name
    assert written.read_bytes() == file.read_bytes()
    content = json.loads(file.read_text())
    assert (content["format"], content["run"]["format"]) == (EVIDENCE_FORMAT, FORMAT)
    assert content["digest"] == digest_of(content)


@every_record
def test_its_run_reads_as_a_record_and_is_written_the_same(file):
    found = run_of(file)
    record = RunRecord.from_dict(found)
    assert record.as_dict() == found
    assert RunRecord.from_dict(record.as_dict()) == record


@every_record
def test_it_is_of_an_experiment_of_the_ledger_and_short(file):
    found = read(file)
    assert found.experiment in experiments()
    assert file.name.startswith(f"{found.experiment.replace('/', '-')}-seed{found.run.seed}-")
    assert all(len(digest) == 64 for digest in found.models.values())  # runs of before the ledger left none
    assert found.variation in ("", "shortened")
    assert file.stat().st_size < 60 * KB


@every_record
def test_reading_imports_nothing_that_it_names(file, monkeypatch):
    def refused(path):
        raise AssertionError(path)

    monkeypatch.setattr("flatbit.plain.import_object", refused)
    assert read(file).run.recipe.stages


@every_record
def test_what_is_not_ours_in_it_is_refused(file, tmp_path):
    content = json.loads(file.read_text())
    content["run"]["recipe"]["stages"][0]["schedule"] = {"kind": "tests.cases_of_nobody:Schedule"}
    path = tmp_path / file.name
    path.write_text(json.dumps(content | {"digest": digest_of(content)}))
    with pytest.raises(ValueError, match=r"wants to import 'tests\.cases_of_nobody:Schedule': if you trust it"):
        read(path)
    assert "tests.cases_of_nobody" not in sys.modules


@every_record
def test_every_stage_of_it_is_finished_scored_and_costed(file):
    found = read(file)
    record = found.run
    assert [stage.name for stage in record.finished()] == list(record.stages)
    assert found.failed or list(record.stages) == [stage.name for stage in record.recipe.stages]
    for entry in record.stages.values():
        assert entry.score == (entry.test.miou if entry.metric == "miou" else entry.test.top1)
        assert min(entry.cost.bitops, entry.cost.size_bytes, entry.cost.params) > 0


@every_record
def test_it_can_be_reported(file, tmp_path):
    (tmp_path / RECORD).write_text(json.dumps(run_of(file)))
    run = read_run(tmp_path)
    assert [row.stage for row in summarize([run])] == list(run.record.stages)
    assert [told.stage for told in trainings(run.record)] == list(run.record.stages)


@pytest.mark.parametrize("number", [1, 3, None, "2"])
def test_another_format_of_its_run_is_refused(number, tmp_path):
    found = run_of(FILES[0]) | {"format": number}
    (tmp_path / RECORD).write_text(json.dumps(found))
    with pytest.raises(
        ValueError, match=rf"a record of format {number}, written by an?(other| older) version: this version reads 2$"
    ):
        read_run(tmp_path)
