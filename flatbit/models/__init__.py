"""Networks by name: ``build("resnet20", num_classes=100)``. One family per file; the folder is scanned."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from ..registry import Registry, import_object, nearest
from .third_party import read_checkpoint
from .weights import Matching, load_weights_
from .zoo import library_builder

__all__ = [
    "BUILD_CALL",
    "MODELS",
    "Matching",
    "accepts",
    "build",
    "is_known",
    "is_there",
    "load_weights_",
    "read_checkpoint",
]

MODELS: Registry[Callable[..., nn.Module]] = Registry("model", __name__)
BUILD_CALL = "flatbit_build_call"
_imported: set[str] = set()


def build(name: str, **arguments: Any) -> nn.Module:
    """Build a network by name; it remembers the call, so that ``flatbit.load`` can repeat it.

    Args:
        name: from ``flatbit list models``; ``torchvision/NAME`` or ``timm/NAME``; or
            ``package.module:function`` for a function of yours
            that returns a module.
        arguments: the builder's keyword arguments, plain values (``num_classes=100``, ``width=2``).

    Raises:
        ValueError: an unknown name or argument, with the nearest known ones; an argument that is missing.
    """
    builder, known = _builder(name), accepts(name)
    for argument in arguments:
        if argument not in known and "**" not in known:
            raise ValueError(f"model {name!r} has no argument {argument!r}: {nearest(argument, known)}")
    try:
        inspect.signature(builder).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"model {name!r}: {error}") from None
    model = builder(**arguments)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name!r} returned {type(model).__name__}: expected a torch.nn.Module")
    setattr(model, BUILD_CALL, [name, arguments])
    return model


def is_known(name: str) -> bool:
    """Whether building ``name`` runs no code that this process was not told to run.

    True for registered names, and for ``package.module:function`` once it was given to ``build`` or
    ``accepts`` here.
    A name read from a file is not to be imported on the file's word.
    """
    return ":" not in name or name in _imported


def is_there(name: str) -> bool:
    """Whether ``name`` is registered, or is of the kind that is imported: ``module:function``, ``timm/NAME``."""
    return ":" in name or "/" in name or name in MODELS.names()


def accepts(name: str) -> list[str]:
    """The arguments a builder takes; ``**`` among them where it takes any. Raises ValueError."""
    parameters = inspect.signature(_builder(name)).parameters.values()
    return ["**" if parameter.kind is parameter.VAR_KEYWORD else parameter.name for parameter in parameters]


def _builder(name: str) -> Callable[..., nn.Module]:
    if "/" in name and ":" not in name:
        return library_builder(name)
    if ":" not in name:
        return MODELS.get(name)
    builder = import_object(name)
    _imported.add(name)
    return builder
