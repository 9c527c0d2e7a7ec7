"""What is refused is refused by the plan, before any training."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit import data as datasets
from flatbit.engine import Checkpoint, plan
from flatbit.engine.checks import check_steps, specs_of
from flatbit.engine.recipe import Stage
from flatbit.quant.convert import quantize_
from flatbit.quant.table import quantized_layers
from flatbit.reference import From
from flatbit.train.losses import LOSSES, LossTerm
from flatbit.train.losses.cost import CostPenalty
from flatbit.train.losses.labels import CrossEntropy
from flatbit.train.losses.orthogonality import Lipschitz
from flatbit.train.losses.teacher import Distillation, taught
from flatbit.train.optimizers import Optimizer
from flatbit.train.sharpness import Sharpness

from .cases import (
    AGAIN,
    AVERAGE,
    BEGIN,
    CYCLES,
    FLOAT,
    MEAN,
    POLICY,
    SHARP,
    SQWA,
    model_of,
    net,
    ran,
    recipe,
    small,
    still,
)

SAQ = Sharpness(method="saq", rho=0.1)
DIGITS = datasets.load("digits")


# The specs of a stage


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("policy", [POLICY, CYCLES.policy, fb.policy("faq", weights=4)])
def test_specs_are_those_that_quantizing_gives(policy, device):
    model, made = net().to(device), still(FLOAT, policy=policy)
    found = specs_of(model, recipe(made), made)
    assert not dict(quantized_layers(model))
    quantize_(other := net(), policy)
    assert found == {name: layer.spec for name, layer in quantized_layers(other)}


def test_a_float_stage_has_none_whatever_it_starts_from():
    made = recipe(FLOAT, replace(SHARP, name="w2a2"), replace(FLOAT, name="on", start=From.stage("w2a2")))
    assert specs_of(net(), made, made.stage("float")) == specs_of(net(), made, made.stage("on")) == {}


NESTED = replace(
    CYCLES, name="again", policy=None, start=MEAN, captures=(1, 3), sharpness=None, keep_captures=False
)  # captures of a net on the average's grid


@pytest.mark.parametrize("cycles", [CYCLES, replace(CYCLES, policy=fb.policy("sqwa", weights=3), captures=(1, 3, 5))])
def test_the_specs_of_averages_are_those_that_the_run_leaves(tmp_path, cycles):
    stages = (
        FLOAT, cycles, AVERAGE, AGAIN, Stage(name="after", epochs=0, start=From.stage("average")),
        replace(NESTED, captures=(1, 3)), Stage(name="mean", epochs=0, start=From.stage("again", average=True)),
    )  # fmt: skip
    whole = recipe(*stages)
    made = ran(whole, tmp_path)
    for stage in whole.stages:
        left = {name: layer.spec for name, layer in quantized_layers(model_of(made, stage.name))}
        assert specs_of(net(), whole, stage) == left, stage.name


# Sharpness and captures


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (replace(FLOAT, name="sharp", sharpness=SAQ), "saq moves quantized weights, and"),
        (replace(CYCLES, policy=POLICY), "is learned, and captures must share one grid: give the stage fixed_weight"),
        (
            replace(CYCLES, policy=fb.policy("faq", weights=4)),
            r"the step of weight of .* follows the weight \(4 bit faq",
        ),
        (replace(CYCLES, policy=fb.policy("dorefa", weights=1)), "follows the weight .* captures must share one grid"),
        (replace(CYCLES, policy=fb.policy("sqwa", weights=6), epochs=9, captures=(1, 2, 3, 4, 5)), "4 captures fit"),
        (replace(CYCLES, policy=fb.policy("uniq", weights=2, granularity="channel")), "one per output channel"),
        (replace(CYCLES, policy=CYCLES.policy.override("no.*", weights=8)), r"no layer matches 'no\.\*'"),
        (
            replace(FLOAT, name="cost", losses=(CrossEntropy(), CostPenalty(target_mbitops=1))),
            "stage 'cost': cost_penal",
        ),
    ],
)
@pytest.mark.parametrize("smoke", [True, False])
def test_what_cannot_be_done_is_said_by_the_plan(bad, message, smoke):
    with pytest.raises(ValueError, match=message):
        plan(recipe(FLOAT, replace(bad, start=BEGIN)), smoke=smoke)


def test_a_layer_that_cannot_be_quantized_is_refused_or_left_float():
    made = still(FLOAT, policy=fb.policy("sqwa-all", weights=2))
    with pytest.raises(ValueError, match="LSTM"):
        plan(recipe(made, model=f"{__name__}:recurrent"))
    (planned,) = plan(recipe(replace(made, strict=False), model=f"{__name__}:recurrent")).stages
    assert list(planned.specs) == ["last"]


class Recurrent(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.rows = nn.LSTM(8, 4, batch_first=True)
        self.last = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.last(self.rows(x.squeeze(1))[0][:, -1])


def recurrent(num_classes):
    return Recurrent(num_classes)


def test_a_float_average_has_no_quantized_weights_to_move():
    first = replace(FLOAT, captures=(1, 2))
    sharp = replace(FLOAT, name="sharp", start=From.stage("float", average=True), sharpness=SAQ)
    with pytest.raises(ValueError, match="stage 'sharp': saq moves quantized weights, and this stage has none"):
        plan(recipe(first, sharp))


@pytest.mark.parametrize("start", [MEAN, From.stage("average")])
def test_a_quantized_average_has(tmp_path, start):
    sharp = replace(FLOAT, name="sharp", epochs=1, start=start, sharpness=SAQ)
    made = recipe(FLOAT, CYCLES, AVERAGE, sharp)
    assert any(spec.weight for spec in plan(made).stages[-1].specs.values())
    ran(made, tmp_path, smoke=True)


# Losses


@pytest.mark.parametrize("policy", [None, POLICY])
def test_a_cost_penalty_wants_bits_that_are_learned(policy):
    penal = replace(FLOAT, policy=policy, losses=(CrossEntropy(), CostPenalty(target_mbitops=0.01)))
    with pytest.raises(ValueError, match="stage 'float': cost_penalty of Sequential: expected a method that learns"):
        plan(recipe(penal))
    plan(recipe(replace(penal, policy=fb.policy("dq", weights=4, activations=4))))


def nothing(num_classes):
    """A net without a layer to hold near orthogonality."""
    return nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.AdaptiveAvgPool1d(num_classes))


def test_a_lipschitz_term_wants_layers():
    held = recipe(replace(FLOAT, losses=(CrossEntropy(), Lipschitz())), model=f"{__name__}:nothing")
    with pytest.raises(ValueError, match="stage 'float': the Lipschitz term of Sequential: expected a convolution"):
        plan(held)


# Data too few


@pytest.mark.parametrize(
    ("stage", "steps", "has"),
    [
        (replace(FLOAT, accumulation=((1, 4),)), 3, 3),
        (replace(FLOAT, accumulation=((0, 4),), max_steps=3), 100, 3),
        (FLOAT, 0, 0),
    ],
)
def test_an_epoch_has_mini_batches_for_an_update(stage, steps, has):
    message = rf"stage 'float': an epoch of 48 samples has {has} mini-batches, fewer than one update takes \([14]\)"
    with pytest.raises(ValueError, match=message):
        check_steps(stage, steps, 48)


def test_a_stage_without_epochs_takes_no_mini_batches():
    check_steps(still(FLOAT), 0, 48)


def test_what_was_trained_before_does_not_count():
    shrinks = replace(FLOAT, accumulation=((0, 9), (1, 2)))
    check_steps(shrinks, 2, 48, begin=1)
    with pytest.raises(ValueError, match="fewer than one update takes"):
        check_steps(shrinks, 2, 48)


@pytest.mark.parametrize("timing", [True, False])
@pytest.mark.parametrize("more", [{}, {"max_steps": 2, "batch_size": 2}])
def test_data_too_few_for_an_update_are_said_by_the_plan(more, timing):
    with pytest.raises(ValueError, match=r"stage 'float': an epoch of 36 samples has . mini-batches, fewer than"):
        plan(recipe(replace(FLOAT, accumulation=((0, 4),), **more)), timing=timing)


# Teachers and starts


def learning(source, **changes):
    return replace(FLOAT, name="taught", losses=taught(Distillation(teacher=source)), **changes)


def test_an_untrained_teacher_is_refused():
    with pytest.raises(ValueError, match="stage 'taught' learns from start, which is untrained: give its distillation"):
        plan(small(FLOAT, learning(From.start())))
    made = small(still(FLOAT), still(FLOAT, name="next", start=BEGIN), learning(From.stage("next")))
    with pytest.raises(ValueError, match="learns from stage:next, which is untrained"):
        plan(made)


def accepted(*stages, **planning):
    """Whether a plan takes the stages as they are."""
    return [planned.stage for planned in plan(small(*stages), **planning).stages] == list(stages)


def test_a_trained_teacher_is_one_that_was_trained_or_given(tmp_path):
    assert accepted(FLOAT, learning(BEGIN))
    assert accepted(FLOAT, still(FLOAT, name="next", start=BEGIN), learning(From.stage("next")))
    model = fb.models.build("resnet8", first_width=2, in_channels=1)
    fb.save(model, tmp_path / "net.safetensors")
    assert accepted(learning(From.start()), checkpoint=Checkpoint(path=tmp_path / "net.safetensors"))
    begun = still(FLOAT, start=From.file(str(tmp_path / "net.safetensors")))
    assert accepted(begun, learning(BEGIN))


def test_a_net_of_the_users_own_may_come_trained(tmp_path):
    done = ran(recipe(still(FLOAT, name="none"), learning(From.start())), tmp_path, smoke=True)
    assert list(done.record.stages) == ["none", "taught"]


def test_a_file_that_is_not_there_is_refused():
    message = r"file:later: expected a run's folder, or a file that flatbit\.save wrote"
    with pytest.raises(ValueError, match=message):
        plan(small(FLOAT, learning(From.file("later"))))
    with pytest.raises(ValueError, match=message):
        plan(small(FLOAT, replace(FLOAT, name="next", start=From.file("later"))))


def test_a_run_that_is_not_finished_is_no_teacher(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="is a run that is not finished: --resume it"):
        plan(recipe(FLOAT, learning(From.file(str(tmp_path)))))


def test_a_teacher_that_cannot_read_the_images_is_named(tmp_path):
    fb.save(fb.models.build("resnet8", first_width=2), tmp_path / "teacher.safetensors")  # three channels
    message = r"stage 'taught': its teacher file:.* \(ResNetCifar\) cannot read images of shape \(1, 8, 8\)"
    with pytest.raises(ValueError, match=message):
        plan(recipe(FLOAT, learning(From.file(str(tmp_path / "teacher.safetensors")))))


def test_a_teacher_of_other_classes_is_named(tmp_path):
    fb.save(fb.models.build("resnet8", first_width=2, in_channels=1, num_classes=5), tmp_path / "teacher.safetensors")
    message = r"stage 'taught': its teacher file:.* answers with shape \(1, 5\), the net with \(1, 3\): take one of the"
    with pytest.raises(ValueError, match=message):
        plan(recipe(FLOAT, learning(From.file(str(tmp_path / "teacher.safetensors")))))


@dataclass(frozen=True, kw_only=True, slots=True)
class Asks(LossTerm):
    """A term with a teacher that may answer in any shape."""

    teacher: From
    weight: float = 1.0
    name: str = "asks"

    def __call__(self, model, x, y, logits):
        return logits.mean()

    def teachers(self):
        return (self.teacher,)


LOSSES.add("asks_of_the_checks", Asks)


def test_only_a_term_that_mimics_its_teacher_wants_the_same_shape(tmp_path):
    fb.save(fb.models.build("resnet8", first_width=2, in_channels=1, num_classes=5), tmp_path / "teacher.safetensors")
    other = Asks(teacher=From.file(str(tmp_path / "teacher.safetensors")))
    asking = replace(FLOAT, name="asking", losses=(other,))
    assert plan(recipe(FLOAT, asking)).stages[1].stage == asking


def test_a_start_that_does_not_fit_is_refused_before_the_stages_ahead_of_it_are_trained(tmp_path):
    fb.save(fb.models.build("fcdnn"), tmp_path / "fcdnn.safetensors")
    other = replace(FLOAT, name="next", start=From.file(str(tmp_path / "fcdnn.safetensors")))
    with pytest.raises(ValueError, match=r"fcdnn\.safetensors is the checkpoint of another model"):
        plan(recipe(FLOAT, other))


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path):
    fb.save(fb.models.build("fcdnn"), tmp_path / "fcdnn.safetensors")
    with pytest.raises(ValueError, match=r"fcdnn\.safetensors is the checkpoint of another model"):
        plan(recipe(FLOAT), checkpoint=Checkpoint(path=tmp_path / "fcdnn.safetensors"))


def test_a_recipe_that_is_sound_is_accepted():
    assert [planned.stage for planned in plan(recipe(*SQWA)).stages] == list(SQWA)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lbfgs(Optimizer):
    """An optimizer whose step needs a closure, as a plug-in may register it."""

    def make(self, groups, lr):
        return torch.optim.LBFGS([p for group in groups for p in group["params"]], lr=lr)


@pytest.mark.parametrize("sharpness", [None, Sharpness(method="saq", rho=0.1)])
def test_an_optimizer_that_the_loop_cannot_step_is_refused_by_the_plan(sharpness):
    stage = Stage(
        name="low", epochs=1, lr=0.1, policy=fb.policy("uniq", weights=2, activations=2), optimizer=Lbfgs(),
        sharpness=sharpness,
    )  # fmt: skip
    with pytest.raises(ValueError, match="stage 'low': LBFGS evaluates the loss anew within its step"):
        specs_of(net(), recipe(stage), stage)
