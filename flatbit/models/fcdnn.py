"""FCDNN: the fully connected nets of HOL's spirals, plain and residual."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from . import MODELS


class Fcdnn(nn.Module):
    """``depth`` weight matrices with ReLU between them, biases, two logits by default (HOL, section 3).

    The residual variant is ``h_1 = phi(W_1 x)``, ``h_{k+1} = 0.5 (h_k + phi(W_{k+1} h_k))``; each sum
    passes an ``nn.Identity`` named ``residual``, where a policy can quantize it.
    """

    def __init__(
        self,
        *,
        width: int = 128,
        depth: int = 4,
        in_features: int = 2,
        num_classes: int = 2,
        block: Literal["plain", "residual"] = "plain",
    ) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"depth={depth}: expected at least 2, the first and the last weight matrix")
        if block not in ("plain", "residual"):
            raise ValueError(f"block={block!r}: expected 'plain' or 'residual'")
        self.flatten = nn.Flatten()
        self.first = nn.Sequential(nn.Linear(in_features, width), nn.ReLU())
        layer = _Residual if block == "residual" else _Plain
        self.hidden = nn.Sequential(*(layer(width) for _ in range(depth - 2)))
        self.last = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of inputs (N, ...)."""
        return self.last(self.hidden(self.first(self.flatten(x))))


class _Plain(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.relu = nn.ReLU()

    def forward(self, h: Tensor) -> Tensor:
        return self.relu(self.linear(h))


class _Residual(_Plain):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.residual = nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        return self.residual(0.5 * (h + self.relu(self.linear(h))))


MODELS.add("fcdnn", Fcdnn)
