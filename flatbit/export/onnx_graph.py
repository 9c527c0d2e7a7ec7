"""An ONNX graph as it is built: nodes and constants by name, the opset that they need, and the model at the end.

Every node says since which opset its operation has this form, so that a file asks for no more than it needs.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

FIRST_OPSET = 13
"""The first with scales per channel and axes as inputs."""
INSTALL = "pip install 'onnx>=1.23' 'onnxruntime>=1.32' (the extra flatbit[onnx])"
LAST = np.iinfo(np.int64).max


def onnx_package() -> ModuleType:
    """The package ``onnx``. Raises ImportError with the line that installs it."""
    try:
        import onnx
    except ImportError as error:
        raise ImportError(f"ONNX files are written with the package onnx, which is not here: {INSTALL}") from error
    return onnx


class OnnxGraph:
    """Nodes and constants so far.

    Attributes:
        opset: of ONNX's own operations, the least that the nodes need.
        domains: opsets of other operations, by domain.
        outputs: ``(name, element type, shape)`` of what the graph gives; ``input`` likewise of what it takes.
        notes: what a reader of the file should know, by subject.
    """

    def __init__(self) -> None:
        self._onnx = onnx_package()
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._taken: Counter[str] = Counter()
        self.opset = FIRST_OPSET
        self.domains: dict[str, int] = {}
        self.outputs: list[tuple[str, Any, Sequence[int | str]]] = []
        self.input: tuple[str, Any, Sequence[int | str]] | None = None
        self.notes: dict[str, str] = {}
        self.types: dict[str, Any] = dict(self._onnx.TensorProto.DataType.items())

    def constant(self, name: str, values: Any, dtype: Any = None) -> str:
        """Add a constant; its name in the graph. 2 and 4 bits are numpy types of ``ml_dtypes``, packed in the file."""
        name = self._fresh(name)
        array = np.asarray(values) if dtype is None else np.asarray(values).astype(dtype)
        self._constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def node(
        self, kind: str, inputs: Sequence[str], name: str, *, since: int = 0, domain: str = "", **attributes: Any
    ) -> str:
        """Add a node with one output; the output's name in the graph."""
        name = self._fresh(name)
        self.opset = max(self.opset, since)
        made = self._onnx.helper.make_node(kind, list(inputs), [name], name=name, domain=domain or None, **attributes)
        self._nodes.append(made)
        return name

    def on_constant(self, kind: str, x: str, values: Any, dtype: Any, name: str) -> str:
        """Add a node of x and a constant."""
        return self.node(kind, [x, self.constant(f"{name}.constant", values, dtype)], name)

    def slice(self, x: str, name: str, starts: Sequence[int], ends: Sequence[int], steps: Sequence[int]) -> str:
        """Add a slice of the axes after the batch, one number for each."""
        axes = range(1, 1 + len(starts))
        parts = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
        indices = [self.constant(f"{name}.{part}", list(numbers), np.int64) for part, numbers in parts.items()]
        return self.node("Slice", [x, *indices], name)

    def tensor(self, values: Any, dtype: Any) -> Any:
        """A tensor for an attribute."""
        return self._onnx.numpy_helper.from_array(np.asarray(values, dtype))

    def cut(self, x: str, name: str, index: tuple[slice, ...]) -> str:
        """Add a slice, by an index whose first part is the whole batch."""
        parts = index[1:]
        starts = [part.start or 0 for part in parts]
        ends = [LAST if part.stop is None else part.stop for part in parts]
        return self.slice(x, name, starts, ends, [part.step or 1 for part in parts])

    def pad(self, x: str, name: str, widths: Sequence[int], rank: int, fill: Any) -> str:
        """Add padding by ``fill``, an array of no axes: ``widths`` as torch has them, last axis first."""
        before, after = [0] * rank, [0] * rank
        for axis, (low, high) in enumerate(zip(widths[::2], widths[1::2], strict=True)):
            before[rank - 1 - axis], after[rank - 1 - axis] = low, high
        sizes = self.constant(f"{name}.widths", [*before, *after], np.int64)
        return self.node("Pad", [x, sizes, self.constant(f"{name}.fill", fill)], name)

    def renamed(self, old: str, new: str) -> str:
        """Call a result by another name, wherever it stands."""
        for node in self._nodes:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == old:
                        names[i] = new
        return new

    @property
    def operators(self) -> dict[str, int]:
        """How many nodes of each kind there are, the most frequent first."""
        return dict(Counter(node.op_type for node in self._nodes).most_common())

    def model(self, name: str, metadata: dict[str, str], producer: str) -> Any:
        """The finished ``onnx.ModelProto``, which the checker has passed. Raises what the checker raises."""
        onnx, helper = self._onnx, self._onnx.helper
        assert self.input is not None
        outputs = [helper.make_tensor_value_info(*output) for output in self.outputs]
        given = [helper.make_tensor_value_info(*self.input)]
        graph = helper.make_graph(self._nodes, name, given, outputs, self._constants)
        opsets = [helper.make_opsetid("", self.opset), *itertools.starmap(helper.make_opsetid, self.domains.items())]
        made = helper.make_model(
            graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets[:1]),
            producer_name="flatbit", producer_version=producer,
        )  # fmt: skip
        helper.set_model_props(made, {**metadata, "opset": str(self.opset), **self.notes})
        onnx.checker.check_model(made, full_check=not self.domains)
        return made

    def _fresh(self, name: str) -> str:
        self._taken[name] += 1
        return name if self._taken[name] == 1 else f"{name}.{self._taken[name]}"
