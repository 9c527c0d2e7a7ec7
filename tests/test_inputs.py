import pytest
import torch

from flatbit.inputs import input_of


def test_the_first_of_a_batch_or_the_batch_itself():
    x = torch.ones(2)
    assert input_of(x, "it") is input_of((x, 1), "it") is input_of([x], "it") is x


@pytest.mark.parametrize("batch", [{"x": 1}, (), "x", ((1, 2), 3)])
def test_what_is_no_tensor_is_named(batch):
    with pytest.raises(ValueError, match=r"it expects batches of tensors \(x, \.\.\.\) or x, got"):
        input_of(batch, "it")
