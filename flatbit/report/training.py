"""How each stage of a run was trained, in words, from its record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """One stage in words.

    Attributes:
        stage, start: its name, and what it started from.
        epochs: how many.
        descent: optimizer, rate, schedule, batch, decay.
        besides: sharpness, teacher, Lipschitz term, fixed steps, captures with their scores, batch-norm steps.
    """

    stage: str
    start: str
    epochs: int
    descent: str
    besides: str


def trainings(record: dict[str, Any]) -> list[Training]:
    """How every finished stage of a run was trained."""
    stages = record["recipe"]["stages"]
    return [_training(stage, record["stages"][stage["name"]]) for stage in stages if stage["name"] in record["stages"]]


def _training(stage: dict[str, Any], entry: dict[str, Any]) -> Training:
    decay = f", decay {stage['weight_decay']:g}" if stage["weight_decay"] else ""
    growth = ", ".join(f"x{n} from epoch {epoch}" for epoch, n in stage.get("growth") or [])
    batch = f"batch {stage['batch_size']}" + (f" ({growth})" if growth else "")
    descent = f"{stage['optimizer'].upper()}, lr {stage['lr']:g}, {stage['schedule']}, {batch}{decay}"
    return Training(
        stage=stage["name"],
        start=stage["start"] or "as built, or the weights given",
        epochs=stage["epochs"],
        descent=descent if stage["epochs"] else "not trained",
        besides="; ".join(_besides(stage, entry)),
    )


def _besides(stage: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    said = []
    if sharpness := stage.get("sharpness"):
        said.append(f"{sharpness['method'].upper()}, rho {sharpness['rho']:g}")
    if taught := stage.get("distillation"):
        said.append(f"teacher {taught['teacher']}, T {taught['temperature']:g}, weight {taught['weight']:g}")
    if stage.get("lipschitz"):
        said.append(f"Lipschitz term {stage['lipschitz']:g}")
    if stage.get("fixed_weight_steps"):
        said.append("steps of weights fixed")
    captures = [epoch for epoch in entry["epochs"] if "capture" in epoch]
    if captures:
        key = f"test_{entry['metric']}"
        listed = ", ".join(f"{epoch['epoch']} ({epoch[key]:.2f} %)" for epoch in captures)
        said.append(f"captured after epochs {listed}")
    changes = entry.get("batchnorm") or []
    said += [f"batch norm {c['step']}: {c['before']:.2f} to {c['after']:.2f} %" for c in changes]
    return said
