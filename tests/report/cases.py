"""Records of runs that nobody ran: what the report's tests share."""

from dataclasses import replace
from pathlib import Path

from flatbit.engine.recipe import Recipe, Stage
from flatbit.engine.record import Environment, Run, RunRecord, StageRecord, Totals
from flatbit.metrics.evaluation import Metrics
from flatbit.quant.convention import Convention
from flatbit.quant.proof import Proof

FLOAT = Convention(
    policy="float", first="float", last="float", shortcut="float", inner="float", image="float", weight_step="none",
    activations="none", batch_norm="float", bias="float",
)  # fmt: skip
UNIQ = Convention(
    policy="uniq", first="W8/A8", last="W8/A8", shortcut="W2/A2", inner="W2/A2", image="8 bit", weight_step="tensor",
    activations="input", batch_norm="float", bias="float",
)  # fmt: skip
FAQ = replace(UNIQ, policy="faq", batch_norm="fixed point", shortcut="none")


def entry(score, convention=FLOAT, *, metric="top1", seconds=10.0, best=None, bitops=5_000_000, **parts):
    """What a stage reached."""
    test = Metrics(
        top1=score if metric == "top1" else 80.0, top5=100.0, loss=0.5, miou=score if metric == "miou" else None,
        num_samples=100, convention=convention, proof=Proof(),
    )  # fmt: skip
    cost = Totals(bitops=bitops, macs=1, params=1, size_bytes=1234)
    return StageRecord(metric=metric, test=test, best_test=best, cost=cost, seconds=seconds, **parts)


def made(*stages, seed=0, name="tiny", **entries):
    """A run with these entries, of a recipe of these stages, or of plain ones of the entries' names."""
    stages = stages or tuple(Stage(name=stage, epochs=1, lr=0.1) for stage in entries or ["float"])
    recipe = Recipe(name=name, model="resnet8", data="digits", stages=stages)
    here = Environment(flatbit="0", torch="0", python="0", machine="none", threads=1)
    record = RunRecord(recipe=recipe, seed=seed, device="cpu", environment=here, stages=entries)
    return Run(folder=Path("nowhere"), record=record)
