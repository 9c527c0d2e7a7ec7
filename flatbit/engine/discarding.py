"""Discarding a run: what it left in its folder is removed, and nothing else that is there."""

from __future__ import annotations

import shutil
from pathlib import Path

from .loggers import EPOCHS, TENSORBOARD
from .record import RECORD

LEFT = ("checkpoint", "stages", TENSORBOARD, EPOCHS, "model.safetensors", "report.html", RECORD)
"""What a run leaves, its record last: a folder that is cut off in between still holds a run."""


def discard(out: Path) -> None:
    """Remove the run in a folder, and leave other files as they are; a folder without a run is left alone."""
    if not (out / RECORD).is_file():
        return
    for name in LEFT:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)
