import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import flatbit as fb
from flatbit.models import MODELS, build
from flatbit.models.resnet_cifar import NAMED_DEPTHS, ZeroChannels, base_width, num_blocks

# Spec 4.4, SAQ's ResNet-20 on CIFAR-100: (network, its arguments, W = A bits, millions of bit-operations).
PREACT = ("preresnet20", {"variant": "saq"})
OPTION_A = ("resnet20", {"shortcut": "A"})
BITOPS = [
    (PREACT, 32, 41798.599), (PREACT, 4, 674.644), (PREACT, 3, 392.053), (PREACT, 2, 190.202),
    (OPTION_A, 32, 41530.163), (OPTION_A, 4, 670.450), (OPTION_A, 3, 389.693),
]  # fmt: skip
# Spec 4.5, HOL's table 5: (depth, first width), and parameters with all four BN vectors, in millions.
HOL_WIDTHS = [(8, 59), (14, 40), (20, 31), (32, 24), (44, 20), (56, 18)]
HOL_BASIC = [1.0463, 1.0899, 1.0211, 1.0516, 1.0361, 1.0871]
HOL_PREACT = [1.0448, 1.0889, 1.0203, 1.0510, 1.0357, 1.0867]


@pytest.mark.parametrize(("network", "bits", "millions"), BITOPS)
def test_bitops_of_saq(network, bits, millions):
    name, arguments = network
    model = build(name, num_classes=100, **arguments)
    if bits < 32:
        fb.quantize_(model, fb.policy("saq", weights=bits, activations=bits))
    assert fb.cost(model, (3, 32, 32)).bitops / 1e6 == pytest.approx(millions, abs=0.0005)


def test_bitops_of_the_edges_do_not_follow_the_bits():
    model = build("preresnet20", num_classes=100, variant="saq")
    fb.quantize_(model, fb.policy("saq", weights=2, activations=2))
    layers = {layer.name: layer.bitops for layer in fb.cost(model, (3, 32, 32)).layers}
    assert (layers["conv1"] + layers["fc"]) / 1e6 == pytest.approx(28.72, abs=0.005)


def with_statistics(model):
    """Parameters in millions with the two running vectors of every batch norm."""
    running = sum(b.numel() for b in model.buffers() if b.is_floating_point())
    return (sum(p.numel() for p in model.parameters()) + running) / 1e6


@pytest.mark.parametrize(("size", "millions"), list(zip(HOL_WIDTHS, HOL_BASIC, strict=True)))
def test_parameters_of_hol_basic(size, millions):
    model = build("resnet_cifar", depth=size[0], first_width=size[1], shortcut="B")
    assert with_statistics(model) == pytest.approx(millions, abs=0.00005)


@pytest.mark.parametrize(("size", "millions"), list(zip(HOL_WIDTHS, HOL_PREACT, strict=True)))
def test_parameters_of_hol_preact(size, millions):
    model = build("preresnet_cifar", depth=size[0], first_width=size[1], variant="hol")
    assert with_statistics(model) == pytest.approx(millions, abs=0.00005)


@pytest.mark.parametrize("family", ["resnet", "preresnet"])
@pytest.mark.parametrize("depth", NAMED_DEPTHS)
def test_depth_counts_the_weighted_layers_of_the_main_path(family, depth):
    with torch.device("meta"):
        model = build(f"{family}{depth}")
    main = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in n]
    assert len(main) == depth


def norm(bn, x):
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()
    return (x - bn.running_mean.reshape(-1, 1, 1)) * scale.reshape(-1, 1, 1) + bn.bias.reshape(-1, 1, 1)


def conv(layer, x):
    return F.conv2d(x, layer.weight, stride=layer.stride, padding=layer.weight.shape[-1] // 2)


def basic_reference(model, x, shortcut):
    x = norm(model.bn1, conv(model.conv1, x)).clamp_min(0)
    for s, stage in enumerate(model.layers):
        for b, block in enumerate(stage):
            out = norm(block.bn1, conv(block.conv1, x)).clamp_min(0)
            out = norm(block.bn2, conv(block.conv2, out))
            if s > 0 and b == 0:
                if shortcut == "A":
                    quarter = torch.zeros_like(out[:, : out.shape[1] // 4])
                    x = torch.cat([quarter, x[:, :, ::2, ::2], quarter], 1)
                else:
                    x = norm(block.shortcut[1], conv(block.shortcut[0], x))
            x = (x + out).clamp_min(0)
    return x.mean((2, 3)) @ model.fc.weight.T + model.fc.bias


def preact_reference(model, x, variant):
    x = conv(model.conv1, x)
    for s, stage in enumerate(model.layers):
        for b, block in enumerate(stage):
            activated = norm(block.bn1, x).clamp_min(0)
            out = conv(block.conv2, norm(block.bn2, conv(block.conv1, activated)).clamp_min(0))
            if b == 0 and s > 0:
                x = conv(block.shortcut, activated)
            elif b == 0 and variant == "saq":
                x = activated
            x = x + out
    return norm(model.bn, x).clamp_min(0).mean((2, 3)) @ model.fc.weight.T + model.fc.bias


def shaken(model):
    """The model in eval mode, float64, with batch norms that do something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model.double().eval()


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_basic_forward_is_the_definition(shortcut):
    model = shaken(build("resnet14", shortcut=shortcut, first_width=4, num_classes=5))
    x = torch.randn(2, 3, 12, 12, dtype=torch.double)
    torch.testing.assert_close(model(x), basic_reference(model, x, shortcut))


@pytest.mark.parametrize("variant", ["saq", "uniq", "hol"])
def test_preact_forward_is_the_definition(variant):
    model = shaken(build("preresnet14", variant=variant, first_width=4, num_classes=5))
    x = torch.randn(2, 3, 12, 12, dtype=torch.double)
    torch.testing.assert_close(model(x), preact_reference(model, x, variant))


def test_zero_channels_subsamples_and_pads_both_sides():
    x = torch.arange(1.0, 33.0).reshape(1, 2, 4, 4)
    out = ZeroChannels(2, 3)(x)
    assert out.shape == (1, 5, 2, 2)
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])
    assert not out[:, [0, 3, 4]].any()


@pytest.mark.parametrize("name", [name for name in MODELS.names() if "8" in name])
def test_every_parameter_gets_a_gradient(name):
    model = build(name)
    model(torch.randn(4, 3, 8, 8)).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", ["resnet20", "preresnet20"])
def test_every_activation_is_a_module_of_its_own_and_every_residual_has_a_name(name):
    model = build(name)
    calls = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda m, args, out: calls.append(m))
    model(torch.randn(2, 3, 8, 8))
    assert len(calls) == len(set(calls)) == 19
    assert sum(name.endswith(".residual") for name, _ in model.named_modules()) == 9


@pytest.mark.parametrize("name", ["resnet8", "preresnet8"])
def test_weights_start_as_he_has_it(name):
    weight = build(name, width=4).layers[2][0].conv2.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * weight.shape[0])), rel=0.01)


def test_hardtanh_in_place_of_relu():
    model = build("preresnet8", activation="hardtanh")
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())
    assert sum(isinstance(m, nn.Hardtanh) for m in model.modules()) == 7


@pytest.mark.parametrize(
    ("width", "first", "base"), [(1.0, None, 16), (1.4, None, 22), (2, 5, 5), (1, 1, 1), (0.5, None, 8)]
)
def test_base_width(width, first, base):
    assert base_width(width, first) == base
    model = build("resnet8", width=width, first_width=first)
    assert model.conv1.out_channels == base
    assert model.fc.in_features == 4 * base


def test_blocks_of_a_depth():
    assert [num_blocks(depth) for depth in (8, 14, 20, 110)] == [1, 2, 3, 18]


@pytest.mark.parametrize("depth", [2, 7, 9, 21, -4])
def test_other_depths_are_refused(depth):
    with pytest.raises(ValueError, match=rf"depth={depth}: expected 6n \+ 2"):
        build("resnet_cifar", depth=depth)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shortcut": "C"}, "shortcut='C': expected 'A'"),
        ({"activation": "gelu"}, "activation='gelu': expected one of relu, hardtanh"),
        ({"width": 0.01}, "gives 0 channels, expected at least 1"),
        ({"first_width": 0}, "gives 0 channels, expected at least 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build("resnet8", **arguments)


def test_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="variant='sak': expected 'saq', 'uniq' or 'hol'"):
        build("preresnet8", variant="sak")
