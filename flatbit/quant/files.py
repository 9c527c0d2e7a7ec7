"""Quantized models in files: safetensors with the layers' specs beside the tensors. No pickle.

A file says how each layer is quantized, so it loads into the float model: ``load_`` quantizes it
first. Where the model came from ``flatbit.models.build`` the file also says how to build it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .. import models
from ..atomic import replacing
from .convert import apply_specs_
from .layers import quantized_layers
from .policy import LayerSpec, TensorSpec

FORMAT = "1"


def save(model: nn.Module, path: str | Path) -> None:
    """Write a model, float or quantized, to a safetensors file, whole or not at all.

    Args:
        model: its ``state_dict`` is written as it is (latent float weights and steps), with each
            quantized layer's spec, and its build call where ``flatbit.models.build`` made it.
        path: the file; an existing one is replaced only once the new one is complete.
    """
    tensors, aliases = _distinct(model.state_dict())
    metadata = {
        "format": FORMAT,
        "build": json.dumps(getattr(model, models.BUILD_CALL, None)),
        "specs": json.dumps({name: asdict(layer.spec) for name, layer in quantized_layers(model)}),
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
    build = json.loads(metadata.get("build", "null"))
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
    """Load a file into a model, in place; a float model is first quantized as the file says.

    Raises:
        ValueError: not a safetensors file, or the checkpoint of another model: names the first keys
            that are missing, left over or of another shape.
    """
    tensors, metadata = _read(path)
    tensors |= {name: tensors[kept] for name, kept in json.loads(metadata.get("aliases", "{}")).items()}
    specs = {name: _spec(fields) for name, fields in json.loads(metadata.get("specs", "{}")).items()}
    present = {name: layer.spec for name, layer in quantized_layers(model)}
    if present and present != specs:
        raise ValueError(f"{path} is quantized otherwise than the model: flatbit.restore_(model) first, then load")
    _check_same_model(model, tensors, specs, path)
    if not present and specs:
        apply_specs_(model, specs)
    model.load_state_dict(tensors)


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not Path(path).is_file():
        raise ValueError(f"no such file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error}): flatbit.save(model, path) writes one") from error


def _distinct(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors that occur once, and the names of those (tied weights) that repeat an earlier one."""
    kept, aliases, owners = {}, {}, {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else name
        owner = owners.setdefault(key, name)
        if owner == name:
            kept[name] = tensor.contiguous()
        else:
            aliases[name] = owner
    return kept, aliases


def _spec(fields: dict[str, Any]) -> LayerSpec:
    parts: dict[str, Any] = {k: TensorSpec(**v) if isinstance(v, dict) else v for k, v in fields.items()}
    return LayerSpec(**parts)


def _check_same_model(
    model: nn.Module, tensors: dict[str, Tensor], specs: dict[str, LayerSpec], path: str | Path
) -> None:
    """Compare the float keys and shapes before anything is changed."""
    own = {key: tuple(v.shape) for key, v in model.state_dict().items() if "_quantizer." not in key}
    theirs = {key: tuple(v.shape) for key, v in tensors.items() if "_quantizer." not in key}
    missing, extra = sorted(own.keys() - theirs.keys()), sorted(theirs.keys() - own.keys())
    shapes = [
        f"{key} is {theirs[key]}, expected {own[key]}" for key in own if key in theirs and theirs[key] != own[key]
    ]
    extra += [name for name in specs if name not in dict(model.named_modules())]
    if missing or extra or shapes:
        raise ValueError(
            f"{path} is the checkpoint of another model than {type(model).__name__}: {len(missing)} keys missing "
            f"{missing[:3]}, {len(extra)} left over {extra[:3]}, {len(shapes)} of another shape {shapes[:2]}"
        )
