"""The life of batch-norm statistics around quantization: re-estimate them, or freeze them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..data.pairs import input_of
from ..device import device_of, float32_products
from ..inputs import check_one_input
from ..modes import modes_kept
from ..nonempty import nonempty
from ..undo import undone_on_failure


@torch.no_grad()
@float32_products()
def reestimate_batchnorm_(model: nn.Module, batches: Iterable[Any], num_batches: int | None = None) -> int:
    """Replace running statistics by the plain average over batches, in place (as SWA does).

    Quantizing changes what reaches every batch norm; the float network's statistics then belong to
    another network. Everything but the norms runs in eval mode, so that they are estimated without
    dropout; every batch weighs the same, a smaller last one too. Weights and training mode are left
    as they are.

    Args:
        model: any module; without batch norms nothing happens.
        batches: iterable of ``(x, ...)`` or ``x``, on any device.
        num_batches: how many to average; None for all of an iterable that ends (``flatbit.bounded``).

    Returns:
        How many batches were averaged.

    Raises:
        ValueError: no batches, or no end of them; inputs that are no tensor; a batch of one value per channel;
            statistics that are not finite. They are then, as after any other error, what they were.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return 0
    check_one_input(model, "reestimate_batchnorm_")
    stream = nonempty(batches, "reestimate_batchnorm_", num_batches)
    momenta, device = {norm: norm.momentum for norm in norms}, device_of(model)
    count = 0
    with undone_on_failure(model, chain.from_iterable(norm.buffers(recurse=False) for norm in norms)):
        with modes_kept(model):
            model.eval()
            for norm in norms:
                norm.reset_running_stats()
                norm.train()
                norm.momentum = None  # cumulative average
            for batch in stream:
                _observe_(model, input_of(batch, "reestimate_batchnorm_").to(device), count)
                count += 1
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        _check_finite(model)
    return count


def _observe_(model: nn.Module, x: Tensor, index: int) -> None:
    """Run one batch. Raises ValueError where it is empty, or its one sample has no spread."""
    if not len(x):
        raise ValueError(f"batch {index} is empty, x of shape {tuple(x.shape)}: leave it out")
    try:
        model(x)
    except ValueError as error:
        if len(x) > 1:
            raise
        raise ValueError(
            f"batch {index} has one sample, which gives a batch norm no variance ({error}): leave it out, such as with "
            "DataLoader(..., drop_last=True)"
        ) from error


def _check_finite(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and not all(bool(b.isfinite().all()) for b in module.buffers(recurse=False)):
            raise ValueError(
                f"batch norm {name!r}: its re-estimated statistics are NaN or infinite: is the data, or a weight?"
            )


def freeze_batchnorm_(model: nn.Module) -> None:
    """Put every batch norm in eval mode, in place: running statistics are used and kept. Call after ``train()``."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
