"""Runs of a tiny net on tiny images, and ways to kill them: what the engine's tests share."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import nn

import flatbit as fb
from flatbit.data.memory import Images, MemoryData
from flatbit.engine import plan, run
from flatbit.engine.environment import Environment
from flatbit.engine.exported import Exported
from flatbit.engine.recipe import Recipe, Stage
from flatbit.quant.table import quantizers_of
from flatbit.reference import From
from flatbit.train.losses import LossTerm
from flatbit.train.losses.labels import cross_entropy
from flatbit.train.losses.orthogonality import Lipschitz
from flatbit.train.losses.teacher import Distillation, taught
from flatbit.train.schedules import Cosine, Cyclic
from flatbit.train.sharpness import Sharpness

HERE = __name__  # models and data of this file by package.module:function
TIMES = ("seconds", "images_per_s")


def net(num_classes=3, in_channels=1):
    """Convolution, batch norm and dropout: all that a checkpoint has to keep."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(6, 6, 3),
        nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, num_classes),
    )  # fmt: skip


def shades():
    """36 training and 12 test images of three shades."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(48) % 3
    pixels = (labels * 60 + 50).reshape(-1, 1, 1, 1) + torch.randint(-50, 51, (48, 1, 8, 8), generator=generator)
    images = pixels.to(torch.uint8)
    train, test = (Images(images=images[part], labels=labels[part]) for part in (slice(36), slice(36, 48)))
    augment = fb.data.augment.Augment(pad=1)
    return MemoryData(name="shades", num_classes=3, train=train, test=test, mean=(0.4,), std=(0.2,), augment=augment)


POLICY = fb.policy("uniq", weights=2, activations=2)
FLOAT = Stage(name="float", epochs=2, lr=0.05, batch_size=12)
BEGIN = From.stage("float")
QUANTIZED = Stage(
    name="w2a2", epochs=2, lr=0.02, batch_size=6, policy=POLICY, start=BEGIN, schedule=Cosine(),
    accumulation=((1, 2),),
)  # fmt: skip
CYCLES = Stage(
    name="retrain", epochs=5, lr=0.02, batch_size=12, policy=fb.policy("sqwa", weights=2), start=BEGIN,
    schedule=Cyclic(bottom=0.1, half=1), captures=(2, 4), evaluate_every=3, keep_captures=True,
)  # fmt: skip
MEAN = From.stage("retrain", average=True)
AVERAGE = Stage(name="average", epochs=0, start=MEAN, reestimate_batches=3, batch_size=12)
AGAIN = replace(AVERAGE, name="requantized", policy=CYCLES.policy)
TUNED = replace(AGAIN, name="fine-tuned", epochs=1, lr=0.001, reestimate_batches=0)
SQWA = (FLOAT, CYCLES, AVERAGE, AGAIN, TUNED)
SHARP = replace(
    CYCLES, policy=POLICY, fixed_weight_steps=True, sharpness=Sharpness(method="saq", rho=0.05),
    losses=(*taught(Distillation(teacher=BEGIN)), Lipschitz(weight=1e-3)), freeze_batchnorm=3,
)  # fmt: skip


def still(stage, **changes):
    """The stage without epochs: it only measures."""
    kept = {name: getattr(stage, name) for name in ("name", "policy", "start", "batch_size", "strict")}
    return Stage(epochs=0, **kept | changes)


def recipe(*stages, **facts):
    """A recipe of the net and images of this file, unless told otherwise."""
    return Recipe(**{"name": "tiny", "model": f"{HERE}:net", "data": f"{HERE}:shades", "stages": stages} | facts)


def small(*stages, **arguments):
    """A recipe of a net of ours on the digits."""
    arguments = {"first_width": 2} | arguments
    return Recipe(name="small", model="resnet8", model_arguments=arguments, data="digits", stages=stages)


def ran(made, out, *, resume=False, say=lambda line: None, seed=0, device="cpu", smoke=False, checkpoint=None, **how):
    """Plan a recipe and run the plan."""
    planned = plan(made, seed=seed, device=device, smoke=smoke, checkpoint=checkpoint)
    return run(planned, out, resume=resume, say=say, **how)


def model_of(made, name):
    """The model that a stage of a run left."""
    return fb.load(made.folder / "stages" / f"{name}.safetensors")


# Loss terms that no paper has


@dataclass(frozen=True, kw_only=True, slots=True)
class Called(LossTerm):
    """What a function gives; no record can hold it."""

    function: Callable[..., Any]
    weight: float = 1.0
    name: str = "called"

    def __call__(self, model, x, y, logits):
        return self.function(model, x, y, logits)


@dataclass(frozen=True, kw_only=True, slots=True)
class Diverging(LossTerm):
    """Not a number."""

    weight: float = 1.0
    name: str = "diverging"

    def __call__(self, model, x, y, logits):
        return cross_entropy(logits, y) * float("nan")


@dataclass(frozen=True, kw_only=True, slots=True)
class Silenced(LossTerm):
    """Kills the net's last layer, at first or for good: every image gets the same answer."""

    kills: int = 1000
    weight: float = 1.0
    name: str = "silenced"
    calls: ClassVar[list[int]] = []

    def __call__(self, model, x, y, logits):
        self.calls.append(1)
        if len(self.calls) > self.kills:
            return cross_entropy(logits, y)
        model[8].weight.data.zero_()
        return 0 * cross_entropy(logits, y)


@dataclass(frozen=True, kw_only=True, slots=True)
class Watching(LossTerm):
    """Cross-entropy that notes whether quantizers carry a perturbation."""

    weight: float = 1.0
    name: str = "watching"
    seen: ClassVar[list[list[bool]]] = []

    def __call__(self, model, x, y, logits):
        self.seen.append([quantizer.perturbation is not None for _, quantizer in quantizers_of(model)])
        return cross_entropy(logits, y)


# Runs that are killed, and runs that are the same


class Killed(BaseException):
    """Raised in the middle of a run, as a kill would."""


def kill_after(monkeypatch, owner, name, calls, first=True):
    """Make the function die at its n-th call, after (``first``) or before doing its work."""
    original, count = getattr(owner, name), [0]

    def counted(*args, **kwargs):
        count[0] += 1
        if count[0] == calls and not first:
            raise Killed
        result = original(*args, **kwargs)
        if count[0] == calls:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, counted)


def same_files(folder, other):
    """Whether two model files hold the same tensors."""
    ours, theirs = load_file(folder), load_file(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def numbers(record):
    """The stages of a record without what the clock says."""
    stages = copy.deepcopy(record.as_dict()["stages"])
    for part in [part for entry in stages.values() for part in (entry, *entry["epochs"])]:
        for key in TIMES:
            part.pop(key, None)
    return stages


def assert_same_run(one, other):
    """The same numbers and the same models."""
    assert numbers(one.record) == numbers(other.record)
    files = [f"stages/{name}.safetensors" for name in one.record.stages]
    for file in [*files, "model.safetensors"]:
        assert same_files(one.folder / file, other.folder / file)


def exported(**parts):
    """A file that was never written."""
    given = {
        "file": "export/qdq.onnx", "form": "qdq", "sha256": "ab", "file_bytes": 10, "float_bytes": 40, "data": "shades",
        "num_images": 12, "top1": 50.0, "top1_model": 75.0, "num_changed": 3, "most_changed": 0.25, "largest": 0.5,
        "largest_at": (11, 2), "environment": Environment.here(), "finished": "2026-11-28T00:00:00+00:00",
    }  # fmt: skip
    return Exported(**given | parts)
