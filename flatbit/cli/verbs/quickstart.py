"""flatbit quickstart: real digits, one small network, 32 bits to 1."""

from __future__ import annotations

from pathlib import Path

from ...engine import plan, run
from ...engine.record import Run
from ...export.packed_file import packed
from ...files import load
from ...report.page import write_page
from ...report.summary import as_json, summarize, table_of
from .. import COMMANDS
from ..choice import recipe_of
from ..command import command_of
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
    at 4, 2 and 1, weights and activations alike; prints one table and leaves runs/quickstart with report.html and
    each net as a packed file (SEED/export).

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
    packed_bytes, *_ = [_packed_bytes(made) for made in runs]  # a seed more changes no size
    values = [row | {"file_bytes": packed_bytes[row["stage"]]} for row in as_json(rows)]
    show(table_of(rows, "digits, preresnet8", packed_bytes), values, json)
    page = write_page(runs, out / "report.html", command=command_of(runs))
    say(f"report: {page}")


def _packed_bytes(made: Run) -> dict[str, int]:
    """Write each stage's net as a packed file; the bytes of each file, by stage."""
    files = {stage: made.folder / "export" / f"{stage}.safetensors" for stage in made.record.stages}
    return {stage: packed(load(made.stage_file(stage)), file).file_bytes for stage, file in files.items()}


COMMANDS.add("quickstart", first_steps)
