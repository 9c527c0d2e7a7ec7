"""What a packed file stores of a module beside its parameters: its state, but for single whole numbers."""

from __future__ import annotations

from torch import Tensor, nn


def is_counter(tensor: Tensor) -> bool:
    """Whether a tensor is one whole number, as batch norm's count of batches: it stands in a file's description."""
    return tensor.ndim == 0 and not tensor.is_floating_point() and not tensor.is_complex()


def stored_buffers(module: nn.Module) -> list[Tensor]:
    """The buffers of a module itself that a packed file holds as tensors: those of its state but the counters."""
    unsaved = module._non_persistent_buffers_set
    held = module.named_buffers(recurse=False)
    return [buffer for name, buffer in held if name not in unsaved and not is_counter(buffer)]
