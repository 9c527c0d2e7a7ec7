"""Recipes: one run per file, found by name; ``flatbit run NAME`` runs them.

A recipe is a function of keyword parameters that returns a ``Recipe``; its docstring says what it
reproduces. A file of a user's own works the same way: ``flatbit run my_recipe.py``, with a function
called ``recipe``.
"""

from __future__ import annotations

from collections.abc import Callable

from ..engine.recipe import Recipe
from ..registry import Registry

RECIPES: Registry[Callable[..., Recipe]] = Registry("recipe", __name__)


def check_choice(parameter: str, value: object, known: tuple[object, ...]) -> None:
    """Raise ValueError unless ``value`` is one of the ``known`` ones."""
    if value not in known:
        choices = " or ".join(str(choice) for choice in known if choice is not None)
        raise ValueError(f"{parameter}={value!r}: expected {choices}")
