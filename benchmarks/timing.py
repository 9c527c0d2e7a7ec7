"""What the benchmarks share: interleaved timing, ratios taken inside a round, and the file that keeps a result."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from flatbit.device import processor_name

RESULTS = Path(__file__).parent / "results"


def interleaved(steps: dict[str, Callable[[int], float]], rounds: int, warmup: int) -> dict[str, list[float]]:
    """Seconds of every step (called with the round), each once a round, in a new random order every time."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    shuffle = random.Random(0).shuffle
    for round_ in range(-warmup, rounds):
        shuffle(order)
        for name in order:
            seconds = steps[name](max(round_, 0))
            if round_ >= 0:
                times[name].append(seconds)
    return times


def ratio(times: dict[str, list[float]], name: str, base: str) -> tuple[float, list[float]]:
    """Median and quartiles of a step's time over another's, taken inside each round."""
    ratios = sorted(own / other for own, other in zip(times[name], times[base], strict=True))
    return statistics.median(ratios), [ratios[len(ratios) // 4], ratios[-len(ratios) // 4]]


def environment(device: str, threads: int, packages: Iterable[str]) -> dict:
    """Hardware and versions; None for a package that is not installed."""
    versions = {name: importlib.metadata.version(name) if importlib.util.find_spec(name) else None for name in packages}
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor_name("cpu"),
        "cores": os.cpu_count(),
        "threads": threads,
        "gpu": torch.cuda.get_device_name() if device.startswith("cuda") else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    } | versions


def write(result: dict, name: str) -> Path:
    """Write a result to benchmarks/results, or where ``name`` is an absolute path."""
    RESULTS.mkdir(exist_ok=True)
    return save(result, RESULTS / f"{name}.json")


def save(result: dict, path: Path) -> Path:
    """Write a record whole or not at all. Returns its path."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(result, indent=1))
    return partial.replace(path)
