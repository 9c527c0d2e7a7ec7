"""Where a model lives: the device of its tensors, asked in one place."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter, else of its first buffer; the CPU for a model without either."""
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device
