"""epochs.csv is the record's epochs, whole or resumed; callbacks are told each epoch once; TensorBoard's files."""

import csv
import sys
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest

import flatbit as fb
from flatbit.engine import EpochEnd, TensorBoard, plan, run, run_seeds
from flatbit.engine.recipe import Recipe, Stage
from flatbit.engine.record import EpochRecord
from flatbit.reference import From
from flatbit.train.losses.labels import CrossEntropy
from flatbit.train.losses.teacher import Distillation

STEPS = 3


def planned():
    policy = fb.policy("uniq", weights=2, activations=2)
    losses = (CrossEntropy(weight=0.5), Distillation(teacher=From.stage("float"), weight=0.5))
    float_net = Stage(name="float", epochs=2, lr=0.1, batch_size=32, max_steps=STEPS)
    stages = (
        float_net,
        replace(float_net, name="q", start=From.stage("float"), epochs=3, lr=0.01, policy=policy, losses=losses),
    )
    return plan(Recipe(name="r", model="preresnet8", model_arguments={"first_width": 2}, data="digits", stages=stages))


def rows(folder):
    with (folder / "epochs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class Stopped(Exception):
    pass


def test_a_row_for_each_epoch_of_each_stage_with_its_numbers(tmp_path):
    done = run(planned(), tmp_path)
    found = rows(tmp_path)
    assert [(row["stage"], row["epoch"]) for row in found] == [
        ("float", "1"), ("float", "2"), ("q", "1"), ("q", "2"), ("q", "3"),
    ]  # fmt: skip
    assert list(found[0])[-2:] == ["loss.cross_entropy", "loss.distillation"]
    assert {f.name for f in fields(EpochRecord)} - {"losses"} < {*found[0]}
    for row in found:
        epoch = done.record.stages[row["stage"]].epochs[int(row["epoch"]) - 1]
        assert (float(row["train_loss"]), float(row["test_top1"])) == (epoch.train_loss, epoch.test_top1)
        assert row["loss.distillation"] == str(epoch.losses.get("distillation", ""))
        assert row["capture"] == ""


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_run_that_goes_on_has_each_epoch_once(tmp_path, lost):
    def stop(end):
        if (end.stage.name, end.epoch.epoch) == ("q", 2):
            raise Stopped

    with pytest.raises(Stopped):
        run(planned(), tmp_path / "cut", callbacks=[stop])
    text = (tmp_path / "cut/epochs.csv").read_text()
    (tmp_path / "cut/epochs.csv").write_text(text[: len(text) - 7 * lost])  # as it was killed in a line
    run(planned(), tmp_path / "cut", resume=True)
    run(planned(), tmp_path / "whole")
    timed = ("images_per_s", "seconds")
    cut, whole = (
        [{k: v for k, v in row.items() if k not in timed} for row in rows(tmp_path / f)] for f in ("cut", "whole")
    )
    assert cut == whole


def test_callbacks_are_told_every_epoch_in_their_order(tmp_path):
    told = []
    run(planned(), tmp_path, callbacks=[lambda end: told.append(end), lambda end: told.append(end.epoch.epoch)])
    ends = told[::2]
    assert all(isinstance(end, EpochEnd) and end.out == tmp_path for end in ends)
    assert [(end.stage.name, end.epoch.epoch) for end in ends] == [
        ("float", 1),
        ("float", 2),
        *(("q", n) for n in (1, 2, 3)),
    ]
    assert told[1::2] == [1, 2, 1, 2, 3]
    assert ends[0].epoch.test_top1 is not None
    assert fb.assignment(ends[-1].model)["layers.0.0.conv1"] == (2, 2)


@pytest.mark.parametrize("engine", ["stacked", "eager"])
def test_seeds_have_a_table_each_and_share_the_callbacks(tmp_path, engine):
    told = []
    run_seeds(planned(), [0, 1], tmp_path, engine=engine, callbacks=[told.append])
    assert sorted((end.out.name, end.stage.name, end.epoch.epoch) for end in told) == sorted(
        (f"seed{seed}", stage, n)
        for seed in (0, 1)
        for stage, most in (("float", 2), ("q", 3))
        for n in range(1, most + 1)
    )
    assert [len(rows(tmp_path / f"seed{seed}")) for seed in (0, 1)] == [5, 5]
    assert rows(tmp_path / "seed0")[0]["train_loss"] != rows(tmp_path / "seed1")[0]["train_loss"]


@pytest.fixture
def written(monkeypatch):
    """What a stand-in for torch's writer is given: ``(folder, name, step)``, and where each begins."""
    got = SimpleNamespace(scalars=[], begun=[], closed=[])

    class Writer:
        def __init__(self, folder, purge_step):
            self.folder = folder
            got.begun.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            got.scalars.append((self.folder, name, step, value))

        def flush(self):
            pass

        def close(self):
            got.closed.append(self.folder)

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    return got


def test_tensorboard_has_a_folder_for_each_stage(tmp_path, written):
    done = run(planned(), tmp_path, callbacks=[TensorBoard()])
    folders = [str(tmp_path / "tensorboard" / stage) for stage in ("float", "q")]
    assert written.begun == [(folder, 1) for folder in folders]
    assert written.closed == folders
    seen = {(folder, step): value for folder, name, step, value in written.scalars if name == "test_top1"}
    assert seen[folders[1], 3] == done.record.stages["q"].epochs[2].test_top1
    assert len(seen) == 5
    assert {name for _, name, _, _ in written.scalars} >= {"lr", "train_loss", "loss.distillation"}
    assert not {name for _, name, _, _ in written.scalars} & {"stage", "epoch", "capture"}


def test_tensorboard_takes_the_place_of_what_is_repeated(tmp_path, written):
    def stop(end):
        if (end.stage.name, end.epoch.epoch) == ("q", 2):
            raise Stopped

    with pytest.raises(Stopped):
        run(planned(), tmp_path, callbacks=[TensorBoard(), stop])
    run(planned(), tmp_path, resume=True, callbacks=[TensorBoard()])
    assert written.begun[-1] == (str(tmp_path / "tensorboard" / "q"), 2)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r'tensorboard is not installed: pip install "flatbit\[tensorboard\]"'):
        TensorBoard()


def test_the_files_are_tensorboard_s(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = run(planned(), tmp_path, callbacks=[TensorBoard()])
    found = EventAccumulator(str(tmp_path / "tensorboard/q"))
    found.Reload()
    got = [(event.step, event.value) for event in found.Scalars("train_loss")]
    assert got == [(epoch.epoch, pytest.approx(epoch.train_loss)) for epoch in done.record.stages["q"].epochs]
