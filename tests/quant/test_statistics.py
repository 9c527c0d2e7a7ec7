import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flatbit.quant.statistics import group_mean, mean_magnitude, percentile, spread


def test_spread_is_the_unbiased_standard_deviation():
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64) + 1.5
    assert float(spread(x)) == pytest.approx(float(x.std()))
    assert torch.allclose(spread(x, (4, 1, 1, 1)).flatten(), x.flatten(1).std(dim=1))
    assert torch.allclose(spread(x, (1, 3, 1, 1)).flatten(), x.transpose(0, 1).flatten(1).std(dim=1))


def test_spread_of_a_constant_or_single_value_is_its_magnitude():
    assert float(spread(torch.full((5,), -2.0))) == 2.0
    assert float(spread(torch.tensor([3.0]))) == 3.0
    assert spread(torch.tensor([[1.0], [-4.0]]), (2, 1)).flatten().tolist() == [1.0, 4.0]


def test_a_dead_channel_says_zero_and_the_others_are_untouched():
    x = torch.tensor([[1.0, -1.0], [0.0, 0.0], [3.0, -3.0]])
    assert spread(x, (3, 1)).flatten().tolist() == pytest.approx([2**0.5, 0.0, 3 * 2**0.5])
    assert mean_magnitude(x, (3, 1)).flatten().tolist() == [1.0, 0.0, 3.0]


def test_group_mean_per_channel():
    x = torch.arange(12.0).reshape(2, 3, 2)
    assert group_mean(x, (2, 1, 1)).flatten().tolist() == [2.5, 8.5]
    assert float(group_mean(x)) == 5.5


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50), st.floats(0, 100))
def test_percentile_is_numpys_inverted_cdf(values, percent):
    found = float(percentile(torch.tensor(values), percent))
    assert found == np.float32(np.percentile(np.array(values, dtype=np.float32), percent, method="inverted_cdf"))


@pytest.mark.parametrize(("count", "rank"), [(1000, 999), (41_000, 40_959)])  # 40959.00000000001 in floating point
def test_percentile_is_exact_where_the_rank_is_whole(count, rank):
    assert float(percentile(torch.arange(1.0, count + 1), 99.9)) == rank


def test_percentile_of_the_whole_is_the_largest():
    x = torch.randn(1000)
    assert percentile(x, 100) == x.max()
    assert float((x <= percentile(x, 99.9)).float().mean()) >= 0.999


def test_half_precision_is_reduced_in_float32():
    x = torch.full((4096,), 0.1).half()
    assert float(mean_magnitude(x)) == pytest.approx(0.1, rel=1e-3)


def test_statistics_pass_no_gradient():
    x = torch.randn(20, requires_grad=True)
    assert not any(figure.requires_grad for figure in (spread(x), mean_magnitude(x), percentile(x, 50)))
