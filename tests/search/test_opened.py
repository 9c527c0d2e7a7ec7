from dataclasses import replace

import pytest
import torch

import flatbit as fb
from flatbit.data.memory import Images
from flatbit.quant.table import has_quantized_layers
from flatbit.search.costs import Prices
from flatbit.search.opened import Searched
from flatbit.search.space import space_of

from .cases import Untraced, preresnet, quantized

POLICY = fb.policy("saq", weights=4, activations=4)


def test_it_holds_the_float_net_and_what_of_its_quantized_self_is_searched(blobs):
    model = preresnet(num_classes=3)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    found = Searched.of(model, POLICY, blobs, widths=(2, 4))
    assert found.model is model
    assert not has_quantized_layers(model)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    twin = quantized(preresnet(num_classes=3))
    assert found.space == space_of(twin, (2, 4))
    assert found.prices == Prices.of(twin, found.space, (1, 4, 4))


def test_a_quantized_net_is_searched_from_its_latent_weights(blobs):
    model = preresnet(num_classes=3)
    weights = [p.detach().clone() for p in model.parameters()]
    found = Searched.of(quantized(model, policy="uniq", bits=2), POLICY, blobs, widths=(2, 4))
    assert not has_quantized_layers(found.model)
    assert all(torch.equal(a, b) for a, b in zip(found.model.parameters(), weights, strict=True))


def test_groups_of_the_callers(blobs):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="the forward of Untraced cannot be followed"):
        Searched.of(Untraced().eval(), POLICY, blobs, widths=(2, 4))
    found = Searched.of(Untraced().eval(), POLICY, _wide(blobs), widths=(2, 4), layers=[["inner", "more"]])
    assert [choice.layers for choice in found.space.choices] == [("inner", "more")]


def _wide(blobs):
    """Of 8 x 8 pixels."""

    def grown(split):
        return Images(images=split.images.repeat(1, 1, 2, 2), labels=split.labels)

    return replace(blobs, train=grown(blobs.train), test=grown(blobs.test))
