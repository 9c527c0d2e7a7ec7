"""Objectives: the loss of a model on a batch, and the terms that add to it: a teacher's, and HOL's Lipschitz term."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.batches import VOID
from ..quant.layers import FLOAT_BITS, has_quantized_layers, row_of
from ..quant.policy import spec_of
from ..quant.rounding import wide

Objective = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Distillation:
    """Knowledge distillation (Hinton et al., 2015): learn a teacher's softened answers.

    Attributes:
        teacher: ``start``, the float net of the weights that the stage starts from; the name of an
            earlier stage; or the path of a run's folder or of a model file of ours.
        temperature: T, of both softmaxes.
        weight: lambda, of the teacher's term; 1 for no labels at all.
    """

    teacher: str = "start"
    temperature: float = 4.0
    weight: float = 0.9

    def __post_init__(self) -> None:
        numbers = all(isinstance(value, int | float) for value in (self.temperature, self.weight))
        if not numbers or not 0 < self.temperature < math.inf or not 0 < self.weight <= 1:
            raise ValueError(f"{self}: expected a positive temperature and a weight above 0, up to 1")


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the model's logits (N, classes, ...) and labels (N, ...): (loss, logits).

    Labels of pixels, (N, H, W), leave out those that are ``VOID``; a batch of nothing else has loss 0.
    """
    logits = model(x)
    if y.ndim == 1:
        return F.cross_entropy(logits, y), logits
    total = F.cross_entropy(logits, y, ignore_index=VOID, reduction="sum")
    return total / (y != VOID).sum().clamp_min(1), logits


def distill(
    logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0, *, labels: Tensor | None = None
) -> Tensor:
    """``T^2 KL(softmax(z_t / T) || softmax(z_s / T))``, mean over samples or pixels (Hinton et al., 2015).

    Args:
        logits: z_s of the student, (N, classes, ...).
        teacher_logits: z_t, of the same shape; no gradient reaches them.
        temperature: T.
        labels: of pixels, (N, H, W): those that are ``VOID`` are left out. None takes all.

    Raises:
        ValueError: logits of different shapes.
    """
    if logits.shape != teacher_logits.shape:
        raise ValueError(
            f"distillation: the student's logits have shape {tuple(logits.shape)}, the teacher's "
            f"{tuple(teacher_logits.shape)}: expected equal ones: take a teacher of the same classes and output size"
        )
    log_p_t = F.log_softmax(wide(teacher_logits.detach()) / temperature, dim=1)
    log_p_s = F.log_softmax(wide(logits) / temperature, dim=1)
    divergence = F.kl_div(log_p_s, log_p_t, reduction="none", log_target=True).sum(1)
    if labels is None or labels.ndim == 1:
        return temperature**2 * divergence.mean()
    counts = labels != VOID
    return temperature**2 * divergence.where(counts, 0.0).sum() / counts.sum().clamp_min(1)


def lipschitz(model: nn.Module) -> Tensor:
    """HOL's L_Lip, ``R = 1/2 sum_l ||W_l^T W_l - I||_F^2``; its gradient is ``2 W_l (W_l^T W_l - I)``.

    W_l is the latent float weight as a matrix (fan_in, c_out); each group of a grouped convolution has
    a matrix of its own, so a depthwise one gives ``sum_c (|w_c|^2 - 1)^2 / 2``. A weight that layers
    share counts once. Where c_out > fan_in the least value is (c_out - fan_in) / 2, not 0.

    Taken over the convolutions and linear layers whose weight or input is quantized; over all of them
    in a model without a quantized layer. Raises ValueError where there is none.
    """
    weights = {id(layer.weight): _columns(layer) for layer in _regularized(model)}
    if not weights:
        raise ValueError(
            f"the Lipschitz term of {type(model).__name__}: expected a convolution or linear layer to hold near "
            "orthogonality, got none: leave the term out with lipschitz=0"
        )
    return torch.stack([_distance_from_orthogonal(columns) for columns in weights.values()]).sum() / 2


def _regularized(model: nn.Module) -> list[Any]:
    """The layers that the Lipschitz term takes."""
    rows = ((module, row_of(module)) for module in model.modules())
    weighted = [module for module, row in rows if row and row.kind in ("convolution", "linear")]
    if not has_quantized_layers(model):
        return weighted
    specs = ((layer, spec_of(layer)) for layer in weighted)
    return [layer for layer, spec in specs if spec and (spec.weight or spec.input or spec.input_bits < FLOAT_BITS)]


def _columns(layer: Any) -> Tensor:
    """The transposed weight matrix of each group, (groups, c_out / groups, fan_in)."""
    row, groups = row_of(layer), getattr(layer, "groups", 1)
    by_group = layer.weight.unflatten(0, (groups, -1))
    if row is not None and row.channel_axis == 1:  # transposed: (c_in, c_out / groups, ...)
        by_group = by_group.transpose(1, 2)
    return wide(by_group.flatten(2))


def _distance_from_orthogonal(columns: Tensor) -> Tensor:
    """``||W^T W - I||_F^2`` summed over groups, from the smaller of W^T W and W W^T."""
    groups, c_out, fan_in = columns.shape
    rows = columns if c_out <= fan_in else columns.mT
    with torch.autocast(columns.device.type, enabled=False):
        gram = rows @ rows.mT
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return (gram - identity).square().sum() + groups * max(c_out - fan_in, 0)


def objective_of(
    base: Objective,
    *,
    distillation: Distillation | None = None,
    teacher: nn.Module | None = None,
    lipschitz: float = 0.0,
) -> Objective:
    """``(1 - lambda) base + lambda T^2 KL + lipschitz R``; ``base`` itself where nothing is added.

    Args:
        base: of model, inputs and labels; not called where lambda is 1: no label is looked at then,
            except for the pixels that are ``VOID``.
        distillation: T and lambda; its teacher is what ``teacher`` was made from.
        teacher: put into eval mode here and run without gradients.
        lipschitz: factor of ``lipschitz(model)``; HOL: 1e-4.

    Raises:
        ValueError: a distillation without a teacher or the reverse, a negative factor; when called, a teacher
            whose outputs are not of the student's shape.
    """
    if (distillation is None) != (teacher is None):
        raise ValueError(f"distillation={distillation} with teacher={type(teacher).__name__}: expected both or neither")
    if not lipschitz >= 0:
        raise ValueError(f"lipschitz={lipschitz}: expected 0 or more")
    if distillation is not None and teacher is not None:
        base = _taught(base, teacher.eval(), distillation)
    return _held_orthogonal(base, lipschitz) if lipschitz else base


def _taught(base: Objective, teacher: nn.Module, settings: Distillation) -> Objective:
    def objective(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        loss, logits = (0.0, model(x)) if settings.weight == 1 else base(model, x, y)
        with torch.no_grad():
            taught = teacher(x)
        distance = distill(logits, taught, settings.temperature, labels=y)
        return (1 - settings.weight) * loss + settings.weight * distance, logits

    return objective


def _held_orthogonal(base: Objective, factor: float) -> Objective:
    def objective(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        loss, logits = base(model, x, y)
        return loss + factor * lipschitz(model), logits

    return objective
