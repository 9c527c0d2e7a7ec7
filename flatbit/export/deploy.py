"""A model out of the package in one call: written, run beside the model, and only then put in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor, nn

from ..atomic import replacing
from ..modes import modes_kept
from ..registry import nearest
from ..text import as_text
from .executor import integer_network
from .gate import CLOSE, EXACT, Agreement, Checked, check
from .onnx_file import onnx
from .packed_file import packed
from .reading import Runs, run_onnx, run_packed, run_qonnx
from .verification import Verification, verify


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployable:
    """A form of a file.

    Attributes:
        suffix: of its name.
        write: from model, path, the shape of one sample, and settings of the form.
        run: the written file, of a model.
        agreement: of the file's logits with the model's, or with the integer network's.
        most_images: that it can be run on in reasonable time; None for all.
    """

    suffix: str
    write: Callable[..., Any]
    run: Callable[[Path, nn.Module], Runs]
    agreement: Agreement = CLOSE
    most_images: int | None = None


def _packed(model: nn.Module, path: Path, _: tuple[int, ...]) -> Any:
    return packed(model, path)


DEPLOYABLE = {
    "packed": Deployable(suffix=".safetensors", write=_packed, run=run_packed, agreement=EXACT),
    "qdq": Deployable(suffix=".onnx", write=partial(onnx, form="qdq"), run=run_onnx),
    "integer": Deployable(suffix=".onnx", write=partial(onnx, form="integer"), run=run_onnx, agreement=EXACT),
    "qonnx": Deployable(suffix=".onnx", write=partial(onnx, form="qonnx"), run=run_qonnx, most_images=100),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployed:
    """A file that was written, and what it computes. Prints as a table.

    Attributes:
        form: packed, qdq, integer or qonnx.
        path: of the file.
        file_bytes: on disk.
        float_bytes: of the float model's parameters.
        checked: the file beside the model, or beside the integer network, which ``integers`` holds to the model.
        integers: the integer network beside the model, code by code; of "integer" alone.
        notes: what the writer says of the file.
    """

    form: str
    path: str
    file_bytes: int
    float_bytes: int
    checked: Checked
    integers: Verification | None
    notes: str

    def __str__(self) -> str:
        columns = ("form", "bytes", "of float", "images", "top-1 %", "model's", "class changed", "largest difference")
        table = Table(*columns, title=self.path)
        found = self.checked
        table.add_row(
            self.form, f"{self.file_bytes:,}", f"1 / {self.float_bytes / self.file_bytes:.1f}", f"{found.num_images:,}",
            f"{found.top1:.2f}", f"{found.top1_model:.2f}", str(found.num_changed),
            f"{found.largest:.2g} at {found.largest_at}",
        )  # fmt: skip
        return as_text(table, self.notes)


def form_of(name: str) -> Deployable:
    """The form of that name. Raises ValueError."""
    if name not in DEPLOYABLE:
        raise ValueError(f"unknown form {name!r}: {nearest(name, DEPLOYABLE)}")
    return DEPLOYABLE[name]


def deploy(
    model: nn.Module,
    path: str | Path,
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    *,
    form: str,
    input_shape: tuple[int, ...],
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Deployed:
    """Write a model in a form, and run the file on images beside the model before it takes its place.

    Args:
        model: quantized and calibrated, on the CPU; left as it is.
        path: of the file; one that is there stays where this raises.
        batches: gives ``(x, y)`` from the start at each call; with ``prepare`` x are uint8 pixels.
        form: packed, qdq, integer or qonnx.
        input_shape: of one sample, without the batch.
        prepare: from pixels to what the model takes: the file then takes pixels ("integer" alone).

    Raises:
        ExportError: the file computes something else; nothing is written.
        ValueError: an unknown form, a setting or a layer that cannot be in it.
        ImportError: what writes or runs the form is not installed.
    """
    made = form_of(form)
    if prepare is not None and form != "integer":
        raise ValueError(f"pixels cannot go into the form {form!r}: only 'integer' holds the table for them")
    settings = {} if prepare is None else {"prepare": prepare}
    integers, reference = None, model
    with modes_kept(model), replacing(Path(path)) as partial_path:
        model.eval()
        if form == "integer":
            network = integer_network(model, input_shape, prepare=prepare)
            integers = verify(model, network, ((x, y) for x, _, y in _three(batches(), prepare)))
            reference = lambda x: network(x).float()  # noqa: E731, as the file's logits are
        written = made.write(model, partial_path, input_shape, **settings)
        size = partial_path.stat().st_size
        images = _three(batches(), prepare, made.most_images)
        checked = check(reference, made.run(partial_path, model), images, made.agreement)
    return Deployed(
        form=form,
        path=str(path),
        file_bytes=size,
        float_bytes=sum(4 * p.numel() for name, p in model.named_parameters() if "_quantizer" not in name),
        checked=checked,
        integers=integers,
        notes=str(replace(written, path=Path(path)) if integers is None else integers),
    )


def _three(
    batches: Iterable[tuple[Tensor, Tensor]], prepare: Callable[[Tensor], Tensor] | None, most: int | None = None
) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
    """What the model takes, what the file takes, labels; as many images as asked."""
    seen = 0
    for given, y in batches:
        room = len(given) if most is None else min(len(given), most - seen)
        if room < 1:
            return
        given, y = given[:room], y[:room]
        seen += room
        yield given if prepare is None else prepare(given), given, y
