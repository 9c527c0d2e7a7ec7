"""HOL's conventions: SQWA's weights, PACT's activations at each ReLU's output and on residual tensors.

Boo, Shin, Choi, Sung: Quantized neural networks: characterization and holistic optimization, 2020.
"""

from __future__ import annotations

from ..first_last import in_float
from ..policy import POLICIES, Policy, Rule, base_policy
from ..spec import FLOAT_BITS

RESIDUAL = Rule("*.residual", {"placement": "output"}, optional=True)


def hol_cifar(weights: int, activations: int) -> Policy:
    """HOL on CIFAR-10 and VOC: first and last layer float, PACT at each ReLU's output, residual tensors at b bits."""
    return _hol(weights, activations, (RESIDUAL, *in_float()))


def hol_synthetic(weights: int, activations: int) -> Policy:
    """HOL's spirals: every weight matrix quantized, the 2-d input and the logits float."""
    return _hol(weights, activations, ())


def hol_imagenet(weights: int, activations: int) -> Policy:
    """HOL on ImageNet: first and last layer float, residual tensors at 8 bits, "4-level" (mid-rise) weights."""
    wider = {"activations": 8} if activations < FLOAT_BITS else {}
    residual = Rule("*.residual", {**RESIDUAL.changes, **wider}, optional=True)
    return _hol(weights, activations, (residual, *in_float()), weight_options={"grid": "midrise"})


def _hol(weights: int, activations: int, rules: tuple[Rule, ...], **settings: object) -> Policy:
    return base_policy("sqwa", weights, activations, rules, activation_method="pact", placement="output", **settings)


POLICIES.add("hol", hol_cifar)
POLICIES.add("hol-synthetic", hol_synthetic)
POLICIES.add("hol-imagenet", hol_imagenet)
