"""Images made larger or smaller as two small matrices of whole numbers, so that integers can do it exactly."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MODES = {"bilinear": "linear", "nearest": "nearest", "nearest-exact": "nearest-exact"}
"""Of ``torch.nn.functional.interpolate``: that of images, and of one of their axes."""


def shares(before: int, after: int, mode: str, align_corners: bool) -> tuple[Tensor, int]:
    """What each of ``after`` places takes of ``before`` ones: int64 (after, before), and what to divide by.

    Bilinear places lie at multiples of ``1/(2 after)`` of a step between pixels, or of ``1/(after - 1)`` with
    ``align_corners``, both shortened by what the sizes have in common: the shares are exact.
    """
    settings = {"align_corners": align_corners} if mode == "bilinear" else {}
    eye = torch.eye(before, dtype=torch.float64)[None]
    taken = F.interpolate(eye, size=after, mode=MODES[mode], **settings)[0].T
    if mode != "bilinear":
        denominator = 1
    elif align_corners:
        denominator = max(1, (after - 1) // math.gcd(before - 1, after - 1)) if after > 1 else 1
    else:
        denominator = 2 * after // math.gcd(before, after)
    whole = (taken * denominator).round()
    assert torch.allclose(whole, taken * denominator, rtol=0, atol=1e-6), (before, after, mode, align_corners)
    return whole.long(), denominator
