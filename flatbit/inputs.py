"""Inputs: a model is called with one tensor, a batch; one that asks for more is named before it fails."""

from __future__ import annotations

import inspect

from torch import nn

from .wrappers import unwrapped

SEVERAL = (
    "several inputs go to the model as one tensor, x = torch.stack([a, b], 1), and a wrapper whose forward(self, x) "
    "returns self.model(*x.unbind(1))"
)
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def check_one_input(model: nn.Module, who: str) -> None:
    """Raise ValueError for a model whose forward needs more than one argument, naming them and the wrapper."""
    plain = unwrapped(model)
    try:
        parameters = inspect.signature(plain.forward).parameters.values()
    except (TypeError, ValueError):  # a forward that is no Python function says nothing of its arguments
        return
    needed = [each.name for each in parameters if each.kind in POSITIONAL and each.default is each.empty]
    if len(needed) > 1:
        raise ValueError(f"{who}: {type(plain).__name__} needs {', '.join(needed)}, expected one input: {SEVERAL}")
