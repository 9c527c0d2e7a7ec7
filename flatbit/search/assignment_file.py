"""Assignments as files: bits per layer in TOML, written to be read and changed by hand.

# found by samq at 390.1 M bit-operations
"layer1.0.conv1" = [4, 4]          weights, activations
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from ..atomic import replacing
from ..quant.policy import Policy
from ..quant.spec import FLOAT_BITS

Bits = Mapping[str, tuple[int, int]]


def write_assignment(bits: Bits, path: Path, *, note: str = "") -> None:
    """Write an assignment; ``note`` as comments before it."""
    lines = [f"# {line}".rstrip() for line in note.splitlines()]
    lines += [f'"{name}" = [{weights}, {activations}]' for name, (weights, activations) in bits.items()]
    with replacing(path) as partial:
        partial.write_text("\n".join(lines) + "\n")


def read_assignment(path: Path) -> dict[str, tuple[int, int]]:
    """Read one. Raises ValueError for a file that is none, with what is wrong in it."""
    try:
        found = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:  # no TOML, or no text at all
        raise ValueError(f"{path}: no assignment ({error})") from error
    for name, pair in found.items():
        whole = isinstance(pair, list) and len(pair) == 2 and all(type(bits) is int for bits in pair)
        if not whole or not all(1 <= bits <= 8 or bits == FLOAT_BITS for bits in pair):
            raise ValueError(
                f'{path}: {name!r} is {pair!r}: expected bits of weights and activations, "{name}" = [4, 4]'
            )
    if not found:
        raise ValueError(f"{path}: an assignment of no layer")
    return {name: (weights, activations) for name, (weights, activations) in found.items()}


def assigned(policy: Policy, bits: Bits) -> Policy:
    """A policy with the bits of an assignment for each of its layers; what it does not name keeps the policy's."""
    for name, (weights, activations) in bits.items():
        policy = policy.override(name, weights=weights, activations=activations)
    return policy


def compared(one: Bits, other: Bits) -> dict[str, tuple[tuple[int, int] | None, tuple[int, int] | None]]:
    """The layers whose bits differ, with both; None where one has no such layer."""
    names = [*one, *(name for name in other if name not in one)]
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}
