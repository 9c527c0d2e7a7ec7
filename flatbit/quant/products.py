"""Products of one forward: how many multiply-adds it does, and of which layer's weight.

A layer of the table counts for itself, each time it is called (``Row.macs``). Every other matrix product and
convolution is watched as it runs, and counted for the module whose weight it reads. What is left out is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch._ops import HigherOrderOperator, OpOverload
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ..wrappers import named_modules
from .provenance import Provenance, Shares
from .quantizer import Quantizer
from .table import has_unknown_products, is_matrix, is_weighted, row_of

PRODUCTS = {
    "conv", "conv1d", "conv2d", "conv3d", "convolution", "linear", "mm", "addmm", "bmm", "mv", "dot",
    "attention", "transformer", "rnn", "cdist",
}  # fmt: skip
"""Parts of the names of operations that multiply matrices, whether their multiply-adds are known or not."""
ELEMENTWISE = ("mul", "mul_", "addcmul", "addcmul_")
ADDENDS = {"addmm": 1, "baddbmm": 1, "addmv": 1, "addbmm": 1}
"""How many arguments come before the factors."""
FORMULAS: dict[str, Callable[..., int]] = {
    "dot": lambda a, b: a.numel(),
    "vdot": lambda a, b: a.numel(),
    "mv": lambda matrix, vector: matrix.numel(),
    "addmv": lambda addend, matrix, vector: matrix.numel(),
    "addbmm": lambda addend, a, b: a.numel() * b.shape[-1],
    "_trilinear": lambda a, weight, *_: len(a) * weight.numel(),
    "mkldnn_rnn_layer": lambda x, w_ih, w_hh, *_: x.shape[:2].numel() * (w_ih.numel() + w_hh.numel()),
}
"""Multiply-adds of products that PyTorch's own counter leaves out."""


SAME = "weights alone, the same for every image"
ELEMENT_BY_ELEMENT = "a matrix that meets activations element by element"


@dataclass(frozen=True, kw_only=True, slots=True)
class Omission:
    """Multiplications that are not counted, and why.

    Attributes:
        name: of the module whose weight they read, else of the innermost one that they ran in.
        what: was multiplied.
        macs: how many there are; None where that is not known.
    """

    name: str
    what: str
    macs: int | None

    def __str__(self) -> str:
        return (
            f"{self.name or '(the model itself)'} ({self.what}: {'?' if self.macs is None else f'{self.macs:,}'} MACs)"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Products:
    """What a forward multiplied.

    Attributes:
        macs: multiply-adds by the name of the module whose weight they read.
        outside: those of them outside of the module's call, which read its weight in float.
        of_activations: multiply-adds of products that read no module's weight (attention's), by operation.
        reached: names of the modules that were called, or their tensors read.
        omitted: multiply-adds that are in none of these, by module and what they are of.
        unknown: modules with operations that multiply nobody knows how often, and the names of these.
    """

    macs: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    of_activations: Counter[str] = field(default_factory=Counter)
    reached: set[str] = field(default_factory=set)
    omitted: Counter[tuple[str, str]] = field(default_factory=Counter)
    unknown: set[tuple[str, str]] = field(default_factory=set)

    @property
    def without_weight(self) -> int:
        """Multiply-adds of all products that read no module's weight."""
        return self.of_activations.total()

    def leaves_alone(self, name: str) -> bool:
        """Whether a module ran, or was read, and its own tensors met nothing in a product that is known or unknown."""
        met = {*self.macs, *(owner for owner, _ in self.omitted), *(where for where, _ in self.unknown)}
        return name in self.reached and name not in met

    def omissions(self) -> tuple[Omission, ...]:
        """What is not counted."""
        known = (Omission(name=name, what=what, macs=macs) for (name, what), macs in self.omitted.items() if macs)
        unknown = (Omission(name=name, what=f"unknown {what}", macs=None) for name, what in sorted(self.unknown))
        return (*known, *unknown)


@contextmanager
def watched_products(model: nn.Module, inputs: object) -> Iterator[Products]:
    """Watch what a model multiplies inside: its hooks are gone on leaving.

    Args:
        model: with its quantizers switched off.
        inputs: the tensors that it will be called with, in any nesting.
    """
    watch = _Watch(model, Provenance(model, inputs))
    with ExitStack() as stack:
        for name, module in named_modules(model):
            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no hooks
            stack.callback(module.register_forward_pre_hook(watch.enter(name)).remove)
            hook = watch.leave(name)
            handle = module.register_forward_hook(hook, prepend=True, with_kwargs=True, always_call=True)
            stack.callback(handle.remove)
        stack.enter_context(_plain_kernels())
        stack.enter_context(watch)
        yield watch.found


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Attention, RNNs and compiled graphs as the products that they are made of, not as one fused kernel."""
    fast, cudnn = torch.backends.mha.get_fastpath_enabled(), torch.backends.cudnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.cudnn.enabled = False
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.cudnn.enabled = cudnn


class _Watch(TorchDispatchMode):
    supports_higher_order_operators = True

    def __init__(self, model: nn.Module, provenance: Provenance) -> None:
        super().__init__()
        self.found = Products(reached=provenance.read)
        self.provenance = provenance
        self.running: list[str] = []
        self.tabled = {name for name, module in named_modules(model) if is_weighted(module)}
        self.multiplying = self.tabled | {n for n, module in named_modules(model) if has_unknown_products(module)}
        self.through_quantizer: set[str] = set()

    def enter(self, name: str) -> Callable[..., None]:
        """A hook before a module's forward."""

        def hook(module: nn.Module, _: Any) -> None:
            self.found.reached.add(name)
            layer = name.rpartition(".")[0]
            if isinstance(module, Quantizer) and layer not in self.running:
                self.through_quantizer.add(layer)
            self.running.append(name)

        return hook

    def leave(self, name: str) -> Callable[..., None]:
        """A hook after a module's forward; ``output`` is None where it failed."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            self.running.pop()
            if name not in self.tabled or output is None:
                return
            row = row_of(module)
            assert row is not None
            assert row.macs is not None
            x = args[0] if args else kwargs.get("input", next(iter(kwargs.values())))
            self.found.macs[name] += row.macs(module, x, output) * _copies(output)
            self.provenance.depend(_physical(output))

        return hook

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = getattr(func, "_overloadpacket", func)
        name = packet.__name__
        counted = name in FORMULAS or packet in flop_registry
        if isinstance(func, OpOverload) and not counted:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        output = func(*args, **kwargs)
        if self.tabled.isdisjoint(self.running):
            if counted:
                self._count(name, args, _macs(packet, args, kwargs, output))
            elif PRODUCTS.intersection(name.split("_")) or isinstance(func, HigherOrderOperator):
                self.found.unknown.add((next(reversed(self.running), ""), name))
            elif name in ELEMENTWISE:
                self._meet(args, output.numel())
        self.provenance.follow(name, (args, kwargs), output, self.running)
        return output

    def _count(self, name: str, args: tuple[Any, ...], macs: int) -> None:
        """Count a product for the owners of its larger weight, else as one without weight."""
        first = ADDENDS.get(name, 0)
        factors = [factor for factor in args[first : first + 2] if isinstance(factor, Tensor)]
        factors.sort(key=Tensor.numel, reverse=True)
        shares = [self.provenance.shares(factor, self.running) for factor in factors]
        owners: Shares = next(filter(None, shares), {})
        if all(shares):
            self.found.omitted[next(iter(owners)), SAME] += macs
            return
        if not owners:
            self.found.of_activations[name] += macs
        upto, given = Fraction(0), 0
        for owner, share in owners.items():
            upto += macs * share
            part, given = int(upto) - given, int(upto)
            self.found.macs[owner] += part
            if owner not in self.running and owner not in self.through_quantizer:
                self.found.outside[owner] += part

    def _meet(self, args: tuple[Any, ...], macs: int) -> None:
        """An activation times a matrix, element by element, may be a product in disguise."""
        factors = [factor for factor in args if isinstance(factor, Tensor)]
        if any(self.provenance.is_activation(factor) for factor in factors):
            matrices = [factor for factor in factors if is_matrix(factor)]
            owners = [owner for matrix in matrices for owner in self.provenance.shares(matrix, self.running)]
            for owner in self.multiplying.intersection(owners):
                self.found.omitted[owner, ELEMENT_BY_ELEMENT] += macs


def _macs(packet: Any, args: Any, kwargs: Any, output: Any) -> int:
    """Multiply-adds of a product: half of the operations that PyTorch's own counter counts."""
    if packet.__name__ in FORMULAS:
        return FORMULAS[packet.__name__](*args)
    return flop_registry[packet](*args, **kwargs, out_val=output) // 2


def _copies(output: Any) -> int:
    """How many times a call inside ``vmap`` computes what it shows."""
    shown = output.numel() if isinstance(output, Tensor) else 0
    return _physical(output).numel() // shown if shown else 1


def _physical(output: Any) -> Any:
    """A tensor without the wrappers of ``torch.func``."""
    while isinstance(output, Tensor) and is_functorch_wrapped_tensor(output):
        output = get_unwrapped(output)
    return output
