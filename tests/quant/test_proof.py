import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from flatbit import plain
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.grid import CodeRange
from flatbit.quant.presets import policy
from flatbit.quant.proof import COUNTED, Proof, QuantizationError, prove
from flatbit.quant.provenance import Provenance
from flatbit.quant.quantizers import make_quantizer
from flatbit.quant.site import Site
from flatbit.quant.spec import TensorSpec
from flatbit.quant.switched import as_float
from flatbit.quant.table import quantizers_of
from flatbit.quant.tracking import Tracking


def test_counts_levels_of_every_tensor(net, images, quantized):
    quantized(net, "uniq", 2, 3)
    proof = prove(net, images)
    assert set(proof.usage) == {name for name, _ in quantizers_of(net)}
    conv = net.layers[1][0].conv1
    counted = proof.usage["layers.1.0.conv1.weight_quantizer"]
    assert counted.used == conv.quantized_weight().unique().numel()
    assert counted.allowed == 4
    assert proof.usage["layers.1.0.conv1.input_quantizer"].allowed == 8
    assert proof.as_dict()["fc.weight_quantizer"][1] == 256


@pytest.mark.parametrize("name", ["uniq", "saq", "faq", "lsq", "lsq_plus", "dorefa", "pact", "dq", "hol"])
def test_holds_for_every_convention(net, images, quantized, name):
    quantized(net, name, 4, 4)
    assert prove(net, images).usage


def test_float_model_has_nothing_to_prove(net, images):
    assert prove(net, images).usage == {}


def test_leaves_the_model_as_it_was(net, images, quantized):
    quantized(net)
    expected = net(images)
    prove(net, images)
    assert torch.equal(net(images), expected)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())


def test_switched_off_quantizers_are_caught(net, images, quantized):
    quantized(net)
    with as_float(net), pytest.raises(QuantizationError, match=r"layer 'conv1': its quantizer is switched off"):
        prove(net, images)


def test_a_quantizer_that_leaves_its_grid_is_caught(net, images, quantized):
    quantized(net)
    quantizer = net.layers[0][0].conv2.weight_quantizer
    quantizer.forward = lambda w: w + 0.01 * type(quantizer).forward(quantizer, w)
    with pytest.raises(QuantizationError, match=r"weight of layer 'layers\.0\.0\.conv2': values off the stated grid"):
        prove(net, images)


class ReadsTheWeight(nn.Module):
    """Calls its layer once, and once reads the float weight past it: half quantized in silence."""

    def __init__(self):
        super().__init__()
        self.linear, self.last = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.last(F.relu(self.linear(x) + self.product(x)))

    def product(self, x):
        return F.linear(x, self.linear.weight)


class ReadsATranspose(ReadsTheWeight):
    def product(self, x):
        return x @ self.linear.weight.t()


class ReadsByEinsum(ReadsTheWeight):
    def product(self, x):
        return torch.einsum("ni,oi->no", x, self.linear.weight)


class ReadsACopy(ReadsTheWeight):
    def product(self, x):
        return F.linear(x, self.linear.weight * 1.5)


class ReadsVectors(ReadsTheWeight):
    def product(self, x):
        return torch.stack([self.linear.weight.clone() @ row for row in x])


class ReadsByElement(ReadsTheWeight):
    def product(self, x):
        return (x[:, None] * self.linear.weight).sum(-1)


@pytest.mark.parametrize(
    "kind", [ReadsTheWeight, ReadsATranspose, ReadsByEinsum, ReadsACopy, ReadsVectors, ReadsByElement]
)
def test_a_float_weight_in_a_product_is_caught(kind):
    model = kind().eval()
    quantize_(model, policy("uniq", weights=2, activations=2))
    x = torch.randn(4, 8)
    calibrate_(model, [x])
    with pytest.raises(QuantizationError, match=r"weight of layer 'linear' entered .* in float"):
        prove(model, x)


def test_float_convolution_weight_is_caught(images):
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(1, 2, 3), nn.Linear(2, 2)

        def forward(self, x):
            return self.last((self.conv(x) + F.conv2d(x, self.conv.weight)).mean((2, 3)))

    model = Reads()
    quantize_(model, policy("uniq", weights=2, activations=2))
    calibrate_(model, [images])
    with pytest.raises(QuantizationError, match="layer 'conv' entered convolution"):
        prove(model, images)


def test_a_layer_that_is_not_called_is_caught():
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(x)

    model = Skips()
    quantize_(model, policy("sqwa-all", weights=2))
    calibrate_(model, [])
    with pytest.raises(QuantizationError, match=r"layer 'idle': its quantizer was not called"):
        prove(model, torch.randn(2, 4))


class Between(nn.Module):
    """A quantized output, a change that can be switched on, and a layer that is called by keyword."""

    def __init__(self, change):
        super().__init__()
        self.first, self.relu, self.linear, self.relu_2 = nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()
        self.last, self.change, self.changes = nn.Linear(8, 2), change, False

    def forward(self, x):
        x = self.relu(self.first(x))
        return self.last(self.relu_2(self.linear(input=self.change(x) if self.changes else x)))


@pytest.mark.parametrize("batch", [1, 4, 16, 64])
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x * 0.5,
        lambda x: torch.zeros_like(x),
        lambda x: torch.full_like(x, 0.25),
        lambda x: x.clamp(max=float(x.max()) * 0.9),
        lambda x: x.round(),
        lambda x: x.sign(),
    ],
)
def test_unquantized_activations_that_count_as_quantized_are_caught(change, batch):
    """However few values a batch has: a layer reads levels of a quantizer, or it does not."""
    model, x = Between(change).eval(), torch.randn(64, 8)
    quantize_(model, policy("faq", weights=4, activations=4))
    calibrate_(model, [x])
    assert prove(model, x[:batch]).usage["relu.output_quantizer"].allowed == 16
    model.changes = True
    with pytest.raises(
        QuantizationError, match=r"1 layers .* no quantizer made: 'linear' \(4 bit\).*placement='input'"
    ):
        prove(model, x[:batch])


def test_wider_activations_than_the_layer_is_counted_with_are_caught():
    model, x = Between(nn.Identity()).eval(), torch.randn(64, 8)
    quantize_(model, policy("faq", weights=4, activations=4).override("relu", activations=8))
    calibrate_(model, [x])
    with pytest.raises(
        QuantizationError, match=r"layer 'linear' count as 4 bit, and it reads the 8 bit output of layer 'relu'"
    ):
        prove(model, x)


def test_a_grid_with_more_levels_than_its_bits_hold_is_caught(net, images, quantized):
    quantized(net, "uniq", 2, 2)
    quantizer = net.layers[0][0].conv1.weight_quantizer
    quantizer.code_range = lambda x: CodeRange(0.0, -127, 127)
    with pytest.raises(
        QuantizationError, match=r"weight of layer 'layers\.0\.0\.conv1'.* has 255 levels, 2 bits hold 4"
    ):
        prove(net, images)


def test_a_layer_that_reads_a_float_sum_gets_its_own_quantizer():
    model = nn.Sequential(
        nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)
    )
    x = torch.randn(8, 8)
    quantize_(model, policy("faq", weights=4, activations=4))
    calibrate_(model, [x])
    assert prove(model, x).usage["4.input_quantizer"].allowed == 15


def test_a_collapsed_or_nan_step_is_caught(net, images, quantized):
    quantized(net)
    net.layers[0][0].conv1.weight.data[0].fill_(float("nan"))
    with pytest.raises(QuantizationError, match=r"layer 'layers\.0\.0\.conv1' is NaN or infinite"):
        prove(net, images)


def test_half_precision_is_proved_too(net, images, quantized):
    quantized(net, "uniq", 4, 4)
    assert prove(net.bfloat16(), images.bfloat16()).usage


def test_shared_and_tied_layers_are_proved(images):
    shared = nn.Linear(4, 4)
    model = nn.Sequential(nn.Linear(4, 4), shared, nn.ReLU(), shared, nn.Linear(4, 4), nn.Linear(4, 2))
    model[4].weight = shared.weight
    quantize_(model, policy("uniq", weights=2, activations=4))
    x = torch.randn(8, 4)
    calibrate_(model, [x])
    assert len(prove(model, x).usage) == 7  # four layers' inputs, three weights


def eight_bits(model):
    model[3].weight_quantizer.bits.fill_(8)


def no_weight_quantizer(model):
    model[3].weight_quantizer = None


def no_scale_quantizer(model):
    model[1].weight_quantizer = None


def another_method(model):
    site = model[3].weight_quantizer.site
    model[3].weight_quantizer = make_quantizer(TensorSpec(method="dorefa", bits=4), site)


def another_granularity(model):
    model[3].weight_quantizer.granularity = "channel"


def an_identity(model):
    model[3].weight_quantizer = nn.Identity()


def one_too_many(model):
    model[3].input_quantizer = make_quantizer(TensorSpec(method="faq", bits=4), Site(layer="3"))


def switched_off(model):
    model[3].weight_quantizer.enabled = False


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (eight_bits, r"weight of layer '3' has 8 bit faq per tensor, its spec states 4 bit faq per tensor.*restore_"),
        (no_weight_quantizer, "weight of layer '3' has no quantizer, its spec states 4 bit faq"),
        (no_scale_quantizer, "weight of layer '1' has no quantizer, its spec states 8 bit fixed_point"),
        (another_method, "weight of layer '3' has 4 bit dorefa"),
        (another_granularity, "weight of layer '3' has 4 bit faq per channel"),
        (an_identity, "weight of layer '3' has Identity, which is no quantizer, its spec states 4 bit faq"),
        (one_too_many, "input of layer '3' has 4 bit faq per tensor, its spec states no quantizer"),
        (switched_off, "weight of layer '3': its quantizer is switched off"),
    ],
)
def test_a_layer_that_is_not_what_its_spec_states_is_caught(small, images, quantized, change, words):
    quantized(small, "faq", 4, 4)
    prove(small, images)
    change(small)
    with pytest.raises(QuantizationError, match=words):
        prove(small, images)


def test_the_state_of_another_width_is_caught(net, images, quantized):
    wide = copy.deepcopy(net)
    quantized(wide, "uniq", 8, 8)
    quantized(net, "uniq", 2, 2)
    net.load_state_dict(wide.state_dict())
    with pytest.raises(QuantizationError, match="has 8 bit uniq per tensor, its spec states 2 bit"):
        prove(net, images)


def test_a_width_that_the_method_does_not_have_is_caught(net, images, quantized):
    quantized(net, "lsq", 2, 2)
    net.layers[0][0].conv1.weight_quantizer.bits.fill_(1)
    with pytest.raises(QuantizationError, match=r"layer 'layers\.0\.0\.conv1' has 1 bit lsq"):
        prove(net, images)


def test_widths_that_are_learned_may_leave_where_they_started(small, images, quantized):
    quantized(small, "dq", 4, 4)
    quantizer = small[3].weight_quantizer
    quantizer.set_state_("reach", quantizer.step.detach())  # one step: 2 bits
    assert prove(small, images).usage["3.weight_quantizer"].allowed == 3


def test_a_norm_without_scale_needs_no_quantizer(images, quantized):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False), nn.ReLU(), nn.Conv2d(2, 2, 3)).eval()
    assert prove(quantized(model, "faq", 4, 4), images).usage


class Multiplies(nn.Module):
    """A product with a matrix of its own, which no layer of the table holds."""

    def __init__(self, n=8):
        super().__init__()
        self.w = nn.Parameter(torch.randn(n, n))

    def forward(self, x):
        return x @ self.w


def test_a_product_that_was_refused_openly_is_allowed():
    model = nn.Sequential(nn.Linear(8, 8), Multiplies(), nn.Linear(8, 2))
    x = torch.randn(4, 8)
    report = quantize_(model, policy("uniq", weights=2, activations=2), strict=False)
    calibrate_(model, [x])
    assert len(prove(model, x).usage) == 4
    assert [layer.name for layer in report.refused] == ["1"]


def test_is_written_plainly_and_read_back(net, images, quantized):
    proof = prove(quantized(net), images)
    assert plain.from_plain(Proof, json.loads(json.dumps(plain.to_plain(proof)))) == proof
    for broken in ({"a": 3}, {"a": [1]}, [1]):
        with pytest.raises(ValueError, match=r"expected levels as \{quantizer: \[used, allowed\]\}"):
            Proof.from_dict(broken)


class Operations(TorchDispatchMode):
    """Counts operations."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("placement", ["input", "output"])
def test_what_is_followed_is_the_model_and_not_its_judge(net, images, quantized, placement, monkeypatch):
    quantized(net, placement=placement)
    followed, tracked = [], []
    follow, after = Provenance.follow, Tracking._after
    monkeypatch.setattr(Provenance, "follow", lambda self, *args: followed.append(1) or follow(self, *args))
    monkeypatch.setattr(Tracking, "_after", lambda self, *args: tracked.append(1) or after(self, *args))
    with torch.no_grad(), Operations() as operations:
        net(images)
    prove(net, images)
    assert len(followed) == operations.count
    assert bool(tracked) == (placement == "output")  # else every layer has a quantizer of its own to read


def test_levels_are_counted_alike_however_many_there_are(net, images, quantized):
    quantized(net, "faq", 4, 4)
    usage = prove(net, images).usage
    bits = {name: quantizer for name, quantizer in quantizers_of(net) if usage[name].allowed > COUNTED}
    assert "bn.bias_quantizer" in bits
    seen = {}
    hooks = [
        quantizer.register_forward_hook(lambda *args, name=name: seen.update({name: args[-1]}))
        for name, quantizer in quantizers_of(net)
    ]
    net(images)
    for hook in hooks:
        hook.remove()
    assert {name: len(values.unique()) for name, values in seen.items()} == {
        name: used.used for name, used in usage.items()
    }


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 7, -1])
def test_a_single_value_that_is_not_finite_is_caught(images, net, quantized, bad, place):
    quantized(net)
    quantizer = net.layers[0][0].conv2.weight_quantizer

    def broken(w):
        values = type(quantizer).forward(quantizer, w).clone()
        values.flatten()[place] = bad
        return values

    quantizer.forward = broken
    with pytest.raises(QuantizationError, match=r"weight of layer 'layers.0.0.conv2' is NaN or infinite"):
        prove(net, images)
