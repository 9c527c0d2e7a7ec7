"""What a run starts from: a model that fits its data, weights that are measured first, teachers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from .. import models
from ..data.batches import Data
from ..files import load, load_, load_any_
from ..metrics.evaluation import evaluate
from ..metrics.scores import LABELS
from ..quant.convert import restore_
from ..quant.layers import has_quantized_layers
from ..train.averaging import averaged
from .recipe import AVERAGE, Recipe, Stage

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


def load_float_(model: nn.Module, path: str | Path, rename: Mapping[str, str] | None = None) -> str:
    """Load any file's float weights into a float model, in place; those of a quantized one are its latent weights."""
    loaded = load_any_(model, path, rename=rename)
    if has_quantized_layers(model):
        restore_(model)
        loaded += "; it is quantized: its latent float weights are taken"
    return loaded


@dataclass(frozen=True, kw_only=True, slots=True)
class Origins:
    """Where a run's models come from: built afresh, from its earlier stages, or from the weights it was given.

    Attributes:
        recipe, data: that fit each other.
        out: the run's folder.
        weights, rename: a file of float weights and layers by other names, as ``run`` takes them.
    """

    recipe: Recipe
    data: Data
    out: Path
    weights: str | Path | None = None
    rename: Mapping[str, str] | None = None

    def start(self, stage: Stage) -> nn.Module:
        """The model a stage starts from: float, an average of captures, or a net that is quantized as the stage says.

        A stage of the same policy as the one before goes on with its learned steps and clips.
        """
        if not stage.start:
            model = self._built()
            if self.weights is not None:
                load_float_(model, self.weights, self.rename)
            return model
        model = self._stage_model(stage.start)
        before = {earlier.name: earlier.policy for earlier in self.recipe.stages}
        goes_on = stage.policy is not None and before.get(stage.start) == stage.policy
        if not goes_on and not averaged(model) and not stage.start.endswith(AVERAGE):
            restore_(model)
        return model

    def teacher(self, stage: Stage) -> nn.Module | None:
        """The teacher of a stage's distillation, in eval mode; None where it has none."""
        if stage.distillation is None:
            return None
        name = stage.distillation.teacher
        if name == "start":
            model = self.start(stage)
            restore_(model)
        elif name.removesuffix(AVERAGE) in {earlier.name for earlier in self.recipe.stages}:
            model = self._stage_model(name)
        else:
            model = load(teacher_file(name))
        return model.eval()

    def _built(self) -> nn.Module:
        return models.build(self.recipe.model, **arguments_of(self.recipe, self.data))

    def _stage_model(self, name: str) -> nn.Module:
        model = self._built()
        load_(model, self.out / "stages" / f"{name}.safetensors")
        return model


def teacher_file(name: str) -> Path:
    """The model file of a run's folder, or the file itself. Raises ValueError where there is none."""
    path = Path(name) / "model.safetensors" if Path(name).is_dir() else Path(name)
    if (Path(name) / "run.json").is_file() and not path.is_file():
        raise ValueError(f"teacher {name!r} is a run that is not finished: --resume it, or name one of its stages/")
    if not path.is_file():
        raise ValueError(
            f"teacher {name!r}: expected start, an earlier stage's name, a run's folder, or a file that flatbit.save "
            "wrote"
        )
    return path


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
