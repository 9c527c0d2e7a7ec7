"""Predicting: image files to classes, by a quantized net and the float one that it came from."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..data.batches import Data
from ..data.samples import reason
from ..device import device_of
from ..engine.record import RECORD, read_run
from ..files import load
from ..modes import modes_kept
from ..progress import track
from ..quant.convert import restore_
from ..quant.table import has_quantized_layers

BATCH = 64
FLOAT = "float"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The likeliest classes of one image, the first first.

    Attributes:
        classes: their numbers.
        probabilities: of each, 0 to 1 (softmax).
    """

    classes: tuple[int, ...]
    probabilities: tuple[float, ...]

    def as_dict(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Plain values, for JSON."""
        pairs = zip(self.classes, self.probabilities, strict=True)
        return [{"class": number, "name": name_of(number, names), "probability": p} for number, p in pairs]


def image_files(places: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The files that are named, and those of folders, at any depth, that are images by their name; and the others.

    Raises ValueError for what is not there, and where no image is left.
    """
    Image.init()
    files: list[Path] = []
    others: list[Path] = []
    for place in places:
        if not place.exists():
            raise ValueError(f"no such file or folder: {place}")
        inside = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
        for path in inside:
            known = place.is_file() or path.suffix.lower() in Image.registered_extensions()
            if known or not path.name.startswith("."):
                (files if known else others).append(path)
    if not files:
        raise ValueError(f"no images in {', '.join(map(str, places))}, by their names: name one, or a folder of them")
    return files, others


def answers(
    nets: Sequence[nn.Module], data: Data, files: Sequence[Path], top: int
) -> tuple[dict[Path, list[Answer]], dict[Path, str]]:
    """What each net answers to each file; and the files that cannot be read, with the reason."""
    found: dict[Path, list[Answer]] = {}
    unreadable: dict[Path, str] = {}
    for chunk in _chunks(files, data, unreadable):
        x = torch.stack([image for _, image in chunk])
        each = [_answered(net, x, top) for net in nets]
        found |= {path: list(row) for (path, _), row in zip(chunk, zip(*each, strict=True), strict=True)}
    return found, unreadable


def float_net(model: str, stage: str | None, network: nn.Module, *, trust: bool) -> tuple[nn.Module | None, str]:
    """The float net of a quantized one, and what it is: the run's stage ``float``, else its latent weights."""
    if not has_quantized_layers(network):
        return None, ""
    folder = Path(model)
    if (folder / RECORD).is_file() and stage != FLOAT:
        run = read_run(folder, trust=trust)
        if FLOAT in run.record.stages and run.stage_file(FLOAT).is_file():
            return load(run.stage_file(FLOAT), trust=trust), "the run's stage float"
    latent = copy.deepcopy(network)
    try:
        restore_(latent)
    except ValueError as error:
        return None, f"no float net beside it: {error}"
    return latent, "its latent weights, in float: there is no stage float"


def read_names(path: Path | None, data: Data) -> Sequence[str]:
    """The names of classes: a line each of a file, else the data set's. Raises ValueError at another number."""
    if path is None:
        return data.class_names
    if not path.is_file():
        raise ValueError(f"--labels {path}: no such file")
    names = path.read_text(encoding="utf-8").strip().splitlines()
    if len(names) != data.num_classes:
        raise ValueError(f"--labels {path}: {len(names)} lines, expected one for each of {data.num_classes} classes")
    return [name.strip() for name in names]


def name_of(number: int, names: Sequence[str]) -> str:
    """The name of a class, or its number where it has none."""
    return names[number] if number < len(names) else f"class {number}"


def _chunks(files: Sequence[Path], data: Data, unreadable: dict[Path, str]) -> Iterator[list[tuple[Path, Tensor]]]:
    """Files and their images, some at a time; notes those that cannot be read."""
    chunk: list[tuple[Path, Tensor]] = []
    for path in track(files, "predicting"):
        try:
            image = data.from_file(path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises
            unreadable[path] = reason(error)
            continue
        if image is None:
            raise ValueError(f"the samples of {data.name} are not made from image files: {path} cannot be made one")
        chunk.append((path, image))
        if len(chunk) == BATCH:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


@torch.no_grad()
def _answered(net: nn.Module, x: Tensor, top: int) -> list[Answer]:
    """Of images x (N, C, H, W)."""
    with modes_kept(net):
        net.eval()
        shares, classes = net(x.to(device_of(net))).softmax(1).cpu().sort(dim=1, descending=True)
    rows = zip(classes[:, :top].tolist(), shares[:, :top].tolist(), strict=True)
    return [Answer(classes=tuple(numbers), probabilities=tuple(p)) for numbers, p in rows]
