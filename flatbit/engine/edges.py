"""The edges of all nets of a recipe at other bits, whatever its paper keeps in float."""

from __future__ import annotations

from dataclasses import replace

from ..quant.edges import with_edges
from ..quant.settings import check_bits
from ..quant.spec import FLOAT_BITS
from .recipe import Recipe


def edged(recipe: Recipe, *, first_last_bits: int | None = None, image_bits: int | None = None) -> Recipe:
    """The recipe with other bits at the edges of each quantized stage; both 8: every product has integer operands.

    Args:
        recipe: any; what it leaves float stays so.
        first_last_bits, image_bits: as ``flatbit.policy`` takes them; None leaves those of the recipe.

    Raises:
        ValueError: bits that there are not; those of what no stage quantizes.
    """
    given = {"first_last_bits": first_last_bits, "image_bits": image_bits}
    bases = [stage.policy.base for stage in recipe.stages if stage.policy is not None]
    for name, bits in given.items():
        if bits is None:
            continue
        check_bits(name, bits)
        widths = [base.activations if name == "image_bits" else min(base.weights, base.activations) for base in bases]
        if min(widths, default=FLOAT_BITS) == FLOAT_BITS:
            what = "activations" if name == "image_bits" else "layers"
            raise ValueError(f"{name}={bits} cannot act: no stage of {recipe.name} quantizes {what}: leave it out")
    stages = (
        stage if stage.policy is None else replace(stage, policy=with_edges(stage.policy, first_last_bits, image_bits))
        for stage in recipe.stages
    )
    return replace(recipe, stages=tuple(stages))
