"""flatbit export: a trained net as a file for other tools, run beside the model before it is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

from ... import plain
from ...data.batches import Data
from ...data.memory import MemoryData
from ...data.normalize import Normalize
from ...engine.environment import Environment
from ...engine.exported import Exported
from ...engine.record import RECORD, read_run, write_record
from ...export.deployment import Deployed, deploy, form_of
from .. import COMMANDS
from ..console import DataArguments, DataDir, DataName, Json, Out, SkipBad, StageName, Trust, data_arguments, say, show
from ..network import open_network

BATCH = 100
FORMS = (
    "packed: safetensors with codes at their true width, which flatbit.load and 60 lines of numpy read. qdq: ONNX, "
    "QuantizeLinear and DequantizeLinear, for ONNX Runtime. integer: ONNX of integer operators "
    "alone, bit for bit. qonnx: Quant nodes, for FINN and hls4ml."
)
PERCENT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)%")


def export_net(
    model: Annotated[str, typer.Argument(help="A run's folder, or a .safetensors file.")],
    form: Annotated[str, typer.Option(help=FORMS)] = "packed",
    container: Annotated[
        str | None,
        typer.Option(help="Of qdq: bits, INT2, INT4 and INT8 as the bits need, or int8 for all. Default: bits."),
    ] = None,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="Of integer: the file takes uint8 pixels, as they are stored.")
    ] = False,
    allow_changed: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT%",
            help="Of qdq, integer and qonnx: of so many images the class may be another than the model's, as 0.5%. "
            "Default: 0.1%, for ties; one image may unless it is 0%.",
            show_default=False,
        ),
    ] = None,
    data: DataName = None,
    data_dir: DataDir = None,
    data_arg: DataArguments = [],  # noqa: B006
    skip_bad: SkipBad = False,
    stage: StageName = None,
    trust: Trust = False,
    out: Out = None,
    json: Json = False,
) -> None:
    """Write a net in a form, and run the file on the test set (qonnx: 100 images of it) beside the model first.

    Where logits (packed) or classes (others, --allow-changed) are not the model's, nothing is written and the exit
    status is 1. The run's record (run.json) keeps what was found. Without --out the file goes to MODEL/export/.

    `flatbit export runs/quickstart/seed0 --form qdq`
    """
    suffix = form_of(form).suffix
    opened = open_network(model, {}, stage=stage, trust=trust)
    loaded = opened.load_data(data, data_dir, arguments=data_arguments(data_arg, skip_bad), trust=trust)
    is_run = Path(model).is_dir()
    folder = Path(model) if is_run else Path(model).parent
    path = out or folder / "export" / f"{stage + '-' if stage else ''}{form}{suffix}"
    stored = _stored(loaded) if pixels else None
    deployed = deploy(
        opened.network,
        path,
        partial(loaded.test_batches, BATCH) if stored is None else partial(_pixels, stored),
        form=form,
        input_shape=loaded.image_shape,
        prepare=None if stored is None else Normalize(stored.mean, stored.std),
        container=container,
        most_changed=None if allow_changed is None else _share(allow_changed),
    )
    if is_run:
        record = read_run(folder, trust=trust).record
        write_record(folder, record.with_export(_exported(deployed, folder, stage or "", data or record.recipe.data)))
    say(f"written: {path}" + (f", and what was found to {folder / RECORD}" if is_run else ""))
    show(str(deployed), plain.to_plain(deployed), json)


def _share(text: str) -> float:
    """``0.5%`` as 0.005. Raises ValueError."""
    if (found := PERCENT.fullmatch(text)) is None or float(found[1]) > 100:
        raise ValueError(f"--allow-changed {text}: expected percent of the images, 0% to 100%, as 0.5%")
    return float(found[1]) / 100


def _exported(deployed: Deployed, folder: Path, stage: str, data: str) -> Exported:
    """What the record of a run keeps of a file."""
    path, found, integers = Path(deployed.path).resolve(), deployed.checked, deployed.integers
    inside = path.is_relative_to(folder.resolve())
    return Exported(
        file=(path.relative_to(folder.resolve()) if inside else path).as_posix(),
        form=deployed.form,
        stage=stage,
        container=deployed.container,
        pixels=deployed.pixels,
        sha256=deployed.sha256,
        file_bytes=deployed.file_bytes,
        float_bytes=deployed.float_bytes,
        data=data,
        num_images=found.num_images,
        top1=found.top1,
        top1_model=found.top1_model,
        num_changed=found.num_changed,
        changed=found.changed,
        most_changed=found.most_changed,
        largest=found.largest,
        largest_at=found.largest_at,
        tied=None if integers is None else integers.tied,
        off=None if integers is None else integers.largest,
        bound=None if integers is None else integers.bound,
        environment=Environment.here(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _stored(data: Data) -> MemoryData:
    """A data set that holds its images as pixels. Raises ValueError for another one."""
    if not isinstance(data, MemoryData) or len(data.image_shape) != 3 or data.test.images.is_floating_point():
        raise ValueError(f"--pixels: data set {data.name!r} is not held as pixels: leave it out")
    return data


def _pixels(data: MemoryData) -> Iterator[tuple[Tensor, Tensor]]:
    """The test set as it is stored."""
    return zip(data.test.images.split(BATCH), data.test.labels.split(BATCH), strict=True)


COMMANDS.add("export", export_net)
