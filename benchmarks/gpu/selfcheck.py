"""The device against the CPU: batches, forward, backward, a captured update. Seconds, before anything is trusted.

    python -m benchmarks.gpu.selfcheck --device cuda --out FILE [--seconds 20]

Each check is a line of FILE, written as soon as it is known. With ``--device cpu`` the CPU stands in for the device,
and a replay in Python for the graph.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import flatbit as fb
from flatbit.data.augment import Augment
from flatbit.data.memory import Images, MemoryData
from flatbit.engine import Stage
from flatbit.engine.stage import quantize_for_
from flatbit.engine.update import Update, running
from flatbit.engine.way import Way
from flatbit.train.optimizers import parameter_groups

CLOSE = 1e-6
"""Of float64 on both: || theirs - ours || / || ours ||, of every tensor.

Of captured updates: the distance between both nets over the distance that the eager one went.
"""
BATCH, LR = 16, 0.01
UPDATES = 4
"""The first runs as it is, the second is captured, two are replayed."""


class CheckError(AssertionError):
    """The device does not do what the CPU does."""


def data() -> MemoryData:
    """64 random images of CIFAR's shape, 10 classes."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (64, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = Images(images=pixels, labels=torch.randint(10, (64,), generator=generator))
    return MemoryData(
        name="random", num_classes=10, train=split, test=split, mean=(0.5,) * 3, std=(0.25,) * 3,
        augment=Augment(pad=4, flip=True, cutout=8),
    )  # fmt: skip


def stage() -> Stage:
    """Two-bit training of a small net."""
    policy = fb.policy("uniq", weights=2, activations=2)
    return Stage(name="check", epochs=1, policy=policy, lr=LR, weight_decay=1e-4, batch_size=BATCH)


def net(device: str) -> nn.Module:
    """The same on every device: quantized and calibrated on the CPU, in training mode."""
    torch.manual_seed(0)
    model = fb.models.build("resnet8", num_classes=10)
    quantize_for_(model, stage(), data().train_batches(BATCH, seed=0, augment=False))
    return model.to(device).train()


def batches(device: str) -> str:
    """Order, crops, flips and cutouts of two epochs are bit-equal."""
    ours, theirs = (data().train_batches(BATCH, seed=3, device=where) for where in ("cpu", device))
    compared = 0
    for epoch in range(2):
        for (x, y), (x_there, y_there) in zip(ours.epoch(epoch), theirs.epoch(epoch), strict=True):
            if not torch.equal(x, x_there.cpu()) or not torch.equal(y, y_there.cpu()):
                raise CheckError(f"batch {compared} differs by {(x - x_there.cpu()).abs().max():.3g} at most")
            compared += 1
    return f"{compared} batches are equal bit for bit"


def forward_and_backward(device: str) -> str:
    """Logits and gradients of a quantized net, in float64, where no code flips by rounding."""
    x, y = next(iter(data().train_batches(BATCH, seed=0, augment=False)))
    found = []
    for where in ("cpu", device):
        model = net("cpu").double().to(where)
        logits = model(x.double().to(where))
        F.cross_entropy(logits, y.to(where)).backward()
        gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
        found.append({"logits": logits.detach().cpu()} | gradients)
    ours, theirs = found
    worst = max(ours, key=lambda name: distance(theirs[name], ours[name]))
    if (far := distance(theirs[worst], ours[worst])) > CLOSE:
        raise CheckError(f"{worst} differs by {far:.3g} of its norm, {CLOSE:g} expected")
    return f"{len(ours)} tensors, {far:.1g} of the norm apart at most"


def capture(device: str) -> str:
    """Updates as a CUDA graph against eager ones, in float64, where sums in another order flip no code."""
    start = flat(net(device).double())
    ends = [flat(trained(device, Way(graphs=graphs))) for graphs in (False, True)]
    gone, apart = (ends[0] - start).norm(), (ends[1] - ends[0]).norm()
    if not gone or not apart <= CLOSE * gone:
        raise CheckError(f"after {UPDATES} updates both are {apart:.3g} apart, and eager went {gone:.3g}")
    return f"{UPDATES} updates, {float(apart / gone):.1g} of the way apart"


def trained(device: str, way: Way) -> nn.Module:
    """The net after the updates."""
    model, work = net(device).double(), stage()
    groups, rate = parameter_groups(model, work.weight_decay), torch.tensor(LR, device=device)
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, fused=True)  # can be captured on the CPU too
    update = Update(model, work, work.losses, optimizer, way)
    graph = nullcontext() if device.startswith("cuda") else patch("flatbit.engine.capture.cuda_graph", replay_in_python)
    with running(model, way), graph:
        for x, y in islice(data().train_batches(BATCH, seed=0, device=device), UPDATES):
            update([(x.double(), y)], LR)
    return model


def replay_in_python(act: Callable[[], None], undo: Callable[[], None]) -> Callable[[], None]:
    """What stands in for a graph on the CPU."""
    act()
    undo()
    return act


def flat(model: nn.Module) -> Tensor:
    """All parameters in one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def distance(theirs: Tensor, ours: Tensor) -> float:
    """|| theirs - ours || / || ours ||."""
    return float((theirs - ours).norm() / ours.norm().clamp_min(torch.finfo(ours.dtype).tiny))


CHECKS = {"batches": batches, "forward and backward": forward_and_backward, "capture": capture}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    found: dict[str, Any] = {}
    for name, check in CHECKS.items():
        found[name] = outcome(check, options.device) if time.monotonic() < end else {"ok": False, "told": "no time"}
        options.out.write_text(json.dumps(found, indent=1))
        print(f"{name}: {found[name]['told']}", flush=True)
    return int(not all(each["ok"] for each in found.values()))


def outcome(check: Callable[[str], str], device: str) -> dict[str, Any]:
    """Whether a check holds, and what it told."""
    begun = time.monotonic()
    try:
        told, ok = check(device), True
    except Exception as error:  # whatever a device can do wrong is a finding
        traceback.print_exc()
        told, ok = f"{type(error).__name__}: {error}".partition("\n")[0], False
    return {"ok": ok, "told": told, "seconds": round(time.monotonic() - begun, 2)}


if __name__ == "__main__":
    sys.exit(main())
