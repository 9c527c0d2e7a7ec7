"""Outputs: the logits in what a model returns, where that is plain; else what to write so that it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

NAMES = ("logits", "out")
"""What Hugging Face's and torchvision's models call the output that labels are held against."""


def logits_of(output: Any, who: str) -> Tensor:
    """The logits of a model's output: the tensor itself, the one called ``logits`` or ``out``, or the only one.

    Args:
        output: a tensor, or a mapping, tuple, list or object that holds some.
        who: returned it, as the error says.

    Raises:
        ValueError: none of these, which of several is meant is not said, or what is meant is no tensor.
    """
    if isinstance(output, Tensor):
        return output
    held = _held(output)
    found = [held[name] for name in NAMES if name in held][:1] or list(held.values())
    if len(found) == 1 and isinstance(found[0], Tensor):
        return found[0]
    raise ValueError(_refusal(output, held, who))


def _held(output: Any) -> dict[Any, Any]:
    """What an output holds, by key, by name or by place; None is left out."""
    if isinstance(output, Mapping):
        held = dict(output)
    elif isinstance(output, tuple | list):
        held = dict(zip(getattr(output, "_fields", range(len(output))), output, strict=True))
    else:
        held = {name: getattr(output, name) for name in NAMES if hasattr(output, name)}
        held |= getattr(output, "__dict__", {})
    return {key: value for key, value in held.items() if value is not None}


def _refusal(output: Any, held: dict[Any, Any], who: str) -> str:
    shown = ", ".join(f"{key!r}: {_described(value)}" for key, value in held.items())
    said = f"{who} returns a {type(output).__name__}" + (f" of {shown}" if held else "")
    by_name = not isinstance(output, Mapping | tuple | list) or hasattr(output, "_fields")
    if not any(isinstance(value, Tensor) for value in held.values()):
        return f"{said}, which holds no tensor: return the logits, (N, classes)"
    key = next(key for key, value in held.items() if isinstance(value, Tensor))
    part = f"output.{key}" if by_name else f"output[{key!r}]"
    return (
        f"{said}, and which tensor is the logits is not plain. If it is {part}, say so: "
        f"model.register_forward_hook(lambda module, inputs, output: {part}), or wrap the model in a module whose "
        f"forward returns model(x){part.removeprefix('output')}"
    )


def _described(value: Any) -> str:
    return f"tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
