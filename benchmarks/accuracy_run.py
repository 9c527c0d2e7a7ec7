"""One run of ``accuracy.py``, in a process of its own: the float net, an arm's start, and the loop that all share."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accuracy_arms import ARMS, how_of
from accuracy_jobs import Job, Setting
from timing import environment
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from workers import peak_bytes

import flatbit as fb
from flatbit.atomic import replacing
from flatbit.data.batches import Batches
from flatbit.data.memory import Images, MemoryData
from flatbit.train.batchnorm import reestimate_batchnorm_

PROOF_IMAGES = 32


def run(job: Job) -> dict[str, Any]:
    """Do a job and keep its result. Call it in a process of its own: peak memory is the process'."""
    begun = time.perf_counter()
    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    data = images_of(job.setting, job.data_dir)
    found = {"facts": job.facts()} | (fine_tuned(job, data) if job.arm else float_net(job, data))
    found |= {"wall_s": time.perf_counter() - begun, "peak_bytes": peak_bytes()}
    found["environment"] = environment("cpu", torch.get_num_threads(), ("flatbit", "brevitas"))
    with replacing(job.path) as path:
        path.write_text(json.dumps(found, indent=1))
    return found


def images_of(setting: Setting, data_dir: str) -> MemoryData:
    """The data, with the first training images only."""
    whole = fb.data.load(setting.data, data_dir, **setting.data_arguments)
    assert isinstance(whole, MemoryData)
    images, labels = whole.train.images[: setting.images], whole.train.labels[: setting.images]
    return replace(whole, train=Images(images=images, labels=labels))


def float_net(job: Job, data: MemoryData) -> dict[str, Any]:
    """Train the float net, or read the one that is given, and keep it beside the results."""
    setting = job.setting
    model = fb.models.build(setting.model, **setting.model_arguments)
    trained = {}
    if setting.checkpoint:
        fb.models.load_weights_(model, Path(job.data_dir) / setting.checkpoint)
    else:
        long = replace(setting, epochs=setting.float_epochs, lr=setting.float_lr, weight_decay=setting.float_decay)
        trained = train_(model, [], data.train_batches(long.batch_size, seed=job.seed), long)
    with replacing(job.float_path) as path:
        torch.save(model.state_dict(), path)
    return {"after": top1(model, data.test_batches())} | trained


def fine_tuned(job: Job, data: MemoryData) -> dict[str, Any]:
    """Start an arm from the float net, measure, train, measure."""
    setting = job.setting
    model = fb.models.build(setting.model, **setting.model_arguments)
    model.load_state_dict(torch.load(job.float_path, weights_only=True))
    batches = data.train_batches(setting.batch_size, seed=job.seed)
    plain = data.train_batches(setting.batch_size, seed=job.seed, augment=False)
    inputs = [x for (x, _), _ in zip(plain, range(setting.calibration_batches), strict=False)]
    begun = time.process_time()
    undecayed = ARMS[job.arm](model, job.bits, inputs)
    found: dict[str, Any] = {"how": how_of(job.arm), "start_cpu_s": time.process_time() - begun}
    reestimate_batchnorm_(model, inputs)
    found |= {"before": top1(model, data.test_batches()), "peak_before_bytes": peak_bytes()}
    found |= train_(model, undecayed, batches, setting)
    found["after"] = None if found["diverged_in_epoch"] else top1(model, data.test_batches())
    return found | {"levels": levels(model, inputs[0][:PROOF_IMAGES]) if is_finite(model) else []}


def train_(model: nn.Module, undecayed: list[nn.Parameter], batches: Batches, setting: Setting) -> dict[str, Any]:
    """Train in place, as one writes it: the same for every arm.

    A loss that is not finite ends it, and is a result: in which epoch, from 1; ``losses`` are the means of whole ones.
    """
    known = {id(parameter) for parameter in undecayed}
    decayed = [parameter for parameter in model.parameters() if id(parameter) not in known]
    groups = [{"params": decayed, "weight_decay": setting.weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=setting.lr, momentum=0.9)
    steps = setting.epochs * len(batches)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    losses, diverged = [], None
    wall, cpu = time.perf_counter(), time.process_time()
    for epoch in range(setting.epochs):
        model.train()
        total = 0.0
        for x, y in batches.epoch(epoch):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(model, x, y)
            if not loss.isfinite():
                diverged = epoch + 1
                break
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        if diverged:
            break
        losses.append(total / len(batches))
    seconds = {"train_s": time.perf_counter() - wall, "train_cpu_s": time.process_time() - cpu}
    return seconds | {"losses": losses, "diverged_in_epoch": diverged}


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy; NaN too where a layer refuses to work because a parameter, its step, is not finite."""
    try:
        return F.cross_entropy(model(x), y)
    except RuntimeError:
        if is_finite(model):
            raise
        return torch.full((), float("nan"))


def is_finite(model: nn.Module) -> bool:
    """Whether all of its parameters are."""
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())


@torch.no_grad()
def top1(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float | None:
    """Percent of right answers in eval mode; None where a parameter or an answer is not finite."""
    if not is_finite(model):
        return None
    model.eval()
    right = seen = 0
    for x, y in batches:
        logits = model(x)
        if not logits.isfinite().all():
            return None
        right, seen = right + int((logits.argmax(1) == y).sum()), seen + len(y)
    return 100 * right / seen


@torch.no_grad()
def levels(model: nn.Module, x: Tensor) -> list[tuple[int, int]]:
    """How many values the input and the weight of each convolution and linear layer have, in order of their calls.

    Read off what reaches PyTorch's kernels, so that it holds for every package's layers alike.
    """
    model.eval()
    with _Products() as seen:
        model(x)
    return seen.levels


OPERANDS = {"convolution": (0, 1), "mkldnn_convolution": (0, 1), "addmm": (1, 2), "mm": (0, 1)}
"""Which arguments of PyTorch's operators are the input and the weight."""


class _Products(TorchDispatchMode):
    """Notes how many values the operands of convolutions and matrix products have."""

    def __init__(self) -> None:
        super().__init__()
        self.levels: list[tuple[int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        places = OPERANDS.get(func.overloadpacket.__name__)
        if places is not None:
            self.levels.append(tuple(len(args[place].unique()) for place in places))
        return func(*args, **kwargs or {})
