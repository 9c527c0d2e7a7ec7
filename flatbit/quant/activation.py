"""The abstract activation quantizer: calibration finds out whether its input is ever negative."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from .grid import Levels, choose, unsigned
from .quantizer import MAX_BITS, Quantizer, Site


class ActivationQuantizer(Quantizer, ABC):
    """A quantizer of activations, unsigned after a ReLU and symmetric elsewhere; abstract.

    ``signed`` is a buffer, decided by calibration (an input that was ever negative is signed) unless
    the caller says so: ``signed=False`` clips negative values to zero as the papers do that know
    unsigned activations only.

    Attributes:
        signed: bool scalar buffer.
    """

    signed: Tensor
    signed_bits: ClassVar[Sequence[int]] = range(1, MAX_BITS + 1)
    signed_refusal: ClassVar[str] = ""
    range_name: ClassVar[str]
    """Which piece of state calibration widens: ``step`` or ``clip``."""

    def __init__(self, bits: int, site: Site, granularity: str = "tensor", *, signed: bool | None = None) -> None:
        super().__init__(bits, site, granularity)
        self.register_buffer("signed", torch.tensor(bool(signed)))
        self.decides_sign = signed is None
        if signed:
            self._refuse_signed()

    @abstractmethod
    def signed_levels(self, bits: int) -> Levels:
        """The levels where the input has both signs."""

    @abstractmethod
    def start(self, x: Tensor) -> Tensor:
        """The step or clip that one calibration batch asks for, shape (); 0 if the batch says nothing."""

    def levels(self, x: Tensor) -> Levels:
        bits, signed = self._numbers(self.bits, self.signed)
        return choose(signed, self.signed_levels(bits), unsigned(bits))  # type: ignore[arg-type]

    def observe_(self, x: Tensor) -> None:
        """Widen the range to what batch ``x`` asks for; a first negative value makes the quantizer signed."""
        if self.decides_sign and not self.signed and bool((x < 0).any()):
            self._refuse_signed()
            super().reset_()
            self.signed.fill_(True)
        asked = self.start(x.detach())
        if asked > 0 and (not self.calibrated or asked > getattr(self, self.range_name)):
            self._set_(self.range_name, asked)

    def reset_(self) -> None:
        """Forget the range; the sign too, unless it was given."""
        super().reset_()
        if self.decides_sign:
            self.signed.fill_(False)

    def _refuse_signed(self) -> None:
        if int(self.bits) not in self.signed_bits:
            raise ValueError(
                f"{self.site}: the input has negative values, and method {self.method!r} cannot take them at "
                f"{int(self.bits)} bit: {self.signed_refusal}. Give this layer more bits, another method "
                "(uniq is symmetric from 1 bit up), activations=32, or signed=False to clip them to zero"
            )
