"""Writes docs/performance.md and README's sentences on speed from the newest records; ``--check`` only compares.

    python benchmarks/page.py [--check]

After a benchmark was run, call it and commit the record with what it wrote.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from goals import GOALS, cpu_steps
from tables import SECTIONS, Section, caption, number, table

from records import Record, newest, of

ROOT = Path(__file__).parent.parent
PAGE, README = ROOT / "docs/performance.md", ROOT / "README.md"
BEGIN, END = "<!-- speed: written by benchmarks/page.py -->\n", "<!-- /speed -->\n"
METHOD = """\
# Performance

Written by `python benchmarks/page.py` from the newest [records](../benchmarks/results); not edited by hand.

**How it is measured.** Each benchmark times all its variants in one run: every round times each once, in a new random
order, so that a drifting machine hits all alike. A ratio is taken inside a round; printed are the median over the
rounds and the quartiles. Times are medians, on the machine that the caption names. Nothing is chosen: a record holds
every round. Peers are set up as
[peers.py](../benchmarks/peers.py) and [qat_step.py](../benchmarks/qat_step.py) say.
"""


def page(records: Sequence[Record]) -> str:
    """The page, in Markdown."""
    shown = [text for section in SECTIONS if (text := section_of(section, of(records, section.benchmark)))]
    return "\n".join([METHOD, goals(records), *shown, unmeasured(records)])


def section_of(section: Section, records: Sequence[Record]) -> str:
    """A benchmark's tables, one for each device and variant; "" without a record."""
    if not records:
        return ""
    parts = [f"## {section.title}\n\n{section.method} `{section.command}`\n"]
    parts += [f"{caption(record)}\n\n{table(section, record)}\n" for record in records]
    return "\n".join(parts)


def goals(records: Sequence[Record]) -> str:
    """What is aimed at and what was reached."""
    lines = ["## Goals\n", "| goal | at most | measured |", "|---|---|---|"]
    for goal in GOALS:
        found = goal.found(records)
        measured = "not measured" if found is None else f"{number(found)} {goal.unit}"
        measured += " (missed)" if found is not None and found > goal.most else ""
        lines.append(f"| {goal.what} | {number(goal.most)} {goal.unit} | {measured} |")
    return "\n".join(lines) + "\n"


def unmeasured(records: Sequence[Record]) -> str:
    """What no record tells, with the command that measures it."""
    lines = [f"- {goal.what}: `{goal.command}`" for goal in GOALS if goal.found(records) is None]
    lines += [f"- {s.title}: `{s.command}`" for s in SECTIONS if not of(records, s.benchmark)]
    lines.append("- Other processors, more threads, several GPUs, half-precision weights, and inference on integers.")
    return "## What is not measured\n\n" + "\n".join(lines) + "\n"


def sentences(records: Sequence[Record]) -> str:
    """README's, of the newest step of ResNet-20 on the CPU. Raises ValueError without one."""
    if not cpu_steps(records):
        raise ValueError("there is no record of python benchmarks/qat_step.py on the CPU: run it")
    record = max(cpu_steps(records), key=lambda record: record.date)
    own = [row for row in record.rows if row["variant"] in ("flatbit uniq", "flatbit saq", "flatbit lsq")]
    ratios = [row["ratio_to_float"] for row in own]
    peer = next((row for row in record.rows if row["variant"].lower().startswith("brevitas")), None)
    theirs = peer and f"; Brevitas' takes {peer['ratio_to_float']:.2f} times and keeps {peer['saved_ratio']:.1f} times"
    text = (
        f"A W2A2 training step of ResNet-20 (batch {record.settings['batch']}, {record.environment['threads']} CPU "
        f"threads) takes {min(ratios):.2f} to {max(ratios):.2f} times the float step and keeps "
        f"{max(row['saved_ratio'] for row in own):.1f} times its bytes for the backward pass{theirs or ''}. "
        "[docs/performance.md](docs/performance.md) has the method, every benchmark, and what is not measured."
    )
    return textwrap.fill(text, 118, break_on_hyphens=False) + "\n"


def readme(text: str, records: Sequence[Record]) -> str:
    """README with the sentences between their marks. Raises ValueError where it has no marks."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"{README} has no lines {BEGIN.strip()} and {END.strip()}: put them where the numbers belong")
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + sentences(records) + END + rest.partition(END)[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page is out of date")
    options = parser.parse_args()
    records = newest()
    made = {PAGE: page(records), README: readme(README.read_text(), records)}
    stale = [path for path, text in made.items() if not path.is_file() or path.read_text() != text]
    if not options.check:
        for path in stale:
            path.write_text(made[path])
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'out of date: call benchmarks/page.py' if options.check else 'written'}")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
