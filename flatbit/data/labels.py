"""Labels: class indices of any whole-number type, as int64, in the shape that logits ask for."""

from __future__ import annotations

from torch import Tensor

from .batches import VOID


def whole_numbers(y: Tensor, where: str) -> Tensor:
    """Labels of any whole-number type, or bool, as int64: nothing is computed in fewer bits.

    Args:
        y: labels of any shape.
        where: what they are labels of, as the error says.

    Raises:
        ValueError: floats or complex numbers.
    """
    if y.is_floating_point() or y.is_complex():
        raise ValueError(
            f"{where}: labels are {y.dtype}, expected whole numbers, the index of a class, and got shape "
            f"{tuple(y.shape)}: take y.long() of indices, y.argmax(1) of one value per class"
        )
    return y.long()


def class_indices(y: Tensor, logits: Tensor, who: str) -> Tensor:
    """Labels as int64, (N,) for logits (N, classes), (N, H, W) for (N, classes, H, W).

    Args:
        y: of any whole-number type, or bool; an axis of length 1 in the place of the classes is dropped.
        logits: (N, classes, ...).
        who: gives the logits, as the errors say.

    Raises:
        ValueError: floats; labels of another shape; more classes per pixel than there are labels but ``VOID``.
    """
    y = whole_numbers(y, who)
    expected = (len(logits), *logits.shape[2:]) if logits.ndim > 1 else None
    if expected is not None and tuple(y.shape) == (*expected[:1], 1, *expected[1:]):
        y = y.squeeze(1)
    if tuple(y.shape) != expected:
        raise ValueError(
            f"{who} gives logits of shape {tuple(logits.shape)} for labels of shape {tuple(y.shape)}: "
            "expected (N, classes) for (N,), or (N, classes, H, W) for (N, H, W)"
        )
    if y.ndim > 1 and logits.shape[1] > VOID:
        raise ValueError(
            f"{who} gives {logits.shape[1]} classes per pixel: expected {VOID} at most, for the label {VOID} is void"
        )
    return y
