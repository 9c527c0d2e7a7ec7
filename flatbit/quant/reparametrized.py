"""Reparametrized weights: computed from other tensors, by pruning, ``weight_norm``, ``spectral_norm`` and their kind.

Two mechanisms of PyTorch do it. A hook computes the tensor before each forward and leaves the class as it is
(``torch.nn.utils.prune``, the old ``weight_norm`` and ``spectral_norm``); ``parametrize`` makes a subclass whose
property computes it. A layer's kind is its class beneath. Whoever reads weights or names reads them ``folded``: as
plain parameters of the values that the layer computes with. Whoever moves weights refuses them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..modes import modes_kept

PARTS = {
    prune.BasePruningMethod: ("orig", "mask"),
    WeightNorm: ("g", "v"),
    SpectralNorm: ("orig", "u", "v"),
}
"""What each hook computes its tensor from, by the endings of the names."""
MENDS = {
    prune.BasePruningMethod: "torch.nn.utils.prune.remove(layer, {!r})",
    WeightNorm: "torch.nn.utils.remove_weight_norm(layer, {!r})",
    SpectralNorm: "torch.nn.utils.remove_spectral_norm(layer, {!r})",
}
PARAMETRIZED = "torch.nn.utils.parametrize.remove_parametrizations(layer, {!r})"


def kind_of(module: nn.Module) -> type[nn.Module]:
    """A module's class, beneath what ``torch.nn.utils.parametrize`` made of it."""
    return parametrize.type_before_parametrizations(module)


def change_kind_(module: nn.Module, kind: type[nn.Module]) -> None:
    """Give a module another class, in place; beneath its parametrizations where it has some."""
    if not parametrize.is_parametrized(module):
        module.__class__ = kind
        return
    own = {key: value for key, value in vars(type(module)).items() if key not in ("__dict__", "__weakref__", "__doc__")}
    module.__class__ = type(f"Parametrized{kind.__name__}", (kind,), own)


def reparametrized(module: nn.Module) -> dict[str, str]:
    """The tensors of a module that are computed from others, by name, each with the call that makes it plain."""
    found = {name: PARAMETRIZED.format(name) for name in _parametrized_names(module)}
    for _, hook, kind in _hooks(module):
        found[_name_of(hook)] = MENDS[kind].format(_name_of(hook))
    return found


def refuse_reparametrized(layers: Iterable[tuple[str, nn.Module]], who: str) -> None:
    """Raise ValueError, naming the first layer and the mend, where tensors of some layers are computed from others."""
    for name, layer in layers:
        for tensor, mend in reparametrized(layer).items():
            raise ValueError(
                f"{who}: {tensor} of layer {name!r} is computed from other tensors (pruning, weight_norm or the like), "
                f"which would not follow: call {mend} first"
            )


@contextmanager
def folded(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, tensors that are computed from others are plain parameters with their values (in eval mode).

    Names, classes and forwards are then those of plain layers; on leaving, all is as it was.
    """
    with ExitStack() as stack:
        for module in [m for m in modules if reparametrized(m)]:
            stack.enter_context(_folded(module))
        yield


@contextmanager
def _folded(module: nn.Module) -> Iterator[None]:
    values = _values(module)
    own: dict[str, Any] = vars(module)
    kept = {key: dict(own[key]) for key in ("_parameters", "_buffers", "_modules", "_forward_pre_hooks")}
    plain, kind = {name: own[name] for name in values if name in own}, type(module)
    try:
        for key, hook, made_by in _hooks(module):
            del module._forward_pre_hooks[key]
            for part in PARTS[made_by]:
                module._parameters.pop(f"{_name_of(hook)}_{part}", None)
                module._buffers.pop(f"{_name_of(hook)}_{part}", None)
        module.__class__ = kind_of(module)
        module._modules.pop("parametrizations", None)
        for name, value in values.items():
            own.pop(name, None)
            module._parameters[name] = value
        yield
    finally:
        module.__class__ = kind
        for key, entries in kept.items():
            own[key].clear()
            own[key].update(entries)
        own.update(plain)


def _values(module: nn.Module) -> dict[str, nn.Parameter]:
    """What each computed tensor is in eval mode, where asking for it changes nothing."""
    parts = [*module.parameters(recurse=False)]
    if parametrize.is_parametrized(module):
        parts += [*module.parametrizations.parameters()]  # type: ignore[union-attr]
    trains = any(part.requires_grad for part in parts)
    with modes_kept(module), torch.no_grad():
        module.eval()
        found = {name: getattr(module, name) for name in _parametrized_names(module)}
        found |= {_name_of(hook): _computed(module, hook) for _, hook, _ in _hooks(module)}
    return {name: nn.Parameter(value.detach().clone(), requires_grad=trains) for name, value in found.items()}


def _computed(module: nn.Module, hook: Any) -> Tensor:
    if isinstance(hook, prune.BasePruningMethod):
        return hook.apply_mask(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return hook.compute_weight(module, False) if isinstance(hook, SpectralNorm) else hook.compute_weight(module)


def _parametrized_names(module: nn.Module) -> list[str]:
    return list(module.parametrizations) if parametrize.is_parametrized(module) else []  # type: ignore[call-overload]


def _hooks(module: nn.Module) -> list[tuple[int, Any, type]]:
    """The module's hooks that compute a tensor: key, hook and kind."""
    found = [(key, hook, kind) for key, hook in module._forward_pre_hooks.items() for kind in PARTS]
    return [(key, hook, kind) for key, hook, kind in found if isinstance(hook, kind)]


def _name_of(hook: Any) -> str:
    return hook._tensor_name if isinstance(hook, prune.BasePruningMethod) else hook.name
