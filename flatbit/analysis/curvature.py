"""The Hessian's top eigenvalue: how curved the loss is at the quantized weights (SAQ, table 3).

Power iteration on exact Hessian-vector products, as PyHessian does (Yao, Gholami, Keutzer, Mahoney, 2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from ..data.pairs import pair_of
from ..device import device_of
from ..inputs import check_one_input
from ..modes import modes_kept
from ..nonempty import nonempty
from ..progress import track
from ..quant.table import quantizers_of
from ..train.losses.labels import cross_entropy
from ..train.perturbed import attach_leaves_, perturbed_set

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hessian:
    """The eigenvalue of largest magnitude of a loss' Hessian.

    Attributes:
        eigenvalue: with its sign; negative at a saddle that bends down more than up.
        iterations: of the power method.
        converged: whether the last iteration changed it by less than the tolerance.
        num_samples: over how many the loss is the mean.
        estimates: of the eigenvalue, one per iteration; the last is the result.
    """

    eigenvalue: float
    iterations: int
    converged: bool
    num_samples: int
    estimates: tuple[float, ...] = field(repr=False)


def hessian(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    num_batches: int | None = None,
    max_iterations: int = 100,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> Hessian:
    """The top Hessian eigenvalue of the mean cross-entropy, in eval mode, by power iteration.

    The variables are the quantized weights w^q themselves (moved after quantization, so rounding does
    not hide the curvature), the weights of float layers, batch norms' scales and shifts, and biases:
    what trains, without clips and steps. Activations are differentiated by their surrogates. Values
    depend on how weights are parametrized: compare nets of one method with each other only.

    Args:
        model: float or quantized and calibrated; left as it is, gradients included.
        batches: iterable of ``(x, y)``, kept in memory: SAQ takes 500 training images, not augmented.
        num_batches: how many to take; None for all of an iterable that ends (``flatbit.bounded``).
        max_iterations: at most this many; each costs a forward, a backward, and a backward through both.
        tolerance: stop where the eigenvalue changes by a smaller share.
        seed: of the vector to start from.

    Raises:
        ValueError: no batches, or no end of them; what is no pair ``(x, y)``; nothing that trains, a curvature that
            is not finite, settings out of range.
    """
    if max_iterations < 1 or not tolerance > 0:
        raise ValueError(f"{max_iterations=}, {tolerance=}: expected 1 iteration or more and a positive tolerance")
    if isinstance(model, DistributedDataParallel):
        model = model.module
    check_one_input(model, "hessian")
    device = device_of(model)
    pairs = (pair_of(batch, "hessian: a batch") for batch in nonempty(batches, "hessian", num_batches))
    data = [(x.to(device), y.to(device)) for x, y in pairs]
    eagerly = torch.compiler.set_stance  # a compiled graph has no second derivatives
    with eagerly("force_eager"), _variables(model) as variables, modes_kept(model), torch.enable_grad():
        model.eval()
        estimates, converged = _power_iteration(model, data, variables, max_iterations, tolerance, seed)
    return Hessian(
        eigenvalue=estimates[-1],
        iterations=len(estimates),
        converged=converged,
        num_samples=sum(len(y) for _, y in data),
        estimates=tuple(estimates),
    )


def _power_iteration(
    model: nn.Module, data: list[Batch], variables: list[Tensor], max_iterations: int, tolerance: float, seed: int
) -> tuple[list[float], bool]:
    """``v <- Hv/||Hv||`` until ``<v, Hv>`` settles: its value in every iteration, and whether it settled."""
    generator = torch.Generator().manual_seed(seed)
    v = [torch.randn(t.shape, generator=generator).to(t) for t in variables]
    estimates: list[float] = []
    for _ in track(range(max_iterations), "hessian"):
        length = torch.nn.utils.get_total_norm(v)
        v = [part / length for part in v]
        product = hessian_vector_product(model, data, variables, v)
        value = float(sum((a * b).sum() for a, b in zip(v, product, strict=True)))
        if not math.isfinite(value):
            raise ValueError(
                f"the Hessian of {type(model).__name__}'s loss is NaN or infinite: a weight, a step or an image is not "
                "finite, or a layer has no second derivative there"
            )
        last = estimates[-1] if estimates else math.inf
        estimates.append(value)
        if value == 0 or abs(value - last) < tolerance * abs(value):
            return estimates, True
        v = product
    return estimates, False


def hessian_vector_product(
    model: nn.Module, data: list[Batch], variables: list[Tensor], v: list[Tensor]
) -> list[Tensor]:
    """``Hv`` of the mean cross-entropy over all batches, each weighted by its size, of the variables' shapes.

    Raises ValueError for an operation of the model's that has no second derivative.
    """
    count = sum(len(y) for _, y in data)
    total = [torch.zeros_like(t) for t in variables]
    for x, y in data:
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivatives
            loss = cross_entropy(model(x), y) * (len(y) / count)
        slopes = torch.autograd.grad(loss, variables, create_graph=True, materialize_grads=True)
        along = sum((slope * part).sum() for slope, part in zip(slopes, v, strict=True))
        assert isinstance(along, Tensor)
        if along.requires_grad:
            product = _second_derivatives(model, along, variables)
            total = [a + b for a, b in zip(total, product, strict=True)]
    return total


def _second_derivatives(model: nn.Module, along: Tensor, variables: list[Tensor]) -> tuple[Tensor, ...]:
    try:
        return torch.autograd.grad(along, variables, materialize_grads=True)
    except RuntimeError as error:
        if "not implemented" not in str(error) and "differentiate twice" not in str(error):
            raise
        raise ValueError(
            f"the Hessian of {type(model).__name__}'s loss: an operation of its forward has no second derivative "
            f"({error}): run that one by a kernel that has"
        ) from error


@contextmanager
def _variables(model: nn.Module) -> Iterator[list[Tensor]]:
    """What the loss is differentiated by; leaves stand for quantized weights and are taken off again."""
    quantizers = [quantizer for _, quantizer in quantizers_of(model)]
    before: list[Any] = [quantizer.perturbation for quantizer in quantizers]
    steps = {id(p) for quantizer in quantizers for p in quantizer.parameters()}
    try:
        members = perturbed_set(model, attach_leaves_(model))
        variables = [m.tensor for m in members if id(m.tensor) not in steps]
        if not variables:
            raise ValueError(
                f"{type(model).__name__} has no parameter that trains: there is nothing to differentiate by"
            )
        yield variables
    finally:
        for quantizer, perturbation in zip(quantizers, before, strict=True):
            quantizer.perturbation = perturbation
