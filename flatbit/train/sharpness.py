"""Sharpness-aware training: SAM and ASAM at the latent weights, SAQ and ASAQ at the quantized ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

SharpnessMethod = Literal["sam", "asam", "saq", "asaq"]
SHARPNESS_METHODS = get_args(SharpnessMethod)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharpness:
    """How a stage looks for flat minima: the settings of ``SharpnessAware``.

    Attributes:
        method: ``sam`` and ``asam`` perturb the latent parameters before quantization, ``saq`` and
            ``asaq`` the quantized weights after it; the a's scale the perturbation by each value's size.
        rho: radius of the perturbation, in the global l2 norm.
        eta: added to the sizes (ASAM, ASAQ).
        perturb: ``authors`` also moves batch norms, clips of activations and biases, as SAQ's code does;
            ``weights_only`` is what its text says.
        batchnorm: ``freeze`` keeps the running statistics of the first pass; ``update`` lets the
            second pass move them too (SAQ's code).
        shard: m of m-sharpness: each ``shard`` samples of a batch have a perturbation of their own; None
            for one of the whole update.
    """

    method: SharpnessMethod
    rho: float
    eta: float = 0.01
    perturb: Literal["authors", "weights_only"] = "authors"
    batchnorm: Literal["freeze", "update"] = "freeze"
    shard: int | None = None

    def __post_init__(self) -> None:
        if self.method not in SHARPNESS_METHODS:
            raise ValueError(f"sharpness method {self.method!r}: expected one of {', '.join(SHARPNESS_METHODS)}")
        if not self.rho >= 0 or not self.eta >= 0:
            raise ValueError(f"{self}: expected rho and eta of 0 or more")
        if self.perturb not in ("authors", "weights_only") or self.batchnorm not in ("freeze", "update"):
            raise ValueError(f"{self}: expected perturb authors or weights_only, and batchnorm freeze or update")
        if self.shard is not None and self.shard < 1:
            raise ValueError(f"shard={self.shard}: expected 1 sample or more, or None")
