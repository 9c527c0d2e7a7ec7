import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flatbit.metrics.finite import all_finite, bad_values

from ..no_waits import waits_of

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def tensors():
    """Of every floating type, some empty, some whole numbers, the largest values that there are among them."""
    floating = [torch.full((2, 3), torch.finfo(dtype).max, dtype=dtype) for dtype in DTYPES]
    return [*floating, torch.zeros(0), torch.ones(()), torch.tensor([True]), torch.arange(3)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, len(DTYPES) - 1), st.integers(0, 5), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_one_value_of_any_tensor_tells(which, place, bad):
    values = tensors()
    assert all_finite(values)
    values[which].flatten()[place] = bad
    assert not all_finite(values)
    assert all_finite(values[:which] + values[which + 1 :])
    assert bad_values(values[which]) == "1 of 6 NaN or infinite"


def test_what_holds_no_floating_value_is_finite():
    assert all_finite([])
    assert all_finite([torch.zeros(0), torch.arange(3)])
    assert bad_values(torch.arange(3)) == bad_values(torch.zeros(0)) == ""


@pytest.mark.parametrize("count", [1, 3, 100])
def test_one_look_whatever_there_is(count):
    assert len(waits_of(lambda: all_finite([torch.ones(3, requires_grad=True) for _ in range(count)]))) == 1
