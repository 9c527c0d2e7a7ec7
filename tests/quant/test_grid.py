import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flatbit.quant.grid import (
    Grid,
    choose,
    midrise,
    midtread,
    twos_complement,
    unsigned,
)

bits_1_to_8 = pytest.mark.parametrize("bits", range(1, 9))


@bits_1_to_8
@pytest.mark.parametrize(
    ("make", "levels"),
    [
        (midrise, lambda b: [k + 0.5 for k in range(-(2 ** (b - 1)), 2 ** (b - 1))]),
        (midtread, lambda b: list(range(1 - 2 ** (b - 1), 2 ** (b - 1)))),
        (unsigned, lambda b: list(range(2**b))),
        (twos_complement, lambda b: list(range(-(2 ** (b - 1)), 2 ** (b - 1)))),
    ],
)
def test_levels_at_every_bit_width(make, levels, bits):
    offset, low, high = make(bits)
    assert [k + offset for k in range(low, high + 1)] == levels(bits)
    as_tensors = make(torch.tensor(bits))
    assert [float(v) for v in as_tensors] == [offset, low, high]


def test_choose_by_bool_and_by_tensor():
    assert choose(True, midrise(2), unsigned(2)) == midrise(2)
    assert choose(False, midrise(2), unsigned(2)) == unsigned(2)
    for condition in (True, False):
        chosen = choose(torch.tensor(condition), midrise(3), unsigned(3))
        assert [float(v) for v in chosen] == [float(v) for v in choose(condition, midrise(3), unsigned(3))]


def grid(step=0.25, offset=0.5, low=-2, high=1) -> Grid:
    return Grid(step=torch.tensor(step), offset=offset, low=low, high=high)


def test_value_and_codes_by_hand():
    g = grid()
    assert g.value(torch.tensor([-2, -1, 0, 1])).tolist() == [-0.375, -0.125, 0.125, 0.375]
    assert g.codes(torch.tensor([0.375, -0.375])).tolist() == [1, -2]
    assert g.levels.tolist() == [-0.375, -0.125, 0.125, 0.375]
    assert (g.num_levels, g.bits) == (4, 2)


@given(step=st.floats(1e-6, 1e6), offset=st.sampled_from([0.0, 0.5]), bits=st.integers(1, 8), double=st.booleans())
def test_codes_round_trip_at_any_step(step, offset, bits, double):
    dtype = torch.float64 if double else torch.float32
    g = Grid(step=torch.tensor(step, dtype=dtype), offset=offset, low=-(2 ** (bits - 1)), high=2 ** (bits - 1) - 1)
    codes = torch.arange(g.low, g.high + 1, dtype=torch.int32)
    assert torch.equal(g.codes(g.value(codes)), codes)
    assert g.contains(g.value(codes))
    assert not g.contains(g.value(codes) + 0.3 * g.step)


def test_one_step_per_channel():
    g = Grid(step=torch.tensor([0.1, 1.0]).reshape(2, 1), offset=0.0, low=-1, high=1)
    codes = torch.tensor([[1, 0, -1], [-1, 1, 0]], dtype=torch.int32)
    assert torch.equal(g.codes(g.value(codes)), codes)
    assert g.levels.shape == (3, 2, 1)
    assert "x2" in str(g)


def test_values_off_the_grid_are_refused_with_an_example():
    with pytest.raises(ValueError, match=r"1 of 2 values are not on the grid.*such as 0\.2"):
        grid().codes(torch.tensor([0.125, 0.2]))
    assert not grid().contains(torch.tensor([0.125, 0.2]))
    assert not grid().contains(torch.tensor([0.625]))  # a level of the pattern, but above the highest
    assert not grid().contains(torch.tensor([float("nan")]))


@pytest.mark.parametrize(("low", "high", "bits"), [(0, 1, 1), (-1, 1, 2), (-3, 3, 3), (0, 255, 8), (0, 0, 1)])
def test_bits_hold_every_code(low, high, bits):
    assert grid(low=low, high=high).bits == bits


def test_half_precision_values_are_matched_after_rounding():
    g = grid(step=0.1, offset=0.0, low=-8, high=7)
    values = g.levels.bfloat16()
    assert g.contains(values)
    assert g.codes(values).tolist() == list(range(-8, 8))
    assert not g.contains(values + 0.05)
