"""From a model to its ``Program``: the evaluation graph, read by torch.fx, operation by operation.

What is in none of the tables (``operators.py``; weighted layers are in ``quant/table.py``) is refused with the
layer's name, and nothing is guessed.
"""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..graph import read_graph
from ..modes import modes_kept
from ..quant.fixed import between_levels
from ..quant.grid import Grid
from ..quant.quantizer import Quantizer
from ..quant.reparametrized import folded, kind_of
from ..quant.table import is_weighted, plain_kind, quantizer_of
from .folding import codes_first, folded_norms
from .integer import Encode
from .memory import Memory
from .operators import BATCH, COPIES, FUNCTIONS, MODULES, Place
from .program import INPUT, MOVING, Affine, Flatten, Operation, Program, Quantize, Slice
from .shapes import shapes
from .weights import PRODUCTS, bias_of, product_of

FAR = 1e30
VIEWS = (Slice, Flatten)
"""Operations whose result may lie in the memory of what they read."""
RESERVED = (INPUT, "logits", "integers")
"""Names of inputs and outputs of files."""


def lower(model: nn.Module, input_shape: tuple[int, ...]) -> Program:
    """The program of a quantized model in evaluation.

    Args:
        model: calibrated; left as it is.
        input_shape: of one sample, without the batch.

    Raises:
        ValueError: a graph that depends on data, an operation that has no exported form, an input of another shape;
            the layer is named.
    """
    with folded(model.modules()):
        graph = read_graph(model)
    if graph is None:
        raise ValueError(
            f"{type(model).__name__}: its forward depends on data, or cannot be followed by torch.fx: "
            "write the evaluation path without branches on values"
        )
    lowering = Lowering(model, input_shape)
    with folded(model.modules()), modes_kept(model), torch.no_grad():
        model.eval()
        for node in graph.nodes:
            lowering.take(node)
    operations = codes_first(folded_norms(tuple(lowering.operations)))
    program = Program(operations=operations, input_shape=input_shape, model=type(model).__name__)
    shapes(program)
    return program


class Lowering:
    """The operations so far.

    Attributes:
        operations: in order.
        coded: names of the results that are codes.
    """

    def __init__(self, model: nn.Module, input_shape: tuple[int, ...]) -> None:
        self.operations: list[Operation] = []
        self.coded: set[str] = set()
        self._modules = dict(model.named_modules())
        self._memory = Memory()
        self._input_shape = input_shape
        self._found: dict[fx.Node, Any] = {}

    def take(self, node: fx.Node) -> None:
        """Add what one node computes."""
        self._memory.new(node)
        if node.op == "placeholder" and node.args:
            self._found[node] = node.args[0]  # the default of what is not given
        elif node.op == "placeholder":
            if INPUT in self._found.values():
                raise ValueError(f"the model takes a second input, {node.name!r}: integer forms take one")
            self._found[node] = INPUT
        elif node.op == "output":
            self._finish(node)
        elif node.op == "call_module":
            self._found[node] = self._module(node)
        else:
            self._found[node] = self._function(node)

    def add(self, kind: type[Operation], at: Place, *sources: Any, **fields: Any) -> str:
        """Add an operation; the name of its result."""
        inputs = tuple(self.source(source, at) for source in sources)
        self.operations.append(kind(name=at.name, inputs=inputs, layer=at.path, **fields))
        if kind is Quantize or (kind in MOVING and inputs[0] in self.coded):
            self.coded.add(at.name)
        return at.name

    def source(self, source: Any, at: Place) -> str:
        """The name of the result that an argument stands for."""
        found = self._found[source] if isinstance(source, fx.Node) else source
        if isinstance(found, str):
            return found
        raise at.refused(f"what is made of {source!r}", "the result of an earlier layer")

    def sizes(self, source: Any, at: Place) -> tuple[Any, ...]:
        """The shape of a result, with ``BATCH`` as its first size."""
        program = Program(operations=tuple(self.operations), input_shape=self._input_shape, model="")
        return (BATCH, *shapes(program)[self.source(source, at)][1:])

    def _module(self, node: fx.Node) -> str:
        path, module = str(node.target), self._modules[str(node.target)]
        at = Place(_name_of(node), path)
        _refuse_hooks(module, at)
        if len(node.args) != 1 or node.kwargs:
            raise at.refused("a call with more than its input, or with that by name")
        source = self.source(node.args[0], at)
        if is_weighted(module):
            if plain_kind(module) not in PRODUCTS:
                raise at.refused(plain_kind(module).__name__)
            return self._weighted(at, source, module)
        handler = MODULES.get(plain_kind(module))
        if handler is None:
            raise at.refused(kind_of(module).__name__)
        result, output = handler(self, at, source, module), quantizer_of(module, "output")
        self._place(node, result, at, in_place=bool(getattr(module, "inplace", False)))
        if output is not None:
            self._memory.new(node)
            return self._quantize(at, "output", result, output)
        return result

    def _place(self, node: fx.Node, result: Any, at: Place, *, in_place: bool) -> None:
        """Note whose memory a result lies in; what is computed in place is what later readers of its input find there.

        Raises ValueError where such a reader may find it or not, as the memory's layout has it.
        """
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            return
        made = next((op for op in reversed(self.operations) if op.name == result), None)
        if in_place:
            self._memory.same(node, source)
            order = {each: i for i, each in enumerate(node.graph.nodes)}
            for other in self._memory.neighbours(source):
                if any(order[user] > order[node] for user in other.users):
                    raise at.refused(f"changing in place what {other.name!r} may share, which is read later")
            for name in self._memory.names_of(source):
                self._found[name] = result
        elif (isinstance(made, VIEWS) and made.inputs == (self._found[source],)) or node.target == "contiguous":
            self._memory.view(node, source)
        elif result == self._found[source] and node.target not in COPIES:
            self._memory.same(node, source)

    def _weighted(self, at: Place, source: str, layer: Any) -> str:
        quantizer = quantizer_of(layer, "input")
        if quantizer is not None:
            source = self._quantize(at, "input", source, quantizer)
        product = product_of(f"{at.name}.product", source, at.path, layer, coded=source in self.coded)
        self.operations.append(product)
        one, bias = torch.ones((), dtype=torch.float64), bias_of(layer)
        return self.add(Affine, at, product.name, scale=one, shift=torch.zeros_like(one) if bias is None else bias)

    def _quantize(self, at: Place, slot: str, source: str, quantizer: Quantizer) -> str:
        """Add a quantizer of activations. Its grid reaches from what it makes of -1e30 to what it makes of 1e30."""
        grid = quantizer.grid(torch.zeros(1, 1))
        if grid.step.numel() > 1:
            raise at.refused("a step per channel of activations")
        low, high = grid.codes(quantizer(torch.tensor([-FAR, FAR]))).flatten().tolist()
        grid = replace(grid, low=low, high=high, step=grid.step.reshape(()))
        _refuse_more_than_rounding(quantizer, grid, at)
        place = Place(f"{at.name}.{slot}", at.path)
        module = f"{at.path}.{slot}_quantizer"
        return self.add(Quantize, place, source, grid=grid, ties=quantizer.ties, quantizer=module)

    def _function(self, node: fx.Node) -> str:
        at = Place(_name_of(node), _path_of(node))
        handler = None if node.op == "get_attr" else FUNCTIONS.get(node.target)
        if handler is None:
            raise at.refused("this operation")
        try:
            args, kwargs = fx.map_arg((node.args, node.kwargs), self._found.__getitem__)
            result = handler(self, at, *args, **kwargs)
        except (TypeError, IndexError) as error:
            raise at.refused(f"a call with arguments {node.args} {node.kwargs or ''}") from error
        self._place(node, result, at, in_place=_is_in_place(node))
        return result

    def _finish(self, node: fx.Node) -> None:
        answer = self.source(node.args[0], Place("output", "the model's output"))
        if not self.operations or answer != self.operations[-1].name:
            raise ValueError("the model's output is not what its last layer gives: return that")
        if answer in self.coded:
            raise ValueError("the model's output is quantized: integer forms give logits in fixed point")


def _name_of(node: fx.Node) -> str:
    """Of a node's result: its own, unless a file has that for something else."""
    return f"{node.name}.own" if node.name in RESERVED else node.name


def _refuse_hooks(module: nn.Module, at: Place) -> None:
    if module._forward_hooks or module._forward_pre_hooks:
        raise at.refused("a forward hook, which may change what the module computes,", "a module without hooks")


def _refuse_more_than_rounding(quantizer: Quantizer, grid: Grid, at: Place) -> None:
    """Raise ValueError where a quantizer of activations gives other values than its grid (a transform of its input)."""
    probe = between_levels(int(grid.low), int(grid.high), grid.offset, grid.step)
    encode = Encode(name="", inputs=(), layer="", grid=grid, ties=quantizer.ties, doubled=False)
    if not torch.equal(quantizer(probe), grid.value(encode.codes(probe)).to(probe)):
        raise at.refused(f"a quantizer of method {quantizer.method!r} that does more than round to its grid")


def _path_of(node: fx.Node) -> str:
    """A function as messages name it: within the module whose forward calls it."""
    inside = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    called = f"{node.name} ({getattr(node.target, '__name__', node.target)})"
    return f"{inside[-1]}: {called}" if inside else called


def _is_in_place(node: fx.Node) -> bool:
    """Whether a function writes its result over its first argument."""
    if node.op == "call_method":
        return str(node.target).endswith("_")
    asked = node.kwargs.get("inplace") or (node.target in (F.relu, F.relu6) and node.args[1:] == (True,))
    return bool(asked) or node.target in (operator.iadd, operator.imul)
