import pytest
import torch
from torch import nn

from flatbit.quant.convert import quantize_
from flatbit.quant.presets import policy
from flatbit.quant.spec import LayerSpec
from flatbit.quant.table import (
    BIAS,
    FLOAT_CLASS,
    INPUT,
    TABLE,
    Row,
    Slot,
    add_layer,
    bits_of,
    has_quantized_layers,
    has_unknown_products,
    is_quantized,
    is_weighted,
    linear_macs,
    own_weights,
    quantized_layers,
    quantized_tensors,
    quantizer_of,
    quantizers_of,
    row_of,
    slots_of,
    spec_of,
    tensor_specs,
    weighted_layers,
)


def test_issue_asks_for_these_layers():
    assert {nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear} <= TABLE.keys()


def test_lookup_is_by_exact_type():
    class Mine(nn.Conv2d):
        pass

    assert row_of(nn.Conv2d(1, 1, 1)).kind == "convolution"
    assert row_of(Mine(1, 1, 1)) is None
    assert row_of(nn.Dropout()) is None


def test_float_models_have_no_quantized_layers(net):
    assert not list(quantized_layers(net))
    assert not has_quantized_layers(net)
    assert not list(quantizers_of(net))
    assert not is_quantized(net.conv1)
    assert quantizer_of(net.conv1, "weight") is None
    assert not list(quantized_tensors(net.conv1))


def test_layers_and_quantizers_are_listed_once(net, quantized):
    quantized(net)
    assert has_quantized_layers(net)
    names = [name for name, _ in quantized_layers(net)]
    blocks = [f"layers.{stage}.0.{part}" for stage in range(3) for part in ("conv1", "conv2", "shortcut")]
    assert names == ["conv1", *(name for name in blocks if name != "layers.0.0.shortcut"), "fc"]
    assert len(list(quantizers_of(net))) == 2 * len(names)


def test_weighted_layers_are_those_with_products_float_or_quantized(small, quantized):
    assert [name for name, _ in weighted_layers(small)] == ["0", "3", "7"]
    quantized(small, "faq", 4, 4)
    assert [name for name, _ in weighted_layers(small)] == ["0", "3", "7"]
    assert [is_weighted(layer) for _, layer in quantized_layers(small)] == [True, False, False, True, False, True]


def test_slots_by_role(small):
    assert [slot.name for slot in slots_of(small[3])] == ["input", "weight", "bias"]
    assert slots_of(small[3], "weight", "bias") == (Slot("weight", "weight"), BIAS)
    assert [slot.name for slot in slots_of(small[1])] == ["weight", "bias"]
    assert [slot.name for slot in slots_of(small[2])] == ["output"]
    assert slots_of(nn.Conv2d(1, 1, 1), "weight")[0].channel_axis == 0
    assert slots_of(nn.ConvTranspose2d(1, 1, 1), "weight")[0].channel_axis == 1
    assert slots_of(nn.Dropout()) == ()


def test_quantized_tensors_come_with_slot_and_quantizer(small, quantized):
    quantized(small, "faq", 4, 4)
    found = list(quantized_tensors(small[3]))
    assert [slot.name for slot, _, _ in found] == ["weight", "bias"]
    assert [quantizer for _, quantizer, _ in found] == [small[3].weight_quantizer, small[3].bias_quantizer]
    assert [parameter for _, _, parameter in found] == [small[3].weight, small[3].bias]
    assert [slot.name for slot, _, _ in quantized_tensors(small[3], "bias")] == ["bias"]
    small[3].bias = None
    assert [slot.name for slot, _, _ in quantized_tensors(small[3])] == ["weight"]


def test_own_weights_are_matrices_that_a_module_holds_itself():
    shapes = lambda module: [tuple(w.shape) for w in own_weights(module)]  # noqa: E731
    assert shapes(nn.Linear(3, 2)) == [(2, 3)]
    assert shapes(nn.Sequential(nn.Linear(3, 2))) == []
    assert shapes(nn.LayerNorm((2, 2))) == shapes(nn.PReLU(4)) == shapes(nn.LazyLinear(2)) == []
    reparametrized = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    assert shapes(reparametrized) == [(2, 1), (2, 3)]
    assert shapes(reparametrized.parametrizations.weight) == []


class Holds(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.p = nn.Parameter(torch.ones(shape))


def test_products_are_unknown_of_a_matrix_outside_the_table():
    assert has_unknown_products(Holds(2, 2))
    assert has_unknown_products(Holds(1, 2, 3, 1))
    vectors = (Holds(4), Holds(1, 4, 1, 1), Holds(1, 1))
    assert not any(map(has_unknown_products, (*vectors, nn.Linear(2, 2), nn.Embedding(2, 2), nn.ReLU())))


def test_bits_in_use(net, quantized):
    assert bits_of(net.conv1) == (32, 32)
    quantized(net, "saq", 4, 3)
    assert bits_of(net.layers[0][0].conv1) == (4, 3)
    assert bits_of(net.conv1) == (8, 8)  # no input quantizer: as the policy counts it
    net.conv1.weight_quantizer = None
    assert bits_of(net.conv1) == (32, 8)


def test_specs_of_a_module_and_of_its_tensors(small, quantized):
    assert spec_of(small[3]) is None
    assert tensor_specs(small[3]) == []
    quantized(small, "faq", 4, 4)
    assert spec_of(small[0]).role == "first"
    assert [spec.bits for spec in tensor_specs(small[3])] == [4, 32]
    assert [spec.bits for spec in tensor_specs(small[3], "weight")] == [4]
    assert bool(LayerSpec(policy="x")) is False


class Doubled(nn.Linear):
    pass


class QDoubled(Doubled):
    pass


class Twice(QDoubled):
    """Another class of the same."""


SLOTS = (INPUT, Slot("weight", "weight"))


def test_a_class_enters_once(monkeypatch):
    monkeypatch.setattr("flatbit.quant.table.TABLE", dict(TABLE))
    monkeypatch.setattr("flatbit.quant.table.FLOAT_CLASS", dict(FLOAT_CLASS))
    row = Row(QDoubled, "linear", (INPUT, Slot("weight", "weight")), linear_macs)
    add_layer(Doubled, row)
    assert row_of(Doubled(1, 1)) is row_of(QDoubled(1, 1)) is row
    assert is_quantized(QDoubled(1, 1))
    with pytest.raises(ValueError, match="Doubled is in the table already, as QDoubled"):
        add_layer(Doubled, Row(Twice, "linear", row.slots, linear_macs))
    add_layer(Doubled, row)  # a file that is loaded again
    with pytest.raises(ValueError, match="QDoubled: expected a subclass of Conv2d"):
        add_layer(nn.Conv2d, row)


def test_multiply_adds_are_of_all_that_a_call_computes():
    layer = nn.Linear(3, 5)
    assert TABLE[nn.Linear].macs(layer, torch.zeros(4, 2, 3), torch.zeros(4, 2, 5)) == 4 * 2 * 3 * 5
    conv = nn.Conv2d(4, 6, 3, groups=2)
    assert TABLE[nn.Conv2d].macs(conv, torch.zeros(2, 4, 5, 5), torch.zeros(2, 6, 3, 3)) == 2 * 9 * 4 * 3 * 9
    assert TABLE[nn.ReLU].macs is None


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
        (lambda: add_layer(Doubled, QDoubled), "add_layer: expected a class and its Row"),
        (lambda: add_layer(nn.Linear(1, 1), Row(QDoubled, "linear", SLOTS, linear_macs)), "a class and its Row"),
        (lambda: add_layer(Doubled, Row(Doubled, "linear", SLOTS, linear_macs)), "expected a subclass of Doubled"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_in_words(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("slot", [Slot("wieght", "weight"), Slot("kernel", "weight")])
def test_a_slot_that_the_layer_does_not_have_is_named_when_it_is_quantized(monkeypatch, slot):
    monkeypatch.setattr("flatbit.quant.table.TABLE", dict(TABLE))
    monkeypatch.setattr("flatbit.quant.table.FLOAT_CLASS", dict(FLOAT_CLASS))
    add_layer(Doubled, Row(QDoubled, "linear", (INPUT, slot), linear_macs))
    for strict in (True, False):
        with pytest.raises(ValueError, match=f"layer '1': by its row .* has a weight '{slot.name}', and it has"):
            quantize_(nn.Sequential(nn.Linear(2, 2), Doubled(2, 2)), policy("lsq", weights=4), strict=strict)
