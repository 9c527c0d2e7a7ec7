import gc

import pytest
import torch
import torch.nn.functional as F

from flatbit.quant.quantizers.uniq import UniqWeight
from flatbit.quant.site import Site
from flatbit.quant.tracking import Tracking

A, B = (UniqWeight(2, Site(layer=name, role="weight")) for name in "ab")


def made(operation):
    """Who made what an operation returns, by letter; None for nobody. Both operands are of shape (2, 4, 4)."""
    tracking, a, b = Tracking(), torch.rand(2, 4, 4), torch.rand(2, 4, 4)
    with tracking:
        tracking.begin(A, a)
        tracking.begin(B, b)
        sources = tracking.of(operation(a, b))
    return None if sources is None else "".join(sorted(quantizer.site.layer for quantizer in sources))


def filled(a, b):
    room = torch.empty(4, 4, 4)
    room[:2], room[2:] = a, b
    return room


def written(value):
    def change(a, b):
        a[0] = value(a, b)
        return b.new_zeros(2, 4, 4).copy_(a)

    return change


def into(out):
    def change(a, b):
        torch.mul(a, 2.0, out=out)
        return out

    return change


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (lambda a, b: a, "a"),
        (lambda a, b: a.reshape(-1)[3:].view(-1), "a"),
        (lambda a, b: a.transpose(1, 2).contiguous(), "a"),
        (lambda a, b: torch.cat([a, b]), "ab"),
        (lambda a, b: torch.maximum(a, b), "ab"),
        (lambda a, b: torch.where(a > b, a, b), "ab"),
        (lambda a, b: torch.where(a > b, a, 0.0), "a"),
        (lambda a, b: torch.where(a > b, a, torch.tensor(0.0)), "a"),
        (lambda a, b: a.masked_fill(b > 0.5, 0.0), "a"),
        (lambda a, b: a.masked_fill(b > 0.5, 0.3), None),
        (lambda a, b: torch.where(a > b, a, 0.5), None),
        (lambda a, b: torch.where(a > b, a, torch.tensor(0.5)), None),
        (lambda a, b: F.pad(a, (1, 1), value=0.5), None),
        (lambda a, b: a.amax(1), "a"),
        (lambda a, b: a.max(1).values, "a"),
        (lambda a, b: a.sort().values, "a"),
        (lambda a, b: a[a > 0.5], "a"),
        (lambda a, b: a.index_select(0, torch.tensor([1])), "a"),
        (lambda a, b: a.double(), "a"),
        (lambda a, b: F.max_pool2d(a, 2), "a"),
        (lambda a, b: F.adaptive_max_pool2d(a, 2), "a"),
        (lambda a, b: F.pad(a, (1, 1)), "a"),
        (lambda a, b: F.relu(a), "a"),
        (lambda a, b: F.relu_(a), "a"),
        (lambda a, b: F.max_unpool2d(*F.max_pool2d(a, 2, return_indices=True), 2), "a"),
        (lambda a, b: a.fill_(0), "a"),
        (lambda a, b: torch.cat([a, (b > 0.5).float()]), None),
        (lambda a, b: torch.zeros_like(a).index_put((torch.tensor([0, 0]),), a, accumulate=True), None),
        (filled, "ab"),
        (written(lambda a, b: b[1]), "ab"),
        (lambda a, b: torch.zeros_like(a), ""),
        (lambda a, b: a.new_empty(3), ""),
        (lambda a, b: a + b, None),
        (lambda a, b: a - 1, None),
        (lambda a, b: -a, None),
        (lambda a, b: a.mean(0), None),
        (lambda a, b: a @ b, None),
        (lambda a, b: torch.cat([a, b * 2]), None),
        (lambda a, b: torch.ones_like(a), None),
        (lambda a, b: torch.tensor([0.25, 0.5]), None),
        (lambda a, b: torch.rand(2), None),
        (lambda a, b: a.mul_(2), None),
        (lambda a, b: a.fill_(0.3), None),
        (written(lambda a, b: b[1] * 2), None),
        (written(lambda a, b: 0.3), None),
        (into(torch.empty(2, 4, 4)), None),
        (lambda a, b: torch.mul(a, 2.0, out=b), None),
        (lambda a, b: F.avg_pool2d(a, 2), None),
        (lambda a, b: F.softmax(a, 1), None),
        (lambda a, b: a.cumsum(0), None),
    ],
)
def test_operations_that_keep_values_and_those_that_make_new_ones(operation, expected):
    assert made(operation) == expected


def test_no_tensor_is_kept_alive_and_none_inherits_an_address():
    tracking = Tracking()
    with tracking:
        for _ in range(50):
            x = torch.rand(1000)
            assert tracking.of(x) is None
            tracking.begin(A, x)
            assert tracking.of(x) == {A}
            address = x.untyped_storage()._cdata
            del x
            gc.collect()
            assert all(reference.expired() for reference in tracking._sources), address


def test_nothing_is_followed_while_it_is_off():
    tracking, a = Tracking(), torch.rand(3)
    tracking.begin(A, a)
    assert tracking.of(a) == {A}
    assert tracking.of(a.clone()) is None
