"""Sharpness-aware training of stacked nets: each climbs by its own gradient, in its own norm (``SharpnessAware``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from ..quant.quantizer import Quantizer
from ..train.perturbed import Member, attach_leaves_, perturbed_set, weights_of
from ..train.sharpness import ETA, Sharpness
from .stacked import NET, StackedNets

KEPT = ("running_mean", "running_var", "num_batches_tracked")
Backward = Callable[[Mapping[Quantizer, Tensor]], Tensor]
"""Zeroes gradients, runs forward and backward of all nets with the leaves that it is given; what it returns is kept."""


class StackedSharpness:
    """The two passes of SAM, ASAM, SAQ or ASAQ for all nets of a stack at once.

    Args:
        stack: whose nets are moved.
        settings: of each net alike. Raises ValueError for shards, and where SAQ has no quantized weight to move.
    """

    def __init__(self, stack: StackedNets, settings: Sharpness) -> None:
        if settings.shard is not None:
            raise ValueError(f"sharpness shard={settings.shard}: stacked nets climb by whole updates: leave it out")
        net, self.stack, self.settings = stack.shape.net, stack, settings
        quantized = settings.method in ("saq", "asaq")
        leaves = attach_leaves_(net) if quantized else []
        if quantized and not leaves:
            raise ValueError(f"{settings.method} moves quantized weights, and {type(net).__name__} has none that train")
        members = perturbed_set(net, leaves)
        members = weights_of(net, members) if settings.perturb == "weights_only" else members
        self.names = {id(tensor): name for name, tensor in net.named_parameters()}
        self.leaves: dict[Quantizer, Tensor] = {}
        for leaf in leaves:
            assert leaf.quantizer is not None
            leaf.quantizer.perturbation = None
            self.leaves[leaf.quantizer] = torch.zeros_like(self._stacked(leaf.latent), requires_grad=True)
        self.members = [(member, self._tensor(member)) for member in members]

    def step(self, optimizer: torch.optim.Optimizer, backward: Backward) -> Tensor:
        """Both passes and the optimizer's step. Returns what the first pass gave."""
        found = self._backward(backward)
        kept = self._ascend_()
        self._backward(backward)
        with torch.no_grad():
            torch._foreach_copy_(*kept)
        optimizer.step()
        return found

    def _backward(self, backward: Backward) -> Tensor:
        for leaf in self.leaves.values():
            leaf.grad = None
        return backward(self.leaves)

    @torch.no_grad()
    def _ascend_(self) -> tuple[list[Tensor], list[Tensor]]:
        """Move each net uphill by its gradients, in place. Returns what was moved, and as it was."""
        moved = [(member, tensor) for member, tensor in self.members if tensor.grad is not None]
        gradients = [tensor.grad for _, tensor in moved if tensor.grad is not None]
        scales = [self._scale(*pair) for pair in moved] if self.settings.adaptive else None
        tensors = [tensor for _, tensor in moved]
        kept = tensors + (self._statistics() if self.settings.batchnorm == "freeze" else [])
        copies = [tensor.detach().clone() for tensor in kept]
        torch._foreach_add_(tensors, ascents(gradients, scales, self.settings.rho))
        return kept, copies

    def _scale(self, member: Member, tensor: Tensor) -> Tensor:
        """T of each net, as ``Member.scale`` says."""
        if member.shifts:
            return torch.ones_like(tensor)
        value = tensor if member.quantizer is None else self._quantized(member.quantizer, member.latent)
        return value.detach().abs() + (ETA if self.settings.eta is None else self.settings.eta)

    def _quantized(self, quantizer: Quantizer, latent: Tensor | None) -> Tensor:
        """Each net's w^q."""
        state = self.stack.parameters | self.stack.buffers
        place = next(NET + name + "." for name, module in self.stack.shape.net.named_modules() if module is quantizer)
        own = {name.removeprefix(place): tensor for name, tensor in state.items() if name.startswith(place)}
        call: Any = torch.vmap(lambda held, weight: functional_call(quantizer, held, (weight,)))
        return call(own, self._stacked(latent))

    def _tensor(self, member: Member) -> Tensor:
        return self._stacked(member.tensor) if member.quantizer is None else self.leaves[member.quantizer]

    def _stacked(self, parameter: Tensor | None) -> Tensor:
        return self.stack.parameters[NET + self.names[id(parameter)]]

    def _statistics(self) -> list[Tensor]:
        """Running statistics and counts of every batch norm that trains."""
        modules = self.stack.shape.net.named_modules()
        norms = tuple(
            f"{NET}{name}.{key}" for name, m in modules if isinstance(m, _NormBase) and m.training for key in KEPT
        )
        return [tensor for name, tensor in self.stack.buffers.items() if name in norms]


def ascents(gradients: list[Tensor], scales: list[Tensor] | None, rho: float) -> list[Tensor]:
    """``e = rho T^2 g/(||T g|| + 1e-12)`` of each net, one l2 norm over all tensors of a net; 0 where it is not finite.

    Args:
        gradients, scales: g and T, (N, ...) each; T is 1 for None.
    """
    scaled = gradients if scales is None else torch._foreach_mul(gradients, scales)
    norms = torch.stack([torch.linalg.vector_norm(t.reshape(len(t), -1), dim=1) for t in scaled])
    norm = torch.linalg.vector_norm(norms, dim=0)
    steps = scaled if scales is None else torch._foreach_mul(scaled, scales)
    factor = rho / (norm + 1e-12)
    of_net = [(slice(None), *[None] * (step.ndim - 1)) for step in steps]
    return [torch.where(norm.isfinite()[at], step * factor[at], 0.0) for step, at in zip(steps, of_net, strict=True)]
