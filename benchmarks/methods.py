"""Do the papers' methods help? Fashion-MNIST, a small pre-activation ResNet, every arm over the same seeds.

    python benchmarks/methods.py --data-dir DIR [--out runs/methods] [--seeds 5] [--pilot]

DIR holds Fashion-MNIST's four files. Training is on its first 6,000 images (padded, cropped, flipped), the score is
the last epoch's top-1 on all 10,000 test images; PreResNet-8 (14 in part of (e)) of width 8, batch 100, mostly 8
epochs from a float net of 16. The arms are in methods_arms.py. Differences are taken in pairs of a seed, with the
two-sided paired t-test. These are small nets and short runs: what holds here need not hold on ImageNet, and what
does not hold here is no refutation.

One process a core, one thread each; runs that are done are kept, so the command can be repeated. ``--pilot`` runs
the choice of rho instead, on training images that the study does not use, with a seed of its own. Results and
their picture go to benchmarks/results/.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from methods_arms import SAMPLES, all_arms, pilot
from study import Study, all_finished, compare, dots, options_of, processes, run_all, scores, spread, table
from timing import RESULTS, environment, write

import flatbit as fb
from flatbit.data.memory import Images, MemoryData
from flatbit.engine import Run

HELD_OUT = slice(50_000, 60_000)
PILOT_SEED = 100
CURVED = 500
"""Training images that the largest Hessian eigenvalue is taken on (spec of SAQ's Table 3)."""

QUESTIONS = {
    "a": "UNIQ and LSQ, grids and starts, W2A2",
    "b": "Sharpness, SAQ's quantizers",
    "c": "SQWA against plain training, W2",
    "d": "UNIQ at 1 bit: warm-up and start",
    "e": "Lipschitz term and CLR, HOL's W2A2",
    "f": "FAQ, W4A4",
    "g": "The crossed recipe, UNIQ's grid, W2A2",
}
PAIRS = {
    "UNIQ's grid and start beat LSQ's": ("a-uniq", "a-lsq"),
    "UNIQ's grid beats LSQ's, both with LSQ's start": ("a-uniq-lsq-start", "a-lsq"),
    "UNIQ's optimal start beats LSQ's start": ("a-uniq", "a-uniq-lsq-start"),
    "UNIQ's optimal start beats the constant 0.1": ("a-uniq", "a-uniq-0.1-start"),
    **{
        f"{method.upper()} beats SGD at W{b}A{b}": (f"b-{method}-{b}", f"b-sgd-{b}")
        for b in (2, 4)
        for method in ("sam", "saq", "asaq")
    },
    "SAQ beats SGD of the same cost at W2A2": ("b-saq-2", "b-sgd-twice-2"),
    **{f"SAQ beats SAM at W{b}A{b}": (f"b-saq-{b}", f"b-sam-{b}") for b in (2, 4)},
    "SQWA beats plain training of its length": ("c-sqwa-late", "c-plain"),
    "Late captures beat early ones": ("c-sqwa-late", "c-sqwa-early"),
    "Warm-up helps 1 bit from float": ("d-float-warm-up", "d-float-no-warm-up"),
    "Warm-up helps 1 bit from the 2-bit net": ("d-2-bit-warm-up", "d-2-bit-no-warm-up"),
    "The 2-bit net is the better start (with its 8 epochs)": ("d-2-bit-warm-up", "d-float-warm-up"),
    **{f"The Lipschitz term helps, depth {d}": (f"e-{d}-lipschitz", f"e-{d}-plain") for d in (8, 14)},
    **{f"CLR helps, depth {d}": (f"e-{d}-clr", f"e-{d}-plain") for d in (8, 14)},
    "Calibration helps FAQ": ("f-faq", "f-uncalibrated"),
    "A pretrained start helps FAQ": ("f-faq", "f-scratch"),
    "A growing batch and half as many epochs more help FAQ": ("f-growth", "f-faq"),
    "KD from the net's own float copy helps": ("g-kd", "a-uniq"),
    "KD without labels helps": ("g-kd-label-free", "a-uniq"),
    "SQWA's averaging helps on UNIQ's grid": ("g-sqwa", "g-long"),
    "The crossed recipe beats plain training of its length": ("g-crossed", "g-long"),
    "The crossed recipe beats SQWA's averaging alone": ("g-crossed", "g-sqwa"),
}  # fmt: skip


STAGE_PAIRS = {
    "SQWA's average beats its last capture": ("c-sqwa-late", "average", "retrain"),
    "SQWA's average, re-quantized and fine-tuned, beats its last capture": ("c-sqwa-late", "fine-tuned", "retrain"),
}


def few_images(root: str, samples: int, held_out: bool = False) -> MemoryData:
    """Fashion-MNIST with its first images to train on; ``held_out``: with training images to test on."""
    whole = fb.data.load("fashion_mnist", root)
    assert isinstance(whole, MemoryData)
    images, labels = whole.train.images, whole.train.labels
    test = Images(images=images[HELD_OUT], labels=labels[HELD_OUT]) if held_out else whole.test
    return replace(whole, train=Images(images=images[:samples], labels=labels[:samples]), test=test)


def sharpest(run: Run, root: str) -> float:
    """The largest Hessian eigenvalue of a run's last model at its quantized weights, on 500 training images."""
    torch.set_num_threads(1)
    data = few_images(root, CURVED)
    model = fb.load(run.folder / "model.safetensors")
    return fb.analysis.hessian(model, data.train_batches(CURVED, seed=0, augment=False)).eigenvalue


def eigenvalues(made: dict[str, dict[int, Run]], root: str) -> dict[str, dict[int, float]]:
    """λ_max of the nets of question (b), by arm and seed."""
    with ProcessPoolExecutor(processes()) as pool:
        jobs = {
            name: {seed: pool.submit(sharpest, run, root) for seed, run in runs.items()}
            for name, runs in made.items()
            if name.startswith("b-")
        }
        return {name: {seed: job.result() for seed, job in found.items()} for name, found in jobs.items()}


def result_of(made: dict[str, dict[int, Run]], curvature: dict[str, dict[int, float]]) -> dict[str, Any]:
    """Scores of every arm and stage by seed, λ_max, and the pairs."""
    arms = {}
    for name, runs in made.items():
        stages = [*next(iter(runs.values())).record.stages] if runs else []
        last = scores(runs)
        arms[name] = spread([*last.values()]) | {
            "top1": last,
            "stages": {
                stage: spread([*scores(runs, stage).values()]) | {"top1": scores(runs, stage)} for stage in stages
            },
        }
        if name in curvature:
            arms[name]["lambda_max"] = curvature[name]
    pairs = {claim: {"arms": pair} | compare(*(scores(made[name]) for name in pair)) for claim, pair in PAIRS.items()}
    for claim, (arm, ours, theirs) in STAGE_PAIRS.items():
        pairs[claim] = {"arm": arm, "stages": (ours, theirs)} | compare(
            scores(made[arm], ours), scores(made[arm], theirs)
        )
    ratios = {
        f"lambda_max of {name} / its SGD": spread([v / curvature[f"b-sgd-{name[-1]}"][s] for s, v in found.items()])
        for name, found in curvature.items()
    }
    return {"arms": arms, "pairs": pairs, "lambda_max": ratios}


def main() -> None:
    """Run what is missing, then write, draw and print the results."""
    parser = options_of(__doc__, out=Path("runs/methods"), seeds=5)
    parser.add_argument("--data-dir", required=True, help="the folder with Fashion-MNIST's four files")
    parser.add_argument("--pilot", action="store_true", help="choose rho instead, on held-out training images")
    options = parser.parse_args()
    study = Study(
        out=options.out / ("pilot" if options.pilot else "study"),
        data="methods:few_images",
        data_root=options.data_dir,
        data_arguments={"samples": SAMPLES, "held_out": options.pilot},
    )
    arms, seeds = (pilot(), [PILOT_SEED]) if options.pilot else (all_arms(), range(options.seeds))
    if not options.report:
        run_all(study, arms, seeds, options.processes)
    made = all_finished(study, arms, seeds)
    if options.pilot:
        for name, runs in made.items():
            print(f"{name:24} {[round(score, 2) for score in scores(runs).values()]}")
        return
    result = result_of(made, eigenvalues(made, options.data_dir))
    path = write({"environment": environment("cpu", 1, ["flatbit"])} | result, f"{study_name()}")
    dots({QUESTIONS[key]: panel(made, key) for key in QUESTIONS}, path.with_suffix(".png"), "top-1, %")
    print(table(result["pairs"]))
    print(f"{path}, {RESULTS / path.with_suffix('.png').name}")


def panel(made: dict[str, dict[int, Run]], key: str) -> dict[str, list[float]]:
    """The arms of one question."""
    return {name[2:]: [*scores(runs).values()] for name, runs in made.items() if name.startswith(f"{key}-")}


def study_name() -> str:
    """What the files of the result are called."""
    return f"{environment('cpu', 1, [])['date']}-methods-cpu"


if __name__ == "__main__":
    main()
