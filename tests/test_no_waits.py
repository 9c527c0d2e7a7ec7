import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import flatbit as fb
from flatbit.quant.passes import read_is_free
from flatbit.quant.quantizers import METHODS
from flatbit.quant.quantizers.uniq import UniqWeight
from flatbit.quant.site import Site

from .no_waits import WaitError, as_on_a_device, no_waits, waits_of

X = torch.randn(6, 4)
WAITING = {
    "item": lambda: X.sum().item(),
    "float": lambda: float(X[0, 0]),
    "truth": lambda: bool((X > 0).all()),
    "list": lambda: X.tolist(),
    "numpy": lambda: X.numpy(),
    "cpu": lambda: X.cpu(),
    "mask": lambda: X[X > 0],
    "write by mask": lambda: X.clone().__setitem__(X > 0, X.new_zeros(())),
    "nonzero": lambda: X.nonzero(),
    "where of one": lambda: torch.where(X > 0),
    "masked_select": lambda: X.masked_select(X > 0),
    "unique": lambda: X.unique(),
    "unique_consecutive": lambda: X.flatten().unique_consecutive(),
    "bincount": lambda: torch.bincount(torch.arange(3)),
    "equal": lambda: torch.equal(X, X),
    "repeats": lambda: torch.repeat_interleave(torch.arange(3)),
    "tensor": lambda: torch.tensor(3.0),
    "as_tensor": lambda: torch.as_tensor([1, 2]),
    "new_tensor": lambda: X.new_tensor(2.0),
    "device": lambda: X.to("meta"),
    "allclose": lambda: torch.allclose(X, X),
}
LAUNCHING = {
    "arithmetic": lambda: (2 * X + 1).clamp(-1, 1).sum(),
    "full": lambda: X.new_full((), 2.0) + torch.zeros(()),
    "where": lambda: torch.where(X > 0, X, 0.0),
    "index": lambda: X[X[:, 0].argsort()],
    "slice": lambda: X[1:, 2],
    "gather": lambda: X.index_select(0, X[:, 0].argmax().reshape(1)),
    "cast": lambda: X.double(),
    "loss": lambda: F.cross_entropy(X, torch.arange(6) % 4),
    "repeats by number": lambda: X.repeat_interleave(2, 0),
}


@pytest.mark.parametrize("kind", WAITING)
def test_what_waits_is_an_error(kind):
    with pytest.raises(WaitError), no_waits():
        WAITING[kind]()
    assert len(waits_of(WAITING[kind])) >= 1


@pytest.mark.parametrize("kind", LAUNCHING)
def test_what_only_launches_is_none(kind):
    with no_waits():
        LAUNCHING[kind]()
    assert waits_of(LAUNCHING[kind]) == []


def test_what_the_host_holds_may_be_read():
    count = torch.ones(())
    with no_waits(host=(count,)):
        assert count.item() == 1
        with pytest.raises(WaitError, match="reads a number"):
            X.sum().item()


def test_inside_a_read_is_not_free_and_afterwards_as_before():
    module = __import__("flatbit.quant.quantizer", fromlist=["read_is_free"])
    with as_on_a_device():
        assert not module.read_is_free(X)
        assert not __import__("flatbit.metrics.scores", fromlist=["read_is_free"]).read_is_free(X)
    assert module.read_is_free is read_is_free
    assert read_is_free(X)


class Reading(torch.autograd.Function):
    """The identity, whose backward reads a number."""

    read = None

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, *gradients):
        return gradients[0] * getattr(gradients[0].sum(), Reading.read)()


@pytest.mark.parametrize("read", ["item", "tolist"])
def test_a_read_in_a_backward_is_seen(read, monkeypatch):
    monkeypatch.setattr(Reading, "read", read)
    x = X.clone().requires_grad_()
    with no_waits():
        y = Reading.apply(x).sum()
    with pytest.raises(WaitError), no_waits():
        y.backward()


def test_a_quantizer_that_reads_is_found(monkeypatch):
    """What the contract of every quantizer rests on."""

    class Hasty(UniqWeight):
        def step_of(self, x, codes):
            return super().step_of(x, codes) * x.numel() ** (0 * x.sum().item())

    def step(kind):
        quantizer = kind(2, Site(role="weight"))
        quantizer.observe_(X)
        with as_on_a_device():
            quantizer(X)
        with no_waits():
            quantizer(X).sum().backward()

    step(METHODS.get("uniq").weights)
    with pytest.raises(WaitError, match="reads a number"):
        step(Hasty)


def test_a_net_that_reads_is_found():
    class Reads(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    with no_waits():
        model(X).sum().backward()
    with pytest.raises(WaitError, match="reads a number"), no_waits():
        nn.Sequential(copy.deepcopy(model), Reads())(X)


def test_the_answers_of_a_net_are_those_of_the_cpu():
    model = fb.models.build("preresnet8", in_channels=1, first_width=4)
    fb.quantize_(model, fb.policy("uniq", weights=2, activations=2))
    images = torch.randn(4, 1, 8, 8)
    fb.calibrate_(model, [images])
    expected = model(images)
    with as_on_a_device():
        assert torch.equal(model(images), expected)
