import pytest

import flatbit as fb
from flatbit.recipes import RECIPES
from flatbit.recipes.faq import faq
from flatbit.train.schedules import Exponential


def last(**settings):
    return faq(**settings).stages[-1]


def rates(stage):
    return [stage.lr * stage.schedule(epoch, stage.epochs) for epoch in range(stage.epochs)]


def test_four_bits_as_the_paper_has_it():
    stage = last()
    assert (stage.name, stage.start, stage.epochs, stage.batch_size) == ("faq-w4a4", "float", 110, 256)
    assert (stage.optimizer, stage.momentum, stage.weight_decay, stage.growth) == ("sgd", 0.9, 1e-4, ())
    assert rates(stage) == pytest.approx([0.0015 * 0.936**epoch for epoch in range(110)])


def test_eight_bits_is_one_epoch_at_a_small_rate():
    stage = last(weights=8, activations=8)
    assert (stage.epochs, rates(stage)) == (1, [1e-4])
    assert rates(last(weights=8, activations=8, epochs=3, lr=1e-3)) == [1e-3] * 3


@pytest.mark.parametrize("bits", [(4, 8), (8, 4), (2, 2)])
def test_anything_below_eight_bits_descends(bits):
    assert last(weights=bits[0], activations=bits[1]).epochs == 110


@pytest.mark.parametrize(("epochs", "decay"), [(60, 0.8852), (30, 0.7837), (165, 0.9566)])
def test_other_lengths_keep_first_and_last_rate(epochs, decay):
    stage = last(epochs=epochs)
    assert isinstance(stage.schedule, Exponential)
    assert stage.schedule.decay == pytest.approx(decay, abs=0.00006)
    assert stage.lr == 0.0015
    assert stage.lr * stage.schedule(epochs, epochs) == pytest.approx(1e-6)


def test_step_schedule():
    assert rates(last(schedule="steps")) == pytest.approx([1e-3] * 30 + [1e-4] * 30 + [1e-5] * 30 + [1e-6] * 20)
    assert rates(last(schedule="steps", epochs=11)) == pytest.approx([1e-3] * 3 + [1e-4] * 3 + [1e-5] * 3 + [1e-6] * 2)


def imagenet(net="resnet18", **settings):
    return RECIPES.get(f"faq-{net}-imagenet")(**settings).stages[-1]


def test_imagenet_at_eight_bits_trains_on_as_before():
    stage = imagenet(weights=8, activations=8)
    assert (rates(stage), stage.batch_size, stage.weight_decay) == ([1e-4], 256, 1e-4)
    given = imagenet(weights=8, activations=8, float_schedule="none")
    assert (given.batch_size, given.weight_decay) == (256, 1e-4)


@pytest.mark.parametrize(("net", "decay"), [("resnet18", 5e-5), ("resnet34", 1e-4), ("resnet50", 1e-4)])
def test_imagenet_at_four_bits(net, decay):
    stage = imagenet(net)
    assert (stage.epochs, stage.batch_size, stage.weight_decay) == (110, 256, decay)
    assert rates(stage)[0] == 0.0015
    assert imagenet(net, weight_decay=1e-4).weight_decay == 1e-4  # a row of Table 2


@pytest.mark.parametrize(("epochs", "decay"), [(30, 0.7837), (60, 0.8852), (110, 0.936)])
def test_the_lengths_of_section_4_2(epochs, decay):
    stage = imagenet(epochs=epochs, batch_size=400)
    assert (stage.schedule.decay, stage.batch_size) == (pytest.approx(decay, abs=6e-5), 400)


def test_cifar10_as_section_4_9_has_it():
    first, eight = RECIPES.get("faq-resnet18-cifar10")(weights=8, activations=8).stages
    assert (first.epochs, first.weight_decay, first.batch_size) == (350, 5e-4, 128)
    assert (rates(eight), eight.weight_decay, eight.batch_size) == ([1e-4] * 10, 5e-4, 128)
    four = RECIPES.get("faq-resnet18-cifar10")().stages[-1]
    assert (four.epochs, four.weight_decay) == (110, 5e-4)
    assert rates(four) == pytest.approx([0.02] * 30 + [2e-3] * 30 + [2e-4] * 30 + [2e-5] * 20)


def test_step_schedule_of_the_cifar_run():
    ends = rates(last(schedule="steps", lr=0.02, weight_decay=5e-4))
    assert (ends[0], ends[-1]) == (0.02, pytest.approx(2e-5))


def test_from_scratch():
    made = faq(pretrained=False, calibrate=False)
    assert len(made.stages) == 1
    assert made.stages[0].start is None
    assert rates(made.stages[0]) == pytest.approx([0.1 * 0.901**epoch for epoch in range(110)])


def test_from_scratch_by_steps():
    made = last(pretrained=False, schedule="steps")
    assert rates(made) == pytest.approx([0.1] * 30 + [0.01] * 30 + [1e-3] * 25 + [1e-4] * 10 + [1e-6] * 15)


def test_batch_doubling():
    stage = last(growth="doubling")
    assert stage.epochs == 165
    assert [256 * stage.batches_per_update(e) for e in (54, 55, 149, 150, 159, 160)] == [
        256,
        512,
        512,
        1024,
        1024,
        2048,
    ]
    assert sum(1 / stage.batches_per_update(e) for e in range(165)) == pytest.approx(105.6, abs=0.05)
    assert stage.schedule.decay == pytest.approx(0.9566, abs=0.00006)


def test_batch_doubling_keeps_its_places_in_another_length():
    assert last(growth="doubling", epochs=33).growth == ((11, 2), (30, 4), (32, 8))


def test_the_policy_is_the_papers_and_takes_the_options():
    policy = last(weights=4, activations=4, calibrate=False, clip_is_half_width=True, placement="input").policy
    assert policy.name == "faq"
    assert policy.placement == "input"
    assert policy.base.weight_options == {"clip_is_half_width": True}
    assert policy.base.activation_options == {"calibrate": False}
    assert last().policy.placement == "output"


def test_what_it_makes_of_a_network():
    model = fb.models.build("preresnet8")
    report = fb.quantize_(model, last(weights=4, activations=4).policy)
    convention = report.convention
    assert (convention.first, convention.last, convention.inner) == ("W8/A8", "W8/A8", "W4/A4")
    assert (convention.batch_norm, convention.bias, convention.activations) == ("fixed point", "fixed point", "output")


def test_the_float_net_comes_first_with_its_own_schedule():
    first = faq(float_schedule="digits", float_epochs=3).stages[0]
    assert (first.name, first.epochs, first.batch_size) == ("float", 3, 64)


def test_model_and_data_are_parameters():
    made = faq(model="resnet56", data="mine:set", model_arguments={"shortcut": "B"})
    assert (made.model, made.data, made.model_arguments) == ("resnet56", "mine:set", {"shortcut": "B"})


def test_the_digits_recipe_is_small():
    made = RECIPES.get("faq-preresnet8-digits")(weights=2, activations=2)
    assert (made.model, made.data) == ("preresnet8", "digits")
    assert [stage.name for stage in made.stages] == ["float", "faq-w2a2"]
    assert [stage.epochs for stage in made.stages] == [20, 20]


def test_bits_the_method_does_not_have_are_refused():
    with pytest.raises(ValueError, match="got 1"):
        faq(weights=1, activations=1)


@pytest.mark.parametrize(
    ("setting", "known"),
    [("schedule", "exponential or steps"), ("growth", "none or doubling"), ("published", "imagenet or cifar")],
)
def test_a_misspelt_choice_is_refused(setting, known):
    with pytest.raises(ValueError, match=f"{setting}='step': expected {known}"):
        faq(**{setting: "step"})
