"""Convert a float model in place, and back: ``quantize_``, ``restore_``, and what they covered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ..undo import undone_on_failure
from ..wrappers import named_modules, unwrapped
from .acting import check_acting
from .candidates import with_candidates
from .coverage import Coverage, coverage_of
from .dataflow import quantized_twice, unquantized_inputs
from .example import example_of, multiplied
from .frozen import follow_layers_
from .layers import QUANTIZER
from .policy import Policy, Rule
from .products import Products
from .quantizer import Quantizer
from .quantizers import make_quantizer
from .refusals import refusals, tied_refusals
from .reparametrized import change_kind_, kind_of, refuse_reparametrized
from .site import Site
from .spec import FLOAT_BITS, LayerSpec, TensorSpec
from .table import (
    FLOAT_CLASS,
    TABLE,
    Row,
    Slot,
    check_tensors,
    has_quantized_layers,
    is_weighted,
    quantized_layers,
    row_of,
    slots_of,
)


def quantize_(
    model: nn.Module, policy: Policy, *, strict: bool = True, candidates: Sequence[int] = (), example: Any = None
) -> Coverage:
    """Quantize a model in place by a policy.

    Each layer whose exact type is in the table becomes its quantized subclass and gets its
    quantizers; parameters, their names and their optimizer state stay. Frozen layers stay frozen: steps and
    clips train where what they quantize does (of an input: where its layer does). Call ``calibrate_`` next.

    Args:
        model: any module; not yet quantized, not yet wrapped (DDP, ``torch.compile``).
        policy: ``flatbit.policy("uniq", weights=2, activations=2)``.
        strict: raise if a layer with weights cannot be quantized right, unless the policy leaves it in
            float anyway; False leaves it in float and reports it.
        candidates: bit-widths that each get a step of their own, in tensors whose width is one of them and whose
            method has steps: ``assign_bits_`` then switches between them and creates nothing. A step whose width is
            not in use has gradient zero, and no weight decay by ``train.optimizers``; the momentum of an optimizer
            that has moved it fades. Empty for one step.
        example: what the model is called with: a tensor, a tuple of arguments, a mapping of arguments by name. It runs
            once in float, and shows what cannot be read off modules: that weights which a module holds itself (class
            token, positions) meet nothing in a product, that a layer is never called, or its weight read past it.

    Returns:
        What was quantized, what stays float by policy, what was refused and why.

    Raises:
        ValueError: nothing to quantize, a refused layer (strict), an example that the model does not take, bits
            outside a method's range, candidates that are not two different widths or more, or that no layer can have,
            a setting that acts on none of the layers that its rule names, activations that a rule would have
            quantized twice. The model is then as it was.
    """
    _check_model(model)
    ran = None if example is None else multiplied(model, example_of(model, example))
    specs, refused = resolved_specs(model, policy, strict=strict, ran=ran)
    with undone_on_failure(model):
        apply_specs_(model, with_candidates(model, specs, candidates))
        return coverage_of(model, refused, ran)


def resolved_specs(
    model: nn.Module, policy: Policy, *, strict: bool, ran: Products | None = None
) -> tuple[dict[str, LayerSpec], dict[str, str]]:
    """The specs that a policy gives a model, float or quantized, and why layers were refused; changes nothing.

    ``ran`` as ``refusals`` takes it.

    Raises ValueError as ``quantize_``.
    """
    if not isinstance(policy, Policy):
        raise ValueError(f"expected a policy, as flatbit.policy('uniq', weights=2, activations=2), got {policy!r}")
    check_tensors(model)
    modules = dict(named_modules(model))
    specs = _resolve(model, policy)
    refused = {n: why for n, why in refusals(model, ran).items() if not policy.keeps_float(n, modules[n])}
    specs = {name: spec for name, spec in specs.items() if name not in refused}
    refused |= tied_refusals(model, specs)
    specs = {name: spec for name, spec in specs.items() if spec and name not in refused}
    _check_specs(model, policy, specs, refused)
    if strict and refused:
        raise ValueError(
            f"{len(refused)} layers cannot be quantized (strict=False leaves them in float and reports them, "
            f"policy.override(name, weights=32, activations=32) leaves one in float, or all that wildcards match):"
            f"{_listed(refused)}"
        )
    return specs, refused


def _listed(refused: dict[str, str]) -> str:
    return "".join(f"\n  {name or repr(name)}: {reason}" for name, reason in refused.items())


def _resolve(model: nn.Module, policy: Policy) -> dict[str, LayerSpec]:
    """The policy's specs; where it quantizes outputs, a layer that reads none of them is quantized at its input."""
    specs = policy.resolve(model)
    if policy.places_outputs():
        _check_outputs(model, policy, specs)
        rules = tuple(Rule(name, {"placement": "input"}) for name in unquantized_inputs(model, specs))
        policy = replace(policy, rules=(*policy.rules, *rules))
        specs = policy.resolve(model)
    check_acting(policy, model)
    _check_twice(model, policy, specs)
    return specs


def _check_twice(model: nn.Module, policy: Policy, specs: dict[str, LayerSpec]) -> None:
    """Raise ValueError where rules beside the convention's own have an activation quantized twice."""
    if not (found := quantized_twice(model, specs)):
        return
    convention = replace(policy, rules=tuple(rule for rule in policy.rules if rule.optional))
    for name in quantized_twice(model, convention.resolve(model)):
        found.pop(name, None)
    if found:
        listed = ", ".join(f"{name!r} (which reads {' and '.join(map(repr, made))})" for name, made in found.items())
        raise ValueError(
            f"{len(found)} layers would quantize at their input what was quantized at its output already: {listed}. "
            f"Keep one of the two: override({next(iter(found))!r}, placement='output'), or placement='input' for what "
            "it reads"
        )


def apply_specs_(
    model: nn.Module, specs: dict[str, LayerSpec], make: Callable[[TensorSpec, Site], Quantizer] = make_quantizer
) -> None:
    """Narrow each named layer's class and attach the quantizers of its spec, as ``make`` makes them, in place.

    All quantizers are made before the first layer is touched, so a refused bit-width leaves the
    model as it was. Layers that share one weight share its quantizer; frozen layers' steps are frozen.
    """
    modules = dict(named_modules(model))
    refuse_reparametrized(((name, modules[name]) for name in specs), "quantizing")
    made = {name: _quantizers(name, modules[name], spec, make) for name, spec in specs.items()}
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


def _quantizers(
    name: str, layer: nn.Module, spec: LayerSpec, make: Callable[[TensorSpec, Site], Quantizer]
) -> dict[str, Quantizer | None]:
    """The quantizers of one layer by their names in it; None where the tensor stays float. Raises ValueError."""
    row = row_of(layer)
    assert row is not None
    for tensor in spec.tensors:
        if tensor not in [slot.name for slot in row.slots]:
            raise ValueError(f"layer {name!r} ({type(layer).__name__}) has no tensor {tensor!r} to quantize")
    made = {}
    for slot in row.slots:
        part = spec.tensors.get(slot.name)
        made[slot.name + QUANTIZER] = part and make(part, _site(name, layer, row, slot, part))
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


def _check_specs(model: nn.Module, policy: Policy, specs: dict[str, LayerSpec], refused: dict[str, str]) -> None:
    if any(spec.tensors.keys() - {"bias"} for spec in specs.values()):
        return
    nothing = f"policy {policy.name!r} finds nothing to quantize in {type(model).__name__}: "
    if refused:
        raise ValueError(
            f"{nothing}{len(refused)} layers cannot be quantized, and no other would be:{_listed(refused)}"
        )
    raise ValueError(
        f"{nothing}it has no layer of type {', '.join(t.__name__ for t in list(TABLE)[:6])}, or the policy leaves "
        "all of them float"
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
