"""What cannot be quantized right, and why: refused by name, never guessed.

Narrowing a class works where a layer's own forward reads its weight. These do not: a fused kernel
reads it past the layer, the weight is computed from other tensors, or the class is one whose forward is
unknown here: a subclass of the table's, or a module with a matrix of its own (``x @ self.w``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from ..wrappers import named_modules
from .alike import base_of
from .calls import uncalled
from .products import Products
from .reparametrized import reparametrized
from .spec import LayerSpec
from .table import TABLE, has_unknown_products, is_weighted, own_weights, row_of, slots_of

WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd, nn.Bilinear, nn.RNNBase, nn.RNNCellBase)


def refusals(model: nn.Module, ran: Products | None = None) -> dict[str, str]:
    """Layers with weights that must stay float, by name, each with its reason and the mend.

    Args:
        model: float or quantized.
        ran: what a float run of it multiplied (``example.multiplied``), which tells of modules with weights of their
            own, and of calls; None to refuse such modules on suspicion, and to leave calls to calibration.
    """
    found: dict[str, str] = {}
    for name, module in named_modules(model):
        if isinstance(module, nn.MultiheadAttention):
            found[name] = "its fused kernel reads in_proj_weight and out_proj.weight past any quantizer"
            found |= {
                f"{name}.out_proj".lstrip("."): "read by the attention's fused kernel, its forward is never called"
            }
        elif isinstance(module, nn.TransformerEncoderLayer) and torch.backends.mha.get_fastpath_enabled():
            reason = (
                "read by the encoder layer's fused kernel in eval mode: torch.backends.mha.set_fastpath_enabled(False)"
            )
            found |= {f"{name}.{child}".lstrip("."): reason for child in ("linear1", "linear2")}
        elif (isinstance(module, WEIGHTED) or is_weighted(module)) and name not in found:
            reason = _reason(module) or ("" if ran is None else uncalled([name], ran).get(name, ""))
            if reason:
                found[name] = reason
        elif has_unknown_products(module) and name not in found and (ran is None or not ran.leaves_alone(name)):
            found[name] = _own_reason(module, ran)
    return found


def tied_refusals(model: nn.Module, specs: Mapping[str, LayerSpec]) -> dict[str, str]:
    """Layers whose weight another module holds too, unless that one quantizes it the same way."""
    owners: dict[int, list[tuple[str, str]]] = {}
    for name, module in named_modules(model):
        named = {id(parameter): key for key, parameter in module._parameters.items()}
        for parameter in own_weights(module):
            owners.setdefault(id(parameter), []).append((name, named.get(id(parameter), "")))
    found = {}
    for held in owners.values():
        names = [name for name, _ in held]
        weights = [specs[name].tensors.get(slot) if name in specs else None for name, slot in held]
        if any(weights) and any(weight != weights[0] for weight in weights):
            shared = " and ".join(names)
            reason = f"its weight is shared by {shared}, which would quantize it differently: override them alike"
            found |= {name: reason for name, weight in zip(names, weights, strict=True) if weight}
    return found


def _reason(module: nn.Module) -> str:
    row = row_of(module)
    if row is None:
        kind = type(module).__name__
        base = base_of(type(module), TABLE)
        if base is None:
            return f"no quantized form of {kind}"
        return (
            f"{kind} is a subclass of {base.__name__} whose forward may use the weight otherwise: if it computes what "
            f"{base.__name__} does, flatbit.quant.add_subclass({kind}) says so"
        )
    for tensor, mend in reparametrized(module).items():
        return f"its {tensor} is computed from other tensors (pruning, weight_norm or the like): call {mend} first"
    for slot in slots_of(module, "weight"):
        weight = module._parameters.get(slot.name)
        if isinstance(weight, UninitializedParameter):
            return f"its {slot.name} has no shape yet: run one batch through the model first"
        if weight is None:
            return f"its {slot.name} is computed by a hook that is not known here: make it a parameter first"
    return ""


def _own_reason(module: nn.Module, ran: Products | None) -> str:
    shapes = " and ".join(str(tuple(weight.shape)) for weight in own_weights(module))
    held = f"{type(module).__name__} holds weights {shapes} itself"
    if ran is None:
        return f"{held}, which its forward may multiply with: quantize_(..., example=x) runs it once on x and sees"
    return f"{held}, and in the run they met something in a product, or it never ran"
