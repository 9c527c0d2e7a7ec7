from dataclasses import replace

import pytest

import flatbit as fb
from flatbit.engine.edges import edged
from flatbit.quant.convention import convention
from flatbit.recipes import RECIPES

from .cases import FLOAT, QUANTIZED, recipe


@pytest.mark.parametrize(
    "name", ["sqwa-resnet20-cifar100", "hol-resnet20-cifar10", "saq-preresnet20-cifar100", "uniq-preresnet8-digits"]
)
def test_every_product_of_every_quantized_stage_has_integer_operands(name):
    made = RECIPES.get(name).recipe(name, {"weights": 2, "activations": 2})
    stages = edged(made, first_last_bits=8, image_bits=8).stages
    found = (stage.policy for stage in stages if stage.policy)
    policies = [policy for policy in found if (policy.base.weights, policy.base.activations) == (2, 2)]
    assert policies
    for policy in policies:
        model = fb.models.build("preresnet8")
        fb.quantize_(model, policy)
        assert "every product of integers" in str(convention(model))


def test_none_leaves_the_recipe_as_it_is():
    made = recipe(FLOAT, QUANTIZED)
    assert edged(made) == made
    assert edged(made, first_last_bits=4) != made
    assert edged(made, first_last_bits=4).stages[0] == FLOAT


@pytest.mark.parametrize(
    ("made", "given", "words"),
    [
        (recipe(FLOAT), {"first_last_bits": 8}, "first_last_bits=8 cannot act: no stage of .* quantizes layers"),
        (
            recipe(FLOAT, replace(QUANTIZED, policy=fb.policy("sqwa", weights=2))),
            {"image_bits": 8},
            "image_bits=8 cannot act: no stage of .* quantizes activations",
        ),
        (recipe(FLOAT, QUANTIZED), {"image_bits": 9}, "image_bits"),
    ],
)
def test_bits_that_cannot_act_are_refused(made, given, words):
    with pytest.raises(ValueError, match=words):
        edged(made, **given)
