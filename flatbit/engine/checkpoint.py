"""Checkpoints: everything a run needs to go on exactly, written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import plain
from ..atomic import replacing
from ..device import device_of
from ..train.averaging import QuantizedAverage
from ..undo import undone_on_failure
from ..wrappers import load_state_, state_of
from .loop import Position
from .way import Way

NAME, BEFORE = "checkpoint.pt", "checkpoint-before.pt"
"""The last checkpoint, and the one before it, which a damaged one gives way to."""
OWN = ("lr", "fused", "capturable")
"""What of an optimizer's groups belongs to the device, or is set at every update: no part of what is gone on with."""
PARTS = {"stage", "way", "model", "optimizer", "random", "position", "average"}


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    position: Position,
    stage: str,
    way: Way,
    average: QuantizedAverage | None = None,
) -> None:
    """Write model, optimizer, average, random state and position to ``folder``; the last becomes the one before.

    Args:
        folder: made if missing.
        position: where the stage stands (epoch, step, sums so far).
        stage: its name.
        way: how its updates are run.
        average: of the captures so far, where the stage takes any.
    """
    random = {"cpu": torch.get_rng_state()}
    if (device := device_of(model)).type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(device)
    content = {
        "stage": stage,
        "way": plain.to_plain(way),
        "model": state_of(model),
        "optimizer": optimizer.state_dict(),
        "random": random,
        "position": position.as_dict(),
        "average": average and average.state_dict(),
    }
    with replacing(folder / NAME) as partial:
        torch.save(content, partial)
        if (folder / NAME).is_file():
            (folder / NAME).replace(folder / BEFORE)


def load_checkpoint(folder: Path, note: Callable[[str], None] = lambda line: None) -> dict[str, Any] | None:
    """The last checkpoint of a run, or None. Reads tensors and plain values only: nothing in it can execute.

    Args:
        folder: of checkpoints.
        note: called with a line where the last one is damaged, and the one before it is taken.

    Raises:
        ValueError: files none of which is a checkpoint.
    """
    damage: list[ValueError] = []
    for path in (folder / NAME, folder / BEFORE):
        if not path.is_file():
            continue
        try:
            content = _read(path)
        except ValueError as error:
            damage.append(error)
            continue
        if damage:
            note(f"{folder / NAME} is damaged: going on from the checkpoint before it")
            (folder / NAME).unlink()  # or the next one would put it in the place of the sound one
        return content
    if damage:
        raise damage[0]
    return None


def _read(path: Path) -> dict[str, Any]:
    reason = "its parts are others"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        content, reason = None, str(error).partition("\n")[0]
    if not isinstance(content, dict) or content.keys() != PARTS:
        raise ValueError(f"{path} is not a checkpoint of ours ({reason}): delete it to start the stage again")
    return content


def restore_checkpoint_(
    content: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: QuantizedAverage | None = None,
) -> None:
    """Put model, optimizer, average and random state back as the checkpoint has them, in place."""
    with undone_on_failure(model, chain(model.parameters(), model.buffers())):
        load_state_(model, content["model"])
        if average is not None:
            average.load_state_dict(content["average"])
        load_optimizer_(optimizer, content["optimizer"])
    torch.set_rng_state(content["random"]["cpu"])
    if "cuda" in content["random"] and (device := device_of(model)).type == "cuda":
        torch.cuda.set_rng_state(content["random"]["cuda"], device)


def load_optimizer_(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state; ``OWN`` stays as it is here."""
    own = [{key: group[key] for key in OWN if key in group} for group in optimizer.param_groups]
    groups = [saved | kept for saved, kept in zip(state["param_groups"], own, strict=True)]
    optimizer.load_state_dict(state | {"param_groups": groups})
    for group, kept in zip(optimizer.param_groups, own, strict=True):
        group.update(kept)  # the rate's own tensor, where loading copied it
