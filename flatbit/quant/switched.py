"""Switched off: a quantized model as the float network that it was, for as long as that is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .table import quantizers_of


@contextmanager
def as_float(model: nn.Module) -> Iterator[None]:
    """Run a quantized model as its float network: every quantizer passes its input through."""
    active = [quantizer for _, quantizer in quantizers_of(model) if quantizer.enabled]
    for quantizer in active:
        quantizer.enabled = False
    try:
        yield
    finally:
        for quantizer in active:
            quantizer.enabled = True
