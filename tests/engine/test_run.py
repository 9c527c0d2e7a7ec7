import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import flatbit as fb
from flatbit.data.memory import Images, MemoryData, TensorBatches
from flatbit.engine import run as engine
from flatbit.engine import stage as stages
from flatbit.engine.recipe import Recipe, Stage
from flatbit.engine.run import describe, plain, read_run, run
from flatbit.train.schedules import Cosine, Exponential

HERE = __name__  # models and data of this file by package.module:function
TIMES = ("seconds", "images_per_s")


def net(num_classes=3, in_channels=1):
    """Convolution, batch norm and dropout: all that a checkpoint has to keep."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(6, 6, 3),
        nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, num_classes),
    )  # fmt: skip


def shades():
    """36 training and 12 test images of three shades."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(48) % 3
    pixels = (labels * 60 + 50).reshape(-1, 1, 1, 1) + torch.randint(-50, 51, (48, 1, 8, 8), generator=generator)
    images = pixels.to(torch.uint8)
    train, test = (Images(images=images[part], labels=labels[part]) for part in (slice(36), slice(36, 48)))
    augment = fb.data.augment.Augment(pad=1)
    return MemoryData(name="shades", num_classes=3, train=train, test=test, mean=(0.4,), std=(0.2,), augment=augment)


def diverging(model, x, y):
    loss, logits = fb.train.objective.cross_entropy(model, x, y)
    return loss * float("nan"), logits


POLICY = fb.policy("uniq", weights=2, activations=2)
FLOAT = Stage(name="float", epochs=2, lr=0.05, batch_size=12)
QUANTIZED = Stage(
    name="w2a2", epochs=2, lr=0.02, batch_size=6, policy=POLICY, start="float", schedule=Cosine(), growth=((1, 2),)
)


def recipe(*stages, **facts):
    return Recipe(**{"name": "tiny", "model": f"{HERE}:net", "data": f"{HERE}:shades", "stages": stages} | facts)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run of both stages."""
    torch.set_num_threads(1)  # sums must not depend on which test asks first
    return run(recipe(FLOAT, QUANTIZED), tmp_path_factory.mktemp("whole") / "run")


def same_files(folder, other):
    ours, theirs = load_file(folder), load_file(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def numbers(record):
    """The record without what the clock says."""
    stages = {}
    for name, entry in record["stages"].items():
        epochs = [{k: v for k, v in epoch.items() if k not in TIMES} for epoch in entry["epochs"]]
        stages[name] = {k: v for k, v in entry.items() if k not in TIMES} | {"epochs": epochs}
    return plain(stages)


def assert_same_run(one, other):
    assert numbers(one.record) == numbers(other.record)
    for stage in one.record["stages"]:
        assert same_files(
            one.folder / "stages" / f"{stage}.safetensors", other.folder / "stages" / f"{stage}.safetensors"
        )
    assert same_files(one.folder / "model.safetensors", other.folder / "model.safetensors")


def test_a_run_leaves_one_folder(finished):
    left = sorted(str(path.relative_to(finished.folder)) for path in finished.folder.rglob("*"))
    assert left == ["model.safetensors", "run.json", "stages", "stages/float.safetensors", "stages/w2a2.safetensors"]
    assert (finished.folder / "model.safetensors").read_bytes() == (
        finished.folder / "stages" / "w2a2.safetensors"
    ).read_bytes()


def test_the_record_says_all(finished):
    record = json.loads((finished.folder / "run.json").read_text())
    assert record == plain(finished.record)
    assert (record["seed"], record["device"], record["recipe"]["name"]) == (0, "cpu", "tiny")
    assert record["environment"]["torch"] == torch.__version__
    assert list(record["stages"]) == ["float", "w2a2"]
    entry = record["stages"]["w2a2"]
    assert entry["test"]["convention"]["policy"] == "uniq"
    assert entry["test"]["levels"]["4.weight_quantizer"][1] == 4
    assert [epoch["epoch"] for epoch in entry["epochs"]] == [1, 2]
    assert entry["best_test"] == max(epoch["test_top1"] for epoch in entry["epochs"])
    assert entry["test"]["top1"] == entry["epochs"][-1]["test_top1"]
    assert record["stages"]["float"]["cost"]["bitops"] > entry["cost"]["bitops"]


def test_the_models_are_those_of_the_record(finished):
    for name, entry in finished.record["stages"].items():
        model = fb.load(finished.folder / "stages" / f"{name}.safetensors")
        metrics = fb.evaluate(model, shades().test_batches())
        assert metrics.top1 == entry["test"]["top1"]
        assert metrics.loss == pytest.approx(entry["test"]["loss"])
        assert fb.cost(model, (1, 8, 8)).bitops == entry["cost"]["bitops"]


def test_the_same_seed_gives_the_same_run(finished, tmp_path):
    torch.manual_seed(77)
    assert_same_run(run(recipe(FLOAT, QUANTIZED), str(tmp_path / "again")), finished)


def test_another_seed_gives_another_run(finished, tmp_path):
    other = run(recipe(FLOAT, QUANTIZED), tmp_path, seed=1)
    assert other.record["seed"] == 1
    assert not same_files(other.folder / "model.safetensors", finished.folder / "model.safetensors")


class Killed(BaseException):
    """Raised in the middle of a run, as a kill would."""


def kill_after(monkeypatch, owner, name, calls, first=True):
    """Make the function die at its n-th call, after (``first``) or before doing its work."""
    original, count = getattr(owner, name), [0]

    def counted(*args, **kwargs):
        count[0] += 1
        if count[0] == calls and not first:
            raise Killed
        result = original(*args, **kwargs)
        if count[0] == calls:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, counted)


def resumed(monkeypatch, folder):
    """What was killed, gone on with: another process has another random state, and no patches."""
    monkeypatch.undo()
    torch.manual_seed(4321)
    return run(recipe(FLOAT, QUANTIZED), folder, resume=True)


@pytest.mark.parametrize("saves", range(1, 20, 2))
def test_killed_inside_an_epoch_and_resumed_equals_uninterrupted(finished, tmp_path, monkeypatch, saves):
    monkeypatch.setattr(stages, "train", partial(stages.train, save_every_s=-1))  # a checkpoint after every update
    kill_after(monkeypatch, stages, "save_checkpoint", saves)
    with pytest.raises(Killed):
        run(recipe(FLOAT, QUANTIZED), tmp_path / "run")
    assert_same_run(resumed(monkeypatch, tmp_path / "run"), finished)


@pytest.mark.parametrize("saves", [1, 2, 3, 4])
@pytest.mark.parametrize("after", [True, False])
def test_killed_between_epochs_and_resumed_equals_uninterrupted(finished, tmp_path, monkeypatch, saves, after):
    kill_after(monkeypatch, stages, "save_checkpoint", saves, first=after)
    with pytest.raises(Killed):
        run(recipe(FLOAT, QUANTIZED), tmp_path / "run")
    assert_same_run(resumed(monkeypatch, tmp_path / "run"), finished)


@pytest.mark.parametrize(
    ("name", "calls"),
    [("evaluate", 1), ("evaluate", 3), ("evaluate", 4), ("cost", 2), ("save", 1), ("save", 2), ("calibrate_", 1),
     ("write_json", 1), ("write_json", 2), ("write_json", 3)],
)  # fmt: skip
@pytest.mark.parametrize("after", [True, False])
def test_killed_between_steps_of_the_engine_and_resumed_equals_uninterrupted(
    finished, tmp_path, monkeypatch, name, calls, after
):
    kill_after(monkeypatch, engine if name == "write_json" else stages, name, calls, first=after)
    with pytest.raises(Killed):
        run(recipe(FLOAT, QUANTIZED), tmp_path / "run")
    assert_same_run(resumed(monkeypatch, tmp_path / "run"), finished)


@pytest.mark.parametrize("saves", [2, 7, 11, 17])
def test_resuming_does_only_the_updates_that_were_left(tmp_path, monkeypatch, saves):
    updates = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(stages, "train", partial(stages.train, save_every_s=-1))
    with monkeypatch.context() as killed:
        killed.setattr(torch.optim.SGD, "step", lambda self, closure: updates.append(1) or step(self, closure))
        kill_after(killed, stages, "save_checkpoint", saves)
        with pytest.raises(Killed):
            run(recipe(FLOAT, QUANTIZED), tmp_path)
    done = len(updates)
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, closure: updates.append(1) or step(self, closure))
    run(recipe(FLOAT, QUANTIZED), tmp_path, resume=True)
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
        run(recipe(FLOAT, QUANTIZED), tmp_path / "run")
    assert_same_run(resumed(monkeypatch, tmp_path / "run"), finished)


def test_a_finished_stage_is_not_run_again(finished, tmp_path, monkeypatch):
    kill_after(monkeypatch, engine, "write_json", 2)
    with pytest.raises(Killed):
        run(recipe(FLOAT, QUANTIZED), tmp_path / "run")
    said = []
    monkeypatch.undo()
    run(recipe(FLOAT, QUANTIZED), tmp_path / "run", resume=True, say=said.append)
    assert len(said) == 1
    assert said[0].startswith("w2a2: top-1 ")


def test_resuming_a_finished_run_changes_nothing(finished):
    before = (finished.folder / "run.json").read_bytes()
    again = run(recipe(FLOAT, QUANTIZED), finished.folder, resume=True)
    assert again.record == plain(finished.record)
    assert (finished.folder / "run.json").read_bytes() == before


def test_resume_without_a_run_starts_one(finished, tmp_path):
    assert_same_run(run(recipe(FLOAT, QUANTIZED), tmp_path / "new", resume=True), finished)


def test_a_folder_with_a_run_is_left_alone(finished):
    before = (finished.folder / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="holds a run already: --resume goes on with it, another --out starts a new"):
        run(recipe(FLOAT, QUANTIZED), finished.folder)
    assert (finished.folder / "model.safetensors").read_bytes() == before


def test_a_run_that_died_before_it_had_anything_is_begun_anew(finished, tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        run(recipe(FLOAT), tmp_path / "run", weights=tmp_path / "misspelt.safetensors")
    assert_same_run(run(recipe(FLOAT, QUANTIZED), tmp_path / "run"), finished)


def test_a_broken_checkpoint_is_named_and_the_stage_begins_again_without_it(finished, tmp_path, monkeypatch):
    kill_after(monkeypatch, stages, "save_checkpoint", 3)
    with pytest.raises(Killed):
        run(recipe(FLOAT, QUANTIZED), tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is not a checkpoint of ours .*: delete it"):
        resumed(monkeypatch, tmp_path / "run")
    checkpoint.unlink()
    assert_same_run(resumed(monkeypatch, tmp_path / "run"), finished)


def test_a_checkpoint_alone_is_not_run_over(tmp_path, monkeypatch):
    kill_after(monkeypatch, stages, "save_checkpoint", 1)
    with pytest.raises(Killed):
        run(recipe(FLOAT), tmp_path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="holds a run already"):
        run(recipe(FLOAT), tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 3}, "its seed is 0, here it is 3"),
        ({"lr": 0.04}, r"its recipe\.stages\[0\]\.lr is 0\.05, here it is 0\.04"),
        ({"smoke": True}, r"its recipe\.stages\[0\]\..* here it is"),
    ],
)
def test_another_run_is_not_gone_on_with(finished, change, words):
    stages = (replace(FLOAT, lr=change.pop("lr", FLOAT.lr)), QUANTIZED)
    with pytest.raises(ValueError, match=rf"holds another run \({words}.*\): give another --out"):
        run(recipe(*stages), finished.folder, resume=True, **change)


def test_divergence_keeps_what_was_finished(tmp_path):
    with pytest.raises(fb.engine.loop.TrainingError, match="stage 'bad'"):
        run(recipe(FLOAT, replace(FLOAT, name="bad", start="float", objective=diverging)), tmp_path)
    assert list(read_run(tmp_path).record["stages"]) == ["float"]
    assert fb.load(tmp_path / "stages" / "float.safetensors")
    assert not (tmp_path / "model.safetensors").exists()


def test_a_stage_of_no_epochs_measures_only(tmp_path):
    measured = run(recipe(replace(FLOAT, epochs=0)), tmp_path).record["stages"]["float"]
    torch.manual_seed(0)
    built = net()
    assert measured["test"]["loss"] == pytest.approx(fb.evaluate(built, shades().test_batches()).loss)
    assert measured["best_test"] is None
    assert measured["epochs"] == []
    assert measured["seconds"] == 0


def test_a_stage_starts_from_the_weights_and_statistics_of_its_start(tmp_path):
    still = replace(QUANTIZED, epochs=0)
    run(recipe(FLOAT, replace(FLOAT, name="other"), still), tmp_path)
    started, ended = (load_file(tmp_path / "stages" / f"{name}.safetensors") for name in ("float", "w2a2"))
    assert all(torch.equal(ended[key], started[key]) for key in started)
    assert any("quantizer" in key for key in ended.keys() - started.keys())


def test_given_weights_are_where_the_first_stages_start(finished, tmp_path):
    given = finished.folder / "stages" / "float.safetensors"
    run(recipe(replace(FLOAT, epochs=0), replace(QUANTIZED, epochs=0)), tmp_path, weights=given)
    assert same_files(tmp_path / "stages" / "float.safetensors", given)


def test_quantized_weights_are_taken_as_the_float_weights_they_hold(finished, tmp_path):
    given = finished.folder / "model.safetensors"
    run(recipe(replace(FLOAT, epochs=0)), tmp_path, weights=given)
    ended, held = load_file(tmp_path / "model.safetensors"), load_file(given)
    assert not any("quantizer" in key for key in ended)
    assert all(torch.equal(ended[key], held[key]) for key in ended)


def test_weights_of_another_model_are_refused(tmp_path):
    fb.save(fb.models.build("fcdnn"), tmp_path / "fcdnn.safetensors")
    with pytest.raises(ValueError, match=r"fcdnn\.safetensors is the checkpoint of another model"):
        run(recipe(FLOAT), tmp_path / "run", weights=tmp_path / "fcdnn.safetensors")


def test_batch_norm_is_reestimated_at_the_end_where_asked(tmp_path):
    again = replace(QUANTIZED, epochs=0, reestimate_batches=3)
    run(recipe(FLOAT, again), tmp_path)
    model = fb.load(tmp_path / "model.safetensors")
    kept = model[5].running_mean.clone()
    batches = shades().train_batches(6, seed=0)
    assert fb.train.batchnorm.reestimate_batchnorm_(model, batches, 3) == 3
    torch.testing.assert_close(model[5].running_mean, kept)
    assert not torch.allclose(kept, load_file(tmp_path / "stages" / "float.safetensors")["5.running_mean"])


def test_classes_and_channels_follow_the_data_unless_given(tmp_path):
    small = recipe(replace(FLOAT, epochs=0), data="digits", model="preresnet8", model_arguments={"first_width": 2})
    run(small, tmp_path)
    model = fb.load(tmp_path / "model.safetensors")
    assert (model.conv1.in_channels, model.fc.out_features) == (1, 10)
    wide = replace(small, model_arguments={"first_width": 2, "num_classes": 12})
    run(wide, tmp_path / "wide")
    assert fb.load(tmp_path / "wide" / "model.safetensors").fc.out_features == 12


def test_an_unknown_model_leaves_no_record(tmp_path):
    with pytest.raises(ValueError, match="unknown model 'resnet21'"):
        run(recipe(FLOAT, model="resnet21"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_smoke_is_two_updates_a_stage(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, closure: steps.append(float(closure())))
    smoked = run(recipe(replace(FLOAT, epochs=50), replace(QUANTIZED, epochs=50)), tmp_path, smoke=True)
    assert len(steps) == 4
    assert [len(entry["epochs"]) for entry in smoked.record["stages"].values()] == [1, 1]


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is not a run: it has no run\.json"):
        read_run(tmp_path)


@pytest.mark.parametrize("text", ["{half", "", "\xff"])
def test_a_damaged_record_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        read_run(tmp_path)


@pytest.mark.parametrize("text", ["{}", "[1]", '{"seed": 1}', "3"])
def test_another_json_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json is no record of a run"):
        read_run(tmp_path)


def test_a_recipe_is_described_in_full_and_in_plain_values():
    described = describe(recipe(FLOAT, replace(QUANTIZED, schedule=Exponential(0.9)), parameters={"bits": 2}))
    assert json.loads(json.dumps(described)) == described
    stage = described["stages"][1]
    assert stage["schedule"] == "Exponential(decay=0.9)"
    assert stage["objective"] == "cross_entropy"
    assert stage["policy"]["base"]["weights"] == 2
    assert stage["growth"] == [[1, 2]]
    assert described["parameters"] == {"bits": 2}
    assert set(stage) == set(Stage.__dataclass_fields__)


def test_plain_names_types_and_lists_tuples():
    assert plain({"a": (1, nn.Linear), "b": None}) == {"a": [1, "Linear"], "b": None}


def test_a_network_of_three_channels_gets_grey_images_repeated_and_says_so(tmp_path):
    said = []
    recipe = Recipe(
        name="c", model="resnet8", model_arguments={"first_width": 2, "in_channels": 3}, data="digits",
        stages=(Stage(name="float", epochs=0, lr=0.1),),
    )  # fmt: skip
    done = run(recipe, tmp_path, say=said.append)
    assert "resnet8 takes images of 3 channels: the grey ones of digits are repeated" in said
    assert done.record["recipe"]["data_arguments"] == {"channels": 3}
    again = run(recipe, tmp_path, resume=True)
    assert again.record["stages"] == plain(done.record["stages"])


def test_given_weights_are_measured_and_recorded_before_anything(tmp_path):
    model = fb.models.build("resnet8", first_width=2, in_channels=1)
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    stages = (Stage(name="float", epochs=0, lr=0.1),)
    recipe = Recipe(name="w", model="resnet8", model_arguments={"first_width": 2}, data="digits", stages=stages)
    said = []
    done = run(recipe, tmp_path / "out", weights=tmp_path / "w.pth", say=said.append)
    given = done.record["weights"]
    assert given["file"] == "w.pth"
    assert given["test"] == done.record["stages"]["float"]["test"]
    assert said[0].endswith(f"w.pth: float top-1 {given['test']['top1']:.2f} % of 450 test images")
    assert "without 'state_dict', 'module.'" in said[0]


def test_a_policy_that_does_not_fit_is_refused_before_anything_is_trained(tmp_path):
    stages = (
        Stage(name="float", epochs=1, lr=0.1),
        Stage(name="q", epochs=1, lr=0.1, policy=fb.policy("faq", weights=4)),
    )
    recipe = Recipe(name="p", model="resnet8", model_arguments={"first_width": 2}, data="digits", stages=stages)
    broken = replace(
        recipe, stages=(stages[0], replace(stages[1], policy=stages[1].policy.override("nothing.*", weights=8)))
    )
    with pytest.raises(ValueError, match=r"no layer matches 'nothing\.\*'"):
        run(broken, tmp_path)
    assert not (tmp_path / "run.json").exists()
    assert run(recipe, tmp_path, smoke=True).record["stages"]  # the folder is free
