"""The gate before a file is written: model and integer network on the same images, code by code and logit by logit.

Where all codes of an image are equal, its logits may differ by no more than the bound that float32 and the shifts
give for the images at hand (``bounds.py``, ``fixed.py``). Codes may differ by one, and only where the value that was
rounded lies within that bound of a tie, half way between two levels; what comes after in the same image follows from
it. Anything else is a
fault, and is raised with the first layer and value that differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor, nn

from ..modes import modes_kept
from ..progress import track
from ..text import as_text
from .bounds import Bound, bounds
from .executor import IntegerNetwork
from .program import INPUT, Coding, Product, Quantize

MOST_CHANGED = 0.001
"""The part of all images whose class may change by ties."""


ROUNDED_UP = 1 + 1e-3
"""More than float32 can take off a sum of positive numbers."""


class ExportError(RuntimeError):
    """What was exported does not compute what the model computes."""


def too_many(changed: int, images: int, most_changed: float = MOST_CHANGED) -> bool:
    """Whether more classes changed than ``most_changed``, a part of all: one image may, however few there are."""
    return changed > max(1, most_changed * images)


@dataclass(frozen=True, kw_only=True, slots=True)
class Changed:
    """An image whose class changed, by a tie.

    Attributes:
        image: its number in the batches.
        model, exported: the class that each finds; in segmentation, of the first pixel that differs.
        layer: the first whose codes differ.
        steps_from_tie: how far from half way the value was that it rounded, in steps.
    """

    image: int
    model: int
    exported: int
    layer: str
    steps_from_tie: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What ``verify`` found.

    Attributes:
        num_images: how many were compared.
        tied: of these, images in which a value within the bound of a tie was rounded the other way.
        largest: the largest difference of a logit among the images without a tie, and ``bound`` what it may be.
        largest_tied: among those with one.
        top1, top1_model: percent of images (of pixels, in segmentation) whose class is the label.
        changed: the images whose class differs.
        accumulator_bits: that each layer needs.
    """

    num_images: int
    tied: int
    largest: float
    bound: float
    largest_tied: float
    top1: float
    top1_model: float
    changed: tuple[Changed, ...]
    accumulator_bits: dict[str, int]

    def __str__(self) -> str:
        table = Table("images", "top-1 %", "model", "class changed", "with a tie", "largest difference", "bound")
        table.add_row(
            str(self.num_images), f"{self.top1:.2f}", f"{self.top1_model:.2f}", str(len(self.changed)), str(self.tied),
            f"{self.largest:.2g}", f"{self.bound:.2g}",
        )  # fmt: skip
        return as_text(table)


@torch.no_grad()
def verify(
    model: nn.Module,
    network: IntegerNetwork,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    most_changed: float = MOST_CHANGED,
) -> Verification:
    """Compare a model in evaluation with its integer network, image by image.

    Args:
        model: on the CPU; left as it is.
        network: of ``integer_network(model, ...)``.
        batches: ``(x, y)``, as the model takes them.
        most_changed: the part of all images whose class may change by ties.

    Raises:
        ExportError: a code or a logit that differs by more than the bound, naming layer, image and value; a class
            that differs in more images than ``most_changed``, with how far their logits moved.
        ValueError: no images.
    """
    comparison = _Comparison(model, network)
    with modes_kept(model):
        model.eval()
        for x, y in track(batches, "comparing with integers"):
            comparison.add(x, y)
    return comparison.result(most_changed)


class _Comparison:
    """What was found so far."""

    def __init__(self, model: nn.Module, network: IntegerNetwork) -> None:
        self._model, self._network = model, network
        program = network.program
        self._quantize = [op for op in program.program if isinstance(op, Quantize)]
        self._products = [op for op in program.program if isinstance(op, Product)]
        self._float: dict[str, Bound] = {}
        self._bound = 0.0
        self._images = self._labels = self._right = self._right_model = 0
        self._tied: dict[int, tuple[str, float]] = {}
        self._largest = self._largest_tied = self._largest_bound = 0.0
        self._changed: list[Changed] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """Compare one batch."""
        codes: dict[str, Tensor] = {}
        with _quantizer_inputs(self._model, self._quantize) as read:
            logits = self._model(x)
        own = self._network(x, codes.__setitem__)
        self._bound_batch(codes)
        clean = torch.ones(len(x), dtype=torch.bool)
        for op in self._quantize:
            clean &= self._same_codes(op, read[op.name], codes[op.name], clean)
        self._compare(logits.double(), own, clean)
        self._right += int((own.argmax(1) == y).sum())
        self._right_model += int((logits.argmax(1) == y).sum())
        self._images += len(x)
        self._labels += y.numel()

    def _bound_batch(self, codes: dict[str, Tensor]) -> None:
        """What float32 and shifts may do to the images of this batch."""
        program = self._network.program
        sums = {op.name: _largest_sum(op, codes[op.inputs[0]], program.codings[op.inputs[0]]) for op in self._products}
        self._float = bounds(program.program, sums)
        self._bound = float(self._float[program.output].error.max()) + program.errors[program.output]
        self._largest_bound = max(self._largest_bound, self._bound)

    def _same_codes(self, op: Quantize, x: Tensor, n: Tensor, clean: Tensor) -> Tensor:
        """Which images have equal codes; raises where a clean image differs without a tie."""
        quantizer = self._model.get_submodule(op.quantizer)
        codes = op.grid.codes(quantizer(x)).long()
        steps = codes - ((n - 1) // 2 if op.doubled else n).reshape(codes.shape)  # an input may be coded unflattened
        differs, images = steps != 0, (steps != 0).flatten(1).any(1)
        for image in torch.nonzero(images & clean).flatten().tolist():
            t = x[image].double() / float(op.grid.step) - float(op.grid.offset)
            from_tie = ((t - t.floor()) - 0.5).abs()[differs[image]]
            allowed, apart = self._allowed(op), int(steps[image].abs().max())
            if apart > 1 or not float(from_tie.max()) <= allowed:
                raise ExportError(
                    f"layer {op.layer!r}: image {self._images + image}: {int(differs[image].sum())} codes differ from "
                    f"the model's, by up to {apart}, one of a value {float(from_tie.max()):.2g} steps from a tie, "
                    f"where float32 and the shifts allow {allowed:.2g}"
                )
            self._tied[self._images + image] = (op.layer, float(from_tie.max()))
        return ~images

    def _allowed(self, op: Quantize) -> float:
        """How far from a tie a value may be that is rounded the other way, in steps."""
        source = op.inputs[0]
        reach = max(abs(op.grid.low), abs(op.grid.high)) + abs(float(op.grid.offset)) + 2
        own = 4 * 2.0**-24 * reach  # of the model's own division and rounding
        if source == INPUT:
            return own
        error = float(self._float[source].error.max()) + self._network.program.errors[source]
        return own + error / float(op.grid.step)

    def _compare(self, logits: Tensor, own: Tensor, clean: Tensor) -> None:
        gap = (logits - own).abs().flatten(1).amax(1)
        for image, difference in enumerate(gap.tolist()):
            number = self._images + image
            if not clean[image]:
                self._largest_tied = max(self._largest_tied, difference)
                continue
            self._largest = max(self._largest, difference)
            if not difference <= self._bound:
                raise ExportError(
                    f"image {number}: all codes are the model's, and a logit differs by {difference:.3g}, where "
                    f"float32 and the shifts allow {self._bound:.3g}"
                )
        found, theirs = own.argmax(1), logits.argmax(1)
        for image in torch.nonzero((found != theirs).reshape(len(own), -1).any(1)).flatten().tolist():
            number, place = self._images + image, (image, *torch.nonzero(found[image] != theirs[image])[0].tolist())
            layer, distance = self._tied.get(number, ("the logits", 0.0))
            self._changed.append(
                Changed(
                    image=number, model=int(theirs[place]), exported=int(found[place]), layer=layer,
                    steps_from_tie=distance,
                )
            )  # fmt: skip

    def result(self, most_changed: float) -> Verification:
        """Raises ExportError where too many classes changed, ValueError without images."""
        if not self._images:
            raise ValueError("verify: got no images")
        if too_many(len(self._changed), self._images, most_changed):
            raise ExportError(
                f"the class of {len(self._changed)} of {self._images} images changed by ties (the first: "
                f"{self._changed[0]}), whose logits moved by up to {self._largest_tied:.3g}: more than "
                f"{100 * most_changed:g} %, which most_changed= says"
            )
        return Verification(
            num_images=self._images,
            tied=len(self._tied),
            largest=self._largest,
            bound=self._largest_bound,
            largest_tied=self._largest_tied,
            top1=100 * self._right / self._labels,
            top1_model=100 * self._right_model / self._labels,
            changed=tuple(self._changed),
            accumulator_bits=self._network.program.accumulator_bits,
        )


def _largest_sum(op: Product, n: Tensor, coding: Coding) -> Tensor:
    """``sum|x||w|`` of each output channel, the largest in a batch of codes n, float64 (channels,)."""
    x = (n + coding.offset).abs().float()
    sums = op.convolve(x, op.weight.abs().float()).transpose(0, 1).flatten(1).amax(1).double()
    return sums * op.scale.abs() * coding.step * ROUNDED_UP


@contextmanager
def _quantizer_inputs(model: nn.Module, operations: list[Quantize]) -> Iterator[dict[str, Tensor]]:
    """What each quantizer of activations reads in a forward pass, by the name of its operation."""
    calls: dict[str, list[Tensor]] = {op.quantizer: [] for op in operations}

    def note(path: str) -> Callable[..., None]:
        return lambda _, args: calls[path].append(args[0].clone())

    hooks = [model.get_submodule(path).register_forward_pre_hook(note(path)) for path in calls]
    read: dict[str, Tensor] = {}
    try:
        yield read
    finally:
        for hook in hooks:
            hook.remove()
        in_turn = {path: iter(seen) for path, seen in calls.items()}
        read.update({op.name: x for op in operations for x in [next(in_turn[op.quantizer], None)] if x is not None})
