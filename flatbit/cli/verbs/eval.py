"""flatbit eval: score a model file or a run, with its convention and proof."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...engine.fit import TEST_BATCH
from ...metrics.evaluation import evaluate
from ...quant.table import quantizers_of
from .. import COMMANDS
from ..console import (
    AsBuilt,
    CheckpointFile,
    CheckpointKey,
    DataArguments,
    DataDir,
    DataName,
    Device,
    Json,
    ModelArguments,
    Rename,
    SkipBad,
    StageName,
    Trust,
    data_arguments,
    parse_settings,
    say,
    show,
)
from ..network import given_checkpoint, open_network


def score(
    model: Annotated[
        str, typer.Argument(help="A run's folder, a .safetensors file, or a model to load a --checkpoint into.")
    ],
    model_arg: ModelArguments = [],  # noqa: B006
    data: DataName = None,
    data_dir: DataDir = None,
    data_arg: DataArguments = [],  # noqa: B006
    skip_bad: SkipBad = False,
    checkpoint: CheckpointFile = None,
    checkpoint_key: CheckpointKey = None,
    rename: Rename = [],  # noqa: B006
    as_built: AsBuilt = [],  # noqa: B006
    stage: StageName = None,
    trust: Trust = False,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Score a model on a test set: top-1, top-5, loss, levels in use, convention. A run's own data by default.

    `flatbit eval runs/quickstart/seed0 --stage uniq-w2a2`
    """
    if checkpoint is None and not Path(model).exists() and Path(model).suffix != ".safetensors":
        raise ValueError(f"{model!r} is no run, no .safetensors file, and --checkpoint is not given: nothing to score")
    given = given_checkpoint(checkpoint, rename, checkpoint_key, as_built)
    arguments = parse_settings(model_arg, "--model-arg")
    opened = open_network(model, arguments, checkpoint=given, stage=stage, trust=trust)
    loaded = opened.load_data(data, data_dir, arguments=data_arguments(data_arg, skip_bad), trust=trust)
    metrics = evaluate(opened.network.to(device), loaded.test_batches(TEST_BATCH[loaded.task], device=device))
    for path, reason in loaded.left_out.items():
        say(f"left out: {path}: {reason}")
    weights = {name for name, quantizer in quantizers_of(opened.network) if quantizer.site.role == "weight"}
    show(metrics.table(f"{model} on {loaded.name}", weights), metrics.as_dict(), json)


COMMANDS.add("eval", score)
