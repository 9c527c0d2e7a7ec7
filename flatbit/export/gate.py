"""No file that computes something else: a written file is run beside the model before it takes its place."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..progress import track
from ..text import first_of
from .reading import Runs
from .verification import MOST_CHANGED, ExportError, too_many

KEPT = 100
"""So many numbers of images whose class changed are kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What a file computes, beside what it was made from.

    Attributes:
        num_images: that both saw.
        top1, top1_model: percent of labels that the file, and what it was made from, find.
        num_changed: images in which the class differs; ``changed`` their numbers, the first hundred.
        most_changed: the share of the images whose class was allowed to.
        largest: the largest difference of a logit, at ``largest_at``: image, then the logit's place.
        identical: images whose logits are equal bit for bit.
    """

    num_images: int
    top1: float
    top1_model: float
    num_changed: int
    changed: tuple[int, ...]
    most_changed: float
    largest: float
    largest_at: tuple[int, ...]
    identical: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """What a form promises of its logits: within ``tolerance`` of an image's largest one, in a ``share`` of the images.

    Float arithmetic in another order rounds a value at a tie the other way, which moves the logits of its image.
    """

    tolerance: float
    share: float


EXACT = Agreement(tolerance=0.0, share=1.0)
CLOSE = Agreement(tolerance=1e-3, share=0.75)
CLASSES = Agreement(tolerance=0.0, share=0.0)
"""Of classes alone: the logits are held to something else."""


@torch.no_grad()
def check(
    reference: Runs,
    run: Runs,
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    agreement: Agreement = CLOSE,
    most_changed: float = MOST_CHANGED,
) -> Checked:
    """Run a file beside what it was made from.

    Args:
        reference: the model in evaluation, or the integer network.
        run: the file (``reading.py``).
        batches: what the reference takes, what the file takes (the same, or pixels), labels.
        agreement: of the logits.
        most_changed: the share of the images, 0 to 1, whose class may be another one, and their logits with it; one
            image may unless it is 0.

    Raises:
        ExportError: the class changed in more images, the logits do not agree, or one is not finite.
        ValueError: no images.
    """
    found = _Found(agreement)
    for x, given, y in track(batches, "running the file"):
        own, theirs = reference(x).double(), run(given).double()
        _check_shape(own, theirs)
        found.add(own, theirs, y)
    if not found.gaps:
        raise ValueError("got no images to run the file on: batches= gives them from the start at each call")
    found.hold(most_changed)
    return found.result(most_changed)


@dataclass(slots=True)
class _Found:
    """What was found so far: ``gaps`` is the largest difference of a logit, by image."""

    agreement: Agreement
    gaps: list[float] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    labels: int = 0
    right: int = 0
    right_model: int = 0
    close: int = 0
    scale: float = 0.0
    largest_at: tuple[int, ...] = (0,)

    def add(self, own: Tensor, theirs: Tensor, y: Tensor) -> None:
        """One batch of logits, the reference's and the file's."""
        before, gap = len(self.gaps), (own - theirs).abs()
        if float(gap.max()) > max(self.gaps, default=-1.0):
            image, *place = torch.unravel_index(gap.argmax(), gap.shape)
            self.largest_at = (before + int(image), *map(int, place))
        by_image, scale = gap.flatten(1).amax(1), own.abs().flatten(1).amax(1)
        self.gaps += by_image.tolist()
        self.scale = max(self.scale, float(scale.max()))
        self.close += int((by_image <= self.agreement.tolerance * scale).sum())
        found, wanted = theirs.argmax(1), own.argmax(1)
        differs = (found != wanted).reshape(len(own), -1).any(1)
        self.changed += [before + image for image in torch.nonzero(differs).flatten().tolist()]
        self.right += int((found == y).sum())
        self.right_model += int((wanted == y).sum())
        self.labels += y.numel()

    def hold(self, most_changed: float) -> None:
        """Raise ExportError for what the form does not promise."""
        images, changed = len(self.gaps), len(self.changed)
        exact = self.agreement.share == 1
        if images - self.close > (0 if exact else max(1 - self.agreement.share, most_changed) * images):
            raise ExportError(
                f"the logits of {images - self.close} of {images} images differ by more than "
                f"{self.agreement.tolerance:g} of their largest ({self._moved()}): nothing is written"
            )
        if too_many(changed, images, most_changed):
            raise ExportError(
                f"the class of {changed} of {images} images is not the model's (images {first_of(self.changed)}; "
                f"{self._moved()}), and {100 * most_changed:g} % may change: nothing is written. Where that is good "
                f"enough, allow it: --allow-changed {_percent(changed / images)}%, most_changed= in Python"
            )

    def _moved(self) -> str:
        """By how much the logits moved."""
        return (
            f"logits of up to {self.scale:.3g} moved by {statistics.median(self.gaps):.2g} in the median image and by "
            f"{max(self.gaps):.2g} at most, at {self.largest_at}"
        )

    def result(self, most_changed: float) -> Checked:
        """What was found."""
        return Checked(
            num_images=len(self.gaps),
            top1=100 * self.right / self.labels,
            top1_model=100 * self.right_model / self.labels,
            num_changed=len(self.changed),
            changed=tuple(self.changed[:KEPT]),
            most_changed=most_changed,
            largest=max(self.gaps),
            largest_at=self.largest_at,
            identical=self.gaps.count(0.0),
        )


def _percent(share: float) -> str:
    """A share in percent, rounded up to two digits."""
    return f"{math.ceil(share * 10000) / 100:g}"


def _check_shape(own: Tensor, theirs: Tensor) -> None:
    if own.shape != theirs.shape or not bool(theirs.isfinite().all()):
        raise ExportError(
            f"the file gives {tuple(theirs.shape)} in place of {tuple(own.shape)}, or values that are not finite"
        )
