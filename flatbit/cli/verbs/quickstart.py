"""flatbit quickstart: real digits, one small network, 32 bits to 1."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...engine.run import run
from ...recipes import RECIPES
from ...report.page import write_page
from ...report.summary import as_json, summarize, table_of
from .. import COMMANDS
from ..console import Json, say, show


def quickstart(
    out: Annotated[Path, typer.Option(help="The folder for runs and report.html.")] = Path("runs/quickstart"),
    seeds: Annotated[int, typer.Option(help="How many seeds, for mean and spread.")] = 3,
    resume: Annotated[bool, typer.Option(help="Go on with runs that are in --out.")] = False,
    smoke: Annotated[bool, typer.Option(help="Two updates per stage: does it run at all.")] = False,
    json: Json = False,
) -> None:
    """Train a small network on real handwritten digits and bring it to 8, 4, 2 and 1 bits.

    About a minute on two cores. Trains a pre-activation ResNet-8 in float, then FAQ at 8 and 4 bits and UNIQ
    at 4, 2 and 1, weights and activations alike; prints one table and writes report.html.
    """
    if seeds < 1:
        raise ValueError(f"--seeds {seeds}: expected at least 1")
    recipe = RECIPES.get("quickstart")()
    runs = []
    for seed in range(seeds):
        say(f"seed {seed}")
        runs.append(run(recipe, out / f"seed{seed}", seed=seed, resume=resume, smoke=smoke, say=say))
    rows = summarize(runs)
    show(table_of(rows, "digits, preresnet8"), as_json(rows), json)
    page = write_page(runs, out / "report.html")
    say(f"report: {page}")


COMMANDS.add("quickstart", quickstart)
