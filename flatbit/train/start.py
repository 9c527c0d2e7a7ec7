"""What a run starts from: a model that fits its data, policies that fit the model, weights that are measured first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from .. import models
from ..data.batches import Data
from ..quant.convert import quantize_
from ..quant.files import start_from_
from .evaluate import evaluate
from .recipe import Recipe, Stage
from .scores import LABELS

TEST_BATCH = {"classification": 500, "segmentation": 8}


def arguments_of(recipe: Recipe, data: Data) -> dict[str, Any]:
    """The builder's arguments; the data's classes and channels where the builder takes them."""
    follows = {"num_classes": data.num_classes, "in_channels": data.image_shape[0]}
    accepted = models.accepts(recipe.model)
    return {key: value for key, value in follows.items() if key in accepted} | dict(recipe.model_arguments)


def matched(data: Data, model: nn.Module) -> Data:
    """The data as the model takes it: grey images repeated to the channels of its first convolution."""
    if data.image_shape[0] != 1 or len(data.image_shape) != 3:
        return data
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)), None)
    if isinstance(first, nn.Conv2d) and first.in_channels > 1:
        return data.with_channels(first.in_channels)
    return data


def outputs_of(model: nn.Module) -> int | None:
    """How many outputs the last weighted layer has, by definition."""
    last = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)][-1:]
    return last[0].weight.shape[0] if last else None


def check_policies(recipe: Recipe, data: Data) -> None:
    """Quantize the untrained model once by every stage's policy: what is refused is refused before any training."""
    for stage in recipe.stages:
        if stage.policy is not None:
            quantize_(models.build(recipe.model, **arguments_of(recipe, data)), stage.policy, strict=stage.strict)


def starting_model(
    recipe: Recipe,
    stage: Stage,
    data: Data,
    out: Path,
    weights: str | Path | None,
    rename: Mapping[str, str] | None,
) -> nn.Module:
    """The float model a stage starts from: built afresh, then the earlier stage's or the given weights."""
    model = models.build(recipe.model, **arguments_of(recipe, data))
    if stage.start:
        start_from_(model, out / "stages" / f"{stage.start}.safetensors")
    elif weights is not None:
        start_from_(model, weights, rename=rename)
    return model


def measure_weights(
    record: dict[str, Any],
    model: nn.Module,
    data: Data,
    path: Path,
    rename: Mapping[str, str] | None,
    say: Callable[[str], None],
) -> None:
    """Load the weights a run was given, score the float model, say and record it. ValueError: other weights."""
    loaded = start_from_(model, path, rename=rename)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if "weights" in record:
        if record["weights"]["sha256"] != digest:
            raise ValueError(
                f"{path} is not what this run started from ({record['weights']['file']}): give another --out"
            )
        return
    device = next(model.parameters()).device
    test = evaluate(model, data.test_batches(TEST_BATCH[data.task], device=device), description="given weights")
    record["weights"] = {"file": path.name, "sha256": digest, "test": test.as_dict()}
    name, score = test.score
    say(f"{loaded}\n{path.name}: float {LABELS[name]} {score:.2f} % of {test.num_samples:,} test images")
