"""Ways to run a training step: eager, as a CUDA graph, compiled, or both; and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from ..registry import nearest

Precision = Literal["float32", "tf32", "bf16"]
PRECISIONS = get_args(Precision)
AUTO, STACKED = "auto", "stacked"


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How a stage's updates are run. All ways compute the same update, up to the rounding of sums.

    Attributes:
        graphs: the kernels of one update are captured as a CUDA graph and replayed, without Python between them.
        compiled: the network's forward and backward are compiled (``torch.compile``).
        precision: of products in training: ``tf32`` rounds what convolutions and matrix products read to 10 bits of
            mantissa, ``bf16`` runs the network under autocast. Steps, clips, statistics, losses and
            the optimizer stay in float32, and so does all evaluation.
        recompute: quantized tensors are computed again in the backward pass (``recomputed_outputs``): less memory, the
            same numbers.
        stacked: how many nets, at most, were trained as one by each call (seeds of one recipe); 1 for each by itself.

    Raises:
        ValueError: an unknown precision; ``recompute`` where a compiler decides what is computed again; stacked nets in
            another way than eagerly.
    """

    graphs: bool = False
    compiled: bool = False
    precision: Precision = "float32"
    recompute: bool = False
    stacked: int = 1

    def __post_init__(self) -> None:
        if self.stacked < 1 or (self.stacked > 1 and self.engine != "eager"):
            raise ValueError(f"{self.stacked} stacked nets by engine {self.engine}: expected 1 or more, by eager")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision {self.precision!r}: {nearest(str(self.precision), PRECISIONS)}")
        if self.recompute and self.compiled:
            raise ValueError(
                f"recompute with engine {self.engine} cannot act: the compiler decides that itself: leave one out"
            )

    @classmethod
    def parse(cls, engine: str, precision: Precision = "float32") -> Way:
        """The way that one of ``ENGINES`` names. Raises ValueError for any other name."""
        if engine not in ENGINES:
            raise ValueError(f"engine {engine!r}: {nearest(engine, (AUTO, STACKED, *ENGINES))}")
        graphs, compiled = ENGINES[engine]
        return cls(graphs=graphs, compiled=compiled, precision=precision)

    @property
    def engine(self) -> str:
        """Its name among ``ENGINES``."""
        return next(name for name, axes in ENGINES.items() if axes == (self.graphs, self.compiled))

    def __str__(self) -> str:
        said = [self.engine, self.precision * (self.precision != "float32"), "recompute" * self.recompute]
        return ", ".join(filter(None, [*said, f"{self.stacked} nets stacked" * (self.stacked > 1)]))

    def check(self, device: torch.device | str) -> None:
        """Raise ValueError where a device cannot run a step so, with the next best."""
        kind = torch.device(device).type
        if kind == "cuda":
            return
        if self.graphs:
            instead = "compiled" if self.compiled else "eager"
            raise ValueError(f"engine {self.engine} needs a CUDA device, and this run is on {kind}: take {instead}")
        if self.precision == "tf32":
            raise ValueError(f"precision tf32 is of CUDA devices, and this run is on {kind}: take float32")

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Where the network's forward runs."""
        return torch.autocast(device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()


ENGINES = {
    "eager": (False, False),
    "graphs": (True, False),
    "compiled": (False, True),
    "compiled-graphs": (True, True),
}
"""The names of ways, and their axes ``(graphs, compiled)``."""

EAGER = Way()


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a user wants of the engine.

    Attributes:
        engine: one of ``ENGINES``; ``auto`` tries those that the device has; None: ``auto`` on CUDA, else ``eager``;
            ``stacked``, of several nets only.
        precision: of products in training.
        recompute: whether quantized tensors are computed again in the backward pass.
    """

    engine: str | None = None
    precision: Precision = "float32"
    recompute: bool = False

    def way(self, device: torch.device | str) -> Way | None:
        """The way on a device; None where it is to be tried out.

        Raises ValueError for an engine or a precision that is unknown, or that the device or a single net has not.
        """
        if self.engine == STACKED:
            raise ValueError(f"engine {STACKED} trains several seeds as one: give --seeds, or take {EAGER.engine}")
        tried = self.engine == AUTO or (self.engine is None and torch.device(device).type == "cuda")
        way = Way.parse(EAGER.engine if tried else self.engine or EAGER.engine, self.precision)
        way = replace(way, recompute=self.recompute)
        way.check(device)
        return None if tried else way

    @property
    def simplest(self) -> Way:
        """Eager, with all else as asked: what other ways are compared with."""
        return Way(precision=self.precision, recompute=self.recompute)

    @property
    def alone(self) -> Asked:
        """What is wanted of nets that are trained one at a time."""
        return replace(self, engine=EAGER.engine) if self.engine == STACKED else self

    def way_on(self, way: Way, device: torch.device) -> Way:
        """How a stage goes on that was begun in a way: as it was; as is asked now where this device cannot do that.

        Raises ValueError where another way is asked that is not needed, or where none can be.
        """
        try:
            way.check(device)
        except ValueError:
            return self.way(device) or self.simplest
        same = (self.precision, self.recompute) == (way.precision, way.recompute)
        if not same or self.engine not in (None, AUTO, way.engine):
            raise ValueError(f"it was begun with engine {way}: give that, or another --out")
        return way


FREE = Asked()
"""As suits the device, in float32."""


def compiled_too(engine: str | None) -> str:
    """The engine that is compiled besides. Raises ValueError for ``auto``, which finds that out itself, and a stack."""
    if engine == AUTO:
        raise ValueError("--compile with --engine auto cannot act: auto finds out whether it pays: leave one out")
    if engine == STACKED:
        raise ValueError(f"--compile with --engine {STACKED} cannot act: a stack is trained eagerly: leave one out")
    return replace(Way.parse(engine or EAGER.engine), compiled=True).engine
