"""The page's tables: what each benchmark's records say, a row for each variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from records import Record

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A benchmark on the page.

    Attributes:
        benchmark: as its records are named.
        title: of the section.
        method: what is timed and how.
        command: that makes a record.
        columns: heading and cell of each column.
    """

    benchmark: str
    title: str
    method: str
    command: str
    columns: Sequence[tuple[str, Callable[[Row], str]]]


def number(value: Any, digits: int = 3) -> str:
    """So many significant digits; whole numbers with commas; words as they are; "" for None."""
    if value is None or isinstance(value, str | bool):
        return "" if value is None else str(value)
    if isinstance(value, int) or abs(value) >= 10**digits - 0.5:
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def ratio_of(row: Row, key: str = "ratio_to_float", quartiles: str = "ratio_quartiles") -> str:
    """A ratio and its quartiles."""
    if row.get(key) is None:
        return ""
    low, high = row[quartiles]
    return f"{number(row[key])} ({number(low)} to {number(high)})"


def mib(value: Any) -> str:
    """Bytes in MiB."""
    return "" if value is None else f"{value / 2**20:,.0f}"


SECTIONS = (
    Section(
        benchmark="qat_step",
        title="A training step",
        method="Forward, backward and the optimizer's step on one batch; W2A2 on every layer and its input. Saved "
        "bytes are what autograd keeps for the backward pass, each storage once.",
        command="python benchmarks/qat_step.py",
        columns=(
            ("variant", lambda row: row["variant"]),
            ("ms", lambda row: number(row["median_ms"])),
            ("times float (quartiles)", ratio_of),
            ("times Brevitas", lambda row: number(row.get("ratio_to_brevitas"))),
            ("saved MiB", lambda row: mib(row.get("saved_bytes"))),
            ("times float", lambda row: number(row.get("saved_ratio"))),
        ),
    ),
    Section(
        benchmark="epoch",
        title="An epoch",
        method="Training through the engine's loop, a float loop written by hand, peers in that loop, and the batches "
        "alone. The same batches for all, from memory, augmented.",
        command="python benchmarks/epoch.py",
        columns=(
            ("variant", lambda row: row["variant"]),
            ("s", lambda row: number(row["median_s"])),
            ("images/s", lambda row: number(row["images_per_s"])),
            ("times the float plain loop (quartiles)", ratio_of),
        ),
    ),
    Section(
        benchmark="stack",
        title="Several nets at once",
        method="Nets of one architecture trained as one stacked net, against one after the other.",
        command="python benchmarks/stack.py",
        columns=(
            ("net", lambda row: f"{row['data']}, {row['bits']}, batch {row['batch']}"),
            ("nets", lambda row: number(row["nets"])),
            ("way", lambda row: row["way"]),
            ("model-steps/s", lambda row: number(row["model_steps_per_s"])),
            ("times one at a time (quartiles)", lambda row: ratio_of(row, "gain", "gain_quartiles")),
        ),
    ),
    Section(
        benchmark="data",
        title="Data",
        method="Augmented batches of CIFAR's shape out of memory (ms of a batch), and photographs from JPEG files (ms "
        "of an image), against torchvision's usual path; one thread.",
        command="python benchmarks/data.py",
        columns=(
            ("what", lambda row: row["section"]),
            ("variant", lambda row: row["variant"]),
            ("ms", lambda row: number(row["median_ms"])),
            ("per second", lambda row: number(row["per_second"])),
            ("times flatbit (quartiles)", lambda row: ratio_of(row, "times_flatbit")),
        ),
    ),
    Section(
        benchmark="engine",
        title="The engine's ways on a GPU",
        method="ResNet-20 on 50,000 random images of CIFAR's shape, batch 128, data included: ms of a step, an epoch "
        "predicted from it (390 steps), and trained whole where that was done. W2A2 by SGD and by SAQ, beside float in "
        "the same way.",
        command="scripts/gpu",
        columns=(
            ("net", lambda row: row["arm"]),
            ("nets at once", lambda row: number(row.get("nets"))),
            ("engine", lambda row: f"{row['engine']}, {row['precision']}"),
            ("ms", lambda row: number(row.get("ms_per_step"))),
            ("images/s", lambda row: number(row.get("images_per_s"))),
            ("s an epoch", lambda row: number(row.get("epoch_s", row.get("epoch_s_each")))),
            ("whole epoch", lambda row: number(row.get("whole_epoch_s"))),
            ("times float (quartiles)", ratio_of),
            ("peak MiB", lambda row: number(row.get("peak_mib"))),
            ("not run", lambda row: row.get("missing", "")),
        ),
    ),
)


def table(section: Section, record: Record) -> str:
    """The rows of a record in Markdown."""
    columns = section.columns
    lines = [[heading for heading, _ in columns], ["---"] * len(columns)]
    lines += [[cell(row) for _, cell in columns] for row in record.rows]
    filled = [place for place in range(len(columns)) if any(line[place] for line in lines[2:])]
    return "\n".join("| " + " | ".join(line[place] for place in filled) + " |" for line in lines)


def caption(record: Record) -> str:
    """Where and when: hardware, versions, what was repeated."""
    found, settings = record.environment, record.settings
    where = found["gpu"] or f"{found['processor']}, {found['threads']} of {found['cores']} cores"
    peers = [f"{name} {found[name]}" for name in ("brevitas", "torchvision", "pillow") if found.get(name)]
    shown = [f"{name} {settings[name]}" for name in ("model", "batch", "engine", "rounds", "steps") if name in settings]
    versions = ", ".join([f"torch {found['torch']}", f"Python {found['python']}", *peers])
    link = f"[record](../benchmarks/results/{record.path.name})"
    return f"{record.date}: {where}; {versions}; {', '.join(shown)} ({link})."
