"""Models that are built again on a file's word: none that would be far larger than the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from . import models
from .registry import PLUGIN_HINT

MISFITS = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError)
"""What a builder or a quantizer raises for arguments that it cannot have, beside ValueError."""
VALUES_PER_BYTE = 64
"""A byte of a file holds eight values at most, of 1 bit; layers may share them."""
BYTES_PER_NAME = 16
"""The least that a file's header says of a tensor: its name, type, shape and place."""


class _TooLargeError(ValueError):
    """The model has more values than the file could give it."""


def rebuilt(path: str | Path, call: tuple[str, dict[str, Any]], *, trust: bool) -> nn.Module:
    """The model that a file says to build.

    Args:
        path: the file.
        call: the builder's name and its arguments, as the file has them.
        trust: let ``package.module:function`` be imported and called.

    Raises:
        ValueError: a builder that would have to be imported, arguments that it cannot have, a model far larger than
            the file, which is found before anything is allocated.
    """
    name, arguments = call
    if not trust and not models.is_known(name):
        raise ValueError(
            f"{path} wants to import and call {name!r}: if you trust it, load it with trust=True "
            "(--trust), or build the model yourself and call flatbit.load_(model, path)"
        )
    if not models.is_there(name):
        raise ValueError(f"{path}: its model {name!r} is not registered {PLUGIN_HINT}")
    try:
        _check_size(name, arguments, Path(path).stat().st_size)
        return models.build(name, **arguments)
    except (*MISFITS, ValueError) as error:
        raise ValueError(f"{path}: its model cannot be built, {name} with {arguments}: {error!r:.300}") from error


def _check_size(name: str, arguments: dict[str, Any], file_bytes: int) -> None:
    """Build a registered model without memory, and raise ValueError once it has more than the file could hold."""
    most, most_named = VALUES_PER_BYTE * file_bytes, file_bytes // BYTES_PER_NAME
    held = named = 0

    def count(*registered: Any) -> None:
        nonlocal held, named
        parameter = registered[-1]
        if parameter is not None and parameter.is_meta:
            held, named = held + parameter.numel(), named + 1
        if held > most or named > most_named:
            raise _TooLargeError(
                f"it has more than {most:,} values or {most_named:,} parameters, which the file cannot hold"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            models.build(name, **arguments)
    except _TooLargeError:
        raise
    except Exception:  # some builders compute with values: whether the model can be built shows when it is
        return
    finally:
        hook.remove()
