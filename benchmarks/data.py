"""Reading data: augmented CIFAR-like batches, and ImageNet-like JPEGs, against the usual torchvision path.

    python benchmarks/data.py [--rounds 15] [--batches 40] [--batch 128] [--workers 2] [--images 200]

Needs torchvision beside flatbit, for the other side. All data are random and made here: CIFAR-like pixels, and
photograph-like JPEGs (noise of 1/f amplitude, quality 90) of 500x375 and 2000x1500 pixels.

CIFAR: pad 4, crop, flip, normalize, to a float batch. "flatbit" is a set in memory augmented in batches;
"DataLoader" is what CIFAR scripts do, PIL images and torchvision transforms one by one, in this process
or in workers; "v2 tensors" is torchvision's newer spelling. This process has one thread (--threads), so
the workers come on top of what flatbit is given. A round times one
epoch of each, in a new random order; ratios are taken inside a round, then their median. A float training
step of ResNet-20 is timed beside them: what a batch has to keep up with.

ImageNet: images per second of one core. "PIL" is Image.open, RandomResizedCrop(224), flip, ToTensor,
Normalize (training), or Resize(256), CenterCrop(224) (testing); "decoding alone" is the least any path
that decodes the whole image can take. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import io
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import flatbit as fb
from flatbit.data.augment import Augment
from flatbit.data.image_folder import IMAGENET_MEAN, IMAGENET_STD, image_folder
from flatbit.data.memory import Images, MemoryData
from flatbit.data.normalize import Normalize
from flatbit.data.samples import Reader

RESULTS = Path(__file__).parent / "results"
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def import_torchvision():
    """torchvision.transforms and its v2. PyPI's torchvision beside a CPU-only torch lacks its operators and fails to
    import until two of them are declared; the transforms measured here use none."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision.transforms"), importlib.import_module("torchvision.transforms.v2")


def pixels(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 100, (count,), generator=generator)


class PilSet(Dataset):
    """As torchvision's CIFAR10: an array, an Image per item, a transform."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, transform: Callable) -> None:
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class TensorSet(PilSet):
    """The same with tensors."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, transform: Callable) -> None:
        super().__init__(images, labels, transform)
        self.tensors = images

    def __getitem__(self, index: int):
        return self.transform(self.tensors[index]), self.labels[index]


def cifar_variants(arguments: argparse.Namespace) -> dict[str, Callable[[int], object]]:
    """Each variant: a function of the epoch that gives the batches of one epoch."""
    transforms, v2 = import_torchvision()
    images, labels = pixels(arguments.batches * arguments.batch)
    split = Images(images=images, labels=labels)
    data = MemoryData(
        name="random",
        num_classes=100,
        train=split,
        test=split,
        mean=CIFAR_MEAN,
        std=CIFAR_STD,
        augment=Augment(pad=4, flip=True),
    )
    plain = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(CIFAR_MEAN, CIFAR_STD),
        ]
    )
    newer = v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(CIFAR_MEAN, CIFAR_STD),
        ]
    )
    ours = data.train_batches(arguments.batch, seed=0)
    found: dict[str, Callable[[int], object]] = {"flatbit": ours.epoch}
    for workers in (0, arguments.workers):
        settings = {"batch_size": arguments.batch, "shuffle": True, "drop_last": True}
        settings |= {"num_workers": workers, "persistent_workers": workers > 0}
        for name, source in (
            ("DataLoader", PilSet(images, labels, plain)),
            ("v2 tensors", TensorSet(images, labels, newer)),
        ):
            loader = DataLoader(source, **settings)
            found[f"{name}, {workers} workers"] = lambda epoch, loader=loader: loader
    return found


def time_epoch(batches) -> float:
    started = time.perf_counter()
    for x, _ in batches:
        x.data_ptr()
    return time.perf_counter() - started


def training_step(arguments: argparse.Namespace) -> Callable[[], float]:
    torch.manual_seed(0)
    model = fb.models.build("resnet20", num_classes=100).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    images, y = pixels(arguments.batch)
    x = Normalize(CIFAR_MEAN, CIFAR_STD)(images)

    def step() -> float:
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        return time.perf_counter() - started

    return step


def measure_cifar(arguments: argparse.Namespace) -> dict:
    variants, step = cifar_variants(arguments), training_step(arguments)
    times: dict[str, list[float]] = {name: [] for name in (*variants, "training step")}
    order = list(times)
    shuffle = random.Random(0).shuffle
    for round_ in range(-arguments.warmup, arguments.rounds):
        shuffle(order)
        for name in order:
            if name == "training step":
                seconds = statistics.median(step() for _ in range(3))
            else:
                seconds = time_epoch(variants[name](max(round_, 0))) / arguments.batches
            if round_ >= 0:
                times[name].append(seconds)
    return {"rows": [cifar_row(name, times) for name in times], "times_s": times}


def cifar_row(name: str, times: dict[str, list[float]]) -> dict:
    ratios = sorted(own / ours for own, ours in zip(times[name], times["flatbit"], strict=True))
    median = statistics.median(times[name])
    return {
        "section": "cifar",
        "variant": name,
        "median_ms": 1000 * median,
        "min_ms": 1000 * min(times[name]),
        "per_second": 1 / median,
        "times_flatbit": statistics.median(ratios),
        "ratio_quartiles": [ratios[len(ratios) // 4], ratios[-len(ratios) // 4]],
    }


def photograph(width: int, height: int, seed: int) -> Image.Image:
    """Noise whose amplitude falls as 1/f, as photographs' does, in three correlated channels."""
    draws = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    planes = [
        np.fft.irfft2(np.fft.rfft2(draws.normal(size=(height, width))) / frequency, (height, width)) for _ in "LAB"
    ]
    mixed = np.stack([planes[0], planes[0] + 0.3 * planes[1], planes[0] + 0.3 * planes[2]], -1)
    mixed = 128 + 55 * (mixed - mixed.mean()) / mixed.std()
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def write_photographs(root: Path, count: int, size: tuple[int, int]) -> list[Path]:
    for split in ("train", "val"):
        (root / split / "one").mkdir(parents=True)
    for index in range(count):
        content = io.BytesIO()
        photograph(*size, index).save(content, "JPEG", quality=90)
        for split in ("train", "val"):
            (root / split / "one" / f"{index:04d}.jpg").write_bytes(content.getvalue())
    return sorted((root / "train" / "one").iterdir())


def decoding_variants(root: Path, files: list[Path]) -> dict[str, Callable[[], None]]:
    transforms, _ = import_torchvision()
    last = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    train = transforms.Compose([transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *last])
    test = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), *last])
    data = image_folder(root, workers=0)
    normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD)

    def plain(transform: Callable) -> None:
        for start in range(0, len(files), 20):
            torch.stack([transform(Image.open(path).convert("RGB")) for path in files[start : start + 20]])

    def ours(samples, seed: int | None) -> None:
        reader = Reader(samples, seed)
        for start in range(0, len(files), 20):
            normalize(reader[0, list(range(start, min(start + 20, len(files))))].x)

    def alone() -> None:
        for path in files:
            Image.open(path).load()

    return {
        "PIL, training": lambda: plain(train),
        "flatbit, training": lambda: ours(data.train, 0),
        "PIL, testing": lambda: plain(test),
        "flatbit, testing": lambda: ours(data.test, None),
        "decoding alone": alone,
    }


def measure_decoding(arguments: argparse.Namespace, size: tuple[int, int], count: int) -> dict:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = write_photographs(Path(folder), count, size)
        bytes_each = statistics.mean(path.stat().st_size for path in files)
        variants = decoding_variants(Path(folder), files)
        times: dict[str, list[float]] = {name: [] for name in variants}
        order = list(variants)
        shuffle = random.Random(0).shuffle
        for round_ in range(-1, arguments.decoding_rounds):
            shuffle(order)
            for name in order:
                started = time.perf_counter()
                variants[name]()
                if round_ >= 0:
                    times[name].append((time.perf_counter() - started) / count)
    torch.set_num_threads(arguments.threads)
    kind = f"{size[0]}x{size[1]}"
    rows = [decoding_row(name, times, kind, bytes_each) for name in times]
    return {"rows": rows, "times_s": {f"{kind}, {name}": seconds for name, seconds in times.items()}}


def decoding_row(name: str, times: dict[str, list[float]], kind: str, bytes_each: float) -> dict:
    peer = "flatbit, testing" if "testing" in name else "flatbit, training"
    ratios = sorted(own / ours for own, ours in zip(times[name], times[peer], strict=True))
    median = statistics.median(times[name])
    return {
        "section": f"jpeg {kind}",
        "variant": name,
        "median_ms": 1000 * median,
        "min_ms": 1000 * min(times[name]),
        "per_second": 1 / median,
        "times_flatbit": statistics.median(ratios),
        "ratio_quartiles": [ratios[len(ratios) // 4], ratios[-len(ratios) // 4]],
        "bytes_per_image": bytes_each,
    }


def environment(threads: int) -> dict:
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        processor = next(
            (line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line), processor
        )
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": threads,
        "gpu": None,
        "torch": torch.__version__,
        "torchvision": importlib.metadata.version("torchvision"),
        "pillow": importlib.metadata.version("pillow"),
        "python": platform.python_version(),
    }


def show(rows: list[dict]) -> None:
    print(f"{'section':16}{'variant':26}{'median ms':>10}{'per second':>12}{'x flatbit':>11}{'quartiles':>15}")
    for row in rows:
        low, high = row["ratio_quartiles"]
        print(
            f"{row['section']:16}{row['variant']:26}{row['median_ms']:10.2f}{row['per_second']:12.1f}"
            f"{row['times_flatbit']:11.2f}{low:9.2f}-{high:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--batches", type=int, default=40, help="of one timed epoch")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of this process")
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    parser.add_argument("--images", type=int, default=200, help="photographs of 500x375; a tenth of 2000x1500")
    parser.add_argument("--decoding-rounds", type=int, default=9)
    parser.add_argument("--name", help="of the result file; default: date, benchmark and device")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    parts = [
        measure_cifar(arguments),
        measure_decoding(arguments, (500, 375), arguments.images),
        measure_decoding(arguments, (2000, 1500), max(1, arguments.images // 10)),
    ]
    rows = [row for part in parts for row in part["rows"]]
    times = {name: seconds for part in parts for name, seconds in part["times_s"].items()}
    result = {
        "environment": environment(arguments.threads),
        "settings": vars(arguments),
        "rows": rows,
        "times_s": times,
    }
    name = arguments.name or f"{result['environment']['date']}-data-cpu"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1))
    show(rows)
    print(f"written: {RESULTS / name}.json")


if __name__ == "__main__":
    main()
