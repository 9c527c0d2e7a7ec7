import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flatbit.quant import passes
from flatbit.quant.rounding import fake_quantize, fake_quantize_reference

GRIDS = [(0.5, -2, 1, "even_from_low"), (0.0, 0, 3, "even"), (0.0, 0, 255, "even"), (0.25, -1, 2, "even")]
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "sliced": lambda x: x[:, ::2],
    "transposed": lambda x: x.transpose(0, 3),
    "expanded": lambda x: x[:, :1].expand(-1, 5, -1, -1),
}


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 16 elements from 64 on."""
    monkeypatch.setattr(passes, "LARGE", 64)
    monkeypatch.setattr(passes, "PASS", 16)


def values(seed: int, shape: tuple[int, ...], layout: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return LAYOUTS[layout](torch.randn(shape, generator=generator, dtype=dtype) * 3)


shapes = st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("layout", LAYOUTS)
@given(seed=st.integers(0, 1000), shape=shapes, step=st.floats(0.01, 2.0), grid=st.sampled_from(GRIDS))
@settings(max_examples=40, deadline=None)
def test_values_in_blocks_are_the_definition_to_the_bit(layout, seed, shape, step, grid):
    offset, low, high, ties = grid
    x = values(seed, shape, layout)
    found, defined = (
        face(x, torch.tensor(step), offset, low, high, surrogate="learned", ties=ties)
        for face in (fake_quantize, fake_quantize_reference)
    )
    assert torch.equal(found, defined)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("surrogate", ["identity", "clip", "learned", "residual"])
@pytest.mark.parametrize("layout", LAYOUTS)
@given(seed=st.integers(0, 1000), shape=shapes, grid=st.sampled_from(GRIDS))
@settings(max_examples=20, deadline=None)
def test_gradients_in_blocks_are_the_definition(surrogate, layout, seed, shape, grid):
    offset, low, high, ties = grid
    x = values(seed, shape, layout, torch.float64).requires_grad_()
    step = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    outputs = [
        face(x, step, offset, low, high, surrogate=surrogate, ties=ties)
        for face in (fake_quantize, fake_quantize_reference)
    ]
    g = values(seed + 1, shape, layout, torch.float64)
    found, defined = (torch.autograd.grad(out, [x, step], g, allow_unused=True) for out in outputs)
    for one, other in zip(found, defined, strict=True):
        if other is not None and one is not None:
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
        else:
            assert one is None or not one.any()
            assert other is None or not other.any()


@pytest.mark.usefixtures("small_blocks")
def test_blocks_serve_large_dense_tensors_of_one_layout_and_single_numbers():
    x, one = torch.zeros(4, 6, 4, 4), torch.tensor(1.0)
    last = x.contiguous(memory_format=torch.channels_last)
    assert passes.large(x, x, one, 0.5, torch.tensor(2.0))
    assert passes.large(last, last, one)
    assert not passes.large(x[:1, :, :1], x[:1, :, :1], one)  # small
    assert not passes.large(x, last, one)
    assert not passes.large(x[:, ::2], x[:, ::2], one)
    assert not passes.large(x[:, :1].expand(-1, 6, -1, -1), x[:, :1].expand(-1, 6, -1, -1), one)
    assert not passes.large(x, x, torch.ones(6, 1, 1))
    assert not passes.large(x.to("meta"), x.to("meta"), one)
    assert [len(part) for part, _ in passes.blocks(last[:1], last[:1])] == [16] * 6


def test_a_large_tensor_without_a_step_gradient_keeps_its_gradient_to_x():
    x = torch.randn(passes.LARGE + 3).requires_grad_()
    out = fake_quantize(x, torch.tensor(0.5), 0.0, 0, 3, surrogate="clip")
    out.sum().backward()
    assert torch.equal(x.grad, ((x > 0) & (x < 1.5)).float())
