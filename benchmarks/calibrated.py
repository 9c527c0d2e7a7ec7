"""What each method loses by calibration alone, at each width: what ``flatbit doctor`` knows of methods.

    python benchmarks/calibrated.py [--data-dir DIR] [--seeds 5] [--epochs 10]

Float nets are trained on digits, one a seed, then quantized by each method's own policy at the same bits of weights
and activations (a method without one for activations leaves them in float), calibrated as the method asks, and scored
on the test images. With DIR, that holds CIFAR-10 and resnet20_cifar10.pth, the public ResNet-20 is taken too, on its
first 1,000 test images: one net, hence without a spread. A loss is float minus quantized top-1, in points.

The record goes to benchmarks/results/; what it says is also written to flatbit/analysis/calibrated.json, which comes
with the package.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from names import record_name
from timing import environment, write
from torch import nn

import flatbit as fb
from flatbit.analysis.calibrated import TABLE
from flatbit.data.batches import Batch, Data
from flatbit.engine import Checkpoint, Recipe, Stage, plan, run
from flatbit.quant.policy import Policy
from flatbit.quant.presets import preset_names
from flatbit.quant.spec import FLOAT_BITS
from flatbit.train.schedules import Cosine

BITS = (1, 2, 3, 4, 8)
Arm = tuple[str, int, int]
"""A policy's name, bits of weights, bits of activations."""
FLOAT: Arm = ("float", FLOAT_BITS, FLOAT_BITS)
VARIANTS = ("hol-imagenet", "hol-synthetic", "sqwa-all", "uniq-imagenet")
"""Of a policy that is there: the same quantizers on other layers."""
IMAGES = 1_000
DIGITS, CIFAR = "PreResNet-8, digits", "ResNet-20, CIFAR-10"


def float_net(seed: int, epochs: int) -> tuple[nn.Module, Data]:
    """A net trained on digits, and the data."""
    stage = Stage(name="float", epochs=epochs, lr=0.1, schedule=Cosine(), weight_decay=1e-4, batch_size=64)
    recipe = Recipe(name="float", model="preresnet8", data="digits", stages=(stage,))
    with tempfile.TemporaryDirectory() as folder:
        done = run(plan(recipe, seed=seed), folder)
        return fb.load(done.folder / "model.safetensors"), fb.data.load("digits")


def public_net(folder: Path) -> tuple[nn.Module, Data]:
    """ResNet-20 with its public weights, and CIFAR-10."""
    net = fb.models.build("resnet20", num_classes=10)
    Checkpoint(path=folder / "resnet20_cifar10.pth").load_(net)
    return net.eval(), fb.data.load("cifar10", str(folder))


def scores(net: nn.Module, data: Data) -> dict[Arm, float]:
    """Top-1 in percent by policy and bits, that of the float net by ``FLOAT``; without those that a policy has not."""
    test = list(_first(data.test_batches(250), IMAGES))
    found = {FLOAT: fb.evaluate(net, test).top1}
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for name, bits in product(policies(), BITS):
        try:
            policy = policy_of(name, bits)
            fb.quantize_(net, policy)
            torch.manual_seed(0)
            fb.calibrate_(net, data.train_batches(128, seed=0))
            found[name, bits, policy.base.activations] = fb.evaluate(net, test).top1
        except ValueError as error:  # bits that the method has not; XNOR after a ReLU
            print(f"{name} at {bits} bits: {error}")
        fb.restore_(net)
        net.load_state_dict(state)
    return found


def policies() -> list[str]:
    """The policies of different quantizers, by name."""
    return [name for name in preset_names() if name not in VARIANTS]


def policy_of(name: str, bits: int) -> Policy:
    """At these bits of weights and, where the method has a quantizer for them, of activations. Raises ValueError."""
    try:
        return fb.policy(name, weights=bits, activations=bits)
    except ValueError:
        return fb.policy(name, weights=bits, activations=FLOAT_BITS)


def _first(batches: Any, most: int) -> Iterator[Batch]:
    """The first batches, up to so many images."""
    return islice(iter(batches), max(most // 250, 1))


def rows_of(net: str, found: list[dict[Arm, float]]) -> list[dict[str, Any]]:
    """A row for each policy and width of one network: what the net of each seed scored, and what it lost."""
    before = [scored[FLOAT] for scored in found]
    rows = []
    for arm in found[0]:
        after = [scored[arm] for scored in found]
        losses = [one - other for one, other in zip(before, after, strict=True)]
        policy, weights, activations = arm
        facts = {"net": net, "policy": policy, "weights": weights, "activations": activations, "n": len(losses)}
        spread = round(statistics.stdev(losses), 2) if len(losses) > 1 else None
        rows.append(facts | {"loss": round(statistics.mean(losses), 2), "std": spread, "top1": after})
    return rows


def table_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the package takes of a record's rows."""
    return [{key: row[key] for key in row if key != "top1"} for row in rows if row["policy"] != "float"]


def in_lines(table: list[dict[str, Any]]) -> str:
    """The table as JSON, a row a line."""
    return "[\n" + ",\n".join(f" {json.dumps(row)}" for row in table) + "\n]\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = rows_of(DIGITS, [scores(*float_net(seed, given.epochs)) for seed in range(given.seeds)])
    if given.data_dir:
        rows += rows_of(CIFAR, [scores(*public_net(given.data_dir))])
    facts = environment("cpu", 1, ["flatbit"])
    settings = {"epochs": given.epochs, "images": IMAGES}
    name = record_name(facts["date"], "calibrated", "cpu").removesuffix(".json")
    path = write({"environment": facts, "settings": settings, "rows": rows}, name)
    TABLE.write_text(in_lines(table_of(rows)))
    for row in table_of(rows):
        print("{net}  {policy:9} W{weights}A{activations}  {loss:6.2f} ± {std}".format_map(row))
    print(path)


if __name__ == "__main__":
    main()
