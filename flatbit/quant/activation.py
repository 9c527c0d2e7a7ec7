"""The abstract activation quantizer: calibration finds out whether its input is ever negative."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from .grid import CodeRange, choose, unsigned
from .quantizer import MAX_BITS, Quantizer
from .rounding import Number
from .site import Site


class ActivationQuantizer(Quantizer, ABC):
    """A quantizer of activations, unsigned after a ReLU and symmetric elsewhere; abstract.

    ``signed`` is a buffer, decided by calibration (an input that was ever negative is signed) unless
    the caller says so: ``signed=False`` clips negative values to zero as the papers do that know
    unsigned activations only.

    Attributes:
        signed: scalar buffer, 0 or 1 in floating point, as ``bits``.
    """

    signed: Tensor
    signed_bits: ClassVar[Sequence[int]] = range(1, MAX_BITS + 1)
    signed_refusal: ClassVar[str] = ""
    range_name: ClassVar[str] = ""
    """Which piece of state calibration widens: ``step`` or ``clip``; none where the range is fixed."""

    def __init__(self, bits: int, site: Site, granularity: str = "tensor", *, signed: bool | None = None) -> None:
        super().__init__(bits, site, granularity)
        self.register_buffer("signed", torch.tensor(float(bool(signed))))
        self.decides_sign = signed is None
        if signed:
            self._refuse_signed()

    @abstractmethod
    def signed_range(self, bits: Number) -> CodeRange:
        """The codes where the input has both signs."""

    @abstractmethod
    def start(self, x: Tensor) -> Tensor:
        """The step or clip that one calibration batch asks for, shape (); 0 if the batch says nothing."""

    def code_range(self, x: Tensor) -> CodeRange:
        bits = self.whole_bits()
        return choose(self.is_signed(), self.signed_range(bits), unsigned(bits))

    def observe_(self, x: Tensor) -> None:
        """Widen the range to what batch ``x`` asks for; a first negative value makes the quantizer signed."""
        if self.decides_sign and not self.signed and bool((x < 0).any()):
            self._refuse_signed()
            super().reset_()
            self.signed.fill_(1)
        if not self.range_name:
            return
        asked, known = self.start(x.detach()), self.current(self.range_name)
        if asked > 0 and (not bool(known.isfinite()) or asked > known):
            self.set_state_(self.range_name, asked)

    def reset_(self) -> None:
        """Forget the range; the sign too, unless it was given."""
        super().reset_()
        if self.decides_sign:
            self.signed.fill_(0)

    def check_assignable(self, bits: int) -> None:
        """Raise ValueError also for a width that has no grid for the sign of this input."""
        super().check_assignable(bits)
        if bool(self.signed) and bits not in self.signed_bits:
            raise ValueError(f"{self.site}: signed inputs take no {bits} bit by {self.method!r}: {self.signed_refusal}")

    def is_signed(self) -> Tensor | bool:
        """Whether the input is signed: a truth value, or a tensor (``Facts``)."""
        return self.facts.read("signed", self.signed) > 0

    def _refuse_signed(self) -> None:
        if self.stated_bits not in self.signed_bits:
            raise ValueError(
                f"{self.site}: the input has negative values, and method {self.method!r} cannot take them at "
                f"{self.stated_bits} bit: {self.signed_refusal}. Give this layer more bits, another method "
                "(uniq is symmetric from 1 bit up), activations=32, or signed=False to clip them to zero"
            )
