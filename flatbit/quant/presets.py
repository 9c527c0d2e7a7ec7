"""The papers' conventions as named policies: edges, shortcuts, granularity, placement.

What a paper leaves in float, keeps at 8 bits or quantizes elsewhere moves its numbers as much as
its method does, so each convention is written down here, under the name that results carry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from ..registry import nearest
from .policy import (
    FLOAT_BITS,
    Policy,
    Rule,
    Settings,
    check_bits,
)
from .quantizers import METHODS

Preset = Callable[[int, int], Policy]
EDGES = ("@first", "@last")


def policy(
    name: str,
    *,
    weights: int = FLOAT_BITS,
    activations: int = FLOAT_BITS,
    activation_method: str | None = None,
    granularity: Literal["tensor", "channel"] | None = None,
    placement: Literal["input", "output"] | None = None,
    weight_options: Mapping[str, Any] | None = None,
    activation_options: Mapping[str, Any] | None = None,
) -> Policy:
    """A paper's convention at given bit-widths: ``policy("uniq", weights=2, activations=2)``.

    Args:
        name: a preset (``preset_names()``), or a quantization method, whose first and last layer are
            then kept at 8 bits.
        weights, activations: bits, 1 to 8; 32 leaves them in float.
        activation_method: quantize activations with another method.
        granularity, placement, weight_options, activation_options: in place of the preset's.

    Raises:
        ValueError: an unknown name; bits that the method does not have; nothing to quantize.
    """
    check_bits("weights", weights)
    check_bits("activations", activations)
    if weights == activations == FLOAT_BITS:
        raise ValueError(f"policy({name!r}): weights and activations are both float: give weights= or activations=")
    if placement not in (None, "input", "output"):
        raise ValueError(f"placement={placement!r}: expected input or output")
    made = replace(preset(name)(weights, activations), name=name)
    changes = {
        "activation_method": activation_method,
        "granularity": granularity,
        "weight_options": weight_options,
        "activation_options": activation_options,
    }
    base = replace(made.base, **{key: value for key, value in changes.items() if value is not None})
    _check_method(base.method, "weights", weights)
    _check_method(base.activation_method, "activations", activations)
    return replace(made, base=base, placement=placement or made.placement)


def preset_names() -> list[str]:
    """Every name that ``policy`` takes, sorted."""
    return sorted({*PRESETS, *(name for name in METHODS.names() if name != "fixed_point")})


def preset(name: str) -> Preset:
    """The preset of that name; any method has one, with 8-bit edges. Raises ValueError."""
    if name in PRESETS:
        return PRESETS[name]
    if name not in preset_names():
        raise ValueError(f"unknown policy {name!r}: {nearest(name, preset_names())}")
    return lambda weights, activations: _policy(name, weights, activations, rules=_edges(weights, activations))


def _sqwa(weights: int, activations: int) -> Policy:
    """SQWA: first and last layer float, as the works it compares with; activations float in the paper."""
    return _policy("sqwa", weights, activations, rules=_float(EDGES))


def _sqwa_all(weights: int, activations: int) -> Policy:
    """SQWA with every layer at b bits, which the paper does not exclude."""
    return _policy("sqwa", weights, activations)


def _hol(weights: int, activations: int) -> Policy:
    """HOL on CIFAR-10 and VOC: edges float, PACT at each ReLU's output, residual tensors at b bits."""
    residual = Rule("*.residual", {"here": True}, optional=True)
    return _policy("sqwa", weights, activations, "pact", (residual, *_float(EDGES)), placement="output")


def _hol_synthetic(weights: int, activations: int) -> Policy:
    """HOL's spirals: every weight matrix quantized, the 2-d input and the logits float."""
    return _policy("sqwa", weights, activations, "pact", placement="output")


def _hol_imagenet(weights: int, activations: int) -> Policy:
    """HOL on ImageNet: edges float, residual tensors at 8 bits, "4-level" (mid-rise) weights."""
    residual = Rule("*.residual", {"here": True, **_unless_float("activations", activations, 8)}, optional=True)
    made = _policy("sqwa", weights, activations, "pact", (residual, *_float(EDGES)), placement="output")
    return replace(made, base=replace(made.base, weight_options={"levels": "midrise"}))


def _saq(weights: int, activations: int) -> Policy:
    """SAQ: first and last weights 8 bits, the last input too; images not quantized, counted as 8 bits."""
    edges = _edges(weights, activations)
    return _policy(
        "saq", weights, activations, rules=(*edges, Rule("@first", {"activations": FLOAT_BITS, "input_bits": 8}))
    )


def _uniq(weights: int, activations: int) -> Policy:
    """UNIQ: edges 8 bits per tensor from 2 bits up; at 1 bit the edges and shortcut convolutions float."""
    if 1 in (weights, activations):
        return _policy("uniq", weights, activations, rules=_float((*EDGES, "@shortcut")))
    return _policy("uniq", weights, activations, rules=_edges(weights, activations))


def _uniq_imagenet(weights: int, activations: int) -> Policy:
    """UNIQ on ImageNet's ResNets: one weight step per output channel, edges per tensor."""
    made = _uniq(weights, activations)
    per_tensor = tuple(Rule(edge, {"granularity": "tensor"}) for edge in EDGES)
    return replace(made, base=replace(made.base, granularity="channel"), rules=(*made.rules, *per_tensor))


def _faq(weights: int, activations: int) -> Policy:
    """FAQ: edges 8 bits, each ReLU's output quantized once, batch norm and biases in fixed point."""
    edges = _edges(weights, activations, here=True)
    made = _policy("faq", weights, activations, rules=edges, placement="output")
    return replace(made, fixed_point=True)


def _float_edges(method: str, activation_method: str, granularity: str = "tensor") -> Preset:
    """A baseline that keeps its first and last layer in float."""

    def make(weights: int, activations: int) -> Policy:
        """A baseline as its paper has it: first and last layer float."""
        made = _policy(method, weights, activations, activation_method, _float(EDGES))
        return replace(made, base=replace(made.base, granularity=granularity))

    return make


def _pact(weights: int, activations: int) -> Policy:
    """PACT: DoReFa's weights, clips that start at 10 as in its paper; first and last layer float."""
    made = _policy("dorefa", weights, activations, "pact", _float(EDGES))
    return replace(made, base=replace(made.base, activation_options={"clip": 10.0}))


def _policy(
    method: str,
    weights: int,
    activations: int,
    activation_method: str | None = None,
    rules: tuple[Rule, ...] = (),
    placement: Literal["input", "output"] = "input",
) -> Policy:
    base = Settings(
        weights=weights, activations=activations, method=method, activation_method=activation_method or method
    )
    return Policy(name=method, base=base, rules=rules, placement=placement)


def _edges(weights: int, activations: int, **more: Any) -> tuple[Rule, ...]:
    """First and last layer at 8 bits, in whatever is quantized at all."""
    changes = _unless_float("weights", weights, 8) | _unless_float("activations", activations, 8) | more
    return tuple(Rule(edge, changes) for edge in EDGES)


def _float(patterns: tuple[str, ...]) -> tuple[Rule, ...]:
    return tuple(Rule(pattern, {"weights": FLOAT_BITS, "activations": FLOAT_BITS}) for pattern in patterns)


def _unless_float(key: str, bits: int, replacement: int) -> dict[str, Any]:
    return {key: replacement} if bits < FLOAT_BITS else {}


def _check_method(name: str, what: Literal["weights", "activations"], bits: int) -> None:
    if bits == FLOAT_BITS:
        return
    quantizer = getattr(METHODS.get(name), what)
    if quantizer is None:
        others = [other for other in METHODS.names() if getattr(METHODS.get(other), what) is not None]
        keyword = "activation_method" if what == "activations" else "another policy"
        raise ValueError(f"method {name!r} does not quantize {what}: give {keyword}, one of {', '.join(others)}")
    if bits not in quantizer.supported_bits:
        span = quantizer.supported_bits
        reason = f" ({quantizer.refusal})" if quantizer.refusal else ""
        raise ValueError(f"method {name!r} quantizes {what} to {min(span)}-{max(span)} bits, got {bits}{reason}")


PRESETS: dict[str, Preset] = {
    "sqwa": _sqwa,
    "sqwa-all": _sqwa_all,
    "hol": _hol,
    "hol-synthetic": _hol_synthetic,
    "hol-imagenet": _hol_imagenet,
    "saq": _saq,
    "uniq": _uniq,
    "uniq-imagenet": _uniq_imagenet,
    "faq": _faq,
    "dorefa": _float_edges("dorefa", "dorefa"),
    "pact": _pact,
    "xnor": _float_edges("xnor", "xnor", "channel"),
}
