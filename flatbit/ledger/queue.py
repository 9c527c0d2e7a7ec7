"""The queue: the groups in order, inside a budget, resumable on another machine; each finished run is a record.

OUT/runs/PAPER/NAME/seedN     the run, as `flatbit run` leaves it
OUT/records/                  a file for each finished or diverged run
OUT/times.json                what a run of each experiment takes on a processor or GPU
OUT/untrained/, OUT/smoke/    nets in place of untrained ones, for timing; runs that were only tried
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .. import data as datasets
from ..atomic import replacing
from ..device import processor_name
from ..engine.checkpoint import load_checkpoint
from ..engine.fit import build_model
from ..engine.planning import Plan, in_words, plan
from ..engine.record import RECORD, Run, read_run
from ..engine.seeds import run_seeds
from ..engine.sources import Checkpoint
from ..files import save
from .evidence import Evidence, of_run, read, shelf, write
from .experiments import Experiment, chain, experiment
from .groups import Group
from .measures import measured
from .packing import RUN_PARTS
from .stopping import Stopped, stopping, undisturbed

RESERVE_S = 5.0  # before the end of the budget the work in hand is left, to say so and to close files
Say = Callable[[str], None]


class Blocked(Exception):  # noqa: N818
    """A group that cannot go on: its data are missing, or what it starts from diverged."""


@dataclass(kw_only=True, slots=True)
class Queue:
    """What a queue works with.

    Attributes:
        out: its folder.
        data_dir: the folder of the data sets' files.
        device: where to compute.
        say: called with a line as things begin and end.
        more: folders with further records, whose runs need not be made again.
        smoke: two updates per stage: does it run at all; nothing of it is a record.
    """

    out: Path
    data_dir: Path | None
    device: str
    say: Say
    more: Sequence[Path] = ()
    smoke: bool = False
    _times: dict[str, float] = field(default_factory=dict)

    @property
    def records(self) -> Path:
        """Where records go."""
        return self.out / "records"

    def folder(self, name: str, seed: int = 0) -> Path:
        """Of a run."""
        return self.out / ("smoke" if self.smoke else "runs") / name / f"seed{seed}"

    def pending(self, group: Group) -> list[tuple[Experiment, list[int]]]:
        """What of a group is still to be run, what others start from first: experiments with their seeds."""
        self.records.mkdir(parents=True, exist_ok=True)
        found = shelf([self.records, *self.more])
        asked: dict[str, set[int]] = {}
        for entry in group.asked():
            done = {each.run.seed for each in found.of(entry.name).values() if each.failed or not found.variation(each)}
            if self.smoke:
                done = {seed for seed in range(group.seeds) if self._finished(entry.name, seed)}
            if seeds := set(range(group.seeds)) - done:
                for needed in chain(entry):
                    over = self._finished(needed, 0) or self._failed(needed)
                    proved = any(not found.variation(each) for each in found.of(needed).values())
                    if not over or not (self.smoke or proved):  # or killed before its record was written
                        asked.setdefault(needed, set()).add(0)
                asked.setdefault(entry.name, set()).update(seeds)
        return [(experiment(name), sorted(seeds)) for name, seeds in asked.items()]

    def seconds(self, group: Group) -> float:
        """How long the rest of a group will take. Raises Blocked."""
        return sum(self._seconds(entry, seeds) for entry, seeds in self.pending(group))

    def run(self, group: Group) -> None:
        """Run the rest of a group. Raises Blocked."""
        self.say(f"{group.name}: {group.why}")
        for entry, seeds in self.pending(group):
            self._run(entry, seeds)

    def _run(self, entry: Experiment, seeds: list[int]) -> None:
        self._check_start(entry)
        self.say(f"{entry.name}: {entry.what}; seed {', '.join(map(str, seeds))}")
        planned = self._planned(entry, seeds[0])
        folder = self.folder(entry.name).parent
        begun = any((folder / f"seed{seed}" / RECORD).is_file() for seed in seeds)
        for run in run_seeds(planned, seeds, folder, resume=begun, say=lambda line: self.say(f"  {line}")):
            if not self.smoke:
                self._keep(entry, run, planned)
            elif (failure := run.record.failure) is not None:
                raise Blocked(f"{entry.name} does not run: {failure.message}")

    def _keep(self, entry: Experiment, run: Run, planned: Plan) -> Path:
        """Write the record of a run, with what its rows ask for besides the test score."""
        failed = run.record.failure is not None
        measures = {} if failed else measured(entry, run.folder, planned.data, self.device)
        found = of_run(run.folder, name=entry.name, measures=measures)
        with undisturbed():
            path = write(found, self.records)
        self.say(f"  {'diverged' if failed else 'finished'}: {path}")
        if not failed and (variation := shelf([self.records, *self.more]).variation(found)):
            raise Blocked(f"{path} is not what {entry.name} asks for: {variation}")
        return path

    def _check_start(self, entry: Experiment) -> None:
        """Raise Blocked where what an experiment starts or learns from diverged."""
        for needed in entry.needs():
            if self._failed(needed):
                raise Blocked(f"{entry.name} starts from {needed}, which diverged")

    def _planned(self, entry: Experiment, seed: int, *, timing: bool = False) -> Plan:
        """The plan of a run; for its time alone what it starts from may be missing. Raises Blocked."""

        def folder_of(name: str) -> Path:
            return self._untrained(name) if timing and not self._finished(name, 0) else self.folder(name)

        try:
            return plan(
                entry.made(folder_of), seed=seed, device=self.device, data_dir=self._root(entry), smoke=self.smoke,
                checkpoint=self._checkpoint(entry, needed=not timing), timing=timing and not self.smoke,
            )  # fmt: skip
        except ValueError as error:
            raise Blocked(f"{entry.name} cannot be run: {error}") from error

    def _root(self, entry: Experiment) -> Path | None:
        return self.data_dir if entry.has_files else None

    def _checkpoint(self, entry: Experiment, *, needed: bool) -> Checkpoint | None:
        """What a run is given to start from. Raises ValueError where it is needed and missing."""
        if entry.start is None:
            return None
        if entry.given is not None:
            if self.data_dir is None:
                raise ValueError(f"--data-dir is not given: {entry.given} is looked for in it")
            return Checkpoint(path=self.data_dir / entry.given)
        name, _, stage = entry.start.partition(":")
        path = self.folder(name) / (f"stages/{stage}.safetensors" if stage else "model.safetensors")
        return Checkpoint(path=path if needed or path.is_file() else self._untrained(name))

    def _untrained(self, name: str) -> Path:
        """A net as a run will leave it, untrained: for the time that starting or learning from it takes."""
        path = self.out / "untrained" / f"{name}.safetensors"
        if not path.is_file():
            recipe = experiment(name).made()
            data = datasets.load(recipe.data, self._root(experiment(name)), **recipe.data_arguments)
            save(build_model(recipe, data), path)
        return path

    def _finished(self, name: str, seed: int) -> bool:
        """Whether a run is here whole, with its model."""
        return (self.folder(name, seed) / "model.safetensors").is_file()

    def _failed(self, name: str) -> bool:
        """Whether a run that others start from is here, and diverged."""
        with suppress(ValueError):
            return read_run(self.folder(name)).record.failure is not None
        return False

    def _seconds(self, entry: Experiment, seeds: list[int]) -> float:
        """What is left of an experiment's seeds, one after another. Raises Blocked."""
        self._check_start(entry)
        if self.smoke:
            self._planned(entry, seeds[0], timing=True)
            return 0.0
        key = f"{processor_name(self.device)}/{entry.name}"
        times = self._times or self._read_times()
        if key not in times:
            times[key] = self._planned(entry, seeds[0], timing=True).seconds or 0.0
            self._times = times
            with replacing(self.out / "times.json") as partial:
                partial.write_text(json.dumps(times, indent=1))
        return times[key] * sum(1 - self._share_done(entry, seed) for seed in seeds)

    def _read_times(self) -> dict[str, float]:
        with suppress(OSError, ValueError):
            return dict(json.loads((self.out / "times.json").read_text()))
        return {}

    def _share_done(self, entry: Experiment, seed: int) -> float:
        """How much of a run's epochs are behind it."""
        folder = self.folder(entry.name, seed)
        if not (folder / RECORD).is_file():
            return 0.0
        done, recipe, kept = set[str](), entry.made(), None
        with suppress(ValueError):
            done, kept = set(read_run(folder).record.stages), load_checkpoint(folder / "checkpoint")
        behind = sum(stage.epochs for stage in recipe.stages if stage.name in done)
        behind += kept["position"]["epoch"] if kept is not None and kept["stage"] not in done else 0
        return min(1.0, behind / max(1, sum(stage.epochs for stage in recipe.stages)))


def work(queue: Queue, asked: Sequence[Group], *, minutes: float, partial: bool = False) -> list[Evidence]:
    """Run groups until they are done, or the budget is.

    Args:
        queue: what to work with.
        asked: the groups, in order.
        minutes: the budget, from this call on.
        partial: take the first group though it does not fit into what is left: it goes on another time.

    Returns:
        The evidence that was won.

    Raises:
        ValueError: a budget too small for any group; nothing that could be run, as where data are missing.
    """
    end = time.monotonic() + 60 * minutes
    if 60 * minutes <= RESERVE_S:
        raise ValueError(f"--budget-minutes {minutes:g}: {RESERVE_S:g} s of it are kept to end in time: give more")
    queue.records.mkdir(parents=True, exist_ok=True)
    before = set(queue.records.iterdir())
    try:
        with stopping(end - RESERVE_S):
            _work(queue, asked, end, partial=partial)
    except Stopped as stopped:
        queue.say(f"{stopped}: what is begun goes on from its last checkpoint another time")
    return [read(path) for path in sorted(queue.records.iterdir()) if path not in before and path.suffix == ".json"]


def _work(queue: Queue, asked: Sequence[Group], end: float, *, partial: bool) -> None:
    blocked: dict[str, str] = {}
    begun = False
    while left := [group for group in asked if group.name not in blocked and queue.pending(group)]:
        group, times = _fitting(queue, left, end - RESERVE_S - time.monotonic(), blocked, partial=partial)
        if group is None and times:
            smallest = min(times, key=lambda name: times[name])
            told = f"of the groups that are left the smallest, {smallest}, takes about {in_words(times[smallest])}"
            if not begun:
                raise ValueError(f"--budget-minutes is too small: {told}: give more, or --partial to begin it")
            queue.say(f"{told}: more than is left")
            return
        if group is not None:
            begun = True
            try:
                queue.run(group)
            except Blocked as why:
                _block(queue, blocked, group, why)
    if blocked and not begun:
        raise ValueError(f"nothing can be run: {'; '.join(dict.fromkeys(blocked.values()))}")
    if not blocked:
        queue.say("nothing is left to run of these groups")


def _fitting(
    queue: Queue, left: Sequence[Group], seconds: float, blocked: dict[str, str], *, partial: bool
) -> tuple[Group | None, dict[str, float]]:
    """The first group that fits into the time, or just the first; and the times of those that were looked at."""
    times = dict[str, float]()
    for group in left:
        try:
            times[group.name] = queue.seconds(group)
        except Blocked as why:
            _block(queue, blocked, group, why)
            continue
        if partial or times[group.name] <= seconds:
            queue.say(f"{group.name}: about {in_words(times[group.name])}; {in_words(seconds)} are left")
            return group, times
    return None, times


def _block(queue: Queue, blocked: dict[str, str], group: Group, why: Blocked) -> None:
    blocked[group.name] = f"{why}: this blocks {', '.join(group.rows()) or 'no published row'}"
    queue.say(f"{group.name}: {blocked[group.name]}")


def carried(queue: Queue, asked: Sequence[Group]) -> Callable[[str], bool]:
    """Which of a queue's files another machine needs: records, times, what is begun, what others start from."""
    pending = {entry.name: seeds for group in asked for entry, seeds in queue.pending(group)}
    needed = {name for each in pending for name in experiment(each).needs()}

    def keep(name: str) -> bool:
        parts = Path(name).parts
        if parts[0] != "runs":
            return parts[0] in ("records", "times.json")
        if len(parts) <= RUN_PARTS or not parts[3].removeprefix("seed").isdigit():
            return False
        run, seed = "/".join(parts[1:3]), int(parts[3].removeprefix("seed"))
        return run in needed or seed in pending.get(run, ())

    return keep
