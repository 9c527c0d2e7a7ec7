"""Candidates: widths that each have a step of their own, so that a change of bits creates nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..wrappers import named_modules
from .quantizer import MAX_BITS, Quantizer
from .quantizers import make_quantizer
from .site import Site
from .spec import LayerSpec, TensorSpec
from .table import Slot, slots_of


def with_candidates(model: nn.Module, specs: dict[str, LayerSpec], candidates: Sequence[int]) -> dict[str, LayerSpec]:
    """The specs with a step for each candidate width, in the tensors whose width is one of them.

    A method without a step that calibration sets (FAQ's, DoReFa's and XNOR's weights compute theirs) needs none,
    and stays free to take any width.

    Args:
        model: whose layers they are.
        specs: of its layers, by name.
        candidates: at least two different widths, 1 to 8; empty for one step in each tensor.

    Raises ValueError for what is none of that, or where no step has a width that is among them.
    """
    if not (widths := _checked(candidates)):
        return specs
    modules = dict(named_modules(model))
    made = {}
    for name, spec in specs.items():
        parts = {slot: spec.tensors[slot.name] for slot in slots_of(modules[name]) if slot.name in spec.tensors}
        varied = {slot.name: part for slot, part in parts.items() if part.bits in widths and _has_steps(slot, part)}
        tensors = dict(spec.tensors) | {slot: replace(part, candidates=widths) for slot, part in varied.items()}
        made[name] = replace(spec, tensors=tensors)
    if made == specs:
        raise ValueError(
            f"candidates={tuple(candidates)}: no layer has a step at one of these widths: name the policy's too (steps "
            "that are computed anew at every forward, as FAQ's of weights, need no candidates: assign_bits_ takes any)"
        )
    return made


def observe_at_each_(quantizer: Quantizer, x: Tensor) -> None:
    """Let a quantizer observe x at every candidate width where there are any, in place.

    Raises RuntimeError if its ``observe_`` writes the steps of other widths than the present one.
    """
    x = quantizer.site.by_group(x)
    if not (widths := quantizer.site.candidates):
        quantizer.observe_(x)
        return
    present = quantizer.stated_bits
    try:
        for row, bits in enumerate(widths):
            quantizer.bits.fill_(bits)
            before = [tensor.detach().clone() for tensor in quantizer.state()]
            quantizer.observe_(x)
            _check_rows(quantizer, row, before)
    finally:
        quantizer.bits.fill_(present)


def _check_rows(quantizer: Quantizer, row: int, before: Sequence[Tensor]) -> None:
    """Raise RuntimeError if state of other rows is another than before; forgetting it is lawful."""
    for was, now in zip(before, quantizer.state(), strict=True):
        changed = (was != now.detach()) & ~now.detach().isnan()
        changed[row] = False
        if bool(changed.any()):
            raise RuntimeError(
                f"{quantizer.site}: observe_ of {type(quantizer).__name__} wrote the steps of other widths: "
                "write state with self.set_state_(name, value), and read it with self.current(name)"
            )


def _checked(candidates: Any) -> tuple[int, ...]:
    if not isinstance(candidates, Sequence) or isinstance(candidates, str):
        raise ValueError(f"candidates={candidates!r}: expected several bit-widths, as (2, 4)")
    for bits in candidates:
        if not isinstance(bits, int) or isinstance(bits, bool) or bits not in range(1, MAX_BITS + 1):
            raise ValueError(f"candidates={bits!r}: expected 1 to {MAX_BITS} bits: what is float has no step")
    if candidates and len({*candidates}) < max(len(candidates), 2):
        raise ValueError(f"candidates={tuple(candidates)}: expected two different widths or more, each once")
    return tuple(sorted(candidates))


def _has_steps(slot: Slot, spec: TensorSpec) -> bool:
    """Whether calibration sets anything of the tensor's quantizer."""
    return bool(make_quantizer(spec, Site(role=slot.role)).state())
