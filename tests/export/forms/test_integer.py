from dataclasses import replace

import onnx
import pytest
import torch
from torch import nn

import flatbit as fb
from flatbit.export.executor import IntegerNetwork, integer_network
from flatbit.export.fixed import fixed_point
from flatbit.export.forms.integer import IntegerGraph
from flatbit.export.integer import Accumulate, Rescale, Round
from flatbit.export.lowering import lower
from flatbit.export.onnx_graph import OnnxGraph
from flatbit.export.program import Coding

from ..cases import DEPLOYABLE, SHAPE, UNIQ, Branches, digits, network, settled
from .cases import POOLS, Lines, Pooled, ready, run, small

IMAGES = digits()[0]
FLOATS = {"Conv", "Gemm", "MatMul", "Relu", "Pow", "Floor", "DequantizeLinear", "QuantizeLinear"}


def same_bits(model, path, x, **settings):
    """Whether a file gives the executor's integers, and its logits are these."""
    fb.export.onnx(model, path, x, form="integer", **settings)
    found, network = run(path, x), integer_network(model, tuple(x.shape[1:]), **settings)
    own = network.integers(x)
    scale = 2.0 ** -network.program.fraction_bits[network.program.output]
    logits = own.float() * torch.tensor(scale, dtype=torch.float32)
    return torch.equal(found["integers"].long(), own) and torch.equal(found["logits"], logits)


@pytest.mark.parametrize("bits", [3, 5])
@pytest.mark.parametrize("method", ["uniq", "lsq", "lsq_plus"])
def test_bit_for_bit_what_the_executor_computes(method, bits, tmp_path):
    """Widths beside those of ``tests/contracts/test_exports.py``."""
    assert same_bits(small(method, bits), tmp_path / "net.onnx", IMAGES)


@pytest.mark.parametrize(
    ("name", "method", "bits", "arguments"),
    [
        ("resnet20", "uniq", 8, {"width": 0.5}),
        ("preresnet20", "saq", 8, {"width": 0.25}),
        ("mobilenet_v2_cifar", "lsq_plus", 2, {"width": 0.25}),
        ("depthwise_resnet", "saq", 4, {"depth": 11}),
        ("depthwise_resnet", "uniq", 8, {"depth": 11}),
        ("fcdnn", "faq", 2, {"in_features": 64, "width": 32, "block": "residual"}),
    ],
)
def test_other_networks(name, method, bits, arguments, tmp_path):
    made = fb.policy(method, weights=bits, activations=bits, **DEPLOYABLE)
    assert same_bits(network(name, made=made, **arguments), tmp_path / "net.onnx", IMAGES[:20])


@pytest.mark.parametrize("placement", ["input", "output"])
@pytest.mark.parametrize("pool", POOLS)
def test_pooling_of_streams_and_of_codes(pool, placement, tmp_path):
    model, x = ready(Pooled(POOLS[pool], groups=2), (2, 9, 9), "faq", placement=placement)
    assert same_bits(model, tmp_path / "net.onnx", x)


def test_axes_and_groups(tmp_path):
    model, x = ready(Lines(nn.Conv1d(6, 4, 3, groups=2)), (3, 12), "uniq", 8)
    assert same_bits(model, tmp_path / "net.onnx", x)


def test_branches_that_are_joined_and_resized(tmp_path):
    assert same_bits(settled(Branches(), UNIQ), tmp_path / "net.onnx", IMAGES)


def test_a_segmentation_net(tmp_path):
    model, x = ready(fb.models.build("deeplab_mobilenet_v2", width=0.25, head_width=32), (3, 33, 33), "uniq")
    assert same_bits(model, tmp_path / "net.onnx", x[:4])


def test_products_of_whole_numbers_do_not_saturate(tmp_path):
    """The largest codes and weights everywhere: pairs of their products do not fit 16 bits."""
    model, x = ready(nn.Sequential(nn.Flatten(), nn.Linear(256, 4), nn.ReLU(), nn.Linear(4, 2)), (256,), "lsq", 8)
    with torch.no_grad():
        model[1].weight.fill_(1.0)
    assert same_bits(model, tmp_path / "net.onnx", torch.full_like(x, 100.0))
    assert same_bits(model, tmp_path / "net.onnx", torch.full_like(x, -100.0))


def test_any_input_and_any_batch(tmp_path):
    model = small("saq", 8)
    for x in (1e6 * torch.randn(3, *SHAPE), torch.zeros(1, *SHAPE), -1e6 * torch.ones(2, *SHAPE)):
        assert same_bits(model, tmp_path / "net.onnx", x)


@pytest.mark.parametrize(("method", "bits"), [("saq", 8), ("lsq", 4)])
def test_pixels_go_through_a_table(method, bits, tmp_path):
    model = network("resnet8", made=fb.policy(method, weights=bits, activations=bits, **DEPLOYABLE), width=0.25)
    pixels = torch.randint(0, 256, (20, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert same_bits(model, tmp_path / "net.onnx", pixels, prepare=lambda p: p.float() / 255 - 0.5)


def test_pixels_of_three_channels(tmp_path):
    model, _ = ready(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)), (3, 6, 6))
    pixels = torch.randint(0, 256, (9, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean = torch.tensor([0.2, 0.5, 0.7]).reshape(3, 1, 1)
    assert same_bits(model, tmp_path / "net.onnx", pixels, prepare=lambda p: (p.float() / 255 - mean) / 0.3)


def test_there_are_only_integers_between_codes_and_logits(tmp_path):
    path = tmp_path / "net.onnx"
    fb.export.onnx(small("lsq", 4), path, SHAPE, form="integer", prepare=lambda p: p.float() / 255)
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    assert not FLOATS & {node.op_type for node in graph.node}
    floats = {info.name for info in graph.value_info if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    assert floats == {"float"}
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: small("lsq", 4, first_last_bits=32), r"layer 'conv1': its weight is float, .*first_last_bits=8"),
        (lambda: small("saq", 4, image_bits=32), r"layer 'conv1': its input is float"),
    ],
)
def test_operands_in_float_are_refused_by_layer(model, says, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_text("as it was")
    with pytest.raises(ValueError, match=says):
        fb.export.onnx(model(), path, SHAPE, form="integer")
    assert path.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [path]


def whole_steps(ties, low, high, *, doubled):
    """A program of two layers whose second input is ``clip(round(n / 4), low, high)`` of the first input's codes n."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    program = fixed_point(lower(ready(model, (1,), "lsq", 8)[0], (1,)))
    operations = []
    for op in program.operations:
        if isinstance(op, Accumulate):
            op = replace(op, product=replace(op.product, weight=torch.ones_like(op.product.weight)))
        elif isinstance(op, Rescale):
            op = replace(op, multiplier=torch.ones(1).long(), addend=torch.zeros(1).long(), shift=0)
        elif isinstance(op, Round):
            rule = {"ties": ties, "low": low, "high": high, "doubled": doubled}
            op = replace(op, multiplier=1, addend=2, shift=2, **rule)
            ends = (2 * low + 1, 2 * high + 1) if doubled else (low, high)
            program.codings[op.name] = Coding(step=1.0, offset=0.0, low=ends[0], high=ends[1])
        operations.append(op)
    return replace(program, operations=tuple(operations))


@pytest.mark.parametrize("ties", ["even", "even_from_low", "away"])
@pytest.mark.parametrize(("low", "high"), [(-9, 9), (-8, 7), (0, 40), (-128, 127)])
@pytest.mark.parametrize("doubled", [False, True])
def test_every_tie_goes_where_the_executor_has_it_go(ties, low, high, doubled, tmp_path):
    program, graph = whole_steps(ties, low, high, doubled=doubled), OnnxGraph()
    IntegerGraph(program, graph).build()
    path = tmp_path / "net.onnx"
    path.write_bytes(graph.model("net", {}, "0").SerializeToString())
    x = torch.arange(-128, 128).reshape(-1, 1) * float(program.operations[0].grid.step)
    own = IntegerNetwork(program).integers(x)
    assert len(own.unique()) > 9
    assert torch.equal(run(path, x)["integers"].long(), own)


def test_transposed_convolutions_are_refused_by_layer(tmp_path):
    model, x = ready(Lines(nn.ConvTranspose1d(6, 4, 3)), (3, 12))
    with pytest.raises(ValueError, match="layer 'middle': ONNX has no integer transposed convolution: take the form"):
        fb.export.onnx(model, tmp_path / "net.onnx", x, form="integer")
    assert not list(tmp_path.iterdir())


def test_a_container_cannot_act(tmp_path):
    with pytest.raises(ValueError, match="container= cannot act on the form 'integer'"):
        fb.export.onnx(small("lsq", 4), tmp_path / "net.onnx", SHAPE, form="integer", container="int8")
