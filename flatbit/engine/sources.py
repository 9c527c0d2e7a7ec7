"""Sources: the network that a reference means, in a run: as built, given, left by a stage, or in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from ..data.batches import Data
from ..files import load, load_, load_any_
from ..quant.convert import restore_
from ..quant.table import has_quantized_layers
from ..reference import AVERAGE, From
from ..train.averaging import averaged
from .fit import build_model
from .recipe import Recipe, Stage
from .record import RECORD


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A file of float weights that a run starts from, ours or a third party's.

    Attributes:
        path: the file.
        rename, key, as_built: which of its tensors go where, as ``flatbit.models.load_weights_`` takes them.

    Raises:
        ValueError: no such file.
    """

    path: Path
    rename: Mapping[str, str | None] = field(default_factory=dict)
    key: str | None = None
    as_built: Collection[str] = ()

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise ValueError(f"no such file: {self.path}")

    def load_any_(self, model: nn.Module) -> str:
        """Load the file into a float model, in place, which is then quantized where the file is. In words."""
        return load_any_(model, self.path, rename=self.rename, key=self.key, as_built=self.as_built)

    def load_(self, model: nn.Module) -> str:
        """Load the weights into a float model, in place; those of a quantized one are its latent weights. In words."""
        loaded = self.load_any_(model)
        if has_quantized_layers(model):
            restore_(model)
            loaded += "; it is quantized: its latent float weights are taken"
        return loaded

    def digest(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Where a run's models come from.

    Attributes:
        recipe, data: that fit each other.
        out: the run's folder.
        checkpoint: what the run was given.
    """

    recipe: Recipe
    data: Data
    out: Path
    checkpoint: Checkpoint | None = None

    def network(self, source: From) -> nn.Module:
        """The network that a reference means, on the CPU: float where it is ``start``, else as it was left."""
        if source.kind == "file":
            return load(model_file(source))
        model = build_model(self.recipe, self.data)
        if source.kind == "stage":
            load_(model, self.out / "stages" / f"{source.name}{AVERAGE if source.average else ''}.safetensors")
        elif self.checkpoint is not None:
            self.checkpoint.load_(model)
        return model

    def begin(self, stage: Stage) -> nn.Module:
        """What a stage starts from: float, an average of captures, or a net that is quantized as the stage says.

        A stage of the same policy as the one before goes on with its learned steps and clips. A file gives its
        float weights to the recipe's own model.
        """
        if stage.start.kind == "file":
            model = build_model(self.recipe, self.data)
            Checkpoint(path=model_file(stage.start)).load_(model)
            return model
        model = self.network(stage.start)
        if stage.start.kind == "stage":
            goes_on = stage.policy is not None and self.recipe.stage(stage.start.name).policy == stage.policy
            if goes_on or stage.start.average or averaged(model):
                return model
        if has_quantized_layers(model):
            restore_(model)
        return model


def model_file(source: From) -> Path:
    """The file of a ``file:`` reference: itself, or the model of a run's folder. Raises ValueError."""
    folder = Path(source.name)
    path = folder / "model.safetensors" if folder.is_dir() else folder
    if (folder / RECORD).is_file() and not path.is_file():
        raise ValueError(f"{source} is a run that is not finished: --resume it, or name one of its stages/")
    if not path.is_file():
        raise ValueError(f"{source}: expected a run's folder, or a file that flatbit.save wrote")
    return path
