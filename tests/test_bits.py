import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flatbit.bits import MOST_BITS, num_bytes, packed_bits, unpacked_bits


@given(st.integers(1, MOST_BITS), st.integers(0, 40), st.integers(0, 2**32))
def test_what_is_packed_comes_back(bits, count, seed):
    numbers = torch.from_numpy(np.random.default_rng(seed).integers(0, 2**bits, count))
    data = packed_bits(numbers, bits)
    assert (data.dtype, data.shape) == (torch.uint8, (num_bytes(count, bits),))
    assert len(data) == math.ceil(count * bits / 8)
    assert torch.equal(unpacked_bits(data, bits, count), numbers)


@pytest.mark.parametrize(
    ("numbers", "bits", "data"),
    [
        ([1, 0, 1, 1, 0, 0, 0, 0, 1], 1, [0b00001101, 1]),
        ([1, 2, 3, 0, 1], 2, [0b00111001, 1]),
        ([5, 6, 7], 3, [0b11110101, 0b1]),  # 101, 110, 111 from the lowest bit up
        ([0x1234], 13, [0x34, 0x12]),
        ([0xFFFFFFFE], 32, [0xFE, 0xFF, 0xFF, 0xFF]),
    ],
)
def test_the_order_of_bits_is_the_documented_one(numbers, bits, data):
    assert packed_bits(torch.tensor(numbers), bits).tolist() == data
    stream = sum(number << (k * bits) for k, number in enumerate(numbers))
    assert int.from_bytes(bytes(data), "little") == stream


@pytest.mark.parametrize("numbers", [[4], [-1]])
def test_numbers_that_the_bits_do_not_hold_are_refused(numbers):
    with pytest.raises(ValueError, match=r"expected 0 to 3"):
        packed_bits(torch.tensor(numbers), 2)


@pytest.mark.parametrize("data", [torch.zeros(3, dtype=torch.uint8), torch.zeros(2), torch.zeros(1, 2).byte()])
def test_another_number_of_bytes_is_refused(data):
    with pytest.raises(ValueError, match=r"for 5 numbers of 3 bits: expected 2 bytes"):
        unpacked_bits(data, 3, 5)
