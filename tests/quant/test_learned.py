import pytest
import torch

from flatbit.quant.quantizers.lsq import LsqActivation, LsqWeight
from flatbit.quant.quantizers.uniq import UniqWeight
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


def test_a_dead_channel_gets_the_smallest_step_and_the_others_their_own():
    quantizer = LsqWeight(2, Site(role="weight", step_shape=(2, 1)), "channel")
    quantizer.observe_(torch.tensor([[3.0, -3.0], [0.0, 0.0]]))
    assert quantizer.step.flatten().tolist() == pytest.approx([6.0, 1e-8])


@pytest.mark.parametrize("bits", [1, 2])
def test_the_gradient_in_a_transform_is_the_eager_one(bits):
    """The highest code is a tensor there; at 1 bit it is 0, and counts as 1."""
    quantizer, w = UniqWeight(bits, Site(role="weight")), torch.randn(20)
    quantizer.observe_(w)
    quantizer(w).square().sum().backward()
    loss = lambda step: torch.func.functional_call(quantizer, {"step": step}, (w,)).square().sum()  # noqa: E731
    assert torch.allclose(torch.func.grad(loss)(quantizer.step.detach()), quantizer.step.grad)


def test_a_step_that_went_negative_still_works_as_its_magnitude():
    quantizer = LsqWeight(3, Site(role="weight"))
    w = torch.randn(20)
    quantizer.observe_(w)
    expected = quantizer(w)
    quantizer.step.data.neg_()
    assert torch.equal(quantizer(w), expected)
