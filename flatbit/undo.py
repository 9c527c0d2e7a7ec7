"""Undo: an in-place helper that fails leaves the model as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

HELD = ("_parameters", "_buffers", "_modules")


@contextmanager
def undone_on_failure(model: nn.Module, tensors: Iterable[Tensor] = ()) -> Iterator[None]:
    """Where the block raises, KeyboardInterrupt included, put a model back as it was before it.

    Args:
        model: whose modules get back their classes, attributes, parameters, buffers and children, by identity.
        tensors: whose values come back too; kept as copies in the meantime.
    """
    shapes = [(module, type(module), dict(vars(module)), _held(module)) for module in model.modules()]
    values = [(tensor, tensor.detach().clone()) for tensor in tensors]
    try:
        yield
    except BaseException:
        for module, kind, attributes, held in shapes:
            module.__class__ = kind
            _put_back(vars(module), attributes)
            for name, entries in held.items():
                _put_back(vars(module)[name], entries)
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(value)
        raise


def _held(module: nn.Module) -> dict[str, dict[str, Any]]:
    return {name: dict(vars(module)[name]) for name in HELD}


def _put_back(own: dict[str, Any], before: dict[str, Any]) -> None:
    own.clear()
    own.update(before)
