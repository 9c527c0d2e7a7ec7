"""Settings: the arguments of a function, built from names with dots and plain values, and held to its annotations.

``sharpness.rho=0.1`` sets a field of the part ``sharpness``, on top of what stands there by default;
``sharpness=none`` leaves the part out, ``sharpness=on`` takes it as it is by default.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import json
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin

from . import plain
from .plain import Hint
from .reference import From
from .registry import nearest

OFF, ON = "none", "on"
MADE_UP = ("other", "another", "file:other")
"""Texts that are tried in place of another, and are nobody's candidates."""


def bound(
    function: Callable[..., Any], given: Mapping[str, Any], usual: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The keyword arguments of a function, with what is given in place of what is usual.

    Args:
        function: keyword parameters, annotated; frozen dataclasses are parts with settings of their own.
        given: by name, ``weights``, or by place in a part, ``sharpness.rho``; plain values.
        usual: the same, in place of the function's own defaults.

    Raises:
        ValueError: an unknown name, a value that does not fit, a field of a part that is left out.
    """
    parameters = inspect.signature(function).parameters
    known = typing.get_type_hints(function)
    for name in given:
        if name.partition(".")[0] not in parameters:
            raise ValueError(f"no setting {name!r}: {nearest(name.partition('.')[0], parameters)}")
        head, _, field = name.partition(".")
        if field and _holds(given.get(head), field):
            raise ValueError(f"{name} is given twice, alone and in {head}={given[head]}: one of them cannot act")
    arguments = {}
    for name, parameter in parameters.items():
        kind = known.get(name, Any)
        default = None if parameter.default is parameter.empty else parameter.default
        if settings := _merged(_of(name, usual or {}), _of(name, given)):
            arguments[name] = _built(kind, name, default, settings)
        elif parameter.default is not parameter.empty:
            arguments[name] = default
    return arguments


def places(function: Callable[..., Any]) -> dict[str, Any]:
    """Every setting of a function by its place, with its annotation: those of the parts among them."""
    found: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(function).items():
        if name != "return":
            found |= _places(name, kind)
    return found


def alternatives(kind: Hint, value: object) -> list[Any]:
    """Other plain values that a setting of this annotation could have; some may be out of its range all the same."""
    value = OFF if value is None else value
    found = [other for member in plain.members(kind) for other in _examples(member, value)]
    return [other for other in found if other != value or isinstance(other, bool) != isinstance(value, bool)]


def check_that_all_act(
    function: Callable[..., Any],
    given: Mapping[str, Any],
    make: Callable[[Mapping[str, Any]], Any],
    fits: Callable[[Mapping[str, Any]], Any],
) -> Any:
    """What ``make`` makes of the settings, if every one acts: without it, or with another value, it would be other.

    Args:
        function: whose settings they are.
        given: by place.
        make: from settings to what they decide.
        fits: raises where the function's parameters do not take some settings.

    Raises:
        ValueError: a setting that could not act; whatever ``make`` raises for those that are given.
    """
    made, kinds = make(given), places(function)

    def same(others: Mapping[str, Any]) -> bool:
        return bool(_tried(lambda: make(others) == made))

    for place, value in given.items():
        rest = {key: setting for key, setting in given.items() if key != place}
        kind = kinds.get(place, Any)
        known = alternatives(type(value) if kind is Any else kind, value)
        fitting = [other for other in known if _tried(lambda to=rest | {place: other}: fits(to) or True)]
        untold = kind is Any and not known  # nothing to try in its place: it may be the default, said aloud
        settings = (rest, *(rest | {place: other} for other in fitting))
        if not untold and bool(known) == bool(fitting) and all(map(same, settings)):
            shown = [str(other) for other in fitting if other not in MADE_UP]
            tried = f", and with {' or '.join(shown)} in its place" if shown else ""
            raise ValueError(f"{place}={value} cannot act: the stages are the same without it{tried}: leave it out")
    return made


def _tried(call: Callable[[], Any]) -> Any:
    """What a call gives; None where it raises, for of values that nobody gave a user's part may raise anything."""
    try:
        return call()
    except Exception:
        return None


def part_of(kind: Hint) -> type | None:
    """The dataclass among the alternatives of an annotation, whose fields have places of their own."""
    parts = [member for member in plain.members(kind) if isinstance(member, type) and dataclasses.is_dataclass(member)]
    return parts[0] if len(parts) == 1 and not plain.has_codec(parts[0]) else None


def _places(place: str, kind: Hint) -> dict[str, Any]:
    found = {place: kind}
    if (part := part_of(kind)) is not None:
        for name, inner in _fields(part).items():
            found |= _places(f"{place}.{name}", inner)
    return found


def _fields(part: type) -> dict[str, Any]:
    """The annotations of a part's fields, by name, without those whose metadata say ``{"setting": False}``."""
    no_settings = {f.name for f in dataclasses.fields(part) if not f.metadata.get("setting", True)}
    return {name: kind for name, kind in plain.fields_of(part).items() if name not in no_settings}


def _holds(whole: object, field: str) -> bool:
    """Whether a mapping that is given for a part sets a field of it, or of a part in it."""
    head, _, inner = field.partition(".")
    return isinstance(whole, Mapping) and head in whole and (not inner or _holds(whole[head], inner))


def _of(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one parameter, by the rest of their place: ``""`` for the whole of it."""
    mine = {key: value for key, value in settings.items() if key.partition(".")[0] == name}
    return {key.partition(".")[2]: value for key, value in mine.items()}


def _merged(usual: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The settings of one parameter: those given, and of the usual ones those that they leave standing.

    A part that is usually off may have usual fields: they are there once it is on.
    """
    if "" in given and given[""] != ON:
        return given
    if "" not in usual or usual[""] not in (OFF, None):
        return usual | given
    return {place: setting for place, setting in usual.items() if place} | given if given else {"": OFF}


def _built(kind: Hint, name: str, default: object, settings: dict[str, Any]) -> Any:
    """One argument: the default, or the whole that is given, with the given fields set in it."""
    part, whole = part_of(kind), settings.get("", ON)
    inner = {place: setting for place, setting in settings.items() if place}
    if not inner:
        return _whole(kind, name, default, whole)
    if part is None:
        raise ValueError(f"{name} has no settings of its own, such as {next(iter(inner))!r}: it is {_named(kind)}")
    value = default if whole == ON else _whole(kind, name, default, whole)
    if whole != ON and not isinstance(value, part):
        said = OFF if value is None else whole
        raise ValueError(f"{name}={said} leaves that part out: {name}.{next(iter(inner))} cannot act: leave it out too")
    return _with(part, name, value, inner)


def _whole(kind: Hint, name: str, default: object, setting: object) -> Any:
    """The argument that one setting is the whole of."""
    part = part_of(kind)
    if setting is None or (setting == OFF and type(None) in plain.members(kind)):
        if kind is not Any and type(None) not in plain.members(kind):
            raise ValueError(f"{name}={OFF}: expected {_named(kind)}")
        return None
    if setting == ON and part is not None:
        return default if isinstance(default, part) else _with(part, name, None, {})
    if isinstance(setting, Mapping) and part is not None:
        return _with(part, name, None, setting)
    try:
        return plain.from_plain(kind, setting, name)
    except ValueError as error:
        if part is None:
            raise
        choices = [ON, *(choice for member in plain.members(kind) if member is not part for choice in _choices(member))]
        raise ValueError(
            f"{name}={setting!r}: it is a part with settings of its own: "
            f"{', '.join(f'{name}={choice}' for choice in choices)}, or {name}.FIELD=VALUE "
            f"({', '.join(_fields(part))})"
        ) from error


def _with(part: type, name: str, value: object, settings: Mapping[str, Any]) -> Any:
    """A part with some of its fields set; one that is not there yet has its class' defaults in the others."""
    kinds = _fields(part)
    for place in settings:
        if place.partition(".")[0] not in kinds:
            raise ValueError(f"no setting '{name}.{place}': {nearest(place.partition('.')[0], kinds)}")
    held = {key: getattr(value, key) for key in kinds} if isinstance(value, part) else _defaults(part)
    given = {place.partition(".")[0] for place in settings}
    made = {
        key: _built(kinds[key], f"{name}.{key}", held.get(key), _of(key, settings)) for key in kinds if key in given
    }
    if isinstance(value, part):
        return dataclasses.replace(value, **made)  # type: ignore[type-var]
    missing = [key for key in kinds if key not in held | made]
    if needed := [key for key in missing if type(None) not in plain.members(kinds[key])]:
        raise ValueError(f"{name} lacks {', '.join(needed)}: say what it is")
    return part(**dict.fromkeys(missing), **made)


def _defaults(part: Any) -> dict[str, Any]:
    """What the fields of a part are where nobody says: those that have to be said are not among them."""
    found = {}
    for field in dataclasses.fields(part):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return found


def _examples(kind: Hint, value: object) -> list[Any]:
    """Values of one annotation, near the given one where that is of its kind."""
    scalars: dict[Any, list[Any]] = {
        bool: [True, False], type(None): [OFF], str: ["other", "another"], From: ["start", "file:other"],
        int: [2, 10], float: [0.25, 0.5],
    }  # fmt: skip
    if kind in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return [value + 1, *([value - 1] if value > 0 else [])] if kind is int else [value / 2, value + 1.0]
    if kind in scalars:
        return scalars[kind]
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if get_origin(kind) in (tuple, list, collections.abc.Sequence):
        return _lists([member for member in get_args(kind) if member is not Ellipsis], value)
    if get_origin(kind) in (dict, collections.abc.Mapping):
        shorter = dict(list(value.items())[:-1]) if isinstance(value, Mapping) else {}
        return [
            shorter,
            *({key: part} for key, part in zip(*(_examples(k, None) for k in get_args(kind)), strict=False)),
        ]
    if part_of(kind) is not None:
        return [ON]
    registry = plain.family_of(kind) if isinstance(kind, type) else None
    return [] if registry is None else list(registry.names())


def _lists(kinds: list[Any], value: object) -> list[Any]:
    """Lists that are shorter, longer, or end otherwise."""
    held = list(value) if isinstance(value, list | tuple) else []
    last = kinds[-1] if kinds else str
    others = [[*held[:-1], other] for other in alternatives(last, held[-1])[:1]] if held else []
    longer = [[*held, other] for other in alternatives(last, None)[:1]]
    return [*([held[:-1]] if held else []), *others, *longer]


def _named(kind: Hint) -> str:
    """An annotation in words."""
    return " or ".join(choice for member in plain.members(kind) for choice in _choices(member))


def _choices(kind: Hint) -> list[str]:
    """One alternative of an annotation in words."""
    if get_origin(kind) is Literal:
        return [*map(str, get_args(kind))]
    return [OFF if kind is type(None) else getattr(kind, "__name__", str(kind))]


def as_options(option: str, settings: Mapping[str, Any]) -> list[str]:
    """Settings as a line of the command line gives them: ``["--set", "weights=2", "--set", "clr=none"]``."""
    return [word for name, value in settings.items() for word in (option, f"{name}={_as_text(value)}")]


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
