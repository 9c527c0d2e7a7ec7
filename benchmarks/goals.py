"""What is aimed at, what the records say of it, and the command that measures what they do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from records import Record, of

GPU = "scripts/gpu --out DIR"
STEP, RESNET = "python benchmarks/qat_step.py", "resnet20"
Records = Sequence[Record]


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """A goal.

    Attributes:
        what: is measured.
        most: that it may be.
        unit: of both.
        command: that measures it.
        found: its value, of the records; None where they have none.
    """

    what: str
    most: float
    unit: str
    command: str
    found: Callable[[Records], float | None]


def best_epoch(arm: str, *, precisions: Sequence[str] = ("tf32", "bf16")) -> Callable[[Records], float | None]:
    """Seconds of an epoch in the fastest way on a GPU: of the whole one where it was trained, else predicted."""

    def found(records: Records) -> float | None:
        rows = [row for record in of(records, "engine") if record.environment["gpu"] for row in record.rows]
        rows = [row for row in rows if row["arm"] == arm and row["precision"] in precisions and "epoch_s" in row]
        return min((max(row["epoch_s"], row.get("whole_epoch_s", 0.0)) for row in rows), default=None)

    return found


def sqwa_minutes(records: Records) -> float | None:
    """Of 425 epochs' updates, batches included; no evaluation."""
    epoch = best_epoch("uniq, SGD")(records)
    return None if epoch is None else 425 * epoch / 60


def gpu_ratio(records: Records) -> float | None:
    """The quantized step over the float step, each in its fastest way."""
    quantized, float_ = best_epoch("uniq, SGD")(records), best_epoch("float")(records)
    return None if quantized is None or float_ is None else quantized / float_


def cpu_steps(records: Records, model: str = RESNET) -> list[Record]:
    """The records of a training step of a model on the CPU."""
    steps = [record for record in of(records, "qat_step") if record.device == "cpu"]
    return [record for record in steps if record.settings.get("model", RESNET) == model]


def step_ratio(name: str, base: str, model: str = RESNET) -> Callable[[Records], float | None]:
    """A step over another on the CPU, inside rounds."""

    def found(records: Records) -> float | None:
        newest_first = sorted(cpu_steps(records, model), key=lambda record: record.date, reverse=True)
        return next((value for record in newest_first if (value := record.ratio(name, base)) is not None), None)

    return found


def stacked_time(batch: int) -> Callable[[Records], float | None]:
    """Time of 16 spiral nets at W2A2 stacked, over one at a time, on one core: of the newest record that has it."""

    def found(records: Records) -> float | None:
        stacks = [record for record in of(records, "stack") if record.device == "cpu"]
        newest_first = sorted(stacks, key=lambda record: (record.date, record.variant), reverse=True)
        facts = {"data": "spirals", "bits": "W2A2", "batch": batch, "nets": 16, "way": "stacked"}
        rows = (record.row(**facts) for record in newest_first)
        return next((1 / row["gain"] for row in rows if row), None)

    return found


def saved_ratio(records: Records) -> float | None:
    """Bytes kept for the backward pass of ResNet-20 on the CPU, quantized tensors computed again, over float's."""
    newest_first = sorted(cpu_steps(records), key=lambda record: record.date, reverse=True)
    rows = (record.row(variant="flatbit uniq, recomputed") for record in newest_first)
    return next((row["saved_ratio"] for row in rows if row), None)


GOALS = (
    Goal(what="GPU: an epoch of W2A2 by SGD", most=0.6, unit="s", command=GPU, found=best_epoch("uniq, SGD")),
    Goal(what="GPU: an epoch of W2A2 by SAQ", most=1.2, unit="s", command=GPU, found=best_epoch("uniq, SAQ")),
    Goal(what="GPU: SQWA's 425 epochs, training only", most=5.0, unit="min", command=GPU, found=sqwa_minutes),
    Goal(what="GPU: W2A2 step over float, each in its fastest way", most=1.15, unit="x", command=GPU, found=gpu_ratio),
    Goal(
        what="CPU: ResNet-20, W2A2 step over float, eager",
        most=1.12,
        unit="x",
        command=STEP,
        found=step_ratio("flatbit uniq", "float"),
    ),
    Goal(
        what="CPU: ResNet-20, bytes kept over float's, by --recompute",
        most=1.25,
        unit="x",
        command=STEP,
        found=saved_ratio,
    ),
    Goal(
        what="CPU: ResNet-20, W2A2 step over float, both compiled",
        most=1.05,
        unit="x",
        command=f"{STEP} --compile",
        found=step_ratio("flatbit uniq, compiled", "float, compiled"),
    ),
    Goal(
        what="CPU: MobileNetV2 at 224 pixels, W2A2 step over float, eager",
        most=1.30,
        unit="x",
        command=f"{STEP} --model mobilenet_v2",
        found=step_ratio("flatbit uniq", "float", model="mobilenet_v2"),
    ),
    *(
        Goal(
            what=f"CPU: 16 spiral nets at W2A2 stacked, batch {batch}, time over one at a time",
            most=0.5,
            unit="x",
            command="python benchmarks/stack.py",
            found=stacked_time(batch),
        )
        for batch in (64, 500)
    ),
)
