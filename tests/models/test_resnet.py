import pytest
import torch

import flatbit as fb
from flatbit.models import build
from flatbit.models.resnet import DEPTHS

# Spec 4.5, HOL's Table 1: parameters in millions and multiply-adds in billions at 224 x 224, as
# computed; the paper prints them to one decimal, and 7.9 for ResNet-101, which no variant gives.
HOL = [
    ("resnet34", {}, 21.798, 3.664),
    ("resnet18", {"first_width": 90}, 22.812, 3.520),
    ("resnet_imagenet", {"depths": [3, 3, 3, 3], "first_width": 70}, 21.431, 3.264),
    ("resnet50", {}, 25.557, 4.089),
    ("resnet_imagenet", {"depths": [3, 4, 5, 2], "block": "bottleneck", "first_width": 72}, 24.988, 4.606),
    ("resnet101", {}, 44.549, 7.801),
    ("resnet50", {"first_width": 85}, 44.160, 7.161),
]


@pytest.mark.parametrize(("name", "arguments", "millions", "billions"), HOL)
def test_counts_of_hol(name, arguments, millions, billions):
    with torch.device("meta"):
        model = build(name, **arguments)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.0005)
    costs = fb.cost(build(name, **arguments), (3, 224, 224))
    assert costs.macs / 1e9 == pytest.approx(billions, abs=0.0005)


# Spec 4.4, SAQ's ResNet-18: W = A bits, billions of bit-operations.
@pytest.mark.parametrize(("bits", "billions"), [(32, 1857.611), (4, 34.714), (3, 22.846), (2, 14.368)])
def test_bitops_of_saq(bits, billions):
    model = build("resnet18")
    if bits < 32:
        fb.quantize_(model, fb.policy("saq", weights=bits, activations=bits))
    assert fb.cost(model, (3, 224, 224)).bitops / 1e9 == pytest.approx(billions, abs=0.0005)


def test_parameters_of_the_deepest_are_the_published_ones():
    with torch.device("meta"):
        assert sum(p.numel() for p in build("resnet152").parameters()) == 60_192_808


def test_names_are_those_of_torchvision():
    keys = set(build("resnet50").state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.downsample.1.bias", "layer4.2.bn3.weight", "fc.bias"} <= keys
    assert len(keys) == 320


@pytest.mark.parametrize("order", ["resnet", "preresnet"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_strides_and_outputs(order, depth):
    model = build(f"{order}{depth}", num_classes=7, first_width=4).eval()
    x = torch.randn(2, 3, 64, 64)
    assert model(x).shape == (2, 7)
    last = model.layer4(model.layer3(model.layer2(model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(x))))))))
    assert last.shape == (2, 32 * (4 if depth >= 50 else 1), 2, 2)


def test_the_bottleneck_strides_at_its_3x3():
    block = build("resnet50", first_width=4).layer2[0]
    assert (block.conv1.stride, block.conv2.stride, block.conv3.stride) == ((1, 1), (2, 2), (1, 1))


def test_preactivation_shortcuts():
    block = build("preresnet18", first_width=4).layer2[0].eval()
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        block.conv2.weight.zero_()
        torch.testing.assert_close(block(x), block.downsample(block.relu1(block.bn1(x))))
        plain = build("preresnet50", first_width=4).layer1[1].eval()
        plain.conv3.weight.zero_()
        y = torch.randn(1, 16, 8, 8)
        assert torch.equal(plain(y), y)


def test_resnet18_for_cifar_keeps_32_pixels_at_the_stem():
    model = build("resnet18_cifar").eval()
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    assert model.layer1(model.maxpool(model.conv1(torch.randn(1, 3, 32, 32)))).shape == (1, 64, 32, 32)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depths": [2, 2]}, "expected four numbers"),
        ({"depths": [2, 2, 0, 2]}, "each at least 1"),
        ({"block": "wide"}, "expected 'basic' or 'bottleneck'"),
        ({"stem": "mnist"}, "expected 'imagenet' or 'cifar'"),
        ({"width": 0.001}, "gives 0 channels"),
    ],
)
@pytest.mark.parametrize("name", ["resnet_imagenet", "preresnet_imagenet"])
def test_arguments_that_describe_no_net(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(name, **{"depths": [1, 1, 1, 1]} | arguments)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "preresnet18", "preresnet50"])
@pytest.mark.parametrize("method", ["saq", "uniq", "faq", "hol-imagenet"])
def test_quantizes_whole_and_trains(name, method):
    model = build(name, num_classes=5, first_width=4)
    coverage = fb.quantize_(model, fb.policy(method, weights=4, activations=4))
    assert not coverage.refused
    x = torch.randn(2, 3, 64, 64)
    fb.calibrate_(model, [(x, torch.zeros(2))], num_batches=1)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
