"""What a shared net keeps of each width: a batch norm per width of the layer that feeds it, beside the float keys.

The class of each such norm is narrowed in place, and its copies live under ``NORM.per_bit.WIDTH.*`` until ``finish_``
leaves the chosen ones under the plain names. Clips per width are the quantizers' own (``candidates``).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..graph import read_graph
from ..quant.assignment import assign_bits_
from ..quant.table import quantized_layers, quantizer_of, slots_of
from .space import Space, feeding


def _forward(self: Any, input: Tensor) -> Tensor:
    """As the copy in use."""
    return self.per_bit[str(self.width)](input)


class PerBitBatchNorm2d(nn.BatchNorm2d):
    """A batch norm with a copy per width; ``width`` says which one is in use."""

    per_bit: nn.ModuleDict
    width: int
    forward = _forward


class PerBitBatchNorm1d(nn.BatchNorm1d):
    """The same of vectors."""

    per_bit: nn.ModuleDict
    width: int
    forward = _forward


NARROWED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: PerBitBatchNorm2d,
    nn.BatchNorm1d: PerBitBatchNorm1d,
}


class SharedNet:
    """A quantized model whose widths change from batch to batch: norms, clips and weights as one net (SAQ, 4.2).

    Args:
        model: quantized with the space's widths as ``candidates``, calibrated; changed in place until ``finish_``.
        space: its choices.

    Raises:
        ValueError: quantizers without a step of their own for each width.
    """

    def __init__(self, model: nn.Module, space: Space) -> None:
        self.model, self.space = model, space
        layers = dict(quantized_layers(model))
        self.quantizers = {
            choice.name: [
                quantizer
                for name in choice.layers
                for slot in slots_of(layers[name], "weight", "input")
                if (quantizer := quantizer_of(layers[name], slot.name)) is not None
            ]
            for choice in space.choices
        }
        self._stated = {quantizer: quantizer.stated_bits for each in self.quantizers.values() for quantizer in each}
        self._check_candidates()
        self.norms = self._narrowed()
        self.switch_({choice.name: choice.widths[-1] for choice in space.choices})

    def switch_(self, bits: Mapping[str, int]) -> None:
        """Bring every choice to a width: its quantizers, and the norms that it feeds; specs follow in ``finish_``."""
        for name, width in bits.items():
            for quantizer in self.quantizers[name]:
                quantizer.bits.fill_(width)
            for norm in self.norms.get(name, ()):
                norm.width = width
                norm.per_bit[str(width)].train(norm.training)
        self.bits = dict(bits)

    def unused_rows(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Learned tables of the quantizers, each with which of its rows are those of other widths: boolean."""
        found = []
        for name, width in self.bits.items():
            for quantizer in self.quantizers[name]:
                other = torch.tensor([candidate != width for candidate in quantizer.site.candidates])
                found += [(p, other) for p in quantizer.parameters() if p.ndim and len(p) == len(other)]
        return found

    def finish_(self, bits: Mapping[str, int]) -> None:
        """Leave one net: the norms of the chosen widths under the plain names, quantizers and specs at these bits."""
        self.switch_(bits)
        for norms in self.norms.values():
            for norm in norms:
                norm.load_state_dict(norm.per_bit[str(norm.width)].state_dict(), strict=False)
                norm.__class__ = next(plain for plain, narrow in NARROWED.items() if type(norm) is narrow)  # type: ignore[assignment]
                del norm.per_bit, norm.width
        for quantizer in (quantizer for name in bits for quantizer in self.quantizers[name]):
            quantizer.bits.fill_(self._stated[quantizer])
        assign_bits_(self.model, self.space.assignment(bits))

    def _narrowed(self) -> dict[str, list[PerBitBatchNorm2d | PerBitBatchNorm1d]]:
        """The norms that each choice feeds, narrowed; those that no choice feeds stay as they are."""
        modules = dict(self.model.named_modules())
        choices = {name: choice for choice in self.space.choices for name in choice.layers}
        found: dict[str, list[PerBitBatchNorm2d | PerBitBatchNorm1d]] = {}
        if (graph := read_graph(self.model)) is None:
            return found
        for norm_name, layer in feeding(graph, self.model, lambda module: type(module) in NARROWED).items():
            if (choice := choices.get(layer)) is None or len(choice.widths) < 2:
                continue
            norm = modules[norm_name]
            assert isinstance(norm, _NormBase)
            copies = {str(bits): copy.deepcopy(norm) for bits in choice.widths}
            norm.__class__ = NARROWED[type(norm)]  # type: ignore[assignment]
            norm.per_bit = nn.ModuleDict(copies)
            found.setdefault(choice.name, []).append(norm)  # type: ignore[arg-type]
        return found

    def _check_candidates(self) -> None:
        for choice in self.space.choices:
            for quantizer in self.quantizers[choice.name]:
                lacking = {*choice.widths} - {*quantizer.site.candidates}
                if lacking and quantizer.state():
                    raise ValueError(
                        f"{quantizer.site} has no step of its own at {sorted(lacking)} bits: a search that changes "
                        "widths from batch to batch would have one step for all: quantize_(model, policy, "
                        f"candidates={choice.widths})"
                    )
