import pytest

import flatbit as fb
from flatbit.engine.run import run
from flatbit.recipes import RECIPES
from flatbit.recipes.hol import hol, pairs

CLR = [1, 10**-0.5, 10**-1, 10**-1.5, 10**-2, 10**-1.5, 10**-1, 10**-0.5]  # section 4.2's factors


def rates(stage):
    return [stage.lr * stage.schedule(epoch, stage.epochs) for epoch in range(stage.epochs)]


def test_weights_alone_activations_alone_and_both_from_the_float_net():
    assert [(stage.name, stage.start) for stage in hol().stages] == [
        ("float", None), ("hol-w2a32", "float"), ("hol-w32a2", "float"), ("hol-w2a2", "float"),
    ]  # fmt: skip


@pytest.mark.parametrize(("quantized", "made"), [("weights", (2, 32)), ("activations", (32, 4)), ("both", (2, 4))])
def test_one_of_them(quantized, made):
    assert pairs(2, 4, quantized) == [made]


def test_two_of_them():
    assert pairs(2, 4, ["activations", "both"]) == [(32, 4), (2, 4)]


@pytest.mark.parametrize(("bits", "made"), [((3, 32), [(3, 32)]), ((32, 2), [(32, 2)])])
def test_what_stays_float_has_no_stage(bits, made):
    assert pairs(*bits, "each") == made


def test_cifar_as_the_paper_has_it():
    made = RECIPES.get("hol-resnet20-cifar10")()
    assert (made.data, made.model, made.stages[0].epochs) == ("cifar10", "resnet20", 200)
    for stage in made.stages[1:]:
        assert (stage.epochs, stage.batch_size, stage.weight_decay, stage.momentum) == (100, 128, 0.0, 0.9)
        assert rates(stage) == pytest.approx([1e-2] * 50 + [1e-3] * 30 + [1e-4] * 20)
        assert (stage.lipschitz, stage.policy.name) == (0.0, "hol")


def test_the_lipschitz_term():
    assert [stage.lipschitz for stage in hol(descent="lipschitz").stages] == [0.0, 1e-4, 1e-4, 1e-4]


def test_clr_fine_tunes_after_retraining_and_ends_at_a_minimum():
    retrain, clr = hol(descent="clr", quantized="both").stages[1:]
    assert (clr.name, clr.start, clr.policy) == ("hol-w2a2-clr", "hol-w2a2", retrain.policy)
    assert clr.epochs == 37  # the fifth minimum of 40 epochs
    assert rates(clr) == pytest.approx([1e-3 * factor for factor in (CLR * 5)[:37]])
    assert rates(clr)[-1] == pytest.approx(1e-5)
    assert (retrain.lipschitz, clr.lipschitz) == (0.0, 0.0)


def test_both_smoothers_keep_the_term_in_both_stages():
    retrain, clr = hol(descent="lipschitz+clr", quantized="both").stages[1:]
    assert (retrain.lipschitz, clr.lipschitz) == (1e-4, 1e-4)


@pytest.mark.parametrize("epochs", [1, 8, 16, 41, 165])
def test_other_lengths_of_clr_end_at_the_fifth_minimum_too(epochs):
    clr = hol(descent="clr", quantized="both", clr_epochs=epochs).stages[-1]
    assert 1 <= clr.epochs <= epochs
    assert len(clr.schedule.minima(clr.epochs)) == 5
    assert clr.schedule(clr.epochs - 1e-3, clr.epochs) == pytest.approx(0.01)


def test_imagenet():
    made = RECIPES.get("hol-preresnet34-imagenet")()
    stage = made.stages[-1]
    assert [s.name for s in made.stages] == ["float", "hol-w2a2"]
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
        made = hol(model=model, model_arguments={"depth": depth, "first_width": first} | extra)
        net = fb.models.build(made.model, **made.model_arguments)
        counted = sum(t.numel() for t in net.state_dict().values() if t.is_floating_point())  # BN's four vectors
        assert counted / 1e6 == pytest.approx(millions, abs=0.011)


@pytest.mark.parametrize(
    ("setting", "known"),
    [
        ("quantized", "each or weights or activations or both"),
        ("descent", "plain or lipschitz or clr or lipschitz\\+clr"),
    ],
)
def test_a_misspelt_choice_is_refused(setting, known):
    with pytest.raises(ValueError, match=f"{setting}='smooth': expected {known}"):
        hol(**{setting: "smooth"})


def test_nothing_to_quantize_is_refused():
    with pytest.raises(ValueError, match="quantized='weights' with W32/A2: nothing to quantize"):
        hol(weights=32, quantized="weights")


def test_both_smoothers_run(tmp_path):
    made = RECIPES.get("hol-preresnet8-digits")(model_arguments={"first_width": 4}, descent="lipschitz+clr")
    done = run(made, tmp_path, smoke=True)
    assert [*done.record["stages"]] == [stage.name for stage in made.stages]
