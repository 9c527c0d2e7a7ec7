import pytest
import torch
from torch import nn

from flatbit.inputs import check_one_input


def net(forward):
    return type("Net", (nn.Module,), {"forward": forward})()


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(2, 2),
        net(lambda self, x: x),
        net(lambda self, x, mask=None: x),
        net(lambda self, *inputs: inputs[0]),
        net(lambda self, x, *, scale: x),
        net(lambda self: 1),
        torch.nn.DataParallel(nn.Linear(2, 2)),
    ],
)
def test_models_that_can_be_called_with_one_tensor_pass(model):
    check_one_input(model, "evaluate")


def test_others_are_named_with_their_arguments_and_the_wrapper():
    with pytest.raises(ValueError, match=r"evaluate: Net needs tokens, mask, expected one input: several inputs go to"):
        check_one_input(net(lambda self, tokens, mask, scale=1: tokens), "evaluate")


def test_the_wrapper_that_the_error_names_works():
    class Wrapper(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(*x.unbind(1))

    a, b = torch.randn(3, 2), torch.randn(3, 2)
    model = Wrapper(net(lambda self, left, right: left - right))
    check_one_input(model, "evaluate")
    assert torch.equal(model(torch.stack([a, b], 1)), a - b)
