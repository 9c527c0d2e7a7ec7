"""Evidence: a finished run as the ledger keeps it, a JSON file of 4 to 25 kB with a digest, one per run.

{"format": 1, "digest": SHA-256 of all the rest, "experiment": "saq/resnet20-saq-4", "run": {...}, ...}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import plain
from ..atomic import replacing
from ..engine.recipe import Stage
from ..engine.record import RECORD, RunRecord, StageRecord, read_run
from .counting import COUNTED
from .experiments import FILE, Point, experiment, experiments, likeness, unmeasured

FORMAT = 1
ANOTHER_START = "another start"
SHOWN = 8
"""So many characters of its digest are in a file's name."""
KEPT_EPOCHS = 10
"""So many epochs of a stage are kept, besides its captures: spread evenly, the last among them."""
OURS = Path(__file__).parent / "records"
"""Where the wheel has them; a clone has them in its own folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """One finished, or diverged, run of an experiment.

    Attributes:
        experiment: its name; "" for a run that is none of the ledger's.
        run: what ``run.json`` holds, with some of the epochs.
        measures: of its models besides the test score, by point and metric: ``{"": {"lambda_max": 86}}``.
        models: SHA-256 of the file of each stage's model, and under "" of the run's: what others start from.
        finished: when, in UTC.
    """

    experiment: str
    run: RunRecord
    measures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    finished: str = ""

    @property
    def failed(self) -> bool:
        """Whether it diverged or collapsed."""
        return self.run.failure is not None

    @property
    def epochs(self) -> int:
        """Of all its stages."""
        return sum(stage.epochs for stage in self.run.recipe.stages)

    def lineage(self, stage: str) -> tuple[int, ...]:
        """The epochs behind a stage's net, "" for the last: of each stage that trained on the way to it, in order."""
        return tuple(each.epochs for each in self._way_to(stage) if each.epochs) or (0,)

    def seconds(self, stage: str) -> float:
        """Of training, of all stages on the way to one, the last for ""."""
        done = (self.run.stages.get(each.name) for each in self._way_to(stage))
        return sum(entry.seconds for entry in done if entry is not None)

    def _way_to(self, stage: str) -> list[Stage]:
        """The stages from the run's beginning to one, the last for ""."""
        recipe = self.run.recipe
        found, name = [], stage or recipe.stages[-1].name
        while name:
            found.insert(0, recipe.stage(name))
            name = found[0].start.name if found[0].start.kind == "stage" else ""
        return found

    @property
    def hardware(self) -> str:
        """``H100``, or ``cpu``; with the precision where it is another than float32."""
        gpu = self.run.environment.gpu if self.run.device.startswith("cuda") else None
        words = (gpu or self.run.device).replace("NVIDIA ", "")
        return words if self.run.precision == "float32" else f"{words}, {self.run.precision}"

    def stage(self, name: str) -> StageRecord | None:
        """A finished stage by name, the last one for ""; None where it is not there."""
        if not name:
            return None if self.failed or not self.run.stages else [*self.run.stages.values()][-1]
        return self.run.stages.get(name)

    def value(self, metric: str, point: Point) -> float | None:
        """What a row prints, as this run has it; None where it does not know.

        Args:
            metric: of the published row.
            point: which of its nets.
        """
        measured = self.measures.get(str(point), {})
        if metric in measured:
            return measured[metric]
        if (entry := self.stage(point.stage)) is None:
            return None
        if metric == "diff":
            before = self.stage("float")
            return None if before is None else before.score - entry.score
        if point.epoch is not None:
            epoch = next((each for each in entry.epochs if each.epoch == point.epoch), None)
            return None if epoch is None or metric != "top1" else epoch.test_top1
        if metric in COUNTED:  # of bits that the run found
            return COUNTED[metric](entry.cost, next(iter(self.run.stages.values())).cost)
        test = entry.test
        return {"top1": test.top1, "top5": test.top5, "region_acc": test.top1, "mIoU": test.miou}.get(metric)

    @property
    def variation(self) -> str:
        """``shortened`` where it trained for fewer epochs than its experiment, ``other settings`` where more differs.

        "" where nothing does.
        """
        planned = experiment(self.experiment).made()
        if likeness(plain.to_plain(planned)) == likeness(plain.to_plain(self.run.recipe)):
            return ""
        pairs = [*zip(self.run.recipe.stages, planned.stages, strict=False)]
        same = [mine.name for mine, _ in pairs] == [stage.name for stage in planned.stages]
        return "shortened" if same and any(mine.epochs < stage.epochs for mine, stage in pairs) else "other settings"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shelf:
    """The evidence of some folders, and what of it is left out.

    Attributes:
        files: path of each piece.
        left_out: files that are no evidence, and why.
    """

    files: Mapping[Path, Evidence]
    left_out: Mapping[Path, str]

    def of(self, name: str) -> dict[Path, Evidence]:
        """The evidence of an experiment; of one seed a whole run, sound or not, else the longest, then the newest."""
        best: dict[int, Path] = {}
        for path, found in self.files.items():
            if found.experiment != name:
                continue
            held = best.get(found.run.seed)
            if held is None or self._rank(found) > self._rank(self.files[held]):
                best[found.run.seed] = path
        return {path: self.files[path] for _, path in sorted(best.items())}

    def variation(self, found: Evidence) -> str:
        """What keeps a run from being a whole one of its experiment; "" where nothing does.

        Besides ``Evidence.variation``: ``another start``, where the experiment starts from the net of another and this
        run was given a file that no whole run of that one left.
        """
        if found.variation:
            return found.variation
        start = experiment(found.experiment).start
        if start is None or start.startswith(FILE):
            return ""
        name, _, stage = start.partition(":")
        whole = [each for each in self.files.values() if each.experiment == name and not self.variation(each)]
        given = None if found.run.checkpoint is None else found.run.checkpoint.sha256
        left = {each.models.get(stage) for each in whole if not each.failed} - {None}
        return "" if given is not None and given in left else ANOTHER_START

    def _rank(self, found: Evidence) -> tuple[bool, bool, int, str]:
        return not self.variation(found), not found.failed, found.epochs, found.finished


def of_run(
    folder: Path,
    *,
    name: str | None = None,
    measures: Mapping[str, Mapping[str, float]] = {},
) -> Evidence:
    """The evidence of a run's folder, which is read without importing anything.

    Args:
        folder: of the run; it was finished when its last net was, or the record of what went wrong, was written.
        name: of its experiment; None to find it by the recipe.
        measures: of its models, as ``Evidence`` has them.

    Raises:
        ValueError: no run, or one that is not finished.
    """
    run = read_run(folder)
    record = run.record
    if record.failure is None and len(record.stages) < len(record.recipe.stages):
        raise ValueError(f"{folder}: this run is not finished: go on with it (flatbit run ... --resume)")
    files = {name: run.stage_file(name) for name in record.stages}
    files |= {} if record.failure is not None else {"": folder / "model.safetensors"}
    models = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if path.is_file()}
    name = name if name is not None else named(record)
    return Evidence(experiment=name, run=thinned(record), measures=measures, models=models, finished=run.finished)


def named(record: RunRecord) -> str:
    """The experiment that a run is one of, by its whole recipe, else by all of it but its length; "" for none."""
    mine = plain.to_plain(record.recipe)
    alike = [entry for entry in experiments().values() if entry.recipe == record.recipe.name]
    for same in (likeness, unmeasured):
        for entry in alike:
            if same(plain.to_plain(entry.made())) == same(mine):
                return entry.name
    return ""


def thinned(record: RunRecord) -> RunRecord:
    """The record with some of each stage's epochs: those that were captured, and ten more."""
    return replace(record, stages={name: _thin(entry) for name, entry in record.stages.items()})


def _thin(entry: StageRecord) -> StageRecord:
    last = len(entry.epochs)
    even = {max(1, round(last * k / KEPT_EPOCHS)) for k in range(1, KEPT_EPOCHS + 1)}
    return replace(entry, epochs=tuple(e for e in entry.epochs if e.epoch in even or e.capture is not None))


def write(evidence: Evidence, folder: Path) -> Path:
    """Write evidence into a folder, whole or not at all, under a name of its own. Returns the file."""
    content = {"format": FORMAT} | plain.to_plain(evidence) | {"run": evidence.run.as_dict()}
    digest = digest_of(content)
    title = evidence.experiment.replace("/", "-") or evidence.run.recipe.name
    name = f"{title}-seed{evidence.run.seed}-{digest[:SHOWN]}.json"
    with replacing(folder / name) as partial:
        partial.write_text(json.dumps({"digest": digest} | content, separators=(",", ":")) + "\n")
    return folder / name


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of all plain values but ``digest``, in a spelling that does not depend on their order."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read(path: Path) -> Evidence:
    """Read a file of evidence, or a run's ``run.json``; nothing is imported.

    Raises ValueError for what is neither, for an unknown format, and where the content was changed later.
    """
    if path.name == RECORD:
        return of_run(path.parent)
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"no JSON ({error})") from error
    if not isinstance(content, dict) or "digest" not in content:
        raise ValueError("no ledger record: it has no digest")
    if content.get("format") != FORMAT:
        raise ValueError(f"a record of format {content.get('format')}: this version reads {FORMAT}")
    if not isinstance(content.get("experiment"), str):
        raise ValueError("a record that names no experiment")
    if digest_of(content) != content["digest"]:
        raise ValueError("its digest does not match: it was edited after it was written, or is damaged")
    kept = {key: part for key, part in content.items() if key not in ("format", "digest", "run")}
    try:
        return Evidence(run=RunRecord.from_dict(content["run"]), **kept)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"a record that does not fit ({error})") from error


def shelf(folders: Iterable[Path] = ()) -> Shelf:
    """Our evidence, and that of further folders, with the folders in them: records of the ledger, and runs.

    Raises ValueError for a folder that is not there.
    """
    files: dict[Path, Evidence] = {}
    left_out: dict[Path, str] = {}
    for folder in (ours(), *folders):
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder: --records names one with records of the ledger, or runs")
        for path in sorted(folder.rglob("*.json")):
            try:
                found = read(path)
            except ValueError as error:
                left_out[path] = str(error)
                continue
            if found.experiment not in experiments():
                left_out[path] = f"no experiment of the ledger{found.experiment and f': {found.experiment}'}"
            elif any(stage.max_steps is not None for stage in found.run.recipe.stages):
                left_out[path] = "a smoke run"
            elif (splits := found.run.recipe.splits) is not None and splits.limit_test is not None:
                left_out[path] = f"scored on {splits.limit_test} test images alone (--limit-test)"
            else:
                files[path] = found
    return Shelf(files=files, left_out=left_out)


def label(path: Path) -> str:
    """What a piece of evidence is called: its file's name; of a run's folder, where all have one, the whole path."""
    return path.as_posix() if path.name == RECORD else path.name


def ours() -> Path:
    """The folder of our own records: the wheel's, or the clone's."""
    return OURS if OURS.is_dir() else Path(__file__).resolve().parents[2] / "records"
