"""The loss around a model along two random directions, of the size of its filters (SAQ, Figures 1, C to E).

Filter normalization is Li, Xu, Taylor, Studer and Goldstein's (2018, eq. 1; tomgoldstein/loss-landscape).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.batches import Data, generator
from ..device import device_of
from ..inputs import check_one_input
from ..quant.quantizer import Quantizer
from ..quant.reparametrized import refuse_reparametrized
from ..quant.table import own_weights, quantized_layers, quantized_tensors, slots_of
from ..wrappers import unwrapped
from .partial import digest_of, digest_of_samples, measured_each
from .samples import Split, sample, score

SMALL = 1e-10  # added to a filter's norm, as Goldstein's code has it


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Landscape:
    """The loss of one model around its weights.

    Attributes:
        name: of the model.
        loss: (points, points), rows along the second direction.
        accuracy: the same, in percent.
    """

    name: str
    loss: np.ndarray
    accuracy: np.ndarray

    @property
    def at_the_weights(self) -> float:
        """The loss of the model itself."""
        middle = len(self.loss) // 2
        return float(self.loss[middle, middle])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Landscapes:
    """The loss of models around their weights, over the same steps along the same random directions.

    Attributes:
        models: one landscape each.
        steps: along either direction, (points,), ascending, the middle one 0; at 1 every filter moves by its norm.
        split, num_images: what the loss is the mean over.
    """

    models: tuple[Landscape, ...]
    steps: np.ndarray
    split: str
    num_images: int


@torch.no_grad()
def loss_landscape(
    models: Mapping[str, nn.Module],
    data: Data,
    *,
    points: int = 21,
    span: float = 1.0,
    split: Split = "train",
    num_images: int = 2000,
    seed: int = 0,
    keep: Path | None = None,
) -> Landscapes:
    """Measure ``L(w^q + a d1 + b d2)`` of each model over a grid of a and b; models stay as they are.

    d1 and d2 are Gaussian, d2 made orthogonal to d1 over all weights; then each filter (output channel, row) is given
    the norm of the model's: ``d_i <- d_i ||w_i||/(||d_i|| + 1e-10)``. Vectors (biases, norms) do not move. What is
    added to a quantized weight is added after rounding, and not rounded. Batch-norm statistics stay. Models of one
    architecture get the same directions before these norms.

    Args:
        models: by the name that pictures carry; float or quantized.
        data: the same images for all; not augmented (``sample``).
        points: along each side, odd, so that the model itself is in the middle; 51 in the paper.
        span: the grid is [-span, span]^2.
        split: what the loss is measured on, ``num_images`` of it.
        seed: of the directions.
        keep: a folder for what is measured so far (``measured_each``).

    Raises:
        ValueError: no models; one without weights, or with one that is computed from others; settings out of range.
    """
    if not models:
        raise ValueError("landscape: got no models: expected one or more")
    if points < 3 or points % 2 == 0 or not span > 0:
        raise ValueError(f"{points=}, {span=}: expected an odd number of points, 3 or more, and a positive span")
    around = {name: Surroundings(unwrapped(model), name, seed) for name, model in models.items()}
    images = {name: sample(data, split, num_images, device_of(each.network)) for name, each in around.items()}
    steps = span * np.linspace(-1, 1, points)

    def measure(place: tuple[str, float, float]) -> list[float]:
        name, a, b = place
        around[name].move_(a, b)
        return [*score(around[name].network, images[name])]

    places = [(name, float(a), float(b)) for name in models for b in steps for a in steps]
    first = images[next(iter(models))]
    key: dict[str, Any] = {
        "models": {name: digest_of(model) for name, model in models.items()},
        "images": digest_of_samples(first), "span": span, "seed": seed,
    }  # fmt: skip
    found = np.array(measured_each(places, measure, "landscape", folder=keep, key=key))
    surfaces = found.reshape(len(models), points, points, 2)
    return Landscapes(
        models=tuple(
            Landscape(name=name, loss=surface[..., 0].copy(), accuracy=surface[..., 1].copy())
            for name, surface in zip(models, surfaces, strict=True)
        ),
        steps=steps,
        split=split,
        num_images=sum(len(labels) for _, labels in first),
    )


class Surroundings:
    """A copy of a model, in eval mode, that ``move_`` puts anywhere in the plane of two random directions.

    Args:
        model: float or quantized; left as it is.
        name: for errors.
        seed: of the directions.

    Attributes:
        network: the copy.
        directions: the two, one tensor for each weight of two axes or more, in order of definition.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, name: str, seed: int) -> None:
        check_one_input(model, name)
        refuse_reparametrized(quantized_layers(model), name)
        self.network = copy.deepcopy(model).eval().requires_grad_(False)
        self._quantizers: dict[int, Quantizer] = {
            id(weight): quantizer
            for _, layer in quantized_layers(self.network)
            for _, quantizer, weight in quantized_tensors(layer, "weight")
        }
        axes = {id(p): _channel_axis(m, p) for m in self.network.modules() for p in own_weights(m)}
        self._weights = [p for p in self.network.parameters() if id(p) in axes]
        if not self._weights:
            raise ValueError(f"{name} has no weight of two axes or more: there is no direction, expected one weight")
        self._values = [self._value(weight) for weight in self._weights]
        random = generator(seed)
        first, second = ([torch.randn(w.shape, generator=random) for w in self._weights] for _ in range(2))
        share = _dot(first, second) / _dot(first, first)
        second = [b - share * a for a, b in zip(first, second, strict=True)]
        self.directions = tuple(
            [
                normalized(part.to(value), value, axes[id(weight)])
                for part, value, weight in zip(parts, self._values, self._weights, strict=True)
            ]
            for parts in (first, second)
        )

    @torch.no_grad()
    def move_(self, a: float, b: float) -> None:
        """Go to ``w^q + a d1 + b d2``, from wherever it is."""
        for weight, value, d1, d2 in zip(self._weights, self._values, *self.directions, strict=True):
            step = a * d1 + b * d2
            quantizer = self._quantizers.get(id(weight))
            if quantizer is None:
                weight.copy_(value + step)
            else:
                quantizer.perturbation = step

    def _value(self, weight: nn.Parameter) -> Tensor:
        """What the network computes with."""
        quantizer = self._quantizers.get(id(weight))
        return weight.clone() if quantizer is None else quantizer(weight)


def normalized(direction: Tensor, weight: Tensor, axis: int) -> Tensor:
    """The direction with each filter's norm that of the weight's: ``d_i ||w_i||/(||d_i|| + 1e-10)``, along an axis."""
    others = [other for other in range(weight.ndim) if other != axis]
    norms = [torch.linalg.vector_norm(tensor, dim=others, keepdim=True) for tensor in (weight, direction)]
    return direction * norms[0] / (norms[1] + SMALL)


def _channel_axis(module: nn.Module, weight: nn.Parameter) -> int:
    """The axis of a weight's output channels: as the table has it, else the first."""
    axes = [slot.channel_axis for slot in slots_of(module, "weight") if getattr(module, slot.name, None) is weight]
    return axes[0] if axes else 0


def _dot(one: list[Tensor], other: list[Tensor]) -> Tensor:
    return sum(((a * b).sum() for a, b in zip(one, other, strict=True)), start=torch.zeros(()))
