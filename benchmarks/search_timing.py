"""How long `flatbit sensitivity` takes for ResNet-20: the command itself, in a process of its own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from search_jobs import Place

from flatbit.atomic import replacing

WORDS = ("sensitivity", "resnet20", "--data", "cifar10", "--policy", "saq")


def time_of(place: Place) -> dict[str, Any] | None:
    """What is kept; None where nothing is."""
    path = place.out / "timed.json"
    return json.loads(path.read_text()) if path.is_file() else None


def time_sensitivity(place: Place) -> None:
    """Seconds by the clock and of the processors, kept; says why where it cannot run, as without CIFAR-10."""
    if time_of(place) is not None:
        return
    before = _cpu_s()
    words = [*WORDS, "--data-dir", str(place.data_dir), "--out", str((place.out / "resnet20.json").resolve())]
    done = subprocess.run([sys.executable, "-m", "flatbit", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"flatbit sensitivity is not timed: {done.stderr.strip().splitlines()[-1]}")
        return
    told = json.loads(Path(place.out / "resnet20.json").read_text())
    found = {
        "command": f"flatbit {' '.join(WORDS)}", "num_samples": told["num_samples"], "seconds": told["seconds"],
        "process_cpu_s": _cpu_s() - before, "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0],
    }  # fmt: skip
    with replacing(place.out / "timed.json") as partial:
        partial.write_text(json.dumps(found, indent=1))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
