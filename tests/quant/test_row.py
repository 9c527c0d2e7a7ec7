import pytest
import torch
from torch import nn

from flatbit.quant.row import Row, Slot, convolution_macs, linear_macs

INPUT, BIAS = Slot("input", "input"), Slot("bias", "bias")
SLOTS = (INPUT, Slot("weight", "weight"))


class QDoubled(nn.Linear):
    """A class that a row may name."""


def test_multiply_adds_are_of_all_that_a_call_computes():
    layer = nn.Linear(3, 5)
    assert linear_macs(layer, torch.zeros(4, 2, 3), torch.zeros(4, 2, 5)) == 4 * 2 * 3 * 5
    conv = nn.Conv2d(4, 6, 3, groups=2)
    assert convolution_macs(conv, torch.zeros(2, 4, 5, 5), torch.zeros(2, 6, 3, 3)) == 2 * 9 * 4 * 3 * 9


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Slot("weight", "wieght"), "slot 'weight': role='wieght': expected 'weight' or 'bias'"),
        (lambda: Slot("my weight", "weight"), "slot 'my weight': expected the name of an attribute"),
        (lambda: Slot(3, "weight"), "slot 3: expected the name of an attribute"),
        (lambda: Slot("x", "input"), "slot 'x' of role 'input': input, output and bias are called so"),
        (lambda: Slot("bias", "weight"), "slot 'bias' of role 'weight': input, output and bias are called so"),
        (lambda: Row(QDoubled, "linear", SLOTS), "row of QDoubled: macs=None: a linear layer says how many"),
        (lambda: Row(QDoubled, "convolution", SLOTS, 3), "macs=3: a convolution layer says how many"),
        (lambda: Row(QDoubled, "conv", SLOTS, linear_macs), "kind='conv': expected 'convolution' or 'linear'"),
        (lambda: Row(QDoubled, "linear", ("weight",), linear_macs), "expected a tuple, as"),
        (lambda: Row(QDoubled, "linear", [INPUT], linear_macs), "expected a tuple, as"),
        (lambda: Row(QDoubled, "linear", (), linear_macs), "expected one or more, each once"),
        (lambda: Row(QDoubled, "linear", (INPUT, INPUT), linear_macs), "expected one or more, each once"),
        (lambda: Row(QDoubled, "linear", (INPUT, BIAS), linear_macs), "expected a slot of role 'weight'"),
        (lambda: Row(QDoubled, "activation", SLOTS), "what multiplies its input by a weight is 'linear' or"),
        (lambda: Row(QDoubled, "normalization", (BIAS,), linear_macs), "is 'linear' or 'convolution'"),
        (lambda: Row("QDoubled", "linear", SLOTS, linear_macs), "quantized='QDoubled': expected a class of modules"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_in_words(make, words):
    with pytest.raises(ValueError, match=words):
        make()
