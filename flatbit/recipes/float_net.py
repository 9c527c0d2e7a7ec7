"""The float network that a quantized one starts from: each paper's own schedule, as a stage."""

from __future__ import annotations

from typing import Literal

from ..train.recipe import Stage
from ..train.schedule import Cosine, Polynomial, Steps

FloatSchedule = Literal["digits", "uniq-cifar", "faq-cifar", "deeplab", "none"]


def float_stage(schedule: FloatSchedule, epochs: int | None = None) -> Stage:
    """The float stage of a schedule by name.

    ``faq-cifar``: 350 epochs, lr 0.1 x0.1 at 150 and 250, decay 5e-4, batch 128 (FAQ, section 4.9).
    ``uniq-cifar``: 200 epochs, lr 0.1 with a cosine, decay 5e-4; UNIQ does not print its own.
    ``deeplab``: 60 epochs, lr 0.05 with a polynomial of power 0.9, decay 1e-4, batch 16 (HOL gives none).
    ``digits``: 20 epochs, the same at batch 64. ``none``: measured, not trained: the run's weights.

    Args:
        schedule: which.
        epochs: another length; milestones keep their place in it.
    """
    if schedule == "faq-cifar":
        length = 350 if epochs is None else epochs
        milestones = (length * 150 // 350, length * 250 // 350)
        return Stage(name="float", epochs=length, lr=0.1, schedule=Steps(milestones), weight_decay=5e-4)
    if schedule == "uniq-cifar":
        return Stage(
            name="float", epochs=200 if epochs is None else epochs, lr=0.1, schedule=Cosine(), weight_decay=5e-4
        )
    if schedule == "digits":
        length = 20 if epochs is None else epochs
        return Stage(name="float", epochs=length, lr=0.1, schedule=Cosine(), weight_decay=5e-4, batch_size=64)
    if schedule == "deeplab":
        length = 60 if epochs is None else epochs
        return Stage(name="float", epochs=length, lr=0.05, schedule=Polynomial(), weight_decay=1e-4, batch_size=16)
    if schedule == "none":
        return Stage(name="float", epochs=0, lr=0.1)
    raise ValueError(f"float schedule {schedule!r}: expected digits, uniq-cifar, faq-cifar, deeplab or none")
