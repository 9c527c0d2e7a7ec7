"""The ways to run a training step, side by side: eager, CUDA graphs, compiled, both, each in float32, TF32 and bf16.

    python -m benchmarks.gpu.engine --device cuda --record FILE [--seconds 60] [--small]

ResNet-20 on random images of CIFAR's shape, 50,000 of them on the device, cropped and flipped there, batch 128:
float, quantization-aware training by SGD (uniq, W2A2), and the same by SAQ. Of a way the three are timed in turn,
a round of some steps each, data included, so that ratios to float are taken inside a round. What an epoch takes is
predicted (390 steps); at the end one whole epoch is trained in each net's fastest way. The record is rewritten
after each row, so that a kill loses none. A way that cannot be run here is a row that says why.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import flatbit as fb
from flatbit.data.augment import Augment
from flatbit.data.batches import Batch, Batches
from flatbit.data.memory import Images, MemoryData
from flatbit.device import float32_products
from flatbit.engine import Stage
from flatbit.engine.loop import train
from flatbit.engine.stage import optimizer_of, quantize_for_
from flatbit.engine.update import Update
from flatbit.engine.way import Way
from flatbit.train.sharpness import Sharpness

from ..timing import environment, ratio, save

LR = 1e-4
SQWA_EPOCHS = 425
COMPILING_S = 90.0
"""What compiling three nets is taken to last, until it is known."""
WAYS = (
    ("eager", "float32"), ("graphs", "float32"), ("graphs", "tf32"), ("graphs", "bf16"), ("eager", "tf32"),
    ("eager", "bf16"), ("compiled-graphs", "tf32"), ("compiled-graphs", "bf16"), ("compiled-graphs", "float32"),
    ("compiled", "tf32"), ("compiled", "bf16"), ("compiled", "float32"),
)  # fmt: skip
"""What tells most comes first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What is timed."""

    model: str = "resnet20"
    images: int = 50_000
    batch: int = 128
    warmup: int = 4
    steps: int = 20
    rounds: int = 5
    nets: int = 8

    @property
    def epoch_steps(self) -> int:
        return self.images // self.batch


SMALL = Setting(model="resnet8", images=640, batch=32, warmup=3, steps=2, rounds=2, nets=2)


def stages(batch: int) -> dict[str, Stage]:
    """The arms: what each trains."""
    edges = {"weights": 2, "activations": 2}
    policy = fb.policy("uniq", **edges).override("@first", **edges).override("@last", **edges)
    shared: dict[str, Any] = {"epochs": 1, "lr": LR, "weight_decay": 1e-4, "batch_size": batch}
    return {
        "float": Stage(name="float", **shared),
        "uniq, SGD": Stage(name="sgd", policy=policy, **shared),
        "uniq, SAQ": Stage(name="saq", policy=policy, sharpness=Sharpness(method="saq", rho=0.1), **shared),
    }


def random_data(images: int) -> MemoryData:
    """Random pixels of CIFAR's shape, 100 classes, padded, cropped and flipped in training."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = Images(images=pixels, labels=torch.randint(100, (images,), generator=generator))
    return MemoryData(
        name="random", num_classes=100, train=split, test=split, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26),
        augment=Augment(pad=4, flip=True),
    )  # fmt: skip


class Arm:
    """A net in training, a few steps at a time.

    Args:
        stage: what it trains.
        batches: on the device.
        setting: of the benchmark.
        way: how its steps are run.
    """

    def __init__(self, stage: Stage, batches: Batches, setting: Setting, way: Way) -> None:
        self.device, self.stream = device_of(batches), endless(batches)
        cuda = self.device.type == "cuda"
        before = torch.cuda.memory_allocated() if cuda else 0
        model = network(stage, batches, setting)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        self.update = Update(model, stage, stage.losses, optimizer_of(model, stage), way)
        self.run(setting.warmup)
        self.ready_s = time.perf_counter() - begun
        self.peak_mib = (torch.cuda.max_memory_allocated() - before) / 2**20 if cuda else None

    def run(self, steps: int) -> float:
        """Seconds of each of so many steps, batches included."""
        self.wait()
        begun = time.perf_counter()
        for _ in range(steps):
            self.update([next(self.stream)], LR)
        self.wait()
        return (time.perf_counter() - begun) / steps

    def wait(self) -> None:
        """For the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def device_of(batches: Batches) -> torch.device:
    """Where batches lie."""
    return next(iter(batches))[0].device


def network(stage: Stage, batches: Batches, setting: Setting) -> nn.Module:
    """The net of a stage, quantized and calibrated, in training mode."""
    torch.manual_seed(0)
    model = fb.models.build(setting.model, num_classes=100).to(device_of(batches))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    quantize_for_(model, stage, batches)
    return model.train()


def endless(batches: Batches) -> Iterator[Batch]:
    """Epoch after epoch."""
    epoch = 0
    while True:
        yield from batches.epoch(epoch)
        epoch += 1


class Benchmark:
    """Times ways until the time is over; ``record`` on disk always holds the rows so far.

    Args:
        device: cpu or cuda.
        path: of the record.
        setting: what is timed.
        seconds: until a row is no longer begun.
    """

    def __init__(self, device: str, path: Path, setting: Setting, seconds: float) -> None:
        self.device, self.path, self.setting = device, path, setting
        self.end = time.perf_counter() + seconds
        self.compiling_s = COMPILING_S
        self.batches = random_data(setting.images).train_batches(setting.batch, seed=0, device=device)
        self.stages = stages(setting.batch)
        self.record: dict[str, Any] = {
            "benchmark": "engine",
            "environment": environment(device, torch.get_num_threads(), ()),
            "settings": asdict(setting) | {"seconds": seconds, "device": device},
            "rows": [],
        }
        self._write()

    def left(self) -> float:
        """Seconds."""
        return self.end - time.perf_counter()

    def run(self) -> None:
        """All ways, then whole epochs."""
        for engine, precision in WAYS:
            way = Way.parse(engine, precision)
            needed = self.compiling_s if way.compiled else 0.0
            if self.left() <= needed:
                self._told(
                    way.engine,
                    way.precision,
                    "all",
                    f"no time: {self.left():.0f} s were left, {needed:.0f} s are needed",
                )
            else:
                self._time(way)
                gc.collect()
                torch.cuda.empty_cache()
        self._time_stacked("uniq, SGD")
        for arm in self.stages:
            self._whole_epoch(arm)

    def _time(self, way: Way) -> None:
        """The rows of one way."""
        begun = time.perf_counter()
        arms: dict[str, Arm] = {}
        try:
            way.check(self.device)
            with float32_products(tf32=way.precision == "tf32"):
                for name, stage in self.stages.items():
                    arms[name] = Arm(stage, self.batches, self.setting, way)
                if way.compiled:
                    self.compiling_s = time.perf_counter() - begun
                times = self._rounds(arms)
        except Exception as error:  # whatever a way can do wrong is a row
            name = next((name for name in self.stages if name not in arms), "all")
            return self._told(way.engine, way.precision, name, str(error))
        for name, arm in arms.items():
            self.record["rows"].append(self._row(name, way, arm, times))
        return self._write()

    def _rounds(self, arms: dict[str, Arm]) -> dict[str, list[float]]:
        times: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(self.setting.rounds):
            if number and self.left() < 0:
                break
            for name, arm in arms.items():
                times[name].append(arm.run(self.setting.steps))
        return times

    def _row(self, name: str, way: Way, arm: Arm, times: dict[str, list[float]]) -> dict[str, Any]:
        step = statistics.median(times[name])
        epoch = step * self.setting.epoch_steps
        middle, quartiles = ratio(times, name, "float")
        return {
            "arm": name,
            "engine": way.engine,
            "precision": way.precision,
            "ms_per_step": 1000 * step,
            "ms_of_rounds": [1000 * seconds for seconds in times[name]],
            "images_per_s": self.setting.batch / step,
            "epoch_s": epoch,
            "sqwa_425_epochs_training_only_s": SQWA_EPOCHS * epoch,
            "ratio_to_float": middle,
            "ratio_quartiles": quartiles,
            "peak_mib": arm.peak_mib,
            "ready_s": arm.ready_s,
        }

    def _time_stacked(self, name: str) -> None:
        """A row of several nets in one stack, a share of the time for each."""
        setting, stage = self.setting, replace(self.stages[name], max_steps=self.setting.steps)
        try:
            from flatbit.engine.stacked import StackedNets
            from flatbit.engine.stacked_training import Net, train_stacked

            stack = StackedNets([network(stage, self.batches, setting) for _ in range(setting.nets)])

            def seconds() -> float:
                begun = time.perf_counter()
                train_stacked(stack, stage, [Net(batches=self.batches) for _ in range(setting.nets)])
                if self.device == "cuda":
                    torch.cuda.synchronize()
                return (time.perf_counter() - begun) / (setting.steps * setting.nets)

            ready_s = seconds()
            times = [seconds() for number in range(setting.rounds) if not number or self.left() > 0]
        except Exception as error:  # as above
            return self._told("stacked", "float32", name, str(error))
        step = statistics.median(times)
        self.record["rows"].append(
            {
                "arm": name,
                "nets": setting.nets,
                "engine": "stacked",
                "precision": "float32",
                "ms_per_step": 1000 * step,
                "ms_of_rounds": [1000 * each for each in times],
                "images_per_s": setting.batch / step,
                "epoch_s_each": step * setting.epoch_steps,
                "ready_s": ready_s,
            }
        )
        return self._write()

    def _whole_epoch(self, arm: str) -> None:
        """Train one epoch through the engine's own loop, in the way that was fastest."""
        timed = [row for row in self.record["rows"] if row["arm"] == arm and "epoch_s" in row]
        best = min(timed, key=lambda row: row["epoch_s"], default=None)
        if best is None or self.left() < best["epoch_s"] + best["ready_s"]:
            return
        stage, way = self.stages[arm], Way.parse(best["engine"], best["precision"])
        model = network(stage, self.batches, self.setting)
        begun = time.perf_counter()
        history = train(model, stage, self.batches, optimizer_of(model, stage), way=way).history
        best["whole_epoch_s"] = history[-1].seconds
        best["whole_epoch_and_setting_up_s"] = time.perf_counter() - begun
        self._write()

    def _told(self, engine: str, precision: str, arm: str, why: str) -> None:
        self.record["rows"].append({"arm": arm, "engine": engine, "precision": precision, "missing": why})
        self._write()

    def _write(self) -> None:
        save(self.record, self.path)
        if self.record["rows"]:
            print(json.dumps(self.record["rows"][-1]), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--small", action="store_true", help="a small net and few steps, for a rehearsal")
    options = parser.parse_args()
    benchmark = Benchmark(options.device, options.record, SMALL if options.small else Setting(), options.seconds)
    benchmark.run()
    timed = any("epoch_s" in row for row in benchmark.record["rows"])
    return int(not timed)


if __name__ == "__main__":
    sys.exit(main())
