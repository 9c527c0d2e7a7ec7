"""One update of a stage: the gradients of its mini-batches and the optimizer's step, run in one of the ways."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import VOID, Batch
from ..data.labels import class_indices
from ..device import device_of, float32_products
from ..outputs import logits_of
from ..quant.recompute import recomputed_outputs
from ..quant.table import has_quantized_layers
from ..train.losses import LossTerm, weighted_sum
from ..train.optimizers import set_rate_
from ..train.sharpness import SharpnessAware
from .capture import CapturedUpdates, EngineError, first_line, signature
from .recipe import Stage
from .way import EAGER, Way

COMPILER: dict[str, Any] = {"options": {"fallback_random": True}}
"""What the compiler is asked: dropout draws as in eager mode."""
Part = list[tuple[Batch, float]]
"""Mini-batches with their shares of the loss, which are perturbed alike."""


class Update:
    """Called with an update's mini-batches and the learning rate, it changes the model; nothing waits for the device.

    Args:
        model: quantized and calibrated, on its device; in training mode when called.
        stage: gives the shard of m-sharpness.
        terms: of the loss, with the networks that they ask.
        optimizer: plain or ``SharpnessAware``.
        way: how it is run.
        note: called with a line where something was compiled.

    Raises:
        EngineError: the device, the model or the optimizer cannot do it in this way.
    """

    def __init__(
        self,
        model: nn.Module,
        stage: Stage,
        terms: Sequence[LossTerm],
        optimizer: torch.optim.Optimizer,
        way: Way = EAGER,
        *,
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.model, self.stage, self.terms, self.optimizer = model, stage, tuple(terms), optimizer
        self.way, self.note, self.device = way, note, device_of(model)
        self._network: Callable[[Tensor], Tensor] = _compiled(model) if way.compiled else model
        self._sums = torch.zeros(2 + len(self.terms), device=self.device)
        self._begun: set[Any] = set()
        self._run: Callable[[list[Batch]], None] = self._descend
        if way.graphs:
            self._run = CapturedUpdates(self._descend, model, optimizer, self._sums)

    def __call__(self, batches: list[Batch], lr: float) -> None:
        """One update of mini-batches on the model's device."""
        set_rate_(self.optimizer, lr)
        if self.way.compiled and (key := signature(self.model, batches)) not in self._begun:
            self._begun.add(key)
            self._compile(batches)
        else:
            self._run(batches)

    def tally(self) -> list[float]:
        """Sums over the samples since the last call: loss, right answers, each term. Waits for the device, once."""
        sums = self._sums.tolist()
        self._sums.zero_()
        return sums

    def _compile(self, batches: list[Batch]) -> None:
        """The first update of a signature. Raises EngineError where it does not compile."""
        from torch._dynamo.exc import TorchDynamoException  # a second to import

        begun = time.monotonic()
        try:
            self._run(batches)
        except TorchDynamoException as error:
            cause = getattr(error, "inner_exception", error)
            raise EngineError(
                f"{type(self.model).__name__} cannot be compiled here ({first_line(cause)}): take engine eager"
            ) from error
        self.note(f"{self.stage.name}: compiled in {time.monotonic() - begun:.0f} s")

    def _descend(self, batches: list[Batch]) -> None:
        closures = [self._closure(part) for part in parts_of(batches, self.stage)]
        self.optimizer.step(closures if isinstance(self.optimizer, SharpnessAware) else closures[0])  # type: ignore[arg-type]

    def _closure(self, part: Part) -> Callable[[], Tensor]:
        """What ``optimizer.step`` calls, once or twice: gradients of the part's loss. The first call is what counts."""
        calls = 0

        def closure() -> Tensor:
            nonlocal calls
            calls += 1
            self.optimizer.zero_grad(set_to_none=True)
            total = torch.zeros((), device=self.device)
            for (x, y), share in part:
                with self.way.autocast(self.device):
                    logits = logits_of(self._network(x), type(self.model).__name__)
                y = class_indices(y, logits, type(self.model).__name__)
                loss, values = weighted_sum(self.terms, self.model, x, y, logits)
                (loss * share).backward()
                total += loss.detach() * share
                if calls == 1:
                    self._count(loss, values, logits, y)
            return total

        return closure

    def _count(self, loss: Tensor, terms: list[Tensor], logits: Tensor, y: Tensor) -> None:
        """Add a mini-batch: summed loss and terms, number of right labels (of pixels their share, per image)."""
        right = logits.detach().argmax(1) == y
        share = right.float().mean() if y.ndim == 1 else right.sum() / (y != VOID).sum().clamp_min(1)
        self._sums += torch.stack([part.detach() for part in (loss, share, *terms)]) * len(y)


@contextmanager
def running(model: nn.Module, way: Way) -> Iterator[None]:
    """While it is on, updates of a model are run in a way: its products, and what its backward pass keeps."""
    device, recomputes = device_of(model), way.recompute and has_quantized_layers(model)
    with (
        torch.cuda.device(device) if device.type == "cuda" else nullcontext(),
        float32_products(tf32=way.precision == "tf32"),
        recomputed_outputs(model) if recomputes else nullcontext(),
    ):
        yield


def parts_of(batches: Sequence[Batch], stage: Stage) -> list[Part]:
    """An update's mini-batches with their shares of the loss, in the parts that are perturbed alike."""
    whole = [((x, y), 1 / len(batches)) for x, y in batches]
    if stage.sharpness is None or stage.sharpness.shard is None:
        return [whole]
    m = stage.sharpness.shard
    return [
        [((part, y[start : start + m]), share * len(part) / len(x))]
        for (x, y), share in whole
        for start in range(0, len(x), m)
        for part in [x[start : start + m]]
    ]


def _compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The model's forward, compiled for the shapes that come."""
    torch._dynamo.reset()  # what earlier stages compiled counts against the limit of recompilations
    return torch.compile(model, dynamic=False, **COMPILER)
