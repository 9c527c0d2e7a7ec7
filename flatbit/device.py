"""Where a model lives, and how that device multiplies."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter, else of its first buffer; the CPU for a model without either."""
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


@cache
def processor_name(device: str | torch.device) -> str:
    """The model of a GPU, or of the processor: what decides how long a step takes."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


@contextmanager
def float32_products(*, tf32: bool = False) -> Iterator[None]:
    """While it is on, CUDA multiplies float32 in float32, or in TF32; torch itself lets convolutions round to TF32."""
    backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "tf32" if tf32 else "ieee"
    try:
        yield
    finally:
        for backend, was in zip(backends, before, strict=True):
            backend.fp32_precision = was
