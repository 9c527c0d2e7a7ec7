"""Fake quantization of stacked tensors under ``vmap`` against that of each of them."""

import pytest
import torch

from flatbit.quant.passes import read_is_free
from flatbit.quant.rounding import fake_quantize, fake_quantize_reference, learned_step
from flatbit.quant.vmapped import on_stacked, only_vmapped

N = 3
GRIDS = [(0.5, -2, 1, "even_from_low"), (0.0, 0, 3, "even"), (0.0, -3, 3, "away")]


def stacked(x_of, step_of, number, in_dims, grid, surrogate):
    """Values and first and second derivatives by x, step and offset, all nets at once and one by one."""
    offset, low, high, ties = grid
    found = []
    for at_once in (True, False):
        x, step = x_of.clone().requires_grad_(), step_of.clone().requires_grad_()
        shift = (offset + number).requires_grad_() if number is not None else offset
        inputs = [x, step, *([shift] if number is not None else [])]

        def one(x, step, shift):
            return fake_quantize(x, step, shift, low, high, surrogate=surrogate, ties=ties)

        dims = (*in_dims, None if number is None else 0)
        if at_once:
            out = torch.vmap(one, in_dims=dims)(x, step, shift)
        else:
            rows = [
                [t if d is None else t.select(d, i) for t, d in zip((x, step, shift), dims, strict=True)]
                for i in range(N)
            ]
            out = torch.stack([one(*row) for row in rows])
        first = torch.autograd.grad(out.sin().sum(), inputs, create_graph=True, allow_unused=True)
        kept = [g for g in first if g is not None]
        second = torch.autograd.grad(sum((g * (i + 1.5)).sum() for i, g in enumerate(kept)), inputs, allow_unused=True)
        found.append((out, first, second))
    return found


@pytest.mark.parametrize("surrogate", ["identity", "clip", "learned", "residual"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    ("x_shape", "step_shape", "in_dims"),
    [
        ((N, 4, 5), (N,), (0, 0)),
        ((4, N, 5), (N,), (1, 0)),
        ((4, 5), (N,), (None, 0)),
        ((N, 4, 5), (), (0, None)),
        ((N, 4, 5), (N, 4, 1), (0, 0)),
        ((N, 4, 5), (4, 1), (0, None)),
        ((N,), (N,), (0, 0)),
    ],
)
def test_all_nets_at_once_are_each_of_them(surrogate, grid, x_shape, step_shape, in_dims):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(x_shape, generator=generator, dtype=torch.float64)
    step = torch.rand(step_shape, generator=generator, dtype=torch.float64) + 0.3
    number = torch.rand(N, generator=generator, dtype=torch.float64) if grid[-1] == "even" else None
    (out, first, second), (expected, *derivatives) = stacked(x, step, number, in_dims, grid, surrogate)
    assert torch.equal(out, expected)
    for ours, theirs in zip((*first, *second), (*derivatives[0], *derivatives[1]), strict=True):
        if ours is None or theirs is None:
            assert ours is None or not ours.any()
            assert theirs is None or not theirs.any()
        else:
            torch.testing.assert_close(ours, theirs)


def test_codes_of_each_net_may_differ():
    x, low, high = torch.randn(N, 40), torch.tensor([-1.0, -2, 0]), torch.tensor([1.0, 1, 3])
    step = torch.full((N,), 0.3, requires_grad=True)
    out = torch.vmap(lambda *a: fake_quantize(a[0], a[1], 0.0, *a[2:], surrogate="learned"))(x, step, low, high)
    rows = [fake_quantize(x[i], step[i], 0.0, int(low[i]), int(high[i]), surrogate="learned") for i in range(N)]
    assert torch.equal(out, torch.stack(rows))
    gradients = (torch.autograd.grad(made.square().sum(), step)[0] for made in (out, torch.stack(rows)))
    torch.testing.assert_close(*gradients)


def node_of(function):
    """The name of the autograd node that a function of (x, step) leaves, inside a transform."""
    names = []

    def noted(x, step):
        out = function(x, step)
        names.append(type(torch._C._functorch.get_unwrapped(out).grad_fn).__name__)
        return out

    return noted, names


def fused(x, step):
    return fake_quantize(x, step, 0.5, -2, 1, surrogate="learned")


def test_stacked_nets_leave_one_fused_node():
    x, step = torch.randn(N, 4), torch.rand(N, requires_grad=True)
    noted, names = node_of(fused)
    torch.vmap(noted)(x, step)
    noted, learned = node_of(lambda x, step: learned_step(step, 0.5))
    torch.vmap(noted)(x, step)
    assert names == ["_FakeQuantizeBackward"]
    assert learned == ["_LearnedStepBackward"]


def test_nested_vmaps_are_each_of_their_elements():
    x, step = torch.randn(2, N, 4, dtype=torch.float64), torch.rand(N, dtype=torch.float64, requires_grad=True)
    out = torch.vmap(torch.vmap(fused), in_dims=(0, None))(x, step)
    assert torch.equal(out, torch.stack([torch.stack([fused(x[i, j], step[j]) for j in range(N)]) for i in range(2)]))
    out.sum().backward()
    expected = torch.autograd.grad(sum(fused(x[:, j], step[j]).sum() for j in range(N)), step)[0]
    torch.testing.assert_close(step.grad, expected)


def test_what_no_vmap_stacked_is_the_plain_value():
    x, step = torch.randn(4), torch.tensor(0.4, requires_grad=True)
    out = torch.vmap(lambda scale: scale * fused(x, step) * learned_step(step, 0.5))(torch.arange(3.0))
    expected = fused(x, step) * step
    assert torch.allclose(out, torch.arange(3.0)[:, None] * expected)
    assert torch.allclose(
        torch.autograd.grad(out[1].sum(), step)[0],
        torch.autograd.grad((fused(x, step) * learned_step(step, 0.5)).sum(), step)[0],
    )


@pytest.mark.parametrize("order", ["vmap of grad", "grad of vmap"])
def test_transforms_that_differentiate_take_the_reference(order, monkeypatch):
    x, step = torch.randn(N, 5, dtype=torch.float64), torch.rand(N, dtype=torch.float64) + 0.2

    def loss(face):
        return lambda x, step: face(x, step, 0.5, -2, 1, surrogate="learned").square().sum()

    def gradient(face):
        if order == "vmap of grad":
            return torch.vmap(torch.func.grad(loss(face), argnums=(0, 1)))(x, step)
        return torch.func.grad(lambda *a: torch.vmap(loss(face))(*a).sum(), argnums=(0, 1))(x, step)

    calls = []
    monkeypatch.setattr(
        "flatbit.quant.rounding.fake_quantize_reference",
        lambda *a, **k: calls.append(1) or fake_quantize_reference(*a, **k),
    )
    ours = gradient(fake_quantize)
    assert calls == [1]
    for one, other in zip(ours, gradient(fake_quantize_reference), strict=True):
        torch.testing.assert_close(one, other)


def test_only_vmapped_says_which_transforms_are_active():
    found = []

    def look(x, y=1.0):
        found.append(only_vmapped(x, y))
        return x

    free = torch.zeros(2)
    torch.vmap(look)(free)
    torch.vmap(lambda x: look(free) + x)(free)
    torch.func.grad(lambda x: look(x).sum())(free)
    torch.vmap(torch.func.grad(lambda x: look(x).sum()))(free)
    torch.func.vjp(look, free)
    look(free)
    assert found == [True, False, False, False, False, False]


def test_a_number_that_all_nets_share_can_be_read():
    free, found = torch.zeros(()), []
    torch.vmap(lambda x: found.extend([read_is_free(free), read_is_free(x)]) or x)(torch.zeros(2))
    torch.func.grad(lambda x: found.append(read_is_free(x)) or x)(free)
    assert found == [True, False, False]


def test_on_stacked_puts_the_nets_first():
    seen = []

    def function(x, step, number, *, option):
        seen.append((x.shape, step.shape, number, option))
        return x + step

    x, step = torch.randn(4, N, 5), torch.randn(N)
    out = torch.vmap(lambda x, step: on_stacked(function, x, step, 7, option="a"), in_dims=(1, 0))(x, step)
    assert seen == [((N, 4, 5), (N, 1, 1), 7, "a")]
    assert torch.equal(out, x.movedim(1, 0) + step[:, None, None])


def test_a_compiled_stack_is_the_eager_one():
    x, step = torch.randn(N, 6), torch.rand(N) + 0.2
    expected = torch.vmap(fused)(x, step)
    out = torch.compile(torch.vmap(fused), backend="eager", fullgraph=True)(x, step)
    assert torch.equal(out, expected)
