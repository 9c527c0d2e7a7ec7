"""The abstract quantizer: a module from x to x^q that can name its grid and its codes.

A method is a subclass that says five things: its codes at a bit-width (``code_range``), its step
(``step_of``), the state that calibration sets (``add_state``), how it starts from data (``observe_``),
and the surrogate gradient (``surrogate``). All else, from fused kernel to packing, follows from these.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .facts import FACTS, Facts, is_finite
from .grid import CodeRange, Grid
from .passes import read_is_free, wide
from .rounding import Surrogate, Ties, fake_quantize, fake_quantize_output
from .site import Site

MAX_BITS = 8


class Quantizer(nn.Module, ABC):
    """Maps x to x^q on a grid, ``step * (code + offset)``; abstract.

    ``bits`` is a buffer, so a change of bit-width compiles nothing anew and a checkpoint describes itself. ``forward``
    never sets state: ``observe_`` does, called by ``calibrate_``; what was never set is NaN and ``forward`` raises.
    Whether it is set is read from the tensors: it may arrive by any way, as loading, averaging, broadcasting, copying.

    Attributes:
        bits: scalar buffer; a whole number in floating point, which averages of equal widths leave as it is.
        site: where the quantizer stands.
        step_shape: of one step per output channel, or ().
        enabled: False lets x pass through unchanged (the float network, for calibration and teachers).
        primitive: the fake-quantize function that runs; the reference face can be put in its place.
        perturbation: a tensor added to x^q, whose gradient is dL/dx^q, or None; of who put it there, in no state_dict.
    """

    bits: Tensor
    method: str
    surrogate: ClassVar[Surrogate]
    ties: Ties = "even"
    supported_bits: ClassVar[Sequence[int]] = range(1, MAX_BITS + 1)
    refusal: ClassVar[str] = ""
    granularities: ClassVar[tuple[str, ...]] = ("tensor",)
    decays: ClassVar[bool] = False
    """Whether weight decay acts on the learned step or clip."""
    learned_ranges: ClassVar[tuple[str, ...]] = ()
    """The learned state that the grid's range is made of: what jumps where the rate is too high for it."""
    calibration_batches: ClassVar[int] = 1
    observes_quantized: ClassVar[bool] = False
    """Whether calibration runs with all quantizers active (UNIQ), instead of through the float network."""
    takes_unsigned: ClassVar[bool] = True
    """Whether an input that is never negative can be quantized."""
    uninformative: ClassVar[str] = "constant zero"
    """Which input calibration finds no range in, for its error message."""

    primitive: Callable[..., Tensor]

    def __init__(self, bits: int, site: Site, granularity: str = "tensor") -> None:
        super().__init__()
        self.site = site
        for width in (*site.candidates, bits):
            self._check_width(width)
        if granularity not in self.granularities:
            allowed = " or ".join(self.granularities)
            raise ValueError(f"{site}: method {self.method!r} takes one step per {allowed}, got {granularity!r}")
        self.register_buffer("bits", torch.tensor(float(bits)))
        self.granularity = granularity
        self.step_shape = site.step_shape if granularity == "channel" else ()
        self.enabled = True
        self.primitive = fake_quantize_output if site.role == "output" else fake_quantize
        self.perturbation: Tensor | None = None
        self._judged: tuple[tuple[int, int], ...] = ()
        self.facts = Facts()

    @abstractmethod
    def code_range(self, x: Tensor) -> CodeRange:
        """Offset, lowest and highest code at the present ``bits``; only DQ's follows a parameter."""

    @abstractmethod
    def step_of(self, x: Tensor, codes: CodeRange) -> Tensor:
        """The positive step for ``x`` and its codes, of shape () or ``step_shape``; differentiable where learned."""

    @abstractmethod
    def observe_(self, x: Tensor) -> None:
        """Set or widen the state from one calibration batch (activations) or from the weight."""

    def transform(self, x: Tensor) -> Tensor:
        """What is quantized in place of x: SAQ's and DoReFa's transformed weights. Default: x itself."""
        return x

    def limit(self, x: Tensor) -> Tensor:
        """The transformed x, clipped before the grid, with gradients of its own (DQ, XNOR). Default: as it is."""
        return x

    def shifted(self, codes: CodeRange, step: Tensor) -> CodeRange:
        """The range of codes with an offset that follows the step (LSQ+). Default: as it is."""
        return codes

    def unit_step(self, bits: int) -> float:
        """How the state that scales (``learned_ranges``, or a fixed step) follows the width, up to one factor.

        ``assign_bits_`` multiplies it by the ratio at two widths. Default 1: a clip stays as it is. A step has to
        say how it shrinks: ``1 / highest_code`` where it starts at the largest value.
        """
        return 1.0

    def limited(self, x: Tensor) -> Tensor:
        """What meets the grid: x as ``site.by_group`` has it, transformed and limited."""
        return self.limit(self.transform(self.site.by_group(x)))

    def forward(self, x: Tensor) -> Tensor:
        """``x^q``, of x's shape and dtype. Raises RuntimeError if never calibrated, TypeError on integers."""
        if not self.enabled:
            return x
        v, codes, step = self._met(x)
        value = self.primitive(v, step, *self.shifted(codes, step), surrogate=self.surrogate, ties=self.ties)
        value = value if value.ndim == x.ndim else value.flatten(0, 1)
        return value if self.perturbation is None else value + self.perturbation

    @torch.no_grad()
    def grid(self, x: Tensor) -> Grid:
        """The grid that ``forward(x)`` uses. Where the step is not computed from x, any x will do."""
        _, codes, step = self._met(x)
        offset, low, high = (torch.as_tensor(v).item() for v in self.shifted(codes, step))
        return Grid(step=self.site.by_row(wide(step), x).clone(), offset=float(offset), low=int(low), high=int(high))

    def codes(self, x: Tensor) -> Tensor:
        """The integer codes of ``forward(x)``, int32: ``grid(x).value(codes(x))`` equals it bit for bit."""
        with torch.no_grad():
            return self.grid(x).codes(self(x))

    @property
    def stated_bits(self) -> int:
        """The ``bits`` buffer as a number."""
        return round(float(self.bits))

    def bit_width(self) -> int:
        """Bits of a stored code: those stated, except where a method learns them (DQ)."""
        return self.stated_bits

    def width(self) -> Tensor:
        """``bit_width()`` as a float tensor of shape (); a method that learns its bits gives it a gradient (DQ)."""
        return self.bits

    @property
    def num_steps(self) -> int:
        """How many steps the grid has: one, or one per output channel."""
        return math.prod(self.step_shape)

    @property
    def calibrated(self) -> bool:
        """Whether everything that calibration sets is set, as the tensors have it."""
        return all(not tensor.is_meta and is_finite(tensor) for tensor in self.state())

    def add_state(self, name: str, shape: tuple[int, ...] = (), *, learned: bool) -> None:
        """Declare state that calibration sets: NaN until then; a parameter where it is learned, else a buffer.

        With ``site.candidates`` it is a table, a row for each of those widths; ``current`` reads the one in use.
        """
        rows = (len(self.site.candidates),) if self.site.candidates else ()
        unset = torch.full((*rows, *shape), float("nan"))
        if learned:
            self.register_parameter(name, nn.Parameter(unset))
        else:
            self.register_buffer(name, unset)

    def current(self, name: str) -> Tensor:
        """A piece of state at the present width: all of it, or its row of the table."""
        state: Tensor = getattr(self, name)
        if not self.site.candidates:
            return state
        widths, bits = self.site.candidates, self.whole_bits()
        if not isinstance(bits, Tensor):
            return state[widths.index(bits)]
        row = torch.stack([bits == width for width in widths]).float().argmax()
        return state.index_select(0, row.reshape(1)).squeeze(0)

    def check_assignable(self, bits: int) -> None:
        """Raise ValueError for a width that the method does not have, here or at all, or that has no row."""
        self._check_width(bits)

    @torch.no_grad()
    def assign_(self, bits: int) -> None:
        """Change the width; state that scales follows by ``unit_step``, rows of a table stay. Raises ValueError."""
        self.check_assignable(bits)
        if not self.site.candidates:
            ratio = self.unit_step(bits) / self.unit_step(self.stated_bits)
            for name in self.scaled_state():
                getattr(self, name).mul_(ratio)
        self.bits.fill_(bits)

    @torch.no_grad()
    def reset_(self) -> None:
        """Forget the calibration: the next ``observe_`` starts afresh."""
        for tensor in self.state():
            tensor.fill_(float("nan"))
        self._judged = ()

    def extra_repr(self) -> str:
        return f"{self.bit_width()} bit, {self.granularity}" + ("" if self.calibrated else ", uncalibrated")

    def whole_bits(self) -> Any:
        """The width as a whole number, or as a tensor of whole numbers (``Facts``)."""
        bits = self.facts.read("bits", self.bits)
        return bits.round().long() if isinstance(bits, Tensor) else round(bits)

    def scaled_state(self) -> tuple[str, ...]:
        """The state that ``assign_`` scales: the learned range, or a fixed step."""
        return self.learned_ranges or tuple(name for name in ("step",) if name in self._buffers)

    def state(self) -> list[Tensor]:
        """The floating tensors that calibration sets."""
        own = {**self._parameters, **self._buffers}
        return [t for name, t in own.items() if name not in FACTS and t is not None and t.is_floating_point()]

    @torch.no_grad()
    def set_state_(self, name: str, value: Tensor) -> None:
        """Write one piece of state at the present width, in place: optimizers hold on to the tensor."""
        state = getattr(self, name)
        if self.site.candidates:
            state = state[self.site.candidates.index(self.stated_bits)]
        state.copy_(value.detach().reshape(state.shape))

    def _met(self, x: Tensor) -> tuple[Tensor, CodeRange, Tensor]:
        """What meets the grid, and the grid that it meets: its codes and its step."""
        self._check(x)
        v = self.limited(x)
        codes = self.code_range(v)
        return v, codes, self._checked_step(v, codes)

    def _checked_step(self, x: Tensor, codes: CodeRange) -> Tensor:
        """``step_of``. Raises RuntimeError for a whole table of candidates in place of its row."""
        step = self.step_of(x, codes)
        if self.site.candidates and step.ndim and step.shape != self.site.step_shape:
            raise RuntimeError(
                f"{self.site}: step_of of {type(self).__name__} gives a step of shape {tuple(step.shape)}, expected () "
                f"or {self.site.step_shape}: read state with self.current(name), which is the row in use"
            )
        return step

    def _check(self, x: Tensor) -> None:
        if not x.is_floating_point():
            raise TypeError(f"{self.site}: expected a floating-point tensor, got {x.dtype}: convert it, e.g. x.float()")
        if not self._known_to_be_set():
            raise RuntimeError(
                f"{self.site}: the {self.method!r} quantizer has no step yet: "
                "call flatbit.calibrate_(model, batches), or load a calibrated checkpoint"
            )

    def _known_to_be_set(self) -> bool:
        """Whether nothing speaks against it: the tensors are read where one changed, on the CPU and in eager mode.

        On a device, where a read waits, they are read until they were once found set.
        """
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return True
        state = self.state()
        if any(tensor.is_inference() for tensor in state):  # these count no versions
            return self.calibrated
        versions = tuple((id(tensor), tensor._version) for tensor in state)
        if versions == self._judged or (self._judged and not read_is_free(self.bits)):
            return True
        if not self.calibrated:
            return False
        self._judged = versions
        return True

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """``to``, ``half`` and the like take the perturbation along; what is set is judged anew."""
        super()._apply(*args, **kwargs)
        self._judged = ()
        if self.perturbation is not None:
            self.perturbation.data = args[0](self.perturbation.data)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Load, but not bits that the method does not have: ``load_state_dict`` raises RuntimeError."""
        state, prefix, *_, errors = args
        try:
            self._check_width(round(float(state.get(f"{prefix}bits", self.bits))))
        except ValueError as error:
            errors.append(str(error))
        else:
            super()._load_from_state_dict(*args, **kwargs)

    def _check_width(self, bits: int) -> None:
        """Raise ValueError for a width that the method does not have, or that has no row."""
        if bits not in self.supported_bits:
            span = f"{min(self.supported_bits)} to {max(self.supported_bits)} bits".replace("1 to 1 bits", "1 bit")
            reason = f": {self.refusal}" if self.refusal else ""
            raise ValueError(f"{self.site}: method {self.method!r} takes {span}, got {bits}{reason}")
        if self.site.candidates and bits not in self.site.candidates:
            listed = ", ".join(map(str, self.site.candidates))
            raise ValueError(f"{self.site}: it was quantized with steps for {listed} bits, got {bits}")
