"""Wrappers: the plain model within torch.compile, parallel and averaging modules, and names without their parts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

HOLDERS = (nn.DataParallel, DistributedDataParallel, AveragedModel)
"""Wrappers that hold the model as ``module``."""
PRIVATE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What others call it, and nobody else calls anything: torch.compile, FSDP, activation checkpointing."""
PARTS = ("module", *PRIVATE)
COUNT = "n_averaged"
"""How many models an ``AveragedModel`` has averaged: of the wrapper, no state of the model."""


def inner_name(module: nn.Module) -> str | None:
    """The name under which a wrapper holds what it wraps; None where the module is no wrapper."""
    if isinstance(module, HOLDERS):
        return "module"
    return next((part for part in PRIVATE if part in module._modules), None)


def unwrapped(model: nn.Module) -> nn.Module:
    """The plain model within wrappers, however nested; the model itself where there are none."""
    while (name := inner_name(model)) is not None:
        model = model.get_submodule(name)
    return model


def plain_name(model: nn.Module, name: str) -> str:
    """The name of a module or tensor of a model, without the parts that wrappers around it or inside it add."""
    kept: list[str] = []
    module: nn.Module | None = model
    for part in name.split("."):
        if module is None or part != inner_name(module):
            kept.append(part)
        held = {} if module is None else module._modules
        module = held[part] if part in held else None  # noqa: SIM401 (those of torch.jit have no get)
    return ".".join(kept)


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """``model.named_modules()`` by plain names, without the wrappers themselves."""
    return ((plain_name(model, name), m) for name, m in model.named_modules() if inner_name(m) is None)


def state_of(model: nn.Module) -> dict[str, Any]:
    """The ``state_dict`` of the plain model within, by plain names."""
    plain = unwrapped(model)
    return {plain_name(plain, key): value for key, value in plain.state_dict().items()}


def load_state_(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load what ``state_of`` gave into a model, wrapped or not, in place.

    Raises RuntimeError as ``load_state_dict`` does: for names that are missing or left over, and other shapes.
    """
    plain = unwrapped(model)
    keys = {plain_name(plain, key): key for key in plain.state_dict()}
    named = OrderedDict((keys.get(name, name), value) for name, value in state.items())
    named._metadata = plain.state_dict()._metadata  # type: ignore[attr-defined]  # versions, which files do not hold
    plain.load_state_dict(named)


def spelling(names: Iterable[str], wanted: Iterable[str]) -> Callable[[str], str]:
    """How to spell the names of a file so that all wanted ones are among them: without wrappers' parts, or as they are.

    Leading parts come off first, as many as need be; then those inside (``features.module.0``).
    """
    names, needed = [name for name in names if not is_count(name)], set(wanted)
    leading = min((_leading(name) for name in names), default=0)
    ways = [_without_leading(count) for count in range(leading + 1)] + [_bare]
    return next((way for way in ways if needed <= {way(name) for name in names}), ways[0])


def respelled(tensors: Mapping[str, Tensor], spell: Callable[[str], str], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Tensors by other names, without a wrapper's own count.

    Raises ValueError where two would have one name.
    """
    wanted, made = set(wanted), {}
    for name, tensor in tensors.items():
        if is_count(name) and name not in wanted:
            continue
        if spell(name) in made:
            raise ValueError(f"two tensors are {spell(name)!r} without what wrappers add: {name!r} is one of them")
        made[spell(name)] = tensor
    return made


def is_count(name: str) -> bool:
    """Whether a name is that of an averaging wrapper's own count."""
    return name.rpartition(".")[2] == COUNT


def _leading(name: str) -> int:
    parts = name.split(".")
    return next((count for count, part in enumerate(parts) if part not in PARTS), len(parts))


def _without_leading(count: int) -> Callable[[str], str]:
    return lambda name: ".".join(name.split(".")[min(count, _leading(name)) :])


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in PARTS)
