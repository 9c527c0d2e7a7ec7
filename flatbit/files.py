"""Quantized models in files: safetensors with the layers' specs beside the tensors. No pickle.

A file says how each layer is quantized, so it loads into the float model: ``load_`` quantizes it
first. Where the model came from ``flatbit.models.build`` the file also says how to build it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import models, plain
from .packing import FORMAT, by_name, check_version, is_packed, read_packed
from .quant.alike import base_of
from .quant.convert import apply_specs_, check_plain
from .quant.fixed import WORDS, has_fixed_grids, refuse_training_
from .quant.policy import ROLES
from .quant.quantizer import Quantizer
from .quant.quantizers import make_quantizer
from .quant.reparametrized import folded, refuse_reparametrized
from .quant.settings import check_bits
from .quant.site import Site
from .quant.spec import LayerSpec, TensorSpec
from .quant.table import TABLE, is_quantized, quantized_layers, quantizers_of, row_of
from .rebuilding import MISFITS, rebuilt
from .tensor_file import distinct, entry, read_description, read_tensors, write_tensors
from .undo import undone_on_failure
from .wrappers import load_state_, named_modules, respelled, spelling, state_of, unwrapped

FORMATS = ("1", "2")
OLD_SLOTS = ("weight", "bias", "input", "output")
"""What a layer's description of format 1 held one by one."""


def save(model: nn.Module, path: str | Path) -> None:
    """Write a model, float or quantized, to a safetensors file, whole or not at all.

    Args:
        model: its ``state_dict`` is written as it is (latent float weights and steps), with each
            quantized layer's spec, and its build call where ``flatbit.models.build`` made it. A weight that
            pruning or a parametrization computes is written as what it is computed to (so the file loads into the
            plain model), in quantized layers and where the file says how to build the model. Of one within
            ``torch.compile``, parallel or averaging modules the plain model is written, as if it had none.
        path: the file; an existing one is replaced only once the new one is complete.

    Raises:
        ValueError: a state that is no tensor with values (meta device, ``get_extra_state``); a model of a packed
            file.
    """
    _refuse_fixed(model, "flatbit.save(model, path)")
    call = getattr(model, models.BUILD_CALL, None) or getattr(unwrapped(model), models.BUILD_CALL, None)
    description = {
        "format": FORMATS[-1],
        "build": json.dumps(call),
        "specs": json.dumps({name: plain.to_plain(layer.spec) for name, layer in quantized_layers(model)}),
    }
    with folded(module for module in model.modules() if call or is_quantized(module)):
        write_tensors(Path(path), state_of(model), description)


def load(path: str | Path, *, trust: bool = False) -> nn.Module:
    """Build the model that a file describes, quantize it as the file says, and load its tensors.

    Args:
        path: a file of ``save``, or of ``flatbit.export.packed``: the model then has fixed grids, for inference alone.
        trust: let a file that names ``package.module:function`` import and call it. A registered
            model needs no trust, nor does one that this process has built itself.

    Returns:
        The model, in eval mode, on the CPU.

    Raises:
        ValueError: a file that is none of ours, or was changed or damaged since; a model that
            ``flatbit.models.build`` did not make, or whose builder would have to be imported on the file's word.
    """
    description = _described(path)
    build = entry(path, description, "build", _build_call)
    if build is None:
        raise ValueError(f"{path} does not say how to build its model: build it and call flatbit.load_(model, path)")
    model = rebuilt(path, build, trust=trust)
    load_(model, path)
    return model.eval()


def load_(model: nn.Module, path: str | Path) -> None:
    """Load a file into a model, in place; a float model is first quantized as the file says, frozen layers frozen.

    Args:
        model: float, or quantized as the file is; then it may be compiled, parallel or averaging (whose own count
            of models stays). A file of such a one, with the names that these add, loads too.
        path: a file of ``save``, or a safetensors file with the model's names; or one of ``flatbit.export.packed``,
            for a float model, which then has fixed grids: it refuses to be trained and to be calibrated.

    Raises:
        ValueError: not a safetensors file, or one that was damaged; a description that cannot be read or that
            contradicts its tensors; the checkpoint of another model: names the first keys that are missing, left
            over or of another shape; a wrapped float model that would have to be quantized. The model is then as
            it was.
    """
    _refuse_fixed(model, f"loading {path}")
    description = _described(path)
    said = by_name if is_packed(description) else dict
    specs = entry(path, description, "specs", lambda found: {name: _spec(each) for name, each in said(found).items()})
    own = {key for key in state_of(model) if not _of_quantizer(key)}
    tensors, make = read_packed(path, specs) if is_packed(description) else (read_tensors(path)[0], make_quantizer)
    spell = spelling(tensors, own)
    tensors = respelled(tensors, spell, own)
    specs = {spell(name): replace(spec, producers=tuple(map(spell, spec.producers))) for name, spec in specs.items()}
    present = {name: layer.spec.stated() for name, layer in quantized_layers(model)}
    if present and (is_packed(description) or present != {name: spec.stated() for name, spec in specs.items()}):
        raise ValueError(f"{path} is quantized otherwise than the model: flatbit.restore_(model) first, then load")
    _check_same_model(model, tensors, specs, path)
    with undone_on_failure(model, chain(model.parameters(), model.buffers())):
        if specs and not present:
            check_plain(model, f"load {path} first")
            _quantize_(model, specs, path, make)
        _check_same_quantizers(model, tensors, path)
        load_state_(model, tensors)
        for name, layer in quantized_layers(model):
            layer.spec = specs[name]
    if has_fixed_grids(model):
        refuse_training_(model)


def load_any_(
    model: nn.Module,
    path: str | Path,
    *,
    rename: Mapping[str, str | None] | None = None,
    key: str | None = None,
    as_built: Collection[str] = (),
) -> str:
    """Load a file of ours (``load_``), or third-party float weights (``load_weights_``), into a float model, in place.

    Args:
        model: float; after a quantized file of ours it is quantized (``restore_`` gives its latent weights).
        path: a file of ``save``, or any checkpoint that ``flatbit.models.load_weights_`` reads.
        rename, key, as_built: as ``load_weights_`` takes them.

    Returns:
        What was loaded, in words. Raises ValueError as ``load_`` and ``load_weights_``, and for ``rename``, ``key`` or
        ``as_built`` with a quantized file of ours.
    """
    description = _described(path) if Path(path).suffix == ".safetensors" else {}
    options = {"rename": rename, "key": key, "as_built": as_built}
    given = [name for name, value in options.items() if value]
    if "specs" not in description or (given and not entry(path, description, "specs", bool)):
        return str(models.load_weights_(model, path, rename=rename, key=key, as_built=as_built))
    if given:
        raise ValueError(
            f"{path} is quantized, and {', '.join(given)} cannot act on it: flatbit.load it, flatbit.restore_ it, save "
            "its float weights, and give those"
        )
    load_(model, path)
    return f"{path}: a file of flatbit's, loaded by name"


def _described(path: str | Path) -> dict[str, str]:
    """A file's description. Raises ValueError for a format that this version does not know."""
    description = read_description(path)
    if "specs" in description and description.get("format") not in (*FORMATS, FORMAT):
        raise ValueError(
            f"{path} has format {description.get('format')!r}, this version reads {', '.join((*FORMATS, FORMAT))}: "
            "install a newer flatbit"
        )
    if is_packed(description):
        check_version(path, description)
    return description


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
        return _checked(plain.from_plain(LayerSpec, found))
    tensors = {slot: _renamed(found[slot]) for slot in OLD_SLOTS if found.get(slot)}
    averaged = found.get("averaged_from")
    rest = {key: part for key, part in found.items() if key not in (*OLD_SLOTS, "averaged_from")}
    new = rest | {"tensors": tensors, "averaged_from": {"weight": _renamed(averaged)} if averaged else {}}
    return _checked(plain.from_plain(LayerSpec, new))


def _checked(spec: LayerSpec) -> LayerSpec:
    """A spec whose role and counted bits are some that there are. Raises ValueError."""
    if spec.role not in ROLES:
        raise ValueError(f"role={spec.role!r}: expected {', '.join(ROLES)}")
    check_bits("input_bits", spec.input_bits)
    return spec


def _renamed(spec: dict[str, Any]) -> dict[str, Any]:
    """A tensor's description of the first format, whose option ``levels`` is ``grid`` now."""
    options = {"grid" if key == "levels" else key: value for key, value in spec["options"].items()}
    return dict(spec) | {"options": options}


def _refuse_fixed(model: nn.Module, who: str) -> None:
    if has_fixed_grids(model):
        raise ValueError(f"{who}: the model has fixed grids: {WORDS}")


def _quantize_(
    model: nn.Module, specs: dict[str, LayerSpec], path: str | Path, make: Callable[[TensorSpec, Site], Quantizer]
) -> None:
    """Quantize a float model by a file's specs, in place. Raises ValueError; the model is then as it was."""
    try:
        apply_specs_(model, specs, make)
    except (*MISFITS, ValueError) as error:
        raise ValueError(f"{path}: its entry 'specs' describes quantizers that there cannot be: {error!r}") from error


def _of_quantizer(key: str) -> bool:
    return "_quantizer." in key


def _check_same_model(
    model: nn.Module, tensors: dict[str, Tensor], specs: dict[str, LayerSpec], path: str | Path
) -> None:
    """Compare the float keys and shapes before anything is changed."""
    modules = dict(named_modules(model))
    unknown = [name for name in specs if name not in modules or row_of(modules[name]) is None]
    subclasses = {type(modules[n]).__name__ for n in unknown if n in modules and base_of(type(modules[n]), TABLE)}
    if subclasses:
        raise ValueError(
            f"{path} has layers quantized that are {' and '.join(sorted(subclasses))} in this {type(model).__name__}: "
            "declare the class first, flatbit.quant.add_subclass, as where the file was made"
        )
    differences = _differences(state_of(model), tensors, lambda key: not _of_quantizer(key), unknown)
    if differences:
        refuse_reparametrized(modules.items(), str(path))
        raise ValueError(f"{path} is the checkpoint of another model than {type(model).__name__}: {differences}")
    for name, owner in distinct(state_of(model))[1].items():
        if tensors[name] is not tensors[owner] and not torch.equal(tensors[name], tensors[owner]):
            raise ValueError(
                f"{path} holds {name} and {owner} apart, which are one tensor in this {type(model).__name__}: give "
                "each layer a weight of its own first (one was pruned or parametrized)"
            )


def _check_same_quantizers(model: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Compare the quantizers' keys, shapes and bits, once the model has the quantizers of the file's specs."""
    differences = _differences(state_of(model), tensors, _of_quantizer)
    if differences:
        raise ValueError(f"{path}: its quantizers are not those that it states: {differences}. Save the model again")
    for name, quantizer in quantizers_of(model):
        held = float(tensors[f"{name}.bits"])
        if not abs(held - quantizer.stated_bits) <= 0.5:  # NaN is not either
            raise ValueError(
                f"{path}: {quantizer.site} holds {held:g} bits, its spec states {quantizer.stated_bits}: the buffer "
                "was changed past flatbit.assign_bits_. Quantize anew and save again"
            )


def _casts(key: str, theirs: Tensor, own: Tensor) -> bool:
    """Whether a tensor would change its kind of number, such as from the integers of another format to float."""
    kinds = [(t.is_floating_point(), t.is_complex()) for t in (theirs, own)]
    return not _of_quantizer(key) and kinds[0] != kinds[1]


def _differences(
    own: dict[str, Tensor], theirs: dict[str, Tensor], counts: Callable[[str], bool], unknown: Sequence[str] = ()
) -> str:
    """Keys that are missing, left over or of another shape, in words; empty where there are none."""
    ours = {key: tuple(v.shape) for key, v in own.items() if counts(key)}
    others = {key: tuple(v.shape) for key, v in theirs.items() if counts(key)}
    missing, extra = sorted(ours.keys() - others.keys()), [*sorted(others.keys() - ours.keys()), *unknown]
    both = [key for key in ours if key in others]
    shapes = [f"{key} is {others[key]}, expected {ours[key]}" for key in both if others[key] != ours[key]]
    shapes += [
        f"{key} is {theirs[key].dtype}, expected {own[key].dtype}" for key in both if _casts(key, theirs[key], own[key])
    ]
    if not (missing or extra or shapes):
        return ""
    return (
        f"{len(missing)} keys missing {missing[:3]}, {len(extra)} left over {extra[:3]}, "
        f"{len(shapes)} of another shape {shapes[:2]}"
    )
