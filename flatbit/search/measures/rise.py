"""The rise of the loss when a choice alone is quantized."""

from __future__ import annotations

from ..sensitivity import MEASURES, Probe
from ..space import Choice


def rise_of_loss(probe: Probe, choice: Choice, bits: int) -> float:
    """``L(Q_l) - L``: what the user loses, before any fine-tuning."""
    before = probe.once("loss", lambda: probe.loss(probe.model))
    return probe.loss(probe.alone(choice, bits)) - before


MEASURES.add("loss", rise_of_loss)
