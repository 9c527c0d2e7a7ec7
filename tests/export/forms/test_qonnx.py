import onnx
import pytest
import torch
from torch import nn

import flatbit as fb

from ..cases import SHAPE, UNIQ, Branches, digits, settled
from .cases import Lines, agree, ready, run_qonnx, small

IMAGES = digits(8)[0]


def written(model, path, x):
    """Logits of a file in qonnx's executor, and the model's."""
    fb.export.onnx(model, path, x, form="qonnx")
    with torch.no_grad():
        return run_qonnx(path, x), model(x)


@pytest.mark.parametrize(("method", "bits"), [("uniq", 5), ("saq", 5), ("lsq_plus", 3)])
def test_what_the_model_computes_but_for_ties(method, bits, tmp_path):
    assert agree(*written(small(method, bits), tmp_path / "net.onnx", IMAGES), ties=1)


def test_branches_that_are_joined_and_resized(tmp_path):
    assert agree(*written(settled(Branches(), UNIQ), tmp_path / "net.onnx", IMAGES))


@pytest.mark.parametrize("method", ["saq", "xnor"])
def test_layers_in_float_are_taken_too(method, tmp_path):
    model, x = ready(_signs(), (3, 9), method, 1)
    assert agree(*written(model, tmp_path / "net.onnx", x), ties=0)


def _signs():
    """Layers without a ReLU before them, whose inputs have two signs."""
    torch.manual_seed(0)
    convolutions = [nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.Conv1d(6, 6, 3), nn.BatchNorm1d(6)]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 4))


@pytest.mark.parametrize("ties", ["even", "even_from_low", "away"])
def test_zero_has_the_sign_that_the_model_gives_it(ties, tmp_path, monkeypatch):
    model, x = ready(_signs(), (3, 9), "saq", 1, first_last_bits=8)
    quantizer = model[2].input_quantizer
    monkeypatch.setattr(type(quantizer), "ties", ties)
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.zero_()
    assert agree(*written(model, tmp_path / "net.onnx", x), ties=0)


def test_transposed_convolutions(tmp_path):
    middle = nn.ConvTranspose1d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2)
    model, x = ready(Lines(middle), (3, 12), "uniq", 2, granularity="channel")
    assert agree(*written(model, tmp_path / "net.onnx", x), ties=0)


@pytest.mark.parametrize("bits", [1, 2, 7])
def test_midrise_weights_are_one_bit_wider_and_have_no_zero_point(bits, tmp_path):
    path = tmp_path / "net.onnx"
    made = fb.export.onnx(small("uniq", bits), path, SHAPE, form="qonnx")
    graph = onnx.load(path).graph
    held = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    nodes = {node.name: node for node in graph.node}
    node = nodes["layers_0_0_conv1.product.weight.quantized"]
    assert node.domain == "qonnx.custom_op.general"
    assert node.op_type == ("BipolarQuant" if bits == 1 else "Quant")
    assert {float(held[n.input[2]]) for n in graph.node if n.op_type == "Quant"} == {0.0}
    if bits > 1:
        assert held[node.input[3]] == bits + 1
    assert made.operators["Quant"] > 0


def test_the_batch_is_that_of_the_example(tmp_path):
    path = tmp_path / "net.onnx"
    for example, batch in ((SHAPE, 1), (IMAGES, 8)):
        fb.export.onnx(small("lsq", 2), path, example, form="qonnx")
        shape = onnx.load(path).graph.input[0].type.tensor_type.shape
        assert [axis.dim_value for axis in shape.dim] == [batch, *SHAPE]


def test_settings_of_other_forms_cannot_act(tmp_path):
    with pytest.raises(ValueError, match="container= cannot act on the form 'qonnx'"):
        fb.export.onnx(small("lsq", 2), tmp_path / "net.onnx", SHAPE, form="qonnx", container="bits")
