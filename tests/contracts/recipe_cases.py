"""Every setting of a recipe, what it is by default, what else it could be, and what it takes to be there."""

import dataclasses
from functools import cache

from flatbit import plain
from flatbit.recipes import RECIPES
from flatbit.settings import OFF, ON, alternatives, part_of, places

SITUATIONS = (
    {},
    {"weights": 8, "activations": 8},
    {"weights": 1, "activations": 1},
    {"weights": 8, "activations": 8, "pretraining": OFF},
    {"weights": 8, "activations": 8, "training.epochs": OFF},
    {"sharpness.method": "asaq", "sharpness.rho": 0.1},
)
"""Other settings under which one may act that does not by itself."""


def made(name, given):
    """The stages, if every given setting can act."""
    return RECIPES.get(name).recipe(name, given).stages


def unchecked(name, given):
    """The stages, whether every given setting acts on them or not."""
    registration = RECIPES.get(name)
    return registration.stages(**registration.arguments(given))


@cache
def settings_of(name):
    """Every setting's annotation and plain default by place; a part is on or off, a field of one that is off is off."""
    registration = RECIPES.get(name)
    held = dict.fromkeys(places(registration.stages)) | registration.arguments({})
    found = {}
    for place, kind in places(registration.stages).items():
        outer, _, key = place.rpartition(".")
        held[place] = getattr(held[outer], key, None) if outer else held[place]
        if held[place] is None:
            default = OFF
        elif isinstance(held[place], part_of(kind) or ()):
            default = ON
        else:
            default = plain.to_plain(held[place])
        found[place] = kind, default
    return found


def others(name, place):
    """What else a setting could be."""
    return alternatives(*settings_of(name)[place])


def is_off(name, place):
    """Whether the part that a setting is a field of is off by default."""
    outer = place.rpartition(".")[0]
    return bool(outer) and settings_of(name)[outer][1] != ON


def needed(name, place):
    """What has to be said so that the part is there that a setting is a field of, where it is off by default."""
    said, outer = {}, place.rpartition(".")[0]
    while outer and is_off(name, f"{outer}.x"):
        said |= {outer: ON}
        for field in dataclasses.fields(part_of(settings_of(name)[outer][0])):
            here = f"{outer}.{field.name}"
            if field.default is field.default_factory is dataclasses.MISSING and here != place:
                said[here] = others(name, here)[0]
        outer = outer.rpartition(".")[0]
    return said
