"""Quantization methods, one file each; the folder is scanned, so a file is all that a method takes.

A file defines quantizers and registers them under its own name::

    METHODS.add("uniq", Method(weights=UniqWeight, activations=UniqActivation, paper="..."))
"""

from __future__ import annotations

from dataclasses import dataclass

from ...registry import Registry
from ..quantizer import Quantizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """What a method quantizes, and with what; None where the method has no quantizer of that kind."""

    weights: type[Quantizer] | None = None
    activations: type[Quantizer] | None = None
    paper: str


METHODS: Registry[Method] = Registry("quantization method", __name__)
