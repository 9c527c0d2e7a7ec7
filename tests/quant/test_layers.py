import pytest
import torch
from torch import nn

from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.layers import apply_slot
from flatbit.quant.presets import policy
from flatbit.quant.table import ACTIVATIONS, TABLE


def test_generated_activation_classes_can_be_imported_by_name():
    from flatbit.quant import layers

    for base in ACTIVATIONS:
        assert getattr(layers, f"Q{base.__name__}") is TABLE[base].quantized


def test_a_slot_without_quantizer_or_tensor_passes_what_is_there(small, quantized):
    quantized(small, "uniq", 4, 32)
    x = torch.ones(2)
    assert apply_slot(small[3], "input", x) is x
    assert apply_slot(small[3], "weight", None) is None
    assert torch.equal(apply_slot(small[3], "weight", small[3].weight), small[3].quantized_weight())


def test_every_activation_quantizes_its_output(quantized):
    for base in ACTIVATIONS:
        if base is nn.Identity:
            continue
        model = nn.Sequential(nn.Conv2d(1, 2, 3), base(), nn.Conv2d(2, 2, 3)).eval()
        quantized(model, "lsq", 4, 4, placement="output")
        out = model[1](model[0](torch.randn(2, 1, 8, 8)))
        assert out.unique().numel() <= 16, base


@pytest.mark.parametrize(("name", "activations"), [("saq", 4), ("uniq", 32), ("dorefa", 32), ("hol", 4)])
def test_integer_images_are_refused_by_name_where_the_first_layer_reads_them_raw(
    net, images, quantized, name, activations
):
    if name in ("dorefa", "hol"):  # which leave the first layer in float, and so to torch's own message
        made = policy(name, weights=4, activations=activations).override("conv1", weights=4)
        quantize_(net, made)
        calibrate_(net, [images])
    else:
        quantized(net, name, 4, activations)
    with pytest.raises(TypeError, match=r"input of layer 'conv1': expected a floating-point tensor, got torch\.uint8"):
        net((images * 10).byte())


def test_a_layer_without_any_quantizer_left_is_named_by_its_type(net, images, quantized):
    quantized(net, "uniq", 4, 32)
    net.conv1.weight_quantizer = None
    with pytest.raises(TypeError, match="input of layer 'QConv2d'"):
        net(images.long())
