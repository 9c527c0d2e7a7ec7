import pytest
import torch
import torch.nn.functional as F
from torch import nn

import flatbit as fb
from flatbit import models
from flatbit.quant.convert import quantize_
from flatbit.quant.dataflow import quantized_twice, unquantized_inputs
from flatbit.quant.presets import policy, preset_names
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
    (lambda a, b: torch.index_select(b, 1, torch.tensor([3, 2, 1, 0])), 4),
    (lambda a, b: b.amax((2, 3), keepdim=True), 4),
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


UNIQ = policy("uniq", weights=2, activations=2)
HOL = policy("hol-synthetic", weights=2, activations=4)


class Joined(nn.Module):
    """A layer that reads two activations, and one that reads one of them through pooling."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.fc, self.pooled = (nn.Linear(n, 8) for n in (4, 8, 8, 16, 4))
        self.relu_a, self.relu_b, self.pool = nn.ReLU(), nn.ReLU(), nn.MaxPool1d(2)

    def forward(self, x):
        x = self.stem(x)
        a, b = self.relu_a(self.a(x)), self.relu_b(self.b(x))
        return self.fc(torch.cat([a, b.flatten(1)], 1)) + self.pooled(self.pool(b))


def test_layers_are_found_with_what_made_all_that_they_read():
    model = Joined()
    made = UNIQ.override("relu_b", placement="output")
    assert quantized_twice(model, made.resolve(model)) == {"pooled": ("relu_b",)}
    made = UNIQ.override("relu_?", placement="output")
    assert quantized_twice(model, made.resolve(model)) == {"fc": ("relu_a", "relu_b"), "pooled": ("relu_b",)}
    assert quantized_twice(model, UNIQ.resolve(model)) == {}
    assert unquantized_inputs(model, made.override("pooled", placement="output").resolve(model)) == []


@pytest.mark.parametrize(
    ("model", "made", "words"),
    [
        (Joined(), UNIQ.override("relu_b", placement="output"), r"'pooled' \(which reads 'relu_b'\)"),
        (Joined(), UNIQ.override(nn.ReLU, placement="output"), r"'fc' \(which reads 'relu_a' and 'relu_b'"),
        (Joined(), HOL.override("fc", placement="input"), r".*override\('fc', placement='output'\)"),
        (
            models.build("preresnet8"),
            UNIQ.override("*.relu1", placement="output", activations=3),
            r"'layers\.0\.0\.conv1' \(which reads 'layers\.0\.0\.relu1'\)",
        ),
        (models.build("fcdnn"), HOL.override(nn.Linear, placement="input"), "which reads"),
    ],
)  # fmt: skip
def test_a_rule_that_would_have_it_twice_is_refused_and_nothing_is_changed(model, made, words):
    with pytest.raises(ValueError, match=f"at their input what was quantized at its output already: .*{words}"):
        quantize_(model, made)
    assert not list(quantized_layers(model))


def test_it_is_lawful_once_either_is_kept():
    at_output, at_input = Joined(), Joined()
    quantize_(at_output, UNIQ.override("relu_b", placement="output").override("pooled", placement="output"))
    assert at_output.pooled.input_quantizer is None
    assert at_output.relu_b.output_quantizer is not None
    quantize_(at_input, HOL.override("fc", placement="input").override("relu_b", placement="input"))
    assert at_input.fc.input_quantizer is not None
    assert not hasattr(at_input.relu_b, "output_quantizer") or at_input.relu_b.output_quantizer is None


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("model", ["fcdnn", "resnet8", "preresnet8", "depthwise_resnet", "mobilenet_v2_cifar"])
@pytest.mark.parametrize("placement", [None, "output"])
def test_a_paper_may_have_it_twice(name, model, placement):
    bits = 1 if name == "xnor" else 4
    given = {} if name == "pact" else {"weights": bits}
    if not name.startswith("sqwa"):
        given["activations"] = bits
    elif placement is not None:
        pytest.skip("quantizes weights alone: nothing to place")
    net = models.build(model)
    assert quantize_(net, policy(name, placement=placement, **given), strict=False).quantized
    assert list(quantized_layers(net))
