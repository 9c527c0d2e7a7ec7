"""Captured updates: the kernels of one update, recorded once per shape as a CUDA graph, then replayed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import Batch
from ..device import device_of
from ..quant.facts import FACTS


class EngineError(ValueError):
    """A way to run steps that this model, optimizer or device cannot do."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class State:
    """All that an update changes, and a copy of it.

    Attributes:
        tensors: parameters, buffers (not the ``FACTS`` of quantizers, which no update changes), the optimizer's
            state, and what else is given.
        copies: of their values.
        optimizer: whose state it is; parameters that had none have none again.
        stepped: the parameters that had some.
        device: the model's.
        random: state of its random numbers; None on the CPU.
        cpu_random: of the CPU's.
    """

    tensors: tuple[Tensor, ...]
    copies: tuple[Tensor, ...]
    optimizer: torch.optim.Optimizer
    stepped: frozenset[Any]
    device: torch.device
    random: Tensor | None
    cpu_random: Tensor

    @classmethod
    def of(cls, model: nn.Module, optimizer: torch.optim.Optimizer, *more: Tensor) -> State:
        """The state as it is now."""
        changed = [buffer for name, buffer in model.named_buffers() if name.rpartition(".")[2] not in FACTS]
        device = device_of(model)
        tensors = (*model.parameters(), *changed, *state_tensors(optimizer), *more)
        return cls(
            tensors=tensors,
            copies=tuple(tensor.detach().clone() for tensor in tensors),
            optimizer=optimizer,
            stepped=frozenset(optimizer.state),
            random=torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            device=device,
            cpu_random=torch.get_rng_state(),
        )

    @torch.no_grad()
    def restore_(self) -> None:
        """Put all of it back, in place."""
        for tensor, copy in zip(self.tensors, self.copies, strict=True):
            tensor.copy_(copy)
        for parameter in [p for p in self.optimizer.state if p not in self.stepped]:
            del self.optimizer.state[parameter]
        torch.set_rng_state(self.cpu_random)
        if self.random is not None:
            torch.cuda.set_rng_state(self.random, self.device)


def cuda_graph(act: Callable[[], None], undo: Callable[[], None]) -> Callable[[], None]:
    """``act`` as a CUDA graph: warmed up on a side stream, undone, then captured, which runs nothing. The replay.

    A read of the device is found in the warm-up: a capture that fails leaves the process in a bad state.
    """
    current, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        act()
        with _waits_refused():
            act()
    current.wait_stream(side)
    undo()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            act()
    except RuntimeError:
        torch.cuda.set_stream(current)
        raise
    return graph.replay


@contextmanager
def _waits_refused() -> Iterator[None]:
    """While it is on, a read that would wait for the device raises RuntimeError."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class CapturedUpdates:
    """Runs updates from graphs: one for each signature (shapes of the batches, modes of the modules).

    The first update of a signature runs as it is, which makes the optimizer's state; the second is
    captured; from then on it is replayed on the same memory.

    Args:
        act: the update, of batches on the device.
        model, optimizer: what it changes.
        sums: what else it changes.
    """

    def __init__(
        self,
        act: Callable[[list[Batch]], None],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        sums: Tensor,
    ) -> None:
        self.act, self.model, self.optimizer, self.sums = act, model, optimizer, sums
        self._begun: set[Any] = set()
        self._replays: dict[Any, Callable[[list[Batch]], None]] = {}

    def __call__(self, batches: list[Batch]) -> None:
        """One update. Raises EngineError where it cannot be captured."""
        key = signature(self.model, batches)
        if key not in self._begun:
            self._begun.add(key)
            self.act(batches)
            return
        if key not in self._replays:
            self._replays[key] = self._captured(batches)
        self._replays[key](batches)

    def _captured(self, batches: list[Batch]) -> Callable[[list[Batch]], None]:
        check_capturable(self.optimizer, device_of(self.model))
        inputs = [(x.clone(), y.clone()) for x, y in batches]
        state = State.of(self.model, self.optimizer, self.sums)

        def undo() -> None:
            state.restore_()
            self.optimizer.zero_grad(set_to_none=True)

        try:
            replay = cuda_graph(lambda: self.act(inputs), undo)
        except RuntimeError as error:
            undo()
            raise EngineError(
                f"{type(self.model).__name__} cannot be captured as a CUDA graph ({first_line(error)}): take engine "
                "eager or compiled"
            ) from error

        def run(given: Sequence[Batch]) -> None:
            for (x, y), (new_x, new_y) in zip(inputs, given, strict=True):
                x.copy_(new_x, non_blocking=True)
                y.copy_(new_y, non_blocking=True)
            replay()

        return run


def signature(model: nn.Module, batches: Sequence[Batch]) -> tuple[Any, ...]:
    """What a captured or compiled update was made for: it is made anew for another one."""
    shapes = tuple((x.shape, x.dtype, y.shape, y.dtype) for x, y in batches)
    modules = [(module.training, *_versions(module)) for module in model.modules()]
    return shapes, tuple(modules)


def _versions(module: nn.Module) -> list[int]:
    """Of what a quantizer knows as numbers: widths and signs that were assigned since."""
    return [module.get_buffer(name)._version for name in FACTS if name in module._buffers]


def state_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The tensors that an optimizer keeps between steps."""
    values = chain.from_iterable(state.values() for state in optimizer.state.values())
    return [value for value in values if isinstance(value, Tensor)]


def check_capturable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Raise EngineError where a captured step would repeat a number that the optimizer means to change."""
    name = type(getattr(optimizer, "base", optimizer)).__name__
    values = chain.from_iterable(state.values() for state in optimizer.state.values())
    numbers = [value for value in values if value is not None and not isinstance(value, Tensor)]
    rates = [group["lr"] for group in optimizer.param_groups]
    if numbers or not all(isinstance(rate, Tensor) for rate in rates):
        what = "its learning rate" if not numbers else "a part of its state"
        raise EngineError(
            f"{name} keeps {what} as a plain number, which a captured step would repeat: make it with lr=torch.tensor "
            "and capturable=True or fused=True, or take engine eager"
        )
    elsewhere = next((t.device for t in (*state_tensors(optimizer), *rates) if t.device.type != device.type), None)
    if elsewhere is not None:
        raise EngineError(f"{name} keeps state on {elsewhere}, the model is on {device}: take engine eager")


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return str(error).strip().partition("\n")[0]
