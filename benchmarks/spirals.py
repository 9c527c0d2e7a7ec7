"""HOL's spirals: Figs 1-3, 9 and 10, every width, depth and residual variant, with the four claims they carry.

    python benchmarks/spirals.py [--out runs/spirals] [--seeds 3]

Float nets: inputs times 2, Adam 2e-3, cosine to 0, batch 500, 300 epochs. Quantized: 100 epochs from the float
net at a tenth of that rate, no decay; weights 2 bit at the least-squares step in every matrix, PACT activations.
Score: share of the valid points of a 401x401 grid that are classified as their region (last epoch).
Runs that are done are kept: the command can be repeated. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from study import Arm, Study, processes, run_all, scores

import flatbit as fb
from flatbit.quant.policy import Rule
from flatbit.train.recipe import Stage
from flatbit.train.schedule import Cosine

FLOAT_EPOCHS, EPOCHS, LR, BATCH = 300, 100, 2e-3, 500
NETS = ((128, 3, "plain"), (256, 3, "plain"), (128, 4, "plain"), (200, 4, "plain"), (256, 4, "plain"))
NETS += ((128, 6, "plain"), (128, 8, "plain"), (128, 4, "residual"), (128, 8, "residual"))
READS_SUMS = tuple(Rule(layer, {"input_bits": 32}) for layer in ("hidden.[1-9]*.linear", "last"))
SUMS = {"": READS_SUMS, "-sums": (Rule("*.residual", {"here": True}),)}
"""Residual sums stay as they are (Fig. 3: readers count as float), or are quantized with their own clip (Fig. 10)."""
BITS = {"w2": (2, 32), "a2": (32, 2), "w2a2": (2, 2)}


def arms() -> dict[str, Arm]:
    """Every net in float, then with weights, activations and both at 2 bits; residual nets also with quantized sums."""
    made = {}
    for width, depth, block in NETS:
        name = f"{width}-{depth}" + ("-residual" if block == "residual" else "")
        net: dict[str, Any] = {
            "model": "fcdnn", "model_arguments": {"width": width, "depth": depth, "block": block},
        }  # fmt: skip
        first = Stage(name="float", epochs=FLOAT_EPOCHS, lr=LR, **common(FLOAT_EPOCHS))
        made[f"{name}-float"] = Arm(stages=(first,), **net)
        if depth == 3:
            continue  # Fig. 1 shows these in float only
        for bits, (w, a) in BITS.items():
            rules = SUMS if block == "residual" and a == 2 else {"": ()}
            for kind, added in rules.items():
                stage = quantized(bits, w, a, added)
                made[f"{name}{kind}-{bits}"] = Arm(stages=(stage,), start=f"{name}-float", **net)
    return made


def common(epochs: int) -> dict[str, Any]:
    """What all stages share."""
    return {"optimizer": "adam", "schedule": Cosine(), "batch_size": BATCH, "evaluate_every": epochs}


def quantized(name: str, weights: int, activations: int, rules: tuple[Rule, ...]) -> Stage:
    """A retraining stage."""
    policy = fb.policy("hol-synthetic", weights=weights, activations=activations)
    policy = replace(policy, rules=(*policy.rules, *rules))
    return Stage(name=name, epochs=EPOCHS, policy=policy, lr=LR / 10, **common(EPOCHS))


def main() -> None:
    """Run what is missing, then write and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/spirals"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    study = Study(out=options.out, data="spirals")
    made = run_all(study, arms(), range(options.seeds), processes())
    found = {name: scores(runs) for name, runs in made.items()}
    for name, values in found.items():
        print(name, values)


if __name__ == "__main__":
    main()
