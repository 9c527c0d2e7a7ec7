import math

import pytest

from flatbit.recipes.progressive import progressive


def test_each_net_starts_from_the_one_before():
    assert [(stage.name, stage.start) for stage in progressive().stages] == [
        ("float", None), ("uniq-w8a8", "float"), ("uniq-w4a4", "uniq-w8a8"), ("uniq-w3a3", "uniq-w4a4"),
        ("uniq-w2a2", "uniq-w3a3"), ("uniq-w1a1", "uniq-w2a2"),
    ]  # fmt: skip


@pytest.mark.parametrize(("quantized", "name"), [("weights", "saq-w4a32"), ("activations", "saq-w32a4")])
def test_weights_or_activations_alone(quantized, name):
    assert [stage.name for stage in progressive(method="saq", bits=[4], quantized=quantized).stages] == ["float", name]


def test_a_method_of_weights_takes_another_for_activations():
    base = progressive(method="sqwa", activation_method="pact", bits=[4, 2]).stages[-1].policy.base
    assert (base.method, base.activation_method, base.weights, base.activations) == ("sqwa", "pact", 2, 2)


def test_settings_reach_every_stage():
    for stage in progressive(epochs=10, lr=0.02, weight_decay=0.0, batch_size=32).stages[1:]:
        assert (stage.epochs, stage.lr, stage.weight_decay, stage.batch_size) == (10, 0.02, 0.0, 32)
        assert stage.schedule(5, 10) == pytest.approx((1 + math.cos(math.pi / 2)) / 2)


def test_one_number_is_a_ladder_of_one():
    assert [stage.name for stage in progressive(bits=2).stages] == ["float", "uniq-w2a2"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bits": [2, 4]}, "expected falling bit-widths"),
        ({"bits": [4, 4]}, "expected falling bit-widths"),
        ({"bits": []}, "expected falling bit-widths"),
        ({"method": "faq"}, "got 1"),
        ({"quantized": "each"}, "expected weights or activations or both"),
    ],
)
def test_what_is_no_ladder_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        progressive(**settings)
