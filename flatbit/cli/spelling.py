"""Spelling: the old names of options and settings, each with the new one."""

from __future__ import annotations

from collections.abc import Container, Sequence
from itertools import pairwise
from pathlib import Path

from ..data import DATASETS

EVERYWHERE = {
    "--weights": "--checkpoint FILE (weights)",
    "--weights-bits": "-w, --weight-bits",
}
"""Old options of any verb."""
BY_VERB = {
    "cost": {"--set": "--model-arg NAME=VALUE", "--method": "--policy NAME"},
    "eval": {"--set": "--model-arg NAME=VALUE"},
    "quantize": {"--set": "--model-arg NAME=VALUE", "--method": "--policy NAME"},
    "doctor": {"--data": "--data-dir DIR"},
}
"""Old options of one verb, where they mean something else in others."""
BITS = {"weights": "-w", "activations": "-a"}
"""Settings of recipes that are options of the verbs which take no ``--set``."""
SETTINGS: dict[str, tuple[str, ...]] = {
    "model": ("--model NAME",),
    "data": ("--data NAME",),
    "model_arguments": ("--model-arg NAME=VALUE",),
    "name": ("--out DIR",),
    "float_schedule": ("pretraining.schedule=NAME (for none pretraining=none)", "schedule=NAME"),
    "float_epochs": ("pretraining.epochs=N", "epochs=N"),
    "float_training": (
        "pretraining.distillation.teacher=file:PATH, pretraining.swa=on",
        "distillation.teacher=file:PATH, swa=on",
    ),
    "teacher": (
        "distillation.teacher=stage:NAME or file:PATH, distillation=none",
        "pretraining.distillation.teacher=file:PATH",
    ),
    "temperature": ("distillation.temperature=T", "pretraining.distillation.temperature=T"),
    "teacher_weight": ("distillation.weight=LAMBDA", "pretraining.distillation.weight=LAMBDA"),
    "distill": ("distillation.teacher=stage:float",),
    "epochs": ("training.epochs=N", "averaging.epochs=N"),
    "lr": ("training.lr=LR", "averaging.lr=LR"),
    "weight_decay": ("training.weight_decay=DECAY",),
    "batch_size": ("training.batch_size=N", "averaging.batch_size=N"),
    "schedule": ("training.schedule=NAME",),
    "milestones": ("training.milestones=[SHARE, ...]",),
    "nesterov": ("training.nesterov=true",),
    "optimizer": ("training.optimizer=NAME",),
    "growth": ("training.accumulation=doubling",),
    "pretrained": ("pretraining=scratch",),
    "calibrate": ("quantizers.calibrate=false",),
    "clip_is_half_width": ("quantizers.clip_is_half_width=true",),
    "placement": ("quantizers.placement=NAME", "layers.placement=NAME"),
    "granularity": ("quantizers.granularity=NAME",),
    "gradient_scale": ("quantizers.gradient_scale=false",),
    "start": ("quantizers.step=NAME",),
    "method": ("quantizers.method=NAME", "policy=NAME"),
    "warmup": ("one_bit.warmup=N",),
    "one_bit_start": ("one_bit.begin=NAME",),
    "begin": ("training.begin=NAME",),
    "rho": ("sharpness.rho=RHO",),
    "eta": ("sharpness.eta=ETA",),
    "perturb": ("sharpness.perturb=NAME",),
    "batchnorm": ("sharpness.batchnorm=NAME",),
    "shard": ("sharpness.shard=M",),
    "descent": ("lipschitz=on and clr=on",),
    "clr_epochs": ("clr.epochs=N",),
    "clr_lr": ("clr.lr=LR",),
    "lowest": ("averaging.lowest=LR",),
    "cycle": ("averaging.cycle=N",),
    "between": ("averaging.between=N",),
    "num_captures": ("averaging.num_captures=N",),
    "captures": ("averaging.captures=NAME",),
    "keep_captures": ("averaging.keep_captures=true",),
    "tune_epochs": ("averaging.tune_epochs=N",),
    "retrain_epochs": ("averaging.epochs=N",),
    "retrain_lr": ("averaging.lr=LR",),
    "retrain_lowest": ("averaging.lowest=LR",),
    "width": ("--model-arg width=N",),
    "depth": ("--model-arg depth=N",),
    "block": ("--model-arg block=residual (recipe hol-fcdnn_residual-spirals)",),
    "residual": ("sums=quantized (recipe hol-fcdnn_residual-spirals)",),
    "first": ("layers.first=NAME",),
    "last": ("layers.last=NAME",),
    "leave_float": ("layers.leave_float=[NAME, ...]",),
    "strict": ("layers.strict=false",),
}
"""Old settings of recipes, where a recipe has no setting of that name: options, or places that some recipes have."""


def check_spelling(words: Sequence[str]) -> None:
    """Raise ValueError for an old option, naming the new one."""
    verb = next((word for word in words if not word.startswith("-")), "")
    old = EVERYWHERE | BY_VERB.get(verb, {})
    for word, value in pairwise([*words, ""]):
        option, equals, attached = word.partition("=")
        given = attached if equals else value
        if option == "--set" and option in old and (bits := BITS.get(given.partition("=")[0])) is not None:
            raise ValueError(f"--set {given} is {bits} {given.partition('=')[2]} now")
        if option in old:
            raise ValueError(f"{option} is {old[option]} now")
        if option == "--data" and given and given not in DATASETS.names() and Path(given).is_dir():
            raise ValueError(f"--data {given}: it names a data set now; the folder of its files is --data-dir {given}")


def check_settings(names: Sequence[str], known: Container[str]) -> None:
    """Raise ValueError for an old setting of a recipe that has no such one, naming the new one.

    Args:
        names: of settings that are given.
        known: the places of the recipe's settings; a new place that is none of them is not named.
    """
    for name in names:
        if name in known:
            continue
        new = [to for to in SETTINGS.get(name, ()) if to.startswith("--") or to.partition("=")[0] in known]
        if new:
            raise ValueError(f"--set {name} is {', or '.join(new)} now")
