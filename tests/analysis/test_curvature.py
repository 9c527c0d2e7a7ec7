import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

import flatbit as fb
from flatbit.analysis.curvature import hessian, hessian_vector_product
from flatbit.quant.table import quantized_layers, quantizers_of
from flatbit.train import SharpnessAware

EXACT = {"tolerance": 1e-12, "max_iterations": 3000}


class Quadratic(nn.Module):
    """Logits whose cross-entropy at label 0 is ``theta.A theta/2 + 1``, exactly: ``log(1 + exp(-z))``."""

    def __init__(self, eigenvalues):
        super().__init__()
        spectrum = torch.tensor(eigenvalues, dtype=torch.float64)
        basis = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), dtype=torch.float64)).Q
        self.register_buffer("A", basis @ spectrum.diag() @ basis.T)
        self.theta = nn.Parameter(0.1 * torch.ones(len(spectrum), dtype=torch.float64))

    def forward(self, x):
        z = -(self.theta @ self.A @ self.theta / 2 + 1).expm1().log()
        return torch.stack([z, torch.zeros_like(z)]).expand(len(x), 2)


def label_0(n=1):
    return [(torch.zeros(n, 1, dtype=torch.float64), torch.zeros(n, dtype=torch.int64))]


def net(**bits):
    """Convolution, batch norm, convolution, linear, in double precision and training mode; SAQ of 3 bits."""
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Conv2d(2, 2, 3, bias=False), nn.Flatten(), nn.Linear(8, 3)
    ).double()
    if bits:
        fb.quantize_(model, fb.policy("saq", **bits))
        fb.calibrate_(model, [(images()[0],)])
    return model


def images(n=6):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(n, 1, 6, 6, generator=generator, dtype=torch.float64), torch.arange(n) % 3


def top_eigenvalue(model, variables, x, y):
    """By the explicit matrix, of the parameters named."""
    held = dict(model.named_parameters())
    shapes = [held[name].shape for name in variables]

    def loss(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        values = {name: part.reshape(shape) for name, part, shape in zip(variables, parts, shapes, strict=True)}
        return F.cross_entropy(functional_call(model, values, (x,)), y)

    flat = torch.cat([held[name].detach().flatten() for name in variables])
    matrix = torch.autograd.functional.hessian(loss, flat)
    torch.testing.assert_close(matrix, matrix.T)
    spectrum = torch.linalg.eigvalsh(matrix)
    return float(spectrum[spectrum.abs().argmax()])


@pytest.mark.parametrize("spectrum", [(4.0, 1.0, -2.0), (-5.0, 3.0, 1.0), (0.1, 0.02, 0.0)])
def test_a_quadratic_of_known_spectrum(spectrum):
    found = hessian(Quadratic(spectrum), label_0(3), **EXACT)
    assert found.eigenvalue == pytest.approx(spectrum[0], rel=1e-9)
    assert found.converged
    assert found.num_samples == 3


def test_a_flat_loss_has_no_curvature():
    found = hessian(Quadratic((0.0, 0.0)), label_0())
    assert (found.eigenvalue, found.iterations, found.converged) == (0.0, 1, True)


def test_the_float_network_against_the_explicit_matrix():
    model, (x, y) = net(), images()
    model(x)  # running statistics of its own
    expected = top_eigenvalue(copy.deepcopy(model).eval(), [name for name, _ in model.named_parameters()], x, y)
    assert hessian(model, [(x, y)], **EXACT).eigenvalue == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("activations", [32, 3])
def test_the_quantized_network_against_the_matrix_at_its_quantized_weights(activations):
    """A twin holds w^q as its float weights; its activations keep their quantizers."""
    model, (x, y) = net(weights=3, activations=activations), images()
    twin = copy.deepcopy(model).eval()
    for _, layer in quantized_layers(twin):
        layer.weight.data = layer.quantized_weight().detach()
        layer.weight_quantizer = None
    names = [name for name, _ in twin.named_parameters() if "quantizer" not in name]
    expected = top_eigenvalue(twin, names, x, y)
    assert hessian(model, [(x, y)], **EXACT).eigenvalue == pytest.approx(expected, rel=1e-6)


def test_mini_batches_weigh_by_their_size():
    model, (x, y) = net(weights=3, activations=3), images()
    whole = hessian(model, [(x, y)], **EXACT)
    parts = hessian(model, iter([(x[:4], y[:4]), (x[4:], y[4:])]), **EXACT)
    assert parts.eigenvalue == pytest.approx(whole.eigenvalue, rel=1e-9)
    assert parts.num_samples == whole.num_samples == 6


def test_the_product_is_the_matrix_times_the_vector():
    model = Quadratic((4.0, 1.0, -2.0))
    v = torch.randn(3, dtype=torch.float64)
    (product,) = hessian_vector_product(model, label_0(), [model.theta], [v])
    torch.testing.assert_close(product, model.A @ v)


def test_the_model_is_left_as_it_was():
    model, (x, y) = net(weights=3, activations=3), images()
    optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), model)
    leaves = [q.perturbation for _, q in quantizers_of(model)]
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first = hessian(model, [(x, y)])
    assert first == hessian(model, [(x, y)])
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(q.perturbation is leaf for (_, q), leaf in zip(quantizers_of(model), leaves, strict=True))
    assert all(m.training for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    optimizer.close()
    assert hessian(model, [(x, y)]) == first
    assert all(q.perturbation is None for _, q in quantizers_of(model))


def test_it_says_that_it_did_not_converge():
    found = hessian(Quadratic((1.0, 0.999, 0.9)), label_0(), max_iterations=2, tolerance=1e-9)
    assert (found.iterations, found.converged) == (2, False)
    assert len(found.estimates) == 2
    assert found.estimates[-1] == found.eigenvalue
    assert "estimates" not in repr(found)


def test_a_compiled_model_is_differentiated_in_plain_python():
    model, (x, y) = net(weights=3, activations=3), images()
    expected = hessian(model, [(x, y)])
    assert hessian(torch.compile(model, backend="aot_eager"), [(x, y)]) == expected


def test_no_batches():
    with pytest.raises(ValueError, match=r"hessian got no batches: the iterable is empty"):
        hessian(net(), [])


def test_a_weight_that_is_not_finite():
    model = net()
    model[0].weight.data[0] = float("nan")
    with pytest.raises(ValueError, match=r"Hessian of Sequential's loss is NaN or infinite"):
        hessian(model, [images()])
    assert model.training


def test_nothing_that_trains():
    with pytest.raises(ValueError, match=r"no parameter that trains"):
        hessian(net().requires_grad_(False), [images()])


@pytest.mark.parametrize("settings", [{"max_iterations": 0}, {"tolerance": 0.0}, {"tolerance": float("nan")}])
def test_settings_out_of_range(settings):
    with pytest.raises(ValueError, match="expected 1 iteration or more and a positive tolerance"):
        hessian(net(), [images()], **settings)


def test_of_what_never_ends_so_many_as_are_asked_for():
    model, batches = Quadratic([1.0, 2.0]), label_0(2)
    assert hessian(model, itertools.cycle(batches), num_batches=3, **EXACT).num_samples == 6
    with pytest.raises(ValueError, match="hessian: a cycle never ends: say how many to take with num_batches="):
        hessian(model, itertools.cycle(batches))


def test_labels_of_any_whole_number_and_what_is_no_pair():
    model, ((x, y),) = Quadratic([1.0, 2.0]), label_0(2)
    expected = hessian(model, [(x, y)], **EXACT)
    assert hessian(model, [(x, y[:, None].to(torch.uint8))], **EXACT) == expected
    with pytest.raises(ValueError, match="hessian: a batch is a Tensor, expected a pair of tensors"):
        hessian(model, [x])


class Attention(nn.Module):
    """Attention by torch's fused kernel, or written out; by a module of torch's own."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.embed, self.qkv, self.head = nn.Linear(8, 16), nn.Linear(16, 48), nn.Linear(16, 5)
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True) if how == "module" else nn.Identity()

    def forward(self, x):
        if self.how == "module":
            h = self.embed(x)
            return self.head(self.attend(h, h, h, need_weights=False)[0].mean(1))
        q, k, v = self.qkv(self.embed(x)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        if self.how == "fused":
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.mT / 8**0.5).softmax(-1) @ v
        return self.head(mixed.transpose(1, 2).flatten(2).mean(1))


def test_fused_attention_has_the_curvature_of_what_it_computes():
    batch = [(torch.randn(12, 9, 8), torch.arange(12) % 5)]
    fused, plain = (hessian(Attention(how), batch, max_iterations=30).eigenvalue for how in ("fused", "plain"))
    assert fused == pytest.approx(plain, rel=1e-3)
    model = Attention("fused")
    fb.quantize_(model, fb.policy("lsq", weights=4, activations=4))
    fb.calibrate_(model, batch)
    assert hessian(model, batch, max_iterations=5).eigenvalue != 0
    assert hessian(Attention("module"), batch, max_iterations=5).eigenvalue != 0


def test_the_product_alone_takes_the_kernel_too():
    x, y = torch.randn(4, 9, 8), torch.arange(4)
    model = Attention("fused")
    variables = [p for p in model.parameters() if p.requires_grad]
    assert (
        hessian_vector_product(model, [(x, y)], variables, [torch.ones_like(p) for p in variables])[0].isfinite().all()
    )


def test_what_has_no_second_derivative_is_named():
    class Forced(Attention):
        def forward(self, x):
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return super().forward(x)

    with pytest.raises(
        ValueError, match="the Hessian of Forced's loss: an operation of its forward has no second deriv"
    ):
        hessian(Forced("fused"), [(torch.randn(3, 9, 8), torch.zeros(3, dtype=torch.int64))])
