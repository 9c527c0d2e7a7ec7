"""A tape: what a CUDA graph is, on the CPU. Operations are recorded once and replayed on the same memory, no Python.

Numbers that Python read out of tensors while it was recorded stay what they were, as in a graph: so a step that
reads its learning rate, a code or a step as a number gives another result when it is replayed.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import flatbit.engine.capture
import flatbit.train.optimizers
from flatbit.engine.way import Way

from ..no_waits import modules_that_ask


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing\na number was read out of a tensor")
        made = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, made))
        return made


def tape(act, undo):
    """As ``flatbit.engine.capture.cuda_graph``: warmed up, undone, recorded, which has changed nothing; the replay."""
    act()
    undo()
    with _Recorder() as recorder:
        act()
    undo()

    @torch.no_grad()
    def replay():
        for func, args, kwargs, made in recorder.calls:
            for old, new in zip(tensors(made), tensors(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():  # a view or an operation in place gives the same memory
                    old.copy_(new)

    return replay


def tensors(values):
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def stand_in_for_a_device(monkeypatch):
    """On the CPU, do all as where a read waits: captured steps are tapes, rates tensors, optimizers fused."""
    for module in modules_that_ask():
        monkeypatch.setattr(module, "read_is_free", lambda x: False)
    monkeypatch.setattr(flatbit.train.optimizers, "rate_of", lambda groups, lr: (torch.tensor(lr), True))
    monkeypatch.setattr(flatbit.engine.capture, "cuda_graph", tape)
    monkeypatch.setattr(Way, "check", lambda self, device: None)
