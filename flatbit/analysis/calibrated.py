"""What each policy loses by calibration alone, at each width, as ``benchmarks/calibrated.py`` measured it.

The table stands in ``calibrated.json``, which the benchmark writes with its record.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .. import plain
from ..metrics.health import Finding
from ..quant.policy import Policy
from ..quant.spec import FLOAT_BITS

TABLE = Path(__file__).with_suffix(".json")
POOR = 1.0
"""So many points more than the best policy at that width make a poor one: small test sets scatter by a few tenths."""


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


def poor_at_its_width(policy: Policy) -> Finding | None:
    """What the table says against a policy at its bits; None where it says nothing, or nothing against it.

    A width of the table is that of weights, with activations of the same or in float. The policy is held against the
    best one on the same net, at the same bits of weights and activations.
    """
    bits = (policy.base.weights, policy.base.activations)
    if bits[1] not in (bits[0], FLOAT_BITS):
        return None
    alike = [each for each in calibration_losses() if (each.weights, each.activations) == bits]
    own = [each for each in alike if each.policy == policy.name]
    pairs = [(each, min((one for one in alike if one.net == each.net), key=lambda one: one.loss)) for each in own]
    pairs = [(each, best) for each, best in pairs if each.loss - best.loss > POOR]
    if not pairs:
        return None
    worst, best = max(pairs, key=lambda pair: pair[0].loss - pair[1].loss)
    width = f"W{worst.weights}/A{worst.activations}"
    return Finding(
        layer="the net",
        problem="poor start at this width",
        evidence=f"calibrated to {width}, {worst.in_words}, {best.in_words} ({worst.net}, n={worst.n})",
        mend=f"train it on from there, or take --policy {best.policy}",
    )
