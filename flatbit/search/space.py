"""The space of a search: which layers choose their bits, in which order, and which choose together."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from ..graph import read_graph
from ..quant.layers import QuantizedLayer
from ..quant.spec import FLOAT_BITS
from ..quant.table import is_weighted, quantized_layers, quantizer_of
from ..registry import nearest

SUMS = {operator.add, operator.iadd, torch.add}
SUM_METHODS = {"add", "add_"}
SEARCHED = ("inner", "shortcut")
"""Roles of the layers that choose: the first and the last keep their policy's bits."""
WIDTHS = (2, 3, 4, 5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Layers that choose their bits together: weights and activations of all of them get one width.

    Attributes:
        layers: by name; the first gives the choice its own.
        widths: what it chooses from, ascending.
    """

    layers: tuple[str, ...]
    widths: tuple[int, ...] = WIDTHS

    @property
    def name(self) -> str:
        """Of its first layer."""
        return self.layers[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """All choices of a model, in the order in which it runs them.

    Raises:
        ValueError: no choice, a layer in two of them, widths that are none.
    """

    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError("nothing to search: no layer between the first and the last is quantized")
        names = [name for choice in self.choices for name in choice.layers]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"layer {twice[0]!r} stands in two choices: it can have one width only")
        for choice in self.choices:
            if not choice.layers:
                raise ValueError("a choice of no layer: expected the names of one or more")
            if not choice.widths or any(not 1 <= bits <= 8 for bits in choice.widths):
                raise ValueError(f"{choice.name!r}: widths {choice.widths}: expected one or more of 1 to 8 bits")

    @property
    def widths(self) -> tuple[int, ...]:
        """What layers choose from, ascending; fixed ones count where all are."""
        free = [choice for choice in self.choices if len(choice.widths) > 1]
        return tuple(sorted({bits for choice in free or self.choices for bits in choice.widths}))

    def with_fixed(self, fixed: Mapping[str, int]) -> Space:
        """The same with one width left for some layers. Raises ValueError where tied ones are fixed to two widths."""
        known = {name: choice for choice in self.choices for name in choice.layers}
        for name in fixed:
            if name not in known:
                raise ValueError(f"fixed layer {name!r} is none that chooses: {nearest(name, known)}")
        made = []
        for choice in self.choices:
            asked = {name: fixed[name] for name in choice.layers if name in fixed}
            if len({*asked.values()}) > 1:
                told = ", ".join(f"{name} to {bits}" for name, bits in asked.items())
                raise ValueError(f"layers that choose together are fixed to different widths: {told} bits")
            made.append(Choice(layers=choice.layers, widths=tuple({*asked.values()}) or choice.widths))
        return Space(choices=tuple(made))

    def uniform(self, bits: int) -> dict[str, int]:
        """One width for all choices, by name; a choice without it has its nearest."""
        return {each.name: min(each.widths, key=lambda width: (abs(width - bits), width)) for each in self.choices}

    def assignment(self, bits: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        """The bits of choices as ``flatbit.assign_bits_`` takes them: (weights, activations) of every layer."""
        return {name: (bits[each.name], bits[each.name]) for each in self.choices for name in each.layers}


def space_of(model: nn.Module, widths: Sequence[int] = WIDTHS, layers: Iterable[Sequence[str]] | None = None) -> Space:
    """The space of a quantized model: its inner layers in the order in which they run, shortcuts tied.

    A shortcut convolution has the bits of the last layer of the branch that it is added to (SAQ, section 4.1). Order
    and ties are read from the graph of its evaluation.

    Args:
        model: quantized.
        widths: what each choice has.
        layers: groups of names that choose together, in order, in place of the graph.

    Raises:
        ValueError: a graph that cannot be read, with a template of ``layers``; a name that is no quantized layer;
            activations that are quantized where they are made.
    """
    searched = [name for name, layer in _weighted(model).items() if layer.spec.role in SEARCHED and layer.spec.weights]
    _check_inputs(model, searched)
    if layers is None:
        groups = _from_graph(model, searched)
    else:
        groups = [tuple(group) for group in layers]
        for name in (name for group in groups for name in group):
            if name not in searched:
                raise ValueError(f"layers: {name!r} is no layer that can choose: {nearest(name, searched)}")
    return Space(choices=tuple(Choice(layers=group, widths=tuple(sorted({*widths}))) for group in groups))


def feeding(graph: fx.Graph, model: nn.Module, wanted: Callable[[nn.Module], bool]) -> dict[str, str]:
    """The nearest weighted layer whose output reaches each module that is wanted, by name; where there is one.

    Through sums it is that of the branch that the value comes from with fewest steps: the residual branch.
    """
    modules, layers = dict(model.named_modules()), _weighted(model)
    found = {}
    for node in graph.nodes:
        if node.op == "call_module" and wanted(modules[str(node.target)]):
            for before in node.all_input_nodes:
                if (name := _above(before, layers)) is not None:
                    found[str(node.target)] = name
    return found


def template(names: Iterable[str]) -> str:
    """A file for ``--layers``: a group per layer, in order of definition."""
    return "layers = [\n" + "".join(f'  ["{name}"],\n' for name in names) + "]\n"


def _from_graph(model: nn.Module, searched: Sequence[str]) -> list[tuple[str, ...]]:
    if (graph := read_graph(model)) is None:
        raise ValueError(
            f"the forward of {type(model).__name__} cannot be followed: say in which order its layers run, and which "
            f"choose together, in a file (--layers FILE):\n{template(searched)}"
        )
    roles = {name: layer.spec.role for name, layer in _weighted(model).items()}
    nodes = {str(node.target): node for node in graph.nodes if node.op == "call_module" and node.target in roles}
    ties = {name: _tied(nodes[name], roles) for name in nodes if roles[name] == "shortcut"}
    order = [name for name in nodes if name in searched]
    groups = {name: [name] for name in order if ties.get(name) not in order}
    for name in order:
        if name not in groups:
            groups[str(ties[name])].append(name)
    return [tuple(group) for group in groups.values()]


def _weighted(model: nn.Module) -> dict[str, QuantizedLayer]:
    """The quantized convolutions and linear layers; norms and activations have no bits of their own to choose."""
    return {name: layer for name, layer in quantized_layers(model) if is_weighted(layer)}


def _check_inputs(model: nn.Module, searched: Sequence[str]) -> None:
    layers = _weighted(model)
    for name in searched:
        if layers[name].spec.input_bits < FLOAT_BITS and quantizer_of(layers[name], "input") is None:
            raise ValueError(
                f"what layer {name!r} reads is quantized where it is made, and others read it too: widths per layer "
                "need a policy that quantizes at the input, as saq, uniq or lsq, or placement='input'"
            )


def _tied(shortcut: fx.Node, weighted: Mapping[str, Any]) -> str | None:
    """The last weighted layer of the branch that a shortcut is added to; None where it is added to none."""
    seen, front = {shortcut}, [shortcut]
    while front:
        node = front.pop(0)
        for user in node.users:
            if _is_sum(user):
                return next((name for other in _operands(user) - seen if (name := _above(other, weighted))), None)
            if user not in seen and not _is_layer(user, weighted):
                seen.add(user)
                front.append(user)
    return None


def _above(node: fx.Node, weighted: Mapping[str, Any]) -> str | None:
    """The nearest weighted layer that a value comes from."""
    for each in _upstream(node):
        if _is_layer(each, weighted):
            return str(each.target)
    return None


def _upstream(node: fx.Node) -> Iterator[fx.Node]:
    seen, front = {node}, [node]
    while front:
        each = front.pop(0)
        yield each
        front += [other for other in each.all_input_nodes if other not in seen]
        seen.update(each.all_input_nodes)


def _is_layer(node: fx.Node, weighted: Mapping[str, Any]) -> bool:
    return node.op == "call_module" and node.target in weighted


def _is_sum(node: fx.Node) -> bool:
    return (
        node.target in SUMS if node.op == "call_function" else node.op == "call_method" and node.target in SUM_METHODS
    )


def _operands(node: fx.Node) -> set[fx.Node]:
    return set(node.all_input_nodes)
