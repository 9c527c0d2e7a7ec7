import pytest
import torch
from torch import nn

from flatbit.analysis.mistakes import misread


class Says(nn.Module):
    """Answers with the column of x that it was told to read; in training mode it says 0."""

    def __init__(self, column):
        super().__init__()
        self.column = column
        self.dropout = nn.Dropout()

    def forward(self, x):
        answers = x[:, self.column].long() * (not self.dropout.training)
        return nn.functional.one_hot(answers, 4).float()


TRUTH = torch.tensor([0, 1, 2, 3, 0, 1])
FIRST = torch.tensor([0, 1, 3, 3, 1, 1])  # wrong at 2 and 4
SECOND = torch.tensor([0, 2, 3, 3, 0, 0])  # wrong at 1, 2 and 5


def batches(size):
    x = torch.stack([FIRST, SECOND], 1).float()
    return zip(x.split(size), TRUTH.split(size), strict=True)


@pytest.mark.parametrize("size", [1, 4, 6])
def test_keeps_what_either_gets_wrong(size):
    result = misread(Says(0), Says(1), batches(size))
    assert result.index.tolist() == [1, 2, 4, 5]
    assert result.labels.tolist() == [1, 2, 0, 1]
    assert result.first.tolist() == [1, 3, 1, 1]
    assert result.second.tolist() == [2, 3, 0, 0]
    assert result.num_samples == 6


def test_nothing_misread_is_an_empty_result():
    x = torch.stack([TRUTH, TRUTH], 1).float()
    result = misread(Says(0), Says(1), [(x, TRUTH)])
    assert len(result.index) == len(result.labels) == len(result.first) == len(result.second) == 0
    assert result.num_samples == 6


def test_modes_are_restored():
    first, second = Says(0).train(), Says(1).eval()
    misread(first, second, batches(6))
    assert all(m.training for m in first.modules())
    assert not any(m.training for m in second.modules())


def test_modes_are_restored_after_an_error():
    first, second = Says(0).train(), Says(7).train()
    with pytest.raises(IndexError):
        misread(first, second, batches(6))
    assert all(m.training for network in (first, second) for m in network.modules())


def test_the_random_state_is_left_alone():
    before = torch.get_rng_state()
    misread(Says(0), Says(1), batches(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_no_batches_is_an_error():
    with pytest.raises(ValueError, match="misread got no batches"):
        misread(Says(0), Says(1), [])
