"""A model's graph of calls, read without running it on data; nothing is changed and nothing is guessed.

Only what code can be followed symbolically has one: data-dependent control flow has none, and ``read_graph``
then returns None. It serves to say early, before there is data, what a run would say later.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import fx, nn


class _Tracer(fx.Tracer):
    """Stops at torch's own modules and whatever subclasses them; a container's forward is followed.

    Attributes:
        calls: how often each module is called, by its first name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self.calls[self.path_of_module(m)] += 1
        return super().call_module(m, forward, args, kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        torchs = next(kind for kind in type(m).__mro__ if kind.__module__.startswith("torch.nn"))
        return torchs not in (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)


def read_graph(model: nn.Module) -> fx.Graph | None:
    """The calls that a model's forward makes, in eval mode, in order; None where it cannot be read.

    A node of op ``call_module`` has the module's first name in the model as its target.
    """
    traced = _traced(model)
    return traced and traced[0]


def calls_of(model: nn.Module) -> Counter[str] | None:
    """How often a forward calls each module, containers too, by its first name; None where it cannot be read."""
    traced = _traced(model)
    return traced and traced[1].calls


@torch.no_grad()
def _traced(model: nn.Module) -> tuple[fx.Graph, _Tracer] | None:
    tensors, tracer = chain(model.parameters(), model.buffers()), _Tracer()
    try:
        shell = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})  # a forward may leave things on it
        return tracer.trace(shell.eval()), tracer
    except Exception:  # whatever a forward does with a value that is none: it cannot be read
        return None
