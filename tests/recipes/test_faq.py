import pytest

import flatbit as fb
from flatbit.recipes import Network
from flatbit.reference import START, From
from flatbit.train.optimizers import SGD
from flatbit.train.schedules import Exponential

from .cases import last, made, rates


def faq(given=None, **settings):
    return last("faq", given, **settings)


def test_four_bits_as_the_paper_has_it():
    stage = faq()
    assert (stage.name, stage.start, stage.epochs, stage.batch_size) == ("faq-w4a4", From.stage("float"), 110, 256)
    assert (stage.optimizer, stage.weight_decay, stage.accumulation) == (SGD(momentum=0.9), 1e-4, ())
    assert rates(stage) == pytest.approx([0.0015 * 0.936**epoch for epoch in range(110)])


def test_eight_bits_is_one_epoch_at_a_small_rate():
    stage = faq(weights=8, activations=8)
    assert (stage.epochs, rates(stage)) == (1, [1e-4])
    longer = faq({"training.epochs": 3, "training.lr": 1e-3}, weights=8, activations=8)
    assert rates(longer) == [1e-3] * 3


@pytest.mark.parametrize("bits", [(4, 8), (8, 4), (2, 2)])
def test_anything_below_eight_bits_descends(bits):
    assert faq(weights=bits[0], activations=bits[1]).epochs == 110


@pytest.mark.parametrize(("epochs", "decay"), [(60, 0.8852), (30, 0.7837), (165, 0.9566)])
def test_other_lengths_keep_first_and_last_rate(epochs, decay):
    stage = faq({"training.epochs": epochs})
    assert isinstance(stage.schedule, Exponential)
    assert stage.schedule.decay == pytest.approx(decay, abs=0.00006)
    assert stage.lr == 0.0015
    assert stage.lr_at(epochs) == pytest.approx(1e-6)


def test_no_epochs_only_calibrates():
    stage = faq({"training.epochs": 0}, weights=8, activations=8)
    assert (stage.epochs, stage.batch_size) == (0, 128)
    assert faq({"training.epochs": 0}).batch_size == 256


def test_step_schedule():
    steps = {"training.schedule": "steps"}
    assert rates(faq(steps)) == pytest.approx([1e-3] * 30 + [1e-4] * 30 + [1e-5] * 30 + [1e-6] * 20)
    short = rates(faq(steps | {"training.epochs": 11}))
    assert short == pytest.approx([1e-3] * 3 + [1e-4] * 3 + [1e-5] * 3 + [1e-6] * 2)


def imagenet(net="resnet18", given=None, **settings):
    return last(f"faq-{net}-imagenet", given, **settings)


def test_imagenet_at_eight_bits_trains_on_as_before():
    for given in ({}, {"pretraining": "none"}):
        stage = imagenet(given=given, weights=8, activations=8)
        assert (rates(stage), stage.batch_size, stage.weight_decay) == ([1e-4], 256, 1e-4)


@pytest.mark.parametrize(("net", "decay"), [("resnet18", 5e-5), ("resnet34", 1e-4), ("resnet50", 1e-4)])
def test_imagenet_at_four_bits(net, decay):
    stage = imagenet(net)
    assert (stage.epochs, stage.batch_size, stage.weight_decay) == (110, 256, decay)
    assert rates(stage)[0] == 0.0015


def test_the_decay_of_resnet18_is_its_own_and_can_be_set():
    assert imagenet(given={"training.weight_decay": 1e-4}).weight_decay == 1e-4  # a row of Table 2
    assert imagenet(given={"published.weight_decay": 1e-4}).weight_decay == 1e-4
    assert last("faq-resnet18-imagenet", network=Network(model="resnet34")).weight_decay == 1e-4


@pytest.mark.parametrize(("epochs", "decay"), [(30, 0.7837), (60, 0.8852), (110, 0.936)])
def test_the_lengths_of_section_4_2(epochs, decay):
    stage = imagenet(given={"training.epochs": epochs, "training.batch_size": 400})
    assert (stage.schedule.decay, stage.batch_size) == (pytest.approx(decay, abs=6e-5), 400)


def test_cifar10_as_section_4_9_has_it():
    first, eight = made("faq-resnet18-cifar10", weights=8, activations=8).stages
    assert (first.epochs, first.weight_decay, first.batch_size) == (350, 5e-4, 128)
    assert (rates(eight), eight.weight_decay, eight.batch_size) == ([1e-4] * 10, 5e-4, 128)
    four = last("faq-resnet18-cifar10")
    assert (four.epochs, four.weight_decay) == (110, 5e-4)
    assert rates(four) == pytest.approx([0.02] * 30 + [2e-3] * 30 + [2e-4] * 30 + [2e-5] * 20)


def test_cifar10_at_eight_bits_keeps_what_its_float_net_trained_with_though_that_is_given():
    given = last("faq-resnet18-cifar10", pretraining="none", weights=8, activations=8)
    assert (given.weight_decay, given.batch_size) == (5e-4, 128)


def test_step_schedule_of_the_cifar_run():
    ends = rates(faq({"training.schedule": "steps", "training.lr": 0.02, "training.weight_decay": 5e-4}))
    assert (ends[0], ends[-1]) == (0.02, pytest.approx(2e-5))


def test_from_scratch():
    (stage,) = made("faq", {"pretraining": "scratch", "quantizers.calibrate": False}).stages
    assert stage.start == START
    assert rates(stage) == pytest.approx([0.1 * 0.901**epoch for epoch in range(110)])


def test_from_scratch_by_steps():
    stage = faq({"pretraining": "scratch", "training.schedule": "steps"})
    assert rates(stage) == pytest.approx([0.1] * 30 + [0.01] * 30 + [1e-3] * 25 + [1e-4] * 10 + [1e-6] * 15)


def test_batch_doubling():
    stage = faq({"training.accumulation": "doubling"})
    assert stage.epochs == 165
    at = {epoch: 256 * stage.batches_per_update(epoch) for epoch in (54, 55, 149, 150, 159, 160)}
    assert at == {54: 256, 55: 512, 149: 512, 150: 1024, 159: 1024, 160: 2048}
    assert sum(1 / stage.batches_per_update(e) for e in range(165)) == pytest.approx(105.6, abs=0.05)
    assert stage.schedule.decay == pytest.approx(0.9566, abs=0.00006)


def test_batch_doubling_keeps_its_places_in_another_length():
    short = {"training.accumulation": "doubling", "training.epochs": 33}
    assert faq(short).accumulation == ((11, 2), (30, 4), (32, 8))
    with pytest.raises(ValueError, match=r"training.accumulation=doubling with training.epochs=10: the three fall"):
        faq(short | {"training.epochs": 10})


def test_the_policy_is_the_papers_and_takes_the_options():
    options = {"quantizers.calibrate": False, "quantizers.clip_is_half_width": True, "quantizers.placement": "input"}
    policy = faq(options).policy
    assert (policy.name, policy.base.placement) == ("faq", "input")
    assert policy.base.weight_options == {"clip_is_half_width": True}
    assert policy.base.activation_options == {"calibrate": False}
    assert faq().policy.base.placement == "output"


@pytest.mark.parametrize(
    ("float_part", "setting"),
    [
        ("weights", {"quantizers.clip_is_half_width": True}),
        ("activations", {"quantizers.calibrate": False}),
        ("activations", {"quantizers.placement": "input"}),
    ],
)
def test_options_of_what_stays_float_cannot_act(float_part, setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))}=.* cannot act: {float_part} are float: leave it out"):
        faq(setting, **{float_part: 32})


def test_what_it_makes_of_a_network():
    model = fb.models.build("preresnet8")
    convention = fb.quantize_(model, faq().policy).convention
    assert (convention.first, convention.last, convention.inner) == ("W8/A8", "W8/A8", "W4/A4")
    assert (convention.batch_norm, convention.bias, convention.activations) == ("fixed point", "fixed point", "output")


def test_the_float_net_comes_first_with_its_own_schedule():
    first = made("faq", {"pretraining.schedule": "digits", "pretraining.epochs": 3}).stages[0]
    assert (first.name, first.epochs, first.batch_size) == ("float", 3, 64)


def test_model_and_data_are_not_settings_but_can_be_others():
    recipe = made("faq", network=Network(model="resnet56", arguments={"shortcut": "B"}), data="mine:set")
    assert (recipe.model, recipe.data, recipe.model_arguments) == ("resnet56", "mine:set", {"shortcut": "B"})


def test_the_digits_recipe_is_small():
    recipe = made("faq-preresnet8-digits", weights=2, activations=2)
    assert (recipe.model, recipe.data) == ("preresnet8", "digits")
    assert [stage.name for stage in recipe.stages] == ["float", "faq-w2a2"]
    assert [stage.epochs for stage in recipe.stages] == [20, 20]


def test_bits_the_method_does_not_have_are_refused():
    with pytest.raises(ValueError, match="got 1"):
        faq(weights=1, activations=1)


@pytest.mark.parametrize(
    ("setting", "known"),
    [("training.schedule", "exponential or steps"), ("training.accumulation", "doubling"), ("pretraining", "scratch")],
)
def test_a_misspelt_choice_is_refused(setting, known):
    with pytest.raises(ValueError, match=f"{setting}='step': .*{known}"):
        faq({setting: "step"})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"published.eight_epochs": 5}, "published.eight_epochs=5 cannot act"),  # of 8 bits alone
        ({"published.original": "faq-cifar"}, "published.original=faq-cifar cannot act"),
        ({"published.lr": 0.1, "training.lr": 0.2}, "published.lr=0.1 cannot act"),
        ({"weights": 8, "activations": 8, "published.lr": 0.1}, "published.lr=0.1 cannot act"),
        ({"training.epochs": 0, "training.lr": 0.1}, "training.lr=0.1 cannot act"),
        (
            {"pretraining": "scratch", "pretraining.epochs": 3},
            "pretraining=scratch leaves that part out: .* cannot act",
        ),
        ({"training.lr": 0.0}, "lr=0.0: expected a positive first rate"),
        (
            {"weights": 8, "activations": 8, "pretraining": "none", "published.original": "imagnet"},
            "unknown float schedule 'imagnet': did you mean imagenet",
        ),
    ],
)
def test_what_cannot_act_or_be_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        faq(settings)
