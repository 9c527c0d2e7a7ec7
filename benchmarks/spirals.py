"""HOL's spirals: Figs 1-3, 9 and 10, every width, depth and residual variant, with the four claims they carry.

    python benchmarks/spirals.py [--out runs/spirals] [--seeds 3] [--lr 2e-3]

Float nets: inputs times 2, Adam 2e-3, cosine to 0, batch 500, 300 epochs. Quantized: 100 epochs from the float
net from --lr, no decay; weights 2 bit at the least-squares step in every matrix, PACT activations.
Score: share of the valid points of a 401x401 grid that are classified as their region (last epoch).
Runs that are done are kept: the command can be repeated. Results go to benchmarks/results/.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from study import Arm, Study, all_finished, compare, options_of, run_all, scores, spread, table
from timing import environment, write

import flatbit as fb
from flatbit.analysis.decision import DecisionMap, decision_map
from flatbit.data.memory import MemoryData
from flatbit.engine import Run, Stage
from flatbit.figures.decision import decision_panels
from flatbit.quant.policy import Rule
from flatbit.recipes.hol_spirals import READS_SUMS
from flatbit.train.optimizers import Adam
from flatbit.train.schedules import Cosine

FLOAT_EPOCHS, EPOCHS, LR, BATCH = 300, 100, 2e-3, 500
NETS = ((128, 3, "plain"), (256, 3, "plain"), (128, 4, "plain"), (200, 4, "plain"), (256, 4, "plain"))
NETS += ((128, 6, "plain"), (128, 8, "plain"), (128, 4, "residual"), (128, 8, "residual"))
SUMS = {"": READS_SUMS, "-sums": (Rule("*.residual", {"placement": "output"}),)}
"""Residual sums stay as they are (Fig. 3: readers count as float), or are quantized with their own clip (Fig. 10)."""
BITS = {"w2": (2, 32), "a2": (32, 2), "w2a2": (2, 2)}


def arms(lr: float) -> dict[str, Arm]:
    """Every net in float, then with weights, activations and both at 2 bits; residual nets also with quantized sums.

    Args:
        lr: of retraining.
    """
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
                stage = quantized(bits, w, a, added, lr)
                made[f"{name}{kind}-{bits}"] = Arm(stages=(stage,), start=f"{name}-float", **net)
    return made


def common(epochs: int) -> dict[str, Any]:
    """What all stages share."""
    return {"optimizer": Adam(), "schedule": Cosine(), "batch_size": BATCH, "evaluate_every": epochs}


def quantized(name: str, weights: int, activations: int, rules: tuple[Rule, ...], lr: float) -> Stage:
    """A retraining stage."""
    policy = fb.policy("hol-synthetic", weights=weights, activations=activations)
    policy = replace(policy, rules=(*policy.rules, *rules))
    return Stage(name=name, epochs=EPOCHS, policy=policy, lr=lr, **common(EPOCHS))


def claims(found: dict[str, dict[int, float]]) -> dict[str, Any]:
    """What HOL's figures say, each as a difference in points of region accuracy; positive where it holds."""

    def better(one: str, other: str) -> dict[str, Any]:
        return {"arms": (one, other)} | compare(found[one], found[other])

    def costs_less(one: str, other: str) -> dict[str, Any]:
        """The loss from float to quantized is smaller in ``one``."""
        losses = [
            {seed: found[f"{arm.rpartition('-')[0]}-float"][seed] - score for seed, score in found[arm].items()}
            for arm in (one, other)
        ]
        return {"arms": (one, other)} | compare(losses[1], losses[0])

    return {
        "Fig. 1: float 128-4 beats 128-3": better("128-4-float", "128-3-float"),
        "Fig. 1: float 256-3 beats 128-3": better("256-3-float", "128-3-float"),
        "(i) W2 improves with depth: 128-8 over 128-4": better("128-8-w2", "128-4-w2"),
        "(i) W2 improves with width: 256-4 over 128-4": better("256-4-w2", "128-4-w2"),
        "(ii) A2 improves with width: 256-4 over 128-4": better("256-4-a2", "128-4-a2"),
        "(ii) A2 does not improve with depth: 128-4 over 128-8": better("128-4-a2", "128-8-a2"),
        "(iii) W2A2: 256-4 beats 128-8": better("256-4-w2a2", "128-8-w2a2"),
        "(iv) W2, depth 8: residual beats plain": better("128-8-residual-w2", "128-8-w2"),
        "(iv) A2, depth 8: plain beats residual": better("128-8-a2", "128-8-residual-a2"),
        "(iv) W2, depth 8: residual costs less than plain": costs_less("128-8-residual-w2", "128-8-w2"),
        "(iv) A2, depth 8: plain costs less than residual": costs_less("128-8-a2", "128-8-residual-a2"),
        "Fig. 9: W2, 128-6 beats 200-4 of as many weights": better("128-6-w2", "200-4-w2"),
        "Fig. 9: A2, 200-4 beats 128-6 of as many weights": better("200-4-a2", "128-6-a2"),
        "Fig. 10: A2, depth 8: quantizing residual sums costs": better("128-8-residual-a2", "128-8-residual-sums-a2"),
    }  # fmt: skip


def maps(made: dict[str, dict[int, Run]], path: Path) -> None:
    """The decision maps of every net of the first seed, a row per width, depth and block."""
    data = fb.data.load("spirals")
    assert isinstance(data, MemoryData)
    rows: dict[str, dict[str, DecisionMap]] = {}
    for name, runs in made.items():
        net, _, bits = name.rpartition("-")
        model = fb.load(runs[min(runs)].folder / "model.safetensors")
        rows.setdefault(net, {})[bits] = decision_map(model, data, points=241)
    order = ("float", *BITS)
    rows = {net: {bits: row[bits] for bits in order if bits in row} for net, row in rows.items()}
    decision_panels(rows, title="HOL's spirals: decisions, wrong ones dark, and region accuracy").savefig(path, dpi=110)


def main() -> None:
    """Run what is missing, then write, draw and print the results."""
    parser = options_of(__doc__, out=Path("runs/spirals"), seeds=3)
    parser.add_argument("--lr", type=float, default=LR, help="of retraining; with another --out for another rate")
    options = parser.parse_args()
    chosen = arms(options.lr)
    study = Study(out=options.out, data="spirals")
    if not options.report:
        run_all(study, chosen, range(options.seeds), options.processes)
    made = {name: runs for name, runs in all_finished(study, chosen, range(options.seeds)).items() if runs}
    found = {name: scores(runs) for name, runs in made.items()}
    held = claims(found)
    machine = environment("cpu", 1, ["flatbit"])
    arms_found = {name: spread([*values.values()]) | {"region_acc": values} for name, values in found.items()}
    path = write(
        {"environment": machine, "arms": arms_found, "claims": held}, f"{machine['date']}-spirals-cpu-lr{options.lr:g}"
    )
    maps(made, path.with_suffix(".png"))
    print(nets(arms_found), table(held), path, sep="\n\n")


def nets(found: dict[str, dict[str, Any]]) -> str:
    """Region accuracy of every net as a Markdown table: a row per net, a column per bits."""
    rows: dict[str, dict[str, str]] = {}
    for name, values in found.items():
        net, _, bits = name.rpartition("-")
        rows.setdefault(net, {})[bits] = f"{values['mean']:.1f} ± {values['std'] or 0:.1f}"
    columns = ("float", *BITS)
    lines = ["| net | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    lines += [f"| {net} | " + " | ".join(row.get(bits, "") for bits in columns) + " |" for net, row in rows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
