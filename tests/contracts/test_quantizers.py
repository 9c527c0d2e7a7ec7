"""The contract of every quantizer: registering one is enough to be held to it."""

import copy
import importlib
import inspect
import io
import pkgutil

import pytest
import torch
import torch._dynamo.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from flatbit.quant import quantizers as folder
from flatbit.quant.convert import apply_specs_
from flatbit.quant.policy import POLICIES
from flatbit.quant.presets import policy
from flatbit.quant.quantizer import Quantizer
from flatbit.quant.quantizers import METHODS
from flatbit.quant.rounding import fake_quantize_reference
from flatbit.quant.spec import LayerSpec, TensorSpec

from .cases import (
    CASES,
    SHAPE,
    calibrated,
    class_of,
    each_tensor,
    every_quantizer,
    follows,
    has_state,
    is_symmetric,
    make,
    quantizers_where,
    sample,
    state_of,
    transforms,
    widths,
)

WEIGHTS = [name for name in METHODS.names() if METHODS.get(name).weights is not None]
PER_CHANNEL = [name for name in WEIGHTS if "channel" in class_of(name, "weight").granularities]


def test_each_file_registers_its_method_by_its_own_name_or_conventions_of_others():
    for file in pkgutil.iter_modules(folder.__path__):
        module = importlib.import_module(f"{folder.__name__}.{file.name}")
        classes = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
        quantizers = {c for c in classes if issubclass(c, Quantizer)}
        conventions = [name for name in POLICIES.names() if POLICIES.get(name).__module__ == module.__name__]
        assert quantizers or conventions
        if quantizers:
            method = METHODS.get(file.name)
            assert {method.weights, method.activations} - {None} == quantizers
            assert all(made.method == file.name for made in quantizers)


def test_the_suites_cover_every_method_that_is_registered():
    assert {case.values[0] for case in CASES} == set(METHODS.names())


@pytest.mark.parametrize("name", [name for name in METHODS.names() if METHODS.get(name).public])
def test_a_method_is_a_policy_whose_first_and_last_layers_it_has(name):
    """Its own convention, or 8 bits there, or the most that it has."""
    method = METHODS.get(name)
    weights = 32 if method.weights is None else max(method.weights.supported_bits)
    activations = 32 if method.activations is None else max(method.activations.supported_bits)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    specs = policy(name, weights=weights, activations=activations).resolve(model)
    apply_specs_(model, {name: spec for name, spec in specs.items() if spec})  # raises for a width that it has not
    assert any(spec.tensors for spec in specs.values())


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
    assert quantizer.stated_bits == bits
    assert float(quantizer.width().detach()) == quantizer.bit_width()
    assert len(grid.levels) == grid.num_levels


@quantizers_where(lambda quantizer, x: not transforms(quantizer))
def test_is_idempotent(name, role, bits, signed):
    """But for those that transform their weight first: a second pass would transform again."""
    quantizer = calibrated(name, role, bits, signed)
    x = sample(role, signed, seed=1)
    once, grid = quantizer(x), quantizer.grid(x)  # where the step follows the weight: the first pass' for both
    twice = fake_quantize_reference(
        once, grid.step, grid.offset, grid.low, grid.high, surrogate="identity", ties=quantizer.ties
    )
    assert torch.equal(once, twice)
    assert follows(quantizer, x) or torch.equal(once, quantizer(once))


@every_quantizer
def test_is_monotone(name, role, bits, signed):
    quantizer = calibrated(name, role, bits, signed)
    out = quantizer(sample(role, signed, seed=2).flatten().sort().values.reshape(SHAPE))
    assert bool((out.flatten().diff() >= 0).all())


@pytest.mark.parametrize("name", PER_CHANNEL)
def test_is_monotone_in_each_channel(name):
    quantizer = calibrated(name, "weight", min(class_of(name, "weight").supported_bits), True, granularity="channel")
    out = quantizer(sample("weight", True, seed=2).flatten(1).sort(1).values.reshape(SHAPE))
    assert bool((out.flatten(1).diff(dim=1) >= 0).all())


@quantizers_where(is_symmetric)
def test_is_odd_where_the_grid_is_symmetric(name, role, bits, signed):
    quantizer = calibrated(name, role, bits, signed)
    x = sample(role, True, seed=3)
    x = x - x.mean()  # which a transform may subtract
    assert torch.allclose(quantizer(-x), -quantizer(x), rtol=1e-5, atol=1e-6)


@every_quantizer
def test_error_inside_the_range_is_at_most_half_a_step(name, role, bits, signed):
    quantizer = calibrated(name, role, bits, signed)
    x = sample(role, signed, seed=4)
    grid, rounded = quantizer.grid(x), quantizer.transform(x).detach()
    inside = (rounded > grid.step * (grid.low + grid.offset)) & (rounded < grid.step * (grid.high + grid.offset))
    error = ((quantizer(x).detach() - rounded).abs() / grid.step)[inside.expand_as(x)]
    assert error.numel() == 0 or float(error.max()) <= 0.5 + 1e-4


@quantizers_where(lambda quantizer, x: not transforms(quantizer) and not follows(quantizer, x))
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


@every_quantizer
def test_autograd_is_the_stated_surrogate(name, role, bits, signed):
    """The surrogate of the docstring, written out again over what the quantizer says of itself."""
    quantizer = calibrated(name, role, bits, signed, dtype=torch.float64)
    x = sample(role, signed, seed=8, dtype=torch.float64).requires_grad_()
    weights = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    v = quantizer.limit(quantizer.transform(x))
    codes = quantizer.code_range(v)
    step = quantizer.step_of(v, codes)
    offset, low, high = quantizer.shifted(codes, step)
    with torch.no_grad():
        inside = (v > step * (low + offset)) & (v < step * (high + offset))
        code = quantizer(x) / step - offset
        residual = code + offset - v / step
    bound = step * (code + offset)
    surrogate = {
        "identity": v,
        "clip": torch.where(inside, v, bound),
        "learned": torch.where(inside, v + step * residual, bound),
        "residual": v + step * residual,
    }[quantizer.surrogate]
    found, expected = (
        torch.autograd.grad((value * weights).sum(), [x, *quantizer.parameters()], allow_unused=True)
        for value in (quantizer(x), surrogate)
    )
    assert (found[0] != 0).any()
    for mine, stated in zip(found, expected, strict=True):
        assert (mine is None and stated is None) or torch.allclose(mine, stated, rtol=1e-8, atol=1e-10)


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


@quantizers_where(has_state)
def test_what_was_never_set_raises_and_names_the_call(name, role, bits, signed):
    """All of it, a piece of it, or after a reset: never NaN in silence."""
    with pytest.raises(RuntimeError, match=r"layer 'layer'.*calibrate_"):
        make(name, role, bits)(sample(role, signed))
    quantizer = calibrated(name, role, bits, signed)
    quantizer(sample(role, signed))
    for state in state_of(quantizer).values():
        kept = state.detach().clone()
        with torch.no_grad():
            state.fill_(float("nan"))
        with pytest.raises(RuntimeError, match=r"layer 'layer'.*calibrate_"):
            quantizer(sample(role, signed))
        with torch.no_grad():
            state.copy_(kept)
        quantizer(sample(role, signed))
    quantizer.reset_()
    assert not quantizer.calibrated
    with pytest.raises(RuntimeError, match=r"layer 'layer'.*calibrate_"):
        quantizer(sample(role, signed))


@every_quantizer
def test_state_may_come_by_copying_tensors(name, role, bits, signed):
    source, target = calibrated(name, role, bits, signed), make(name, role, bits)
    with torch.no_grad():
        for key, tensor in target.state_dict().items():
            tensor.copy_(source.state_dict()[key])
    x = sample(role, signed, seed=1)
    assert torch.equal(target(x), source(x))


@every_quantizer
@pytest.mark.parametrize("exponential", [False, True])
def test_torchs_own_averages_keep_the_widths_and_the_sign(name, role, bits, signed, exponential):
    quantizer = calibrated(name, role, bits, signed)
    x = sample(role, signed, seed=1)
    average = AveragedModel(quantizer, avg_fn=get_ema_avg_fn(0.9995) if exponential else None, use_buffers=True)
    for _ in range(20):
        average.update_parameters(quantizer)
    grid, expected = average.module.grid(x), quantizer.grid(x)
    assert (grid.low, grid.high, grid.offset) == (expected.low, expected.high, pytest.approx(expected.offset, abs=1e-3))
    assert torch.allclose(grid.step, expected.step, rtol=1e-3)
    assert average.module.bit_width() == quantizer.bit_width()


@every_quantizer
@pytest.mark.parametrize("table", [False, True])
def test_vmap_over_stacked_quantizers_is_each_of_them(name, role, bits, signed, table):
    candidates = widths(name, role, signed) if table else ()
    quantizers = [calibrated(name, role, bits, signed, candidates=candidates) for _ in range(2)]
    with torch.no_grad():
        for state in state_of(quantizers[1]).values():
            state.mul_(2)
    x = sample(role, signed, seed=1)
    parameters, buffers = torch.func.stack_module_state(quantizers)
    base = copy.deepcopy(quantizers[0]).to("meta")
    run = lambda p, b: torch.func.functional_call(base, (p, b), (x,))  # noqa: E731
    stacked = torch.func.vmap(run)(parameters, buffers)
    for out, quantizer in zip(stacked, quantizers, strict=True):
        assert torch.allclose(out, quantizer(x), rtol=1e-6, atol=1e-7)


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
    assert half.stated_bits == bits


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


@each_tensor
def test_assigned_widths_scale_the_step_by_the_ratio_of_unit_steps_and_back(name, role, signed):
    first = widths(name, role, signed)[-1]
    quantizer, x = calibrated(name, role, first, signed), sample(role, signed, seed=1)
    states = {id(state) for state in state_of(quantizer).values()}
    for bits in widths(name, role, signed):
        before = {key: state.detach().clone() for key, state in state_of(quantizer).items()}
        ratio = quantizer.unit_step(bits) / quantizer.unit_step(first)
        quantizer.assign_(bits)
        assert (quantizer.stated_bits, quantizer.bit_width()) == (bits, bits)
        assert quantizer.grid(x).num_levels <= 2**bits
        assert quantizer.grid(x).contains(quantizer(x))
        if type(quantizer).assign_ is Quantizer.assign_:
            for key, state in state_of(quantizer).items():
                expected = before[key] * (ratio if key in quantizer.scaled_state() else 1)
                assert torch.allclose(state, expected, rtol=1e-6)
        quantizer.assign_(first)
        for key, state in state_of(quantizer).items():
            assert torch.allclose(state, before[key], rtol=1e-6)
    assert {id(state) for state in state_of(quantizer).values()} == states


@each_tensor
def test_a_width_that_it_does_not_have_changes_nothing(name, role, signed):
    quantizer = calibrated(name, role, widths(name, role, signed)[0], signed)
    before = {key: tensor.clone() for key, tensor in quantizer.state_dict().items()}
    for bits in [b for b in (0, *range(1, 9), 33) if b not in widths(name, role, signed)]:
        with pytest.raises(ValueError, match=rf"of layer 'layer'.*{bits}"):
            quantizer.assign_(bits)
    for key, tensor in quantizer.state_dict().items():
        assert torch.equal(tensor, before[key])


@each_tensor
def test_with_candidates_each_width_has_the_step_of_a_quantizer_of_its_own(name, role, signed):
    candidates = widths(name, role, signed)
    quantizer = calibrated(name, role, candidates[0], signed, candidates=candidates)
    x = sample(role, signed, seed=1)
    assert all(len(state) == len(candidates) for state in state_of(quantizer).values())
    assert quantizer.stated_bits == candidates[0]
    for bits in (*candidates, *reversed(candidates)):
        quantizer.assign_(bits)
        alone = calibrated(name, role, bits, signed)
        assert torch.equal(quantizer(x), alone(x))
        assert quantizer.num_steps == alone.num_steps
        out = quantizer(x.requires_grad_())
        quantizer.zero_grad()
        (out * torch.linspace(-1, 1, x.numel()).reshape(SHAPE)).sum().backward()
        row = candidates.index(bits)
        for parameter in quantizer.parameters():
            used = parameter.grad.reshape(len(candidates), -1).any(1)
            assert not used[[i for i in range(len(candidates)) if i != row]].any()
    outside = next(b for b in range(9, 0, -1) if b not in candidates)
    with pytest.raises(ValueError, match=rf"of layer 'layer'.*got {outside}|no {outside} bit"):
        quantizer.assign_(outside)


def _compiles(name, role, signed, bits, candidates=()):
    """How many graphs a quantizer takes for several bit-widths in turn."""
    quantizer = calibrated(name, role, bits[0], signed, candidates=candidates)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(quantizer, backend=counter, fullgraph=True, dynamic=False)
    x = sample(role, signed, seed=1)
    for b in bits:
        quantizer.assign_(b)
        expected = quantizer(x)
        assert torch.allclose(compiled(x), expected, rtol=1e-5, atol=1e-6)
    return counter.frame_count


@each_tensor
@pytest.mark.parametrize("table", [False, True])
def test_compiles_once_for_all_bits(name, role, signed, table):
    torch._dynamo.reset()
    bits = widths(name, role, signed)
    assert _compiles(name, role, signed, bits, bits if table else ()) == 1


@each_tensor
def test_compiled_gradients_are_the_eager_ones(name, role, signed):
    torch._dynamo.reset()
    quantizer = calibrated(name, role, widths(name, role, signed)[-1], signed)
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
    method = METHODS.get(name)
    tensors = {}
    if method.weights is not None:
        tensors["weight"] = TensorSpec(method=name, bits=min(method.weights.supported_bits))
    if method.activations is not None:
        tensors["input"] = TensorSpec(method=name, bits=max(method.activations.supported_bits))
    apply_specs_(model, {layer: LayerSpec(policy=name, tensors=tensors) for layer in ("0", "3", "5")})
    missing, unexpected = model.load_state_dict(float_state, strict=False)
    assert not unexpected
    assert missing
    assert all("_quantizer." in key for key in missing)
    assert [key for key in model.state_dict() if "_quantizer." not in key] == list(float_state)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_weight_that_became_zero_stays_finite_and_on_its_grid(name, dtype):
    for bits in widths(name, "weight", True):
        quantizer = calibrated(name, "weight", bits, True, dtype=dtype)
        zero = torch.zeros(SHAPE, dtype=dtype)
        assert bool(quantizer(zero).isfinite().all())
        assert quantizer.grid(zero).contains(quantizer(zero))


@pytest.mark.parametrize("name", PER_CHANNEL)
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
