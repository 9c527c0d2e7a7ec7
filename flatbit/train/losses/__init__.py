"""Losses: the terms that a training loss is a sum of; one per file, found by its registration.

    loss = sum of weight * term(model, x, y, logits)

One forward pass gives the logits that all terms share. A new term is a frozen dataclass with a weight
and a name, registered with ``LOSSES.add``; the engine logs each term by its name, per epoch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from ... import plain
from ...quant.rounding import wide
from ...reference import From
from ...registry import Registry


class LossTerm(ABC):
    """One term of a training loss: a frozen callable with its weight in the sum and its name in records; abstract.

    Attributes:
        weight: its factor in the sum.
        name: as records and errors call it; two terms of one stage have two names.
        mimics: whether its teachers must answer in the shape of the net that learns from them.
    """

    mimics: ClassVar[bool] = False

    weight: float
    name: str

    @abstractmethod
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        """The term, a scalar.

        Args:
            model: what is trained, in training mode.
            x, y: the batch, on the model's device.
            logits: ``model(x)``, (N, classes, ...); gradients flow through it.
        """

    def check(self, model: nn.Module) -> None:  # noqa: B027 - most terms act on any net
        """Raise ValueError where the term could not act on a net like this one, whose weights may not be there."""

    def teachers(self) -> tuple[From, ...]:
        """The other networks that the term asks: none, unless it says so."""
        return ()

    def bound(self, load: Callable[[From], nn.Module]) -> LossTerm:
        """The term with the networks that it asks, as ``load`` gives them: itself where it asks none."""
        return self


LOSSES: Registry[type[LossTerm]] = Registry("loss", __name__)
plain.add_family(LossTerm, LOSSES)


def check_weight(term: LossTerm) -> None:
    """Raise ValueError for a weight with which a term could not act."""
    if not isinstance(term.weight, int | float) or not 0 < term.weight < math.inf:
        raise ValueError(f"{term.name} weight={term.weight!r}: expected a positive number; without it leave it out")


def weighted_sum(
    terms: Sequence[LossTerm], model: nn.Module, x: Tensor, y: Tensor, logits: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """The loss, and each term before its weight, in the order of ``terms``; float32 at least.

    Raises ValueError for a term that is no scalar.
    """
    values = [wide(_scalar(term, term(model, x, y, logits))) for term in terms]
    first, *rest = (term.weight * value for term, value in zip(terms, values, strict=True))
    return sum(rest, first), values


def _scalar(term: LossTerm, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim:
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(f"{term.name} ({type(term).__name__}) gave {found}: expected a tensor of shape (), as .mean()")
    return value
