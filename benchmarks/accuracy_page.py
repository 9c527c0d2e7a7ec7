"""The record of ``accuracy.py`` and docs/peers.md: a row for each set, width and arm, mean and deviation over seeds."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accuracy_arms import ARMS, NAMES, how_of
from names import record_name
from study import compare, spread

from records import Record, newest, of

Found = Mapping[str, Any]
PAGE = Path(__file__).parent.parent / "docs/peers.md"
REFERENCE = "uniq"
COMMAND = "python benchmarks/accuracy.py --data-dir DIR"
METHOD = f"""\
# Against what you would pick instead

Written by `python benchmarks/accuracy.py --report` from [its record](../benchmarks/results); not edited by hand.

**These are short runs of small nets.** What holds here need not hold for longer training or larger nets, in which
a poor start is forgotten; and one rate serves all arms, tuned for none. Numbers are to be read beside each other in one
table only, and none is a published result.

**How it is compared.** All arms of a table start from one float net and are fine-tuned by one plain PyTorch loop: the
same batches in the same order (which differs from seed to seed), SGD with momentum 0.9, a cosine to 0 at every step,
the same epochs, batch size, weight decay and augmentation. All weights and inputs of convolutions and linear layers are
quantized, one step for a tensor; first and last layer 8 bits, image signed, what a ReLU made unsigned. Top-1 is that of
all test images after the last epoch, mean ± standard deviation over seeds; "before" is after the arm's start, with
batch-norm statistics re-estimated on its calibration batches. The levels of each layer's operands are counted where
they reach PyTorch's kernels, and are in the record. Seconds are those of one thread on its processor, for the training
alone; MiB the most that the run's process held, data and libraries included. A run whose loss is not finite has
diverged: it counts as such, not in the mean. The difference to flatbit uniq is taken in pairs of a seed, p by the
two-sided paired t-test.

`{COMMAND}`
"""
CLOSING = f"""\
## What is not here

Channel-wise steps, other optimizers and rates, distillation, integer execution, GPUs. Brevitas' scales that follow the
weights' statistics (`STATS`) and torchao's quantization-aware training, which is for linear layers. Sets, widths and
seeds without a row are not run: `{COMMAND}` goes on where it stopped.
"""


def record_of(found: Mapping[str, Sequence[Found]], device: str) -> tuple[str, dict[str, Any]]:
    """Name and content of the record, from the results of each set."""
    every = [each for results in found.values() for each in results]
    environments = sorted((each["environment"] for each in every), key=lambda stated: stated["date"])
    stated = environments[-1] | {
        "brevitas": next((stated["brevitas"] for stated in reversed(environments) if stated["brevitas"]), None)
    }
    rows, settings = [], {}
    for name, results in found.items():
        base = next((each for each in results if not each["facts"]["arm"]), None)
        if base is not None:
            settings[name] = {"float_top1": base["after"]} | base["facts"]
            rows += rows_of(name, [each for each in results if each["facts"]["arm"]])
    content = {"environment": stated, "settings": {"sets": settings}, "rows": rows}
    return record_name(stated["date"], "accuracy", device), content


def rows_of(name: str, results: Sequence[Found]) -> list[dict[str, Any]]:
    """Of one set, by width and arm."""
    widths = sorted({each["facts"]["bits"] for each in results}, reverse=True)
    rows = []
    for bits in widths:
        arms = {arm: [r for r in results if (r["facts"]["bits"], r["facts"]["arm"]) == (bits, arm)] for arm in ARMS}
        reference = top1_by_seed(arms[REFERENCE])
        rows += [row(name, bits, arm, runs, reference) for arm, runs in arms.items() if runs]
    return rows


def row(name: str, bits: int, arm: str, runs: Sequence[Found], reference: Mapping[int, float]) -> dict[str, Any]:
    """Of one arm."""
    after = top1_by_seed(runs)
    return {
        "set": name,
        "bits": f"W{bits}A{bits}",
        "arm": NAMES[arm],
        "how": runs[-1]["how"],
        "seeds": sorted(run["facts"]["seed"] for run in runs),
        "diverged": [run["facts"]["seed"] for run in runs if run["after"] is None],
        "before": spread([run["before"] for run in runs if run["before"] is not None]),
        "after": spread([*after.values()]),
        "top1": after,
        "difference": None if arm == REFERENCE else compare(after, reference),
        "train_cpu_s": spread([run["train_cpu_s"] for run in runs]),
        "start_cpu_s": spread([run["start_cpu_s"] for run in runs]),
        "peak_bytes": spread([run["peak_bytes"] for run in runs]),
        "peak_before_bytes": spread([run["peak_before_bytes"] for run in runs]),
        "levels": next((run["levels"] for run in runs if run["levels"]), None),
    }


def top1_by_seed(runs: Sequence[Found]) -> dict[int, float]:
    """After training, of those that did not diverge."""
    return {run["facts"]["seed"]: run["after"] for run in runs if run["after"] is not None}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows in Markdown."""
    lines = [
        "| bits | arm | before, % | after, % | against uniq, points | s | MiB | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in rows:
        difference = each["difference"]
        against = plus_minus(difference, signed=True) if difference else ""
        against += f" (p {difference['p']:.3f})" if difference and difference["p"] is not None else ""
        diverged = f", {len(each['diverged'])} diverged" if each["diverged"] else ""
        cells = [each["bits"], each["arm"], plus_minus(each["before"]), plus_minus(each["after"]), against]
        cells += [f"{each['train_cpu_s']['mean']:.0f}", f"{each['peak_bytes']['mean'] / 2**20:.0f}"]
        lines.append("| " + " | ".join([*cells, f"{len(each['seeds'])}{diverged}"]) + " |")
    return "\n".join(lines)


def plus_minus(found: Mapping[str, Any], signed: bool = False) -> str:
    """Mean ± standard deviation; the mean alone of one value, "-" of none."""
    if found["mean"] is None:
        return "-"
    mean = f"{found['mean']:+.2f}" if signed else f"{found['mean']:.2f}"
    return mean if found["std"] is None else f"{mean} ± {found['std']:.2f}"


def page(record: Record | None) -> str:
    """docs/peers.md; without a record it says how the arms are set up, and that none is run."""
    shown = tables(record) if record else ["**Nothing is run yet.**\n"]
    hows = {NAMES[arm]: how_of(arm) for arm in ARMS} | {
        each["arm"]: each["how"] for each in (record.rows if record else ())
    }
    told = [f"**{arm}.** {how}\n" for arm, how in hows.items()]
    return "\n".join([METHOD, *shown, "## How each was set up\n", *told, CLOSING])


def tables(record: Record) -> list[str]:
    """A section for each set that has rows."""
    made = []
    for name, setting in record.settings["sets"].items():
        if rows := [each for each in record.rows if each["set"] == name]:
            made.append(f"## {name}\n\n{caption(record, setting)}\n\n{table(rows)}\n")
    return made


def caption(record: Record, setting: Mapping[str, Any]) -> str:
    """What was trained how, on what."""
    stated = record.environment
    arguments = ", ".join(f"{key} {value}" for key, value in setting["model_arguments"].items())
    where = f"{stated['processor']}, one thread; torch {stated['torch']}, Python {stated['python']}"
    peers = f", Brevitas {stated['brevitas']}" if stated["brevitas"] else ""
    source = setting["checkpoint"] or f"{setting['float_epochs']} epochs here"
    return (
        f"{setting['model']} ({arguments}), float {setting['float_top1']:.2f} % ({source}); {setting['images']:,} "
        f"training images, {setting['epochs']} epochs, rate {setting['lr']:g}, batch {setting['batch_size']}, decay "
        f"{setting['weight_decay']:g}, {setting['calibration_batches']} calibration batches. {record.date}: {where}"
        f"{peers} ([record](../benchmarks/results/{record.path.name}))."
    )


def main() -> int:
    """Write the page anew from the newest record; ``--check`` only compares."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the page is out of date")
    options = parser.parse_args()
    text = page(next(reversed(of(newest(), "accuracy")), None))
    stale = not PAGE.is_file() or PAGE.read_text() != text
    if stale and not options.check:
        PAGE.write_text(text)
    return int(stale and options.check)


if __name__ == "__main__":
    sys.exit(main())
