"""Optimizers by name, with parameter groups that keep weight decay off the steps."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from .. import plain
from ..quant.table import quantizers_of
from ..registry import Registry


class Optimizer(ABC):
    """An optimizer's settings, frozen; abstract. One of yours is registered with ``OPTIMIZERS.add(name, Class)``."""

    @abstractmethod
    def make(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """The optimizer over parameter groups, which carry their weight decay."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SGD(Optimizer):
    """SGD with momentum. Raises ValueError for a momentum outside [0, 1), or Nesterov's without one."""

    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        number = isinstance(self.momentum, int | float) and not isinstance(self.momentum, bool)
        if not number or not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum!r}: expected 0 or more, below 1")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True with momentum=0 cannot act: give it a momentum, or leave it out")

    def make(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        rate, fused = rate_of(groups, lr)
        return torch.optim.SGD(groups, lr=rate, momentum=self.momentum, nesterov=self.nesterov, fused=fused)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Adam(Optimizer):
    """Adam with PyTorch's betas and epsilon."""

    def make(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        rate, fused = rate_of(groups, lr)
        return torch.optim.Adam(groups, lr=rate, fused=fused, capturable=bool(fused))


OPTIMIZERS: Registry[type[Optimizer]] = Registry("optimizer", __name__)
plain.add_family(Optimizer, OPTIMIZERS)
OPTIMIZERS.add("sgd", SGD)
OPTIMIZERS.add("adam", Adam)


def set_rate_(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group; one that is a tensor, as captured steps need, is written in place."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def rate_of(groups: list[dict[str, Any]], lr: float) -> tuple[float | Tensor, bool | None]:
    """The learning rate as an optimizer takes it, and whether its step is fused: on CUDA a tensor, and fused.

    So a step there is a few kernels, and can be captured as a graph. Elsewhere a number, and torch decides.
    """
    devices = {p.device for group in groups for p in group["params"]}
    if {device.type for device in devices} != {"cuda"}:
        return lr, None
    return torch.tensor(lr, dtype=torch.float32, device=devices.pop()), True


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: what decays, and learned steps and clips of methods that exempt them (UNIQ, LSQ, DQ).

    SAQ's and PACT's clips decay with the weights, as their authors' code or paper has it; not so tables of
    ``candidates``, whose rows out of use would shrink.
    """
    kept = [quantizer for _, quantizer in quantizers_of(model) if quantizer.site.candidates or not quantizer.decays]
    exempt = [p for quantizer in kept for p in quantizer.parameters() if p.requires_grad]
    ids = {id(p) for p in exempt}
    rest = [p for p in model.parameters() if id(p) not in ids and p.requires_grad]
    groups = [{"params": rest, "weight_decay": weight_decay}]
    return [*groups, {"params": exempt, "weight_decay": 0.0}] if exempt else groups


def make_optimizer(
    model: nn.Module, optimizer: Optimizer, *, lr: float, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """The optimizer over a model's parameter groups. Raises ValueError for one whose step needs a closure."""
    made = optimizer.make(parameter_groups(model, weight_decay), lr)
    refuse_closures(made, "the training loop")
    return made


def refuse_closures(optimizer: torch.optim.Optimizer, who: str) -> None:
    """Raise ValueError where an optimizer's step needs a closure (LBFGS), and ``who`` steps once by the gradients."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if isinstance(optimizer, torch.optim.LBFGS) or (closure is not None and closure.default is closure.empty):
        raise ValueError(
            f"{type(optimizer).__name__} evaluates the loss anew within its step, by a closure, and {who} steps once "
            "by the gradients that are there: take an optimizer that needs none, such as SGD or Adam"
        )
