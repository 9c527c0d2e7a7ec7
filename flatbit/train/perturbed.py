"""What sharpness-aware training moves, and how far: the perturbed set S and the ascent e over it.

A quantized weight w^q is no parameter, so a leaf stands for it: zeros that its quantizer adds to its
output (``Quantizer.perturbation``). The leaf's gradient is dL/dw^q, and its value is e.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..quant.quantizer import Quantizer
from ..quant.reparametrized import refuse_reparametrized
from ..quant.table import own_weights, quantized_layers, quantized_tensors


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Member:
    """One tensor of the perturbed set S: a parameter, or the leaf that stands for a quantized w^q.

    Attributes:
        tensor: what is moved, and whose gradient says where to: a parameter, or a leaf (zeros) that the
            quantizer adds to its output.
        shifts: whether it is a bias or a beta, which the a-methods do not scale.
        quantizer, latent: of a leaf: ``w^q = quantizer(latent)``.
    """

    tensor: Tensor
    shifts: bool
    quantizer: Quantizer | None = None
    latent: Tensor | None = None

    def scale(self, eta: float) -> Tensor:
        """T of ASAM and ASAQ: ``|w^q| + eta``, or ``|theta| + eta`` of a parameter; 1 of a bias or beta."""
        if self.shifts:
            return torch.ones_like(self.tensor)
        value = self.tensor if self.quantizer is None else self.quantizer(self.latent)
        return value.detach().abs() + eta


def attach_leaves_(model: nn.Module) -> list[Member]:
    """Put a leaf of zeros on every quantizer of a trainable weight or bias, in place; tied quantizers get one.

    The leaf is added to x^q, so its gradient is dL/dw^q. ``leaf.quantizer.perturbation = None`` takes it off. Raises
    ValueError for a weight that pruning or a parametrization computes.
    """
    refuse_reparametrized(quantized_layers(model), "moving quantized weights")
    leaves: dict[Quantizer, Member] = {}
    for _, layer in quantized_layers(model):
        for slot, quantizer, latent in quantized_tensors(layer):
            if not latent.requires_grad:
                continue
            leaf = quantizer.perturbation = torch.zeros_like(latent, requires_grad=True)
            leaves[quantizer] = Member(tensor=leaf, shifts=slot.role == "bias", quantizer=quantizer, latent=latent)
    return list(leaves.values())


def perturbed_set(model: nn.Module, leaves: list[Member]) -> list[Member]:
    """S as SAQ's authors have it: the leaves, and every trainable parameter that no leaf stands for.

    Those are batch norms, biases, clips and steps of activations, and the weights of float layers; not
    the clips and steps of the leaves' own quantizers. Without leaves: all trainable parameters (SAM).
    """
    replaced = {id(leaf.latent) for leaf in leaves}
    replaced |= {id(p) for leaf in leaves if leaf.quantizer is not None for p in leaf.quantizer.parameters()}
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad and id(p) not in replaced]
    return leaves + [Member(tensor=p, shifts=_is_bias(name)) for name, p in named]


def _is_bias(name: str) -> bool:
    """By the last part of a parameter's name: ``bias``, an LSTM's ``bias_ih_l0``, attention's ``in_proj_bias``."""
    return "bias" in name.rpartition(".")[2].split("_")


def weights_of(model: nn.Module, members: list[Member]) -> list[Member]:
    """Of some members those that are weights (two axes or more, no norm's), or stand for one."""
    weights = {id(p) for module in model.modules() for p in own_weights(module)}
    return [m for m in members if id(m.tensor if m.latent is None else m.latent) in weights]


def ascent(gradients: list[Tensor], scales: list[Tensor] | None, rho: float) -> list[Tensor]:
    """``e = rho T^2 g/(||T g|| + 1e-12)``, one l2 norm over all tensors; 0 where that norm is not finite.

    Scaling every gradient by one factor (AMP) changes nothing. Never waits for the device.
    """
    scaled = gradients if scales is None else torch._foreach_mul(gradients, scales)
    norm = torch.nn.utils.get_total_norm(scaled)
    steps = scaled if scales is None else torch._foreach_mul(scaled, scales)
    return [torch.where(norm.isfinite(), step, 0.0) for step in torch._foreach_mul(steps, rho / (norm + 1e-12))]


def carried(model: nn.Module) -> list[Quantizer | Tensor | None]:
    """Every quantizer and its leaf."""
    return [part for m in model.modules() if isinstance(m, Quantizer) for part in (m, m.perturbation)]
