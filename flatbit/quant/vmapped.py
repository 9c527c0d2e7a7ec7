"""Under ``torch.vmap``: a fused function runs on the stacked tensors, so that several nets train by one kernel.

PyTorch's other transforms (``grad``, ``vjp``, ``jvp``) differentiate compositions of its own operations only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import (
    TransformType,
    _add_batch_dim,
    _unwrap_batched,
    get_interpreter_stack,
    is_batchedtensor,
)
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter


def only_vmapped(*arguments: Any) -> bool:
    """Whether ``vmap`` is the only kind of transform that is active, in eager mode, and has stacked an argument."""
    if torch.compiler.is_compiling():
        return False
    if any(transform.key() != TransformType.Vmap for transform in get_interpreter_stack() or ()):
        return False
    return any(isinstance(argument, Tensor) and is_batchedtensor(argument) for argument in arguments)


def on_stacked(function: Callable[..., Tensor], *arguments: Any, **options: Any) -> Tensor:
    """``function`` of broadcasting tensors and numbers, called once for all nets of the innermost ``vmap``.

    What is stacked gets the nets as its first axis, and behind it axes of 1 up to the axes of the others: a step of
    shape (N,) meets values (N, ...) as (N, 1, ..., 1). The function is called outside that ``vmap`` and so is
    recorded by autograd as ever; its result has the nets as its first axis.

    Args:
        function: of tensors that broadcast to the shape of its result.
        arguments: what may be stacked.
        options: plain values.
    """
    interpreter = retrieve_current_functorch_interpreter()
    level = interpreter.level()
    found = [_unwrap_batched(a, level) if isinstance(a, Tensor) else (a, None) for a in arguments]
    axes = max(a.ndim for a in arguments if isinstance(a, Tensor))
    stacked = any(axis is not None for _, axis in found)
    with interpreter.lower():
        result = function(*(_aligned(value, axis, axes) for value, axis in found), **options)
        return _add_batch_dim(result, 0, level) if stacked else result


def _aligned(value: Any, axis: int | None, axes: int) -> Any:
    """A stacked tensor with the nets first and ``axes`` axes behind them; anything else as it is."""
    if axis is None:
        return value
    value = value.movedim(axis, 0)
    return value.reshape(len(value), *[1] * (axes + 1 - value.ndim), *value.shape[1:])
