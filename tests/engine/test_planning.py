"""Plans: everything that a recipe will do, resolved and checked before anything is trained."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.engine import Checkpoint, plan, read_run
from flatbit.engine.planning import in_words
from flatbit.engine.recipe import Stage
from flatbit.reference import From
from flatbit.train.losses.teacher import Distillation, taught
from flatbit.train.schedules import Cyclic, Schedule

from .cases import (
    AVERAGE,
    BEGIN,
    CYCLES,
    FLOAT,
    MEAN,
    POLICY,
    QUANTIZED,
    SHARP,
    SQWA,
    Called,
    net,
    ran,
    recipe,
    shades,
    small,
    still,
)


def scaled(num_classes, in_channels):
    """A builder that looks at its weights: there is none on the meta device."""
    model = net(num_classes, in_channels)
    with torch.no_grad():
        model[0].weight.mul_(1 / model[0].weight.std().item())
    return model


def stages_of(planned):
    return {one.stage.name: one for one in planned.stages}


# What it says


def test_a_plan_holds_what_the_run_needs():
    made = recipe(FLOAT, QUANTIZED)
    planned = plan(made, seed=3, device="cpu")
    assert (planned.recipe, planned.seed, planned.device, planned.checkpoint) == (made, 3, "cpu", None)
    assert planned.data.name == "shades"
    assert [one.stage for one in planned.stages] == list(made.stages)
    assert (planned.notes, planned.seconds) == ((), None)


def test_steps_are_of_an_epoch_and_updates_of_the_stage():
    made = recipe(FLOAT, QUANTIZED, replace(FLOAT, name="cut", max_steps=2), still(FLOAT, name="still"))
    found = {name: (one.steps, one.updates) for name, one in stages_of(plan(made)).items()}
    assert found == {"float": (3, 6), "w2a2": (6, 6 + 3), "cut": (2, 4), "still": (3, 0)}


@pytest.mark.parametrize("model", ["net", "scaled"])
def test_the_model_is_built_on_the_meta_device_where_its_builder_allows(model):
    builder = {"net": "tests.engine.cases:net", "scaled": f"{__name__}:scaled"}[model]
    planned = plan(recipe(FLOAT, QUANTIZED, model=builder))
    assert planned.built_on == {"net": "meta", "scaled": "cpu"}[model]
    assert [(one.bits, one.cost) for one in planned.stages] == [
        (one.bits, one.cost) for one in plan(recipe(FLOAT, QUANTIZED)).stages
    ]


def test_with_a_checkpoint_it_is_built_where_that_can_be_loaded(tmp_path):
    torch.save(net().state_dict(), tmp_path / "w.pth")
    planned = plan(recipe(FLOAT), checkpoint=Checkpoint(path=tmp_path / "w.pth"))
    assert planned.built_on == "cpu"
    assert len(planned.notes) == 1
    assert "w.pth" in planned.notes[0]


def test_what_was_changed_to_fit_is_noted_and_part_of_the_recipe():
    planned = plan(small(Stage(name="float", epochs=0), in_channels=3, num_classes=12))
    assert planned.built_on == "meta"  # grey images do not hinder that
    assert planned.recipe.data_arguments == {"channels": 3}
    assert planned.data.image_shape == (3, 8, 8)
    assert planned.notes == (
        "resnet8 takes images of 3 channels: the grey ones of digits are repeated",
        "resnet8 has 12 outputs, the data 10 classes: --model-arg num_classes= mends it",
    )


AFTER = Stage(name="after", epochs=0, start=From.stage("average"), batch_size=12)
FIXED = fb.policy("faq", weights=4, activations=4)
EVERY = {
    "sqwa": (*SQWA, AFTER),
    "crossed": (FLOAT, SHARP, AVERAGE),
    "swa": (replace(FLOAT, captures=(1, 2)), still(FLOAT, name="swa", start=From.stage("float", average=True))),
    "fixed point": (FLOAT, still(QUANTIZED, policy=FIXED)),
    "channels": (FLOAT, still(QUANTIZED, policy=fb.policy("uniq", weights=3, activations=4, granularity="channel"))),
    "eight": (FLOAT, replace(CYCLES, policy=fb.policy("sqwa-all", weights=8), keep_captures=False), AVERAGE),
    "learned": (FLOAT, still(QUANTIZED, policy=fb.policy("dq", weights=3, activations=4))),
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("smoke", [True, False])
def test_bits_and_cost_are_those_that_the_run_records(tmp_path, name, smoke):
    made = recipe(*EVERY[name])
    planned = stages_of(plan(made, smoke=smoke))
    done = ran(made, tmp_path, smoke=smoke).record.stages
    for stage, entry in done.items():
        assert planned[stage].cost == entry.cost, stage
        assert planned[stage].bits == entry.test.convention.inner, stage


def test_the_average_of_more_captures_has_more_bits():
    made = recipe(FLOAT, CYCLES, replace(AVERAGE, reestimate_batches=0))
    whole, smoke = (stages_of(plan(made, smoke=cut))["average"].bits for cut in (False, True))
    assert (whole, smoke) == ("W3/A32", "W2/A32")  # a smoke run captures once


def test_as_dict_is_json_with_a_row_for_each_stage():
    taught_by = replace(FLOAT, name="taught", start=BEGIN, losses=taught(Distillation(teacher=BEGIN)))
    planned = plan(recipe(FLOAT, CYCLES, replace(AVERAGE, name="mean"), taught_by), seed=2)
    found = json.loads(json.dumps(planned.as_dict()))
    assert {key: found[key] for key in ("recipe", "model", "data", "seed", "device", "checkpoint", "built_on")} == {
        "recipe": "tiny", "model": "tests.engine.cases:net", "data": "tests.engine.cases:shades", "seed": 2,
        "device": "cpu", "checkpoint": None, "built_on": "meta",
    }  # fmt: skip
    assert (found["seconds"], found["notes"]) == (None, [])
    assert [row["name"] for row in found["stages"]] == ["float", "retrain", "mean", "taught"]
    assert [row["start"] for row in found["stages"]] == ["start", "stage:float", str(MEAN), "stage:float"]
    assert found["stages"][1] == {
        "name": "retrain", "start": "stage:float", "learns_from": [], "bits": "W2/A32", "epochs": 5, "updates": 15,
        "bitops": planned.stages[1].cost.bitops, "bytes": planned.stages[1].cost.size_bytes, "captures": [2, 4],
        "seconds": None,
    }  # fmt: skip
    assert found["stages"][3]["learns_from"] == ["stage:float"]


def test_it_prints_as_a_table_with_its_notes():
    text = str(plan(small(FLOAT, replace(QUANTIZED, batch_size=64), num_classes=12)))
    for word in ("small: resnet8 on digits", "float", "w2a2", "stage:float", "W2/A2", "has 12 outputs"):
        assert word in text
    assert "time" in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (4.26, "4.3 s"), (45.2, "45 s"), (59.7, "1 min"), (200, "3 min 20 s"),
     (3599.6, "1 h 0 min"), (18600, "5 h 10 min")],
)  # fmt: skip
def test_times_are_said_as_people_say_them(seconds, words):
    assert in_words(seconds) == words


# What it leaves


def test_nothing_is_trained_or_written_and_no_random_number_is_drawn(tmp_path, monkeypatch):
    first = ran(recipe(FLOAT), tmp_path / "teacher")
    torch.save(net().state_dict(), tmp_path / "w.pth")
    learns = taught(Distillation(teacher=From.file(str(first.folder))))
    begun = replace(FLOAT, name="begun", start=From.file(str(tmp_path / "w.pth")), losses=learns)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flatbit.engine.execution.prepare", None)
    torch.manual_seed(12)
    random = torch.get_rng_state()
    for options in ({}, {"smoke": True}, {"timing": True}, {"checkpoint": Checkpoint(path=tmp_path / "w.pth")}):
        plan(recipe(*SQWA, begun), **options)
        assert torch.equal(torch.get_rng_state(), random), options
    plan(recipe(FLOAT, model=f"{__name__}:scaled"))
    assert torch.equal(torch.get_rng_state(), random)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_smoke_plan_is_of_the_cut_recipe():
    made = recipe(*SQWA)
    planned = plan(made, smoke=True)
    assert planned.recipe == made.smoke()
    assert [one.updates for one in planned.stages] == [2, 2, 0, 0, 2]


# What it refuses


def test_an_unknown_model_or_data_set_is_refused():
    with pytest.raises(ValueError, match="unknown model 'resnet21'"):
        plan(recipe(FLOAT, model="resnet21"))
    with pytest.raises(ValueError, match="unknown data set 'digit'"):
        plan(recipe(FLOAT, data="digit"))


def test_a_builder_that_fails_says_what_it_is():
    with pytest.raises(ValueError, match=r"model 'resnet8' has no argument 'widht'"):
        plan(small(FLOAT, widht=3))
    with pytest.raises(ZeroDivisionError):
        plan(recipe(FLOAT, model=f"{__name__}:failing"))


def failing(num_classes):
    return nn.Linear(64, num_classes // 0)


def test_a_policy_that_does_not_fit_is_refused_before_anything_is_trained(tmp_path):
    bad = still(QUANTIZED, policy=POLICY.override("nothing.*", weights=8))
    with pytest.raises(ValueError, match=r"no layer matches 'nothing\.\*'"):
        ran(recipe(FLOAT, bad), tmp_path)
    assert not any(tmp_path.iterdir())
    ran(recipe(FLOAT), tmp_path, smoke=True)  # the folder is free


class Nameless(Schedule):
    """No dataclass: nothing of it can be written."""

    def __call__(self, epoch, epochs):
        return 1.0


def test_what_has_no_name_is_refused():
    @dataclass(frozen=True)
    class Local(Schedule):
        def __call__(self, epoch, epochs):
            return 1.0

    for schedule in (Nameless(), Local()):
        with pytest.raises(ValueError, match=r"stages\[0\]\.schedule: .* has no name that a record could hold"):
            plan(recipe(replace(FLOAT, schedule=schedule)))
    with pytest.raises(ValueError, match=r"stages\[0\]\.losses\[0\]\.function: .* has no name that a record could"):
        plan(recipe(replace(FLOAT, losses=(Called(function=print),))))


def test_what_a_record_could_not_give_back_is_refused():
    """It would be read in vain, after all the training."""
    with pytest.raises(ValueError, match=r"stages\[0\]\.schedule\.half=1\.5: expected a whole number"):
        plan(recipe(replace(FLOAT, schedule=Cyclic(0.1, half=1.5))))
    with pytest.raises(ValueError, match=r"stages\[0\]\.schedule\.part=True: expected a number"):
        plan(recipe(replace(FLOAT, schedule=Cyclic(0.1, part=True))))


def test_what_a_record_would_give_back_as_something_else_is_refused():
    for arguments in ({"part": FLOAT}, {"widths": {1: 2}}, {"deep": [{"part": BEGIN, 2: 3}]}):
        with pytest.raises(ValueError, match=r"recipe 'tiny': settings.* would not come back from a record as it is"):
            plan(recipe(FLOAT, settings=arguments))
    plan(recipe(FLOAT, settings={"shares": (0.5, (1, 2)), "none": None}))  # a tuple is a list in a record


def test_a_checkpoint_that_no_stage_comes_from_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    fb.save(net(), path)
    only = replace(FLOAT, start=From.file(path))
    with pytest.raises(
        ValueError, match=r"--checkpoint .*w\.safetensors cannot act: no stage starts or learns from st"
    ):
        plan(recipe(only), checkpoint=Checkpoint(path=path))
    taught_by_it = replace(only, losses=taught(Distillation(teacher=From.start())))
    assert plan(recipe(taught_by_it), checkpoint=Checkpoint(path=path)).checkpoint is not None


def test_what_the_plan_accepts_is_read_back_equal(tmp_path):
    made = recipe(*EVERY["sqwa"], settings={"weights": 2, "averaging.lr": 0.01, "clr": None})
    ran(made, tmp_path, smoke=True)
    assert read_run(tmp_path).record.recipe == made.smoke()


def test_the_data_of_a_plan_are_loaded_once(monkeypatch):
    loads = []
    monkeypatch.setattr(
        "flatbit.engine.planning.datasets.load", lambda *args, **arguments: loads.append(args) or shades()
    )
    plan(recipe(FLOAT, QUANTIZED), data_dir="somewhere")
    assert loads == [("tests.engine.cases:shades", "somewhere")]
