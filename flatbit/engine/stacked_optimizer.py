"""The optimizer of stacked nets: one over all, in the groups of one net, whose state can be taken apart again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..train.optimizers import Optimizer, parameter_groups
from .stacked import NET, StackedNets

ELEMENTWISE = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad)
"""Those that step each number by its own gradients, so that nets in one tensor do not meet."""


def stacked_optimizer(
    stack: StackedNets, settings: Optimizer, *, lr: float, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """An optimizer over the stacked parameters. Raises ValueError for one that may mix what stands in one tensor."""
    names = {id(p): name for name, p in stack.models[0].named_parameters()}
    groups = parameter_groups(stack.models[0], weight_decay)
    for group in groups:
        group["params"] = [stack.parameters[NET + names[id(p)]] for p in group["params"]]
    made = settings.make(groups, lr)
    if type(made) not in ELEMENTWISE:
        known = ", ".join(kind.__name__ for kind in ELEMENTWISE)
        raise ValueError(
            f"{type(made).__name__}: whether it steps each number by itself is not known, so stacked nets could meet "
            f"in it: expected one of {known}, or train the nets one at a time"
        )
    return made


def state_of_net(optimizer: torch.optim.Optimizer, index: int) -> dict[str, Any]:
    """What ``state_dict`` of one net's own optimizer would be: loading it there goes on exactly."""
    whole = optimizer.state_dict()
    shapes = [p.shape for group in optimizer.param_groups for p in group["params"]]

    def taken(key: int, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value[index].clone() if value.shape == shapes[key] else value.clone()

    state = {key: {name: taken(key, value) for name, value in kept.items()} for key, kept in whole["state"].items()}
    return {"state": state, "param_groups": whole["param_groups"]}


def load_states_(optimizer: torch.optim.Optimizer, states: Sequence[dict[str, Any]]) -> None:
    """Load what ``state_of_net`` gave of each net, or the ``state_dict`` of its own optimizer, in place."""
    shapes = [p.shape[1:] for group in optimizer.param_groups for p in group["params"]]

    def joined(key: int, name: str) -> Any:
        values = [state["state"][key][name] for state in states]
        is_per_net = isinstance(values[0], Tensor) and values[0].shape == shapes[key] and name != "step"
        return torch.stack(values) if is_per_net else values[0]

    state = {key: {name: joined(key, name) for name in kept} for key, kept in states[0]["state"].items()}
    optimizer.load_state_dict({"state": state, "param_groups": states[0]["param_groups"]})
