"""Nets whose loss is a closed form of their weights, and captures of one retraining."""

import copy

import torch
from torch import nn

import flatbit as fb
from flatbit.quant.quantizer import Quantizer


class Bowl(nn.Module):
    """Logits (q, 0) with ``q = (w - t)' A (w - t)/2`` whatever the input: its loss at label 1 is softplus(q)."""

    def __init__(self, values):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values, dtype=torch.float64))

    def forward(self, x):
        q = quadratic(self.w).expand(len(x))
        return torch.stack([q, torch.zeros_like(q)], 1)


A = torch.tensor([[3.0, 1, 0, 0], [1, 2, 0.5, 0], [0, 0.5, 1, 0], [0, 0, 0, 4]], dtype=torch.float64)
CENTRE = torch.tensor([0.5, -0.25, 1, 0], dtype=torch.float64)


def quadratic(w):
    return (w - CENTRE) @ A @ (w - CENTRE) / 2


def net(method="sqwa", weights=2, activations=None, seed=0):
    """A small quantized, calibrated net with batch norms."""
    torch.manual_seed(seed)
    model = fb.models.build("preresnet8", in_channels=1, first_width=2, num_classes=3)
    settings = {} if activations is None else {"activations": activations}
    fb.quantize_(model, fb.policy(method, weights=weights, **settings))
    fb.calibrate_(model, [torch.randn(32, 1, 4, 4) for _ in range(2)])
    return model


def captures(first, count=3, scale=0.05):
    """Nets on the grid of the first, as retraining with a fixed D leaves them: every parameter but steps has moved."""
    steps = {id(p) for m in first.modules() if isinstance(m, Quantizer) for p in m.parameters()}
    found = [first]
    while len(found) < count:
        model = copy.deepcopy(first)
        own = [p for p, q in zip(model.parameters(), first.parameters(), strict=True) if id(q) not in steps]
        with torch.no_grad():
            for parameter in own:
                parameter += scale * torch.randn_like(parameter)
        found.append(model)
    return found
