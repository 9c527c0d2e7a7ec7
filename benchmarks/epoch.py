"""An epoch of training: the engine's loop, a loop as one writes it by hand, peers, and the data alone, interleaved.

    python benchmarks/epoch.py [--device cpu] [--batches 100] [--rounds 5] [--batch 128] [--threads 2] [--engine eager]

ResNet-20 on random images of CIFAR's shape, which lie in memory and are padded, cropped and flipped in batches; the
same batches for all. "engine" is ``flatbit.engine.loop.train``, with its schedule, tally, progress and checks (and
``--engine``: the way it runs steps); "plain loop" is zero_grad, forward, backward, step and the sum of the losses.
Ratios are to the float plain loop, the least that training costs here, taken inside a round, then their median.
Brevitas is measured where it is installed (benchmarks/requirements.txt). Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from names import device_label, record_name
from peers import peers
from timing import RESULTS, environment, interleaved, ratio, save
from torch import nn

import flatbit as fb
from flatbit.data.augment import Augment
from flatbit.data.batches import Batches
from flatbit.data.memory import Images, MemoryData
from flatbit.engine import Stage
from flatbit.engine.loop import train
from flatbit.engine.stage import optimizer_of, quantize_for_
from flatbit.engine.way import Way

BASE = "float, plain loop"
LR = 1e-3


def random_batches(count: int, size: int, device: str) -> Batches:
    """So many training batches of random pixels, 100 classes."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count * size, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = Images(images=pixels, labels=torch.randint(100, (count * size,), generator=generator))
    data = MemoryData(
        name="random", num_classes=100, train=split, test=split, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26),
        augment=Augment(pad=4, flip=True),
    )  # fmt: skip
    return data.train_batches(size, seed=0, device=device)


def float_net(model: str, device: str) -> nn.Module:
    """The same at every call, channels-last."""
    torch.manual_seed(0)
    made = fb.models.build(model, num_classes=100).to(device)
    return made.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]


def stage_of(name: str, batch: int, *, quantized: bool) -> Stage:
    """One epoch of SGD."""
    edges = {"weights": 2, "activations": 2}
    policy = fb.policy("uniq", **edges).override("@first", **edges).override("@last", **edges) if quantized else None
    return Stage(name=name, epochs=1, policy=policy, lr=LR, weight_decay=1e-4, batch_size=batch)


def by_engine(stage: Stage, batches: Batches, model: nn.Module, way: Way) -> Callable[[int], None]:
    """An epoch through the engine's loop."""
    quantize_for_(model, stage, batches)
    optimizer = optimizer_of(model, stage)

    def epoch(_: int) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            train(model, stage, batches, optimizer, way=way)

    return epoch


def by_hand(batches: Batches, model: nn.Module) -> Callable[[int], None]:
    """An epoch as one writes it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4)

    def epoch(number: int) -> None:
        model.train()
        total = torch.zeros((), device=next(model.parameters()).device)
        for x, y in batches.epoch(number):
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        total.item()

    return epoch


def data_alone(batches: Batches) -> Callable[[int], None]:
    """An epoch of batches that nobody reads."""

    def epoch(number: int) -> None:
        for _ in batches.epoch(number):
            pass

    return epoch


def variants(options: argparse.Namespace, batches: Batches) -> dict[str, Callable[[int], None]]:
    """What is timed: an epoch of each."""

    def net() -> nn.Module:
        return float_net(options.model, options.device)

    way = Way.parse(options.engine, options.precision)
    float_stage = stage_of("float", options.batch, quantized=False)
    quantized = stage_of("uniq", options.batch, quantized=True)
    made = {
        BASE: by_hand(batches, net()),
        "float, engine": by_engine(float_stage, batches, net(), way),
        "flatbit uniq, engine": by_engine(quantized, batches, net(), way),
    }
    x = next(iter(batches))[0]
    made |= {f"{name}, plain loop": by_hand(batches, quantize_(net(), x)) for name, quantize_ in peers().items()}
    return made | {"data alone": data_alone(batches)}


def timed(act: Callable[[int], None], device: str) -> Callable[[int], float]:
    """Seconds of a call, the device's work included."""

    def seconds(number: int) -> float:
        begun = time.perf_counter()
        act(number)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    return seconds


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The record."""
    torch.set_num_threads(options.threads)
    batches = random_batches(options.batches, options.batch, options.device)
    steps = {name: timed(act, options.device) for name, act in variants(options, batches).items()}
    times = interleaved(steps, options.rounds, options.warmup)
    images = options.batches * options.batch
    return {
        "environment": environment(options.device, options.threads, ("brevitas",)),
        "settings": vars(options),
        "rows": [row(name, times, images) for name in times],
        "times_s": times,
    }


def row(name: str, times: dict[str, list[float]], images: int) -> dict[str, Any]:
    """What is reported of one variant."""
    middle, quartiles = ratio(times, name, BASE)
    median = statistics.median(times[name])
    return {
        "variant": name,
        "median_s": median,
        "min_s": min(times[name]),
        "images_per_s": images / median,
        "ratio_to_float": middle,
        "ratio_quartiles": quartiles,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--engine", default="eager", help="the way the engine runs steps")
    parser.add_argument("--precision", default="float32", help="of the engine's products")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--batches", type=int, default=100, help="of one timed epoch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    found = measure(options)
    stated = found["environment"]
    chosen = (("model", "resnet20"), ("engine", "eager"), ("precision", "float32"))
    variant = "-".join(getattr(options, name) for name, usual in chosen if getattr(options, name) != usual)
    path = RESULTS / record_name(stated["date"], "epoch", device_label(options.device, stated["gpu"]), variant)
    save(found, path)
    for each in found["rows"]:
        print(
            f"{each['variant']:36}{each['median_s']:9.2f} s{each['images_per_s']:10.0f}/s{each['ratio_to_float']:8.2f}"
        )
    print(f"written: {path}")


if __name__ == "__main__":
    main()
