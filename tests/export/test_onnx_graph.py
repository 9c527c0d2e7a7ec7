import sys

import ml_dtypes
import numpy as np
import onnx
import pytest

from flatbit.export.onnx_graph import OnnxGraph, onnx_package


def identity(graph):
    """A graph of one node, finished."""
    kind = graph.types["FLOAT"]
    graph.input = ("input", kind, ["batch", 2])
    graph.outputs.append(("logits", kind, ["batch", 2]))
    graph.renamed(graph.node("Relu", ["input"], "relu"), "logits")
    return graph.model("net", {"form": "none"}, "0")


def test_a_finished_model_has_been_checked_and_says_what_it_is():
    graph = OnnxGraph()
    graph.notes["batch"] = "any"
    made = identity(graph)
    assert {p.key: p.value for p in made.metadata_props} == {"form": "none", "opset": "13", "batch": "any"}
    assert made.opset_import[0].version == 13
    assert made.ir_version == 7
    assert graph.operators == {"Relu": 1}


def test_what_the_checker_refuses_is_never_made():
    graph = OnnxGraph()
    graph.node("Relu", ["nothing"], "relu.of.nothing")
    with pytest.raises(onnx.checker.ValidationError, match="nothing"):
        identity(graph)


def test_the_opset_is_the_highest_that_a_node_needs():
    graph = OnnxGraph()
    graph.node("Relu", ["input"], "later", since=21)
    graph.node("Relu", ["input"], "sooner", since=14)
    assert identity(graph).opset_import[0].version == 21


def test_names_are_used_once():
    graph = OnnxGraph()
    assert [graph.constant("x", np.float32(i)) for i in range(3)] == ["x", "x.2", "x.3"]


@pytest.mark.parametrize(("dtype", "size"), [(ml_dtypes.int2, 3), (ml_dtypes.uint4, 5), (np.uint8, 10)])
def test_short_codes_are_packed(dtype, size):
    graph = OnnxGraph()
    codes = np.asarray([0, 1] * 5)
    graph.constant("codes", codes, dtype)
    held = identity(graph).graph.initializer[0]
    assert len(held.raw_data) == size
    assert np.array_equal(onnx.numpy_helper.to_array(held).astype(int), codes)


def test_without_onnx_the_line_that_installs_it_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'onnx>=1.23' 'onnxruntime>=1.32'"):
        onnx_package()
