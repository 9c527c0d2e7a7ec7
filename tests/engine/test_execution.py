"""Runs: what they leave, that they go on exactly where they were killed, and what they refuse to run over."""

import json
import shutil
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

import flatbit as fb
from flatbit.data.memory import TensorBatches
from flatbit.engine import Checkpoint, execution, measuring, plan, read_run, run
from flatbit.engine import stage as stages
from flatbit.engine.loop import Hooks, TrainingError
from flatbit.engine.recipe import Stage
from flatbit.engine.record import write_record
from flatbit.reference import From
from flatbit.train.losses.teacher import Distillation

from .cases import (
    BEGIN,
    FLOAT,
    POLICY,
    QUANTIZED,
    Diverging,
    Killed,
    Silenced,
    assert_same_run,
    exported,
    kill_after,
    net,
    ran,
    recipe,
    same_files,
    shades,
    small,
    still,
)

BOTH = recipe(FLOAT, QUANTIZED)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run of both stages."""
    torch.set_num_threads(1)  # sums must not depend on which test asks first
    return ran(BOTH, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def every_update(monkeypatch):
    """A checkpoint after every update."""
    monkeypatch.setattr(stages, "Hooks", partial(Hooks, save_every_s=-1))


# What it leaves


def test_a_run_leaves_one_folder(finished):
    left = sorted(str(path.relative_to(finished.folder)) for path in finished.folder.rglob("*"))
    assert left == [
        "epochs.csv",
        "model.safetensors",
        "run.json",
        "stages",
        "stages/float.safetensors",
        "stages/w2a2.safetensors",
    ]
    model = (finished.folder / "model.safetensors").read_bytes()
    assert model == finished.stage_file("w2a2").read_bytes()


def test_the_record_says_all(finished):
    written = json.loads((finished.folder / "run.json").read_text())
    assert written == finished.record.as_dict()
    assert read_run(finished.folder) == finished
    record = finished.record
    assert (record.seed, record.device, record.recipe) == (0, "cpu", BOTH)
    assert record.environment.torch == torch.__version__
    assert list(record.stages) == ["float", "w2a2"]
    entry = record.stages["w2a2"]
    assert entry.test.convention.policy == "uniq"
    assert entry.test.proof.usage["4.weight_quantizer"].allowed == 4
    assert [epoch.epoch for epoch in entry.epochs] == [1, 2]
    assert entry.best_test == max(epoch.test_top1 for epoch in entry.epochs)
    assert entry.test.top1 == entry.score == entry.epochs[-1].test_top1
    assert record.stages["float"].cost.bitops > entry.cost.bitops


def test_every_term_of_the_loss_is_on_record_before_its_weight(finished, tmp_path):
    for epoch in finished.record.stages["float"].epochs:
        assert epoch.losses == {"cross_entropy": pytest.approx(epoch.train_loss)}
    terms = (*fb.train.losses.teacher.taught(Distillation(teacher=BEGIN)), fb.train.Lipschitz(weight=0.5))
    made = ran(recipe(FLOAT, replace(FLOAT, name="more", start=BEGIN, losses=terms)), tmp_path)
    for epoch in made.record.stages["more"].epochs:
        assert list(epoch.losses) == ["cross_entropy", "distillation", "lipschitz"]
        weighted = sum(term.weight * epoch.losses[term.name] for term in terms)
        assert epoch.train_loss == pytest.approx(weighted)


def test_the_models_are_those_of_the_record(finished):
    for name, entry in finished.record.stages.items():
        model = fb.load(finished.stage_file(name))
        metrics = fb.evaluate(model, shades().test_batches())
        assert metrics.top1 == entry.test.top1
        assert metrics.loss == pytest.approx(entry.test.loss)
        assert fb.cost(model, (1, 8, 8)).bitops == entry.cost.bitops


def test_the_same_seed_gives_the_same_run(finished, tmp_path):
    torch.manual_seed(77)
    assert_same_run(ran(BOTH, str(tmp_path / "again")), finished)


def test_one_plan_can_be_executed_twice(finished, tmp_path):
    planned = plan(BOTH)
    for name in ("one", "two"):
        assert_same_run(run(planned, tmp_path / name), finished)


def test_another_seed_gives_another_run(finished, tmp_path):
    other = ran(BOTH, tmp_path, seed=1)
    assert other.record.seed == 1
    assert not same_files(other.folder / "model.safetensors", finished.folder / "model.safetensors")


def test_a_stage_of_no_epochs_measures_only(tmp_path):
    measured = ran(recipe(still(FLOAT)), tmp_path).record.stages["float"]
    torch.manual_seed(0)
    built = net()
    assert measured.test.loss == pytest.approx(fb.evaluate(built, shades().test_batches()).loss)
    assert measured.best_test is None
    assert measured.epochs == ()
    assert measured.seconds == 0


def test_smoke_is_two_updates_a_stage(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, closure=None: steps.append(float(closure())))
    smoked = ran(recipe(replace(FLOAT, epochs=50), replace(QUANTIZED, epochs=50)), tmp_path, smoke=True)
    assert len(steps) == 4
    assert [len(entry.epochs) for entry in smoked.record.stages.values()] == [1, 1]


def test_classes_and_channels_follow_the_data_unless_given(tmp_path):
    measured = Stage(name="float", epochs=0)
    ran(small(measured), tmp_path)
    model = fb.load(tmp_path / "model.safetensors")
    assert (model.conv1.in_channels, model.fc.out_features) == (1, 10)
    ran(small(measured, num_classes=12), tmp_path / "wide")
    assert fb.load(tmp_path / "wide" / "model.safetensors").fc.out_features == 12


def test_the_notes_of_the_plan_are_said_first(tmp_path):
    said = []
    ran(small(Stage(name="float", epochs=0), num_classes=12), tmp_path, say=said.append)
    assert said[0] == "resnet8 has 12 outputs, the data 10 classes: --model-arg num_classes= mends it"
    assert said[1].startswith("float: top-1 ")


def test_a_score_no_better_than_guessing_is_said_to_be_one(tmp_path):
    said = []
    ran(recipe(replace(FLOAT, lr=1e-30, epochs=1), still(FLOAT, name="measured")), tmp_path, say=said.append)
    said = [line for line in said if ": epoch " not in line]
    assert said[0].endswith("of training, no better than guessing")
    assert said[1].endswith(" %, not trained")


def test_a_network_of_three_channels_gets_grey_images_repeated_and_says_so(tmp_path):
    said, coloured = [], small(Stage(name="float", epochs=0), in_channels=3)
    done = ran(coloured, tmp_path, say=said.append)
    assert "resnet8 takes images of 3 channels: the grey ones of digits are repeated" in said
    assert done.record.recipe.data_arguments == {"channels": 3}
    assert ran(coloured, tmp_path, resume=True).record == done.record


def test_files_that_could_not_be_read_are_said_and_recorded(tmp_path, monkeypatch):
    data = replace(shades(), name="holey")
    data.left_out["a.png"] = "cannot identify image file"
    monkeypatch.setattr("flatbit.engine.planning.datasets.load", lambda name, folder, **arguments: data)
    said = []
    made = ran(recipe(still(FLOAT)), tmp_path, say=said.append)
    assert said[-2:] == [
        "1 files of holey could not be read and were left out:", "  a.png: cannot identify image file",
    ]  # fmt: skip
    assert read_run(made.folder).record.left_out == {"a.png": "cannot identify image file"}


# Killed, and resumed


def resumed(monkeypatch, folder):
    """What was killed, gone on with: another process has another random state, and no patches."""
    monkeypatch.undo()
    torch.manual_seed(4321)
    return ran(BOTH, folder, resume=True)


@pytest.mark.parametrize("saves", range(1, 20, 2))
def test_killed_inside_an_epoch_and_resumed_equals_uninterrupted(finished, tmp_path, monkeypatch, every_update, saves):
    kill_after(monkeypatch, stages, "save_checkpoint", saves)
    with pytest.raises(Killed):
        ran(BOTH, tmp_path / "run")
    assert_same_run(resumed(monkeypatch, tmp_path / "run"), finished)


@pytest.mark.parametrize("saves", [1, 2, 3, 4])
@pytest.mark.parametrize("after", [True, False])
def test_killed_between_epochs_and_resumed_equals_uninterrupted(finished, tmp_path, monkeypatch, saves, after):
    kill_after(monkeypatch, stages, "save_checkpoint", saves, first=after)
    with pytest.raises(Killed):
        ran(BOTH, tmp_path / "run")
    assert_same_run(resumed(monkeypatch, tmp_path / "run"), finished)


@pytest.mark.parametrize(
    ("name", "calls"),
    [("evaluate", 1), ("evaluate", 3), ("evaluate", 4), ("cost", 2), ("save", 1), ("save", 2), ("calibrate_", 1),
     ("write_record", 1), ("write_record", 2), ("write_record", 3)],
)  # fmt: skip
@pytest.mark.parametrize("after", [True, False])
def test_killed_between_steps_of_the_engine_and_resumed_equals_uninterrupted(
    finished, tmp_path, monkeypatch, name, calls, after
):
    planned = plan(BOTH)
    owner = {"write_record": execution, "cost": measuring}.get(name, stages)
    kill_after(monkeypatch, owner, name, calls, first=after)
    with pytest.raises(Killed):
        run(planned, tmp_path / "run")
    assert_same_run(resumed(monkeypatch, tmp_path / "run"), finished)


@pytest.mark.parametrize("saves", [2, 7, 11, 17])
def test_resuming_does_only_the_updates_that_were_left(tmp_path, monkeypatch, every_update, saves):
    updates = []
    step = torch.optim.SGD.step
    with monkeypatch.context() as killed:
        killed.setattr(torch.optim.SGD, "step", lambda self, closure=None: updates.append(1) or step(self, closure))
        kill_after(killed, stages, "save_checkpoint", saves)
        with pytest.raises(Killed):
            ran(BOTH, tmp_path)
    done = len(updates)
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, closure=None: updates.append(1) or step(self, closure))
    ran(BOTH, tmp_path, resume=True)
    assert 0 < done < len(updates) == 2 * 3 + 6 + 3


def test_killed_by_the_data_and_resumed_equals_uninterrupted(finished, tmp_path, monkeypatch):
    original, steps = TensorBatches.epoch, []

    def dying(self, epoch, start=0):
        for batch in original(self, epoch, start):
            steps.append(self.seed is not None)  # training, not test
            if sum(steps) == 8:
                raise Killed
            yield batch

    monkeypatch.setattr(TensorBatches, "epoch", dying)
    with pytest.raises(Killed):
        ran(BOTH, tmp_path / "run")
    assert_same_run(resumed(monkeypatch, tmp_path / "run"), finished)


def test_a_finished_stage_is_not_run_again(finished, tmp_path, monkeypatch):
    kill_after(monkeypatch, execution, "write_record", 2)
    with pytest.raises(Killed):
        ran(BOTH, tmp_path / "run")
    said = []
    monkeypatch.undo()
    ran(BOTH, tmp_path / "run", resume=True, say=said.append)
    first, *epochs, last = said
    assert first == f"{tmp_path / 'run'}: goes on; finished stages: float"
    assert [line.partition(" of 2")[0] for line in epochs] == ["w2a2: epoch 1", "w2a2: epoch 2"]
    assert last.startswith("w2a2: top-1 ")


def test_resuming_a_finished_run_changes_nothing(finished):
    before = (finished.folder / "run.json").read_bytes()
    assert ran(BOTH, finished.folder, resume=True) == finished
    assert (finished.folder / "run.json").read_bytes() == before


def test_what_is_exported_while_a_run_goes_on_stays_in_its_record(tmp_path):
    done = []

    def export(line):
        if line.startswith("float:") and not done:
            done.append(line)
            write_record(tmp_path / "run", read_run(tmp_path / "run").record.with_export(exported(stage="float")))

    made = recipe(FLOAT, Stage(name="w2a2", epochs=0, policy=POLICY, start=BEGIN, batch_size=12))
    record = ran(made, tmp_path / "run", say=export).record
    assert [*record.exports] == ["float/qdq"]
    assert [*record.stages] == ["float", "w2a2"]
    assert read_run(tmp_path / "run").record == record


def test_resume_without_a_run_starts_one(finished, tmp_path):
    said = []
    assert_same_run(ran(BOTH, tmp_path / "new", resume=True, say=said.append), finished)
    assert said[0] == f"{tmp_path / 'new'} holds no run to resume: this is a new one"


def test_a_run_with_a_loss_of_the_users_own_is_resumed(tmp_path, monkeypatch):
    """Its record names a class to import, which the run itself has imported already."""
    Silenced.calls.clear()
    made = recipe(FLOAT, replace(FLOAT, name="mine", losses=(Silenced(kills=0),)))
    kill_after(monkeypatch, stages, "save_checkpoint", 3)
    with pytest.raises(Killed):
        ran(made, tmp_path / "killed")
    monkeypatch.undo()
    assert_same_run(ran(made, tmp_path / "killed", resume=True), ran(made, tmp_path / "whole"))


# What it does not run over


def test_a_folder_with_a_run_is_left_alone(finished):
    before = (finished.folder / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="holds a run already: --resume goes on with it, --overwrite replaces it, an"):
        ran(BOTH, finished.folder)
    assert (finished.folder / "model.safetensors").read_bytes() == before


def test_a_run_that_died_before_it_had_anything_is_begun_anew(finished, tmp_path, monkeypatch):
    kill_after(monkeypatch, execution, "write_record", 1)
    with pytest.raises(Killed):
        ran(recipe(FLOAT), tmp_path / "run")
    monkeypatch.undo()
    assert_same_run(ran(BOTH, tmp_path / "run"), finished)


def test_a_broken_checkpoint_is_named_and_the_stage_begins_again_without_it(finished, tmp_path, monkeypatch):
    kill_after(monkeypatch, stages, "save_checkpoint", 3)
    with pytest.raises(Killed):
        ran(BOTH, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is not a checkpoint of ours .*: delete it"):
        resumed(monkeypatch, tmp_path / "run")
    checkpoint.unlink()
    assert_same_run(resumed(monkeypatch, tmp_path / "run"), finished)


def test_a_checkpoint_alone_is_not_run_over(tmp_path, monkeypatch):
    kill_after(monkeypatch, stages, "save_checkpoint", 1)
    with pytest.raises(Killed):
        ran(recipe(FLOAT), tmp_path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="holds a run already"):
        ran(recipe(FLOAT), tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 3}, "its seed is 0, here it is 3"),
        ({"lr": 0.04}, r"its recipe\.stages\[0\]\.lr is 0\.05, here it is 0\.04"),
        ({"smoke": True}, r"its recipe\.stages\[0\]\..* here it is"),
    ],
)
def test_another_run_is_not_gone_on_with(finished, change, words):
    change = dict(change)
    first = replace(FLOAT, lr=change.pop("lr", FLOAT.lr))
    with pytest.raises(ValueError, match=rf"holds another run \({words}.*\): give another --out"):
        ran(recipe(first, QUANTIZED), finished.folder, resume=True, **change)


@pytest.mark.parametrize("resume", [True, False])
def test_nothing_is_imported_that_a_record_alone_names(finished, tmp_path, monkeypatch, resume):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    module = f"evil_{resume}".lower()
    (tmp_path / f"{module}.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    found = json.loads((folder / "run.json").read_text())
    found["recipe"]["stages"][0]["schedule"] = {"kind": f"{module}:S"}
    (folder / "run.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"another run \(its .*schedule\.kind" if resume else "holds a run already"):
        ran(BOTH, folder, resume=resume)
    assert module not in sys.modules


def test_settings_that_make_the_same_stages_are_the_same_run(finished):
    assert_same_run(ran(replace(BOTH, settings={"lr": 0.05}), finished.folder, resume=True), finished)


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_of_an_older_version_is_refused_in_one_line(tmp_path, resume):
    old = {"recipe": {"name": "tiny", "stages": []}, "seed": 0, "device": "cpu", "stages": {"float": {}}}
    (tmp_path / "run.json").write_text(json.dumps(old))
    with pytest.raises(
        ValueError, match=r"a record of format 1, written by an older version: .* start the run anew"
    ) as caught:
        ran(BOTH, tmp_path, resume=resume)
    assert "\n" not in str(caught.value)


def test_divergence_keeps_what_was_finished(tmp_path):
    made = recipe(FLOAT, replace(FLOAT, name="bad", start=BEGIN, losses=(Diverging(),)))
    with pytest.raises(TrainingError, match="stage 'bad'"):
        ran(made, tmp_path)
    record = read_run(tmp_path, trust=True).record
    assert list(record.stages) == ["float"]
    assert record.failure.stage == "bad"
    assert fb.load(tmp_path / "stages" / "float.safetensors")
    assert not (tmp_path / "model.safetensors").exists()


# Given weights


@pytest.fixture
def given(tmp_path):
    """A checkpoint of a small net, under other names."""
    state = fb.models.build("resnet8", first_width=2, in_channels=1).state_dict()
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "w.pth")
    return Checkpoint(path=tmp_path / "w.pth")


MEASURED = small(Stage(name="float", epochs=0))


def test_given_weights_are_where_the_first_stages_start(finished, tmp_path):
    weights = finished.stage_file("float")
    ran(recipe(still(FLOAT), still(QUANTIZED)), tmp_path, checkpoint=Checkpoint(path=weights))
    assert same_files(tmp_path / "stages" / "float.safetensors", weights)


def test_quantized_weights_are_taken_as_the_float_weights_they_hold(finished, tmp_path):
    weights = finished.folder / "model.safetensors"
    ran(recipe(still(FLOAT)), tmp_path, checkpoint=Checkpoint(path=weights))
    ended, held = load_file(tmp_path / "model.safetensors"), load_file(weights)
    assert not any("quantizer" in key for key in ended)
    assert all(torch.equal(ended[key], held[key]) for key in ended)


def test_given_weights_are_measured_and_recorded_before_anything(given, tmp_path):
    said = []
    done = ran(MEASURED, tmp_path / "out", checkpoint=given, say=said.append)
    record = done.record.checkpoint
    assert (record.file, record.sha256) == ("w.pth", given.digest())
    assert record.test == done.record.stages["float"].test
    assert "without 'state_dict', 'module.'" in said[0]
    assert said[1] == f"w.pth: float top-1 {record.test.top1:.2f} % of 450 test images"
    assert said[2].startswith("float: top-1 ")


def test_a_head_that_stays_as_it_is_built_is_measured_as_the_stages_build_it(tmp_path):
    other = fb.models.build("resnet8", first_width=2, in_channels=1, num_classes=7)
    torch.save(other.state_dict(), tmp_path / "w.pth")
    torch.manual_seed(5)
    done = ran(MEASURED, tmp_path / "out", checkpoint=Checkpoint(path=tmp_path / "w.pth", as_built=("fc",)))
    assert done.record.checkpoint.test == done.record.stages["float"].test


def test_the_checkpoint_is_on_record_before_the_first_stage_ends(given, tmp_path, monkeypatch):
    kill_after(monkeypatch, execution, "prepare", 1)
    with pytest.raises(Killed):
        ran(MEASURED, tmp_path / "out", checkpoint=given)
    assert read_run(tmp_path / "out").record.checkpoint.file == "w.pth"


def test_resuming_with_the_same_checkpoint_measures_it_once(given, tmp_path, monkeypatch):
    done = ran(MEASURED, tmp_path / "out", checkpoint=given)
    monkeypatch.setattr(execution, "_measured", None)
    moved = given.path.rename(tmp_path / "moved.pth")
    again = ran(MEASURED, tmp_path / "out", checkpoint=Checkpoint(path=moved), resume=True)
    assert again.record == done.record


def test_resuming_with_another_checkpoint_is_refused(given, tmp_path):
    ran(MEASURED, tmp_path / "out", checkpoint=given)
    torch.manual_seed(5)
    torch.save(fb.models.build("resnet8", first_width=2, in_channels=1).state_dict(), tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"b\.pth: this run started from w\.pth: give that, or another --out"):
        ran(MEASURED, tmp_path / "out", checkpoint=Checkpoint(path=tmp_path / "b.pth"), resume=True)


def test_resuming_without_the_checkpoint_it_started_from_is_refused(given, tmp_path):
    ran(MEASURED, tmp_path / "out", checkpoint=given)
    with pytest.raises(ValueError, match=r"no --checkpoint: this run started from w\.pth"):
        ran(MEASURED, tmp_path / "out", resume=True)


def test_a_run_without_a_checkpoint_does_not_go_on_with_one(given, tmp_path):
    ran(MEASURED, tmp_path / "out")
    with pytest.raises(ValueError, match=r"w\.pth: this run started without a checkpoint: leave it out, or give"):
        ran(MEASURED, tmp_path / "out", checkpoint=given, resume=True)


def test_a_stage_starts_from_the_weights_and_statistics_of_its_start(tmp_path):
    ran(recipe(FLOAT, replace(FLOAT, name="other"), still(QUANTIZED)), tmp_path)
    started, ended = (load_file(tmp_path / "stages" / f"{name}.safetensors") for name in ("float", "w2a2"))
    assert all(torch.equal(ended[key], started[key]) for key in started)
    assert any("quantizer" in key for key in ended.keys() - started.keys())


def test_a_stage_may_start_from_a_file(finished, tmp_path):
    """The float weights of another run's model, in the recipe's own."""
    for name, source in (("file", finished.stage_file("float")), ("folder", finished.folder)):
        made = ran(recipe(still(FLOAT, start=From.file(str(source)))), tmp_path / name)
        started, ended = (
            load_file(finished.stage_file(("w2a2", "float")[name == "file"])),
            load_file(made.folder / "model.safetensors"),
        )
        assert not any("quantizer" in key for key in ended)
        assert all(torch.equal(ended[key], started[key]) for key in ended)
