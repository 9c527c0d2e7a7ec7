"""Evidence that nobody trained for, and a ledger of tiny runs: what the ledger's tests share."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np

from flatbit.engine.record import (
    Environment,
    EpochRecord,
    Failure,
    GivenCheckpoint,
    RunRecord,
    StageRecord,
    Totals,
)
from flatbit.ledger import cells, evidence, experiments, groups, queue
from flatbit.ledger.evidence import Evidence, Shelf
from flatbit.ledger.experiments import Experiment, chain, experiment
from flatbit.ledger.groups import Group
from flatbit.metrics.evaluation import Metrics
from flatbit.quant.convention import Convention
from flatbit.quant.proof import Proof

from ..data.cases import write_shard

FLOAT_RULES = Convention(
    policy="float", first="float", last="float", shortcut="none", inner="float", image="float", weight_step="none",
    activations="none", batch_norm="float", bias="float",
)  # fmt: skip
ENVIRONMENT = Environment(flatbit="0", torch="2", python="3", machine="x86_64", threads=1)
DIGEST = "0" * 64
CHANGING = ("seconds", "images_per_s", "sha256")
"""Times, and digests of model files, whose headers have no fixed order."""


def metrics(top1=50.0, top5=90.0, miou=None):
    """What a float net scores."""
    return Metrics(
        top1=top1, top5=top5, loss=1.0, miou=miou, num_samples=100, convention=FLOAT_RULES, proof=Proof()
    )  # fmt: skip


def epoch(number, test_top1=None, capture=None):
    """An epoch that took a second."""
    facts = {"lr": 0.1, "train_loss": 1.0, "train_top1": 50.0, "images_per_s": 10.0, "seconds": 1.0}
    return EpochRecord(epoch=number, test_top1=test_top1, capture=capture, **facts)


def stage_record(test=None, epochs=(), **facts):
    """What a stage reached."""
    test = test or metrics()
    cost = Totals(bitops=1, macs=1, params=1, size_bytes=1)
    metric = "top1" if test.miou is None else "miou"
    return StageRecord(metric=metric, test=test, cost=cost, seconds=3600.0, epochs=tuple(epochs), **facts)


def run_record(recipe, scores=50.0, seed=0, failure=None, **facts):
    """A run of a recipe whose stages scored all the same, or by name; those that are not named are not there."""
    by_name = scores if isinstance(scores, dict) else {stage.name: scores for stage in recipe.stages}
    made = {
        name: part if isinstance(part, StageRecord) else stage_record(metrics(part)) for name, part in by_name.items()
    }
    return RunRecord(
        recipe=recipe, seed=seed, device="cpu", environment=ENVIRONMENT, stages=made, failure=failure, **facts
    )  # fmt: skip


def proof_of(name, scores=50.0, *, seed=0, recipe=None, finished="2030-01-01", measures=None, **facts):
    """Evidence of an experiment, as if it had been run."""
    asked = experiment(name)
    start = GivenCheckpoint(file="model.safetensors", sha256=DIGEST, test=metrics()) if asked.start else None
    run = run_record(recipe or asked.made(), scores, seed, **{"checkpoint": start} | facts)
    models = {"": DIGEST} | {stage.name: DIGEST for stage in run.recipe.stages}
    return Evidence(experiment=name, run=run, finished=finished, measures=measures or {}, models=models)


def diverged(name, seed=0):
    """Evidence that nothing came of it."""
    stage = experiment(name).made().stages[-1].name
    return proof_of(name, {}, seed=seed, failure=Failure(stage=stage, message="the loss is not finite"))


def shortened(recipe, epochs=1):
    """The recipe with a last stage of so many epochs."""
    *before, last = recipe.stages
    kept = tuple(number for number in last.captures if number <= epochs)
    return replace(recipe, stages=(*before, replace(last, epochs=epochs, captures=kept, evaluate_every=1)))


def shelf_of(*found):
    """A shelf with these pieces of evidence, and behind them that of what they start from."""
    held = {each.experiment for each in found}
    behind = dict.fromkeys(name for name in held if name for name in chain(experiment(name)) if name not in held)
    pieces = [*found, *map(proof_of, behind)]
    return Shelf(files={Path(f"records/{number}.json"): each for number, each in enumerate(pieces)}, left_out={})


# A ledger of tiny runs

NET = {"width": 8, "depth": 2, "in_features": 64}
COMMON = {"model": "fcdnn", "model_args": NET, "data": "digits"}


def entry(name, recipe="finetune", **facts):
    """An experiment on the digits, with a net that is trained in a moment."""
    return Experiment(name=f"tiny/{name}", what=name, recipe=recipe, **COMMON | facts)


def tuned(name, lr=0.01, epochs=2, **facts):
    """One that starts from the float net."""
    settings = {"policy": "uniq", "training.epochs": epochs, "training.lr": lr, "training.batch_size": 500}
    return entry(name, settings=settings, start="tiny/float", **facts)


EXPERIMENTS = (
    entry("float", "float", settings={"schedule": "digits", "epochs": 2, "batch_size": 500}),
    tuned("good", fills={"": ("HOL-T4-05",)}),
    tuned("other"),
    tuned("long", epochs=6),
    tuned("bad", lr=1e30),
    entry("bad-float", "float", settings={"schedule": "digits", "epochs": 1, "lr": 1e30}),
    replace(tuned("orphan"), start="tiny/bad-float"),
    replace(tuned("taught", fills={"": ("HOL-T4-06",)}), data="cifar10", model=None, model_args={}, start=None),
)
GROUPS = (
    Group(name="pair", why="both", experiments=("tiny/good", "tiny/other")),
    Group(name="long", why="in the middle of which one may stop", experiments=("tiny/long",)),
    Group(name="seeds", why="spread", experiments=("tiny/good",), seeds=2),
    Group(name="bad", why="it diverges", experiments=("tiny/bad",)),
    Group(name="orphan", why="its start diverges", experiments=("tiny/orphan",)),
    Group(name="cifar", why="it needs files", experiments=("tiny/taught",)),
)


def tiny_ledger_(patch, ours):
    """Put the tiny experiments and groups in place of the papers'.

    Args:
        patch: a ``pytest.MonkeyPatch``.
        ours: a folder for our own records.
    """
    by_name = {each.name: each for each in EXPERIMENTS}
    filled = {
        row: (each, experiments.Point.parse(at))
        for each in EXPERIMENTS
        for at, rows in each.fills.items()
        for row in rows
    }
    for module in (experiments, evidence):
        patch.setattr(module, "experiments", lambda: by_name)
    patch.setattr(experiments, "filled_by", lambda: filled)
    patch.setattr(cells, "filled_by", lambda: filled)
    patch.setattr(groups, "groups", lambda: GROUPS)
    patch.setattr(queue, "RESERVE_S", 0.0)
    ours.mkdir()
    verb = import_module("flatbit.cli.verbs.ledger")
    for module in (evidence, verb):
        patch.setattr(module, "ours", lambda: ours)


def group(name):
    """One of the tiny ledger's groups."""
    return next(each for each in GROUPS if each.name == name)


def numbers(record):
    """What a run's plain record has, without what changes from run to run."""
    if isinstance(record, dict):
        return {key: numbers(part) for key, part in record.items() if key not in CHANGING}
    return [numbers(part) for part in record] if isinstance(record, list) else record


def write_cifar(root, kind, n=256):
    """A small CIFAR, in shards."""
    draws = np.random.default_rng(0)
    for part, count in {**{f"train_{k}": n // 4 for k in range(5)}, "test": 20}.items():
        images = draws.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        write_shard(root / f"{kind.name}_{part}.npz", images, draws.integers(0, kind.classes, count))
