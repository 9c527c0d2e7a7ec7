"""One self-contained HTML page from run folders: table, curves, weights, misread images, conventions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import nn

from .. import data as datasets
from ..analysis.mistakes import misread
from ..analysis.segmentation import segments
from ..analysis.weights import weight_histograms
from ..atomic import replacing
from ..data.batches import Data
from ..engine.run import Run
from ..figures import style as figure
from ..files import load
from ..metrics.scores import LABELS
from .summary import Row, summarize
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
        title=f"flatbit: {record['recipe']['name']}",
        record=record,
        rows=rows,
        trainings=trainings(record),
        seeds=[run.record["seed"] for run in runs],
        today=date.today().isoformat(),
        figures=_figures(runs, rows),
        weights=_weight_figures(runs[0]),
        label=f"{LABELS[rows[0].metric]}, %",
        misread=_misread_figure(runs[0], rows, data_root),
        segments=_segments_figure(runs[0], rows, data_root),
        proofs={name: entry["test"]["levels"] for name, entry in record["stages"].items()},
    )
    with replacing(path) as partial:
        partial.write_text(html, encoding="utf-8")
    return path


def _figures(runs: Sequence[Run], rows: Sequence[Row]) -> dict[str, str]:
    label = f"{LABELS[rows[0].metric]}, %"
    names = _point_names(rows)
    by_bitops = [
        (name, row.bits, row.bitops / 1e6, row.score, row.spread) for name, row in zip(names, rows, strict=True)
    ]
    by_bytes = [
        (name, row.bits, row.size_bytes / 1000, row.score, row.spread) for name, row in zip(names, rows, strict=True)
    ]
    curves = {row.stage: _curves(runs, row.stage, f"test_{row.metric}") for row in rows}
    drawn = {
        "bitops": figure.accuracy_against_cost(
            by_bitops,
            x_label="bit-operations of one image, millions",
            y_label=label,
            title="Accuracy against arithmetic",
        ),
        "bytes": figure.accuracy_against_cost(
            by_bytes, x_label="model size, kB", y_label=label, title="Accuracy against size"
        ),
    }
    if any(epochs for epochs, _ in curves.values()):
        drawn["learning"] = figure.learning_curves(
            curves, title="Test accuracy by epoch: each seed, and the mean", y_label=label
        )
    return {name: figure.to_svg(drawing) for name, drawing in drawn.items()}


def _point_names(rows: Sequence[Row]) -> list[str]:
    """The method of each stage, whose bits a line joins; the stages' own names where some have the same of both."""
    kinds = {(row.method, row.bits) for row in rows}
    return [row.method if len(kinds) == len(rows) else row.stage for row in rows]


def _curves(runs: Sequence[Run], stage: str, key: str) -> tuple[list[int], list[list[float]]]:
    """The epochs of a stage that the test set was looked at after, and what each run had there."""
    seen = [[epoch for epoch in run.record["stages"][stage]["epochs"] if key in epoch] for run in runs]
    return [epoch["epoch"] for epoch in seen[0]], [[epoch[key] for epoch in epochs] for epochs in seen]


def _weight_figures(run: Run) -> dict[str, str]:
    drawn = {}
    for name in run.record["stages"]:
        histograms = weight_histograms(stage_model(run, name))
        if histograms:
            title = f"{name}: latent weights and their levels"
            drawn[name] = figure.to_svg(figure.weight_panels(histograms[:MOST_LAYERS], title=title))
    return drawn


def _misread_figure(run: Run, rows: Sequence[Row], data_root: str | Path | None) -> dict[str, Any] | None:
    """The first stage's (float) and the last stage's misread test images, side by side."""
    if len(rows) < 2:
        return None
    data = _data_of(run, data_root)
    if data.task != "classification" or len(data.image_shape) != 3:
        return None
    first, last = rows[0], rows[-1]
    result = misread(stage_model(run, first.stage), stage_model(run, last.stage), data.test_batches())
    names = data.class_names or [str(label) for label in range(data.num_classes)]
    short = last.bits if last.method != "float" else "float"
    pictures = data.pictures(result.index[: figure.MOST_MISREAD])
    drawn = figure.misread_gallery(result, drawable(pictures), names, first=first.method, second=short)
    return {
        "svg": figure.to_svg(drawn),
        "first": first.stage,
        "last": last.stage,
        "first_wrong": int((result.first != result.labels).sum()),
        "last_wrong": int((result.second != result.labels).sum()),
        "num_samples": result.num_samples,
    }


def _segments_figure(run: Run, rows: Sequence[Row], data_root: str | Path | None) -> str | None:
    """The first test images, the truth, and what each stage says."""
    data = _data_of(run, data_root)
    if data.task != "segmentation":
        return None
    networks = {row.stage: stage_model(run, row.stage) for row in rows}
    result = segments(networks, data.test_batches(SEGMENTED), num_images=SEGMENTED)
    pictures = drawable(data.pictures(range(len(result.truth))))
    names = data.class_names or [str(label) for label in range(data.num_classes)]
    return figure.to_svg(figure.segment_gallery(result, pictures, names))


def _data_of(run: Run, data_root: str | Path | None) -> Data:
    recipe = run.record["recipe"]
    return datasets.load(recipe["data"], data_root, **recipe["data_arguments"])


def stage_model(run: Run, stage: str) -> nn.Module:
    """The model that a finished stage left, in eval mode on the CPU."""
    return load(run.folder / "stages" / f"{stage}.safetensors")


def drawable(images: np.ndarray) -> np.ndarray:
    """Images (n, C, H, W) as matplotlib wants them: (n, H, W) where grey, (n, H, W, 3) where coloured."""
    return images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1)
