import torch
import torch.nn.functional as F
from torch import nn

from flatbit.data.batches import VOID
from flatbit.train.objective import cross_entropy


def test_cross_entropy_is_the_mean_negative_log_probability():
    x, y = torch.randn(6, 4, dtype=torch.double), torch.tensor([0, 1, 2, 3, 3, 0])
    loss, logits = cross_entropy(nn.Identity(), x, y)
    p = x.exp() / x.exp().sum(1, keepdim=True)
    torch.testing.assert_close(loss, -p[range(6), y].log().mean())
    assert logits is x


def test_gradient_is_probability_minus_label():
    x, y = torch.randn(5, 3, dtype=torch.double, requires_grad=True), torch.tensor([0, 1, 2, 1, 0])
    cross_entropy(nn.Identity(), x, y)[0].backward()
    expected = (x.softmax(1) - nn.functional.one_hot(y, 3)) / 5
    torch.testing.assert_close(x.grad, expected.detach())


def test_pixels_are_averaged_like_samples():
    x, y = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    loss, _ = cross_entropy(nn.Identity(), x, y)
    flat, _ = cross_entropy(nn.Identity(), x.permute(0, 2, 3, 1).reshape(-1, 3), y.reshape(-1))
    torch.testing.assert_close(loss, flat)


def test_void_pixels_do_not_count_and_nothing_else_is_no_nan():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    labels = torch.randint(3, (2, 4, 4))
    labels[0] = VOID
    loss, _ = cross_entropy(nn.Identity(), logits, labels)
    torch.testing.assert_close(loss, F.cross_entropy(logits[1:], labels[1:]))
    empty, _ = cross_entropy(nn.Identity(), logits, torch.full_like(labels, VOID))
    empty.backward()
    assert empty == 0
    assert (logits.grad == 0).all()


def test_label_255_of_a_classifier_counts():
    logits, labels = torch.randn(2, 300), torch.tensor([VOID, 3])
    torch.testing.assert_close(cross_entropy(nn.Identity(), logits, labels)[0], F.cross_entropy(logits, labels))
