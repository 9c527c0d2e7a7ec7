import onnx
import pytest
import torch
from torch import nn

import flatbit as fb

from ..cases import SHAPE, UNIQ, Branches, digits, network, settled
from .cases import POOLS, Lines, Pooled, agree, ready, run, small

IMAGES = digits()[0]
TYPES = {
    (1, "bits"): {"INT2", "INT8", "UINT2", "UINT8"},
    (2, "bits"): {"INT2", "INT8", "UINT2", "UINT8"},
    (3, "bits"): {"INT4", "INT8", "UINT4", "UINT8"},
    (4, "bits"): {"INT4", "INT8", "UINT4", "UINT8"},
    (5, "bits"): {"INT8", "UINT8"},
    (2, "int8"): {"INT8", "UINT8"},
}


def written(model, path, x, **settings):
    """Logits of a file in ONNX Runtime, and the model's."""
    fb.export.onnx(model, path, tuple(x.shape[1:]), **settings)
    with torch.no_grad():
        return run(path, x)["logits"], model(x)


def whole_types(path):
    """The types of whole numbers that a file holds."""
    constants = onnx.load(path).graph.initializer
    names = {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in constants}
    return {name for name in names if "INT" in name} - {"INT64"}


@pytest.mark.parametrize("bits", [2, 3, 7])
@pytest.mark.parametrize("method", ["uniq", "lsq", "lsq_plus"])
def test_what_the_model_computes_but_for_ties(method, bits, tmp_path):
    """Widths beside those of ``tests/contracts/test_exports.py``, and codes of any width in 8 bits."""
    model = small(method, bits)
    assert agree(*written(model, tmp_path / "net.onnx", IMAGES))
    assert agree(*written(model, tmp_path / "net.onnx", IMAGES, container="int8"))


@pytest.mark.parametrize("method", ["faq", "hol"])
def test_weights_in_float_stay_so_between_codes(method, tmp_path):
    """ONNX Runtime would round them to 8 bits."""
    made = fb.policy(method, activations=2)
    assert agree(*written(network("resnet8", made=made, width=0.25), tmp_path / "net.onnx", IMAGES))


@pytest.mark.parametrize("method", ["saq", "hol", "xnor"])
def test_layers_in_float_are_taken_too(method, tmp_path):
    if method == "xnor":
        made = fb.policy("xnor", weights=1, activations=32)
        model = network("resnet8", made=made, width=0.25)
    else:
        model = small(method, 2, first_last_bits=32)
    assert agree(*written(model, tmp_path / "net.onnx", IMAGES))


@pytest.mark.parametrize(
    ("name", "method", "bits", "arguments"),
    [
        ("resnet20", "faq", 4, {"width": 0.5}),
        ("preresnet20", "uniq", 2, {"width": 0.25}),
        ("mobilenet_v2_cifar", "lsq", 3, {"width": 0.25}),
        ("depthwise_resnet", "lsq_plus", 2, {"depth": 11}),
        ("fcdnn", "faq", 2, {"in_features": 64, "width": 32, "block": "residual"}),
    ],
)
def test_other_networks(name, method, bits, arguments, tmp_path):
    model = network(name, method, bits, bits, **arguments)
    assert agree(*written(model, tmp_path / "net.onnx", IMAGES[:20]))


@pytest.mark.parametrize("placement", ["input", "output"])
@pytest.mark.parametrize("pool", POOLS)
def test_pooling(pool, placement, tmp_path):
    model, x = ready(Pooled(POOLS[pool], groups=2), (2, 9, 9), "lsq", 2, placement=placement)
    assert agree(*written(model, tmp_path / "net.onnx", x), ties=0)


def test_branches_that_are_joined_and_resized(tmp_path):
    assert agree(*written(settled(Branches(), UNIQ), tmp_path / "net.onnx", IMAGES))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", ["convolutions", "linear"])
def test_products_with_nothing_between_them(kind, bits, tmp_path):
    torch.manual_seed(0)
    if kind == "linear":
        model = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(3)))
    else:
        model = nn.Sequential(*(nn.Conv2d(8, 8, 3, bias=False) for _ in range(3)))
    model, x = ready(model, (8,) if kind == "linear" else (8, 7, 7), "lsq", bits)
    assert agree(*written(model, tmp_path / "net.onnx", x), ties=0)


@pytest.mark.parametrize("method", ["uniq", "lsq"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions(groups, granularity, method, tmp_path):
    middle = nn.ConvTranspose1d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=groups)
    try:
        model, x = ready(Lines(middle), (3, 12), method, 2, granularity=granularity)
    except ValueError as error:
        pytest.skip(str(error))
    assert agree(*written(model, tmp_path / "net.onnx", x), ties=0)


@pytest.mark.parametrize(("bits", "container"), TYPES)
def test_codes_are_held_in_the_least_that_fits(bits, container, tmp_path):
    path = tmp_path / "net.onnx"
    made = fb.export.onnx(small("uniq", bits), path, SHAPE, container=container)
    assert whole_types(path) == TYPES[bits, container]
    assert any(
        name.endswith(("2", "4", "8")[[2, 4, 8].index(_container(bits, container))]) for name in whole_types(path)
    )
    assert made.opset == {2: 25, 4: 21, 8: 13}[_container(bits, container)]


def _container(bits, container):
    return 8 if container == "int8" or bits > 4 else 2 if bits <= 2 else 4


def test_weights_are_the_models_to_the_bit(tmp_path):
    """At every width: codes times steps in the file are what the layer multiplies by."""
    for bits in (1, 2, 3, 4, 7):
        model, path = small("uniq", bits), tmp_path / "net.onnx"
        fb.export.onnx(model, path, SHAPE, container="int8")
        held = {t.name: torch.tensor(onnx.numpy_helper.to_array(t)) for t in onnx.load(path).graph.initializer}
        name = "layers_0_0_conv1.product.weight"
        found = held[name].float() * held[f"{name}.step"].reshape(-1, 1, 1, 1)
        assert torch.equal(found, model.layers[0][0].conv1.quantized_weight().detach())


def test_smaller_bits_make_a_smaller_file(tmp_path):
    sizes = [fb.export.onnx(small("lsq", bits), tmp_path / "net.onnx", SHAPE).size_bytes for bits in (8, 4, 2)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


def test_an_unknown_container_is_refused(tmp_path):
    with pytest.raises(ValueError, match="container='int4': expected 'bits' or 'int8'"):
        fb.export.onnx(small("lsq", 4), tmp_path / "net.onnx", SHAPE, container="int4")
    with pytest.raises(ValueError, match="prepare= cannot act on the form 'qdq'"):
        fb.export.onnx(small("lsq", 4), tmp_path / "net.onnx", SHAPE, prepare=lambda p: p.float())
    assert not list(tmp_path.iterdir())
