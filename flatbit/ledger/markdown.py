"""Pages of the documentation, generated: docs/results.md from the ledger, docs/experiments.md from the experiments."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import words
from .cells import Cell, bits_in_words, cells, summary
from .claims import Tested, claims, judged
from .evidence import Evidence, Shelf
from .experiments import Experiment, Paper, experiments, papers
from .published import published
from .searched import Searched, searched

FINDINGS = Path(__file__).parent / "findings.toml"
"""What our runs show, in words, by table: the only part of the results that is written by hand."""
MEASURED = ("row", "net", "bits", "metric", "published", "ours", "difference", "status")
HEADLINES = ("reproduced", "better", "short by", "one seed", "shortened", "other settings")

RESULTS = """# Results

The numbers that the five papers publish, beside ours: written by `python scripts/pages.py` from the ledger
(`flatbit ledger`, which also writes this as a page to sort and filter: `--html FILE`). Every accuracy is that of the
last epoch, mean ± standard deviation over n seeds; no epoch was chosen on the test set. A row is *reproduced* where
full-length runs of two seeds or more come within 0.5 points (1 % where the unit is another one); *one seed* and
*shortened* never are. Each row's run is a record in `records/`, with recipe, versions, convention and proof; `flatbit
ledger verify` checks that none was edited, `flatbit ledger PAPER/TABLE --commands` prints the commands.
"""

EXPERIMENTS = """# Experiments

Every run of the ledger, and its command (written by `python scripts/pages.py`; the experiments stand in
`flatbit/ledger/experiments`). `DIR` is the folder with the data sets' files (`flatbit list data` says what each
expects, and a missing file says how to get it). W/A are bits of weights and activations, 32 for float.

- A run leaves its folder (`--out`): `run.json` with the scores of each stage and epoch, the models, `report.html`.
  Rows that several tables share are made once. Commands that name an earlier run's folder want that run first;
  `flatbit ledger run PAPER/TABLE --data-dir DIR` does that for all that is in its queue (`flatbit ledger queue`),
  inside a budget.
- `--smoke` tries any of them in seconds; `--resume` goes on where a run was cut off; `--seeds 5` repeats one, where
  papers average over runs. `flatbit ledger --records runs` puts what is finished beside the published numbers.
- Scores are of the last epoch; the best one on the test set is recorded beside it (UNIQ's and SAQ's code report
  that one).
- What a paper does not say (teachers, temperatures, some float trainings) is our choice; the recipe says so, and lists
  its settings: `flatbit list recipes NAME`.
- Decision maps of the spirals (HOL, Figures 1 to 3, 9 and 10): `flatbit analyze decision RUN --stage NAME`. Curvature
  (SAQ's Table 3): `flatbit analyze curvature RUN`.
- Loss planes (SQWA, Figures 1 and 4): `flatbit analyze plane FILE FILE FILE`, three nets of a run with
  `--set averaging.keep_captures=true`. Loss landscapes (SAQ, Figures 1, C to E): `flatbit analyze landscape RUN RUN`.
  [figures.md](figures.md) shows both.
- Noise and dynamics are drawn by analyses of a later version; the rows say whose models they will need. Rows that a
  paper quotes from others are not here.
"""


def results_page(shelf: Shelf) -> str:
    """docs/results.md."""
    found = cells(published(), shelf)
    measured = [cell for cell in found if cell.evidence]
    notes = tomllib.loads(FINDINGS.read_text())
    parts = [RESULTS, "## What was run\n", *_by_table(measured, notes), "## Claims\n", _claims(judged(claims(), shelf))]
    parts += [_own(shelf), "## All 761 rows\n", _statuses(found), _missing(found)]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts if part)


def readme_block(shelf: Shelf) -> str:
    """What README says of the ledger, between its marks: what was measured, in one table."""
    found = [cell for cell in cells(published(), shelf) if cell.evidence]
    counts = summary(found)
    said = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none yet"
    rows = [_measured_row(cell) for cell in found]
    return f"Measured so far, of 761 ({said}):\n\n{table(MEASURED, rows)}" if rows else ""


def experiments_page() -> str:
    """docs/experiments.md."""
    return "\n".join([EXPERIMENTS, *(_experiments_of(paper) for paper in papers())])


def _by_table(measured: Sequence[Cell], notes: dict[str, str]) -> Iterable[str]:
    for place in dict.fromkeys(cell.row.place for cell in measured):
        chosen = [cell for cell in measured if cell.row.place == place]
        yield f"### {place}\n\n{table(MEASURED, map(_measured_row, chosen))}\n"
        yield "How:\n\n" + "\n".join(f"- {how}" for how in dict.fromkeys(words.how(cell) for cell in chosen)) + "\n"
        if place in notes:
            yield notes[place].strip() + "\n"


def _measured_row(cell: Cell) -> tuple[str, ...]:
    net = cell.row.network if cell.row.method in ("float", "retrained") else f"{cell.row.network}, {cell.row.method}"
    numbers = words.number(cell.row.value), words.ours(cell), words.difference(cell)
    return cell.row.id, net, bits_in_words(cell.row), cell.row.metric, *numbers, words.status(cell)


def _claims(found: Sequence[Tested]) -> str:
    rows = [
        (
            one.claim.place,
            one.claim.says,
            "" if one.mean is None else f"{one.mean:+.2f}" + ("" if one.spread is None else f" ± {one.spread:.2f}"),
            str(len(one.differences)),
            "" if one.p is None else "<.001" if one.p < 0.001 else f"{one.p:.3f}",
            one.verdict,
        )
        for one in found
    ]
    head = ("table", "claim", "difference", "n", "p", "verdict")
    words_ = "Differences in pairs of a seed, two-sided paired t-test, not corrected for the number of claims.\n\n"
    return words_ + table(head, rows)


def _own(shelf: Shelf) -> str:
    """What no paper prints: the experiments of ``own``, and which of them are there."""
    rows = []
    for entry in experiments().values():
        if entry.paper == "own":
            rows += [_own_row(entry, found) for found in shelf.of(entry.name).values()]
    if not rows:
        return ""
    head = ("experiment", "seed", "before", "after", "best epoch on the test set", "how")
    return f"## Beyond the papers\n\n{table(head, rows)}"


def _own_row(entry: Experiment, found: Evidence) -> tuple[str, ...]:
    last, first = found.stage(""), next(iter(found.run.stages.values()))
    after = "diverged" if last is None else f"{last.score:.2f}"
    best = "" if last is None or last.best_test is None else f"{last.best_test:.2f}"
    convention = "" if last is None else last.test.convention.in_words()
    how = f"{convention}; {words.epochs(found)}, {found.hardware}" + (
        f" ({found.variation})" if found.variation else ""
    )
    return entry.what, str(found.run.seed), f"{first.score:.2f}", after, best, how


def _statuses(found: Sequence[Cell]) -> str:
    """How many rows of each paper have each status."""
    kinds = list(summary(found))
    kinds.sort(key=lambda kind: (kind not in HEADLINES, -summary(found)[kind]))
    by_paper = {
        name: summary([c for c in found if c.row.paper == name]) for name in dict.fromkeys(c.row.paper for c in found)
    }
    rows = [
        (kind, *(str(counts.get(kind, "")) for counts in by_paper.values()), str(summary(found)[kind]))
        for kind in kinds
    ]
    return table(("status", *by_paper, "all"), rows)


def _missing(found: Sequence[Cell]) -> str:
    """Why what is not run is not."""
    reasons: dict[str, int] = {}
    for cell in found:
        if cell.status == "not run":
            why = cell.why or "in the queue, or has a command (`flatbit ledger --commands`) and no run yet"
            reasons[why] = reasons.get(why, 0) + 1
    return "Not run:\n\n" + "\n".join(f"- {count}: {why}" for why, count in reasons.items())


def _experiments_of(paper: Paper) -> str:
    rows = [(entry.what, bits_of(entry), f"`{entry.command()}`") for entry in paper.experiments]
    rows += [(each.what, "mixed", " then ".join(f"`{line}`" for line in each.commands())) for each in searches(paper)]
    notes = f"{paper.notes.strip()}\n\n" if paper.notes.strip() else ""
    return f"## {paper.title}\n\n{notes}{table(('what', 'W/A', 'command'), rows)}\n"


def searches(paper: Paper) -> tuple[Searched, ...]:
    """What a paper's rows take a search for, each once."""
    found = (searched(row) for row in published() if row.paper.lower() == paper.name)
    return tuple(dict.fromkeys(each for each in found if each is not None))


def bits_of(entry: Experiment) -> str:
    """The bits of an experiment's quantized stages, ``2/32, 32/2``; 32/32 where none is quantized."""
    bases = [stage.policy.base for stage in entry.made().stages if stage.policy is not None]
    return ", ".join(dict.fromkeys(f"{base.weights}/{base.activations}" for base in bases)) or "32/32"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"
