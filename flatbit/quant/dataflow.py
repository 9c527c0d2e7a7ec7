"""Dataflow: what a model's graph of calls tells of its activations before there is data.

Where activations are quantized at their output, a layer behind a linear bottleneck or a sum reads values that no
quantizer made. Calibration finds each such layer by running the model (``producers``); its graph, where it can be
read, shows them when the policy is applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from ..graph import read_graph
from .spec import FLOAT_BITS, LayerSpec
from .table import is_weighted

KEEPING_MODULES = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity, nn.Flatten, nn.Unflatten, nn.ZeroPad1d,
    nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d, nn.ReplicationPad1d,
    nn.ReplicationPad2d, nn.ReplicationPad3d, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Unfold,
    nn.UpsamplingNearest2d, nn.ReLU,
)  # fmt: skip
KEEPING_FUNCTIONS = (
    F.max_pool1d, F.max_pool2d, F.max_pool3d, F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d,
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.pad, F.pixel_shuffle, F.pixel_unshuffle, F.unfold, F.relu,
)  # fmt: skip
KEEPING_NAMES = frozenset(
    ("cat", "concat", "concatenate", "stack", "flatten", "unflatten", "reshape", "view", "permute", "transpose",
     "swapaxes", "movedim", "contiguous", "clone", "detach", "chunk", "split", "unbind", "squeeze", "unsqueeze",
     "expand", "repeat", "getitem", "narrow", "flip", "roll", "relu", "relu_", "channel_shuffle", "rearrange")
)  # fmt: skip


def unquantized_inputs(model: nn.Module, specs: Mapping[str, LayerSpec]) -> list[str]:
    """The layers that count their activations as quantized, and read some that nothing quantizes, in order of calls.

    Args:
        model: float or quantized; its graph is read, and where it cannot be, nothing is found.
        specs: what its layers get, by name.
    """
    graph = read_graph(model)
    quantized: dict[fx.Node, bool] = {}
    found: dict[str, None] = {}
    for node in graph.nodes if graph else ():
        quantized[node] = _makes_levels(node, model, specs, quantized)
        if node.op != "call_module" or not is_weighted(model.get_submodule(str(node.target))):
            continue
        spec = specs.get(str(node.target), LayerSpec(policy=""))
        counted = spec.input is None and spec.input_bits < FLOAT_BITS and spec.role != "first"
        if counted and not _read(node, quantized):
            found[str(node.target)] = None
    return list(found)


def _makes_levels(node: fx.Node, model: nn.Module, specs: Mapping[str, LayerSpec], quantized: Any) -> bool:
    """Whether a call returns nothing but values that quantizers made."""
    if node.op == "call_module":
        spec = specs.get(str(node.target))
        if spec is not None and spec.output is not None:
            return True
        keeps = _keeps(model.get_submodule(str(node.target)))
    elif node.op in ("call_function", "call_method"):
        keeps = _function_keeps(node)
    else:
        return False
    return keeps and _read(node, quantized)


def _read(node: fx.Node, quantized: Mapping[fx.Node, bool]) -> bool:
    """Whether all tensors that a call reads first hold nothing but values that quantizers made."""
    first = next(iter((*node.args, *node.kwargs.values())), None)
    read = [x for x in (first if isinstance(first, list | tuple) else [first]) if isinstance(x, fx.Node)]
    return bool(read) and all(quantized[x] for x in read)


def _keeps(module: nn.Module) -> bool:
    return isinstance(module, KEEPING_MODULES) or (
        isinstance(module, nn.Upsample) and module.mode.startswith("nearest")
    )


def _function_keeps(node: fx.Node) -> bool:
    if node.target is F.interpolate:
        return str(node.kwargs.get("mode", "nearest")).startswith("nearest")
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name in KEEPING_NAMES or any(node.target is function for function in KEEPING_FUNCTIONS)
