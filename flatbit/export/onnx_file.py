"""A quantized network as an ONNX file, in one of several forms (``forms/``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from torch import Tensor, nn

from ..atomic import replacing
from ..text import as_text
from ..version import VERSION
from .forms import FORMS, Request
from .lowering import lower
from .onnx_graph import OnnxGraph


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxFile:
    """An ONNX file that was written. Prints as a table.

    Attributes:
        path: where it lies.
        form: "qdq", "integer" or "qonnx".
        opset: the least that its operations need.
        size_bytes: on disk.
        operators: how many nodes of each kind, the most frequent first.
        notes: the form's conventions by subject, which stand in the file too: mid-rise codes, ties, batch.
    """

    path: Path
    form: str
    opset: int
    size_bytes: int
    operators: dict[str, int]
    notes: dict[str, str]

    def __str__(self) -> str:
        table = Table("form", "opset", "bytes", "operators", title=str(self.path))
        operators = ", ".join(f"{count} {kind}" for kind, count in self.operators.items())
        table.add_row(self.form, str(self.opset), f"{self.size_bytes:,}", operators)
        return as_text(table, *(f"{subject}: {note}" for subject, note in self.notes.items()))


def onnx(
    model: nn.Module,
    path: str | Path,
    example: Tensor | tuple[int, ...],
    *,
    form: str = "qdq",
    container: str | None = None,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> OnnxFile:
    """Write a quantized model in evaluation as an ONNX file; the checker passes it first, and nothing runs it.

    ``deploy`` runs the file beside the model before it takes its place.

    Args:
        model: quantized and calibrated, on any device; left as it is.
        path: of the file; one that is there is replaced at once, or left as it is where this raises.
        example: the shape of one sample, without the batch, or a batch of inputs, of which the shape counts. Of
            "qonnx" the file has that batch (1 where a shape is given); of other forms any.
        form: "qdq" (QuantizeLinear and DequantizeLinear around float32 operations), "integer" (integers only, bit for
            bit ``integer_network``; it takes models whose every product has integer operands) or "qonnx" (Quant and
            BipolarQuant, for FINN and hls4ml).
        container: of "qdq": "bits" (the default: INT2, INT4 and INT8 as widths need) or "int8" for all.
        prepare: of "integer": from uint8 pixels (N, C, H, W) to what the model takes, pixel by pixel; the file then
            takes uint8.

    Raises:
        ValueError: an unknown form or container, a setting that cannot act on the form, a layer that has no such
            form, a model that cannot be read; the layer is named.
        ImportError: the package onnx is not here.
    """
    add = FORMS.get(form)
    shape, batch = (tuple(example.shape[1:]), len(example)) if isinstance(example, Tensor) else (tuple(example), 1)
    graph = OnnxGraph()
    program = lower(model, shape)
    add(Request(program=program, batch=batch, container=container, prepare=prepare), graph)
    metadata = {"flatbit": VERSION, "form": form}
    made = graph.model(program.model, metadata, VERSION).SerializeToString()
    with replacing(Path(path)) as partial:
        partial.write_bytes(made)
    return OnnxFile(
        path=Path(path),
        form=form,
        opset=graph.opset,
        size_bytes=len(made),
        operators=graph.operators,
        notes=graph.notes,
    )
