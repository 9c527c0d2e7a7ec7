"""Quantization methods and the papers' conventions, one file each; the folder is scanned.

A file defines quantizers and registers them under its own name, with its paper's convention (what is kept
at 8 bits or in float, where activations are quantized), which moves the numbers as much as the method does::

    METHODS.add("uniq", Method(weights=UniqWeight, activations=UniqActivation, paper="..."))
    POLICIES.add("uniq", convention)

A method without one has first and last layers of 8 bits, or of the most that it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...registry import Registry
from ..policy import Policy
from ..quantizer import Quantizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """What a method quantizes, and with what; None where the method has no quantizer of that kind.

    Attributes:
        weights, activations: the quantizers.
        paper: whose.
        public: whether ``policy`` takes it by name; False for a part of others (fixed point).
    """

    weights: type[Quantizer] | None = None
    activations: type[Quantizer] | None = None
    paper: str
    public: bool = True


METHODS: Registry[Method] = Registry("quantization method", __name__)
POLICIES: Registry[Callable[[int, int], Policy]] = Registry("policy", __name__)
"""Conventions: from bits of weights and activations to a policy. The docstring says what is kept where."""
