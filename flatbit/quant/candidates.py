"""Candidates: widths that each have a step of their own, so that a change of bits creates nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from .quantizer import MAX_BITS
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
    modules = dict(model.named_modules())
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
