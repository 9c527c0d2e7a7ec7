import pytest
import torch

from flatbit.quant.convert import quantize_
from flatbit.quant.grids import grids
from flatbit.quant.presets import policy, preset_names


def test_by_layer_and_role(net, images, quantized):
    quantized(net)
    found = grids(net)
    grid = found["layers.1.0.conv1"].weight
    assert (grid.offset, grid.low, grid.high) == (0.5, -2, 1)
    assert grid.contains(net.layers[1][0].conv1.quantized_weight())
    assert found["conv1"].input.num_levels == 256
    assert found["fc"].bias is None


def test_output_placement_has_output_and_bias_grids(net, quantized):
    quantized(net, "faq", 4, 4)
    found = grids(net)
    assert found["layers.0.0.relu1"].output.num_levels == 16
    assert found["fc"].bias.low == -(2**31) + 128
    assert found["layers.0.0.bn1"].weight.num_levels == 255


@pytest.mark.parametrize("name", [n for n in preset_names() if not n.startswith(("sqwa", "xnor"))])
def test_input_grids_need_no_data(name, images, quantized):
    """Every method can state its activations' grid from its state alone, equal to the one in use."""
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Conv2d(2, 2, 3), torch.nn.ReLU(), torch.nn.Conv2d(2, 2, 3)
    ).eval()
    quantized(model, name, 4, 4, placement="input")
    stated = grids(model)["2"].input
    used = model[2].input_quantizer.grid(torch.rand(4, 2, 6, 6))
    assert torch.equal(stated.step, used.step)
    assert (stated.offset, stated.low, stated.high) == (used.offset, used.low, used.high)


def test_uncalibrated_model_is_an_error(net):
    quantize_(net, policy("uniq", weights=2, activations=2))
    with pytest.raises(RuntimeError, match="no step yet"):
        grids(net)


def test_float_model_has_none(net):
    assert grids(net) == {}
