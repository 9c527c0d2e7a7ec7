import math

import pytest

import flatbit as fb
from flatbit.reference import From
from flatbit.train.optimizers import SGD, Adam

from .cases import NARROW, last, made, rates, starts

ONE = {"weights": 1, "activations": 1}


def uniq(given=None, **settings):
    return made("uniq", given, **settings)


def cosine(lr, epochs):
    return [lr * (1 + math.cos(math.pi * epoch / epochs)) / 2 for epoch in range(epochs)]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_two_bits_and_more_as_the_paper_has_it(bits):
    recipe = uniq(weights=bits, activations=bits)
    assert [stage.name for stage in recipe.stages] == ["float", f"uniq-w{bits}a{bits}"]
    stage = recipe.stages[-1]
    assert (stage.start, stage.epochs, stage.batch_size) == (From.stage("float"), 350, 128)
    assert (stage.optimizer, stage.weight_decay) == (SGD(momentum=0.9), 5e-4)
    assert rates(stage) == pytest.approx(cosine(0.01, 350))
    assert recipe.model == "preresnet32"


def test_one_bit_warms_up_from_the_two_bit_net():
    recipe = uniq(ONE)
    assert starts(recipe) == [("float", "start"), ("uniq-w2a2", "stage:float"), ("uniq-w1a1", "stage:uniq-w2a2")]
    two, one = recipe.stages[1:]
    assert (two.optimizer, two.weight_decay, one.optimizer, one.weight_decay) == (SGD(), 5e-4, Adam(), 0.0)
    assert rates(two) == pytest.approx(cosine(0.01, 350))
    assert rates(one) == pytest.approx([0.001] * 5 + cosine(0.004, 345))


@pytest.mark.parametrize("warmup", [0, 5, 10])
@pytest.mark.parametrize(("optimizer", "kind", "main"), [("sgd", SGD(), 0.01), ("adam", Adam(), 0.004)])
def test_the_grid_of_table_6(optimizer, kind, main, warmup):
    two, one = uniq(ONE | {"training.optimizer": optimizer, "one_bit.warmup": warmup}).stages[1:]
    assert one.optimizer == kind
    assert rates(one) == pytest.approx([0.001] * warmup + cosine(main, 350 - warmup))
    assert (two.optimizer, two.lr) == (SGD(), 0.01)  # the start of all of them


@pytest.mark.parametrize("lr", [0.01, 0.005, 0.001])
def test_the_rates_of_table_6(lr):
    two, one = uniq(ONE | {"training.optimizer": "sgd", "training.lr": lr, "one_bit.warmup": 0}).stages[1:]
    assert (one.lr, two.lr) == (lr, 0.01)


@pytest.mark.parametrize("lr", [0.004, 0.001, 0.0005])
def test_the_rates_of_table_6_by_adam(lr):
    one = last("uniq", ONE | {"training.lr": lr, "one_bit.warmup": 0})
    assert (one.optimizer, rates(one)[0]) == (Adam(), lr)


@pytest.mark.parametrize(("bits", "decay"), [(4, 1e-4), (3, 0.5e-4), (2, 0.25e-4), (1, 0.0), (8, 1e-4)])
@pytest.mark.parametrize("net", ["preresnet18", "preresnet34", "mobilenet_v2"])
def test_imagenet_as_the_paper_has_it(net, bits, decay):
    recipe = made(f"uniq-{net}-imagenet", weights=bits, activations=bits)
    stage = recipe.stages[-1]
    assert (recipe.model, recipe.data) == (net, "imagenet")
    assert (stage.epochs, stage.batch_size, stage.weight_decay) == (90, 256, decay)
    assert (stage.policy.base.granularity == "channel") == (net != "mobilenet_v2")
    if bits > 1:
        assert rates(stage) == pytest.approx(cosine(0.01, 90))
    else:
        assert rates(stage) == pytest.approx([0.001] * 5 + cosine(0.004, 85))
        assert recipe.stages[1].weight_decay == 0.25e-4


def test_decay_is_a_number_or_one_for_each_number_of_bits():
    assert [s.weight_decay for s in uniq(ONE | {"training.weight_decay": 1e-3}).stages[1:]] == [1e-3, 1e-3]
    by_bits = {"training.weight_decay": {"1": 0.1, "2": 0.2}}  # text keys, as JSON has them
    assert [s.weight_decay for s in uniq(ONE | by_bits).stages[1:]] == [0.2, 0.1]
    with pytest.raises(ValueError, match=r"training.weight_decay=\{\}: expected a number, or one for each"):
        uniq({"training.weight_decay": {}})


def test_the_cifar_recipe():
    recipe = made("uniq-preresnet32-cifar100")
    assert (recipe.model, recipe.data, recipe.stages[-1].epochs) == ("preresnet32", "cifar100", 350)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_lsq_in_this_setting_for_table_4(bits):
    ours, theirs = (
        last("uniq", {"quantizers.method": method}, weights=bits, activations=bits) for method in ("uniq", "lsq")
    )
    assert (theirs.name, theirs.policy.base.method) == (f"lsq-w{bits}a{bits}", "lsq")
    assert (theirs.lr, theirs.epochs, theirs.weight_decay) == (ours.lr, ours.epochs, ours.weight_decay)
    of = [fb.quantize_(fb.models.build("preresnet8"), stage.policy).convention for stage in (ours, theirs)]
    assert (of[0].first, of[0].last, of[0].inner) == (of[1].first, of[1].last, of[1].inner)


def test_one_bit_can_start_from_float():
    assert starts(uniq(ONE | {"one_bit.begin": "float"})) == [("float", "start"), ("uniq-w1a1", "stage:float")]


@pytest.mark.parametrize(("bits", "before"), [((1, 32), "uniq-w2a32"), ((32, 1), "uniq-w32a2"), ((1, 4), "uniq-w2a4")])
def test_one_bit_of_either_starts_from_two_bits_of_it(bits, before):
    _, two, one = uniq(weights=bits[0], activations=bits[1]).stages
    assert (two.name, one.start) == (before, From.stage(before))


@pytest.mark.parametrize("step", ["optimal", "lsq", 0.1, 0.2])
def test_the_starts_of_table_5_reach_both_quantizers(step):
    base = last("uniq", {"quantizers.step": step, "quantizers.gradient_scale": False}).policy.base
    assert base.weight_options == base.activation_options == {"start": step, "gradient_scale": False}


def test_steps_are_per_channel_in_the_inner_layers_where_asked():
    model = fb.models.build("preresnet8")
    assert fb.quantize_(model, last("uniq").policy).convention.weight_step == "tensor"
    model = fb.models.build("preresnet8")
    fb.quantize_(model, last("uniq", {"quantizers.granularity": "channel"}).policy)
    assert model.layers[0][0].conv1.weight_quantizer.granularity == "channel"
    assert {edge.weight_quantizer.granularity for edge in (model.conv1, model.fc)} == {"tensor"}


def test_what_it_makes_of_a_network():
    stages = uniq(ONE).stages
    two, one = (fb.quantize_(fb.models.build("preresnet8"), stage.policy).convention for stage in stages[1:])
    assert (two.first, two.last, two.inner, two.shortcut) == ("W8/A8", "W8/A8", "W2/A2", "W2/A2")
    assert (one.first, one.last, one.inner, one.shortcut) == ("float", "float", "W1/A1", "float")


def test_the_digits_recipe_is_small():
    recipe = made("uniq-preresnet8-digits", ONE)
    assert (recipe.model, recipe.data) == ("preresnet8", "digits")
    assert [(stage.epochs, stage.batch_size) for stage in recipe.stages] == [(20, 64)] * 3


@pytest.mark.parametrize(
    ("setting", "known"),
    [
        ("one_bit.begin", "2-bit or float"),
        ("quantizers.granularity", "tensor or channel"),
        ("quantizers.method", "uniq or lsq"),
        ("quantizers.step", "optimal or lsq"),
        ("training.optimizer", "sgd or adam"),
    ],
)
def test_a_misspelt_choice_is_refused(setting, known):
    with pytest.raises(ValueError, match=f"{setting}='layer': expected .*{known}"):
        uniq(ONE | {setting: "layer"})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"one_bit.warmup": 50}, "one_bit cannot act: no weight or activation of W2/A2 has 1 bit"),
        ({"one_bit.begin": "float"}, "one_bit cannot act: no weight or activation of W2/A2 has 1 bit"),
        ({"one_bit": "on", "weights": 4}, "one_bit cannot act: no weight or activation of W4/A2 has 1 bit"),
        ({"quantizers.method": "lsq", "quantizers.step": 0.1}, "quantizers.step=0.1 cannot act: it is UNIQ's"),
        (ONE | {"one_bit": "none", "one_bit.warmup": 3}, "one_bit=none leaves that part out: one_bit.warmup cannot"),
        ({"training.lr": 0}, "training.lr=0: expected a positive number"),
        (ONE | {"one_bit.warmup": -1}, "warmup=-1: expected a number of epochs"),
    ],
)
def test_what_cannot_act_or_be_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        uniq(settings)


def test_a_step_that_its_quantizer_does_not_take_is_refused_before_anything_is_trained():
    with pytest.raises(ValueError, match=r"start=-1\.0"):
        made("uniq-preresnet8-digits", {"quantizers.step": -1.0}, network=NARROW)
