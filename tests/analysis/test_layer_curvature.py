import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

import flatbit as fb
from flatbit.analysis.layer_curvature import layer_eigenvalues, layer_traces

EXACT = {"tolerance": 1e-12, "max_iterations": 3000}


def net():
    """Convolution, batch norm, convolution, linear, in double precision and training mode."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Conv2d(2, 2, 3, bias=False), nn.Flatten(), nn.Linear(8, 3)
    ).double()


def images(n=6):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(n, 1, 6, 6, generator=generator, dtype=torch.float64), torch.arange(n) % 3


def blocks(model, x, y):
    """Each weight's block of the Hessian, by the explicit matrix."""
    model, found = copy.deepcopy(model).eval(), {}
    for name in ("0", "3", "5"):
        weight = model.get_submodule(name).weight.detach()

        def loss(flat, name=name, weight=weight):
            logits = functional_call(model, {f"{name}.weight": flat.reshape(weight.shape)}, (x,))
            return nn.functional.cross_entropy(logits, y)

        found[name] = torch.autograd.functional.hessian(loss, weight.flatten())
    return found


def test_eigenvalues_are_those_of_the_blocks():
    model, (x, y) = net(), images()
    found = layer_eigenvalues(model, [(x, y)], **EXACT)
    expected = {}
    for name, block in blocks(model, x, y).items():
        spectrum = torch.linalg.eigvalsh(block)
        expected[name] = float(spectrum[spectrum.abs().argmax()])
    assert found.values == pytest.approx(expected, rel=1e-6)
    assert set(found.errors.values()) == {0.0}


def test_traces_are_those_of_the_blocks_within_their_error():
    model, (x, y) = net(), images()
    found = layer_traces(model, [(x, y)], probes=400)
    for name, block in blocks(model, x, y).items():
        assert 0 < found.errors[name] < 0.5 * block.diagonal().abs().sum()
        assert found.values[name] == pytest.approx(float(block.trace()), abs=4 * found.errors[name])


def test_errors_fall_as_one_over_the_root_of_the_probes():
    few, many = (layer_traces(net(), [images()], probes=n).errors for n in (20, 320))
    for name, error in few.items():
        assert many[name] == pytest.approx(error / 4, rel=0.5)
    assert set(layer_traces(net(), [images()], probes=1).errors.values()) == {0.0}


class Separate(nn.Module):
    """Logits (z, 0) with ``cross-entropy = a w0^2/2 + b w1^2/2 + 1`` at label 0: a diagonal Hessian."""

    def __init__(self, a, b):
        super().__init__()
        self.one, self.two = (nn.Linear(1, 1, bias=False) for _ in range(2))
        self.a, self.b = a, b
        for layer in (self.one, self.two):
            nn.init.constant_(layer.weight, 0.1)

    def forward(self, x):
        ones = torch.ones_like(x)
        loss = self.a * self.one(ones) ** 2 / 2 + self.b * self.two(ones) ** 2 / 2 + 1
        z = -loss.expm1().log()
        return torch.cat([z, torch.zeros_like(z)], 1)


@pytest.mark.parametrize(("a", "b"), [(4.0, 0.5), (-2.0, 3.0)])
def test_a_diagonal_hessian_is_known_exactly(a, b):
    """A sign's square is 1: every probe gives the trace itself."""
    model = Separate(a, b).double()
    batches = [(torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.int64))]
    traces, tops = layer_traces(model, batches, probes=3), layer_eigenvalues(model, batches)
    assert tops.values == pytest.approx({"one": a, "two": b})
    assert traces.values == pytest.approx({"one": a, "two": b}, rel=1e-9)
    assert traces.errors == pytest.approx({"one": 0, "two": 0}, abs=1e-9)


def test_a_flat_layer_has_none():
    model = Separate(0.0, 2.0).double()
    batches = [(torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.int64))]
    assert layer_eigenvalues(model, batches).values["one"] == 0.0


def test_batches_weigh_by_their_size():
    model, (x, y) = net(), images()
    whole, parts = [(x, y)], [(x[:4], y[:4]), (x[4:], y[4:])]
    assert layer_traces(model, parts).values == pytest.approx(layer_traces(model, whole).values)
    assert layer_eigenvalues(model, parts, **EXACT).values == pytest.approx(
        layer_eigenvalues(model, whole, **EXACT).values
    )


@pytest.mark.parametrize("measure", [layer_traces, layer_eigenvalues])
def test_the_model_is_left_as_it_was_and_the_draw_is_by_seed(measure):
    model, batch = net(), images()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first = measure(model, [batch])
    assert first == measure(model, [batch])
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        assert first == measure(model, [batch])


def test_another_seed_is_another_estimate():
    assert layer_traces(net(), [images()]).values != layer_traces(net(), [images()], seed=1).values


def test_layers_that_do_not_train_have_none():
    model = net()
    model[3].weight.requires_grad_(False)
    assert layer_traces(model, [images()]).values.keys() == {"0", "5"}


def test_a_quantized_net_has_that_of_its_latent_weights():
    model = net()
    fb.quantize_(model, fb.policy("saq", weights=3, activations=3))
    fb.calibrate_(model, [(images()[0],)])
    found = layer_traces(model, [images()])
    assert found.values.keys() == {"0", "3", "5"}
    assert all(abs(value) < 1e6 for value in found.values.values())


@pytest.mark.parametrize("measure", [layer_traces, layer_eigenvalues])
def test_no_batches(measure):
    with pytest.raises(ValueError, match="no batches: curvature is that of a mean loss over some"):
        measure(net(), [])
