"""ImageNet-style decoding per core, against the plain PIL path: the second half of ``data.py``."""

from __future__ import annotations

import importlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timing import interleaved, ratio

from flatbit.data.normalize import Normalize
from flatbit.data.samples import Reader
from flatbit.data.sets.image_folder import IMAGENET_MEAN, IMAGENET_STD, load_image_folder


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


def row(section: str, name: str, times: dict[str, list[float]], peer: str) -> dict:
    """What is reported of one variant: its time, and how many times flatbit's it is."""
    times_flatbit, quartiles = ratio(times, name, peer)
    median = statistics.median(times[name])
    return {
        "section": section,
        "variant": name,
        "median_ms": 1000 * median,
        "min_ms": 1000 * min(times[name]),
        "per_second": 1 / median,
        "times_flatbit": times_flatbit,
        "ratio_quartiles": quartiles,
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
    data = load_image_folder(root).with_workers(0)
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


def measure_decoding(size: tuple[int, int], count: int, rounds: int) -> dict:
    """Rows and times of one size of photographs, by one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = write_photographs(Path(folder), count, size)
        bytes_each = statistics.mean(path.stat().st_size for path in files)
        variants = decoding_variants(Path(folder), files)
        times = interleaved({name: _timed(variant, count) for name, variant in variants.items()}, rounds, 1)
    torch.set_num_threads(threads)
    kind = f"{size[0]}x{size[1]}"
    rows = [decoding_row(name, times, kind, bytes_each) for name in times]
    return {"rows": rows, "times_s": {f"{kind}, {name}": seconds for name, seconds in times.items()}}


def _timed(variant: Callable[[], None], count: int) -> Callable[[int], float]:
    def seconds(_: int) -> float:
        started = time.perf_counter()
        variant()
        return (time.perf_counter() - started) / count

    return seconds


def decoding_row(name: str, times: dict[str, list[float]], kind: str, bytes_each: float) -> dict:
    peer = "flatbit, testing" if "testing" in name else "flatbit, training"
    return row(f"jpeg {kind}", name, times, peer) | {"bytes_per_image": bytes_each}
