import pytest
import torch

from flatbit.quant.site import Site


@pytest.fixture
def site():
    """A site maker: ``site("input")``, ``site("weight", kind="linear", step_shape=(8, 1))``."""

    def make(role="weight", **fields):
        return Site(layer="layer", role=role, **fields)

    return make


@pytest.fixture
def gradients():
    """Gradients of ``sum(g * quantizer(x))`` with respect to x and each parameter, by name."""

    def take(quantizer, x, g):
        x = x.detach().clone().requires_grad_()
        quantizer.zero_grad()
        (quantizer(x) * g).sum().backward()
        found = {name: p.grad.clone() for name, p in quantizer.named_parameters()}
        return {"x": x.grad} | found

    return take


@pytest.fixture
def x64():
    return torch.randn(64, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 1.5


@pytest.fixture
def g64():
    return torch.randn(64, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
