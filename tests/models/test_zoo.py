"""Classifiers of torchvision and timm: every one is covered whole, or its refusals are listed here."""

import importlib

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import flatbit as fb
from flatbit.models import accepts, build, zoo

try:  # PyPI's torchvision beside a CPU torch lacks its operators, and fails on import unless they are declared
    importlib.import_module("torchvision")
except (ImportError, RuntimeError):
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

pytest.importorskip("torchvision", exc_type=Exception)
pytest.importorskip("timm", exc_type=Exception)

CONVOLUTIONAL = [
    "torchvision/resnet18", "torchvision/resnet34", "torchvision/resnet50", "torchvision/resnet152",
    "torchvision/inception_v3", "torchvision/densenet161", "torchvision/vgg16_bn", "torchvision/mobilenet_v2",
    "torchvision/alexnet", "torchvision/squeezenet1_1", "torchvision/googlenet", "torchvision/shufflenet_v2_x0_5",
    "torchvision/mnasnet0_5", "torchvision/mobilenet_v3_small", "torchvision/efficientnet_b0",
    "torchvision/regnet_y_400mf", "torchvision/resnext50_32x4d", "torchvision/convnext_tiny",
    "timm/resnet18d", "timm/densenet121", "timm/efficientnet_lite0", "timm/regnetx_002",
    "timm/repvgg_a0", "timm/dla34", "timm/hrnet_w18_small",  "timm/mixnet_s", "timm/convmixer_768_32",
    "timm/resnest14d", "timm/res2net50_26w_4s", "timm/selecsls42b",
]  # fmt: skip
# What cannot be quantized right is refused, and only that: the reason's beginning.
REFUSED = {
    "torchvision/vit_b_16": "its fused kernel reads in_proj_weight",
    "timm/nf_resnet26": "StdConv",
}

COUNTED = [  # a family each, and the image that it takes
    ("torchvision/densenet121", 64), ("torchvision/shufflenet_v2_x0_5", 64), ("torchvision/swin_t", 64),
    ("torchvision/swin_v2_t", 64), ("timm/swinv2_cr_tiny_224", 224), ("timm/levit_128s", 224),
    ("timm/mobilevit_xxs", 256), ("timm/xcit_nano_12_p16_224", 224), ("timm/nf_resnet26", 64),
    ("timm/halonet26t", 256), ("timm/eva02_tiny_patch14_224", 224), ("timm/tf_efficientnet_cc_b0_4e", 64),
]  # fmt: skip


def small(name):
    """Few classes, and images as small as the net takes."""
    side = 96 if "inception" in name else 64
    return build(name, num_classes=5), torch.randn(2, 3, side, side)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_is_covered_whole_and_trains_one_step(name):
    model, x = small(name)
    coverage = fb.quantize_(model, fb.policy("uniq", weights=4, activations=4))
    assert not coverage.refused
    assert coverage.fraction > 0.95
    fb.calibrate_(model, [(x, torch.zeros(2))], num_batches=1)
    model.train()
    F = nn.functional
    F.cross_entropy(model(x), torch.tensor([0, 1])).backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    model.eval()
    assert fb.evaluate(model, [(x, torch.tensor([0, 1]))]).num_samples == 2


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_refusals_say_why(name, reason):
    model = build(name, num_classes=5)
    with pytest.raises(ValueError, match=reason):
        fb.quantize_(model, fb.policy("uniq", weights=4, activations=4))


@pytest.mark.parametrize(("name", "side"), COUNTED)
def test_costs_what_pytorchs_own_counter_counts(name, side):
    model = build(name, num_classes=5).eval().requires_grad_(False)
    found = fb.cost(model, (3, side, side))
    counter = FlopCounterMode(display=False)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), counter:
        model(torch.zeros(1, 3, side, side))
    assert (2 * found.macs, found.omitted) == (counter.get_total_flops(), ())
    counts = {name.partition(".")[2]: sum(flops.values()) for name, flops in counter.get_flop_counts().items()}
    for layer in found.layers:
        if isinstance(model.get_submodule(layer.name), nn.Linear | nn.Conv2d):
            assert 2 * (layer.macs - layer.outside_macs) == counts.get(layer.name, 0), layer.name


def test_channels_and_classes_follow_the_data():
    assert {"num_classes", "in_channels"} <= set(accepts("timm/resnet18"))
    assert "num_classes" in accepts("torchvision/resnet18")
    assert build("timm/resnet18", in_channels=1).conv1.in_channels == 1


def test_a_torchvision_checkpoint_fits_ours_by_name(tmp_path):
    theirs = build("torchvision/resnet18", num_classes=3).eval()
    torch.save(theirs.state_dict(), tmp_path / "r.pth")
    ours = build("resnet18", num_classes=3).eval()
    assert fb.models.load_weights_(ours, tmp_path / "r.pth").how == "name"
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_torchvision_mobilenet_checkpoint_fits_ours(tmp_path):
    theirs = build("torchvision/mobilenet_v2", num_classes=3).eval()
    torch.save(theirs.state_dict(), tmp_path / "m.pth")
    ours = build("mobilenet_v2", num_classes=3).eval()
    fb.models.load_weights_(ours, tmp_path / "m.pth")
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision/resnet19", "did you mean"),
        ("timm/resnet181", "did you mean"),
        ("torchvison/resnet18", "did you mean torchvision"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ValueError, match=message):
        build(name)


def test_a_missing_library_says_how_to_get_it(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(zoo.importlib, "import_module", missing)
    with pytest.raises(ValueError, match="pip install torchvision timm"):
        build("timm/resnet18")


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_published_weights_with_auxiliary_heads_load(name, tmp_path):
    import torchvision

    published = torchvision.models.get_model(name, num_classes=4, init_weights=False)
    torch.save(published.state_dict(), tmp_path / "w.pth")
    ours = build(f"torchvision/{name}", num_classes=4, init_weights=False)
    ignored = fb.models.load_weights_(ours, tmp_path / "w.pth").ignored
    assert any(key.startswith(("AuxLogits.", "aux1.")) for key in ignored)
    assert torch.equal(ours.fc.weight, published.fc.weight)
    assert isinstance(ours.train()(torch.randn(2, 3, 96, 96)), torch.Tensor)
