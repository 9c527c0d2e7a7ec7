import pytest
from torch import nn

from flatbit.quant.convert import quantize_
from flatbit.quant.coverage import coverage
from flatbit.quant.presets import policy


def test_what_is_quantized_float_and_refused(net):
    report = quantize_(net, policy("uniq", weights=1, activations=1))
    assert [layer.name for layer in report.kept_float] == ["conv1", "layers.1.0.shortcut", "layers.2.0.shortcut", "fc"]
    assert len(report.quantized) == 6
    assert not report.refused
    weights = {name: p.numel() for name, p in net.named_parameters() if p.ndim > 1}
    inner = sum(n for name, n in weights.items() if ".conv" in name)
    assert report.fraction == pytest.approx(inner / sum(weights.values()))


def test_prints_a_table_and_the_convention(net):
    text = str(quantize_(net, policy("uniq", weights=2, activations=3)))
    assert "layers.1.0.shortcut" in text
    assert "2 uniq" in text
    assert "3 uniq" in text
    assert "100.0% of the weights quantized" in text
    assert "first W8/A8" in text


def test_can_be_asked_again_of_the_model(net):
    first = quantize_(net, policy("faq", weights=4, activations=4))
    assert coverage(net) == first


def test_a_float_model_is_all_float(small):
    report = coverage(small)
    assert not report.quantized
    assert report.fraction == 0
    assert coverage(nn.ReLU()).fraction == 0


def test_channel_steps_are_told(net):
    assert "/channel" in str(quantize_(net, policy("uniq", weights=2, granularity="channel")))
