"""Alike: subclasses of a layer class that compute what it computes, and so can be quantized as it.

Some only rename: nothing that their base's forward uses is theirs. Others write the forward anew and multiply as
the base does all the same (a cast, a log line), which nobody can read off a class: these are declared
(``table.add_subclass``), or known here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import nn

CASTING = ("timm.layers.linear.Linear",)
"""Classes of libraries whose forward only casts: under ``torch.jit.script`` timm's takes the input's dtype."""
HARMLESS = frozenset(
    ("__init__", "__doc__", "__module__", "__qualname__", "__annotations__", "__annotate__", "__annotate_func__",
     "__annotations_cache__", "__static_attributes__", "__firstlineno__", "__parameters__", "__orig_bases__",
     "__repr__", "__constants__", "extra_repr", "reset_parameters")
)  # fmt: skip
"""What a subclass may have of its own though its base has it too: no forward reads it."""


def base_of(kind: type, bases: Collection[type]) -> type[nn.Module] | None:
    """The nearest of some classes that a class is a subclass of, itself not counted; None where there is none."""
    return next((base for base in kind.__mro__[1:] if base in bases), None)


def computes_as(kind: type, base: type[nn.Module]) -> bool:
    """Whether a subclass is known to compute what its base does: it only renames, or casts."""
    if f"{kind.__module__}.{kind.__qualname__}" in CASTING:
        return True
    if kind.__module__.partition(".")[0] == "torch":
        return False  # torch's own subclasses are there for a reason: lazy, or read past their forward
    between = kind.__mro__[: kind.__mro__.index(base)]
    own = {name for each in between for name in vars(each)} - HARMLESS
    return own.isdisjoint(_used(base))


def narrowed(
    quantized: type[nn.Module], kind: type[nn.Module], made: Callable[[type[nn.Module]], nn.Module]
) -> type[nn.Module]:
    """The quantized class of a subclass of what ``quantized`` narrows: its forward, all else as the subclass has it.

    No module holds it under its name, where pickle would look for it: ``made`` makes an instance from ``kind``.
    """

    def reduce(self: Any) -> tuple[Any, ...]:
        return made, (kind,), self.__dict__

    body = {"__doc__": f"{kind.__name__}, quantized.", "__module__": __name__, "__reduce__": reduce}
    return type(f"Q{kind.__name__}", (quantized, kind), body)


def _used(base: type[nn.Module]) -> set[str]:
    """What a class's forward may use: all that it has, and what its constructor sets."""
    told = (vars(each).get(key, ()) for each in base.__mro__ for key in ("__constants__", "__annotations__"))
    return {*dir(base), "weight", "bias"}.union(*told)
