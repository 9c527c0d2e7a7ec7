"""Evidence: written and read equal, whole or not at all, refused where it was edited, no more than the run was."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flatbit.engine.record import RECORD, Failure, Run, write_record
from flatbit.engine.splits import Splits
from flatbit.ledger import evidence
from flatbit.ledger.evidence import (
    KEPT_EPOCHS,
    Evidence,
    digest_of,
    label,
    named,
    of_run,
    ours,
    read,
    shelf,
    thinned,
    write,
)
from flatbit.ledger.experiments import Point, experiment

from ..engine.cases import exported
from .cases import diverged, epoch, metrics, proof_of, run_record, shelf_of, shortened, stage_record

NAME = "hol/f2-128-4"
scores = st.floats(0, 100)


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A folder of records without ours."""
    (tmp_path / "ours").mkdir()
    monkeypatch.setattr(evidence, "ours", lambda: tmp_path / "ours")
    folder = tmp_path / "records"
    folder.mkdir()
    return folder


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999), score=scores, point=st.text(max_size=9), value=st.floats(-1e6, 1e6), failed=st.booleans()
)
def test_it_reads_as_it_was_written(tmp_path, seed, score, point, value, failed):
    failure = Failure(stage="hol-w2a2", message=f"{point} is not finite") if failed else None
    found = proof_of(NAME, score, seed=seed, measures={point: {"lambda_max": value}}, failure=failure)
    path = write(found, tmp_path / "records")
    assert read(path) == found
    assert path.name.startswith(f"hol-f2-128-4-seed{seed}-")
    content = json.loads(path.read_text())
    assert content["digest"] == digest_of(content)
    assert path.name.endswith(f"{content['digest'][:8]}.json")


def test_the_same_evidence_is_the_same_file_and_other_evidence_another(tmp_path):
    paths = {write(proof_of(NAME, score), tmp_path) for score in (70.0, 70.0, 71.0)}
    assert len(paths) == len([*tmp_path.iterdir()]) == 2


def test_reading_imports_nothing(tmp_path, monkeypatch):
    path = write(proof_of(NAME), tmp_path)

    def refused(path):
        raise AssertionError(path)

    monkeypatch.setattr("flatbit.plain.import_object", refused)
    assert read(path).run.recipe.stages


def edited(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def better(content):
    content["run"]["stages"]["float"]["test"]["top1"] += 0.01


EDITS = {
    "a better score": better,
    "another experiment": lambda content: content.update(experiment="hol/f2-256-4"),
    "another measure": lambda content: content.update(measures={"": {"lambda_max": 1.0}}),
    "a later time": lambda content: content.update(finished="2031-01-01"),
    "another digest": lambda content: content.update(digest="0" * 64),
    "something more": lambda content: content.update(more=1),
    "something less": lambda content: content.pop("models"),
}


@pytest.mark.parametrize("change", EDITS.values(), ids=EDITS)
def test_what_was_edited_is_refused(tmp_path, change):
    path = write(proof_of(NAME), tmp_path)
    edited(path, change)
    with pytest.raises(
        ValueError, match="its digest does not match: it was edited after it was written, or is damaged"
    ):
        read(path)


def test_the_order_and_the_spelling_of_the_file_do_not_count(tmp_path):
    path = write(proof_of(NAME), tmp_path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(content.items())), indent=3))
    assert read(path) == proof_of(NAME)


def sealed(content):
    return json.dumps(content | {"digest": digest_of(content)})


WRONG = {
    "no JSON": ("{", r"no JSON \(.*\)"),
    "no text": (b"\xff\xfe\x00", r"no JSON \(.*\)"),
    "a list": ("[]", "no ledger record: it has no digest"),
    "something else": ("{}", "no ledger record: it has no digest"),
    "another format": (sealed({"format": 2}), "a record of format 2: this version reads 1"),
    "no format": (sealed({}), "a record of format None: this version reads 1"),
    "no run": (sealed({"format": 1, "experiment": NAME, "run": {}}), "a record that does not fit"),
    "no fields": (sealed({"format": 1}), "a record that names no experiment"),
    "no run of it": (sealed({"format": 1, "experiment": NAME}), "a record that does not fit"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_evidence_is_refused_and_left_out_by_name(alone, kind):
    content, reason = WRONG[kind]
    path = alone / "wrong.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=reason):
        read(path)
    good = write(proof_of(NAME), alone / "deep" / "er")
    found = shelf([alone])
    assert found.files == {good: proof_of(NAME)}
    assert [*found.left_out] == [path]


def test_runs_that_were_only_tried_are_left_out(alone):
    path = write(proof_of(NAME, recipe=experiment(NAME).made().smoke()), alone)
    assert shelf([alone]).left_out == {path: "a smoke run"}


@pytest.mark.parametrize(("name", "reason"), [("", ""), ("hol/gone", ": hol/gone")])
def test_runs_of_nothing_in_the_ledger_are_left_out(alone, name, reason):
    path = write(replace(proof_of(NAME), experiment=name), alone)
    assert shelf([alone]).left_out == {path: f"no experiment of the ledger{reason}"}


def test_a_folder_that_is_not_there_is_an_error(alone):
    with pytest.raises(ValueError, match="nowhere is no folder: --records names one"):
        shelf([alone / "nowhere"])


def test_ours_are_the_clones_or_the_wheels(monkeypatch, tmp_path):
    assert ours() == Path(__file__).parents[2] / "records"
    monkeypatch.setattr(evidence, "OURS", tmp_path)
    assert ours() == tmp_path


# Written whole or not at all


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_a_kill_leaves_no_half_written_record(tmp_path, monkeypatch, error):
    first = write(proof_of(NAME, seed=1), tmp_path)

    def fills(path, text):
        path.write_bytes(text[:100].encode())
        raise error

    monkeypatch.setattr(Path, "write_text", fills)
    with pytest.raises(type(error)):
        write(proof_of(NAME, seed=2), tmp_path)
    monkeypatch.undo()
    assert [*tmp_path.iterdir()] == [first]
    assert read(first).run.seed == 1


# What of a run is kept


@given(st.integers(0, 400), st.sets(st.integers(1, 400), max_size=30))
def test_of_many_epochs_a_few_are_kept_with_the_captures_and_the_last(last, captures):
    made = [epoch(n, float(n), capture=1 if n in captures else None) for n in range(1, last + 1)]
    record = run_record(experiment(NAME).made(), {"float": stage_record(epochs=made)})
    kept = [each.epoch for each in thinned(record).stages["float"].epochs]
    assert kept == sorted(kept)
    assert {n for n in captures if n <= last} <= {*kept}
    assert len(kept) <= KEPT_EPOCHS + len(captures)
    assert not last or kept[-1] == last
    assert [*thinned(record).stages["float"].epochs] == [made[n - 1] for n in kept]
    if last >= KEPT_EPOCHS:
        gaps = [b - a for a, b in zip([0, *kept], kept, strict=False)]
        assert max(gaps) <= last / KEPT_EPOCHS + 1


def test_a_record_is_a_few_kb(tmp_path):
    made = [epoch(n, float(n)) for n in range(1, 1001)]
    record = run_record(experiment(NAME).made(), {"float": stage_record(epochs=made)})
    assert write(Evidence(experiment=NAME, run=thinned(record)), tmp_path).stat().st_size < 20_000


# Whole, shortened, of other settings


def test_a_whole_run_varies_in_nothing():
    assert proof_of(NAME).variation == ""
    elsewhere = experiment("sqwa/t1-kd").made(lambda name: Path("/elsewhere") / name)
    assert proof_of("sqwa/t1-kd", recipe=elsewhere).variation == ""


def test_fewer_epochs_are_a_shortened_run_and_all_else_are_other_settings():
    whole = experiment(NAME).made()
    last = whole.stages[-1]

    def varied(**changes):
        made = replace(whole, stages=(*whole.stages[:-1], replace(last, **changes)))
        return proof_of(NAME, recipe=made).variation

    assert varied(epochs=last.epochs - 1) == "shortened"
    assert varied(epochs=last.epochs + 1) == "other settings"
    assert varied(lr=last.lr * 2) == "other settings"
    assert proof_of(NAME, recipe=replace(whole, model_arguments={"width": 64})).variation == "other settings"
    assert proof_of(NAME, recipe=replace(whole, stages=whole.stages[:1])).variation == "other settings"


def test_of_one_seed_the_whole_run_then_the_longest_then_the_newest_counts():
    whole = experiment(NAME).made()
    short, shorter = (shortened(whole, n) for n in (100, 50))
    more = replace(whole, stages=(*whole.stages[:-1], replace(whole.stages[-1], epochs=5000)))

    def best(*found):
        (path,) = shelf_of(*found).of(NAME)
        return int(path.stem)

    assert best(proof_of(NAME, recipe=shorter), proof_of(NAME, recipe=short)) == 1
    assert best(proof_of(NAME, recipe=short), proof_of(NAME, recipe=shorter)) == 0
    assert best(proof_of(NAME), proof_of(NAME, recipe=more)) == 0
    assert best(diverged(NAME), proof_of(NAME, recipe=shorter)) == 0  # a whole one that diverged says more
    assert best(proof_of(NAME, 60.0, finished="2030"), proof_of(NAME, 50.0, finished="2031")) == 1


def test_seeds_stand_beside_each_other_and_other_experiments_elsewhere():
    found = shelf_of(proof_of(NAME, seed=3), proof_of("hol/f2-256-4"), proof_of(NAME, seed=1), diverged(NAME, seed=2))
    assert [each.run.seed for each in found.of(NAME).values()] == [1, 2, 3]


# Values


def test_values_by_stage_and_epoch():
    epochs = [epoch(1, 10.0), epoch(2, 20.0, capture=1), epoch(3)]
    found = proof_of(NAME, {"float": stage_record(metrics(80.0, 99.0), epochs), "hol-w2a2": 70.0})
    assert found.value("top1", Point()) == found.value("region_acc", Point(stage="hol-w2a2")) == 70.0
    assert found.value("top5", Point(stage="float")) == 99.0
    assert found.value("top1", Point(stage="float", epoch=2)) == 20.0
    assert found.value("diff", Point(stage="hol-w2a2")) == 10.0
    for metric, point in [
        ("mIoU", Point()), ("lambda_max", Point()), ("top1", Point(stage="hol-w2a32")),
        ("top5", Point(stage="float", epoch=2)), ("top1", Point(stage="float", epoch=3)),
        ("top1", Point(stage="float", epoch=9)),
    ]:  # fmt: skip
        assert found.value(metric, point) is None


def test_what_was_measured_counts_at_its_point_alone():
    found = proof_of(NAME, measures={"": {"lambda_max": 86.0}, "float": {"train_top1": 99.0}})
    assert found.value("lambda_max", Point()) == 86.0
    assert found.value("train_top1", Point(stage="float")) == 99.0
    assert found.value("train_top1", Point()) is None


def test_a_run_that_diverged_has_no_last_stage_but_keeps_those_before():
    failure = Failure(stage="hol-w2a2", message="diverged")
    found = proof_of(NAME, {"float": 97.0}, failure=failure)
    assert found.failed
    assert found.value("top1", Point()) is None
    assert found.value("top1", Point(stage="float")) == 97.0


# Of a run's folder


def test_a_runs_folder_is_evidence_of_the_experiment_that_its_recipe_is(alone):
    record = run_record(experiment(NAME).made(), 70.0)
    folder = alone / "a-run"
    write_record(folder, record)
    (folder / "model.safetensors").write_bytes(b"weights")
    found = of_run(folder)
    assert (found.experiment, found.run) == (NAME, record)
    assert found.finished.startswith("20")
    assert found.models == {"": hashlib.sha256(b"weights").hexdigest()}
    assert read(folder / RECORD) == found
    assert shelf([alone]).files == {folder / RECORD: found}
    assert label(folder / RECORD) == f"{folder}/run.json"
    assert label(Path("records/a.json")) == "a.json"


def test_exports_are_evidence_that_outlives_writing_and_no_later_end_of_the_run(alone):
    record = run_record(experiment(NAME).made(), 70.0)
    folder = alone / "a-run"
    net = Run(folder=folder, record=record).stage_file(record.recipe.stages[-1].name)
    net.parent.mkdir(parents=True)
    net.write_bytes(b"weights")
    os.utime(net, (0, 0))
    write_record(folder, record.with_export(exported()))
    found = of_run(folder)
    assert found.finished == "1970-01-01T00:00:00+00:00"
    assert found.run.exports == {"qdq": exported()}
    assert read(write(found, alone / "records")) == found


def test_a_run_that_is_not_finished_is_left_out_until_it_is(alone):
    write_record(alone, run_record(experiment(NAME).made(), {"float": 90.0}))
    with pytest.raises(ValueError, match=r"this run is not finished: go on with it \(flatbit run ... --resume\)"):
        of_run(alone)
    assert [*shelf([alone]).left_out] == [alone / RECORD]


def test_a_recipe_of_nobodys_names_no_experiment():
    whole = experiment(NAME).made()
    assert named(run_record(whole)) == NAME
    assert named(run_record(replace(whole, model_arguments={"width": 77}))) == ""
    assert named(run_record(shortened(whole, 3))) == NAME
    assert named(run_record(replace(whole, stages=tuple(replace(s, batch_size=7) for s in whole.stages)))) == ""


def test_runs_that_were_scored_on_some_test_images_are_left_out(alone):
    made = replace(experiment(NAME).made(), splits=Splits(limit_test=100))
    path = write(proof_of(NAME, recipe=made), alone)
    assert shelf([alone]).left_out == {path: "scored on 100 test images alone (--limit-test)"}
