import pytest
import torch
import torch.nn.functional as F
from torch import nn

import flatbit as fb
from flatbit.data.batches import VOID
from flatbit.train.losses import weighted_sum
from flatbit.train.losses.labels import CrossEntropy, cross_entropy


def test_cross_entropy_is_the_mean_negative_log_probability():
    x, y = torch.randn(6, 4, dtype=torch.double), torch.tensor([0, 1, 2, 3, 3, 0])
    p = x.exp() / x.exp().sum(1, keepdim=True)
    torch.testing.assert_close(cross_entropy(x, y), -p[range(6), y].log().mean())


def test_gradient_is_probability_minus_label():
    x, y = torch.randn(5, 3, dtype=torch.double, requires_grad=True), torch.tensor([0, 1, 2, 1, 0])
    cross_entropy(x, y).backward()
    expected = (x.softmax(1) - nn.functional.one_hot(y, 3)) / 5
    torch.testing.assert_close(x.grad, expected.detach())


def test_pixels_are_averaged_like_samples():
    x, y = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    flat = cross_entropy(x.permute(0, 2, 3, 1).reshape(-1, 3), y.reshape(-1))
    torch.testing.assert_close(cross_entropy(x, y), flat)


def test_void_pixels_do_not_count_and_nothing_else_is_no_nan():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    labels = torch.randint(3, (2, 4, 4))
    labels[0] = VOID
    torch.testing.assert_close(cross_entropy(logits, labels), F.cross_entropy(logits[1:], labels[1:]))
    empty = cross_entropy(logits, torch.full_like(labels, VOID))
    empty.backward()
    assert empty == 0
    assert (logits.grad == 0).all()


def test_label_255_of_a_classifier_counts():
    logits, labels = torch.randn(2, 300), torch.tensor([VOID, 3])
    torch.testing.assert_close(cross_entropy(logits, labels), F.cross_entropy(logits, labels))


def test_the_term_is_the_function_and_leaves_its_weight_to_the_sum():
    model, x, y = nn.Linear(4, 3), torch.randn(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])
    logits = model(x)
    expected = F.cross_entropy(logits, y)
    assert CrossEntropy(weight=0.3)(model, x, y, logits) == expected
    loss, (value,) = weighted_sum([CrossEntropy(weight=0.3)], model, x, y, logits)
    assert (loss, value) == (0.3 * expected, expected)


def test_the_weight_of_one_changes_no_bit():
    model, x, y = nn.Linear(4, 3), torch.randn(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])
    loss, _ = weighted_sum([CrossEntropy()], model, x, y, model(x))
    assert torch.equal(loss, F.cross_entropy(model(x), y))


def test_it_asks_no_other_network():
    term = CrossEntropy()
    assert term.teachers() == ()
    assert term.bound(None) is term
    term.check(nn.Identity())


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf"), "1", None])
def test_a_weight_that_cannot_act_is_refused(weight):
    with pytest.raises(ValueError, match=r"cross_entropy weight=.*: expected a positive number; without it leave"):
        CrossEntropy(weight=weight)


def test_these_are_what_the_package_offers():
    assert fb.train.cross_entropy is cross_entropy
    assert fb.train.losses.LOSSES.get("cross_entropy") is CrossEntropy


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.uint16])
def test_labels_of_any_whole_number_give_the_same_loss(dtype):
    logits, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 3, 0])
    assert cross_entropy(logits, y.to(dtype)) == cross_entropy(logits, y)
    assert cross_entropy(logits, y[:, None].to(dtype)) == cross_entropy(logits, y)
    masks = torch.randint(4, (2, 1, 5, 5))
    logits = torch.randn(2, 4, 5, 5)
    assert cross_entropy(logits, masks.to(dtype)) == cross_entropy(logits, masks[:, 0])


def test_void_is_void_in_uint8_and_minus_one_is_not_in_int8():
    logits, y = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    y[0] = VOID
    assert cross_entropy(logits, y.to(torch.uint8)) == cross_entropy(logits, y)
    with pytest.raises(IndexError, match="Target -1 is out of bounds"):
        cross_entropy(logits, torch.full((2, 4, 4), -1, dtype=torch.int8))


def test_no_label_of_a_classifier_is_left_out():
    with pytest.raises(IndexError, match="Target -100 is out of bounds"):
        cross_entropy(torch.randn(2, 3), torch.tensor([1, -100]))


@pytest.mark.parametrize("y", [torch.zeros(4), torch.eye(3)[[0, 1, 2, 0]], torch.ones(4, 3) / 3])
def test_labels_that_are_floats_are_refused_by_name(y):
    with pytest.raises(ValueError, match=r"cross_entropy: the model: labels are torch\.float32, expected whole"):
        cross_entropy(torch.zeros(4, 3), y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float(dtype):
    logits = (20 * torch.randn(2, 5, 100, 100)).to(dtype)
    y = torch.randint(5, (2, 100, 100))
    torch.testing.assert_close(cross_entropy(logits, y), cross_entropy(logits.float(), y), rtol=0, atol=0)
    flat = logits.movedim(1, -1).reshape(-1, 5)
    torch.testing.assert_close(
        cross_entropy(flat, y.flatten()), cross_entropy(flat.float(), y.flatten()), rtol=0, atol=0
    )
