"""A study: many short runs of the engine, one thread each, resumable, compared in pairs over seeds.

An arm is what one run does; its folder is OUT/ARM/seedN. Runs that are finished are kept, one that was cut
off goes on where it stood. An arm may start from the model that another arm left, of the same seed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from flatbit.engine import Checkpoint, Recipe, Run, Stage, plan, read_run, run
from flatbit.engine.loop import TrainingError
from flatbit.engine.record import RECORD
from flatbit.progress import bar


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train: stages of a recipe, and the arm whose model it starts from, if any."""

    stages: tuple[Stage, ...]
    model: str
    model_arguments: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = None


@dataclass(frozen=True, kw_only=True)
class Study:
    """What all arms share: where runs go, and the data."""

    out: Path
    data: str
    data_root: str | None = None
    data_arguments: Mapping[str, Any] = field(default_factory=dict)

    def folder(self, arm: str, seed: int) -> Path:
        """Of one run."""
        return self.out / arm / f"seed{seed}"

    def recipe(self, name: str, arm: Arm) -> Recipe:
        """What one run does."""
        return Recipe(
            name=name,
            model=arm.model,
            model_arguments=arm.model_arguments,
            data=self.data,
            data_arguments=self.data_arguments,
            stages=arm.stages,
        )


def run_all(study: Study, arms: Mapping[str, Arm], seeds: Sequence[int], processes: int) -> None:
    """Run what is not done yet: first the arms that others start from, seed by seed."""
    waves: list[list[str]] = []
    left = dict(arms)
    while left:
        wave = [name for name, arm in left.items() if arm.start not in left]
        waves.append(wave)
        left = {name: arm for name, arm in left.items() if name not in wave}
    with bar("arm") as progress, ProcessPoolExecutor(processes) as pool:
        task = progress.add_task("runs", total=len(arms) * len(seeds), arm="")
        for wave in waves:
            jobs = {
                pool.submit(run_one, study, name, arms[name], seed): f"{name}, seed {seed}"
                for seed in seeds
                for name in wave
            }
            for job in as_completed(jobs):
                job.result()
                progress.update(task, advance=1, arm=jobs[job])


def all_finished(study: Study, arms: Mapping[str, Arm], seeds: Sequence[int]) -> dict[str, dict[int, Run]]:
    """What is done, by arm and seed."""
    return {name: finished(study, name, arm, seeds) for name, arm in arms.items()}


def finished(study: Study, name: str, arm: Arm, seeds: Sequence[int]) -> dict[int, Run]:
    """The runs of an arm that went through all their stages, by seed."""
    begun = [seed for seed in seeds if (study.folder(name, seed) / RECORD).is_file()]
    runs = {seed: read_run(study.folder(name, seed)) for seed in begun}
    return {seed: made for seed, made in runs.items() if len(made.record.stages) == len(arm.stages)}


def run_one(study: Study, name: str, arm: Arm, seed: int) -> None:
    """One run in a process of its own, its output in a file; a run that diverges is a result, not a failure."""
    torch.set_num_threads(1)
    folder = study.folder(name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log, contextlib.redirect_stderr(log):
        start = study.folder(arm.start, seed) / "model.safetensors" if arm.start else None
        if start is not None and not start.is_file():
            print(f"{arm.start} diverged: nothing to start from", file=log)
            return
        with contextlib.suppress(TrainingError):
            checkpoint = Checkpoint(path=start) if start is not None else None
            planned = plan(study.recipe(name, arm), seed=seed, data_dir=study.data_root, checkpoint=checkpoint)
            run(planned, folder, resume=True, say=lambda line: print(line, file=log, flush=True))


def options_of(description: str | None, *, out: Path, seeds: int) -> argparse.ArgumentParser:
    """The options that every study has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=out, help="where runs are kept")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--processes", type=int, default=processes(), help="runs at a time, one thread each")
    parser.add_argument("--report", action="store_true", help="run nothing, report what is done")
    return parser


def scores(runs: Mapping[int, Run], stage: str | None = None) -> dict[int, float]:
    """The last-epoch test score of a stage (the last one) by seed."""
    found = {}
    for seed, made in runs.items():
        found[seed] = made.record.stages[stage or [*made.record.stages][-1]].score
    return found


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (n - 1), n."""
    return {
        "mean": statistics.mean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "n": len(values),
    }


def compare(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[str, Any]:
    """The difference in pairs of a seed: mean, standard deviation, n, and p of the two-sided paired t-test."""
    seeds = sorted(ours.keys() & theirs.keys())
    differences = [ours[seed] - theirs[seed] for seed in seeds]
    varies = len(set(differences)) > 1
    p = float(stats.ttest_rel([ours[s] for s in seeds], [theirs[s] for s in seeds]).pvalue) if varies else None
    return spread(differences) | {"p": p}


def processes() -> int:
    """One process for each core that this one may use."""
    return len(os.sched_getaffinity(0))


def table(pairs: Mapping[str, Mapping[str, Any]]) -> str:
    """The pairs as a Markdown table: the claim, the difference in points, p."""
    lines = ["| claim | difference, points | n | p |", "|---|---|---|---|"]
    for claim, found in pairs.items():
        mean, std = (f"{found[key]:.2f}" if found[key] is not None else "-" for key in ("mean", "std"))
        p = "-" if found["p"] is None else f"{found['p']:.3f}"
        lines.append(f"| {claim} | {mean} ± {std} | {found['n']} | {p} |")
    return "\n".join(lines)


def dots(panels: Mapping[str, Mapping[str, Sequence[float]]], path: Path, x_label: str) -> None:
    """One panel per question: a dot per seed, the mean as a bar, an arm per line."""
    from matplotlib.figure import Figure

    heights = [len(arms) + 1.6 for arms in panels.values()]
    columns = [list(panels)[: (len(panels) + 1) // 2], list(panels)[(len(panels) + 1) // 2 :]]
    tallest = max(sum(len(panels[name]) + 1.6 for name in column) for column in columns)
    picture = Figure(figsize=(13, 0.27 * tallest + 1.3))
    for index, column in enumerate(columns):
        ratios = [heights[list(panels).index(name)] for name in column]
        rows = picture.add_gridspec(
            len(column), 1, height_ratios=ratios, left=0.12 + 0.5 * index, right=0.49 + 0.5 * index, hspace=0.55,
            top=0.95, bottom=0.06,
        )  # fmt: skip
        for row, name in enumerate(column):
            axes = picture.add_subplot(rows[row])
            for place, values in enumerate(panels[name].values()):
                axes.plot(values, [place] * len(values), "o", color="#2a6fb0", alpha=0.45, markersize=4.5)
                if values:
                    axes.plot([statistics.mean(values)] * 2, [place - 0.32, place + 0.32], color="#14243a", linewidth=2)
            axes.set_yticks(range(len(panels[name])), list(panels[name]), fontsize=8)
            axes.invert_yaxis()
            axes.set_title(name, fontsize=9.5, loc="left")
            axes.grid(axis="x", color="#e3e8ee", linewidth=0.7)
            axes.tick_params(axis="x", labelsize=8)
            for side in ("top", "right", "left"):
                axes.spines[side].set_visible(False)
            if name == column[-1]:
                axes.set_xlabel(x_label, fontsize=8.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=130, bbox_inches="tight")
