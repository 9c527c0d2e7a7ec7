"""Sharpness-aware training: SAM and ASAM at the latent weights, SAQ and ASAQ at the quantized ones.

Foret, Kleiner, Mobahi, Neyshabur: Sharpness-aware minimization, ICLR 2021; Kwon et al.: ASAM, ICML
2021; Liu, Cai, Zhuang: Sharpness-aware quantization for deep neural networks, 2021.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from ..quant.table import quantizers_of
from .optimizers import refuse_closures
from .perturbed import ascent, attach_leaves_, carried, perturbed_set, weights_of

SharpnessMethod = Literal["sam", "asam", "saq", "asaq"]
SHARPNESS_METHODS = get_args(SharpnessMethod)
ETA = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharpness:
    """How a stage looks for flat minima: the settings of ``SharpnessAware``.

    Attributes:
        method: ``sam`` and ``asam`` perturb the latent parameters before quantization, ``saq`` and
            ``asaq`` the quantized weights after it; the a's scale the perturbation by each value's size.
        rho: radius of the perturbation, in the global l2 norm; positive.
        eta: added to the sizes; of ASAM and ASAQ alone, None for the papers' 0.01.
        perturb: ``authors`` also moves batch norms, clips of activations and biases, as SAQ's code does;
            ``weights_only`` is what its text says.
        batchnorm: ``freeze`` keeps the running statistics of the first pass; ``update`` lets the
            second pass move them too (SAQ's code).
        shard: m of m-sharpness: each ``shard`` samples of a batch have a perturbation of their own; None
            for one of the whole update.
    """

    method: SharpnessMethod
    rho: float
    eta: float | None = None
    perturb: Literal["authors", "weights_only"] = "authors"
    batchnorm: Literal["freeze", "update"] = "freeze"
    shard: int | None = None

    def __post_init__(self) -> None:
        if self.method not in SHARPNESS_METHODS:
            raise ValueError(f"sharpness method {self.method!r}: expected one of {', '.join(SHARPNESS_METHODS)}")
        if not isinstance(self.rho, int | float) or not 0 < self.rho < math.inf:
            raise ValueError(f"sharpness rho={self.rho!r}: expected a positive number; for plain descent leave it out")
        if self.eta is not None and (not isinstance(self.eta, int | float) or not 0 <= self.eta < math.inf):
            raise ValueError(f"sharpness eta={self.eta!r}: expected a number of 0 or more")
        if self.eta is not None and not self.adaptive:
            raise ValueError(f"sharpness eta={self.eta} cannot act: {self.method} does not scale; asam and asaq do")
        if self.perturb not in ("authors", "weights_only") or self.batchnorm not in ("freeze", "update"):
            raise ValueError(f"{self}: expected perturb authors or weights_only, and batchnorm freeze or update")
        if self.shard is not None and (type(self.shard) is not int or self.shard < 1):
            raise ValueError(f"shard={self.shard}: expected 1 sample or more, or None")

    @property
    def adaptive(self) -> bool:
        """Whether the perturbation is scaled by each value's size."""
        return self.method in ("asam", "asaq")


class SharpnessAware(torch.optim.Optimizer):
    """SAM, ASAM, SAQ or ASAQ around any optimizer: descend by the gradients found uphill.

    Pass one takes the gradient g over the perturbed set S; ``ascend`` moves S by ``e = rho T^2 g/(||T g|| + 1e-12)``
    (T = 1 in SAM and SAQ, ``|value| + eta`` in ASAM and ASAQ), pass two takes the gradients there; ``restore`` moves S
    back, bit for bit, and the base optimizer steps by the gradients of pass two. A step costs two forward and two
    backward passes. Momentum and weight decay act once, in the base.

    S of SAM and ASAM: all trainable parameters, latent weights before quantization. S of SAQ and ASAQ: the quantized
    weights w^q themselves, after quantization and not quantized again (pass two's dL/dw is the surrogate's at the
    unmoved w), with batch norms, biases, clips and steps of activations and the weights of float layers, but not the
    clips and steps of weights. ``perturb="weights_only"`` leaves weights alone in S. Each quantizer of a weight
    carries a leaf tensor for this, until ``close``; one compiled graph serves both passes.

    Three choices where paper and code differ: eta stands in both factors of ASAQ's T (as in ASAM's code; SAQ's has it
    in the norm alone); ``batchnorm="freeze"`` keeps the running statistics of pass one, whose weights the test uses
    (SAQ's code: ``update``); Nesterov is the base's own option (SAQ's paper: off, its scripts: on). Dropout draws anew
    in pass two.

    Mixed precision, clipping, accumulation: write the two halves out. The scaler's factor cancels in
    e, which is 0 where a gradient overflowed, so the scaler skips that step as ever::

        scaler.scale(loss_of(model)).backward(); optimizer.ascend()
        scaler.scale(loss_of(model)).backward(); optimizer.restore()
        scaler.unscale_(optimizer.base); clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer.base); scaler.update(); optimizer.zero_grad()

    DistributedDataParallel: each rank climbs by its own gradients, and only pass two's are averaged.
    ``step`` sees to it; in a loop of your own run pass one, forward and backward, under ``ddp.no_sync()``.

    Args:
        base: the optimizer that steps; groups, state and defaults are its own, so learning-rate
            schedules and checkpoints work on either.
        model: quantized, on its device; may be wrapped in DDP or compiled.
        method: ``sam``, ``asam``, ``saq`` or ``asaq``.
        rho, eta, perturb, batchnorm: as ``Sharpness`` says.

    Raises:
        ValueError: a setting out of range; a base whose step needs a closure (LBFGS); ``saq`` or ``asaq`` without a
            quantized weight; quantizers with trainable steps that ``base`` does not hold (made before ``quantize_``).
    """

    base: torch.optim.Optimizer

    def __init__(
        self,
        base: torch.optim.Optimizer,
        model: nn.Module,
        method: SharpnessMethod = "saq",
        rho: float = 0.4,
        *,
        eta: float | None = None,
        perturb: Literal["authors", "weights_only"] = "authors",
        batchnorm: Literal["freeze", "update"] = "freeze",
    ) -> None:
        self.settings = Sharpness(method=method, rho=rho, eta=eta, perturb=perturb, batchnorm=batchnorm)
        _check_base(base, model)
        leaves = attach_leaves_(model) if method in ("saq", "asaq") else []
        if method in ("saq", "asaq") and not leaves:
            raise ValueError(
                f"{method} moves quantized weights, and {type(model).__name__} has none that train: call "
                "flatbit.quantize_(model, policy) first, or take method 'sam' or 'asam'"
            )
        members = perturbed_set(model, leaves)
        members = weights_of(model, members) if perturb == "weights_only" else members
        self.model, self.members, self._leaves = model, members, leaves
        self._quantizers = carried(model)
        self._kept: tuple[list[Tensor], list[Tensor]] | None = None
        self.__setstate__({"base": base})  # what Optimizer needs, without groups of its own

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The base's."""
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The base's."""
        return self.base.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The base's."""
        return self.base.defaults

    def step(self, closure: Callable[[], Any] | Iterable[Callable[[], Any]] | None = None) -> Any:  # type: ignore[override]
        """Both passes and the base's step.

        Args:
            closure: zeroes the gradients, runs forward and backward, returns the loss; called twice. Or
                one per shard of the batch (m-sharpness): each shard climbs by itself, the gradients of
                their second passes are summed (so each closure scales its loss by its share), one step.

        Returns:
            The first pass' loss, summed over shards.
        """
        closures = [closure] if callable(closure) else list(closure or ())
        if not closures:
            raise TypeError(
                "SharpnessAware.step needs a closure that zeroes, runs forward and backward, and returns the loss; "
                "a loop of your own calls ascend() and restore(), then .base.step()"
            )
        losses, sums = [], {}
        for shard in closures:
            losses.append(self._two_passes(shard))
            if len(closures) > 1:
                _add_gradients(sums, self.param_groups)
        for parameter, gradient in sums.items():
            parameter.grad = gradient
        self.base.step()
        return reduce(operator.add, losses)

    @torch.no_grad()
    def ascend(self) -> None:
        """Move S uphill by the gradients at hand, then drop all gradients. Raises RuntimeError where there are none."""
        if self._kept is not None:
            raise RuntimeError("ascend() came twice: call restore() after the second backward")
        self._check_quantizers()
        moved = [m for m in self.members if m.tensor.grad is not None]
        if not moved:
            raise RuntimeError("ascend() found no gradients: call loss.backward() before it")
        settings = self.settings
        eta = ETA if settings.eta is None else settings.eta
        scales = [m.scale(eta) for m in moved] if settings.adaptive else None
        steps = ascent([m.tensor.grad for m in moved if m.tensor.grad is not None], scales, settings.rho)
        tensors = [m.tensor for m in moved]
        kept = tensors + (_statistics(self.model) if settings.batchnorm == "freeze" else [])
        self._kept = kept, [tensor.detach().clone() for tensor in kept]
        torch._foreach_add_(tensors, steps)
        self.zero_grad()

    @torch.no_grad()
    def restore(self) -> None:
        """Move S back, and the batch-norm statistics where they are frozen; the gradients stay for the base."""
        if self._kept is None:
            raise RuntimeError("restore() without ascend(): call ascend() between the two passes")
        torch._foreach_copy_(*self._kept)
        self._kept = None
        self._drop_leaf_gradients()

    def close(self) -> None:
        """Take the leaves off the model: afterwards it is as before, and this optimizer is done."""
        if self._kept is not None:
            self.restore()
        for leaf in self._leaves:
            if leaf.quantizer is not None and leaf.quantizer.perturbation is leaf.tensor:
                leaf.quantizer.perturbation = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of the base's parameters and of S."""
        self.base.zero_grad(set_to_none)
        for member in self.members:
            member.tensor.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The base's: between steps nothing of ours is left."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the base's state."""
        self.base.load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base; S stays as it is."""
        self.base.add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        own = ("settings", "model", "members", "_leaves", "_quantizers", "_kept", "base")
        return {name: getattr(self, name) for name in own}

    def _two_passes(self, closure: Callable[[], Any]) -> Any:
        self._drop_leaf_gradients()
        with torch.enable_grad():
            with self._each_rank_alone():
                loss = closure()
            try:
                self.ascend()
                closure()
            finally:
                if self._kept is not None:
                    self.restore()
        return loss

    def _each_rank_alone(self) -> AbstractContextManager[Any]:
        wrapper = next((m for m in self.model.modules() if isinstance(m, DistributedDataParallel)), None)
        return nullcontext() if wrapper is None else wrapper.no_sync()

    def _drop_leaf_gradients(self) -> None:
        for leaf in self._leaves:
            leaf.tensor.grad = None

    def _check_quantizers(self) -> None:
        if [*map(id, carried(self.model))] != [*map(id, self._quantizers)]:
            raise RuntimeError(
                "the model's quantizers are not those that SharpnessAware was made with: quantize_, restore_, close() "
                "or a second SharpnessAware came in between. Make the optimizers anew"
            )


def _statistics(model: nn.Module) -> list[Tensor]:
    """Running statistics and counts of every batch norm that trains."""
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.training]
    names = ("running_mean", "running_var", "num_batches_tracked")
    return [b for norm in norms for name in names if (b := getattr(norm, name)) is not None]


def _add_gradients(sums: dict[Tensor, Tensor], groups: list[dict[str, Any]]) -> None:
    for parameter in (p for group in groups for p in group["params"] if p.grad is not None):
        kept = sums.get(parameter)
        sums[parameter] = parameter.grad.clone() if kept is None else kept.add_(parameter.grad)


def _check_base(base: torch.optim.Optimizer, model: nn.Module) -> None:
    if isinstance(base, SharpnessAware):
        raise ValueError("the base is a SharpnessAware already: give its own base, base.base, after base.close()")
    refuse_closures(base, "SharpnessAware")
    held = {id(p) for group in base.param_groups for p in group["params"]}
    if held.isdisjoint(id(p) for p in model.parameters()):
        raise ValueError(f"the base optimizer holds no parameter of this {type(model).__name__}: it is another model's")
    for name, quantizer in quantizers_of(model):
        for parameter, p in quantizer.named_parameters():
            if p.requires_grad and id(p) not in held:
                raise ValueError(
                    f"the base optimizer does not hold {name}.{parameter}: make it after quantize_ (and calibrate_), "
                    "or fix that parameter with requires_grad_(False)"
                )
