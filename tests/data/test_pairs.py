import numpy as np
import pytest
import torch

from flatbit.data.pairs import input_of, pair_of

X, Y = torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.long)


@pytest.mark.parametrize(
    "batch", [(X, Y), [X, Y], (X, Y[:, None]), (X[:0], Y[:0])], ids=lambda value: type(value).__name__
)
def test_a_pair_is_given_back(batch):
    x, y = pair_of(batch, "batch 0")
    assert (x is batch[0], y is batch[1]) == (True, True)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (X, "batch 0 is a Tensor, expected a pair of tensors"),
        ([X], "batch 0 is a list of 1, expected a pair"),
        ((X, Y, Y), "batch 0 is a tuple of 3, expected a pair"),
        ({"x": X, "more": Y}, "batch 0 is a dict of 'x', 'more': expected one input, and labels"),
        ((X, Y, Y), r"make one of it, such as \[\(batch\[0\], batch\[1\]\) for batch in batches\]"),
        (((X, X), Y), "batch 0 has a tuple of 2 for x, expected one tensor: several inputs go to the model as one"),
        (({"a": X}, Y), "batch 0 has a dict for x, expected one tensor: several inputs"),
        ("xy", "batch 0 is a str, expected a pair"),
        ((X.numpy(), np.zeros(2)), "a pair of ndarray and ndarray, expected tensors .*: convert with torch.as_tensor"),
        ((X, [0, 0]), "a pair of Tensor and list of 2"),
        ((X, Y[:1]), r"x of shape \(2, 3, 4, 4\) and y of shape \(1,\), expected a batch, one label for each input"),
        ((X[0], Y[0]), r"x of shape \(3, 4, 4\) and y of shape \(\), .* a single sample is x\[None\], y\[None\]"),
        ((X.sum(), Y.sum()), "expected a batch"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_is_named(batch, message):
    with pytest.raises(ValueError, match=message):
        pair_of(batch, "batch 0")


def test_names_make_a_pair_too():
    x, y = pair_of({"label": Y, "image": X}, "batch 0")
    assert (x is X, y is Y) == (True, True)


@pytest.mark.parametrize(
    "batch",
    [X, (X,), [X, Y], (X, Y, "more"), {"image": X}, {"image": X, "label": Y}],
    ids=lambda value: type(value).__name__,
)
def test_inputs_come_alone_or_first(batch):
    assert input_of(batch, "somebody") is X


@pytest.mark.parametrize(
    ("batch", "kind"),
    [
        ({"x": 1}, "int"),
        (((X, X), Y), "tuple of 2: several inputs go"),
        (None, "NoneType"),
        ((), "tuple of 0"),
        ((X.numpy(), Y), "ndarray"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_inputs_that_are_no_tensor_are_named(batch, kind):
    with pytest.raises(ValueError, match=rf"somebody expects batches of tensors \(x, \.\.\.\) or x, got {kind}"):
        input_of(batch, "somebody")
    with pytest.raises(ValueError, match="got a single number"):
        input_of(torch.tensor(1.0), "somebody")
