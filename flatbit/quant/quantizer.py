"""The abstract quantizer: a module from x to x^q that can name its grid and its codes.

A method is a subclass that says four things: its levels at a bit-width (``levels``), its step
(``step_of``), how its state starts from data (``observe_``), and the surrogate gradient
(``surrogate``). Everything else, from the fused kernel to packing, follows from these.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from .grid import Grid, Levels
from .rounding import (
    Surrogate,
    Ties,
    fake_quantize,
    read_is_free,
    wide,
)

MAX_BITS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Where a quantizer stands: what its maths and its error messages may need to know.

    Attributes:
        layer: the layer's name in the model.
        role: ``weight``, ``input``, ``output``, ``scale`` or ``bias``.
        kind: what the layer is: ``convolution``, ``linear``, ``activation`` or ``normalization``.
        step_shape: shape of one step per output channel, broadcastable to the weight.
    """

    layer: str = "(no layer)"
    role: str = "input"
    kind: Literal["convolution", "linear", "activation", "normalization"] = "convolution"
    step_shape: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.role} of layer {self.layer!r}"


class Quantizer(nn.Module, ABC):
    """Maps x to x^q on a grid, ``step * (code + offset)``; abstract.

    ``bits`` is a buffer, so a change of bit-width compiles nothing anew and a checkpoint describes
    itself. ``forward`` never sets state: ``observe_`` does, called by ``calibrate_``; state that was
    never set is NaN and ``forward`` raises.

    Attributes:
        bits: int64 scalar buffer.
        site: where the quantizer stands.
        enabled: False lets x pass through unchanged (the float network, for calibration and teachers).
        primitive: the fake-quantize function that runs; the reference face can be put in its place.
        perturbation: added to x^q where it is a tensor, None elsewhere; its gradient is dL/dx^q. It belongs
            to whoever put it there (``SharpnessAware``), and to no ``state_dict``.
    """

    bits: Tensor
    method: ClassVar[str]
    surrogate: ClassVar[Surrogate]
    ties: ClassVar[Ties] = "even"
    supported_bits: ClassVar[Sequence[int]] = range(1, MAX_BITS + 1)
    refusal: ClassVar[str] = ""
    granularities: ClassVar[tuple[str, ...]] = ("tensor",)
    decays: ClassVar[bool] = False
    """Whether weight decay acts on the learned step or clip."""
    calibration_batches: ClassVar[int] = 1
    observes_quantized: ClassVar[bool] = False
    """Whether calibration runs with all quantizers active (UNIQ), instead of through the float network."""
    says_nothing: ClassVar[str] = "constant zero"
    """Which input calibration finds no range in, for its error message."""

    primitive: Callable[..., Tensor]

    def __init__(self, bits: int, site: Site, granularity: str = "tensor") -> None:
        super().__init__()
        self.site = site
        if bits not in self.supported_bits:
            raise ValueError(self._refused(bits))
        if granularity not in self.granularities:
            allowed = " or ".join(self.granularities)
            raise ValueError(f"{site}: method {self.method!r} takes one step per {allowed}, got {granularity!r}")
        self.register_buffer("bits", torch.tensor(bits))
        self.granularity = granularity
        self.enabled = True
        self.primitive = fake_quantize
        self.calibrated = True
        self.perturbation: Tensor | None = None

    @abstractmethod
    def levels(self, x: Tensor) -> Levels:
        """Offset, lowest and highest code at the present ``bits``; only LSQ+'s and DQ's follow x or a parameter."""

    @abstractmethod
    def step_of(self, x: Tensor) -> Tensor:
        """The step for ``x``, positive; differentiable where it is learned. Shape () or ``site.step_shape``."""

    @abstractmethod
    def observe_(self, x: Tensor) -> None:
        """Set or widen the state from one calibration batch (activations) or from the weight."""

    def normalize(self, x: Tensor) -> Tensor:
        """What is quantized in place of x: SAQ's and DoReFa's transformed weights. Default: x itself."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        """``x^q``, of x's shape and dtype. Raises RuntimeError if never calibrated, TypeError on integers."""
        if not self.enabled:
            return x
        self._check(x)
        x = self.normalize(x)
        value = self.primitive(x, self.step_of(x), *self.levels(x), surrogate=self.surrogate, ties=self.ties)
        return value if self.perturbation is None else value + self.perturbation

    @torch.no_grad()
    def grid(self, x: Tensor) -> Grid:
        """The grid that ``forward(x)`` uses. Where the step is not computed from x, any x will do."""
        self._check(x)
        x = self.normalize(x)
        step = wide(self.step_of(x).detach())
        offset, low, high = (torch.as_tensor(v).item() for v in self.levels(x))
        return Grid(step=step.clone(), offset=float(offset), low=int(low), high=int(high))

    def codes(self, x: Tensor) -> Tensor:
        """The integer codes of ``forward(x)``, int32: ``grid(x).value(codes(x))`` equals it bit for bit."""
        with torch.no_grad():
            return self.grid(x).codes(self(x))

    def bit_width(self) -> int:
        """Bits of a stored code. The ``bits`` buffer, except where a method learns them (DQ)."""
        return int(self.bits)

    def width(self) -> Tensor:
        """``bit_width()`` as a float tensor of shape (); a method that learns its bits gives it a gradient (DQ)."""
        return self.bits.float()

    @property
    def num_steps(self) -> int:
        """How many steps the grid has: one, or one per output channel."""
        return math.prod(self.site.step_shape) if self.granularity == "channel" else 1

    def reset_(self) -> None:
        """Forget the calibration: the next ``observe_`` starts afresh."""
        for tensor in self._state():
            tensor.data.fill_(float("nan"))
        self.calibrated = not self._state()

    def extra_repr(self) -> str:
        return f"{self.bit_width()} bit, {self.granularity}" + ("" if self.calibrated else ", uncalibrated")

    def _numbers(self, *buffers: Tensor) -> tuple[Any, ...]:
        """Read scalar buffers as numbers where a read is free, else leave them tensors."""
        return tuple(b.item() for b in buffers) if read_is_free(self.bits) else buffers

    def _state(self) -> list[Tensor]:
        """The floating tensors that calibration sets."""
        own = [*self.parameters(recurse=False), *self.buffers(recurse=False)]
        return [tensor for tensor in own if tensor.is_floating_point()]

    def _set_(self, name: str, value: Tensor) -> None:
        """Write one piece of state, in place: optimizers hold on to the tensor."""
        state = getattr(self, name)
        state.data.copy_(value.detach().reshape(state.shape))
        self.calibrated = self._is_set()

    def _check(self, x: Tensor) -> None:
        if not x.is_floating_point():
            raise TypeError(f"{self.site}: expected a floating-point tensor, got {x.dtype}: convert it, e.g. x.float()")
        if not self.calibrated:
            raise RuntimeError(
                f"{self.site}: the {self.method!r} quantizer has no step yet: "
                "call flatbit.calibrate_(model, batches), or load a calibrated checkpoint"
            )

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """``to``, ``half`` and the like take the perturbation along."""
        super()._apply(*args, **kwargs)
        if self.perturbation is not None:
            self.perturbation.data = args[0](self.perturbation.data)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Load, but not bits that the method does not have: ``load_state_dict`` raises RuntimeError."""
        state, prefix, *_, errors = args
        bits = int(state.get(f"{prefix}bits", self.bits))
        if bits not in self.supported_bits:
            errors.append(self._refused(bits))
            return
        super()._load_from_state_dict(*args, **kwargs)
        self.calibrated = self._is_set()

    def _refused(self, bits: int) -> str:
        span = f"{min(self.supported_bits)} to {max(self.supported_bits)}"
        reason = f": {self.refusal}" if self.refusal else ""
        return f"{self.site}: method {self.method!r} takes {span} bits, got {bits}{reason}"

    def _is_set(self) -> bool:
        return all(bool(tensor.isfinite().all()) for tensor in self._state())
