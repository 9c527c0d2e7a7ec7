"""The pictures of a page: accuracy against cost, learning, weights, misread images, segments; each says what it shows.

What is one figure of many panels elsewhere is a picture per panel here, which a narrow screen puts below each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from .. import data as datasets
from ..analysis.mistakes import misread
from ..analysis.segmentation import segments
from ..analysis.weights import WeightHistogram, WeightHistograms, weight_histograms
from ..data.batches import Data
from ..engine.record import Run
from ..figures.accuracy import Point, accuracy_against_cost, learning_curves
from ..figures.mistakes import misread_in_words, misread_pictures
from ..figures.segmentation import segment_gallery
from ..figures.style import colors_of, to_svg
from ..figures.weights import weight_panels
from ..files import load
from ..metrics.scores import LABELS
from ..quant.convention import Convention
from .summary import StageSummary

MOST_LAYERS = 9
SEGMENTED = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class MisreadPictures:
    """Test images that the first (float) or the last stage misreads.

    Attributes:
        svgs: a picture each, of the first of them.
        first, last: the stages; ``first_wrong``, ``last_wrong``: how many each misreads of ``num_samples``.
        num_misread: how many either misreads.
    """

    svgs: tuple[str, ...]
    first: str
    last: str
    first_wrong: int
    last_wrong: int
    num_misread: int
    num_samples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightPictures:
    """The first layers of a stage that are quantized, a picture each, of ``num_layers``."""

    svgs: tuple[str, ...]
    num_layers: int


def cost_pictures(runs: Sequence[Run], rows: Sequence[StageSummary]) -> tuple[str, ...]:
    """Accuracy against bit-operations and against bytes."""
    conventions = [runs[0].record.stages[row.stage].test.convention for row in rows]
    lines = _lines(rows, conventions)
    colors, label = colors_of(row.method for row in rows), _label(rows)
    costs = {
        ("Accuracy against arithmetic", "bit-operations of one image, millions"): [row.bitops / 1e6 for row in rows],
        ("Accuracy against size", "model size, kB"): [row.size_bytes / 1000 for row in rows],
    }
    drawn = []
    for (title, x_label), cost in costs.items():
        points = [
            Point(method=row.method, line=line, label=text, cost=x, score=row.score, spread=row.spread)
            for row, line, text, x in zip(rows, lines, _labels(rows, conventions), cost, strict=True)
        ]
        said = "; ".join(f"{p.method} {p.label}: {p.score:.2f} at {p.cost:,.1f}" for p in points)
        figure = accuracy_against_cost(points, colors, x_label=x_label, y_label=label, title=title)
        drawn.append(to_svg(figure, f"{title}: {label} over {x_label}. {said}"))
    return tuple(drawn)


def _label(rows: Sequence[StageSummary]) -> str:
    return f"{LABELS[rows[0].metric]}, %"


def _have_bits_of_their_own(rows: Sequence[StageSummary]) -> bool:
    """Whether no two stages have one method and the same bits, as calibrated and fine-tuned ones do."""
    return len({(row.method, row.bits) for row in rows}) == len(rows)


def _lines(rows: Sequence[StageSummary], conventions: Sequence[Convention]) -> list[int]:
    """A number per net, the same where a line may join them: one convention at other widths."""
    if not _have_bits_of_their_own(rows):
        return [*range(len(rows))]
    return [next(j for j, one in enumerate(conventions) if one.differs_in_bits_alone(net)) for net in conventions]


def _labels(rows: Sequence[StageSummary], conventions: Sequence[Convention]) -> list[str]:
    """The bits of each point, or its stage where they are not its own; float edges are named."""
    names = [row.bits if _have_bits_of_their_own(rows) else row.stage for row in rows]
    edges = [", float edges" if net.has_float_edges else "" for net in conventions]
    return [name + edge for name, edge in zip(names, edges, strict=True)]


def learning_pictures(runs: Sequence[Run], rows: Sequence[StageSummary]) -> tuple[str, ...]:
    """The score by epoch of each stage that trained, each seed's and their mean."""
    methods, drawn = colors_of(row.method for row in rows), []
    for row in rows:
        epochs, values = _curves(runs, row.stage, row.metric)
        if epochs:
            ends = [sum(found[at] for found in values) / len(values) for at in (0, -1)]
            said = f"{ends[0]:.2f} after epoch {epochs[0]}, {ends[1]:.2f} after epoch {epochs[-1]}"
            colors = {row.stage: methods[row.method]}
            figure = learning_curves({row.stage: (epochs, values)}, colors, title="", y_label=_label(rows))
            drawn.append(to_svg(figure, f"{row.stage}, {_label(rows)} by epoch: {said}"))
    return tuple(drawn)


def _curves(runs: Sequence[Run], stage: str, metric: str) -> tuple[list[int], list[list[float]]]:
    """The epochs of a stage that the test set was looked at after, and what each run had there."""
    scores = [{epoch.epoch: epoch.score(metric) for epoch in run.record.stages[stage].epochs} for run in runs]
    seen = [{epoch: score for epoch, score in found.items() if score is not None} for found in scores]
    return [*seen[0]], [[*found.values()] for found in seen]


def weight_pictures(run: Run) -> dict[str, WeightPictures]:
    """The latent weights of each stage's first layers, and the levels that they are rounded to."""
    found = {name: weight_histograms(stage_model(run, name)).layers for name in run.record.stages}
    return {
        name: WeightPictures(svgs=tuple(_weights(name, each) for each in layers[:MOST_LAYERS]), num_layers=len(layers))
        for name, layers in found.items()
        if layers
    }


def _weights(stage: str, layer: WeightHistogram) -> str:
    figure = weight_panels(WeightHistograms(layers=(layer,)), title="", note="")
    return to_svg(figure, f"{stage}, {layer.layer}: histogram of its weights, and their {layer.num_levels} levels")


def misread_stages(run: Run, rows: Sequence[StageSummary], data_root: str | Path | None) -> MisreadPictures | None:
    """The first stage's (float) and the last stage's misread test images; None where there are not two, nor images."""
    if len(rows) < 2:
        return None
    data = _data_of(run, data_root)
    if data.task != "classification" or len(data.image_shape) != 3:
        return None
    first, last = rows[0], rows[-1]
    names = next(pair for pair in _names(first, last) if pair[0] != pair[1])
    stages = zip(names, (first, last), strict=True)
    result = misread({name: stage_model(run, row.stage) for name, row in stages}, data)
    drawn = enumerate(misread_pictures(result))
    return MisreadPictures(
        svgs=tuple(to_svg(figure, misread_in_words(result, i)) for i, figure in drawn),
        first=first.stage,
        last=last.stage,
        first_wrong=result.num_wrong[names[0]],
        last_wrong=result.num_wrong[names[1]],
        num_misread=len(result.index),
        num_samples=result.num_samples,
    )


def _names(first: StageSummary, last: StageSummary) -> list[tuple[str, str]]:
    """What two stages may be called below a picture, the shortest words first."""
    return [(first.method, last.method), (first.bits, last.bits), (first.stage, last.stage)]


def segment_picture(run: Run, rows: Sequence[StageSummary], data_root: str | Path | None) -> str | None:
    """The first test images, the truth, and what each stage says; None where the data have no masks."""
    data = _data_of(run, data_root)
    if data.task != "segmentation":
        return None
    networks = {row.stage: stage_model(run, row.stage) for row in rows}
    result = segments(networks, data, num_images=SEGMENTED)
    said = f"The first {len(result.truth)} test images, the truth, and what these make of them: {', '.join(networks)}"
    return to_svg(segment_gallery(result, title=""), said)


def _data_of(run: Run, data_root: str | Path | None) -> Data:
    recipe = run.record.recipe
    return datasets.load(recipe.data, data_root, **recipe.data_arguments)


def stage_model(run: Run, stage: str) -> nn.Module:
    """The model that a finished stage left, in eval mode on the CPU."""
    return load(run.stage_file(stage))
