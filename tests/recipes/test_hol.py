import pytest

import flatbit as fb
from flatbit.recipes import Network
from flatbit.recipes.hol import pairs
from flatbit.reference import From
from flatbit.train.losses.labels import CrossEntropy
from flatbit.train.losses.orthogonality import Lipschitz
from flatbit.train.optimizers import SGD

from .cases import NARROW, last, made, ran, rates, starts, term

CLR = [1, 10**-0.5, 10**-1, 10**-1.5, 10**-2, 10**-1.5, 10**-1, 10**-0.5]  # section 4.2's factors
BOTH = {"quantized": "both"}


def weights_of_the_term(recipe):
    return [found.weight if (found := term(stage, Lipschitz)) else 0.0 for stage in recipe.stages]


def test_weights_alone_activations_alone_and_both_from_the_float_net():
    assert starts(made("hol")) == [
        ("float", "start"), ("hol-w2a32", "stage:float"), ("hol-w32a2", "stage:float"), ("hol-w2a2", "stage:float"),
    ]  # fmt: skip


@pytest.mark.parametrize(("quantized", "pair"), [("weights", (2, 32)), ("activations", (32, 4)), ("both", (2, 4))])
def test_one_of_them(quantized, pair):
    assert pairs(2, 4, quantized) == [pair]


def test_two_of_them():
    assert pairs(2, 4, ("activations", "both")) == [(32, 4), (2, 4)]
    recipe = made("hol", quantized=["activations", "both"], activations=4)
    assert [stage.name for stage in recipe.stages] == ["float", "hol-w32a4", "hol-w2a4"]


@pytest.mark.parametrize(("bits", "found"), [((3, 32), [(3, 32)]), ((32, 2), [(32, 2)])])
def test_what_stays_float_has_no_stage(bits, found):
    assert pairs(*bits, "each") == found


def test_cifar_as_the_paper_has_it():
    recipe = made("hol-resnet20-cifar10")
    assert (recipe.data, recipe.model, recipe.stages[0].epochs) == ("cifar10", "resnet20", 200)
    for stage in recipe.stages[1:]:
        assert (stage.epochs, stage.batch_size, stage.weight_decay) == (100, 128, 0.0)
        assert stage.optimizer == SGD(momentum=0.9)
        assert rates(stage) == pytest.approx([1e-2] * 50 + [1e-3] * 30 + [1e-4] * 20)
        assert (stage.losses, stage.policy.name) == ((CrossEntropy(),), "hol")


def test_milestones_are_shares_of_any_length():
    settings = {"training.epochs": 10, "training.milestones": [0.2, 0.6], "training.lr": 1.0}
    assert rates(last("hol", settings)) == pytest.approx([1.0] * 2 + [0.1] * 4 + [0.01] * 4)


def test_the_lipschitz_term():
    assert weights_of_the_term(made("hol", lipschitz="on")) == [0.0, 1e-4, 1e-4, 1e-4]
    assert weights_of_the_term(made("hol", {"lipschitz.weight": 0.01})) == [0.0, 0.01, 0.01, 0.01]
    assert term(last("hol", lipschitz="on"), CrossEntropy).weight == 1


def test_clr_fine_tunes_after_retraining_and_ends_at_a_minimum():
    recipe = made("hol", BOTH, clr="on")
    _, retrain, clr = recipe.stages
    assert (clr.name, clr.start, clr.policy) == ("hol-w2a2-clr", From.stage("hol-w2a2"), retrain.policy)
    assert clr.epochs == 37  # the fifth minimum of 40 epochs
    assert rates(clr) == pytest.approx([1e-3 * factor for factor in (CLR * 5)[:37]])
    assert rates(clr)[-1] == pytest.approx(1e-5)
    assert weights_of_the_term(recipe) == [0.0, 0.0, 0.0]


def test_its_highest_rate_turns_clr_on():
    assert last("hol", {"clr.lr": 5}).lr == 5


def test_both_smoothers_keep_the_term_in_both_stages():
    assert weights_of_the_term(made("hol", BOTH, lipschitz="on", clr="on")) == [0.0, 1e-4, 1e-4]


@pytest.mark.parametrize("epochs", [1, 8, 16, 41, 165])
def test_other_lengths_of_clr_end_at_the_fifth_minimum_too(epochs):
    clr = last("hol", BOTH | {"clr.epochs": epochs})
    assert 1 <= clr.epochs <= epochs
    assert len(clr.schedule.minima(clr.epochs)) == 5
    assert clr.schedule(clr.epochs - 1e-3, clr.epochs) == pytest.approx(0.01)


def test_the_length_of_clr_on_digits_waits_until_it_is_on():
    assert not any(stage.name.endswith("-clr") for stage in made("hol-preresnet8-digits").stages)
    assert last("hol-preresnet8-digits", clr="on") == last("hol-preresnet8-digits", {"clr.epochs": 8})
    assert last("hol-preresnet8-digits", clr="on").epochs == 7
    assert (last("hol-preresnet8-digits", {"clr.lr": 0.5}).lr, last("hol", {"clr.lr": 0.5}).epochs) == (0.5, 37)
    assert last("hol-preresnet8-digits", {"clr.lr": 0.5}).epochs == 7


def test_imagenet():
    recipe = made("hol-preresnet34-imagenet")
    stage = recipe.stages[-1]
    assert [s.name for s in recipe.stages] == ["float", "hol-w2a2"]
    assert (stage.epochs, stage.batch_size, stage.weight_decay, stage.policy.name) == (90, 512, 1e-4, "hol-imagenet")
    assert rates(stage) == pytest.approx([0.04] * 30 + [0.004] * 30 + [0.0004] * 30)


TABLE_5 = {  # blocks, (L, D), parameters in millions
    "resnet_cifar": ([(8, 59), (14, 40), (20, 31), (32, 24), (44, 20), (56, 18)], [1.05, 1.10, 1.03, 1.06, 1.04, 1.09]),
    "depthwise_resnet": ([(29, 38), (38, 32), (56, 26), (74, 22), (110, 18)], [1.11, 1.08, 1.11, 1.08, 1.13]),
}


@pytest.mark.parametrize("model", TABLE_5)
def test_networks_of_table_5_by_arguments(model):
    extra = {"shortcut": "B"} if model == "resnet_cifar" else {}
    for (depth, first), millions in zip(*TABLE_5[model], strict=True):
        network = Network(model=model, arguments={"depth": depth, "first_width": first} | extra)
        recipe = made("hol", network=network)
        net = fb.models.build(recipe.model, **recipe.model_arguments)
        counted = sum(t.numel() for t in net.state_dict().values() if t.is_floating_point())  # BN's four vectors
        assert counted / 1e6 == pytest.approx(millions, abs=0.011)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quantized": "smooth"}, "quantized='smooth': expected each or weights or activations or both; or .* a list"),
        ({"quantized": ["smooth"]}, r"quantized\[0\]='smooth': expected each or weights"),
        ({"convention": "smooth"}, "convention='smooth': expected hol or hol-imagenet"),
        ({"lipschitz": 0.01}, "lipschitz=0.01: it is a part .* lipschitz=on, lipschitz=none, or .* \\(weight\\)"),
        ({"lipschitz.weight": 0}, "lipschitz weight=0: expected a positive number"),
        ({"clr": "none", "clr.lr": 5}, "clr=none leaves that part out: clr.lr cannot act"),
        ({"quantized": "weights", "activations": 4}, "activations=4 cannot act"),
        ({"weights": 32, "quantized": "weights"}, "quantized='weights' with W32/A2: nothing to quantize"),
    ],
)
def test_what_cannot_act_or_be_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        made("hol", settings)


def test_both_smoothers_run(tmp_path):
    recipe = made("hol-preresnet8-digits", network=NARROW, lipschitz="on", clr="on")
    done = ran(recipe, tmp_path, smoke=True)
    assert [*done.record.stages] == [stage.name for stage in recipe.stages]


@pytest.mark.parametrize("milestones", [[0.0], [0.5, 1.0], [-0.1], [30, 60]])
def test_milestones_are_shares(milestones):
    with pytest.raises(ValueError, match="expected shares of the epochs, between 0 and 1"):
        made("hol", {"training.milestones": milestones})


def test_milestones_of_a_short_run_may_fall_on_its_end():
    assert rates(last("hol", {"training.epochs": 1})) == pytest.approx([0.001])
