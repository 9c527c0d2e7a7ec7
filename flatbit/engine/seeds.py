"""Several seeds of one recipe: a run each, and their stages trained as one stacked net where that can be and pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, Unpack

from ..device import device_of
from .execution import Execution, Say, check_recompute
from .loggers import Callback
from .loop import TrainingError
from .planning import Plan
from .recipe import Stage
from .record import Run
from .stacked_stage import TIMED, TRIED_FROM, WARM, descend_stacked, tried_alone, tried_stacked
from .stage import Work, in_its_way
from .way import AUTO, STACKED, Asked, Precision


class How(TypedDict, total=False):
    """How updates are run, as ``Asked`` has it."""

    engine: str | None
    precision: Precision
    recompute: bool


Begun = list[tuple[Execution, Work]]
"""Runs with what their next stage trains."""
Alone = list[tuple[Execution, Asked]]
"""Runs that are trained one at a time, and how."""


def run_seeds(
    plan: Plan,
    seeds: Sequence[int],
    out: str | Path,
    *,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    say: Say = lambda line: None,
    **how: Unpack[How],
) -> list[Run]:
    """Execute a plan once per seed, stage by stage; each seed is a run with a folder of its own, ``out/seedK``.

    The runs are those of ``run``, up to the order of sums in float; dropout draws in another order. A seed that
    diverges or collapses is a failed run by itself: the others go on.

    Args:
        plan: what to do; its own seed is not looked at.
        seeds: each once.
        out: the folder of the runs' folders.
        resume: go on with what is there. A stage goes on stacked or one net at a time, as it was begun; what was
            killed while its seeds stood at several epochs goes on in as many stacks.
        callbacks: as ``run`` has them; those of all seeds.
        say: called with lines as stages begin and finish, and with why nets could not be stacked.
        how: ``engine``: ``stacked``; one of ``run``'s, for one net at a time; None or ``auto`` for what takes less
            time, by a few updates of each, where a stage has 40 or more (a shorter one is stacked). ``precision``: of
            products in training; bf16 is for one net at a time. ``recompute``: as ``run`` has it; for one net at a
            time.

    Returns:
        The runs in the order of the seeds; that of a seed that failed has the ``failure`` in its record.

    Raises:
        ValueError: no seed, one that comes twice or is negative; and as ``run`` does.
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds {', '.join(map(str, seeds)) or 'none'}: expected one or more, each once, from 0 on")
    asked = Asked(**how)
    asked.alone.way(plan.device)
    check_recompute(plan, asked.recompute)
    for note in plan.notes:
        say(note)
    runs = [
        Execution.open(
            replace(plan, seed=seed), Path(out) / f"seed{seed}", precision=asked.precision, resume=resume,
            callbacks=callbacks, say=lambda line, seed=seed: say(f"seed {seed}: {line}"),
        )
        for seed in seeds
    ]  # fmt: skip
    failed: list[Execution] = []
    for stage in plan.recipe.stages:
        left = [run for run in runs if run not in failed and stage.name not in run.record.stages]
        failed += _advance(left, stage, asked, say)
    return [run.close() if run not in failed else Run(folder=run.out, record=run.record) for run in runs]


def _advance(runs: list[Execution], stage: Stage, asked: Asked, say: Say) -> list[Execution]:
    """Take runs through one stage. Returns those that failed."""
    failed: list[Execution] = []
    alone = [(run, asked.alone) for run in runs]
    if stage.epochs and len(runs) > 1 and asked.engine in (None, AUTO, STACKED):
        failed, alone = _advance_stacked(runs, stage, asked, say)
    for run, own in alone:
        try:
            run.train(stage, own)
        except TrainingError as error:
            run.say(str(error))
            failed.append(run)
    return failed


def _advance_stacked(runs: list[Execution], stage: Stage, asked: Asked, say: Say) -> tuple[list[Execution], Alone]:
    """Take those through one stage that can be stacked. Returns what failed, and who is left, with how to train it."""
    failed: list[Execution] = []
    alone: Alone = []
    for group in _in_step([(run, run.begin(stage)) for run in runs]):
        stacked = _as_stacked(group, asked)
        instead = _instead(stacked, group[0][1], asked, say)
        if instead is None:
            failed += _together(stacked)
        else:
            alone += [(run, instead) for run, _ in group]
    return failed, alone


def _in_step(begun: Begun) -> list[Begun]:
    """Those that stand at one epoch and step of the stage, and go on in one way."""
    groups: dict[tuple[int, int, str], Begun] = {}
    for run, work in begun:
        groups.setdefault((work.position.epoch, work.position.step, work.way.engine), []).append((run, work))
    return [*groups.values()]


def _as_stacked(group: Begun, asked: Asked) -> Begun:
    """The same with the way of a stack."""
    return [
        (run, replace(work, way=replace(asked.simplest, stacked=max(len(group), work.way.stacked))))
        for run, work in group
    ]


def _instead(stacked: Begun, first: Work, asked: Asked, say: Say) -> Asked | None:
    """None where a group is to be trained as one, else how its nets are, one at a time. Says which, and why."""
    works, stage, n = [work for _, work in stacked], first.stage, len(stacked)
    begun, forced = first.position.begun, asked.engine == STACKED
    if n == 1 or (begun and not (forced or first.way.stacked > 1)):
        return asked.alone
    if begun:
        asked.alone.way_on(first.way, device_of(first.model))
    try:
        tried_stacked(works)
    except ValueError as error:
        say(f"{stage.name}: one seed at a time: {error}")
        return asked.alone
    if begun or forced or first.num_updates < TRIED_FROM:
        say(f"{stage.name}: {n} seeds stacked")
        return None
    first = in_its_way(first, asked)
    together, alone = tried_stacked(works, WARM + TIMED), tried_alone(first)
    pays = together < n * alone
    said = f"an update takes {1000 * together:.2f} ms stacked, {n} x {1000 * alone:.2f} ms one at a time"
    say(f"{stage.name}: {n} seeds {'stacked' if pays else 'one at a time'}: {said}")
    return None if pays else replace(asked, engine=first.way.engine)


def _together(stacked: Begun) -> list[Execution]:
    """Train and finish runs whose nets are trained as one. Returns those that failed."""
    failed: list[Execution] = []
    results = descend_stacked([work for _, work in stacked])
    for (run, work), result in zip(stacked, results, strict=True):
        if isinstance(result, TrainingError):
            run.say(str(run.fail(work.stage, result)))
            failed.append(run)
        else:
            run.finish(work, result)
    return failed
