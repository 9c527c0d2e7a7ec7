import math

import pytest

import flatbit as fb
from flatbit.engine.run import run
from flatbit.recipes import RECIPES
from flatbit.recipes.uniq import uniq


def rates(stage):
    return [stage.lr * stage.schedule(epoch, stage.epochs) for epoch in range(stage.epochs)]


def cosine(lr, epochs):
    return [lr * (1 + math.cos(math.pi * epoch / epochs)) / 2 for epoch in range(epochs)]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_two_bits_and_more_as_the_paper_has_it(bits):
    made = uniq(weights=bits, activations=bits)
    assert [stage.name for stage in made.stages] == ["float", f"uniq-w{bits}a{bits}"]
    stage = made.stages[-1]
    assert (stage.start, stage.epochs, stage.batch_size, stage.optimizer) == ("float", 350, 128, "sgd")
    assert (stage.momentum, stage.weight_decay) == (0.9, 5e-4)
    assert rates(stage) == pytest.approx(cosine(0.01, 350))
    assert made.model == "preresnet32"


def test_one_bit_warms_up_from_the_two_bit_net():
    made = uniq(weights=1, activations=1)
    assert [(stage.name, stage.start) for stage in made.stages] == [
        ("float", None), ("uniq-w2a2", "float"), ("uniq-w1a1", "uniq-w2a2"),
    ]  # fmt: skip
    two, one = made.stages[1:]
    assert (two.optimizer, two.weight_decay, one.optimizer, one.weight_decay) == ("sgd", 5e-4, "adam", 0.0)
    assert rates(two) == pytest.approx(cosine(0.01, 350))
    assert rates(one) == pytest.approx([0.001] * 5 + cosine(0.004, 345))


@pytest.mark.parametrize("warmup", [0, 5, 10])
@pytest.mark.parametrize(("optimizer", "main"), [("sgd", 0.01), ("adam", 0.004)])
def test_the_grid_of_table_6(optimizer, main, warmup):
    two, one = uniq(weights=1, activations=1, optimizer=optimizer, warmup=warmup).stages[1:]
    assert one.optimizer == optimizer
    assert rates(one) == pytest.approx([0.001] * warmup + cosine(main, 350 - warmup))
    assert (two.optimizer, two.lr) == ("sgd", 0.01)  # the start of all of them


@pytest.mark.parametrize("lr", [0.01, 0.005, 0.001])
def test_the_rates_of_table_6(lr):
    two, one = uniq(weights=1, activations=1, optimizer="sgd", lr=lr, warmup=0).stages[1:]
    assert (one.lr, two.lr) == (lr, 0.01)


@pytest.mark.parametrize("lr", [0.004, 0.001, 0.0005])
def test_the_rates_of_table_6_by_adam(lr):
    one = uniq(weights=1, activations=1, lr=lr, warmup=0).stages[-1]
    assert (one.optimizer, rates(one)[0]) == ("adam", lr)


@pytest.mark.parametrize(("bits", "decay"), [(4, 1e-4), (3, 0.5e-4), (2, 0.25e-4), (1, 0.0), (8, 1e-4)])
@pytest.mark.parametrize("net", ["preresnet18", "preresnet34", "mobilenet_v2"])
def test_imagenet_as_the_paper_has_it(net, bits, decay):
    made = RECIPES.get(f"uniq-{net}-imagenet")(weights=bits, activations=bits)
    stage = made.stages[-1]
    assert (made.model, made.data) == (net, "imagenet")
    assert (stage.epochs, stage.batch_size, stage.weight_decay) == (90, 256, decay)
    assert (stage.policy.base.granularity == "channel") == (net != "mobilenet_v2")
    if bits > 1:
        assert rates(stage) == pytest.approx(cosine(0.01, 90))
    else:
        assert rates(stage) == pytest.approx([0.001] * 5 + cosine(0.004, 85))
        assert made.stages[1].weight_decay == 0.25e-4


def test_the_cifar_recipe():
    made = RECIPES.get("uniq-preresnet32-cifar100")()
    assert (made.model, made.data, made.stages[-1].epochs) == ("preresnet32", "cifar100", 350)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_lsq_in_this_setting_for_table_4(bits):
    ours, theirs = (uniq(weights=bits, activations=bits, method=method).stages[-1] for method in ("uniq", "lsq"))
    assert (theirs.name, theirs.policy.base.method) == (f"lsq-w{bits}a{bits}", "lsq")
    assert (theirs.lr, theirs.epochs, theirs.weight_decay) == (ours.lr, ours.epochs, ours.weight_decay)
    of = [fb.quantize_(fb.models.build("preresnet8"), stage.policy).convention for stage in (ours, theirs)]
    assert (of[0].first, of[0].last, of[0].inner) == (of[1].first, of[1].last, of[1].inner)


def test_one_bit_can_start_from_float():
    made = uniq(weights=1, activations=1, one_bit_start="float")
    assert [(stage.name, stage.start) for stage in made.stages] == [("float", None), ("uniq-w1a1", "float")]


@pytest.mark.parametrize(("bits", "before"), [((1, 32), "uniq-w2a32"), ((32, 1), "uniq-w32a2"), ((1, 4), "uniq-w2a4")])
def test_one_bit_of_either_starts_from_two_bits_of_it(bits, before):
    stages = uniq(weights=bits[0], activations=bits[1]).stages
    assert stages[1].name == before
    assert stages[2].start == before


@pytest.mark.parametrize("start", ["optimal", "lsq", 0.1, 0.2])
def test_the_starts_of_table_5_reach_both_quantizers(start):
    base = uniq(start=start, gradient_scale=False).stages[-1].policy.base
    assert base.weight_options == base.activation_options == {"start": start, "gradient_scale": False}


def test_steps_are_per_channel_in_the_inner_layers_where_asked():
    model = fb.models.build("preresnet8")
    assert fb.quantize_(model, uniq().stages[-1].policy).convention.weight_step == "tensor"
    model = fb.models.build("preresnet8")
    fb.quantize_(model, uniq(granularity="channel").stages[-1].policy)
    assert model.layers[0][0].conv1.weight_quantizer.granularity == "channel"
    assert {edge.weight_quantizer.granularity for edge in (model.conv1, model.fc)} == {"tensor"}


def test_what_it_makes_of_a_network():
    stages = uniq(weights=1, activations=1).stages
    two, one = (fb.quantize_(fb.models.build("preresnet8"), stage.policy).convention for stage in stages[1:])
    assert (two.first, two.last, two.inner, two.shortcut) == ("W8/A8", "W8/A8", "W2/A2", "W2/A2")
    assert (one.first, one.last, one.inner, one.shortcut) == ("float", "float", "W1/A1", "float")


def test_the_digits_recipe_is_small():
    made = RECIPES.get("uniq-preresnet8-digits")(weights=1, activations=1)
    assert (made.model, made.data) == ("preresnet8", "digits")
    assert [(stage.epochs, stage.batch_size) for stage in made.stages] == [(20, 64)] * 3


@pytest.mark.parametrize(
    ("setting", "known"),
    [("one_bit_start", "2-bit or float"), ("granularity", "tensor or channel"), ("method", "uniq or lsq")],
)
def test_a_misspelt_choice_is_refused(setting, known):
    with pytest.raises(ValueError, match=f"{setting}='layer': expected {known}"):
        uniq(**{setting: "layer"})


@pytest.mark.parametrize("setting", [{"optimizer": "adamw"}, {"start": "best"}])
def test_other_misspelt_choices_are_refused_by_what_takes_them(setting, tmp_path):
    with pytest.raises(ValueError, match=repr(next(iter(setting.values())))):
        run(RECIPES.get("uniq-preresnet8-digits")(**setting), tmp_path, smoke=True)
    assert not (tmp_path / "run.json").exists()  # refused before anything was trained
