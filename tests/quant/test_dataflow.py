import pytest
import torch
import torch.nn.functional as F
from torch import nn

import flatbit as fb
from flatbit import models
from flatbit.quant.dataflow import unquantized_inputs
from flatbit.quant.presets import policy
from flatbit.quant.proof import prove
from flatbit.quant.table import is_weighted, quantized_layers

OUTPUTS = policy("uniq", weights=4, activations=4, placement="output").override("@last", placement="input")


class Net(nn.Module):
    def __init__(self, between, channels=4):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu_a, self.relu_b = nn.ReLU(), nn.ReLU()
        self.between, self.reader, self.relu, self.fc = between, nn.Conv2d(channels, 4, 1), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x):
        a = self.relu_a(self.a(x))
        b = self.relu_b(self.b(a))
        return self.fc(self.relu(self.reader(self.between(a, b))).mean((2, 3)))


class Pooled(nn.Module):
    def __init__(self, pool):
        super().__init__()
        self.pool = pool

    def forward(self, a, b):
        return self.pool(b)


KEPT = [
    (lambda a, b: b, 4),
    (lambda a, b: F.max_pool2d(b, 2), 4),
    (lambda a, b: torch.cat([a, b], dim=1), 8),
    (lambda a, b: torch.cat((a, b), 1)[:, 2:6], 4),
    (lambda a, b: b.permute(0, 1, 3, 2).contiguous().reshape(b.shape), 4),
    (lambda a, b: torch.chunk(a, 2, 1)[1].repeat(1, 2, 1, 1), 4),
    (lambda a, b: F.pad(a, (1, 1, 1, 1)), 4),
    (lambda a, b: F.interpolate(a, scale_factor=2.0), 4),
    (lambda a, b: F.dropout(b, training=False), 4),
    (Pooled(nn.MaxPool2d(2)), 4),
    (Pooled(nn.Upsample(scale_factor=2)), 4),
    (Pooled(nn.Sequential(nn.Dropout(), nn.Identity(), nn.ZeroPad2d(1))), 4),
]
MADE = [
    (lambda a, b: a + b, 4),
    (lambda a, b: b * 0.5, 4),
    (lambda a, b: F.avg_pool2d(b, 2), 4),
    (lambda a, b: torch.cat([a, 2 * b], dim=1), 8),
    (lambda a, b: F.interpolate(a, scale_factor=2.0, mode="bilinear"), 4),
    (lambda a, b: torch.sigmoid(b), 4),
    (Pooled(nn.AvgPool2d(2)), 4),
    (Pooled(nn.BatchNorm2d(4)), 4),
    (Pooled(nn.Upsample(scale_factor=2, mode="bilinear")), 4),
    (Pooled(nn.Conv2d(4, 4, 1)), 4),
]


@pytest.mark.parametrize(("between", "channels"), KEPT)
def test_a_layer_that_reads_levels_needs_no_quantizer_of_its_own(images, between, channels):
    model = Net(between, channels).eval()
    assert unquantized_inputs(model, OUTPUTS.resolve(model)) == []
    assert runs(model, images).reader.input_quantizer is None


@pytest.mark.parametrize(("between", "channels"), MADE)
def test_a_layer_that_reads_other_values_gets_one(images, between, channels):
    model = Net(between, channels).eval()
    assert "reader" in unquantized_inputs(model, OUTPUTS.resolve(model))
    assert runs(model, images).reader.input_quantizer is not None


def runs(model, images):
    """Quantized, calibrated and proved: what the graph shows agrees with what the kernels show."""
    fb.quantize_(model, OUTPUTS)
    fb.calibrate_(model, [images])
    assert prove(model, images)
    return model


def test_nothing_is_found_in_a_graph_that_cannot_be_read():
    model = Net(lambda a, b: a + b if a.sum() > 0 else b)
    assert unquantized_inputs(model, OUTPUTS.resolve(model)) == []


@pytest.mark.parametrize(
    ("name", "size", "inner"),
    [
        ("mobilenet_v2_cifar", 32, 17),
        ("mobilenet_v2", 32, 17),
        ("depthwise_resnet", 16, 10),
        ("deeplab_mobilenet_v2", 32, 17),
        ("resnet8", 16, 0),
        ("preresnet8", 16, 0),
    ],
)
def test_faq_quantizes_what_follows_linear_bottlenecks_at_the_input(name, size, inner):
    model = models.build(name).eval()
    coverage = fb.quantize_(model, policy("faq", weights=4, activations=4))
    x = torch.randn(2, 3, size, size)
    fb.calibrate_(model, [x])
    assert prove(model, x)
    at_input = [
        layer_name
        for layer_name, layer in quantized_layers(model)
        if is_weighted(layer) and layer.spec.input is not None and layer.spec.role not in ("first", "last")
    ]
    assert len(at_input) == inner
    noted = [layer.name for layer in coverage.layers if "quantized at its own input" in layer.reason]
    assert noted == at_input
    assert coverage.convention.activations == ("input, output" if inner else "output")
