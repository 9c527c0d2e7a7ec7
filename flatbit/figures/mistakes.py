"""Pictures of mistakes: the images that are misread, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from ..analysis.mistakes import Misread, misread
from ..data.batches import Data
from . import ANALYSES
from .style import INK, RIGHT, TITLE, WRONG, drawable, finish, panels, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 1.15  # inches
FEWEST, MOST = 5, 9  # columns: a title wants some room
LETTERS = 11  # of a network's name, below a picture


def misread_gallery(result: Misread, *, title: str) -> Figure:
    """The first images that any network gets wrong, with the truth and what each says; wrong answers in red.

    Args:
        result: from ``misread``.
        title: of the figure.
    """
    if not len(result.index):
        figure, (axes,) = panels(1, 1, 6.6, 0.5)
        axes.axis("off")
        axes.text(0, 0.5, f"Of {result.num_samples:,} images none is misread.", color=INK, fontsize=9)
        finish(figure, title)
        return figure
    columns = min(MOST, max(FEWEST, len(result.pictures)))
    figure, grid = panels(len(result.pictures), columns, WIDTH, _height(result))
    for i, axes in enumerate(grid):
        _draw(axes, result, i)
    finish(figure, title)
    return figure


def misread_pictures(result: Misread) -> list[Figure]:
    """The pictures of ``misread_gallery``, a figure each, without a title."""
    drawn = [panels(1, 1, WIDTH, _height(result) - TITLE) for _ in result.pictures]
    for i, (figure, (axes,)) in enumerate(drawn):
        _draw(axes, result, i)
        finish(figure, "")
    return [figure for figure, _ in drawn]


def misread_in_words(result: Misread, i: int) -> str:
    """What one of the pictures shows: ``test image 17, which is 3: float says 3, W2/A2 says 8``."""
    said = [f"{network} says {_name(result.class_names, answers[i])}" for network, answers in result.answers.items()]
    return f"test image {result.index[i]}, which is {_name(result.class_names, result.labels[i])}: {', '.join(said)}"


def _height(result: Misread) -> float:
    return 1.35 + 0.2 * len(result.answers)


def _draw(axes: Axes, result: Misread, i: int) -> None:
    """One picture, the truth above and the answers below."""
    axes.imshow(drawable(result.pictures[i : i + 1])[0], cmap="gray_r", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    truth = result.labels[i]
    axes.set_title(f"is {_name(result.class_names, truth)}", fontsize=9, color=INK)
    for line, (network, said) in enumerate(result.answers.items()):
        color = RIGHT if said[i] == truth else WRONG
        text = f"{shorten(network, LETTERS)}: {_name(result.class_names, said[i])}"
        axes.text(0.5, -0.16 - 0.2 * line, text, transform=axes.transAxes, ha="center", fontsize=8, color=color)


def _name(names: Sequence[str], label: int) -> str:
    """A class's name; its number where it has none, as an output has that is no class of the data."""
    return names[label] if label < len(names) else str(label)


def _of_one(model: nn.Module, data: Data) -> Misread:
    """Test images that a model gets wrong, and what it says."""
    return misread({"net": model}, data)


ANALYSES.add("mistakes", _of_one, misread_gallery)
