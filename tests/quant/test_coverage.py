from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.coverage import coverage_of
from flatbit.quant.presets import policy


def test_what_is_quantized_float_and_refused(net):
    report = quantize_(net, policy("uniq", weights=1, activations=1))
    assert [layer.name for layer in report.kept_float] == ["conv1", "layers.1.0.shortcut", "layers.2.0.shortcut", "fc"]
    assert {layer.reason for layer in report.kept_float} == {"float by policy"}
    assert len(report.quantized) == 6
    assert not report.refused
    weights = {name: p.numel() for name, p in net.named_parameters() if p.ndim > 1}
    inner = sum(n for name, n in weights.items() if ".conv" in name)
    assert report.fraction == pytest.approx(inner / sum(weights.values()))


def test_prints_a_table_and_the_convention(net):
    text = str(quantize_(net, policy("uniq", weights=2, activations=3)))
    assert "layers.1.0.shortcut" in text
    assert "2 uniq" in text
    assert "3 uniq" in text
    assert "100.0% of the weights quantized" in text
    assert "first W8/A8" in text


def test_can_be_asked_again_of_the_model(net):
    first = quantize_(net, policy("faq", weights=4, activations=4))
    assert coverage_of(net) == first


def test_a_float_model_is_all_float(small):
    report = coverage_of(small)
    assert not report.quantized
    assert report.fraction == 0
    assert coverage_of(nn.ReLU()).fraction == 0


def test_a_single_weight_is_all_of_them():
    assert quantize_(nn.Sequential(nn.Linear(1, 1)), policy("sqwa-all", weights=2)).fraction == 1.0


def test_channel_steps_are_told(net):
    assert "/channel" in str(quantize_(net, policy("uniq", weights=2, granularity="channel")))


def test_every_weight_counts_once_in_an_attention():
    model = nn.ModuleDict({"attend": nn.MultiheadAttention(16, 2), "out": nn.Linear(16, 8), "last": nn.Linear(8, 4)})
    report = quantize_(model, policy("uniq", weights=2, activations=2), strict=False)
    assert sum(layer.num_weights for layer in report.layers) == sum(p.numel() for p in model.parameters() if p.ndim > 1)
    assert report.fraction == pytest.approx((16 * 8 + 8 * 4) / (4 * 16 * 16 + 16 * 8 + 8 * 4))


def test_reparametrized_weights_are_counted():
    model = nn.Sequential(nn.Linear(4, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    report = quantize_(model, policy("uniq", weights=2), strict=False)
    assert [layer.name for layer in report.refused] == ["1"]
    assert report.fraction == pytest.approx(32 / (32 + 16 + 4))  # the norm's magnitudes (4, 1), its directions (4, 4)


def test_what_was_refused_shows_when_asked_again():
    model = nn.ModuleDict({"attend": nn.MultiheadAttention(8, 2), "out": nn.Linear(8, 8), "last": nn.Linear(8, 2)})
    first = quantize_(model, policy("uniq", weights=2, activations=2), strict=False)
    assert coverage_of(model) == first
    assert coverage_of(model).refused


class Scales(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x):
        return self.scale * x


def test_vectors_are_listed_with_the_reason():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), Scales(), nn.ReLU(), nn.Conv2d(4, 4, 1))
    report = quantize_(model, policy("uniq", weights=2, activations=2))
    assert [(layer.name, layer.num_weights) for layer in report.kept_float] == [("1", 4)]
    assert "vectors only" in report.kept_float[0].reason


def test_norms_that_fixed_point_leaves_float_are_listed():
    def model():
        return nn.Sequential(
            nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(),
            nn.GroupNorm(2, 4, affine=False), nn.Conv2d(4, 4, 1),
        )  # fmt: skip

    report = quantize_(model(), policy("faq", weights=4, activations=4))
    assert [(layer.name, layer.reason) for layer in report.kept_float] == [
        ("1", "no fixed-point form of GroupNorm: its scale and shift stay float")
    ]
    assert "no fixed-point form of GroupNorm" in str(report)
    assert not quantize_(model(), policy("uniq", weights=4, activations=4)).kept_float


def test_three_dimensional_batch_norm_has_a_fixed_point_form():
    model = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2), nn.ReLU(), nn.Conv3d(2, 2, 1)).eval()
    nn.init.normal_(model[1].weight)
    report = quantize_(model, policy("faq", weights=4, activations=4))
    assert "1" in [layer.name for layer in report.quantized]
    x = torch.randn(2, 2, 3, 3, 3)
    expected = (model[1].weight * 16).round() / 16
    assert torch.allclose(model[1](x), x * expected.reshape(2, 1, 1, 1), atol=1e-3)


def pruned(model, amount):
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            prune.l1_unstructured(module, "weight", amount=amount)
            prune.remove(module, "weight")
    return model


@pytest.mark.parametrize("name", ["uniq", "saq", "dorefa"])
def test_zeros_that_the_grid_does_not_have_are_told(net, images, name):
    report = quantize_(pruned(net, 0.75), policy(name, weights=4, activations=4).override("@first", weights=4))
    weights = {layer_name: m.weight for layer_name, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    shares = {layer_name: float((weight == 0).float().mean()) for layer_name, weight in weights.items()}
    assert {layer.name: layer.zeros for layer in report.layers if layer.zeros} == pytest.approx(shares)
    row = next(layer for layer in report.layers if layer.name == "conv1")
    assert "75% of its weights are zero, and its grid has no zero" in row.note
    calibrate_(net, [images])
    assert coverage_of(net) == replace(report, convention=coverage_of(net).convention)


@pytest.mark.parametrize("name", ["lsq", "lsq_plus", "faq", "dq", "sqwa"])
def test_zeros_that_stay_zero_are_no_news(net, name):
    activations = 32 if name == "sqwa" else 4
    report = quantize_(pruned(net, 0.75), policy(name, weights=4, activations=activations))
    assert not any(layer.zeros for layer in report.layers)
    assert "are zero" not in str(report)


def test_at_one_bit_sqwa_has_no_zero_either(net):
    report = quantize_(pruned(net, 0.5), policy("sqwa-all", weights=1, activations=32))
    assert [layer.zeros for layer in report.layers if layer.type == "QConv2d"] == pytest.approx([0.5] * 9, abs=0.02)


def test_a_few_zeros_are_chance(net):
    with torch.no_grad():
        net.layers[0][0].conv1.weight[0, 0, 0, 0] = 0
    assert not any(layer.zeros for layer in quantize_(net, policy("uniq", weights=4, activations=4)).layers)
