"""The loss uphill of the quantized weights: SAQ's own measure (section 4.1)."""

from __future__ import annotations

import torch

from ...train.losses.labels import cross_entropy
from ...train.sharpness import SharpnessAware
from ..sensitivity import MEASURES, Probe
from ..space import Choice

RHO = 0.1


def rise_uphill(probe: Probe, choice: Choice, bits: int) -> float:
    """``L(Q_l(w) + e) - L``, e of length 0.1 along the gradient at the quantized weights."""
    before = probe.once("loss", lambda: probe.loss(probe.model))
    model = probe.alone(choice, bits)
    climber = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.0), model, "saq", RHO, perturb="weights_only")
    total = sum(len(y) for _, y in probe.batches)
    for x, y in probe.batches:
        (cross_entropy(model(x), y) * (len(y) / total)).backward()
    climber.ascend()
    try:
        return probe.loss(model) - before
    finally:
        climber.restore()
        climber.close()


MEASURES.add("perturbed", rise_uphill)
