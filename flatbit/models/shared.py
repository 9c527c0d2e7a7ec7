"""Modules that a model uses in several places, such as the one ReLU of a residual block of torchvision.

An activation that is quantized at its output has one step, wherever it is used; a module for each place
gives each its own.
"""

from __future__ import annotations

import copy
from collections import Counter
from itertools import chain
from typing import Any

import torch
from torch import nn

from ..graph import calls_of

NO_BACKWARD = -1


class InTurn(nn.ModuleList):
    """Copies of one module that a parent calls several times: each call in a forward has its own.

    ``begin_``, before a forward of the parent, makes the next call the first copy's, wherever the one before ended.
    """

    def __init__(self, module: nn.Module, count: int) -> None:
        super().__init__(copy.deepcopy(module) for _ in range(count))
        self._next = 0
        self._backward = NO_BACKWARD

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The next copy's output.

        Raises RuntimeError within a backward pass that did not begin the turns: what is computed again there
        (activation checkpointing of a part of the parent's forward) does not say which call it is.
        """
        if _backward() not in (NO_BACKWARD, self._backward):
            raise RuntimeError(
                f"one of {len(self)} calls of a shared {type(self[0]).__name__} is computed again in a backward pass, "
                "and nothing tells which: checkpoint the whole module that calls it, or give each call its own module"
            )
        module = self[self._next]
        self._next = (self._next + 1) % len(self)
        return module(*args, **kwargs)

    def begin_(self, *_: Any) -> None:
        """The next call is the first copy's."""
        self._next, self._backward = 0, _backward()


def _backward() -> int:
    """Which backward pass is running."""
    return NO_BACKWARD if torch.compiler.is_compiling() else torch._C._current_graph_task_id()


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
    if calls_of(model) is None:
        raise ValueError(
            f"split_shared_: which modules {type(model).__name__} calls several times cannot be read from its code "
            "(control flow that depends on data?): give each call a module of its own in the code"
        )
    split = _split_names_(model)
    calls = calls_of(model) or Counter()
    for name, count in calls.items():
        module, parent = model.get_submodule(name), name.rpartition(".")[0]
        if count > 1 and _is_stateless(module):
            in_turn = InTurn(module, count)
            model.set_submodule(name, in_turn)
            begins = model.get_submodule(parent) if calls[parent] == 1 else model  # of a shared parent all calls count
            begins.register_forward_pre_hook(in_turn.begin_)
            split[name] = count
    return split


def shared_modules(model: nn.Module) -> dict[str, int]:
    """In how many places each module is used, by its first name, where in several; only calls that code shows."""
    names = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    calls = calls_of(model) or Counter()
    modules = {name: module for name, module in model.named_modules() if not isinstance(module, InTurn)}
    used = {name: max(names[id(module)], calls[name]) for name, module in modules.items()}
    return {name: count for name, count in used.items() if count > 1}


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
    return next(chain(module.children(), module.parameters(), module.buffers()), None) is None
