import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flatbit.quant.rounding import (
    SMALLEST_STEP,
    fake_quantize,
    fake_quantize_output,
    fake_quantize_reference,
    learned_step,
    nearest_code,
    smallest_step,
    ste_round,
    straight_through,
)

SURROGATES = ("identity", "clip", "learned", "residual")
GRIDS = [
    (0.5, -2, 1, "even_from_low"),
    (0.0, 0, 3, "even"),
    (0.0, -3, 3, "away"),
    (0.5, -2, 1, "away"),
    (0.5, -1, 0, "even"),
    (0.0, -4, 3, "even"),
    (1.0, -1, 2, "even"),
]


def slow_code(x: float, step: float, offset: float, low: int, high: int, ties: str) -> int:
    """The nearest level by trying all of them; a tie goes as the rule says. Independent of the code under test."""
    distance = {code: abs(x - step * (code + offset)) for code in range(low, high + 1)}
    least = min(distance.values())
    tied = [code for code, d in distance.items() if d == least]
    if len(tied) == 1:
        return tied[0]
    if ties == "away":
        return max(tied) if x >= 0 else min(tied)
    parity = low if ties == "even_from_low" else 0
    return next(code for code in tied if (code - parity) % 2 == 0)


@pytest.mark.parametrize(("offset", "low", "high", "ties"), GRIDS)
@pytest.mark.parametrize("face", [fake_quantize, fake_quantize_reference])
def test_takes_the_nearest_level_and_the_stated_tie(face, offset, low, high, ties):
    x = torch.arange(-40, 41, dtype=torch.float64) / 8  # exact eighths: every tie at step 1/2 is hit
    step = torch.tensor(0.5, dtype=torch.float64)
    expected = [0.5 * (slow_code(float(v), 0.5, offset, low, high, ties) + offset) for v in x]
    assert face(x, step, offset, low, high, surrogate="identity", ties=ties).tolist() == expected
    code = nearest_code(x.requires_grad_(), step, offset, low, high, ties).numpy()  # which takes none with a gradient
    assert (0.5 * (code + offset)).tolist() == expected


def test_zero_goes_down_at_one_bit_only_when_counted_from_the_lowest_level():
    x, step = torch.zeros(1), torch.tensor(2.0)
    signs = {
        ties: float(fake_quantize(x, step, 0.5, -1, 0, surrogate="identity", ties=ties))
        for ties in ("even", "even_from_low", "away")
    }
    assert signs == {"even": 1.0, "even_from_low": -1.0, "away": 1.0}


def by_hand(surrogate):
    """Gradients for x = [-3, -0.4, 0.7, 5], step 1, codes 0..3, upstream [1, 2, 3, 4]."""
    x = torch.tensor([-3.0, -0.4, 0.7, 5.0], dtype=torch.float64, requires_grad=True)
    step = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    out = fake_quantize(x, step, 0.0, 0, 3, surrogate=surrogate)
    assert out.tolist() == [0.0, 0.0, 1.0, 3.0]
    gradients = torch.autograd.grad((out * torch.tensor([1.0, 2, 3, 4])).sum(), [x, step], allow_unused=True)
    return gradients[0].tolist(), None if gradients[1] is None else float(gradients[1])


def test_closed_form_gradients_of_each_surrogate():
    assert by_hand("identity") == ([1, 2, 3, 4], None)
    assert by_hand("clip") == ([0, 0, 3, 0], 4 * 3)
    assert by_hand("learned") == ([0, 0, 3, 0], pytest.approx(3 * (1 - 0.7) + 4 * 3))
    assert by_hand("residual") == ([1, 2, 3, 4], pytest.approx(1 * 3 + 2 * 0.4 + 3 * 0.3 + 4 * (3 - 5)))


@pytest.mark.parametrize("face", [fake_quantize, fake_quantize_reference])
def test_gradient_stops_on_the_edges_themselves(face):
    for step in (torch.tensor(1.0), torch.ones(4)):
        x = torch.tensor([0.0, 1e-9, 2.999, 3.0], requires_grad=True)
        face(x, step, 0.0, 0, 3, surrogate="clip").sum().backward()
        assert x.grad.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("per", ["tensor", "channel"])
@given(seed=st.integers(0, 1000), step=st.floats(0.05, 2.0), grid=st.sampled_from(GRIDS))
@settings(max_examples=25, deadline=None)
def test_faces_agree_in_value_and_first_and_second_derivatives(surrogate, per, seed, step, grid):
    offset, low, high, ties = grid
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    steps = torch.full((2, 1, 1) if per == "channel" else (), step, dtype=torch.float64).requires_grad_()
    offsets = torch.tensor(offset, dtype=torch.float64).requires_grad_() if ties == "even" else offset
    inputs = [x, steps, *([offsets] if ties == "even" else [])]
    faces = []
    for face in (fake_quantize, fake_quantize_reference):
        out = face(x, steps, offsets, low, high, surrogate=surrogate, ties=ties)
        first = torch.autograd.grad(out.sin().sum(), inputs, create_graph=True, allow_unused=True)
        kept = [g for g in first if g is not None]
        second = torch.autograd.grad(sum((g * (i + 1.5)).sum() for i, g in enumerate(kept)), inputs, allow_unused=True)
        faces.append([out, *first, *second])
    for fused, reference in zip(*faces, strict=True):
        if reference is None or fused is None:
            assert fused is None or not fused.any()
            assert reference is None or not reference.any()
        else:
            assert torch.allclose(fused, reference, rtol=1e-10, atol=1e-12)


def test_hessian_vector_products_through_a_net_agree():
    torch.manual_seed(1)
    w, v = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    x = torch.randn(8, 5, dtype=torch.float64)
    products = []
    for face in (fake_quantize, fake_quantize_reference):
        weight = w.clone().requires_grad_()
        q = face(weight, torch.tensor(0.4, dtype=torch.float64), 0.5, -2, 1, surrogate="learned", ties="even_from_low")
        (gradient,) = torch.autograd.grad((x @ q.T).tanh().square().sum(), weight, create_graph=True)
        products.append(torch.autograd.grad((gradient * v).sum(), weight)[0])
    assert torch.allclose(*products, rtol=1e-11)
    assert bool((products[0] != 0).any())


def test_finite_differences_must_disagree_with_a_straight_through_gradient():
    """The gradient is a surrogate's: gradcheck, which differentiates the true staircase, has to fail."""
    x = torch.linspace(0.1, 2.4, 7, dtype=torch.float64, requires_grad=True)
    step = torch.tensor(1.0, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(lambda t: fake_quantize(t, step, 0.0, 0, 3, surrogate="learned"), x)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_step_gradient_is_exact_enough_in_float32(layout):
    """The gradient is a difference of two dots over a million elements: hold it against float64 sums."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(32, 32, 32, 32, generator=generator).relu().to(memory_format=layout)
    g = torch.randn(x.shape, generator=generator).to(memory_format=layout)
    step = torch.tensor(0.01, requires_grad=True)
    out = fake_quantize(x, step, 0.0, 0, 255, surrogate="learned")
    out.backward(g)
    r = (out.detach().double() - x.double()) / step.detach().double()
    inside = (x > 0) & (x < 2.55)
    exact = float((g.double() * torch.where(inside, r, 255.0 * (x >= 2.55))).sum())
    assert float(step.grad) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("surrogate", ["clip", "learned", "residual"])
@pytest.mark.parametrize(
    ("low", "high", "shift", "step"), [(0, 255, 0.0, 0.02), (0, 255, 3.0, 0.035), (-127, 127, 0.0, 0.05)]
)
def test_step_gradient_of_eight_million_elements_does_not_cancel(surrogate, low, high, shift, step):
    """Upstream gradients of one sign: ``sum(g x^q)`` and ``sum(g x)`` are a million times their difference."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(8_000_000, generator=generator).add_(shift)
    g = torch.rand(x.shape, generator=generator).add_(0.5)
    step = torch.tensor(step, requires_grad=True)
    out = fake_quantize(x, step, 0.0, low, high, surrogate=surrogate)
    out.backward(g)
    x, g, out, s = x.double(), g.double(), out.detach().double(), float(step.detach())
    inside = (x > s * low) & (x < s * high)
    code = torch.where(x >= s * high, float(high), float(low))
    terms = {
        "clip": torch.where(inside, 0.0, code),
        "learned": torch.where(inside, (out - x) / s, code),
        "residual": (out - x) / s,
    }
    assert float(step.grad) == pytest.approx(float((g * terms[surrogate]).sum()), rel=1e-4)


def test_step_gradient_of_several_blocks_equals_that_of_one(monkeypatch):
    x, g = torch.randn(7, 11, dtype=torch.float64), torch.randn(7, 11, dtype=torch.float64)
    found = []
    for block in (1 << 20, 10, 7, 1):
        monkeypatch.setattr("flatbit.quant.passes.BLOCK", block)
        step = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        leaf = g.clone().requires_grad_()
        out = fake_quantize(x, step, 0.0, -3, 3, surrogate="learned")
        (first,) = torch.autograd.grad(out, step, leaf, create_graph=True)
        found.append([first, *torch.autograd.grad(first, leaf)])
    for parts in found[1:]:
        for one, several in zip(found[0], parts, strict=True):
            torch.testing.assert_close(several, one)


@pytest.mark.parametrize("surrogate", ["clip", "learned", "residual"])
@pytest.mark.parametrize("strided", [False, True])
def test_gradients_without_a_graph_are_those_with_one(surrogate, strided):
    """Where no second derivative is asked for, memory is used twice."""
    x, g = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    g = g.t().contiguous().t() if strided else g
    x.requires_grad_()
    step = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    out = fake_quantize(x, step, 0.0, -3, 3, surrogate=surrogate)
    kept = g.clone()
    plain, graph = (
        torch.autograd.grad(out, [x, step], g, create_graph=create, retain_graph=True) for create in (False, True)
    )
    defined = torch.autograd.grad(fake_quantize_reference(x, step, 0.0, -3, 3, surrogate=surrogate), [x, step], g)
    for one, *others in zip(plain, graph, defined, strict=True):
        for other in others:
            torch.testing.assert_close(one, other.detach())
    assert torch.equal(g, kept)
    assert torch.equal(out, fake_quantize(x, step, 0.0, -3, 3, surrogate=surrogate))


@pytest.mark.parametrize("surrogate", ["clip", "learned"])
@pytest.mark.parametrize("layout", ["rows", "columns", "short rows", "one x for all"])
def test_steps_along_the_first_axis_give_each_row_its_gradients(surrogate, layout):
    """Long rows have a call each, short ones masks together: as rows by themselves have it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 40 if layout == "short rows" else 2100, 2, generator=generator, dtype=torch.float64)
    x = x.transpose(1, 2).contiguous().transpose(1, 2) if layout == "columns" else x
    x = (x[:1] if layout == "one x for all" else x).requires_grad_()
    step = torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64).reshape(3, 1, 1).requires_grad_()
    g = torch.randn(3, *x.shape[1:], generator=generator, dtype=torch.float64)
    out = fake_quantize(x, step, 0.5, -2, 1, surrogate=surrogate)
    rows = [
        fake_quantize(v, s, 0.5, -2, 1, surrogate=surrogate) for v, s in zip(x.expand(3, -1, -1), step, strict=True)
    ]
    for one, other in zip(*(torch.autograd.grad(q, [x, step], g) for q in (out, torch.stack(rows))), strict=True):
        torch.testing.assert_close(one, other)


def test_saves_input_and_output_and_no_mask():
    saved = []
    x = torch.randn(64, 64, requires_grad=True)
    step = torch.tensor(0.5, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        fake_quantize(x, step, 0.5, -2, 1, surrogate="learned")
    assert [t.shape for t in saved] == [(64, 64), (), (64, 64)]
    assert saved[0].data_ptr() == x.data_ptr()


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_outputs_of_activations_may_be_changed_in_place(surrogate):
    x = torch.randn(64, 64, requires_grad=True)
    step, g = torch.tensor(0.5, requires_grad=True), torch.randn(64, 64)
    gradients = []
    for primitive in (fake_quantize, fake_quantize_output):
        out = primitive(x, step, 0.5, -2, 1, surrogate=surrogate)
        changed = out + 1 if primitive is fake_quantize else out.add_(1)
        gradients.append((changed, *torch.autograd.grad(changed, [x, step], g, allow_unused=True)))
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x = torch.linspace(-4, 4, 257).to(dtype).requires_grad_()
    step = torch.tensor(8 / 255)
    out = fake_quantize(x, step, 0.5, -128, 127, surrogate="learned", ties="even_from_low")
    wide = fake_quantize(x.detach().float(), step, 0.5, -128, 127, surrogate="learned", ties="even_from_low")
    assert out.dtype == dtype
    assert torch.equal(out, wide.to(dtype))
    out.sum().backward()
    assert x.grad.dtype == dtype


def test_torch_func_transforms_compute_the_same():
    step = torch.tensor(0.5)

    def loss(x):
        return fake_quantize(x, step, 0.5, -2, 1, surrogate="learned").square().sum()

    x = torch.randn(5)
    leaf = x.clone().requires_grad_()
    loss(leaf).backward()
    assert torch.allclose(torch.func.grad(loss)(x), leaf.grad)
    assert torch.func.vmap(torch.func.grad(loss))(x[:, None]).shape == (5, 1)
    assert float(torch.func.grad(lambda p: learned_step(p, 0.25) * 3.0)(torch.tensor(-0.3))) == pytest.approx(-0.75)
    assert torch.func.vmap(learned_step)(torch.tensor([-0.3, 0.0])).tolist() == pytest.approx([0.3, SMALLEST_STEP])


def test_learned_step_is_positive_and_scales_its_gradient():
    for value, sign in ((0.3, 1.0), (-0.3, -1.0), (0.0, 0.0)):
        p = torch.tensor(value, requires_grad=True)
        step = learned_step(p, 0.1)
        assert float(step.detach()) == pytest.approx(max(abs(value), SMALLEST_STEP))
        (step * 5).backward()
        assert float(p.grad) == pytest.approx(5 * 0.1 * sign)


def test_straight_through_is_exact_forward():
    value, surrogate = torch.tensor([0.1, 1e8]), torch.tensor([1e8, 0.1], requires_grad=True)
    out = straight_through(value, surrogate * 2)
    assert torch.equal(out, value)
    out.sum().backward()
    assert surrogate.grad.tolist() == [2, 2]


def test_ste_round_rounds_half_to_even_with_derivative_one():
    t = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5], requires_grad=True)
    out = ste_round(t)
    assert out.tolist() == [-2, 0, 0, 2, 2]
    out.sum().backward()
    assert t.grad.tolist() == [1] * 5


@pytest.mark.gpu
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_cuda_equals_cpu(surrogate, device):
    results = []
    for where in ("cpu", device):
        x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)).to(where).requires_grad_()
        step = torch.tensor(0.37, device=where, requires_grad=True)
        out = fake_quantize(x, step, 0.5, -2, 1, surrogate=surrogate)
        gradients = torch.autograd.grad(out.sin().sum(), [x, step], allow_unused=True)
        results.append([out.detach().cpu(), *(g.cpu() for g in gradients if g is not None)])
    for on_cpu, on_gpu in zip(*results, strict=True):
        assert torch.allclose(on_cpu, on_gpu, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("face", [fake_quantize, fake_quantize_reference])
def test_offset_alone_can_take_gradients(face):
    offset = torch.tensor(0.2, requires_grad=True)
    x = torch.tensor([-1.0, 0.9, 9.0])
    face(x, torch.tensor(0.5), offset, 0, 3, surrogate="learned").backward(torch.tensor([1.0, 10.0, 100.0]))
    assert float(offset.grad) == pytest.approx(0.5 * 101)


def test_the_smallest_step_is_one_that_the_dtype_holds():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        zero = torch.zeros((), dtype=dtype)
        assert float(learned_step(zero)) > 0
        assert float(learned_step(zero)) == float(torch.tensor(smallest_step(zero), dtype=dtype))
    assert smallest_step(torch.zeros(())) == 1e-8
