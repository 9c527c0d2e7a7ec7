"""Plain values: frozen dataclasses as JSON holds them, and back, equal.

A dataclass is a mapping of its fields, those that are None left out. One of a family (schedules,
losses, optimizers) also says which one it is: ``kind`` is its registered name, or ``module:Class``,
which is imported only where that is trusted. What has no name cannot be written; what does not fit its
type cannot be read. Where the type is ``Any``, things come back as JSON has them, tuples as lists.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

from torch import nn

from .registry import Registry, import_object, nearest

Hint = Any
"""An annotation: a class, or a form of ``typing``, for which Python has no type."""
KIND, CLASS = "kind", "class"
_FAMILIES: dict[type, Registry[Any]] = {}
_CODECS: dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {}


def add_family(base: type, registry: Registry[Any]) -> None:
    """Let subclasses of an abstract ``base`` be written by the names under which ``registry`` holds them."""
    _FAMILIES[base] = registry


def add_codec(kind: type, write: Callable[[Any], Any], read: Callable[[Any], Any]) -> None:
    """Let a type be written and read by two functions, as ``From`` is by its spelling."""
    _CODECS[kind] = write, read


def has_codec(kind: type) -> bool:
    """Whether a type is written by functions of its own."""
    return kind in _CODECS


def skipped() -> dict[str, bool]:
    """Metadata of a dataclass field that no record holds: ``field(default=None, metadata=plain.skipped())``."""
    return {"skipped": True}


def if_any() -> dict[str, bool]:
    """Metadata of a dataclass field that is written only where it holds something, as a record of before has it."""
    return {"if_any": True}


def to_plain(value: object, where: str = "") -> Any:
    """The value in None, bool, int, float, str, lists and dicts with text for keys.

    Raises:
        ValueError: something without a name: a function, a class of a function's, an object that is no dataclass.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value) in _CODECS:
        return _CODECS[type(value)][0](value)
    if isinstance(value, type):
        return {CLASS: name_of_type(value, where)}
    if dataclasses.is_dataclass(value):
        held = [(f, getattr(value, f.name)) for f in _written(value)]
        held = [(f, part) for f, part in held if not f.metadata.get("if_any") or part]
        held = [(f, part) for f, part in held if part is not None or not _is_none_by_default(f)]
        said = {f.name: to_plain(part, f"{where}.{f.name}".lstrip(".")) for f, part in held}
        registry = family_of(type(value))
        return said if registry is None else {KIND: name_of_kind(type(value), registry, where)} | said
    if isinstance(value, Mapping):
        return {str(key): to_plain(part, f"{where}.{key}".lstrip(".")) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(part, f"{where}[{index}]") for index, part in enumerate(value)]
    raise ValueError(
        f"{where or 'value'}: {value!r} has no name that a record could hold: expected numbers, text, or a frozen "
        "dataclass that is registered or can be imported as module:Class"
    )


def from_plain(kind: Hint, value: object, where: str = "", *, trust: bool = False) -> Any:
    """The object of a type that ``to_plain`` wrote as ``value``.

    Args:
        kind: a dataclass, an abstract class of a family, or an annotation of these and of plain types.
        value: plain values.
        where: its place, for errors.
        trust: let ``module:Class`` be imported. Registered names need no trust.

    Raises:
        ValueError: a value that does not fit: says where, what came and what was expected.
    """
    origin = get_origin(kind) or kind
    if kind is Any:
        return value
    if kind in _CODECS:
        return _at(where, _CODECS[kind][1], value)
    if origin in (Union, types.UnionType):
        return _one_of(get_args(kind), value, where, trust)
    if origin is Literal:
        if (type(value), value) not in [(type(word), word) for word in get_args(kind)]:
            raise _misfit(where, value, " or ".join(map(str, get_args(kind))))
        return value
    if origin is type:
        return type_of_name(value, where, trust=trust)
    if origin in (tuple, list, collections.abc.Sequence):
        return _sequence(origin, get_args(kind), value, where, trust)
    if origin in (dict, collections.abc.Mapping):
        return _mapping(get_args(kind), value, where, trust)
    if kind in _FAMILIES:
        kind, value = _kind_of(kind, value, where, trust)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value, where, trust)
    return _scalar(kind, value, where)


def members(kind: Hint) -> tuple[Any, ...]:
    """The alternatives of an annotation: those of a union, else the annotation itself."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def fields_of(kind: type) -> dict[str, Any]:
    """The annotations of a dataclass's written fields, by name, resolved."""
    hints = _hints(kind)
    return {f.name: hints[f.name] for f in _written(kind)}


def family_of(kind: type) -> Registry[Any] | None:
    """The registry of the family that a class is of; None where it is of none."""
    return next((_FAMILIES[base] for base in kind.__mro__ if base in _FAMILIES), None)


def name_of_kind(kind: type, registry: Registry[Any], where: str = "") -> str:
    """The registered name of a class, or ``module:Class``. Raises ValueError where it has neither."""
    return registry.name_of(kind) or _importable(kind, where or registry.kind)


def name_of_type(kind: type, where: str = "") -> str:
    """A layer class as ``nn.Linear``, or a user's as ``module:Class``. Raises ValueError where it has no name."""
    if not issubclass(kind, nn.Module):
        raise ValueError(f"{where}: {kind.__name__} is no layer class, and a record can name no other class")
    return f"nn.{kind.__name__}" if getattr(nn, kind.__name__, None) is kind else _importable(kind, where)


def type_of_name(name: object, where: str = "", *, trust: bool = False) -> type:
    """The layer class of ``{"class": "nn.Linear"}``; ``module:Class`` is imported where that is trusted.

    Raises ValueError for anything else.
    """
    path = name[CLASS] if isinstance(name, Mapping) and name.keys() == {CLASS} else None
    if not isinstance(path, str) or not (":" in path or path.startswith("nn.")):
        raise _misfit(where, name, "a layer class, {'class': 'nn.Linear'}")
    found = _trusted(path, where, trust) if ":" in path else getattr(nn, path.removeprefix("nn."), None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise _misfit(where, name, "a layer class, {'class': 'nn.Linear'}")
    return found


def _importable(kind: type, where: str) -> str:
    """``module:Class``, where importing it gives the class. Raises ValueError."""
    path = f"{kind.__module__}:{kind.__qualname__}"
    try:
        found = None if kind.__module__ == "__main__" else import_object(path)  # another process has another __main__
    except ValueError:
        found = None
    if found is not kind:
        raise ValueError(
            f"{where}: {kind.__qualname__} of {kind.__module__} has no name that a record could hold: register it, or "
            f"define it where it can be imported as module:{kind.__name__}"
        )
    return path


def _trusted(path: str, where: str, trust: bool) -> Any:
    """What ``module:Class`` names. Raises ValueError where it is not trusted."""
    if not trust:
        raise ValueError(f"{where}: wants to import {path!r}: if you trust it, say so (trust=True, --trust)")
    return import_object(path)


def _written(kind: Hint) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(kind) if f.init and not f.metadata.get("skipped")]


def _is_none_by_default(f: dataclasses.Field[Any]) -> bool:
    """Whether a field that is left out is None; one without a default is, where it may be."""
    return f.default in (None, dataclasses.MISSING) and f.default_factory is dataclasses.MISSING


@cache
def _hints(kind: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind)
    except NameError as error:
        raise ValueError(f"{kind.__qualname__}: its annotations cannot be read ({error})") from error


def _misfit(where: str, value: object, expected: str) -> ValueError:
    return ValueError(f"{where or 'value'}={value!r}: expected {expected}")


def _at(where: str, read: Callable[[Any], Any], value: object) -> Any:
    try:
        return read(value)
    except ValueError as error:
        raise ValueError(f"{where}={error}" if where else str(error)) from error


def _one_of(kinds: tuple[Hint, ...], value: object, where: str, trust: bool) -> Any:
    """The value as the first alternative that it fits. Raises the error of the likeliest one."""
    if value is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    errors = []
    for kind in others:
        try:
            return from_plain(kind, value, where, trust=trust)
        except ValueError as error:
            errors.append(error)
    if len(others) == 1 or isinstance(value, Mapping):
        raise errors[0]
    raise ValueError("; or ".join(dict.fromkeys(map(str, errors))))


def _sequence(origin: Hint, kinds: tuple[Hint, ...], value: object, where: str, trust: bool) -> Any:
    if not isinstance(value, list | tuple):
        raise _misfit(where, value, "a list")
    if origin is tuple and kinds and kinds[-1] is not Ellipsis:
        if len(kinds) != len(value):
            raise _misfit(where, value, f"a list of {len(kinds)}")
        each = kinds
    else:
        each = (kinds[0] if kinds else Any,) * len(value)
    parts = [
        from_plain(kind, part, f"{where}[{index}]", trust=trust)
        for index, (kind, part) in enumerate(zip(each, value, strict=True))
    ]
    return parts if origin is list else tuple(parts)


def _mapping(kinds: tuple[Hint, ...], value: object, where: str, trust: bool) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _misfit(where, value, "a mapping")
    key_kind, part_kind = kinds or (str, Any)
    keys = [int(key) if key_kind is int and str(key).lstrip("-").isdigit() else key for key in value]
    parts = [from_plain(part_kind, part, f"{where}.{key}".lstrip("."), trust=trust) for key, part in value.items()]
    return dict(zip([_scalar(key_kind, key, where) for key in keys], parts, strict=True))


def _kind_of(base: type, value: object, where: str, trust: bool) -> tuple[type, Any]:
    """The class that a family's value names, and its fields."""
    registry = _FAMILIES[base]
    if isinstance(value, str):
        value = {KIND: value}
    if not isinstance(value, Mapping) or not isinstance(value.get(KIND), str):
        raise _misfit(where, value, f"a {registry.kind}: {nearest('', registry.names())}")
    name = value[KIND]
    kind = _trusted(name, where, trust) if ":" in name else _at(where, registry.get, name)
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise _misfit(where, name, f"a {registry.kind}")
    return kind, {key: part for key, part in value.items() if key != KIND}


def _dataclass(kind: type, value: object, where: str, trust: bool) -> Any:
    if not isinstance(value, Mapping):
        raise _misfit(where, value, f"a mapping of {', '.join(fields_of(kind)) or 'nothing'}")
    if KIND in value and (registry := family_of(kind)) is not None:
        if value[KIND] != (name := name_of_kind(kind, registry, where)):
            raise _misfit(f"{where}.{KIND}".lstrip("."), value[KIND], name)
        value = {key: part for key, part in value.items() if key != KIND}
    hints = fields_of(kind)
    for key in value:
        if key not in hints:
            raise ValueError(f"{where or kind.__name__} has no {key!r}: {nearest(str(key), hints)}")
    missing = [f.name for f in _written(kind) if f.default is f.default_factory is dataclasses.MISSING]
    missing = [name for name in missing if name not in value]
    if needed := [name for name in missing if type(None) not in members(hints[name])]:
        raise ValueError(f"{where or kind.__name__} lacks {', '.join(needed)}: say what it is")
    value = dict.fromkeys(missing) | dict(value)
    given = {
        key: from_plain(hints[key], part, f"{where}.{key}".lstrip("."), trust=trust) for key, part in value.items()
    }
    return _at("", lambda fields: kind(**fields), given)


def _scalar(kind: Hint, value: object, where: str) -> Any:
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return value
    named = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
    if type(value) is not kind:
        raise _misfit(where, value, named.get(kind, getattr(kind, "__name__", str(kind))))
    return value
