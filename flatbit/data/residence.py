"""Where a data set lives: on the device where it fits beside training, else in host memory; copies wait for nothing."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

SHARE = 0.5
"""A split takes at most this share of a device's free memory: the rest is for the network and its training."""
HOST = torch.device("cpu")


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """The values on a device; to CUDA they go through pinned memory, and the host does not wait for them."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def home_of(size: int, device: torch.device, name: str) -> torch.device:
    """Where a split of so many bytes lives: the device, or the CPU, which a warning says, where it does not fit.

    Args:
        size: bytes of the split.
        device: where its batches are wanted.
        name: of the data set, for the warning.
    """
    free = free_bytes(device)
    if free is None or size <= SHARE * free:
        return device
    warnings.warn(
        f"data set {name!r}: a split of {_gib(size)} stays in host memory, for {device} has {_gib(free)} free and data "
        f"take at most {SHARE:.0%} of it. Batches are the same; each is copied to the device as it is needed, which "
        "takes longer",
        stacklevel=2,
    )
    return HOST


def free_bytes(device: torch.device) -> int | None:
    """Memory of a CUDA device that is free, or kept by torch without use; None of another, which is not asked."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
