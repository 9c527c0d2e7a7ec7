"""The record of ``search.py`` and docs/search.md: nets beside the uniform one, measures beside the truth."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_page import plus_minus
from names import record_name
from scipy import stats
from search_jobs import HIGH, LOW, MEASURED, METHODS, WIDTHS, Place, alone, find, finished, measure, searched
from search_timing import time_of
from study import compare, dots, scores, spread
from timing import environment

from flatbit.search.sensitivity import MEASURES
from records import Record

PAGE = Path(__file__).parent.parent / "docs/search.md"
LEVEL, RESAMPLES = 0.95, 4999
NAMES = {
    "samq": "SAMQ, with sharpness", "samq-plain": "SAMQ, without", "ilp": "ilp, rise of the loss", "uniform": "uniform",
}  # fmt: skip
MEASURE_NAMES = {
    "loss": "rise of the loss (default)", "noise": "quantization noise (SQNR)", "perturbed": "perturbed loss (SAQ's)",
    "trace": "Hessian trace x error (HAWQ-V2's)", "eigenvalue": "top eigenvalue x error (HAWQ's)",
}  # fmt: skip
HOW = """\
# Bits where they matter: how to search, and whether it paid here

Written by `python benchmarks/search.py --report` from [its record](../benchmarks/results); not edited by hand.

## How to search

```
flatbit sensitivity runs/float                                 what each layer loses at each width; no training
flatbit search runs/float --budget 3bits                       the proven optimum of that at the uniform net's cost
flatbit search runs/float --budget 3bits --method samq         a learned generator, weights shared by all widths
flatbit search runs/float --budget 60kB,392M-bitops --fixed layers.0.0.conv1=4
```

`flatbit search` fine-tunes what it found and the widest uniform net inside the budget alike, prints them next to each
other and draws bits per layer and the frontier. It leaves `assignment.toml`, one line a layer, to be read and changed;
any recipe of `flatbit list recipes` that has the setting takes it: `flatbit run finetune ... --set
layers.assignment=FILE`. `flatbit run dq-preresnet20-cifar100` learns bits while it trains (DQ); `flatbit cost RUN
--assignment FILE` writes them as such a file.
"""
LIMITS = """\
## What this cannot show

One small net, one data set, short training, one search for each method and budget: another draw of a search may find
other bits, and the deviation printed is that of the fine-tuning alone. SAMQ's paper searches for 100 epochs and
fine-tunes for 200. Nothing here was tuned for any method but what is said above.
"""


def record_of(place: Place) -> tuple[str, dict[str, Any]]:
    """Name and content of the record, of what is done. Raises ValueError where nothing is."""
    float_net = finished(place.out / "float")
    if float_net is None:
        raise ValueError(f"{place.out} holds no float net: run without --report first")
    names = [choice.name for choice in searched(place, WIDTHS[3]).space.choices]
    nets = [row for bits in WIDTHS for row in net_rows(place, bits)]
    stated = environment("cpu", 1, ["flatbit"])
    settings = asdict(place.setting) | {"float_top1": scores({0: float_net})[0], "timed": time_of(place)}
    rows = [*nets, *measure_rows(place, names)]
    return record_name(stated["date"], "search", "cpu"), {"environment": stated, "settings": settings, "rows": rows}


def net_rows(place: Place, bits: int) -> list[dict[str, Any]]:
    """What each method chose at one budget, and what it scores by seed, beside the uniform net."""
    nets = {method: find(place, method, bits) for method in METHODS if place.found(method, bits).is_file()}
    found = {method: top1_by_seed(place, net["bits"]) for method, net in nets.items()}
    rows = []
    for method, chosen in ((method, net) for method, net in nets.items() if found[method]):
        measured_s = measure(place, "loss").seconds if method == "ilp" else 0.0
        rows.append({
            "part": "nets", "method": method, "budget_bits": bits, "budget_bitops": chosen["budget_bitops"],
            "widths": WIDTHS[bits], "bits": chosen["bits"], "bitops": chosen["bitops"],
            "search_s": chosen["cpu_s"] + measured_s,
            "top1": found[method], "after": spread([*found[method].values()]),
            "difference": None if method == "uniform" else compare(found[method], found["uniform"]),
        })  # fmt: skip
    return rows


def measure_rows(place: Place, names: Sequence[str]) -> list[dict[str, Any]]:
    """Each measure of one layer at 2 bits, against the loss of the net that was fine-tuned so; of whole seeds."""
    seeds = range(100)
    losses = {name: loss_by_seed(place, alone(name, names), seeds) for name in (None, *names)}
    whole = [seed for seed in seeds if all(seed in found for found in losses.values())]
    if not whole:
        return []
    truth = [statistics.mean(losses[name][seed] for seed in whole) for name in names]
    rows: list[dict[str, Any]] = [
        {"part": "alone", "layer": name or "none", "loss": spread([found[seed] for seed in whole])}
        for name, found in losses.items()
    ]
    by_seed = [[losses[name][seed] for name in names] for seed in whole]
    between = [spearman(one, other) for one, other in combinations(by_seed, 2)]
    rows.append({"part": "agreement", "seeds": len(whole), "rank_correlation": spread(between)})
    for name in MEASURES.names():
        if place.measured(name).is_file():
            found = measure(place, name)
            guessed = [found.values[layer][LOW] for layer in names]
            low, high = interval(guessed, truth)
            rows.append({
                "part": "measures", "measure": name, "num_layers": len(names), "rank_correlation":
                spearman(guessed, truth), "low": low, "high": high, "values": dict(zip(names, guessed, strict=True)),
            })  # fmt: skip
    return rows


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation."""
    result: Any = stats.spearmanr(one, other)
    return float(result.statistic)


def interval(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Its 95 % interval over layers drawn again (bootstrap in pairs, percentiles, a fixed seed)."""
    found: Any = stats.bootstrap(
        (one, other), spearman, paired=True, vectorized=False, n_resamples=RESAMPLES, confidence_level=LEVEL,
        method="percentile", rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def top1_by_seed(place: Place, bits: Mapping[str, int]) -> dict[int, float]:
    """Last-epoch top-1 of a net's fine-tunings that are done."""
    runs = {seed: finished(place.tuned(bits, place.setting.tune_epochs, seed)) for seed in range(100)}
    return scores({seed: run for seed, run in runs.items() if run is not None})


def loss_by_seed(place: Place, bits: Mapping[str, int], seeds: Sequence[int]) -> dict[int, float]:
    """Test loss of a net's fine-tunings that are done."""
    runs = {seed: finished(place.tuned(bits, place.setting.alone_epochs, seed)) for seed in seeds}
    return {seed: run.record.stages["trained"].test.loss for seed, run in runs.items() if run is not None}


def page(record: Record | None) -> str:
    """docs/search.md; without a record it says how to search, and that nothing is measured."""
    if record is None:
        return "\n".join([HOW, "**Nothing is measured yet.**\n"])
    parts = [HOW, caption(record)]
    parts += [nets_table(record, bits) for bits in WIDTHS if of(record, "nets", budget_bits=bits)]
    parts += [f"![Every fine-tuning](../benchmarks/results/{record.path.with_suffix('.png').name})\n"]
    return "\n".join([*parts, measures_table(record), timing(record), LIMITS])


def caption(record: Record) -> str:
    """What was trained how, on what."""
    given, stated = record.settings, record.environment
    net = f"{given['model']} ({', '.join(f'{key} {value}' for key, value in given['model_arguments'].items())})"
    images = given["data_arguments"].get("samples")
    data = f"first {images:,} training images of Fashion-MNIST" if images else f"{given['data']}"
    text = f"""\
`python benchmarks/search.py --data-dir DIR`: {net}, {data}, scored on all test images after the last epoch.
**Shortened** to what two shared cores do in two hours: float {given["float_epochs"]} epochs
({given["float_top1"]:.2f} %), SAMQ {given["search_epochs"]} epochs (a tenth of them warm-up, half of the images
for the generator, rho {given["rho"]:g} where it has sharpness), then for all nets alike {given["tune_epochs"]}
epochs from the float net: SAQ's quantizers, plain SGD 0.9 at {given["lr"]:g} with a cosine to 0, batch
{given["batch_size"]}, decay {given["weight_decay"]:g}. One search, then one fine-tuning a seed; top-1 is mean ±
standard deviation over seeds, the difference to the uniform net is taken in pairs of a seed, p by the two-sided
paired t-test. Seconds of a search are those of one thread: of SAMQ on its processor, of ilp by the clock and with
its measure, at all {len(MEASURED)} widths. {record.date}: {stated["processor"]}, torch {stated["torch"]}
([record](../benchmarks/results/{record.path.name}))."""
    return f"## Whether it paid here\n\n{filled(text)}"


def nets_table(record: Record, bits: int) -> str:
    """The nets of one budget."""
    rows = of(record, "nets", budget_bits=bits)
    widths = " ".join(map(str, rows[0]["widths"]))
    lines = [
        f"### At the cost of the uniform net of {bits} bits: {rows[0]['budget_bitops'] / 1e6:,.3f} M bit-operations\n",
        f"Each layer chooses from {widths} bits; bits are those of the layers in the order in which they run.\n",
        "| method | bits per layer | M bit-operations | top-1, % | against uniform, points | search, s | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    uniform = next((row["bits"] for row in rows if row["method"] == "uniform"), None)
    for row in rows:
        against = plus_minus(row["difference"], signed=True) if row["difference"] else ""
        if row["difference"] and row["difference"]["p"] is not None:
            against += f" (p {row['difference']['p']:.3f})"
        if row["method"] != "uniform" and row["bits"] == uniform:
            against = "the same net"
        cells = [NAMES[row["method"]], " ".join(map(str, row["bits"].values())), f"{row['bitops'] / 1e6:,.3f}"]
        cells += [plus_minus(row["after"]), against, f"{row['search_s']:,.0f}", str(row["after"]["n"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{verdict(rows)}\n"])


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which were told apart from the uniform net, in words."""
    told = {"above": [], "below": []}
    for row in rows:
        found = row["difference"]
        if found and found["p"] is not None and found["p"] < 0.05:
            told["above" if found["mean"] > 0 else "below"].append(NAMES[row["method"]])
    parts = [f"{side} the uniform net at p < 0.05: {', '.join(names)}" for side, names in told.items() if names]
    if not parts:
        return "None was told apart from the uniform net at p < 0.05."
    return f"{'; '.join(parts).capitalize().replace('samq', 'SAMQ')}. Not corrected for the number of tests."


def measures_table(record: Record) -> str:
    """Each measure's rank correlation with the truth."""
    rows = of(record, "measures")
    if not rows:
        return "## Which measure tells the truth\n\nNot measured yet.\n"
    (agreement,) = of(record, "agreement")
    alone = {row["layer"]: row["loss"]["mean"] for row in of(record, "alone")}
    none, layers = alone.pop("none"), list(alone.values())
    between = agreement["rank_correlation"]["mean"]
    text = (
        f"One layer at {LOW} bits and all others at {HIGH}, epochs of fine-tuning: {record.settings['alone_epochs']}, "
        f"{agreement['seeds']} seeds: the test loss is {min(layers):.4f} to {max(layers):.4f} by layer, {none:.4f} "
        f"with all at {HIGH}. Spearman's rank correlation of what each measure says of the layer at {LOW} bits, before "
        f"any training and on 512 images, with that loss's mean over seeds; {rows[0]['num_layers']} layers, 95 % "
        f"interval by bootstrap over layers ({RESAMPLES:,} draws). "
        + (f"Two seeds agree with each other at {between:.2f}." if between is not None else "")
    )
    lines = [
        f"## Which measure tells the truth\n\n{filled(text)}",
        "| measure | rank correlation | 95 % interval |",
        "|---|---|---|",
    ]
    lines += [
        f"| {MEASURE_NAMES[row['measure']]} | {row['rank_correlation']:+.2f} | "
        f"{row['low']:+.2f} to {row['high']:+.2f} |"
        for row in sorted(rows, key=lambda row: -row["rank_correlation"])
    ]
    return "\n".join([*lines, ""])


def timing(record: Record) -> str:
    """Seconds of `flatbit sensitivity`."""
    found = record.settings["timed"]
    if found is None:
        return "Seconds of `flatbit sensitivity` are not measured: there was no CIFAR-10.\n"
    text = (
        f"`{found['command']}`, {found['num_samples']} images at 4 widths: {found['seconds']:.0f} s by the clock on "
        f"{found['cores']} cores, {found['process_cpu_s']:.0f} s of processor time for the whole command; others ran "
        f"beside it (load {found['load']:.1f})."
    )
    return filled(text)


def filled(text: str) -> str:
    """A paragraph in lines."""
    return textwrap.fill(text, 118, break_on_hyphens=False) + "\n"


def of(record: Record, part: str, **facts: Any) -> list[Mapping[str, Any]]:
    """The rows of one part, with these values."""
    wanted = {"part": part} | facts
    return [row for row in record.rows if all(row.get(key) == value for key, value in wanted.items())]


def picture(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A dot for every fine-tuning, a panel for each budget."""
    panels = {
        f"the cost of uniform {bits} bits": {
            NAMES[row["method"]]: [*row["top1"].values()]
            for row in rows
            if row["part"] == "nets" and row["budget_bits"] == bits
        }
        for bits in WIDTHS
    }
    dots({name: arms for name, arms in panels.items() if arms}, path, "top-1, %")
