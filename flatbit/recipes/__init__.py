"""Recipes: one per file, found by name; ``flatbit run NAME`` runs them.

A recipe is a function of at most eight keyword parameters, bits and parts, that returns stages; its
docstring says what it reproduces. A registration gives it a name, a network, a data set, and what the
paper prints for these. A file of a user's own registers one the same way, or has a function ``recipe``
that returns a whole ``Recipe``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import plain
from ..engine.recipe import DESCENT, Recipe, Stage
from ..registry import Registry
from ..settings import OFF, bound, check_that_all_act

Stages = tuple[Stage, ...]
WIDTHS = ("weights", "activations")


def stage_of(**settings: Any) -> Stage:
    """A stage with these settings; with 0 epochs it only calibrates, and what only training has is left out."""
    if settings["epochs"]:
        return Stage(**settings)
    return Stage(**{key: value for key, value in settings.items() if key not in DESCENT})


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """A model and its arguments, in place of those of a registration.

    Attributes:
        model: a name for ``flatbit.models.build``; None keeps the registration's.
        arguments: of a model that is named: all of them; else in addition to the registration's.
    """

    model: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Printed:
    """What a paper prints for one network by bits: the smaller number of a weight's and an activation's.

    Attributes:
        values: by bits.
        only: the settings under which it is printed; elsewhere the setting has to be given.
    """

    values: Mapping[int, Any]
    only: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        settings = "".join(f"with {place}={value} " for place, value in self.only.items())
        return f"{settings}at {', '.join(map(str, self.values))} bits"


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """A recipe by name: which stages, of which network, on which data.

    Attributes:
        stages: the recipe's function, from settings to stages.
        model, model_arguments: the network, as ``flatbit.models.build`` takes it.
        data: the data set, as ``flatbit.data.load`` takes it.
        settings: in place of the function's own defaults, by place: ``{"training.epochs": 20}``. Fields of a part that
            stays off wait until it is on: ``{"clr": "none", "clr.epochs": 8}``.
        printed: settings that the paper prints for this network, by place; another network has none of them.
    """

    stages: Callable[..., Stages]
    model: str
    model_arguments: Mapping[str, Any] = field(default_factory=dict)
    data: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    printed: Mapping[str, Printed] = field(default_factory=dict)

    def recipe(
        self, name: str, given: Mapping[str, Any], network: Network = Network(), data: str | None = None
    ) -> Recipe:
        """The recipe with what is given in place of its defaults.

        Args:
            name: the recipe's.
            given: settings by place, plain values: ``{"weights": 2, "sharpness.rho": 0.1}``.
            network: another network.
            data: another data set.

        Raises:
            ValueError: an unknown setting, one that does not fit, or one that could not act.
        """
        own = {} if network.model else self.model_arguments
        return Recipe(
            name=name,
            model=network.model or self.model,
            model_arguments=dict(own) | dict(network.arguments),
            data=data or self.data,
            stages=self._acting(name, given, network),
            settings=plain.to_plain(given),
        )

    def _acting(self, name: str, given: Mapping[str, Any], network: Network) -> Stages:
        """The stages, if every given setting acts on them: without it, or with another value, they would be others."""
        try:
            return check_that_all_act(
                self.stages,
                given,
                lambda settings: self.stages(**self.arguments(settings, network)),
                lambda settings: self.arguments(settings, network),
            )
        except ValueError as error:
            raise ValueError(f"recipe {name!r}: {error}") from error

    def arguments(self, given: Mapping[str, Any], network: Network = Network()) -> dict[str, Any]:
        """The arguments of the function: its defaults, the registration's, what is printed, what is given.

        Raises ValueError for an unknown setting or one that does not fit.
        """
        usual = dict(self.settings)
        for place, printed in ({} if network.model else self.printed).items():
            usual |= self._as_printed(place, printed, given)
        try:
            return bound(self.stages, given, usual)
        except ValueError as error:
            lacking = [place for place in self.printed if str(error).startswith(f"{place.partition('.')[0]} lacks")]
            if not lacking:
                raise
            printed = "; ".join(f"{place} {self.printed[place]}" for place in lacking)
            raise ValueError(f"{error} (of {self.model} alone the paper prints {printed})") from error

    def _as_printed(self, place: str, printed: Printed, given: Mapping[str, Any]) -> dict[str, Any]:
        """The printed value by its place; nothing where it is given, or printed under other settings."""
        flat = dict(self.settings) | dict(given)
        part = place.partition(".")[0]
        left_out = part in flat and flat[part] in (OFF, None)
        if place in given or left_out or any(flat.get(key) != value for key, value in printed.only.items()):
            return {}
        widths = bound(self.stages, {key: flat[key] for key in WIDTHS if key in flat})
        bits = min(widths[key] for key in WIDTHS)
        return {place: printed.values[bits]} if bits in printed.values else {}


RECIPES: Registry[Registration] = Registry("recipe", __name__)
