"""Fake quantization: what the forward computes, and what the backward pretends it computed.

Every quantizer ends in one primitive,

    x^q = step * (code + offset),   code = clip(round(x / step - offset), low, high),

and differs only in the *surrogate*: the function that the backward pass differentiates instead.
With ``inside`` where ``step * (low + offset) < x < step * (high + offset)``, ``bound`` the low or
high code that a value outside is clipped to, and ``r = code + offset - x / step`` the rounding
residual, held constant:

    identity   s = x                                            SQWA, HOL and FAQ weights, binary
    clip       s = x inside, step * (bound + offset) outside    PACT, FAQ activations, DoReFa
    learned    s = x + step * r inside, as clip outside         LSQ, LSQ+, UNIQ, SAQ
    residual   s = x + step * r                                 DQ, whose range clips before

Each surrogate is linear in ``x``, ``step`` and ``offset``, so its second derivatives are zero and
Hessian-vector products of a quantized network come out exact (for the surrogate: the true
function has no curvature to speak of).

Two faces compute this. ``fake_quantize_reference`` is the definition, composed of differentiable
operations. ``fake_quantize`` is what runs: one autograd node that keeps its input and its output
(a convolution keeps its input anyway) and no masks; of an activation, whose output others may change in place, its
input alone (``fake_quantize_output``). They agree in value and in first and second
derivatives; ``tests/quant/test_rounding.py`` holds them to it. Under ``torch.vmap`` that node takes the
stacked tensors; under the transforms that differentiate (``torch.func.grad``) the reference runs.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from .passes import between, blocks, clipped, end_levels, large, product_sum, wide
from .vmapped import on_stacked, only_vmapped

Surrogate = Literal["identity", "clip", "learned", "residual"]
Ties = Literal["even", "even_from_low", "away"]
Number = Any
"""A number, or a 0-dim tensor where a graph is compiled, on a GPU, or where it takes gradients."""
SMALLEST_STEP = 1e-8
FEW = 16
"""With so few codes the sums of a step gradient may come before their difference: 6e-5 off at worst, 8 bits 1e-4."""


def smallest_step(like: Tensor) -> float:
    """The least step that a tensor of that dtype holds: 1e-8, more in float16, where that would be 0."""
    return max(SMALLEST_STEP, torch.finfo(like.dtype).tiny)


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """``value`` forward, the gradient of ``surrogate`` backward; exact to the bit in the forward."""
    return value.detach() + (surrogate - surrogate.detach())


def ste_round(t: Tensor) -> Tensor:
    """Round to the nearest integer, ties to even, with derivative 1."""
    return straight_through(t.round(), t)


def nearest_code(x: Tensor, step: Tensor, offset: Number, low: Number, high: Number, ties: Ties) -> Tensor:
    """The code of the level nearest to ``x``, as a floating tensor without gradient.

    A tie goes to the ``even`` code; to the even code counted from the lowest level
    (``even_from_low``, as papers do that round an unsigned code: it matters at 1 bit, where zero
    then goes to the lower level); or ``away`` from zero, where zero itself counts as positive.
    """
    low, high = _like(low, x), _like(high, x)
    if ties == "away":
        magnitude = torch.minimum((x.abs() / step + (0.5 - offset)).floor(), high)
        return torch.where(x < 0, -magnitude - 2 * offset, magnitude).detach()
    origin = low if ties == "even_from_low" else 0
    t = x / step - (offset + origin)
    return (torch.clamp(t, low - origin, high - origin).round() + origin).detach()


def fake_quantize_reference(
    x: Tensor,
    step: Tensor,
    offset: Number,
    low: Number,
    high: Number,
    *,
    surrogate: Surrogate,
    ties: Ties = "even",
) -> Tensor:
    """Fake-quantize with the surrogate's gradient, composed of plain operations: the definition.

    Args, returns and gradients as ``fake_quantize``.
    """
    v = wide(x)
    with torch.no_grad():
        lowest, highest = step * (low + offset), step * (high + offset)
        inside = (v > lowest) & (v < highest)
        code = nearest_code(v, step, offset, low, high, ties)
        residual = code + offset - v / step
    value = step * (code + offset)
    smooth = v
    if surrogate in ("learned", "residual"):
        smooth = smooth + step * residual
    if surrogate in ("learned", "clip"):
        smooth = torch.where(inside, smooth, value)
    return straight_through(value, smooth).to(x.dtype)


def fake_quantize(
    x: Tensor,
    step: Tensor,
    offset: Number,
    low: Number,
    high: Number,
    *,
    surrogate: Surrogate,
    ties: Ties = "even",
    keeps_output: bool = True,
) -> Tensor:
    """Fake-quantize with the surrogate's gradient, fused: one autograd node.

    Args:
        x: the values, any shape, floating. Half precision is computed in float32.
        step: positive step, shape () or one that broadcasts to ``x`` (one per channel).
        offset: 0 (mid-tread), 1/2 (mid-rise), or a tensor that may take gradients (LSQ+).
        low, high: the lowest and highest code.
        surrogate: which function the backward differentiates (module docstring).
        ties: where a value half way between two levels goes (``nearest_code``).
        keeps_output: whether the backward pass reads ``x^q``, or computes it again.

    Returns:
        ``x^q``, of ``x``'s shape and dtype; bit for bit ``step * (code + offset)``.

    Gradients flow to ``x``, to ``step`` and, where it is a tensor that asks, to ``offset``.
    """
    if torch._C._are_functorch_transforms_active():
        if only_vmapped(x, step, offset, low, high):
            how = {"surrogate": surrogate, "ties": ties, "keeps_output": keeps_output}
            return on_stacked(fake_quantize, x, step, offset, low, high, **how)
        return fake_quantize_reference(x, step, offset, low, high, surrogate=surrogate, ties=ties)
    if surrogate == "identity":
        return _Identity.apply(x, step, offset, low, high, ties)  # type: ignore[return-value]
    return _FakeQuantize.apply(x, step, offset, low, high, surrogate, ties, keeps_output)  # type: ignore[return-value]


def fake_quantize_output(*grid: Any, **how: Any) -> Tensor:
    """``fake_quantize`` of what a caller gets and may change in place (``out += skip``), which no gradient then reads.

    In eager mode; a compiler orders what is read and what is changed by itself.
    """
    return fake_quantize(*grid, **how, keeps_output=torch.compiler.is_compiling())


def learned_step(parameter: Tensor, gradient_scale: Number = 1.0) -> Tensor:
    """``max(|parameter|, smallest_step)`` forward, the derivative of ``gradient_scale * |parameter|`` backward.

    The absolute value keeps a step positive whatever the optimizer does to it; the gradient scale
    balances its updates against those of the weights (LSQ, section 2.2).
    """
    if torch._C._are_functorch_transforms_active():
        if only_vmapped(parameter, gradient_scale):
            return on_stacked(learned_step, parameter, gradient_scale)
        return straight_through(parameter.abs().clamp_min(smallest_step(parameter)), gradient_scale * parameter.abs())
    return _LearnedStep.apply(parameter, gradient_scale)  # type: ignore[return-value]


class _LearnedStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameter: Tensor, gradient_scale: Number) -> Tensor:
        ctx.save_for_backward(parameter)
        ctx.gradient_scale = gradient_scale
        return parameter.abs().clamp_min(smallest_step(parameter))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.gradient_scale * ctx.saved_tensors[0].detach().sign(), None


class _Identity(torch.autograd.Function):
    """The identity surrogate: keeps nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *grid: Any) -> Tensor:
        return quantized_value(x, *grid)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], None, None, None, None, None


class _FakeQuantize(torch.autograd.Function):
    """The clip, learned and residual surrogates. Keeps x, step, the output if asked, and offset if a tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, offset: Number, low: Number, high: Number, *how: Any) -> Tensor:
        ctx.surrogate, ctx.ties, keeps_output = how
        value = quantized_value(x, step, offset, low, high, ctx.ties)
        ctx.offset, ctx.low, ctx.high = offset, low, high
        ctx.save_for_backward(x, step, *[value] * keeps_output)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, step, *kept = ctx.saved_tensors
        value = kept[0] if kept else _output_again(ctx, x, step)
        return *surrogate_gradients(ctx, x, step, value, gradients[0]), *[None] * 5


@torch.no_grad()
def _output_again(ctx: Any, x: Tensor, step: Tensor) -> Tensor:
    """The output; x in its place where nobody reads it, for only a step's gradient does."""
    return quantized_value(x, step, ctx.offset, ctx.low, ctx.high, ctx.ties) if ctx.needs_input_grad[1] else x


def surrogate_gradients(
    ctx: Any, x: Tensor, step: Tensor, value: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients to x, step and offset; ``ctx`` has the surrogate, the codes, and who asks for gradients.

    With ``x^q = step (bound + offset)`` outside, each step gradient is a sum of products over the step:

    learned:  ``sum(g r) inside + sum(g (bound + offset)) outside = sum(g (x^q - x inside)) / step``;
    clip:     ``sum(g (bound + offset)) outside                   = sum(g (x^q - x^q inside)) / step``;
    residual: ``sum(g r)                                          = sum(g (x^q - x)) / step``.

    With more than ``FEW`` codes the difference comes before the sum: ``sum(g x^q) - sum(g_x x)`` cancels in float32.
    """
    asked_step, g = step, wide(gradient)
    x, step, value = (wide(t.detach()) for t in (x, step, value))
    offset = ctx.offset.detach() if isinstance(ctx.offset, Tensor) else ctx.offset
    ends = end_levels(x, step, offset, ctx.low, ctx.high)
    g_step = g_offset = None
    if not ctx.needs_input_grad[1]:
        g_x = g if ctx.surrogate == "residual" else between(g, x, *ends)
    elif ctx.surrogate == "residual":
        g_x, g_step = g, product_sum(g, x - value, step) / -step
    else:
        passed = value if ctx.surrogate == "clip" else x
        few = not isinstance(ctx.high, Tensor) and ctx.high - ctx.low < FEW
        g_x, products = clipped(g, x, passed, value, ends, step, few=few)
        g_step = products / -step
    if ctx.needs_input_grad[2]:  # step * (bound + offset) has a mixed second derivative: keep it
        outer = g - g_x
        g_offset = (outer * asked_step).sum_to_size(offset.shape)
        if g_step is not None:
            g_step = g_step + (outer * (ctx.offset - offset)).sum_to_size(step.shape)
    return g_x.to(gradient.dtype), g_step, g_offset


def _like(number: Number, x: Tensor) -> Tensor:
    if isinstance(number, Tensor):
        return number.to(dtype=x.dtype, device=x.device)
    return torch.full((), number, dtype=x.dtype, device=x.device)  # filled on the device, where as_tensor copies


def quantized_value(x: Tensor, step: Tensor, offset: Number, low: Number, high: Number, ties: Ties) -> Tensor:
    """``x^q`` as ``nearest_code`` defines it, in one buffer: memory traffic is what fake quantization costs."""
    v = wide(x)
    if ties == "away":
        magnitude = (v.abs() / step).add_(0.5 - offset).floor_().clamp_(max=high).add_(offset).mul_(step)
        return _narrow(torch.where(v < 0, -magnitude, magnitude), x.dtype)
    origin = low if ties == "even_from_low" else 0
    shift = offset + origin
    low, high = low - origin, high - origin
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        low, high = _like(low, v), _like(high, v)
    if not large(v, v, step, shift):
        return _narrow(_rounded_(v / step, step, shift, low, high), x.dtype)
    t = torch.empty_like(v)
    for part, out in blocks(v, t):
        _rounded_(torch.div(part, step, out=out), step, shift, low, high)
    return _narrow(t, x.dtype)


def _narrow(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Compiled by torch 2.11, an output that is a ``to`` which did nothing has no gradient."""
    return value if value.dtype == dtype else value.to(dtype)


def _rounded_(t: Tensor, step: Tensor, shift: Number, low: Number, high: Number) -> Tensor:
    """``x^q`` in the memory of ``t``, which is ``x / step``."""
    if isinstance(shift, Tensor) or shift != 0:
        t.sub_(shift).clamp_(low, high).round_().add_(shift)
    else:
        t.clamp_(low, high).round_()
    # Compiled by torch 2.11, an output that was written in place has no gradient.
    return t * step if torch.compiler.is_compiling() else t.mul_(step)
