"""No waits: operations that would make the host wait for a device are errors; a CPU stands in for the device.

A read of a number, a look for where a mask holds, a tensor made of Python's numbers (which is copied to the device):
each stalls the device until the host comes back. Kernels that only launch are let through.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import flatbit.quant.passes

READS = {
    "_local_scalar_dense": "reads a number (item, float, int, bool)",
    "allclose": "reads whether tensors are close",
    "equal": "reads whether tensors are equal",
    "is_nonzero": "reads a truth value",
    "bincount": "reads the largest number",
    "histc": "reads the range",
    "nonzero": "has a shape that depends on values",
    "nonzero_numpy": "has a shape that depends on values",
    "argwhere": "has a shape that depends on values",
    "masked_select": "has a shape that depends on values",
    "_unique": "has a shape that depends on values",
    "_unique2": "has a shape that depends on values",
    "unique_dim": "has a shape that depends on values",
    "unique_consecutive": "has a shape that depends on values",
    "unique_dim_consecutive": "has a shape that depends on values",
    "lift_fresh": "makes a tensor of Python's numbers, which is copied to the device",
    "lift_fresh_copy": "makes a tensor of Python's numbers, which is copied to the device",
}
INDEXING = ("index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_")
LISTS = ("tolist", "numpy", "cpu", "__array__")
"""Reads that run no operation."""


class WaitError(AssertionError):
    """The host would wait here."""


class _Kernels(TorchDispatchMode):
    """Notes operations that wait; numbers of tensors in ``host`` are the host's own."""

    def __init__(self, note: Callable[[str], None], host: tuple[torch.Tensor, ...]) -> None:
        super().__init__()
        self.note = note
        self.host = {tensor.data_ptr() for tensor in host}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if (why := _why(func, args, kwargs)) and not self._is_hosts(args):
            self.note(f"{func} {why}")
        return func(*args, **kwargs)

    def _is_hosts(self, args) -> bool:
        return bool(args) and isinstance(args[0], torch.Tensor) and args[0].data_ptr() in self.host


def _why(func, args, kwargs) -> str:
    """Why an operation makes the host wait; empty where it does not."""
    name = func._overloadpacket.__name__
    if name in READS:
        return READS[name]
    if name in INDEXING and any(index.dtype in (torch.bool, torch.uint8) for index in tree_leaves(args[1])):
        return "looks for where a mask holds"
    if func is torch.ops.aten.repeat_interleave.Tensor:
        return "has a shape that depends on values"
    device = kwargs.get("device")
    if name == "_to_copy" and device is not None and torch.device(device).type != args[0].device.type:
        return "copies from one device to another"
    return ""


def modules_that_ask() -> list[ModuleType]:
    """Those of flatbit that take another path where a read is free."""
    free = flatbit.quant.passes.read_is_free
    modules = [m for name, m in sys.modules.items() if name.partition(".")[0] == "flatbit"]
    return [module for module in modules if getattr(module, "read_is_free", None) is free]


@contextmanager
def as_on_a_device() -> Iterator[None]:
    """Inside, flatbit computes as on a device, where a read is not free."""
    patches = [patch.object(module, "read_is_free", lambda x: False) for module in modules_that_ask()]
    try:
        for each in patches:
            each.start()
        yield
    finally:
        for each in patches:
            each.stop()


@contextmanager
def _watched(note: Callable[[str], None], host: tuple[torch.Tensor, ...]) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(as_on_a_device())
        for name in LISTS:
            stack.enter_context(patch.object(torch.Tensor, name, _noted(name, note)))
        stack.enter_context(_Kernels(note, host))
        yield


def _noted(name: str, note: Callable[[str], None]) -> Callable[..., object]:
    read = getattr(torch.Tensor, name)

    def noted(*args, **kwargs):
        note(f"Tensor.{name} brings values to the host")
        return read(*args, **kwargs)

    return noted


@contextmanager
def no_waits(*, host: tuple[torch.Tensor, ...] = ()) -> Iterator[None]:
    """Inside, the first operation that would make the host wait raises ``WaitError``, in the backward too.

    Args:
        host: tensors that stay on the host, such as the counts of torch's Adam.
    """

    def fail(what: str) -> None:
        raise WaitError(what)

    with _watched(fail, host):
        yield


def waits_of(call: Callable[[], object]) -> list[str]:
    """What a call does that would make the host wait, in order."""
    found: list[str] = []
    with _watched(found.append, ()):
        call()
    return found
