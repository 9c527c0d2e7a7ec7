"""Facts of a quantizer, its width and the sign of its input: buffers that seldom change, and are needed as numbers.

On a device a read waits; and kept as tensors they cost a dozen small kernels in each forward pass.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from .passes import read_is_free

FACTS = ("bits", "signed")
"""Buffers that say what a quantizer is; all others, and its parameters, are state that calibration sets."""


@final
class Facts:
    """The numbers that were read, each with the buffer and the version that it was read from."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Tensor, int, float]] = {}

    def read(self, name: str, held: Tensor) -> float | Tensor:
        """The number in a buffer; on a device it is read anew only where the buffer changed.

        The buffer itself in a compiled graph, which serves every width, under a transform, and on the meta device.
        """
        if torch.compiler.is_compiling() or held.is_meta or is_functorch_wrapped_tensor(held):
            return held
        if read_is_free(held) or held.is_inference():  # which counts no versions
            return float(held)
        buffer, version, number = self._known.get(name, (None, 0, 0.0))
        if buffer is not held or version != held._version:
            number = float(held)
            self._known[name] = (held, held._version, number)
        return number


def is_finite(tensor: Tensor) -> bool:
    """One number is judged by itself: the operations of a tensor cost more, in every forward after an update."""
    return math.isfinite(tensor.item()) if tensor.numel() == 1 else bool(tensor.isfinite().all())
