"""The engine: take a recipe through its stages, leave one folder, go on where a run was cut off.

run.json                     recipe, versions, seed, device; per stage the convention, cost and epochs
model.safetensors            the last stage's model
stages/NAME.safetensors      each finished stage's model
checkpoint/                  the stage in progress
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import data as datasets
from .. import models
from ..atomic import replacing
from ..data.batches import Data
from ..quant.calibrate import calibrate_
from ..quant.convert import quantize_
from ..quant.cost import cost
from ..quant.files import save
from .batchnorm import reestimate_batchnorm_
from .checkpoint import load_checkpoint, restore_checkpoint_, save_checkpoint
from .evaluate import evaluate
from .loop import Position, train
from .optimizers import make_optimizer
from .recipe import Recipe, Stage
from .scores import LABELS
from .start import TEST_BATCH, check_policies, check_weights, fitted, measured_weights, starting_model

RECORD = "run.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A finished run: its folder, and its record as ``run.json`` holds it."""

    folder: Path
    record: dict[str, Any]


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    data_root: str | Path | None = None,
    weights: str | Path | None = None,
    rename: Mapping[str, str] | None = None,
    resume: bool = False,
    smoke: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Run:
    """Run a recipe.

    Args:
        recipe: what to do.
        out: the folder to leave; made if missing.
        seed: of initialisation, order and augmentation.
        device: where to compute.
        data_root: the folder with the data set's files, where it has files.
        weights: a file of float weights that the first stages start from, ours or anybody's; what they
            score is measured, said and recorded before anything else.
        rename: layers of that file by the model's names (``flatbit.models.load_weights_``).
        resume: go on in ``out``: finished stages are kept, the one in progress goes on exactly.
        smoke: two updates per stage.
        say: called with a line as stages finish.

    Raises:
        ValueError: ``out`` holds a run and ``resume`` is off, or holds another run, or one of other weights.
        TrainingError: a stage diverged; the folder keeps what was finished.
    """
    out = Path(out)
    recipe = recipe.smoke() if smoke else recipe
    models.accepts(recipe.model)  # an unknown model fails here; from here on its files may be loaded
    data = datasets.load(recipe.data, data_root, **recipe.data_arguments)
    recipe, data, model = fitted(recipe, data, say)
    check_policies(recipe, data)
    record = _open_record(out, recipe, seed, device, resume)
    check_weights(record, Path(weights) if weights is not None else None)
    if weights is not None and "weights" not in record:
        record["weights"] = measured_weights(model.to(device), data, Path(weights), rename, say)
        write_json(out / RECORD, record)
    for stage in recipe.stages:
        if stage.name in record["stages"]:
            continue
        torch.manual_seed(seed)
        model = starting_model(recipe, stage, data, out, weights, rename).to(device)
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        entry = _train_stage(model, stage, data, out, seed=seed)
        save(model, out / "stages" / f"{stage.name}.safetensors")
        record["stages"][stage.name] = entry
        write_json(out / RECORD, record)
        shutil.rmtree(out / "checkpoint", ignore_errors=True)
        metric = entry["metric"]
        say(f"{stage.name}: {LABELS[metric]} {entry['test'][metric]:.2f} % after {entry['seconds']:.1f} s of training")
    if data.left_out:
        record["left_out"] = data.left_out
        write_json(out / RECORD, record)
        say(f"{len(data.left_out)} files of {data.name} could not be read and were left out:")
        for path, reason in data.left_out.items():
            say(f"  {path}: {reason}")
    shutil.copyfile(out / "stages" / f"{recipe.stages[-1].name}.safetensors", out / "model.safetensors")
    return Run(folder=out, record=record)


def read_run(folder: str | Path) -> Run:
    """Read a run's folder. Raises ValueError where there is none."""
    path = Path(folder) / RECORD
    if not path.is_file():
        raise ValueError(f"{folder} is not a run: it has no {RECORD}")
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error})") from error
    if not isinstance(record, dict) or not {"recipe", "seed", "stages"} <= record.keys():
        raise ValueError(f"{path} is no record of a run: it has no recipe, seed and stages")
    return Run(folder=Path(folder), record=record)


def _train_stage(model: nn.Module, stage: Stage, data: Data, out: Path, *, seed: int) -> dict[str, Any]:
    """Quantize, calibrate and train a model through a stage, in place; the stage's entry of the record."""
    device = next(model.parameters()).device
    batches = data.train_batches(stage.batch_size, seed=seed, device=device)
    test = data.test_batches(TEST_BATCH[data.task], device=device)
    if stage.policy is not None:
        quantize_(model, stage.policy, strict=stage.strict)
        calibrate_(model, batches, stage.calibration_batches)
    optimizer = make_optimizer(
        model,
        stage.optimizer,
        lr=stage.lr,
        weight_decay=stage.weight_decay,
        momentum=stage.momentum,
        nesterov=stage.nesterov,
    )
    position = Position()
    kept = load_checkpoint(out / "checkpoint")
    if kept is not None and kept["position"].pop("stage") == stage.name:
        position = Position(**kept["position"])
        restore_checkpoint_(kept, model, optimizer)

    def score(numbers: dict[str, Any]) -> None:
        metrics = evaluate(model, test, description=f"{stage.name}, epoch {numbers['epoch']}")
        metric, value = metrics.score
        numbers |= {"test_top1": metrics.top1, "test_loss": metrics.loss, f"test_{metric}": value}

    def save_now(position: Position) -> None:
        save_checkpoint(out / "checkpoint", model, optimizer, position.as_dict() | {"stage": stage.name})

    history = train(model, stage, batches, optimizer, position=position, after_epoch=score, save=save_now).history
    if stage.reestimate_batches:
        reestimate_batchnorm_(model, batches, stage.reestimate_batches)
    costs = cost(model, data.image_shape)
    last = evaluate(model, test, description=f"{stage.name}, last")
    metric, _ = last.score
    return {
        "metric": metric,
        "test": last.as_dict(),
        "best_test": max((numbers[f"test_{metric}"] for numbers in history), default=None),
        "cost": {name: getattr(costs, name) for name in ("bitops", "macs", "params", "size_bytes")},
        "seconds": sum(numbers["seconds"] for numbers in history),
        "epochs": history,
    }


def _open_record(out: Path, recipe: Recipe, seed: int, device: str | torch.device, resume: bool) -> dict[str, Any]:
    """A new record, or the one in ``out`` to go on with. A run that died before its first save is no run yet."""
    described = {"recipe": describe(recipe), "seed": seed}
    if (out / RECORD).is_file() and ((record := read_run(out).record)["stages"] or (out / "checkpoint").is_dir()):
        if not resume:
            raise ValueError(f"{out} holds a run already: --resume goes on with it, another --out starts a new one")
        if {key: record[key] for key in described} != described:
            raise ValueError(
                f"{out} holds another run ({record['recipe']['name']}, seed {record['seed']}): give another --out"
            )
        return record
    record = described | {"device": str(device), "environment": environment(), "stages": {}}
    write_json(out / RECORD, record)
    return record


def describe(recipe: Recipe) -> dict[str, Any]:
    """A recipe in plain values, every setting of every stage spelled out."""
    stages = []
    for stage in recipe.stages:
        fields = {name: getattr(stage, name) for name in stage.__dataclass_fields__}
        fields["policy"] = None if stage.policy is None else plain(asdict(stage.policy))
        fields["schedule"] = repr(stage.schedule)
        fields["objective"] = getattr(stage.objective, "__name__", repr(stage.objective))
        stages.append(plain(fields))
    return plain(
        {
            "name": recipe.name,
            "model": recipe.model,
            "model_arguments": dict(recipe.model_arguments),
            "data": recipe.data,
            "data_arguments": dict(recipe.data_arguments),
            "parameters": dict(recipe.parameters),
            "stages": stages,
        }
    )


def environment() -> dict[str, Any]:
    """Versions and hardware, for the record."""
    return {
        "flatbit": metadata.version("flatbit"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def plain(value: Any) -> Any:
    """The value as JSON gives it back: tuples are lists, types their names."""
    return json.loads(json.dumps(value, default=lambda thing: getattr(thing, "__name__", repr(thing))))


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=1))
