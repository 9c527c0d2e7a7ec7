"""The form of the user's samples: sample or batch, features or images; what cannot be told is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from .batches import VOID, Batch, Task
from .labels import whole_numbers
from .named import unnamed

LABEL_AXES = {"classification": 0, "segmentation": 2}
KINDS = {
    1: "features (F,)",
    2: "signals (C, L)",
    3: "images (C, H, W), a grey one as x[None]",
    4: "volumes (C, D, H, W)",
}
UNSAID = {"classification": (1, 3), "segmentation": (3,)}
"""The axes that an input may have where ``About`` does not say: a sample then never looks like a batch."""
SAY = "; say it for signals (C, L), about=About(axes=2), for volumes (C, D, H, W), axes=4, and for a batch of one"
CHANNELS = (1, 3, 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What samples do not say of themselves.

    Attributes:
        name: of the set, as results name it.
        task: what the labels are.
        class_names: one per label, for pictures; may be empty.
        axes: of one input: 1 for features (F,), 2 for signals (C, L), 3 for images (C, H, W), 4 for volumes
            (C, D, H, W). None for features or images, as the samples show.
    """

    name: str = "user"
    task: Task = "classification"
    class_names: Sequence[str] = ()
    axes: int | None = None

    def __post_init__(self) -> None:
        if self.task not in LABEL_AXES:
            raise ValueError(f"task={self.task!r}: expected one of {', '.join(LABEL_AXES)}")
        possible = KINDS if self.task == "classification" else UNSAID[self.task]
        if self.axes is not None and self.axes not in possible:
            raise ValueError(f"axes={self.axes!r}: expected one of {', '.join(map(str, possible))} for {self.task}")


@final
class Form:
    """What every sample has to look like; the first one fixes the shape.

    Args:
        num_classes: labels are 0..num_classes-1.
        about: the task, and the axes of an input where it says so.
    """

    def __init__(self, num_classes: int, about: About) -> None:
        if about.task == "segmentation" and num_classes > VOID:
            raise ValueError(f"num_classes={num_classes}: expected {VOID} at most, for the label {VOID} is void")
        self.num_classes, self.about = num_classes, about
        self.axes = UNSAID[about.task] if about.axes is None else (about.axes,)
        self.label_axes = LABEL_AXES[about.task]
        self.shape: tuple[int, ...] | None = None
        self.dtype: torch.dtype | None = None

    def is_batch(self, item: Any, where: str) -> bool:
        """Whether an item is a batch. Raises ValueError where it is neither that nor a sample."""
        return self._is_batch(*_pair(item, where), where)

    def samples(self, item: Any, where: str, *, batched: bool) -> list[Batch]:
        """The samples of an item: itself, or those of a batch, which it must be where ``batched`` says so."""
        x, y = _pair(item, where)
        if not self._is_batch(x, y, where, batched=batched):
            return [self.checked(x, self._label(y), where)]
        return [self.checked(x[i], self._label(y[i]), f"{where}, sample {i}") for i in range(len(y))]

    def sample(self, item: Any, where: str) -> Batch:
        """The one sample of an item."""
        x, y = _pair(item, where)
        if self._is_batch(x, y, where):
            raise self._neither(x, y, where, "no sample, and the first item was none of a batch")
        return self.checked(x, self._label(y), where)

    def checked(self, x: Tensor, y: Tensor, where: str) -> Batch:
        """The sample, with labels int64. Raises ValueError where it is not like the first or the labels are wrong."""
        if not x.isfinite().all():
            count = int(x.isfinite().logical_not().sum())
            raise ValueError(f"{where}: {count} of {x.numel()} values of x are NaN or infinite, expected finite ones")
        if self.shape is None or self.dtype is None:
            if x.ndim == 3 and x.shape[-1] in CHANNELS and x.shape[0] > 4:
                raise ValueError(
                    f"{where}: x is {tuple(x.shape)}, channels last: expected (C, H, W), x.permute(2, 0, 1)"
                )
            self.shape, self.dtype = tuple(x.shape), x.dtype
        if (tuple(x.shape), x.dtype) != (self.shape, self.dtype):
            raise ValueError(
                f"{where}: x is {x.dtype} {tuple(x.shape)}, and the first sample {self.dtype} {self.shape}: "
                "bring all samples to one shape and type"
            )
        if self.label_axes and y.shape != x.shape[1:]:
            raise ValueError(f"{where}: the mask is {tuple(y.shape)}, its image {tuple(x.shape)}")
        known = y[y != VOID] if self.label_axes else y
        if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < self.num_classes:
            wrong = int(known.min()) if int(known.min()) < 0 else int(known.max())
            raise ValueError(f"{where}: label {wrong}, expected 0..{self.num_classes - 1} (num_classes)")
        return x, y

    def _is_batch(self, x: Tensor, y: Tensor, where: str, *, batched: bool = False) -> bool:
        """Told by the axes of x and y. ``batched`` is whether all items are known to be batches."""
        if not x.ndim:
            raise ValueError(f"{where}: x is a single number, expected {self._expected}")
        if not batched and x.ndim in self.axes and self._is_label(y):
            return False
        if x.ndim - 1 not in self.axes or not y.ndim or len(x) != len(y) or not self._is_label(y[0]):
            raise self._neither(x, y, where, "neither a sample nor a batch")
        said = batched or self.about.axes is not None or y.ndim > 1
        if not said and len(x) == 1 and not (x.ndim == 4 and x.shape[1] in CHANNELS):
            raise self._neither(x, y, where, "a batch of one, or one sample with an array for a label")
        return True

    def _is_label(self, y: Tensor) -> bool:
        """Whether y is the label of one sample: one number or one mask, with an axis of length 1 or without."""
        return y.ndim == self.label_axes or (y.ndim == self.label_axes + 1 and len(y) == 1)

    def _label(self, y: Tensor) -> Tensor:
        return y.reshape(y.shape[y.ndim - self.label_axes :])

    @property
    def _expected(self) -> str:
        """What a sample may be, in words."""
        return " or ".join(KINDS[axes] for axes in self.axes)

    def _neither(self, x: Tensor, y: Tensor, where: str, what: str) -> ValueError:
        label = "a mask (H, W)" if self.label_axes else "a label of one number"
        said = self.about.axes is not None or self.label_axes
        return ValueError(
            f"{where}: x {tuple(x.shape)} and y {tuple(y.shape)} are {what}: expected {self._expected}, each with "
            f"{label}, or a batch of them" + ("" if said else SAY)
        )


def _pair(item: Any, where: str) -> Batch:
    """An item as two tensors, labels int64. Raises ValueError saying what it is instead."""
    item = unnamed(item, where)
    if not isinstance(item, tuple | list) or len(item) != 2:
        kind = f"{type(item).__name__} of {len(item)}" if isinstance(item, tuple | list) else type(item).__name__
        raise ValueError(f"{where} is a {kind}, expected a pair (x, y); two tensors make one in a TensorDataset(x, y)")
    x, y = item
    if not isinstance(x, Tensor | np.ndarray):
        raise ValueError(f"{where}: x is a {type(x).__name__}, expected a tensor or array: convert it in your Dataset")
    x = torch.as_tensor(x).detach()
    if x.dtype != torch.uint8:
        if not x.is_floating_point():
            raise ValueError(f"{where}: x is {x.dtype}, expected uint8 (pixels) or float")
        x = x.float()
    if not isinstance(y, int | np.integer | np.bool_ | np.ndarray | Tensor):
        raise ValueError(f"{where}: the label is {y!r} ({type(y).__name__}), expected a whole number")
    return x, whole_numbers(torch.as_tensor(y).detach(), where)
