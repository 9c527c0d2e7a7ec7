"""Training many small nets: one at a time, stacked as one, and in processes, interleaved.

    python benchmarks/stack.py [--nets 1 4 16 64] [--rounds 7] [--processes 2] [--only spirals]

Every way trains the same N nets through the same updates by the engine's own loops (`flatbit.engine.loop.train`,
`flatbit.engine.stacked_training.train_stacked`), batches and tallies and all, on one thread; the processes run one
thread each, beside each other, N nets shared among them, one at a time or stacked. Every round times each way once, in
a new random order; ratios to one at a time are taken inside a round, then their median. Spirals are HOL's net
(`fcdnn`, 128 x 4, two inputs) at its recipe's batch of 500 and at 64; digits are `preresnet8`. W2A2 is `uniq` on all
layers. The machine's load is kept with the figures: beside other work processes gain little. Results go to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch
from timing import environment, interleaved, ratio, write
from torch import nn

import flatbit as fb
from flatbit.data.batches import Data
from flatbit.engine.loop import train
from flatbit.engine.recipe import Stage
from flatbit.engine.stacked import StackedNets
from flatbit.engine.stacked_optimizer import stacked_optimizer
from flatbit.engine.stacked_training import Net, train_stacked
from flatbit.engine.stage import optimizer_of
from flatbit.train.optimizers import SGD, Adam

ONE, STACKED = "one at a time", "stacked"


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained: a net on a data set, in float or at W2A2, so many of them, a number of updates a round."""

    data: str
    bits: str
    batch: int
    nets: int
    updates: int

    def __str__(self) -> str:
        return f"{self.data}, {self.bits}, batch {self.batch}, {self.nets} nets"


def net_of(case: Case, data: Data, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    spirals = {"in_features": 2, "width": 128, "depth": 4}
    name, arguments = ("fcdnn", spirals) if case.data == "spirals" else ("preresnet8", {"in_channels": 1})
    model = fb.models.build(name, **arguments)
    if case.bits != "float":
        edges = {"weights": 2, "activations": 2}
        fb.quantize_(model, fb.policy("uniq", **edges).override("@first", **edges).override("@last", **edges))
        fb.calibrate_(model, data.train_batches(case.batch, seed=seed), 2)
    return model


def way_of(case: Case, name: str, seeds: range) -> Callable[[int], float]:
    """Trains the nets of some seeds through a round's updates; gives the seconds."""
    data = fb.data.load(case.data)
    models = [net_of(case, data, seed) for seed in seeds]
    batches = [data.train_batches(case.batch, seed=seed) for seed in seeds]
    optimizer = Adam() if case.data == "spirals" else SGD()
    stage = Stage(name="timed", epochs=1, lr=1e-4, batch_size=case.batch, optimizer=optimizer, max_steps=case.updates)
    if name == ONE:
        optimizers = [optimizer_of(model, stage) for model in models]

        def act() -> None:
            for model, own, descent in zip(models, batches, optimizers, strict=True):
                train(model, stage, own, descent)
    else:
        stack = StackedNets(models)
        descent = stacked_optimizer(stack, stage.optimizer, lr=1e-4)

        def act() -> None:
            train_stacked(stack, stage, [Net(batches=own) for own in batches], descent)

    def timed(_: int) -> float:
        started = time.perf_counter()
        act()
        return time.perf_counter() - started

    return timed


def worker(connection: Connection, case: Case, name: str, seeds: range) -> None:
    """A process that trains its nets for a round whenever it is asked, until it is sent None."""
    torch.set_num_threads(1)
    act = way_of(case, name, seeds)
    connection.send("ready")
    while (asked := connection.recv()) is not None:
        connection.send(act(asked))


class Processes:
    """The nets of a case in processes beside each other."""

    def __init__(self, case: Case, name: str, count: int) -> None:
        context = get_context("spawn")
        shares = [range(i * case.nets // count, (i + 1) * case.nets // count) for i in range(count)]
        self.ends, self.started = [], []
        for seeds in shares:
            end, other = context.Pipe()
            process = context.Process(target=worker, args=(other, case, name, seeds), daemon=True)
            process.start()
            self.ends.append(end)
            self.started.append(process)
        for end in self.ends:
            end.recv()

    def __call__(self, index: int) -> float:
        started = time.perf_counter()
        for end in self.ends:
            end.send(index)
        for end in self.ends:
            end.recv()
        return time.perf_counter() - started

    def close(self) -> None:
        for end, process in zip(self.ends, self.started, strict=True):
            end.send(None)
            process.join()


def measured(case: Case, rounds: int, count: int) -> dict:
    nets = range(case.nets)
    ways = {name: way_of(case, name, nets) for name in (ONE, STACKED)}
    apart = {}
    if count > 1 and case.nets >= count:
        apart = {f"{count} processes, {name}": Processes(case, name, count) for name in (ONE, STACKED)}
    times = interleaved(ways | apart, rounds, 1)
    for processes in apart.values():
        processes.close()
    rows = [row(case, name, times) for name in times]
    for found in rows:
        low, high = found["gain_quartiles"]
        shown = f"{found['model_steps_per_s']:10.0f}{found['gain']:8.2f}   {low:.2f}-{high:.2f}"
        print(f"{case!s:42}{found['way']:28}{shown}", flush=True)
    return {"case": asdict(case), "rows": rows, "times_s": times}


def row(case: Case, name: str, times: dict[str, list[float]]) -> dict:
    gain, quartiles = ratio(times, ONE, name)
    return {
        "way": name,
        "model_steps_per_s": case.nets * case.updates / statistics.median(times[name]),
        "gain": gain,
        "gain_quartiles": quartiles,
    }


def cases(counts: list[int], only: str | None) -> list[Case]:
    """All of them, each round about a second long."""
    kinds = [("spirals", "float", 500), ("spirals", "W2A2", 500), ("spirals", "float", 64), ("spirals", "W2A2", 64)]
    kinds += [("digits", "W2A2", 32)]
    return [
        Case(data=data, bits=bits, batch=batch, nets=n, updates=max(2, min(20, 160 // n)) if data == "spirals" else 2)
        for data, bits, batch in kinds
        if only in (None, data)
        for n in counts
        if data == "spirals" or n <= 16
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", choices=("spirals", "digits"))
    parser.add_argument("--name", help="of the result file; default: date, benchmark and device")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stated = environment("cpu", 1, ())
    begun = os.getloadavg()
    print(f"{'case':42}{'way':28}{'steps/s':>10}{'gain':>8}   quartiles")
    found = [measured(case, arguments.rounds, arguments.processes) for case in cases(arguments.nets, arguments.only)]
    load = {"begun": begun, "ended": os.getloadavg()}
    result = {"environment": stated, "load_average": load, "settings": vars(arguments), "cases": found}
    path = write(result, arguments.name or f"{stated['date']}-stack-cpu")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
