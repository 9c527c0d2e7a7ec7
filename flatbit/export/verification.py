"""What integers compute, held to the model on the same images: code by code, and logit by logit.

Every quantizer of the network is held to the model's, and then goes on with the model's codes: so each layer and the
logits of every image are compared for equal inputs. They may differ by no more than the bound that float32 and the
shifts give for the images at hand (``bounds.py``, ``fixed.py``). A code may differ by one, and only where the value
that was rounded lies within that bound of the tie between the two. Anything else is a fault, and is raised with the
layer and the value. What follows from such codes, in the network left to itself, is counted: classes that change.
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
from .bounds import U, bounds
from .executor import IntegerNetwork
from .program import INPUT, Coding, Product, Quantize

MOST_CHANGED = 0.001
"""The part of all images whose class may change by ties."""


class ExportError(RuntimeError):
    """What was exported does not compute what the model computes."""


def too_many(changed: int, images: int, most_changed: float = MOST_CHANGED) -> bool:
    """Whether more classes changed than ``most_changed``, a part of all; one image may, unless that is 0."""
    return changed > (max(1, most_changed * images) if most_changed else 0)


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
        largest: the largest difference of a logit where every quantizer is given the model's codes, and ``bound`` what
            it may be.
        largest_tied: where it follows from the network's own codes, among the images with a tie.
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
        table = Table(
            "images", "top-1 %", "model", "class changed", "with a tie", "their logits", "layer by layer", "bound"
        )  # fmt: skip
        table.add_row(
            str(self.num_images), f"{self.top1:.2f}", f"{self.top1_model:.2f}", str(len(self.changed)), str(self.tied),
            f"{self.largest_tied:.2g}", f"{self.largest:.2g}", f"{self.bound:.2g}",
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
        most_changed: the part of all images whose class may change by ties; one may, unless it is 0.

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
        self._quantize = {op.name: op for op in network.program.program if isinstance(op, Quantize)}
        self._products = [op for op in network.program.program if isinstance(op, Product)]
        self._images = self._labels = self._right = self._right_model = 0
        self._tied: dict[int, tuple[str, float]] = {}
        self._largest = self._largest_tied = self._largest_bound = 0.0
        self._changed: list[Changed] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """Compare one batch: each quantizer and the logits for the model's own codes, then the classes."""
        with _quantizer_inputs(self._model, list(self._quantize.values())) as read:
            logits = self._model(x).double()
        given = {name: self._codes(op, read[name]) for name, op in self._quantize.items()}
        found: dict[str, Tensor] = {}
        beside: dict[str, Tensor] = {}

        def watch(name: str, n: Tensor) -> Tensor:
            if name in given:
                found[name], n = n, given[name].reshape(n.shape)  # an input may be coded unflattened
            beside[name] = n
            return n

        own = self._network(x, watch)
        bound = self._bounds(beside)
        tied = torch.zeros(len(x), dtype=torch.bool)
        for name, op in self._quantize.items():
            tied |= self._hold_codes(op, read[name], given[name], found[name].reshape(given[name].shape), bound)
        self._hold_logits(logits, own, bound[self._network.program.output])
        if tied.any():  # the codes that follow from its own
            own[tied] = self._network(x[tied])
            gap = (logits - own)[tied].abs()
            self._largest_tied = max(self._largest_tied, float(gap.max()))
        self._count(logits, own, y)

    def _codes(self, op: Quantize, x: Tensor) -> Tensor:
        """The whole numbers that the model makes of x."""
        codes = op.grid.codes(self._model.get_submodule(op.quantizer)(x)).long()
        return 2 * codes + 1 if op.doubled else codes

    def _bounds(self, results: dict[str, Tensor]) -> dict[str, float]:
        """What float32 and shifts may do to each stream of this batch."""
        program = self._network.program
        read = {op.name: op.inputs[0] for op in self._products}
        sums = {
            op.name: _largest_sum(op, results[read[op.name]], program.codings[read[op.name]]) for op in self._products
        }
        found = bounds(program.program, sums)
        return {name: float(found[name].error.max()) + error for name, error in program.errors.items()}

    def _hold_codes(self, op: Quantize, x: Tensor, theirs: Tensor, own: Tensor, bound: dict[str, float]) -> Tensor:
        """Which images have other codes than the model's; raises where one is not explained by a tie."""
        scale = 2 if op.doubled else 1
        differs = theirs != own
        images = differs.flatten(1).any(1)
        allowed = self._allowed(op, bound)
        for image in torch.nonzero(images).flatten().tolist():
            at = differs[image]
            t = x[image][at].double() / float(op.grid.step) - float(op.grid.offset)
            lower, higher = torch.sort(torch.stack([theirs[image][at], own[image][at]]) // scale, 0).values
            from_tie, apart = float((t - (lower + 0.5)).abs().max()), int((higher - lower).max())
            if apart > 1 or not from_tie <= allowed:
                raise ExportError(
                    f"layer {op.layer!r}: image {self._images + image}: {int(at.sum())} codes differ from the model's, "
                    f"by up to {apart}, one of a value {from_tie:.2g} steps from the tie between the two, where "
                    f"float32 and the shifts allow {allowed:.2g}"
                )
            self._tied.setdefault(self._images + image, (op.layer, from_tie))
        return images

    def _allowed(self, op: Quantize, bound: dict[str, float]) -> float:
        """How far from a tie a value may be that is rounded the other way, in steps."""
        source = op.inputs[0]
        reach = max(abs(op.grid.low), abs(op.grid.high)) + abs(float(op.grid.offset)) + 2
        own = 4 * 2.0**-24 * reach  # of the model's own division and rounding
        return own if source == INPUT else own + bound[source] / float(op.grid.step)

    def _hold_logits(self, logits: Tensor, own: Tensor, bound: float) -> None:
        """Raise ExportError where a logit for the model's codes is off by more than the bound."""
        gap = (logits - own).abs().flatten(1).amax(1)
        self._largest, self._largest_bound = max(self._largest, float(gap.max())), max(self._largest_bound, bound)
        if not bool((gap <= bound).all()):
            image = int(torch.nonzero(~(gap <= bound))[0])
            raise ExportError(
                f"image {self._images + image}: for the model's own codes a logit differs by {float(gap[image]):.3g}, "
                f"where float32 and the shifts allow {bound:.3g}"
            )

    def _count(self, logits: Tensor, own: Tensor, y: Tensor) -> None:
        """Classes, and the images where they differ."""
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
        self._right += int((found == y).sum())
        self._right_model += int((theirs == y).sum())
        self._images += len(y)
        self._labels += y.numel()

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
    terms = op.per_channel(torch.ones_like(op.weight)).double()
    return sums * op.scale.abs() * coding.step * (1 + 2 * terms * U)  # float32 may have taken off terms * U


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
    read.update({op.name: next(in_turn[op.quantizer]) for op in operations})
