"""A small trained network by every policy and width that is registered: what the suite of exports runs over."""

import copy
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from flatbit.quant.calibrate import calibrate_
from flatbit.quant.convert import quantize_
from flatbit.quant.policy import POLICIES, Policy
from flatbit.quant.presets import policy, preset, preset_names
from flatbit.quant.quantizer import Quantizer
from flatbit.quant.quantizers import METHODS
from flatbit.quant.spec import FLOAT_BITS

from ..export.cases import DEPLOYABLE, DIGITS

WIDTHS = (1, 2, 4, 8)


class Small(nn.Module):
    """Three convolutions with batch norms, a residual sum, a pooling of each kind and a linear layer."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.first, self.act1 = _normed(1, 8), activation()
        self.second, self.act2 = _normed(8, 8), activation()
        self.residual, self.pool = nn.Identity(), nn.MaxPool2d(2)
        self.third, self.act3 = _normed(8, 16, stride=2), activation()
        self.mean, self.flatten, self.last = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act1(self.first(x))
        x = self.pool(self.residual(x + self.act2(self.second(x))))
        return self.last(self.flatten(self.mean(self.act3(self.third(x)))))


def _normed(inputs: int, outputs: int, **geometry: int) -> nn.Module:
    """Its results reach beyond 5, where PACT's clip of 10 turns one bit on."""
    norm = nn.BatchNorm2d(outputs)
    nn.init.constant_(norm.weight, 2)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, **geometry), norm)


@cache
@torch.enable_grad()
def trained(activation: type[nn.Module]) -> nn.Module:
    """In float: about 85 % of the digits."""
    torch.manual_seed(0)
    model = Small(activation)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for epoch in range(4):
        for x, y in DIGITS.train_batches(64, seed=epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model


def quantizers(name: str) -> tuple[type[Quantizer] | None, type[Quantizer] | None]:
    """What a policy quantizes weights and activations with; None where it has nothing of its own."""
    if name not in POLICIES.names():
        return METHODS.get(name).weights, METHODS.get(name).activations
    base = preset(name)(4, 4).base
    return METHODS.get(base.method).weights, METHODS.get(base.activation_method).activations


def widths(name: str) -> list[int]:
    """Of 1, 2, 4 and 8 bits, those that a policy has for both weights and activations."""
    return [bits for bits in WIDTHS if all(made is None or bits in made.supported_bits for made in quantizers(name))]


def asked(name: str, weights: int, activations: int, *, deployable: bool) -> Policy:
    """A policy by its own or the deployable convention; UNIQ serves where it has nothing for activations."""
    choices = DEPLOYABLE if deployable else {}
    if quantizers(name)[1] is None and activations < FLOAT_BITS:
        choices = choices | {"activation_method": "uniq"}
    return policy(name, weights=weights, activations=activations, **choices)


@cache
def quantized(name: str, weights: int, activations: int, *, deployable: bool) -> nn.Module:
    """The network by a policy, calibrated on digits, in evaluation; with Hardtanh where it takes no ReLU's (XNOR)."""
    made = quantizers(name)[1]
    model = copy.deepcopy(trained(nn.ReLU if made is None or made.takes_unsigned else nn.Hardtanh))
    images = [x for x, _ in DIGITS.train_batches(64, seed=0)][:5]
    quantize_(model, asked(name, weights, activations, deployable=deployable))
    calibrate_(model, images)
    model.train()
    with torch.no_grad():
        for x in images:
            model(x)
    return model.eval()


def in_part(name: str) -> list[tuple[str, int, int]]:
    """A policy at its fewest bits by its own convention; if it is a method's, weights or activations alone as well."""
    bits, kinds = min(widths(name)), METHODS.get(name) if name in METHODS.names() else None
    found = [(name, bits, bits)]
    if kinds is not None and kinds.weights is not None:
        found.append((name, bits, FLOAT_BITS))
    if kinds is not None and kinds.activations is not None:
        found.append((name, FLOAT_BITS, bits))
    return found


CASES = [(name, bits) for name in preset_names() for bits in widths(name)]
LACKING = [(name, bits) for name in preset_names() for bits in WIDTHS if bits not in widths(name)]
IN_PART = [case for name in preset_names() for case in in_part(name)]
