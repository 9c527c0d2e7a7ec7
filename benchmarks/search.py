"""Does a search of bits pay? SAMQ, exact allocation and the uniform net of the same cost, fine-tuned alike.

    python benchmarks/search.py --data-dir DIR [--out runs/search-study] [--seeds 5] [--processes P]
    python benchmarks/search.py --data-dir DIR --report

DIR holds Fashion-MNIST's four files, of which the first 10,000 training images train; for the seconds of `flatbit
sensitivity` on ResNet-20 it holds CIFAR-10 too, else these are left out. At the bit-operations of the uniform net of 3
bits and of 2 bits each method searches once, and what it found is fine-tuned once a seed from one float net, as the
uniform net is. Then each measure of sensitivity is held against nets in which one layer has 2 bits and all others 4.

One process a core, one thread each; what is done is kept in OUT, so the command can be repeated and goes on. --report
writes the record to benchmarks/results/, its picture, and docs/search.md.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from search_jobs import METHODS, WIDTHS, Place, alone, find, measure, searched, train_float, tune
from search_page import PAGE, page, picture, record_of
from search_timing import time_sensitivity
from study import options_of
from timing import save

from flatbit.search.sensitivity import MEASURES
from records import RESULTS, Record

ALONE_SEEDS = 3
Job = tuple[Callable[..., Any], tuple[Any, ...]]


def main() -> None:
    parser = options_of(__doc__, out=Path("runs/search-study"), seeds=5)
    parser.add_argument("--data-dir", required=True, help="the folder with Fashion-MNIST's four files, and CIFAR-10")
    options = parser.parse_args()
    place = Place(out=options.out, data_dir=options.data_dir)
    if not options.report:
        run_all(place, options.seeds, options.processes)
        time_sensitivity(place)
    name, content = record_of(place)
    path = save(content, RESULTS / name)
    picture(content["rows"], path.with_suffix(".png"))
    PAGE.write_text(page(Record.read(path)))
    print(f"written: {path}, {PAGE}")


def run_all(place: Place, seeds: int, processes: int) -> None:
    """Run what is not done yet: what others start from first, then seed by seed."""
    place.claim()
    work([(train_float, (place,))], 1)
    names = [choice.name for choice in searched(place, WIDTHS[3]).space.choices]
    work([(measure, (place, name)) for name in MEASURES.names()], processes)
    work([(find, (place, method, bits)) for method in METHODS for bits in WIDTHS], processes)
    setting, jobs = place.setting, list[Job]()
    chosen = [find(place, method, bits)["bits"] for bits in WIDTHS for method in METHODS]
    chosen = [bits for index, bits in enumerate(chosen) if bits not in chosen[:index]]
    for seed in range(seeds):
        jobs += [(tune, (place, bits, setting.tune_epochs, seed)) for bits in chosen]
        if seed < ALONE_SEEDS:
            jobs += [(tune, (place, alone(name, names), setting.alone_epochs, seed)) for name in (None, *names)]
    work(jobs, processes)


def work(jobs: Sequence[Job], processes: int) -> None:
    """Do jobs in processes of their own. Raises what the first to fail has raised."""
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(function, *arguments): arguments for function, arguments in jobs}
        for count, future in enumerate(as_completed(futures), 1):
            future.result()
            told = [
                " ".join(map(str, each.values())) if isinstance(each, dict) else each for each in futures[future][1:]
            ]
            print(f"{count} of {len(jobs)}: {' '.join(map(str, told)) or 'float net'}", flush=True)


if __name__ == "__main__":
    main()
