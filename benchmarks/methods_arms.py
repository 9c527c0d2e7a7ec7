"""The arms of the study of methods: what each question compares. Lengths are short on purpose; see ``methods.py``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from study import Arm

import flatbit as fb
from flatbit.engine.recipe import Stage
from flatbit.recipes.hol import CyclicRate, smoothed
from flatbit.recipes.sqwa import Averaging, averaged_stages
from flatbit.reference import START, From
from flatbit.train.losses.orthogonality import Lipschitz
from flatbit.train.losses.teacher import Distillation, taught
from flatbit.train.optimizers import Adam
from flatbit.train.schedules import Cosine, Exponential, MultiStep
from flatbit.train.sharpness import Sharpness

SAMPLES, BATCH, EPOCHS = 6000, 100, 8
DEPTHS = (8, 14)
RHO = {"sam": 0.02, "saq": 0.1, "asaq": 0.1}
"""Best of those tried at W2A2 on held-out training images, by one seed outside the study."""
PILOT_RHO = {"sam": (0.02, 0.1, 0.4), "saq": (0.02, 0.1, 0.4), "asaq": (0.1, 0.5, 2.0)}
SGD: dict[str, Any] = {"lr": 0.01, "schedule": Cosine(), "weight_decay": 1e-4}
KD = Distillation(teacher=START, temperature=4.0, weight=0.9)


def stage(name: str, epochs: int, **settings: Any) -> Stage:
    """A stage as all here are: batch 100, the test set looked at once."""
    return Stage(name=name, epochs=epochs, batch_size=BATCH, evaluate_every=max(epochs, 1), **settings)


def arm(*stages: Stage, start: str | None = "float-8", depth: int = 8) -> Arm:
    """Stages of a pre-activation ResNet of width 8."""
    return Arm(stages=stages, model=f"preresnet{depth}", model_arguments={"first_width": 8}, start=start)


def all_arms() -> dict[str, Arm]:
    """Every arm by name; the letter is its question's."""
    return floats() | grids() | sharpness() | averaging() | one_bit() | flatness_terms() | power_of_two() | crossed()


def floats() -> dict[str, Arm]:
    """What all start from: 16 epochs, lr 0.1 with a cosine, decay 5e-4."""
    settings: dict[str, Any] = {"lr": 0.1, "schedule": Cosine(), "weight_decay": 5e-4}
    return {f"float-{depth}": arm(stage("float", 2 * EPOCHS, **settings), start=None, depth=depth) for depth in DEPTHS}


def uniq(bits: int = 2, **options: Any) -> fb.Policy:
    """UNIQ's convention, weights and activations alike."""
    return fb.policy("uniq", weights=bits, activations=bits, weight_options=options, activation_options=options)


def grids() -> dict[str, Arm]:
    """(a) UNIQ against LSQ, grids and starts, W2A2."""
    policies = {
        "a-uniq": uniq(),
        "a-uniq-lsq-start": uniq(start="lsq"),
        "a-uniq-0.1-start": edges_as_ever(uniq(start=0.1)),
        "a-lsq": fb.policy("lsq", weights=2, activations=2),
    }
    return {name: arm(stage("w2a2", EPOCHS, policy=policy, **SGD)) for name, policy in policies.items()}


def edges_as_ever(policy: fb.Policy) -> fb.Policy:
    """The 8-bit first and last layer with their own start: a step of 0.1 is far too coarse for them."""
    for edge in ("@first", "@last"):
        policy = policy.override(edge, weight_options={}, activation_options={})
    return policy


def sharpness() -> dict[str, Arm]:
    """(b) SGD, SAM, SAQ and ASAQ on SAQ's quantizers; SGD also at the two-pass methods' cost."""
    made = {}
    for bits in (2, 4):
        plain = stage(f"w{bits}a{bits}", EPOCHS, policy=fb.policy("saq", weights=bits, activations=bits), **SGD)
        made[f"b-sgd-{bits}"] = arm(plain)
        if bits == 2:
            made["b-sgd-twice-2"] = arm(replace(plain, epochs=2 * EPOCHS, evaluate_every=2 * EPOCHS))
        for method in ("sam", "saq", "asaq"):
            descent = Sharpness(method=method, rho=RHO[method])  # type: ignore[arg-type]
            made[f"b-{method}-{bits}"] = arm(replace(plain, sharpness=descent))
    return made


def pilot() -> dict[str, Arm]:
    """The rho's that (b) chooses from, at W2A2."""
    made = {}
    for method, tries in PILOT_RHO.items():
        found = sharpness()[f"b-{method}-2"]
        for rho in tries:
            descent = Sharpness(method=method, rho=rho)  # type: ignore[arg-type]
            made[f"b-{method}-rho{rho}"] = replace(found, stages=(replace(found.stages[0], sharpness=descent),))
    return {"float-8": floats()["float-8"]} | made


def averaging() -> dict[str, Arm]:
    """(c) SQWA, W2: captures late or early in cycles of 4 epochs; plain training of the same length and lower rates."""
    policy = fb.policy("sqwa", weights=2)
    plain = stage("plain", 25, policy=policy, lr=0.01, schedule=MultiStep((12, 20, 23)))
    return {
        "c-plain": arm(plain),
        "c-sqwa-late": arm(*sqwa(policy, epochs=23)),
        "c-sqwa-early": arm(*sqwa(policy, epochs=11)),
    }


def sqwa(
    policy: fb.Policy, *, epochs: int, begin: From = START, distillation: Distillation | None = None
) -> list[Stage]:
    """The recipe's stages: cycles from 1e-2 to 1e-4, the last three minima averaged, fine-tuned at 1e-3 and 1e-4."""
    averaging = Averaging(epochs=epochs, cycle=4, between=1, num_captures=3, tune_epochs=2, batch_size=BATCH)
    made = averaged_stages(policy, begin, averaging, distillation)
    return [replace(found, evaluate_every=max(found.epochs, 1)) for found in made]


def one_bit() -> dict[str, Arm]:
    """(d) UNIQ at 1 bit, Adam: with and without warm-up, from the float net and from the 2-bit net (8 epochs more)."""
    made = {}
    for begin, source in (("float", "float-8"), ("2-bit", "a-uniq")):
        for name, warmup in (("warm-up", 1), ("no-warm-up", 0)):
            schedule = Cosine(warmup=warmup, warmup_factor=0.25) if warmup else Cosine()
            trained = stage("w1a1", EPOCHS, policy=uniq(1), optimizer=Adam(), lr=0.004, schedule=schedule)
            made[f"d-{begin}-{name}"] = arm(trained, start=source)
    return made


def flatness_terms() -> dict[str, Arm]:
    """(e) HOL's Lipschitz term and CLR (its five cycles, in 5 epochs), W2A2, at two depths, all of 13 epochs."""
    policy = fb.policy("hol", weights=2, activations=2)
    made = {}
    for depth in DEPTHS:
        plain = stage("retrain", 13, policy=policy, lr=0.01, schedule=MultiStep((8, 11)))
        first = replace(plain, epochs=8, schedule=MultiStep((4, 7)), evaluate_every=8)
        begin: dict[str, Any] = {"start": f"float-{depth}", "depth": depth}
        made[f"e-{depth}-plain"] = arm(plain, **begin)
        made[f"e-{depth}-lipschitz"] = arm(replace(plain, losses=(*plain.losses, Lipschitz())), **begin)
        made[f"e-{depth}-clr"] = arm(*smoothed(first, None, CyclicRate(epochs=6)), **begin)
    return made


def power_of_two() -> dict[str, Arm]:
    """(f) FAQ, W4A4: calibrated or not, pretrained or not, with a growing batch."""

    def policy(**options: Any) -> fb.Policy:
        return fb.policy("faq", weights=4, activations=4, activation_options=options)

    def trained(epochs: int, lr: float, chosen: fb.Policy, grows: tuple[tuple[int, int], ...] = ()) -> Stage:
        decay = Exponential.reaching(1e-6 / lr, epochs)
        return stage("w4a4", epochs, policy=chosen, lr=lr, schedule=decay, weight_decay=1e-4, accumulation=grows)

    return {
        "f-faq": arm(trained(EPOCHS, 0.0015, policy())),
        "f-uncalibrated": arm(trained(EPOCHS, 0.0015, policy(calibrate=False))),
        "f-scratch": arm(trained(3 * EPOCHS, 0.1, policy(calibrate=False)), start=None),
        "f-growth": arm(trained(12, 0.0015, policy(), ((4, 2), (10, 4), (11, 8)))),
    }


def crossed() -> dict[str, Arm]:
    """(g) UNIQ's grid, W2A2, with KD, SQWA's averaging, and both with SAQ's descent; plain training of that length."""
    saq = Sharpness(method="saq", rho=RHO["saq"])
    first = stage("w2a2", EPOCHS, policy=uniq(), **SGD)
    whole = replace(first, epochs=EPOCHS + 13, evaluate_every=EPOCHS + 13)
    float_copy = replace(KD, teacher=From.stage("float"))
    sharp = replace(first, start=From.stage("float"), sharpness=saq, losses=taught(float_copy))
    return {
        "g-kd": arm(replace(first, losses=taught(KD))),
        "g-kd-label-free": arm(replace(first, losses=taught(replace(KD, weight=1.0)))),
        "g-sqwa": arm(first, *sqwa(uniq(), epochs=11, begin=From.stage("w2a2"))),
        "g-long": arm(whole),
        "g-crossed": arm(
            Stage(name="float", epochs=0, batch_size=BATCH),
            sharp,
            *sqwa(uniq(), epochs=11, begin=From.stage("w2a2"), distillation=float_copy),
        ),
    }
