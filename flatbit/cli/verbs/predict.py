"""flatbit predict: what a net sees in image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from .. import COMMANDS
from ..console import (
    DataArguments,
    DataDir,
    DataName,
    Device,
    Json,
    StageName,
    Trust,
    data_arguments,
    say,
    show,
)
from ..network import open_network
from ..predicting import Answer, answers, float_net, image_files, name_of, read_names


def name_images(
    model: Annotated[str, typer.Argument(help="A run's folder, or a .safetensors file.")],
    images: Annotated[
        list[Path], typer.Argument(help="Image files, of any kind that Pillow reads, and folders of them.")
    ],
    labels: Annotated[
        Path | None, typer.Option(help="A file with the name of each class in a line. Default: the data set's names.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="So many of the likeliest classes.")] = 1,
    data: DataName = None,
    data_dir: DataDir = None,
    data_arg: DataArguments = [],  # noqa: B006
    stage: StageName = None,
    trust: Trust = False,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Name what image files show: the quantized net's answer, and the float net's beside it.

    Files are prepared as the run's test images are. Those that cannot be read are listed, and the exit status is 1.

    `flatbit predict runs/quickstart/seed0 digit.png photos/`
    """
    files, others = image_files(images)
    opened = open_network(model, {}, stage=stage, trust=trust)
    loaded = opened.load_data(data, data_dir, arguments=data_arguments(data_arg, False), trust=trust)
    if loaded.task != "classification":
        raise ValueError(f"{loaded.name} labels pixels: predict names whole images")
    names = read_names(labels, loaded)
    beside, what = float_net(model, stage, opened.network, trust=trust)
    nets = [net.to(device) for net in (opened.network, beside) if net is not None]
    found, unreadable = answers(nets, loaded, files, top)
    if others:
        say(f"left out: {len(others)} files that are no images by their names, such as {others[0]}")
    if found:
        values = {
            "images": [
                {"file": str(path), "top": mine.as_dict(names)} | ({"float": rest[0].as_dict(names)} if rest else {})
                for path, (mine, *rest) in found.items()
            ],
            "float": what or None,
            "unreadable": {str(path): why for path, why in unreadable.items()},
        }
        show(_table(found, names, f"{model}, images prepared as those of {loaded.name}"), values, json)
    if what:
        same = sum(len({each.classes[0] for each in row}) == 1 for row in found.values())
        said = f": {same} of {len(found)} answers are the same" if beside is not None else ""
        say(f"the float net is {what}{said}" if beside is not None else what)
    if unreadable:
        say(f"{len(unreadable)} of {len(files)} files could not be read:")
        for path, why in unreadable.items():
            say(f"  {path}: {why}")
        raise typer.Exit(1)


def _table(found: dict[Path, list[Answer]], names: Sequence[str], title: str) -> Table:
    both = any(len(row) > 1 for row in found.values())
    table = Table("file", "answer", *(("float net",) if both else ()), title=escape(title))
    for path, row in found.items():
        table.add_row(escape(str(path)), *(escape(_in_words(each, names)) for each in row))
    return table


def _in_words(answer: Answer, names: Sequence[str]) -> str:
    pairs = zip(answer.classes, answer.probabilities, strict=True)
    return ", ".join(f"{name_of(number, names)} {100 * p:.1f} %" for number, p in pairs)


COMMANDS.add("predict", name_images)
