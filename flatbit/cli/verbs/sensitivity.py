"""flatbit sensitivity: what each layer's bits cost the network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ... import plain
from ...search.sensitivity import SAMPLES, sensitivity
from .. import COMMANDS
from ..console import (
    AsBuilt,
    CheckpointFile,
    CheckpointKey,
    DataArguments,
    DataDir,
    DataName,
    Json,
    ModelArguments,
    Out,
    PolicyName,
    Rename,
    SkipBad,
    data_arguments,
    parse_settings,
    say,
    show,
)
from ..network import given_checkpoint
from ..searching import MODEL, POLICY, Asked, Layers, MeasureName, Widths, training_images


def measure_layers(
    model: Annotated[str, typer.Argument(help=MODEL)],
    model_arg: ModelArguments = [],  # noqa: B006
    checkpoint: CheckpointFile = None,
    checkpoint_key: CheckpointKey = None,
    rename: Rename = [],  # noqa: B006
    as_built: AsBuilt = [],  # noqa: B006
    data: DataName = None,
    data_dir: DataDir = None,
    data_arg: DataArguments = [],  # noqa: B006
    skip_bad: SkipBad = False,
    policy: PolicyName = POLICY,
    widths: Widths = "2,3,4,5",
    layers: Layers = None,
    measure: MeasureName = "loss",
    samples: Annotated[int, typer.Option(min=1, help="Training images, not augmented; the first of seed 0.")] = SAMPLES,
    out: Out = None,
    json: Json = False,
) -> None:
    """Quantize one layer at a time, calibrated and not trained, and measure what it costs at each width.

    Writes runs/sensitivity-MEASURE.json.

    `flatbit sensitivity runs/float --measure loss`
    """
    given = given_checkpoint(checkpoint, rename, checkpoint_key, as_built)
    arguments = parse_settings(model_arg, "--model-arg")
    asked = Asked.of(model, arguments, given, data, data_arguments(data_arg, skip_bad), data_dir)
    searched = asked.searched(policy, widths, layers)
    images = training_images(searched, samples)
    found = sensitivity(searched.model, searched.policy, searched.space, images, measure=measure)
    path = out or Path("runs") / f"sensitivity-{measure}.json"
    found.save(path)
    say(f"written: {path}")
    show(str(found), plain.to_plain(found), json)


COMMANDS.add("sensitivity", measure_layers)
