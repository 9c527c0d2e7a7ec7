"""What a program says in fewer or other words: affine maps folded into one another, an input coded before it is moved.

A bias and a batch norm behind a product become its scale and shift: ``(x a + b) c + d = x (a c) + (b c + d)``, in
float64. Where a result has another reader nothing is folded.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from .program import INPUT, Affine, Flatten, Operation, Quantize


def folded_norms(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """The operations with each chain of affine maps as one."""
    read = Counter(name for op in operations for name in op.inputs)
    made: dict[str, Operation] = {}
    for op in operations:
        before = made.get(op.inputs[0])
        if isinstance(op, Affine) and isinstance(before, Affine) and read[before.name] == 1:
            del made[before.name]
            shift, terms = before.shift * op.scale + op.shift, before.handled * op.scale.abs() + op.handled
            op = replace(op, inputs=before.inputs, scale=before.scale * op.scale, shift=shift, terms=terms)
        made[op.name] = op
    return tuple(made.values())


def codes_first(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """The operations with an input that is flattened and then quantized the other way round: it is the same."""
    read = Counter(name for op in operations for name in op.inputs)
    made: dict[str, Operation] = {}
    for op in operations:
        before = made.get(op.inputs[0])
        flat_input = isinstance(before, Flatten) and before.inputs == (INPUT,) and read[before.name] == 1
        if isinstance(op, Quantize) and isinstance(before, Flatten) and flat_input:
            del made[before.name]
            image = f"{op.name}.image"
            made[image] = replace(op, name=image, inputs=(INPUT,))
            op = replace(before, name=op.name, inputs=(image,))
        made[op.name] = op
    return tuple(made.values())
