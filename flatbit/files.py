"""Quantized models in files: safetensors with the layers' specs beside the tensors. No pickle.

A file says how each layer is quantized, so it loads into the float model: ``load_`` quantizes it
first. Where the model came from ``flatbit.models.build`` the file also says how to build it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from . import models, plain
from .atomic import replacing
from .quant.convert import apply_specs_
from .quant.reparametrized import folded, refuse_reparametrized
from .quant.spec import LayerSpec
from .quant.table import is_quantized, quantized_layers, quantizers_of, row_of
from .undo import undone_on_failure

FORMAT = "2"
OLD_SLOTS = ("weight", "bias", "input", "output")
"""What a layer's description of format 1 held one by one."""


def save(model: nn.Module, path: str | Path) -> None:
    """Write a model, float or quantized, to a safetensors file, whole or not at all.

    Args:
        model: its ``state_dict`` is written as it is (latent float weights and steps), with each
            quantized layer's spec, and its build call where ``flatbit.models.build`` made it. A weight that
            pruning or a parametrization computes is written as what it is computed to (so the file loads into the
            plain model), in quantized layers and where the file says how to build the model.
        path: the file; an existing one is replaced only once the new one is complete.
    """
    call = getattr(model, models.BUILD_CALL, None)
    with folded(module for module in model.modules() if call or is_quantized(module)):
        tensors, aliases = _distinct(model.state_dict())
    metadata = {
        "format": FORMAT,
        "build": json.dumps(call),
        "specs": json.dumps({name: plain.to_plain(layer.spec) for name, layer in quantized_layers(model)}),
        "aliases": json.dumps(aliases),
    }
    with replacing(Path(path)) as partial:
        save_file(tensors, partial, metadata)


def load(path: str | Path, *, trust: bool = False) -> nn.Module:
    """Build the model that a file describes, quantize it as the file says, and load its tensors.

    Args:
        path: a file of ``save``.
        trust: let a file that names ``package.module:function`` import and call it. A registered
            model needs no trust, nor does one that this process has built itself.

    Returns:
        The model, in eval mode, on the CPU.

    Raises:
        ValueError: a file that is none of ours; a model that ``flatbit.models.build`` did not make, or
            whose builder would have to be imported on the file's word.
    """
    _, metadata = _read(path)
    build = _entry(path, metadata, "build", _build_call)
    if build is None:
        raise ValueError(f"{path} does not say how to build its model: build it and call flatbit.load_(model, path)")
    if not trust and not models.is_known(build[0]):
        raise ValueError(
            f"{path} wants to import and call {build[0]!r}: if you trust it, load it with trust=True "
            "(--trust), or build the model yourself and call flatbit.load_(model, path)"
        )
    model = models.build(build[0], **build[1])
    load_(model, path)
    return model.eval()


def load_(model: nn.Module, path: str | Path) -> None:
    """Load a file into a model, in place; a float model is first quantized as the file says, frozen layers frozen.

    Raises:
        ValueError: not a safetensors file, a description that cannot be read or that contradicts its
            tensors, or the checkpoint of another model: names the first keys that are missing, left
            over or of another shape. The model is then as it was.
    """
    tensors, metadata = _read(path)
    tensors |= _entry(path, metadata, "aliases", lambda found: {name: tensors[kept] for name, kept in found.items()})
    specs = _entry(path, metadata, "specs", lambda found: {name: _spec(fields) for name, fields in found.items()})
    present = {name: layer.spec.stated() for name, layer in quantized_layers(model)}
    if present and present != {name: spec.stated() for name, spec in specs.items()}:
        raise ValueError(f"{path} is quantized otherwise than the model: flatbit.restore_(model) first, then load")
    _check_same_model(model, tensors, specs, path)
    with undone_on_failure(model, chain(model.parameters(), model.buffers())):
        if not present:
            apply_specs_(model, specs)
        _check_same_quantizers(model, tensors, path)
        model.load_state_dict(tensors)
        for name, layer in quantized_layers(model):
            layer.spec = specs[name]


def load_any_(model: nn.Module, path: str | Path, *, rename: Mapping[str, str] | None = None) -> str:
    """Load a file of ours (``load_``), or third-party float weights (``load_weights_``), into a float model, in place.

    Args:
        model: float; after a quantized file of ours it is quantized (``restore_`` gives its latent weights).
        path: a file of ``save``, or any checkpoint that ``flatbit.models.load_weights_`` reads.
        rename: as ``load_weights_`` takes it.

    Returns:
        What was loaded, in words. Raises ValueError as ``load_`` and ``load_weights_``.
    """
    if Path(path).suffix != ".safetensors" or "specs" not in _read(path)[1]:
        return str(models.load_weights_(model, path, rename=rename))
    load_(model, path)
    return f"{path}: a file of flatbit's, loaded by name"


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not Path(path).is_file():
        raise ValueError(f"no such file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error}): flatbit.save(model, path) writes one") from error


def _distinct(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors that occur once, and the names of those (tied weights) that repeat an earlier one.

    Other views of memory that an earlier one lies in are copied: a file holds no views.
    """
    kept, aliases, owners, storages = {}, {}, {}, set()
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) if tensor.numel() else name
        owner = owners.setdefault(key, name)
        if owner != name:
            aliases[name] = owner
            continue
        storage = tensor.untyped_storage().data_ptr()
        kept[name] = tensor.contiguous() if storage not in storages else tensor.clone().contiguous()
        storages.add(storage)
    return kept, aliases


def _entry(path: str | Path, metadata: dict[str, str], key: str, read: Callable[[Any], Any]) -> Any:
    """One entry of a file's description, read; of an empty one where it is missing."""
    try:
        return read(json.loads(metadata.get(key, "{}")))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(
            f"{path}: its entry {key!r} is not what flatbit.save writes ({error!r}): take a sound copy, or save again"
        ) from error


def _build_call(found: Any) -> tuple[str, dict[str, Any]] | None:
    if not found:
        return None
    name, arguments = found
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise TypeError(f"expected a name and its arguments, got {found!r}")
    return name, arguments


def _spec(found: dict[str, Any]) -> LayerSpec:
    """A layer's spec as a file of this or the first format describes it. Raises ValueError or TypeError."""
    if "tensors" in found or not found.keys() & {*OLD_SLOTS}:
        return plain.from_plain(LayerSpec, found)
    tensors = {slot: _renamed(found[slot]) for slot in OLD_SLOTS if found.get(slot)}
    averaged = found.get("averaged_from")
    rest = {key: part for key, part in found.items() if key not in (*OLD_SLOTS, "averaged_from")}
    new = rest | {"tensors": tensors, "averaged_from": {"weight": _renamed(averaged)} if averaged else {}}
    return plain.from_plain(LayerSpec, new)


def _renamed(spec: dict[str, Any]) -> dict[str, Any]:
    """A tensor's description of the first format, whose option ``levels`` is ``grid`` now."""
    options = {"grid" if key == "levels" else key: value for key, value in spec["options"].items()}
    return dict(spec) | {"options": options}


def _check_same_model(
    model: nn.Module, tensors: dict[str, Tensor], specs: dict[str, LayerSpec], path: str | Path
) -> None:
    """Compare the float keys and shapes before anything is changed."""
    modules = dict(model.named_modules())
    unknown = [name for name in specs if name not in modules or row_of(modules[name]) is None]
    differences = _differences(model.state_dict(), tensors, lambda key: "_quantizer." not in key, unknown)
    if differences:
        refuse_reparametrized(modules.items(), str(path))
        raise ValueError(f"{path} is the checkpoint of another model than {type(model).__name__}: {differences}")
    for name, owner in _distinct(model.state_dict())[1].items():
        if tensors[name] is not tensors[owner] and not torch.equal(tensors[name], tensors[owner]):
            raise ValueError(
                f"{path} holds {name} and {owner} apart, which are one tensor in this {type(model).__name__}: give "
                "each layer a weight of its own first (one was pruned or parametrized)"
            )


def _check_same_quantizers(model: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Compare the quantizers' keys, shapes and bits, once the model has the quantizers of the file's specs."""
    differences = _differences(model.state_dict(), tensors, lambda key: "_quantizer." in key)
    if differences:
        raise ValueError(f"{path}: its quantizers are not those that it states: {differences}. Save the model again")
    for name, quantizer in quantizers_of(model):
        held = round(float(tensors[f"{name}.bits"]))
        if held != quantizer.stated_bits:
            raise ValueError(
                f"{path}: {quantizer.site} holds {held} bits, its spec states {quantizer.stated_bits}: the buffer was "
                "changed past flatbit.assign_bits_. Quantize anew and save again"
            )


def _differences(
    own: dict[str, Tensor], theirs: dict[str, Tensor], counts: Callable[[str], bool], unknown: Sequence[str] = ()
) -> str:
    """Keys that are missing, left over or of another shape, in words; empty where there are none."""
    ours = {key: tuple(v.shape) for key, v in own.items() if counts(key)}
    others = {key: tuple(v.shape) for key, v in theirs.items() if counts(key)}
    missing, extra = sorted(ours.keys() - others.keys()), [*sorted(others.keys() - ours.keys()), *unknown]
    both = [key for key in ours if key in others]
    shapes = [f"{key} is {others[key]}, expected {ours[key]}" for key in both if others[key] != ours[key]]
    if not (missing or extra or shapes):
        return ""
    return (
        f"{len(missing)} keys missing {missing[:3]}, {len(extra)} left over {extra[:3]}, "
        f"{len(shapes)} of another shape {shapes[:2]}"
    )
