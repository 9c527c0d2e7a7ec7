import pytest
import torch

from flatbit.quant.quantizers.lsq import LsqActivation, LsqWeight
from flatbit.quant.site import Site


def test_step_shapes():
    site = Site(layer="l", role="weight", step_shape=(6, 1, 1, 1))
    assert LsqWeight(2, site).step.shape == ()
    assert LsqWeight(2, site, "channel").step.shape == (6, 1, 1, 1)


def test_gradient_scale_is_a_switch():
    x, found = torch.rand(4, 9) + 0.1, []
    for scaled in (True, False):
        quantizer = LsqActivation(2, Site(), gradient_scale=scaled)
        quantizer.observe_(x)
        quantizer(x).sum().backward()
        found.append(float(quantizer.step.grad))
    assert found[0] == pytest.approx(found[1] * (9 * 3) ** -0.5)


def test_a_step_that_went_negative_still_works_as_its_magnitude():
    quantizer = LsqWeight(3, Site(role="weight"))
    w = torch.randn(20)
    quantizer.observe_(w)
    expected = quantizer(w)
    quantizer.step.data.neg_()
    assert torch.equal(quantizer(w), expected)
