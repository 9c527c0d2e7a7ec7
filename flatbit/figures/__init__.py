"""Figures: the only folder that draws. Each function takes results and returns a matplotlib figure.

An analysis of one model has its figure beside it here, under a name that ``flatbit analyze`` knows. It is one
file, of this folder or of a user's own::

    ANALYSES.add("weights", compute, draw)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from torch import nn

from ..registry import Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """What can be found out about a model, and its picture.

    Attributes:
        compute: ``compute(model, data)``, a frozen dataclass of what it found; the model, a ``nn.Module`` on any
            device, stays as it was. Raises ValueError where model or data do not fit.
        draw: ``draw(result, title=...)``, the figure of that result.
        needs_data: False where ``compute`` looks at the model alone: its ``data`` may then be None.
    """

    compute: Callable[[nn.Module, Any], Any]
    draw: Callable[..., Figure]
    needs_data: bool = True


@final
class Analyses(Registry[Analysis]):
    """Analyses by name; ``add`` takes the two functions of each."""

    def add(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        name: str,
        compute: Callable[[nn.Module, Any], Any],
        draw: Callable[..., Figure],
        *,
        needs_data: bool = True,
    ) -> Analysis:
        """Register an analysis under ``name``, as ``Analysis`` says. Raises ValueError if the name is taken."""
        return super().add(name, Analysis(compute=compute, draw=draw, needs_data=needs_data))


ANALYSES = Analyses("analysis", __name__)
