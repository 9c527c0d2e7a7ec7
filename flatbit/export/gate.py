"""No file that computes something else: a written file is run beside the model before it takes its place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..modes import modes_kept
from ..progress import track
from .reading import Runs
from .verification import MOST_CHANGED, ExportError


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What a file computes, beside the model.

    Attributes:
        num_images: that both saw.
        top1, top1_model: percent whose class is the label.
        num_changed: images in which the class differs; ``changed`` their numbers, the first hundred.
        largest: the largest difference of a logit, at ``largest_at``: image, then the logit's place.
        identical: images whose logits are the model's, bit for bit.
    """

    num_images: int
    top1: float
    top1_model: float
    num_changed: int
    changed: tuple[int, ...]
    largest: float
    largest_at: tuple[int, ...]
    identical: int


@torch.no_grad()
def check(model: nn.Module, run: Runs, batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Checked:
    """Run a file beside its model in evaluation.

    Args:
        model: left as it is.
        run: the file (``reading.py``).
        batches: what the model takes, what the file takes (the same, or pixels), labels.

    Raises:
        ExportError: the class changed in more than 0.1 % of the images (in more than one, of a thousand or fewer), or
            a logit is not finite. Ties of float arithmetic change that many, not more.
        ValueError: no images.
    """
    images = right = right_model = identical = 0
    changed: list[int] = []
    largest, largest_at = 0.0, (0,)
    with modes_kept(model):
        model.eval()
        for x, given, y in track(batches, "running the file"):
            own, theirs = model(x).double(), run(given).double()
            if own.shape != theirs.shape or not bool(theirs.isfinite().all()):
                raise ExportError(f"the file gives {tuple(theirs.shape)}, or values that are not finite")
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
            images += len(x)
    if not images:
        raise ValueError("got no images to run the file on")
    if len(changed) > max(1, MOST_CHANGED * images):
        raise ExportError(
            f"the class of {len(changed)} of {images} images is not the model's (images {changed[:5]} first; the "
            f"largest difference, {largest:.3g}, at {largest_at}), more than ties explain: nothing is written"
        )
    return Checked(
        num_images=images,
        top1=100 * right / images,
        top1_model=100 * right_model / images,
        num_changed=len(changed),
        changed=tuple(changed[:100]),
        largest=largest,
        largest_at=largest_at,
        identical=identical,
    )
