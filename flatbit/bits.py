"""Codes as bits: whole numbers of 1 to 32 bits in bytes, one after the other.

Little-endian throughout: bit ``j`` of number ``k`` is bit ``k bits + j`` of the stream, and bit ``p`` of the stream is
bit ``p % 8``, counted from the lowest, of byte ``p // 8``. The last byte ends in zeros.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

MOST_BITS = 32


def num_bytes(count: int, bits: int) -> int:
    """How many bytes so many numbers of so many bits take."""
    return -(-count * bits // 8)


def packed_bits(numbers: Tensor, bits: int) -> Tensor:
    """Whole numbers as bytes, uint8 of shape (``num_bytes``,).

    Args:
        numbers: any shape, integer, each from 0 to ``2**bits - 1``.
        bits: 1 to 32.

    Raises:
        ValueError: a number that these bits do not hold.
    """
    if numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) < 1 << bits:
        raise ValueError(f"numbers from {int(numbers.min())} to {int(numbers.max())}: expected 0 to {(1 << bits) - 1}")
    held = numbers.detach().cpu().flatten().numpy().astype(_holder(bits))
    planes = np.unpackbits(held.view(np.uint8).reshape(len(held), held.itemsize), axis=1, bitorder="little")
    return torch.from_numpy(np.packbits(planes[:, :bits], bitorder="little"))


def unpacked_bits(data: Tensor, bits: int, count: int) -> Tensor:
    """The numbers that ``packed_bits`` wrote, int64 of shape (count,). Raises ValueError for other bytes."""
    if data.dtype != torch.uint8 or data.ndim != 1 or len(data) != num_bytes(count, bits):
        raise ValueError(
            f"{data.dtype} of shape {tuple(data.shape)} for {count} numbers of {bits} bits: expected "
            f"{num_bytes(count, bits)} bytes"
        )
    holder = np.dtype(_holder(bits))
    planes = np.zeros((count, 8 * holder.itemsize), np.uint8)
    planes[:, :bits] = np.unpackbits(data.numpy(), bitorder="little", count=count * bits).reshape(count, bits)
    numbers = np.packbits(planes, axis=1, bitorder="little").reshape(-1).view(holder)
    return torch.from_numpy(numbers.astype(np.int64))


def _holder(bits: int) -> str:
    """The least whole number of numpy's that is taken for numbers of so many bits."""
    return "<u1" if bits <= 8 else "<u4"
