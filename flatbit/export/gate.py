"""No file that computes something else: a written file is run beside the model before it takes its place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..progress import track
from .reading import Runs
from .verification import ExportError, too_many


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What a file computes, beside what it was made from.

    Attributes:
        num_images: that both saw.
        top1, top1_model: percent of labels that the file, and what it was made from, find.
        num_changed: images in which the class differs; ``changed`` their numbers, the first hundred.
        largest: the largest difference of a logit, at ``largest_at``: image, then the logit's place.
        identical: images whose logits are equal bit for bit.
    """

    num_images: int
    top1: float
    top1_model: float
    num_changed: int
    changed: tuple[int, ...]
    largest: float
    largest_at: tuple[int, ...]
    identical: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """What a form promises of its logits: within ``tolerance`` of the largest one, in a ``share`` of the images.

    Float arithmetic in another order rounds a value at a tie the other way, which moves the logits of its image.
    """

    tolerance: float
    share: float


EXACT = Agreement(tolerance=0.0, share=1.0)
CLOSE = Agreement(tolerance=1e-3, share=0.75)


@torch.no_grad()
def check(
    reference: Runs, run: Runs, batches: Iterable[tuple[Tensor, Tensor, Tensor]], agreement: Agreement = CLOSE
) -> Checked:
    """Run a file beside what it was made from.

    Args:
        reference: the model in evaluation, or the integer network.
        run: the file (``reading.py``).
        batches: what the reference takes, what the file takes (the same, or pixels), labels.
        agreement: of the logits.

    Raises:
        ExportError: the class changed in more than 0.1 % of the images (in more than one, of a thousand or fewer), the
            logits do not agree, or one is not finite.
        ValueError: no images.
    """
    images = labels = right = right_model = identical = close = 0
    changed: list[int] = []
    largest, largest_at = 0.0, (0,)
    for x, given, y in track(batches, "running the file"):
        own, theirs = reference(x).double(), run(given).double()
        _check_shape(own, theirs)
        gap = (own - theirs).abs()
        if float(gap.max()) > largest or not images:
            place = torch.unravel_index(gap.argmax(), gap.shape)
            largest, largest_at = float(gap.max()), (images + int(place[0]), *map(int, place[1:]))
        found, wanted = theirs.argmax(1), own.argmax(1)
        differs = (found != wanted).reshape(len(x), -1).any(1)
        changed += [images + int(i) for i in torch.nonzero(differs).flatten()]
        right += int((found == y).sum())
        right_model += int((wanted == y).sum())
        identical += int((gap == 0).reshape(len(x), -1).all(1).sum())
        close += int((gap <= agreement.tolerance * own.abs().max()).reshape(len(x), -1).all(1).sum())
        images, labels = images + len(x), labels + y.numel()
    if not images:
        raise ValueError("got no images to run the file on")
    if too_many(len(changed), images):
        raise ExportError(
            f"the class of {len(changed)} of {images} images is not the model's (images {changed[:5]} first; the "
            f"largest difference, {largest:.3g}, at {largest_at}), more than ties explain: nothing is written"
        )
    if close < agreement.share * images:
        raise ExportError(
            f"the logits of {images - close} of {images} images differ by more than {agreement.tolerance:g} of the "
            f"largest (by {largest:.3g} at {largest_at}): nothing is written"
        )
    return Checked(
        num_images=images,
        top1=100 * right / labels,
        top1_model=100 * right_model / labels,
        num_changed=len(changed),
        changed=tuple(changed[:100]),
        largest=largest,
        largest_at=largest_at,
        identical=identical,
    )


def _check_shape(own: Tensor, theirs: Tensor) -> None:
    if own.shape != theirs.shape or not bool(theirs.isfinite().all()):
        raise ExportError(
            f"the file gives {tuple(theirs.shape)} in place of {tuple(own.shape)}, or values that are not finite"
        )
