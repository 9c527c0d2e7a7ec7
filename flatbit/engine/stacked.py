"""Several nets as one: N models of one architecture whose tensors are stacked, so that their products are batched.

Many small nets (seeds of one recipe) leave a processor waiting: what one update costs is mostly the calls, not the
arithmetic. Here each call acts on all nets: ``torch.vmap`` over a forward with stacked parameters and buffers.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import chain
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..data.batches import VOID
from ..data.labels import class_indices
from ..outputs import logits_of
from ..quant.quantizer import FACTS, Quantizer
from ..quant.table import quantizers_of, spec_of
from ..train.losses import LossTerm, weighted_sum
from ..train.losses.labels import CrossEntropy

NET = "net."
NO_LEAVES: Mapping[Quantizer, Tensor] = MappingProxyType({})


class StackedNets:
    """N nets of one architecture, each with its own weights, steps and statistics, that compute in one call.

    The models are read here and written by ``unstack_``; in between the stacked tensors are the nets. What one
    batch gives is each net's own, up to the order of sums in float; dropout draws for each net, in another order.

    Attributes:
        models: what was stacked.
        shape: a copy of the first net with its loss, which says how all compute; its own numbers are not used.
        parameters, buffers: the stacked tensors by name, (N, ...).

    Args:
        models: of one architecture, calibrated, on one device.
        losses: each net's terms, with the networks that they ask; None for the labels alone.

    Raises:
        ValueError: no model, one given twice, models or losses that differ in more than their numbers
            (the first difference is named), a quantizer without a step.
    """

    def __init__(self, models: Sequence[nn.Module], losses: Sequence[tuple[LossTerm, ...]] | None = None) -> None:
        terms = [(CrossEntropy(),)] * len(models) if losses is None else list(losses)
        check_alike(models, terms)
        self.models = tuple(models)
        objectives = [Objective(model, own) for model, own in zip(models, terms, strict=True)]
        self.shape = copy.deepcopy(objectives[0])
        self.parameters = _stacked([dict(o.named_parameters()) for o in objectives], self.shape)
        self.buffers = _stacked([dict(o.named_buffers()) for o in objectives], self.shape)

    def __len__(self) -> int:
        return len(self.models)

    def train(self, mode: bool = True) -> None:
        """Put all nets in training mode."""
        self.shape.net.train(mode)

    def losses(
        self, x: Tensor, y: Tensor, *, shared: bool = False, leaves: Mapping[Quantizer, Tensor] = NO_LEAVES
    ) -> Tensor:
        """Loss, share of right answers and terms before their weights of each net, (N, 2 + terms).

        Args:
            x, y: a batch for each net, (N, batch, ...); or one for all, (batch, ...), where it is ``shared``.
            leaves: what quantizers of ``shape`` add to their output (``Quantizer.perturbation``), (N, ...).

        Raises:
            ValueError: the nets, or a term of the loss, do what cannot be done for several at once.
        """

        def one(parameters: Any, buffers: Any, moved: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
            for quantizer, leaf in zip(leaves, moved, strict=True):
                quantizer.perturbation = leaf
            return functional_call(self.shape, (parameters, buffers), (x, y))

        axis = None if shared else 0
        call = torch.vmap(one, in_dims=(0, 0, 0, axis, axis), randomness="different")
        try:
            with _quiet():
                return call(self.parameters, self.buffers, list(leaves.values()), x, y)
        except RuntimeError as error:
            if not any(word in str(error) for word in ("vmap", "atching rule")):
                raise
            raise ValueError(
                f"{type(self.shape.net).__name__} cannot be trained several at once: {str(error).partition('. ')[0]}: "
                "train the nets one at a time"
            ) from error
        finally:
            for quantizer in leaves:
                quantizer.perturbation = None

    def unstack_(self, nets: Sequence[int] | None = None) -> None:
        """Write parameters and buffers back into the models, all or those of some numbers, in place."""
        for index in range(len(self)) if nets is None else nets:
            self.write_(index, self.models[index])

    @torch.no_grad()
    def write_(self, index: int, model: nn.Module) -> None:
        """Write one net into a model like those that were stacked, in place."""
        state = self.parameters | self.buffers
        for name, tensor in chain(model.named_parameters(), model.named_buffers()):
            if NET + name in state:
                tensor.copy_(state[NET + name][index])


class Objective(nn.Module):
    """A net, the terms of its loss, and the networks that these ask: all that a stacked forward needs."""

    def __init__(self, net: nn.Module, terms: tuple[LossTerm, ...]) -> None:
        super().__init__()
        self.net, self.terms = net, terms
        self.asked = nn.ModuleList(networks_of(terms))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        logits = logits_of(self.net(x), type(self.net).__name__)
        y = class_indices(y, logits, type(self.net).__name__)
        loss, values = weighted_sum(self.terms, self.net, x, y, logits)
        right = logits.detach().argmax(1) == y
        share = right.float().mean() if y.ndim == 1 else right.sum() / (y != VOID).sum().clamp_min(1)
        return torch.stack([loss, share, *(value.detach() for value in values)])


def networks_of(terms: tuple[LossTerm, ...]) -> Iterator[nn.Module]:
    """The networks that some terms of a loss hold."""
    held = (getattr(term, f.name) for term in terms for f in fields(term))  # type: ignore[arg-type]
    return (value for value in held if isinstance(value, nn.Module))


def check_alike(models: Sequence[nn.Module], losses: Sequence[tuple[LossTerm, ...]]) -> None:
    """Raise ValueError where models are none, differ in more than numbers, or are not calibrated."""
    if not models or len({*map(id, models)}) < len(models):
        raise ValueError(f"expected one model or more, each once, got {len({*map(id, models)})} in {len(models)}")
    if len(losses) != len(models):
        raise ValueError(f"{len(losses)} losses for {len(models)} models: expected the terms of each")
    first = described(models[0], losses[0])
    for index, (model, terms) in enumerate(zip(models, losses, strict=True)):
        for name, quantizer in quantizers_of(model):
            if not quantizer.calibrated:
                raise ValueError(
                    f"model {index}: {name} has no step yet: call flatbit.calibrate_(model, batches) first"
                )
        found = described(model, terms)
        for place in first | found:
            if first.get(place) != found.get(place):
                raise ValueError(
                    f"model {index} is not of the architecture of model 0: {place} is {found.get(place, 'missing')}, "
                    f"expected {first.get(place, 'none')}: stack what differs in numbers only"
                )


def described(model: nn.Module, terms: tuple[LossTerm, ...]) -> dict[str, str]:
    """What has to be alike in stacked nets, by place: classes, settings, specs, shapes and the terms of the loss."""
    found = {"the loss": ", ".join(map(repr, terms))}
    for name, module in model.named_modules():
        found[name or "the model"] = f"{type(module).__name__}({module.extra_repr()})"
    for name, module in model.named_modules():
        found[f"what was asked of {name}"] = str(spec_of(module) or "float")
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        kind = "trained" if tensor.requires_grad else "fixed"
        found[f"tensor {name}"] = f"{kind} {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warning that it loops over the nets in one operation, as it does where it pools to one pixel."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "There is a performance drop because we have not yet implemented the batching"
        )
        yield


def _stacked(held: list[dict[str, Tensor]], shape: nn.Module) -> dict[str, Tensor]:
    """Tensors by name with the nets as first axis, but for those that all have in common.

    These stay the shape's own, which code may read as numbers: what a quantizer is, and a teacher of all nets.
    """
    facts = {f"{name}.{fact}" for name, m in shape.named_modules() if isinstance(m, Quantizer) for fact in FACTS}
    stacked = {}
    for name, first in held[0].items():
        tensors = [own[name] for own in held]
        teacher = not name.startswith(NET) and all(t is first for t in tensors)
        if teacher or (name in facts and all(torch.equal(t, first) for t in tensors)):
            continue
        stacked[name] = torch.stack([t.detach() for t in tensors])
        stacked[name].requires_grad_(first.requires_grad and name.startswith(NET))
    return stacked
