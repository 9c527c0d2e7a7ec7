"""Convert a float model in place, and back: ``quantize_``, ``restore_``, and what they covered."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from ..registry import nearest
from ..undo import undone_on_failure
from ..wrappers import named_modules, unwrapped
from .coverage import Coverage, coverage_of
from .dataflow import unquantized_inputs
from .frozen import follow_layers_
from .layers import QUANTIZER
from .policy import Policy, Rule, check_bits
from .quantizer import Quantizer
from .quantizers import METHODS
from .refusals import refusals, tied_refusals
from .reparametrized import change_kind_, kind_of, refuse_reparametrized
from .site import Site
from .spec import FLOAT_BITS, LayerSpec, TensorSpec
from .table import (
    FLOAT_CLASS,
    TABLE,
    Row,
    Slot,
    has_quantized_layers,
    is_weighted,
    quantized_layers,
    quantizers_of,
    row_of,
    slots_of,
)


def quantize_(model: nn.Module, policy: Policy, *, strict: bool = True, candidates: Sequence[int] = ()) -> Coverage:
    """Quantize a model in place by a policy.

    Each layer whose exact type is in the table becomes its quantized subclass and gets its
    quantizers; parameters, their names and their optimizer state stay. Frozen layers stay frozen: steps and
    clips train where what they quantize does (of an input: where its layer does). Call ``calibrate_`` next.

    Args:
        model: any module; not yet quantized, not yet wrapped (DDP, ``torch.compile``).
        policy: ``flatbit.policy("uniq", weights=2, activations=2)``.
        strict: raise if a layer with weights cannot be quantized right, unless the policy leaves it in
            float anyway; False leaves it in float and reports it.
        candidates: bit-widths that each get a step of their own, for layers whose width the policy has among them:
            ``assign_bits_`` then switches between them and creates nothing. Empty for one step.

    Returns:
        What was quantized, what stays float by policy, what was refused and why.

    Raises:
        ValueError: nothing to quantize, a refused layer (strict), bits outside a method's range, candidates that
            no layer can have. The model is then as it was.
    """
    _check_model(model)
    specs, refused = resolved_specs(model, policy, strict=strict)
    if candidates:
        specs = _with_candidates(specs, candidates)
    with undone_on_failure(model):
        apply_specs_(model, specs)
        return coverage_of(model, refused)


def resolved_specs(model: nn.Module, policy: Policy, *, strict: bool) -> tuple[dict[str, LayerSpec], dict[str, str]]:
    """The specs that a policy gives a model, float or quantized, and why layers were refused; changes nothing.

    Raises ValueError as ``quantize_``.
    """
    modules = dict(named_modules(model))
    specs = _resolve(model, policy)
    refused = {name: why for name, why in refusals(model).items() if not policy.keeps_float(name, modules[name])}
    specs = {name: spec for name, spec in specs.items() if name not in refused}
    refused |= tied_refusals(model, specs)
    specs = {name: spec for name, spec in specs.items() if spec and name not in refused}
    _check_specs(model, policy, specs)
    if strict and refused:
        listed = "".join(f"\n  {name}: {reason}" for name, reason in refused.items())
        raise ValueError(
            f"{len(refused)} layers cannot be quantized (strict=False leaves them in float and reports them, "
            f"policy.override(name, weights=32, activations=32) leaves one in float):{listed}"
        )
    return specs, refused


def _resolve(model: nn.Module, policy: Policy) -> dict[str, LayerSpec]:
    """The policy's specs; where it quantizes outputs, a layer that reads none of them is quantized at its input."""
    specs = policy.resolve(model)
    if not policy.places_outputs():
        return specs
    _check_outputs(model, policy, specs)
    rules = tuple(Rule(name, {"placement": "input"}) for name in unquantized_inputs(model, specs))
    return replace(policy, rules=(*policy.rules, *rules)).resolve(model) if rules else specs


def apply_specs_(model: nn.Module, specs: dict[str, LayerSpec]) -> None:
    """Narrow each named layer's class and attach the quantizers of its spec, in place.

    All quantizers are made before the first layer is touched, so a refused bit-width leaves the
    model as it was. Layers that share one weight share its quantizer; frozen layers' steps are frozen.
    """
    modules = dict(named_modules(model))
    refuse_reparametrized(((name, modules[name]) for name in specs), "quantizing")
    made = {name: _quantizers(name, modules[name], spec) for name, spec in specs.items()}
    weight_quantizers: dict[int, Quantizer] = {}
    for name, slots in made.items():
        layer = modules[name]
        for slot in slots_of(layer, "weight"):
            if (quantizer := slots.get(slot.name + QUANTIZER)) is not None:
                shared = weight_quantizers.setdefault(id(getattr(layer, slot.name)), quantizer)
                slots[slot.name + QUANTIZER] = shared
        row = row_of(layer)
        assert row is not None
        layer.__class__ = row.quantized
        layer.spec = specs[name]  # type: ignore[assignment]
        reference = next(layer.parameters(recurse=False), None)
        for slot, quantizer in slots.items():
            if quantizer is not None and reference is not None:
                quantizer.to(device=reference.device, dtype=reference.dtype)
            layer.register_module(slot, quantizer)
    follow_layers_(model, specs)


def restore_(model: nn.Module) -> None:
    """Make a quantized model float again, in place: classes back, quantizers removed, weights as trained.

    What was put on it after ``quantize_``, such as pruning or ``weight_norm``, stays.
    """
    with undone_on_failure(model):
        for _, layer in list(quantized_layers(model)):
            for slot in slots_of(layer):
                layer._modules.pop(slot.name + QUANTIZER, None)
            del layer.spec
            change_kind_(layer, FLOAT_CLASS[kind_of(layer)])


@contextmanager
def as_float(model: nn.Module) -> Iterator[None]:
    """Run a quantized model as its float network: every quantizer passes its input through."""
    active = [quantizer for _, quantizer in quantizers_of(model) if quantizer.enabled]
    for quantizer in active:
        quantizer.enabled = False
    try:
        yield
    finally:
        for quantizer in active:
            quantizer.enabled = True


def make_quantizer(spec: TensorSpec, site: Site) -> Quantizer:
    """The quantizer of a spec at a site. Raises ValueError for unknown methods, bits or options."""
    method = METHODS.get(spec.method)
    made = method.weights if site.role in ("weight", "bias") else method.activations
    if made is None:
        raise ValueError(f"{site}: method {spec.method!r} does not quantize {site.role}s")
    known = list(inspect.signature(made).parameters)[3:]
    for option in spec.options:
        if option not in known:
            raise ValueError(f"{site}: method {spec.method!r} has no option {option!r}: {nearest(option, known)}")
    return made(spec.bits, site, spec.granularity, **spec.options)


def _quantizers(name: str, layer: nn.Module, spec: LayerSpec) -> dict[str, Quantizer | None]:
    """The quantizers of one layer by their names in it; None where the tensor stays float. Raises ValueError."""
    row = row_of(layer)
    assert row is not None
    for tensor in spec.tensors:
        if tensor not in [slot.name for slot in row.slots]:
            raise ValueError(f"layer {name!r} ({type(layer).__name__}) has no tensor {tensor!r} to quantize")
    made = {}
    for slot in row.slots:
        part = spec.tensors.get(slot.name)
        made[slot.name + QUANTIZER] = part and make_quantizer(part, _site(name, layer, row, slot, part))
    return made


def _site(name: str, layer: nn.Module, row: Row, slot: Slot, spec: TensorSpec) -> Site:
    shape: tuple[int, ...] = ()
    groups = getattr(layer, "groups", 1) if slot.channel_axis == 1 else 1
    if slot.role == "weight" and row.macs is not None:
        sizes = getattr(layer, slot.name).shape
        shape = tuple(n if axis == slot.channel_axis else 1 for axis, n in enumerate(sizes))
        shape = shape if groups == 1 else (groups, *shape)
    return Site(
        layer=name,
        role=slot.role,
        tensor="" if slot.name == slot.role else slot.name,
        kind=row.kind,
        step_shape=shape,
        groups=groups,
        candidates=spec.candidates,
    )


def _with_candidates(specs: dict[str, LayerSpec], candidates: Sequence[int]) -> dict[str, LayerSpec]:
    """The specs with a step for each candidate width, in the tensors whose width is one of them.

    Raises ValueError for a width that is none, or where no tensor's width is one of them.
    """
    for bits in candidates:
        check_bits("candidates", bits)
    widths = tuple(sorted({*candidates}))
    made = {}
    for name, spec in specs.items():
        varied = {slot: part for slot, part in spec.tensors.items() if part.bits in widths and _varies(part)}
        tensors = dict(spec.tensors) | {slot: replace(part, candidates=widths) for slot, part in varied.items()}
        made[name] = replace(spec, tensors=tensors)
    if made == specs:
        raise ValueError(f"candidates={tuple(candidates)}: no layer has one of these widths: name the policy's too")
    return made


def _varies(spec: TensorSpec) -> bool:
    return METHODS.get(spec.method).public


def _check_model(model: nn.Module) -> None:
    if has_quantized_layers(model):
        raise ValueError("the model is quantized already: call flatbit.restore_(model) first")
    check_plain(model, "quantize first, then calibrate")


def check_plain(model: nn.Module, first: str) -> None:
    """Raise ValueError for a model within ``torch.compile``, parallel or averaging modules, which know its old layers.

    ``first`` is what has to come first.
    """
    if unwrapped(model) is not model:
        raise ValueError(f"expected a plain module, got {type(model).__name__}: {first}, then wrap or compile")


def _check_specs(model: nn.Module, policy: Policy, specs: dict[str, LayerSpec]) -> None:
    if not any(spec.tensors.keys() - {"bias"} for spec in specs.values()):
        raise ValueError(
            f"policy {policy.name!r} finds nothing to quantize in {type(model).__name__}: it has no layer of type "
            f"{', '.join(t.__name__ for t in list(TABLE)[:6])}, or the policy leaves all of them float"
        )


def _check_outputs(model: nn.Module, policy: Policy, specs: dict[str, LayerSpec]) -> None:
    """Raise ValueError where activations are to be quantized at outputs, and there is none."""
    modules = dict(model.named_modules())
    waiting = any(
        is_weighted(modules[name]) and spec.input_bits < FLOAT_BITS and spec.input is None
        for name, spec in specs.items()
    )
    if waiting and not any(spec.output is not None for spec in specs.values()):
        raise ValueError(
            f"policy {policy.name!r} quantizes the outputs of activation modules (nn.ReLU, ...), and "
            f"{type(model).__name__} has none (does it call F.relu?): take placement='input'"
        )
