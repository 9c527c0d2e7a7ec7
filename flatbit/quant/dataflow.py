"""Dataflow: what a model's graph of calls tells of its activations before there is data.

Where activations are quantized at their output, a layer behind a linear bottleneck or a sum reads values that no
quantizer made. Calibration finds each such layer by running the model (``producers``); its graph, where it can be
read, shows them when the policy is applied. It also shows what would be quantized where it is made and again where
it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

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
     "expand", "repeat", "getitem", "narrow", "flip", "roll", "relu", "relu_", "channel_shuffle", "rearrange",
     "index_select", "gather", "amax", "amin")
)  # fmt: skip


Made = tuple[str, ...] | None
"""The layers whose output quantizers made values; None where some came otherwise."""


def unquantized_inputs(model: nn.Module, specs: Mapping[str, LayerSpec]) -> list[str]:
    """The layers that count their activations as quantized, and read some that nothing quantizes, in order of calls.

    Args:
        model: float or quantized; its graph is read, and where it cannot be, nothing is found.
        specs: what its layers get, by name.
    """
    found: dict[str, None] = {}
    for name, made in _reads(model, specs):
        spec = specs.get(name, LayerSpec(policy=""))
        if spec.input is None and spec.input_bits < FLOAT_BITS and spec.role != "first" and made is None:
            found[name] = None
    return list(found)


def quantized_twice(model: nn.Module, specs: Mapping[str, LayerSpec]) -> dict[str, tuple[str, ...]]:
    """The layers with an input quantizer that read nothing but quantized outputs, and whose, in order of calls.

    Args as ``unquantized_inputs``.
    """
    if not any(spec.output for spec in specs.values()):
        return {}
    return {name: made for name, made in _reads(model, specs) if made and name in specs and specs[name].input}


def _reads(model: nn.Module, specs: Mapping[str, LayerSpec]) -> Iterator[tuple[str, Made]]:
    """Each call of a weighted layer: its name, and what made the values that it reads."""
    graph = read_graph(model)
    made: dict[fx.Node, Made] = {}
    for node in graph.nodes if graph else ():
        made[node] = _makes(node, model, specs, made)
        if node.op == "call_module" and is_weighted(model.get_submodule(str(node.target))):
            yield str(node.target), _read(node, made)


def _makes(node: fx.Node, model: nn.Module, specs: Mapping[str, LayerSpec], made: Mapping[fx.Node, Made]) -> Made:
    """What made the values that a call returns."""
    keeps = False
    if node.op == "call_module":
        name = str(node.target)
        if name in specs and specs[name].output is not None:
            return (name,)
        keeps = _keeps(model.get_submodule(name))
    elif node.op in ("call_function", "call_method"):
        keeps = _function_keeps(node)
    return _read(node, made) if keeps else None


def _read(node: fx.Node, made: Mapping[fx.Node, Made]) -> Made:
    """What made the values of all tensors that a call reads first."""
    first = node.args[0] if node.args else node.kwargs.get("input", next(iter(node.kwargs.values()), None))
    read = [made[x] for x in (first if isinstance(first, list | tuple) else [first]) if isinstance(x, fx.Node)]
    known = [names for names in read if names is not None]
    return tuple(dict.fromkeys(chain(*known))) if known and len(known) == len(read) else None


def _keeps(module: nn.Module) -> bool:
    return isinstance(module, KEEPING_MODULES) or (
        isinstance(module, nn.Upsample) and module.mode.startswith("nearest")
    )


def _function_keeps(node: fx.Node) -> bool:
    if node.target is F.interpolate:
        return str(node.kwargs.get("mode", "nearest")).startswith("nearest")
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name in KEEPING_NAMES or any(node.target is function for function in KEEPING_FUNCTIONS)
