import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flatbit.quant.grid import Grid, midrise, midtread, twos_complement
from flatbit.quant.quantizer import Site
from flatbit.quant.quantizers.faq import FaqWeight
from flatbit.quant.quantizers.sqwa import SqwaWeight
from flatbit.quant.quantizers.uniq import UniqWeight
from flatbit.train.mean_grid import capacity, check_joins, mean_spec

SITE = Site(layer="conv1", role="weight")


def grid_of(levels, step=0.25):
    offset, low, high = levels
    return Grid(step=torch.as_tensor(step), offset=offset, low=low, high=high)


def own_grid(spec):
    """The grid that a spec's own quantizer has, at step 1."""
    quantizer = SqwaWeight(spec.bits, SITE, **spec.options)
    quantizer.set_state_("step", torch.tensor(1.0))
    return quantizer.grid(torch.zeros(1))


@pytest.mark.parametrize(("count", "bits"), [(1, 2), (3, 3), (7, 4), (15, 5), (31, 6)])
def test_ternary_captures_take_the_papers_bits(count, bits):
    spec = mean_spec(grid_of(midtread(2)), count)
    assert (spec.method, spec.bits, spec.granularity, spec.options) == ("sqwa", bits, "tensor", {"grid": "midtread"})


@pytest.mark.parametrize(
    ("count", "bits", "levels"), [(1, 1, "midrise"), (2, 2, "midtread"), (3, 2, "midrise"), (4, 3, "midtread"),
                                  (7, 3, "midrise"), (8, 4, "midtread"), (255, 8, "midrise")]
)  # fmt: skip
def test_binary_captures_have_one_level_more_than_captures(count, bits, levels):
    spec = mean_spec(grid_of(midrise(1)), count)
    assert (spec.bits, spec.options) == (bits, {"grid": levels})
    assert own_grid(spec).num_levels >= count + 1


@given(
    st.sampled_from([*map(midrise, range(1, 7)), *map(midtread, range(2, 7)), *map(twos_complement, range(2, 7))]),
    st.integers(1, 40),
)
def test_every_mean_is_a_level_and_one_bit_less_would_not_hold_them(levels, count):
    one = grid_of(levels, step=1.0)
    if count > capacity(one):
        assert count * max(abs(one.low + one.offset), one.high + one.offset) > 127
        return
    spec = mean_spec(one, count)
    fine = own_grid(spec)
    assert fine.contains(torch.tensor([count * (one.low + one.offset), count * (one.high + one.offset)]))
    assert fine.offset == count * one.offset % 1
    narrower = midrise(spec.bits - 1) if fine.offset else midtread(spec.bits - 1)
    assert narrower.high + fine.offset < count * max(-one.low - one.offset, one.high + one.offset)


def test_every_sum_of_three_two_bit_codes_is_held():
    one = grid_of(midrise(2), step=1.0)
    sums = {sum(codes) for codes in itertools.product(one.levels.tolist(), repeat=3)}
    assert own_grid(mean_spec(one, 3)).contains(torch.tensor(sorted(sums)))


@pytest.mark.parametrize(
    ("levels", "fit"), [(midrise(1), 255), (midtread(2), 127), (midrise(2), 85), (twos_complement(2), 63),
                        (midtread(8), 1), (midrise(8), 1), (midrise(4), 17)]
)  # fmt: skip
def test_capacity(levels, fit):
    one = grid_of(levels)
    assert capacity(one) == fit
    assert mean_spec(one, fit).bits <= 8
    assert mean_spec(one, fit + 1).bits > 8


def test_captures_on_one_grid_join_up_to_the_capacity():
    check_joins(SqwaWeight(2, SITE), grid_of(midtread(2)), grid_of(midtread(2)), 127)
    with pytest.raises(ValueError, match=r"weight of layer 'conv1': the average of 128 captures.*8 bits; 127 fit"):
        check_joins(SqwaWeight(2, SITE), grid_of(midtread(2)), grid_of(midtread(2)), 128)


@pytest.mark.parametrize(
    "moved", [grid_of(midtread(2), 0.25 * (1 + 1e-6)), grid_of(midtread(3)), grid_of(midrise(2)),
              grid_of(twos_complement(2))]
)  # fmt: skip
def test_a_grid_that_moved_is_refused(moved):
    with pytest.raises(ValueError, match=r"layer 'conv1': capture 2 has the grid 0\.250*\d* .*the first one 0\.25 \*"):
        check_joins(UniqWeight(2, SITE), moved, grid_of(midtread(2)), 2)


def test_a_step_that_moved_in_its_last_digit_is_refused():
    first, moved = (grid_of(midtread(2), torch.tensor(step, dtype=torch.float64)) for step in (0.25, 0.25 + 1e-15))
    with pytest.raises(ValueError, match="captures must share one"):
        check_joins(SqwaWeight(2, SITE), moved, first, 2)


def test_the_mend_fits_the_method():
    moved, first = grid_of(midtread(2), 0.5), grid_of(midtread(2))
    with pytest.raises(ValueError, match=r"learned and moved: .*fixed_weight_steps, or call .*freeze_weight_steps_"):
        check_joins(UniqWeight(2, SITE), moved, first, 2)
    with pytest.raises(ValueError, match=r"Method 'faq' computes its step from the weights.*sqwa, uniq, saq, lsq"):
        check_joins(FaqWeight(2, SITE), moved, first, 2)
