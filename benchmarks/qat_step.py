"""One training step in float, with flatbit's and with Brevitas' quantizers: time and memory, interleaved.

    python benchmarks/qat_step.py [--model resnet20] [--image 32] [--batch 128] [--methods uniq,saq,lsq]
                                  [--rounds 30] [--threads 2] [--compile] [--reference] [--keep-memory]

W2A2 on every layer and its input, channels-last, SGD with momentum. Each variant has a process of its own
(``workers.py`` says why). Every round times each once, in a new random order, so that a drifting machine hits
all alike; ratios are taken inside a round, then their median. Processor time is that of all threads: on a machine
that others use, measure with one thread and read that. Saved bytes are what a forward pass leaves allocated for
backward, peak bytes the most that the process held. Brevitas is measured where it is installed
(benchmarks/requirements.txt). Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import statistics
from dataclasses import replace

from qat_nets import Variant, racer
from timing import environment, ratio, write
from workers import KEEP_MEMORY, Worker

BREVITAS = "brevitas learned scale"


def variants(arguments: argparse.Namespace) -> list[Variant]:
    base = Variant(
        kind="float",
        model=arguments.model,
        image=arguments.image or (32 if arguments.model == "resnet20" else 224),
        batch=arguments.batch,
        device=arguments.device,
        threads=arguments.threads,
    )
    methods = [replace(base, kind=method) for method in arguments.methods.split(",")]
    raced = [base, *methods, *(replace(method, way="recomputed") for method in methods[:1])]
    if arguments.reference:
        raced += [replace(method, way="reference") for method in methods]
    if arguments.compile:
        raced += [replace(variant, way="compiled") for variant in (base, methods[0])]
    if importlib.util.find_spec("brevitas"):
        raced.append(replace(base, kind="brevitas"))
    else:
        print("Brevitas is not installed (benchmarks/requirements.txt): no comparison with it")
    return raced


def measure(arguments: argparse.Namespace) -> dict:
    memory = KEEP_MEMORY if arguments.keep_memory else {}
    workers = {variant.name: Worker(racer, variant, **memory) for variant in variants(arguments)}
    saved = {name: worker.ask("saved") for name, worker in workers.items()}
    order, shuffle = list(workers), random.Random(0).shuffle
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for round_ in range(-arguments.warmup, arguments.rounds):
        shuffle(order)
        for name in order:
            cost = workers[name].ask("step")
            if round_ >= 0:
                steps[name].append(cost)
    peak = {name: worker.ask("peak") for name, worker in workers.items()}
    for worker in workers.values():
        worker.ask("leave")
        worker.close()
    times = {key: {name: [cost[key] for cost in own] for name, own in steps.items()} for key in ("wall_s", "cpu_s")}
    rows = [row(name, times, saved) | {"peak_bytes": peak[name]} | faults(steps[name]) for name in steps]
    return {"rows": rows, "times_s": times["wall_s"], "cpu_times_s": times["cpu_s"]}


def faults(steps: list[dict[str, float]]) -> dict[str, float]:
    return {"page_faults": statistics.median(cost["page_faults"] for cost in steps)}


def row(name: str, times: dict[str, dict[str, list[float]]], saved: dict[str, int]) -> dict:
    wall, cpu = times["wall_s"], times["cpu_s"]
    ratio_to_float, quartiles = ratio(wall, name, "float")
    cpu_ratio, cpu_quartiles = ratio(cpu, name, "float")
    found = {
        "variant": name,
        "median_ms": 1000 * statistics.median(wall[name]),
        "min_ms": 1000 * min(wall[name]),
        "cpu_median_ms": 1000 * statistics.median(cpu[name]),
        "ratio_to_float": ratio_to_float,
        "ratio_quartiles": quartiles,
        "cpu_ratio_to_float": cpu_ratio,
        "cpu_ratio_quartiles": cpu_quartiles,
        "saved_bytes": saved[name],
        "saved_ratio": saved[name] / saved["float"],
    }
    if "compiled" in name:
        found["ratio_to_compiled_float"], _ = ratio(wall, name, "float, compiled")
        found["cpu_ratio_to_compiled_float"], _ = ratio(cpu, name, "float, compiled")
    if BREVITAS in wall:
        found["ratio_to_brevitas"], _ = ratio(wall, name, BREVITAS)
    return found


def show(rows: list[dict]) -> None:
    columns = ("median ms", "x float", "quartiles", "cpu x", "quartiles", "x compiled", "x Brevitas", "faults")
    print(f"{'variant':32}" + "".join(f"{c:>12}" for c in (*columns, "saved MiB", "x float", "peak MiB")))
    for row in rows:
        pairs = [f"{low:.2f}-{high:.2f}" for low, high in (row["ratio_quartiles"], row["cpu_ratio_quartiles"])]
        shown = [
            f"{row['median_ms']:.1f}",
            f"{row['ratio_to_float']:.2f}",
            pairs[0],
            f"{row['cpu_ratio_to_float']:.2f}",
            pairs[1],
            *(f"{row[key]:.2f}" if key in row else "" for key in ("cpu_ratio_to_compiled_float", "ratio_to_brevitas")),
            f"{row['page_faults']:.0f}",
            f"{row['saved_bytes'] / 2**20:.0f}",
            f"{row['saved_ratio']:.2f}",
            f"{row['peak_bytes'] / 2**20:.0f}",
        ]
        print(f"{row['variant']:32}" + "".join(f"{cell:>12}" for cell in shown))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20", help="a name of flatbit's models with num_classes=")
    parser.add_argument("--image", type=int, help="side in pixels; default: 32 for resnet20, else 224")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--methods", default="uniq,saq,lsq", help="the first is also recomputed and compiled")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="also the compiled float network and first method")
    parser.add_argument("--reference", action="store_true", help="also the reference face of each method")
    parser.add_argument("--keep-memory", action="store_true", help="glibc keeps freed memory (workers.KEEP_MEMORY)")
    parser.add_argument("--name", help="of the result file; default: date, benchmark, model and device")
    arguments = parser.parse_args()
    stated = environment(arguments.device, arguments.threads, ("brevitas",))
    memory = KEEP_MEMORY if arguments.keep_memory else {}
    result = {"environment": stated | {"malloc": memory}, "settings": vars(arguments)} | measure(arguments)
    variant = arguments.model.replace("_", "") + ("-keep" if memory else "")
    name = f"{stated['date']}-qat_step-{arguments.device.replace(':', '')}-{variant}"
    path = write(result, arguments.name or name)
    show(result["rows"])
    print(f"written: {path}")


if __name__ == "__main__":
    main()
