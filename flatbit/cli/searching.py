"""What `flatbit sensitivity` and `flatbit search` share: which network on which data, and what of it chooses."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import data as datasets
from ..data.batches import Batch
from ..engine.fit import matched, outputs_of
from ..engine.record import read_run
from ..engine.sources import Checkpoint
from ..models import accepts, build
from ..quant.presets import policy as policy_of
from ..search.opened import Searched
from ..search.sensitivity import MEASURES, SAMPLES
from .console import parse_settings

MODEL = "A model of `flatbit list models`, package.module:function, or the folder of a float run."
Widths = Annotated[str, typer.Option(help="Bits that each layer chooses from, with commas.")]
Layers = Annotated[
    Path | None,
    typer.Option(
        help="A TOML file, layers = [[NAME, ...], ...]: in which order they run, and which choose together. Needed "
        "where the model's forward cannot be followed."
    ),
]
Fixed = Annotated[
    list[str],
    typer.Option("--fixed", help="NAME=BITS: a layer with no choice, nor those that choose with it; several."),
]
MeasureName = Annotated[
    str, typer.Option("--measure", help=f"Of sensitivity; less is better: {', '.join(MEASURES.names())}.")
]
POLICY = "saq"
"""Of both verbs where none is given: SAMQ's own, with a clip for each width."""
BATCH = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A network on data, as the options name it.

    Attributes:
        model, model_arguments: for ``flatbit.models.build``.
        checkpoint: its float weights.
        data, data_arguments, data_dir: the data set.
    """

    model: str
    model_arguments: dict[str, Any]
    checkpoint: Checkpoint | None
    data: str
    data_arguments: dict[str, Any]
    data_dir: str | None

    @classmethod
    def of(
        cls, model: str, arguments: dict[str, Any], checkpoint: Checkpoint | None, data: str | None,
        data_arguments: dict[str, Any], data_dir: str | None,
    ) -> Asked:  # fmt: skip
        """Read the options; a run's folder says model, weights and data by itself. Raises ValueError."""
        folder = Path(model)
        if not folder.is_dir():
            if data is None:
                raise ValueError("--data is not given: on which data set? (flatbit list data)")
            return cls(
                model=model, model_arguments=arguments, checkpoint=checkpoint, data=data, data_arguments=data_arguments,
                data_dir=data_dir,
            )  # fmt: skip
        if arguments or checkpoint is not None:
            raise ValueError(
                f"{model} is a run, which says its network and weights: leave --model-arg, --checkpoint out"
            )
        recipe = read_run(folder).record.recipe
        return cls(
            model=recipe.model, model_arguments=dict(recipe.model_arguments), data=data or recipe.data,
            checkpoint=Checkpoint(path=folder / "model.safetensors"), data_dir=data_dir,
            data_arguments=(dict(recipe.data_arguments) if data in (None, recipe.data) else {}) | data_arguments,
        )  # fmt: skip

    def searched(
        self, policy: str | None, widths: str, layers: Path | None, fixed: Sequence[str] = ()
    ) -> Searched:  # fmt: skip
        """Build and load it, with its space and prices; ``fixed`` as NAME=BITS. Raises ValueError."""
        data = datasets.load(self.data, self.data_dir, **self.data_arguments)
        follows = {"num_classes": data.num_classes, "in_channels": data.image_shape[0]}
        accepted = accepts(self.model)
        given = {key: value for key, value in follows.items() if key in accepted} | self.model_arguments
        model = build(self.model, **given)
        data = matched(data, model)
        if self.checkpoint is not None:
            self.checkpoint.load_(model)
        if (outputs := outputs_of(model)) is not None and outputs < data.num_classes:
            raise ValueError(f"{self.model} has {outputs} outputs, {data.name} {data.num_classes} classes")
        bits = _widths(widths)
        made = policy_of(policy or POLICY, weights=bits[-1], activations=bits[-1])
        return Searched.of(model.eval(), made, data, widths=bits, layers=_groups(layers), fixed=_fixed(fixed))


def training_images(searched: Searched, samples: int = SAMPLES, size: int = BATCH) -> list[Batch]:
    """The first training images in the order of seed 0, not augmented: so many, in batches of ``size``, the last less.

    Raises ValueError where there are fewer.
    """
    there = searched.data.train_batches(1, seed=0).num_samples
    if samples > there:
        raise ValueError(f"--samples {samples}: {searched.data.name} has {there:,} training images")
    x, y = next(iter(searched.data.train_batches(samples, seed=0, augment=False)))
    return list(zip(x.split(size), y.split(size), strict=True))


def _widths(text: str) -> tuple[int, ...]:
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        found = ()
    if not found or not all(1 <= bits <= 8 for bits in found):
        raise ValueError(f"--widths {text}: expected bits from 1 to 8, with commas, as 2,3,4,5")
    return found


def _fixed(pairs: Sequence[str]) -> dict[str, int]:
    """Layers with their one width. Raises ValueError."""
    found = parse_settings([*pairs], "--fixed")
    for name, bits in found.items():
        if type(bits) is not int or not 1 <= bits <= 8:
            raise ValueError(f"--fixed {name}={bits}: expected bits from 1 to 8, as {name}=4")
    return found


def _groups(path: Path | None) -> list[list[str]] | None:
    if path is None:
        return None
    try:
        found = tomllib.loads(path.read_text())["layers"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f'--layers {path}: expected layers = [["NAME"], ...] ({error})') from error
    for group in found if isinstance(found, list) else [found]:
        if not isinstance(group, list) or not group or not all(isinstance(name, str) for name in group):
            raise ValueError(f'--layers {path}: got {group!r}: expected layers = [["NAME"], ...]')
    return found
