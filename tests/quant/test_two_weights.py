"""A layer with two weights of different shapes is one row and one class: all that walks slots takes it."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import flatbit as fb
from flatbit.quant.assignment import assign_bits_, assignment
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convention import convention
from flatbit.quant.convert import quantize_, restore_
from flatbit.quant.cost import cost
from flatbit.quant.coverage import coverage_of
from flatbit.quant.grids import grids
from flatbit.quant.layers import apply_slot
from flatbit.quant.policy import roles_of
from flatbit.quant.presets import policy
from flatbit.quant.proof import QuantizationError, prove
from flatbit.quant.table import BIAS, FLOAT_CLASS, INPUT, TABLE, Row, Slot, add_layer, quantizers_of
from flatbit.train.averaging import QuantizedAverage, averaged, requantize_
from flatbit.train.losses.cost import mbitops
from flatbit.train.sharpness import SharpnessAware


class Bottleneck(nn.Module):
    """``down relu(up x) + bias``, down kept as (hidden, out)."""

    def __init__(self, width, hidden, out, bias=True):
        super().__init__()
        self.up = nn.Parameter(torch.randn(hidden, width) / 3)
        self.down = nn.Parameter(torch.randn(hidden, out) / 3)
        self.bias = nn.Parameter(torch.randn(out) / 3) if bias else None

    def forward(self, x):
        hidden = F.relu(F.linear(x, self.up)) @ self.down
        return hidden if self.bias is None else hidden + self.bias


class QBottleneck(Bottleneck):
    """The same with a quantized input, weights and bias."""

    def forward(self, x):
        x, up, down = apply_slot(self, "input", x), apply_slot(self, "up", self.up), apply_slot(self, "down", self.down)
        hidden, bias = F.relu(F.linear(x, up)) @ down, apply_slot(self, "bias", self.bias)
        return hidden if bias is None else hidden + bias


def macs(layer, x, output):
    return (output.numel() + x.numel()) * len(layer.up)


ROW = Row(QBottleneck, "linear", (INPUT, Slot("up", "weight"), Slot("down", "weight", 1), BIAS), macs)


@pytest.fixture(autouse=True)
def _known():
    add_layer(Bottleneck, ROW)
    yield
    del TABLE[Bottleneck], FLOAT_CLASS[QBottleneck]


@pytest.fixture
def x():
    return torch.randn(32, 6, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def y():
    return torch.arange(32) % 3


@pytest.fixture
def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Bottleneck(8, 5, 7), nn.ReLU(), nn.Linear(7, 3)).eval()


def made(model, x, name, bits, activations=None, **options):
    activations = bits if activations is None else activations
    report = quantize_(model, policy(name, weights=bits, activations=activations, **options))
    calibrate_(model, [x])
    return report


@pytest.mark.parametrize("name", ["uniq", "lsq", "saq", "faq", "dorefa", "dq", "pact"])
def test_is_quantized_calibrated_and_proved(model, x, name):
    expected = model(x)
    report = made(model, x, name, 4)
    layer = model[2]
    assert type(layer) is QBottleneck
    assert layer.up_quantizer.site.name == "up"
    assert str(layer.down_quantizer.site) == "down of layer '2'"
    assert layer.spec.tensors["up"] == layer.spec.tensors["down"]
    levels = prove(model, x).usage
    assert {"2.up_quantizer", "2.down_quantizer"} <= levels.keys()
    assert all(0 < found.used <= found.allowed <= 256 or "bias" in key for key, found in levels.items())
    hidden = F.relu(F.linear(apply_slot(layer, "input", model[1](model[0](x))), layer.up_quantizer(layer.up)))
    out = hidden @ layer.down_quantizer(layer.down) + apply_slot(layer, "bias", layer.bias)
    assert torch.equal(model[:3](x), out)
    assert report.fraction == (1.0 if "float" not in str(report.convention.first) else (40 + 35) / (48 + 75 + 21))
    assert coverage_of(model).fraction == report.fraction
    assert "4 " in str(report)
    restore_(model)
    assert type(model[2]) is Bottleneck
    assert torch.equal(model(x), expected)


def test_steps_per_channel_follow_each_weights_own_axis(model, x):
    made(model, x, "lsq", 4, granularity="channel")
    found = grids(model)["2"]
    assert found.tensors.keys() == {"input", "up", "down"}
    assert (found.tensors["up"].step.shape, found.tensors["down"].step.shape) == ((5, 1), (1, 7))
    assert found.weight is None
    assert convention(model).weight_step == "channel"
    assert prove(model, x).usage
    assert "4 lsq /channel" in str(coverage_of(model))


def test_the_convention_and_the_cost_count_both_weights(model, x):
    whole = cost(model, (6,))
    assert {layer.name: layer.macs for layer in whole.layers}["2"] == 8 * 5 + 5 * 7
    made(model, x, "uniq", 3)
    counted = {layer.name: layer for layer in cost(model, (6,)).layers}["2"]
    assert counted.bitops == (8 * 5 + 5 * 7) * 9
    assert counted.size_bytes == 15 + 14 + 4 * 7 + 4 * 3  # 40 and 35 weights of 3 bits, 7 biases, 3 steps
    assert (convention(model).inner, convention(model).weight_step) == ("W3/A3", "tensor")
    assert whole.uncounted == ()


def test_the_cost_penalty_counts_the_wider_and_its_gradient_reaches_that_alone(model, x):
    made(model, x, "dq", 4)
    layer = model[2]
    layer.down_quantizer.reach.data *= 4
    widths = layer.up_quantizer.bit_width(), layer.down_quantizer.bit_width()
    assert widths == (4, 6)
    mbitops(model, (6,)).backward()
    assert float(mbitops(model, (6,)).detach()) * 1e6 == pytest.approx(cost(model, (6,)).bitops)
    assert layer.down_quantizer.reach.grad > 0
    assert layer.up_quantizer.reach.grad in (None, 0)


def test_bits_are_assigned_to_both(model, x):
    made(model, x, "uniq", 4)
    assert assignment(model) == {"0": (8, 8), "2": (4, 4), "4": (8, 8)}
    assign_bits_(model, {"2": (2, 3)})
    assert assignment(model)["2"] == (2, 3)
    assert {spec.bits for slot, spec in model[2].spec.tensors.items() if slot != "input"} == {2}
    assert prove(model, x).usage["2.down_quantizer"].allowed == 4
    model[2].spec = model[2].spec.with_tensor("down", None)
    model[2].down_quantizer = None
    assert assignment(model)["2"] == (32, 3)  # the widest


def test_is_saved_and_loaded(model, x, tmp_path):
    twin = copy.deepcopy(model)
    made(model, x, "saq", 3)
    fb.save(model, tmp_path / "m.safetensors")
    fb.load_(twin, tmp_path / "m.safetensors")
    assert twin[2].spec == model[2].spec
    assert torch.equal(twin(x), model(x))
    assert fb.evaluate(twin, [(x, torch.zeros(32, dtype=torch.long))]).convention == convention(model)


def test_a_weight_read_past_its_quantizer_is_caught_by_its_own_name(model, x):
    made(model, x, "uniq", 2)
    model[2].down_quantizer = nn.Identity()
    with pytest.raises(QuantizationError, match="down of layer '2' has Identity, which is no quantizer"):
        prove(model, x)
    restore_(model)
    made(model, x, "uniq", 2)
    model[2].forward = lambda h: F.relu(F.linear(h, model[2].up)) @ model[2].down_quantizer(model[2].down)
    with pytest.raises(QuantizationError, match="up of layer '2' entered"):
        prove(model, x)


@pytest.mark.parametrize("slot", ["up", "down"])
def test_faults_name_the_tensor(model, x, slot):
    with torch.no_grad():
        getattr(model[2], slot).zero_()
    with pytest.raises(ValueError, match=rf"{slot} of layer '2' is all zero"):
        made(model, x, "uniq", 2)
    restore_(model)
    with torch.no_grad():
        getattr(model[2], slot).fill_(float("nan"))
    with pytest.raises(ValueError, match=rf"{slot} of layer '2' has \d+ NaN or infinite values"):
        made(model, x, "uniq", 2)


@pytest.mark.parametrize("method", ["saq", "asaq"])
def test_sharpness_moves_both_quantized_weights(model, x, y, method):
    made(model.train(), x, "saq", 4)
    optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), model, method=method, rho=0.5)
    assert model[2].up_quantizer.perturbation.shape == (5, 8)
    assert model[2].down_quantizer.perturbation.shape == (5, 7)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    assert optimizer.step(closure).isfinite()
    assert not torch.equal(model[2].up, before["2.up"])
    assert not torch.equal(model[2].down, before["2.down"])
    assert not model[2].up_quantizer.perturbation.any()
    optimizer.close()
    assert prove(model, x).usage


def test_captures_of_both_are_averaged_on_their_grids_and_requantized(model, x):
    made(model, x, "sqwa", 2, 32)
    twin = copy.deepcopy(model)
    capture = QuantizedAverage(model)
    means = {slot: torch.zeros(()) for slot in ("up", "down")}
    for _ in range(3):
        with torch.no_grad():
            for slot in means:
                getattr(model[2], slot).add_(torch.randn_like(getattr(model[2], slot)) / 3)
                quantizer = getattr(model[2], f"{slot}_quantizer")
                means[slot] = means[slot] + quantizer(getattr(model[2], slot)).detach() / 3
        capture.add()
    capture.apply_(twin)
    assert averaged(twin)
    for slot, mean in means.items():
        assert torch.allclose(getattr(twin[2], slot), mean, atol=1e-6)
        assert torch.equal(apply_slot(twin[2], slot, getattr(twin[2], slot)), getattr(twin[2], slot))
        assert twin[2].spec.tensors[slot].bits == 3
        assert twin[2].spec.averaged_from[slot].bits == 2
    assert prove(twin, x).usage["2.down_quantizer"].allowed == 7
    requantize_(twin)
    assert not averaged(twin)
    assert assignment(twin)["2"] == (2, 32)
    assert prove(twin, x).usage["2.down_quantizer"].allowed == 3
    restored = QuantizedAverage(model)
    restored.load_state_dict(capture.state_dict())
    assert restored.count == 3


def test_at_outputs_it_reads_the_activation_before(model, x):
    quantize_(model, policy("hol", weights=2, activations=2))
    calibrate_(model, [x])
    assert model[2].spec.producers == ("1",)
    assert assignment(model)["2"] == (2, 2)
    assign_bits_(model, {"2": (3, 4)})
    assert model[1].output_quantizer.stated_bits == 4
    assert prove(model, x).usage


def test_roles_count_it_as_a_layer(model):
    assert roles_of(model) == {"0": "first", "2": "inner", "4": "last"}
    assert roles_of(nn.Sequential(Bottleneck(2, 2, 2), nn.Linear(2, 2))) == {"0": "first", "1": "last"}


def test_a_bias_that_is_not_there_gets_no_quantizer(x):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Bottleneck(8, 5, 7, bias=False), nn.ReLU(), nn.Linear(7, 3))
    made(model, x, "faq", 4)
    assert model[2].bias_quantizer is None
    assert prove(model, x).usage


def test_shared_weights_share_their_quantizers_slot_by_slot(x):
    model = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), Bottleneck(8, 5, 8), nn.ReLU(), Bottleneck(8, 5, 8), nn.Linear(8, 3)
    )
    model[4].down = model[2].down
    made(model, x, "lsq", 4)
    assert model[2].down_quantizer is model[4].down_quantizer
    assert model[2].up_quantizer is not model[4].up_quantizer
    assign_bits_(model, {"2": (2, 4), "4": (2, 4)})
    assert prove(model, x).usage
    with pytest.raises(ValueError, match="'2' asks for 3 bits, '4' for 2, and both share the down of layer '2'"):
        assign_bits_(model, {"2": (3, 4), "4": (2, 4)})


def test_shared_weights_that_would_be_quantized_differently_are_refused(x):
    model = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), Bottleneck(8, 5, 8), nn.ReLU(), Bottleneck(8, 5, 8), nn.Linear(8, 3)
    )
    model[4].down = model[2].down
    with pytest.raises(ValueError, match="its weight is shared by 2 and 4, which would quantize it differently"):
        quantize_(model, policy("lsq", weights=4, activations=4).override("4", weights=2))


def test_a_weight_that_a_hook_computes_is_refused_by_name(model):
    nn.utils.parametrize.register_parametrization(model[2], "down", nn.Identity())
    report = quantize_(model, policy("lsq", weights=4, activations=4), strict=False)
    assert [layer.name for layer in report.refused] == ["2"]  # its class is another one now
    up = model[2]._parameters.pop("up")
    model[2].up = up.detach()  # as weight_norm's hook leaves it
    nn.utils.parametrize.remove_parametrizations(model[2], "down")
    restore_(model)
    with pytest.raises(ValueError, match="2: its up is computed by a hook"):
        quantize_(model, policy("lsq", weights=4, activations=4))


def test_the_quantizers_are_listed_by_name(model, x):
    made(model, x, "uniq", 4)
    assert [name for name, _ in quantizers_of(model[2])] == ["input_quantizer", "up_quantizer", "down_quantizer"]


def test_with_candidates_both_have_their_rows(model, x):
    quantize_(model, policy("lsq", weights=4, activations=4, granularity="channel"), candidates=(2, 4))
    calibrate_(model, [x])
    assert (model[2].up_quantizer.step.shape, model[2].down_quantizer.step.shape) == ((2, 5, 1), (2, 1, 7))
    expected = model(x)
    assign_bits_(model, {"2": (2, 2)})
    assert not torch.equal(model(x), expected)
    assign_bits_(model, {"2": (4, 4)})
    assert torch.equal(model(x), expected)
