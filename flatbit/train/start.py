"""What a run starts from: a model that fits its data, policies that fit the model, weights that are measured first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from .. import models
from ..data.batches import Data
from ..quant.convert import quantize_, restore_
from ..quant.files import load_any_
from ..quant.layers import quantized_layers
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


def load_float_(model: nn.Module, path: str | Path, rename: Mapping[str, str] | None = None) -> str:
    """Load any file's float weights into a float model, in place; those of a quantized one are its latent weights."""
    loaded = load_any_(model, path, rename=rename)
    if any(True for _ in quantized_layers(model)):
        restore_(model)
        loaded += "; it is quantized: its latent float weights are taken"
    return loaded


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
        load_float_(model, out / "stages" / f"{stage.start}.safetensors")
    elif weights is not None:
        load_float_(model, weights, rename)
    return model


def fitted(recipe: Recipe, data: Data, say: Callable[[str], None]) -> tuple[Recipe, Data, nn.Module]:
    """Recipe, data and float model that fit each other; what had to be changed, or looks wrong, is said."""
    model = models.build(recipe.model, **arguments_of(recipe, data))
    fitting = matched(data, model)
    if fitting is not data:
        channels = fitting.image_shape[0]
        say(f"{recipe.model} takes images of {channels} channels: the grey ones of {data.name} are repeated")
        recipe = replace(recipe, data_arguments=dict(recipe.data_arguments) | {"channels": channels})
    if (outputs := outputs_of(model) or 0) > data.num_classes:
        say(f"{recipe.model} has {outputs} outputs, the data {data.num_classes} classes: --set num_classes= mends it")
    return recipe, fitting, model


def check_weights(record: dict[str, Any], weights: Path | None) -> None:
    """Raise ValueError where a run that was begun goes on with other weights than it started from."""
    begun = record.get("weights")
    if begun is None or (weights is not None and digest_of(weights) == begun["sha256"]):
        return
    given = weights if weights is not None else "no --weights"
    raise ValueError(f"{given}: this run started from {begun['file']}: give that, or another --out")


def measured_weights(
    model: nn.Module, data: Data, path: Path, rename: Mapping[str, str] | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Load the weights a run is given, score the float model and say so; the record's entry."""
    loaded = load_float_(model, path, rename)
    device = next(model.parameters()).device
    test = evaluate(model, data.test_batches(TEST_BATCH[data.task], device=device), description="given weights")
    name, score = test.score
    say(f"{loaded}\n{path.name}: float {LABELS[name]} {score:.2f} % of {test.num_samples:,} test images")
    return {"file": path.name, "sha256": digest_of(path), "test": test.as_dict()}


def digest_of(path: Path) -> str:
    """SHA-256 of a file. Raises ValueError where there is none."""
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    return hashlib.sha256(path.read_bytes()).hexdigest()
