import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flatbit as fb
from flatbit.quant.convert import apply_specs_
from flatbit.quant.spec import LayerSpec, TensorSpec
from flatbit.quant.table import quantizers_of
from flatbit.train.perturbed import ascent, attach_leaves_, perturbed_set, weights_of


def net():
    """Convolution, batch norm, ReLU, linear with bias: SAQ, the linear layer's weight in float."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    fb.quantize_(model, fb.policy("saq", weights=2, activations=2).override("6", weights=32))
    fb.calibrate_(model, [(torch.randn(4, 1, 8, 8),)] * 2)
    return model


def names(model, members):
    """Members by name; a leaf by its latent's name and ``^q``."""
    named = {id(p): name for name, p in model.named_parameters()}
    return {named[id(m.tensor)] if m.latent is None else named[id(m.latent)] + "^q" for m in members}


def test_every_weight_quantizer_gets_one_leaf_whose_gradient_is_that_of_the_quantized_weight():
    model = net()
    leaves = attach_leaves_(model)
    assert names(model, leaves) == {"0.weight^q", "3.weight^q"}
    layer = model[3]
    g = torch.randn_like(layer.weight)
    (layer.quantized_weight() * g).sum().backward()
    leaf = next(m for m in leaves if m.latent is layer.weight)
    assert torch.equal(leaf.tensor.grad, g)


def test_the_output_is_moved_by_the_leaf_and_unchanged_by_zeros():
    model = net().eval()
    x = torch.randn(2, 1, 8, 8)
    before, weight = model(x), model[3].quantized_weight().detach()
    attach_leaves_(model)
    assert torch.equal(model(x), before)
    move = torch.randn_like(weight)
    model[3].weight_quantizer.perturbation.data.copy_(move)
    assert torch.equal(model[3].quantized_weight(), weight + move)
    model[3].weight_quantizer.enabled = False
    assert torch.equal(model[3].quantized_weight(), model[3].weight)


def test_the_set_of_the_authors():
    model = net()
    found = names(model, perturbed_set(model, attach_leaves_(model)))
    activations = {f"{name}.clip" for name, q in quantizers_of(model) if q.site.role == "input"}
    norms = {"1.weight", "1.bias"}
    assert activations
    assert found == {"0.weight^q", "3.weight^q", "6.weight", "0.bias", "3.bias", "6.bias"} | norms | activations


def test_without_leaves_the_set_is_all_that_trains():
    model = net()
    model[3].weight.requires_grad_(False)
    found = names(model, perturbed_set(model, []))
    assert found == {name for name, p in model.named_parameters()} - {"3.weight"}


def test_a_frozen_weight_is_not_in_the_set():
    model = net()
    model[3].weight.requires_grad_(False)
    assert names(model, attach_leaves_(model)) == {"0.weight^q"}


def test_weights_alone():
    model = net()
    members = perturbed_set(model, attach_leaves_(model))
    assert names(model, weights_of(model, members)) == {"0.weight^q", "3.weight^q", "6.weight"}
    assert names(model, weights_of(model, perturbed_set(model, []))) == {"0.weight", "3.weight", "6.weight"}


def test_quantized_scales_and_biases_have_leaves_too():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    fb.quantize_(model, fb.policy("faq", weights=4, activations=4))
    fb.calibrate_(model, [(torch.randn(4, 1, 8, 8),)])
    leaves = attach_leaves_(model)
    held = {f"{name}^q" for name, p in model.named_parameters() if "quantizer" not in name}
    assert names(model, leaves) == held
    assert {m.shifts for m in leaves if m.latent.ndim > 1} == {False}
    assert names(model, weights_of(model, leaves)) == {"0.weight^q", "4.weight^q"}


def test_tied_weights_share_a_leaf():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    weight = TensorSpec(method="uniq", bits=2)
    apply_specs_(model, {name: LayerSpec(policy="uniq", tensors={"weight": weight}) for name in ("0", "2")})
    assert len(attach_leaves_(model)) == 1


def test_scales_of_the_adaptive_methods():
    model = net()
    for member in perturbed_set(model, attach_leaves_(model)):
        if member.shifts:
            expected = torch.ones_like(member.tensor)
        elif member.latent is None:
            expected = member.tensor.abs() + 0.01
        else:
            layer = next(m for m in model.modules() if getattr(m, "weight", None) is member.latent)
            expected = layer.quantized_weight().abs() + 0.01
        assert torch.equal(member.scale(0.01), expected)
    shifts = [m for m in perturbed_set(model, []) if m.shifts]
    assert names(model, shifts) == {"0.bias", "1.bias", "3.bias", "6.bias"}


def test_biases_are_told_by_the_last_part_of_their_name():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2)
            self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
            self.bias = nn.Linear(2, 2)  # a layer of that name is none
            self.unbiased = nn.Parameter(torch.ones(2))

    model = Net()
    members = perturbed_set(model, [])
    lstm = {f"lstm.bias_{part}_l{n}{end}" for part in ("ih", "hh") for n in (0, 1) for end in ("", "_reverse")}
    attention = {f"attention.{name}" for name in ("in_proj_bias", "bias_k", "bias_v", "out_proj.bias")}
    assert names(model, [m for m in members if m.shifts]) == lstm | attention | {"bias.bias"}
    weights = {"attention.in_proj_weight", "attention.out_proj.weight", "bias.weight", "unbiased"}
    weights |= {
        f"lstm.weight_{part}_l{n}{end}" for part in ("ih", "hh", "hr") for n in (0, 1) for end in ("", "_reverse")
    }
    assert names(model, [m for m in members if not m.shifts]) == weights


@given(seed=st.integers(0, 10_000), rho=st.floats(0, 10), factor=st.floats(1e-3, 1e5), adaptive=st.booleans())
@settings(max_examples=30, deadline=None)
def test_the_ascent_has_the_radius_the_direction_and_no_scale(seed, rho, factor, adaptive):
    generator = torch.Generator().manual_seed(seed)
    g = [torch.randn(n, generator=generator, dtype=torch.float64) for n in (1, 5, 7)]
    T = [torch.rand(n, generator=generator, dtype=torch.float64) + 0.01 for n in (1, 5, 7)] if adaptive else None
    e = ascent(g, T, rho)
    flat_g, flat_e = torch.cat(g), torch.cat(e)
    flat_T = torch.cat(T) if T else torch.ones_like(flat_g)
    assert float((flat_e / flat_T).norm()) == pytest.approx(rho)
    assert float(flat_e @ flat_g) == pytest.approx(rho * float((flat_T * flat_g).norm()))  # the largest rise there is
    scaled = ascent([factor * part for part in g], T, rho)
    torch.testing.assert_close(scaled, e)


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_an_overflown_gradient_moves_nothing(bad):
    g = [torch.tensor([1.0, bad]), torch.ones(3)]
    assert all(torch.equal(e, torch.zeros_like(e)) for scales in (None, g) for e in ascent(g, scales, 0.5))
    assert torch.equal(ascent([torch.zeros(2)], None, 0.5)[0], torch.zeros(2))


def test_a_leaf_is_copied_and_moved_with_its_model_and_never_saved():
    model = net()
    keys = list(model.state_dict())
    attach_leaves_(model)
    assert list(model.state_dict()) == keys
    twin = copy.deepcopy(model).double()
    leaf, original = (m[3].weight_quantizer.perturbation for m in (twin, model))
    assert leaf is not original
    assert (leaf.dtype, original.dtype, leaf.is_leaf, leaf.requires_grad) == (torch.float64, torch.float32, True, True)
    twin(torch.randn(2, 1, 8, 8).double()).sum().backward()
    assert leaf.grad is not None
    assert original.grad is None


def test_the_proof_holds_with_leaves_of_zeros():
    model = net()
    attach_leaves_(model)
    assert fb.quant.prove(model.eval(), torch.randn(2, 1, 8, 8)).usage
