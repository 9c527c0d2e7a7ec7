import numpy as np
import pytest
import torch

from flatbit.data.arguments import check_sides, check_whole, per_channel


@pytest.mark.parametrize("value", ["3", 2.0, None, True, 1, -1, [2]])
def test_whole_numbers_are_at_least_so_much(value):
    check_whole("size", 2, 2)
    check_whole("size", np.int64(5), 2)
    with pytest.raises(ValueError, match=r"size=.*: expected a whole number, at least 2"):
        check_whole("size", value, 2)


@pytest.mark.parametrize("value", [64, "ab", (4,), (0, 10), [10, -1], (2.5, 3), ("4", "5"), (1, 2, 3), ()])
def test_sides_are_two_positive_whole_numbers(value):
    check_sides("crop", (4, 5))
    check_sides("crop", [4, 5])
    with pytest.raises(ValueError, match=r"crop=.*: expected \(height, width\), whole numbers of at least 1"):
        check_sides("crop", value)


@pytest.mark.parametrize("values", [0.5, "abc", "123", None, [], ["a"], [[0.5]], [float("nan")], [float("inf")]])
def test_numbers_per_channel_are_finite(values):
    assert per_channel("mean", [1, np.float64(0.5)]) == (1.0, 0.5)
    assert per_channel("mean", torch.tensor([0.5, 0.25])) == (0.5, 0.25)
    with pytest.raises(ValueError, match=r"mean=.*: expected a list of finite numbers, one of each per channel"):
        per_channel("mean", values)
