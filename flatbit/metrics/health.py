"""Health of a network: values that stop being finite, grids that do not fit, answers that are all the same.

One forward pass is watched, module by module in the order in which they run, so the first finding is where
trouble begins; what follows it is mostly its consequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..modes import modes_kept
from ..outputs import logits_of
from ..quant.quantizer import Quantizer
from ..quant.rounding import wide
from ..quant.statistics import group_mean
from ..wrappers import named_modules
from .finite import all_finite, bad_values

COLLAPSED = 0.01
"""A grid that spans less than this share of its values' rms keeps nothing but signs, at any bit-width. Trained nets
of twelve methods span 1.0 rms and more; SAQ's start, the narrowest of a paper, 0.1."""
UNUSED = 0.01
"""Values that all stay below this share of the grid's reach use three of 256 levels, and one of fewer. Trained and
calibrated nets fill 9 % and more."""
SATURATED = 0.5
"""Share of values more than half a step beyond the outermost level: from one half on, the typical value is clipped
and gets no gradient. A Gaussian at its best 1-bit step has 11 % there, trained nets up to 42 %."""
EXPLODED = 1e4
"""rms of a module's output over that of the images (1 at least). Trained nets stay below 20, PACT's start, the worst
of a paper, reaches 205; float16 ends at 65504."""
ALIKE = 1e-6
"""Logits that differ by less than this share of the largest are the same: float32 keeps seven digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something wrong, where, how it shows, and what mends it.

    Attributes:
        layer: the tensor: ``input of layers.0.0.conv1``, or ``images``.
        problem: a short code: ``not finite``, ``exploding``, ``step collapsed``, ``saturated``, ``dead clip``,
            ``constant``, ``does not run``; the doctor adds its own.
        evidence: numbers in words.
        mend: what to do about it.
    """

    layer: str
    problem: str
    evidence: str
    mend: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.problem} ({self.evidence}): {self.mend}"


LOWER_LR = "lower the lr or warm it up, and start again from the last sound weights"
RECALIBRATE = "recalibrate (flatbit.calibrate_)"
MENDS = {
    "not finite": LOWER_LR,
    "gradient not finite": LOWER_LR,
    "exploding": "lower the lr; if it was low, re-estimate the batch norms' statistics",
    "does not run": "mend the model's forward; if it was never calibrated, call flatbit.calibrate_",
    "step collapsed": f"{RECALIBRATE}, then a lower lr for the steps",
    "dead clip": f"{RECALIBRATE}: the range is far above the values, or these shrank below it; then a lower lr",
    "constant": "look at what comes before: it says the same of every input; lower the lr, start from float weights",
    "saturated": f"{RECALIBRATE} on more batches, train on so that a learned step widens, or give the layer more bits",
}
"""Problems and their mends, the gravest first."""
UNSOUND_DATA = "look for NaN or infinite values in the data, and for a standard deviation of 0 that it is divided by"
UNSET = f"{LOWER_LR}; or, if it was never calibrated, call flatbit.calibrate_"
DECAYS = "; its clip decays with the weights: lower weight_decay"


@torch.no_grad()
def examine(model: nn.Module, x: Tensor) -> list[Finding]:
    """Run one batch through a model and say what is wrong, in the order in which it shows.

    Never raises for a broken model: that its forward fails is a finding. Modes and state stay as they were.

    Args:
        model: float or quantized.
        x: one batch of inputs, on the model's device.

    Returns:
        Findings; of values that are not finite, and of those that explode, only the first in run order.
    """
    watch = _Watch(limit=EXPLODED * max(1.0, _rms(x)))
    hooks = []
    for name, module in named_modules(model):
        hooks.append(module.register_forward_pre_hook(partial(watch.before, name)))
        hooks.append(module.register_forward_hook(partial(watch.after, name)))
    try:
        with modes_kept(model):
            model.eval()(x)
    except Exception as error:
        if not watch.ended:
            watch.add("the model", "does not run", f"{type(error).__name__}: {error}".partition("\n")[0])
    finally:
        for hook in hooks:
            hook.remove()
    return watch.findings


@torch.no_grad()
def constant_output(model: nn.Module, x: Tensor) -> bool:
    """Whether a model has collapsed: logits that are the same for all of several inputs, or not finite.

    A batch of equal inputs says nothing and gives False. A weight or step that is not finite gives True.
    """
    if not all_finite([*model.parameters(), *model.buffers()]):
        return True
    with modes_kept(model):
        logits = logits_of(model.eval()(x), type(model).__name__).float()
    if not bool(logits.isfinite().all()):
        return True
    if bool((x == x[:1]).all()):
        return False
    return bool((logits - logits[:1]).abs().max() <= ALIKE * logits.abs().max())


@torch.no_grad()
def suspects(model: nn.Module) -> list[Finding]:
    """Weights, steps, statistics and gradients that are not finite, in order of definition; needs no data.

    One look at a device tells a sound model; only of another each tensor is asked.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if all_finite([*model.parameters(), *model.buffers(), *gradients]):
        return []
    findings = []
    for name, module in named_modules(model):
        findings += [_finding(place, "not finite", *said) for place, *said in _bad_state(name, module)]
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.grad is not None and (bad := bad_values(parameter.grad)):
                place, what = _place(name, module, key)
                findings.append(_finding(place, "gradient not finite", f"{what}{bad}"))
    return findings


def explain(findings: list[Finding]) -> str:
    """The likely cause in one line: the first of the gravest findings, and how many more there are; "" for none."""
    if not findings:
        return ""
    grave = {problem: rank for rank, problem in enumerate(MENDS)}
    worst = min(findings, key=lambda finding: grave.get(finding.problem, len(grave)))
    return f"{worst}" + (f" (and {len(findings) - 1} more findings)" if len(findings) > 1 else "")


class _Watch:
    """What the hooks of one forward pass have seen."""

    def __init__(self, limit: float) -> None:
        self.findings: list[Finding] = []
        self.limit = limit
        self.ended = False
        """After the first value that is not finite nothing later says anything."""
        self.exploded = False

    def add(self, place: str, problem: str, evidence: str, mend: str = "") -> None:
        if all((known.layer, known.problem) != (place, problem) for known in self.findings):
            self.findings.append(_finding(place, problem, evidence, mend))

    def before(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        for place, evidence, mend in _bad_state(name, module):
            self._end(place, evidence, mend)
        for tensor in _tensors(args):
            if bad := bad_values(tensor):
                place = site_of(module) or (f"input of {name}" if name else "images")
                self._end(place, bad, "" if name else UNSOUND_DATA)

    def after(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        place = site_of(module) or f"output of {name or 'the model'}"
        for tensor in _tensors(output):
            if bad := bad_values(tensor):
                self._end(place, f"{bad}, of finite inputs and weights")
        if self.ended:
            return
        if not isinstance(module, Quantizer):
            self._check_size(place, output)
        elif module.enabled and module.site.role != "bias" and (wrong := _misfit(module, args[0])):
            self.add(place, *wrong)

    def _check_size(self, place: str, output: Any) -> None:
        rms = max(map(_rms, _tensors(output)), default=0.0)
        if rms > self.limit and not self.exploded:
            self.exploded = True
            self.add(place, "exploding", f"rms {rms:.3g}, where {self.limit:.0g} is far too much")

    def _end(self, place: str, evidence: str, mend: str = "") -> None:
        if not self.ended:
            self.ended = True
            self.add(place, "not finite", evidence, mend)


def _misfit(quantizer: Quantizer, x: Tensor) -> tuple[str, str, str] | None:
    """Problem, evidence and mend of a grid that does not fit the values x; None where it does."""
    use, problem, evidence = range_use(quantizer, x), "", ""
    if use.constant is not None:
        if quantizer.site.kind != "normalization":  # there scales begin as all 1
            problem, evidence = "constant", f"every value is {use.constant:.4g}"
    elif use.span < COLLAPSED:
        problem, evidence = "step collapsed", f"the grid spans {use.span:.2g} of the values' rms"
    elif use.overload > SATURATED:
        problem, evidence = "saturated", f"{use.overload:.0%} of values lie beyond the grid"
    elif use.one_level or use.filled < UNUSED:
        levels = "one level in use" if use.one_level else "hardly a level in use"
        problem, evidence = "dead clip", f"{levels}, the largest value is {use.filled:.2g} of the grid's reach"
    if not problem:
        return None
    decay = DECAYS if quantizer.decays and problem in ("step collapsed", "saturated") else ""
    return problem, f"{evidence}, step {use.step:.3g}", MENDS[problem] + decay


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeUse:
    """How a tensor lies on its grid; with one step per channel, in the channel where that is worst.

    Attributes:
        step: the smallest.
        span: highest less lowest level, over the values' rms.
        filled: the largest magnitude over the outermost level's.
        overload: share of the values that are more than half a step beyond the grid; on an unsigned grid
            of the positive ones above it, for clipping the others is a ReLU's work.
        one_level: whether all values are rounded to one level.
        constant: the value that all of them have, or None.
    """

    step: float
    span: float
    filled: float
    overload: float
    one_level: bool
    constant: float | None


@torch.no_grad()
def range_use(quantizer: Quantizer, x: Tensor) -> RangeUse:
    """How ``x`` lies on a calibrated quantizer's grid: after a transformation (SAQ, DoReFa), before DQ's clipping."""
    by_group = quantizer.site.by_group
    v = by_group(wide(quantizer.transform(x)))
    grid, q = quantizer.grid(x), quantizer.forward(x)
    step, shape = by_group(grid.step), quantizer.step_shape
    low, high = step * (grid.low + grid.offset), step * (grid.high + grid.offset)
    rms = group_mean(v.square(), shape).sqrt()
    shared = [axis for axis, n in enumerate(shape) if n == 1]
    largest = v.abs().amax(shared, keepdim=True) if shape else v.abs().max()
    alive = rms > 0  # a channel that is all zero (pruned) is at rest on any grid
    above, below = v > high + step / 2, v < low - step / 2
    outside = (
        float((above | below).float().mean())
        if grid.low or grid.offset
        else float(above.sum() / (v > 0).sum().clamp_min(1))
    )
    reach = torch.maximum(low.abs(), high.abs())
    return RangeUse(
        step=float(grid.step.min()),
        span=float(torch.where(alive, (high - low) / rms, torch.inf).min()),
        filled=float(torch.where(alive, largest / reach, torch.inf).min()),
        overload=outside,
        one_level=bool(q.min() == q.max()),
        constant=float(v.flatten()[0]) if bool(v.min() == v.max()) else None,
    )


def _finding(place: str, problem: str, evidence: str, mend: str = "") -> Finding:
    return Finding(layer=place, problem=problem, evidence=evidence, mend=mend or MENDS[problem])


def _bad_state(name: str, module: nn.Module) -> Iterator[tuple[str, str, str]]:
    """Place, evidence and mend of each of a module's own parameters and buffers that is not finite."""
    for key, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        if bad := bad_values(tensor):
            place, what = _place(name, module, key)
            yield place, f"{what}{bad}", UNSET if isinstance(module, Quantizer) else LOWER_LR


def _place(name: str, module: nn.Module, key: str) -> tuple[str, str]:
    """Where a module's tensor ``key`` is looked for, and what it is called there."""
    return (site, f"its {key}: ") if (site := site_of(module)) else (f"{key} of {name or 'the model'}", "")


def site_of(module: nn.Module) -> str:
    """The place that a quantizer's findings name, ``input of conv1``; empty for other modules."""
    return f"{module.site.role} of {module.site.layer}" if isinstance(module, Quantizer) else ""


def _tensors(values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.is_floating_point())


def _rms(x: Tensor) -> float:
    return float(x.detach().float().square().mean().sqrt()) if x.numel() else 0.0
