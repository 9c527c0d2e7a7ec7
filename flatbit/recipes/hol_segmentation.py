"""HOL's segmentation: DeepLabV3 with MobileNetV2, weights and activations quantized apart and together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..quant.policy import FLOAT_BITS
from ..quant.presets import policy
from ..train.recipe import Recipe, Stage
from ..train.schedule import Polynomial
from . import RECIPES
from .float_net import FloatSchedule, float_stage

PAPER_EPOCHS = 328  # 30000 updates of 16 of VOC's 1464 images


def hol_segmentation(
    *,
    name: str = "hol-deeplab-voc",
    model: str = "deeplab_mobilenet_v2",
    data: str = "voc2012",
    model_arguments: Mapping[str, Any] | None = None,
    float_schedule: FloatSchedule = "deeplab",
    float_epochs: int | None = None,
    weights: int = 4,
    activations: int = 4,
    epochs: int = PAPER_EPOCHS,
    lr: float = 1e-3,
    batch_size: int = 16,
    both: bool = True,
) -> Recipe:
    """W alone, A alone and both, each from the float net (HOL, section 5.4 and Table 2).

    SGD 0.9, lr 1e-3 with a polynomial of power 0.9, batch 16, 30000 updates, no decay; edges float,
    PACT at each ReLU's output and on residual tensors. The paper names neither the float training nor
    the head: see ``float_stage`` and ``deeplab_mobilenet_v2``.

    Deliberate difference: the paper pretrains on the 10,582 images of ``train_aug`` and retrains on
    the 1,464 of ``train``; here one set serves all stages (``--data-arg train=train_aug`` for the
    larger), and weights pretrained elsewhere come by ``--weights`` with ``float_schedule=none``.

    Args:
        both: also the net with weights and activations quantized.
    """
    pairs = [(weights, FLOAT_BITS), (FLOAT_BITS, activations), *([(weights, activations)] if both else [])]
    quantized = [
        Stage(
            name=f"hol-w{w}a{a}",
            epochs=epochs,
            policy=policy("hol", weights=w, activations=a),
            start="float",
            lr=lr,
            schedule=Polynomial(),
            batch_size=batch_size,
        )
        for w, a in dict.fromkeys(pairs)
        if (w, a) != (FLOAT_BITS, FLOAT_BITS)
    ]
    stages = (float_stage(float_schedule, float_epochs), *quantized)
    return Recipe(name=name, model=model, model_arguments=dict(model_arguments or {}), data=data, stages=stages)


RECIPES.add("hol-deeplab-voc", hol_segmentation)
