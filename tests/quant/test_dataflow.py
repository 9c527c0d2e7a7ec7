import pytest
import torch
from torch import nn

from flatbit import models
from flatbit.quant.convert import quantize_
from flatbit.quant.dataflow import quantized_twice, unquantized_inputs
from flatbit.quant.presets import policy, preset_names
from flatbit.quant.table import quantized_layers

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
    quantize_(Joined(), UNIQ.override("relu_b", placement="output").override("pooled", placement="output"))
    quantize_(Joined(), HOL.override("fc", placement="input").override("relu_b", placement="input"))


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("model", ["fcdnn", "resnet8", "preresnet8", "depthwise_resnet", "mobilenet_v2_cifar"])
@pytest.mark.parametrize("placement", [None, "output"])
def test_a_paper_may_have_it_twice(name, model, placement):
    bits = 1 if name == "xnor" else 4
    try:
        made = policy(name, weights=bits, activations=bits, placement=placement)
    except ValueError:  # weights alone
        return
    quantize_(models.build(model), made, strict=False)
