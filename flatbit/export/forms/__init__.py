"""Forms of an ONNX file, by name: one file each, found here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...registry import Registry
from ..onnx_graph import OnnxGraph
from ..program import Program


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Request:
    """What a form builds from.

    Attributes:
        batch: of the file, where a form fixes it.
        container: of codes, "bits" or "int8"; None where it was not said.
        prepare: from uint8 pixels to what the model takes; None where it takes floats.
    """

    program: Program
    batch: int
    container: str | None = None
    prepare: Callable[[Tensor], Tensor] | None = None

    def refuse(self, form: str, *settings: str) -> None:
        """Raise ValueError where a setting was given that cannot act on a form."""
        for name in settings:
            if getattr(self, name) is not None:
                raise ValueError(f"{name}= cannot act on the form {form!r}: leave it out")


FORMS: Registry[Callable[[Request, OnnxGraph], None]] = Registry("form", __name__)
"""Each adds a program to an empty graph."""
