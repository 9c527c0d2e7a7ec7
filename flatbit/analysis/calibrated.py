"""What each policy loses by calibration alone, at each width, as ``benchmarks/calibrated.py`` measured it.

The table stands in ``calibrated.json``, which the benchmark writes with its record.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .. import plain
from ..quant.policy import Policy

TABLE = Path(__file__).with_suffix(".json")
POOR = 1.0
"""So many points more than the best policy at its bits make a poor one, if they are also twice the spread."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationLoss:
    """What one policy lost on one network.

    Attributes:
        net: network and data set, in words.
        policy: its name.
        weights, activations: bits; 32 for float.
        n: float nets, each trained from a seed of its own.
        loss: mean of float minus quantized top-1, in points; ``std``: over the nets, None for one.
    """

    net: str
    policy: str
    weights: int
    activations: int
    n: int
    loss: float
    std: float | None = None

    @property
    def in_words(self) -> str:
        """``uniq lost 1.90 points``."""
        spread = "" if self.std is None else f" ± {self.std:.2f}"
        return f"{self.policy} lost {self.loss:.2f}{spread} points"


@cache
def calibration_losses() -> tuple[CalibrationLoss, ...]:
    """The whole table."""
    return plain.from_plain(tuple[CalibrationLoss, ...], json.loads(TABLE.read_text()))


def better_start(policy: Policy) -> tuple[CalibrationLoss, CalibrationLoss] | None:
    """What a policy lost at its bits, and the best one on the same net; None where the table has nothing against it.

    A width of the table is that of weights, with activations of the same or in float; only rows of the same bits are
    held against each other. Where several nets speak against the policy, it is the one that does so the most.
    """
    bits = (policy.base.weights, policy.base.activations)
    alike = [each for each in calibration_losses() if (each.weights, each.activations) == bits]
    best = {each.net: each for each in sorted(alike, key=lambda each: -each.loss)}
    pairs = [(each, best[each.net]) for each in alike if each.policy == policy.name]
    pairs = [(own, other) for own, other in pairs if own.loss - other.loss > max(POOR, 2 * (own.std or 0.0))]
    return max(pairs, key=lambda pair: pair[0].loss - pair[1].loss, default=None)
