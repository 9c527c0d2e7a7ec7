"""A model ready to be searched: its float self, its quantized self, its space, prices and data."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ..data.batches import Data
from ..quant.convert import quantize_, restore_
from ..quant.policy import Policy
from ..quant.table import has_quantized_layers
from .costs import Prices
from .space import Space, space_of


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Searched:
    """What a search is given.

    Attributes:
        model: float.
        policy: how its layers are quantized.
        data: training images are looked at; the test set is not.
        space, prices: of the model, quantized.
    """

    model: nn.Module
    policy: Policy
    data: Data
    space: Space
    prices: Prices

    @classmethod
    def of(
        cls, model: nn.Module, policy: Policy, data: Data, *, widths: Sequence[int],
        layers: Iterable[Sequence[str]] | None = None, fixed: Mapping[str, int] | None = None,
    ) -> Searched:  # fmt: skip
        """Quantize a copy, read its space and count it. A model that is quantized is searched from its latent weights.

        Layers that are ``fixed``, with those that choose with them, have that one width. Raises ValueError as
        ``space_of``, ``Space.with_fixed`` and ``Prices.of`` do.
        """
        if has_quantized_layers(model):
            restore_(model)
        quantized = copy.deepcopy(model)
        quantize_(quantized, policy, strict=False)
        space = space_of(quantized, widths, layers).with_fixed(fixed or {})
        return cls(
            model=model, policy=policy, data=data, space=space, prices=Prices.of(quantized, space, data.image_shape)
        )
