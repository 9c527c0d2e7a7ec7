import pytest
import torch

from flatbit.quant.quantizers.faq import FaqActivation
from flatbit.quant.quantizers.pact import PactActivation
from flatbit.quant.quantizers.uniq import UniqActivation
from flatbit.quant.site import Site

SITE = Site(layer="act")


def test_a_first_negative_value_makes_it_signed_and_starts_afresh():
    quantizer = PactActivation(4, SITE)
    quantizer.observe_(torch.full((10,), 100.0))
    assert not quantizer.signed
    quantizer.observe_(torch.tensor([-1.0, 0.5]))
    assert float(quantizer.signed) == 1
    assert float(quantizer.clip.detach()) == 1.0  # the unsigned range is forgotten: another meaning


def test_reset_forgets_the_sign_unless_it_was_given():
    found = UniqActivation(4, SITE)
    found.observe_(torch.tensor([-1.0, 1.0]))
    found.reset_()
    assert not found.signed
    given = UniqActivation(4, SITE, signed=True)
    given.reset_()
    assert given.signed


def test_given_sign_is_kept_whatever_comes():
    unsigned = UniqActivation(2, SITE, signed=False)
    unsigned.observe_(torch.tensor([-1.0, 1.0]))
    assert not unsigned.signed
    assert unsigned(torch.tensor([-5.0])).tolist() == [0.0]
    signed = UniqActivation(2, SITE, signed=True)
    signed.observe_(torch.tensor([1.0, 2.0]))
    assert signed.signed


def test_range_only_widens():
    quantizer = FaqActivation(4, SITE)
    steps = []
    for top in (1.0, 8.0, 2.0):
        quantizer.observe_(torch.linspace(0, top, 1000))
        steps.append(float(quantizer.step))
    assert steps == [1 / 16, 8 / 16, 8 / 16]


def test_a_zero_batch_says_nothing():
    quantizer = UniqActivation(4, SITE)
    quantizer.observe_(torch.zeros(5))
    assert not quantizer.calibrated
    quantizer.observe_(torch.ones(5))
    step = float(quantizer.step.detach())
    quantizer.observe_(torch.zeros(5))
    assert float(quantizer.step.detach()) == step


def test_a_width_without_a_grid_for_the_sign_is_refused():
    PactActivation(2, SITE, signed=False).check_assignable(1)
    PactActivation(2, SITE, signed=True).check_assignable(3)
    with pytest.raises(ValueError, match=r"input of layer 'act': signed inputs take no 1 bit by 'pact'"):
        PactActivation(2, SITE, signed=True).check_assignable(1)


def test_the_sign_travels_with_the_state_dict():
    first, second = UniqActivation(8, SITE), UniqActivation(8, SITE)
    first.observe_(torch.randn(100))
    second.load_state_dict(first.state_dict())
    x = torch.randn(50)
    assert torch.equal(first(x), second(x))
    assert second.signed


@pytest.mark.parametrize("quantizer", [FaqActivation(1, SITE), PactActivation(1, SITE)])
def test_refusal_lists_the_ways_out(quantizer):
    with pytest.raises(
        ValueError, match=r"input of layer 'act'.*negative.*at 1 bit.*more bits.*activations=32.*signed=False"
    ):
        quantizer.observe_(torch.tensor([-1.0]))
