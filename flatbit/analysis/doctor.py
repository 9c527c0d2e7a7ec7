"""The doctor: is a trained quantized net healthy, and would it stay so under further updates?

One batch shows what is wrong as it stands (``flatbit.metrics.health``). Then a copy of the net is trained
on for a few dozen updates, and two things are watched that no single pass shows: weights that flip to
and fro between two levels, and learned steps that jump.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor, nn

from ..data.batches import Batch
from ..data.pairs import pair_of
from ..metrics.health import Finding, examine, site_of, suspects
from ..nonempty import nonempty
from ..progress import track
from ..quant.quantizer import Quantizer
from ..quant.rounding import smallest_step
from ..quant.table import is_weighted, quantized_layers, quantized_tensors, quantizers_of
from ..train.losses.labels import cross_entropy
from ..train.optimizers import SGD, Optimizer, make_optimizer

OSCILLATING = 0.05
"""Share of a layer's weights that flip to and fro within the probe (Nagel et al., "Overcoming oscillations in
quantization-aware training", ICML 2022). In 50 updates at the lr they ended with, sound stages of twelve methods show
0.7 % at most; at the height of their training up to all weights do."""
FEW = 10
"""So many weights at least: in a layer of a few dozen one or two are 5 %."""
COARSE_BITS = 4
"""Up to so many bits oscillation is a finding: on finer grids a flip changes a weight by under 1 % of its range."""
JUMPING = 0.1
"""Relative change of a step or clip in one update, with which the weights cannot keep up. Sound stages show 4 %."""
CALM = (
    "let the lr fall to 0 (Cosine), lower it, train batch norms longer or re-estimate them, "
    "or average captures of the last epochs (SQWA)"
)
SLOWER = "lower the lr, or warm it up"
THE_DOCTOR = "the doctor"


@dataclass(frozen=True, kw_only=True, slots=True)
class Motion:
    """How a quantizer moved in the probe.

    Attributes:
        changed: share of the weights whose code changed at all; 0 for activations.
        oscillating: share whose code went one way and later back.
        jump: largest relative change of a learned step or clip in one update; 0 where none is learned.
        sign_flips: how often a learned step or clip changed its sign.
    """

    changed: float = 0.0
    oscillating: float = 0.0
    jump: float = 0.0
    sign_flips: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What the doctor found.

    Attributes:
        findings: those of one batch first, then those of the probe; empty for a healthy net.
        num_quantizers: how many were looked at.
        peak, end: by tensor (``weight of conv1``), how it moved at ``lr`` and at ``last_lr``; empty without a probe.
    """

    findings: tuple[Finding, ...]
    num_quantizers: int
    peak: Mapping[str, Motion] = field(default_factory=dict)
    end: Mapping[str, Motion] = field(default_factory=dict)


def diagnose(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    lr: float,
    last_lr: float | None = None,
    optimizer: Optimizer = SGD(),  # noqa: B008
    weight_decay: float = 0.0,
    updates: int = 50,
) -> Diagnosis:
    """Examine a model on one batch, then probe it by plain updates of a copy; the model stays as it was.

    Args:
        model: float or quantized, calibrated.
        batches: training batches ``(x, y)`` on the model's device; repeated where there are too few.
        lr: at which learned steps are probed: the highest that training used.
        last_lr: at which oscillation is probed: that of the end of training, for what oscillates at the
            height of it settles while the lr falls. None for ``lr``.
        optimizer, weight_decay: of the updates, as the stage's; its state starts afresh. The loss is the labels'.
        updates: how many; 0 for no probe.

    Returns:
        The diagnosis. A broken model is not probed.

    Raises:
        ValueError: no batches, ones that are used up after a pass, what is no pair ``(x, y)``.
    """
    x, _ = pair_of(next(nonempty(batches, THE_DOCTOR, 1)), f"{THE_DOCTOR}: the first batch")
    examined = examine(model, x)
    count = sum(1 for _ in quantizers_of(model))
    broken = any(finding.problem in ("not finite", "does not run") for finding in examined)
    if broken or not count or not updates:
        return Diagnosis(findings=tuple(examined), num_quantizers=count)

    def probe(lr: float) -> tuple[dict[str, Motion], list[Finding]]:
        patient = copy.deepcopy(model)
        return _probe(patient, batches, make_optimizer(patient, optimizer, lr=lr, weight_decay=weight_decay), updates)

    end_lr = lr if last_lr is None else last_lr
    with torch.random.fork_rng(devices=[]):
        probes = [probe(each) for each in dict.fromkeys((lr, end_lr))]
    (peak, _), (end, _) = probes[0], probes[-1]
    moved: list[Finding] = []
    for quantizer, weight in _with_weights(model):
        site = site_of(quantizer)
        if weight is not None:
            moved += _oscillation(quantizer, end[site], end_lr, weight.numel())
        moved += _jumps(quantizer, peak[site], lr)
    diverged = [finding for _, found in probes for finding in found]
    return Diagnosis(findings=(*examined, *diverged, *moved), num_quantizers=count, peak=peak, end=end)


def _probe(
    patient: nn.Module, batches: Iterable[Batch], optimizer: torch.optim.Optimizer, updates: int
) -> tuple[dict[str, Motion], list[Finding]]:
    """Train a model in place; how its quantizers moved, and the finding where it diverged, which ends the probe."""
    patient.train()
    watched = [_Watched(quantizer, weight) for quantizer, weight in _with_weights(patient)]
    diverged: list[Finding] = []
    lr = optimizer.param_groups[0]["lr"]
    stream = track(islice(_repeated(batches, updates), updates), f"probing at lr {lr:.2g}", total=updates)
    for step, batch in enumerate(stream, start=1):
        x, y = pair_of(batch, f"{THE_DOCTOR}: a batch")
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(patient(x), y).backward()
        optimizer.step()
        if bad := suspects(patient):
            diverged = [_diverged(bad[0], step, lr)]
            break
        for quantizer in watched:
            quantizer.look()
    return {quantizer.site: quantizer.motion() for quantizer in watched}, diverged


class _Watched:
    """A quantizer in the probe: what its codes, and its learned steps and clips, do from update to update."""

    def __init__(self, quantizer: Quantizer, weight: Tensor | None) -> None:
        self.quantizer, self.weight, self.site = quantizer, weight, site_of(quantizer)
        self.ranges = [getattr(quantizer, name) for name in quantizer.learned_ranges]
        self.scales = [name in quantizer.scaled_state() for name in quantizer.learned_ranges]
        self.jump, self.sign_flips = 0.0, 0
        self.last = [p.detach().clone() for p in self.ranges]
        if weight is not None:
            self.codes = quantizer.codes(weight)
            self.way = torch.zeros_like(self.codes)
            self.back = torch.zeros_like(self.codes, dtype=torch.bool)

    @torch.no_grad()
    def look(self) -> None:
        """Compare with the last look."""
        for p, last, scales in zip(self.ranges, self.last, self.scales, strict=True):
            size = last.norm() if scales else self._span()
            self.jump = max(self.jump, float((p - last).norm() / size.clamp_min(smallest_step(last))))
            self.sign_flips += int((p.sign() * last.sign() < 0).sum()) if scales else 0
            last.copy_(p)
        if self.weight is not None:
            codes = self.quantizer.codes(self.weight)
            way = (codes - self.codes).sign()
            self.back |= way * self.way < 0
            self.way = torch.where(way == 0, self.way, way)
            self.codes = codes

    def _span(self) -> Tensor:
        """What a shift (LSQ+) is small or large beside: from the lowest level to the highest."""
        step = self.quantizer.current("step").abs()
        return step * (2**self.quantizer.stated_bits - 1)

    def motion(self) -> Motion:
        """What was seen so far."""
        shares = {}
        if self.weight is not None:
            shares = {
                "changed": float((self.way != 0).float().mean()),
                "oscillating": float(self.back.float().mean()),
            }
        return Motion(jump=self.jump, sign_flips=self.sign_flips, **shares)


def _with_weights(model: nn.Module) -> list[tuple[Quantizer, Tensor | None]]:
    """Every quantizer, with the weight of the convolution or linear layer that it quantizes, if it does."""
    weighted = [layer for _, layer in quantized_layers(model) if is_weighted(layer)]
    weights = {q: weight for layer in weighted for _, q, weight in quantized_tensors(layer, "weight")}
    return [(q, weights.get(q)) for _, q in quantizers_of(model)]


def _repeated(batches: Iterable[Batch], most: int) -> Iterator[Batch]:
    """The first ``most`` batches, again and again. Raises ValueError where they are used up, as a generator's."""
    while True:
        yield from nonempty(batches, THE_DOCTOR, most)


def _diverged(finding: Finding, step: int, lr: float) -> Finding:
    evidence = f"{finding.evidence}, after {step} updates at lr {lr:.3g}"
    return Finding(layer=finding.layer, problem="lr too high", evidence=evidence, mend=SLOWER)


def _oscillation(quantizer: Quantizer, motion: Motion, lr: float, num_weights: int) -> Iterator[Finding]:
    """A finding where too many of a layer's weights flip to and fro on a coarse grid."""
    many = motion.oscillating > OSCILLATING and motion.oscillating * num_weights >= FEW
    if many and quantizer.bit_width() <= COARSE_BITS:
        shares = f"{motion.oscillating:.0%} of weights flip to and fro, {motion.changed:.0%} change level"
        yield Finding(layer=site_of(quantizer), problem="oscillating", evidence=f"{shares}, at lr {lr:.3g}", mend=CALM)


def _jumps(quantizer: Quantizer, motion: Motion, lr: float) -> Iterator[Finding]:
    """A finding where the lr is too high for a learned step or clip."""
    if motion.jump > JUMPING or motion.sign_flips:
        evidence = f"one update changes it by up to {motion.jump:.0%} at lr {lr:.3g}"
        evidence += f", its sign flips {motion.sign_flips} times" if motion.sign_flips else ""
        unscaled = getattr(quantizer, "gradient_scale", True) is False
        mend = f"gradient_scale=True, or {SLOWER}" if unscaled else SLOWER
        yield Finding(layer=site_of(quantizer), problem="lr too high for the step", evidence=evidence, mend=mend)
