"""Figures: the only folder that draws. Each function takes results and returns a matplotlib figure.

An analysis of one model, or of several, has its figure beside it here, under a name that ``flatbit analyze`` knows.
It is one file, of this folder or of a user's own::

    ANALYSES.add("weights", compute, draw)
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from ..registry import Registry, nearest
from ..settings import bound

if TYPE_CHECKING:
    from matplotlib.figure import Figure


KEEP = "keep"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """What can be found out about a model, or about several side by side, and its picture.

    Attributes:
        compute: ``compute(model, data)``, a frozen dataclass of what it found, which its return annotation names; the
            model, a ``nn.Module`` on any device, stays as it was. Raises ValueError where model or data do not fit.
            Its arguments by keyword are settings; ``keep``, the folder of partial results (``measured_each``), is none.
        draw: ``draw(result, title=...)``, the figure of that result.
        needs_data: False where ``compute`` looks at the model alone: its ``data`` may then be None.
        several: True where ``compute`` takes models by name, a mapping, in place of a model.
    """

    compute: Callable[..., Any]
    draw: Callable[..., Figure]
    needs_data: bool = True
    several: bool = False

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of ``compute``, those given in place of its own. Raises ValueError where one is none of them."""
        names = self._by_keyword() - {KEEP}
        for name in given:
            if (head := name.partition(".")[0]) not in names:
                raise ValueError(f"no setting {head!r}: {nearest(head, names) if names else 'it has none'}")
        return {name: value for name, value in bound(self.compute, given).items() if name in names}

    @property
    def keeps(self) -> bool:
        """Whether it keeps partial results."""
        return KEEP in self._by_keyword()

    @property
    def result(self) -> type | None:
        """The dataclass of what it finds, as ``compute`` is annotated; None where it is not."""
        return typing.get_type_hints(self.compute).get("return")

    def _by_keyword(self) -> set[str]:
        parameters = inspect.signature(self.compute).parameters.values()
        return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


@final
class Analyses(Registry[Analysis]):
    """Analyses by name; ``add`` takes the two functions of each."""

    def add(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        name: str,
        compute: Callable[..., Any],
        draw: Callable[..., Figure],
        *,
        needs_data: bool = True,
        several: bool = False,
    ) -> Analysis:
        """Register an analysis under ``name``, as ``Analysis`` says. Raises ValueError if the name is taken."""
        return super().add(name, Analysis(compute=compute, draw=draw, needs_data=needs_data, several=several))


ANALYSES = Analyses("analysis", __name__)
