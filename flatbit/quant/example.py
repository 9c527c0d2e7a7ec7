"""Examples: what a model is called with, as its caller says it, and what one float run of it multiplies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ..device import device_of
from ..modes import buffers_kept, modes_kept
from .products import Products, watched_products
from .reparametrized import folded
from .switched import as_float


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """The arguments of one call of a model.

    Attributes:
        args, kwargs: on the model's device.
        of: what they are, as the title of a result says.
        what: the same, as an error says that the model does not take it.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    of: str
    what: str


def example_of(model: nn.Module, given: Any) -> Example:
    """A caller's example: one argument, a tuple of arguments, or a mapping of arguments by name."""
    given = tree_map_only(Tensor, lambda tensor: tensor.to(device_of(model)), given)
    kwargs = dict(given) if isinstance(given, Mapping) else {}
    args = () if kwargs else given if isinstance(given, tuple) else (given,)
    of = f"input {', '.join(map(_described, tree_leaves(given)))}"
    return Example(args=args, kwargs=kwargs, of=of, what=f"the {of}")


def zero_image(model: nn.Module, shape: Any) -> Example:
    """A batch of one zero image, on the model's device and in its dtype.

    Raises ValueError for what is no shape.
    """
    if not isinstance(shape, tuple | list):
        raise ValueError(f"input_shape={shape!r}: expected the shape of one image, such as (3, 32, 32)")
    tensors = filter(torch.is_floating_point, chain(model.parameters(), model.buffers()))
    dtype = next((tensor.dtype for tensor in tensors), torch.float32)
    try:
        image = torch.zeros(1, *shape, device=device_of(model), dtype=dtype)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{type(model).__name__} does not take one image of shape {tuple(shape)}: {error}") from error
    what = f"one image of shape {tuple(shape)} (example=... takes tokens, several inputs)"
    return Example(args=(image,), kwargs={}, of=f"image {tuple(shape)}", what=what)


def multiplied(model: nn.Module, example: Example) -> Products:
    """What one float forward of a model multiplies, in eval mode; the model is left as it was.

    Weights that pruning or a parametrization computes count as plain ones.

    Raises ValueError, with the model's own words, where it takes no such input.
    """
    with (
        torch.no_grad(), modes_kept(model), buffers_kept(model), torch.random.fork_rng(devices=[]), as_float(model),
        folded(model.modules()),
    ):  # fmt: skip
        model.eval()
        with watched_products(model, (example.args, example.kwargs)) as found:
            try:
                model(*example.args, **example.kwargs)
            except Exception as error:
                raise ValueError(f"{type(model).__name__} does not take {example.what}: {error}") from error
    return found


def _described(value: Any) -> str:
    """A tensor by its shape and dtype."""
    return (
        f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}" if isinstance(value, Tensor) else str(value)
    )
