"""Provenance: whose weights a tensor consists of, followed through one forward.

A tensor that depends on the input is an activation. Any other is made of weights (transposed, cast, masked,
normalised, concatenated) or is a constant. Memory tells, not identity: views are what they view.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from ..wrappers import named_modules
from .quantizer import Quantizer

Shares = dict[str, Fraction]
"""The modules that hold a weight, by name, each with its part of it; the parts sum to 1."""


class Provenance:
    """Follows tensors from a model's weights and its inputs; ``follow`` is told of every operation.

    Args:
        model: float, or with its quantizers switched off.
        inputs: tensors, in any nesting.

    Attributes:
        read: names of the modules whose tensors were read.
    """

    def __init__(self, model: nn.Module, inputs: object) -> None:
        self.read: set[str] = set()
        self._held: dict[StorageWeakRef, list[tuple[range, str]]] = {}
        self._made: dict[StorageWeakRef, Shares] = {}
        self._activations: set[StorageWeakRef] = set()
        for name, module in named_modules(model):
            if not isinstance(module, Quantizer):
                self._hold(name, module)
        self.depend(inputs)

    def depend(self, tensors: object) -> None:
        """From here on these tensors are activations."""
        self._activations |= {key for tensor in _tensors(tensors) if (key := memory_of(tensor)) is not None}

    def is_activation(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on the input."""
        key = memory_of(tensor)
        return key is None or key in self._activations

    def shares(self, tensor: Tensor, running: Iterable[str]) -> Shares:
        """Whose weights a tensor consists of; empty for an activation and a constant.

        Of several modules that hold one weight (tied), the one that is ``running`` counts, else the first.
        """
        key = memory_of(tensor)
        if key is None or key in self._activations:
            return {}
        if key in self._made:
            return self._made[key]
        names = [name for span, name in self._held.get(key, ()) if tensor.storage_offset() in span]
        return {next((name for name in names if name in running), names[0]): Fraction(1)} if names else {}

    def follow(self, operation: str, read: object, written: object, running: Iterable[str]) -> None:
        """What an operation wrote: an activation if it read one, else made of what it read."""
        tensors = list(_tensors(read))
        owned = [(tensor.numel(), shares) for tensor in tensors if (shares := self.shares(tensor, running))]
        self.read.update(*(shares for _, shares in owned))
        if any(self.is_activation(tensor) for tensor in tensors):
            self.depend(written)
            return
        if not owned:
            return
        made = _mixed(owned) if operation in ("cat", "stack") else max(owned, key=lambda each: each[0])[1]
        for tensor in _tensors(written):
            if (key := memory_of(tensor)) is not None and key not in self._held:
                self._made[key] = made

    def _hold(self, name: str, module: nn.Module) -> None:
        """A module's parameters, buffers and plain tensors are its own, and so are those of its parametrizations."""
        name = f".{name}".partition(".parametrizations.")[0].removeprefix(".")
        own = (*module._parameters.values(), *module._buffers.values(), *vars(module).values())
        for tensor in own:
            if isinstance(tensor, Tensor) and tensor.numel() and (key := memory_of(tensor)) is not None:
                start = tensor.storage_offset()
                reach = sum((n - 1) * by for n, by in zip(tensor.shape, tensor.stride(), strict=True))
                self._held.setdefault(key, []).append((range(start, start + reach + 1), name))


def _mixed(owned: list[tuple[int, Shares]]) -> Shares:
    """Shares of a concatenation or a stack: each piece counts by its size."""
    total, made = sum(size for size, _ in owned), Shares()
    for size, shares in owned:
        for name, share in shares.items():
            made[name] = made.get(name, Fraction(0)) + share * Fraction(size, total)
    return made


def _tensors(tree: object) -> Iterable[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def memory_of(tensor: Tensor) -> StorageWeakRef | None:
    """The memory of a tensor, whose address nothing else gets while this is held; None where it has none (sparse)."""
    try:
        return StorageWeakRef(tensor.untyped_storage())
    except (NotImplementedError, RuntimeError):
        return None
