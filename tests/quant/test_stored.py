import pytest
import torch
from torch import nn

from flatbit.quant.stored import is_counter, stored_buffers


@pytest.mark.parametrize(
    ("tensor", "counts"),
    [
        (torch.tensor(3), True),
        (torch.tensor(True), True),
        (torch.tensor(3.0), False),
        (torch.tensor([3]), False),
        (torch.tensor(1j), False),
    ],
)
def test_a_counter_is_one_whole_number(tensor, counts):
    assert is_counter(tensor) == counts


def test_of_a_norm_the_statistics():
    assert [b.shape for b in stored_buffers(nn.BatchNorm2d(3))] == [(3,), (3,)]


def test_tables_of_whole_numbers_count_and_what_is_not_in_the_state_does_not():
    module = nn.Module()
    module.register_buffer("index", torch.arange(4))
    module.register_buffer("made anew", torch.ones(3), persistent=False)
    module.register_buffer("none", None)
    assert [b.tolist() for b in stored_buffers(module)] == [[0, 1, 2, 3]]
