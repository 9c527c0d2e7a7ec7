import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import flatbit as fb
from flatbit.analysis.span import Span
from flatbit.quant.table import quantized_layers, quantized_tensors, quantizers_of

from .plane_cases import captures, net

CORNERS = ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
X = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def named(models):
    return dict(zip("abc", models, strict=True))


def trained():
    """Three nets whose learned steps have moved too, of weights and activations."""
    models = captures(net("uniq", activations=2))
    for model, factor in zip(models, (1.0, 1.1, 0.8), strict=True):
        for _, quantizer in quantizers_of(model):
            for parameter in quantizer.parameters():
                parameter.data *= factor
    return models


def refitted():
    """Three nets with a D of their own each."""
    models = captures(net())
    for model in models:
        for name, layer in quantized_layers(model):
            fb.quant.calibrate.start_weights_(name, layer)
            layer.weight.data *= 1 + 0.2 * torch.rand_like(layer.weight)  # as fine-tuning moves them, D kept
    return models


@pytest.mark.parametrize("rounded", [True, False])
@pytest.mark.parametrize("made", [lambda: captures(net()), trained, refitted])
def test_each_model_is_reproduced_bit_for_bit(made, rounded):
    models = made()
    span = Span(named(models), rounded=rounded)
    span.move_([0.3, 0.5, 0.2])
    for model, shares in zip(models, CORNERS, strict=True):
        span.move_(shares)
        model.eval()
        span.network.load_state_dict({k: v for k, v in model.state_dict().items() if "running" in k}, strict=False)
        assert torch.equal(span.network(X), model(X))


def test_a_mean_lies_on_the_grid_of_captures_and_is_the_rounded_mean_of_latent_weights():
    models = captures(net())
    span = Span(named(models), rounded=True)
    span.move_([0.5, 0.75, -0.25])
    assert not span.refitted
    layers = [dict(quantized_layers(model)) for model in models]
    for name, layer in quantized_layers(span.network):
        mean = 0.5 * layers[0][name].weight + 0.75 * layers[1][name].weight - 0.25 * layers[2][name].weight
        torch.testing.assert_close(layer.weight.detach(), mean.detach())
        expected = layers[0][name].weight_quantizer(layer.weight)
        assert torch.equal(layer.quantized_weight(), expected)


def test_without_rounding_it_is_the_mean_of_quantized_weights():
    models = captures(net())
    span = Span(named(models), rounded=False)
    span.move_([0.5, 0.75, -0.25])
    layers = [dict(quantized_layers(model)) for model in models]
    for name, layer in quantized_layers(span.network):
        a, b, c = (of[name].quantized_weight() for of in layers)
        torch.testing.assert_close(layer.quantized_weight().detach(), (0.5 * a + 0.75 * b - 0.25 * c).detach())


def test_a_step_that_is_not_learned_and_differs_is_fitted_anew():
    span = Span(named(refitted()), rounded=True)
    assert span.refitted
    span.move_([0.2, 0.2, 0.6])
    for name, layer in quantized_layers(span.network):
        fitted = copy.deepcopy(layer)
        fb.quant.calibrate.start_weights_(name, fitted)
        assert torch.equal(layer.weight_quantizer.step, fitted.weight_quantizer.step)


def test_learned_steps_take_the_geometric_mean():
    models = trained()
    span = Span(named(models), rounded=True)
    span.move_([-1.0, -1.0, 3.0])
    for (_, moved), (_, first) in zip(quantizers_of(span.network), quantizers_of(models[0]), strict=True):
        for step, own in zip(moved.parameters(), first.parameters(), strict=True):
            torch.testing.assert_close(step.detach(), own.detach() / 1.1 * 0.8**3)


@given(st.lists(st.floats(-2, 3, width=32), min_size=2, max_size=2))
def test_every_mean_is_where_its_shares_say(shares):
    torch.manual_seed(0)
    models = [nn.Linear(3, 2) for _ in range(3)]
    span = Span(named(models), rounded=False)
    shares = [1 - sum(shares), *shares]
    span.move_(shares)
    expected = sum(share * model.weight for share, model in zip(shares, models, strict=True))
    torch.testing.assert_close(span.network.weight.detach(), expected.detach(), rtol=1e-4, atol=1e-5)


def test_opposite_shares_of_two_are_not_the_third_model():
    models = [nn.Linear(3, 2) for _ in range(3)]
    span = Span(named(models), rounded=False)
    span.move_([1.0, 0.5, -0.5])
    expected = models[0].weight + 0.5 * models[1].weight - 0.5 * models[2].weight
    torch.testing.assert_close(span.network.weight.detach(), expected.detach())


def test_the_difference_is_of_all_weights_and_of_no_step():
    models = trained()
    span = Span(named(models), rounded=True)
    steps = {id(p) for _, q in quantizers_of(models[0]) for p in q.parameters()}
    count = sum(p.numel() for p in models[0].parameters() if id(p) not in steps)
    assert span.difference(1).shape == (count,)
    assert not span.difference(0).any()
    assert span.difference(1).norm() > 0


def test_without_rounding_models_may_differ_in_the_bits_of_weights():
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, 3)) for _ in range(3)]
    for model, bits in zip(models[1:], (2, 4), strict=True):
        fb.quantize_(model, fb.policy("sqwa", weights=bits))
        fb.calibrate_(model, [])
    span = Span(named(models), rounded=False)
    for model, shares in zip(models, CORNERS, strict=True):
        span.move_(shares)
        assert torch.equal(span.network(X), model(X))
    with pytest.raises(ValueError, match=r"a and b differ|a has no quantized weights"):
        Span(named(models), rounded=True)


@pytest.mark.parametrize(
    ("other", "rounded", "says"),
    [
        (lambda: net(weights=3), True, "a and b differ: .* is sqwa per tensor, bits 2 in the first, sqwa per tensor"),
        (lambda: fb.models.build("preresnet8", in_channels=1, first_width=4), False, r"a and b differ: conv1\.weight"),
        (lambda: net("uniq", activations=2), False, "a and b differ: .* is missing in the first, uniq per tensor"),
    ],
)
def test_models_that_do_not_fit_are_named(other, rounded, says):
    with pytest.raises(ValueError, match=says):
        Span({"a": net(), "b": other()}, rounded=rounded)


def test_float_models_have_no_grid():
    with pytest.raises(ValueError, match=r"a has no quantized weights, expected some: .* weights=float"):
        Span({"a": nn.Linear(2, 2)}, rounded=True)


def test_a_weight_that_pruning_computes_is_refused():
    models = captures(net())
    (name, layer), *_ = quantized_layers(models[1])
    torch.nn.utils.prune.random_unstructured(layer, "weight", 0.5)
    with pytest.raises(ValueError, match=f"weight of layer '{name}' is computed from other tensors|b differ"):
        Span(named(models), rounded=True)


def test_every_quantized_tensor_is_found_by_its_slot():
    span = Span(named(refitted()), rounded=True)
    layers = {name for name, layer in quantized_layers(span.network) if [*quantized_tensors(layer, "weight")]}
    assert span._refit.keys() == layers
