"""Sensitivity: what each choice of bits costs the net when it alone is quantized, by one of several measures."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from scipy import stats
from torch import Tensor, nn

from .. import plain
from ..atomic import replacing
from ..data.batches import Batch
from ..device import device_of
from ..progress import track
from ..quant.calibrate import calibrate_
from ..quant.convert import quantize_
from ..quant.policy import Policy
from ..quant.spec import FLOAT_BITS
from ..quant.table import quantized_layers
from ..registry import Registry
from ..text import as_text
from ..train.batchnorm import reestimate_batchnorm_
from ..train.losses.labels import cross_entropy
from .space import Choice, Space

SAMPLES = 512
FORMAT = 1


@dataclass(kw_only=True, slots=True, eq=False)
class Probe:
    """What a measure works with: the float net, and nets in which one choice alone is quantized.

    Attributes:
        model: float, in eval mode; left as it is.
        policy: how what is quantized is.
        batches: on the model's device.
        kept: what a measure computes once for all choices, by name.
    """

    model: nn.Module
    policy: Policy
    batches: list[Batch]
    kept: dict[str, Any] = field(default_factory=dict)

    def alone(self, choice: Choice, bits: int) -> nn.Module:
        """A copy of the net in which the layers of one choice are quantized, weights and activations, calibrated.

        Batch-norm statistics are those of the batches, there as in the float net: what a quantizer scales (SAQ's
        normalizes its weights), a batch norm takes up.
        """
        policy = self.policy.override("*", weights=FLOAT_BITS, activations=FLOAT_BITS)
        for name in choice.layers:
            policy = policy.override(name, weights=bits, activations=bits)
        model = copy.deepcopy(self.model)
        quantize_(model, policy, strict=False)
        calibrate_(model, self.batches)
        reestimate_batchnorm_(model, [x for x, _ in self.batches])
        return model.eval()

    @torch.no_grad()
    def loss(self, model: nn.Module) -> float:
        """Mean cross-entropy over the batches."""
        total = sum(float(cross_entropy(model(x), y)) * len(y) for x, y in self.batches)
        return total / sum(len(y) for _, y in self.batches)

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """What ``compute`` gives, the first time; then what it gave."""
        if name not in self.kept:
            self.kept[name] = compute()
        return self.kept[name]


Measure = Callable[[Probe, Choice, int], float]
"""From a choice and a width to a number; less is better."""
MEASURES: Registry[Measure] = Registry("measure", "flatbit.search.measures")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """A measure of every choice at every width; less is better. Prints as a table.

    Attributes:
        measure: its name.
        values: by choice and width.
        num_samples: images that it was measured on.
        seconds: that it took.
    """

    measure: str
    values: Mapping[str, Mapping[int, float]]
    num_samples: int
    seconds: float = 0.0

    def __str__(self) -> str:
        widths = sorted({bits for row in self.values.values() for bits in row})
        title = f"{self.measure} when one layer alone is quantized, {self.num_samples} images, {self.seconds:.1f} s"
        table = Table("layer", *(f"{bits} bits" for bits in widths), title=title)
        for name, row in self.values.items():
            table.add_row(name, *(f"{row[bits]:.4g}" if bits in row else "" for bits in widths))
        return as_text(table)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        with replacing(path) as partial:
            partial.write_text(json.dumps({"format": FORMAT} | plain.to_plain(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> Sensitivity:
        """Read what ``save`` wrote. Raises ValueError."""
        try:
            found = json.loads(path.read_text())
            if found.pop("format") != FORMAT:
                raise ValueError("another format")
            return plain.from_plain(cls, found)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: no sensitivity that this version wrote ({error})") from error


def sensitivity(
    model: nn.Module, policy: Policy, space: Space, batches: Iterable[Batch], *, measure: str = "loss"
) -> Sensitivity:
    """Measure every choice at every width.

    Args:
        model: float, trained; left as it is.
        policy: how layers are quantized; its bits are those of the space.
        space: of the model, quantized by that policy.
        batches: ``(x, y)``, few: each pair of choice and width runs over all of them.
        measure: a name of ``MEASURES``.

    Raises:
        ValueError: an unknown measure; no batches.
    """
    measured, device = MEASURES.get(measure), device_of(model)
    data = [(x.to(device), y.to(device)) for x, y in batches]
    if not data:
        raise ValueError("sensitivity needs batches: got none")
    begun = time.perf_counter()
    float_net = copy.deepcopy(model)
    reestimate_batchnorm_(float_net, [x for x, _ in data])
    probe = Probe(model=float_net.eval(), policy=policy, batches=data)
    pairs = [(choice, bits) for choice in space.choices for bits in choice.widths]
    values: dict[str, dict[int, float]] = {choice.name: {} for choice in space.choices}
    for choice, bits in track(pairs, f"sensitivity, {measure}"):
        values[choice.name][bits] = measured(probe, choice, bits)
    count, seconds = sum(len(y) for _, y in data), time.perf_counter() - begun
    return Sensitivity(measure=measure, values=values, num_samples=count, seconds=seconds)


def rank_correlation(
    one: Mapping[str, float], other: Mapping[str, float], level: float = 0.95
) -> tuple[float, float, float]:
    """Spearman's rank correlation over the names that both have, with its confidence interval (Fisher's z).

    Raises ValueError for fewer than four names.
    """
    names = sorted(one.keys() & other.keys())
    if len(names) < 4:
        raise ValueError(f"a rank correlation of {len(names)} values: expected 4 or more")
    result: Any = stats.spearmanr([one[name] for name in names], [other[name] for name in names])
    rho = float(result.statistic)
    z = math.atanh(max(min(rho, 1 - 1e-12), -1 + 1e-12))
    half = float(stats.norm.ppf((1 + level) / 2)) / (len(names) - 3) ** 0.5
    return rho, math.tanh(z - half), math.tanh(z + half)


def weight_error(probe: Probe, choice: Choice, bits: int) -> dict[str, float]:
    """``|Q(w) - w|^2`` of each layer of a choice, but for what a scale and a shift would mend."""
    layers: dict[str, Any] = dict(quantized_layers(probe.alone(choice, bits)))
    found = {}
    for name in choice.layers:
        weight = layers[name].weight.detach()
        signal = (weight - weight.mean()).square().sum()
        found[name] = float(signal * noise_share(weight, layers[name].quantized_weight().detach()))
    return found


def noise_share(signal: Tensor, quantized: Tensor) -> float:
    """``1 - r^2``: the share of a tensor's variance that its quantized values do not have, up to scale and shift."""
    a, b = signal.double() - signal.double().mean(), quantized.double() - quantized.double().mean()
    return float(1 - (a * b).sum().square() / (a.square().sum() * b.square().sum()).clamp_min(1e-300))
