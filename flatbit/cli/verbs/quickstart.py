"""flatbit quickstart: real digits, one small network, 32 bits to 1."""

from __future__ import annotations

from pathlib import Path

from ...engine import plan, run
from ...report.page import write_page
from ...report.summary import as_json, summarize, table_of
from .. import COMMANDS
from ..choice import recipe_of
from ..console import Json, Out, Resume, Seeds, Smoke, parse_seeds, say, show


def first_steps(
    out: Out = None,
    seeds: Seeds = "3",
    resume: Resume = False,
    smoke: Smoke = False,
    json: Json = False,
) -> None:
    """Train a small network on real handwritten digits and bring it to 8, 4, 2 and 1 bits.

    About a minute on two cores. Trains a pre-activation ResNet-8 in float, then FAQ at 8 and 4 bits and UNIQ
    at 4, 2 and 1, weights and activations alike; prints one table and leaves runs/quickstart with report.html.

    `flatbit quickstart --seeds 3`
    """
    chosen = parse_seeds(seeds or "")
    out = out or Path("runs/quickstart")
    recipe = recipe_of("quickstart", {})
    runs = []
    for seed in chosen:
        say(f"seed {seed}")
        runs.append(run(plan(recipe, seed=seed, smoke=smoke), out / f"seed{seed}", resume=resume, say=say))
    rows = summarize(runs)
    show(table_of(rows, "digits, preresnet8"), as_json(rows), json)
    page = write_page(runs, out / "report.html")
    say(f"report: {page}")


COMMANDS.add("quickstart", first_steps)
