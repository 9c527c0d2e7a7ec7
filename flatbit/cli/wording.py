"""Wording: what the library says of its arguments, and typer of a line it cannot read, in words of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import typer

from ..recipes import RECIPES
from ..settings import places

UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # which typer has, and does not export
VALUE = r"'?((?:[^\s:,;()'=]|:(?=\S))+)'?"


@contextmanager
def options_named(options: Mapping[str, str]) -> Iterator[None]:
    """A ValueError within names options: of ``{"layers.placement": "--placement"}`` ``layers.placement='up'`` is
    ``--placement up``."""
    try:
        yield
    except ValueError as error:
        raise ValueError(with_options(str(error), options)) from error


def with_options(text: str, options: Mapping[str, str]) -> str:
    """A message with the options in place of the arguments, and of the calls of ``override``, that it names."""
    text = re.sub(r"(\w+)?\.override\(name, weights=32, activations=32\)", "--float NAME", text)
    text = re.sub(r"(\w+)?\.override\(['\"]([^'\"]+)['\"], ([^()]+)\)", r"--override '\2: \3'", text)
    text = text.replace(".override(...)", "--override").replace("strict=False", "--no-strict")
    if (said := re.match(r"override\((.+?)\): ", text)) is not None:
        return f"--override {said[1]}: {text[said.end() :]}"
    parts = re.split(r"(--override '[^']*')", text)
    return "".join(part if number % 2 else _renamed(part, options) for number, part in enumerate(parts))


def _renamed(text: str, options: Mapping[str, str]) -> str:
    """The text with ``place=value`` as ``option value``, ``place=`` alone as the option, and a dotted place too."""
    for place, option in sorted(options.items(), key=lambda pair: -len(pair[0])):
        name = rf"(?<![\w.'=/-]){re.escape(place)}"
        text = re.sub(rf"{name}={VALUE}", rf"{option} \1", text)
        text = re.sub(rf"{name}=(?=[\s,:)]|$)", option, text)
        if "." in place:
            text = re.sub(rf"{name}\b(?![.=])", option, text)
    return text


def usage_in_words(error: Exception, words: Sequence[str]) -> str:
    """What is wrong with a line that cannot be read, and what to do, in one line."""
    verb = next((word for word in words if not word.startswith("-")), "")
    says = error.format_message() if hasattr(error, "format_message") else str(error)  # type: ignore[attr-defined]
    said = " ".join(str(says).replace("Value error, ", "").split()).rstrip(".")
    option = str(getattr(error, "option_name", "")).strip("-").replace("-", "_")
    if verb == "run" and (settings := _settings_called(option, words)):
        return f"{said}: it is a setting of the recipe: {' or '.join(f'--set {place}=VALUE' for place in settings)}"
    context = getattr(error, "ctx", None)
    path = " ".join(context.command_path.split()[1:]) if context is not None else verb
    path = path if not path.startswith("-m flatbit") else path.removeprefix("-m flatbit").strip()
    return f"{said}: flatbit {f'{path} ' if path else ''}--help lists what there is"


def _settings_called(name: str, words: Sequence[str]) -> list[str]:
    """The settings of this name that the recipe among some words has, by place."""
    recipe = next((word for word in words if word in RECIPES.names()), None)
    if not name or recipe is None:
        return []
    return [place for place in places(RECIPES.get(recipe).stages) if place.rpartition(".")[2] == name]
