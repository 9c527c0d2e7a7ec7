"""The contract of every quantizer: adding one adds it here."""

import copy
import importlib
import io
import pkgutil

import pytest
import torch
import torch._dynamo.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flatbit.quant import quantizers as folder
from flatbit.quant.convert import apply_specs_
from flatbit.quant.policy import LayerSpec, TensorSpec
from flatbit.quant.quantizers import METHODS
from flatbit.quant.rounding import fake_quantize_reference

from .cases import CASES, OPTIONS, SHAPE, calibrated, every_quantizer, is_symmetric, make, quantizers_where, sample

NORMALIZED = {"saq", "dorefa", "xnor"}  # their weights are transformed before they are rounded


def _takes_channels(name):
    made = METHODS.get(name).weights
    return made is not None and "channel" in made.granularities


def test_each_file_registers_one_method_of_its_own_name():
    files = [module.name for module in pkgutil.iter_modules(folder.__path__)]
    assert files == METHODS.names()
    for name in files:
        module = importlib.import_module(f"flatbit.quant.quantizers.{name}")
        made = [c for c in (METHODS.get(name).weights, METHODS.get(name).activations) if c is not None]
        assert all(c.__module__ == module.__name__ and c.method == name for c in made)


def test_the_suites_cover_all_methods_of_the_papers():
    covered = {case.values[0] for case in CASES}
    assert covered >= {"sqwa", "pact", "saq", "uniq", "faq", "lsq", "lsq_plus", "dorefa", "xnor", "dq"}


@every_quantizer
def test_output_is_its_grid_at_its_codes_bit_for_bit(name, role, bits, signed):
    quantizer = calibrated(name, role, bits, signed)
    x = sample(role, signed, seed=1) * 3
    grid, codes = quantizer.grid(x), quantizer.codes(x)
    assert codes.dtype == torch.int32
    assert int(codes.min()) >= grid.low
    assert int(codes.max()) <= grid.high
    assert torch.equal(grid.value(codes), quantizer(x))
    assert grid.contains(quantizer(x))


@every_quantizer
def test_uses_no_more_levels_than_its_bits(name, role, bits, signed):
    quantizer = calibrated(name, role, bits, signed)
    grid = quantizer.grid(sample(role, signed))
    assert grid.num_levels <= 2**bits
    assert grid.bits <= bits
    assert quantizer.bit_width() <= bits
    assert len(grid.levels) == grid.num_levels


@quantizers_where(lambda name, role, bits, signed: role != "weight" or name not in NORMALIZED)
def test_is_idempotent(name, role, bits, signed):
    """But for those that transform their weight first: a second pass would transform again."""
    quantizer = calibrated(name, role, bits, signed)
    once = quantizer(sample(role, signed, seed=1))
    if name == "faq" and role == "weight":  # its step follows the weight: the second pass takes the first one's
        step, levels = quantizer.step_of(sample(role, signed, seed=1)), quantizer.levels(once)
        twice = fake_quantize_reference(once, step, *levels, surrogate="identity", ties=quantizer.ties)
    else:
        twice = quantizer(once)
    assert torch.equal(once, twice)


@every_quantizer
def test_is_monotone(name, role, bits, signed):
    quantizer = calibrated(name, role, bits, signed)
    x = sample(role, signed, seed=2).flatten().sort().values.reshape(SHAPE)
    out = quantizer(x)
    if name == "xnor" and role == "weight":  # one scale per filter: monotone inside a filter
        assert bool((out.flatten(1).diff(dim=1) >= 0).all())
        return
    assert bool((out.flatten().diff() >= 0).all())


@quantizers_where(is_symmetric)
def test_is_odd_where_the_grid_is_symmetric(name, role, bits, signed):
    quantizer = calibrated(name, role, bits, signed)
    x = sample(role, True, seed=3)
    if name == "saq" and role == "weight":
        x = x - x.mean()  # its normalisation subtracts the mean
    assert torch.allclose(quantizer(-x), -quantizer(x), rtol=1e-5, atol=1e-6)


@every_quantizer
def test_error_inside_the_range_is_at_most_half_a_step(name, role, bits, signed):
    quantizer = calibrated(name, role, bits, signed)
    x = sample(role, signed, seed=4)
    grid, rounded = quantizer.grid(x), quantizer.normalize(x).detach()
    inside = (rounded > grid.step * (grid.low + grid.offset)) & (rounded < grid.step * (grid.high + grid.offset))
    error = ((quantizer(x).detach() - rounded).abs() / grid.step)[inside.expand_as(x)]
    assert error.numel() == 0 or float(error.max()) <= 0.5 + 1e-4


@quantizers_where(lambda name, role, bits, signed: role != "weight" or name not in {*NORMALIZED, "faq"})
def test_values_outside_the_range_take_the_end_levels(name, role, bits, signed):
    """But for those whose range follows the weight."""
    quantizer = calibrated(name, role, bits, signed)
    x = sample(role, True, seed=5)
    grid = quantizer.grid(x)
    far = 100 * grid.levels.abs().max() * torch.ones(SHAPE)
    assert torch.equal(quantizer.codes(far).unique(), torch.tensor([grid.high], dtype=torch.int32))
    assert torch.equal(quantizer.codes(-far).unique(), torch.tensor([grid.low], dtype=torch.int32))


@every_quantizer
def test_fused_equals_reference_to_second_order(name, role, bits, signed):
    quantizer = calibrated(name, role, bits, signed, dtype=torch.float64)
    parameters = list(quantizer.parameters())
    x = sample(role, signed, seed=6, dtype=torch.float64).requires_grad_()
    probe = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    faces = []
    for primitive in (quantizer.primitive, fake_quantize_reference):
        quantizer.primitive = primitive
        out = quantizer(x)
        # A loss with curvature of its own, so that second derivatives pass through the quantizer's backward.
        first = torch.autograd.grad((out * probe).exp().sum(), [x, *parameters], create_graph=True, allow_unused=True)
        first = [torch.zeros(()) if g is None else g for g in first]
        mixed = sum((g * torch.linspace(-1, 1, g.numel(), dtype=torch.float64).reshape(g.shape)).sum() for g in first)
        second = torch.autograd.grad(mixed, [x, *parameters], allow_unused=True)
        faces.append([out, *first, *(torch.zeros(()) if g is None else g for g in second)])
    for fused, reference in zip(*faces, strict=True):
        assert torch.allclose(fused, reference, rtol=1e-9, atol=1e-11)
    assert bool((faces[0][1] != 0).any())
    assert torch.equal(faces[0][0], faces[1][0])


@quantizers_where(lambda name, role, bits, signed: name != "dq")
def test_autograd_is_the_stated_surrogate(name, role, bits, signed):
    """The surrogate of the docstring, written out again. DQ, whose range clips before, has its own test."""
    quantizer = calibrated(name, role, bits, signed, dtype=torch.float64)
    x = sample(role, signed, seed=8, dtype=torch.float64)
    with torch.no_grad():
        v, step = quantizer.normalize(x), quantizer.step_of(x)
        offset, low, high = quantizer.levels(x)
        inside = (v > step * (low + offset)) & (v < step * (high + offset))
        value = quantizer(x)
        residual = value / step - v / step
        weights = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        bound = value / step
    v = v.clone().requires_grad_()
    step = step.clone().requires_grad_()
    surrogate = {
        "identity": v,
        "clip": torch.where(inside, v, step * bound),
        "learned": torch.where(inside, v + step * residual, step * bound),
    }[quantizer.surrogate]
    expected = torch.autograd.grad((surrogate * weights).sum(), [v, step], allow_unused=True)
    v2, step2 = v.detach().requires_grad_(), step.detach().requires_grad_()
    out = quantizer.primitive(v2, step2, offset, low, high, surrogate=quantizer.surrogate, ties=quantizer.ties)
    found = torch.autograd.grad((out * weights).sum(), [v2, step2], allow_unused=True)
    assert torch.allclose(found[0], expected[0])
    if expected[1] is not None:
        assert torch.allclose(found[1], expected[1], rtol=1e-8, atol=1e-10)
    else:
        assert found[1] is None


@every_quantizer
def test_survives_deepcopy_pickle_and_state_dict(name, role, bits, signed):
    quantizer = calibrated(name, role, bits, signed)
    x = sample(role, signed, seed=1)
    expected = quantizer(x)
    assert torch.equal(copy.deepcopy(quantizer)(x), expected)
    buffer = io.BytesIO()
    torch.save(quantizer, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), expected)
    fresh = make(name, role, bits)
    fresh.load_state_dict(quantizer.state_dict())
    assert fresh.calibrated
    assert torch.equal(fresh(x), expected)


@quantizers_where(lambda *case: bool(calibrated(*case)._state()))
def test_uncalibrated_raises_and_names_the_call(name, role, bits, signed):
    quantizer = calibrated(name, role, bits, signed)
    quantizer.reset_()
    with pytest.raises(RuntimeError, match=r"layer 'layer'.*calibrate_"):
        quantizer(sample(role, signed))


@every_quantizer
def test_keeps_dtype_shape_and_memory_format(name, role, bits, signed):
    quantizer = calibrated(name, role, bits, signed)
    x = sample(role, signed).contiguous(memory_format=torch.channels_last)
    assert quantizer(x).stride() == x.stride()
    half = calibrated(name, role, bits, signed, dtype=torch.bfloat16)
    out = half(x.bfloat16())
    assert out.dtype == torch.bfloat16
    assert bool(out.isfinite().all())
    assert half.grid(x.bfloat16()).contains(out)


@every_quantizer
def test_integer_input_is_refused(name, role, bits, signed):
    quantizer = calibrated(name, role, bits, signed)
    with pytest.raises(TypeError, match=r"layer 'layer'.*floating-point.*int64"):
        quantizer(torch.ones(SHAPE, dtype=torch.int64))


@every_quantizer
def test_bypass_returns_the_input_itself(name, role, bits, signed):
    quantizer = calibrated(name, role, bits, signed)
    quantizer.enabled = False
    x = sample(role, signed)
    assert quantizer(x) is x


@every_quantizer
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3))
@settings(max_examples=5, deadline=None)
def test_any_scale_calibrates_finite_and_on_grid(name, role, bits, signed, seed, scale):
    x = sample(role, signed, seed=seed) * scale
    quantizer = make(name, role, bits)
    quantizer.observe_(x)
    x = x.requires_grad_()
    out = quantizer(x)
    assert bool(out.isfinite().all())
    assert quantizer.grid(x).contains(out)
    out.sum().backward()
    assert bool(x.grad.isfinite().all())


def _compiles(name, role, signed, bits):
    """How many graphs a quantizer takes for several bit-widths in turn."""
    quantizer = calibrated(name, role, bits[0], signed)
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(quantizer, backend=counter, fullgraph=True, dynamic=False)
    x = sample(role, signed, seed=1)
    for b in bits:
        quantizer.bits.fill_(b)
        expected = quantizer(x)
        assert torch.allclose(compiled(x), expected, rtol=1e-5, atol=1e-6)
    return counter.frame_count


WHOLE = sorted({(case.values[0], case.values[1], case.values[3]) for case in CASES})


@pytest.mark.parametrize(("name", "role", "signed"), WHOLE)
def test_compiles_once_for_all_bits(name, role, signed):
    torch._dynamo.reset()
    bits = [
        case.values[2] for case in CASES if (case.values[0], case.values[1], case.values[3]) == (name, role, signed)
    ]
    assert _compiles(name, role, signed, bits) == 1


@pytest.mark.parametrize(("name", "role", "signed"), WHOLE)
def test_compiled_gradients_are_the_eager_ones(name, role, signed):
    torch._dynamo.reset()
    bits = next(
        case.values[2]
        for case in reversed(CASES)
        if (case.values[0], case.values[1], case.values[3]) == (name, role, signed)
    )
    quantizer = calibrated(name, role, bits, signed)
    compiled = torch.compile(quantizer, backend="aot_eager", fullgraph=True)
    gradients = []
    for run in (quantizer, compiled):
        x = sample(role, signed, seed=1).requires_grad_()
        (run(x) * torch.linspace(-1, 1, x.numel()).reshape(SHAPE)).sum().backward()
        gradients.append([x.grad, *(p.grad.clone() for p in quantizer.parameters())])
        quantizer.zero_grad()
    for eager, traced in zip(*gradients, strict=True):
        assert torch.allclose(eager, traced, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS.names())
def test_a_model_keeps_its_float_keys(name):
    """The float checkpoint loads into the quantized model with exactly the quantizers' keys missing, and back."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.LazyLinear(2)
    )
    model(torch.zeros(1, 1, 6, 6))
    float_state = copy.deepcopy(model.state_dict())
    method, options = METHODS.get(name), OPTIONS.get(name, {})
    weight = method.weights and TensorSpec(method=name, bits=min(method.weights.supported_bits), options=options)
    read = method.activations and TensorSpec(method=name, bits=max(method.activations.supported_bits))
    apply_specs_(model, {layer: LayerSpec(policy=name, weight=weight, input=read) for layer in ("0", "3", "5")})
    missing, unexpected = model.load_state_dict(float_state, strict=False)
    assert not unexpected
    assert missing
    assert all("_quantizer." in key for key in missing)
    assert [key for key in model.state_dict() if "_quantizer." not in key] == list(float_state)


@quantizers_where(lambda name, role, bits, signed: role == "weight")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_weight_that_became_zero_stays_finite_and_on_its_grid(name, role, bits, signed, dtype):
    quantizer = calibrated(name, role, bits, signed, dtype=dtype)
    zero = torch.zeros(SHAPE, dtype=dtype)
    assert bool(quantizer(zero).isfinite().all())
    assert quantizer.grid(zero).contains(quantizer(zero))


@pytest.mark.parametrize("name", [n for n in METHODS.names() if _takes_channels(n)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_dead_filter_stays_about_zero(name, dtype):
    """Mid-rise grids have no level at zero: the other filters' step would make a constant of it."""
    bits = min(METHODS.get(name).weights.supported_bits)
    quantizer, w = make(name, "weight", bits, granularity="channel").to(dtype), sample("weight", True).to(dtype)
    w[2] = 0
    quantizer.observe_(w)
    out = quantizer(w).detach()
    assert bool(out.isfinite().all())
    assert float(out[2].abs().max()) < 1e-3 * float(out[0].abs().max())
