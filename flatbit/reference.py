"""References: what a stage starts from, or learns from, as a fact with a type instead of a name with a meaning.

start               the network as it is built, or the checkpoint that the run was given
stage:NAME          the network that an earlier stage left
stage:NAME.average  the average of that stage's captures
file:PATH           a model file, or the folder of a finished run
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from . import plain

AVERAGE = ".average"


@final
@dataclass(frozen=True, slots=True)
class From:
    """Where a network comes from.

    Attributes:
        kind: ``start``, ``stage`` or ``file``.
        name: of the stage, or the path of the file; empty for ``start``.
        average: of a stage: the average of its captures, in place of its last weights.

    Raises:
        ValueError: a part that the kind does not have, or lacks.
    """

    kind: Literal["start", "stage", "file"] = "start"
    name: str = ""
    average: bool = False

    def __post_init__(self) -> None:
        named = isinstance(self.name, str) and bool(self.name) == (self.kind != "start")
        if self.kind not in ("start", "stage", "file") or not named:
            raise ValueError(f"{self.kind}:{self.name}: expected start, stage:NAME, stage:NAME{AVERAGE} or file:PATH")
        if self.average and self.kind != "stage":
            raise ValueError(f"{self.kind}:{self.name}: only a stage has an average, stage:NAME{AVERAGE}")
        if self.kind == "stage" and self.name.endswith(AVERAGE):
            stage = self.name.removesuffix(AVERAGE)
            raise ValueError(f"stage {self.name!r}: expected a stage's own name: From.stage({stage!r}, average=True)")

    @classmethod
    def start(cls) -> From:
        """The network as it is built, or the checkpoint that the run was given."""
        return cls()

    @classmethod
    def stage(cls, name: str, *, average: bool = False) -> From:
        """The network that an earlier stage left, or the average of its captures."""
        return cls("stage", name, average)

    @classmethod
    def file(cls, path: str | Path) -> From:
        """A model file, or the folder of a finished run."""
        return cls("file", str(path))

    @classmethod
    def parse(cls, text: str) -> From:
        """Read ``start``, ``stage:NAME``, ``stage:NAME.average`` or ``file:PATH``. Raises ValueError."""
        if not isinstance(text, str):
            raise ValueError(f"{text!r}: expected start, stage:NAME, stage:NAME{AVERAGE} or file:PATH")
        kind, colon, name = text.partition(":")
        known = kind == "start" if not colon else kind in ("stage", "file") and name
        if not known:
            raise ValueError(f"{text!r}: expected start, stage:NAME, stage:NAME{AVERAGE} or file:PATH")
        if kind == "stage" and name.endswith(AVERAGE):
            return cls.stage(name.removesuffix(AVERAGE), average=True)
        return cls(kind, name)  # type: ignore[arg-type]

    def __str__(self) -> str:
        if self.kind == "start":
            return self.kind
        return f"{self.kind}:{self.name}" + (AVERAGE if self.average else "")


START = From.start()
plain.add_codec(From, str, From.parse)
