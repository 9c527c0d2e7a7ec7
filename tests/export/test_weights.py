import copy

import pytest
import torch
from torch import nn

from flatbit.export.weights import bias_of, norm_of, product_of
from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.presets import policy

LAYERS = [
    nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2, bias=True),
    nn.Conv2d(4, 6, 3, padding="same"),
    nn.Conv2d(4, 6, (3, 1), padding="valid"),
    nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
    nn.Conv1d(4, 6, 3, padding=1),
    nn.Conv3d(4, 6, 2),
    nn.Linear(4, 6),
]


def quantized(layer, method, granularity):
    torch.manual_seed(0)
    axes = {nn.Linear: 0, nn.Conv1d: 1, nn.Conv3d: 3}.get(type(layer), 2)
    x = torch.randn(2, 4, *[6] * axes)
    model = nn.Sequential(layer)
    made = policy(method, weights=3, activations=3, granularity=granularity)
    quantize_(model, made)
    calibrate_(model, [x])
    return model[0], x


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize(("method", "granularity"), [("uniq", "tensor"), ("lsq", "channel")])
def test_a_product_is_the_layers(layer, method, granularity):
    layer, x = quantized(copy.deepcopy(layer), method, granularity)
    codes = layer.input_quantizer(x).double()
    product = product_of("p", "x", "0", layer, coded=True)
    scale = product.scale.reshape(-1, *[1] * (x.ndim - 2)) if x.ndim > 2 else product.scale
    value = product.convolve(codes, product.weight.double()) * scale
    bias = bias_of(layer)
    value = value if bias is None else value + bias.reshape(-1, *[1] * (x.ndim - 2))
    with torch.no_grad():
        assert torch.allclose(value.float(), layer(x), atol=1e-5)
    assert not product.weight.is_floating_point()


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_uneven_padding_is_refused_by_layer():
    layer, _ = quantized(nn.Conv2d(4, 6, 2, padding="same"), "uniq", "tensor")
    with pytest.raises(ValueError, match="layer 'deep': padding='same' pads an even kernel unevenly"):
        product_of("p", "x", "deep", layer, coded=True)


@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_is_an_affine_map(affine):
    norm = nn.BatchNorm2d(3, affine=affine)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 4, 4)
    scale, shift = (norm_of(norm)[key].reshape(-1, 1, 1) for key in ("scale", "shift"))
    assert torch.allclose((x.double() * scale + shift).float(), norm.eval()(x), atol=1e-6)
