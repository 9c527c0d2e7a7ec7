import pytest
import torch
from torch import nn

from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.layers import (
    ACTIVATIONS,
    FLOAT_CLASS,
    TABLE,
    bits_of,
    has_quantized_layers,
    is_quantized,
    own_weights,
    quantized_layers,
    quantizers_of,
    row_of,
    through,
)
from flatbit.quant.presets import policy


def test_each_row_narrows_its_float_class():
    for base, row in TABLE.items():
        assert issubclass(row.quantized, base)
        assert FLOAT_CLASS[row.quantized] is base
        assert row.quantized.__init__ is base.__init__


def test_issue_asks_for_these_layers():
    assert {nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear} <= TABLE.keys()


def test_lookup_is_by_exact_type():
    class Mine(nn.Conv2d):
        pass

    assert row_of(nn.Conv2d(1, 1, 1)).kind == "convolution"
    assert row_of(Mine(1, 1, 1)) is None
    assert row_of(nn.Dropout()) is None


def test_generated_activation_classes_can_be_imported_by_name():
    from flatbit.quant import layers

    for base in ACTIVATIONS:
        assert getattr(layers, f"Q{base.__name__}") is TABLE[base].quantized


def test_float_models_have_no_quantized_layers(net):
    assert not list(quantized_layers(net))
    assert not has_quantized_layers(net)
    assert not list(quantizers_of(net))
    assert not is_quantized(net.conv1)


def test_layers_and_quantizers_are_listed_once(net, quantized):
    quantized(net)
    assert has_quantized_layers(net)
    names = [name for name, _ in quantized_layers(net)]
    blocks = [f"layers.{stage}.0.{part}" for stage in range(3) for part in ("conv1", "conv2", "shortcut")]
    assert names == ["conv1", *(name for name in blocks if name != "layers.0.0.shortcut"), "fc"]
    assert len(list(quantizers_of(net))) == 2 * len(names)


def test_through_passes_what_is_not_there():
    x = torch.ones(2)
    assert through(None, x) is x
    assert through(lambda t: t + 1, None) is None


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


def test_own_weights_are_matrices_that_a_module_holds_itself():
    shapes = lambda module: [tuple(w.shape) for w in own_weights(module)]  # noqa: E731
    assert shapes(nn.Linear(3, 2)) == [(2, 3)]
    assert shapes(nn.Sequential(nn.Linear(3, 2))) == []
    assert shapes(nn.LayerNorm((2, 2))) == shapes(nn.PReLU(4)) == shapes(nn.LazyLinear(2)) == []
    reparametrized = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    assert shapes(reparametrized) == [(2, 1), (2, 3)]
    assert shapes(reparametrized.parametrizations.weight) == []


def test_bits_in_use(net, quantized):
    assert bits_of(net.conv1) == (32, 32)
    quantized(net, "saq", 4, 3)
    assert bits_of(net.layers[0][0].conv1) == (4, 3)
    assert bits_of(net.conv1) == (8, 8)  # no input quantizer: as the policy counts it
    net.conv1.weight_quantizer = None
    assert bits_of(net.conv1) == (32, 8)
