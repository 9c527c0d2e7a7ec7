import math

import pytest

from .cases import made, starts


def test_each_net_starts_from_the_one_before():
    assert starts(made("progressive")) == [
        ("float", "start"), ("uniq-w8a8", "stage:float"), ("uniq-w4a4", "stage:uniq-w8a8"),
        ("uniq-w3a3", "stage:uniq-w4a4"), ("uniq-w2a2", "stage:uniq-w3a3"), ("uniq-w1a1", "stage:uniq-w2a2"),
    ]  # fmt: skip


@pytest.mark.parametrize(("quantized", "name"), [("weights", "saq-w4a32"), ("activations", "saq-w32a4")])
def test_weights_or_activations_alone(quantized, name):
    recipe = made("progressive", method="saq", bits=[4], quantized=quantized)
    assert [stage.name for stage in recipe.stages] == ["float", name]


def test_a_method_of_weights_takes_another_for_activations():
    base = made("progressive", method="sqwa", activation_method="pact", bits=[4, 2]).stages[-1].policy.base
    assert (base.method, base.activation_method, base.weights, base.activations) == ("sqwa", "pact", 2, 2)


def test_settings_reach_every_stage():
    settings = {
        "training.epochs": 10, "training.lr": 0.02, "training.weight_decay": 0.0, "training.batch_size": 32,
    }  # fmt: skip
    for stage in made("progressive", settings).stages[1:]:
        assert (stage.epochs, stage.lr, stage.weight_decay, stage.batch_size) == (10, 0.02, 0.0, 32)
        assert stage.schedule(5, 10) == pytest.approx((1 + math.cos(math.pi / 2)) / 2)


def test_one_number_is_a_ladder_of_one():
    assert [stage.name for stage in made("progressive", bits=2).stages] == ["float", "uniq-w2a2"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bits": [2, 4]}, "expected falling bit-widths"),
        ({"bits": [4, 4]}, "expected falling bit-widths"),
        ({"bits": []}, "expected falling bit-widths"),
        ({"bits": "low"}, "bits='low': expected a list; or bits='low': expected a whole number"),
        ({"method": "faq"}, "got 1"),
        ({"quantized": "each"}, "expected weights or activations or both"),
        ({"quantized": "weights", "activation_method": "pact"}, "activation_method=pact cannot act: quantized=weights"),
    ],
)
def test_what_is_no_ladder_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        made("progressive", settings)
