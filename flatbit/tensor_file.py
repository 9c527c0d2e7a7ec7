"""Tensors in a safetensors file, with words beside them and a checksum of each, so that damage is seen at load."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .atomic import replacing

CHECKSUMS = "checksums"
LENGTH = 8
"""Bytes before a header, which say how long it is; it is padded to as many."""
DAMAGED = "the file was damaged or changed after it was written: take a sound copy, or save again"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, str]) -> None:
    """Write tensors and their description, whole or not at all; one that occurs twice (tied weights) is written once.

    Raises ValueError for what is no tensor with values: an object of ``get_extra_state``, a meta tensor.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.is_meta:
            what = "a tensor on the meta device" if isinstance(tensor, Tensor) else f"a {type(tensor).__name__}"
            raise ValueError(f"{name!r} is {what}: a file holds tensors with values, expected one")
    kept, aliases = distinct(tensors)
    described = dict(description) | {"aliases": json.dumps(aliases)}
    checksums = {
        "description": _of_description(described),
        "names": _of_names(kept),
        "tensors": [_of_tensor(kept[name]) for name in sorted(kept)],
    }
    with replacing(path) as partial:
        content = save(kept, described | {CHECKSUMS: json.dumps(checksums, separators=(",", ":"))})
        partial.write_bytes(_in_order(content))


def _in_order(content: bytes) -> bytes:
    """The same file with its description in order: safetensors writes it in another one each time."""
    length = int.from_bytes(content[:LENGTH], "little")
    header = json.loads(content[LENGTH : LENGTH + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    written = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    written += b" " * (-len(written) % LENGTH)
    return len(written).to_bytes(LENGTH, "little") + written + content[LENGTH + length :]


def read_description(path: str | Path) -> dict[str, str]:
    """The words of a file, without its tensors. Raises ValueError as ``read_tensors``."""
    return _read(path, lambda file: {})[1]


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, on the CPU, and its description.

    Raises:
        ValueError: no file; none of safetensors; one with checksums (``write_tensors``) that do not hold: names
            the first tensor that is damaged.
    """
    tensors, description = _read(path, lambda file: {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    if CHECKSUMS in description:
        stated = entry(path, description, CHECKSUMS, lambda found: _by_name(found, tensors))
        if missing := sorted(stated.keys() ^ tensors.keys()):
            raise ValueError(f"{path}: {missing[0]!r} is not both in its tensors and its checksums: {DAMAGED}")
        bad = [name for name, tensor in tensors.items() if _of_tensor(tensor) != stated[name]]
        if bad:
            raise ValueError(f"{path}: {len(bad)} tensors have not their checksums, {bad[0]!r} the first: {DAMAGED}")
    aliases = entry(path, description, "aliases", lambda found: {name: tensors[kept] for name, kept in found.items()})
    if twice := sorted(aliases.keys() & tensors.keys()):
        raise ValueError(f"{path}: its entry 'aliases' gives {twice[0]!r} a second tensor: {DAMAGED}")
    return tensors | aliases, description


def entry(path: str | Path, description: Mapping[str, str], key: str, read: Callable[[Any], Any]) -> Any:
    """One entry of a file's description, read; of an empty one where it is missing. Raises ValueError."""
    try:
        return read(json.loads(description.get(key, "{}")))
    except (ValueError, TypeError, AttributeError, ArithmeticError, LookupError, RecursionError) as error:
        raise ValueError(
            f"{path}: its entry {key!r} is not what flatbit.save writes ({error!r}): take a sound copy, or save again"
        ) from error


def _read(path: str | Path, tensors: Callable[[Any], dict[str, Tensor]]) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not Path(path).is_file():
        raise ValueError(f"no such file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            found, description = tensors(file), file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error}): flatbit.save(model, path) writes one") from error
    if CHECKSUMS in description:
        stated = entry(path, description, CHECKSUMS, lambda found: found["description"])
        if _of_description({key: text for key, text in description.items() if key != CHECKSUMS}) != stated:
            raise ValueError(f"{path}: its description has not its checksum: {DAMAGED}")
    return found, description


def distinct(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors that occur once, and the names of those (tied weights) that repeat an earlier one.

    Other views of memory that an earlier one lies in are copied: a file holds no views.
    """
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    owners: dict[Any, str] = {}
    storages: set[int] = set()
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


def _by_name(stated: Any, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Checksums by the names of their tensors, in whose order they are listed; earlier files name each.

    Raises ValueError for a list of other names.
    """
    if isinstance(stated["tensors"], dict):
        return stated["tensors"]
    if stated["names"] != _of_names(tensors):
        raise ValueError(f"the names of its tensors have not their checksum: {DAMAGED}")
    return dict(zip(sorted(tensors), stated["tensors"], strict=True))


def _of_names(tensors: Mapping[str, Tensor]) -> int:
    return zlib.crc32(" ".join(sorted(tensors)).encode())


def _of_description(description: Mapping[str, str]) -> int:
    return zlib.crc32(json.dumps(sorted(description.items())).encode())


def _of_tensor(tensor: Tensor) -> int:
    """Of dtype and shape, which say what the bytes mean, and of the bytes."""
    start = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    return zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data, start)
