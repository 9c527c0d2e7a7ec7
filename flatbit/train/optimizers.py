"""Optimizers by name, with parameter groups that keep weight decay off the steps."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import nn

from ..quant.layers import quantizers_of

OptimizerName = Literal["sgd", "adam"]
OPTIMIZERS = get_args(OptimizerName)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: what decays, and learned steps and clips of methods that exempt them (UNIQ, LSQ, DQ).

    SAQ's and PACT's clips decay with the weights, as their authors' code or paper has it.
    """
    exempt = [p for _, q in quantizers_of(model) if not q.decays for p in q.parameters() if p.requires_grad]
    ids = {id(p) for p in exempt}
    rest = [p for p in model.parameters() if id(p) not in ids and p.requires_grad]
    groups = [{"params": rest, "weight_decay": weight_decay}]
    return [*groups, {"params": exempt, "weight_decay": 0.0}] if exempt else groups


def make_optimizer(
    model: nn.Module,
    name: OptimizerName,
    *,
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """SGD with momentum or Adam over a model's parameter groups. Raises ValueError for other names."""
    groups = parameter_groups(model, weight_decay)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)
    if name == "adam":
        return torch.optim.Adam(groups, lr=lr)
    raise ValueError(f"optimizer {name!r}: expected 'sgd' or 'adam'")
