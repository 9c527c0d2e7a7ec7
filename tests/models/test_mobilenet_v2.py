import pytest
import torch

import flatbit as fb
from flatbit.models import build
from flatbit.models.mobilenet_v2 import rounded
from flatbit.recipes import RECIPES

CIFAR = ("mobilenet_v2_cifar", {"variant": "saq", "num_classes": 100}, 32, 1e6)
IMAGENET = ("mobilenet_v2", {}, 224, 1e9)
# SAQ's Table 2 prints 306.8 and 5.3 G: those of the 100-class head its search used, not of the net it scores.
SEARCHED = ("mobilenet_v2", {"num_classes": 100}, 224, 1e9)
BITOPS = [
    (CIFAR, 32, 93460.627), (CIFAR, 4, 1508.934), (CIFAR, 3, 877.132), (CIFAR, 2, 425.845),
    (IMAGENET, 32, 307.993), (IMAGENET, 4, 5.394), (SEARCHED, 32, 306.813), (SEARCHED, 4, 5.320),
]  # fmt: skip


@pytest.mark.parametrize(("network", "bits", "expected"), BITOPS)
def test_bitops_of_saq(network, bits, expected):
    name, arguments, side, unit = network
    model = build(name, **arguments)
    if bits < 32:
        fb.quantize_(model, fb.policy("saq", weights=bits, activations=bits))
    assert fb.cost(model, (3, side, side)).bitops / unit == pytest.approx(expected, abs=0.0005)


def test_bitops_with_float_edges_on_the_searched_head():
    model = build("mobilenet_v2", num_classes=100)
    edges = {"weights": 32, "activations": 32, "input_bits": 32}
    rules = fb.policy("saq", weights=4, activations=4).override("@first", **edges).override("@last", **edges)
    fb.quantize_(model, rules)
    assert fb.cost(model, (3, 224, 224)).bitops / 1e9 == pytest.approx(15.848, abs=0.0005)


# What the variants that do not meet the count have instead (spec 4.4's rejected rows).
@pytest.mark.parametrize(
    ("without", "bits", "millions"),
    [
        ({"variant": "standard"}, 32, 92386.9),
        ({"variant": "standard"}, 4, 1492.2),
        ({"variant": "standard"}, 3, 867.7),
        ({"shortcut": "identity"}, 32, 91279.6),
        ({"shortcut": "identity"}, 4, 1474.9),
        ({"shortcut": "identity"}, 3, 858.0),
    ],
)
def test_rejected_readings_of_the_cifar_net(without, bits, millions):
    saq = {"strides": (1, 1, 1, 2, 2, 1, 2, 1), "shortcut": "projection", "variant": "expanded"}
    model = build("mobilenet_v2", num_classes=100, activation="relu", **saq | without)
    if bits < 32:
        fb.quantize_(model, fb.policy("saq", weights=bits, activations=bits))
    assert fb.cost(model, (3, 32, 32)).bitops / 1e6 == pytest.approx(millions, abs=0.05)


def test_names_and_parameters_are_those_of_torchvision():
    model = build("mobilenet_v2")
    assert sum(p.numel() for p in model.parameters()) == 3_504_872
    keys = set(model.state_dict())
    assert {"features.1.conv.1.weight", "features.17.conv.3.running_var", "classifier.1.bias"} <= keys


def test_uniqs_net_has_the_authors_parameters():
    """pytorchcv's MobileNetV2 keeps the first block's 1x1 expansion and has no bias in its last layer."""
    model = build("mobilenet_v2", variant="uniq").eval()
    assert sum(p.numel() for p in model.parameters()) == 3_504_960
    assert model.features[1].conv[0][0].weight.shape == (32, 32, 1, 1)
    assert model.classifier[1].bias is None
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 1000)


def test_uniqs_recipe_takes_it():
    recipe = RECIPES.get("uniq-mobilenet_v2-imagenet")
    assert (recipe.model, recipe.model_arguments) == ("mobilenet_v2", {"variant": "uniq"})


@pytest.mark.parametrize(
    ("variant", "side", "activation"),
    [("saq", 4, torch.nn.ReLU), ("standard", 4, torch.nn.ReLU6), ("hol", 2, torch.nn.ReLU6)],
)
def test_cifar_variants(variant, side, activation):
    model = build("mobilenet_v2_cifar", variant=variant, width=0.3).eval()
    assert model.features(torch.randn(1, 3, 32, 32)).shape == (1, 1280, side, side)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert isinstance(model.features[0][2], activation)
    assert len(model.features[1].conv) == (4 if variant == "saq" else 3)


def test_a_block_sums_only_where_it_may():
    standard = build("mobilenet_v2_cifar").features
    saq = build("mobilenet_v2_cifar", variant="saq").features
    assert [block.sums for block in standard[1:-1]].count(True) == 10
    assert [block.sums for block in saq[1:-1]].count(True) == 14


@pytest.mark.parametrize(
    ("channels", "expected"), [(32, 32), (9.6, 16), (16 * 0.3, 8), (24 * 0.7, 16), (96 * 0.7, 64), (91, 88), (83, 80)]
)
def test_rounding_of_widths(channels, expected):
    assert rounded(channels) == expected
    assert rounded(channels) >= 0.9 * channels


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mobilenet_v2", {"strides": [1, 2]}, "expected 8"),
        ("mobilenet_v2", {"width": 0}, "positive"),
        ("mobilenet_v2", {"activation": "gelu"}, "expected relu6 or relu"),
        ("mobilenet_v2", {"shortcut": "Projection"}, "expected identity or projection"),
        ("mobilenet_v2", {"variant": "saq"}, "expected standard, expanded or uniq"),
        ("mobilenet_v2_cifar", {"variant": "tiny"}, "expected 'saq', 'hol' or 'standard'"),
    ],
)
def test_arguments_that_describe_no_net(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(name, **arguments)


def test_linear_bottlenecks_have_signed_residuals():
    model = build("mobilenet_v2_cifar", width=0.3)
    fb.quantize_(model, fb.policy("hol", weights=4, activations=4))
    x = torch.randn(4, 3, 32, 32)
    fb.calibrate_(model, [(x, torch.zeros(4))], num_batches=1)
    grid = fb.grids(model)["features.3.residual"].output
    assert grid.low == -grid.high
    metrics = fb.evaluate(model, [(x, torch.zeros(4, dtype=torch.long))])  # every product reads quantized values
    assert metrics.convention.inner == "W4/A4"
