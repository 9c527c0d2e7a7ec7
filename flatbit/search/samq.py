"""SAMQ's settings and what it finds: bits per layer by a learned generator (SAQ, section 4).

R = L_V(Q(w, b) + e) + kappa ((c(b) - C) / C)^2          kappa = beta C^2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..train.sharpness import Sharpness
from .costs import Price

KAPPA = 1e-4 * 392**2
"""The paper's beta at its cost of 392 M: what a cost that is off by all of itself adds to the loss."""
WINDOW = 0.025
"""How far below the target an accepted cost may be: 10 M of 392 M in the paper's code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Samq:
    """How to search; the paper's CIFAR settings (section 5.1) by default.

    Attributes:
        epochs, warmup: of all, and of those at first in which widths are drawn uniformly and the generator waits.
        lr, weight_decay, batch_size: of the shared net: SGD 0.9, the rate x0.1 at half of the epochs.
        sharpness: of the net and of the cost; None for the search without (Table 4).
        kappa, window: of the cost's target, as shares of it.
        entropy: alpha; baseline: decay of the exponential mean of costs, None for 0 as in the paper.
        accepted, tries: widths to accept, and to draw at most.
    """

    epochs: int = 100
    warmup: int = 10
    lr: float = 0.01
    weight_decay: float = 1e-4
    batch_size: int = 128
    sharpness: Sharpness | None = None
    kappa: float = KAPPA
    window: float = WINDOW
    entropy: float = 5e-3
    baseline: float | None = 0.95
    accepted: int = 20
    tries: int = 20_000

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.epochs:
            raise ValueError(f"warmup={self.warmup} of {self.epochs} epochs: the generator needs one of its own")
        if self.sharpness is not None and self.sharpness.shard is not None:
            raise ValueError(f"sharpness shard={self.sharpness.shard} cannot act: a search climbs by whole batches")
        if self.accepted < 1 or self.tries < self.accepted:
            raise ValueError(f"accepted={self.accepted}, tries={self.tries}: expected at least one, and as many tries")


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchEpoch:
    """An epoch in means: the net's loss; of the generator's samples cost, millions of bit-operations and entropy."""

    epoch: int
    train_loss: float
    cost: float | None = None
    mbitops: float | None = None
    entropy: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Accepted widths: their cost, and what the shared net scores with them on the held-out images."""

    bits: Mapping[str, int]
    price: Price
    top1: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a search found: the best of the accepted ones, all of them, and its epochs."""

    best: Candidate
    accepted: tuple[Candidate, ...]
    epochs: tuple[SearchEpoch, ...]
