"""Modules that a model uses in several places, such as the one ReLU of a residual block of torchvision.

An activation that is quantized at its output has one step, wherever it is used; a module for each place
gives each its own.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

from torch import nn

from ..graph import read_graph


class InTurn(nn.ModuleList):
    """Copies of one module that a parent calls several times: each call in a forward has its own.

    The first call of the model's forward, wherever the one before ended, is the first copy's.
    """

    def __init__(self, module: nn.Module, count: int) -> None:
        super().__init__(copy.deepcopy(module) for _ in range(count))
        self._next = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The next copy's output."""
        module = self[self._next]
        self._next = (self._next + 1) % len(self)
        return module(*args, **kwargs)

    def begin_(self, *_: Any) -> None:
        """The next call is the first copy's."""
        self._next = 0


def split_shared_(model: nn.Module) -> dict[str, int]:
    """Give each place that uses a module without parameters and buffers a module of its own, in place.

    A module that is registered under several names is copied for each; one that a forward calls several times
    becomes an ``InTurn`` of as many copies, which nothing but its name tells from it (``relu`` becomes ``relu.0``,
    ``relu.1``, ...). No value changes; keys of a ``state_dict`` stay. Call it before ``quantize_``.

    Args:
        model: float.

    Returns:
        In how many places each module that was split is used, by its name.

    Raises:
        ValueError: the model's calls cannot be read (``flatbit.graph``), so that nothing tells what is shared.
    """
    split = _split_names_(model)
    calls = _calls(model)
    if calls is None:
        raise ValueError(
            f"split_shared_: which modules {type(model).__name__} calls several times cannot be read from its code "
            "(control flow that depends on data?): give each call a module of its own in the code"
        )
    for name, count in calls.items():
        module = model.get_submodule(name)
        if count > 1 and _is_stateless(module):
            in_turn = InTurn(module, count)
            model.set_submodule(name, in_turn)
            model.register_forward_pre_hook(in_turn.begin_)
            split[name] = count
    return split


def shared_modules(model: nn.Module) -> dict[str, int]:
    """In how many places each module is used, by its first name, where in several; only calls that code shows."""
    names = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    calls = _calls(model) or Counter()
    used = {name: max(names[id(module)], calls[name]) for name, module in model.named_modules()}
    return {name: count for name, count in used.items() if count > 1}


def _calls(model: nn.Module) -> Counter[str] | None:
    """How often a forward calls each module, by its first name; None where the code cannot be read."""
    graph = read_graph(model)
    return graph and Counter(str(node.target) for node in graph.nodes if node.op == "call_module")


def _split_names_(model: nn.Module) -> dict[str, int]:
    """Copy a module that is registered under several names for each of them; how many there were, by the first."""
    names: dict[nn.Module, dict[tuple[int, str], str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        parent, _, key = name.rpartition(".")
        names.setdefault(module, {}).setdefault((id(model.get_submodule(parent)), key), name)
    found = {module: [*places.values()] for module, places in names.items()}
    shared = {places[0]: places for module, places in found.items() if len(places) > 1 and _is_stateless(module)}
    for first, *others in shared.values():
        for name in others:
            model.set_submodule(name, copy.deepcopy(model.get_submodule(first)))
    return {first: len(places) for first, places in shared.items()}


def _is_stateless(module: nn.Module) -> bool:
    return not (
        any(True for _ in module.children())
        or any(True for _ in module.parameters())
        or any(True for _ in module.buffers())
    )
