"""flatbit export: a trained net as a file for other tools, run beside the model before it is written."""

from __future__ import annotations

import json as json_text
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

from ... import plain
from ...atomic import replacing
from ...data.batches import Data
from ...data.memory import MemoryData
from ...data.normalize import Normalize
from ...export.deploy import deploy, form_of
from .. import COMMANDS
from ..console import DataArguments, DataDir, DataName, Json, Out, SkipBad, StageName, Trust, data_arguments, say, show
from ..network import open_network

BATCH = 100
FORMS = (
    "packed: safetensors with codes at their true width, which flatbit.load and 60 lines of numpy read. qdq: ONNX, "
    "QuantizeLinear and DequantizeLinear, for ONNX Runtime. integer: ONNX of integer operators "
    "alone, bit for bit. qonnx: Quant nodes, for FINN and hls4ml."
)


def export_net(
    model: Annotated[str, typer.Argument(help="A run's folder, or a .safetensors file.")],
    form: Annotated[str, typer.Option(help=FORMS)] = "packed",
    data: DataName = None,
    data_dir: DataDir = None,
    data_arg: DataArguments = [],  # noqa: B006
    skip_bad: SkipBad = False,
    stage: StageName = None,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="Of integer: the file takes uint8 pixels, as they are stored.")
    ] = False,
    trust: Trust = False,
    out: Out = None,
    json: Json = False,
) -> None:
    """Write a net in a form, and run the file on the test set (qonnx: 100 images of it) beside the model first.

    Where logits (packed, integer) or classes (others, 0.1 % for ties) are not the model's, nothing is written and the
    exit status is 1. What was found is kept beside the file, as JSON. Without --out it goes to MODEL/export/.

    `flatbit export runs/quickstart/seed0 --form qdq`
    """
    suffix = form_of(form).suffix
    opened = open_network(model, {}, stage=stage, trust=trust)
    loaded = opened.load_data(data, data_dir, arguments=data_arguments(data_arg, skip_bad), trust=trust)
    folder = Path(model) if Path(model).is_dir() else Path(model).parent
    path = out or folder / "export" / f"{form}{suffix}"
    stored = _stored(loaded) if pixels else None
    prepare = None if stored is None else Normalize(stored.mean, stored.std)
    batches = partial(loaded.test_batches, BATCH) if stored is None else partial(_pixels, stored)
    deployed = deploy(opened.network, path, batches, form=form, input_shape=loaded.image_shape, prepare=prepare)
    with replacing(path.with_name(f"{path.name}.json")) as record:
        record.write_text(json_text.dumps(plain.to_plain(deployed), indent=1))
    say(f"written: {path}, {path.name}.json")
    show(str(deployed), plain.to_plain(deployed), json)


def _stored(data: Data) -> MemoryData:
    """A data set that holds its images as pixels. Raises ValueError for another one."""
    if not isinstance(data, MemoryData) or len(data.image_shape) != 3 or data.test.images.is_floating_point():
        raise ValueError(f"--pixels: data set {data.name!r} is not held as pixels: leave it out")
    return data


def _pixels(data: MemoryData) -> Iterator[tuple[Tensor, Tensor]]:
    """The test set as it is stored."""
    return zip(data.test.images.split(BATCH), data.test.labels.split(BATCH), strict=True)


COMMANDS.add("export", export_net)
