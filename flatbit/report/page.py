"""One self-contained HTML page from run folders: table, exported files, curves, weights, misread images."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..atomic import replacing
from ..engine.record import Run
from ..figures.weights import NOTE
from ..metrics.scores import LABELS
from .pictures import cost_pictures, learning_pictures, misread_stages, segment_picture, weight_pictures
from .summary import summarize
from .training import trainings


def write_page(
    runs: Sequence[Run], path: str | Path, *, data_root: str | Path | None = None, command: str | None = None
) -> Path:
    """Write the report of runs of one recipe (one per seed) to an HTML file; it needs nothing beside itself.

    Args:
        runs: finished runs; pictures come from the first.
        path: the file.
        data_root: where the data set's files are, for the pictures of images.
        command: the line that makes such runs, where there is one.

    Raises:
        ValueError: runs of different recipes, or none.
    """
    path = Path(path)
    rows = summarize(runs)
    record = runs[0].record
    environment = Environment(
        loader=PackageLoader("flatbit.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    html = environment.get_template("page.html.j2").render(
        title=f"{record.recipe.name}: {record.recipe.model} on {record.recipe.data}",
        command=command,
        record=record,
        rows=rows,
        trainings=trainings(record),
        seeds=[run.record.seed for run in runs],
        exports=[(run.record.seed, found) for run in runs for found in run.record.exports.values()],
        today=date.today().isoformat(),
        costs=cost_pictures(runs, rows),
        learning=learning_pictures(runs, rows),
        weights=weight_pictures(runs[0]),
        weights_note=NOTE,
        metric=LABELS[rows[0].metric],
        held_out=bool(record.recipe.splits and record.recipe.splits.held_out),
        misread=misread_stages(runs[0], rows, data_root),
        segments=segment_picture(runs[0], rows, data_root),
        proofs={name: entry.test.proof.as_dict() for name, entry in record.stages.items()},
    )
    with replacing(path) as partial:
        partial.write_text(html, encoding="utf-8")
    return path
