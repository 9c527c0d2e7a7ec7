"""Calls: layers whose weight a forward reads past their call, and layers that it never calls.

``F.linear(x, layer.weight)`` runs no quantizer of the layer. A run tells it of every model (``products``); where a
model's code can be followed it is known before there is data.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from ..graph import read_graph
from .products import Products
from .table import slots_of

READ_PAST = (
    "its weight is read past its call, as F.linear(x, layer.weight) does, so no quantizer runs: call the layer instead"
)
UNCALLED = "the model never calls it in eval mode, nor reads its weight"


def read_past(model: nn.Module) -> set[str]:
    """The layers whose weight the model's code reads past their call; empty where its code cannot be followed."""
    graph = read_graph(model)
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"} if graph else set()
    weights = {
        f"{name}.{slot.name}".lstrip("."): name for name, m in model.named_modules() for slot in slots_of(m, "weight")
    }
    return {name for weight, name in weights.items() if weight in read}


def uncalled(names: Iterable[str], ran: Products) -> dict[str, str]:
    """Those of some layers that a run did not call, each with what it did instead."""
    return {name: READ_PAST if ran.outside[name] else UNCALLED for name in names if _is_uncalled(name, ran)}


def mend(names: Iterable[str]) -> str:
    """What leaves some layers in float, to write behind a policy."""
    return "policy" + "".join(f".override({name!r}, weights=32, activations=32)" for name in names)


def _is_uncalled(name: str, ran: Products) -> bool:
    return bool(ran.outside[name]) or name not in ran.reached
