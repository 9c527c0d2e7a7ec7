"""HOL's Lipschitz term: weight matrices kept near orthonormal (HOL, section 4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn

from ...quant.rounding import wide
from ...quant.spec import FLOAT_BITS
from ...quant.table import Slot, has_quantized_layers, slots_of, spec_of, weighted_layers
from . import LOSSES, LossTerm, check_weight


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Lipschitz(LossTerm):
    """``lipschitz(model)``; HOL's weight is 1e-4. Raises ValueError for a weight that is not positive."""

    weight: float = 1e-4
    name: str = field(default="lipschitz", metadata={"setting": False})

    def __post_init__(self) -> None:
        check_weight(self)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        return lipschitz(model)

    def check(self, model: nn.Module) -> None:
        """Raise ValueError where the net has no layer to hold near orthogonality."""
        _weights_of(model)


def lipschitz(model: nn.Module) -> Tensor:
    """HOL's L_Lip, ``R = 1/2 sum_l ||W_l^T W_l - I||_F^2``; its gradient is ``2 W_l (W_l^T W_l - I)``.

    W_l is the latent float weight as a matrix (fan_in, c_out); each group of a grouped convolution has
    a matrix of its own, so a depthwise one gives ``sum_c (|w_c|^2 - 1)^2 / 2``. A weight that layers
    share counts once. Where c_out > fan_in the least value is (c_out - fan_in) / 2, not 0.

    Taken over the convolutions and linear layers whose weight or input is quantized; over all of them
    in a model without a quantized layer. Raises ValueError where there is none.
    """
    return torch.stack([_distance_from_orthogonal(_columns(*found)) for found in _weights_of(model)]).sum() / 2


def _weights_of(model: nn.Module) -> list[tuple[Any, Slot]]:
    """Layer and slot of each weight of the term, a shared one once. Raises ValueError where there is none."""
    slots = [(layer, slot) for layer in _regularized(model) for slot in slots_of(layer, "weight")]
    found = {id(getattr(layer, slot.name)): (layer, slot) for layer, slot in slots}
    if not found:
        raise ValueError(
            f"the Lipschitz term of {type(model).__name__}: expected a convolution or linear layer to hold near "
            "orthogonality, got none: leave the term out"
        )
    return list(found.values())


def _regularized(model: nn.Module) -> list[Any]:
    """The layers that the Lipschitz term takes."""
    weighted = [layer for _, layer in weighted_layers(model)]
    if not has_quantized_layers(model):
        return weighted
    specs = ((layer, spec_of(layer)) for layer in weighted)
    return [layer for layer, spec in specs if spec and (spec.weights or spec.input or spec.input_bits < FLOAT_BITS)]


def _columns(layer: Any, slot: Slot) -> Tensor:
    """The transposed matrix of each group of a weight, (groups, c_out / groups, fan_in)."""
    groups = getattr(layer, "groups", 1)
    by_group = getattr(layer, slot.name).unflatten(0, (groups, -1))
    if slot.channel_axis == 1:  # transposed: (c_in, c_out / groups, ...)
        by_group = by_group.transpose(1, 2)
    return wide(by_group.flatten(2))


def _distance_from_orthogonal(columns: Tensor) -> Tensor:
    """``||W^T W - I||_F^2`` summed over groups, from the smaller of W^T W and W W^T."""
    groups, c_out, fan_in = columns.shape
    rows = columns if c_out <= fan_in else columns.mT
    with torch.autocast(columns.device.type, enabled=False):
        gram = rows @ rows.mT
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return (gram - identity).square().sum() + groups * max(c_out - fan_in, 0)


LOSSES.add("lipschitz", Lipschitz)
