"""A model's graph of calls, read without running it on data; nothing is changed and nothing is guessed.

Only what code can be followed symbolically has one: data-dependent control flow has none, and ``read_graph``
then returns None. It serves to say early, before there is data, what a run would say later.
"""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import fx, nn


class _Tracer(fx.Tracer):
    """Stops at torch's own modules and whatever subclasses them; a container's forward is followed."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        torchs = next(kind for kind in type(m).__mro__ if kind.__module__.startswith("torch.nn"))
        return torchs not in (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)


@torch.no_grad()
def read_graph(model: nn.Module) -> fx.Graph | None:
    """The calls that a model's forward makes, in eval mode, in order; None where it cannot be read.

    A node of op ``call_module`` has the module's first name in the model as its target.
    """
    tensors = chain(model.parameters(), model.buffers())
    try:
        shell = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})  # a forward may leave things on it
        return _Tracer().trace(shell.eval())
    except Exception:  # whatever a forward does with a value that is none: it cannot be read
        return None
