"""Images made larger or smaller as two small matrices of whole numbers, so that integers can do it exactly."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MODES = ("bilinear", "nearest", "nearest-exact")
"""Of ``torch.nn.functional.interpolate``."""


def shares(before: int, after: int, mode: str, align_corners: bool) -> tuple[Tensor, int]:
    """What each of ``after`` places takes of ``before`` ones: int64 (after, before), and what to divide by.

    Bilinear places lie at multiples of ``1/(2 after)`` of a step between pixels, or of ``1/(after - 1)`` with
    ``align_corners``, both shortened by what the sizes have in common: the shares are exact.
    """
    if mode != "bilinear":
        return _taken(before, after, mode), 1
    eye = torch.eye(before, dtype=torch.float64)[None]
    taken = F.interpolate(eye, size=after, mode="linear", align_corners=align_corners)[0].T
    if align_corners:
        denominator = max(1, (after - 1) // math.gcd(before - 1, after - 1)) if after > 1 else 1
    else:
        denominator = 2 * after // math.gcd(before, after)
    whole = (taken * denominator).round()
    if not torch.allclose(whole, taken * denominator, rtol=0, atol=1e-6):
        raise ValueError(f"the shares of {before} pixels made {after} by {mode!r} are no multiples of 1/{denominator}")
    return whole.long(), denominator


def _taken(before: int, after: int, mode: str) -> Tensor:
    """Which one place each takes, as float32 images take it: torch rounds the place in float32."""
    places = torch.arange(before, dtype=torch.float32).reshape(1, 1, -1, 1)
    index = F.interpolate(places, size=(after, 1), mode=mode).flatten().long()
    return F.one_hot(index, before)
