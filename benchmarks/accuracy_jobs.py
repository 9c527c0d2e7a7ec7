"""The runs of ``accuracy.py``: float nets and how all arms fine-tune them, where results are kept, and with what."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FLOAT_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A float net, and how all arms fine-tune it: SGD 0.9 with a cosine to 0 at every step.

    Attributes:
        data, data_arguments: the data set.
        images: of its training images the first so many.
        model, model_arguments: the net.
        checkpoint: the file with the float net in the data folder; "" to train it here.
        float_epochs, float_lr, float_decay: of that training; decay 5e-4 is that of the study of methods.
        epochs, lr, batch_size, weight_decay: of the fine-tuning.
        calibration_batches: that an arm may start from, not augmented; statistics are re-estimated on them too.
    """

    data: str
    data_arguments: dict[str, Any]
    images: int
    model: str
    model_arguments: dict[str, Any]
    checkpoint: str = ""
    float_epochs: int = 0
    float_lr: float = 0.1
    float_decay: float = 5e-4
    epochs: int = 6
    lr: float = 0.01
    batch_size: int = 100
    weight_decay: float = 1e-4
    calibration_batches: int = 20


IMAGENET_STATISTICS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SETS = {
    "fashion_mnist": Setting(
        data="fashion_mnist",
        data_arguments={},
        images=12_000,
        model="preresnet8",
        model_arguments={"num_classes": 10, "in_channels": 1, "first_width": 8},
        float_epochs=24,
    ),
    "cifar10": Setting(
        data="cifar10",
        data_arguments=IMAGENET_STATISTICS,
        images=50_000,
        model="resnet20",
        model_arguments={"num_classes": 10, "shortcut": "A"},
        checkpoint="resnet20_cifar10.pth",
        epochs=10,
        batch_size=128,
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A run: an arm at its bits by a seed, or the float net that all of a set start from (``arm`` "")."""

    setting: Setting
    folder: Path
    data_dir: str
    arm: str = ""
    bits: int = 32
    seed: int = FLOAT_SEED

    @property
    def path(self) -> Path:
        """Of its result."""
        if not self.arm:
            return self.folder / "float.json"
        return self.folder / f"w{self.bits}a{self.bits}" / f"{self.arm}-seed{self.seed}.json"

    @property
    def float_path(self) -> Path:
        return self.folder / "float.pt"

    def facts(self) -> dict[str, Any]:
        """What a kept result must have been made with, as JSON gives it back."""
        return json.loads(json.dumps({"arm": self.arm, "bits": self.bits, "seed": self.seed} | asdict(self.setting)))


def finished(job: Job) -> dict[str, Any] | None:
    """The result that is kept; None where there is none. Raises ValueError for one of other settings."""
    if not job.path.is_file():
        return None
    found = json.loads(job.path.read_text())
    if found["facts"] != job.facts():
        other = {key: value for key, value in found["facts"].items() if job.facts().get(key) != value}
        raise ValueError(f"{job.path} was run with {other}: take another --out, or the same settings")
    return found
