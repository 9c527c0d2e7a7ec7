"""What a GPU is borrowed for, inside a budget: self-check, GPU tests, engine benchmark, the ledger's queue; packed.

scripts/gpu calls it. Exit status 0 where all that ran is well or there is no CUDA device, 1 where a part failed, 2 for
the caller's mistake, 130 where it was stopped; in every case --out holds what was written so far.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .budget import Budget
from .session import Session
from .settings import Limits, Settings
from .signals import stoppable

LEAST_FILES = 3  # the story, the engine's record, an archive
PROBE_S = 180


def main(words: list[str] | None = None) -> int:
    """Run a session. Returns the exit status."""
    options = parser().parse_args(words)
    settings = settings_of(options)
    found = probe(settings)
    if not found["cuda"] and not options.rehearse:
        print("no CUDA device here: nothing to do (--rehearse goes through the parts on the CPU)")
        return 0
    if why := unusable(settings):
        print(f"scripts/gpu: {why}", file=sys.stderr)
        return 2
    if options.rehearse:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # other work may run beside a rehearsal
    session = Session(settings, found, say=lambda line: print(f"{settings.budget.passed():5.0f} s  {line}", flush=True))
    status = session.run(stoppable())
    print(f"{settings.budget.passed():5.0f} s  written to {settings.out}: {', '.join(sorted(written(settings)))}")
    return status


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser("scripts/gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--budget", type=float, default=9, metavar="MINUTES", help="from the script's start (9)")
    made.add_argument("--data-dir", type=Path, metavar="DIR", help="the data sets' files, for the queue")
    made.add_argument("--out", type=Path, default=Path("runs/gpu-out"), metavar="DIR", help="what comes back; empty")
    made.add_argument("--work", type=Path, default=Path("runs/gpu"), metavar="DIR", help="where runs are; kept")
    made.add_argument("--max-files", type=int, default=8, help="in --out")
    made.add_argument("--max-file-mib", type=float, default=16, help="of each")
    made.add_argument("--python", default=sys.executable, help="whose packages are used; nothing is installed then")
    made.add_argument("--rehearse", action="store_true", help="the CPU stands in for the device, all is small")
    for name, usual in (("check", 20), ("tests", 60)):
        made.add_argument(f"--{name}-seconds", type=float, default=usual, metavar="S", help=f"of its part ({usual})")
    made.add_argument("--engine-seconds", type=float, metavar="S", help="of its part (60; without a ledger, the rest)")
    made.add_argument("--started", type=float, default=time.time(), help=argparse.SUPPRESS)
    return made


def settings_of(options: argparse.Namespace) -> Settings:
    """What the options say; paths are those of the caller's folder."""
    limits = Limits(check=options.check_seconds, tests=options.tests_seconds, engine=options.engine_seconds)
    return Settings(
        budget=Budget(started=options.started, seconds=60 * options.budget),
        root=Path(__file__).resolve().parents[2],
        python=str(Path(options.python).absolute()) if "/" in options.python else options.python,
        out=options.out.resolve(),
        work=options.work.resolve(),
        data_dir=options.data_dir and options.data_dir.resolve(),
        max_files=options.max_files,
        max_file_mib=options.max_file_mib,
        rehearse=options.rehearse,
        limits=limits,
    )


def unusable(settings: Settings) -> str:
    """What is wrong with the settings; "" where nothing is. Makes the folders."""
    if settings.max_files < LEAST_FILES or settings.max_file_mib <= 0:
        return f"--max-files {settings.max_files} of {settings.max_file_mib} MiB: expected {LEAST_FILES} files or more"
    if settings.data_dir is not None and not settings.data_dir.is_dir():
        return f"--data-dir {settings.data_dir} is no folder: give the one that holds the data sets' files"
    if settings.out.is_dir() and any(settings.out.iterdir()):
        return f"--out {settings.out} is not empty: give another folder"
    if settings.out == settings.work or settings.work in settings.out.parents or settings.out in settings.work.parents:
        return f"--out {settings.out} and --work {settings.work}: give folders beside each other"
    settings.out.mkdir(parents=True, exist_ok=True)
    settings.work.mkdir(parents=True, exist_ok=True)
    return ""


def probe(settings: Settings) -> dict[str, Any]:
    """What the interpreter can do. Raises SystemExit where it cannot import what is needed."""
    command = [settings.python, "-m", "benchmarks.gpu.probe"]
    done = subprocess.run(command, cwd=settings.root, capture_output=True, text=True, timeout=PROBE_S)
    if done.returncode:
        raise SystemExit(f"scripts/gpu: {settings.python} cannot run flatbit:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def written(settings: Settings) -> list[str]:
    """The files in ``out``."""
    return [path.name for path in settings.out.iterdir()]


if __name__ == "__main__":
    sys.exit(main())
