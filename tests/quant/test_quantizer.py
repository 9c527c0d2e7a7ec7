import pytest
import torch

from flatbit.quant.quantizer import Site
from flatbit.quant.quantizers.faq import FaqWeight
from flatbit.quant.quantizers.uniq import UniqWeight

SITE = Site(layer="stem", role="weight", step_shape=(4, 1))


def test_state_is_nan_until_observed():
    quantizer = UniqWeight(2, SITE)
    assert not quantizer.calibrated
    assert quantizer.step.isnan()
    assert "uncalibrated" in repr(quantizer)
    quantizer.observe_(torch.randn(8))
    assert quantizer.calibrated
    assert repr(quantizer) == "UniqWeight(2 bit, tensor)"
    quantizer.reset_()
    assert not quantizer.calibrated


def test_observing_writes_in_place_so_optimizers_keep_the_step():
    quantizer = UniqWeight(2, SITE)
    step = quantizer.step
    quantizer.observe_(torch.randn(8))
    assert quantizer.step is step


def test_loading_an_uncalibrated_state_uncalibrates():
    calibrated, fresh = UniqWeight(2, SITE), UniqWeight(2, SITE)
    calibrated.observe_(torch.randn(8))
    calibrated.load_state_dict(fresh.state_dict())
    assert not calibrated.calibrated


@pytest.mark.parametrize("bits", [0, 9, 32])
def test_bits_out_of_range_name_the_layer(bits):
    with pytest.raises(ValueError, match=rf"weight of layer 'stem': method 'uniq' takes 1 to 8 bits, got {bits}"):
        UniqWeight(bits, SITE)


def test_granularity_a_method_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"'stem'.*'faq' takes one step per tensor, got 'channel'"):
        FaqWeight(4, SITE, "channel")


def test_number_of_steps():
    assert UniqWeight(2, SITE).num_steps == 1
    assert UniqWeight(2, SITE, "channel").num_steps == 4


def test_grid_step_is_a_copy():
    quantizer = UniqWeight(2, SITE)
    quantizer.observe_(torch.randn(8))
    grid = quantizer.grid(torch.zeros(1))
    grid.step.zero_()
    assert float(quantizer.step.detach()) > 0


def test_a_state_of_bits_that_the_method_does_not_have_is_refused():
    quantizer = FaqWeight(4, SITE)
    state = quantizer.state_dict() | {"bits": torch.tensor(1)}
    with pytest.raises(RuntimeError, match="weight of layer 'stem': method 'faq' takes 2 to 8 bits, got 1"):
        quantizer.load_state_dict(state)
    assert int(quantizer.bits) == 4
