"""flatbit report: the page of finished runs, written anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...engine.record import RECORD, read_run
from ...report.page import write_page
from .. import COMMANDS
from ..command import command_of
from ..console import DataDir, Json, Out, Trust, show


def write_report(
    run: Annotated[Path, typer.Argument(help="A run's folder, or the folder of several seeds.")],
    data_dir: DataDir = None,
    trust: Trust = False,
    out: Out = None,
    json: Json = False,
) -> None:
    """Write the page of a run, or of several seeds, anew: what was exported since stands in it.

    Without --out it goes to RUN/report.html.

    `flatbit report runs/quickstart`
    """
    folders = [run] if (run / RECORD).is_file() else [path.parent for path in sorted(run.glob(f"seed*/{RECORD}"))]
    if not folders:
        raise ValueError(f"no run in {run}: neither it nor a folder seedN in it has a {RECORD}")
    runs = sorted((read_run(folder, trust=trust) for folder in folders), key=lambda each: each.record.seed)
    page = write_page(runs, out or run / "report.html", data_root=data_dir, command=command_of(runs))
    show(str(page), str(page), json)


COMMANDS.add("report", write_report)
