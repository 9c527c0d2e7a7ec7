"""Affine maps folded into one another: a bias and a batch norm behind a product become its scale and shift.

``(x a + b) c + d = x (a c) + (b c + d)``, in float64. Where a result has another reader nothing is folded.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from .program import Affine, Operation, Product


def folded_norms(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """The operations with each chain of affine maps as one."""
    read = Counter(name for op in operations for name in op.inputs)
    made: dict[str, Operation] = {}
    for op in operations:
        before = made.get(op.inputs[0])
        if isinstance(op, Affine) and isinstance(before, Affine) and read[before.name] == 1:
            del made[before.name]
            shift = before.shift * op.scale + op.shift
            op = replace(op, inputs=before.inputs, scale=before.scale * op.scale, shift=shift)
        made[op.name] = op
    return tuple(made.values())


def products_with_affine(operations: tuple[Operation, ...]) -> dict[str, Affine]:
    """The affine map that reads each product, by the product's name: lowering puts one behind each."""
    products = {op.name for op in operations if isinstance(op, Product)}
    return {op.inputs[0]: op for op in operations if isinstance(op, Affine) and op.inputs[0] in products}
