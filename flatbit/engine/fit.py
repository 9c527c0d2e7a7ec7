"""Model and data that fit each other: classes, channels, outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from .. import models
from ..data.batches import Data
from ..data.sequential import Sequential
from ..data.stream import StreamData
from ..quant.convert import restore_
from ..quant.table import has_quantized_layers
from .recipe import Recipe

TEST_BATCH = {"classification": 500, "segmentation": 8}


def arguments_of(recipe: Recipe, data: Data) -> dict[str, Any]:
    """The builder's arguments; the data's classes and channels where the builder takes them."""
    follows = {"num_classes": data.num_classes, "in_channels": data.image_shape[0]}
    accepted = models.accepts(recipe.model)
    return {key: value for key, value in follows.items() if key in accepted} | dict(recipe.model_arguments)


def build_model(recipe: Recipe, data: Data) -> nn.Module:
    """The recipe's model for the data, as it is built; float, though its builder may have quantized it."""
    model = models.build(recipe.model, **arguments_of(recipe, data))
    if has_quantized_layers(model):
        restore_(model)
    return model


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


def fitted(recipe: Recipe, data: Data, model: nn.Module) -> tuple[Recipe, Data, tuple[str, ...]]:
    """Recipe and data as they fit the model, and in words what had to be changed or looks wrong."""
    notes = []
    fitting = matched(data, model)
    if fitting is not data:
        channels = fitting.image_shape[0]
        notes.append(f"{recipe.model} takes images of {channels} channels: the grey ones of {data.name} are repeated")
        recipe = replace(recipe, data_arguments=dict(recipe.data_arguments) | {"channels": channels})
    if (outputs := outputs_of(model) or 0) > data.num_classes:
        notes.append(
            f"{recipe.model} has {outputs} outputs, the data {data.num_classes} classes: --model-arg num_classes= "
            "mends it"
        )
    if isinstance(data, StreamData) and isinstance(data.train, Sequential):
        notes.append(
            f"the training samples of {data.name} come in the order that its iterable has: a map-style Dataset of "
            "single samples would be shuffled"
        )
    if recipe.splits is not None:
        splits, note = recipe.splits.fitted(data)
        recipe, notes = replace(recipe, splits=splits), [*notes, *([note] if note else [])]
    return recipe, fitting, tuple(notes)
