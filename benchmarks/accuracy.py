"""What a user would pick instead: flatbit's quantizers, Brevitas' and torch.ao's, fine-tuned alike from one float net.

    python benchmarks/accuracy.py --data-dir DIR [--sets fashion_mnist cifar10] [--bits 2 3 4] [--arms uniq lsq ...]
                                  [--seeds 5] [--epochs N] [--lr R] [--images N] [--budget-minutes M] [--processes P]
    python benchmarks/accuracy.py --report [--out runs/accuracy]

DIR holds the data sets, and for cifar10 the public float ResNet-20 (resnet20_cifar10.pth, 91.73 %, inputs normalised by
ImageNet's statistics); the small float PreResNet-8 of fashion_mnist is trained here. All arms of a seed see the same
batches in the same order, the same loop trains them (``accuracy_run.py``), and ``accuracy_arms.py`` says how each is
started. Brevitas is taken where it is installed (benchmarks/requirements.txt), else its arms are left out by name.

Each run is a process of its own, with one thread, and leaves one small JSON in OUT/SET/wBaB/; what is finished is kept,
so the command can be repeated and goes on. The arms of one seed come together, and with --budget-minutes a seed is
begun only where it is likely to end in time: a cut leaves whole seeds. A loss that is not finite is a result.
--report prints a Markdown table and writes the record to benchmarks/results/ and docs/peers.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from accuracy_arms import ARMS, NAMES, missing
from accuracy_jobs import SETS, Job, finished
from accuracy_page import PAGE, page, record_of, table
from accuracy_run import run
from timing import save

from records import RESULTS, Record

DEVICE = "cpu"


def main() -> None:
    options = parsed()
    if options.report:
        report(options.out)
        return
    if options.data_dir is None:
        raise SystemExit("--data-dir is missing: the folder with the data sets")
    arms = available(options.arms)
    end = time.monotonic() + 60 * options.budget_minutes
    for name in options.sets:
        base = base_job(name, options)
        if finished(base) is None:
            work([base], 1)
        for seed_jobs in seeds(base, arms, options):
            left = [job for job in seed_jobs if finished(job) is None]
            if not left:
                continue
            if time.monotonic() + expected_s(base, left, options.processes) > end:
                print(f"no time for {label(left[0])} and what follows: call it again to go on")
                return
            work(left, options.processes)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="the folder with the data sets")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"), help="where runs are kept")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--bits", nargs="+", type=int, default=[2, 3, 4], help="of weights and activations alike")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=5, help="how many: 0, 1, ...")
    parser.add_argument("--epochs", type=int, help="of fine-tuning; default: 6, of cifar10 10")
    parser.add_argument("--lr", type=float, help="its first rate; default: 0.01")
    parser.add_argument("--images", type=int, help="to train on; default: the first 12,000, of cifar10 all")
    parser.add_argument("--budget-minutes", type=float, default=float("inf"))
    parser.add_argument("--processes", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--report", action="store_true", help="run nothing, report what is done")
    return parser.parse_args(arguments)


def available(arms: Sequence[str]) -> list[str]:
    """Those that can be run here; the others are named with the reason."""
    reasons = {arm: missing(arm) for arm in arms}
    for arm, reason in reasons.items():
        if reason:
            print(f"{NAMES[arm]} is left out: {reason}", flush=True)
    return [arm for arm in arms if not reasons[arm]]


def base_job(name: str, options: argparse.Namespace) -> Job:
    """The float net of a set, under its settings with what the options change."""
    given = {key: getattr(options, key) for key in ("epochs", "lr", "images")}
    setting = replace(SETS[name], **{key: value for key, value in given.items() if value is not None})
    return Job(setting=setting, folder=options.out / name, data_dir=options.data_dir)


def seeds(base: Job, arms: Sequence[str], options: argparse.Namespace) -> Iterator[list[Job]]:
    """The arms of one comparison, seed by seed."""
    for bits in options.bits:
        for seed in range(options.seeds):
            yield [replace(base, arm=arm, bits=bits, seed=seed) for arm in arms]


def work(jobs: Sequence[Job], processes: int) -> None:
    """Do jobs, each in a new process. Raises what the first to fail has raised."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=1) as pool:
        futures = {pool.submit(run, job): job for job in jobs}
        for future in as_completed(futures):
            print(f"{label(futures[future])}: {summary(future.result())}", flush=True)


def label(job: Job) -> str:
    """A run in words."""
    if not job.arm:
        return f"{job.setting.data}, float net"
    return f"{job.setting.data}, W{job.bits}A{job.bits}, seed {job.seed}, {NAMES[job.arm]}"


def summary(found: dict[str, Any]) -> str:
    """A result in words."""
    before, after = ("not finite" if found.get(key) is None else f"{found[key]:.2f} %" for key in ("before", "after"))
    start = f"{before} -> " if "before" in found else ""
    diverged = f", diverged in epoch {found['diverged_in_epoch']}" if found.get("diverged_in_epoch") else ""
    return f"{start}{after}{diverged}, {found['wall_s']:.0f} s, {found['peak_bytes'] / 2**20:.0f} MiB"


def expected_s(base: Job, jobs: Sequence[Job], processes: int) -> float:
    """Seconds that jobs will take, after what is finished of the set: of their own arm, else of the slowest."""
    took: dict[str, list[float]] = {}
    for found in results(base.folder):
        if found["facts"]["arm"]:
            took.setdefault(found["facts"]["arm"], []).append(found["wall_s"])
    means = {arm: statistics.mean(seconds) for arm, seconds in took.items()}
    slowest = max(means.values(), default=0.0)
    each = [means.get(job.arm, slowest) for job in jobs]
    return max(sum(each) / processes, max(each))


def results(folder: Path) -> list[dict[str, Any]]:
    """What is finished below a folder, in order of the files' names."""
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))]


def report(out: Path) -> None:
    """Print the table; write the record and the page."""
    found = {name: results(out / name) for name in SETS}
    if not any(found.values()):
        raise SystemExit(f"{out} holds no finished run: nothing to report")
    name, record = record_of(found, DEVICE)
    path = save(record, RESULTS / name)
    read = Record.read(path)
    PAGE.write_text(page(read))
    print(table(read.rows))
    print(f"written: {path}, {PAGE}")


if __name__ == "__main__":
    main()
