"""Modes and buffers: looking at a network leaves it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def modes_kept(*models: nn.Module) -> Iterator[None]:
    """Put every module's training mode back on leaving, whatever was called inside."""
    modes = {module: module.training for model in models for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Put every buffer back on leaving, whatever a forward wrote into it or put in its place."""
    holders = [(module, dict(module._buffers)) for module in model.modules()]
    kept = [(buffer, buffer.clone()) for buffer in model.buffers() if not (buffer.is_meta or buffer.is_inference())]
    try:
        yield
    finally:
        for module, buffers in holders:
            if [*map(id, module._buffers.values())] != [*map(id, buffers.values())]:
                module._buffers.clear()
                module._buffers.update(buffers)
        with torch.no_grad():
            for buffer, values in kept:
                if not torch.equal(buffer, values):
                    buffer.copy_(values)
