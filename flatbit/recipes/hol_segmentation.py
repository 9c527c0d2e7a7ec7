"""HOL's segmentation: DeepLabV3 with MobileNetV2, weights and activations quantized apart and together."""

from __future__ import annotations

from dataclasses import dataclass

from ..quant.presets import policy
from ..reference import From
from ..train.losses.orthogonality import Lipschitz
from ..train.schedules import Polynomial
from . import RECIPES, Registration, Stages, stage_of
from .float_net import Pretraining, float_stages
from .hol import CyclicRate, Quantized, pairs, smoothed


@dataclass(frozen=True, kw_only=True, slots=True)
class Descent:
    """How each quantized net is retrained: 328 epochs are 30000 updates of 16 of VOC's 1464 images.

    Attributes:
        epochs, lr, batch_size: of SGD 0.9, the rate falling with a polynomial of power 0.9.
    """

    epochs: int = 328
    lr: float = 1e-3
    batch_size: int = 16


def deeplab_stages(
    *,
    weights: int = 4,
    activations: int = 4,
    quantized: Quantized | tuple[Quantized, ...] = "each",
    pretraining: Pretraining | None = Pretraining(schedule="deeplab"),
    training: Descent = Descent(),
    lipschitz: Lipschitz | None = None,
    clr: CyclicRate | None = None,
) -> Stages:
    """W alone, A alone and both, each from the float net (HOL, section 5.4, Tables 2 and 3).

    SGD 0.9, lr 1e-3 with a polynomial of power 0.9, batch 16, 30000 updates, no decay; first and last layer float,
    PACT at each ReLU's output and on residual tensors. The paper names neither the float training nor
    the head: see ``FLOAT`` and ``deeplab_mobilenet_v2``.

    Deliberate difference: the paper pretrains on the 10,582 images of ``train_aug`` and retrains on
    the 1,464 of ``train``; here one set serves all stages (``--data-arg train=train_aug`` for the
    larger), and weights pretrained elsewhere come by ``--checkpoint`` with ``pretraining=none``.

    Args:
        quantized: ``weights`` alone, ``activations`` alone, ``both``, ``each`` of the three, or a list.
        pretraining: of the float net; None measures the one that the run is given.
        training: of each quantized net.
        lipschitz, clr: as ``hol`` takes them; of CLR the paper has 15000 updates (165 epochs) in cycles of 3000,
            from 1e-4 to 1e-6 and back, to the last minimum.
    """
    stages = list(float_stages(pretraining))
    begin = From.stage(stages[-1].name)
    for w, a in pairs(weights, activations, quantized):
        retrain = stage_of(
            name=f"hol-w{w}a{a}",
            epochs=training.epochs,
            policy=policy("hol", weights=w, activations=a),
            start=begin,
            lr=training.lr,
            schedule=Polynomial(),
            batch_size=training.batch_size,
        )
        stages += smoothed(retrain, lipschitz, clr)
    return tuple(stages)


RECIPES.add(
    "hol-deeplab-voc",
    Registration(
        stages=deeplab_stages,
        model="deeplab_mobilenet_v2",
        data="voc2012",
        settings={"clr": "none", "clr.epochs": 165, "clr.lr": 1e-4},
    ),
)
