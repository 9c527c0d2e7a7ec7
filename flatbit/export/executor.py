"""The integer executor: a network run on whole numbers alone, from the codes of its input to its logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .fixed import IntegerProgram, fixed_point
from .integer import Encode
from .lowering import lower
from .program import INPUT


class IntegerNetwork:
    """A network in integers. ``network(x)`` gives its logits.

    Attributes:
        program: its operations.
    """

    def __init__(self, program: IntegerProgram) -> None:
        self.program = program
        last: dict[str, int] = {}
        for i, op in enumerate(program.operations):
            last.update(dict.fromkeys(op.inputs, i))
        self._done_with = [[name for name, at in last.items() if at == i] for i in range(len(program.operations))]

    def __call__(self, x: Tensor, watch: Callable[[str, Tensor], Any] | None = None) -> Tensor:
        """Logits, float64 (N, ...), of the model's input: float32 as the model takes it, or uint8 pixels.

        ``watch(name, result)`` sees each result on the way, int64; what it returns, if anything, takes its place.
        """
        return self.integers(x, watch).double() * 2.0 ** -self.program.fraction_bits[self.program.output]

    @torch.no_grad()
    def integers(self, x: Tensor, watch: Callable[[str, Tensor], Any] | None = None) -> Tensor:
        """The output in whole numbers, int64: logits times ``2^f``."""
        found = {INPUT: x}
        for op, done in zip(self.program.operations, self._done_with, strict=True):
            found[op.name] = op.run(*(found[name] for name in op.inputs))
            if watch is not None and (given := watch(op.name, found[op.name])) is not None:
                found[op.name] = given
            for name in done:
                del found[name]
        return found[self.program.output]


def integer_network(
    model: nn.Module, input_shape: tuple[int, ...], *, prepare: Callable[[Tensor], Tensor] | None = None
) -> IntegerNetwork:
    """A quantized model in integers: codes, int32 accumulators, multipliers and shifts.

    Args:
        model: quantized and calibrated, every product with integer operands
            (``fb.policy(..., first_last_bits=8, image_bits=8)``); left as it is.
        input_shape: of one sample, without the batch.
        prepare: from uint8 pixels (N, C, H, W) to what the model takes, pixel by pixel, as normalizing does; with it
            the network also takes pixels, through a table of 256 codes per channel.

    Raises:
        ValueError: a layer whose operands are float, an operation without an integer form, sums beyond 32 bits, a
            graph that cannot be read; the layer is named.
    """
    program = fixed_point(lower(model, tuple(input_shape)))
    if prepare is not None:
        program = with_pixels(program, prepare)
    return IntegerNetwork(program)


def with_pixels(program: IntegerProgram, prepare: Callable[[Tensor], Tensor]) -> IntegerProgram:
    """The program with a table of codes for pixels. Raises ValueError where ``prepare`` mixes pixels."""
    pixels = torch.arange(256, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    prepared = prepare(pixels.expand(-1, *program.program.input_shape).contiguous())
    column = prepared[:, :, :1, :1]
    if not bool((prepared == column).all()):
        raise ValueError("prepare= gives a pixel different values in different places: one table per channel cannot")
    operations = [
        replace(op, pixels=op.codes(column).reshape(256, -1).T.contiguous()) if isinstance(op, Encode) else op
        for op in program.operations
    ]
    made = replace(program, operations=tuple(operations))
    probe = torch.randint(
        256, (4, *program.program.input_shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    for op in made.operations:
        if isinstance(op, Encode) and not torch.equal(op.run(probe), op.codes(prepare(probe))):
            raise ValueError("prepare= mixes pixels or channels: one table per channel cannot")
    return made
