"""The life of batch-norm statistics around quantization: re-estimate them, or freeze them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..data.pairs import input_of
from ..modes import modes_kept
from ..nonempty import nonempty


@torch.no_grad()
def reestimate_batchnorm_(model: nn.Module, batches: Iterable[Any], num_batches: int | None = None) -> int:
    """Replace running statistics by the plain average over batches, in place (as SWA does).

    Quantizing changes what reaches every batch norm; the float network's statistics then belong to
    another network. Everything but the norms runs in eval mode, so that they are estimated without
    dropout; every batch weighs the same, a smaller last one too. Weights and training mode are left
    as they are.

    Args:
        model: any module; without batch norms nothing happens.
        batches: iterable of ``(x, ...)`` or ``x`` on the model's device.
        num_batches: how many to average; None for all of an iterable that ends (``flatbit.bounded``).

    Returns:
        How many batches were averaged.

    Raises:
        ValueError: no batches, or no end of them; inputs that are no tensor.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return 0
    stream = nonempty(batches, "reestimate_batchnorm_", num_batches)
    momenta = {norm: norm.momentum for norm in norms}
    count = 0
    try:
        with modes_kept(model):
            model.eval()
            for norm in norms:
                norm.reset_running_stats()
                norm.train()
                norm.momentum = None  # cumulative average
            for batch in stream:
                model(input_of(batch, "reestimate_batchnorm_"))
                count += 1
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
    return count


def freeze_batchnorm_(model: nn.Module) -> None:
    """Put every batch norm in eval mode, in place: running statistics are used and kept. Call after ``train()``."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
