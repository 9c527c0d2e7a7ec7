import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from flatbit.quant.products import Omission, watched_products


class Products(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.run, self.weight = forward, nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return self.run(self.weight, x)


def watched(forward, x):
    model = Products(forward)
    with torch.no_grad(), watched_products(model, x) as found:
        model(x)
    return found


@pytest.mark.parametrize(
    ("forward", "macs"),
    [
        (lambda w, x: x @ w, 32),
        (lambda w, x: torch.addmm(w[0], x, w), 32),
        (lambda w, x: torch.mv(w, x[0]), 16),
        (lambda w, x: torch.addmv(w[0], w, x[0]), 16),
        (lambda w, x: torch.dot(w[0], x[0]), 4),
        (lambda w, x: torch.vdot(w[0], x[0]), 4),
        (lambda w, x: torch.bmm(x[None], w[None]), 32),
        (lambda w, x: torch.baddbmm(w[:1, None], x[None], w[None]), 32),
        (lambda w, x: torch.addbmm(w[:1], x[None], w[None]), 32),
        (lambda w, x: F.conv1d(x[None, None].flatten(2), w[:, None]), 4 * 4 * 5),
        (lambda w, x: F.conv_transpose1d(x[None, :1], w[:1, None]), 4 * 4),
    ],
)
def test_each_kind_of_product_counts_for_the_weight_it_reads(forward, macs):
    found = watched(forward, torch.randn(2, 4))
    assert (found.macs, found.outside, found.without_weight) == ({"": macs}, {}, 0)
    assert found.omissions() == ()


def test_an_addend_that_is_a_weight_makes_no_product_its_own():
    found = watched(lambda w, x: torch.addmm(w[:2, :2], x, x.t()), torch.randn(2, 4))
    assert (found.macs, found.without_weight) == ({}, 16)


def test_a_constant_times_a_weight_is_work_and_two_weights_are_not():
    found = watched(lambda w, x: x + torch.zeros(2, 4) @ w, torch.randn(2, 4))
    assert (found.macs, found.omissions()) == ({"": 32}, ())
    found = watched(lambda w, x: x @ (w @ w), torch.randn(2, 4))
    assert found.macs == {"": 32}
    assert found.omissions() == (Omission(name="", what="weights alone, the same for every image", macs=64),)


@pytest.mark.parametrize("groups", [1, 2])
def test_attention_is_the_products_that_it_is_made_of(groups):
    def attend(w, x):
        return F.scaled_dot_product_attention(x.repeat(1, groups, 1, 1) @ w, x, x, enable_gqa=groups > 1)

    found = watched(attend, torch.randn(1, 2, 5, 4))
    assert found.macs == {"": groups * 2 * 5 * 4 * 4}
    assert found.without_weight == groups * 2 * 25 * 4 * 2


def test_as_many_as_pytorchs_own_counter_counts():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.Flatten(2), Products(lambda w, x: w @ x @ x.transpose(1, 2)))
    x = torch.randn(1, 3, 6, 6)
    with torch.no_grad(), watched_products(model, x) as found:
        model(x)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    assert 2 * (found.macs.total() + found.without_weight) == counter.get_total_flops()
    assert found.macs == {"0": 16 * 27 * 4, "2": 4 * 4 * 16}


def test_hooks_and_settings_are_gone_also_after_a_failure():
    model = Products(lambda w, x: x @ w)
    cudnn, fast = torch.backends.cudnn.enabled, torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(RuntimeError), watched_products(model, ()):
        model(torch.randn(3))
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert (torch.backends.cudnn.enabled, torch.backends.mha.get_fastpath_enabled()) == (cudnn, fast)


def test_a_hook_of_the_users_that_changes_an_output_changes_no_count():
    layer = nn.Linear(4, 3)
    layer.register_forward_hook(lambda module, args, output: torch.cat([output, output]))
    with torch.no_grad(), watched_products(layer, ()) as found:
        layer(torch.randn(1, 4))
    assert found.macs == {"": 12}
    assert len(layer._forward_hooks) == 1


@pytest.mark.parametrize(
    ("forward", "alone"),
    [
        (lambda w, x: x, True),
        (lambda w, x: x + w[: len(x)], True),  # a position
        (lambda w, x: torch.cat([x, w]), True),  # a token
        (lambda w, x: F.scaled_dot_product_attention(x, x, x, attn_mask=w[: len(x), : len(x)]), True),
        (lambda w, x: x @ w, False),
        (lambda w, x: x * w[: len(x)], False),
        (lambda w, x: (x[:, None] + w).sum(1) @ w.T, False),
        (lambda w, x: x + (w @ w)[: len(x)], False),
        (lambda w, x: torch.cdist(x, w), False),
    ],
)
def test_weights_that_meet_nothing_in_a_product_are_left_alone(forward, alone):
    found = watched(forward, torch.randn(2, 4))
    assert found.leaves_alone("") == alone
