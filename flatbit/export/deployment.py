"""A model out of the package in one call: written, run beside the model, and only then put in its place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from ..atomic import replacing
from ..modes import modes_kept
from ..quant.layers import QUANTIZER
from ..quant.reparametrized import folded
from ..quant.table import has_quantized_layers
from ..registry import nearest
from ..tensor_file import distinct
from ..text import as_text, first_of
from ..wrappers import state_of
from .executor import integer_network
from .gate import CLASSES, CLOSE, EXACT, Agreement, Checked, check
from .onnx_file import onnx
from .packed_file import packed
from .reading import Runs, run_onnx, run_packed, run_qonnx
from .verification import MOST_CHANGED, Verification, verify


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployable:
    """A form of a file.

    Attributes:
        suffix: of its name.
        write: from model, path, the shape of one sample, and settings of the form.
        run: the written file, of a model.
        settings: that it takes, of ``deploy``'s.
        agreement: of the file's logits with the model's.
        most_images: that it can be run on in reasonable time; None for all.
    """

    suffix: str
    write: Callable[..., Any]
    run: Callable[[Path, nn.Module], Runs]
    settings: tuple[str, ...] = ("most_changed",)
    agreement: Agreement = CLOSE
    most_images: int | None = None


def _packed(model: nn.Module, path: Path, _: tuple[int, ...]) -> Any:
    return packed(model, path)


WORDS = {
    "prepare": "prepare= (--pixels)",
    "container": "container= (--container)",
    "most_changed": "most_changed= (--allow-changed)",
}
"""Each setting as it is called in Python, and on the command line."""
DEPLOYABLE = {
    "packed": Deployable(suffix=".safetensors", write=_packed, run=run_packed, settings=(), agreement=EXACT),
    "qdq": Deployable(
        suffix=".onnx", write=partial(onnx, form="qdq"), run=run_onnx, settings=("container", "most_changed")
    ),
    "integer": Deployable(
        suffix=".onnx",
        write=partial(onnx, form="integer"),
        run=run_onnx,
        settings=("prepare", "most_changed"),
        agreement=CLASSES,  # of the model's; its logits are the integer network's, which ``verify`` holds to the model
    ),
    "qonnx": Deployable(suffix=".onnx", write=partial(onnx, form="qonnx"), run=run_qonnx, most_images=100),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployed:
    """A file that was written, and what it computes. Prints as a table.

    Attributes:
        form: packed, qdq, integer or qonnx.
        path: of the file.
        sha256: of it.
        file_bytes: on disk.
        float_bytes: what a float file of the model holds: all tensors of its state dict, those of quantizers left out.
        container: of "qdq", where it was given.
        pixels: whether the file takes uint8 pixels.
        checked: the file beside the model.
        integers: the integer network beside the model, code by code; of "integer" alone.
        notes: what the writer says of the file.
    """

    form: str
    path: str
    sha256: str
    file_bytes: int
    float_bytes: int
    container: str | None = None
    pixels: bool = False
    checked: Checked
    integers: Verification | None = None
    notes: str

    def __str__(self) -> str:
        table = Table(
            "form", "file, bytes", "float file", "share", "images", "top-1 %", "model's", "class changed",
            "largest difference", title=self.path,
        )  # fmt: skip
        found = self.checked
        share = 100 * self.file_bytes / self.float_bytes
        table.add_row(
            self.form, f"{self.file_bytes:,}", f"{self.float_bytes:,}", f"{share:.1f} %", f"{found.num_images:,}",
            f"{found.top1:.2f}", f"{found.top1_model:.2f}", str(found.num_changed),
            in_words(found),
        )  # fmt: skip
        changed = [f"class changed: image {first_of(found.changed, found.num_changed)}"] if found.changed else []
        return as_text(table, *changed, self.notes)


def in_words(found: Checked) -> str:
    """The largest difference of a logit, and where it is: ``0.031, image 12, logit 3``; 0 where there is none."""
    if not found.largest:
        return "0"
    image, *place = found.largest_at
    return f"{found.largest:.2g}, image {image}, logit {', '.join(map(str, place))}"


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
    container: str | None = None,
    most_changed: float | None = None,
) -> Deployed:
    """Write a model in a form, and run the file on images beside the model before it takes its place.

    Args:
        model: quantized and calibrated, on the CPU; left as it is.
        path: of the file; one that is there stays where this raises.
        batches: gives ``(x, y)`` from the start at each call; with ``prepare`` x are uint8 pixels (N, C, H, W).
        form: packed, qdq, integer or qonnx.
        input_shape: of one sample, without the batch.
        prepare: of "integer": from pixels to what the model takes; the file then takes pixels.
        container: of "qdq": "bits" (the default: INT2, INT4 and INT8 as widths need) or "int8" for all.
        most_changed: of all but "packed", whose logits are the model's: the share of the images, 0 to 1, whose class
            may be another one than the model's. None is 0.001, which ties explain. One image may, unless it is 0.

    Raises:
        ExportError: the file computes something else; nothing is written. It says by how much the logits moved.
        ValueError: an unknown form, a setting or a layer that cannot be in it, no images.
        ImportError: what writes or runs the form is not installed.
    """
    made = form_of(form)
    if not callable(batches):
        raise ValueError(f"batches={type(batches).__name__}: expected a function that gives them from the start")
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder: expected the file to write, such as {Path(path) / 'net'}{made.suffix}")
    given = {"prepare": prepare, "container": container, "most_changed": most_changed}
    settings = _acting(form, {name: value for name, value in given.items() if value is not None})
    most = settings.pop("most_changed", MOST_CHANGED)
    integers = None
    with modes_kept(model), replacing(Path(path)) as partial_path:
        model.eval()
        written = made.write(model, partial_path, input_shape, **settings)
        run = made.run(partial_path, model)
        if form == "integer":
            network = integer_network(model, input_shape, prepare=prepare)
            images = ((x, y) for x, _, y in _three(batches(), prepare))
            integers = verify(model, network, images, most_changed=1.0)  # classes are counted beside the file, below
            check(lambda x: network(x).float(), run, _three(batches(), prepare), EXACT)  # as the file's logits are
        checked = check(model, run, _three(batches(), prepare, made.most_images), made.agreement, most)
        content = partial_path.read_bytes()
    return Deployed(
        form=form,
        path=str(path),
        sha256=hashlib.sha256(content).hexdigest(),
        file_bytes=len(content),
        float_bytes=_float_bytes(model),
        container=container,
        pixels=prepare is not None,
        checked=checked,
        integers=integers,
        notes=_notes(model, replace(written, path=Path(path)), integers),
    )


def _notes(model: nn.Module, written: Any, integers: Verification | None) -> str:
    """What is said below the table of a file."""
    if integers is not None:
        return f"The integer network, which the file equals bit for bit, beside the model:\n{integers}"
    return str(written) + ("" if has_quantized_layers(model) else "\nno layer is quantized: the file holds a float net")


def _acting(form: str, given: dict[str, Any]) -> dict[str, Any]:
    """The settings that are given. Raises ValueError for one that cannot act on the form, or is out of its range."""
    for name in given:
        takers = [other for other, made in DEPLOYABLE.items() if name in made.settings]
        if form not in takers:
            raise ValueError(
                f"{WORDS[name]} cannot act on the form {form!r}: it is of {', '.join(takers)}: leave it out"
            )
    if not 0 <= given.get("most_changed", 0) <= 1:
        raise ValueError(f"most_changed={given['most_changed']}: expected a share of the images, 0 to 1")
    return given


@torch.no_grad()
def _float_bytes(model: nn.Module) -> int:
    """Bytes of the tensors in a float model's file: tied ones once, batch norms' counters too, no quantizers'."""
    with folded(model.modules()):
        floats = {name: tensor for name, tensor in state_of(model).items() if f"{QUANTIZER}." not in name}
        return sum(tensor.numel() * tensor.element_size() for tensor in distinct(floats)[0].values())


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
