"""Passes over memory, which are what fake quantization costs: few, in place, and in the cache where they can be.

Tensors larger than the cache go through it block by block, all passes over one block before the next: each
is read from memory once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

BLOCK = 1 << 20  # of the elements in one dot product
PASS = 1 << 18  # elements that stay in the cache from one pass to the next
ROW = 1 << 11  # elements of one step from which on a call for each step costs less than masks for all
Number = float | Tensor
LARGE = 3 << 20  # elements from which on passes go block by block; 8 MB did not gain


def wide(x: Tensor) -> Tensor:
    """Half precision has too few bits for codes of 8: compute in float32 then."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def large(a: Tensor, b: Tensor, *numbers: Any) -> bool:
    """Whether passes over a and b go block by block: dense, of one layout, large, and with single numbers."""
    if a.numel() < LARGE or not read_is_free(a) or any(isinstance(n, Tensor) and n.ndim for n in numbers):
        return False
    reach = 1 + sum(stride * (size - 1) for stride, size in zip(a.stride(), a.shape, strict=True))
    return a.stride() == b.stride() and a.numel() == reach


def blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Dense tensors of one layout in pieces that stay in the cache from one pass to the next."""
    return zip(*(flat(t).split(PASS) for t in tensors), strict=True)


def end_levels(x: Tensor, step: Tensor, offset: Number, low: Number, high: Number) -> tuple[Number, Number]:
    """The lowest and highest level, ``step * (low + offset)`` and so on: plain numbers where reading them is free.

    Float64 holds the product of a float32 step and a code exactly, so a kernel rounds it as float32 would have.
    """
    free = read_is_free(x)
    if free and step.numel() == 1 and not any(isinstance(number, Tensor) for number in (offset, low, high)):
        number = step.item()
        return number * (low + offset), number * (high + offset)
    lowest, highest = step * (low + offset), step * (high + offset)
    return (lowest.item(), highest.item()) if free and lowest.numel() == 1 else (lowest, highest)


def clipped(
    g: Tensor, x: Tensor, passed: Tensor, value: Tensor, ends: tuple[Number, Number], step: Tensor, *, few: bool
) -> tuple[Tensor, Tensor]:
    """``g`` where ``lowest < x < highest``, else 0; and ``sum(g (passed - value))`` there, ``sum(-g value)`` elsewhere.

    The sum is over the elements that share one of ``step``. Without a graph memory is used twice.

    Args:
        ends: lowest and highest.
        few: whether there are so few codes that ``sum(g passed)`` and ``sum(g value)`` may be taken before their
            difference, a pass less: the more codes, the more of float32's digits it loses.
    """
    graph = torch.is_grad_enabled()
    if graph or not large(g, x, *ends, step):
        if few:
            g_x = between(g, x, *ends)
            return g_x, product_sum(g_x, passed, step) - product_sum(g, value, step)
        kept = between(passed, x, *ends).sub_(value)
        products = product_sum(g, kept, step)
        return between(g, x, *ends, out=None if graph else kept), products
    g_x, scratch, sums = torch.empty_like(g), g.new_empty(PASS), []
    for h, v, p, q, out in blocks(g, x, passed, value, g_x):
        if few:
            sums.append(between(h, v, *ends, out=out).dot(p) - h.dot(q))
            continue
        sums.append(h.dot(between(p, v, *ends, out=scratch[: len(v)]).sub_(q)))
        between(h, v, *ends, out=out)
    return g_x, torch.stack(sums).sum()


def between(g: Tensor, x: Tensor, lowest: Number, highest: Number, out: Tensor | None = None) -> Tensor:
    """``g`` where ``lowest < x < highest``, else 0; in the memory of ``out`` where that saves some."""
    kernel = torch.ops.aten.hardtanh_backward
    if not isinstance(lowest, Tensor) or not isinstance(highest, Tensor):
        ends = lowest, highest
        return kernel.default(g, x, *ends) if out is None else kernel.grad_input(g, x, *ends, grad_input=out)
    if _has_long_rows(x, lowest) and x.shape == g.shape and not torch.is_grad_enabled() and read_is_free(x):
        out = torch.empty_like(g) if out is None else out
        ends = zip(lowest.flatten().tolist(), highest.flatten().tolist(), strict=True)
        for row, values, kept, (low, high) in zip(g, x, out, ends, strict=True):
            kernel.grad_input(row, values, low, high, grad_input=kept)
        return out
    return torch.where((x > lowest) & (x < highest), g, 0.0)


def _has_long_rows(x: Tensor, step: Tensor) -> bool:
    """Whether steps differ along the first axis alone (those of stacked nets), each for many elements."""
    return step.ndim == x.ndim and step.numel() == len(step) and x.numel() >= ROW * len(step)


def read_is_free(x: Tensor) -> bool:
    """Whether a number can be read out of a tensor at no cost: on the CPU, not compiled, outside transforms.

    There the vectorised kernels want plain numbers; elsewhere a read stalls the device or breaks the graph.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not is_functorch_wrapped_tensor(x)


def product_sum(a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    """``sum(a b)`` over all elements that share one element of ``like``; long vectors in blocks, for float32's sake."""
    if like.numel() > 1 or a.stride() != b.stride():
        return (a * b).sum_to_size(like.shape)
    a, b = flat(a), flat(b)
    if a.numel() <= BLOCK:
        return a.dot(b).reshape(like.shape)
    blocks = zip(a.split(BLOCK), b.split(BLOCK), strict=True)
    return torch.stack([p.dot(q) for p, q in blocks]).sum().reshape(like.shape)


def flat(x: Tensor) -> Tensor:
    """All elements as a vector, in memory order: no copy of a dense tensor."""
    return x.permute(sorted(range(x.ndim), key=x.stride, reverse=True)).reshape(-1)
