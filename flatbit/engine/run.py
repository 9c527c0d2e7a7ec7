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

from .. import data as datasets
from .. import models
from ..atomic import replacing
from ..metrics.scores import LABELS
from .checks import check_policies, check_teachers, check_weights
from .loop import TrainingError
from .recipe import Recipe, Stage
from .stage import train_stage
from .start import Origins, fitted, measured_weights

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
        TrainingError: a stage diverged or collapsed; the folder keeps what was finished, the last sound
            checkpoint, and in the record what the layers showed (``flatbit doctor`` explains it).
    """
    out = Path(out)
    models.accepts(recipe.model)  # an unknown model fails here; from here on its files may be loaded
    data = datasets.load(recipe.data, data_root, **recipe.data_arguments)
    recipe, data, model = fitted(recipe, data, say)
    check_policies(recipe, data)
    check_teachers(recipe, weights)
    recipe = recipe.smoke() if smoke else recipe
    if resume and not (out / RECORD).is_file():
        say(f"{out} holds no run to resume: this is a new one")
    record = _open_record(out, recipe, seed, device, resume)
    check_weights(record, Path(weights) if weights is not None else None)
    if weights is not None and "weights" not in record:
        record["weights"] = measured_weights(model.to(device), data, Path(weights), rename, say)
        write_json(out / RECORD, record)
    origins = Origins(recipe=recipe, data=data, out=out, weights=weights, rename=rename)
    for stage in recipe.stages:
        if stage.name in record["stages"]:
            continue
        torch.manual_seed(seed)
        model = origins.start(stage).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        teacher = origins.teacher(stage)
        try:
            entry = train_stage(model, stage, data, out, seed=seed, teacher=teacher and teacher.to(device))
        except TrainingError as error:
            findings = [asdict(finding) for finding in error.findings]
            record["failure"] = {"stage": stage.name, "message": str(error), "findings": findings}
            write_json(out / RECORD, record)
            raise TrainingError(f"{error}. `flatbit doctor {out}` explains", error.findings) from error
        record["stages"][stage.name] = entry
        record.pop("failure", None)
        write_json(out / RECORD, record)
        shutil.rmtree(out / "checkpoint", ignore_errors=True)
        _say_stage(stage, entry, data.num_classes, say)
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


def _say_stage(stage: Stage, entry: dict[str, Any], classes: int, say: Callable[[str], None]) -> None:
    metric = LABELS[entry["metric"]]
    for change in entry["batchnorm"]:
        say(f"{stage.name}: batch norm {change['step']}: {metric} {change['before']:.2f} -> {change['after']:.2f} %")
    score = entry["test"][entry["metric"]]
    guess = ", no better than guessing" if at_chance(entry, classes) and stage.epochs else ""
    say(f"{stage.name}: {metric} {score:.2f} % after {entry['seconds']:.1f} s of training{guess}")


def at_chance(entry: dict[str, Any], classes: int) -> bool:
    """Whether a classifier's score is at most 1.5 times that of guessing."""
    return entry["metric"] == "top1" and entry["test"]["top1"] <= 150 / classes


def _open_record(out: Path, recipe: Recipe, seed: int, device: str | torch.device, resume: bool) -> dict[str, Any]:
    """A new record, or the one in ``out`` to go on with. A run that died before its first save is no run yet."""
    described = {"recipe": describe(recipe), "seed": seed}
    if (out / RECORD).is_file() and ((record := read_run(out).record)["stages"] or (out / "checkpoint").is_dir()):
        if not resume:
            raise ValueError(f"{out} holds a run already: --resume goes on with it, another --out starts a new one")
        if {key: record[key] for key in described} != described:
            differs = _first_difference({key: record[key] for key in described}, described)
            raise ValueError(f"{out} holds another run ({differs}): give another --out")
        return record
    record = described | {"device": str(device), "environment": environment(), "stages": {}}
    write_json(out / RECORD, record)
    return record


def _first_difference(there: Any, here: Any, place: str = "") -> str:
    """Where two records begin to differ, and how, in words."""
    if isinstance(there, dict) and isinstance(here, dict):
        key = next(key for key in {**there, **here} if there.get(key) != here.get(key))
        return _first_difference(there.get(key), here.get(key), f"{place}.{key}".lstrip("."))
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        index = next(index for index, (a, b) in enumerate(zip(there, here, strict=True)) if a != b)
        return _first_difference(there[index], here[index], f"{place}[{index}]")
    return f"its {place} is {there!r:.60}, here it is {here!r:.60}"


def describe(recipe: Recipe) -> dict[str, Any]:
    """A recipe in plain values, every setting of every stage spelled out."""
    stages = []
    for stage in recipe.stages:
        fields = {name: getattr(stage, name) for name in stage.__dataclass_fields__}
        for name in ("policy", "distillation", "sharpness"):
            fields[name] = None if fields[name] is None else asdict(fields[name])
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
