"""One self-contained HTML page from run folders: table, exported files, curves, weights, misread images."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import nn

from .. import data as datasets
from ..analysis.mistakes import misread
from ..analysis.segmentation import segments
from ..analysis.weights import WeightHistograms, weight_histograms
from ..atomic import replacing
from ..data.batches import Data
from ..engine.record import Run
from ..figures.accuracy import accuracy_against_cost, learning_curves
from ..figures.mistakes import misread_gallery
from ..figures.segmentation import segment_gallery
from ..figures.style import to_svg
from ..figures.weights import weight_panels
from ..files import load
from ..metrics.scores import LABELS
from .summary import StageSummary, summarize
from .training import trainings

MOST_LAYERS = 9
SEGMENTED = 4


def write_page(runs: Sequence[Run], path: str | Path, *, data_root: str | Path | None = None) -> Path:
    """Write the report of runs of one recipe (one per seed) to an HTML file; it needs nothing beside itself.

    Args:
        runs: finished runs; pictures come from the first.
        path: the file.
        data_root: where the data set's files are, for the pictures of images.

    Raises:
        ValueError: runs of different recipes, or none.
    """
    path = Path(path)
    rows = summarize(runs)
    record = runs[0].record
    environment = Environment(loader=PackageLoader("flatbit.report", "."), autoescape=True, undefined=StrictUndefined)
    html = environment.get_template("page.html.j2").render(
        title=f"flatbit: {record.recipe.name}",
        record=record,
        rows=rows,
        trainings=trainings(record),
        seeds=[run.record.seed for run in runs],
        exports=[(run.record.seed, found) for run in runs for found in run.record.exports.values()],
        today=date.today().isoformat(),
        figures=_figures(runs, rows),
        weights=_weight_figures(runs[0]),
        label=f"{LABELS[rows[0].metric]}, %",
        misread=_misread_figure(runs[0], rows, data_root),
        segments=_segments_figure(runs[0], rows, data_root),
        proofs={name: entry.test.proof.as_dict() for name, entry in record.stages.items()},
    )
    with replacing(path) as partial:
        partial.write_text(html, encoding="utf-8")
    return path


def _figures(runs: Sequence[Run], rows: Sequence[StageSummary]) -> dict[str, str]:
    label = f"{LABELS[rows[0].metric]}, %"
    names = _point_names(rows)
    by_bitops = [
        (name, row.bits, row.bitops / 1e6, row.score, row.spread) for name, row in zip(names, rows, strict=True)
    ]
    by_bytes = [
        (name, row.bits, row.size_bytes / 1000, row.score, row.spread) for name, row in zip(names, rows, strict=True)
    ]
    curves = {row.stage: _curves(runs, row.stage, row.metric) for row in rows}
    drawn = {
        "bitops": accuracy_against_cost(
            by_bitops,
            x_label="bit-operations of one image, millions",
            y_label=label,
            title="Accuracy against arithmetic",
        ),
        "bytes": accuracy_against_cost(
            by_bytes, x_label="model size, kB", y_label=label, title="Accuracy against size"
        ),
    }
    if any(epochs for epochs, _ in curves.values()):
        drawn["learning"] = learning_curves(
            curves, title=f"{_looked_at(runs[0])} by epoch: each seed, and the mean", y_label=label
        )
    return {name: to_svg(drawing) for name, drawing in drawn.items()}


def _point_names(rows: Sequence[StageSummary]) -> list[str]:
    """The method of each stage, whose bits a line joins; the stages' own names where some have the same of both."""
    kinds = {(row.method, row.bits) for row in rows}
    return [row.method if len(kinds) == len(rows) else row.stage for row in rows]


def _curves(runs: Sequence[Run], stage: str, metric: str) -> tuple[list[int], list[list[float]]]:
    """The epochs of a stage that the test set was looked at after, and what each run had there."""
    scores = [{epoch.epoch: epoch.score(metric) for epoch in run.record.stages[stage].epochs} for run in runs]
    seen = [{epoch: score for epoch, score in found.items() if score is not None} for found in scores]
    return [*seen[0]], [[*found.values()] for found in seen]


def _looked_at(run: Run) -> str:
    """Whose score epochs have."""
    splits = run.record.recipe.splits
    return "Accuracy on held-out training images" if splits and splits.held_out else "Test accuracy"


def _weight_figures(run: Run) -> dict[str, str]:
    drawn = {}
    for name in run.record.stages:
        layers = weight_histograms(stage_model(run, name)).layers[:MOST_LAYERS]
        if layers:
            title = f"{name}: latent weights and their levels"
            drawn[name] = to_svg(weight_panels(WeightHistograms(layers=layers), title=title))
    return drawn


def _misread_figure(run: Run, rows: Sequence[StageSummary], data_root: str | Path | None) -> dict[str, Any] | None:
    """The first stage's (float) and the last stage's misread test images, side by side."""
    if len(rows) < 2:
        return None
    data = _data_of(run, data_root)
    if data.task != "classification" or len(data.image_shape) != 3:
        return None
    first, last = rows[0], rows[-1]
    short = [first.method, last.bits if last.method != "float" else "float"]
    names = short if short[0] != short[1] else [first.stage, last.stage]
    stages = zip(names, (first, last), strict=True)
    result = misread({name: stage_model(run, row.stage) for name, row in stages}, data)
    return {
        "svg": to_svg(misread_gallery(result, title="The first of the test images that either misreads")),
        "first": first.stage,
        "last": last.stage,
        "first_wrong": result.num_wrong[names[0]],
        "last_wrong": result.num_wrong[names[1]],
        "num_samples": result.num_samples,
    }


def _segments_figure(run: Run, rows: Sequence[StageSummary], data_root: str | Path | None) -> str | None:
    """The first test images, the truth, and what each stage says."""
    data = _data_of(run, data_root)
    if data.task != "segmentation":
        return None
    networks = {row.stage: stage_model(run, row.stage) for row in rows}
    result = segments(networks, data, num_images=SEGMENTED)
    return to_svg(segment_gallery(result, title="The first test images"))


def _data_of(run: Run, data_root: str | Path | None) -> Data:
    recipe = run.record.recipe
    return datasets.load(recipe.data, data_root, **recipe.data_arguments)


def stage_model(run: Run, stage: str) -> nn.Module:
    """The model that a finished stage left, in eval mode on the CPU."""
    return load(run.stage_file(stage))
