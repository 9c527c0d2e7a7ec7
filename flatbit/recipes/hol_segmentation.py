"""HOL's segmentation: DeepLabV3 with MobileNetV2, weights and activations quantized apart and together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..engine.recipe import Recipe, Stage
from ..quant.presets import policy
from ..train.schedules import Polynomial
from . import RECIPES
from .float_net import float_stage
from .hol import (
    LIPSCHITZ,
    Descent,
    Quantized,
    pairs,
    smoothed,
)

PAPER_EPOCHS = 328  # 30000 updates of 16 of VOC's 1464 images
CLR_EPOCHS = 165  # 15000 updates: five cycles of 3000


def hol_segmentation(
    *,
    name: str = "hol-deeplab-voc",
    model: str = "deeplab_mobilenet_v2",
    data: str = "voc2012",
    model_arguments: Mapping[str, Any] | None = None,
    float_schedule: str = "deeplab",
    float_epochs: int | None = None,
    weights: int = 4,
    activations: int = 4,
    quantized: Quantized | Sequence[Quantized] = "each",
    descent: Descent = "plain",
    lipschitz: float = LIPSCHITZ,
    epochs: int = PAPER_EPOCHS,
    lr: float = 1e-3,
    batch_size: int = 16,
    clr_epochs: int = CLR_EPOCHS,
    clr_lr: float = 1e-4,
) -> Recipe:
    """W alone, A alone and both, each from the float net (HOL, section 5.4, Tables 2 and 3).

    SGD 0.9, lr 1e-3 with a polynomial of power 0.9, batch 16, 30000 updates, no decay; edges float,
    PACT at each ReLU's output and on residual tensors. The paper names neither the float training nor
    the head: see ``float_stage`` and ``deeplab_mobilenet_v2``.

    Deliberate difference: the paper pretrains on the 10,582 images of ``train_aug`` and retrains on
    the 1,464 of ``train``; here one set serves all stages (``--data-arg train=train_aug`` for the
    larger), and weights pretrained elsewhere come by ``--weights`` with ``float_schedule=none``.

    Args:
        quantized: ``weights`` alone, ``activations`` alone, ``both``, ``each`` of the three, or a list.
        descent, lipschitz: as ``hol`` takes them.
        clr_epochs, clr_lr: 15000 updates in cycles of 3000, from 1e-4 to 1e-6 and back, to the last minimum.
    """
    stages = [float_stage(float_schedule, float_epochs)]
    for w, a in pairs(weights, activations, quantized):
        retrain = Stage(
            name=f"hol-w{w}a{a}",
            epochs=epochs,
            policy=policy("hol", weights=w, activations=a),
            start="float",
            lr=lr,
            schedule=Polynomial(),
            batch_size=batch_size,
        )
        stages += smoothed(retrain, descent, lipschitz=lipschitz, clr_epochs=clr_epochs, clr_lr=clr_lr)
    return Recipe(name=name, model=model, model_arguments=dict(model_arguments or {}), data=data, stages=tuple(stages))


RECIPES.add("hol-deeplab-voc", hol_segmentation)
