import copy
import pickle

import pytest
import torch
from torch import nn

from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_, restore_
from flatbit.quant.presets import policy
from flatbit.quant.spec import LayerSpec
from flatbit.quant.table import (
    BIAS,
    FLOAT_CLASS,
    INPUT,
    SUBCLASSES,
    TABLE,
    Row,
    Slot,
    add_layer,
    add_subclass,
    bits_of,
    has_quantized_layers,
    has_unknown_products,
    is_quantized,
    is_weighted,
    linear_macs,
    own_weights,
    plain_kind,
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


@pytest.fixture
def own_table():
    """What is added to the table is gone afterwards."""
    before = [(held, dict(held)) for held in (TABLE, FLOAT_CLASS, SUBCLASSES)]
    yield
    for held, kept in before:
        held.clear()
        held.update(kept)


def test_issue_asks_for_these_layers():
    assert {nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear} <= TABLE.keys()


def test_lookup_is_by_type_and_a_subclass_with_a_forward_of_its_own_is_another(own_table):
    assert row_of(nn.Conv2d(1, 1, 1)).kind == "convolution"
    assert row_of(Standardized(1, 1, 1)) is None
    assert row_of(nn.Dropout()) is None
    assert row_of(Named(1, 1, 1)).kind == "convolution"
    assert issubclass(row_of(Named(1, 1, 1)).quantized, Named)


class Named(nn.Conv2d):
    def __init__(self, *args):
        super().__init__(*args)
        self.seen = 0

    def note(self):
        self.seen += 1


class Standardized(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class Cast(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, self.weight.to(x.dtype), self.bias)


class CastAgain(Cast):
    pass


def test_a_declared_subclass_is_quantized_as_its_base_and_restored_and_copied(own_table):
    x = torch.randn(8, 4)
    model, plain = nn.Sequential(Cast(4, 6), nn.ReLU(), CastAgain(6, 3)), nn.Sequential(*[
        nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)])  # fmt: skip
    plain.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match=r"flatbit.quant.add_subclass\(Cast\) says so"):
        quantize_(model, policy("lsq", weights=4, activations=4))
    add_subclass(Cast)
    add_subclass(Cast)  # a file that is loaded again
    for net in (model, plain):
        quantize_(net, policy("lsq", weights=4, activations=4))
        calibrate_(net, [x])
    assert torch.equal(model(x), plain(x))
    assert [plain_kind(layer) for layer in model] == [nn.Linear, nn.ReLU, nn.Linear]
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(x), plain(x))
        assert type(copied[0]) is type(model[0])
    restore_(model)
    assert [type(layer) for layer in model] == [Cast, nn.ReLU, CastAgain]


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Linear, nn.Linear(1, 1)])
def test_what_is_no_subclass_of_the_table_is_not_declared(kind):
    with pytest.raises(ValueError, match=r"add_subclass: expected a subclass of Linear, Conv1d, .*add_layer takes"):
        add_subclass(kind)


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


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: add_layer(Doubled, QDoubled), "add_layer: expected a class and its Row"),
        (lambda: add_layer(nn.Linear(1, 1), Row(QDoubled, "linear", SLOTS, linear_macs)), "a class and its Row"),
        (lambda: add_layer(Doubled, Row(Doubled, "linear", SLOTS, linear_macs)), "expected a subclass of Doubled"),
    ],
)
def test_what_is_no_row_of_a_class_is_refused(make, words):
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
