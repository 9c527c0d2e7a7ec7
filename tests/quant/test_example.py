import pytest
import torch
from torch import nn

from flatbit.quant.example import example_of, multiplied, zero_image

NET = nn.Sequential(nn.Linear(4, 3, dtype=torch.float64), nn.Dropout())


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, left, right=None):
        return self.left(left) if right is None else self.left(left).sum() + self.right(right).sum()


@pytest.mark.parametrize(
    ("given", "macs"),
    [
        (torch.zeros(1, 4), {"left": 12}),
        ((torch.zeros(1, 4), torch.zeros(1, 4)), {"left": 12, "right": 8}),
        ({"right": torch.zeros(1, 4), "left": torch.zeros(1, 4)}, {"left": 12, "right": 8}),
    ],
)
def test_arguments_come_alone_in_a_tuple_or_by_name(given, macs):
    model = Sum()
    assert dict(multiplied(model, example_of(model, given)).macs) == macs


def test_an_image_has_the_dtype_of_the_model_and_its_words():
    example = zero_image(NET, (4,))
    assert (example.args[0].dtype, example.args[0].shape, example.of) == (torch.float64, (1, 4), "image (4,)")
    assert example_of(NET, torch.zeros(1, 2)).of == "input (1, 2) float32"


@pytest.mark.parametrize("shape", [4, "4", None])
def test_what_is_no_shape_is_named(shape):
    with pytest.raises(ValueError, match="expected the shape of one image"):
        zero_image(NET, shape)


def test_a_run_leaves_the_model_as_it_was_and_says_what_it_does_not_take(small, quantized, images):
    quantized(small).train()
    before = {key: value.clone() for key, value in small.state_dict().items()}
    multiplied(small, zero_image(small, (1, 8, 8)))
    assert small.training
    assert all(torch.equal(value, before[key]) for key, value in small.state_dict().items())
    with pytest.raises(ValueError, match=r"Sequential does not take one image of shape \(2,\) \(example=... takes"):
        multiplied(small, zero_image(small, (2,)))
