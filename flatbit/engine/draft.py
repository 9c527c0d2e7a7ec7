"""The draft of a run's model: built once for the plan, on the meta device where that can be, never trained."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from ..data.batches import Data
from ..quant.convention import convention
from ..quant.convert import apply_specs_
from ..quant.cost import cost
from ..quant.spec import LayerSpec
from ..quant.table import quantizers_of
from .fit import build_model, matched
from .recipe import Recipe
from .record import Totals
from .sources import Checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A float model that has layers and shapes, and no weights worth having.

    Attributes:
        model: on the meta device, or on the CPU.
        built_on: ``meta`` or ``cpu``.
        notes: what the checkpoint said while it was loaded.
    """

    model: nn.Module = field(repr=False)
    built_on: str
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, recipe: Recipe, data: Data, checkpoint: Checkpoint | None) -> Draft:
        """Build it; with a checkpoint on the CPU, so that weights that do not fit are refused now."""
        with torch.random.fork_rng(devices=[]):
            if checkpoint is None and (model := _on_meta(recipe, data)) is not None:
                return cls(model=model, built_on="meta")
            model = build_model(recipe, data)
        return cls(model=model, built_on="cpu", notes=() if checkpoint is None else (checkpoint.load_(model),))

    def counted(self, specs: Mapping[str, LayerSpec], input_shape: tuple[int, ...]) -> tuple[str, Totals]:
        """Bits of the inner layers, and the cost of one image, of a copy that is quantized by these specs."""
        model = copy.deepcopy(self.model)
        apply_specs_(model, dict(specs))
        for _, quantizer in quantizers_of(model):  # on the meta device their bits could not be read
            quantizer.bits = torch.tensor(float(specs[quantizer.site.layer].tensors[quantizer.site.name].bits))
        return convention(model).inner if specs else "float", Totals.of(cost(model, input_shape))


def _on_meta(recipe: Recipe, data: Data) -> nn.Module | None:
    """The model without memory for its weights; None where its builder needs weights that are there."""
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")  # as of weights that are loaded into none
            model = build_model(recipe, data)
            cost(model, matched(data, model).image_shape)
    except Exception:
        return None  # built on the CPU, the same mistake says what it is
    return model
