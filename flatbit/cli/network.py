"""Where a verb's network comes from: a run's folder, a file, or a name with a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from .. import data as datasets
from ..data.batches import Data
from ..engine.fit import matched
from ..engine.record import read_run
from ..engine.sources import Checkpoint
from ..files import load
from ..models import build
from .console import parse_names, say


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A network, and the data set that its run used (None where there is no run).

    Attributes:
        name: how the verb was told of it.
        network: in eval mode, on the CPU.
        data, data_arguments: of its run.
        folder: of the run that it is of, or one of whose files it is; None where there is none.
    """

    name: str
    network: nn.Module
    data: str | None = None
    data_arguments: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    def with_data_of_run(self, *, trust: bool = False) -> Opened:
        """The same, with the data of the run in whose folder its file lies, where it has none yet."""
        if self.data is not None or self.folder is None:
            return self
        recipe = read_run(self.folder, trust=trust).record.recipe
        return replace(self, data=recipe.data, data_arguments=recipe.data_arguments)

    def load_data(
        self, data: str | None = None, data_dir: str | None = None, *, arguments: Mapping[str, Any], trust: bool = False
    ) -> Data:
        """A data set as the network takes it: the one that is named, or the run's own.

        Raises ValueError where there is none, or where the run's own would have to be imported on its word.
        """
        if data is None and self.data is not None and ":" in self.data and not trust:
            raise ValueError(
                f"{self.name} wants to import its data from {self.data!r}: --trust it, or say --data {self.data}"
            )
        name = data or self.data
        if name is None:
            raise ValueError("--data is not given: which test set? (flatbit list data)")
        own = self.data_arguments if name == self.data else {}
        return matched(datasets.load(name, data_dir, **dict(own) | dict(arguments)), self.network)


def given_checkpoint(path: Path | None, rename: list[str], key: str | None, as_built: list[str]) -> Checkpoint | None:
    """What ``--checkpoint`` names, with the options that say which of its tensors go where; None where it is not given.

    Raises ValueError for options without a file.
    """
    options = {"--rename": rename, "--checkpoint-key": key, "--as-built": as_built}
    if path is not None:
        return Checkpoint(path=path, rename=parse_names(rename), key=key, as_built=as_built)
    for option in (option for option, value in options.items() if value):
        raise ValueError(f"{option} without --checkpoint cannot act: there is no file whose layers it could name")
    return None


def open_network(
    model: str,
    arguments: Mapping[str, Any],
    *,
    checkpoint: Checkpoint | None = None,
    stage: str | None = None,
    trust: bool = False,
) -> Opened:
    """The network that a verb's first argument names.

    Raises ValueError for what is none, and for ``arguments``, ``checkpoint`` or ``stage`` that cannot act on it.
    """
    path = Path(model)
    is_file = path.suffix == ".safetensors"
    if (is_file or path.is_dir()) and (arguments or checkpoint):
        raise ValueError(
            f"{model} says how it is built and holds its weights: --model-arg and --checkpoint have no meaning for it"
        )
    if stage is not None and not path.is_dir():
        raise ValueError(f"{model} is no run's folder: --stage has no meaning for it")
    if path.is_dir():
        return _from_run(path, stage, trust)
    if is_file:
        return Opened(name=model, network=load(path, trust=trust), folder=_folder_of(path))
    if "/" in model and path.suffix and not path.exists():
        raise ValueError(f"no such file or folder: {model}")
    network = build(model, **arguments)
    if checkpoint is not None:
        say(checkpoint.load_any_(network))
    return Opened(name=model, network=network)


def _from_run(folder: Path, stage: str | None, trust: bool) -> Opened:
    run = read_run(folder, trust=trust)
    finished = ", ".join(run.record.stages) or "none"
    if stage is not None and stage not in run.record.stages:
        raise ValueError(f"{folder} has no finished stage {stage!r}: it has {finished}")
    file = run.stage_file(stage) if stage else folder / "model.safetensors"
    if not file.is_file():
        other = ", or name a --stage" if run.record.stages else ""
        raise ValueError(f"{folder} is not finished (its stages so far: {finished}): --resume it{other}")
    recipe = run.record.recipe
    return Opened(
        name=str(folder),
        network=load(file, trust=trust),
        data=recipe.data,
        data_arguments=recipe.data_arguments,
        folder=folder,
    )


def _folder_of(file: Path) -> Path | None:
    """The run that left a file, in its folder or among its stages."""
    folders = [file.parent, *([file.parent.parent] if file.parent.name == "stages" else [])]
    return next((folder for folder in folders if (folder / "run.json").is_file()), None)
