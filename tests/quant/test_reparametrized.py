import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import flatbit as fb
from flatbit.analysis.weights import weight_histograms
from flatbit.quant.assignment import assign_bits_, assignment
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.candidates import observe_at_each_
from flatbit.quant.convention import convention
from flatbit.quant.convert import quantize_, restore_
from flatbit.quant.cost import cost
from flatbit.quant.coverage import coverage_of
from flatbit.quant.grids import grids
from flatbit.quant.presets import policy
from flatbit.quant.proof import QuantizationError, prove
from flatbit.quant.reparametrized import folded, reparametrized
from flatbit.quant.switched import as_float
from flatbit.quant.table import quantized_layers, weighted_layers
from flatbit.train.averaging import QuantizedAverage, requantize_
from flatbit.train.sharpness import SharpnessAware

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


class Positive(nn.Module):
    """A parametrization of one's own, without an inverse."""

    def forward(self, x):
        return x.exp() - 1


WAYS = {
    "pruned": (lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5), "prune.remove"),
    "pruned twice": (lambda layer: [prune.random_unstructured(layer, "weight", 0.3) for _ in "ab"], "prune.remove"),
    "pruned channels": (lambda layer: prune.ln_structured(layer, "weight", amount=0.5, n=2, dim=0), "prune.remove"),
    "pruned in part": (lambda layer: prune.identity(layer, "weight" if layer.bias is None else "bias"), "prune.remove"),
    "weight_norm": (parametrizations.weight_norm, "remove_parametrizations"),
    "spectral_norm": (parametrizations.spectral_norm, "remove_parametrizations"),
    "orthogonal": (lambda layer: parametrizations.orthogonal(layer), "remove_parametrizations"),
    "own": (lambda layer: parametrize.register_parametrization(layer, "weight", Positive()), "remove_parametrizations"),
    "old weight_norm": (nn.utils.weight_norm, "remove_weight_norm"),
    "old spectral_norm": (nn.utils.spectral_norm, "remove_spectral_norm"),
}  # fmt: skip
every_way = pytest.mark.parametrize("way", WAYS)


def put_on(model, way, within=""):
    """The model with its convolutions and linear layers reparametrized, or those within a module."""
    for name, layer in list(weighted_layers(model)):
        if name.startswith(within):
            WAYS[way][0](layer)
    model.train()(torch.randn(4, 1, 8, 8))  # hooks have run, and a power iteration moved on
    return model.eval()


def picture(model):
    """All that looking must leave as it was."""
    return (
        {key: value.clone() for key, value in model.state_dict().items()},
        [id(p) for p in model.parameters()],
        [(name, type(m), m.training, list(m._forward_pre_hooks)) for name, m in model.named_modules()],
    )


def same(one, other):
    return one[1:] == other[1:] and list(one[0]) == list(other[0]) and all(
        torch.equal(value, other[0][key]) for key, value in one[0].items()
    )  # fmt: skip


@every_way
def test_after_quantizing_all_that_speaks_of_the_model_agrees(net, images, quantized, tmp_path, way):
    plain = quantized(net, "uniq", 4, 4)
    stated, counted, listed = convention(plain), cost(plain, (1, 8, 8)), assignment(plain)
    coverage = coverage_of(plain)
    model = put_on(plain, way)
    before, expected = picture(model), model(images)
    assert convention(model) == stated
    assert cost(model, (1, 8, 8)).bitops == counted.bitops
    assert (cost(model, (1, 8, 8)).params, cost(model, (1, 8, 8)).size_bytes) == (counted.params, counted.size_bytes)
    assert assignment(model) == listed
    assert coverage_of(model).fraction == coverage.fraction
    assert not coverage_of(model).refused
    usage = prove(model, images).usage
    assert len(usage) == 20
    assert all(used.used <= used.allowed for used in usage.values())
    assert fb.evaluate(model, [(images, torch.zeros(4, dtype=torch.long))]).convention == stated
    assert [set(grid.tensors) for grid in grids(model).values()] == [{"input", "weight"}] * 10
    assert len(weight_histograms(model).layers) == 10
    fb.save(model, tmp_path / "m.safetensors")
    assert same(before, picture(model))
    assert torch.equal(model(images), expected)
    loaded = fb.load(tmp_path / "m.safetensors")
    assert not any(reparametrized(module) for module in loaded.modules())
    torch.testing.assert_close(loaded(images), expected, rtol=1e-4, atol=1e-4)


@every_way
def test_restored_it_is_the_float_model_with_what_was_put_on_it(net, images, quantized, way):
    torch.manual_seed(1)
    model = put_on(quantized(net, "uniq", 4, 4), way)
    with as_float(model):
        expected = model(images)
    restore_(model)
    assert not dict(quantized_layers(model))
    assert all(reparametrized(layer) for _, layer in weighted_layers(model))
    assert torch.equal(model(images), expected)
    assert all("quantizer" not in key for key in model.state_dict())


@every_way
def test_before_quantizing_it_is_refused_with_the_mend(net, way):
    model = put_on(net, way, "layers")
    before = picture(model)
    with pytest.raises(
        ValueError, match=rf"conv1: its \w+ is computed from other tensors .* call torch.*{WAYS[way][1]}"
    ):
        quantize_(model, policy("uniq", weights=4, activations=4))
    assert same(before, picture(model))
    assert len(coverage_of(model).refused) == 8


@every_way
def test_a_float_model_counts_and_evaluates_as_ever(net, images, tmp_path, way):
    counted = cost(net, (1, 8, 8))
    model = put_on(net, way)
    expected = model(images)
    found = cost(model, (1, 8, 8))
    assert (found.macs, found.params, found.uncounted) == (counted.macs, counted.params, ())
    assert fb.evaluate(model, [(images, torch.zeros(4, dtype=torch.long))]).convention.policy == "float"
    fb.save(model, tmp_path / "m.safetensors")
    torch.testing.assert_close(fb.load(tmp_path / "m.safetensors")(images), expected, rtol=1e-4, atol=1e-4)


@every_way
def test_calibrated_and_reassigned_from_what_is_computed(net, images, quantized, way):
    model = put_on(quantized(net, "sqwa", 4, 32), way)
    calibrate_(model, [images])
    assign_bits_(model, {"layers.0.0.conv1": (3, 32)})
    with folded(model.modules()):
        for _, layer in quantized_layers(model):
            alone = copy.deepcopy(layer.weight_quantizer)
            observe_at_each_(alone, layer.weight.detach())
            assert torch.equal(alone.step, layer.weight_quantizer.step)


@every_way
def test_what_moves_weights_refuses_it_by_name(net, quantized, tmp_path, way):
    fb.save(quantized(net, "sqwa", 4, 32), tmp_path / "m.safetensors")
    average = QuantizedAverage(net)
    model = put_on(net, way, "layers")
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    for act in (
        lambda: SharpnessAware(base, model), average.add, lambda: QuantizedAverage(model),
        lambda: requantize_(model, policy("uniq", weights=2, activations=2)),
        lambda: fb.load_(model, tmp_path / "m.safetensors"),
        lambda: fb.analysis.hessian(model, [(torch.randn(2, 1, 8, 8), torch.zeros(2, dtype=torch.long))]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"(?s)conv1.*{WAYS[way][1]}\(layer, "):
            act()


def test_it_trains_on_and_what_is_saved_is_what_it_computes(net, images, quantized, tmp_path):
    model = put_on(quantized(net, "lsq", 4, 4), "pruned")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(images).square().sum().backward()
    optimizer.step()  # the hooks' tensors are those of the forward before it
    fb.save(model, tmp_path / "m.safetensors")
    loaded = fb.load(tmp_path / "m.safetensors")
    assert torch.equal(loaded(images), model(images))
    assert float((loaded.conv1.weight == 0).float().mean()) == pytest.approx(0.5, abs=0.02)


def test_a_mask_that_is_read_past_the_quantizer_is_caught():
    class Past(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(self.a(x)) + x @ self.b.weight

    model, x = Past(), torch.randn(3, 4)
    quantize_(model, policy("uniq", weights=4, activations=4))
    prune.l1_unstructured(model.b, "weight", amount=0.5)
    calibrate_(model, [x])
    with pytest.raises(QuantizationError, match=r"weight of layer 'b' entered mm\.default in float"):
        prove(model, x)


def test_a_hook_that_is_not_known_is_refused(small, images, quantized):
    layer = quantized(small)[3]
    weight = layer.weight.detach().clone()
    del layer._parameters["weight"]
    layer.weight = weight
    layer.register_forward_pre_hook(lambda layer, args: setattr(layer, "weight", weight * 2))
    with pytest.raises(QuantizationError, match="weight of layer '3' is computed by something that is not known here"):
        prove(small, images)


def test_a_users_own_float_model_keeps_its_parametrizations_in_its_file(small, images, tmp_path):
    other = copy.deepcopy(small)
    for model in (small, other):
        parametrizations.weight_norm(model[3])
    small[3].parametrizations.weight.original0.data.mul_(2)
    fb.save(small, tmp_path / "m.safetensors")
    fb.load_(other, tmp_path / "m.safetensors")
    assert torch.equal(other(images), small(images))


def flat(model):
    """The model with all its parameters views of one buffer, as flattening optimizers and wrappers make them."""
    buffer = torch.cat([p.detach().flatten() for p in model.parameters()])
    begin = 0
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                view = buffer[begin : begin + parameter.numel()].view(parameter.shape)
                begin += parameter.numel()
                module._parameters[name] = nn.Parameter(view)
    return model


@pytest.mark.parametrize("name", ["uniq", "sqwa"])
def test_parameters_that_are_views_of_one_buffer_are_no_fault(net, images, tmp_path, name):
    quantize_(flat(net), policy(name, weights=4, activations=4 if name == "uniq" else 32))  # sqwa: first, last float
    calibrate_(net, [images])
    assert prove(net, images).usage
    fb.save(net, tmp_path / "m.safetensors")
    assert torch.equal(fb.load(tmp_path / "m.safetensors")(images), net(images))
    flat(net)
    assert prove(net, images).usage


def test_a_view_read_past_its_quantizer_is_still_caught():
    class Past(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(self.a(x)) + x @ self.b.weight[1:].T[:, [0, 0, 1, 2]] + (x @ self.b.weight[2:].T).sum()

    model, x = flat(Past()), torch.randn(3, 4)
    quantize_(model, policy("uniq", weights=4, activations=4))
    calibrate_(model, [x])
    with pytest.raises(QuantizationError, match=r"weight of layer 'b' entered mm\.default in float"):
        prove(model, x)


def test_weights_tied_through_views_are_saved_and_load(tmp_path):
    def make():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3), nn.Linear(3, 2))
        model[2].weight = nn.Parameter(model[0].weight.data)  # the whole of it
        model[4].weight = nn.Parameter(model[0].weight.data[:3])  # a part
        return model

    model, x = make(), torch.randn(5, 6)
    quantize_(model, policy("lsq", weights=4, activations=4))
    calibrate_(model, [x])
    assert prove(model, x).usage
    fb.save(model, tmp_path / "m.safetensors")
    fb.load_(loaded := make(), tmp_path / "m.safetensors")
    assert torch.equal(loaded(x), model(x))
    with torch.no_grad():
        loaded[0].weight.add_(1)
    assert torch.equal(loaded[2].weight, loaded[0].weight)  # tied still


def test_one_of_two_tied_layers_is_pruned(tmp_path):
    def make():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
        model[2].weight = model[0].weight
        return model

    model, x = make(), torch.randn(5, 4)
    quantize_(model, policy("lsq", weights=4, activations=4).override("[02]", weights=4))
    calibrate_(model, [x])
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    assert prove(model, x).usage
    fb.save(model, tmp_path / "m.safetensors")
    apart = make()
    apart[2].weight = nn.Parameter(apart[0].weight.detach().clone())
    fb.load_(apart, tmp_path / "m.safetensors")
    assert torch.equal(apart(x), model(x))
    with pytest.raises(ValueError, match=r"holds 2\.weight and 0\.weight apart, which are one tensor in this"):
        fb.load_(make(), tmp_path / "m.safetensors")
