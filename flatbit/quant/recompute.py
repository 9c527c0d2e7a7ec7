"""Quantized tensors computed again in the backward pass: memory for time.

A convolution keeps the activation that it read, ``x^q``, for its backward pass, and so does the quantizer,
beside ``x``, which the ReLU before it keeps anyway, as the model does a weight. ``x^q`` follows from ``x``, the
step and the codes by one cheap pass; so within ``recomputed_outputs`` nobody keeps it, and the backward pass
computes it once more.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from .rounding import Number, Surrogate, Ties, fake_quantize, fake_quantize_output, quantized_value, surrogate_gradients
from .table import quantizers_of, row_of

FUSED = (fake_quantize, fake_quantize_output)
"""The primitives that recipes stand in for."""
MODIFIED = (
    "a tensor that the backward pass of a quantized network reads was modified in place after the forward pass "
    "(version {now}, expected {then}): modify a copy, or train without recomputed_outputs to see which"
)


@contextmanager
def recomputed_outputs(model: nn.Module) -> Iterator[None]:
    """Within the context, keep no quantizer's output for the backward pass: compute it there once more.

    The bytes that a network keeps between forward and backward come close to the float network's, for the time
    of one more forward pass of the quantizers. Gradients are those without it, bit for bit. The
    backward pass may also come after the context.

    It acts in eager mode; a compiler decides by itself what to compute again. What a layer makes of an output before
    it reads it (padding that is not zero, autocast, a perturbation added, a linear layer's transposed weight) is
    kept as ever.

    Raises ValueError for a model that has no quantizer, or whose quantizers already recompute;
    RuntimeError in the backward pass where a tensor that it needs was modified in place.
    """
    quantizers = {q: q.primitive for _, q in quantizers_of(model) if q.primitive in FUSED}
    if not quantizers:
        raise ValueError(
            f"{type(model).__name__} has no quantizer whose output could be computed again: quantize_ it first, "
            "and enter recomputed_outputs once"
        )
    outputs = _Outputs()
    readers = [m for m in model.modules() if (row := row_of(m)) is not None and row.macs is not None]
    handles = [handle for reader in readers for handle in outputs.watch(reader)]
    for quantizer in quantizers:
        quantizer.primitive = outputs.fake_quantize
    try:
        yield
    finally:
        for quantizer, primitive in quantizers.items():
            quantizer.primitive = primitive
        for handle in handles:
            handle.remove()


class _Output:
    """How one output is computed again, and whether it has been, for the quantizer's own backward pass.

    Attributes:
        shared: whether that backward pass will come.
    """

    def __init__(self, x: Tensor, step: Tensor, grid: tuple[Any, ...]) -> None:
        self.inputs = [(t.detach(), t._version) for t in (x, step, *grid) if isinstance(t, Tensor)]
        self.x, self.step, self.grid = x.detach(), step.detach(), tuple(map(_detached, grid))
        self.shared = False
        self.again: Tensor | None = None

    def value(self) -> Tensor:
        """The output, bit for bit."""
        if self.again is not None:
            return self.again
        for tensor, version in self.inputs:
            _check_unmodified(tensor, version)
        with torch.no_grad():
            value = quantized_value(self.x, self.step, *self.grid)
        self.again = value if self.shared else None
        return value

    def take(self) -> Tensor:
        """The output, for the last that reads it."""
        value, self.again = self.value(), None
        return value


class _Outputs:
    """The outputs that are alive, and the hooks that keep the recipe in place of them."""

    def __init__(self) -> None:
        self._alive: dict[int, tuple[weakref.ref[Tensor], int, _Output]] = {}

    def fake_quantize(
        self,
        x: Tensor,
        step: Tensor,
        offset: Number,
        low: Number,
        high: Number,
        *,
        surrogate: Surrogate,
        ties: Ties = "even",
    ) -> Tensor:
        """``rounding.fake_quantize`` without its output among what is kept."""
        transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        if transformed or not torch.is_grad_enabled():
            return fake_quantize(x, step, offset, low, high, surrogate=surrogate, ties=ties)
        output = _Output(x, step, (offset, low, high, ties))
        if surrogate == "identity":
            value = fake_quantize(x, step, offset, low, high, surrogate=surrogate, ties=ties)
        else:
            value: Any = _Recomputed.apply(x, step, offset, low, high, surrogate, output)
            output.shared = value.requires_grad
        key = value.data_ptr()
        self._alive[key] = (weakref.ref(value, lambda _: self._alive.pop(key, None)), value._version, output)
        return value

    def watch(self, reader: nn.Module) -> tuple[Any, Any]:
        """Put recipes in the place of outputs, among what a layer's forward keeps."""
        entered: list[saved_tensors_hooks] = []

        def enter(*_: Any) -> None:
            if not torch.compiler.is_compiling():
                entered.append(saved_tensors_hooks(self._pack, _unpack))
                entered[-1].__enter__()

        def leave(*_: Any) -> None:
            if not torch.compiler.is_compiling() and entered:
                entered.pop().__exit__()

        return reader.register_forward_pre_hook(enter), reader.register_forward_hook(leave, always_call=True)

    def _pack(self, tensor: Tensor) -> Any:
        value, version, output = self._alive.get(tensor.data_ptr(), (None, 0, None))
        known = None if value is None else value()
        if known is not None and _same(tensor, known) and tensor._version == version:
            return output
        return tensor, tensor._version

    def __deepcopy__(self, _: Any) -> _Outputs:
        """Itself: a copy of the model, whose hooks are the same functions, goes on recomputing."""
        return self


class _Recomputed(torch.autograd.Function):
    """The clip, learned and residual surrogates. Keeps x and step."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        step: Tensor,
        offset: Number,
        low: Number,
        high: Number,
        surrogate: Surrogate,
        output: _Output,
    ) -> Tensor:
        ctx.offset, ctx.low, ctx.high, ctx.surrogate, ctx.output = offset, low, high, surrogate, output
        ctx.save_for_backward(x, step)
        return quantized_value(x, step, *output.grid)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, step = ctx.saved_tensors
        return *surrogate_gradients(ctx, x, step, ctx.output.take(), gradients[0]), None, None, None, None


def _unpack(packed: Any) -> Tensor:
    if isinstance(packed, _Output):
        return packed.value()
    _check_unmodified(*packed)
    return packed[0]


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype


def _check_unmodified(tensor: Tensor, version: int) -> None:
    """Autograd's own check, which it leaves to those who pack: RuntimeError."""
    if tensor._version != version:
        raise RuntimeError(MODIFIED.format(now=tensor._version, then=version))


def _detached(t: Any) -> Any:
    return t.detach() if isinstance(t, Tensor) else t
